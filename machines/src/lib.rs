//! The pure state machines of autonomy.
//!
//! Nothing here reads a clock, a file, a socket or a random source. A machine receives one event and
//! the time, changes its state and pushes what it wants done into an outbox; a driver carries it out.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod activation;
pub mod disk;
pub mod ids;
pub mod interceptor;
pub mod json;
pub mod machine;
pub mod policy;
pub mod runtime;
pub mod semver;
#[cfg(test)]
#[allow(clippy::all, clippy::as_conversions, clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, missing_docs, dead_code)]
mod solo;
pub mod time;
pub mod wal;
pub mod work;
