//! Reading: serde_json does the syntax; what it would let pass is refused here.

use alloc::collections::BTreeMap;
use alloc::collections::btree_map::Entry;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::fmt::{self, Write as _};

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::Value;
use super::number::Number;
use super::write::push_u64;

/// What a document may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How deep arrays and objects may nest; the outer one counts 1. Above 127 the parser's own bound holds.
    pub max_depth: usize,
    /// How long the text may be, in bytes.
    pub max_bytes: usize,
}

impl Limits {
    /// Nesting that every boundary of the product allows (SPEC 2).
    pub const DEPTH: usize = 64;

    /// The usual depth and at most `max_bytes` of text.
    #[must_use]
    pub const fn bytes(max_bytes: usize) -> Self {
        Self { max_depth: Self::DEPTH, max_bytes }
    }
}

impl Default for Limits {
    /// Depth 64 and 1 MiB, the limits of a tool call's body.
    fn default() -> Self {
        Self::bytes(1024 * 1024)
    }
}

/// How many values one document may hold. A value in memory takes many times its text; without this bound a
/// megabyte of empty objects would become a hundred.
pub const MAX_VALUES: usize = 65_536;

/// What is wrong with a text.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The text is longer than the limit.
    TooLong {
        /// Its length in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// Arrays and objects nest deeper than the limit.
    TooDeep {
        /// The limit.
        max: usize,
    },
    /// More values than [`MAX_VALUES`].
    TooMany,
    /// One object has the same key twice, compared after decoding.
    DuplicateKey,
    /// A number that is no exact integer of 64 bits and no fraction.
    Number,
    /// The text starts with a byte order mark.
    ByteOrderMark,
    /// The text is not JSON, in the parser's words.
    Syntax(String),
}

/// A refused text: what is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    fault: Fault,
    path: String,
    line: usize,
    column: usize,
}

impl Error {
    /// What is wrong.
    #[must_use]
    pub const fn fault(&self) -> &Fault {
        &self.fault
    }

    /// The place in the document, like `params.a[3]`; empty for the document itself.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.fault {
            Fault::TooLong { len, max } => write!(f, "{len} bytes of JSON, the limit is {max}")?,
            Fault::TooDeep { max } => write!(f, "nested deeper than {max}")?,
            Fault::TooMany => write!(f, "more than {MAX_VALUES} values")?,
            Fault::DuplicateKey => f.write_str("duplicate key")?,
            Fault::Number => f.write_str(
                "number out of range (integers of 64 bits, or fractions; a number with a point or exponent that is \
                 whole may be at most 2^53)",
            )?,
            Fault::ByteOrderMark => f.write_str("byte order mark; send UTF-8 without one")?,
            Fault::Syntax(what) => f.write_str(what)?,
        }
        if !self.path.is_empty() {
            write!(f, " at {}", self.path)?;
        }
        if self.line > 0 {
            write!(f, " (line {}, column {})", self.line, self.column)?;
        }
        Ok(())
    }
}

impl core::error::Error for Error {}

/// Reads one JSON document and nothing after it.
///
/// # Errors
/// [`Error`] for anything but one valid document within `limits`: bad syntax or UTF-8, lone surrogates, a byte
/// order mark, trailing text, duplicate keys at any depth, and numbers outside the model of [`Number`].
pub fn parse(bytes: &[u8], limits: &Limits) -> Result<Value, Error> {
    let whole = |fault| Error { fault, path: String::new(), line: 0, column: 0 };
    if bytes.len() > limits.max_bytes {
        return Err(whole(Fault::TooLong { len: bytes.len(), max: limits.max_bytes }));
    }
    if bytes.starts_with(b"\xef\xbb\xbf") {
        return Err(whole(Fault::ByteOrderMark));
    }
    let mut trace = Trace { fault: None, path: Vec::new(), max_depth: limits.max_depth, values: 0 };
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let read = Reader { trace: &mut trace, left: limits.max_depth }.deserialize(&mut reader);
    match read.and_then(|value| reader.end().map(|()| value)) {
        Ok(value) => Ok(value),
        Err(cause) => Err(trace.into_error(&cause)),
    }
}

/// What the visitors leave behind for the message; written only once something is wrong.
struct Trace {
    fault: Option<Fault>,
    /// From the fault outwards.
    path: Vec<Step>,
    max_depth: usize,
    /// Values read so far.
    values: usize,
}

