//! OCI artifacts: where they lie, how they travel, and a registry to keep them in.

pub mod blob;
pub mod cache;
pub mod copy;
mod fault;
pub mod keys;
pub mod serve;
pub mod source;
pub mod verify;

pub use self::fault::Fault;
