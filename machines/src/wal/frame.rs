//! One frame of the log: its bytes, its place in the chain, and how to read it back (SPEC 4).
//!
//! A frame is a 4-byte big-endian length N and N bytes: one JSON object and a line feed. The object ends in
//! `"h"`, the BLAKE3-256 of the previous frame's `h` (32 raw bytes) and this frame's bytes up to that field.
//! Every frame is written in one fixed order of fields, so that it can be read by position; a frame in any
//! other form was not written by us and is corrupt.

use alloc::string::String;
use alloc::vec::Vec;

use crate::ids::{Hash32, Seq, Uuid};
use crate::json::push_u64;
use crate::time::Wall;

/// The longest N: 256 KiB.
pub const MAX_FRAME: usize = 256 * 1024;

/// The bytes `,"h":"`, 64 hex digits, `"}` and a line feed.
pub const TAIL: usize = 73;

/// Bytes of the length before each frame.
pub const PREFIX: usize = 4;

/// The kinds of frames (SPEC 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A call was allowed or denied.
    Decision,
    /// An allowed tool ran.
    Action,
    /// A phase of a release, an activation, a reconstruction or a rollout.
    Lifecycle,
    /// A fault: a failed tool, a cut tail, a fallback.
    Error,
}

impl Kind {
    /// The text in the frame.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Decision => "decision",
            Self::Action => "action",
            Self::Lifecycle => "lifecycle",
            Self::Error => "error",
        }
    }

    /// The kind that `bytes` begin with, with its closing quote, and what follows.
    fn split(bytes: &[u8]) -> Option<(Self, &[u8])> {
        [Self::Decision, Self::Action, Self::Error, Self::Lifecycle].into_iter().find_map(|kind| {
            let rest = bytes.strip_prefix(kind.as_str().as_bytes())?;
            Some((kind, rest.strip_prefix(b"\"")?))
        })
    }
}

/// The trace that a caller named in `traceparent` (W3C Trace Context): 32 and 16 lower-case hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceIds {
    trace: [u8; 32],
    span: [u8; 16],
}

impl TraceIds {
    /// Reads a `traceparent` header; `None` when it is not valid, which W3C says to treat as absent.
    #[must_use]
    pub fn parse(header: &str) -> Option<Self> {
        let mut parts = header.split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let hex = |text: &str, len: usize| {
            text.len() == len && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        };
        let zero = |text: &str| text.bytes().all(|b| b == b'0');
        let known = version == "00" && parts.next().is_none() || hex(version, 2) && version != "00" && version != "ff";
        if !known || !hex(trace, 32) || !hex(span, 16) || !hex(flags, 2) || zero(trace) || zero(span) {
            return None;
        }
        Some(Self { trace: trace.as_bytes().try_into().ok()?, span: span.as_bytes().try_into().ok()? })
    }

    /// 32 hex digits.
    #[must_use]
    pub fn trace(&self) -> &str {
        core::str::from_utf8(&self.trace).unwrap_or("")
    }

    /// 16 hex digits.
    #[must_use]
    pub fn span(&self) -> &str {
        core::str::from_utf8(&self.span).unwrap_or("")
    }
}

/// What a frame says, without its place in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The kind.
    pub kind: Kind,
    /// The call's id; of a frame without a call, an id of its own.
    pub audit_id: Uuid,
    /// The caller's trace, if it named one.
    pub trace: Option<TraceIds>,
    /// The body: the compact text of a JSON object without raw control characters.
    pub body: String,
}

/// Where a frame stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its sequence.
    pub seq: Seq,
    /// When it was written.
    pub ts: Wall,
    /// The safe-point when it was written; 0 = none.
    pub safe: u64,
}

/// The `prev_h` of a new log: BLAKE3-256 of the ASCII bytes `autonomy-wal-v1` and of the log id's text.
#[must_use]
pub fn genesis(log_id: &Uuid) -> Hash32 {
    let mut text = String::from("autonomy-wal-v1");
    log_id.write(&mut text);
    Hash32(*blake3::hash(text.as_bytes()).as_bytes())
}

