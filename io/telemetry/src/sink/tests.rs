use std::time::Duration;

use bytes::Bytes;
use hyper::HeaderMap;
use machines::net::{Answer as Got, Body, Export, Fault, Got as Ended};
use machines::time::Span;
use machines::wal::frame::Kind;
use serde_json::Value;

use super::*;
use crate::client::{Client, Target, Tcp, tls_config};
use crate::testing::{Said, batch, decisions, export};
use crate::{Encoding, Exporter, ExporterConfig};

struct Running {
    address: SocketAddr,
    handle: SinkHandle,
    dir: tempfile::TempDir,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    async fn start(behave: Behave) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config =
            SinkConfig { listen: "127.0.0.1:0".into(), dir: Some(dir.path().to_owned()), behave, hosts: Vec::new() };
        let sink = Sink::bind(&config).await.unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (address, handle) = (sink.addr(), sink.handle());
        let task = tokio::spawn(sink.run(async {
            let _ = stopped.await;
        }));
        Self { address, handle, dir, stop: Some(stop), task }
    }

    fn exporter(&self, encoding: Encoding) -> Exporter {
        let config = ExporterConfig { encoding, ..ExporterConfig::new(format!("http://{}", self.address)) };
        Exporter::new(&config).unwrap()
    }

    fn lines(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.dir.path().join("records.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn counts(&self) -> (u64, u64, Option<u64>, Option<u64>) {
        let stats = self.handle.stats();
        (stats.requests, stats.records, stats.unique, stats.duplicates)
    }
}

/// The status of the answer to a `POST` without a body.
async fn post(address: SocketAddr, path: &str) -> u16 {
    let target = Target::parse(&format!("http://{address}"), path).unwrap();
    let client = Client::new(Tcp, target, tls_config(None, None, None).unwrap()).unwrap();
    client.post(HeaderMap::new(), Bytes::new(), Duration::from_secs(5)).await.unwrap().status.as_u16()
}

fn full() -> Ended {
    Ended::Answered(Got { status: 200, retry_after: None, body: Body::Full { words: String::new() } })
}

fn refused(status: u16, words: &str) -> Ended {
    Ended::Answered(Got { status, retry_after: Some(Span::from_secs(1)), body: Body::Other { words: words.into() } })
}

