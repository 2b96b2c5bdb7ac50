//! `edged config`: the configuration as it is in force.

use std::path::Path;

use daemon_common::failure::Ended;
use daemon_common::logs::LogFlags;
use machines::json::Value;
use machines::tree::Place;

use crate::cli::Cli;
use crate::config::{Config, SuccessCondition};
use crate::precheck::configuration;

/// Prints every key with its value.
///
/// # Errors
/// When stdout takes nothing.
pub fn show(cli: &Cli) -> Ended {
    let config = match configuration(&cli.config, LogFlags::default()) {
        Ok((config, _)) => config,
        Err(code) => return Ok(code),
    };
    let lines = lines(&config);
    let text: Vec<String> = lines.iter().map(|(key, value)| format!("{key} = {}", value.to_text())).collect();
    cli.output.print(&text.join("\n"), || Value::Object(lines.into_iter().collect()))?;
    Ok(0)
}

/// Every key with its value; `null` is what is not configured, or without a limit.
pub fn lines(config: &Config) -> Vec<(String, Value)> {
    let mut lines: Vec<(String, Value)> = Vec::new();
    let mut put = |key: &str, value: Value| lines.push((key.to_owned(), value));
    let place = |place: Option<&Place>| optional(place.map(|place| place.path.as_str().to_owned()));
    put("node.id", optional(config.node_id.clone()));
    put("node.state_root", config.state_root.as_str().into());
    let tls = config.tls.as_ref();
    put("tls.cert", place(tls.map(|tls| &tls.cert)));
    put("tls.key", place(tls.map(|tls| &tls.key)));
    put("tls.ca", place(tls.map(|tls| &tls.ca)));
    put("tls.crl", place(tls.and_then(|tls| tls.crl.as_ref())));
    put("trust.manifest_key", file(config.manifest_key.as_deref()));
    put("trust.publishers", file(config.publishers.as_deref()));
    let fingerprint = &config.fingerprint;
    put("fingerprint.root", file(Some(&fingerprint.root)));
    put("fingerprint.os_release", file(fingerprint.os_release.as_deref()));
    put("fingerprint.kernel_release", file(fingerprint.kernel_release.as_deref()));
    put("fingerprint.extra_files", texts(&fingerprint.extra_files));
    put("reconstruct.allow", texts(&config.allow));
    let relay = &config.relay;
    put("relay.enabled", relay.enabled.into());
    put("relay.listen", relay.listen.to_string().into());
    let condition = match relay.success_condition {
        SuccessCondition::AllPeers => "all_peers",
        SuccessCondition::OnePeer => "one_peer",
    };
    put("relay.success_condition", condition.into());
    put("relay.worker_count", relay.worker_count.into());
    put("relay.max_retries", relay.max_retries.into());
    let seconds = |span: std::time::Duration| Value::from(format!("{}ms", span.as_millis()));
    put("relay.max_retry_age", seconds(relay.max_retry_age));
    put("relay.dial_timeout", seconds(relay.dial_timeout));
    put("relay.ack_timeout", seconds(relay.ack_timeout));
    put("relay.bytes_per_second", optional(relay.bytes_per_second));
    put("relay.daily_quota_bytes", optional(relay.daily_quota_bytes));
    put("relay.orphan_ttl", seconds(relay.orphan_ttl));
    for (n, peer) in relay.peers.iter().enumerate() {
        put(&format!("relay.peers[{n}].id"), peer.id.as_str().into());
        put(&format!("relay.peers[{n}].address"), peer.address.as_str().into());
    }
    put("storage.ceiling_bytes", config.storage.ceiling_bytes.into());
    put("storage.evict_threshold", config.storage.evict_threshold.into());
    put("quota.per_peer_bytes_per_second", optional(config.per_peer_bytes_per_second));
    put("control.socket", file(Some(&config.socket)));
    put("metrics.listen", config.metrics.map_or_else(|| "off".into(), |address| address.to_string().into()));
    lines
}

fn optional<T: Into<Value>>(value: Option<T>) -> Value {
    value.map_or(Value::Null, Into::into)
}

fn file(path: Option<&Path>) -> Value {
    optional(path.map(|path| path.display().to_string()))
}

fn texts(texts: &[String]) -> Value {
    Value::Array(texts.iter().map(|text| Value::from(text.as_str())).collect())
}
