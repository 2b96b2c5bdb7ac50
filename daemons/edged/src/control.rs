//! What the control socket answers: `edgectl` asks it.

use hyper::{Method, StatusCode};
use io_http::{Answer, Asked, Handler, json, text, wrong_method};
use machines::json::Value;
use machines::precheck::chain::Entry;
use machines::wal::Health;

use crate::assurance::Assurance;
use crate::cli::VERSION;
use crate::node::Node;
use daemon_common::output::object;

/// The control socket's answers.
pub struct Control {
    pub node: Node,
    pub about: About,
}

/// What does not change while it runs.
#[derive(Clone, Debug)]
pub struct About {
    pub node_id: Option<String>,
    pub state_root: String,
    pub boot_id: String,
    pub assurance: Assurance,
    pub relay: bool,
    pub metrics: Option<std::net::SocketAddr>,
    pub started_at: String,
}

impl Handler for Control {
    async fn answer(&self, asked: Asked) -> Option<Answer> {
        let answer = match asked.path.as_str() {
            "/v1/status" if asked.method == Method::GET => json(StatusCode::OK, self.status().to_text() + "\n"),
            "/v1/epoch" if asked.method == Method::GET => match self.node.status().epoch {
                Some(entry) => json(StatusCode::OK, epoch(&entry).to_text() + "\n"),
                None => text(StatusCode::SERVICE_UNAVAILABLE, "the chain of epochs was not read yet"),
            },
            "/v1/status" | "/v1/epoch" => wrong_method("GET"),
            _ => text(StatusCode::NOT_FOUND, "there are /v1/status and /v1/epoch"),
        };
        Some(answer)
    }
}

impl Control {
    fn status(&self) -> Value {
        let status = self.node.status();
        let about = &self.about;
        let optional = |value: Option<Value>| value.unwrap_or(Value::Null);
        let node_id = about.node_id.clone().or_else(|| status.wal.as_ref().map(|wal| wal.node_id.clone()));
        let log = status.wal.as_ref().map(|wal| {
            object([
                ("log_id", Value::from(wal.log_id.to_string())),
                ("head", Value::from(wal.head)),
                ("safe", Value::from(wal.safe)),
                ("bytes", Value::from(wal.bytes)),
                ("health", Value::from(health(status.health))),
            ])
        });
        object([
            ("version", Value::from(VERSION)),
            ("status", Value::from(word(status.health))),
            ("node_id", optional(node_id.map(Value::from))),
            ("state_root", Value::from(about.state_root.as_str())),
            ("boot_id", Value::from(about.boot_id.as_str())),
            ("boot_epoch", optional(status.epoch.as_ref().map(|entry| Value::from(entry.epoch)))),
            ("precheck", Value::from("passed")),
            ("assurance", Value::from(about.assurance.as_str())),
            ("relay", Value::from(if about.relay { "not_running" } else { "disabled" })),
            ("metrics", optional(about.metrics.map(|address| Value::from(address.to_string())))),
            ("started_at", Value::from(about.started_at.as_str())),
            ("log", optional(log)),
        ])
    }
}

/// The chain's last line.
fn epoch(entry: &Entry) -> Value {
    object([
        ("boot_epoch", Value::from(entry.epoch)),
        ("previous_hash", Value::from(entry.previous_hash.to_string())),
        ("new_hash", Value::from(entry.new_hash.to_string())),
        ("manifest_version", Value::from(entry.manifest_version)),
        ("at", Value::from(entry.at.to_string())),
    ])
}

/// `ok`, or `degraded` when nothing more can be recorded.
pub const fn word(health: Health) -> &'static str {
    match health {
        Health::Open => "ok",
        Health::Opening | Health::Full | Health::Failed => "degraded",
    }
}

const fn health(health: Health) -> &'static str {
    match health {
        Health::Opening => "opening",
        Health::Open => "open",
        Health::Full => "full",
        Health::Failed => "failed",
    }
}
