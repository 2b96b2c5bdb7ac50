use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::rig::{NOW, Node, Rig, sign};
use crate::disk::FaultKind;
use crate::ids::Hash32;
use crate::precheck::certificates::{Certificates, LEAST_LEFT, Pair};
use crate::precheck::files::Name;
use crate::precheck::host::Components;
use crate::precheck::{Ended, exit};
use crate::time::Wall;
use crate::tree::{Op, Opened, Place};

const BINARY: &[u8] = b"#!/bin/agent";

fn hash(bytes: &[u8]) -> Hash32 {
    Hash32(*blake3::hash(bytes).as_bytes())
}

fn manifest(version: u64) -> String {
    format!(
        r#"{{"version":{version},"node":"n7","binary_path":"runtime/bin/agent","operations":[
        {{"op":"ensure_dir","path":"runtime/bin","mode":"0755"}},
        {{"op":"copy_binary","source":"runtime/binaries/agent","destination":"runtime/bin/agent","mode":"0755","blake3":"blake3:{}"}},
        {{"op":"write_file","path":"runtime/agent.conf","mode":"0644","content_base64":"YSA9IDEK"}},
        {{"op":"symlink","path":"runtime/current","target":"bin/agent"}}]}}"#,
        hash(BINARY)
    )
}

/// A node after its first start, with a release.
fn node() -> Rig {
    let mut rig = Rig::new();
    rig.write("runtime/binaries/agent", BINARY);
    rig.release(&manifest(3));
    assert_eq!(rig.run(), Ended { exit: 0, boot_epoch: Some(0) });
    rig
}

fn replaced() -> Rig {
    let mut rig = node();
    rig.host.kernel = "6.2".into();
    rig
}

/// Runs and says the exit code and the last line.
fn ends(rig: &mut Rig) -> (u8, &'static str) {
    let ended = rig.run();
    (ended.exit, rig.last_error())
}

fn syncs(rig: &Rig) -> usize {
    rig.done.iter().filter(|op| matches!(op, Op::Sync(_) | Op::SyncFolder(_))).count()
}

/// The tree without the marker.
fn unmarked(rig: &Rig) -> Node {
    let mut copy = Rig::new();
    copy.top = rig.top.clone();
    copy.take("bootstrap/precheck.json");
    copy.top
}

#[test]
fn a_first_run_writes_epoch_zero_and_the_next_one_changes_nothing() {
    let mut rig = node();
    insta::assert_snapshot!(format!(
        "{}{}{}{}{}",
        rig.said(),
        rig.text("epoch/chain.jsonl"),
        rig.text("epoch/current/evidence.json"),
        rig.text("bootstrap/os_fingerprint.json"),
        rig.text("bootstrap/precheck.json"),
    ));
    let before = rig.top.clone();
    assert_eq!(rig.run(), Ended { exit: 0, boot_epoch: Some(0) });
    assert_eq!(rig.top, before);
    assert_eq!(syncs(&rig), 0);
    rig.config.boot_id = "boot-2".into();
    assert_eq!(rig.run().exit, 0);
    assert_eq!(syncs(&rig), 0, "a marker needs no sync");
    assert!(rig.text("bootstrap/precheck.json").contains("boot-2"));
}

#[test]
fn b01_another_host_is_rebuilt_from_the_manifest_and_the_epoch_advances_once() {
    let mut rig = replaced();
    assert_eq!(rig.run(), Ended { exit: 0, boot_epoch: Some(1) });
    insta::assert_snapshot!(format!(
        "{}{}{}{}",
        rig.said(),
        rig.text("epoch/chain.jsonl"),
        rig.text("epoch/current/evidence.json"),
        rig.text("bootstrap/precheck.json"),
    ));
    assert_eq!(rig.text("runtime/bin/agent").as_bytes(), BINARY);
    assert_eq!(rig.text("runtime/agent.conf"), "a = 1\n");
    assert!(
        matches!(rig.find(&super::rig::place("runtime/current")), Some(Node::Link(target)) if target == "bin/agent")
    );
    assert_eq!(rig.run(), Ended { exit: 0, boot_epoch: Some(1) });
    rig.host = Components { libc: "glibc 2.37".into(), ..rig.host };
    assert_eq!(rig.run(), Ended { exit: 0, boot_epoch: Some(2) });
    assert!(rig.said().contains("changed=Text(\"libc\")"), "{}", rig.said());
}

