//! Policies as work: opening a bundle, and judging a call within a bound.
//!
//! A call is judged where it arrives when that takes well under a millisecond, which spares it two wake-ups; what
//! takes longer is stopped there and judged anew on the pool under the full limit, so that one slow decision holds up
//! no other call. Only threads with the stack that judging may need do it: those of the pool, and those that were
//! told so.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use io_policy::{Evaluator, Policy};
pub use io_policy::{Limits, STACK_BYTES};
use machines::interceptor::Request;
use machines::policy::bundle::{self, Bundle};
use machines::policy::input::Input;
use machines::policy::verdict::{Evaluation, EvaluationFault};
use machines::work::Compiled;

/// What judging a call gives.
pub type Judged = Result<Evaluation, EvaluationFault>;

/// How long a call is judged where it arrives.
const AT_ONCE: Duration = Duration::from_micros(500);

/// How often a call is judged that the machine keeps from the processor.
const TRIES: u32 = 5;

/// A compiled policy, under the short limit and under the full one.
struct Ready {
    at_once: Bounded,
    full: Bounded,
    time: Option<Duration>,
}

/// A policy with its limit, and the evaluators that are not in use: at most one for each thread that judges at once.
struct Bounded {
    policy: Policy,
    idle: Mutex<Vec<Evaluator>>,
}

thread_local! {
    static MAY_JUDGE: Cell<bool> = const { Cell::new(false) };
}

/// Says that this thread has [`STACK_BYTES`] of stack.
pub fn this_thread_may_judge() {
    MAY_JUDGE.set(true);
}

/// Checks, unpacks and compiles a bundle.
///
/// # Errors
/// Why the bundle is refused, with file and line where they are known.
pub fn open(bytes: &[u8], limits: &Limits) -> Result<(Arc<Bundle>, Compiled), String> {
    let opened = catch_unwind(AssertUnwindSafe(|| {
        let bundle = bundle::open(bytes).map_err(|refusal| refusal.to_string())?;
        let short = Limits { time: Some(limits.time.map_or(AT_ONCE, |time| time.min(AT_ONCE))), ..*limits };
        let compile = if MAY_JUDGE.get() { io_policy::compile_here } else { io_policy::compile };
        let policy = compile(&bundle.files, limits).map_err(|refusal| refusal.to_string())?;
        let ready =
            Ready { at_once: Bounded::new(policy.within(&short)), full: Bounded::new(policy), time: limits.time };
        Ok((Arc::new(bundle), Compiled(Arc::new(ready))))
    }));
    opened.unwrap_or_else(|_| Err("the policy engine failed on this bundle; it is not used".into()))
}

/// Judges a request at once, if this thread may and the short limit is enough; else `None`, and [`judge`] has to
/// follow on a thread of the pool.
#[must_use]
pub fn judge_at_once(compiled: &Compiled, request: &Request, node_id: &str) -> Option<Judged> {
    if !MAY_JUDGE.get() {
        return None;
    }
    let judged = ready(compiled).and_then(|ready| ready.at_once.judge(request, node_id));
    (judged != Err(EvaluationFault::Budget)).then_some(judged)
}

/// Judges a request under the full limit.
///
/// # Errors
/// Whatever is no evaluation; none of it allows anything.
pub fn judge(compiled: &Compiled, request: &Request, node_id: &str) -> Judged {
    let ready = ready(compiled)?;
    let mut tries = 0;
    loop {
        let before = thread_cpu();
        let judged = ready.full.judge(request, node_id);
        tries += 1;
        // The engine's limit is wall-clock time. A call that was kept from the processor for most of it was not slow;
        // on an overloaded machine it gets another try instead of a deny.
        let worked = thread_cpu().saturating_sub(before);
        let kept_waiting = ready.time.is_some_and(|time| worked < time / 2);
        if judged != Err(EvaluationFault::Budget) || !kept_waiting || tries >= TRIES {
            return judged;
        }
    }
}

/// The processor time that this thread has used.
fn thread_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

fn ready(compiled: &Compiled) -> Result<&Ready, EvaluationFault> {
    compiled.0.downcast_ref().ok_or_else(|| EvaluationFault::Error("not a policy of this driver".into()))
}

impl Bounded {
    const fn new(policy: Policy) -> Self {
        Self { policy, idle: Mutex::new(Vec::new()) }
    }

    fn judge(&self, request: &Request, node_id: &str) -> Judged {
        let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = idle().pop();
        let input = Input { kind: request.kind(), params: request.params(), node_id, agent: request.agent() };
        // An evaluator that panicked is dropped with the panic (FAULTS X02).
        catch_unwind(AssertUnwindSafe(|| {
            let mut evaluator = taken.unwrap_or_else(|| self.policy.evaluator());
            let judged = evaluator.evaluate(&input);
            idle().push(evaluator);
            judged
        }))
        .unwrap_or(Err(EvaluationFault::Panic))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use machines::json::Value;
    use machines::policy::bundle::{BuildOptions, build};

    use super::*;

    fn compiled(rego: &str) -> Compiled {
        let files = BTreeMap::from([("p.rego".to_owned(), rego.as_bytes().to_vec())]);
        let options = BuildOptions { version: "1.0.0".into(), ..BuildOptions::default() };
        open(&build(&files, &options).unwrap(), &Limits::default()).unwrap().1
    }

    fn request(body: &str) -> Request {
        Request::parse(body.as_bytes(), None).unwrap()
    }

    #[test]
    fn a_short_decision_is_made_at_once_and_only_where_the_stack_is() {
        let compiled = compiled("package autonomy\nallow if input.node.id == \"n7\"");
        let request = request(r#"{"kind":"tool.echo"}"#);
        let allowed = Ok(Evaluation { allow: Some(Value::Bool(true)), deny: None });
        std::thread::Builder::new()
            .stack_size(STACK_BYTES)
            .spawn(move || {
                assert_eq!(judge_at_once(&compiled, &request, "n7"), None);
                this_thread_may_judge();
                // The limit is a time: on a busy machine a try may run into it.
                assert!((0..100).any(|_| judge_at_once(&compiled, &request, "n7") == Some(allowed.clone())));
                assert_eq!(judge(&compiled, &request, "n7"), allowed);
            })
            .unwrap()
            .join()
            .unwrap();
    }

    #[test]
    fn p09_a_long_decision_is_left_to_the_pool_and_denied_past_its_limit() {
        let slow = "package autonomy\nallow if {\n some i, j, k\n numbers.range(1, 3000)[i]\n \
                    numbers.range(1, 3000)[j]\n numbers.range(1, 3000)[k]\n i + j + k == -1\n}";
        let compiled = compiled(slow);
        let request = request(r#"{"kind":"tool.echo"}"#);
        std::thread::Builder::new()
            .stack_size(STACK_BYTES)
            .spawn(move || {
                this_thread_may_judge();
                assert_eq!(judge_at_once(&compiled, &request, "n7"), None);
                assert_eq!(judge(&compiled, &request, "n7"), Err(EvaluationFault::Budget));
            })
            .unwrap()
            .join()
            .unwrap();
    }

    #[test]
    fn a_refused_bundle_says_why() {
        assert!(open(b"not a bundle", &Limits::default()).unwrap_err().contains("gzip"));
    }
}
