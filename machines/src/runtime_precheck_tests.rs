//! A runtime that requires a precheck: denied until this boot's marker says that it passed, and again when it no longer does.

use std::string::ToString;
use std::vec::Vec;

use super::*;

const THIS_BOOT: &str = "2f4f3c1e-0b7e-4a53-9c0a-6f6f3a5d1c11";

fn marker(boot_id: &str, exit: u8) -> Vec<u8> {
    crate::precheck::files::Marker { boot_id: boot_id.into(), exit }.to_bytes()
}

fn behind_precheck(marker: Option<Vec<u8>>) -> Node {
    let mut files = loaded(bundle("1.0.0", 0, 0));
    files.extend(marker.map(|bytes| (File::Precheck, bytes)));
    let mut config = Config { require_precheck: Some(THIS_BOOT.into()), ..config() };
    config.calls.decision_backstop = Span::from_secs(20);
    start(config, files)
}

fn next_look(node: &mut Node) {
    node.pass(Span::from_secs(1));
    node.event(Event::Due);
    settle(node);
}

#[test]
fn without_a_precheck_of_this_boot_every_call_is_denied_and_recorded() {
    let cases: [(&str, Option<Vec<u8>>, &str); 6] = [
        ("none", None, "no precheck was run"),
        ("another boot", Some(marker("00000000-0000-4000-8000-000000000000", 0)), "another boot"),
        ("refused", Some(marker(THIS_BOOT, 5)), "exit 5"),
        ("torn", Some(marker(THIS_BOOT, 0)[..20].to_vec()), "bootstrap/precheck.json: "),
        ("empty", Some(Vec::new()), "bootstrap/precheck.json: "),
        (
            "more",
            Some(b"{\"boot_id\":\"2f4f3c1e-0b7e-4a53-9c0a-6f6f3a5d1c11\",\"exit\":0,\"also\":1}".to_vec()),
            "also",
        ),
    ];
    for (name, bytes, why) in cases {
        let mut node = behind_precheck(bytes);
        assert_eq!((node.machine.mode(), node.machine.mode().is_ready()), (Mode::PrecheckFailed, false), "{name}");
        call(&mut node, 1);
        node.run();
        assert!(node.works.is_empty(), "{name}: neither the policy nor a tool is asked");
        assert_eq!(answers(&node), [(1, 403, "precheck_failed".to_string())], "{name}");
        let log = log_text(&node);
        assert!(log.contains("\"kind\":\"decision\"") && log.contains("precheck_failed"), "{name}: {log}");
        let said = node.machine.status().precheck.unwrap().unwrap_err();
        assert!(said.contains(why), "{name}: {said}");
        assert_eq!(node.notes.iter().filter(|note| note.msg == "precheck_failed").count(), 1, "{name}: said once");
        next_look(&mut node);
        assert_eq!(node.notes.iter().filter(|note| note.msg == "precheck_failed").count(), 1, "{name}: said once");
    }
}

#[test]
fn a_marker_that_comes_lets_calls_through_and_one_that_turns_bad_stops_them_again() {
    let mut node = behind_precheck(None);
    node.files.insert(File::Precheck, marker(THIS_BOOT, 0));
    assert_eq!(node.machine.mode(), Mode::PrecheckFailed, "not before it was looked at");
    next_look(&mut node);
    assert_eq!(node.machine.mode(), Mode::Normal);
    assert_eq!(node.machine.status().precheck, Some(Ok(())));
    call(&mut node, 1);
    assert_eq!(node.works.len(), 1, "the policy is asked");
    node.files.insert(File::Precheck, marker(THIS_BOOT, 5));
    next_look(&mut node);
    // What the policy says now comes too late for this call.
    work(&mut node, allow());
    node.run();
    assert!(node.works.is_empty(), "no tool runs");
    call(&mut node, 2);
    node.run();
    let denied = "precheck_failed".to_string();
    assert_eq!(answers(&node), [(1, 403, denied.clone()), (2, 403, denied)]);
    let said: Vec<&str> = node.notes.iter().map(|note| note.msg).filter(|msg| msg.starts_with("precheck")).collect();
    assert_eq!(said, ["precheck_failed", "precheck_passed", "precheck_failed"]);
}