#[test]
fn the_story_zeros_the_fingerprint_twice() {
    let mut rig = node();
    let zero = |rig: &mut Rig| {
        let text = rig.text("bootstrap/os_fingerprint.json");
        let own = format!("{}", rig.host.composite_hash());
        rig.write("bootstrap/os_fingerprint.json", text.replace(&own, &"0".repeat(64)).as_bytes());
    };
    zero(&mut rig);
    assert_eq!(rig.run(), Ended { exit: 0, boot_epoch: Some(1) });
    assert!(rig.said().contains(&format!("previous_hash=Text({:?})", "0".repeat(64))));
    zero(&mut rig);
    let key = rig.take("identity/manifest-verify.pub").unwrap();
    let before = unmarked(&rig);
    assert_eq!(ends(&mut rig), (5, "precheck: manifest verify key missing on reconstruction path"));
    assert_eq!(unmarked(&rig), before, "nothing was written");
    assert!(rig.text("bootstrap/precheck.json").contains("\"exit\": 5"));
    rig.put("identity/manifest-verify.pub", key);
    assert_eq!(rig.run(), Ended { exit: 0, boot_epoch: Some(2) });
}

#[test]
fn b03_b05_what_the_manifest_may_not_is_refused_before_anything_is_written() {
    type Spoil = fn(&mut Rig);
    let cases: [(&str, Spoil, &str); 19] = [
        (
            "no manifest",
            |rig| drop(rig.take("runtime/manifest.json")),
            "precheck: manifest or its signature missing on reconstruction path",
        ),
        (
            "no signature",
            |rig| drop(rig.take("runtime/manifest.json.sig")),
            "precheck: manifest or its signature missing on reconstruction path",
        ),
        ("a short signature", |rig| rig.write("runtime/manifest.json.sig", &[1; 63]), "precheck: manifest refused"),
        (
            "a wrong signature",
            |rig| rig.write("runtime/manifest.json.sig", &[1; 64]),
            "precheck: manifest signature is not good",
        ),
        ("a short key", |rig| rig.write("identity/manifest-verify.pub", &[7; 31]), "precheck: manifest refused"),
        (
            "another key",
            |rig| rig.write("identity/manifest-verify.pub", &[8; 32]),
            "precheck: manifest signature is not good",
        ),
        (
            "a key that is a link",
            |rig| rig.put("identity/manifest-verify.pub", Node::Link("x".into())),
            "precheck: a file cannot be read",
        ),
        (
            "an altered manifest",
            |rig| rig.write("runtime/manifest.json", manifest(4).as_bytes()),
            "precheck: manifest signature is not good",
        ),
        ("another node", |rig| rig.release(&manifest(3).replace("n7", "n8")), "precheck: manifest is for another node"),
        ("no JSON", |rig| rig.release("x"), "precheck: manifest refused"),
        (
            "a path outside",
            |rig| rig.release(&manifest(3).replace("runtime/agent.conf", "../x")),
            "precheck: manifest refused",
        ),
        (
            "no source",
            |rig| drop(rig.take("runtime/binaries/agent")),
            "precheck: a source of the manifest cannot be read",
        ),
        (
            "another source",
            |rig| rig.write("runtime/binaries/agent", b"evil"),
            "precheck: a source of the manifest is not what was signed",
        ),
        (
            "a source that is a link",
            |rig| rig.put("runtime/binaries/agent", Node::Link("x".into())),
            "precheck: a source of the manifest cannot be read",
        ),
        (
            "a link at a file's place",
            |rig| rig.put("runtime/agent.conf", Node::Link("x".into())),
            "precheck: a destination of the manifest cannot be used",
        ),
        (
            "a folder at a file's place",
            |rig| rig.put("runtime/agent.conf", Node::Folder(BTreeMap::new())),
            "precheck: a destination of the manifest cannot be used",
        ),
        (
            "a folder at a link's place",
            |rig| rig.put("runtime/current", Node::Folder(BTreeMap::new())),
            "precheck: a destination of the manifest cannot be used",
        ),
        (
            "a file at a folder's place",
            |rig| rig.write("runtime/bin", b"x"),
            "precheck: a destination of the manifest cannot be used",
        ),
        (
            "a folder that nobody makes",
            |rig| rig.release(&manifest(3).replace("runtime/agent.conf", "etc/agent.conf")),
            "precheck: a destination of the manifest cannot be used",
        ),
    ];
    for (name, spoil, msg) in cases {
        let mut rig = replaced();
        spoil(&mut rig);
        let before = unmarked(&rig);
        assert_eq!(ends(&mut rig), (5, msg), "{name}: {}", rig.said());
        assert_eq!(unmarked(&rig), before, "{name}: something was written");
        assert!(!rig.said().contains("reconstruction_started"), "{name}");
        assert!(rig.text("bootstrap/precheck.json").contains("\"exit\": 5"), "{name}");
    }
}

