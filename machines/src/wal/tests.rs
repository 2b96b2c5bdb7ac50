//! The log on a perfect disk: transcripts of its life, and every way in which a small log can be damaged.

use std::format;
use std::string::{String, ToString};
use std::vec;
use std::vec::Vec;

use super::files::{Base, Positions};
use super::frame::{Frame, Kind, PREFIX, Record};
use super::scan::Chain;
use super::verdict::Cause;
use super::*;
use crate::disk::Op;
use crate::solo::{Files, Solo};

type Log = Solo<Wal>;

pub fn open(files: Files) -> Log {
    Solo::started(Wal::new(Config { node_id: Some("n1".into()), ..Config::default() }), files)
}

pub fn small() -> Config {
    Config { node_id: Some("n1".into()), max_bytes: 1 << 20, ..Config::default() }
}

fn record(log: &mut Log, kind: Kind, body: &str) -> Record {
    let Phase::Writing(_) = &log.machine.phase else { panic!("not open") };
    let audit_id = log.machine.ids.next(log.now.wall);
    Record { kind, audit_id, trace: None, body: body.to_string() }
}

pub fn append(log: &mut Log, n: u64, class: Class, body: &str) {
    let kind = match class {
        Class::Allow | Class::Deny => Kind::Decision,
        Class::Outcome => Kind::Action,
        Class::Lifecycle => Kind::Lifecycle,
        Class::Fault => Kind::Error,
    };
    let record = record(log, kind, body);
    log.input(Input::Append { ticket: Some(Ticket(n)), class, record });
}

