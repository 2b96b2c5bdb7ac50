//! The drain from the outside: the command and the background against the sink and against collectors that misbehave.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

use machines::json::Value;

use crate::harness::{Connection, ECHO, Node, Runtime, SHELL, autonomy, finish, json, stderr, stdout, until};

/// A running sink.
struct Sink {
    process: Runtime,
    dir: tempfile::TempDir,
}

impl Sink {
    fn start(behave: &str) -> Self {
        Self::on("127.0.0.1:0", behave, tempfile::tempdir().unwrap())
    }

    fn on(listen: &str, behave: &str, dir: tempfile::TempDir) -> Self {
        let path = dir.path().to_str().unwrap();
        let args = ["telemetry", "sink", "--listen", listen, "--dir", path, "--behave", behave];
        let mut process = Runtime::spawn(autonomy(&args));
        let line = process.logged("listening on ");
        let address = line.split("listening on ").nth(1).unwrap().split_whitespace().next().unwrap();
        process.address = address.trim_start_matches("http://").parse().unwrap();
        Self { process, dir }
    }

    fn url(&self) -> String {
        format!("http://{}", self.process.address)
    }

    fn behave(&self, mode: &str) {
        let path = format!("/behave?mode={mode}");
        let answer = Connection::to(self.process.address).request("POST", &path, &["Content-Length: 0"], "");
        assert_eq!(answer.status, 200, "{}", answer.body);
    }

    /// How many requests it was sent.
    fn requests(&self) -> u64 {
        let stats = Connection::to(self.process.address).request("GET", "/stats", &[], "").json();
        stats.get("requests").and_then(Value::as_u64).unwrap()
    }

    /// What it stored, in order.
    fn records(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.dir.path().join("records.jsonl")).unwrap_or_default();
        text.lines().map(json).collect()
    }

    fn kinds(&self) -> Vec<String> {
        self.records().iter().map(|record| text(record, "kind")).collect()
    }

    fn ids(&self) -> Vec<String> {
        self.records().iter().map(|record| text(record, "event_id")).collect()
    }
}

