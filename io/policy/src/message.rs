//! What the engine says, in one line and without the values that it saw.

use crate::Refusal;

/// Longest message, in bytes.
const MAX_LEN: usize = 300;

/// An engine error taken apart. The engine writes `--> file:line:column`, an excerpt of the source, a caret and
/// `error: text`.
pub(crate) struct Message {
    place: Option<(String, u32)>,
    text: String,
}

impl Message {
    /// Takes an engine error apart.
    pub(crate) fn of(error: &str) -> Self {
        let place = error.lines().find_map(|line| line.trim_start().strip_prefix("--> ")).and_then(|place| {
            let (rest, _column) = place.rsplit_once(':')?;
            let (file, line) = rest.rsplit_once(':')?;
            Some((file.to_owned(), line.parse().ok()?))
        });
        let text = match error.find("error: ") {
            Some(at) => error.get(at + "error: ".len()..).unwrap_or(error),
            None => error,
        };
        Self { place, text: without_values(text) }
    }

    /// As the reason to refuse a policy.
    pub(crate) fn refusal(self) -> Refusal {
        let (file, line) = self.place.unzip();
        Refusal { file, line, what: self.text }
    }

    /// The text alone.
    pub(crate) fn text(self) -> String {
        self.text
    }

    /// `file:line: text`
    pub(crate) fn line(self) -> String {
        self.refusal().to_string()
    }
}

/// One line, cut at [`MAX_LEN`] and before anything that may be a value of the input: what stands in backticks
/// and is no plain name, and what opens a bracket or a quotation.
fn without_values(text: &str) -> String {
    let mut out = String::new();
    for (i, part) in text.split('`').enumerate() {
        let quoted = i % 2 == 1;
        if quoted && !is_name(part) {
            out.push('…');
            break;
        }
        let end = part.find(['{', '[', '(', '"']).unwrap_or(part.len()).min(part.floor_char_boundary(MAX_LEN));
        let (shown, rest) = part.split_at(end);
        let mark = if quoted { "`" } else { "" };
        out.push_str(mark);
        out.extend(shown.chars().map(|c| if c.is_control() { ' ' } else { c }));
        out.push_str(mark);
        if !rest.is_empty() || out.len() > MAX_LEN {
            out.push('…');
            break;
        }
    }
    out.trim().to_owned()
}

/// The name of a function or a piece of grammar; values are printed as JSON and start with a digit or a quote.
fn is_name(text: &str) -> bool {
    !matches!(text, "true" | "false" | "null")
        && text.len() <= 64
        && text.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b' '))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_error_becomes_one_line() {
        let text = "\n--> a/b.rego:3:17\n  |\n3 | r if upper(x)\n  |      ^\nerror: `upper` expects string argument. Got `\"hunter2\"` instead";
        assert_eq!(Message::of(text).line(), "a/b.rego:3: `upper` expects string argument. Got …");
        assert_eq!(Message::of("plain").line(), "plain");
        assert_eq!(Message::of("error: x\ny").line(), "x y");
    }

    #[test]
    fn a_long_message_is_cut() {
        let line = Message::of(&"ä".repeat(10_000)).line();
        assert!(line.len() < MAX_LEN + 8, "{}", line.len());
        let line = Message::of(&format!("Got `{}", "9".repeat(10_000))).line();
        assert_eq!(line, "Got …");
    }

    #[test]
    fn no_value_of_the_input_is_repeated() {
        for text in [
            "Got `\"a`hunter`b\"`",
            "function produced multiple outputs Set({String(\"hunter\")})",
            "value for key `\"hunter\"` generated multiple times: `1` and `2`",
            "left=[hunter]",
            "x (hunter)",
        ] {
            assert!(!Message::of(text).line().contains("hunter"), "{text}");
        }
    }
}