#[test]
fn f12_a_folder_outside_that_others_may_write_is_refused_before_anything_is_written() {
    let mut rig = replaced();
    rig.config.destinations.allow = Vec::from(["/srv/agent".into()]);
    rig.release(&manifest(3).replace("runtime/agent.conf", "/srv/agent/agent.conf"));
    let good = rig.allowed;
    for bad in [
        Opened { mode: 0o775, ..good },
        Opened { mode: 0o757, ..good },
        Opened { ours: false, ..good },
        Opened { writable: false, ..good },
    ] {
        rig.allowed = bad;
        let before = unmarked(&rig);
        assert_eq!(ends(&mut rig), (5, "precheck: a folder of reconstruct.allow cannot be used"), "{bad:?}");
        assert_eq!(unmarked(&rig), before);
    }
}

#[test]
fn u01_an_older_manifest_is_refused_and_the_same_one_serves_again() {
    let mut rig = replaced();
    assert_eq!(rig.run().boot_epoch, Some(1));
    rig.host.kernel = "6.3".into();
    rig.release(&manifest(2));
    assert_eq!(ends(&mut rig), (5, "precheck: manifest is older than the one that was carried out"));
    rig.release(&manifest(3));
    assert_eq!(rig.run().boot_epoch, Some(2));
}

#[test]
fn b04_bytes_swapped_at_any_instant_are_never_carried_out() {
    let evil = manifest(9).replace("YSA9IDEK", "ZXZpbAo=");
    let operations = {
        let mut rig = replaced();
        rig.run();
        rig.done.len()
    };
    for (path, bytes) in [
        ("runtime/manifest.json", evil.as_bytes().to_vec()),
        ("runtime/manifest.json.sig", sign(&[8; 32], evil.as_bytes())),
        ("runtime/binaries/agent", b"evil".to_vec()),
    ] {
        for n in 0..operations {
            let mut rig = replaced();
            rig.swap = Some((n, path, bytes.clone()));
            let ended = rig.run();
            assert!(matches!(ended.exit, 0 | 5), "{path} before {n}: {ended:?}");
            let installed = |path| rig.find(&super::rig::place(path));
            for (path, want) in [("runtime/bin/agent", BINARY), ("runtime/agent.conf", b"a = 1\n")] {
                match installed(path) {
                    Some(Node::File(bytes, _)) => assert_eq!(bytes, want, "{path} before {n}"),
                    None => assert_eq!(ended.exit, 5, "before {n}"),
                    Some(other) => panic!("{other:?}"),
                }
            }
        }
    }
}

