use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use ed25519_dalek::{Signer as _, SigningKey};
use io_edge::host::Text;
use machines::ids::Hash32;
use machines::manifest::{Manifest, Operation};
use machines::precheck::chain::Chain;
use machines::precheck::exit;
use machines::precheck::files::Marker;
use machines::tree::Mode;

use crate::node::{Node, field, messages};

const BINARY: &[u8] = b"#!/bin/sh\nexit 0\n";

fn key() -> SigningKey {
    SigningKey::from_bytes(&[9; 32])
}

fn manifest() -> Manifest {
    let mode = |bits| Mode::new(bits).unwrap();
    Manifest {
        version: 3,
        node: Some("node-1".into()),
        binary_path: "runtime/bin/agent".into(),
        operations: vec![
            Operation::EnsureDir { path: "runtime/bin".into(), mode: mode(0o755) },
            Operation::CopyBinary {
                source: "runtime/binaries/agent".into(),
                destination: "runtime/bin/agent".into(),
                mode: mode(0o755),
                blake3: Hash32(*blake3::hash(BINARY).as_bytes()),
            },
            Operation::WriteFile { path: "runtime/agent.toml".into(), mode: mode(0o640), content: b"a = 1\n".to_vec() },
            Operation::Symlink { path: "runtime/current".into(), target: "bin".into() },
        ],
    }
}

/// Lays a manifest with what it needs, signed.
fn prepare(node: &Node, manifest: &Manifest) {
    let text = manifest.to_text();
    node.write("runtime/binaries/agent", BINARY);
    node.write("runtime/manifest.json", &text);
    node.write("runtime/manifest.json.sig", key().sign(text.as_bytes()).to_bytes());
    node.write("identity/manifest-verify.pub", key().verifying_key().to_bytes());
}

/// Sets the stored hash to zeros: as if this were the system of another host.
fn zeros(node: &Node) {
    let path = node.root().join("bootstrap/os_fingerprint.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let at = text.find("\"composite_hash\": \"").unwrap() + "\"composite_hash\": \"".len();
    let text = format!("{}{}{}", &text[..at], "0".repeat(64), &text[at + 64..]);
    std::fs::write(&path, text).unwrap();
}

fn chain(node: &Node) -> Chain {
    Chain::parse(&std::fs::read(node.root().join("epoch/chain.jsonl")).unwrap()).unwrap()
}

fn passed(node: &Node) -> bool {
    let marker = std::fs::read(node.root().join("bootstrap/precheck.json")).ok();
    Marker::passed(marker.as_deref(), &node.config.boot_id).is_ok()
}

#[test]
fn the_first_precheck_begins_the_chain_and_the_next_ones_change_nothing_and_sync_nothing() {
    let node = Node::new();
    let (ended, notes, syncs) = node.precheck();
    assert_eq!((ended.exit, ended.boot_epoch), (exit::PASSED, Some(0)), "{notes:?}");
    assert_eq!(messages(&notes), ["edge.os.first_run"]);
    assert!(syncs > 0 && passed(&node));
    for (file, _) in node.files() {
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{}", file.display());
    }
    for folder in ["bootstrap", "epoch", "epoch/current"] {
        assert_eq!(node.root().join(folder).metadata().unwrap().permissions().mode() & 0o777, 0o700, "{folder}");
    }
    let before = node.files();
    let mut least = Duration::MAX;
    for _ in 0..50 {
        let began = Instant::now();
        let (ended, notes, syncs) = node.precheck();
        least = least.min(began.elapsed());
        assert_eq!((ended.exit, ended.boot_epoch, syncs), (exit::PASSED, Some(0), 0));
        assert_eq!(messages(&notes), ["edge.os.unchanged"]);
    }
    assert_eq!(node.files(), before);
    assert!(least < Duration::from_millis(10), "{least:?} at best");
}

#[test]
fn an_unchanged_precheck_of_this_very_host_takes_less_than_ten_milliseconds() {
    let mut node = Node::new();
    node.given.host = io_edge::host::Sources::default();
    assert_eq!(node.precheck().0.exit, exit::PASSED);
    let mut least = Duration::MAX;
    for _ in 0..50 {
        let began = Instant::now();
        let (ended, notes, syncs) = node.precheck();
        least = least.min(began.elapsed());
        assert_eq!((ended.exit, syncs), (exit::PASSED, 0), "{notes:?}");
    }
    assert!(least < Duration::from_millis(10), "{least:?} at best");
}

