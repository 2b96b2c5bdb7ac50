//! The drain on a perfect disk against a collector that answers as told.

use std::collections::BTreeSet;
use std::format;
use std::string::{String, ToString};
use std::vec;
use std::vec::Vec;

use super::batch::{Class, PerClass, event_id};
use super::*;
use crate::ids::{IdSource, Seq};
use crate::machine::Entropy;
use crate::net::{Answer, Body, Fault, Got};
use crate::solo::{Files, Solo};
use crate::time::Wall;
use crate::wal::files::{Base, Positions};
use crate::wal::frame::{self, Frame, Kind, Place, Record};

type Rig = Solo<Drain>;

const D: Kind = Kind::Decision;
const A: Kind = Kind::Action;
const E: Kind = Kind::Error;
const L: Kind = Kind::Lifecycle;

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
fn folder(kinds: &[Kind]) -> Files {
    let (base, bytes) = log_of(kinds);
    let safe = u64::try_from(kinds.len()).unwrap();
    Files::from([(File::Base, base.to_bytes()), (File::SafeSeq, safe.to_le_bytes().to_vec()), (File::Live, bytes)])
}

/// The offset of the frame with this sequence.
fn offset(bytes: &[u8], seq: u64) -> usize {
    let mut at = 0;
    for _ in 1..seq {
        at += 4 + usize::try_from(u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())).unwrap();
    }
    at
}

/// Seals everything before the frame with this sequence into its own file.
fn seal(files: &mut Files, first: u64, next: u64) {
    let live = files.remove(&File::Live).unwrap();
    let at = offset(&live, next - first + 1);
    files.insert(File::Sealed(Seq::new(first).unwrap()), live[..at].to_vec());
    files.insert(File::Live, live[at..].to_vec());
}

fn until_empty(files: Files) -> Rig {
    Solo::started(Drain::new(Config { batch_records: 4, ..Config::default() }), files)
}

fn going_on(files: Files) -> Rig {
    let config = Config { batch_records: 4, until: Until::Stopped, ..Config::default() };
    Solo::started(Drain::new(config), files)
}

fn full() -> Got {
    Got::Answered(Answer { status: 200, retry_after: None, body: Body::Full { words: String::new() } })
}

fn status(status: u16, retry_after: Option<Span>) -> Got {
    Got::Answered(Answer { status, retry_after, body: Body::Other { words: "words".into() } })
}

/// What the request that is under way carries.
fn asked(rig: &Rig) -> Option<(Class, Vec<u64>)> {
    let (_, net::Op::Export(export)) = rig.requests.front()?;
    let seqs = export.batch.frames(export.from, export.to).map(|frame| frame.seq.get()).collect();
    Some((export.batch.class, seqs))
}

fn answer(rig: &mut Rig, got: Got) {
    let (tag, _) = rig.requests.pop_front().expect("a request");
    rig.event(Event::Net(tag, got));
    rig.run();
}

/// Accepts everything; what was sent, in order.
fn accept_all(rig: &mut Rig) -> Vec<(Class, Vec<u64>)> {
    let mut sent = Vec::new();
    while let Some(batch) = asked(rig) {
        sent.push(batch);
        answer(rig, full());
    }
    sent
}

fn cursors(files: &Files) -> Option<[u64; 3]> {
    let positions = Positions::parse(files.get(&File::Positions)?).unwrap();
    Some(["error", "decision", "lifecycle"].map(|class| positions.cursors[class]))
}