#[test]
fn i_e1_the_boot_has_not_passed_while_operations_run() {
    let mut rig = replaced();
    rig.run();
    let marker = Name::Marker.place();
    let armed = rig.done.iter().position(|op| matches!(op, Op::Rename { to, .. } if *to == marker)).unwrap();
    let first = rig
        .done
        .iter()
        .position(|op| matches!(op, Op::MakeFolder { at, .. } if at.path.as_str() == "runtime/bin"))
        .unwrap();
    assert!(armed < first);
    let armed_bytes = rig.done[..armed].iter().rev().find_map(|op| match op {
        Op::Put { at, bytes, .. } if *at == marker.temp() => Some(bytes.clone()),
        _ => None,
    });
    assert!(String::from_utf8(armed_bytes.unwrap()).unwrap().contains("\"exit\": 5"));
}

#[test]
fn b13_the_earlier_check_wins() {
    let pair = Pair {
        cert: super::rig::place("identity/node.crt"),
        key: super::rig::place("identity/node.key"),
        ca: super::rig::place("identity/ca.crt"),
    };
    let mut rig = replaced();
    rig.take("identity/manifest-verify.pub");
    rig.write("identity/node.crt", b"cert");
    rig.write("identity/node.key", b"key");
    rig.config.tls = Some(pair);
    rig.config.paths = Vec::from([("tls.cert", super::rig::place("identity/node.crt"))]);
    rig.held = true;
    let good = |left: u64| Certificates {
        matches: true,
        exposed: false,
        not_after: Wall::from_micros(NOW.as_micros() + left),
    };
    rig.certificates = Ok(good(LEAST_LEFT.as_micros()));
    for (root, want) in [
        (Err(FaultKind::NotFound), "precheck: state root is missing"),
        (Ok(Opened { ours: true, mode: 0o700, writable: false }), "precheck: state root is not writable"),
        (Ok(Opened { ours: false, mode: 0o700, writable: true }), "precheck: state root belongs to another user"),
        (Ok(Opened { ours: true, mode: 0o770, writable: true }), "precheck: state root is writable by others"),
    ] {
        rig.root = root;
        assert_eq!(ends(&mut rig), (exit::STATE_ROOT, want));
    }
    rig.root = Ok(Opened { ours: true, mode: 0o700, writable: true });
    rig.put("identity/node.crt", Node::Link("/etc/x".into()));
    assert_eq!(ends(&mut rig), (exit::STATE_ROOT, "precheck: a configured path resolves outside the state root"));
    rig.write("identity/node.crt", b"cert");
    assert_eq!(ends(&mut rig), (exit::HELD, "precheck: another precheck or edged holds the state root"));
    rig.held = false;
    assert_eq!(ends(&mut rig), (exit::CERTIFICATE, "precheck: certificate expires within 7 days"));
    rig.certificates = Ok(Certificates { matches: false, ..good(u64::MAX / 4) });
    assert_eq!(ends(&mut rig), (exit::CERTIFICATE, "precheck: certificate and key do not match"));
    rig.certificates = Ok(Certificates { exposed: true, ..good(u64::MAX / 4) });
    assert_eq!(ends(&mut rig).0, exit::CERTIFICATE);
    rig.certificates = Err("identity/ca.crt: no certificate in it".into());
    assert_eq!(ends(&mut rig), (exit::CERTIFICATE, "precheck: certificate cannot be read"));
    rig.certificates = Ok(good(LEAST_LEFT.as_micros() + 1));
    assert_eq!(ends(&mut rig).0, exit::RECONSTRUCTION);
    (rig.config.tls, rig.config.relay) = (None, true);
    assert_eq!(ends(&mut rig).0, exit::CERTIFICATE);
}

#[test]
fn t09_a_clock_that_was_set_back_revives_no_certificate() {
    let mut rig = node();
    rig.config.tls = Some(Pair {
        cert: super::rig::place("identity/node.crt"),
        key: super::rig::place("identity/node.key"),
        ca: super::rig::place("identity/ca.crt"),
    });
    rig.write("identity/node.crt", b"cert");
    rig.write("identity/node.key", b"key");
    rig.config.built_at = NOW.after(LEAST_LEFT);
    rig.certificates =
        Ok(Certificates { matches: true, exposed: false, not_after: rig.config.built_at.after(LEAST_LEFT) });
    assert_eq!(ends(&mut rig), (exit::CERTIFICATE, "precheck: certificate expires within 7 days"));
    assert!(rig.said().contains("clock_rollback"), "{}", rig.said());
}

