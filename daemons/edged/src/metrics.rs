//! What `GET /metrics` and `GET /health` show.

use std::sync::{Mutex, PoisonError};

use daemon_common::output::object;
use hyper::{Method, StatusCode};
use io_http::{Answer, Asked, Handler, json, text, wrong_method};
use machines::json::Value;
use machines::wal::Health;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::assurance::Assurance;
use crate::control::word;
use crate::node::Node;

/// The answers of the metrics listener; everything is read from the machine's status when somebody asks.
pub struct Metrics {
    node: Node,
    /// Set together from one status.
    shown: Mutex<Shown>,
}

struct Shown {
    registry: Registry,
    boot_epoch: Gauge,
    log_failed: Gauge,
    head: Gauge,
    safe: Gauge,
    bytes: Gauge,
    segments: Gauge,
}

impl Metrics {
    /// Those of this node.
    pub fn new(node: Node, assurance: Assurance) -> Self {
        let mut registry = Registry::with_prefix("edged");
        let mut gauge = |name: &str, help: &str| {
            let gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        let reduced = gauge("assurance_reduced", "1 when the host has no control groups of version 2");
        reduced.set(i64::from(assurance == Assurance::Reduced));
        let shown = Shown {
            boot_epoch: gauge("boot_epoch", "Completed reconstructions of this node"),
            log_failed: gauge("log_failed", "1 when the log cannot be written until a restart"),
            head: gauge("log_head_sequence", "Last appended sequence"),
            safe: gauge("log_safe_sequence", "Last sequence known durable"),
            bytes: gauge("log_bytes", "Bytes of all frames"),
            segments: gauge("log_segments", "Files that hold frames"),
            registry,
        };
        Self { node, shown: Mutex::new(shown) }
    }

    fn text(&self) -> String {
        let status = self.node.status();
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        shown.boot_epoch.set(number(status.epoch.map_or(0, |entry| entry.epoch)));
        shown.log_failed.set(i64::from(status.health == Health::Failed));
        if let Some(wal) = &status.wal {
            shown.head.set(number(wal.head));
            shown.safe.set(number(wal.safe));
            shown.bytes.set(number(wal.bytes));
            shown.segments.set(number(wal.segments));
        }
        let mut text = String::new();
        // A String takes everything.
        let _ = encode(&mut text, &shown.registry);
        text
    }
}

impl Handler for Metrics {
    async fn answer(&self, asked: Asked) -> Option<Answer> {
        let answer = match asked.path.as_str() {
            "/metrics" if asked.method == Method::GET => text(StatusCode::OK, self.text().trim_end()),
            "/health" if asked.method == Method::GET => {
                let word = word(self.node.status().health);
                let code = if word == "ok" { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                json(code, object([("status", Value::from(word))]).to_text() + "\n")
            }
            "/metrics" | "/health" => wrong_method("GET"),
            _ => text(StatusCode::NOT_FOUND, "there are /metrics and /health"),
        };
        Some(answer)
    }
}
