//! Verified releases and what is in force: floors, names, channels, records, and that nothing names what is not stored.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::history::End;
use super::*;
use crate::disk::{FaultKind, File, Replaced};
use crate::machine::{Entropy, Event};
use crate::oci::Digest;
use crate::policy::bundle::{self, BuildOptions};
use crate::semver::Version;
use crate::solo::{Files, Solo};
use crate::verify::testing::verified;
use crate::verify::{Release, Verified};
use crate::work::{self, Compiled, Got};

const FIRST: &str = "2025-10-01T00:00:00Z";
const LATER: &str = "2025-11-01T00:00:00Z";
const LATEST: &str = "2025-11-07T00:00:00Z";

fn runtime() -> Version {
    Version::parse("0.1.0").unwrap()
}

fn operate(
    files: &Files,
    command: Command,
    fail: Option<(usize, FaultKind)>,
) -> (Files, Result<Report, String>, String) {
    let mut loader = Solo::new(Loader::new(command, runtime()), files.clone());
    loader.event(Event::Start(Entropy([3; 32])));
    loop {
        if let Some((tag, work::Op::OpenBundle(bytes))) = loader.works.pop_front() {
            let opened = bundle::open(&bytes).map_err(|refusal| refusal.to_string());
            loader.event(Event::Work(tag, Got::Opened(opened.map(|b| (Arc::new(b), Compiled(Arc::new(())))))));
        }
        let unlock = crate::disk::Op::Unlock(crate::disk::Lock::Activation);
        if loader.chains.front().is_some_and(|(_, chain)| chain.contains(&unlock)) {
            loader.fail = fail;
        }
        if !loader.step() && loader.works.is_empty() {
            break;
        }
    }
    let said = loader.outputs.pop().expect("an end");
    (loader.files, said, loader.transcript)
}

fn activate(files: &Files, release: Verified<Release>, terms: Terms) -> (Files, Result<Report, String>) {
    let (files, said, _) = operate(files, Command::Activate { release: Box::new(release), terms }, None);
    (files, said)
}

fn in_force(files: &Files) -> Activation {
    Activation::parse(&files[&File::Activation]).unwrap()
}

fn history(files: &Files) -> Vec<String> {
    let bytes = &files[&File::History];
    history::verify(bytes).unwrap();
    let lines = core::str::from_utf8(bytes).unwrap().lines();
    lines
        .map(|line| {
            let value = json::parse(line.as_bytes(), &json::Limits::default()).unwrap();
            value.get("event").and_then(Value::as_str).unwrap().to_string()
        })
        .collect()
}

fn plain_bundle(version: &str) -> Vec<u8> {
    let files = BTreeMap::from([("p.rego".to_string(), b"package autonomy\n".to_vec())]);
    bundle::build(&files, &BuildOptions { version: version.into(), ..BuildOptions::default() }).unwrap()
}

#[test]
fn an_activation_stores_first_and_names_last() {
    let release = verified("agent", 7, &[], LATER);
    let (files, said, transcript) =
        operate(&Files::new(), Command::Activate { release: Box::new(release.clone()), terms: Terms::default() }, None);
    let report = said.unwrap();
    let release = release.get();
    assert_eq!(report.bundle.as_deref(), Some(&*release.bundle));
    let activation = in_force(&files);
    assert_eq!(activation, report.activation);
    let lock = activation.current.as_ref().unwrap().lock.as_ref().unwrap();
    assert_eq!(*lock, LockSlot::of(release));
    assert_eq!(activation.floors, [("agent".to_string(), 7)].into());
    assert_eq!(activation.time_floor, Some(release.signed_at));
    assert_eq!(files[&File::Bundle(release.bundle.digest)], release.bundle_bytes);
    assert_eq!(files[&File::Lock(lock.fingerprint)], release.lock_bytes);
    let record = Record::parse(&files[&File::Verified(release.bundle.digest)]).unwrap();
    assert_eq!((record.bundle, &record.lock), (release.bundle.digest, lock));
    assert_eq!(history(&files), ["activate"]);
    // Each file is durable before the one that names it.
    let at = |words: &str| transcript.find(words).unwrap_or_else(|| panic!("{words} in {transcript}"));
    let activation = at("Put .activation.json.tmp");
    for before in [
        alloc::format!("SyncDir({:?})", crate::disk::Dir::Bundles),
        alloc::format!("SyncDir({:?})", crate::disk::Dir::Locks),
        alloc::format!("SyncDir({:?})", crate::disk::Dir::Verified),
        "Sync(History)".to_string(),
    ] {
        assert!(at(&before) < activation, "{before}: {transcript}");
    }
    assert!(transcript.contains(&alloc::format!("Temp({:?})", Replaced::Activation)));
}