#[test]
fn t17_a_rotation_changes_the_whole_identity_in_one_step() {
    let mut rig = node();
    rig.config.tls = Some(Pair {
        cert: super::rig::place("identity/node.crt"),
        key: super::rig::place("identity/node.key"),
        ca: super::rig::place("identity/ca.crt"),
    });
    for (path, bytes) in [("identity/node.crt", b"old"), ("identity/node.key", b"OLD"), ("identity/ca.crt", b"aut")] {
        rig.write(path, bytes);
    }
    rig.certificates =
        Ok(Certificates { matches: true, exposed: false, not_after: NOW.after(LEAST_LEFT).after(LEAST_LEFT) });
    rig.config.rotate = true;
    assert_eq!(ends(&mut rig), (exit::CERTIFICATE, "precheck: the next certificate cannot be put in force"));
    rig.write("identity/next/node.crt", b"new");
    rig.write("identity/next/node.key", b"NEW");
    // What an earlier, cut rotation left is in nobody's way.
    rig.put("identity.previous", Node::Folder(BTreeMap::new()));
    rig.put("identity.previous/next", Node::Folder(BTreeMap::new()));
    rig.write("identity.previous/next/node.crt", b"older");
    rig.write("identity.previous/ca.crt", b"older");
    let pair = core::mem::replace(&mut rig.certificates, Err("identity/next/node.key: no key".into()));
    let before = rig.top.clone();
    assert_eq!(ends(&mut rig), (exit::CERTIFICATE, "precheck: certificate cannot be read"));
    assert_eq!(rig.top, before, "the pair is checked before anything is given up, and the marker stays");
    rig.certificates = pair;
    assert_eq!(rig.run().exit, 0, "{}", rig.said());
    let whole: [(&str, &str); 7] = [
        ("identity/node.crt", "new"),
        ("identity/node.key", "NEW"),
        ("identity/ca.crt", "aut"),
        ("identity.previous/node.crt", "old"),
        ("identity.previous/node.key", "OLD"),
        ("identity.previous/next/node.crt", "new"),
        ("identity.previous/next/node.key", "NEW"),
    ];
    for (path, want) in whole {
        assert_eq!(rig.text(path), want, "{path}");
    }
    assert_eq!(rig.text("identity/manifest-verify.pub").as_bytes(), [7; 32]);
    assert_eq!(ends(&mut rig), (exit::CERTIFICATE, "precheck: the next certificate cannot be put in force"));
    assert_eq!(rig.text("identity/node.crt"), "new", "what was put in force stays");
    let exchanged = |op: &&Op| matches!(op, Op::Exchange { .. });
    assert_eq!(rig.done.iter().filter(exchanged).count(), 0);
}

#[test]
fn the_key_may_be_pinned_outside_the_state_root() {
    let mut rig = replaced();
    rig.config.pinned_key = true;
    assert_eq!(ends(&mut rig), (5, "precheck: manifest verify key missing on reconstruction path"));
    rig.pinned = Some(Vec::from([8; 32]));
    assert_eq!(ends(&mut rig), (5, "precheck: manifest signature is not good"));
    rig.pinned = Some(Vec::from([7; 32]));
    rig.take("identity/manifest-verify.pub");
    assert_eq!(rig.run(), Ended { exit: 0, boot_epoch: Some(1) });
}

#[test]
fn nothing_but_the_allowed_places_is_touched() {
    let mut rig = replaced();
    rig.run();
    for op in &rig.done {
        let written: Option<&Place> = match op {
            Op::Put { at, .. } | Op::MakeFolder { at, .. } | Op::Link { at, .. } => Some(at),
            Op::Copy { to, .. } | Op::Rename { to, .. } => Some(to),
            _ => None,
        };
        if let Some(at) = written {
            let ours = ["bootstrap", "epoch", "runtime"].iter().any(|folder| at.path.is_in(folder));
            assert!(ours && !at.path.is_in("runtime/binaries"), "{at:?}");
        }
    }
}
