//! What the tests share.
#![allow(dead_code, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::time::Duration;

use io_policy::{Limits, Policy, Refusal, compile};
use machines::json::{self, Value};
use machines::policy::input::Input;
use machines::policy::verdict::{Evaluation, EvaluationFault};

pub fn files(files: &[(&str, &str)]) -> BTreeMap<String, Vec<u8>> {
    files.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec())).collect()
}

/// One file `p.rego`.
pub fn one(text: &str) -> BTreeMap<String, Vec<u8>> {
    files(&[("p.rego", text)])
}

/// Ample time, so that a busy machine changes no result.
pub const PATIENT: Limits = Limits { time: Some(Duration::from_secs(20)), builtin_bytes: Limits::BUILTIN_BYTES };

pub fn policy(text: &str) -> Policy {
    compile(&one(text), &PATIENT).unwrap_or_else(|refusal| panic!("{refusal}\n{text}"))
}

pub fn refusal(text: &str) -> Refusal {
    compile(&one(text), &Limits::default()).map(|_| ()).expect_err(text)
}

pub fn value(text: &str) -> Value {
    json::parse(text.as_bytes(), &json::Limits::bytes(1 << 21)).unwrap_or_else(|error| panic!("{error}: {text}"))
}

pub fn judge(policy: &Policy, kind: &str, params: &Value) -> Result<Evaluation, EvaluationFault> {
    policy.evaluator().evaluate(&Input { kind, params, node_id: "node-1", agent: None })
}

/// What `allow` is, for these parameters.
pub fn allow(text: &str, params: &str) -> Result<Option<Value>, EvaluationFault> {
    judge(&policy(text), "tool.echo", &value(params)).map(|evaluation| evaluation.allow)
}
