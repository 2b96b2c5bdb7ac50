//! The node's side of the runtime: the HTTP tool boundary, the tools, and what else the runtime machine wants done.
//! No decision is made here.

pub mod http;
pub mod metrics;
pub mod node;
pub mod policies;
pub mod records;
pub mod status;
pub mod tools;
