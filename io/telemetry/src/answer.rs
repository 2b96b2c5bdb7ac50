//! What a collector's answer says, as the drain machine wants it: status, `Retry-After`, body (SPEC 5).
//!
//! Only a 200 with an OTLP answer in it can mean that records were taken; whatever is in doubt is `Body::Other`.

use std::time::SystemTime;

use hyper::StatusCode;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, LOCATION, RETRY_AFTER};
use machines::net::{Answer, Body};
use machines::time::Span;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceResponse;
use prost::Message;
use serde_json::Value;

use crate::bounds;
use crate::client::Reply;

/// `google.rpc.Status`, the body of an OTLP error; its details are of no use here.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Status {
    /// A code of gRPC; HTTP's status says more.
    #[prost(int32, tag = "1")]
    pub code: i32,
    /// For people.
    #[prost(string, tag = "2")]
    pub message: String,
}

/// The forms of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `application/x-protobuf`.
    Protobuf,
    /// `application/json`.
    Json,
    /// Anything else.
    Text,
}

impl Form {
    /// The form that `Content-Type` names.
    pub fn of(headers: &HeaderMap) -> Self {
        let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let essence = value.split(';').next().unwrap_or_default().trim();
        if essence.eq_ignore_ascii_case("application/x-protobuf") {
            Self::Protobuf
        } else if essence.eq_ignore_ascii_case("application/json") {
            Self::Json
        } else {
            Self::Text
        }
    }
}

/// What a reply says.
pub fn read(reply: &Reply, now: SystemTime) -> Answer {
    Answer { status: reply.status.as_u16(), retry_after: retry_after(&reply.headers, now), body: body(reply) }
}

fn body(reply: &Reply) -> Body {
    let form = Form::of(&reply.headers);
    if let Some(coding) = reply.headers.get(CONTENT_ENCODING).filter(|coding| *coding != "identity") {
        // We asked for none. What is not decompressed cannot be a bomb (FAULTS N09).
        let coding = String::from_utf8_lossy(coding.as_bytes());
        return other(&format!("the answer is encoded as {coding}, which was not asked for"));
    }
    if reply.status.is_redirection() {
        let to = reply.headers.get(LOCATION).map_or("nowhere".into(), |to| String::from_utf8_lossy(to.as_bytes()));
        return other(&format!("a redirect that is not followed, to {to}"));
    }
    if reply.status == StatusCode::OK {
        let taken = match form {
            Form::Protobuf => taken_protobuf(&reply.body),
            Form::Json => taken_json(&reply.body),
            Form::Text => None,
        };
        if let Some(body) = taken {
            return body;
        }
    }
    Body::Other { words: words(form, &reply.body) }
}

fn other(words: &str) -> Body {
    Body::Other { words: clean(words.chars()) }
}

fn taken_protobuf(body: &[u8]) -> Option<Body> {
    let response = ExportLogsServiceResponse::decode(body).ok()?;
    let partial = response.partial_success.unwrap_or_default();
    Some(taken(partial.rejected_log_records, &partial.error_message))
}

/// A JSON answer. An object of other members alone is some other service's: a wrong URL must not empty the log.
fn taken_json(body: &[u8]) -> Option<Body> {
    let value: Value = serde_json::from_slice(body).ok()?;
    let object = value.as_object()?;
    let partial = match object.get("partialSuccess").or_else(|| object.get("partial_success")) {
        None | Some(Value::Null) => {
            return (object.is_empty() || object.contains_key("partialSuccess")).then(|| taken(0, ""));
        }
        Some(partial) => partial.as_object()?,
    };
    let get = |camel: &str, snake: &str| partial.get(camel).or_else(|| partial.get(snake));
    let rejected = match get("rejectedLogRecords", "rejected_log_records") {
        None | Some(Value::Null) => 0,
        Some(Value::String(text)) => text.parse().ok()?,
        Some(number) => number.as_i64()?,
    };
    let message = match get("errorMessage", "error_message") {
        None | Some(Value::Null) => "",
        Some(text) => text.as_str()?,
    };
    Some(taken(rejected, message))
}

fn taken(rejected: i64, message: &str) -> Body {
    let words = clean(message.chars());
    match u64::try_from(rejected) {
        Ok(0) | Err(_) => Body::Full { words },
        Ok(rejected) => Body::Partial { rejected, words },
    }
}

/// The words of a body that is no OTLP answer: the message of a `google.rpc.Status`, else the text as it is.
pub fn words(form: Form, body: &[u8]) -> String {
    let message = match form {
        Form::Protobuf => Status::decode(body).ok().map(|status| status.message),
        Form::Json => serde_json::from_slice(body).ok().and_then(|value: Value| message_of(&value)),
        Form::Text => None,
    };
    match message {
        Some(message) => clean(message.chars()),
        None => clean(String::from_utf8_lossy(body).chars()),
    }
}

fn message_of(value: &Value) -> Option<String> {
    Some(value.get("message")?.as_str()?.to_owned())
}

/// A peer's words made fit for a terminal and a log: no control characters, at most 1 KiB.
pub fn clean(text: impl IntoIterator<Item = char>) -> String {
    let mut out = String::new();
    for c in text {
        let c = if c.is_control() || is_layout(c) { ' ' } else { c };
        if out.len() + c.len_utf8() > bounds::WORDS {
            break;
        }
        if c != ' ' || !(out.is_empty() || out.ends_with(' ')) {
            out.push(c);
        }
    }
    out.truncate(out.trim_end().len());
    out
}

