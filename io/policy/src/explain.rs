//! `autonomy policy eval --explain`: which lines a decision came from.

use std::collections::{BTreeMap, BTreeSet};

use machines::json::Value;
use machines::policy::verdict::{Evaluation, EvaluationFault};

use crate::audit::Purpose;
use crate::evaluator::evaluate;
use crate::limits::Limits;
use crate::policy::{on_large_stack, prepare};
use crate::{Refusal, value};

/// How a decision came about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// What the two queries gave, or why they gave nothing.
    pub evaluation: Result<Evaluation, EvaluationFault>,
    /// Per Rego file: the lines that were evaluated and those that were not, up to a fault.
    pub lines: BTreeMap<String, Lines>,
    /// What `print` wrote, each line behind its file and line.
    pub prints: Vec<String>,
}

/// Lines of one file that hold something to evaluate, counted from 1.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lines {
    /// They were evaluated.
    pub covered: BTreeSet<u32>,
    /// They were not.
    pub not_covered: BTreeSet<u32>,
}

/// Evaluates one input and says how the result came about. `input` is the whole document
/// (`{"kind":…,"params":…,…}`). `print` may be used in the policy; what else it may not contain is refused as by
/// [`crate::compile`].
///
/// # Errors
/// [`Refusal`] when the files are no policy.
pub fn explain(files: &BTreeMap<String, Vec<u8>>, input: &Value, limits: &Limits) -> Result<Explanation, Refusal> {
    on_large_stack(|| {
        let policy = prepare(files, limits, Purpose::Develop)?;
        let mut engine = policy.engine.clone();
        engine.set_enable_coverage(true);
        engine.set_gather_prints(true);
        let evaluation = evaluate(&mut engine, &policy, value::to_engine(input));
        let report = engine.get_coverage_report().map_err(|error| Refusal::whole(error.to_string()))?;
        let lines =
            |file: regorus::coverage::File| (file.path, Lines { covered: file.covered, not_covered: file.not_covered });
        Ok(Explanation {
            evaluation,
            lines: report.files.into_iter().map(lines).collect(),
            prints: engine.take_prints().unwrap_or_default(),
        })
    })
}
