//! What a caller is told (SPEC 2). An answer that names a decision takes the proof that its frames are durable.

use alloc::string::String;
use alloc::sync::Arc;

use crate::ids::{Hash32, Uuid};
use crate::json::{Value, escape_into};
use crate::wal::Durable;

/// The policy that decided a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyRef {
    /// The bundle's version.
    pub version: String,
    /// The bundle's hash.
    pub hash: Hash32,
}

/// The decision that an answer names.
#[derive(Clone, Debug, PartialEq)]
pub struct Decided {
    /// The call's id in the log.
    pub audit_id: Uuid,
    /// The policy; `None` when none was active.
    pub policy: Option<Arc<PolicyRef>>,
}

/// An answer to one call.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    status: u16,
    said: Said,
    decided: Option<Decided>,
}

#[derive(Clone, Debug, PartialEq)]
enum Said {
    Output(Value),
    Error(String),
    Deny(String),
}

/// Why a call ended before a decision was durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unavailable {
    /// The log cannot be written until a restart.
    WalFailed,
    /// Undelivered events fill the log.
    WalFull,
    /// Too many calls at once.
    Overload,
    /// The runtime is stopping.
    Stopping,
}

impl Unavailable {
    /// The reason in the answer.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WalFailed => "wal_failed",
            Self::WalFull => "wal_full",
            Self::Overload => "overload",
            Self::Stopping => "stopping",
        }
    }
}

impl Answer {
    /// A refusal before any decision: `status` and a reason.
    #[must_use]
    pub fn refused(status: u16, reason: String) -> Self {
        Self { status, said: Said::Deny(reason), decided: None }
    }

    pub(super) fn unavailable(why: Unavailable) -> Self {
        Self::refused(503, why.as_str().into())
    }

    pub(super) fn denied(_decision: &Durable, reason: String, decided: Decided) -> Self {
        Self { status: 403, said: Said::Deny(reason), decided: Some(decided) }
    }

    pub(super) fn output(_outcome: &Durable, output: Value, decided: Decided) -> Self {
        Self { status: 200, said: Said::Output(output), decided: Some(decided) }
    }

    pub(super) fn failed(_outcome: &Durable, status: u16, error: String, decided: Decided) -> Self {
        Self { status, said: Said::Error(error), decided: Some(decided) }
    }

    /// The tool ran; its decision is durable, its outcome is not.
    pub(super) fn outcome_not_recorded(decided: Decided) -> Self {
        Self { status: 500, said: Said::Error("outcome_not_recorded".into()), decided: Some(decided) }
    }

    /// The HTTP status.
    #[must_use]
    pub const fn status(&self) -> u16 {
        self.status
    }

    /// Seconds for `Retry-After`, where trying again soon makes sense.
    #[must_use]
    pub fn retry_after_secs(&self) -> Option<u32> {
        match &self.said {
            Said::Deny(reason) if self.status == 503 && reason == Unavailable::Overload.as_str() => Some(1),
            Said::Deny(_) | Said::Output(_) | Said::Error(_) => None,
        }
    }

    /// Whether the call was allowed.
    #[must_use]
    pub const fn is_allow(&self) -> bool {
        match self.said {
            Said::Output(_) | Said::Error(_) => true,
            Said::Deny(_) => false,
        }
    }

    /// The reason of a deny.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match &self.said {
            Said::Deny(reason) => Some(reason),
            Said::Output(_) | Said::Error(_) => None,
        }
    }

    /// The error of an allowed call that has no output.
    #[must_use]
    pub fn error(&self) -> Option<&str> {
        match &self.said {
            Said::Error(error) => Some(error),
            Said::Output(_) | Said::Deny(_) => None,
        }
    }

    /// The output of an allowed call.
    #[must_use]
    pub const fn value(&self) -> Option<&Value> {
        match &self.said {
            Said::Output(value) => Some(value),
            Said::Error(_) | Said::Deny(_) => None,
        }
    }

    /// The decision, once one was made durable.
    #[must_use]
    pub const fn decided(&self) -> Option<&Decided> {
        self.decided.as_ref()
    }

    /// The JSON text of the answer.
    #[must_use]
    pub fn body(&self) -> String {
        let mut text = String::with_capacity(320);
        match &self.said {
            Said::Output(output) => {
                text.push_str("{\"decision\":\"allow\",\"output\":");
                output.write(&mut text);
            }
            Said::Error(error) => {
                text.push_str("{\"decision\":\"allow\",\"error\":");
                escape_into(error, &mut text);
            }
            Said::Deny(reason) => {
                text.push_str("{\"decision\":\"deny\",\"reason\":");
                escape_into(reason, &mut text);
            }
        }
        if let Some(decided) = &self.decided {
            text.push_str(",\"audit_id\":\"");
            decided.audit_id.write(&mut text);
            text.push('"');
            write_policy(decided.policy.as_deref(), &mut text);
        }
        text.push('}');
        text
    }
}

/// Appends `,"policy_ref":…,"policy_hash":…`; null where no policy was active.
pub(super) fn write_policy(policy: Option<&PolicyRef>, text: &mut String) {
    match policy {
        Some(policy) => {
            text.push_str(",\"policy_ref\":");
            escape_into(&policy.version, text);
            text.push_str(",\"policy_hash\":\"sha256:");
            policy.hash.write_hex(text);
            text.push('"');
        }
        None => text.push_str(",\"policy_ref\":null,\"policy_hash\":null"),
    }
}
