//! How numbers are spelled. A parsed number is a value and no longer tells; a second, small scan over the text does.

use alloc::string::String;
use alloc::vec::Vec;

use super::place::{Step, path_of};
use super::{Refusal, named};

/// Checks that each number of a text is an optional `-` and digits, and not `-0`.
///
/// The text was parsed before, so it is valid JSON within the depth limit, and leading zeros do not occur. On any other
/// text the result has no meaning.
pub(super) fn check(text: &[u8]) -> Result<(), Refusal> {
    let mut scan = Scan { rest: text, path: Vec::new(), key_next: false };
    while let Some((&byte, behind)) = scan.rest.split_first() {
        match byte {
            b'"' => {
                let content = scan.string();
                if core::mem::take(&mut scan.key_next)
                    && let Some(key) = scan.path.last_mut()
                {
                    *key = Step::Key(content);
                }
                continue;
            }
            b'-' | b'0'..=b'9' => {
                scan.number()?;
                continue;
            }
            b'{' => {
                scan.path.push(Step::Key(""));
                scan.key_next = true;
            }
            b'[' => scan.path.push(Step::Index(0)),
            b'}' | b']' => {
                scan.path.pop();
                scan.key_next = false;
            }
            b',' => match scan.path.last_mut() {
                Some(Step::Index(at)) => *at = at.saturating_add(1),
                Some(Step::Key(_)) => scan.key_next = true,
                None => {}
            },
            _ => {}
        }
        scan.rest = behind;
    }
    Ok(())
}

struct Scan<'t> {
    rest: &'t [u8],
    /// From the document to the value that is being read.
    path: Vec<Step<'t>>,
    /// Whether the next string is a key.
    key_next: bool,
}

impl<'t> Scan<'t> {
    /// Steps over the string that starts here; its content as spelled, which is good enough for a message.
    fn string(&mut self) -> &'t str {
        let inside = self.rest.get(1..).unwrap_or_default();
        let mut escaped = false;
        let len = inside.iter().position(|byte| {
            let ends = *byte == b'"' && !escaped;
            escaped = *byte == b'\\' && !escaped;
            ends
        });
        let (content, behind) = inside.split_at_checked(len.unwrap_or(inside.len())).unwrap_or_default();
        self.rest = behind.get(1..).unwrap_or_default();
        core::str::from_utf8(content).unwrap_or_default()
    }

    /// Steps over the number that starts here.
    fn number(&mut self) -> Result<(), Refusal> {
        let part = |byte: &u8| byte.is_ascii_digit() || matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E');
        let len = self.rest.iter().position(|byte| !part(byte)).unwrap_or(self.rest.len());
        let (number, behind) = self.rest.split_at_checked(len).unwrap_or_default();
        self.rest = behind;
        let digits = number.strip_prefix(b"-").unwrap_or(number);
        if digits.iter().all(u8::is_ascii_digit) && number != b"-0" {
            return Ok(());
        }
        let found: String = number.iter().take(40).copied().map(char::from).collect();
        Err(Refusal::Number { at: named(&path_of(&self.path)), found })
    }
}
