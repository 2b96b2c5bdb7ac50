//! What is checked of a Rego file's text before the engine's parser sees it (FAULTS X04).
//!
//! The parser tries some constructs twice, so that its time doubles with each level of brackets, and what it
//! builds is walked recursively. Both are bounded here: by the nesting of brackets, by the parser's work, and by
//! the length of a chain of operators.

use crate::Refusal;

/// Deepest nesting of brackets. Policies in the field stay below 10.
const MAX_NESTING: usize = 24;
/// Most operators in one expression.
const MAX_CHAIN: u32 = 256;
/// Most tokens that the parser may read, each counted as often as its level makes the parser read it.
const MAX_READS: u64 = 1 << 23;
/// Most bytes of one file.
pub(crate) const MAX_FILE: usize = 1024 * 1024;

/// One level of brackets.
#[derive(Default)]
struct Level {
    /// Operators so far in the expression at hand.
    chain: u32,
    /// Whether the last token at this level was an operator.
    after_operator: bool,
    /// The line of the last token at this level.
    line: u32,
}

/// Checks the text of one Rego file.
///
/// # Errors
/// [`Refusal`] with the line, for what would cost the parser too much time or stack.
pub(crate) fn scan(file: &str, text: &str) -> Result<(), Refusal> {
    if text.len() > MAX_FILE {
        return Err(Refusal::file(file, format!("is {} bytes long; at most {MAX_FILE} are taken", text.len())));
    }
    let mut scan = Scan { file, line: 1, levels: vec![Level::default()], reads: 0 };
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\n' => scan.line += 1,
            ' ' | '\t' | '\r' => {}
            '#' => while chars.next_if(|c| *c != '\n').is_some() {},
            '"' => {
                scan.token(false)?;
                while let Some(c) = chars.next_if(|c| *c != '\n') {
                    match c {
                        '"' => break,
                        // A newline cannot be escaped; the parser refuses it.
                        '\\' => drop(chars.next_if(|c| *c != '\n')),
                        _ => {}
                    }
                }
            }
            '`' => {
                scan.token(false)?;
                for c in chars.by_ref() {
                    match c {
                        '`' => break,
                        '\n' => scan.line += 1,
                        _ => {}
                    }
                }
            }
            '(' | '[' | '{' => scan.open()?,
            ')' | ']' | '}' => scan.close(),
            ';' | ',' => scan.end_of_expression()?,
            '+' | '-' | '*' | '/' | '%' | '|' | '&' | '=' | '!' | '<' | '>' | ':' => {
                while chars.next_if(|c| matches!(c, '=' | '<' | '>')).is_some() {}
                scan.token(true)?;
            }
            c if c.is_control() => {
                return Err(Refusal::at(file, scan.line, format!("has the control character U+{:04X}", u32::from(c))));
            }
            _ => {
                while chars.next_if(|c| c.is_alphanumeric() || *c == '_').is_some() {}
                scan.token(false)?;
            }
        }
    }
    Ok(())
}

struct Scan<'a> {
    file: &'a str,
    line: u32,
    levels: Vec<Level>,
    reads: u64,
}

impl Scan<'_> {
    fn token(&mut self, operator: bool) -> Result<(), Refusal> {
        // Levels beyond 60 are refused long before.
        self.reads = self.reads.saturating_add(1 << self.levels.len().saturating_sub(1).min(60));
        if self.reads > MAX_READS {
            return Err(self.refuse("is too long for the nesting of its brackets; split the file or nest less"));
        }
        let line = self.line;
        let Some(level) = self.levels.last_mut() else { return Ok(()) };
        // Between two operands on different lines one expression has ended and another begins.
        if line != level.line && !level.after_operator && !operator {
            level.chain = 0;
        }
        level.line = line;
        level.after_operator = operator;
        level.chain += u32::from(operator);
        if level.chain > MAX_CHAIN {
            return Err(self.refuse(format!("has an expression of more than {MAX_CHAIN} operators; split it")));
        }
        Ok(())
    }

    fn open(&mut self) -> Result<(), Refusal> {
        self.token(false)?;
        self.levels.push(Level { line: self.line, ..Level::default() });
        if self.levels.len() > MAX_NESTING + 1 {
            return Err(self.refuse(format!("nests brackets more than {MAX_NESTING} deep")));
        }
        Ok(())
    }

    /// Unbalanced brackets are the parser's to report.
    fn close(&mut self) {
        if self.levels.len() > 1 {
            self.levels.pop();
        }
        if let Some(level) = self.levels.last_mut() {
            level.line = self.line;
        }
    }

    fn end_of_expression(&mut self) -> Result<(), Refusal> {
        self.token(true)?;
        if let Some(level) = self.levels.last_mut() {
            level.chain = 0;
        }
        Ok(())
    }

    fn refuse(&self, what: impl Into<String>) -> Refusal {
        Refusal::at(self.file, self.line, what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line_of(text: &str) -> u32 {
        scan("p.rego", text).expect_err("refused").line.expect("a line")
    }

    #[test]
    fn x04_brackets_are_counted_outside_strings_and_comments() {
        let quiet = format!("x := \"{0}\"\ny := `{0}\n{0}`\n# {0}\nz := \"\\\"{0}\"\n", "[".repeat(100));
        assert_eq!(scan("p.rego", &quiet), Ok(()));
        assert_eq!(line_of(&format!("{quiet}q := {}", "[".repeat(25))), 6);
        assert_eq!(scan("p.rego", &format!("{quiet}q := {}{}", "[".repeat(20), "]".repeat(20))), Ok(()));
    }

    #[test]
    fn x04_a_chain_is_counted_across_lines_and_brackets() {
        assert_eq!(line_of(&format!("x := 1{}", "\n + 1".repeat(300))), 257);
        assert_eq!(line_of(&format!("x := 1{}", " +\n1".repeat(300))), 256);
        assert_eq!(line_of(&format!("x := 1{}", " + (\n1\n)".repeat(300))), 511);
        assert_eq!(scan("p.rego", &"x := 1 + 1\n".repeat(10_000)), Ok(()));
        assert_eq!(scan("p.rego", &format!("x := [{}]", "1 + 1, ".repeat(10_000))), Ok(()));
        assert_eq!(scan("p.rego", &"x if { a == 1; b == 2 }\n".repeat(10_000)), Ok(()));
    }

    #[test]
    fn x04_the_work_of_the_parser_is_bounded() {
        let deep = format!("x := {}1{}\n", "[".repeat(20), "]".repeat(20));
        assert_eq!(scan("p.rego", &deep), Ok(()));
        assert_eq!(line_of(&deep.repeat(10)), 4);
    }

    #[test]
    fn control_characters_and_size_are_refused() {
        assert_eq!(line_of("\n\0"), 2);
        assert!(scan("p.rego", &" ".repeat(MAX_FILE + 1)).is_err());
    }
}