#[test]
fn p19_u01_a_sequence_below_the_floor_is_refused_also_with_another_lock_between() {
    let (files, _) = activate(&Files::new(), verified("agent", 7, &[], LATER), Terms::default());
    let before = in_force(&files);
    let (files, said) = activate(&files, verified("agent", 6, &[], LATER), Terms::default());
    let words = said.unwrap_err();
    assert!(words.starts_with("rollback: sequence 6 of `agent` is below its floor 7"), "{words}");
    assert_eq!(in_force(&files), before, "as before");
    assert_eq!(history(&files), ["activate", "refused"]);
    // The same sequence again, and a higher one.
    let (files, said) = activate(&files, verified("agent", 7, &[], LATER), Terms::default());
    assert!(said.is_ok());
    let (files, said) = activate(&files, verified("agent", 9, &[], FIRST), Terms::default());
    assert_eq!(said.unwrap().activation.floors["agent"], 9);
    assert_eq!(in_force(&files).time_floor, before.time_floor, "an earlier signature does not set the time back");
    // A policy that an operator loads by itself keeps the floor, and so does a rollback.
    let load = Command::Load { bytes: plain_bundle("3.0.0"), require_verified: false };
    let (files, said, _) = operate(&files, load, None);
    assert_eq!(said.unwrap().activation.current.unwrap().lock, None);
    let (files, said) = activate(&files, verified("agent", 8, &[], LATER), Terms::default());
    assert!(said.unwrap_err().starts_with("rollback: "));
    // The operator's way out, recorded.
    let reset = |name: &str| Command::ResetFloor { name: name.into(), time: false, reason: "wrong sequence".into() };
    let (files, said, _) = operate(&files, reset("other"), None);
    assert!(said.unwrap_err().contains("there is no floor of `other` (floors of locks: agent)"));
    let (files, said, _) = operate(&files, reset("agent"), None);
    assert!(said.unwrap().activation.floors.is_empty());
    let (files, said) = activate(&files, verified("agent", 8, &[], LATER), Terms::default());
    assert!(said.is_ok());
    assert!(history(&files).contains(&"floor_reset".to_string()));
}

#[test]
fn u06_a_release_of_another_name_fingerprint_or_channel_is_refused() {
    let (files, _) = activate(&Files::new(), verified("agent", 7, &[], LATER), Terms::default());
    let terms = |name: Option<&str>, channel: Option<&str>| Terms {
        name: name.map(Into::into),
        channel: channel.map(Into::into),
        fingerprint: None,
    };
    let code = |release: Verified<Release>, terms: Terms| {
        let (after, said) = activate(&files, release, terms);
        let words = said.map_or_else(|words| words, |_| "taken".into());
        assert_eq!(words == "taken", after[&File::Activation] != files[&File::Activation], "{words}");
        words.split(':').next().unwrap().to_string()
    };
    let other = |sequence| verified("other", sequence, &["stable", "beta"], LATER);
    assert_eq!(code(other(9), Terms::default()), "wrong_name", "the first one pinned it");
    assert_eq!(code(other(9), terms(Some("other"), None)), "taken", "configured");
    assert_eq!(code(verified("agent", 9, &[], LATER), terms(Some("other"), None)), "wrong_name");
    assert_eq!(code(other(9), terms(Some("other"), Some("beta"))), "taken");
    assert_eq!(code(other(9), terms(Some("other"), Some("edge"))), "wrong_channel");
    assert_eq!(code(verified("agent", 9, &[], LATER), terms(None, Some("edge"))), "taken", "a lock for every channel");
    let announced = Terms { fingerprint: Some(Hash32([1; 32])), ..Terms::default() };
    assert_eq!(code(verified("agent", 9, &[], LATER), announced), "wrong_fingerprint");
    let release = verified("agent", 9, &[], LATER);
    let announced = Terms { fingerprint: Some(release.get().lock.fingerprint), ..Terms::default() };
    assert_eq!(code(release, announced), "taken");
}

