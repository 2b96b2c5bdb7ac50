//! What an edge node's daemon does with the host: files beneath the state root, the host's fingerprint, certificates and
//! keys. No decision is made here; [`machines::precheck`] makes them.

mod bounded;
pub mod certificates;
pub mod host;
pub mod keys;
mod once;
pub mod tree;

pub use self::once::{Given, precheck};
pub use self::tree::Tree;

use machines::time::Wall;

/// When this program was built: the time of its sources' commit, or what `SOURCE_DATE_EPOCH` said; 1970 when neither was
/// known.
#[must_use]
pub fn built_at() -> Wall {
    let seconds: u64 = env!("EDGE_BUILD_SECONDS").parse().unwrap_or(0);
    Wall::from_micros(seconds.saturating_mul(1_000_000))
}
