//! The small files beside the frames: `telemetry.base`, `telemetry.safe_seq`, `telemetry.pos` (SPEC 4).

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use crate::ids::{Hash32, Seq, Uuid};
use crate::json::{self, Value, escape_into, push_u64};

use super::frame::split_tail;

/// `telemetry.base`: which log this is, and the chain before its first retained sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// The log.
    pub log_id: Uuid,
    /// The node that writes it.
    pub node_id: String,
    /// The first retained sequence.
    pub first_seq: Seq,
    /// The hash before it.
    pub prev_h: Hash32,
}

impl Base {
    /// The file's bytes: one line of JSON.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut text = String::from("{\"log_id\":\"");
        self.log_id.write(&mut text);
        text.push_str("\",\"node_id\":");
        escape_into(&self.node_id, &mut text);
        text.push_str(",\"first_seq\":");
        push_u64(&mut text, self.first_seq.get());
        text.push_str(",\"prev_h\":\"");
        self.prev_h.write_hex(&mut text);
        text.push_str("\"}\n");
        text.into_bytes()
    }

    /// Reads the file; `None` when it is not exactly a base.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let value = json::parse(bytes, &json::Limits::default()).ok()?;
        if value.as_object()?.len() != 4 {
            return None;
        }
        Some(Self {
            log_id: Uuid::parse(value.get("log_id")?.as_str()?.as_bytes())?,
            node_id: value.get("node_id")?.as_str()?.into(),
            first_seq: Seq::new(value.get("first_seq")?.as_u64()?)?,
            prev_h: Hash32::parse_hex(value.get("prev_h")?.as_str()?.as_bytes())?,
        })
    }
}

/// `telemetry.safe_seq`: 8 bytes, little-endian.
#[must_use]
pub fn parse_safe_seq(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

/// `telemetry.pos`: how far each class was delivered. Written by the drain alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Positions {
    /// The log that the cursors belong to.
    pub log_id: Uuid,
    /// The last delivered sequence by class; 0 = none.
    pub cursors: BTreeMap<String, u64>,
    /// How often the log was repaired: what a drain knows of the log's files is void when this has changed.
    pub repairs: u64,
}

/// The classes of the drain, in order of importance (SPEC 5).
pub const CLASSES: [&str; 3] = ["error", "decision", "lifecycle"];

impl Positions {
    /// The file's bytes: one line of JSON that ends, like a frame, in the BLAKE3-256 of what stands before it. A cursor
    /// that rotted would pass over undelivered events, and nothing else would show it.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut text = String::from("{\"log_id\":\"");
        self.log_id.write(&mut text);
        text.push_str("\",\"cursors\":{");
        for (i, (class, seq)) in self.cursors.iter().enumerate() {
            if i > 0 {
                text.push(',');
            }
            escape_into(class, &mut text);
            text.push(':');
            push_u64(&mut text, *seq);
        }
        text.push_str("},\"repairs\":");
        push_u64(&mut text, self.repairs);
        let h = Hash32(*blake3::hash(text.as_bytes()).as_bytes());
        text.push_str(",\"h\":\"");
        h.write_hex(&mut text);
        text.push_str("\"}\n");
        text.into_bytes()
    }

    /// Reads the file; `None` when it is not exactly a set of cursors for the three classes with its hash.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (covered, h) = split_tail(bytes)?;
        if *blake3::hash(covered).as_bytes() != h.0 {
            return None;
        }
        let value = json::parse(bytes, &json::Limits::default()).ok()?;
        let cursors = value.get("cursors").and_then(Value::as_object)?;
        if value.as_object()?.len() != 4 || cursors.len() != CLASSES.len() {
            return None;
        }
        let mut read = BTreeMap::new();
        for class in CLASSES {
            read.insert(class.into(), cursors.get(class)?.as_u64()?);
        }
        Some(Self {
            log_id: Uuid::parse(value.get("log_id")?.as_str()?.as_bytes())?,
            cursors: read,
            repairs: value.get("repairs")?.as_u64()?,
        })
    }

    /// The sequence up to which every class was delivered.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.cursors.values().copied().min().unwrap_or(0)
    }

    /// The highest sequence that any class was delivered to.
    #[must_use]
    pub fn highest(&self) -> u64 {
        self.cursors.values().copied().max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::IdSource;
    use crate::machine::Entropy;
    use crate::time::Wall;

    #[test]
    fn no_flipped_bit_of_the_cursors_goes_unseen() {
        let log_id = IdSource::new(Entropy([1; 32])).next(Wall::from_micros(1));
        let cursors = CLASSES.iter().zip([7, 1_200, 33]).map(|(class, seq)| ((*class).into(), seq)).collect();
        let positions = Positions { log_id, cursors, repairs: 3 };
        let bytes = positions.to_bytes();
        assert_eq!(Positions::parse(&bytes), Some(positions));
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                assert_eq!(Positions::parse(&damaged), None, "byte {at} bit {bit}");
            }
        }
        assert_eq!(Positions::parse(&bytes[..bytes.len() - 1]), None);
    }
}
