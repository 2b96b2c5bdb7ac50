//! `edged run`, and `edgectl`, which asks it.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixDatagram;

use machines::json::Value;

use crate::harness::{Daemon, Site, code, edgectl, json, stderr, stdout};

/// The frames of the daemon's own log: audit id, phase, epoch.
fn frames(site: &Site) -> Vec<(String, String, u64)> {
    let bytes = fs::read(site.file("edge/telemetry/telemetry.wal")).unwrap();
    let mut found = Vec::new();
    let mut rest = &bytes[..];
    while let Some((len, behind)) = rest.split_first_chunk::<4>() {
        let (frame, next) = behind.split_at(u32::from_be_bytes(*len) as usize);
        let frame = json(std::str::from_utf8(frame).unwrap().trim_end());
        let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap().to_owned();
        assert_eq!(text(frame.get("kind")), "lifecycle");
        let body = frame.get("body").unwrap();
        let epoch = body.get("boot_epoch").and_then(Value::as_u64).unwrap();
        found.push((text(frame.get("audit_id")), text(body.get("phase")), epoch));
        rest = next;
    }
    found
}

fn refused(site: &Site, words: &str) {
    let output = site.command(&["run"]).output().unwrap();
    assert_eq!(code(&output), 5, "{}", stderr(&output));
    let said = stderr(&output);
    assert!(said.contains("msg=\"edged: refused to start\"") && said.contains(words), "{words}: {said}");
    assert!(!site.file("edge/telemetry").exists(), "nothing was made");
}

#[test]
fn it_runs_only_after_a_precheck_of_this_boot_that_passed() {
    let site = Site::new();
    refused(&site, "no precheck was run; run: edged precheck");
    assert_eq!(code(&site.precheck(&[])), 0);
    let marker = site.file("bootstrap/precheck.json");
    let good = fs::read_to_string(&marker).unwrap();
    let id = good.split('"').nth(3).unwrap().to_owned();
    for (text, words) in [
        (good.replace(&id, "00000000-0000-4000-8000-000000000000"), "in another boot"),
        (good.replace("\"exit\": 0", "\"exit\": 5"), "ended with exit 5"),
        (String::new(), "precheck.json"),
        ("{}".into(), "precheck.json"),
    ] {
        fs::write(&marker, text).unwrap();
        refused(&site, words);
    }
    fs::write(&marker, good).unwrap();
    site.run().stop();
}

#[test]
fn it_serves_says_so_and_ends_in_order() {
    let site = Site::started();
    let notify = UnixDatagram::bind(site.dir.path().join("notify")).unwrap();
    let told = || {
        let mut bytes = [0; 64];
        let len = notify.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..len]).into_owned()
    };
    let mut command = site.command(&["run"]);
    command.env("NOTIFY_SOCKET", site.dir.path().join("notify"));
    let mut daemon = Daemon::spawn(command);
    assert_eq!(told(), "READY=1");
    let line = daemon.logged("msg=\"edged.started\"");
    assert!(line.contains(" boot_epoch=0 ") && line.contains("node_id=\"edge-07\""), "{line}");

    let socket = site.dir.path().join("ctl.sock");
    assert_eq!(fs::metadata(&socket).unwrap().mode() & 0o7777, 0o600);
    let (status, body) = site.control("/v1/status");
    assert_eq!(status, 200, "{body}");
    let status = json(&body);
    for (key, value) in [("status", "ok"), ("node_id", "edge-07"), ("precheck", "passed"), ("relay", "disabled")] {
        assert_eq!(status.get(key).and_then(Value::as_str), Some(value), "{body}");
    }
    let (code, body) = site.control("/v1/epoch");
    assert!(code == 200 && json(&body).get("boot_epoch").and_then(Value::as_u64) == Some(0), "{body}");
    assert_eq!(site.control("/v1/none").0, 404);

    // The probe of SPEC 12 05: what it says is what the host has.
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let full = mounts.lines().any(|line| line.split(' ').skip(1).take(2).eq(["/sys/fs/cgroup", "cgroup2"]));
    assert_eq!(status.get("assurance").and_then(Value::as_str), Some(if full { "full" } else { "reduced" }));
    if !full {
        assert!(daemon.logged("edge.assurance.reduced").contains("level=WARN"));
    }

    let address = line.split("metrics=\"").nth(1).unwrap().split('"').next().unwrap();
    let get = |path: &str, host: &str| {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    };
    let metrics = get("/metrics", address);
    assert!(metrics.starts_with("HTTP/1.1 200") && metrics.contains("\nedged_boot_epoch 0\n"), "{metrics}");
    assert!(metrics.contains("\nedged_log_safe_sequence 1\n") && metrics.ends_with("# EOF\n"), "{metrics}");
    assert!(get("/health", address).ends_with("{\"status\":\"ok\"}\n"));
    assert!(get("/metrics", "evil.example").starts_with("HTTP/1.1 403"));

    daemon.signal("INT");
    assert_eq!(told(), "STOPPING=1");
    assert_eq!(daemon.ended().code(), Some(0));
    assert!(!socket.exists(), "its socket goes with it");
}

