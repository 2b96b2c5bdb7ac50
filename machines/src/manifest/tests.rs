use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::tree::{Path, Place, Root};

fn sample() -> Manifest {
    Manifest {
        version: 7,
        node: Some("n7".into()),
        binary_path: "runtime/bin/agent".into(),
        operations: Vec::from([
            Operation::EnsureDir { path: "runtime/bin".into(), mode: Mode::new(0o755).unwrap() },
            Operation::CopyBinary {
                source: "runtime/binaries/agent".into(),
                destination: "runtime/bin/agent".into(),
                mode: Mode::new(0o755).unwrap(),
                blake3: Hash32([0xab; 32]),
            },
            Operation::WriteFile {
                path: "/srv/agent/agent.conf".into(),
                mode: Mode::new(0o640).unwrap(),
                content: b"a = 1\n".to_vec(),
            },
            Operation::Symlink { path: "runtime/current".into(), target: "bin/agent".into() },
        ]),
    }
}

fn destinations() -> Destinations {
    Destinations { state_root: "/data/state".into(), allow: Vec::from(["/srv".into(), "/srv/agent".into()]) }
}

fn refused(text: &str) -> String {
    Manifest::parse(text.as_bytes()).unwrap_err().to_string()
}

fn with(operations: &str) -> String {
    format!(r#"{{"version":1,"binary_path":"a","operations":[{operations}]}}"#)
}

fn plan(operations: Vec<Operation>) -> Result<Plan, Refusal> {
    Plan::new(&Manifest { version: 1, node: None, binary_path: "a".into(), operations }, &destinations())
}

fn write(path: &str) -> Operation {
    Operation::WriteFile { path: path.into(), mode: Mode::PRIVATE, content: Vec::new() }
}

fn folder(path: &str) -> Operation {
    Operation::EnsureDir { path: path.into(), mode: Mode::PRIVATE_FOLDER }
}

fn link(path: &str, target: &str) -> Operation {
    Operation::Symlink { path: path.into(), target: target.into() }
}

#[test]
fn a_manifest_is_read_as_it_was_written() {
    let text = sample().to_text();
    insta::assert_snapshot!(text);
    assert_eq!(Manifest::parse(text.as_bytes()).unwrap(), sample());
    assert_eq!(sample().binary_hash(), Some(Hash32([0xab; 32])));
    let empty = Manifest { operations: Vec::new(), node: None, ..sample() };
    assert_eq!(Manifest::parse(empty.to_text().as_bytes()).unwrap(), empty);
}

#[test]
fn i_e2_only_bytes_whose_signature_is_good_can_be_parsed() {
    let bytes = sample().to_text().into_bytes();
    let unverified = || Unverified::new(bytes.clone(), &[1; 32], &[2; 64]).unwrap();
    assert!(unverified().answered(false).is_none());
    assert_eq!(unverified().answered(true).unwrap().parse().unwrap(), sample());
    let Ask::Ed25519 { key, message, signature } = unverified().question() else { panic!("another question") };
    assert_eq!((key, &message[..], signature), ([1; 32], &bytes[..], [2; 64]));
    assert_eq!(Unverified::new(bytes.clone(), &[1; 31], &[2; 64]).unwrap_err(), Refusal::KeyLength(31));
    assert_eq!(Unverified::new(bytes.clone(), &[1; 32], &[2; 65]).unwrap_err(), Refusal::SignatureLength(65));
}

#[test]
fn j01_j06_what_cannot_be_signed_or_is_not_in_the_schema_is_refused() {
    for (text, part) in [
        (r#"{"version":1,"version":1,"binary_path":"a","operations":[]}"#, "duplicate key"),
        (r#"{"version":1.0,"binary_path":"a","operations":[]}"#, "1.0"),
        (r#"{"version":0,"binary_path":"a","operations":[]}"#, "`manifest.version` must be a whole number from 1"),
        (r#"{"version":9007199254740992,"binary_path":"a","operations":[]}"#, "9007199254740992"),
        (r#"{"version":1,"binary_path":"a","operations":[]} "x""#, ""),
        (r#"{"version":1,"binary_path":"a","operations":{}}"#, "`manifest.operations` must be a list"),
        (r#"{"version":1,"operations":[]}"#, "`manifest.binary_path` is missing"),
        (r#"{"version":1,"binary_path":"a","operations":[],"Version":2}"#, "\"Version\" is no field of manifest"),
        (r#"{"version":1,"binary_path":"a","node":"a/b","operations":[]}"#, "`manifest.node` must be a node's id"),
        (r#"[]"#, "`manifest` must be an object"),
    ] {
        let words = refused(text);
        assert!(words.contains(part), "{text}: {words}");
    }
    for (operation, part) in [
        (r#"{"op":"delete","path":"a"}"#, "`operations[0].op` must be \"copy_binary\""),
        (r#"{"op":"ensure_dir","path":"a","mode":"4755"}"#, "`operations[0].mode` must be permission bits in octal"),
        (r#"{"op":"ensure_dir","path":"a","mode":493}"#, "`operations[0].mode`"),
        (r#"{"op":"ensure_dir","path":"a","mode":"0555"}"#, "with all of the owner's"),
        (r#"{"op":"ensure_dir","path":"a"}"#, "`operations[0].mode` is missing"),
        (r#"{"op":"ensure_dir","path":"","mode":"0755"}"#, "`operations[0].path`"),
        (r#"{"op":"ensure_dir","path":"a","mode":"0755","owner":"root"}"#, "\"owner\" is no field of operations[0]"),
        (r#"{"op":"write_file","path":"a","mode":"0644","content_base64":"a"}"#, "`operations[0].content_base64`"),
        (r#"{"op":"symlink","path":"a","target":"b\u0000"}"#, "`operations[0].target`"),
        (
            r#"{"op":"copy_binary","source":"runtime/binaries/a","destination":"a","mode":"0755","blake3":"sha256:00"}"#,
            "`operations[0].blake3` must be \"blake3:\"",
        ),
    ] {
        let words = refused(&with(operation));
        assert!(words.contains(part), "{operation}: {words}");
    }
}

#[test]
fn b05_every_path_is_judged_before_anything_is_done() {
    for (path, part) in [
        ("../x", "`.` and `..`"),
        ("a/../../x", "`.` and `..`"),
        ("/etc/passwd", "lies neither beneath the state root"),
        ("/data/state", "lies neither beneath the state root"),
        ("/data/statex/a", "lies neither beneath the state root"),
        ("/data/state/../x", "`.` and `..`"),
        ("/srv/../etc/x", "`.` and `..`"),
        ("/srv/a//x", "empty component"),
        ("a b", "only letters"),
        ("runtime/.agent.tmp", ".*.tmp is the node's own"),
        ("/srv/.Agent.TMP/x", ".*.tmp is the node's own"),
        ("epoch/chain.jsonl", "epoch is the node's own"),
        ("EPOCH/chain.jsonl", "epoch is the node's own"),
        ("/data/state/Epoch/x", "epoch is the node's own"),
        ("bootstrap", "bootstrap is the node's own"),
        ("identity/manifest-verify.pub", "identity is the node's own"),
        ("Identity.Previous/x", "identity.previous is the node's own"),
        ("telemetry/telemetry.wal", "telemetry is the node's own"),
        ("activation.json", "activation.json is the node's own"),
        ("edge/telemetry/x", "edge is the node's own"),
        ("runtime/Binaries/agent", "runtime/binaries is the node's own"),
        ("runtime/manifest.json", "runtime/manifest.json is the node's own"),
        ("runtime/manifest.json.sig", "runtime/manifest.json.sig is the node's own"),
    ] {
        let words = plan(Vec::from([write("fine"), write(path)])).unwrap_err().to_string();
        assert!(words.contains(part) && words.contains("operations[1].path"), "{path}: {words}");
        assert!(plan(Vec::from([folder(path)])).is_err() && plan(Vec::from([link(path, "x")])).is_err(), "{path}");
    }
    for (source, part) in [
        ("agent", "a source lies beneath runtime/binaries/"),
        ("runtime/binaries", "a source lies beneath runtime/binaries/"),
        ("runtime/binariesx/agent", "a source lies beneath runtime/binaries/"),
        ("Runtime/Binaries/agent", "a source lies beneath runtime/binaries/"),
        ("runtime/binaries/../../identity/node.key", "`.` and `..`"),
        ("/etc/shadow", "it is absolute"),
    ] {
        let copy = Operation::CopyBinary {
            source: source.into(),
            destination: "a".into(),
            mode: Mode::PRIVATE,
            blake3: Hash32([0; 32]),
        };
        let words = plan(Vec::from([copy])).unwrap_err().to_string();
        assert!(words.contains(part) && words.contains("operations[0].source"), "{source}: {words}");
    }
    let outside = Manifest { binary_path: "/bin/agent".into(), ..sample() };
    assert!(Plan::new(&outside, &destinations()).unwrap_err().to_string().contains("manifest.binary_path"));
}

#[test]
fn f06_names_that_one_file_system_could_not_keep_apart_are_refused() {
    for (first, second) in [
        (write("a"), write("a")),
        (write("a"), write("A")),
        (write("a"), folder("a")),
        (folder("a"), write("a")),
        (write("a"), write("a/b")),
        (write("A/b"), write("a/c")),
        (link("a", "b"), write("a/c")),
        (folder("dir"), folder("Dir")),
        (write("/srv/x"), write("/srv/X")),
        (write("x"), write("/data/state/x")),
    ] {
        let words = plan(Vec::from([first.clone(), second.clone()])).unwrap_err().to_string();
        assert!(words.contains("clashes with"), "{first:?} {second:?}: {words}");
    }
    for (first, second) in [
        (folder("a"), write("a/b")),
        (write("a/b"), folder("a")),
        (write("x"), write("/srv/x")),
        (folder("a"), folder("a/b")),
    ] {
        plan(Vec::from([first, second])).unwrap();
    }
}

#[test]
fn f02_a_link_does_not_lead_out_of_what_may_be_written() {
    for good in ["bin/agent", "../x", "./a/b", "/data/state/x", "/srv/x"] {
        plan(Vec::from([link("runtime/current", good)])).unwrap_or_else(|refusal| panic!("{good}: {refusal}"));
    }
    for bad in [
        "../../x",
        "./a/../b",
        "bin/agent/../../x",
        "a/../../../x",
        "/etc/passwd",
        "/data/state/../x",
        "/data/statex",
        "/srv",
        "a//b",
    ] {
        let words = plan(Vec::from([link("runtime/current", bad)])).unwrap_err().to_string();
        assert!(words.contains("leads out of"), "{bad}: {words}");
    }
}

#[test]
fn absolute_paths_find_their_root() {
    let plan = plan(Vec::from([write("/data/state/a/b"), write("/srv/a"), write("/srv/agent/a")])).unwrap();
    let places: Vec<(Root, &str)> = plan.steps.iter().map(|step| (step.at().root, step.at().path.as_str())).collect();
    assert_eq!(places, [(Root::State, "a/b"), (Root::Allowed(0), "a"), (Root::Allowed(1), "a")]);
}

#[test]
fn folders_that_no_earlier_step_makes_are_expected() {
    let plan = plan(Vec::from([write("x/a"), folder("y"), folder("y/z"), write("y/z/a"), write("x/b")])).unwrap();
    let state = |path: &str| Place::state(Path::parse(path).unwrap());
    assert_eq!(plan.expected_folders(), [state("x"), Place::top(Root::State)]);
}

proptest! {
    #[test]
    fn whatever_is_given_is_parsed_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Manifest::parse(&bytes);
    }

    #[test]
    fn no_path_leads_anywhere_but_beneath_a_root(path in "[a-zA-Z./]{1,12}|/data/state/[a-z./]{1,9}|/srv/[a-z./]{1,9}") {
        if let Ok(plan) = plan(Vec::from([write(&path)])) {
            let at = plan.steps[0].at();
            prop_assert!(!at.path.as_str().is_empty());
            prop_assert!(at.path.components().all(|part| part != ".." && part != "."));
            let root = match at.root { Root::State => "/data/state", Root::Allowed(0) => "/srv", Root::Allowed(_) => "/srv/agent" };
            let whole = format!("{root}/{}", at.path);
            prop_assert!(path == at.path.as_str() || path == whole);
        }
    }
}