#[test]
fn b01_another_host_is_rebuilt_for_once() {
    let node = Node::new();
    node.precheck();
    prepare(&node, &manifest());
    zeros(&node);
    let (ended, notes, _) = node.precheck();
    assert_eq!((ended.exit, ended.boot_epoch), (exit::PASSED, Some(1)), "{notes:?}");
    assert_eq!(
        messages(&notes),
        ["edge.os.update_detected", "edge.os.reconstruction_started", "edge.os.reconstruction_completed"]
    );
    assert_eq!(field(&notes[0], "previous_hash"), "0".repeat(64));
    assert_eq!(field(&notes[2], "boot_epoch"), "1");
    let path = |name: &str| node.root().join("runtime").join(name);
    assert_eq!(std::fs::read(path("bin/agent")).unwrap(), BINARY);
    assert_eq!(path("bin/agent").metadata().unwrap().permissions().mode() & 0o7777, 0o755);
    assert_eq!(std::fs::read(path("agent.toml")).unwrap(), b"a = 1\n");
    assert_eq!(path("agent.toml").metadata().unwrap().permissions().mode() & 0o7777, 0o640);
    assert_eq!(std::fs::read_link(path("current")).unwrap().to_str(), Some("bin"));
    assert_eq!((chain(&node).last().epoch, chain(&node).last().manifest_version), (1, 3));
    assert!(passed(&node));
    let before = node.files();
    let (ended, notes, syncs) = node.precheck();
    assert_eq!((ended.exit, ended.boot_epoch, syncs), (exit::PASSED, Some(1), 0), "{notes:?}");
    assert_eq!(node.files(), before);
    assert!(!before.iter().any(|(path, _)| path.to_str().unwrap().ends_with(".tmp")), "{before:?}");
}

#[test]
fn b02_without_the_manifest_key_nothing_is_touched_but_the_marker() {
    let node = Node::new();
    node.precheck();
    prepare(&node, &manifest());
    zeros(&node);
    std::fs::remove_file(node.root().join("identity/manifest-verify.pub")).unwrap();
    let before = node.files();
    let (ended, notes, _) = node.precheck();
    assert_eq!((ended.exit, ended.boot_epoch), (exit::RECONSTRUCTION, None));
    assert_eq!(
        messages(&notes),
        ["edge.os.update_detected", "precheck: manifest verify key missing on reconstruction path"]
    );
    let changed: Vec<_> = node.files().into_iter().zip(before).filter(|(a, b)| a != b).map(|(a, _)| a.0).collect();
    assert_eq!(changed, [node.root().join("bootstrap/precheck.json")]);
    assert!(!passed(&node));
}

#[test]
fn a_pinned_key_outside_the_state_root_is_the_one_that_counts() {
    let mut node = Node::new();
    node.precheck();
    prepare(&node, &manifest());
    zeros(&node);
    node.write("identity/manifest-verify.pub", [3; 32]);
    let pinned = node.host().join("etc/manifest.pub");
    node.given.pinned_key = Some(pinned.clone());
    node.config.pinned_key = true;
    let refused = |words: &str| {
        let (ended, notes, _) = node.precheck();
        assert_eq!(ended.exit, exit::RECONSTRUCTION);
        assert_eq!(notes.last().unwrap().msg, words, "{notes:?}");
    };
    refused("precheck: manifest verify key missing on reconstruction path");
    std::fs::write(&pinned, [1; 65]).unwrap();
    refused("precheck: manifest verify key cannot be read");
    std::fs::write(&pinned, [1; 33]).unwrap();
    refused("precheck: manifest refused");
    std::fs::write(&pinned, SigningKey::from_bytes(&[8; 32]).verifying_key().to_bytes()).unwrap();
    refused("precheck: manifest signature is not good");
    std::fs::write(&pinned, key().verifying_key().to_bytes()).unwrap();
    assert_eq!(node.precheck().0.boot_epoch, Some(1));
}

