//! Fractions as ECMAScript writes them (`Number::toString`, which RFC 8785 section 3.2.2.3 refers to).
//!
//! Of the shortest texts that read back as the number, ECMAScript takes the nearest, and of two equally near ones the one
//! whose last digit is even. The language's own shortest text leaves that last choice open.

use alloc::string::{String, ToString as _};

use crate::json::Number;

/// Appends `number`, whose value is the fraction `x`.
pub(super) fn push(out: &mut String, number: Number, x: f64) {
    let shortest = number.to_string();
    let decimals = |digits: &str| digits.split_once('.').map_or(0, |(_, decimals)| decimals.len());
    // As many digits again, but rounded from the exact value, half to even.
    let rounded = match shortest.split_once('e') {
        Some((digits, _)) => alloc::format!("{x:.*e}", decimals(digits)),
        None => alloc::format!("{x:.*}", decimals(&shortest)),
    };
    // Below a power of two numbers lie closer together, so that the rounded text may be another one's.
    out.push_str(if rounded.parse() == Ok(x) { &rounded } else { &shortest });
}
