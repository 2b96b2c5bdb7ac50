use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord as Reference, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::resource::v1::Resource;
use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::testing::{NOW, Said, batch, decisions};

/// The same request by the generated structures.
fn reference(batch: &Batch, from: usize, to: usize) -> ExportLogsServiceRequest {
    let value = |value| Some(AnyValue { value: Some(value) });
    let text = |key: &str, text: &str| KeyValue {
        key: key.into(),
        value: value(any_value::Value::StringValue(text.into())),
        ..KeyValue::default()
    };
    let hex = |text: &str| -> Vec<u8> {
        (0..text.len() / 2).map(|at| u8::from_str_radix(&text[at * 2..at * 2 + 2], 16).unwrap()).collect()
    };
    let record = |frame: Frame<'_>| {
        let (number, words) = match (frame.kind, frame.body.contains("\"decision\":\"deny\"")) {
            (Kind::Error, _) => (17, "ERROR"),
            (Kind::Decision, true) => (13, "WARN"),
            _ => (9, "INFO"),
        };
        let time = NOW.as_micros() * 1_000;
        let seq = i64::try_from(frame.seq.get()).unwrap();
        Reference {
            time_unix_nano: time,
            observed_time_unix_nano: time,
            severity_number: number,
            severity_text: words.into(),
            body: value(any_value::Value::StringValue(frame.body.into())),
            attributes: vec![
                text("autonomy.event_id", &event_id(&batch.node_id, &frame)),
                KeyValue {
                    key: "autonomy.seq".into(),
                    value: value(any_value::Value::IntValue(seq)),
                    ..KeyValue::default()
                },
                text("autonomy.kind", frame.kind.as_str()),
                text("autonomy.audit_id", &frame.audit_id.to_string()),
                text("autonomy.h", &frame.h.to_string()),
            ],
            trace_id: hex(frame.trace_id),
            span_id: hex(frame.span_id),
            ..Reference::default()
        }
    };
    let resource = Resource {
        attributes: vec![
            text("service.name", "autonomy"),
            text("service.instance.id", &batch.node_id),
            text("autonomy.log_id", &batch.log_id.to_string()),
        ],
        ..Resource::default()
    };
    let scope_logs =
        vec![ScopeLogs { log_records: batch.frames(from, to).map(record).collect(), ..ScopeLogs::default() }];
    let resource_logs = vec![ResourceLogs { resource: Some(resource), scope_logs, ..ResourceLogs::default() }];
    ExportLogsServiceRequest { resource_logs }
}

fn said() -> impl Strategy<Value = Said> {
    let kind = prop_oneof![Just(Kind::Decision), Just(Kind::Action), Just(Kind::Lifecycle), Just(Kind::Error)];
    let body = prop_oneof![
        any::<String>().prop_map(|text| serde_json::json!({ "message": text }).to_string()),
        Just("{\"decision\":\"deny\",\"reason\":\"no_match\"}".to_owned()),
        Just("{\"reason\":\"no_match\",\"decision\":\"deny\"}".to_owned()),
        Just("{\"decision\":\"allow\",\"reason\":\"denied not\"}".to_owned()),
        Just("{}".to_owned()),
    ];
    (kind, any::<bool>(), body).prop_map(|(kind, traced, body)| Said { kind, traced, body })
}

proptest! {
    #[test]
    fn both_encodings_say_what_the_generated_structures_say(
        node_id in "[a-zä\"\\\\.-]{1,40}",
        first in prop_oneof![1u64..1000, Just(u64::from(u32::MAX)), Just((1 << 62) - 1)],
        said in prop::collection::vec(said(), 1..20),
        cut in any::<prop::sample::Index>(),
    ) {
        let batch = batch(&node_id, first, &said);
        let from = cut.index(batch.len());
        let want = reference(&batch, from, batch.len());
        // The bytes differ in the place of one field at most.
        let bytes = to_protobuf(&batch, from, batch.len()).unwrap();
        prop_assert_eq!(bytes.len(), want.encoded_len());
        prop_assert_eq!(ExportLogsServiceRequest::decode(&*bytes).unwrap(), want.clone());
        let json = to_json(&batch, from, batch.len()).unwrap();
        let read: ExportLogsServiceRequest = serde_json::from_slice(&json).unwrap();
        prop_assert_eq!(read, want);
    }
}

#[test]
fn json_is_otlp_json() {
    let mut said = Said::new(Kind::Decision, "{\"decision\":\"deny\",\"reason\":\"a \\\"b\\\"\"}");
    said.traced = true;
    let batch = batch("node-7", 4, &[said]);
    let json: serde_json::Value = serde_json::from_slice(&to_json(&batch, 0, 1).unwrap()).unwrap();
    let logs = &json["resourceLogs"][0];
    assert_eq!(logs["resource"]["attributes"][1]["key"], "service.instance.id");
    assert_eq!(logs["resource"]["attributes"][1]["value"]["stringValue"], "node-7");
    let record = &logs["scopeLogs"][0]["logRecords"][0];
    assert_eq!(record["timeUnixNano"], "1795262400123456000");
    assert_eq!(record["observedTimeUnixNano"], "1795262400123456000");
    assert_eq!(record["severityNumber"], 13);
    assert_eq!(record["severityText"], "WARN");
    assert_eq!(record["traceId"], "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(record["spanId"], "b7ad6b7169203331");
    assert_eq!(record["attributes"][1]["key"], "autonomy.seq");
    assert_eq!(record["attributes"][1]["value"]["intValue"], "4");
    assert_eq!(record["body"]["stringValue"], "{\"decision\":\"deny\",\"reason\":\"a \\\"b\\\"\"}");
    let id = record["attributes"][0]["value"]["stringValue"].as_str().unwrap();
    let h = record["attributes"][4]["value"]["stringValue"].as_str().unwrap();
    assert_eq!(id, format!("node-7:wal:4:{}", &h[..16]));
}

#[test]
fn a_record_that_cannot_be_sent_is_an_error_and_not_left_out() {
    let batch = decisions(3);
    for (from, to) in [(0, 4), (2, 1), (1, 1), (3, 3), (usize::MAX, usize::MAX)] {
        let want = Err(EncodeError::OutOfRange { from, to, len: 3 });
        assert_eq!(to_protobuf(&batch, from, to), want);
        assert_eq!(to_json(&batch, from, to), want);
    }
    let mut batch = decisions(2);
    let last = batch.items()[1].seq;
    batch.push(b"{\"seq\":3}\n", last.next().unwrap(), Kind::Decision);
    assert_eq!(to_protobuf(&batch, 0, 3), Err(EncodeError::NotAFrame(2)));
    assert_eq!(to_json(&batch, 1, 3), Err(EncodeError::NotAFrame(2)));
    assert!(to_protobuf(&batch, 0, 2).is_ok());
}
