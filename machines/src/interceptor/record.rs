//! The bodies of the frames that a call leaves in the log (SPEC 4).
//!
//! What the policy masks never reaches a frame; what is long is replaced by its hash; without an active policy
//! nothing says what has to be masked, so that parameters are recorded as hash and length only.

use alloc::string::String;
use alloc::vec::Vec;

use crate::ids::Uuid;
use crate::json::{Value, escape_into, push_u64};
use crate::policy::redact::{self, Root};
use crate::time::Span;
use crate::wal::frame::{Kind, Record, TraceIds};

use super::Active;
use super::answer::write_policy;
use super::request::Request;

/// The decision frame.
pub fn decision(id: Uuid, request: &Request, policy: Option<&Active>, deny: Option<&str>) -> Record {
    let mut body = String::with_capacity(400);
    match deny {
        None => body.push_str("{\"decision\":\"allow\""),
        Some(reason) => {
            body.push_str("{\"decision\":\"deny\",\"reason\":");
            text(reason, &mut body);
        }
    }
    body.push_str(",\"tool\":");
    escape_into(request.kind(), &mut body);
    body.push_str(",\"params\":");
    let hidden = match policy {
        Some(policy) => masked(request.params(), Root::Params, policy, &mut body),
        None => {
            redact::write_digest(request.params(), &mut body);
            Vec::new()
        }
    };
    write_policy(policy.map(|p| &*p.policy), &mut body);
    if let Some(agent) = request.agent() {
        body.push_str(",\"agent\":");
        text(agent, &mut body);
    }
    close(&hidden, &mut body);
    Record { kind: Kind::Decision, audit_id: id, trace: request.trace(), body }
}

/// The action frame of a tool that gave an output.
pub fn action(id: Uuid, request: &Request, policy: &Active, took: Span, output: &Value) -> Record {
    let mut body = String::with_capacity(200);
    body.push_str("{\"outcome\":\"ok\",\"duration_us\":");
    push_u64(&mut body, took.as_micros());
    body.push_str(",\"output\":");
    let hidden = masked(output, Root::Output, policy, &mut body);
    close(&hidden, &mut body);
    Record { kind: Kind::Action, audit_id: id, trace: request.trace(), body }
}

/// The error frame of an allowed call that gave no output.
pub fn failure(id: Uuid, request: &Request, took: Span, code: &str, message: &str) -> Record {
    let mut body = String::with_capacity(200);
    body.push_str("{\"code\":");
    escape_into(code, &mut body);
    body.push_str(",\"message\":");
    text(message, &mut body);
    body.push_str(",\"tool\":");
    escape_into(request.kind(), &mut body);
    body.push_str(",\"duration_us\":");
    push_u64(&mut body, took.as_micros());
    body.push('}');
    Record { kind: Kind::Error, audit_id: id, trace: request.trace(), body }
}

/// The error frame of an allowed call that a crash left without an outcome.
pub fn outcome_unknown(id: Uuid, trace: Option<TraceIds>) -> Record {
    Record {
        kind: Kind::Error,
        audit_id: id,
        trace,
        body: "{\"code\":\"outcome_unknown\",\"message\":\"the runtime ended between the decision and the outcome; \
               the tool may have run\"}"
            .into(),
    }
}

fn masked<'p>(value: &Value, root: Root, policy: &'p Active, body: &mut String) -> Vec<&'p str> {
    let (value, hidden) = redact::mask(value, root, &policy.redact);
    redact::write_capped(&value, body);
    hidden
}

fn close(hidden: &[&str], body: &mut String) {
    if !hidden.is_empty() {
        body.push_str(",\"redacted\":");
        let list = Value::Array(hidden.iter().map(|path| Value::String((*path).into())).collect());
        redact::write_capped(&list, body);
    }
    body.push('}');
}

fn text(text: &str, body: &mut String) {
    redact::write_capped(&Value::String(text.into()), body);
}
