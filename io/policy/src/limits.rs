//! The bounds of one decision.

use std::time::Duration;

/// Bytes of stack that a thread needs which evaluates a policy.
///
/// Rego recurses natively: rules call rules, and values nest. What a policy may ask for is bounded when it is
/// loaded (see [`crate::compile`]), and this is what the bound needs, with a margin. Threads started by
/// [`crate::spawn`] have it. It is address space; memory is only used when it is touched.
pub const STACK_BYTES: usize = 32 * 1024 * 1024;

/// The bounds of one decision. A decision that passes one of them has no result:
/// [`EvaluationFault::Budget`](machines::policy::verdict::EvaluationFault::Budget).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Wall-clock time for both queries together. `None`: no bound, for evaluations that must repeat exactly
    /// (simulation); the policy is trusted then.
    pub time: Option<Duration>,
    /// Work that builtin functions may do, in bytes: what they allocate, and a sixteenth of what they read.
    /// It is charged before the function runs, so that no single call is large.
    pub builtin_bytes: u64,
}

impl Limits {
    /// SPEC 3: 50 ms for a decision.
    pub const TIME: Duration = Duration::from_millis(50);
    /// 32 MiB.
    pub const BUILTIN_BYTES: u64 = 32 * 1024 * 1024;
}

impl Default for Limits {
    fn default() -> Self {
        Self { time: Some(Self::TIME), builtin_bytes: Self::BUILTIN_BYTES }
    }
}
