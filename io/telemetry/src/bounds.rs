//! The bounds of what is read from peers (FAULTS N08, N09, N17).

use std::time::Duration;

/// Bytes of an answer's body.
pub const ANSWER: usize = 64 * 1024;

/// Bytes of an answer's head.
pub const ANSWER_HEAD: usize = 16 * 1024;

/// Bytes of a peer's words that are kept.
pub const WORDS: usize = 1024;

/// Bytes of a PEM file.
pub const PEM: u64 = 1024 * 1024;

/// Bytes of a request's body, as sent and as decompressed.
pub const REQUEST: usize = 64 * 1024 * 1024;

/// Bytes of a request's head.
pub const REQUEST_HEAD: usize = 16 * 1024;

/// Objects, lists and members of a JSON request: each costs many times its bytes once it is read.
pub const JSON_NODES: usize = 500_000;

/// Bytes of one record or resource of a protobuf request: they are read one at a time.
pub const RECORD: usize = 1024 * 1024;

/// Records of one request: an empty one is two bytes on the wire, and a line in a file.
pub const RECORDS: u64 = 131_072;

/// Requests whose bodies are held at once.
pub const BODIES: usize = 4;

/// How long a request may wait until it is one of them.
pub const BODIES_WAIT: Duration = Duration::from_secs(10);

/// How long requests under way may take when the server is told to stop.
pub const GRACE: Duration = Duration::from_secs(2);

/// Connections at once.
pub const CONNECTIONS: usize = 256;

/// How long a request's head may take, and how long a kept connection may be idle.
pub const HEAD_TIME: Duration = Duration::from_secs(60);

/// How long a request's body may take.
pub const BODY_TIME: Duration = Duration::from_secs(60);

/// Bodies up to this are encoded, decoded and stored where they are; longer ones on a worker, so that nobody waits.
pub const SMALL: usize = 64 * 1024;