/// An upper bound of the bytes that a frame with this body takes, its length prefix included.
#[must_use]
pub const fn bound(body_len: usize) -> usize {
    // prefix, names and punctuation, two 20-digit numbers, time, ids, kind, tail: under 400 bytes.
    body_len + 400
}

/// Appends a frame to `out` and returns its `h`.
pub fn encode(out: &mut Vec<u8>, prev: &Hash32, place: &Place, record: &Record) -> Hash32 {
    let mut text = String::with_capacity(bound(record.body.len()));
    text.push_str("{\"seq\":");
    push_u64(&mut text, place.seq.get());
    text.push_str(",\"ts\":\"");
    place.ts.write_rfc3339(&mut text);
    text.push_str("\",\"kind\":\"");
    text.push_str(record.kind.as_str());
    text.push_str("\",\"audit_id\":\"");
    record.audit_id.write(&mut text);
    text.push_str("\",\"trace_id\":\"");
    text.push_str(record.trace.as_ref().map_or("", TraceIds::trace));
    text.push_str("\",\"span_id\":\"");
    text.push_str(record.trace.as_ref().map_or("", TraceIds::span));
    text.push_str("\",\"safe\":");
    push_u64(&mut text, place.safe);
    text.push_str(",\"body\":");
    text.push_str(&record.body);
    let h = chain(prev, text.as_bytes());
    text.push_str(",\"h\":\"");
    h.write_hex(&mut text);
    text.push_str("\"}\n");
    let len = u32::try_from(text.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(text.as_bytes());
    h
}

fn chain(prev: &Hash32, covered: &[u8]) -> Hash32 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&prev.0);
    hasher.update(covered);
    Hash32(*hasher.finalize().as_bytes())
}

/// A frame that was read: everything but the chain, which `Frame::follows` checks.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// Its sequence.
    pub seq: Seq,
    /// When it was written, as text.
    pub ts: &'a str,
    /// The kind.
    pub kind: Kind,
    /// The id.
    pub audit_id: Uuid,
    /// The caller's trace id or nothing.
    pub trace_id: &'a str,
    /// The caller's span id or nothing.
    pub span_id: &'a str,
    /// The safe-point when it was written.
    pub safe: u64,
    /// The text of the body, a JSON object.
    pub body: &'a str,
    /// The stored hash.
    pub h: Hash32,
    covered: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Reads a frame's N bytes. `None` when they are not in the form that `encode` writes; the chain is
    /// not checked here.
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (covered, h) = split_tail(bytes)?;
        let mut rest = Cursor(covered);
        rest.expect(b"{\"seq\":")?;
        let seq = Seq::new(rest.number()?)?;
        rest.expect(b",\"ts\":\"")?;
        let ts = core::str::from_utf8(rest.take(27)?).ok()?;
        rest.expect(b"\",\"kind\":\"")?;
        let (kind, after) = Kind::split(rest.0)?;
        rest.0 = after;
        rest.expect(b",\"audit_id\":\"")?;
        let audit_id = Uuid::parse(rest.take(36)?)?;
        rest.expect(b"\",\"trace_id\":\"")?;
        let trace_id = rest.hex_or_nothing(32)?;
        rest.expect(b"\",\"span_id\":\"")?;
        let span_id = rest.hex_or_nothing(16)?;
        rest.expect(b"\",\"safe\":")?;
        let safe = rest.number()?;
        rest.expect(b",\"body\":")?;
        if rest.0.first() != Some(&b'{') || rest.0.last() != Some(&b'}') {
            return None;
        }
        let body = core::str::from_utf8(rest.0).ok()?;
        Some(Self { seq, ts, kind, audit_id, trace_id, span_id, safe, body, h, covered })
    }

    /// Whether this frame's `h` verifies against the `h` before it.
    #[must_use]
    pub fn follows(&self, prev: &Hash32) -> bool {
        chain(prev, self.covered) == self.h
    }
}

/// The sequence and the kind that a frame's N bytes begin with; nothing else of them is looked at.
#[must_use]
pub fn head(bytes: &[u8]) -> Option<(u64, Kind)> {
    let mut rest = Cursor(bytes);
    rest.expect(b"{\"seq\":")?;
    let seq = rest.number()?;
    rest.expect(b",\"ts\":\"")?;
    rest.take(27)?;
    rest.expect(b"\",\"kind\":\"")?;
    Some((seq, Kind::split(rest.0)?.0))
}

