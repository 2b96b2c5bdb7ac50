//! Policy as data: the bundle format, the input, the decision rule, and what of a call may be recorded.
//!
//! The engine itself is work that a driver does; nothing here evaluates Rego.

pub mod bundle;
mod gzip;
pub mod input;
pub mod manifest;
pub mod redact;
mod refusal;
mod tar;
pub mod verdict;

pub use refusal::Refusal;
