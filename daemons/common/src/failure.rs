//! How a command ends when it does not do what it was asked for: its exit code (SPEC 1) and words on stderr.

use std::process::ExitCode;

use crate::output::harmless;

/// An exit code and a message.
#[derive(Debug)]
pub struct Failure {
    /// 1 refused or failed, 2 usage, 3 a source or peer cannot be reached or read; `edged` has its own (SPEC 10).
    pub code: u8,
    /// What happened, to which file or address, and what to do.
    pub message: String,
}

impl Failure {
    /// It was refused, or it failed.
    pub fn refused(message: impl Into<String>) -> Self {
        Self { code: 1, message: message.into() }
    }

    /// What was asked for makes no sense.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { code: 2, message: message.into() }
    }

    /// A source cannot be read.
    pub fn unreadable(message: impl Into<String>) -> Self {
        Self { code: 3, message: message.into() }
    }
}

/// The exit code of a command that came to its end.
pub type Ended = Result<u8, Failure>;

/// The end of the process: a failure's words go to stderr, each line harmless and behind the command's name.
pub fn exit(command: &str, ended: Ended) -> ExitCode {
    match ended {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            let lines: Vec<String> = failure.message.lines().map(harmless).collect();
            eprintln!("{command}: {}", lines.join("\n"));
            ExitCode::from(failure.code)
        }
    }
}
