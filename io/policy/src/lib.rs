//! The policy engine, behind one door. Nothing else in the project imports regorus.
//!
//! [`compile`] takes the files of a bundle and gives a [`Policy`] or a [`Refusal`] with file and line;
//! [`Policy::evaluator`] gives each worker thread (see [`spawn`]) an [`Evaluator`]; [`Evaluator::evaluate`] gives what
//! `data.autonomy.allow` and `data.autonomy.deny` are for one call, or a fault. What follows from that is decided in
//! `machines::policy::verdict`. [`test`] and [`explain`] are for policy authors.
//!
//! # The evaluator
//!
//! The engine has an interpreter and a virtual machine with an instruction count. Decisions are made by the
//! interpreter: the virtual machine of 0.14.1 lets an undefined assignment pass (`allow if { owner :=
//! input.params.owner }` is true without an owner), takes a failed function for an undefined value, and forgets
//! conditions in a comprehension within a loop. `tests/semantics.rs` holds the table and the case.
//!
//! # What a policy must not contain
//!
//! Checked on the engine's syntax tree, everywhere, also in rules that nothing uses:
//! - functions that reach out or are not bounded, see below, and functions that nobody defines;
//! - `with` and `print`, which are for tests; a function of the policy's own with the name of a builtin one;
//! - a default value that is not constant; an import of something other than `data`, `input` and `rego.v1`; a function
//!   that calls itself; a constant regular expression that is none, or is too large; more arguments than a function has;
//! - `data.json` with a value where a rule is, or with `autonomy`;
//! - text that would cost the parser too much: brackets nested more than 24 deep, more than 256 operators in an
//!   expression, a MiB of text, 1024 columns, 20 000 lines; rules that depend on each other too deep for
//!   [`STACK_BYTES`].
//!
//! # Builtin functions
//!
//! A function that is not allowed does not exist. Before an allowed one runs, the types of its arguments are checked and
//! its cost is charged to the budget of the decision ([`Limits::builtin_bytes`]).
//!
//! | functions | decision |
//! |---|---|
//! | `http.send`, `net.*` | refused: network |
//! | `time.*` | refused: the clock; what a policy is to know of time comes in the input |
//! | `rand.intn`, `uuid.*` | refused: random |
//! | `opa.runtime` | refused: environment |
//! | `walk`, `graph.*`, `json.patch`, `json.marshal_with_options`, `strings.replace_n`, `regex.template_match` | refused: memory or time of one call cannot be told beforehand |
//! | `print`, `trace` | refused in a bundle; `print` works in [`test`] and [`explain`] |
//! | `regex.*`, `glob.*` | allowed; linear time by construction; patterns up to 4 KiB, compiled up to 100 KiB |
//! | `numbers.range`, `numbers.range_step` | allowed; an element costs 64 bytes of the budget |
//! | `concat`, `sprintf`, `replace`, `regex.replace`, `split`, `json.*`, `base64*`, `hex.*`, … | allowed; the size of the result is charged; a width or precision beyond 1024 is an error |
//! | `indexof`, `trim`, `strings.count`, `object.subset`, `strings.any_*_match`, … | allowed; the product of both lengths is charged |
//! | `bits.lsh`, `to_number`, `units.*`, arithmetic functions | allowed; up to 4096 bits, exponents up to three digits |
//! | types, `count`, `sort`, `min`, `max`, `sum`, `object.*`, `array.*`, sets, `semver.*` | allowed |
//!
//! # What bounds a decision
//!
//! Time ([`Limits::time`], looked at every 8 steps of the engine, every step when the policy multiplies) and the budget of
//! builtin functions. The worst cases in `tests/bounds.rs`, with a MiB of input, end within 60 ms at a limit of 50 ms; a
//! product of ever larger numbers within 140 ms; memory stays below 35 MiB. One thing is not bounded: the comparison of
//! two values built of shared parts (`a1 := [a0, a0]`, `a2 := [a1, a1]`, …), which the engine does in one step; 24
//! such rules take a quarter of a second, each more doubles it. A caller cannot cause it, only the author of a policy can.
//! Whoever waits for an evaluator therefore has a deadline of its own, and gives up on the thread.
mod audit;
mod builtins;
mod cost;
mod evaluator;
mod explain;
mod guard;
mod limits;
mod message;
mod policy;
mod reference;
mod refusal;
mod scan;
mod stack;
mod testing;
mod value;

pub use evaluator::Evaluator;
pub use explain::{Explanation, Lines, explain};
pub use limits::{Limits, STACK_BYTES};
pub use policy::{Policy, compile, compile_here};
pub use refusal::Refusal;
pub use testing::{Outcome, Test, TestReport, test};

/// Starts a thread that evaluates policies: with [`STACK_BYTES`] of stack.
///
/// # Errors
/// The operating system's, when there are no more threads.
pub fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<std::thread::JoinHandle<T>> {
    std::thread::Builder::new().name(name.to_owned()).stack_size(STACK_BYTES).spawn(work)
}

// A compiled policy is shared by all workers, and an evaluator moves to its thread.
const _: () = {
    const fn shared<T: Clone + Send + Sync + 'static>() {}
    const fn moved<T: Send + 'static>() {}
    shared::<Policy>();
    moved::<Evaluator>();
};
