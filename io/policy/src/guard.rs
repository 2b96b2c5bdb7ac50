//! Every call of a builtin function, on its way from the policy to the engine's own code.
//!
//! The engine looks a function up among its extensions first, so an extension of the same name stands before
//! the builtin: it checks the arguments, charges the cost to the decision's budget, and only then calls.

use std::cell::Cell;

use anyhow::{anyhow, bail};
use regorus::unstable::{BUILTINS, Expr, ExprRef, Ref, Source, Span};
use regorus::{Engine, Value};

use crate::builtins::{self, Decision, TABLE};
use crate::message::Message;

thread_local! {
    static METER: Cell<Meter> = const { Cell::new(Meter { left: 0, stopped: None }) };
    /// The engine's functions take the source of the call for their messages; the caller adds the real one.
    static PLACE: (Span, Vec<ExprRef>) = place();
}

/// The budget of the decision that this thread is at.
#[derive(Clone, Copy)]
struct Meter {
    left: u64,
    stopped: Option<Stop>,
}

/// Why a builtin function stopped the evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The budget is used up.
    Budget,
    /// A function failed. The evaluation has failed then, also if the engine goes on.
    Failed,
}

/// Begins a decision on this thread.
pub(crate) fn begin(budget: u64) {
    METER.set(Meter { left: budget, stopped: None });
}

/// What stopped the decision on this thread, if anything did; the first cause.
pub(crate) fn stopped() -> Option<Stop> {
    METER.get().stopped
}

fn stop(cause: Stop) {
    let meter = METER.get();
    METER.set(Meter { stopped: meter.stopped.or(Some(cause)), ..meter });
}

/// Puts a guard before each of the functions `used`, given by their places in [`TABLE`].
///
/// # Errors
/// The engine's, for a function that has a guard already.
pub(crate) fn install(engine: &mut Engine, used: impl IntoIterator<Item = usize>) -> anyhow::Result<()> {
    for at in used {
        let Some((name, Decision::Allowed(signature))) = TABLE.get(at) else { continue };
        let arity = u8::try_from(signature.args.len())?;
        engine.add_extension((*name).to_owned(), arity, Box::new(move |args: Vec<Value>| call(at, &args)))?;
    }
    Ok(())
}

fn call(at: usize, args: &[Value]) -> anyhow::Result<Value> {
    let result = checked_call(at, args);
    if result.is_err() {
        stop(Stop::Failed);
    }
    result
}

fn checked_call(at: usize, args: &[Value]) -> anyhow::Result<Value> {
    let Some((name, Decision::Allowed(signature))) = TABLE.get(at) else { bail!("no such function") };
    builtins::check_args(name, signature, args)?;
    let cost = (signature.cost)(args).map_err(|why| anyhow!("`{name}`: {why}"))?;
    let meter = METER.get();
    let Some(left) = meter.left.checked_sub(cost) else {
        stop(Stop::Budget);
        bail!("`{name}` is past the budget of the decision");
    };
    METER.set(Meter { left, ..meter });
    let (function, _) = BUILTINS.get(name).ok_or_else(|| anyhow!("no such function"))?;
    PLACE.with(|(span, params)| {
        let params = params.get(..args.len()).ok_or_else(|| anyhow!("too many arguments"))?;
        function(span, params, args, true).map_err(|error| anyhow!(Message::of(&error.to_string()).text()))
    })
}

fn place() -> (Span, Vec<ExprRef>) {
    let text = String::from("builtin");
    // The one reason to fail is a text beyond the length limits.
    let source = Source::from_contents(text.clone(), text).unwrap_or_else(|_| unreachable!("seven bytes"));
    let span = Span { source, line: 1, col: 1, start: 0, end: 7 };
    let param = Ref::new(Expr::Null { span: span.clone(), value: Value::Null, eidx: 0 });
    (span, vec![param; 8])
}

/// Whether `pattern` is a regular expression that the engine takes.
pub(crate) fn is_regex(pattern: &str) -> bool {
    let Some((function, _)) = BUILTINS.get("regex.is_valid") else { return false };
    PLACE.with(|(span, params)| {
        params.get(..1).is_some_and(|params| {
            matches!(function(span, params, &[Value::from(pattern)], true), Ok(Value::Bool(true)))
        })
    })
}