#[test]
fn t09_a_release_that_was_recent_enough_when_it_was_verified_expires_with_the_time_floor() {
    let (files, _, _) =
        operate(&Files::new(), Command::Remember { release: Box::new(verified("agent", 1, &[], LATER)) }, None);
    let mut moved = in_force(&files);
    moved.time_floor = Some(Wall::parse_any_rfc3339("2999-01-01T00:00:00Z").unwrap());
    let mut files = files;
    files.insert(File::Activation, moved.to_bytes());
    let (files, said) = activate(&files, verified("agent", 2, &[], LATER), Terms::default());
    assert!(said.unwrap_err().starts_with("expired: "));
    // The way out, whatever the name, and recorded with what it was.
    let reset = Command::ResetFloor { name: "any".into(), time: true, reason: "a signer's clock".into() };
    let (files, said, _) = operate(&files, reset, None);
    assert_eq!(said.unwrap().activation.time_floor, None);
    let line = String::from_utf8(files[&File::History].clone()).unwrap();
    assert!(line.contains("time floor 2999-01-01T00:00:00.000000Z; any 0: a signer's clock"), "{line}");
    assert!(activate(&files, verified("agent", 2, &[], LATER), Terms::default()).1.is_ok());
}

#[test]
fn a_node_takes_no_lock_of_another_name_by_way_of_its_record() {
    let other = verified("other", 1, &[], LATER);
    let bytes = other.get().bundle_bytes.clone();
    let configured = |files: &Files, command: Command| {
        let mut loader = Solo::new(Loader::new(command, runtime()).configured_for(Some("agent".into())), files.clone());
        loader.event(Event::Start(Entropy([3; 32])));
        loader.run();
        if let Some((tag, work::Op::OpenBundle(bytes))) = loader.works.pop_front() {
            let opened = bundle::open(&bytes).map_err(|refusal| refusal.to_string());
            loader.event(Event::Work(tag, Got::Opened(opened.map(|b| (Arc::new(b), Compiled(Arc::new(())))))));
            loader.run();
        }
        (loader.files, loader.outputs.pop().unwrap())
    };
    let (_, said) = configured(&Files::new(), Command::Remember { release: Box::new(other.clone()) });
    assert!(said.unwrap_err().starts_with("wrong_name: "));
    // It was remembered before the node was configured.
    let (files, _, _) = operate(&Files::new(), Command::Remember { release: Box::new(other) }, None);
    let (_, said) = configured(&files, Command::Load { bytes, require_verified: true });
    assert!(said.unwrap_err().starts_with("wrong_name: "));
}

#[test]
fn the_policy_in_force_keeps_its_lock_when_it_is_loaded_once_more() {
    let release = verified("agent", 7, &[], LATER);
    let bytes = release.get().bundle_bytes.clone();
    let (files, _) = activate(&Files::new(), release, Terms::default());
    let (files, _, _) = operate(&files, Command::Load { bytes, require_verified: false }, None);
    assert_eq!(in_force(&files).current.unwrap().lock.map(|lock| lock.sequence), Some(7));
}

