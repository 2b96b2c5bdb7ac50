//! Work: what costs time and decides nothing. It runs on workers; the simulator gives it a latency and failures.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::fmt;

use crate::interceptor::Request;
use crate::json::Value;
use crate::policy::bundle::Bundle;
use crate::policy::verdict::{Evaluation, EvaluationFault};
use crate::precheck::host;
use crate::verify::{Answer, Ask, SourceFault};

/// Names a piece of work; chosen by the emitting machine, unique in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(pub u64);

/// A piece of work.
#[derive(Clone, Debug)]
pub enum Op {
    /// Check and unpack these bytes as a policy bundle (`policy::bundle::open`) and compile it.
    OpenBundle(Vec<u8>),
    /// Judge a request by a compiled policy.
    Evaluate {
        /// The policy.
        policy: Compiled,
        /// What is judged.
        request: Arc<Request>,
    },
    /// Run the tool that the request names.
    Tool(Arc<Request>),
    /// Stop the tool that runs under the same tag; its answer is no longer wanted.
    CancelTool,
    /// Ask the source of an artifact (SPEC 7).
    Artifact(Ask),
    /// Find the trusted key that made this signature: ECDSA over P-256 and SHA-256, in DER.
    CheckSignature {
        /// The very bytes that were signed.
        message: Vec<u8>,
        /// The signature.
        signature: Vec<u8>,
    },
    /// Ask what a precheck asks (SPEC 10).
    Host(host::Ask),
}

/// A compiled policy, which only the driver that made it can look into. It lives as long as a call needs it.
#[derive(Clone)]
pub struct Compiled(pub Arc<dyn Any + Send + Sync>);

impl fmt::Debug for Compiled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Compiled")
    }
}

/// The result of a piece of work.
#[derive(Clone, Debug)]
pub enum Got {
    /// Of `OpenBundle`: the bundle and its compiled policy, or why it is refused.
    Opened(Result<(Arc<Bundle>, Compiled), String>),
    /// Of `Evaluate`.
    Evaluated(Result<Evaluation, EvaluationFault>),
    /// Of `Tool`.
    Ran(Result<Value, ToolFault>),
    /// Of `Artifact`.
    Artifact(Result<Answer, SourceFault>),
    /// Of `CheckSignature`: the number of the trusted key, if one of them made it.
    Checked(Option<u16>),
    /// Of `Host`.
    Host(host::Answer),
}

/// Why a tool gave no output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToolFault {
    /// The parameters do not fit the tool; it did not run.
    BadParams(String),
    /// It ran and failed.
    Failed(String),
    /// It ran out of its own time.
    TimedOut,
}
