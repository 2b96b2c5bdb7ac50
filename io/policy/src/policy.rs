//! From files to a policy that can be evaluated.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use machines::json::{self, Value};
use regorus::Engine;

use crate::audit::{Findings, Purpose, audit};
use crate::evaluator::Evaluator;
use crate::limits::{Limits, STACK_BYTES};
use crate::message::Message;
use crate::reference::Path;
use crate::{Refusal, guard, scan, value};

/// Most bytes of Rego in one policy.
const MAX_SOURCE: usize = 4 * 1024 * 1024;
/// The name of the data document in a bundle.
const DATA: &str = "data.json";
/// The two queries (SPEC 3), below `data`.
const ALLOW: [&str; 2] = ["autonomy", "allow"];
const DENY: [&str; 2] = ["autonomy", "deny"];

/// A policy that passed every check, compiled. Cheap to clone; two policies never share state.
#[derive(Clone)]
pub struct Policy {
    inner: Arc<Compiled>,
}

/// What evaluations of a policy share; none of them changes it.
#[derive(Clone)]
pub(crate) struct Compiled {
    /// Parsed and analysed; every decision works on a copy of its own, which shares the syntax tree and the data.
    pub engine: Engine,
    pub limits: Limits,
    /// Whether there is a rule `data.autonomy.allow`.
    pub has_allow: bool,
    /// Whether there is a rule `data.autonomy.deny`.
    pub has_deny: bool,
    pub findings: Findings,
}

impl Policy {
    /// The same policy within other bounds: they bound decisions, and nothing of what compiling found depends on them.
    #[must_use]
    pub fn within(&self, limits: &Limits) -> Self {
        Self { inner: Arc::new(Compiled { limits: *limits, ..(*self.inner).clone() }) }
    }

    /// An evaluator, one for each thread. The thread should have [`STACK_BYTES`] of stack.
    #[must_use]
    pub fn evaluator(&self) -> Evaluator {
        Evaluator::new(Arc::clone(&self.inner))
    }
}

impl std::fmt::Debug for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Compiled { has_allow, has_deny, limits, .. } = &*self.inner;
        f.debug_struct("Policy").field("allow", has_allow).field("deny", has_deny).field("limits", limits).finish()
    }
}

/// Compiles the files of a bundle: `*.rego` in any folder, and `data.json`. Other files are not looked at.
///
/// # Errors
/// [`Refusal`] for what cannot be parsed, or may not be in a policy: see the crate's documentation.
pub fn compile(files: &BTreeMap<String, Vec<u8>>, limits: &Limits) -> Result<Policy, Refusal> {
    on_large_stack(|| compile_here(files, limits))
}

/// As [`compile`], on this thread, which has [`STACK_BYTES`] of stack. A panic of the engine is the caller's to catch.
///
/// # Errors
/// As [`compile`].
pub fn compile_here(files: &BTreeMap<String, Vec<u8>>, limits: &Limits) -> Result<Policy, Refusal> {
    let compiled = prepare(files, limits, Purpose::Decide)?;
    if !compiled.has_allow && !compiled.has_deny {
        return Err(Refusal::whole("defines neither data.autonomy.allow nor data.autonomy.deny"));
    }
    Ok(Policy { inner: Arc::new(compiled) })
}

/// Runs `work` on a thread with [`STACK_BYTES`] of stack; a panic becomes a refusal.
pub(crate) fn on_large_stack<T: Send>(work: impl FnOnce() -> Result<T, Refusal> + Send) -> Result<T, Refusal> {
    let name = String::from("policy-compile");
    std::thread::scope(|scope| {
        match std::thread::Builder::new().name(name).stack_size(STACK_BYTES).spawn_scoped(scope, work) {
            Ok(thread) => thread.join().unwrap_or_else(|_| Err(Refusal::whole("the policy engine panicked on it"))),
            Err(error) => Err(Refusal::whole(format!("no thread to compile it on: {error}"))),
        }
    })
}

