//! `autonomy policy test DIR`: runs the rules named `test_…`, as `opa test` does.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use machines::json::Value;
use machines::policy::verdict::EvaluationFault;

use crate::Refusal;
use crate::audit::Purpose;
use crate::evaluator::Decision;
use crate::limits::Limits;
use crate::policy::{Compiled, on_large_stack, prepare};

/// What became of each test, in byte order of the paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TestReport {
    /// One per test rule.
    pub tests: Vec<Test>,
}

/// One test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Test {
    /// The rule, as `data.package.test_name`.
    pub name: String,
    /// The file of its first definition.
    pub file: String,
    /// The line of its first definition.
    pub line: u32,
    /// What became of it.
    pub outcome: Outcome,
    /// How long it took.
    pub duration: Duration,
    /// What it printed, each line behind its file and line.
    pub prints: Vec<String>,
}

/// What became of a test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The rule is defined, and not `false`.
    Pass,
    /// The rule is undefined, or `false`.
    Fail,
    /// The evaluation failed, for this reason.
    Error(String),
    /// The name begins with `todo_`.
    Skipped,
}

impl TestReport {
    /// Whether there was a test, and none failed.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.tests.iter().any(|test| test.outcome == Outcome::Pass)
            && self.tests.iter().all(|test| matches!(test.outcome, Outcome::Pass | Outcome::Skipped))
    }
}

/// Runs the tests in `files`: the rules named `test_…` of every `*.rego`, each with the bounds of `limits`. `with`
/// and `print` may be used; what else a policy may not contain is refused as by [`crate::compile`].
///
/// # Errors
/// [`Refusal`] when the files are no policy.
pub fn test(files: &BTreeMap<String, Vec<u8>>, limits: &Limits) -> Result<TestReport, Refusal> {
    on_large_stack(|| {
        let policy = prepare(files, limits, Purpose::Develop)?;
        let tests = policy.findings.rules.iter().filter_map(|(path, place)| {
            let skipped = path.last()?.starts_with("todo_test_");
            (skipped || path.last()?.starts_with("test_")).then(|| {
                let name = reference(path);
                let started = Instant::now();
                let (outcome, prints) = if skipped { (Outcome::Skipped, Vec::new()) } else { run(&policy, &name) };
                Test { name, file: place.file.clone(), line: place.line, outcome, duration: started.elapsed(), prints }
            })
        });
        Ok(TestReport { tests: tests.collect() })
    })
}

fn run(policy: &Compiled, name: &str) -> (Outcome, Vec<String>) {
    let mut engine = policy.engine.clone();
    engine.set_gather_prints(true);
    let outcome = match Decision::begin(policy).run(&mut engine, name) {
        Ok(None | Some(Value::Bool(false))) => Outcome::Fail,
        Ok(Some(_)) => Outcome::Pass,
        Err(EvaluationFault::Error(why)) => Outcome::Error(why),
        Err(EvaluationFault::Budget) => Outcome::Error(String::from("past the limits of one decision")),
        Err(EvaluationFault::Panic) => Outcome::Error(String::from("the policy engine panicked")),
    };
    (outcome, engine.take_prints().unwrap_or_default())
}

/// A path below `data` as Rego writes it.
fn reference(path: &[String]) -> String {
    let mut out = String::from("data");
    for part in path {
        let plain = part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if plain {
            out.push('.');
            out.push_str(part);
        } else {
            out.push('[');
            machines::json::escape_into(part, &mut out);
            out.push(']');
        }
    }
    out
}
