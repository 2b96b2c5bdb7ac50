//! Real files, whole prechecks.

mod certificates;
mod conformance;
mod node;
mod prechecks;
