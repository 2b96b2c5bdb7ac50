//! `ExportLogsServiceRequest` as protobuf, by hand: the generated structures want about fifteen strings for each record.
//! The tests hold every byte against them.

use machines::drain::batch::Batch;
use prost::encoding::encode_varint;

use super::{EncodeError, LogRecord, SEQ, records, resource};

// Wire types (protobuf encoding, "Message Structure").
const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const LEN: u8 = 2;

/// The tag byte of a field below 16.
const fn tag(field: u8, wire: u8) -> u8 {
    field << 3 | wire
}

/// The records from `from` up to `to` as one request.
///
/// # Errors
/// When the range is not in the batch or holds what is no frame.
pub fn encode(batch: &Batch, from: usize, to: usize) -> Result<Vec<u8>, EncodeError> {
    let count = to.saturating_sub(from);
    // A record is its body and about 300 bytes; a batch's frames carry as much around their bodies.
    let mut logs = Vec::with_capacity(batch.size().min(count.saturating_mul(2048)) + 256);
    let mut one = Vec::with_capacity(1024);
    for record in records(batch, from, to)? {
        one.clear();
        write_record(&record?, &mut one);
        // ScopeLogs.log_records
        delimited(2, &one, &mut logs);
    }
    let log_id = batch.log_id.to_string();
    let mut about = Vec::with_capacity(256);
    for (name, value) in resource(batch, &log_id) {
        // Resource.attributes
        write_attribute(1, name, Value::Text(value), &mut about);
    }
    let mut head = Vec::with_capacity(about.len() + 32);
    // ResourceLogs.resource
    delimited(1, &about, &mut head);
    // ResourceLogs.scope_logs
    head.push(tag(2, LEN));
    encode_varint(len64(logs.len()), &mut head);

    let mut request = Vec::with_capacity(head.len() + logs.len() + 16);
    // ExportLogsServiceRequest.resource_logs
    request.push(tag(1, LEN));
    encode_varint(len64(head.len() + logs.len()), &mut request);
    request.extend_from_slice(&head);
    request.extend_from_slice(&logs);
    Ok(request)
}

fn write_record(record: &LogRecord<'_>, out: &mut Vec<u8>) {
    out.push(tag(1, FIXED64)); // time_unix_nano
    out.extend_from_slice(&record.time.to_le_bytes());
    out.extend_from_slice(&[tag(2, VARINT), record.severity.number()]);
    delimited(3, record.severity.text().as_bytes(), out);
    // body: an AnyValue with string_value
    out.push(tag(5, LEN));
    encode_varint(len64(delimited_len(record.body.len())), out);
    delimited(1, record.body.as_bytes(), out);
    let [id, rest @ ..] = record.texts();
    write_attribute(6, id.0, Value::Text(id.1), out);
    write_attribute(6, SEQ, Value::Int(record.seq), out);
    for (name, value) in rest {
        write_attribute(6, name, Value::Text(value), out);
    }
    if let Some(trace) = &record.trace {
        delimited(9, trace, out);
    }
    if let Some(span) = &record.span {
        delimited(10, span, out);
    }
    out.push(tag(11, FIXED64)); // observed_time_unix_nano
    out.extend_from_slice(&record.time.to_le_bytes());
}

enum Value<'a> {
    Text(&'a str),
    Int(i64),
}

/// A `KeyValue` as field `field`.
fn write_attribute(field: u8, name: &str, value: Value<'_>, out: &mut Vec<u8>) {
    let number = |n: i64| u64::from_ne_bytes(n.to_ne_bytes());
    let value_len = match value {
        Value::Text(text) => delimited_len(text.len()),
        Value::Int(n) => 1 + prost::encoding::encoded_len_varint(number(n)),
    };
    out.push(tag(field, LEN));
    encode_varint(len64(delimited_len(name.len()) + delimited_len(value_len)), out);
    delimited(1, name.as_bytes(), out);
    out.push(tag(2, LEN));
    encode_varint(len64(value_len), out);
    match value {
        Value::Text(text) => delimited(1, text.as_bytes(), out),
        Value::Int(n) => {
            out.push(tag(3, VARINT));
            encode_varint(number(n), out);
        }
    }
}

fn delimited(field: u8, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(tag(field, LEN));
    encode_varint(len64(bytes.len()), out);
    out.extend_from_slice(bytes);
}

/// The length of a length-delimited field of `len` bytes, its tag of one byte included.
fn delimited_len(len: usize) -> usize {
    1 + prost::encoding::encoded_len_varint(len64(len)) + len
}

fn len64(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}
