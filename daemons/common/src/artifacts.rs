//! The failures of `io-artifacts` as the end of a command.

use std::io::ErrorKind;

use io_artifacts::Fault;
use io_artifacts::keys;
use io_artifacts::serve::ServeError;

use crate::failure::Failure;
use crate::output::harmless;

impl From<Fault> for Failure {
    /// Its words may be the source's own: a registry's message, a name in an archive.
    fn from(fault: Fault) -> Self {
        let message = harmless(&fault.to_string());
        match fault {
            Fault::NotFound { .. } | Fault::Unreachable { .. } | Fault::Denied { .. } => Self::unreadable(message),
            Fault::File { error, .. } if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => {
                Self::unreadable(message)
            }
            Fault::File { .. }
            | Fault::TooLong { .. }
            | Fault::Mismatch { .. }
            | Fault::Broken { .. }
            | Fault::Refused { .. } => Self::refused(message),
        }
    }
}

impl From<keys::Fault> for Failure {
    fn from(fault: keys::Fault) -> Self {
        let message = fault.to_string();
        if matches!(fault, keys::Fault::Read { .. }) { Self::unreadable(message) } else { Self::refused(message) }
    }
}

impl From<ServeError> for Failure {
    fn from(error: ServeError) -> Self {
        let message = error.to_string();
        match error {
            ServeError::TokenRequired(_) | ServeError::PrivateWithoutToken => Self::usage(message),
            ServeError::TokenUnreadable(..) => Self::unreadable(message),
            ServeError::Store(_) | ServeError::Listen(..) | ServeError::TokenUnusable(_) => Self::refused(message),
        }
    }
}