#[test]
fn d21_a_change_that_could_not_be_read_afterwards_is_not_made() {
    let mut full = Activation::default();
    for n in 0..1_000 {
        full.floors.insert(alloc::format!("policy/a-bundle-with-quite-a-long-name-{n:04}"), 9_007_199_254_740_991);
    }
    assert!(full.to_bytes().len() < MAX_BYTES as usize);
    for n in 0..400 {
        full.floors.insert(alloc::format!("policy/b-{n:04}"), 9);
    }
    while full.to_bytes().len() > MAX_BYTES as usize {
        full.floors.pop_last();
    }
    let mut files = Files::new();
    files.insert(File::Activation, full.to_bytes());
    let (files, said) = activate(&files, verified("agent", 7, &[], LATER), Terms::default());
    assert!(said.unwrap_err().contains("would be longer than"));
    assert_eq!(in_force(&files), full);
}

#[test]
fn require_verified_takes_a_bundle_only_with_its_record() {
    let release = verified("agent", 7, &[], LATER);
    let bytes = release.get().bundle_bytes.clone();
    let load = |files: &Files, bytes: &[u8]| {
        let command = Command::Load { bytes: bytes.to_vec(), require_verified: true };
        let (files, said, _) = operate(files, command, None);
        (files, said)
    };
    let (_, said) = load(&Files::new(), &bytes);
    assert!(said.unwrap_err().contains("did not pass the four steps on this node"));
    // Imported: known, and nothing is in force yet.
    let (files, said, _) = operate(&Files::new(), Command::Remember { release: Box::new(release) }, None);
    let activation = said.unwrap().activation;
    assert!(activation.current.is_none() && activation.floors.is_empty() && activation.time_floor.is_some());
    assert_eq!(history(&files), ["verified"]);
    let (loaded, said) = load(&files, &bytes);
    let current = said.unwrap().activation.current.unwrap();
    assert_eq!(current.lock.map(|lock| lock.sequence), Some(7), "it comes with its lock");
    assert!(load(&files, &plain_bundle("1.0.0")).1.is_err(), "another bundle");
    // Below the floor that was set meanwhile.
    let (newer, _) = activate(&loaded, verified("agent", 9, &[], LATER), Terms::default());
    let mut older = newer.clone();
    let record = Record::parse(&loaded[&File::Verified(*Digest::of(&bytes).hash())]).unwrap();
    older.insert(File::Verified(*Digest::of(&bytes).hash()), record.to_bytes());
    assert!(load(&older, &bytes).1.unwrap_err().starts_with("rollback: "));
    // A rotten record admits nothing.
    let mut rotten = files.clone();
    rotten.get_mut(&File::Verified(*Digest::of(&bytes).hash())).unwrap()[20] ^= 1;
    assert!(load(&rotten, &bytes).1.is_err());
}

#[test]
fn s26_a_failure_at_any_operation_leaves_the_old_or_the_new_and_what_it_names() {
    let (files, _) = activate(&Files::new(), verified("agent", 7, &[], FIRST), Terms::default());
    let before = files[&File::Activation].clone();
    let (mut refused, mut done) = (0, 0);
    for step in 0..64 {
        let command =
            Command::Activate { release: Box::new(verified("agent", 8, &[], LATER)), terms: Terms::default() };
        let (after, said, _) = operate(&files, command, Some((step, FaultKind::NoSpace)));
        let activation = in_force(&after);
        if after[&File::Activation] == before {
            refused += 1;
            assert!(said.is_err(), "step {step}");
        } else {
            done += 1;
            let lock = activation.current.as_ref().unwrap().lock.clone().unwrap();
            assert_eq!(lock.sequence, 8);
            assert!(after.contains_key(&File::Lock(lock.fingerprint)));
        }
        for slot in activation.current.iter().chain(&activation.lkg) {
            assert!(after.contains_key(&File::Bundle(slot.bundle)), "step {step}");
        }
    }
    assert!(refused >= 12 && done >= 2, "{refused} {done}");
}

