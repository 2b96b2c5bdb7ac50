//! The drain on a perfect disk against a collector that answers as told.

use std::collections::BTreeSet;
use std::format;
use std::string::{String, ToString};
use std::vec;
use std::vec::Vec;

use super::batch::{Class, event_id};
use super::*;
use crate::ids::{IdSource, Seq};
use crate::machine::Entropy;
use crate::net::{Answer, Body, Fault, Got};
use crate::solo::{Files, Solo};
use crate::time::Wall;
use crate::wal::files::{Base, Positions};
use crate::wal::frame::{self, Kind, Place, Record};

pub type Rig = Solo<Drain>;

pub const D: Kind = Kind::Decision;
pub const A: Kind = Kind::Action;
pub const E: Kind = Kind::Error;
pub const L: Kind = Kind::Lifecycle;

/// The base of a new log, and the bytes of frames of these kinds.
pub fn log_of(kinds: &[Kind]) -> (Base, Vec<u8>) {
    let mut ids = IdSource::new(Entropy([7; 32]));
    let wall = Wall::from_micros(1_763_724_637_000_000);
    let log_id = ids.next(wall);
    let base = Base { log_id, node_id: "n1".into(), first_seq: Seq::FIRST, prev_h: frame::genesis(&log_id) };
    let (mut bytes, mut prev) = (Vec::new(), base.prev_h);
    for (i, kind) in kinds.iter().enumerate() {
        let seq = u64::try_from(i).unwrap() + 1;
        let place = Place { seq: Seq::new(seq).unwrap(), ts: wall, safe: seq - 1 };
        let body = match kind {
            Kind::Decision => r#"{"decision":"allow","tool":"tool.echo"}"#.to_string(),
            Kind::Action => r#"{"outcome":"ok"}"#.to_string(),
            Kind::Lifecycle => r#"{"phase":"polled"}"#.to_string(),
            Kind::Error => format!(r#"{{"code":"test","message":"{seq}"}}"#),
        };
        let record = Record { kind: *kind, audit_id: ids.next(wall), trace: None, body };
        prev = frame::encode(&mut bytes, &prev, &place, &record);
    }
    (base, bytes)
}

/// A folder with these frames, all of them safe.
pub fn folder(kinds: &[Kind]) -> Files {
    let (base, bytes) = log_of(kinds);
    let safe = u64::try_from(kinds.len()).unwrap();
    Files::from([(File::Base, base.to_bytes()), (File::SafeSeq, safe.to_le_bytes().to_vec()), (File::Live, bytes)])
}

/// The offset of the frame with this sequence.
pub fn offset(bytes: &[u8], seq: u64) -> usize {
    let mut at = 0;
    for _ in 1..seq {
        at += 4 + usize::try_from(u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())).unwrap();
    }
    at
}

/// Seals everything before the frame with this sequence into its own file.
pub fn seal(files: &mut Files, first: u64, next: u64) {
    let live = files.remove(&File::Live).unwrap();
    let at = offset(&live, next - first + 1);
    files.insert(File::Sealed(Seq::new(first).unwrap()), live[..at].to_vec());
    files.insert(File::Live, live[at..].to_vec());
}

pub fn until_empty(files: Files) -> Rig {
    Solo::started(Drain::new(Config { batch_records: 4, ..Config::default() }), files)
}

pub fn going_on(files: Files) -> Rig {
    let config = Config { batch_records: 4, until: Until::Stopped, ..Config::default() };
    Solo::started(Drain::new(config), files)
}

pub fn full() -> Got {
    Got::Answered(Answer { status: 200, retry_after: None, body: Body::Full { words: String::new() } })
}

pub fn status(status: u16, retry_after: Option<Span>) -> Got {
    Got::Answered(Answer { status, retry_after, body: Body::Other { words: "words".into() } })
}

/// What the request that is under way carries.
pub fn asked(rig: &Rig) -> Option<(Class, Vec<u64>)> {
    let (_, net::Op::Export(export)) = rig.requests.front()?;
    let seqs = export.batch.frames(export.from, export.to).map(|frame| frame.seq.get()).collect();
    Some((export.batch.class, seqs))
}

