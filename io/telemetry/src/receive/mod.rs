//! Reading OTLP log requests as a receiver: bounded, in both encodings, with or without gzip (FAULTS N09, N17).

#[cfg(test)]
mod tests;
mod value;
mod wire;

use std::io::Read;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{CONTENT_ENCODING, HeaderMap};
use machines::time::Wall;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use crate::answer::Form;
use crate::bounds;
use crate::exporter::Encoding;

/// Why a request is not taken.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// 400: it is no request of its encoding.
    #[error("not an OTLP request: {0}")]
    Malformed(String),
    /// 413: it is larger than any request may be.
    #[error("too large: {0}")]
    TooLarge(&'static str),
    /// 415: an encoding that is not spoken here.
    #[error("{0}")]
    Unsupported(&'static str),
}

impl Refusal {
    /// The status that says so.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Unsupported(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        }
    }
}

/// The bytes of a request, decompressed, and how they are encoded.
#[derive(Debug)]
pub struct LogsRequest {
    /// The encoding.
    pub encoding: Encoding,
    bytes: Bytes,
}

/// What the resource of records says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// `service.instance.id`.
    pub node_id: Option<String>,
    /// `autonomy.log_id`.
    pub log_id: Option<String>,
    /// The hash of all of it, for the ids of records that have none.
    digest: [u8; 32],
}

/// One record, as far as it matters here.
#[derive(Clone, Debug, PartialEq)]
pub struct Received {
    /// `autonomy.event_id`; of a record without one, an id that the same record always has.
    pub event_id: String,
    /// `autonomy.seq`.
    pub seq: Option<i64>,
    /// `autonomy.kind`.
    pub kind: Option<String>,
    /// `autonomy.audit_id`.
    pub audit_id: Option<String>,
    /// `autonomy.h`.
    pub h: Option<String>,
    /// The severity's text, else its number.
    pub severity: String,
    /// When it happened, else when it was observed.
    pub time: Wall,
    /// 32 hex digits or nothing.
    pub trace_id: String,
    /// 16 hex digits or nothing.
    pub span_id: String,
    /// The body: a string, as a rule.
    pub body: Value,
    /// Every other attribute.
    pub attributes: Map<String, Value>,
}

/// Takes one record of a request.
pub type Visit<'a> = dyn FnMut(&Source, LogRecord) -> Result<(), Refusal> + 'a;

impl LogsRequest {
    /// The request in a body with these headers; decompresses it.
    ///
    /// # Errors
    /// When it is of an unknown type or coding, is not gzip as it says, or becomes too large.
    pub fn open(headers: &HeaderMap, body: Bytes) -> Result<Self, Refusal> {
        let encoding = encoding(headers)?;
        let coding = headers.get(CONTENT_ENCODING).map(|coding| coding.as_bytes().to_ascii_lowercase());
        let bytes = match coding.as_deref() {
            None | Some(b"identity") => body,
            Some(b"gzip") => gunzip(&body, bounds::REQUEST)?,
            Some(_) => return Err(Refusal::Unsupported("Content-Encoding must be gzip or absent")),
        };
        Ok(Self { encoding, bytes })
    }

    /// Gives each record to `visit`, in order, and returns their number.
    ///
    /// # Errors
    /// When it is malformed or too large, which may show after some records; or what `visit` returned.
    pub fn each(&self, visit: &mut Visit<'_>) -> Result<u64, Refusal> {
        let mut records = 0;
        let mut counted = |source: &Source, record: LogRecord| {
            records += 1;
            if records > bounds::RECORDS {
                return Err(Refusal::TooLarge("more than 131072 records"));
            }
            visit(source, record)
        };
        match self.encoding {
            Encoding::Protobuf => wire::each(&self.bytes, &mut counted)?,
            Encoding::Json => {
                check_nodes(&self.bytes)?;
                let request: ExportLogsServiceRequest = json(&self.bytes)?;
                for resource_logs in request.resource_logs {
                    let source = Source::of(&resource_logs.resource.unwrap_or_default());
                    for record in resource_logs.scope_logs.into_iter().flat_map(|scope| scope.log_records) {
                        counted(&source, record)?;
                    }
                }
            }
        }
        Ok(records)
    }

    /// How many records there are, read no further than that takes.
    ///
    /// # Errors
    /// When it is malformed around the records.
    pub fn count(&self) -> Result<u64, Refusal> {
        match self.encoding {
            Encoding::Protobuf => wire::count(&self.bytes),
            Encoding::Json => {
                check_nodes(&self.bytes)?;
                let request: Outline = json(&self.bytes)?;
                let scopes = request.resource_logs.iter().flat_map(|resource| &resource.scope_logs);
                Ok(u64::try_from(scopes.map(|scope| scope.log_records.len()).sum::<usize>()).unwrap_or(u64::MAX))
            }
        }
    }
}

