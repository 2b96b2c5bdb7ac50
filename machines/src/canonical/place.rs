//! Where in a document something stands, for messages.

use alloc::string::String;
use core::fmt::Write as _;

/// One step from a value to a value within.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step<'v> {
    Key(&'v str),
    Index(usize),
}

/// Roughly how long a path gets, in bytes: a message is no place for a megabyte of key.
const MAX_PATH: usize = 160;
/// How many characters of a key are shown.
const MAX_KEY: usize = 64;

/// Steps like `a.b[3]`; empty for the document itself.
pub(super) fn path_of(steps: &[Step<'_>]) -> String {
    let mut path = String::new();
    for step in steps {
        if path.len() > MAX_PATH {
            path.push('…');
            break;
        }
        let plain =
            |key: &str| !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        let written = match step {
            Step::Index(at) => write!(path, "[{at}]"),
            Step::Key(key) if plain(key) && key.len() <= MAX_KEY => {
                write!(path, "{}{key}", if path.is_empty() { "" } else { "." })
            }
            Step::Key(key) => {
                let cut: String = key.chars().take(MAX_KEY).collect();
                let ellipsis = if cut.len() < key.len() { "…" } else { "" };
                // Debug escapes controls and direction marks, so a hostile key cannot dress up the message.
                write!(path, "[{cut:?}{ellipsis}]")
            }
        };
        debug_assert!(written.is_ok(), "a String takes every write");
    }
    path
}