/// The bytes that `h` covers, and `h`, read from the end of a frame's N bytes.
#[must_use]
pub fn split_tail(bytes: &[u8]) -> Option<(&[u8], Hash32)> {
    let (covered, tail) = bytes.split_at_checked(bytes.len().checked_sub(TAIL)?)?;
    let hex = tail.strip_prefix(b",\"h\":\"")?.strip_suffix(b"\"}\n")?;
    Some((covered, Hash32::parse_hex(hex)?))
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn expect(&mut self, text: &[u8]) -> Option<()> {
        self.0 = self.0.strip_prefix(text)?;
        Some(())
    }

    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }

    /// This many hex digits, or none before a quote.
    fn hex_or_nothing(&mut self, len: usize) -> Option<&'a str> {
        if self.0.first() == Some(&b'"') {
            return Some("");
        }
        let digits = self.take(len)?;
        let hex = digits.iter().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(b));
        core::str::from_utf8(digits).ok().filter(|_| hex)
    }

    /// A number without leading zeros.
    fn number(&mut self) -> Option<u64> {
        let len = self.0.iter().take(21).position(|b| !b.is_ascii_digit())?;
        let digits = self.take(len)?;
        if digits.is_empty() || digits.len() > 1 && digits.first() == Some(&b'0') {
            return None;
        }
        digits.iter().try_fold(0u64, |n, d| n.checked_mul(10)?.checked_add(u64::from(d - b'0')))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::IdSource;
    use crate::machine::Entropy;
    use std::vec;

    fn sample(seq: u64) -> (Place, Record) {
        let wall = Wall::from_micros(1_763_724_637_123_456);
        let place = Place { seq: Seq::new(seq).unwrap(), ts: wall, safe: seq - 1 };
        let record = Record {
            kind: Kind::Decision,
            audit_id: IdSource::new(Entropy([1; 32])).next(wall),
            trace: TraceIds::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
            body: String::from(r#"{"decision":"allow","params":{"seq":1}}"#),
        };
        (place, record)
    }

    #[test]
    fn a_frame_reads_back_and_chains() {
        let prev = Hash32([9; 32]);
        let (place, record) = sample(7);
        let mut bytes = vec![];
        let h = encode(&mut bytes, &prev, &place, &record);
        let n = u32::from_be_bytes(bytes[..4].try_into().unwrap());
        assert_eq!(usize::try_from(n).unwrap(), bytes.len() - PREFIX);
        assert!(bytes.len() <= bound(record.body.len()));
        assert_eq!(&bytes[bytes.len() - TAIL..][..6], b",\"h\":\"");
        let frame = Frame::parse(&bytes[PREFIX..]).unwrap();
        assert_eq!((frame.seq, frame.safe, frame.kind, frame.h), (place.seq, 6, Kind::Decision, h));
        assert_eq!((frame.audit_id, frame.body), (record.audit_id, record.body.as_str()));
        assert_eq!(frame.trace_id, "0af7651916cd43dd8448eb211c80319c");
        assert!(frame.follows(&prev));
        assert!(!frame.follows(&h));
        // It is JSON to everybody else.
        let value: serde_json::Value = serde_json::from_slice(&bytes[PREFIX..]).unwrap();
        assert_eq!(value["body"]["decision"], "allow");
    }

    #[test]
    fn d04_no_flipped_bit_of_a_frame_goes_unseen() {
        let prev = Hash32([9; 32]);
        let (place, record) = sample(7);
        let mut bytes = vec![];
        encode(&mut bytes, &prev, &place, &record);
        for at in PREFIX..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                let seen = Frame::parse(&damaged[PREFIX..]).is_none_or(|f| !f.follows(&prev));
                assert!(seen, "byte {at} bit {bit}");
            }
        }
    }

    #[test]
    fn traceparent_is_taken_only_when_it_is_valid() {
        for bad in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
        ] {
            assert_eq!(TraceIds::parse(bad), None, "{bad}");
        }
        assert!(TraceIds::parse("01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more").is_some());
    }
}