/// Characters that change how the text around them is shown: line and paragraph separators, directions.
const fn is_layout(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// `Retry-After`: seconds, or a date as a span from `now`. Anything else is as good as absent.
pub fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Span> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return Some(Span::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    let left = date.duration_since(now).unwrap_or_default();
    Some(Span::from_nanos(u64::try_from(left.as_nanos()).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use hyper::header::HeaderValue;
    use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsPartialSuccess;

    use super::*;

    fn reply(status: u16, kind: &str, body: impl Into<Bytes>) -> Reply {
        let mut headers = HeaderMap::new();
        if !kind.is_empty() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_str(kind).unwrap());
        }
        Reply { status: StatusCode::from_u16(status).unwrap(), headers, body: body.into() }
    }

    fn full(words: &str) -> Body {
        Body::Full { words: words.into() }
    }

    const PROTOBUF: &str = "application/x-protobuf";
    const JSON: &str = "application/json";

    #[test]
    fn an_otlp_answer_is_read_in_both_encodings() {
        let rejected = |n, message: &str| {
            let partial = ExportLogsPartialSuccess { rejected_log_records: n, error_message: message.into() };
            ExportLogsServiceResponse { partial_success: Some(partial) }.encode_to_vec()
        };
        let partial = |n| Body::Partial { rejected: n, words: "too old".into() };
        for (kind, text, want) in [
            (PROTOBUF, Vec::new(), full("")),
            (PROTOBUF, rejected(0, ""), full("")),
            (PROTOBUF, rejected(0, "slow down"), full("slow down")),
            (PROTOBUF, rejected(3, "too old"), partial(3)),
            (PROTOBUF, rejected(-1, "odd"), full("odd")),
            (JSON, b"{}".to_vec(), full("")),
            ("Application/JSON; charset=utf-8", b"{\"partialSuccess\":{}}".to_vec(), full("")),
            (JSON, b"{\"partialSuccess\":null}".to_vec(), full("")),
            (JSON, br#"{"partialSuccess":{"rejectedLogRecords":"3","errorMessage":"too old"}}"#.to_vec(), partial(3)),
            (JSON, br#"{"partialSuccess":{"rejectedLogRecords":3,"errorMessage":"too old"}}"#.to_vec(), partial(3)),
            (
                JSON,
                br#"{"partial_success":{"rejected_log_records":"3","error_message":"too old"}}"#.to_vec(),
                partial(3),
            ),
        ] {
            assert_eq!(body(&reply(200, kind, text.clone())), want, "{kind} {text:?}");
        }
    }

    #[test]
    fn n18_a_200_that_is_no_otlp_answer_is_no_success() {
        for (kind, text) in [
            ("", ""),
            ("text/html", "<html>Welcome</html>"),
            (PROTOBUF, "<html>"),
            (JSON, ""),
            (JSON, "null"),
            (JSON, "[]"),
            (JSON, r#"{"status":"ok"}"#),
            (JSON, r#"{"partial_success":null}"#),
            (JSON, r#"{"partialSuccess":[]}"#),
            (JSON, r#"{"partialSuccess":{"rejectedLogRecords":"many"}}"#),
        ] {
            assert!(matches!(body(&reply(200, kind, text)), Body::Other { .. }), "{kind} {text}");
        }
        // Nor is any other status, whatever its body.
        assert!(matches!(body(&reply(202, JSON, "{}")), Body::Other { .. }));
        assert!(matches!(body(&reply(503, PROTOBUF, "")), Body::Other { .. }));
    }

    #[test]
    fn words_come_from_the_status_or_the_text() {
        let status = Status { code: 3, message: "no such\nthing".into() }.encode_to_vec();
        assert_eq!(body(&reply(400, PROTOBUF, status)), other("no such thing"));
        assert_eq!(body(&reply(400, JSON, r#"{"code":3,"message":"no"}"#)), other("no"));
        assert_eq!(body(&reply(400, JSON, r#"{"error":"x"}"#)), other(r#"{"error":"x"}"#));
        assert_eq!(body(&reply(400, "text/plain", "bad\u{1b}[2J\u{202e} thing \r\n")), other("bad [2J thing"));
        assert_eq!(body(&reply(400, "text/plain", vec![0xff, b'a'])), other("\u{fffd}a"));
        let Body::Other { words } = body(&reply(400, "", "ä".repeat(1000))) else { panic!() };
        assert_eq!(words, "ä".repeat(512));
    }

    #[test]
    fn n07_a_redirect_is_named_and_not_followed() {
        let mut reply = reply(307, "", "");
        reply.headers.insert(LOCATION, HeaderValue::from_static("http://evil.example/v1/logs"));
        assert_eq!(body(&reply), other("a redirect that is not followed, to http://evil.example/v1/logs"));
    }

    #[test]
    fn n09_an_encoded_answer_is_not_decoded() {
        let mut reply = reply(200, PROTOBUF, vec![0x1f, 0x8b, 8, 0]);
        reply.headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        assert_eq!(body(&reply), other("the answer is encoded as gzip, which was not asked for"));
    }

    #[test]
    fn n05_retry_after_is_read_as_seconds_or_as_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_700);
        let read = |text: &str| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_str(text).unwrap())]);
            retry_after(&headers, now)
        };
        assert_eq!(read("120"), Some(Span::from_secs(120)));
        assert_eq!(read(" 0 "), Some(Span::ZERO));
        assert_eq!(read("99999999999999999999999"), Some(Span::from_secs(u64::MAX)));
        assert_eq!(read("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Span::from_secs(77)));
        assert_eq!(read("Sat, 06 Nov 1993 08:49:37 GMT"), Some(Span::ZERO));
        for text in ["", "soon", "-1", "1.5", "+1"] {
            assert_eq!(read(text), None, "{text}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }
}
