//! Frames of the log as OTLP log records (SPEC 5): protobuf and JSON, written straight from the frames' bytes.

mod json;
mod protobuf;
#[cfg(test)]
mod tests;

use machines::drain::batch::{Batch, event_id};
use machines::ids::Hash32;
use machines::time::Wall;
use machines::wal::frame::{Frame, Kind};

pub use json::encode as to_json;
pub use protobuf::encode as to_protobuf;

/// `service.name` of the resource.
pub const SERVICE: &str = "autonomy";

/// Why a batch has no OTLP form. Either is a mistake of the asking side: a batch holds frames that were verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The range lies outside the batch, or is empty.
    #[error("the records {from}..{to} are not in a batch of {len}")]
    OutOfRange {
        /// The first record asked for.
        from: usize,
        /// The record behind the last.
        to: usize,
        /// Records in the batch.
        len: usize,
    },
    /// A frame is not in the form that the log writes: sending the rest would leave it out without a word.
    #[error("record {0} of the batch is not a frame of the log")]
    NotAFrame(usize),
}

/// The severities that records carry (OpenTelemetry log data model).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Number 9.
    Info,
    /// Number 13: a denied call.
    Warn,
    /// Number 17: an error.
    Error,
}

impl Severity {
    /// `severityNumber`.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Info => 9,
            Self::Warn => 13,
            Self::Error => 17,
        }
    }

    /// `severityText`.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Info => "INFO",
            Self::Warn => "WARN",
            Self::Error => "ERROR",
        }
    }

    fn of(frame: &Frame<'_>) -> Self {
        match frame.kind {
            Kind::Error => Self::Error,
            Kind::Decision if is_deny(frame.body) => Self::Warn,
            Kind::Decision | Kind::Action | Kind::Lifecycle => Self::Info,
        }
    }
}

/// Whether the body of a decision says deny. The interceptor writes `decision` first; a body in any other order is parsed.
fn is_deny(body: &str) -> bool {
    match body.strip_prefix("{\"decision\":\"") {
        Some(rest) => rest.starts_with("deny\""),
        None => serde_json::from_str::<serde_json::Value>(body).is_ok_and(|value| value["decision"] == "deny"),
    }
}

/// One log record, as every encoding writes it.
struct LogRecord<'a> {
    /// Nanoseconds since the Unix epoch.
    time: u64,
    severity: Severity,
    kind: &'static str,
    seq: i64,
    event_id: String,
    /// 36 characters.
    audit_id: String,
    /// 64 hex digits.
    h: String,
    trace: Option<[u8; 16]>,
    span: Option<[u8; 8]>,
    body: &'a str,
}

impl<'a> LogRecord<'a> {
    fn of(node_id: &str, frame: &Frame<'a>) -> Self {
        let micros = Wall::parse_rfc3339(frame.ts).unwrap_or_default().as_micros();
        let mut audit_id = String::with_capacity(36);
        frame.audit_id.write(&mut audit_id);
        let mut h = String::with_capacity(64);
        Hash32::write_hex(&frame.h, &mut h);
        Self {
            // Past the year 2554 the 64 bits of OTLP end; the label is held there.
            time: micros.saturating_mul(1_000),
            severity: Severity::of(frame),
            kind: frame.kind.as_str(),
            seq: i64::try_from(frame.seq.get()).unwrap_or(i64::MAX),
            event_id: event_id(node_id, frame),
            audit_id,
            h,
            trace: unhex(frame.trace_id),
            span: unhex(frame.span_id),
            body: frame.body,
        }
    }

    /// The attributes in the order of SPEC 5, but `autonomy.seq`, which is a number.
    fn texts(&self) -> [(&'static str, &str); 4] {
        [
            ("autonomy.event_id", &self.event_id),
            ("autonomy.kind", self.kind),
            ("autonomy.audit_id", &self.audit_id),
            ("autonomy.h", &self.h),
        ]
    }
}

/// The name of the one attribute that is a number.
const SEQ: &str = "autonomy.seq";

/// The attributes of the resource.
fn resource<'a>(batch: &'a Batch, log_id: &'a str) -> [(&'static str, &'a str); 3] {
    [("service.name", SERVICE), ("service.instance.id", &batch.node_id), ("autonomy.log_id", log_id)]
}

/// The records of a range; every one of them, or an error.
fn records<'a>(
    batch: &'a Batch,
    from: usize,
    to: usize,
) -> Result<impl Iterator<Item = Result<LogRecord<'a>, EncodeError>>, EncodeError> {
    let outside = EncodeError::OutOfRange { from, to, len: batch.len() };
    let items = batch.items().get(from..to).filter(|items| !items.is_empty()).ok_or(outside)?;
    Ok(items.iter().enumerate().map(move |(at, item)| {
        let frame = Frame::parse(batch.raw(item)).ok_or(EncodeError::NotAFrame(from + at))?;
        Ok(LogRecord::of(&batch.node_id, &frame))
    }))
}

/// The bytes of lower-case hex digits; `None` for anything else, such as no digits.
fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    let mut bytes = [0u8; N];
    if pairs.len() != N {
        return None;
    }
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = nibble(*high)? << 4 | nibble(*low)?;
    }
    Some(bytes)
}

const fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}
