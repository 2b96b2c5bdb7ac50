//! `policy/verified/<sha256>.json`: that a bundle passed the four steps on this node, and with which lock.
//!
//! `require_verified` admits a bundle that is loaded from a file only with such a record. The record ends in a hash over
//! itself, so that a rotten one admits nothing.

use alloc::string::String;
use alloc::vec::Vec;

use super::{LockSlot, sha256};
use crate::ids::Hash32;
use crate::json;
use crate::wal::frame::split_tail;

/// The longest record, in bytes.
pub(super) const MAX_BYTES: u32 = 4096;

/// A record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// SHA-256 of the bundle's bytes.
    pub bundle: Hash32,
    /// The lock.
    pub lock: LockSlot,
}

impl Record {
    /// The file's bytes: one line of JSON.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut text = String::from("{\"bundle\":\"sha256:");
        self.bundle.write_hex(&mut text);
        text.push_str("\",\"lock\":");
        self.lock.write(&mut text);
        let h = Hash32(*blake3::hash(text.as_bytes()).as_bytes());
        text.push_str(",\"h\":\"");
        h.write_hex(&mut text);
        text.push_str("\"}\n");
        text.into_bytes()
    }

    /// Reads the file; `None` when it is not exactly a record with its hash.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (covered, h) = split_tail(bytes)?;
        if *blake3::hash(covered).as_bytes() != h.0 {
            return None;
        }
        let value = json::parse(bytes, &json::Limits::default()).ok()?;
        if value.as_object()?.len() != 3 {
            return None;
        }
        Some(Self { bundle: sha256(value.get("bundle")?)?, lock: LockSlot::parse(value.get("lock")?)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Digest;
    use crate::time::Wall;

    #[test]
    fn s21_a_record_reads_back_and_no_flipped_bit_goes_unseen() {
        let lock = LockSlot {
            fingerprint: Hash32([1; 32]),
            name: "agent".into(),
            version: "1.0.0".into(),
            sequence: 7,
            image: Digest::of(b"image"),
            signed_at: Wall::from_micros(1),
        };
        let record = Record { bundle: Hash32([2; 32]), lock };
        let bytes = record.to_bytes();
        assert!(bytes.len() < MAX_BYTES as usize);
        assert_eq!(Record::parse(&bytes), Some(record));
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                assert_eq!(Record::parse(&damaged), None, "byte {at} bit {bit}");
            }
        }
    }
}