#[test]
fn going_back_below_the_floor_of_a_lock_wants_a_reason() {
    let (files, _) = activate(&Files::new(), verified("agent", 7, &[], FIRST), Terms::default());
    let load = Command::Load { bytes: plain_bundle("3.0.0"), require_verified: false };
    let (files, _, _) = operate(&files, load, None);
    let (files, said, _) = operate(&files, Command::Rollback { below_floor: None }, None);
    let current = said.unwrap().activation.current.unwrap();
    assert_eq!(current.lock.map(|lock| lock.sequence), Some(7), "the lock comes back with its policy");
    // Its floor went up meanwhile.
    let mut raised = in_force(&files);
    raised.floors.insert("agent".into(), 9);
    raised.lkg = raised.current.clone();
    raised.current = Some(Slot::of(&bundle::open(&plain_bundle("3.0.0")).unwrap()));
    let mut files = files;
    files.insert(File::Activation, raised.to_bytes());
    let (files, said, _) = operate(&files, Command::Rollback { below_floor: None }, None);
    assert!(said.unwrap_err().contains("--below-floor --reason TEXT"));
    let (_, said, _) = operate(&files, Command::Rollback { below_floor: Some("needed".into()) }, None);
    let activation = said.unwrap().activation;
    assert_eq!((activation.current.unwrap().lock.unwrap().sequence, activation.floors["agent"]), (7, 9));
}

fn remember(files: &Files, sequence: u64) -> Files {
    let release = Box::new(verified("agent", sequence, &[], LATER));
    let (files, said, _) = operate(files, Command::Remember { release }, None);
    assert!(said.is_ok());
    files
}

fn recorded(files: &Files) -> u64 {
    let bundle = verified("agent", 1, &[], LATER).get().bundle.digest;
    Record::parse(&files[&File::Verified(bundle)]).unwrap().lock.sequence
}

#[test]
fn an_older_release_that_is_imported_leaves_what_is_remembered_of_the_newer_one() {
    let files = remember(&Files::new(), 9);
    assert_eq!(recorded(&remember(&files, 8)), 9, "the same bundle under an older lock");
    assert_eq!(recorded(&remember(&files, 10)), 10);
    // What is put in force is remembered, also after a floor was reset: a load must not bring the mistake back.
    let (activated, said) = activate(&files, verified("agent", 8, &[], LATER), Terms::default());
    assert!(said.is_ok());
    assert_eq!(recorded(&activated), 8);
    // One of another name is no older release of this one, and a rotten record keeps nothing.
    let other = Command::Remember { release: Box::new(verified("other", 1, &[], LATER)) };
    let (renamed, said, _) = operate(&files, other, None);
    assert!(said.is_ok());
    assert_eq!(recorded(&renamed), 1);
    let mut rotten = files;
    let bundle = verified("agent", 1, &[], LATER).get().bundle.digest;
    rotten.get_mut(&File::Verified(bundle)).unwrap()[20] ^= 1;
    assert_eq!(recorded(&remember(&rotten, 8)), 8);
}

#[test]
fn s27_nothing_of_a_bundle_is_unpacked_before_its_record_was_read() {
    let bomb = b"whatever unpacking this would cost".to_vec();
    let command = Command::Load { bytes: bomb, require_verified: true };
    let mut loader = Solo::new(Loader::new(command, runtime()), Files::new());
    loader.event(Event::Start(Entropy([3; 32])));
    loader.run();
    assert!(loader.works.is_empty(), "it is not even opened");
    let said = loader.outputs.pop().unwrap().unwrap_err();
    assert!(said.starts_with("require_verified is on"), "{said}");
    assert_eq!(history(&loader.files), ["refused"]);
    // With a record of the very bytes it is opened.
    let release = verified("agent", 7, &[], LATER);
    let bytes = release.get().bundle_bytes.clone();
    let files = remember(&Files::new(), 7);
    let mut loader = Solo::new(Loader::new(Command::Load { bytes, require_verified: true }, runtime()), files);
    loader.event(Event::Start(Entropy([3; 32])));
    loader.run();
    assert!(matches!(loader.works.front(), Some((_, work::Op::OpenBundle(_)))));
}

