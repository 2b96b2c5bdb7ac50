//! OCI artifacts: where they lie, how they travel, and a registry to keep them in.

pub mod beneath;
pub mod keys;
pub mod serve;
