//! Log lines (SPEC 1): `time=… level=INFO msg="…" key=value …` on stderr, or the same as JSON.
//!
//! The notes of the machines and the events of `tracing` go through one writer. A line is one write, and a line that
//! cannot be written is dropped: a full disk behind stderr must not stop a decision.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};

use machines::json::escape_into;
use machines::machine::{Field, Level, Note};
use tracing::field::Visit;
use tracing_subscriber::layer::Context;

use crate::clock;

/// How lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `time=… level=INFO msg="…" key=value …`
    #[default]
    Logfmt,
    /// One JSON object a line, with the same keys in the same order.
    Json,
}

/// The value of a field.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    /// Printed bare: a number or a truth value in JSON's spelling.
    Bare(&'a str),
    /// Printed in quotes.
    Text(&'a str),
}

static AS_JSON: AtomicBool = AtomicBool::new(false);

/// Writes log lines to stderr.
#[derive(Clone, Copy, Debug)]
pub struct Log {
    format: Format,
    level: Level,
}

impl Log {
    /// A writer that leaves out what is quieter than `level`.
    #[must_use]
    pub fn new(format: Format, level: Level) -> Self {
        AS_JSON.store(format == Format::Json, Ordering::Relaxed);
        Self { format, level }
    }

    /// Whether lines of this level are written.
    #[must_use]
    pub fn enabled(&self, level: Level) -> bool {
        level <= self.level
    }

    /// Writes a machine's note.
    pub fn note(&self, note: &Note) {
        if self.enabled(note.level) {
            emit(&format_note(self.format, &clock::wall().to_string(), note));
        }
    }
}

/// A note as a line, with the line feed.
#[must_use]
pub fn format_note(format: Format, time: &str, note: &Note) -> String {
    let bare: Vec<Option<String>> = note.fields.iter().map(|(_, field)| field.bare()).collect();
    let fields: Vec<(&str, Value<'_>)> = note
        .fields
        .iter()
        .zip(&bare)
        .map(|((key, field), bare)| match field {
            Field::Number(_) | Field::Seconds(_) => (*key, Value::Bare(bare.as_deref().unwrap_or_default())),
            Field::Text(text) => (*key, Value::Text(text)),
        })
        .collect();
    line(format, time, level_name(note.level), note.msg, &fields)
}

/// One line, with the line feed.
#[must_use]
pub fn line(format: Format, time: &str, level: &str, msg: &str, fields: &[(&str, Value<'_>)]) -> String {
    let mut out = String::with_capacity(128);
    match format {
        Format::Logfmt => {
            let _ = write!(out, "time={time} level={level} msg=");
            quote(msg, &mut out);
            for (key, value) in fields {
                out.push(' ');
                out.push_str(key);
                out.push('=');
                match value {
                    Value::Bare(text) => out.push_str(text),
                    Value::Text(text) => quote(text, &mut out),
                }
            }
        }
        Format::Json => {
            let _ = write!(out, "{{\"time\":\"{time}\",\"level\":\"{level}\",\"msg\":");
            escape_into(msg, &mut out);
            for (key, value) in fields {
                out.push(',');
                escape_into(key, &mut out);
                out.push(':');
                match value {
                    Value::Bare(text) => out.push_str(text),
                    Value::Text(text) => escape_into(text, &mut out),
                }
            }
            out.push('}');
        }
    }
    out.push('\n');
    out
}

/// Quotes as JSON does: what a caller puts into a field can start no line and no field of its own.
fn quote(text: &str, out: &mut String) {
    escape_into(text, out);
}

const fn level_name(level: Level) -> &'static str {
    match level {
        Level::Error => "ERROR",
        Level::Warn => "WARN",
        Level::Info => "INFO",
    }
}

fn emit(line: &str) {
    let _ = std::io::stderr().lock().write_all(line.as_bytes());
}

/// The last line before the process ends itself; takes no lock of ours and may be called while panicking.
pub(crate) fn last_words(what: &str) {
    let format = if AS_JSON.load(Ordering::Relaxed) { Format::Json } else { Format::Logfmt };
    let fields = [("cause", Value::Text(what))];
    emit(&line(format, &clock::wall().to_string(), "ERROR", "process.aborted", &fields));
}

/// Makes a panic a log line instead of the standard library's text.
pub fn log_panics(log: Log) {
    std::panic::set_hook(Box::new(move |info| {
        let text = info.payload().downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| info.payload().downcast_ref::<String>().cloned()).unwrap_or_default();
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let note = Note::new(Level::Error, "panic").with("message", text).with("at", place);
        log.note(&note);
    }));
}

/// Brings the events of `tracing` into the same lines.
impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Log {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let level = match *event.metadata().level() {
            tracing::Level::ERROR => Level::Error,
            tracing::Level::WARN => Level::Warn,
            _ => Level::Info,
        };
        if !self.enabled(level) {
            return;
        }
        let mut fields = Fields::default();
        event.record(&mut fields);
        let pairs: Vec<(&str, Value<'_>)> = fields
            .others
            .iter()
            .map(|(key, text, bare)| (*key, if *bare { Value::Bare(text) } else { Value::Text(text) }))
            .collect();
        emit(&line(self.format, &clock::wall().to_string(), level_name(level), &fields.message, &pairs));
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    others: Vec<(&'static str, String, bool)>,
}

impl Fields {
    fn put(&mut self, field: &tracing::field::Field, text: String, bare: bool) {
        if field.name() == "message" {
            self.message = text;
        } else {
            self.others.push((field.name(), text, bare));
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        self.put(field, format!("{value:?}"), false);
    }
    fn record_str(&mut self, field: &tracing::field::Field, value: &str) {
        self.put(field, value.to_owned(), false);
    }
    fn record_u64(&mut self, field: &tracing::field::Field, value: u64) {
        self.put(field, value.to_string(), true);
    }
    fn record_i64(&mut self, field: &tracing::field::Field, value: i64) {
        self.put(field, value.to_string(), true);
    }
    fn record_f64(&mut self, field: &tracing::field::Field, value: f64) {
        self.put(field, value.to_string(), value.is_finite());
    }
    fn record_bool(&mut self, field: &tracing::field::Field, value: bool) {
        self.put(field, value.to_string(), true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_written_in_the_order_of_the_specification() {
        let note = Note::new(Level::Warn, "policy.fallback").with("bytes", 17).with("hash", "sha256:ab");
        let text = format_note(Format::Logfmt, "2026-11-21T12:00:00.000000Z", &note);
        let want = "time=2026-11-21T12:00:00.000000Z level=WARN msg=\"policy.fallback\" bytes=17 hash=\"sha256:ab\"\n";
        assert_eq!(text, want);
        let json = format_note(Format::Json, "2026-11-21T12:00:00.000000Z", &note);
        let want = "{\"time\":\"2026-11-21T12:00:00.000000Z\",\"level\":\"WARN\",\"msg\":\"policy.fallback\",\
                    \"bytes\":17,\"hash\":\"sha256:ab\"}\n";
        assert_eq!(json, want);
    }

    #[test]
    fn a_value_cannot_start_a_line_or_a_field_of_its_own() {
        let note = Note::new(Level::Info, "m").with("reason", "a\" level=ERROR\nmsg=\"x");
        let text = format_note(Format::Logfmt, "t", &note);
        assert_eq!(text, "time=t level=INFO msg=\"m\" reason=\"a\\\" level=ERROR\\nmsg=\\\"x\"\n");
    }

    #[test]
    fn quieter_lines_than_the_level_are_left_out() {
        let log = Log::new(Format::Logfmt, Level::Warn);
        assert!(log.enabled(Level::Error) && log.enabled(Level::Warn) && !log.enabled(Level::Info));
    }
}
