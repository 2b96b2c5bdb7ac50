//! One decision.

use std::num::NonZeroU32;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use machines::policy::input::Input;
use machines::policy::verdict::{Evaluation, EvaluationFault};
use regorus::utils::limits::ExecutionTimerConfig;
use regorus::{Engine, LimitError};

use crate::guard::{self, Stop};
use crate::message::Message;
use crate::policy::Compiled;
use crate::value;

/// Steps of the engine between two looks at the clock. A step takes a fraction of a microsecond.
const STEPS: NonZeroU32 = NonZeroU32::new(8).unwrap();

/// Evaluates one policy; one per thread. Nothing of a decision is left for the next: each works on a fresh copy
/// of the compiled engine.
pub struct Evaluator {
    policy: Arc<Compiled>,
}

impl Evaluator {
    pub(crate) fn new(policy: Arc<Compiled>) -> Self {
        Self { policy }
    }

    /// Evaluates `data.autonomy.allow` and `data.autonomy.deny` for one call.
    ///
    /// # Errors
    /// [`EvaluationFault`]: the engine reported an error (with file and line, without values of the input), a
    /// bound of [`Limits`](crate::Limits) was passed, or the engine panicked. None of them is a decision.
    pub fn evaluate(&mut self, input: &Input<'_>) -> Result<Evaluation, EvaluationFault> {
        let input = value::input(input);
        let mut engine = self.policy.engine.clone();
        evaluate(&mut engine, &self.policy, input)
    }
}

impl std::fmt::Debug for Evaluator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Evaluator").finish_non_exhaustive()
    }
}

/// Evaluates both queries on `engine`.
pub(crate) fn evaluate(
    engine: &mut Engine,
    policy: &Compiled,
    input: regorus::Value,
) -> Result<Evaluation, EvaluationFault> {
    let mut decision = Decision::begin(policy);
    engine.set_input(input);
    let allow = if policy.has_allow { decision.run(engine, "data.autonomy.allow")? } else { None };
    let deny = if policy.has_deny { decision.run(engine, "data.autonomy.deny")? } else { None };
    Ok(Evaluation { allow, deny })
}

/// The bounds of a decision in progress.
pub(crate) struct Decision {
    started: Instant,
    time: Option<Duration>,
    steps: NonZeroU32,
}

impl Decision {
    /// Starts the clock and fills the budget of builtin functions.
    pub(crate) fn begin(policy: &Compiled) -> Self {
        guard::begin(policy.limits.builtin_bytes);
        // A product of large numbers takes ever longer, so then the clock is looked at after each step.
        let steps = if policy.findings.multiplies { NonZeroU32::MIN } else { STEPS };
        Self { started: Instant::now(), time: policy.limits.time, steps }
    }

    /// Evaluates one rule within what is left; `None` is undefined.
    pub(crate) fn run(
        &mut self,
        engine: &mut Engine,
        rule: &str,
    ) -> Result<Option<machines::json::Value>, EvaluationFault> {
        if let Some(time) = self.time {
            let limit = time.saturating_sub(self.started.elapsed());
            engine.set_execution_timer_config(ExecutionTimerConfig { limit, check_interval: self.steps });
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            #[cfg(test)]
            tests::poison();
            engine.eval_rule(rule.to_owned())
        }));
        let Ok(outcome) = outcome else { return Err(EvaluationFault::Panic) };
        // A late result is no result, whatever it is; and a function that failed is an error, also if the engine
        // went on without it.
        if self.is_late() || guard::stopped() == Some(Stop::Budget) {
            return Err(EvaluationFault::Budget);
        }
        match outcome {
            Ok(_) if guard::stopped().is_some() => Err(error("a builtin function failed")),
            Ok(result) => value::from_engine(&result).map_err(error),
            Err(cause) => match cause.downcast_ref::<LimitError>() {
                Some(LimitError::TimeLimitExceeded { .. } | LimitError::MemoryLimitExceeded { .. }) => {
                    Err(EvaluationFault::Budget)
                }
                Some(LimitError::RegexSizeLimitExceeded { .. }) | None => {
                    Err(EvaluationFault::Error(Message::of(&cause.to_string()).line()))
                }
            },
        }
    }

    fn is_late(&self) -> bool {
        self.time.is_some_and(|time| self.started.elapsed() > time)
    }
}

fn error(what: &str) -> EvaluationFault {
    EvaluationFault::Error(what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Limits, compile};
    use machines::json::Value;
    use std::cell::Cell;
    use std::collections::BTreeMap;

    thread_local!(static POISON: Cell<bool> = const { Cell::new(false) });

    pub(super) fn poison() {
        assert!(!POISON.replace(false), "poisoned for the test");
    }

    #[test]
    fn x02_a_panic_is_caught_and_the_next_decision_is_right() {
        let files =
            BTreeMap::from([(String::from("p.rego"), b"package autonomy\nallow if input.params.x == 1".to_vec())]);
        let mut evaluator = compile(&files, &Limits { time: None, ..Limits::default() }).expect("compiles").evaluator();
        let params = Value::Object(BTreeMap::from([(String::from("x"), Value::from(1_u64))]));
        let input = Input { kind: "k", params: &params, node_id: "n", agent: None };
        let allowed = Ok(Evaluation { allow: Some(Value::Bool(true)), deny: None });
        assert_eq!(evaluator.evaluate(&input), allowed);
        POISON.set(true);
        assert_eq!(evaluator.evaluate(&input), Err(EvaluationFault::Panic));
        assert_eq!(evaluator.evaluate(&input), allowed);
    }
}