pub fn deny(log: &mut Log, n: u64) {
    append(log, n, Class::Deny, r#"{"decision":"deny","reason":"no_match"}"#);
}

/// A log of `n` decisions, closed cleanly.
pub fn written(n: u64) -> Files {
    let mut log = open(Files::new());
    for i in 0..n {
        deny(&mut log, i);
        log.run();
    }
    log.input(Input::Stop);
    log.run();
    assert!(matches!(log.outputs.last(), Some(Output::Stopped)));
    log.files
}

pub fn released(log: &Log) -> Vec<u64> {
    log.outputs
        .iter()
        .flat_map(|o| match o {
            Output::Released(tickets) => tickets.iter().map(|(t, _)| t.0).collect::<Vec<_>>(),
            _ => vec![],
        })
        .collect()
}

fn refused(log: &Log) -> Vec<(u64, Refused)> {
    log.outputs.iter().filter_map(|o| if let Output::Refused(t, why) = o { Some((t.0, *why)) } else { None }).collect()
}

pub fn cause(log: &Log) -> Option<String> {
    let note = log.notes.iter().find(|n| n.msg == "WAL_RECOVERY_FAIL_HARD")?;
    match &note.fields[0] {
        ("cause", crate::machine::Field::Text(text)) => Some(text.clone()),
        other => panic!("{other:?}"),
    }
}

/// All frames of a log's files, oldest first, as (seq, kind, body); panics when the chain breaks.
pub fn frames(files: &Files) -> Vec<(u64, Kind, String)> {
    let base = Base::parse(&files[&File::Base]).unwrap();
    let mut chain = Chain::new(base.first_seq, base.prev_h);
    let mut all = vec![];
    let sealed = files.keys().filter(|f| matches!(f, File::Sealed(_))).copied().collect::<Vec<_>>();
    for file in sealed.into_iter().chain([File::Live]) {
        let bytes = &files[&file];
        let (good, bad) = chain.read(bytes, true, &mut |f, _| all.push((f.seq.get(), f.kind, f.body.to_string())));
        assert_eq!((good, bad), (bytes.len(), None), "{file:?}");
    }
    all
}

#[test]
fn transcript_of_a_first_life() {
    let mut log = open(Files::new());
    log.transcript.push_str("-- open\n");
    deny(&mut log, 1);
    log.transcript.push_str("-- two more while the first is on its way\n");
    deny(&mut log, 2);
    deny(&mut log, 3);
    log.run();
    log.transcript.push_str("-- a second later\n");
    log.pass(Span::from_secs(1));
    log.wake();
    log.transcript.push_str("-- stop\n");
    deny(&mut log, 4);
    log.input(Input::Stop);
    log.run();
    insta::assert_snapshot!(log.transcript);
}

#[test]
fn appends_that_wait_together_share_one_sync() {
    let mut log = open(Files::new());
    for n in 0..33 {
        deny(&mut log, n);
    }
    let syncs = |log: &Log| log.transcript.matches("Sync(Live)").count();
    let before = syncs(&log);
    log.run();
    assert_eq!(syncs(&log) - before, 1, "the 32 behind the first go together");
    assert_eq!(released(&log), (0..33).collect::<Vec<_>>());
}

#[test]
fn d02_nothing_is_released_before_its_own_sync() {
    let mut log = open(Files::new());
    deny(&mut log, 1);
    deny(&mut log, 2);
    assert_eq!(released(&log), [] as [u64; 0]);
    log.step();
    assert_eq!(released(&log), [1], "the sync of 1 says nothing of 2");
    log.step();
    assert_eq!(released(&log), [1, 2]);
}

#[test]
fn d05_d06_a_failed_write_or_sync_ends_the_log_until_a_restart() {
    for step in 0..3 {
        let mut log = open(Files::new());
        deny(&mut log, 1);
        deny(&mut log, 2);
        log.fail = Some((step, FaultKind::Io(5)));
        log.run();
        assert_eq!(released(&log), [] as [u64; 0]);
        assert_eq!(refused(&log), [(1, Refused::Failed), (2, Refused::Failed)]);
        assert_eq!(log.machine.health(), Health::Failed);
        let chains = log.transcript.matches("Sync(Live)").count();
        let audit_id = log.machine.ids.next(log.now.wall);
        let record = Record { kind: Kind::Decision, audit_id, trace: None, body: "{}".into() };
        log.input(Input::Append { ticket: Some(Ticket(3)), class: Class::Deny, record });
        log.run();
        assert_eq!(refused(&log).last(), Some(&(3, Refused::Failed)));
        assert_eq!(log.transcript.matches("Sync(Live)").count(), chains, "nothing is issued again");
        let again = open(log.files);
        assert_eq!(again.machine.health(), Health::Open);
    }
}

#[test]
fn d03_a_log_cut_at_any_length_is_refused_or_loses_only_what_was_never_durable() {
    let files = written(4);
    let whole = files[&File::Live].clone();
    // The safe-point as a power cut may leave it: an older value than the frames.
    for safe in 0..=4u64 {
        for len in 0..whole.len() {
            let mut cut = files.clone();
            cut.insert(File::Live, whole[..len].to_vec());
            cut.insert(File::SafeSeq, safe.to_le_bytes().to_vec());
            let log = open(cut.clone());
            let left = whole_frames(&whole[..len]);
            if left < safe {
                assert_eq!(cause(&log).as_deref(), Some("SAFESEQ_GT_MAXSEQ"), "safe {safe} len {len}");
                assert_eq!(log.files, cut, "nothing on disk changed");
                continue;
            }
            let found = frames(&log.files);
            assert_eq!(found.iter().filter(|f| f.1 == Kind::Decision).count() as u64, left);
            let torn = len > 0 && !boundary(&whole, len);
            assert_eq!(found.len() as u64, left + u64::from(torn), "a cut tail leaves one error event");
            if torn {
                assert!(found.last().unwrap().2.contains("wal_tail_truncated"));
            }
        }
    }
}

fn boundary(whole: &[u8], len: usize) -> bool {
    let mut at = 0;
    while at < len {
        at += PREFIX + u32::from_be_bytes(whole[at..at + 4].try_into().unwrap()) as usize;
    }
    at == len
}

pub fn whole_frames(bytes: &[u8]) -> u64 {
    let (mut at, mut n) = (0, 0);
    while let Some(prefix) = bytes.get(at..at + 4) {
        at += PREFIX + u32::from_be_bytes(prefix.try_into().unwrap()) as usize;
        if at > bytes.len() {
            break;
        }
        n += 1;
    }
    n
}

#[test]
fn d04_every_flipped_byte_is_refused_or_in_a_tail_that_was_never_durable() {
    let files = written(4);
    let whole = files[&File::Live].clone();
    for safe in [0u64, 2, 4] {
        for at in 0..whole.len() {
            for bit in [0, 5, 7] {
                let mut bytes = whole.clone();
                bytes[at] ^= 1 << bit;
                let mut damaged = files.clone();
                damaged.insert(File::Live, bytes);
                damaged.insert(File::SafeSeq, safe.to_le_bytes().to_vec());
                let hit = whole_frames(&whole[..at]) + 1;
                let log = open(damaged.clone());
                // Frame 4 says that 3 was durable, if it can be verified against the hash stored at the end of 3.
                let in_tail_of_3 = hit == 3 && whole_frames(&whole[..at + super::frame::TAIL]) == 3;
                let shown = hit < 3 || hit == 3 && !in_tail_of_3;
                if hit <= safe || shown {
                    assert!(cause(&log).is_some(), "safe {safe} byte {at} bit {bit}: refused");
                    assert_eq!(log.files, damaged, "nothing on disk changed");
                } else {
                    let kept = frames(&log.files);
                    assert_eq!(kept.len() as u64, hit, "safe {safe} byte {at} bit {bit}: cut, with its error event");
                    assert!(kept.last().unwrap().2.contains("wal_tail_truncated"));
                }
            }
        }
    }
}

#[test]
fn d10_a_hole_below_what_a_later_frame_shows_durable_is_refused() {
    let files = written(6);
    let whole = files[&File::Live].clone();
    let starts: Vec<usize> = (0..whole.len()).filter(|at| boundary(&whole, *at)).collect();
    // The second frame never reached the disk, later ones did, and the safe-point is old.
    let mut bytes = whole.clone();
    bytes[starts[1]..starts[2]].fill(0);
    let mut damaged = files.clone();
    damaged.insert(File::Live, bytes);
    damaged.insert(File::SafeSeq, 0u64.to_le_bytes().to_vec());
    assert_eq!(cause(&open(damaged)).as_deref(), Some("WAL_CORRUPT_INVALID_JSON"));
    // Frames that were written together know nothing of each other's durability: such a hole is a torn tail.
    let mut log = open(Files::new());
    for n in 0..3 {
        deny(&mut log, n);
    }
    log.run();
    let whole = log.files[&File::Live].clone();
    let starts: Vec<usize> = (0..whole.len()).filter(|at| boundary(&whole, *at)).collect();
    let mut bytes = whole.clone();
    bytes[starts[1]..starts[2]].fill(0);
    log.files.insert(File::Live, bytes);
    log.files.insert(File::SafeSeq, 1u64.to_le_bytes().to_vec());
    assert_eq!(frames(&open(log.files).files).len(), 2);
}

#[test]
fn d11_d17_a_safe_point_ahead_of_the_log_is_refused() {
    let mut files = written(2);
    files.insert(File::SafeSeq, 3u64.to_le_bytes().to_vec());
    let log = open(files.clone());
    assert_eq!(cause(&log).as_deref(), Some("SAFESEQ_GT_MAXSEQ"));
    assert_eq!(log.halt.as_ref().map(|h| h.code), Some(1));
    assert_eq!(log.files, files);
}

#[test]
fn d16_a_missing_or_misshapen_safe_point_or_base_beside_frames_is_refused() {
    let files = written(2);
    for (file, bytes, want) in [
        (File::SafeSeq, None, Cause::SafeSeqMissing),
        (File::SafeSeq, Some(vec![1, 0, 0]), Cause::SafeSeqMissing),
        (File::SafeSeq, Some(vec![0; 9]), Cause::SafeSeqMissing),
        (File::Base, None, Cause::BaseMissing),
        (File::Base, Some(b"{}".to_vec()), Cause::BaseMissing),
        (File::Positions, Some(b"{}".to_vec()), Cause::PositionsForeign),
    ] {
        let mut damaged = files.clone();
        match bytes {
            Some(bytes) => damaged.insert(file, bytes),
            None => damaged.remove(&file),
        };
        let log = open(damaged.clone());
        assert_eq!(cause(&log).as_deref(), Some(want.as_str()), "{file:?}");
        assert_eq!(log.files, damaged, "nothing on disk changed");
    }
}

#[test]
fn d15_a_base_with_another_log_id_is_refused() {
    let mut files = written(2);
    let base = files.get_mut(&File::Base).unwrap();
    let digit = base.iter().position(|b| *b == b'-').unwrap() - 1;
    base[digit] = if base[digit] == b'0' { b'1' } else { b'0' };
    assert_eq!(cause(&open(files)).as_deref(), Some("BASE_MISSING"));
}

#[test]
fn d04_a_base_that_points_behind_durable_frames_is_refused() {
    for first in [b'2', b'3'] {
        let mut files = written(2);
        let base = files.get_mut(&File::Base).unwrap();
        let digit = base.windows(12).position(|w| w == b"\"first_seq\":").unwrap() + 12;
        base[digit] = first;
        let log = open(files.clone());
        assert_eq!(cause(&log).as_deref(), Some("FIRST_SEQ_UNEXPECTED"));
        assert_eq!(log.files, files, "nothing on disk changed");
    }
}

#[test]
fn d16_d18_a_creation_cut_short_anywhere_is_completed() {
    let fresh = open(Files::new());
    let Some(Op::List) = fresh_chain(&fresh).first().cloned() else { panic!("a listing first") };
    // Every prefix of the creation, as a crash leaves it on a disk that keeps order.
    for steps in 0..12 {
        let mut log = Solo::new(Wal::new(small()), Files::new());
        log.event(Event::Start(crate::machine::Entropy([3; 32])));
        log.step();
        log.fail = Some((steps, FaultKind::Io(5)));
        log.run();
        let mut again = open(log.files);
        assert_eq!(again.machine.health(), Health::Open, "after {steps} steps");
        deny(&mut again, 1);
        again.run();
        assert_eq!(frames(&again.files).len(), 1);
        assert_eq!(open(again.files).machine.health(), Health::Open);
    }
}

fn fresh_chain(log: &Log) -> Vec<Op> {
    assert!(log.transcript.starts_with("  disk Log: List"));
    vec![Op::List]
}

/// A log of 1 MiB whose live file is sealed at 128 KiB, with several sealed files.
pub fn sealed_log() -> Log {
    let mut log = Solo::started(Wal::new(small()), Files::new());
    let body = format!("{{\"decision\":\"deny\",\"reason\":\"{}\"}}", "x".repeat(2000));
    for n in 0..220 {
        append(&mut log, n, Class::Deny, &body);
        log.run();
    }
    assert!(log.files.keys().filter(|f| matches!(f, File::Sealed(_))).count() >= 3);
    log
}

#[test]
fn sealed_files_chain_on_and_are_found_again() {
    let log = sealed_log();
    assert_eq!(frames(&log.files).len(), 220);
    let again = Solo::started(Wal::new(small()), log.files);
    let status = again.machine.status().unwrap();
    assert_eq!((status.head, status.safe), (220, 220));
    assert!(status.segments >= 4);
}

#[test]
fn d14_d15_a_missing_foreign_or_renamed_segment_is_refused() {
    let log = sealed_log();
    let mut sealed: Vec<File> = log.files.keys().filter(|f| matches!(f, File::Sealed(_))).copied().collect();
    sealed.sort();
    let mut gap = log.files.clone();
    gap.remove(&sealed[1]);
    assert_eq!(cause(&open(gap)).as_deref(), Some("SEQ_GAP"));
    let mut first = log.files.clone();
    first.remove(&sealed[0]);
    assert_eq!(cause(&open(first)).as_deref(), Some("FIRST_SEQ_UNEXPECTED"));
    let mut short = log.files.clone();
    let bytes = short.get_mut(&sealed[0]).unwrap();
    bytes.truncate(bytes.len() - 1);
    assert_eq!(cause(&open(short)).as_deref(), Some("SEQ_GAP"), "a sealed file has no torn tail");
    // The same sequences from another life of the node.
    let mut other = Solo::new(Wal::new(small()), Files::new());
    other.event(Event::Start(crate::machine::Entropy([9; 32])));
    other.run();
    let body = format!("{{\"decision\":\"deny\",\"reason\":\"{}\"}}", "x".repeat(2000));
    for n in 0..220 {
        append(&mut other, n, Class::Deny, &body);
        other.run();
    }
    let mut foreign = log.files.clone();
    foreign.insert(sealed[0], other.files[&sealed[0]].clone());
    assert_eq!(cause(&open(foreign)).as_deref(), Some("WAL_CORRUPT_HASH"));
}

#[test]
fn delivered_files_go_when_room_is_needed_and_undelivered_ones_never() {
    let mut log = sealed_log();
    let body = format!("{{\"decision\":\"deny\",\"reason\":\"{}\"}}", "x".repeat(2000));
    let mut n = 1000;
    while refused(&log).is_empty() {
        append(&mut log, n, Class::Deny, &body);
        log.run();
        n += 1;
    }
    assert_eq!(log.machine.health(), Health::Full);
    assert_eq!(refused(&log)[0].1, Refused::Full);
    let everything = frames(&log.files).len();
    assert_eq!(everything as u64, log.machine.status().unwrap().head, "nothing undelivered was removed");
    // A fault still has room: decisions left a reserve.
    append(&mut log, 5000, Class::Fault, r#"{"code":"x"}"#);
    log.run();
    assert!(released(&log).contains(&5000));
    // The drain moves on: room returns by itself.
    let head = log.machine.status().unwrap().head;
    let log_id = log.machine.status().unwrap().log_id;
    let cursors = super::files::CLASSES.iter().map(|c| (c.to_string(), head)).collect();
    log.files.insert(File::Positions, Positions { log_id, cursors, repairs: 0 }.to_bytes());
    log.pass(Span::from_secs(1));
    log.wake();
    assert_eq!(log.machine.health(), Health::Open);
    append(&mut log, 6000, Class::Deny, &body);
    log.run();
    assert!(released(&log).contains(&6000));
    let base = Base::parse(&log.files[&File::Base]).unwrap();
    assert!(base.first_seq.get() > 1);
    assert!(!frames(&log.files).is_empty());
    assert_eq!(Solo::started(Wal::new(small()), log.files).machine.health(), Health::Open);
}

#[test]
fn a_removal_cut_short_anywhere_is_completed_by_the_next_start() {
    let mut log = sealed_log();
    let status = log.machine.status().unwrap();
    let cursors = super::files::CLASSES.iter().map(|c| (c.to_string(), status.head)).collect();
    log.files.insert(File::Positions, Positions { log_id: status.log_id, cursors, repairs: 0 }.to_bytes());
    let before = log.files.clone();
    for steps in 0..10 {
        let mut log = Solo::started(Wal::new(Config { retain: Span::ZERO, ..small() }), before.clone());
        log.pass(Span::from_secs(1));
        let due = log.machine.deadline().unwrap();
        log.now.mono = log.now.mono.max(due.at);
        log.event(Event::Due);
        log.step();
        log.fail = Some((steps, FaultKind::Io(5)));
        log.run();
        let again = Solo::started(Wal::new(small()), log.files);
        assert_eq!(again.machine.health(), Health::Open, "after {steps} steps: {:?}", again.notes);
        frames(&again.files);
    }
}

#[test]
fn a_call_left_open_is_named_and_its_file_is_kept() {
    let mut log = sealed_log();
    append(&mut log, 9000, Class::Allow, r#"{"decision":"allow","tool":"t"}"#);
    log.run();
    let again = open(log.files.clone());
    let Some(Output::Opened { open }) = again.outputs.first() else { panic!("{:?}", again.outputs) };
    assert_eq!(open.len(), 1);
}

#[test]
fn d21_a_record_longer_than_a_frame_is_refused_at_the_door() {
    let mut log = open(Files::new());
    append(&mut log, 1, Class::Deny, &format!("{{\"x\":\"{}\"}}", "y".repeat(frame::MAX_FRAME)));
    assert_eq!(refused(&log), [(1, Refused::TooLong)]);
}

#[test]
fn d21_d22_lengths_that_no_frame_has_are_bad_and_nothing_is_allocated_for_them() {
    for len in [0u32, 1, 73, 256 * 1024 + 1, u32::MAX] {
        let mut files = written(2);
        files.get_mut(&File::Live).unwrap().extend_from_slice(&len.to_be_bytes());
        files.get_mut(&File::Live).unwrap().extend_from_slice(&[0; 100]);
        let log = open(files);
        assert_eq!(frames(&log.files).len(), 3, "cut at the bad length {len}");
    }
}

#[test]
fn a_log_of_another_node_is_refused_only_when_the_node_is_named() {
    let files = written(1);
    let other = Solo::started(Wal::new(Config { node_id: Some("n2".into()), ..Config::default() }), files.clone());
    assert_eq!(cause(&other).as_deref(), Some("NODE_ID_FOREIGN"));
    let unnamed = Solo::started(Wal::new(Config::default()), files);
    assert_eq!(unnamed.machine.status().map(|s| s.node_id).as_deref(), Some("n1"));
}

#[test]
fn frames_say_the_safe_point_at_which_they_were_written() {
    let mut log = open(Files::new());
    deny(&mut log, 1);
    deny(&mut log, 2);
    log.run();
    deny(&mut log, 3);
    log.run();
    let bytes = &log.files[&File::Live];
    let mut safes = vec![];
    let mut at = 0;
    while at < bytes.len() {
        let len = u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        safes.push(Frame::parse(&bytes[at + 4..at + 4 + len]).unwrap().safe);
        at += PREFIX + len;
    }
    assert_eq!(safes, [0, 0, 2]);
}

#[test]
fn d25_a_file_is_not_removed_before_its_own_seal_is_done() {
    let mut log = sealed_log();
    let body = format!("{{\"decision\":\"deny\",\"reason\":\"{}\"}}", "x".repeat(2000));
    let mut n = 1000;
    while refused(&log).is_empty() {
        append(&mut log, n, Class::Deny, &body);
        log.run();
        n += 1;
    }
    let status = log.machine.status().unwrap();
    let cursors = super::files::CLASSES.iter().map(|c| (c.to_string(), status.head)).collect();
    log.files.insert(File::Positions, Positions { log_id: status.log_id, cursors, repairs: 0 }.to_bytes());
    // Everything is delivered; housekeeping goes first whenever both lanes have something to do.
    for _ in 0..50 {
        append(&mut log, n, Class::Deny, &body);
        n += 1;
        while !log.chains.is_empty() {
            let keeping = log.chains.iter().position(|(tag, _)| tag.lane == Lane::Keeping).unwrap_or(0);
            log.chains.swap(0, keeping);
            log.step();
        }
    }
    let again = Solo::started(Wal::new(small()), log.files.clone());
    assert_eq!(again.machine.health(), Health::Open, "{:?}", again.notes);
    assert!(!again.notes.iter().any(|note| note.msg == "wal_tail_truncated"));
    let on_disk: usize =
        log.files.iter().filter(|(f, _)| matches!(f, File::Live | File::Sealed(_))).map(|(_, b)| b.len()).sum();
    assert_eq!(log.machine.status().unwrap().bytes, on_disk as u64);
}

#[test]
fn d11_frames_above_the_stored_safe_point_are_written_again_before_the_sync() {
    let mut files = written(3);
    let whole = files[&File::Live].clone();
    let starts: Vec<usize> = (0..whole.len()).filter(|at| boundary(&whole, *at)).collect();
    files.insert(File::SafeSeq, 1u64.to_le_bytes().to_vec());
    let log = open(files);
    let (from, to) = (starts[1], whole.len());
    let rewrite = log.transcript.find(&format!("Rewrite {{ file: Live, from: {from}, to: {to} }}")).expect("a rewrite");
    assert!(log.transcript[rewrite..].contains("Sync(Live)"));
}

#[test]
fn a_frame_longer_than_one_read_is_found_again() {
    let mut log = open(Files::new());
    for n in 0..3 {
        append(&mut log, n, Class::Deny, &format!("{{\"x\":\"{}\"}}", "y".repeat(250_000)));
        deny(&mut log, n + 10);
        log.run();
    }
    let again = open(log.files);
    assert_eq!(again.machine.status().map(|s| s.head), Some(6));
}
