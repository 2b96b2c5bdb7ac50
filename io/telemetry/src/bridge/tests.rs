use std::sync::Mutex;

use machines::net::{Answer as Got, Body, Export, Got as Ended};
use machines::time::Span;
use machines::wal::frame::Kind;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::*;
use crate::testing::{Said, answer, batch, decisions, export, peer, request};
use crate::{Encoding, Exporter, ExporterConfig};

type Answers = fn(usize, &Value) -> Vec<u8>;

/// A control plane that answers as it is told, and what it was sent.
async fn control_plane(answers: Answers) -> (String, Arc<Mutex<Vec<Value>>>) {
    let sent = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&sent);
    let address = peer(move |mut stream, _| {
        let seen = Arc::clone(&seen);
        async move {
            while let Some((head, body)) = request(&mut stream).await {
                assert!(head.starts_with("post /v1/events http/1.1\r\n"), "{head}");
                assert!(head.contains("\r\ncontent-type: application/json\r\n"), "{head}");
                let body: Value = serde_json::from_slice(&body).unwrap();
                let bytes = {
                    let mut seen = seen.lock().unwrap();
                    seen.push(body.clone());
                    answers(seen.len(), &body)
                };
                if bytes.is_empty() {
                    return;
                }
                stream.write_all(&bytes).await.unwrap();
            }
        }
    })
    .await;
    (format!("http://{address}"), sent)
}

fn inserted(body: &Value, conflict: usize) -> Vec<u8> {
    let n = body["events"].as_array().unwrap().len();
    let text = json!({ "received": n, "inserted": n - conflict, "deduped": 0, "conflict": conflict }).to_string();
    answer("200 OK", "content-type: application/json\r\n", &text)
}

async fn send(forward_url: &str, encoding: Encoding, operation: &Export) -> Ended {
    let config = BridgeConfig { timeout: Duration::from_secs(2), ..BridgeConfig::new("127.0.0.1:0", forward_url) };
    let bridge = Bridge::bind(&config).await.unwrap();
    let endpoint = format!("http://{}", bridge.addr());
    let task = tokio::spawn(bridge.run(std::future::pending()));
    let config = ExporterConfig { encoding, ..ExporterConfig::new(endpoint) };
    let got = Exporter::new(&config).unwrap().export(operation).await;
    task.abort();
    got
}

fn full() -> Ended {
    Ended::Answered(Got { status: 200, retry_after: None, body: Body::Full { words: String::new() } })
}

fn busy(seconds: u64, words: &str) -> Ended {
    let body = Body::Other { words: words.into() };
    Ended::Answered(Got { status: 503, retry_after: Some(Span::from_secs(seconds)), body })
}

