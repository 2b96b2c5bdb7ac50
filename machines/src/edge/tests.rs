use std::collections::BTreeMap;
use std::string::{String, ToString};
use std::vec::Vec;

use super::*;
use crate::disk::{self, File};
use crate::solo::{Files, Solo};
use crate::time::Wall;

const AT: Wall = Wall::from_micros(1_763_724_637_000_000);

/// A chain up to this epoch.
fn chain(last: u64) -> Chain {
    (0..last).fold(Chain::first(Hash32([1; 32]), AT), |chain, n| {
        let n = u8::try_from(n).unwrap();
        chain.with(Hash32([n + 1; 32]), Hash32([n + 2; 32]), 7, AT).unwrap()
    })
}

/// The state root, as far as it is read and written by path.
#[derive(Clone, Default)]
struct Root(BTreeMap<String, Vec<u8>>);

impl Root {
    fn with(chain: &Chain) -> Self {
        Self(BTreeMap::from([("epoch/chain.jsonl".into(), chain.bytes().to_vec())]))
    }

    fn execute(&mut self, ops: Vec<Op>) -> tree::Completion {
        let path = |place: &tree::Place| place.path.as_str().to_string();
        let mut done = Done::Nothing;
        for (step, op) in ops.into_iter().enumerate() {
            match op {
                Op::Read { at, .. } => match self.0.get(&path(&at)) {
                    Some(bytes) => done = Done::Bytes(bytes.clone()),
                    None => return Err(Fault { step, kind: FaultKind::NotFound }),
                },
                Op::Put { at, bytes, .. } => {
                    self.0.insert(path(&at), bytes);
                }
                Op::Remove(at) => {
                    self.0.remove(&path(&at));
                }
                Op::Rename { from, to } => {
                    let bytes = self.0.remove(&path(&from)).unwrap();
                    self.0.insert(path(&to), bytes);
                }
                Op::Sync(_) | Op::SyncFolder(_) => {}
                other => panic!("edge does not need {other:?}"),
            }
        }
        Ok(done)
    }
}

/// Runs until nothing is left to do, or `most` chains of files by path were carried out: then it is as after a crash.
fn run(files: Files, root: &mut Root, most: usize) -> Solo<Edge> {
    let mut solo = Solo::new(Edge::new(Config { wal: wal::Config::default() }), files);
    solo.event(Event::Start(Entropy([3; 32])));
    solo.run();
    for _ in 0..most {
        let Some((tag, ops)) = solo.trees.pop_front() else { break };
        let done = root.execute(ops);
        solo.event(Event::Tree(tag, done));
        solo.run();
    }
    solo
}

/// Audit ids and bodies of the frames.
fn frames(files: &Files) -> Vec<(String, String)> {
    let bytes = files.get(&File::Live).cloned().unwrap_or_default();
    let mut found = Vec::new();
    let mut rest = &bytes[..];
    while let Some((len, behind)) = rest.split_first_chunk::<4>() {
        let (frame, next) = behind.split_at(usize::try_from(u32::from_be_bytes(*len)).unwrap());
        let text = core::str::from_utf8(frame).unwrap();
        let id = text.split("\"audit_id\":\"").nth(1).unwrap()[..36].to_string();
        let body = text.split("\"body\":").nth(1).unwrap().split(",\"h\":").next().unwrap().to_string();
        found.push((id, body));
        rest = next;
    }
    found
}

fn phases(files: &Files) -> Vec<String> {
    frames(files).into_iter().map(|(_, body)| body.split('"').nth(3).unwrap().to_string()).collect()
}

#[test]
fn every_epoch_is_said_once_and_in_order() {
    let mut root = Root::with(&chain(2));
    let solo = run(Files::new(), &mut root, 9);
    assert_eq!(solo.outputs, [Output::Ready]);
    assert_eq!(phases(&solo.files), ["os_first_run", "os_reconstruction_completed", "os_reconstruction_completed"]);
    insta::assert_snapshot!(
        frames(&solo.files).into_iter().map(|(id, body)| id + " " + &body).collect::<Vec<_>>().join("\n")
    );

    // The next start says nothing, the one behind a reconstruction the new line alone.
    let again = run(solo.files, &mut root, 9);
    assert_eq!(again.outputs, [Output::Ready]);
    assert_eq!(frames(&again.files).len(), 3);
    root.0.insert("epoch/chain.jsonl".into(), chain(3).bytes().to_vec());
    let later = run(again.files, &mut root, 9);
    assert_eq!(frames(&later.files).len(), 4);
    assert!(frames(&later.files)[3].1.contains("\"boot_epoch\":3"));
}

#[test]
fn a_crash_between_the_frame_and_the_file_says_it_again_under_the_same_id() {
    let mut root = Root::with(&chain(1));
    let mut crashed = run(Files::new(), &mut root, 2);
    assert_eq!(frames(&crashed.files).len(), 2);
    assert!(crashed.outputs.is_empty() && !crashed.trees.is_empty(), "reported.json is about to be written");
    crashed.files.remove(&File::SafeSeq);
    crashed.files.insert(File::SafeSeq, 0u64.to_le_bytes().to_vec());
    let solo = run(crashed.files, &mut root, 9);
    let ids: Vec<String> = frames(&solo.files).into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids.len(), 4);
    assert_eq!((&ids[0], &ids[1]), (&ids[2], &ids[3]));
    assert_ne!(ids[0], ids[1]);
}

