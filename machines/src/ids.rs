//! Names and numbers that must not be mixed up.

use alloc::string::String;
use core::fmt;

use crate::machine::Entropy;
use crate::time::Wall;

/// 32 raw bytes of a hash. What kind of hash is said by the field that holds it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash32(pub [u8; 32]);

impl Hash32 {
    /// Appends 64 lower-case hex digits.
    pub fn write_hex(&self, out: &mut String) {
        write_hex(&self.0, out);
    }

    /// Reads 64 lower-case hex digits; `None` for anything else.
    #[must_use]
    pub fn parse_hex(text: &[u8]) -> Option<Self> {
        let values = hex_values::<64>(text.try_into().ok()?)?;
        let mut bytes = [0u8; 32];
        for (byte, [high, low]) in bytes.iter_mut().zip(values.as_chunks::<2>().0) {
            *byte = high << 4 | low;
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for Hash32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::with_capacity(64);
        self.write_hex(&mut text);
        f.write_str(&text)
    }
}

impl fmt::Debug for Hash32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Appends `bytes` in lower-case hex.
pub fn write_hex(bytes: &[u8], out: &mut String) {
    // Digits are put together on the stack first: this is on the path of every answer.
    for part in bytes.chunks(32) {
        let mut digits = [[0u8; 2]; 32];
        for (pair, byte) in digits.iter_mut().zip(part) {
            *pair = hex_pair(*byte);
        }
        let written = digits.as_flattened().get(..part.len() * 2).unwrap_or(&[]);
        out.push_str(core::str::from_utf8(written).unwrap_or(""));
    }
}

const fn hex_pair(byte: u8) -> [u8; 2] {
    [digit(byte >> 4), digit(byte & 15)]
}

const fn digit(n: u8) -> u8 {
    if n < 10 { b'0' + n } else { b'a' + (n - 10) }
}

/// The values of lower-case hex digits, without branches: recovery reads one hash and one id for every frame.
fn hex_values<const N: usize>(digits: &[u8; N]) -> Option<[u8; N]> {
    let mut values = [0u8; N];
    let mut bad = false;
    for (value, c) in values.iter_mut().zip(digits) {
        let (digit, letter) = (c.wrapping_sub(b'0'), c.wrapping_sub(b'a'));
        bad |= (digit >= 10) & (letter >= 6);
        *value = if digit < 10 { digit } else { letter.wrapping_add(10) };
    }
    (!bad).then_some(values)
}

/// A sequence number of the log, contiguous from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(u64);

impl Seq {
    /// The first sequence of a log.
    pub const FIRST: Self = Self(1);

    /// `None` for 0, which is no sequence.
    #[must_use]
    pub const fn new(n: u64) -> Option<Self> {
        if n == 0 { None } else { Some(Self(n)) }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The sequence after this one; `None` at the end of the numbers (FAULTS D20).
    #[must_use]
    pub const fn next(self) -> Option<Self> {
        match self.0.checked_add(1) {
            Some(n) => Some(Self(n)),
            None => None,
        }
    }
}

/// A UUID version 7 (RFC 9562): milliseconds of the wall clock, then 74 bits of derived entropy.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uuid([u8; 16]);

impl Uuid {
    /// Appends the 36 characters of the usual text form.
    pub fn write(&self, out: &mut String) {
        let mut text = [b'-'; 36];
        let mut slots = text.iter_mut();
        for (i, byte) in self.0.iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                slots.next();
            }
            for (digit, slot) in hex_pair(*byte).into_iter().zip(slots.by_ref()) {
                *slot = digit;
            }
        }
        out.push_str(core::str::from_utf8(&text).unwrap_or(""));
    }

    /// Reads the 36 characters in lower case; `None` for anything else.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let text: &[u8; 36] = text.try_into().ok()?;
        let mut digits = [0u8; 32];
        let mut rest = &mut digits[..];
        for (at, len) in [(0, 8), (9, 4), (14, 4), (19, 4), (24, 12)] {
            let (group, behind) = rest.split_at_mut_checked(len)?;
            group.copy_from_slice(text.get(at..at + len)?);
            rest = behind;
        }
        let dashes = [8, 13, 18, 23].iter().all(|at| text.get(*at) == Some(&b'-'));
        let values = hex_values::<32>(&digits)?;
        let mut bytes = [0u8; 16];
        for (byte, [high, low]) in bytes.iter_mut().zip(values.as_chunks::<2>().0) {
            *byte = high << 4 | low;
        }
        dashes.then_some(Self(bytes))
    }

    /// Milliseconds since the Unix epoch at which the id was made.
    #[must_use]
    pub fn millis(&self) -> u64 {
        let [a, b, c, d, e, f, ..] = self.0;
        u64::from_be_bytes([0, 0, a, b, c, d, e, f])
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::with_capacity(36);
        self.write(&mut text);
        f.write_str(&text)
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Makes unique ids from entropy that was given in: the n-th id is a keyed hash of n, so that the same
/// entropy gives the same ids.
#[derive(Clone, Debug)]
pub struct IdSource {
    key: [u8; 32],
    made: u64,
}

impl IdSource {
    /// A source over this entropy.
    #[must_use]
    pub const fn new(entropy: Entropy) -> Self {
        Self { key: entropy.0, made: 0 }
    }

    /// The next id, labelled with `wall`.
    pub fn next(&mut self, wall: Wall) -> Uuid {
        let hash = blake3::keyed_hash(&self.key, &self.made.to_le_bytes());
        self.made = self.made.wrapping_add(1);
        let mut bytes = [0u8; 16];
        for (to, from) in bytes.iter_mut().zip(hash.as_bytes()) {
            *to = *from;
        }
        let [_, _, t0, t1, t2, t3, t4, t5] = wall.as_millis().to_be_bytes();
        for (to, from) in bytes.iter_mut().zip([t0, t1, t2, t3, t4, t5]) {
            *to = from;
        }
        if let Some(b) = bytes.get_mut(6) {
            *b = *b & 0x0f | 0x70;
        }
        if let Some(b) = bytes.get_mut(8) {
            *b = *b & 0x3f | 0x80;
        }
        Uuid(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn d20_the_sequence_after_the_last_is_none_not_a_wrap() {
        assert_eq!(Seq::new(u64::MAX).and_then(Seq::next), None);
        assert_eq!(Seq::new(0), None);
    }

    #[test]
    fn ids_are_uuid_version_7_and_repeat_with_their_entropy() {
        let make = || IdSource::new(Entropy([7; 32]));
        let (mut a, mut b) = (make(), make());
        let wall = Wall::from_micros(1_763_724_637_123_456);
        let id = a.next(wall);
        assert_eq!(id, b.next(wall));
        assert_ne!(id, a.next(wall));
        let text = id.to_string();
        assert_eq!(text.len(), 36);
        assert_eq!(text.as_bytes()[14], b'7');
        assert!(matches!(text.as_bytes()[19], b'8' | b'9' | b'a' | b'b'));
        assert_eq!(Uuid::parse(text.as_bytes()), Some(id));
        assert_eq!(id.millis(), wall.as_millis());
        assert_eq!(Uuid::parse(text.to_uppercase().as_bytes()), None);
    }

    #[test]
    fn hex_round_trips_and_refuses_upper_case() {
        let hash = Hash32([0xa5; 32]);
        assert_eq!(Hash32::parse_hex(hash.to_string().as_bytes()), Some(hash));
        assert_eq!(Hash32::parse_hex(hash.to_string().to_uppercase().as_bytes()), None);
    }
}
