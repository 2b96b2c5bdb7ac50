//! JSON as every boundary of the product takes it: strict, bounded, with one number model.
//!
//! [`parse`] refuses what two parsers could read differently: duplicate keys (compared decoded), numbers
//! that no value here equals, lone surrogates, a byte order mark, a second document. What is written is
//! compact and, as long as keys are ASCII, the canonical form of RFC 8785.

mod number;
mod parse;
mod write;

#[cfg(test)]
pub(crate) mod tests;

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

pub use number::{Number, NumberKind};
pub use parse::{Error, Fault, Limits, parse};
pub use write::{escape_into, push_i64, push_u64};

/// A JSON value. Two values are equal when they mean the same: object order does not count, and `1.0` was
/// read as `1`.
///
/// Walking, writing and dropping a value recurses once per level; values come from [`parse`] or are built
/// from such values, so the depth is bounded by [`Limits::max_depth`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Value {
    /// `null`
    #[default]
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number in the one number model.
    Number(Number),
    /// A string, decoded; not normalised.
    String(String),
    /// An array.
    Array(Vec<Value>),
    /// An object, in byte order of its decoded keys.
    Object(BTreeMap<String, Value>),
}

impl Value {
    /// The string, when it is one.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            Self::Null | Self::Bool(_) | Self::Number(_) | Self::Array(_) | Self::Object(_) => None,
        }
    }

    /// The boolean, when it is one.
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(b) => Some(*b),
            Self::Null | Self::Number(_) | Self::String(_) | Self::Array(_) | Self::Object(_) => None,
        }
    }

    /// The number, when it is one.
    #[must_use]
    pub fn as_number(&self) -> Option<Number> {
        match self {
            Self::Number(n) => Some(*n),
            Self::Null | Self::Bool(_) | Self::String(_) | Self::Array(_) | Self::Object(_) => None,
        }
    }

    /// The number, when it is an integer from 0 to `u64::MAX`.
    #[must_use]
    pub fn as_u64(&self) -> Option<u64> {
        self.as_number().and_then(Number::as_u64)
    }

    /// The number, when it is an integer in the range of `i64`.
    #[must_use]
    pub fn as_i64(&self) -> Option<i64> {
        self.as_number().and_then(Number::as_i64)
    }

    /// The elements, when it is an array.
    #[must_use]
    pub fn as_array(&self) -> Option<&[Self]> {
        match self {
            Self::Array(items) => Some(items),
            Self::Null | Self::Bool(_) | Self::Number(_) | Self::String(_) | Self::Object(_) => None,
        }
    }

    /// The members, when it is an object.
    #[must_use]
    pub fn as_object(&self) -> Option<&BTreeMap<String, Self>> {
        match self {
            Self::Object(members) => Some(members),
            Self::Null | Self::Bool(_) | Self::Number(_) | Self::String(_) | Self::Array(_) => None,
        }
    }

    /// The members by value, when it is an object; else the value back.
    ///
    /// # Errors
    /// The value itself, unchanged, when it is not an object.
    pub fn into_object(self) -> Result<BTreeMap<String, Self>, Self> {
        match self {
            Self::Object(members) => Ok(members),
            other @ (Self::Null | Self::Bool(_) | Self::Number(_) | Self::String(_) | Self::Array(_)) => Err(other),
        }
    }

    /// The member named exactly `key`, when this is an object that has it.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Self> {
        self.as_object().and_then(|members| members.get(key))
    }

    /// What kind of value it is, for messages: `null`, `boolean`, `number`, `string`, `array` or `object`.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "boolean",
            Self::Number(_) => "number",
            Self::String(_) => "string",
            Self::Array(_) => "array",
            Self::Object(_) => "object",
        }
    }
}

impl From<bool> for Value {
    fn from(b: bool) -> Self {
        Self::Bool(b)
    }
}

impl From<u64> for Value {
    fn from(n: u64) -> Self {
        Self::Number(Number::from(n))
    }
}

impl From<i64> for Value {
    fn from(n: i64) -> Self {
        Self::Number(Number::from(n))
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(String::from(text))
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::String(text)
    }
}

impl From<Vec<Value>> for Value {
    fn from(items: Vec<Value>) -> Self {
        Self::Array(items)
    }
}

impl From<BTreeMap<String, Value>> for Value {
    fn from(members: BTreeMap<String, Value>) -> Self {
        Self::Object(members)
    }
}