#[test]
fn every_epoch_is_in_its_log_once() {
    let site = Site::started();
    site.run().stop();
    assert_eq!(frames(&site).len(), 1);
    for n in 1..=3 {
        site.kernel(&format!("6.2.{n}"));
        site.release(n, b"good");
        assert_eq!(code(&site.precheck(&[])), 0);
        // Of the first two nobody is told at once.
        if n == 2 {
            continue;
        }
        site.run().stop();
    }
    site.run().stop();
    let said = frames(&site);
    assert_eq!(said.iter().map(|(_, _, epoch)| *epoch).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert_eq!(said[0].1, "os_first_run");
    assert!(said[1..].iter().all(|(_, phase, _)| phase == "os_reconstruction_completed"));
    // Cut between frame and file: said again, under the same id.
    fs::remove_file(site.file("edge/reported.json")).unwrap();
    site.run().stop();
    let again = frames(&site);
    assert_eq!(again.len(), 8);
    assert!(again[..4].iter().zip(&again[4..]).all(|(a, b)| a == b), "{again:?}");
}

#[test]
fn a_kill_leaves_nothing_that_the_next_start_minds() {
    let site = Site::started();
    for _ in 0..5 {
        let mut daemon = site.run();
        daemon.signal("KILL");
        daemon.ended();
        assert!(site.dir.path().join("ctl.sock").exists(), "the kernel leaves a socket's file");
    }
    site.run().stop();
    assert_eq!(frames(&site).len(), 1);
}

#[test]
fn what_cannot_be_served_is_named() {
    let site = Site::started();
    fs::write(site.dir.path().join("ctl.sock"), "precious").unwrap();
    let output = site.command(&["run"]).output().unwrap();
    assert!(code(&output) == 1 && stderr(&output).contains("control.socket"), "{}", stderr(&output));
    assert_eq!(fs::read_to_string(site.dir.path().join("ctl.sock")).unwrap(), "precious");
    fs::remove_file(site.dir.path().join("ctl.sock")).unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let text = fs::read_to_string(site.config()).unwrap();
    fs::write(site.config(), text.replace("127.0.0.1:0", &taken.local_addr().unwrap().to_string())).unwrap();
    let output = site.command(&["run"]).output().unwrap();
    assert!(code(&output) == 1 && stderr(&output).contains("metrics.listen"), "{}", stderr(&output));
    // A chain that was set back after the precheck: nothing runs on it.
    site.configure("");
    site.run().stop();
    let chain =
        machines::precheck::chain::Chain::first(machines::ids::Hash32([1; 32]), machines::time::Wall::from_micros(1));
    fs::write(site.file("epoch/chain.jsonl"), chain.bytes()).unwrap();
    let output = site.command(&["run"]).output().unwrap();
    assert!(code(&output) == 5 && stderr(&output).contains("the chain was replaced"), "{}", stderr(&output));
}

#[test]
fn edgectl_asks_the_daemon_or_reads_the_files() {
    let site = Site::started();
    let socket = site.dir.path().join("ctl.sock");
    let socket = socket.to_str().unwrap();
    let state = site.state();
    let away = edgectl(&["--socket", socket, "status"]);
    assert!(code(&away) == 3 && stderr(&away).contains("edged does not run"), "{}", stderr(&away));
    let files = edgectl(&["epoch", "--state-root", state.to_str().unwrap()]);
    assert!(stdout(&files).starts_with("BootEpoch: 0\n"), "{}", stderr(&files));
    let daemon = site.run();
    let status = edgectl(&["--socket", socket, "--output", "json", "status"]);
    assert_eq!(json(&stdout(&status)).get("boot_epoch").and_then(Value::as_u64), Some(0));
    let text = stdout(&edgectl(&["--socket", socket, "status"]));
    assert!(text.contains("boot_epoch: 0\n") && text.contains("log.head: 1\n"), "{text}");
    // The same from the daemon as from the files.
    assert_eq!(stdout(&edgectl(&["--socket", socket, "epoch"])), stdout(&files));
    daemon.stop();
    fs::write(site.file("epoch/chain.jsonl"), "{}\n").unwrap();
    let damaged = edgectl(&["epoch", "--state-root", state.to_str().unwrap()]);
    assert!(code(&damaged) == 1 && stderr(&damaged).contains("is damaged"), "{}", stderr(&damaged));
    assert_eq!(code(&edgectl(&["epoch", "--state-root", "/none/at/all"])), 3);
    assert_eq!(code(&edgectl(&["epcoh"])), 2);
}