#[test]
fn a_new_log_is_told_everything_and_a_damaged_file_counts_as_none() {
    let mut root = Root::with(&chain(1));
    let first = run(Files::new(), &mut root, 9);
    let reported = root.0.get("edge/reported.json").cloned().unwrap();
    assert_eq!(Reported::parse(&reported).unwrap().epoch, 1);
    let mut other = Solo::new(Edge::new(Config { wal: wal::Config::default() }), Files::new());
    other.event(Event::Start(Entropy([4; 32])));
    other.run();
    while let Some((tag, ops)) = other.trees.pop_front() {
        other.event(Event::Tree(tag, root.execute(ops)));
        other.run();
    }
    assert_eq!(frames(&other.files).len(), 2, "another log");
    root.0.insert("edge/reported.json".into(), b"{}".to_vec());
    let again = run(first.files, &mut root, 9);
    assert_eq!(frames(&again.files).len(), 4);
    assert_eq!(again.notes.iter().filter(|note| note.msg == "edge.reported.unusable").count(), 1);
}

#[test]
fn b07_a_chain_that_was_set_back_or_replaced_ends_the_process() {
    let mut root = Root::with(&chain(2));
    let first = run(Files::new(), &mut root, 9);
    for (bytes, words) in [
        (chain(1).bytes().to_vec(), "was set back"),
        (Chain::first(Hash32([9; 32]), AT).bytes().to_vec(), "was set back"),
        (chain(1).with(Hash32([0; 32]), Hash32([9; 32]), 7, AT).unwrap().bytes().to_vec(), "was replaced"),
        (b"{}\n".to_vec(), "is damaged"),
    ] {
        let mut root = root.clone();
        root.0.insert("epoch/chain.jsonl".into(), bytes);
        let solo = run(first.files.clone(), &mut root, 9);
        let halt = solo.halt.unwrap();
        assert!(halt.code == 5 && halt.message.contains(words), "{}", halt.message);
        assert!(solo.outputs.is_empty());
        assert_eq!(solo.files.get(&File::Live), first.files.get(&File::Live), "nothing was said");
    }
    root.0.remove("epoch/chain.jsonl");
    assert!(run(first.files, &mut root, 9).halt.unwrap().message.contains("edged precheck"));
}

#[test]
fn a_log_that_fails_says_so_and_nothing_counts_as_said() {
    let mut root = Root::with(&chain(1));
    let mut solo = Solo::new(Edge::new(Config { wal: wal::Config::default() }), Files::new());
    solo.event(Event::Start(Entropy([3; 32])));
    solo.run();
    for n in 0..2 {
        let (tag, ops) = solo.trees.pop_front().unwrap();
        solo.fail = (n == 1).then_some((0, disk::FaultKind::Io(5)));
        solo.event(Event::Tree(tag, root.execute(ops)));
        solo.run();
    }
    assert_eq!(solo.machine.status().health, wal::Health::Failed);
    assert_eq!(solo.outputs, [Output::Ready]);
    assert!(solo.notes.iter().any(|note| note.msg == "edge.epoch.not_recorded"));
    assert!(!root.0.contains_key("edge/reported.json"));
}

#[test]
fn it_stops_when_everything_is_durable() {
    let mut root = Root::with(&chain(0));
    let mut solo = run(Files::new(), &mut root, 9);
    solo.input(Input::Stop);
    solo.run();
    assert_eq!(solo.outputs, [Output::Ready, Output::Stopped]);
    assert_eq!(solo.files.get(&File::SafeSeq).unwrap(), &1u64.to_le_bytes());
    assert_eq!(frames(&solo.files).len(), 1);
}

#[test]
fn f12_a_root_that_is_not_ours_alone_or_is_held_is_not_run_on() {
    let root = Opened { ours: true, mode: 0o700, writable: true };
    assert_eq!(admit_root(Ok(root)), Ok(()));
    assert_eq!(admit_root(Ok(Opened { mode: 0o755, ..root })), Ok(()));
    let code = |held| admit_root(held).unwrap_err().code;
    assert_eq!(code(Ok(Opened { ours: false, ..root })), 2);
    assert_eq!(code(Ok(Opened { writable: false, ..root })), 2);
    assert_eq!(code(Ok(Opened { mode: 0o770, ..root })), 2);
    assert_eq!(code(Ok(Opened { mode: 0o702, ..root })), 2);
    assert_eq!(code(Err(Fault { step: 0, kind: FaultKind::NotFound })), 2);
    assert_eq!(code(Err(Fault { step: 0, kind: FaultKind::Io(5) })), 2);
    assert_eq!(code(Err(Fault { step: 1, kind: FaultKind::Held })), 4);
}

#[test]
fn only_a_marker_of_this_boot_that_passed_lets_it_run() {
    let marker = |boot_id: &str, exit| Ok(Done::Bytes(Marker { boot_id: boot_id.into(), exit }.to_bytes()));
    assert_eq!(admit_boot(marker("this", 0), "this"), Ok(()));
    for (marker, words) in [
        (marker("this", 5), "exit 5"),
        (marker("other", 0), "another boot"),
        (Err(Fault { step: 0, kind: FaultKind::NotFound }), "no precheck was run"),
        (Err(Fault { step: 0, kind: FaultKind::Refused }), "a link"),
        (Ok(Done::Bytes(b"{".to_vec())), "precheck.json"),
    ] {
        let halt = admit_boot(marker, "this").unwrap_err();
        assert!(halt.code == 5 && halt.message.contains(words), "{}", halt.message);
    }
}
