//! Results on stdout, as text or as JSON.

use std::collections::BTreeMap;
use std::io::Write as _;

use machines::json::Value;

use crate::failure::Failure;

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people and `grep`.
    #[default]
    Text,
    /// One JSON object.
    Json,
}

impl Output {
    /// Prints a result: the text, or the value.
    ///
    /// # Errors
    /// When stdout takes nothing.
    pub fn print(self, text: &str, value: impl FnOnce() -> Value) -> Result<(), Failure> {
        match self {
            Self::Text => print(text),
            Self::Json => print(&value().to_text()),
        }
    }
}

/// Words that may come from outside, on one line and without control characters: they cannot pass for a line of ours, nor steer
/// a terminal.
pub fn harmless(words: &str) -> String {
    let plain = |c: char| {
        !c.is_control() && !matches!(c, '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    words.chars().map(|c| if plain(c) { c.to_string() } else { c.escape_default().to_string() }).collect()
}

/// Prints lines to stdout. A reader that has gone away (`| head`) is no failure.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    let written =
        stdout.write_all(text.as_bytes()).and_then(|()| stdout.write_all(b"\n")).and_then(|()| stdout.flush());
    match written {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::refused(format!("standard output cannot be written: {error}")))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// An object of these members.
pub fn object<const N: usize>(members: [(&str, Value); N]) -> Value {
    Value::Object(members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<BTreeMap<_, _>>())
}

/// A hash with its prefix.
pub fn sha256(hash: &machines::ids::Hash32) -> Value {
    Value::from(format!("sha256:{hash}"))
}
