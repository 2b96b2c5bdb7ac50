//! A source file without its comments and without what stands in its strings.

/// The code with comments, string contents and character literals replaced by blanks; lines stay where they are.
pub(super) fn only(source: &str) -> String {
    let mut reader = Reader { rest: source, code: String::with_capacity(source.len()) };
    while let Some(next) = reader.rest.chars().next() {
        if reader.rest.starts_with("//") {
            let end = reader.rest.find('\n').unwrap_or(reader.rest.len());
            reader.blank(end);
        } else if reader.rest.starts_with("/*") {
            reader.block_comment();
        } else if let Some(hashes) = raw_string(reader.rest).filter(|_| !reader.in_word()) {
            let close = format!("\"{}", "#".repeat(hashes));
            let open = reader.rest.find('"').unwrap_or(0) + 1;
            let end = reader.rest.get(open..).and_then(|inside| inside.find(&close));
            reader.blank(end.map_or(reader.rest.len(), |end| open + end + close.len()));
        } else if next == '"' {
            let len = quoted(reader.rest, '"');
            reader.blank(len);
        } else if next == '\'' && is_char(reader.rest) {
            let len = quoted(reader.rest, '\'');
            reader.blank(len);
        } else {
            reader.code.push(next);
            reader.rest = &reader.rest[next.len_utf8()..];
        }
    }
    reader.code
}

/// The code without the modules that are compiled for tests only, as far as they stand in braces.
pub(super) fn without_tests(code: &str) -> String {
    let mut kept = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = rest.find("#[cfg(test)]") {
        kept.push_str(&rest[..at]);
        rest = &rest[at..];
        let end = match (rest.find('{'), rest.find(';')) {
            (Some(open), semicolon) if semicolon.is_none_or(|s| open < s) => open + braces(&rest[open..]),
            (Some(_) | None, Some(semicolon)) => semicolon + 1,
            (Some(_) | None, None) => rest.len(),
        };
        kept.extend(rest[..end].chars().map(|c| if c == '\n' { c } else { ' ' }));
        rest = &rest[end..];
    }
    kept.push_str(rest);
    kept
}

/// Whether `word` stands in `code` with no part of a name before or behind it.
pub(super) fn has_word(code: &str, word: &str) -> bool {
    let name = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back().is_some_and(name);
        let behind = word.ends_with(name) && code[at + word.len()..].chars().next().is_some_and(name);
        !before && !behind
    })
}

struct Reader<'s> {
    rest: &'s str,
    code: String,
}

impl Reader<'_> {
    fn blank(&mut self, len: usize) {
        let (gone, rest) = self.rest.split_at(len);
        self.code.extend(gone.chars().map(|c| if c == '\n' { c } else { ' ' }));
        self.rest = rest;
    }

    fn in_word(&self) -> bool {
        self.code.chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_')
    }

    fn block_comment(&mut self) {
        let (mut depth, mut len) = (0usize, 0usize);
        loop {
            let rest = &self.rest[len..];
            if rest.starts_with("/*") {
                depth += 1;
                len += 2;
            } else if rest.starts_with("*/") {
                depth -= 1;
                len += 2;
                if depth == 0 {
                    break;
                }
            } else if let Some(c) = rest.chars().next() {
                len += c.len_utf8();
            } else {
                break;
            }
        }
        self.blank(len);
    }
}

/// The number of `#` of a raw string that starts here.
fn raw_string(rest: &str) -> Option<usize> {
    let behind = ["r", "br", "cr"].iter().find_map(|prefix| rest.strip_prefix(prefix))?;
    let hashes = behind.len() - behind.trim_start_matches('#').len();
    behind[hashes..].starts_with('"').then_some(hashes)
}

/// The length of a literal up to and with its closing quote.
fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if c == quote {
            return at + c.len_utf8();
        }
    }
    rest.len()
}

/// A character literal rather than a lifetime: one character or an escape, then a quote.
fn is_char(rest: &str) -> bool {
    let mut chars = rest.chars().skip(1);
    match (chars.next(), chars.next()) {
        (Some('\\'), _) => true,
        (Some(_), Some(c)) => c == '\'',
        (Some(_) | None, None) | (None, Some(_)) => false,
    }
}

fn braces(rest: &str) -> usize {
    let mut depth = 0usize;
    for (at, c) in rest.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_strings_are_no_code() {
        let source =
            "a(); // unsafe\n/* x /* unsafe */ */ b(\"unsafe \\\" unsafe\", r#\"un\"safe\"#, '\"', 'x'); fn f<'a>() {}";
        let code = only(source);
        assert!(!code.contains("safe"), "{code}");
        assert!(code.contains("a();") && code.contains("b(") && code.contains("fn f<'a>() {}"), "{code}");
        assert_eq!(code.lines().count(), source.lines().count());
    }

    #[test]
    fn words_are_whole() {
        assert!(has_word("x.rename(a)", "rename("));
        assert!(!has_word("do_rename(a)", "rename("));
        assert!(has_word("unsafe {", "unsafe"));
        assert!(!has_word("unsafe_code", "unsafe"));
    }

    #[test]
    fn test_modules_can_be_left_out() {
        let code = "fn a() {}\n#[cfg(test)]\nextern crate std;\n#[cfg(test)]\nmod t { fn b() { std::x() } }\nfn c() {}";
        let kept = without_tests(code);
        assert!(!kept.contains("std") && kept.contains("fn a") && kept.contains("fn c"), "{kept}");
    }
}