fn failure(rig: &Rig) -> Failure {
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

#[test]
fn sealed_files_are_read_in_order_and_a_sealing_under_us_is_noticed() {
    let kinds: Vec<Kind> = (0..40).map(|i| if i % 9 == 0 { E } else { D }).collect();
    let want = accept_all(&mut until_empty(folder(&kinds)));
    let mut files = folder(&kinds);
    seal(&mut files, 1, 11);
    seal(&mut files, 11, 31);
    assert_eq!(accept_all(&mut until_empty(files.clone())), want);
    // From the middle of the second file.
    let (base, _) = log_of(&kinds);
    let cursors = ["error", "decision", "lifecycle"].map(|class| (class.to_string(), 15)).into();
    files.insert(File::Positions, Positions { log_id: base.log_id, cursors, repairs: 0 }.to_bytes());
    let sent: Vec<u64> = accept_all(&mut until_empty(files)).into_iter().flat_map(|(_, seqs)| seqs).collect();
    assert_eq!(sent.len(), 25);
    assert!(sent.iter().all(|seq| *seq > 15));
    // The writer seals between any two of our steps.
    for steps in 0..30 {
        let mut rig = Solo::new(Drain::new(Config { batch_records: 4, ..Config::default() }), folder(&kinds));
        rig.event(Event::Start(Entropy([3; 32])));
        let mut sent = Vec::new();
        let mut done = 0;
        loop {
            if done == steps {
                seal(&mut rig.files, 1, 41);
                rig.files.insert(File::Live, Vec::new());
            }
            done += 1;
            if let Some(batch) = asked(&rig) {
                sent.push(batch);
                let (tag, _) = rig.requests.pop_front().unwrap();
                rig.event(Event::Net(tag, full()));
            } else if !rig.step() {
                break;
            }
        }
        assert_eq!(rig.outputs.last(), Some(&Output::Complete { events: 40 }), "sealed after {steps} steps");
        assert_eq!(sent, want, "sealed after {steps} steps");
    }
}

#[test]
fn a_damaged_log_is_not_sent_past_the_damage_and_the_cursor_stays() {
    let mut files = folder(&[D, D, D, D, D, D]);
    let live = files.get_mut(&File::Live).unwrap();
    let at = offset(live, 4) + 20;
    live[at] ^= 1;
    let mut rig = until_empty(files);
    while !matches!(rig.outputs.last(), Some(Output::Failed(_))) {
        rig.wake();
    }
    let failed = failure(&rig);
    assert_eq!(failed.why, Why::Log);
    assert!(failed.message.contains("sequence 4 (telemetry.wal"), "{}", failed.message);
    assert_eq!(cursors(&rig.files), None);
    assert!(rig.requests.is_empty());
}

#[test]
fn a_frame_that_was_delivered_but_not_passed_by_every_cursor_is_verified_all_the_same() {
    // Damage could turn an undelivered record into one of a class that is done with.
    let (base, _) = log_of(&[D]);
    for at in 2..=4 {
        let mut files = folder(&[L, D, D, D, L]);
        let cursors =
            [("error", 4), ("decision", 4), ("lifecycle", 0)].map(|(class, seq)| (class.to_string(), seq)).into();
        files.insert(File::Positions, Positions { log_id: base.log_id, cursors, repairs: 0 }.to_bytes());
        assert_eq!(accept_all(&mut until_empty(files.clone())), [(Class::Lifecycle, vec![1, 5])]);
        let live = files.get_mut(&File::Live).unwrap();
        let byte = offset(live, at) + 60;
        live[byte] ^= 1;
        let mut rig = until_empty(files);
        while !matches!(rig.outputs.last(), Some(Output::Failed(_))) {
            rig.wake();
        }
        assert!(failure(&rig).message.contains(&format!("at sequence {at} ")), "{}", failure(&rig).message);
        assert!(rig.requests.is_empty());
    }
}

#[test]
fn a_base_whose_log_id_was_damaged_is_refused_and_no_cursor_is_written_by_it() {
    let mut files = folder(&[D]);
    let mut base = Base::parse(&files[&File::Base]).unwrap();
    base.log_id = IdSource::new(Entropy([8; 32])).next(Wall::default());
    files.insert(File::Base, base.to_bytes());
    let rig = until_empty(files);
    assert!(rig.requests.is_empty() && cursors(&rig.files).is_none());
    let failure = failure(&rig);
    assert_eq!(failure.why, Why::Log);
    assert!(failure.message.starts_with("telemetry.base is damaged"), "{}", failure.message);
}

#[test]
fn a_repair_under_a_resting_drain_voids_what_it_knew() {
    let mut rig = going_on(folder(&[D, D, D]));
    answer(&mut rig, Got::Failed(Fault::Refused));
    // The third frame is cut by a repair, and its sequence used again.
    let (base, bytes) = log_of(&[D, D, E]);
    rig.files.insert(File::Live, bytes);
    let cursors = ["error", "decision", "lifecycle"].map(|class| (class.to_string(), 0)).into();
    let repaired = Positions { log_id: base.log_id, cursors, repairs: 1 };
    rig.files.insert(File::Positions, repaired.to_bytes());
    rig.wake();
    assert_eq!(accept_all(&mut rig), [(Class::Error, vec![3]), (Class::Decision, vec![1, 2])]);
    let after = Positions::parse(&rig.files[&File::Positions]).unwrap();
    assert_eq!((after.repairs, after.delivered()), (1, 3), "it keeps the count");
}

#[test]
fn a_log_that_was_replaced_while_the_drain_slept_is_drained_from_its_beginning() {
    let mut rig = going_on(folder(&[D; 6]));
    accept_all(&mut rig);
    rig.files = folder(&[L, L]);
    rig.wake();
    assert_eq!(accept_all(&mut rig), [(Class::Lifecycle, vec![1, 2])]);
    // And one that is gone is told about.
    rig.files.clear();
    rig.wake();
    assert!(matches!(rig.outputs.last(), Some(Output::Trouble { words, .. }) if words.contains("no log")));
}

#[test]
fn a_segment_that_was_delivered_and_removed_meanwhile_is_no_damage() {
    let kinds = [D; 12];
    let mut rig = going_on(folder(&kinds[..6]));
    accept_all(&mut rig);
    // The writer seals what was delivered, removes it, and goes on in a new file.
    let positions = rig.files[&File::Positions].clone();
    let (base, bytes) = log_of(&kinds);
    let at = offset(&bytes, 7);
    let prev_h = Frame::parse(&bytes[offset(&bytes, 6) + 4..at]).unwrap().h;
    let base = Base { first_seq: Seq::new(7).unwrap(), prev_h, ..base };
    rig.files = folder(&kinds);
    rig.files.insert(File::Base, base.to_bytes());
    rig.files.insert(File::Live, bytes[at..].to_vec());
    rig.files.insert(File::Positions, positions);
    rig.wake();
    while asked(&rig).is_none() {
        rig.wake();
    }
    let sent: Vec<u64> = accept_all(&mut rig).into_iter().flat_map(|(_, seqs)| seqs).collect();
    assert_eq!(sent, [7, 8, 9, 10, 11, 12]);
    assert!(!rig.outputs.iter().any(|said| matches!(said, Output::Trouble { .. })), "{:?}", rig.outputs);
}

#[test]
fn an_empty_sealed_file_is_damage_and_no_endless_loop() {
    let mut files = folder(&[D, D, D, D]);
    seal(&mut files, 1, 3);
    files.insert(File::Sealed(Seq::FIRST), Vec::new());
    let mut rig = until_empty(files);
    while !matches!(rig.outputs.last(), Some(Output::Failed(_))) {
        rig.wake();
    }
    assert!(failure(&rig).message.contains("sequence 1 (telemetry-00000000000000000001.wal"));
}

#[test]
fn cursors_behind_the_safe_point_are_believed_only_when_it_reaches_them() {
    let (base, _) = log_of(&[D]);
    let cursors = ["error", "decision", "lifecycle"].map(|class| (class.to_string(), 3)).into();
    let positions = Positions { log_id: base.log_id, cursors, repairs: 0 }.to_bytes();
    let mut files = folder(&[D, D]);
    files.insert(File::Positions, positions.clone());
    let mut rig = until_empty(files);
    // The log's recovery comes to its end meanwhile.
    rig.wake();
    assert!(rig.outputs.is_empty());
    rig.files = folder(&[D; 4]);
    rig.files.insert(File::Positions, positions.clone());
    rig.wake();
    assert_eq!(accept_all(&mut rig), [(Class::Decision, vec![4])]);
    let mut files = folder(&[D, D]);
    files.insert(File::Positions, positions);
    let mut rig = until_empty(files);
    while !matches!(rig.outputs.last(), Some(Output::Failed(_))) {
        rig.wake();
    }
    assert!(failure(&rig).message.contains("telemetry.pos says that 3 was delivered"));
}

#[test]
fn cursors_that_cannot_be_written_are_written_again_and_nothing_is_sent_twice() {
    let mut rig = going_on(folder(&[D, D]));
    let (tag, _) = rig.requests.pop_front().unwrap();
    rig.fail = Some((1, FaultKind::NoSpace));
    rig.event(Event::Net(tag, full()));
    rig.run();
    let mut waits = Vec::new();
    for _ in 0..8 {
        waits.push(rig.machine.deadline().unwrap().at.since(rig.now.mono));
        assert!(rig.machine.status().trouble.is_some());
        // The lock and the cursors are read first; the write is the next chain.
        rig.now.mono = rig.machine.deadline().unwrap().at;
        rig.event(Event::Due);
        rig.step();
        rig.fail = Some((1, FaultKind::NoSpace));
        rig.run();
        assert!(rig.requests.is_empty());
    }
    assert!(waits.is_sorted() && waits.last() > Some(&Span::from_secs(15)), "{waits:?}");
    rig.wake();
    assert_eq!(cursors(&rig.files), Some([2, 2, 2]));
    assert_eq!(rig.machine.status().trouble, None);
}

#[test]
fn n04_a_receiver_that_rejects_a_part_of_every_batch_is_no_wrong_receiver() {
    let mut rig = going_on(folder(&[D; 800]));
    let mut batches = 0;
    while asked(&rig).is_some() {
        batches += 1;
        let body = Body::Partial { rejected: 1, words: "one".into() };
        answer(&mut rig, Got::Answered(Answer { status: 200, retry_after: None, body }));
    }
    assert_eq!((batches, cursors(&rig.files).unwrap()[1]), (200, 800));
}

#[test]
fn n06_a_long_run_of_poisonous_records_slows_the_background_down_and_does_not_stop_it() {
    let mut rig = going_on(folder(&[D; 140]));
    let mut sent = Vec::new();
    for _ in 0..2_000 {
        match asked(&rig) {
            Some((_, seqs)) if seqs.iter().any(|seq| *seq <= 120) => answer(&mut rig, status(400, None)),
            Some((_, seqs)) => {
                sent.extend(seqs);
                answer(&mut rig, full());
            }
            None if sent.len() == 20 => break,
            None => rig.wake(),
        }
    }
    assert_eq!(sent, (121..=140).collect::<Vec<_>>());
    assert!(rig.now.mono >= Mono::from_nanos(Span::from_secs(500).as_nanos()), "slowly: {:?}", rig.now.mono);
}

#[test]
fn foreign_or_damaged_cursors_and_a_missing_log_are_refused() {
    let mut files = folder(&[D]);
    let other = IdSource::new(Entropy([9; 32])).next(Wall::from_micros(9));
    let cursors = ["error", "decision", "lifecycle"].map(|class| (class.to_string(), 0)).into();
    files.insert(File::Positions, Positions { log_id: other, cursors, repairs: 0 }.to_bytes());
    assert!(failure(&until_empty(files.clone())).message.contains("another log"));
    files.insert(File::Positions, b"{}".to_vec());
    assert!(failure(&until_empty(files)).message.contains("telemetry.pos"));
    assert!(failure(&until_empty(Files::new())).message.contains("no log in this folder"));
}

#[test]
fn cursors_that_cannot_be_written_count_for_nothing() {
    for step in 0..4 {
        let mut rig = until_empty(folder(&[D, D]));
        let (tag, _) = rig.requests.pop_front().unwrap();
        rig.fail = Some((step, FaultKind::NoSpace));
        rig.event(Event::Net(tag, full()));
        rig.run();
        let failed = failure(&rig);
        assert_eq!(failed.why, Why::Log);
        assert!(failed.message.contains("telemetry.pos: no space left"), "{}", failed.message);
    }
}

#[test]
fn the_lowest_class_goes_after_eight_batches_of_higher_ones() {
    let kinds: Vec<Kind> = (0..100).map(|i| if i < 60 { E } else { L }).collect();
    let mut rig = until_empty(folder(&kinds));
    let classes: Vec<Class> = accept_all(&mut rig).into_iter().map(|(class, _)| class).collect();
    assert_eq!(classes[..8], [Class::Error; 8]);
    assert_eq!(classes[8], Class::Lifecycle);
    assert_eq!(classes[9..15], [Class::Error; 6]);
}

#[test]
fn stopping_gives_the_lock_back_and_forgets_the_answer() {
    let mut rig = until_empty(folder(&[D, D]));
    rig.input(Input::Stop);
    rig.run();
    assert_eq!(rig.outputs.last(), Some(&Output::Stopped));
    let (tag, _) = rig.requests.pop_front().unwrap();
    rig.event(Event::Net(tag, full()));
    rig.run();
    assert_eq!(cursors(&rig.files), None);
    assert_eq!(rig.machine.deadline(), None);
}

#[test]
fn an_event_id_names_node_sequence_and_content() {
    let (_, bytes) = log_of(&[D]);
    let frame = Frame::parse(&bytes[4..]).unwrap();
    let id = event_id("n1", &frame);
    assert_eq!(id, format!("n1:wal:1:{}", &frame.h.to_string()[..16]));
    assert_eq!(PerClass::<u64>::default(), PerClass { error: 0, decision: 0, lifecycle: 0 });
}