enum Step {
    Key(String),
    Index(usize),
}

impl Trace {
    /// The error that carries a fault of ours through serde_json; its own text is never shown.
    fn refuse<E: de::Error>(&mut self, fault: Fault) -> E {
        self.fault = Some(fault);
        E::custom("refused")
    }

    fn into_error(self, cause: &serde_json::Error) -> Error {
        let fault = self.fault.unwrap_or_else(|| {
            let text = cause.to_string();
            // serde_json ends its message with the position, which we state ourselves.
            match text.rsplit_once(" at line ") {
                Some((what, _)) if what.starts_with("number out of range") => Fault::Number,
                Some((what, _)) => Fault::Syntax(String::from(what)),
                None => Fault::Syntax(text),
            }
        });
        let mut path = String::new();
        for step in self.path.iter().rev() {
            // A message is no place for a megabyte of key.
            if path.len() > MAX_PATH {
                path.push('…');
                break;
            }
            match step {
                Step::Index(at) => {
                    path.push('[');
                    push_u64(&mut path, u64::try_from(*at).unwrap_or(u64::MAX));
                    path.push(']');
                }
                Step::Key(key) => push_key(&mut path, key),
            }
        }
        Error { fault, path, line: cause.line(), column: cause.column() }
    }
}

/// Roughly how long a path in a message may get, in bytes.
const MAX_PATH: usize = 160;

fn push_key(path: &mut String, key: &str) {
    let plain = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    let cut: String = key.chars().take(64).collect();
    let ellipsis = if cut.len() < key.len() { "…" } else { "" };
    if plain {
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(&cut);
        path.push_str(ellipsis);
    } else {
        // Debug escapes controls and direction marks, so a hostile key cannot dress up the message.
        let written = write!(path, "[{cut:?}{ellipsis}]");
        debug_assert!(written.is_ok(), "a String takes every write");
    }
}

/// Reads one value with `left` levels of nesting to spend.
struct Reader<'t> {
    trace: &'t mut Trace,
    left: usize,
}

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        self.trace.values += 1;
        if self.trace.values > MAX_VALUES {
            return Err(self.trace.refuse(Fault::TooMany));
        }
        from.deserialize_any(self)
    }
}

impl Reader<'_> {
    fn descend<E: de::Error>(&mut self) -> Result<usize, E> {
        match self.left.checked_sub(1) {
            Some(left) => Ok(left),
            None => {
                let max = self.trace.max_depth;
                Err(self.trace.refuse(Fault::TooDeep { max }))
            }
        }
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: de::Error>(self, b: bool) -> Result<Value, E> {
        Ok(Value::Bool(b))
    }

    fn visit_u64<E: de::Error>(self, n: u64) -> Result<Value, E> {
        Ok(Value::from(n))
    }

    fn visit_i64<E: de::Error>(self, n: i64) -> Result<Value, E> {
        Ok(Value::from(n))
    }

    fn visit_f64<E: de::Error>(self, x: f64) -> Result<Value, E> {
        Number::from_f64(x).map(Value::Number).ok_or_else(|| self.trace.refuse(Fault::Number))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Value, E> {
        Ok(Value::from(text))
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<Value, E> {
        Ok(Value::String(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut from: A) -> Result<Value, A::Error> {
        let left = self.descend()?;
        let mut items = Vec::new();
        loop {
            match from.next_element_seed(Reader { trace: self.trace, left }) {
                Ok(Some(item)) => items.push(item),
                Ok(None) => return Ok(Value::Array(items)),
                Err(cause) => {
                    self.trace.path.push(Step::Index(items.len()));
                    return Err(cause);
                }
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut from: A) -> Result<Value, A::Error> {
        let left = self.descend()?;
        let mut members = BTreeMap::new();
        while let Some(key) = from.next_key::<String>()? {
            let slot = match members.entry(key) {
                Entry::Vacant(slot) => slot,
                Entry::Occupied(slot) => {
                    self.trace.path.push(Step::Key(slot.key().clone()));
                    return Err(self.trace.refuse(Fault::DuplicateKey));
                }
            };
            match from.next_value_seed(Reader { trace: self.trace, left }) {
                Ok(member) => {
                    slot.insert(member);
                }
                Err(cause) => {
                    self.trace.path.push(Step::Key(slot.into_key()));
                    return Err(cause);
                }
            }
        }
        Ok(Value::Object(members))
    }
}
