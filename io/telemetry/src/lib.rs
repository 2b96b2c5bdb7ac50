//! Telemetry over HTTP (SPEC 5): the exporter that carries out a drain's requests, a receiver for demos and tests, and
//! the bridge to the control plane. What a receiver's answer means is decided by the drain machine, not here.

mod answer;
mod bounds;
pub mod bridge;
pub mod client;
pub mod encode;
mod exporter;
pub mod receive;
mod reply;
pub mod serve;
pub mod sink;
#[cfg(test)]
mod testing;
mod work;

pub use exporter::{Encoding, Exporter, ExporterConfig, ExporterError, parse_header};
