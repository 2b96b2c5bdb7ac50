//! Log records as events of the control plane (SPEC 5, the mapping; SPEC 9, `POST /v1/events`).

use serde::Serialize;
use serde_json::{Map, Value};

use crate::receive::{Received, Source};

/// Events in one request.
const EVENTS: usize = 500;

/// Bytes of one request, unless a single event is longer.
const BYTES: usize = 512 * 1024;

/// One request to the control plane.
#[derive(Debug, PartialEq, Eq)]
pub struct Chunk {
    /// The body.
    pub json: Vec<u8>,
    /// How many events it holds.
    pub events: u64,
}

/// Gathers events into requests.
#[derive(Debug, Default)]
pub struct Chunks {
    full: Vec<Chunk>,
    open: Vec<u8>,
    events: usize,
}

impl Chunks {
    /// Adds a record.
    pub fn push(&mut self, source: &Source, record: Received) {
        let mut event = Vec::with_capacity(1024);
        let written = serde_json::to_writer(&mut event, &Event::of(source, record));
        debug_assert!(written.is_ok(), "text and numbers into memory");
        if self.events > 0 && (self.events >= EVENTS || self.open.len() + event.len() > BYTES) {
            self.close();
        }
        self.open.extend_from_slice(if self.events == 0 { b"{\"events\":[" } else { b"," });
        self.open.extend_from_slice(&event);
        self.events += 1;
    }

    /// All requests.
    pub fn finish(mut self) -> Vec<Chunk> {
        if self.events > 0 {
            self.close();
        }
        self.full
    }

    fn close(&mut self) {
        let mut json = std::mem::take(&mut self.open);
        json.extend_from_slice(b"]}");
        let events = std::mem::take(&mut self.events);
        self.full.push(Chunk { json, events: u64::try_from(events).unwrap_or(u64::MAX) });
    }
}

#[derive(Serialize)]
struct Event {
    event_id: String,
    event_type: String,
    node_id: String,
    timestamp: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    lock_fingerprint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    release_id: Option<String>,
    data: Map<String, Value>,
}

impl Event {
    fn of(source: &Source, record: Received) -> Self {
        let body = match record.body {
            // Our bodies are the text of a JSON object; anything else is kept as it came.
            Value::String(text) => match serde_json::from_str::<Map<String, Value>>(&text) {
                Ok(object) => Value::Object(object),
                Err(_) => Value::String(text),
            },
            other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => other,
        };
        let named = |name: &str| {
            let attribute = record.attributes.get(&format!("autonomy.{name}"));
            attribute.or_else(|| body.get(name)).and_then(Value::as_str).map(str::to_owned)
        };
        let (lock_fingerprint, release_id) = (named("lock_fingerprint"), named("release_id"));
        let mut data = Map::new();
        let mut put = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                data.insert(name.to_owned(), value);
            }
        };
        let text = |text: String| (!text.is_empty()).then_some(Value::String(text));
        put("seq", record.seq.map(Value::from));
        put("audit_id", record.audit_id.and_then(text));
        put("log_id", source.log_id.clone().and_then(text));
        put("h", record.h.and_then(text));
        put("severity", text(record.severity));
        put("trace_id", text(record.trace_id));
        put("span_id", text(record.span_id));
        put("body", (!body.is_null()).then_some(body));
        put("attributes", (!record.attributes.is_empty()).then_some(Value::Object(record.attributes)));
        Self {
            event_id: record.event_id,
            event_type: event_type(record.kind.as_deref()),
            node_id: source.node_id.clone().unwrap_or_else(|| "unknown".into()),
            timestamp: record.time.to_string(),
            lock_fingerprint,
            release_id,
            data,
        }
    }
}

/// The type of an event of this kind; a record of somebody else's, which has none, is a `log`.
fn event_type(kind: Option<&str>) -> String {
    let named = |kind: &&str| {
        (1..=64).contains(&kind.len())
            && kind.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-'))
    };
    match kind.filter(named) {
        Some("decision") => "ai.policy.decision".into(),
        Some("action") => "ai.agent.action".into(),
        Some("lifecycle") => "ai.agent.lifecycle".into(),
        Some("error") => "ai.agent.error".into(),
        Some(other) => format!("ai.telemetry.{other}"),
        None => "ai.telemetry.log".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_mapped_as_the_specification_says() {
        for (kind, want) in [
            (Some("decision"), "ai.policy.decision"),
            (Some("action"), "ai.agent.action"),
            (Some("lifecycle"), "ai.agent.lifecycle"),
            (Some("error"), "ai.agent.error"),
            (Some("metric"), "ai.telemetry.metric"),
            (Some("A\nB"), "ai.telemetry.log"),
            (Some(""), "ai.telemetry.log"),
            (None, "ai.telemetry.log"),
        ] {
            assert_eq!(event_type(kind), want);
        }
    }
}