#[tokio::test]
async fn what_is_accepted_stands_in_the_file() {
    let sink = Running::start(Behave::Accept).await;
    let mut said = Said::new(Kind::Decision, r#"{"decision":"deny","reason":"no \"match\""}"#);
    said.traced = true;
    let batch = batch("node-7", 9, &[Said::new(Kind::Error, "{\"code\":\"x\"}"), said]);
    let log_id = batch.log_id.to_string();
    let operation = export(batch);
    for encoding in [Encoding::Protobuf, Encoding::Json] {
        assert_eq!(sink.exporter(encoding).export(&operation).await, full());
    }
    let lines = sink.lines();
    assert_eq!(lines.len(), 4);
    assert_eq!(lines[0..2], lines[2..4]);
    let line = &lines[1];
    for (name, want) in [
        ("kind", "decision"),
        ("severity", "WARN"),
        ("time", "2026-11-21T12:00:00.123456Z"),
        ("trace_id", "0af7651916cd43dd8448eb211c80319c"),
        ("span_id", "b7ad6b7169203331"),
        ("body", r#"{"decision":"deny","reason":"no \"match\""}"#),
        ("node_id", "node-7"),
        ("log_id", log_id.as_str()),
    ] {
        assert_eq!(line[name], want, "{line}");
    }
    assert_eq!(line["seq"], 10);
    assert!(line["event_id"].as_str().unwrap().starts_with("node-7:wal:10:"));
    assert_eq!(line["audit_id"].as_str().unwrap().len(), 36);
    assert_eq!(sink.counts(), (2, 4, Some(2), Some(2)));
}

#[tokio::test]
async fn n04_partial_rejects_the_last_record() {
    let sink = Running::start(Behave::Partial).await;
    for encoding in [Encoding::Protobuf, Encoding::Json] {
        let got = sink.exporter(encoding).export(&export(decisions(3))).await;
        let words = "the last record was rejected, as this sink was told".into();
        let body = Body::Partial { rejected: 1, words };
        assert_eq!(got, Ended::Answered(Got { status: 200, retry_after: None, body }));
    }
    assert_eq!(sink.counts(), (2, 4, Some(2), Some(2)));
    assert!(sink.lines().iter().all(|line| line["seq"] != 3));
}

#[tokio::test]
async fn n05_busy_answers_store_nothing_and_say_when_to_come_again() {
    let sink = Running::start(Behave::TooMany).await;
    for encoding in [Encoding::Protobuf, Encoding::Json] {
        assert_eq!(sink.exporter(encoding).export(&export(decisions(3))).await, refused(429, "slow down"));
    }
    assert_eq!(post(sink.address, "/behave?mode=503").await, 200);
    assert_eq!(sink.exporter(Encoding::Json).export(&export(decisions(3))).await, refused(503, "not now"));
    assert_eq!(sink.counts(), (3, 0, Some(0), Some(0)));
    assert!(sink.lines().is_empty());
}

#[tokio::test]
async fn n02_a_hanging_sink_stores_nothing_and_keeps_nobody_else_waiting() {
    let sink = Running::start(Behave::Hang).await;
    // More of them than bodies are held at once.
    let hanging = Export { timeout: Span::from_millis(300), ..export(decisions(3)) };
    for _ in 0..6 {
        assert_eq!(sink.exporter(Encoding::Protobuf).export(&hanging).await, Ended::Failed(Fault::TimedOut));
    }
    assert_eq!(sink.counts(), (6, 0, Some(0), Some(0)));
    assert_eq!(post(sink.address, "/behave?mode=accept").await, 200);
    assert_eq!(sink.exporter(Encoding::Protobuf).export(&hanging).await, full());
}

#[tokio::test]
async fn n03_a_cut_sink_has_stored_what_it_did_not_answer() {
    let sink = Running::start(Behave::Cut).await;
    let exporter = sink.exporter(Encoding::Protobuf);
    let operation = export(decisions(3));
    let got = exporter.export(&operation).await;
    assert_eq!(got, Ended::Failed(Fault::Broken("closed before the whole answer came".into())));
    assert_eq!(sink.lines().len(), 3);
    // Sent again, it is known.
    assert_eq!(post(sink.address, "/behave?mode=accept").await, 200);
    assert_eq!(exporter.export(&operation).await, full());
    assert_eq!(sink.counts(), (2, 6, Some(3), Some(3)));
}

#[tokio::test]
async fn n06_a_poisonous_record_refuses_its_batch() {
    let sink = Running::start(Behave::Accept).await;
    assert_eq!(post(sink.address, "/behave?mode=poison:number%202+of").await, 200);
    let exporter = sink.exporter(Encoding::Protobuf);
    let all = export(decisions(4));
    let got = exporter.export(&all).await;
    let words = "a record in it holds the text that this sink was told to refuse".into();
    assert_eq!(got, Ended::Answered(Got { status: 400, retry_after: None, body: Body::Other { words } }));
    assert_eq!(exporter.export(&Export { to: 2, ..all.clone() }).await, full());
    assert_eq!(exporter.export(&Export { from: 3, ..all }).await, full());
    assert_eq!(sink.counts(), (3, 3, Some(3), Some(0)));
}

#[tokio::test]
async fn a_discarding_sink_counts_records() {
    let sink = Running::start(Behave::Discard).await;
    for encoding in [Encoding::Protobuf, Encoding::Json] {
        assert_eq!(sink.exporter(encoding).export(&export(decisions(200))).await, full());
    }
    assert_eq!(sink.counts(), (2, 400, None, None));
    assert!(sink.lines().is_empty());
}

#[tokio::test]
async fn n17_what_is_no_request_is_refused_by_its_status() {
    let sink = Running::start(Behave::Accept).await;
    let raw = async |text: String| {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(sink.address).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = vec![0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        String::from_utf8(answer).unwrap()[9..].parse::<u16>().unwrap()
    };
    let head = |line: &str, more: &str| format!("{line} HTTP/1.1\r\nhost: localhost\r\n{more}\r\n");
    let json = "content-type: application/json\r\n";
    for (text, status) in [
        (head("GET /stats", ""), 200),
        (head("GET /v1/logs", ""), 405),
        (head("POST /stats", "content-length: 0\r\n"), 405),
        (head("GET /behave?mode=503", ""), 405),
        (head("POST /behave?mode=sleep", "content-length: 0\r\n"), 400),
        (head("POST /behave", "content-length: 0\r\n"), 400),
        (head("GET /", ""), 404),
        (head("POST /v1/logs", "content-length: 0\r\n"), 415),
        (head("POST /v1/logs", &format!("{json}content-length: 0\r\n")), 400),
        (head("POST /v1/logs", &format!("{json}content-length: 100000000\r\n")), 413),
        (head("POST /v1/logs", &format!("{json}content-encoding: br\r\ncontent-length: 0\r\n")), 415),
        (head("POST /v1/logs", &format!("{json}content-length: 2\r\n")) + "{}", 200),
        (head("GET /stats", "origin: http://evil.example\r\n"), 403),
        ("GET /stats HTTP/1.1\r\nhost: evil.example\r\n\r\n".into(), 403),
        ("GET /stats HTTP/1.1\r\n\r\n".into(), 400),
        (head("GET /stats", &format!("x: {}\r\n", "y".repeat(20_000))), 431),
    ] {
        assert_eq!(raw(text.clone()).await, status, "{}", text.chars().take(80).collect::<String>());
    }
    assert_eq!(sink.counts().1, 0);
}

#[tokio::test]
async fn a_sink_stops_when_told_even_while_requests_hang() {
    let mut sink = Running::start(Behave::Hang).await;
    let exporter = sink.exporter(Encoding::Protobuf);
    let hanging = tokio::spawn(async move { exporter.export(&export(decisions(1))).await });
    while sink.counts().0 == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(sink.stop.take());
    tokio::time::timeout(Duration::from_secs(4), &mut sink.task).await.unwrap().unwrap();
    let got = hanging.await.unwrap();
    assert!(matches!(got, Ended::Failed(Fault::Broken(_))), "{got:?}");
}

#[tokio::test]
async fn an_address_or_folder_that_cannot_be_used_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let error = Sink::bind(&SinkConfig { listen: listen.clone(), ..SinkConfig::default() }).await.unwrap_err();
    assert!(error.to_string().starts_with(&listen), "{error}");
    let file = tempfile::NamedTempFile::new().unwrap();
    let config =
        SinkConfig { listen: "127.0.0.1:0".into(), dir: Some(file.path().to_owned()), ..SinkConfig::default() };
    let error = Sink::bind(&config).await.unwrap_err();
    assert!(error.to_string().contains("records cannot be stored there"), "{error}");
}

#[tokio::test]
async fn n17_a_request_over_the_bound_is_told_so() {
    let sink = Running::start(Behave::Accept).await;
    let config = ExporterConfig {
        gzip: false,
        encoding: Encoding::Json,
        ..ExporterConfig::new(format!("http://{}", sink.address))
    };
    let exporter = Exporter::new(&config).unwrap();
    let long = Said::new(Kind::Error, format!("{{\"x\":\"{}\"}}", "y".repeat(250_000)));
    let operation = Export { timeout: Span::from_secs(30), ..export(batch("node-7", 1, &vec![long; 300])) };
    for _ in 0..2 {
        let got = exporter.export(&operation).await;
        let Ended::Answered(answer) = got else { panic!("{got:?}") };
        assert_eq!(answer.status, 413);
    }
    assert_eq!(sink.counts().1, 0);
}