#[test]
fn an_image_that_is_refused_is_recorded_and_changes_nothing() {
    let files = remember(&Files::new(), 7);
    let before = files[&File::Activation].clone();
    let reason = alloc::format!("registry.local/app:v1: step 1: no signature {}", "x".repeat(5_000));
    let (files, said, _) = operate(&files, Command::Refused { reason: reason.clone() }, None);
    assert_eq!(said.unwrap_err(), reason);
    assert_eq!(history(&files), ["verified", "refused"]);
    assert_eq!(files[&File::Activation], before);
    let text = String::from_utf8(files[&File::History].clone()).unwrap();
    assert!(text.contains("registry.local/app:v1: step 1") && text.len() < 3_000, "the reason is bounded");
    // Where nothing was ever in force, and where what is in force cannot be read.
    let (empty, _, _) = operate(&Files::new(), Command::Refused { reason: "no".into() }, None);
    assert_eq!((history(&empty), empty.contains_key(&File::Activation)), (alloc::vec!["refused".to_string()], false));
    let mut damaged = files;
    damaged.insert(File::Activation, b"{".to_vec());
    let (damaged, said, _) = operate(&damaged, Command::Refused { reason: "no".into() }, None);
    assert_eq!((said.unwrap_err().as_str(), history(&damaged).len()), ("no", 3));
}

#[test]
fn a_change_that_was_cut_short_is_said_to_be_so_whatever_it_changed() {
    let (files, _) = activate(&Files::new(), verified("agent", 7, &[], FIRST), Terms::default());
    let plain = plain_bundle("3.0.0");
    let reset = || Command::ResetFloor { name: "agent".into(), time: false, reason: "drill".into() };
    type Change = Box<dyn Fn() -> Command>;
    let changes: [(&str, Change); 5] = [
        ("activate", {
            // The very same bundle under another lock.
            let release = verified("agent", 8, &[], FIRST);
            Box::new(move || Command::Activate { release: Box::new(release.clone()), terms: Terms::default() })
        }),
        ("floor_reset", Box::new(reset)),
        ("load", Box::new(move || Command::Load { bytes: plain.clone(), require_verified: false })),
        ("verified", {
            let release = verified("agent", 8, &[], LATEST);
            Box::new(move || Command::Remember { release: Box::new(release.clone()) })
        }),
        ("activate", {
            // The lock in force, signed anew: only the time floor would move.
            let release = verified("agent", 7, &[], LATEST);
            Box::new(move || Command::Activate { release: Box::new(release.clone()), terms: Terms::default() })
        }),
    ];
    for (event, change) in &changes {
        let (mut cut, mut whole) = (0, 0);
        for step in 0..64 {
            let (after, _, _) = operate(&files, change(), Some((step, FaultKind::NoSpace)));
            let promised = history(&after).last().unwrap() == event && history(&after).len() == 2;
            let kept = after[&File::Activation] == files[&File::Activation];
            let (next, _, _) = operate(&after, Command::Refused { reason: "next".into() }, None);
            let said = history(&next).contains(&"not_committed".to_string());
            assert_eq!(said, promised && kept, "{event}, failure at {step}: {:?}", history(&next));
            cut += usize::from(said);
            whole += usize::from(!kept);
            // It is said once.
            let (later, _, _) = operate(&next, Command::Refused { reason: "later".into() }, None);
            let times = history(&later).iter().filter(|event| *event == "not_committed").count();
            assert_eq!(times, usize::from(said));
        }
        assert!(cut > 0 && whole > 0, "{event}: {cut} {whole}");
    }
    // A line from before lines named their file says nothing.
    let older = End::empty().append(Wall::from_micros(1), &[history::Line::of(history::What::Load, None, None)]);
    let bytes =
        older.into_iter().find_map(|op| if let crate::disk::Op::Put { bytes, .. } = op { Some(bytes) } else { None });
    let bytes = bytes.unwrap();
    assert_eq!(End::read(bytes.len() as u64, &bytes).unwrap().change, None);
}