/// Checks and compiles. The result of the analysis is in the engine, so that copies of it need not repeat it.
pub(crate) fn prepare(
    files: &BTreeMap<String, Vec<u8>>,
    limits: &Limits,
    purpose: Purpose,
) -> Result<Compiled, Refusal> {
    let mut engine = Engine::new();
    // A function that fails is an error, not an undefined value (FAULTS P02).
    engine.set_strict_builtin_errors(true);
    let mut size = 0_usize;
    for (name, content) in files.iter().filter(|(name, _)| name.ends_with(".rego")) {
        size += content.len();
        if size > MAX_SOURCE {
            return Err(Refusal::whole(format!("has more than {MAX_SOURCE} bytes of Rego")));
        }
        let text = std::str::from_utf8(content)
            .map_err(|error| Refusal::file(name, format!("is not UTF-8 text, from byte {}", error.valid_up_to())))?;
        scan::scan(name, text)?;
        engine.add_policy(name.clone(), text.to_owned()).map_err(|error| parse_error(name, &error))?;
    }
    let findings = audit(engine.get_modules(), purpose)?;
    if let Some(content) = files.get(DATA) {
        let data = data(content, &findings)?;
        engine
            .add_data(value::to_engine(&data))
            .map_err(|error| Refusal::file(DATA, Message::of(&error.to_string()).line()))?;
    }
    guard::install(&mut engine, findings.builtins.iter().copied())
        .map_err(|error| Refusal::whole(error.to_string()))?;
    analyse(&mut engine, &findings)?;
    let has_allow = query(&findings, &ALLOW)?;
    let has_deny = query(&findings, &DENY)?;
    Ok(Compiled { engine, limits: *limits, has_allow, has_deny, findings })
}

/// The engine analyses a policy at its first evaluation: the order of statements, unsafe variables, imports.
fn analyse(engine: &mut Engine, findings: &Findings) -> Result<(), Refusal> {
    if findings.rules.is_empty() {
        return Ok(());
    }
    // A query of its own, so that no rule runs yet.
    let outcome = catch_unwind(AssertUnwindSafe(|| engine.eval_query(String::from("true"), false)));
    match outcome {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(Message::of(&error.to_string()).refusal()),
        Err(_) => Err(Refusal::whole("the policy engine panicked on it")),
    }
}

/// Whether there is a rule of exactly this path.
///
/// # Errors
/// There are only parts of it (`allow.x := …`): what the query gives would depend on how they are put together.
fn query(findings: &Findings, path: &[&str]) -> Result<bool, Refusal> {
    let same = |rule: &Path| rule.iter().map(String::as_str).eq(path.iter().copied());
    let below = |rule: &Path| rule.len() > path.len() && rule.iter().zip(path).all(|(a, b)| a == b);
    if findings.rules.keys().any(below) {
        return Err(Refusal::whole(format!("data.{} must be one rule, not several below that name", path.join("."))));
    }
    Ok(findings.rules.keys().any(same))
}

fn data(content: &[u8], findings: &Findings) -> Result<Value, Refusal> {
    let data = json::parse(content, &json::Limits::bytes(scan::MAX_FILE))
        .map_err(|error| Refusal::file(DATA, error.to_string()))?;
    let Some(members) = data.as_object() else {
        return Err(Refusal::file(DATA, format!("must be an object, not {}", data.kind())));
    };
    if members.contains_key("autonomy") {
        return Err(Refusal::file(DATA, "has `autonomy`, which is the policy's own package; choose another name"));
    }
    for path in findings.rules.keys() {
        if collides(&data, path) {
            return Err(Refusal::file(
                DATA,
                format!("has a value where the policy has the rule data.{}", path.join(".")),
            ));
        }
    }
    Ok(data)
}

/// Whether the data has a value at the path of a rule, or a value that is no object on the way there.
fn collides(data: &Value, path: &[String]) -> bool {
    let mut at = data;
    for part in path {
        match at.as_object() {
            None => return true,
            Some(members) => match members.get(part) {
                None => return false,
                Some(next) => at = next,
            },
        }
    }
    true
}

fn parse_error(file: &str, error: &anyhow::Error) -> Refusal {
    let mut refusal = Message::of(&error.to_string()).refusal();
    refusal.file.get_or_insert_with(|| file.to_owned());
    refusal
}
