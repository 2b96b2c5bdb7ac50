//! The text of `GET /v1/status`.

use std::collections::BTreeMap;

use machines::activation::Slot;
use machines::drain;
use machines::json::Value;
use machines::runtime::Status;

/// The status as a JSON object: versions, node, mode, policies, log, drain, limits, counters.
#[must_use]
pub fn text(
    status: &Status,
    drain: Option<&drain::Status>,
    node_id: &str,
    version: &str,
    max_in_flight: usize,
) -> String {
    let wal = status.wal.as_ref().map_or(Value::Null, |wal| {
        object([
            ("log_id", Value::from(wal.log_id.to_string())),
            ("head", Value::from(wal.head)),
            ("safe", Value::from(wal.safe)),
            ("undelivered", Value::from(wal.head.saturating_sub(wal.delivered))),
            ("bytes", Value::from(wal.bytes)),
            ("segments", Value::from(wal.segments)),
            ("shed", Value::from(wal.shed)),
        ])
    });
    let counters = &status.counters;
    object([
        ("version", Value::from(version)),
        ("node_id", Value::from(node_id)),
        ("mode", Value::from(status.mode.as_str())),
        ("policy", status.in_force.as_ref().map_or(Value::Null, slot)),
        ("lkg", status.activation.lkg.as_ref().map_or(Value::Null, slot)),
        ("wal", wal),
        ("drain", drain.map_or(Value::Null, draining)),
        ("poller", Value::Null),
        ("precheck", status.precheck.as_ref().map_or(Value::Null, precheck)),
        ("limits", object([("max_in_flight", number(max_in_flight))])),
        ("in_flight", number(status.in_flight)),
        (
            "counters",
            object([
                ("allowed", Value::from(counters.allowed)),
                ("denied", Value::from(counters.denied)),
                ("failed", Value::from(counters.failed)),
                ("overload", Value::from(counters.overload)),
                ("not_recorded", Value::from(counters.not_recorded)),
                ("late", Value::from(counters.late)),
            ]),
        ),
    ])
    .to_text()
}

fn draining(drain: &drain::Status) -> Value {
    object([
        ("sent", Value::from(drain.sent)),
        ("rejected", Value::from(drain.rejected)),
        ("queued", Value::from(drain.queued.events())),
        ("trouble", drain.trouble.as_deref().map_or(Value::Null, Value::from)),
    ])
}

fn precheck(passed: &Result<(), String>) -> Value {
    let reason = passed.as_ref().err().map_or(Value::Null, |reason| Value::from(reason.as_str()));
    object([("passed", Value::Bool(passed.is_ok())), ("reason", reason)])
}

/// A policy slot as an object.
#[must_use]
pub fn slot(slot: &Slot) -> Value {
    object([
        ("name", Value::from(slot.name.as_str())),
        ("version", Value::from(slot.version.as_str())),
        ("hash", Value::from(format!("sha256:{}", slot.bundle_hash))),
        ("sequence", Value::from(slot.sequence)),
    ])
}

fn number(n: usize) -> Value {
    Value::from(u64::try_from(n).unwrap_or(u64::MAX))
}

/// An object of these members.
#[must_use]
pub fn object<const N: usize>(members: [(&str, Value); N]) -> Value {
    Value::Object(members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<BTreeMap<_, _>>())
}