pub fn answer(rig: &mut Rig, got: Got) {
    let (tag, _) = rig.requests.pop_front().expect("a request");
    rig.event(Event::Net(tag, got));
    rig.run();
}

/// Accepts everything; what was sent, in order.
pub fn accept_all(rig: &mut Rig) -> Vec<(Class, Vec<u64>)> {
    let mut sent = Vec::new();
    while let Some(batch) = asked(rig) {
        sent.push(batch);
        answer(rig, full());
    }
    sent
}

pub fn cursors(files: &Files) -> Option<[u64; 3]> {
    let positions = Positions::parse(files.get(&File::Positions)?).unwrap();
    Some(["error", "decision", "lifecycle"].map(|class| positions.cursors[class]))
}

pub fn failure(rig: &Rig) -> Failure {
    match rig.outputs.last() {
        Some(Output::Failed(failure)) => failure.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn five_calls_are_five_events_and_their_actions_ride_along() {
    // Act 1 and Act 3 of the story: allow, deny, allow, allow, allow.
    let mut rig = Solo::started(Drain::new(Config::default()), folder(&[D, A, D, D, A, D, A, D, A]));
    let queue = Queue { errors: 0, decisions: 5, lifecycle: 0, actions: 4 };
    assert_eq!(rig.outputs, [Output::Queued(queue)]);
    assert_eq!(queue.events(), 5);
    assert_eq!(accept_all(&mut rig), [(Class::Decision, (1..=9).collect())]);
    assert_eq!(
        rig.outputs[1..],
        [Output::Accepted { batch: 1, events: 5, records: 9, words: String::new() }, Output::Complete { events: 5 }]
    );
    assert_eq!(cursors(&rig.files), Some([9, 9, 9]));
    insta::assert_snapshot!(rig.transcript);
}

#[test]
fn an_empty_log_is_drained_at_once() {
    let rig = until_empty(folder(&[]));
    assert_eq!(rig.outputs, [Output::Queued(Queue::default()), Output::Complete { events: 0 }]);
    assert_eq!(cursors(&rig.files), None, "there was nothing to write down");
}

#[test]
fn errors_go_first_then_decisions_then_lifecycle_each_in_order() {
    let mut rig = until_empty(folder(&[L, D, A, L, D, E, D, L, A, D, E]));
    let sent = accept_all(&mut rig);
    assert_eq!(
        sent,
        [
            (Class::Error, vec![6, 11]),
            (Class::Decision, vec![2, 3, 5, 7]),
            (Class::Decision, vec![9, 10]),
            (Class::Lifecycle, vec![1, 4, 8]),
        ]
    );
    assert_eq!(rig.outputs.last(), Some(&Output::Complete { events: 9 }));
}

#[test]
fn one_error_behind_a_long_backlog_is_in_the_next_batch() {
    let mut kinds = vec![L; 5_000];
    let mut rig = until_empty(folder(&kinds));
    assert_eq!(asked(&rig).unwrap().0, Class::Lifecycle);
    kinds.push(E);
    rig = until_empty(folder(&kinds));
    assert_eq!(asked(&rig), Some((Class::Error, vec![5_001])));
    // The same while it goes on: what came since is seen before the next batch.
    let mut rig = going_on(folder(&kinds[..5_000]));
    assert_eq!(asked(&rig), Some((Class::Lifecycle, vec![1, 2, 3, 4])));
    rig.files = folder(&kinds);
    answer(&mut rig, full());
    assert_eq!(asked(&rig), Some((Class::Error, vec![5_001])));
    answer(&mut rig, full());
    assert_eq!(asked(&rig), Some((Class::Lifecycle, vec![5, 6, 7, 8])));
}

#[test]
fn nothing_beyond_the_safe_point_is_read_or_sent() {
    let mut files = folder(&[D, D, E, D]);
    files.insert(File::SafeSeq, 2u64.to_le_bytes().to_vec());
    let mut rig = until_empty(files);
    assert_eq!(accept_all(&mut rig), [(Class::Decision, vec![1, 2])]);
    assert_eq!(cursors(&rig.files), Some([2, 2, 2]));
}

#[test]
fn the_cursor_is_durable_before_the_next_batch_and_moves_only_after_the_answer() {
    let mut rig = until_empty(folder(&[D; 8]));
    assert_eq!(cursors(&rig.files), None);
    let (tag, _) = rig.requests.pop_front().unwrap();
    rig.event(Event::Net(tag, full()));
    // Both the next read and the write of the cursors are under way, and nothing is sent.
    assert!(rig.requests.is_empty());
    let lanes: Vec<Lane> = rig.chains.iter().map(|(tag, _)| tag.lane).collect();
    assert!(lanes.contains(&Lane::Cursors) && lanes.contains(&Lane::Drain), "{lanes:?}");
    let write = rig.chains.iter().position(|(tag, _)| tag.lane == Lane::Cursors).unwrap();
    let write = rig.chains.remove(write).unwrap();
    rig.run();
    assert!(rig.requests.is_empty(), "the cursors are not durable yet");
    rig.chains.push_back(write);
    rig.run();
    assert_eq!(cursors(&rig.files), Some([0, 4, 0]), "the others move when everything was verified");
    assert_eq!(asked(&rig), Some((Class::Decision, vec![5, 6, 7, 8])));
}

#[test]
fn n11_a_crash_between_delivery_and_cursor_sends_one_batch_again_with_the_same_ids() {
    let kinds = [D, E, L, D, D, A, E, D, L, D, D, D];
    let clean: Vec<_> = accept_all(&mut until_empty(folder(&kinds)));
    for crash in 0..clean.len() {
        let mut rig = until_empty(folder(&kinds));
        let mut seen: Vec<String> = Vec::new();
        let mut life = 0;
        while let Some((_, net::Op::Export(export))) = rig.requests.front() {
            seen.extend(export.batch.frames(export.from, export.to).map(|frame| event_id("n1", &frame)));
            if life == crash {
                // The answer is lost with the process.
                rig = until_empty(rig.files);
            } else {
                answer(&mut rig, full());
            }
            life += 1;
        }
        let unique: BTreeSet<&String> = seen.iter().collect();
        assert_eq!(unique.len(), kinds.len(), "everything arrived");
        assert!(seen.len() - unique.len() <= 4, "at most one batch twice");
    }
}

#[test]
fn n01_a_refused_address_fails_at_once_and_moves_nothing() {
    let mut rig = until_empty(folder(&[D, D]));
    answer(&mut rig, Got::Failed(Fault::Refused));
    assert_eq!(rig.outputs[1], Output::Trouble { words: "connection refused".into(), retry_in: None });
    let failed = failure(&rig);
    assert_eq!((failed.message.as_str(), failed.why.exit_code()), ("could not reach endpoint", 3));
    assert_eq!(cursors(&rig.files), None);
    assert!(rig.transcript.contains("Unlock"));
}

#[test]
fn n02_n05_a_busy_or_hanging_collector_is_tried_again_until_the_time_is_over() {
    for (got, code) in [(status(503, None), 1), (Got::Failed(Fault::TimedOut), 3)] {
        let mut rig = until_empty(folder(&[D, D]));
        let mut tries = 0;
        while asked(&rig).is_some() {
            tries += 1;
            rig.pass(Span::from_secs(1));
            answer(&mut rig, got.clone());
            if rig.machine.deadline().is_some() {
                assert!(rig.requests.is_empty(), "not before the wait is over");
                rig.wake();
            }
        }
        assert!((3..12).contains(&tries), "{tries} tries");
        assert_eq!(failure(&rig).why.exit_code(), code, "{}", failure(&rig).message);
        assert!(rig.now.mono.as_nanos() <= Span::from_secs(32).as_nanos());
        assert_eq!(cursors(&rig.files), None);
    }
    // Retry-After is honoured, and capped; a command does not wait longer than it would try.
    let mut rig = until_empty(folder(&[D]));
    answer(&mut rig, status(429, Some(Span::from_secs(7))));
    let due = rig.machine.deadline().unwrap();
    assert!(due.at.since(Mono::ZERO) >= Span::from_secs(7));
    rig.wake();
    answer(&mut rig, full());
    assert_eq!(rig.outputs.last(), Some(&Output::Complete { events: 1 }));
    let mut rig = until_empty(folder(&[D]));
    answer(&mut rig, status(429, Some(Span::from_secs(86_400))));
    assert_eq!(failure(&rig).why, Why::Refused);
}

#[test]
fn n05_the_background_waits_without_the_lock_and_never_gives_up() {
    let mut rig = going_on(folder(&[D, D, D, D, D]));
    let mut longest = Span::ZERO;
    for _ in 0..20 {
        assert_eq!(asked(&rig), Some((Class::Decision, vec![1, 2, 3, 4])));
        answer(&mut rig, Got::Failed(Fault::Refused));
        assert!(rig.transcript.trim_end().ends_with("chain: done") && rig.chains.is_empty());
        let due = rig.machine.deadline().unwrap();
        longest = longest.max(due.at.since(rig.now.mono));
        rig.wake();
    }
    assert!(longest <= Span::from_secs(30) && longest >= Span::from_secs(20), "{longest:?}");
    answer(&mut rig, status(503, Some(Span::from_secs(1_000))));
    assert_eq!(rig.machine.deadline().unwrap().at.since(rig.now.mono), Span::from_secs(300));
    rig.wake();
    accept_all(&mut rig);
    assert_eq!(rig.outputs.last(), Some(&Output::Complete { events: 5 }));
    assert_eq!(rig.machine.status().trouble, None);
}

#[test]
fn an_error_that_came_during_the_outage_goes_before_the_batch_that_was_tried() {
    let mut kinds = vec![D; 6];
    let mut rig = going_on(folder(&kinds));
    for _ in 0..9 {
        assert_eq!(asked(&rig), Some((Class::Decision, vec![1, 2, 3, 4])));
        answer(&mut rig, Got::Failed(Fault::Refused));
        rig.wake();
    }
    answer(&mut rig, status(503, None));
    kinds.extend([L, E]);
    rig.files = folder(&kinds);
    rig.wake();
    assert_eq!(asked(&rig), Some((Class::Error, vec![8])));
    let queued = rig.machine.status().queued;
    assert_eq!((queued.errors, queued.decisions, queued.lifecycle), (1, 6, 1), "what is parked waits too");
    // That one is parked in its turn, and both are sent when the collector is back.
    answer(&mut rig, Got::Failed(Fault::TimedOut));
    rig.wake();
    let want = [
        (Class::Error, vec![8]),
        (Class::Decision, vec![1, 2, 3, 4]),
        (Class::Decision, vec![5, 6]),
        (Class::Lifecycle, vec![7]),
    ];
    assert_eq!(accept_all(&mut rig), want);
    assert_eq!(cursors(&rig.files), Some([8, 8, 8]));
}

#[test]
fn a_drain_that_goes_on_sleeps_sees_what_is_new_and_notices_another_drain() {
    let mut kinds = vec![D, L];
    let mut rig = going_on(folder(&kinds));
    accept_all(&mut rig);
    rig.wake();
    rig.wake();
    assert!(rig.requests.is_empty());
    kinds.extend([D, E]);
    let positions = rig.files[&File::Positions].clone();
    rig.files = folder(&kinds);
    rig.files.insert(File::Positions, positions);
    rig.wake();
    assert_eq!(accept_all(&mut rig), [(Class::Error, vec![4]), (Class::Decision, vec![3])]);
    // Another drain delivers the next ones while this one sleeps.
    kinds.extend([D, D]);
    let (base, _) = log_of(&kinds);
    rig.files = folder(&kinds);
    let cursors = ["error", "decision", "lifecycle"].map(|class| (class.to_string(), 6)).into();
    rig.files.insert(File::Positions, Positions { log_id: base.log_id, cursors, repairs: 0 }.to_bytes());
    rig.wake();
    assert!(rig.requests.is_empty(), "it was delivered already: {:?}", asked(&rig));
}

#[test]
fn two_drains_are_refused() {
    let mut rig = Solo::new(Drain::new(Config::default()), folder(&[D]));
    rig.fail = Some((0, FaultKind::Held));
    rig.event(Event::Start(Entropy([3; 32])));
    rig.run();
    assert_eq!(failure(&rig).why, Why::Held);
    assert!(!rig.transcript.contains("Unlock"), "the lock is not ours to give back");
    // One that goes on waits for the other.
    let config = Config { until: Until::Stopped, ..Config::default() };
    let mut rig = Solo::new(Drain::new(config), folder(&[D]));
    rig.fail = Some((0, FaultKind::Held));
    rig.event(Event::Start(Entropy([3; 32])));
    rig.run();
    assert_eq!(rig.notes[0].msg, "drain_waits");
    rig.wake();
    assert_eq!(asked(&rig), Some((Class::Decision, vec![1])));
}

#[test]
fn n06_a_poisonous_record_is_put_aside_with_the_receivers_words() {
    let mut rig = until_empty(folder(&[D, D, D, E, D, D]));
    let mut sent = Vec::new();
    while let Some((_, seqs)) = asked(&rig) {
        if seqs.contains(&3) {
            answer(&mut rig, status(400, None));
        } else {
            sent.extend(seqs);
            answer(&mut rig, full());
        }
    }
    assert_eq!(sent, [4, 1, 2, 5, 6]);
    assert_eq!(rig.outputs.last(), Some(&Output::Complete { events: 5 }));
    assert!(rig.outputs.contains(&Output::Rejected { records: 1, words: "words".into() }));
    assert_eq!(cursors(&rig.files), Some([6, 6, 6]));
    let kept = &rig.files[&File::Rejected(Seq::new(3).unwrap())];
    let kept: serde_json::Value = serde_json::from_slice(kept).unwrap();
    assert_eq!((kept["status"].as_u64(), kept["words"].as_str()), (Some(400), Some("words")));
    assert_eq!(kept["records"][0]["seq"], 3);
    assert_eq!(kept["records"][0]["body"]["decision"], "allow");
}

#[test]
fn n04_a_partial_success_counts_as_delivered_and_is_kept() {
    let mut rig = until_empty(folder(&[D, D, D]));
    let body = Body::Partial { rejected: 2, words: "too \"old\"".into() };
    answer(&mut rig, Got::Answered(Answer { status: 200, retry_after: None, body }));
    assert!(rig.requests.is_empty(), "it is not sent again");
    assert_eq!(
        rig.outputs[1..],
        [
            Output::Accepted { batch: 1, events: 1, records: 3, words: String::new() },
            Output::Rejected { records: 2, words: "too \"old\"".into() },
            Output::Complete { events: 1 }
        ]
    );
    let kept: serde_json::Value = serde_json::from_slice(&rig.files[&File::Rejected(Seq::FIRST)]).unwrap();
    assert_eq!((kept["rejected"].as_u64(), kept["words"].as_str()), (Some(2), Some("too \"old\"")));
    assert_eq!(kept["records"].as_array().unwrap().len(), 3);
}

#[test]
fn a_wrong_url_or_token_never_empties_the_log() {
    for code in [301, 302, 307, 401, 403, 404, 405, 500, 501, 204, 200] {
        let mut rig = until_empty(folder(&[D, D]));
        answer(&mut rig, status(code, None));
        assert_eq!(failure(&rig).why.exit_code(), 1, "{code}");
        assert_eq!(cursors(&rig.files), None, "{code}");
    }
    // Nor does a server that finds fault with everything.
    let mut rig = until_empty(folder(&[D; 500]));
    while asked(&rig).is_some() {
        answer(&mut rig, status(400, None));
    }
    assert_eq!(failure(&rig).why, Why::Refused);
    assert_eq!(cursors(&rig.files).unwrap()[1], 100);
    assert_eq!(rig.files.keys().filter(|file| matches!(file, File::Rejected(_))).count(), 100);
}