#[tokio::test]
async fn records_arrive_as_events() {
    let mut decision = Said::new(Kind::Decision, r#"{"decision":"allow","tool":"tool.echo"}"#);
    decision.traced = true;
    let phase = r#"{"phase":"activated","release_id":"rel-1","lock_fingerprint":"blake3:ab"}"#;
    let said =
        [decision, Said::new(Kind::Action, "{}"), Said::new(Kind::Lifecycle, phase), Said::new(Kind::Error, "{}")];
    let operation = export(batch("node-7", 5, &said));
    let (url, sent) = control_plane(|_, body| inserted(body, 0)).await;
    for encoding in [Encoding::Protobuf, Encoding::Json] {
        assert_eq!(send(&url, encoding, &operation).await, full());
    }
    let sent = sent.lock().unwrap();
    assert_eq!((sent.len(), &sent[0]), (2, &sent[1]));
    let events = sent[0]["events"].as_array().unwrap();
    let types: Vec<_> = events.iter().map(|event| event["event_type"].as_str().unwrap()).collect();
    assert_eq!(types, ["ai.policy.decision", "ai.agent.action", "ai.agent.lifecycle", "ai.agent.error"]);
    let first = &events[0];
    assert!(first["event_id"].as_str().unwrap().starts_with("node-7:wal:5:"));
    assert_eq!(first["node_id"], "node-7");
    assert_eq!(first["timestamp"], "2026-11-21T12:00:00.123456Z");
    assert_eq!(first["data"]["body"], json!({ "decision": "allow", "tool": "tool.echo" }));
    assert_eq!(first["data"]["seq"], 5);
    assert_eq!(first["data"]["trace_id"], "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(first["data"]["log_id"], operation.batch.log_id.to_string());
    assert_eq!(first.get("release_id"), None);
    assert_eq!((&events[2]["release_id"], &events[2]["lock_fingerprint"]), (&json!("rel-1"), &json!("blake3:ab")));
}

#[tokio::test]
async fn a_large_request_is_forwarded_in_parts() {
    let (url, sent) = control_plane(|_, body| inserted(body, 0)).await;
    assert_eq!(send(&url, Encoding::Protobuf, &export(decisions(1200))).await, full());
    let sent = sent.lock().unwrap();
    let counts: Vec<_> = sent.iter().map(|body| body["events"].as_array().unwrap().len()).collect();
    assert_eq!(counts, [500, 500, 200]);
    let seqs = sent.iter().flat_map(|body| body["events"].as_array().unwrap()).map(|event| &event["data"]["seq"]);
    assert!(seqs.zip(1..).all(|(seq, want)| *seq == want));
}

#[tokio::test]
async fn long_events_make_small_parts() {
    let long = format!("{{\"x\":\"{}\"}}", "y".repeat(200_000));
    let (url, sent) = control_plane(|_, body| inserted(body, 0)).await;
    let operation = export(batch("node-7", 1, &vec![Said::new(Kind::Error, long); 5]));
    assert_eq!(send(&url, Encoding::Protobuf, &operation).await, full());
    let sent = sent.lock().unwrap();
    let counts: Vec<_> = sent.iter().map(|body| body["events"].as_array().unwrap().len()).collect();
    assert_eq!(counts, [2, 2, 1]);
}

#[tokio::test]
async fn n05_nothing_is_acknowledged_that_was_not_forwarded() {
    let cases: [(Answers, u64, &str); 6] = [
        (
            |_, _| answer("503 Busy", "retry-after: 9\r\ncontent-type: application/json\r\n", r#"{"message":"busy"}"#),
            9,
            "the control plane answered 503: busy",
        ),
        (|_, _| answer("400 Bad", "", "no\u{1b}"), 5, "the control plane answered 400: no"),
        (|_, _| answer("302 Found", "location: http://evil.example/\r\n", ""), 5, "the control plane answered 302: "),
        (
            |_, _| answer("200 OK", "content-type: application/json\r\n", r#"{"received":2}"#),
            5,
            "the control plane received 2 of 3 events",
        ),
        (|_, _| answer("200 OK", "", "ok"), 5, "the control plane's answer is not understood: ok"),
        (
            |_, _| Vec::new(),
            5,
            "the control plane cannot be reached: connection broken: closed before the whole answer came",
        ),
    ];
    for (answers, seconds, words) in cases {
        let (url, _) = control_plane(answers).await;
        let got = send(&url, Encoding::Json, &export(decisions(3))).await;
        assert_eq!(got, busy(seconds, words.trim_end()), "{words}");
    }
}

#[tokio::test]
async fn n11_a_part_that_fails_leaves_the_whole_unacknowledged() {
    let (url, sent) = control_plane(|n, body| match n {
        1 => inserted(body, 0),
        _ => answer("507 Full", "", "disk full"),
    })
    .await;
    let got = send(&url, Encoding::Protobuf, &export(decisions(600))).await;
    assert_eq!(got, busy(5, "the control plane answered 507: disk full"));
    assert_eq!(sent.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn n01_a_control_plane_that_is_down_or_silent_is_503() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let got = send(&format!("http://{free}"), Encoding::Protobuf, &export(decisions(3))).await;
    assert_eq!(got, busy(5, "the control plane cannot be reached: connection refused"));
    let silent = peer(|mut stream, _| async move {
        request(&mut stream).await;
        std::future::pending().await
    })
    .await;
    let got = send(&format!("http://{silent}"), Encoding::Protobuf, &export(decisions(3))).await;
    assert_eq!(got, busy(5, "the control plane cannot be reached: no answer in time"));
}

#[tokio::test]
async fn u13_events_that_the_control_plane_has_with_other_content_are_reported() {
    let (url, _) = control_plane(|_, body| inserted(body, 2)).await;
    for encoding in [Encoding::Protobuf, Encoding::Json] {
        let got = send(&url, encoding, &export(decisions(3))).await;
        let words = "the control plane has other events under the same ids".into();
        let body = Body::Partial { rejected: 2, words };
        assert_eq!(got, Ended::Answered(Got { status: 200, retry_after: None, body }));
    }
}

#[tokio::test]
async fn what_cannot_work_is_refused_at_the_start() {
    let refused = async |change: fn(&mut BridgeConfig)| {
        let mut config = BridgeConfig::new("127.0.0.1:0", "http://127.0.0.1:8888");
        change(&mut config);
        Bridge::bind(&config).await.unwrap_err().to_string()
    };
    assert!(refused(|c| c.forward_url = "control".into()).await.contains("must begin with http:// or https://"));
    assert!(refused(|c| c.cert = Some("c.pem".into())).await.contains("http, which uses no certificate"));
    assert!(refused(|c| c.listen = "nowhere".into()).await.starts_with("nowhere: cannot be listened on"));
}
