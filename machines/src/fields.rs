//! Reading the objects of our own documents against closed schemas: every name compared exactly, nothing left over
//! (FAULTS J09, S19).

use alloc::borrow::ToOwned;
use alloc::collections::BTreeMap;
use alloc::string::String;

use crate::ids::Hash32;
use crate::json::Value;

/// The longest piece of a wrong value that a message repeats, in characters.
const EXCERPT: usize = 60;

/// What is wrong with a document, naming the field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// A value that does not fit.
    #[error("`{field}` must be {must}, found {found}")]
    Value {
        /// The field, with its place in the document.
        field: String,
        /// What it has to be.
        must: &'static str,
        /// What it is, shortened.
        found: String,
    },
    /// A field that has to be there.
    #[error("`{field}` is missing; it must be {must}")]
    Missing {
        /// The field.
        field: String,
        /// What it has to be.
        must: &'static str,
    },
    /// A field that nothing here knows.
    #[error("{field} is no field of {within}")]
    Unknown {
        /// The field, quoted and shortened.
        field: String,
        /// The object.
        within: String,
    },
}

/// The members of one object that were not yet taken.
#[derive(Debug)]
pub struct Fields {
    within: String,
    members: BTreeMap<String, Value>,
}

impl Fields {
    /// Takes an object apart; `within` is its place in the document, or a name for the document itself.
    ///
    /// # Errors
    /// When it is no object.
    pub fn open(value: Value, within: &str) -> Result<Self, Wrong> {
        match value.into_object() {
            Ok(members) => Ok(Self { within: within.to_owned(), members }),
            Err(other) => {
                Err(Wrong::Value { field: within.to_owned(), must: "an object", found: other.kind().to_owned() })
            }
        }
    }

    /// A field that may be absent.
    ///
    /// # Errors
    /// When `read` makes nothing of it.
    pub fn take<T>(
        &mut self,
        key: &'static str,
        must: &'static str,
        read: impl FnOnce(Value) -> Option<T>,
    ) -> Result<Option<T>, Wrong> {
        let Some(value) = self.members.remove(key) else { return Ok(None) };
        let found = excerpt(&value);
        match read(value) {
            Some(read) => Ok(Some(read)),
            None => Err(Wrong::Value { field: self.path(key), must, found }),
        }
    }

    /// A field that has to be there.
    ///
    /// # Errors
    /// When it is absent, or `read` makes nothing of it.
    pub fn need<T>(
        &mut self,
        key: &'static str,
        must: &'static str,
        read: impl FnOnce(Value) -> Option<T>,
    ) -> Result<T, Wrong> {
        self.take(key, must, read)?.ok_or_else(|| Wrong::Missing { field: self.path(key), must })
    }

    /// A text.
    ///
    /// # Errors
    /// When it is absent or no text.
    pub fn text(&mut self, key: &'static str) -> Result<String, Wrong> {
        self.need(key, "a string", |value| value.as_str().map(ToOwned::to_owned))
    }

    /// A whole number from 0 to 2^53-1.
    ///
    /// # Errors
    /// When it is absent or anything else.
    pub fn number(&mut self, key: &'static str) -> Result<u64, Wrong> {
        self.need(key, "a whole number from 0 to 2^53-1", |value| value.as_u64().filter(|n| *n < 1 << 53))
    }

    /// 64 lower-case hex digits.
    ///
    /// # Errors
    /// When it is absent or anything else.
    pub fn bare_hash(&mut self, key: &'static str) -> Result<Hash32, Wrong> {
        self.need(key, "64 lower-case hex digits", |value| Hash32::parse_hex(value.as_str()?.as_bytes()))
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// When something is left over.
    pub fn finish(self) -> Result<(), Wrong> {
        match self.members.keys().next() {
            None => Ok(()),
            Some(key) => Err(Wrong::Unknown { field: excerpt(&Value::String(key.clone())), within: self.within }),
        }
    }

    fn path(&self, key: &str) -> String {
        alloc::format!("{}.{key}", self.within)
    }
}

/// `blake3:` and 64 lower-case hex digits.
#[must_use]
pub fn blake3(value: &Value) -> Option<Hash32> {
    Hash32::parse_hex(value.as_str()?.strip_prefix("blake3:")?.as_bytes())
}

/// A value for a message, short and harmless on a terminal.
fn excerpt(value: &Value) -> String {
    let mut text = String::new();
    value.write(&mut text);
    let mut cut = String::new();
    for (n, c) in text.chars().enumerate() {
        if n == EXCERPT {
            cut.push('…');
            break;
        }
        if matches!(c, '"' | '\'' | '\\') { cut.push(c) } else { cut.extend(c.escape_debug()) }
    }
    cut
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::{self, Limits};
    use std::string::ToString as _;

    fn open(text: &str) -> Fields {
        Fields::open(json::parse(text.as_bytes(), &Limits::default()).unwrap(), "doc").unwrap()
    }

    #[test]
    fn what_is_wrong_is_named() {
        let mut fields = open(r#"{"n":"x","t":1,"odd\u001b[2J":2}"#);
        assert_eq!(
            fields.number("n").unwrap_err().to_string(),
            "`doc.n` must be a whole number from 0 to 2^53-1, found \"x\""
        );
        assert_eq!(fields.text("t").unwrap_err().to_string(), "`doc.t` must be a string, found 1");
        assert_eq!(fields.text("no").unwrap_err().to_string(), "`doc.no` is missing; it must be a string");
        assert_eq!(fields.finish().unwrap_err().to_string(), "\"odd\\u001b[2J\" is no field of doc");
        assert_eq!(Fields::open(Value::Null, "doc").unwrap_err().to_string(), "`doc` must be an object, found null");
    }

    #[test]
    fn j09_names_are_compared_exactly() {
        let mut fields = open(r#"{"Version":1}"#);
        assert!(matches!(fields.number("version"), Err(Wrong::Missing { .. })));
        assert!(fields.finish().is_err());
    }
}
