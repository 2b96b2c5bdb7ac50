use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use machines::wal::frame::Kind;
use opentelemetry_proto::tonic::common::v1::AnyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use proptest::prelude::*;

use super::*;
use crate::encode::{to_json, to_protobuf};
use crate::testing::{NOW, Said, batch, decisions};

fn open(encoding: Encoding, body: impl Into<Bytes>) -> Result<LogsRequest, Refusal> {
    let kind = HeaderValue::from_static(encoding.content_type());
    LogsRequest::open(&HeaderMap::from_iter([(CONTENT_TYPE, kind)]), body.into())
}

fn packed(plain: &[u8]) -> Vec<u8> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
    packer.write_all(plain).unwrap();
    packer.finish().unwrap()
}

fn open_packed(body: Vec<u8>) -> Result<LogsRequest, Refusal> {
    let kind = HeaderValue::from_static("application/x-protobuf");
    let headers = HeaderMap::from_iter([(CONTENT_TYPE, kind), (CONTENT_ENCODING, HeaderValue::from_static("gzip"))]);
    LogsRequest::open(&headers, body.into())
}

fn all(request: &LogsRequest) -> Result<Vec<(Source, Received)>, Refusal> {
    let mut all = Vec::new();
    request.each(&mut |source, record| {
        all.push((source.clone(), Received::of(source, record)));
        Ok(())
    })?;
    Ok(all)
}

#[test]
fn what_the_exporter_sends_is_read_back_from_both_encodings() {
    let mut said = Said::new(Kind::Error, "{\"code\":\"x\"}");
    said.traced = true;
    let batch = batch("node-7", 41, &[Said::new(Kind::Action, "{}"), said]);
    for (encoding, body) in
        [(Encoding::Protobuf, to_protobuf(&batch, 0, 2).unwrap()), (Encoding::Json, to_json(&batch, 0, 2).unwrap())]
    {
        let request = open(encoding, body).unwrap();
        assert_eq!(request.count(), Ok(2));
        let read = all(&request).unwrap();
        let (source, record) = &read[1];
        assert_eq!(source.node_id.as_deref(), Some("node-7"));
        assert_eq!(source.log_id, Some(batch.log_id.to_string()));
        assert!(record.event_id.starts_with("node-7:wal:42:"), "{record:?}");
        assert_eq!((record.seq, record.kind.as_deref(), record.severity.as_str()), (Some(42), Some("error"), "ERROR"));
        assert_eq!((record.time, record.trace_id.as_str()), (NOW, "0af7651916cd43dd8448eb211c80319c"));
        assert_eq!((record.span_id.as_str(), record.body_text().as_str()), ("b7ad6b7169203331", "{\"code\":\"x\"}"));
        assert_eq!(record.h.as_deref().map(str::len), Some(64));
        assert!(record.attributes.is_empty());
        assert_eq!(read[0].1.trace_id, "");
    }
}

#[test]
fn a_record_without_an_id_always_gets_the_same_one() {
    let record = |text: &str| LogRecord {
        body: Some(AnyValue { value: Some(Any::StringValue(text.into())) }),
        ..LogRecord::default()
    };
    let source = Source::of(&Resource::default());
    let id = |text: &str| Received::of(&source, record(text)).event_id;
    assert_eq!(id("a"), id("a"));
    assert_ne!(id("a"), id("b"));
    assert!(id("a").starts_with("unknown:otlp:"));
    assert_eq!(id("a").len(), "unknown:otlp:".len() + 32);
}

#[test]
fn n09_a_compressed_request_is_bounded_by_what_it_becomes() {
    let plain = to_protobuf(&decisions(5), 0, 5).unwrap();
    assert_eq!(open_packed(packed(&plain)).unwrap().count(), Ok(5));
    let bomb = packed(&vec![0; bounds::REQUEST + 1]);
    assert!(bomb.len() < bounds::REQUEST / 100);
    assert!(matches!(open_packed(bomb), Err(Refusal::TooLarge(_))));
    assert!(matches!(open_packed(plain), Err(Refusal::Malformed(_))));
}

