//! The process and its surroundings (FAULTS section 2).

use std::process::Command;
use std::time::Instant;

use crate::harness::{Connection, ECHO, Node, Runtime, finish, stderr, until};

#[test]
fn x06_without_file_descriptors_open_connections_are_answered_and_others_refused() {
    let node = Node::demo();
    let plain = node.command(&[]);
    let mut command = Command::new("prlimit");
    command.args(["--nofile=64:64"]).arg(plain.get_program()).args(plain.get_args()).env_remove("AUTONOMY_STRICT_MODE");
    let runtime = Runtime::spawn(command).started();
    let mut first = runtime.connect();
    assert_eq!(first.call(ECHO).status, 200);
    let mut others: Vec<Connection> = (0..100).map(|_| runtime.connect()).collect();
    // Those over the limit are told or closed; the one that was there goes on.
    let refused = until("refusals", || {
        let metrics = first.request("GET", "/metrics", &[], "").body;
        metrics
            .lines()
            .find_map(|line| line.strip_prefix("autonomy_refusals_total{reason=\"overload\",status=\"503\"} "))
            .and_then(|count| count.parse::<usize>().ok())
            .filter(|count| *count >= 50)
    });
    assert!(refused < 100);
    assert_eq!(first.call(ECHO).status, 200);
    let answer = others.pop().unwrap().receive();
    assert!(answer.as_ref().is_none_or(|answer| answer.status == 503), "{answer:?}");
    drop(others);
    until("room for new ones", || {
        let mut connection = Connection::to(runtime.address);
        let text = crate::harness::request("GET", "/health", &["Host: localhost"], "");
        connection.send(text.as_bytes()).ok()?;
        connection.receive().filter(|answer| answer.status == 200)
    });
}

#[test]
fn x05_over_the_limit_of_calls_in_flight_callers_are_told_overload() {
    let node = Node::with_policy("package autonomy\nallow := true");
    let config = node.root.path().join("runtime.toml");
    std::fs::write(&config, "[listen]\nmax_in_flight = 2\n[tools.shell]\nenabled = true\n").unwrap();
    let runtime = node.start(&["--config", config.to_str().unwrap(), "--max-in-flight", "100"]);
    let gate = node.root.path().join("gate");
    let script = format!("echo x >> {0}.up; while [ ! -e {0} ]; do sleep 0.01; done", gate.display());
    let body = format!(r#"{{"kind":"tool.shell","params":{{"argv":["/bin/sh","-c",{script:?}]}}}}"#);
    let text =
        crate::harness::request("POST", "/v1/tool", &["Host: localhost", "Content-Type: application/json"], &body);
    let mut held: Vec<_> = (0..2).map(|_| runtime.connect()).collect();
    for connection in &mut held {
        connection.send(text.as_bytes()).unwrap();
    }
    let up = gate.with_extension("up");
    until("both tools", || std::fs::read(&up).ok().filter(|text| text.len() == 4));
    let answer = runtime.call(ECHO);
    assert_eq!((answer.status, answer.reason().as_str()), (503, "overload"));
    assert!(answer.head.contains("retry-after: 1"), "{}", answer.head);
    std::fs::write(&gate, b"").unwrap();
    for connection in &mut held {
        assert_eq!(connection.receive().unwrap().status, 200);
    }
}

#[test]
fn x09_a_process_that_was_stopped_for_a_while_goes_on() {
    let node = Node::demo();
    let runtime = node.start(&[]);
    let mut connection = runtime.connect();
    assert_eq!(connection.call(ECHO).status, 200);
    runtime.signal("STOP");
    let stat = format!("/proc/{}/stat", runtime.child.id());
    until("the stop", || std::fs::read_to_string(&stat).ok().filter(|stat| stat.contains(") T ")));
    let text =
        crate::harness::request("POST", "/v1/tool", &["Host: localhost", "Content-Type: application/json"], ECHO);
    connection.send(text.as_bytes()).unwrap();
    // Every timer of a quarter of a second runs out meanwhile.
    std::thread::sleep(std::time::Duration::from_millis(600));
    runtime.signal("CONT");
    assert_eq!(connection.receive().unwrap().status, 200);
    runtime.stop();
    assert!(node.verify().status.success());
}

#[test]
fn x12_a_faulty_configuration_ends_the_start_and_names_line_and_nearest_name() {
    let node = Node::demo();
    let config = node.root.path().join("runtime.toml");
    std::fs::write(&config, "\n\nstirct = true\n").unwrap();
    let out = finish(&["runtime", "start", "--state-root", node.path(), "--config", config.to_str().unwrap()]);
    assert_eq!(out.status.code(), Some(1));
    let text = stderr(&out);
    assert!(text.contains("unknown key `stirct` at line 3, did you mean `strict`?"), "{text}");
    let out = finish(&["runtime", "start", "--config", "/no/such/file"]);
    assert_eq!(out.status.code(), Some(3));
    let out = finish(&["runtime", "start", "--stirct"]);
    assert_eq!(out.status.code(), Some(2));
}

#[test]
fn log_lines_have_one_form() {
    let node = Node::demo();
    let runtime = node.start(&[]);
    let line = runtime.logged("runtime.started");
    let listen = format!("listen=\"{}\"", runtime.address);
    assert!(
        line.starts_with("time=20") && line.contains(&format!(" level=INFO msg=\"runtime.started\" {listen} ")),
        "{line}"
    );
    runtime.stop();
    let runtime = Runtime::spawn(node.command(&["--log-format", "json"]));
    let line = runtime.logged("\"msg\":\"runtime.started\"");
    assert!(crate::harness::json(&line).get("listen").is_some());
}

#[test]
fn a_small_node_starts_fast_and_stays_small() {
    let node = Node::demo();
    let started = Instant::now();
    let runtime = node.start(&[]);
    assert_eq!(runtime.call(ECHO).status, 200);
    // A hundred times what is aimed for: this machine may be doing something else.
    assert!(started.elapsed().as_secs() < 5, "{:?}", started.elapsed());
    let status = std::fs::read_to_string(format!("/proc/{}/status", runtime.child.id())).unwrap();
    let kib = status.lines().find_map(|l| l.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    assert!(kib.unwrap() < 40 * 1024, "{kib:?} KiB");
}