#[test]
fn calls_that_come_early_wait_for_the_first_look_at_the_marker() {
    let mut files = loaded(bundle("1.0.0", 0, 0));
    files.insert(File::Precheck, marker(THIS_BOOT, 0));
    let mut node = Solo::new(Runtime::new(Config { require_precheck: Some(THIS_BOOT.into()), ..config() }), files);
    node.event(Event::Start(crate::machine::Entropy([3; 32])));
    let look = node.chains.iter().position(|(tag, _)| tag.lane == Lane::Marker).unwrap();
    let look = node.chains.remove(look).unwrap();
    call(&mut node, 1);
    settle(&mut node);
    assert!(answers(&node).is_empty() && !node.outputs.iter().any(|o| matches!(o, Output::Ready)));
    node.chains.push_back(look);
    settle(&mut node);
    assert!(node.outputs.iter().any(|o| matches!(o, Output::Ready)));
    work(&mut node, allow());
    node.run();
    work(&mut node, Got::Ran(Ok(Value::Null)));
    node.run();
    assert_eq!(answers(&node), [(1, 200, String::new())]);
}

#[test]
fn a_marker_that_cannot_be_read_or_not_in_time_did_not_pass() {
    let mut node = behind_precheck(Some(marker(THIS_BOOT, 0)));
    assert_eq!(node.machine.mode(), Mode::Normal);
    // A device's fault.
    node.pass(Span::from_secs(1));
    node.event(Event::Due);
    while node.chains.front().is_some_and(|(tag, _)| tag.lane != Lane::Marker) {
        node.step();
    }
    node.fail = Some((0, FaultKind::Io(5)));
    node.step();
    assert_eq!(node.machine.mode(), Mode::PrecheckFailed);
    settle(&mut node);
    next_look(&mut node);
    assert_eq!(node.machine.mode(), Mode::Normal);
    // A read that hangs.
    node.pass(Span::from_secs(1));
    node.event(Event::Due);
    let look = node.chains.iter().position(|(tag, _)| tag.lane == Lane::Marker).unwrap();
    let (tag, _) = node.chains.remove(look).unwrap();
    node.pass(Span::from_secs(4));
    node.event(Event::Due);
    assert_eq!(node.machine.mode(), Mode::Normal);
    node.pass(Span::from_secs(1));
    node.event(Event::Due);
    assert_eq!(node.machine.mode(), Mode::PrecheckFailed);
    assert!(node.machine.status().precheck.unwrap().unwrap_err().contains("too long"));
    // What it read then may be old: it is read once more before it counts.
    node.event(Event::Disk(tag, Ok(crate::disk::Done::Bytes(marker(THIS_BOOT, 0)))));
    assert_eq!(node.machine.mode(), Mode::PrecheckFailed);
    settle(&mut node);
    assert_eq!(node.machine.mode(), Mode::Normal);
}

#[test]
fn modes_come_in_their_order_and_a_boot_without_an_id_never_passes() {
    let strict = |strict, boot_id: &str, files: Files| {
        let mut config = Config { require_precheck: Some(boot_id.into()), ..config() };
        config.calls.strict = strict;
        start(config, files).machine.mode()
    };
    let with = |boot_id: &str, exit| Files::from([(File::Precheck, marker(boot_id, exit))]);
    assert_eq!(strict(true, THIS_BOOT, Files::new()), Mode::Strict);
    assert_eq!(strict(false, THIS_BOOT, Files::new()), Mode::PrecheckFailed, "before no_policy");
    assert_eq!(strict(false, THIS_BOOT, with(THIS_BOOT, 0)), Mode::NoPolicy);
    assert_eq!(strict(false, "", with("", 0)), Mode::PrecheckFailed);
    assert_eq!(start(config(), Files::new()).machine.status().precheck, None);
}
