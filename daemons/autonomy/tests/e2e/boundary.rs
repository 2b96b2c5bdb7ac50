//! SPEC 2: the tool boundary.

use machines::json::Value;

use crate::harness::{ECHO, Node, SHELL, json, request};

#[test]
fn an_allowed_call_runs_is_recorded_and_answered() {
    let node = Node::demo();
    let runtime = node.start(&[]);
    let answer = runtime.call(ECHO);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.body.starts_with(r#"{"decision":"allow","output":{"message":"hello"},"#), "{}", answer.body);
    assert_eq!(answer.text("policy_ref"), "1.0.0");
    assert!(answer.text("policy_hash").starts_with("sha256:"));
    assert_eq!(answer.text("audit_id").len(), 36);
    let frames = node.frames();
    let kinds: Vec<_> = frames.iter().map(|f| f.get("kind").and_then(Value::as_str).unwrap().to_owned()).collect();
    assert_eq!(kinds, ["decision", "action"]);
    runtime.stop();
}

#[test]
fn a_denied_call_says_why_and_its_tool_never_runs() {
    let node = Node::demo();
    let runtime = node.start(&[]);
    let answer = runtime.call(SHELL);
    assert_eq!((answer.status, answer.reason().as_str()), (403, "shell is not allowed"));
    let answer = runtime.call(r#"{"kind":"tool.other"}"#);
    assert_eq!((answer.status, answer.reason().as_str()), (403, "no_match"));
    assert_eq!(node.frames().len(), 2);
    runtime.stop();
}

#[test]
fn health_is_these_bytes_and_nothing_else() {
    let runtime = Node::demo().start(&[]);
    assert_eq!(runtime.get("/health").body, r#"{"status":"ok","mode":"normal"}"#);
    assert_eq!(runtime.get("/ready").status, 200);
    let bare = Node::bare().start(&[]);
    assert_eq!(bare.get("/health").body, r#"{"status":"degraded","mode":"no_policy"}"#);
    assert_eq!(bare.get("/ready").status, 503);
    let strict = Node::demo().start(&["--strict"]);
    assert_eq!(strict.get("/health").body, r#"{"status":"ok","mode":"strict"}"#);
    assert_eq!(strict.get("/ready").status, 503);
}

#[test]
fn p01_without_a_policy_everything_is_denied_and_recorded_without_parameters() {
    let node = Node::bare();
    let runtime = node.start(&[]);
    let answer = runtime.call(ECHO);
    assert_eq!((answer.status, answer.reason().as_str()), (403, "no_policy"));
    assert_eq!(answer.text("audit_id").len(), 36);
    runtime.stop();
    let params = node.frames()[0].get("body").and_then(|b| b.get("params")).cloned().unwrap();
    assert!(params.get("blake3").is_some() && params.get("message").is_none(), "{params:?}");
}

#[test]
fn p22_strict_mode_denies_every_call_and_records_it() {
    for (flags, variable) in [(&["--strict"][..], None), (&[][..], Some("1")), (&[][..], Some("yes"))] {
        let node = Node::demo();
        let mut command = node.command(flags);
        command.envs(variable.map(|value| ("AUTONOMY_STRICT_MODE", value)));
        let runtime = crate::harness::Runtime::spawn(command).started();
        let answer = runtime.call(ECHO);
        assert_eq!((answer.status, answer.reason().as_str()), (403, "strict"));
        runtime.stop();
        assert_eq!(node.frames().len(), 1);
    }
    let node = Node::demo();
    let mut command = node.command(&[]);
    command.env("AUTONOMY_STRICT_MODE", "false");
    assert_eq!(crate::harness::Runtime::spawn(command).started().call(ECHO).status, 200);
}

#[test]
fn x12_a_variable_cannot_loosen_what_the_file_says() {
    let node = Node::demo();
    let config = node.root.path().join("runtime.toml");
    std::fs::write(&config, "strict = true\n").unwrap();
    let mut command = node.command(&["--config", config.to_str().unwrap()]);
    command.env("AUTONOMY_STRICT_MODE", "0");
    let runtime = crate::harness::Runtime::spawn(command).started();
    assert_eq!(runtime.call(ECHO).reason(), "strict");
}

#[test]
fn five_calls_make_five_decisions() {
    let node = Node::demo();
    let runtime = node.start(&[]);
    let mut connection = runtime.connect();
    for n in 0..5 {
        let answer = connection.call(if n == 3 { SHELL } else { ECHO });
        assert_eq!(answer.status, if n == 3 { 403 } else { 200 });
    }
    runtime.stop();
    let frames = node.inspect().get("frames").cloned().unwrap();
    assert_eq!(frames, json(r#"{"decision":5,"action":4,"lifecycle":0,"error":0}"#));
}

#[test]
fn parameters_that_do_not_fit_the_tool_are_an_allowed_calls_error() {
    let runtime = Node::demo().start(&[]);
    let answer = runtime.call(r#"{"kind":"tool.echo","params":{"text":"hello"}}"#);
    assert_eq!((answer.status, answer.decision().as_str()), (400, "allow"));
    assert!(answer.text("error").contains("message"), "{}", answer.body);
}

#[test]
fn a_tool_that_is_not_enabled_is_refused_even_when_policy_allows_it() {
    let node = Node::with_policy("package autonomy\nallow := true");
    let runtime = node.start(&[]);
    assert_eq!(runtime.call(SHELL).reason(), "tool_disabled");
    assert_eq!(runtime.call(r#"{"kind":"tool.none"}"#).reason(), "unknown_tool");
}

#[test]
fn a13_an_enabled_command_runs_and_one_that_never_ends_is_stopped_with_all_it_started() {
    let node = Node::with_policy("package autonomy\nallow := true");
    let config = node.root.path().join("runtime.toml");
    let dir = node.root.path().join("work");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(&config, format!("[tools]\ntimeout = \"300ms\"\n[tools.shell]\nenabled = true\ndir = {dir:?}\n"))
        .unwrap();
    let runtime = node.start(&["--config", config.to_str().unwrap()]);
    let answer = runtime.call(r#"{"kind":"tool.shell","params":{"argv":["/bin/echo","hi"]}}"#);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.json().get("output").and_then(|o| o.get("stdout")).and_then(Value::as_str), Some("hi\n"));
    let never = r#"{"kind":"tool.shell","params":{"argv":["/bin/sh","-c","sleep 60 & echo $! > pid; wait"]}}"#;
    let answer = runtime.call(never);
    assert_eq!((answer.status, answer.decision().as_str()), (504, "allow"), "{answer:?}");
    let pid = std::fs::read_to_string(dir.join("pid")).unwrap();
    let stat = format!("/proc/{}/stat", pid.trim());
    crate::harness::until("the end of the command's child", || {
        std::fs::read_to_string(&stat).map_or(Some(()), |stat| stat.contains(") Z ").then_some(()))
    });
}

#[test]
fn the_log_says_what_became_of_a_call() {
    let node = Node::demo();
    let runtime = node.start(&[]);
    let id = runtime.call(ECHO).text("audit_id");
    let told = runtime.get(&format!("/v1/calls/{id}"));
    assert_eq!((told.status, told.decision().as_str()), (200, "allow"));
    let outcome = told.json().get("outcome").cloned().unwrap();
    assert_eq!(outcome.get("kind").and_then(Value::as_str), Some("action"));
    let id = runtime.call(SHELL).text("audit_id");
    let told = runtime.get(&format!("/v1/calls/{id}"));
    assert_eq!((told.status, told.decision().as_str()), (200, "deny"));
    assert_eq!(told.json().get("outcome"), Some(&Value::Null));
    let unknown = format!("/v1/calls/{}", id.replace(&id[24..], "000000000000"));
    assert_eq!(runtime.get(&unknown).status, 404);
    assert_eq!(runtime.get("/v1/calls/nonsense").status, 400);
}

#[test]
fn status_and_metrics_say_what_was_done() {
    let runtime = Node::demo().start(&["--node-id", "n7"]);
    runtime.call(ECHO);
    runtime.call(SHELL);
    runtime.call("nonsense");
    let status = runtime.get("/v1/status").json();
    assert_eq!(status.get("node_id").and_then(Value::as_str), Some("n7"));
    assert_eq!(status.get("policy").and_then(|p| p.get("version")).and_then(Value::as_str), Some("1.0.0"));
    assert_eq!(status.get("wal").and_then(|w| w.get("head")).and_then(Value::as_u64), Some(3));
    let metrics = runtime.get("/metrics").body;
    for line in [
        "autonomy_calls_total{decision=\"allow\",status=\"200\"} 1",
        "autonomy_calls_total{decision=\"deny\",status=\"403\"} 1",
        "autonomy_refusals_total{reason=\"invalid_request\",status=\"400\"} 1",
        "autonomy_mode{mode=\"normal\"} 1",
        "autonomy_wal_head_sequence 3",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}

#[test]
fn what_is_refused_before_a_decision_is_json_with_its_status_and_no_event() {
    let node = Node::demo();
    let runtime = node.start(&[]);
    let json_type = "Content-Type: application/json";
    let cases: [(u16, String); 14] = [
        (400, request("POST", "/v1/tool", &["Host: localhost", json_type], "{")),
        (400, request("POST", "/v1/tool", &["Host: localhost", json_type], r#"{"kind":"a","kind":"b"}"#)),
        (400, request("POST", "/v1/tool", &["Host: localhost", json_type], "")),
        (400, request("POST", "/v1/tool", &[json_type], ECHO)),
        (400, request("POST", "/v1/tool", &["Host: localhost", "Host: localhost", json_type], ECHO)),
        (403, request("POST", "/v1/tool", &["Host: evil.example", json_type], ECHO)),
        (403, request("POST", "/v1/tool", &["Host: localhost", "Origin: http://evil.example", json_type], ECHO)),
        (404, request("GET", "/v2/tool", &["Host: localhost"], "")),
        (404, request("GET", "//health", &["Host: localhost"], "")),
        (404, request("GET", "/%68ealth", &["Host: localhost"], "")),
        (405, request("GET", "/v1/tool", &["Host: localhost"], "")),
        (413, request("POST", "/v1/tool", &["Host: localhost", json_type, "Content-Length: 1048577"], "")),
        (415, request("POST", "/v1/tool", &["Host: localhost"], ECHO)),
        (415, request("POST", "/v1/tool", &["Host: localhost", "Content-Type: text/plain"], ECHO)),
    ];
    for (status, text) in cases {
        let mut connection = runtime.connect();
        connection.send(text.as_bytes()).unwrap();
        let answer = connection.receive().unwrap();
        assert_eq!(answer.status, status, "{text}\n{answer:?}");
        assert_eq!(answer.decision(), "deny", "{text}");
        assert!(!answer.reason().is_empty(), "{text}");
        assert!(answer.head.contains("content-type: application/json"), "{}", answer.head);
        if status == 405 {
            assert!(answer.head.contains("allow: POST"), "{}", answer.head);
        }
    }
    assert!(node.frames().is_empty());
}

#[test]
fn t18_another_address_than_loopback_needs_a_token_and_every_call_has_to_show_it() {
    let node = Node::demo();
    let open = ["runtime", "start", "--state-root", node.path(), "--listen", "0.0.0.0:0"];
    let mut refused = crate::harness::Runtime::spawn(crate::harness::autonomy(&open));
    assert_eq!(refused.ended().code(), Some(1));
    refused.logged("--token-file");

    let token = node.root.path().join("token");
    std::fs::write(&token, "0123456789abcdef\n").unwrap();
    let runtime = node.start(&["--token-file", token.to_str().unwrap()]);
    let answer = runtime.call(ECHO);
    assert_eq!((answer.status, answer.reason().as_str()), (401, "unauthorized"));
    assert!(answer.head.contains("www-authenticate: Bearer"), "{}", answer.head);
    let headers = ["Content-Type: application/json", "Authorization: Bearer 0123456789abcdef"];
    assert_eq!(runtime.connect().request("POST", "/v1/tool", &headers, ECHO).status, 200);
    assert_eq!(runtime.get("/health").status, 200);
    assert_eq!(runtime.get("/v1/status").status, 401);
}