#[test]
fn the_kernel_the_libc_and_the_system_are_told_apart_and_a_comment_changes_nothing() {
    let mut node = Node::new();
    node.given.host.extra_files = vec!["/etc/machine".into()];
    node.precheck();
    let changed = |node: &Node| {
        let (ended, notes, _) = node.precheck();
        assert_eq!(ended.exit, exit::RECONSTRUCTION, "no manifest is there");
        let note = notes.iter().find(|note| note.msg == "edge.os.components_changed").unwrap();
        field(note, "changed")
    };
    let os_release = node.host().join("etc/os-release");
    std::fs::write(&os_release, "# comment\nID=debian\nNAME=x\nVERSION_ID='12'\n").unwrap();
    assert_eq!(messages(&node.precheck().1), ["edge.os.unchanged"]);
    let kernel = std::mem::replace(&mut node.given.host.kernel, Text::Is("6.1.0-19-amd64".into()));
    assert_eq!(changed(&node), "kernel");
    node.given.host.kernel = kernel;
    let libc = node.host().join("lib64/libc.so.6");
    std::fs::write(&libc, "GNU C Library (GNU libc) stable release version 2.37.\n").unwrap();
    assert_eq!(changed(&node), "libc");
    std::fs::write(&libc, "GNU C Library (another build) stable release version 2.36.\n").unwrap();
    std::fs::write(node.host().join("etc/machine"), "1").unwrap();
    assert_eq!(changed(&node), "files");
    std::fs::remove_file(node.host().join("etc/machine")).unwrap();
    std::fs::write(&os_release, "ID=debian\nVERSION_ID=13\n").unwrap();
    assert_eq!(changed(&node), "os_release");
    std::fs::write(&os_release, "ID=debian\nVERSION_ID=12\nVARIANT_ID=\"K\u{e4}se\"\n").unwrap();
    assert_eq!(changed(&node), "os_release", "also outside ASCII");
}

#[test]
fn a_system_that_says_something_outside_ascii_has_a_fingerprint_that_is_read_again() {
    let node = Node::new();
    std::fs::write(node.host().join("etc/os-release"), "ID=x\nVARIANT_ID=\"K\u{e4}se \u{1f9c0}\"\n").unwrap();
    assert_eq!(messages(&node.precheck().1), ["edge.os.first_run"]);
    assert_eq!(messages(&node.precheck().1), ["edge.os.unchanged"]);
}

#[test]
fn what_is_no_source_of_a_fingerprint_is_named() {
    let mut node = Node::new();
    node.given.host.extra_files = vec!["/etc".into()];
    let (ended, notes, _) = node.precheck();
    assert_eq!(ended.exit, exit::RECONSTRUCTION);
    assert_eq!(field(&notes[0], "error"), "fingerprint.extra_files \"/etc\": not a regular file");
    node.given.host.extra_files = vec!["etc/x".into()];
    assert!(node.given.host.components().unwrap_err().contains("not absolute"));
    node.given.host.extra_files.clear();
    node.given.host.os_release = Some(node.host().join("none"));
    assert!(node.given.host.components().unwrap_err().starts_with("fingerprint.os_release"));
    node.given.host.os_release = None;
    node.given.host.kernel = Text::File(node.host().join("none"));
    assert!(node.given.host.components().unwrap_err().starts_with("kernel release"));
    let fifo = node.host().join("fifo");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    node.given.host.kernel = Text::File(fifo);
    assert!(node.given.host.components().unwrap_err().contains("not a regular file"));
}

#[test]
fn b10_a_second_precheck_ends_with_4_and_touches_nothing() {
    let node = Node::new();
    node.precheck();
    let mut holder = node.tree();
    holder.hold().unwrap();
    let before = node.files();
    let (ended, notes, _) = node.precheck();
    assert_eq!(ended.exit, exit::HELD, "{notes:?}");
    assert_eq!(node.files(), before);
    drop(holder);
    assert_eq!(node.precheck().0.exit, exit::PASSED);
}

#[test]
fn f12_a_state_root_that_others_may_write_or_that_is_a_link_or_is_not_there_ends_with_2() {
    let node = Node::new();
    for mode in [0o770, 0o702, 0o777] {
        std::fs::set_permissions(node.root(), std::fs::Permissions::from_mode(mode)).unwrap();
        let (ended, notes, _) = node.precheck();
        assert_eq!((ended.exit, notes[0].msg), (exit::STATE_ROOT, "precheck: state root is writable by others"));
    }
    std::fs::set_permissions(node.root(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let aside = node.root().with_file_name("aside");
    std::fs::rename(node.root(), &aside).unwrap();
    assert_eq!(node.precheck().1[0].msg, "precheck: state root is missing");
    std::os::unix::fs::symlink(&aside, node.root()).unwrap();
    assert_eq!(node.precheck().0.exit, exit::STATE_ROOT);
    assert!(!aside.join("epoch").exists());
}
