//! Writing: compact, keys in byte order, strings escaped as RFC 8785 has it.
//!
//! Only `"`, `\` and the controls U+0000 to U+001F are escaped, so that no text ever holds a raw line feed;
//! everything else stays as it is.

use alloc::string::String;
use core::fmt::{self, Write as _};

use super::Value;
use super::number::{Number, NumberKind};

/// Where text goes: into a string, or only into a count.
trait Sink {
    fn text(&mut self, text: &str);
    fn string(&mut self, text: &str);
    fn number(&mut self, n: Number);
}

impl Sink for String {
    fn text(&mut self, text: &str) {
        self.push_str(text);
    }
    fn string(&mut self, text: &str) {
        escape_into(text, self);
    }
    fn number(&mut self, n: Number) {
        match n.kind() {
            NumberKind::Unsigned(n) => push_u64(self, n),
            NumberKind::Negative(n) => push_i64(self, n),
            NumberKind::Fraction(x) => push_fraction(self, x),
        }
    }
}

struct Count(usize);

impl Sink for Count {
    fn text(&mut self, text: &str) {
        self.0 = self.0.saturating_add(text.len());
    }
    fn string(&mut self, text: &str) {
        let escapes: usize = text.bytes().map(|b| escape(b).map_or(0, |e| e.len().saturating_sub(1))).sum();
        self.0 = self.0.saturating_add(text.len()).saturating_add(escapes).saturating_add(2);
    }
    fn number(&mut self, n: Number) {
        match n.kind() {
            NumberKind::Unsigned(n) => self.0 = self.0.saturating_add(digits(n)),
            NumberKind::Negative(n) => self.0 = self.0.saturating_add(digits(n.unsigned_abs())).saturating_add(1),
            NumberKind::Fraction(x) => {
                let mut text = String::new();
                push_fraction(&mut text, x);
                self.text(&text);
            }
        }
    }
}

impl Value {
    /// Appends the value as compact JSON text.
    pub fn write(&self, out: &mut String) {
        put(self, out);
    }

    /// The value as compact JSON text.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        self.write(&mut out);
        out
    }

    /// The length of [`Value::to_text`] in bytes, without building it.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        let mut count = Count(0);
        put(self, &mut count);
        count.0
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_text())
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        text.number(*self);
        f.write_str(&text)
    }
}

fn put<S: Sink>(value: &Value, out: &mut S) {
    match value {
        Value::Null => out.text("null"),
        Value::Bool(true) => out.text("true"),
        Value::Bool(false) => out.text("false"),
        Value::Number(n) => out.number(*n),
        Value::String(text) => out.string(text),
        Value::Array(items) => {
            let mut before = "[";
            for item in items {
                out.text(before);
                put(item, out);
                before = ",";
            }
            out.text(if items.is_empty() { "[]" } else { "]" });
        }
        Value::Object(members) => {
            let mut before = "{";
            for (key, member) in members {
                out.text(before);
                out.string(key);
                out.text(":");
                put(member, out);
                before = ",";
            }
            out.text(if members.is_empty() { "{}" } else { "}" });
        }
    }
}

/// Appends `text` as a JSON string with its quotes.
pub fn escape_into(text: &str, out: &mut String) {
    out.reserve(text.len().saturating_add(2));
    out.push('"');
    let mut rest = text;
    loop {
        let clean = clean_prefix(rest.as_bytes());
        // What stops a clean prefix is ASCII, so both cuts fall between characters.
        let Some((plain, tail)) = rest.split_at_checked(clean) else { break };
        out.push_str(plain);
        let Some(stop) = tail.chars().next() else { break };
        if let Some(escaped) = u8::try_from(stop).ok().and_then(escape) {
            out.push_str(escaped);
        } else {
            out.push(stop);
        }
        rest = tail.get(stop.len_utf8()..).unwrap_or_default();
    }
    out.push('"');
}

/// How many leading bytes need no escape. Blocks of 16 are tested without a branch per byte.
fn clean_prefix(bytes: &[u8]) -> usize {
    let dirty = |b: &u8| *b < 0x20 || *b == b'"' || *b == b'\\';
    let (blocks, _) = bytes.as_chunks::<16>();
    let clean = blocks.iter().take_while(|block| !block.iter().fold(false, |any, b| any | dirty(b))).count() * 16;
    let tail = bytes.get(clean..).unwrap_or_default();
    clean.saturating_add(tail.iter().position(dirty).unwrap_or(tail.len()))
}

/// The escape of a byte that needs one (RFC 8785 section 3.2.2.2).
fn escape(byte: u8) -> Option<&'static str> {
    const CONTROLS: [&str; 32] = [
        "\\u0000", "\\u0001", "\\u0002", "\\u0003", "\\u0004", "\\u0005", "\\u0006", "\\u0007", "\\b", "\\t", "\\n",
        "\\u000b", "\\f", "\\r", "\\u000e", "\\u000f", "\\u0010", "\\u0011", "\\u0012", "\\u0013", "\\u0014",
        "\\u0015", "\\u0016", "\\u0017", "\\u0018", "\\u0019", "\\u001a", "\\u001b", "\\u001c", "\\u001d", "\\u001e",
        "\\u001f",
    ];
    match byte {
        b'"' => Some("\\\""),
        b'\\' => Some("\\\\"),
        control => CONTROLS.get(usize::from(control)).copied(),
    }
}

/// Appends `n` in decimal.
pub fn push_u64(out: &mut String, n: u64) {
    // u64::MAX has 20 digits.
    let mut digits = [b'0'; 20];
    let mut rest = n;
    let mut len = 0_usize;
    for place in digits.iter_mut().rev() {
        *place = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
        len += 1;
        if rest == 0 {
            break;
        }
    }
    let used = digits.len().checked_sub(len).and_then(|from| digits.get(from..)).unwrap_or_default();
    out.push_str(core::str::from_utf8(used).unwrap_or_default());
}

/// Appends `n` in decimal.
pub fn push_i64(out: &mut String, n: i64) {
    if n < 0 {
        out.push('-');
    }
    push_u64(out, n.unsigned_abs());
}

fn digits(n: u64) -> usize {
    n.checked_ilog10().map_or(1, |log| usize::try_from(log).unwrap_or(0).saturating_add(1))
}

/// The shortest digits that read back as `x`, in the form of ECMAScript's `Number.prototype.toString`: an
/// exponent only below 1e-6. (Above, fractions stay under 2^52 and are written out.)
fn push_fraction(out: &mut String, x: f64) {
    let small = x < 1e-6 && x > -1e-6;
    let written = if small { write!(out, "{x:e}") } else { write!(out, "{x}") };
    debug_assert!(written.is_ok(), "a String takes every write");
}
