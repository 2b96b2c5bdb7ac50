//! The canonical form of JSON (RFC 8785, "JCS"), and what documents that are hashed or signed may hold (SPEC 6).
//!
//! [`parse`] takes a text in any order and layout, and refuses what two readers could understand differently or spell
//! differently. [`to_bytes`] writes the one text that is hashed or signed. Keys outside ASCII are refused in such
//! documents, so that no reader can sort them otherwise (FAULTS J05); numbers are whole, at most 2^53-1 in size and
//! spelled in one way (FAULTS J03). [`jcs`] is the standard's form without those bounds.

mod fraction;
mod place;
mod spelling;
#[cfg(test)]
pub(crate) mod tests;

use alloc::string::String;
use alloc::vec::Vec;

use crate::json::{self, Fault, Limits, NumberKind, Value, escape_into};
use place::{Step, path_of};

/// The largest size of a number: 2^53-1, which every JSON reader keeps exactly.
pub const MAX_INTEGER: u64 = (1 << 53) - 1;

/// Why a text or a value is no document to be hashed or signed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Not JSON as every boundary of the product takes it.
    #[error("{0}")]
    Json(json::Error),
    /// A number that is not whole, too large, or spelled in another way than the one.
    #[error(
        "{at} is {found}; write a whole number from -(2^53-1) to 2^53-1 in plain digits, without point, exponent or -0"
    )]
    Number {
        /// The number's place, like `a.b[3]`.
        at: String,
        /// How it is spelled, cut when long.
        found: String,
    },
    /// A key with characters outside ASCII.
    #[error("the key {at} is not ASCII; in a document that is hashed or signed every key is")]
    Key {
        /// The key's place.
        at: String,
    },
    /// A value that was built deeper than any text may nest.
    #[error("nested deeper than {max}")]
    TooDeep {
        /// The limit; the outer array or object counts 1.
        max: usize,
    },
}

/// Reads one document of at most `max_bytes`.
///
/// # Errors
/// [`Refusal`] for everything that [`json::parse`] refuses (duplicate keys, lone surrogates, a byte order mark, a
/// second document, nesting beyond 64, …), for numbers that are not whole, beyond 2^53-1 or not in their one
/// spelling, and for keys outside ASCII.
pub fn parse(bytes: &[u8], max_bytes: usize) -> Result<Value, Refusal> {
    let value = json::parse(bytes, &Limits::bytes(max_bytes)).map_err(|cause| match cause.fault() {
        Fault::Number => Refusal::Number { at: named(cause.path()), found: "out of range".into() },
        Fault::TooLong { .. }
        | Fault::TooDeep { .. }
        | Fault::TooMany
        | Fault::DuplicateKey
        | Fault::ByteOrderMark
        | Fault::Syntax(_) => Refusal::Json(cause),
    })?;
    // The value no longer knows how its numbers were spelled.
    spelling::check(bytes)?;
    admit(&value)?;
    Ok(value)
}

/// The canonical bytes of a document.
///
/// # Errors
/// [`Refusal`] for a value that [`parse`] would not give: numbers that are not whole or beyond 2^53-1, keys outside
/// ASCII, nesting beyond 64.
pub fn to_bytes(value: &Value) -> Result<Vec<u8>, Refusal> {
    admit(value)?;
    Ok(jcs(value).into_bytes())
}

/// The canonical text of any value (RFC 8785): members sorted by the UTF-16 units of their keys (section 3.2.3),
/// strings and numbers as ECMAScript writes them (section 3.2.2).
///
/// It is for hashing what is not interchanged as a signed document; everything else goes through [`to_bytes`].
#[must_use]
pub fn jcs(value: &Value) -> String {
    let mut out = String::new();
    put(value, &mut out);
    out
}

fn put(value: &Value, out: &mut String) {
    match value {
        Value::Null | Value::Bool(_) | Value::String(_) => value.write(out),
        Value::Number(number) => match number.kind() {
            NumberKind::Unsigned(_) | NumberKind::Negative(_) => value.write(out),
            NumberKind::Fraction(x) => fraction::push(out, *number, x),
        },
        Value::Array(items) => {
            let mut before = '[';
            for item in items {
                out.push(before);
                put(item, out);
                before = ',';
            }
            out.push_str(if items.is_empty() { "[]" } else { "]" });
        }
        Value::Object(members) => {
            let mut sorted: Vec<_> = members.iter().collect();
            // Byte order, which the map has, differs only where U+E000 to U+FFFF meet characters beyond U+FFFF.
            sorted.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
            let mut before = '{';
            for (key, member) in sorted {
                out.push(before);
                escape_into(key, out);
                out.push(':');
                put(member, out);
                before = ',';
            }
            out.push_str(if members.is_empty() { "{}" } else { "}" });
        }
    }
}

/// Whether the value may stand in a document that is hashed or signed.
fn admit(value: &Value) -> Result<(), Refusal> {
    let mut path = Vec::new();
    admit_at(value, &mut path)
}

fn admit_at<'v>(value: &'v Value, path: &mut Vec<Step<'v>>) -> Result<(), Refusal> {
    match value {
        Value::Null | Value::Bool(_) | Value::String(_) => Ok(()),
        Value::Number(number) => {
            let whole = match number.kind() {
                NumberKind::Unsigned(n) => n <= MAX_INTEGER,
                NumberKind::Negative(n) => n.unsigned_abs() <= MAX_INTEGER,
                NumberKind::Fraction(_) => false,
            };
            if whole {
                return Ok(());
            }
            Err(Refusal::Number { at: named(&path_of(path)), found: alloc::format!("{number}") })
        }
        Value::Array(items) => {
            descend(path)?;
            for (i, item) in items.iter().enumerate() {
                path.push(Step::Index(i));
                admit_at(item, path)?;
                path.pop();
            }
            Ok(())
        }
        Value::Object(members) => {
            descend(path)?;
            for (key, member) in members {
                path.push(Step::Key(key));
                if !key.is_ascii() {
                    return Err(Refusal::Key { at: path_of(path) });
                }
                admit_at(member, path)?;
                path.pop();
            }
            Ok(())
        }
    }
}

fn descend(path: &[Step<'_>]) -> Result<(), Refusal> {
    if path.len() < Limits::DEPTH { Ok(()) } else { Err(Refusal::TooDeep { max: Limits::DEPTH }) }
}

/// A place for a message; the document itself has an empty path.
fn named(path: &str) -> String {
    if path.is_empty() { "the document".into() } else { path.into() }
}
