//! `ExportLogsServiceRequest` as OTLP/JSON: lower camel case, 64-bit numbers as text, ids in hex.

use machines::drain::batch::Batch;
use serde::Serialize;

use super::{EncodeError, LogRecord, SEQ, records, resource};

/// The records from `from` up to `to` as one request.
///
/// # Errors
/// When the range is not in the batch or holds what is no frame.
pub fn encode(batch: &Batch, from: usize, to: usize) -> Result<Vec<u8>, EncodeError> {
    let count = to.saturating_sub(from);
    let log_id = batch.log_id.to_string();
    let about: Vec<Attribute<'_>> = resource(batch, &log_id).map(Attribute::text).into();
    let mut out = Vec::with_capacity(batch.size().min(count.saturating_mul(2048)) * 2 + 512);
    out.extend_from_slice(b"{\"resourceLogs\":[{\"resource\":{\"attributes\":");
    write(&about, &mut out);
    out.extend_from_slice(b"},\"scopeLogs\":[{\"logRecords\":[");
    for (at, record) in records(batch, from, to)?.enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write(&JsonRecord::of(&record?), &mut out);
    }
    out.extend_from_slice(b"]}]}]}");
    Ok(out)
}

/// Texts and numbers into memory: there is nothing that can fail.
fn write(value: &impl Serialize, out: &mut Vec<u8>) {
    let written = serde_json::to_writer(out, value);
    debug_assert!(written.is_ok(), "{written:?}");
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct JsonRecord<'a> {
    time_unix_nano: String,
    observed_time_unix_nano: String,
    severity_number: u8,
    severity_text: &'static str,
    body: AnyValue<'a>,
    attributes: [Attribute<'a>; 5],
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    span_id: Option<String>,
}

impl<'a> JsonRecord<'a> {
    fn of(record: &'a LogRecord<'a>) -> Self {
        let time = record.time.to_string();
        let [id, kind, audit_id, h] = record.texts().map(Attribute::text);
        let seq = Attribute { key: SEQ, value: AnyValue::IntValue(record.seq.to_string()) };
        Self {
            observed_time_unix_nano: time.clone(),
            time_unix_nano: time,
            severity_number: record.severity.number(),
            severity_text: record.severity.text(),
            body: AnyValue::StringValue(record.body),
            attributes: [id, seq, kind, audit_id, h],
            trace_id: record.trace.as_ref().map(|id| hex(id)),
            span_id: record.span.as_ref().map(|id| hex(id)),
        }
    }
}

#[derive(Serialize)]
struct Attribute<'a> {
    key: &'static str,
    value: AnyValue<'a>,
}

impl<'a> Attribute<'a> {
    const fn text((key, value): (&'static str, &'a str)) -> Self {
        Self { key, value: AnyValue::StringValue(value) }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum AnyValue<'a> {
    StringValue(&'a str),
    IntValue(String),
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    machines::ids::write_hex(bytes, &mut text);
    text
}
