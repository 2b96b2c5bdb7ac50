//! The log of a process: its flags, and where everything goes that speaks.

use clap::{Args, ValueEnum};
use io_drive::log::{Format, Log, log_panics};
use machines::machine::Level;
use tracing_subscriber::layer::SubscriberExt as _;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// time=… level=INFO msg="…" key=value …
    #[default]
    Logfmt,
    /// One JSON object a line.
    Json,
}

/// How quiet a log line may be and still be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// Errors only.
    Error,
    /// Errors and warnings.
    Warn,
    /// Everything.
    #[default]
    Info,
}

/// The flags of the log.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct LogFlags {
    /// How log lines look
    #[arg(long, value_enum, default_value_t)]
    pub log_format: LogFormat,
    /// Which log lines are written
    #[arg(long, value_enum, default_value_t)]
    pub log_level: LogLevel,
}

/// The log writer, also of `tracing` and of panics.
#[must_use]
pub fn open_log(format: LogFormat, level: LogLevel) -> Log {
    let format = match format {
        LogFormat::Logfmt => Format::Logfmt,
        LogFormat::Json => Format::Json,
    };
    let level = match level {
        LogLevel::Error => Level::Error,
        LogLevel::Warn => Level::Warn,
        LogLevel::Info => Level::Info,
    };
    let log = Log::new(format, level);
    log_panics(log);
    // Set before by nobody; a second log of one process would be ignored.
    let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry().with(log));
    log
}