/// A JSON request of which only the number of records is of interest.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Outline {
    resource_logs: Vec<OutlineResource>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct OutlineResource {
    scope_logs: Vec<OutlineScope>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct OutlineScope {
    log_records: Vec<IgnoredAny>,
}

/// The encoding that a request's headers name.
///
/// # Errors
/// When it is neither.
pub fn encoding(headers: &HeaderMap) -> Result<Encoding, Refusal> {
    match Form::of(headers) {
        Form::Protobuf => Ok(Encoding::Protobuf),
        Form::Json => Ok(Encoding::Json),
        Form::Text => Err(Refusal::Unsupported("Content-Type must be application/x-protobuf or application/json")),
    }
}

fn json<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Refusal> {
    serde_json::from_slice(bytes).map_err(|error| Refusal::Malformed(error.to_string()))
}

fn gunzip(body: &[u8], cap: usize) -> Result<Bytes, Refusal> {
    let mut plain = Vec::with_capacity(body.len().saturating_mul(4).min(cap));
    let past = u64::try_from(cap).unwrap_or(u64::MAX).saturating_add(1);
    let mut decoder = flate2::read::MultiGzDecoder::new(body).take(past);
    decoder.read_to_end(&mut plain).map_err(|error| Refusal::Malformed(format!("gzip: {error}")))?;
    if plain.len() > cap {
        return Err(Refusal::TooLarge("more than 64 MiB decompressed"));
    }
    Ok(Bytes::from(plain))
}

/// Refuses JSON of so many values that they would take much more memory than their text: a pass over the bytes that
/// counts what opens or separates values outside of strings.
fn check_nodes(json: &[u8]) -> Result<(), Refusal> {
    // The generated structures read a list as a message, too.
    if json.trim_ascii_start().first() != Some(&b'{') {
        return Err(Refusal::Malformed("it is no JSON object".into()));
    }
    let (mut nodes, mut in_string, mut escaped) = (0usize, false, false);
    for byte in json {
        match (in_string, *byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => in_string = !in_string,
            (false, b'{' | b'[' | b',') => nodes += 1,
            (true | false, _) => {}
        }
    }
    if nodes > bounds::JSON_NODES { Err(Refusal::TooLarge("more than 500000 values")) } else { Ok(()) }
}

impl Source {
    fn of(resource: &Resource) -> Self {
        let text = |name: &str| {
            let found = resource.attributes.iter().find(|attribute| attribute.key == name)?;
            value::text(found.value.as_ref()?).map(str::to_owned)
        };
        Self {
            node_id: text("service.instance.id"),
            log_id: text("autonomy.log_id"),
            digest: *blake3::hash(&resource.encode_to_vec()).as_bytes(),
        }
    }
}

impl Received {
    /// What a record says.
    #[must_use]
    pub fn of(source: &Source, record: LogRecord) -> Self {
        // Before the record is taken apart; it is needed rarely.
        let known = record.attributes.iter().find(|attribute| attribute.key == "autonomy.event_id");
        let known = known.and_then(|attribute| value::text(attribute.value.as_ref()?)).filter(|id| !id.is_empty());
        let event_id = known.map_or_else(|| derived_id(source, &record), str::to_owned);
        let nanos = if record.time_unix_nano > 0 { record.time_unix_nano } else { record.observed_time_unix_nano };
        let severity = match record.severity_text {
            text if text.is_empty() => record.severity_number.to_string(),
            text => text,
        };
        let mut received = Self {
            event_id,
            seq: None,
            kind: None,
            audit_id: None,
            h: None,
            severity,
            time: Wall::from_micros(nanos / 1_000),
            trace_id: hex(&record.trace_id),
            span_id: hex(&record.span_id),
            body: record.body.map_or(Value::Null, value::json),
            attributes: Map::new(),
        };
        for attribute in record.attributes {
            let value = attribute.value.map_or(Value::Null, value::json);
            received.take(attribute.key, value);
        }
        received
    }

    fn take(&mut self, name: String, value: Value) {
        match (name.as_str(), value) {
            ("autonomy.event_id", Value::String(_)) => {}
            ("autonomy.seq", Value::Number(number)) if number.is_i64() => self.seq = number.as_i64(),
            ("autonomy.kind", Value::String(text)) => self.kind = Some(text),
            ("autonomy.audit_id", Value::String(text)) => self.audit_id = Some(text),
            ("autonomy.h", Value::String(text)) => self.h = Some(text),
            (_, value) => {
                self.attributes.insert(name, value);
            }
        }
    }

    /// The body as text: a string as it is, anything else as JSON.
    #[must_use]
    pub fn body_text(&self) -> String {
        match &self.body {
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            other @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => other.to_string(),
        }
    }
}

/// `<node id or unknown>:otlp:<32 hex digits>` over the resource and the record.
fn derived_id(source: &Source, record: &LogRecord) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&source.digest);
    hasher.update(&record.encode_to_vec());
    let hash = hasher.finalize();
    let (head, _) = hash.as_bytes().split_at(16);
    format!("{}:otlp:{}", source.node_id.as_deref().unwrap_or("unknown"), hex(head))
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    machines::ids::write_hex(bytes, &mut text);
    text
}
