//! The network as the machines see it: one request, one answer or one fault (SPEC 5).
//!
//! A driver carries out each operation once, within the time that it names, and reports what happened as facts; what
//! they mean is decided by the machine that asked.

use alloc::string::String;
use alloc::sync::Arc;

use crate::drain::batch::Batch;
use crate::time::Span;

/// Names a request; chosen by the emitting machine, unique in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(pub u64);

/// A request.
#[derive(Clone, Debug)]
pub enum Op {
    /// Send these records to the collector as one OTLP request.
    Export(Export),
}

/// Records for a collector: those of a batch from index `from` up to, not including, `to`.
#[derive(Clone, Debug)]
pub struct Export {
    /// The batch.
    pub batch: Arc<Batch>,
    /// The first record.
    pub from: usize,
    /// The record behind the last.
    pub to: usize,
    /// How long the whole exchange may take; past it the driver reports [`Fault::TimedOut`].
    pub timeout: Span,
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Got {
    /// The peer answered, whatever it said.
    Answered(Answer),
    /// No whole answer was read. The peer may have taken the request or not.
    Failed(Fault),
}

/// An HTTP answer, as far as it matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// `Retry-After` (RFC 9110, 10.2.3), seconds or a date, as a span from now.
    pub retry_after: Option<Span>,
    /// What the body said.
    pub body: Body,
}

/// The body of an answer to an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// `ExportLogsServiceResponse` with nothing rejected; the words are a warning, mostly empty.
    Full {
        /// The receiver's warning.
        words: String,
    },
    /// `ExportLogsServiceResponse` with `partial_success.rejected_log_records` above zero.
    Partial {
        /// How many records the receiver rejected; it does not say which.
        rejected: u64,
        /// The receiver's words.
        words: String,
    },
    /// Anything else: the receiver's words, as far as they are text, at most 1 KiB.
    Other {
        /// The receiver's words.
        words: String,
    },
}

/// Why no answer was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The address refused the connection.
    Refused,
    /// The name does not resolve.
    Unresolvable(String),
    /// No answer within the time.
    TimedOut,
    /// The connection could not be made or broke.
    Broken(String),
    /// The peer or we could not prove who they are.
    Tls(String),
    /// The answer was longer than any answer may be.
    TooLong,
    /// The request cannot be made: a mistake on our side of the wire.
    Unsendable(String),
}

impl core::fmt::Display for Fault {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Refused => f.write_str("connection refused"),
            Self::Unresolvable(host) => write!(f, "cannot resolve {host}"),
            Self::TimedOut => f.write_str("no answer in time"),
            Self::Broken(words) => write!(f, "connection broken: {words}"),
            Self::Tls(words) => write!(f, "TLS: {words}"),
            Self::TooLong => f.write_str("the answer is longer than an OTLP answer may be"),
            Self::Unsendable(words) => write!(f, "the request cannot be made: {words}"),
        }
    }
}