#[test]
fn n17_a_request_of_many_empty_records_is_refused_before_it_is_large() {
    // ResourceLogs { ScopeLogs { LogRecord {} … } }, two bytes each.
    let records = [0x12, 0x00].repeat(200_000);
    let wrap = |field: u8, inner: &[u8]| {
        let mut out = vec![field << 3 | 2];
        prost::encoding::encode_varint(u64::try_from(inner.len()).unwrap(), &mut out);
        out.extend_from_slice(inner);
        out
    };
    let request = open(Encoding::Protobuf, wrap(1, &wrap(2, &records))).unwrap();
    assert_eq!(request.count(), Ok(200_000));
    assert!(matches!(all(&request), Err(Refusal::TooLarge(_))));
    let json = format!("{{\"resourceLogs\":[{{\"scopeLogs\":[{{\"logRecords\":[{}{{}}]}}]}}]}}", "{},".repeat(300_000));
    let request = open(Encoding::Json, json).unwrap();
    assert!(matches!(all(&request), Err(Refusal::TooLarge(_))));
    assert!(matches!(request.count(), Err(Refusal::TooLarge(_))));
    // Commas in text are no values.
    let json = format!("{{\"x\":\"\\\"{}\"}}", ",{[".repeat(300_000));
    assert_eq!(open(Encoding::Json, json).unwrap().count(), Ok(0));
}

#[test]
fn types_and_codings_that_are_not_spoken_are_refused() {
    let with = |kind: &'static str, coding: &'static str| {
        let headers =
            [(CONTENT_TYPE, HeaderValue::from_static(kind)), (CONTENT_ENCODING, HeaderValue::from_static(coding))];
        LogsRequest::open(&HeaderMap::from_iter(headers), Bytes::new()).map(|_| ())
    };
    assert_eq!(with("application/json", "identity"), Ok(()));
    assert!(matches!(with("application/json", "br"), Err(Refusal::Unsupported(_))));
    assert!(matches!(with("text/plain", "identity"), Err(Refusal::Unsupported(_))));
    assert!(matches!(LogsRequest::open(&HeaderMap::new(), Bytes::new()), Err(Refusal::Unsupported(_))));
}

#[test]
fn json_that_is_no_request_is_malformed() {
    for text in [
        "",
        "[]",
        "{\"resourceLogs\":1}",
        "{\"resourceLogs\":[{\"scopeLogs\":[{\"logRecords\":[{\"traceId\":\"xy\"}]}]}]}",
    ] {
        assert!(matches!(all(&open(Encoding::Json, text).unwrap()), Err(Refusal::Malformed(_))), "{text}");
    }
    let deep = format!("{{\"resourceLogs\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(matches!(all(&open(Encoding::Json, deep).unwrap()), Err(Refusal::Malformed(_))));
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        for encoding in [Encoding::Protobuf, Encoding::Json] {
            let request = open(encoding, bytes.clone()).unwrap();
            let _ = (all(&request), request.count());
        }
        let _ = open_packed(bytes);
    }

    #[test]
    fn the_walk_reads_what_the_generated_structures_read(
        cut in any::<prop::sample::Index>(),
        flip in any::<prop::sample::Index>(),
        bit in 0..8u32,
    ) {
        let mut body = to_protobuf(&decisions(3), 0, 3).unwrap();
        let at = flip.index(body.len());
        body[at] ^= 1 << bit;
        body.truncate(cut.index(body.len()) + 1);
        let ours = all(&open(Encoding::Protobuf, body.clone()).unwrap());
        if let Ok(theirs) = ExportLogsServiceRequest::decode(&*body) {
            let records: usize = theirs.resource_logs.iter().flat_map(|r| &r.scope_logs).map(|s| s.log_records.len()).sum();
            let ours = ours.unwrap();
            prop_assert_eq!(ours.len(), records);
            let bodies = theirs.resource_logs.iter().flat_map(|r| &r.scope_logs).flat_map(|s| &s.log_records);
            for (ours, theirs) in ours.iter().zip(bodies) {
                let theirs = theirs.body.clone().map_or(Value::Null, value::json);
                prop_assert_eq!(&ours.1.body, &theirs);
            }
        }
    }
}
