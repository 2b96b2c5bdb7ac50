//! The HTTP tool boundary (SPEC 2): HTTP/1.1 only, bounded in headers, bodies, connections and time.

mod body;
mod guard;
mod own;
mod routes;
pub mod server;

use std::sync::Arc;
use std::time::Duration;

pub use guard::{Access, AccessError, Token};
pub use own::OwnThreads;
pub use server::{Movable, serve};

use crate::node::Node;

/// What every request handler knows.
#[derive(Clone)]
pub struct App {
    /// The node that answers.
    pub node: Node,
    /// Who may ask.
    pub access: Arc<Access>,
    /// The bounds.
    pub limits: Limits,
    /// The version that `GET /v1/status` names.
    pub version: &'static str,
    bodies: Arc<tokio::sync::Semaphore>,
    lookups: Arc<tokio::sync::Semaphore>,
}

impl App {
    /// An application over a running node.
    #[must_use]
    pub fn new(node: Node, access: Access, limits: Limits, version: &'static str) -> Self {
        let kib = limits.all_bodies_kib;
        Self {
            node,
            access: Arc::new(access),
            limits,
            version,
            bodies: Arc::new(tokio::sync::Semaphore::new(kib)),
            lookups: Arc::new(tokio::sync::Semaphore::new(1)),
        }
    }
}

/// The bounds of the server (FAULTS N16, N17, X05, X06).
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once; more are told `overload` and closed.
    pub connections: usize,
    /// Bytes of a request's head.
    pub head_bytes: usize,
    /// How long a request's head may take, and how long a kept connection may be idle.
    pub head_time: Duration,
    /// How long a body may take.
    pub body_time: Duration,
    /// How long a caller may take none of an answer, or hardly any.
    pub write_time: Duration,
    /// KiB of all bodies of calls under way together.
    pub all_bodies_kib: usize,
    /// The number that `GET /v1/status` names.
    pub max_in_flight: usize,
}

impl Limits {
    /// What holds for every connection.
    pub(crate) fn connection(&self) -> io_http::Limits {
        io_http::Limits {
            connections: self.connections,
            head_bytes: self.head_bytes,
            head_time: self.head_time,
            ahead_bytes: self.head_bytes.saturating_mul(4).max(64 * 1024),
            write_time: self.write_time,
            ..io_http::Limits::default()
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            head_bytes: 16 * 1024,
            head_time: Duration::from_secs(30),
            body_time: Duration::from_secs(10),
            write_time: Duration::from_secs(30),
            all_bodies_kib: 64 * 1024,
            max_in_flight: 1024,
        }
    }
}