fn text(value: &Value, field: &str) -> String {
    value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn drain(dir: &Path, url: &str, more: &[&str]) -> Output {
    let args = ["telemetry", "drain", "--dir", dir.to_str().unwrap(), "--endpoint", url];
    finish(&[&args[..], more].concat())
}

/// An address that nobody listens on.
fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A log of five calls: four echoes and a shell.
fn five_calls() -> Node {
    let node = Node::demo();
    let runtime = node.start(&[]);
    for call in [ECHO, SHELL, ECHO, ECHO, ECHO] {
        runtime.call(call);
    }
    runtime.stop();
    node
}

fn cursors(node: &Node) -> Option<String> {
    std::fs::read_to_string(node.telemetry().join("telemetry.pos")).ok()
}

/// The ids that the drain gives to the records of a log.
fn logged(node: &Node) -> BTreeSet<String> {
    let owner = text(&node.inspect(), "node_id");
    let id = |frame: &Value| {
        let seq = frame.get("seq").and_then(Value::as_u64).unwrap();
        format!("{owner}:wal:{seq}:{}", &text(frame, "h")[..16])
    };
    node.frames().iter().map(id).collect()
}

#[test]
fn act_three_of_the_story_word_for_word() {
    let node = five_calls();
    let dir = node.telemetry();
    let failed = drain(&dir, &format!("http://{}", nobody()), &[]);
    assert_eq!(failed.status.code(), Some(3));
    assert_eq!(stderr(&failed), "[drain] OTLP error: connection refused\ndrain failed: could not reach endpoint\n");
    assert_eq!(cursors(&node), None);

    let sink = Sink::start("accept");
    let done = drain(&dir, &sink.url(), &[]);
    assert_eq!(done.status.code(), Some(0), "{}", stderr(&done));
    assert_eq!(
        stdout(&done),
        "[drain] priority queue: 5 events (0 errors, 5 decisions, 0 lifecycle) + 4 actions\n\
         [drain] batch 1 accepted: 5 events\ndrain complete: 5 events sent\n"
    );
    assert_eq!(sink.ids().into_iter().collect::<BTreeSet<_>>(), logged(&node));
    let again = drain(&dir, &sink.url(), &[]);
    assert_eq!((again.status.code(), stdout(&again).lines().last()), (Some(0), Some("drain complete: 0 events sent")));
    assert_eq!(sink.records().len(), 9);
}

#[test]
fn records_carry_what_the_log_says() {
    for encoding in ["protobuf", "json"] {
        let node = Node::demo();
        let runtime = node.start(&["--node-id", "edge-7"]);
        let trace = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let headers = ["Content-Type: application/json", trace];
        let answer = runtime.connect().request("POST", "/v1/tool", &headers, ECHO);
        runtime.call(SHELL);
        runtime.stop();
        let sink = Sink::start("accept");
        let done = drain(&node.telemetry(), &sink.url(), &["--encoding", encoding, "--output", "json"]);
        let result = json(&stdout(&done));
        assert_eq!(result.get("events").and_then(Value::as_u64), Some(2), "{}", stderr(&done));
        let records = sink.records();
        let frames = node.frames();
        assert_eq!(records.len(), 3);
        for (record, frame) in records.iter().zip(&frames) {
            assert_eq!(record.get("seq").and_then(Value::as_u64), frame.get("seq").and_then(Value::as_u64));
            assert_eq!(text(record, "audit_id"), text(frame, "audit_id"));
            assert_eq!(text(record, "kind"), text(frame, "kind"));
            assert_eq!(text(record, "node_id"), "edge-7");
            assert_eq!(json(&text(record, "body")), *frame.get("body").unwrap(), "the body is the frame's");
        }
        assert_eq!(text(&records[0], "audit_id"), answer.text("audit_id"));
        assert_eq!(text(&records[0], "trace_id"), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(text(&records[0], "span_id"), "b7ad6b7169203331");
        let severities: Vec<String> = records.iter().map(|record| text(record, "severity")).collect();
        assert_eq!(severities, ["INFO", "INFO", "WARN"]);
    }
}

#[test]
fn n01_the_background_drains_by_itself_and_the_error_goes_first_after_an_outage() {
    let node = Node::demo();
    let dead = nobody();
    let runtime = node.start(&["--otlp-endpoint", &format!("http://{dead}")]);
    for _ in 0..20 {
        assert_eq!(runtime.call(ECHO).status, 200, "calls do not wait for the collector");
    }
    // Allowed, and it fails: an error event.
    assert_eq!(runtime.call(r#"{"kind":"tool.echo","params":{}}"#).status, 400);
    runtime.logged("drain.trouble");
    let trouble = runtime.get("/v1/status").json().get("drain").map(|drain| text(drain, "trouble"));
    assert_eq!(trouble.as_deref(), Some("connection refused"));
    let sink = Sink::on(&dead.to_string(), "accept", tempfile::tempdir().unwrap());
    runtime.logged("drain.recovered");
    let undelivered = |runtime: &Runtime| {
        runtime.get("/v1/status").json().get("wal").and_then(|wal| wal.get("undelivered")).and_then(Value::as_u64)
    };
    until("everything to be delivered", || (undelivered(&runtime) == Some(0)).then_some(()));
    runtime.call(ECHO);
    until("new events to be delivered", || (sink.records().len() == 44).then_some(()));
    let metrics = runtime.get("/metrics").body;
    assert!(metrics.contains("autonomy_drain_sent_events 23"), "{metrics}");
    runtime.stop();
    assert_eq!(sink.kinds()[0], "error");
    assert_eq!(sink.ids().into_iter().collect::<BTreeSet<_>>(), logged(&node));
    assert_eq!(sink.ids().len(), 44, "each once");
}

#[test]
fn n02_n08_hanging_slow_endless_and_redirecting_collectors_are_bounded_and_move_nothing() {
    let node = five_calls();
    let dir = node.telemetry();
    let redirect =
        "HTTP/1.1 307 Temporary Redirect\r\nLocation: http://example.invalid/v1/logs\r\nContent-Length: 0\r\n\r\n";
    let endless = "HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nTransfer-Encoding: chunked\r\n\r\n";
    type Behaviour = fn(&mut std::net::TcpStream, &str);
    let say: Behaviour = |stream, text| {
        let _ = stream.write_all(text.as_bytes());
    };
    let flood: Behaviour = |stream, head| {
        let _ = stream.write_all(head.as_bytes());
        while stream
            .write_all(b"400\r\n")
            .and_then(|()| stream.write_all(&[b'x'; 1024]))
            .and_then(|()| stream.write_all(b"\r\n"))
            .is_ok()
        {}
    };
    let drip: Behaviour = |stream, head| {
        for byte in head.bytes().cycle() {
            if stream.write_all(&[byte]).is_err() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let hang: Behaviour = |stream, _| {
        let _ = stream.read_to_end(&mut Vec::new());
    };
    for (name, behaviour, text, code, words) in [
        ("hang", hang, "", 3, "no answer in time"),
        ("drip", drip, "HTTP/1.1 200 OK\r\nx", 3, "no answer in time"),
        ("flood", flood, endless, 1, "longer than an OTLP answer may be"),
        ("redirect", say, redirect, 1, "redirects are not followed"),
        ("nonsense", say, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 1, "no OTLP answer"),
        ("closed", say, "", 3, ""),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { break };
                // The request, as far as it comes in one piece: enough for a collector that does not care.
                let _ = stream.set_read_timeout(Some(Duration::from_secs(20)));
                let _ = stream.read(&mut [0; 64 * 1024]);
                behaviour(&mut stream, text);
            }
        });
        let started = Instant::now();
        let failed = drain(&dir, &url, &["--timeout", "1s"]);
        assert!(started.elapsed() < Duration::from_secs(20), "{name}: {:?}", started.elapsed());
        assert_eq!(failed.status.code(), Some(code), "{name}: {}", stderr(&failed));
        assert!(stderr(&failed).contains(words), "{name}: {}", stderr(&failed));
        assert!(stderr(&failed).contains("drain failed: "), "{name}: {}", stderr(&failed));
        assert_eq!(cursors(&node), None, "{name}");
    }
    let sink = Sink::start("accept");
    assert_eq!(drain(&dir, &sink.url(), &[]).status.code(), Some(0));
    assert_eq!(sink.ids().into_iter().collect::<BTreeSet<_>>(), logged(&node));
}

#[test]
fn n03_an_answer_that_is_lost_sends_the_same_ids_again() {
    let node = five_calls();
    let sink = Sink::start("cut");
    let failed = drain(&node.telemetry(), &sink.url(), &["--timeout", "1s"]);
    assert_eq!(failed.status.code(), Some(3), "{}", stderr(&failed));
    assert!(sink.records().len() >= 9, "it was stored");
    assert_eq!(cursors(&node), None);
    sink.behave("accept");
    assert_eq!(drain(&node.telemetry(), &sink.url(), &[]).status.code(), Some(0));
    assert_eq!(sink.ids().into_iter().collect::<BTreeSet<_>>(), logged(&node), "the same ids");
}

#[test]
fn n04_n06_what_a_receiver_rejects_is_kept_with_its_words_and_nothing_loops() {
    let node = Node::demo();
    let runtime = node.start(&[]);
    for n in 0..40 {
        runtime.call(&format!(r#"{{"kind":"tool.echo","params":{{"message":"call-{n}-end"}}}}"#));
    }
    runtime.stop();
    let sink = Sink::start("poison:call-17-end");
    let done = drain(&node.telemetry(), &sink.url(), &[]);
    assert_eq!(done.status.code(), Some(0), "{}", stderr(&done));
    // The decision and the action both hold the text.
    assert_eq!(stderr(&done).matches("[drain] 1 events rejected: ").count(), 2, "{}", stderr(&done));
    assert_eq!(sink.records().len(), 78);
    let rejected: Vec<PathBuf> =
        std::fs::read_dir(node.telemetry().join("rejected")).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(rejected.len(), 2, "{rejected:?}");
    for path in rejected {
        let kept = json(&std::fs::read_to_string(path).unwrap());
        assert_eq!(kept.get("status").and_then(Value::as_u64), Some(400));
        assert!(!text(&kept, "words").is_empty());
        let record = &kept.get("records").and_then(Value::as_array).unwrap()[0];
        assert!(record.get("body").unwrap().to_text().contains("call-17-end"));
    }
    let again = drain(&node.telemetry(), &sink.url(), &[]);
    assert!(stdout(&again).ends_with("drain complete: 0 events sent\n"), "nothing is sent again");

    let node = five_calls();
    let sink = Sink::start("partial");
    let done = drain(&node.telemetry(), &sink.url(), &[]);
    assert_eq!(done.status.code(), Some(0), "{}", stderr(&done));
    assert!(stderr(&done).contains("[drain] 1 events rejected: "), "{}", stderr(&done));
    assert!(stdout(&done).contains("drain complete: 4 events sent"), "{}", stdout(&done));
    let kept = json(&std::fs::read_to_string(node.telemetry().join("rejected/1.json")).unwrap());
    assert_eq!(kept.get("rejected").and_then(Value::as_u64), Some(1));
    assert_eq!(kept.get("records").and_then(Value::as_array).unwrap().len(), 9);
}

#[test]
fn n05_a_busy_collector_is_waited_for_and_a_wrong_token_or_url_moves_nothing() {
    let node = five_calls();
    let sink = Sink::start("503");
    let failed = drain(&node.telemetry(), &sink.url(), &["--timeout", "2s"]);
    assert_eq!(failed.status.code(), Some(1), "{}", stderr(&failed));
    assert!(stderr(&failed).contains("[drain] OTLP error: the endpoint answered 503"), "{}", stderr(&failed));
    let wrong = drain(&node.telemetry(), &format!("{}/elsewhere", sink.url()), &[]);
    assert_eq!(wrong.status.code(), Some(1));
    assert!(stderr(&wrong).contains("look at the URL"), "{}", stderr(&wrong));
    assert_eq!(cursors(&node), None);
    let before = sink.requests();
    let waiting = std::thread::scope(|scope| {
        let url = sink.url();
        let dir = node.telemetry();
        let waiting = scope.spawn(move || drain(&dir, &url, &["--timeout", "30s"]));
        until("the first try", || (sink.requests() > before).then_some(()));
        sink.behave("accept");
        waiting.join().unwrap()
    });
    assert_eq!(waiting.status.code(), Some(0), "{}", stderr(&waiting));
    assert_eq!(sink.records().len(), 9);
}

#[test]
fn two_drains_are_refused_and_a_drain_beside_a_runtime_is_not() {
    let node = Node::demo();
    let runtime = node.start(&[]);
    runtime.call(ECHO);
    let sink = Sink::start("hang");
    let dir = node.telemetry();
    let args = ["telemetry", "drain", "--dir", dir.to_str().unwrap(), "--endpoint", &sink.url(), "--timeout", "30s"];
    let mut first = autonomy(&args).stdout(std::process::Stdio::null()).spawn().unwrap();
    // It has the lock when its request has arrived.
    until("the first drain's request", || (sink.requests() >= 1).then_some(()));
    let second = drain(&dir, &sink.url(), &[]);
    assert_eq!(second.status.code(), Some(1));
    assert!(stderr(&second).contains("drain failed: another drain is at work"), "{}", stderr(&second));
    first.kill().unwrap();
    first.wait().unwrap();
    sink.behave("accept");
    assert_eq!(drain(&dir, &sink.url(), &[]).status.code(), Some(0), "the lock died with its holder");
    runtime.stop();
}

#[test]
fn n11_a_killed_drain_sends_at_most_one_batch_again() {
    let node = Node::demo();
    let runtime = node.start(&[]);
    let mut connection = runtime.connect();
    for _ in 0..150 {
        connection.call(ECHO);
    }
    let sink = Sink::start("accept");
    let (dir, url) = (node.telemetry(), sink.url());
    let batch = 8;
    let kills = 20;
    for n in 0..kills {
        let args = ["telemetry", "drain", "--dir", dir.to_str().unwrap(), "--endpoint", &url, "--batch", "8"];
        let mut child = autonomy(&args).stdout(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(5 + n * 3));
        child.kill().unwrap();
        child.wait().unwrap();
        connection.call(ECHO);
    }
    runtime.stop();
    assert_eq!(drain(&dir, &url, &["--batch", "8"]).status.code(), Some(0));
    let ids = sink.ids();
    let unique: BTreeSet<String> = ids.iter().cloned().collect();
    assert_eq!(unique, logged(&node));
    let twice = ids.len() - unique.len();
    assert!(twice <= batch * usize::try_from(kills).unwrap(), "{twice} twice");
}

#[test]
fn d25_a_full_log_takes_errors_still_and_draining_makes_room_for_calls_again() {
    let node = Node::demo();
    let config = node.root.path().join("runtime.toml");
    std::fs::write(&config, "[wal]\nmax_bytes = 1048576\n").unwrap();
    let runtime = node.start(&["--config", config.to_str().unwrap()]);
    let long = "x".repeat(3_000);
    let call = format!(r#"{{"kind":"tool.echo","params":{{"message":"{long}"}}}}"#);
    let mut connection = runtime.connect();
    let mut answered = 0;
    let refused = loop {
        let answer = connection.call(&call);
        if answer.status != 200 {
            break answer;
        }
        answered += 1;
        assert!(answered < 1_000, "the log never fills");
    };
    assert_eq!((refused.status, refused.reason().as_str()), (503, "wal_full"));
    assert_eq!(runtime.get("/health").text("mode"), "wal_full");
    // An error finds room all the same: the start after a crash says that it cut a torn tail.
    runtime.kill();
    let live = node.telemetry().join("telemetry.wal");
    let mut torn = std::fs::OpenOptions::new().append(true).open(live).unwrap();
    torn.write_all(&[0, 0, 1, 0, b'{']).unwrap();
    let runtime = node.start(&["--config", config.to_str().unwrap()]);
    assert_eq!(runtime.get("/health").text("mode"), "wal_full");
    let mut connection = runtime.connect();
    assert_eq!(connection.call(&call).reason(), "wal_full");
    let cut = |frame: &Value| frame.to_text().contains("wal_tail_truncated");
    until("the error to be durable", || node.frames().iter().any(cut).then_some(()));
    let sink = Sink::start("accept");
    let done = drain(&node.telemetry(), &sink.url(), &[]);
    assert_eq!(done.status.code(), Some(0), "{}", stderr(&done));
    until("room", || (runtime.get("/health").text("mode") == "normal").then_some(()));
    for _ in 0..answered {
        let answer = connection.call(&call);
        if answer.status != 200 {
            assert_eq!(answer.reason(), "wal_full");
            assert_eq!(drain(&node.telemetry(), &sink.url(), &[]).status.code(), Some(0));
            until("room", || (runtime.get("/health").text("mode") == "normal").then_some(()));
        }
    }
    assert_eq!(drain(&node.telemetry(), &sink.url(), &[]).status.code(), Some(0));
    runtime.stop();
    let inspect = node.inspect();
    assert!(inspect.get("first_seq").and_then(Value::as_u64) > Some(1), "delivered segments were removed");
    let last = inspect.get("last_seq").and_then(Value::as_u64).unwrap();
    let seqs: BTreeSet<u64> = sink.records().iter().filter_map(|r| r.get("seq").and_then(Value::as_u64)).collect();
    assert_eq!(seqs.len() as u64, last, "nothing was removed undelivered");
}

#[test]
fn a_drain_without_a_writer_recovers_the_log_first() {
    let node = Node::demo();
    let runtime = node.start(&[]);
    runtime.call(ECHO);
    runtime.kill();
    let live = node.telemetry().join("telemetry.wal");
    let mut bytes = std::fs::read(&live).unwrap();
    bytes.extend_from_slice(&[0, 0, 1, 0, b'{']);
    std::fs::write(&live, bytes).unwrap();
    let sink = Sink::start("accept");
    let done = drain(&node.telemetry(), &sink.url(), &[]);
    assert_eq!(done.status.code(), Some(0), "{}", stderr(&done));
    assert_eq!(sink.kinds(), ["error", "decision", "action"], "the cut is told first");
    assert!(stdout(&node.verify()).starts_with("wal verify: OK — 3 frames"));
    // A damaged log is not sent past its damage.
    let mut bytes = std::fs::read(&live).unwrap();
    bytes[60] ^= 1;
    std::fs::write(&live, bytes).unwrap();
    let before = cursors(&node);
    let refused = drain(&node.telemetry(), &sink.url(), &[]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("wal repair"), "{}", stderr(&refused));
    assert_eq!(cursors(&node), before);
    let nothing = tempfile::tempdir().unwrap();
    let missing = drain(nothing.path(), &sink.url(), &[]);
    assert_eq!(missing.status.code(), Some(3));
    assert!(stderr(&missing).contains("there is no log in this folder"), "{}", stderr(&missing));
    assert_eq!(std::fs::read_dir(nothing.path()).unwrap().count(), 0, "and none was made");
}

#[test]
fn status_and_export_say_what_waits_and_what_there_is() {
    let node = five_calls();
    let dir = node.telemetry();
    let dir = dir.to_str().unwrap();
    let waiting = |field: &str| {
        let out = finish(&["telemetry", "status", "--dir", dir, "--output", "json"]);
        json(&stdout(&out)).get("waiting").and_then(|waiting| waiting.get(field)).and_then(Value::as_u64)
    };
    assert_eq!((waiting("decisions"), waiting("actions"), waiting("errors")), (Some(5), Some(4), Some(0)));
    let sink = Sink::start("accept");
    assert_eq!(drain(&node.telemetry(), &sink.url(), &[]).status.code(), Some(0));
    assert_eq!((waiting("decisions"), waiting("actions")), (Some(0), Some(0)));
    let exported = finish(&["telemetry", "export", "--dir", dir, "--from", "8"]);
    let seqs: Vec<_> = stdout(&exported).lines().map(|l| json(l).get("seq").and_then(Value::as_u64)).collect();
    assert_eq!(seqs, [Some(8), Some(9)]);
    assert_eq!(finish(&["telemetry", "status", "--dir", "/nonexistent"]).status.code(), Some(3));
}

#[test]
fn follow_goes_on_until_it_is_told_to_stop() {
    let node = Node::demo();
    let runtime = node.start(&[]);
    runtime.call(ECHO);
    let sink = Sink::start("accept");
    let dir = node.telemetry();
    let args = ["telemetry", "drain", "--dir", dir.to_str().unwrap(), "--endpoint", &sink.url(), "--follow"];
    let mut following = Runtime::spawn(autonomy(&args));
    until("the first call", || (sink.records().len() == 2).then_some(()));
    runtime.call(SHELL);
    until("the second call", || (sink.records().len() == 3).then_some(()));
    following.signal("TERM");
    assert_eq!(following.ended().code(), Some(0));
    runtime.stop();
}

#[test]
fn wrong_flags_are_named() {
    let node = five_calls();
    let dir = node.telemetry();
    for (args, code, words) in [
        (vec!["--endpoint", "127.0.0.1:4318"], 2, "127.0.0.1:4318"),
        (vec!["--endpoint", "ftp://127.0.0.1"], 2, "ftp"),
        (vec!["--endpoint", "http://127.0.0.1:1", "--header", "no-equals-sign"], 2, "write name=value"),
        (vec!["--endpoint", "https://127.0.0.1:1", "--ca", "/nonexistent.pem"], 2, "/nonexistent.pem"),
        (vec!["--endpoint", "http://127.0.0.1:1", "--batch", "0"], 2, "--batch"),
        (vec!["--endpoint", "http://no-such-host.invalid:4318"], 3, "cannot resolve no-such-host.invalid"),
    ] {
        let base = ["telemetry", "drain", "--dir", dir.to_str().unwrap()];
        let out = finish(&[&base[..], &args].concat());
        assert_eq!(out.status.code(), Some(code), "{args:?}: {}", stderr(&out));
        assert!(stderr(&out).contains(words), "{args:?}: {}", stderr(&out));
    }
}
