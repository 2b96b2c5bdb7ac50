//! The pure state machines of autonomy.
//!
//! Nothing here reads a clock, a file, a socket or a random source. A machine receives one event and
//! the time, changes its state and pushes what it wants done into an outbox; a driver carries it out.
#![no_std]
#![forbid(unsafe_code)]
// Tests may take short cuts that the machines themselves may not.
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::as_conversions,
        clippy::wildcard_enum_match_arm,
        clippy::useless_format,
        clippy::needless_range_loop
    )
)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod activation;
pub mod canonical;
pub mod disk;
pub mod drain;
pub mod edge;
pub mod fields;
pub mod ids;
pub mod interceptor;
pub mod json;
pub mod lock;
pub mod machine;
pub mod manifest;
pub mod net;
pub mod oci;
pub mod policy;
pub mod precheck;
pub mod runtime;
pub mod semver;
pub mod signature;
#[cfg(test)]
mod solo;
pub mod tar;
pub mod time;
pub mod tree;
pub mod verify;
pub mod wal;
pub mod work;
