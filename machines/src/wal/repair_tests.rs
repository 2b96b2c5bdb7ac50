//! Repair: whatever is damaged, every frame that verifies stays, and the log opens again.

use std::vec;

use super::files::{Base, Positions};
use super::tests::{cause, deny, frames, open, released, sealed_log, small, whole_frames, written};
use super::*;
use crate::solo::{Files, Solo};

/// Repairs a log as the command does, and returns it with what was lost.
fn repaired(files: &Files) -> (Files, super::repair::Summary) {
    use super::repair::{Repair, Verdict};
    let base = files.get(&File::Base).and_then(|b| Base::parse(b));
    let safe = files.get(&File::SafeSeq).and_then(|b| super::files::parse_safe_seq(b));
    let positions = files.get(&File::Positions).and_then(|b| Positions::parse(b));
    let mut names: Vec<File> = files.keys().filter(|f| matches!(f, File::Sealed(_))).copied().collect();
    names.push(File::Live);
    let ids = IdSource::new(Entropy([5; 32]));
    let mut repair = Repair::new(base, "n1", safe, positions.as_ref(), ids, Default::default());
    let mut after = files.clone();
    for name in names {
        let bytes = files.get(&name).cloned().unwrap_or_default();
        match repair.file(name, &bytes) {
            Verdict::Keep => {}
            Verdict::Replace(to, bytes) => {
                after.remove(&name);
                after.insert(to, bytes);
            }
            Verdict::Drop => {
                after.remove(&name);
            }
        }
    }
    let (base, _, summary) = repair.finish();
    after.insert(File::Base, base.to_bytes());
    after.insert(File::SafeSeq, summary.last.to_le_bytes().to_vec());
    (after, summary)
}

#[test]
fn repair_keeps_every_frame_that_verifies_whatever_byte_is_damaged() {
    let files = written(5);
    let whole = files[&File::Live].clone();
    let bodies = frames(&files);
    for at in 0..whole.len() {
        let mut damaged = files.clone();
        damaged.get_mut(&File::Live).unwrap()[at] ^= 0x20;
        assert!(cause(&open(damaged.clone())).is_some(), "byte {at} is refused before");
        let (after, summary) = repaired(&damaged);
        assert_eq!(summary.last, 5, "byte {at}");
        let lost: u64 = summary.lost.iter().map(|(first, last)| last - first + 1).sum();
        let hit = whole_frames(&whole[..at]) + 1;
        assert!((1..=2).contains(&lost), "byte {at}: the damaged frame, and the next if its anchor is damaged");
        assert!(summary.lost.iter().any(|(first, last)| (*first..=*last).contains(&hit)));
        let left = frames(&after);
        for frame in &bodies {
            let gone = summary.lost.iter().any(|(first, last)| (*first..=*last).contains(&frame.0));
            assert_eq!(left.contains(frame), !gone, "byte {at}");
        }
        let mut log = open(after);
        assert_eq!(log.machine.health(), Health::Open, "byte {at}: {:?}", log.notes);
        deny(&mut log, 1);
        log.run();
        assert_eq!(open(log.files).machine.health(), Health::Open);
    }
}

#[test]
fn repair_bridges_a_missing_segment_and_a_lost_end() {
    let log = sealed_log();
    let mut damaged = log.files.clone();
    let second = damaged.keys().filter(|f| matches!(f, File::Sealed(_))).nth(1).copied().unwrap();
    damaged.remove(&second);
    damaged.insert(File::SafeSeq, 230u64.to_le_bytes().to_vec());
    let (after, summary) = repaired(&damaged);
    assert_eq!(summary.lost.len(), 2);
    assert_eq!(summary.lost[1], (221, 230));
    let again = Solo::started(Wal::new(small()), after);
    assert_eq!(again.machine.health(), Health::Open, "{:?}", again.notes);
    assert_eq!(again.machine.status().unwrap().head, 230);
}

#[test]
fn repair_opens_every_log_whose_small_files_are_damaged_or_gone() {
    let log = sealed_log();
    let last = log.machine.status().unwrap().head;
    type Harm = fn(&mut Files);
    let harms: [(&str, Harm); 9] = [
        ("no safe-point", |f| drop(f.remove(&File::SafeSeq))),
        ("a safe-point of all ones", |f| drop(f.insert(File::SafeSeq, vec![0xff; 8]))),
        ("a safe-point behind the base", |f| drop(f.insert(File::SafeSeq, vec![0; 8]))),
        ("no base", |f| drop(f.remove(&File::Base))),
        ("a base with another log id", |f| flip(f, File::Base, 20)),
        ("a base with another chain", |f| {
            let at = f[&File::Base].len() - 10;
            flip(f, File::Base, at);
        }),
        ("no live file", |f| drop(f.remove(&File::Live))),
        ("an empty sealed file", |f| {
            let sealed = f.keys().filter(|f| matches!(f, File::Sealed(_))).nth(1).copied().unwrap();
            f.insert(sealed, vec![]);
        }),
        ("a damaged end of a sealed file", |f| {
            let sealed = f.keys().filter(|f| matches!(f, File::Sealed(_))).nth(1).copied().unwrap();
            let at = f[&sealed].len() - 200;
            flip(f, sealed, at);
        }),
    ];
    for (name, harm) in harms {
        let mut damaged = log.files.clone();
        harm(&mut damaged);
        let (after, summary) = repaired(&damaged);
        assert!(summary.last <= last && summary.last + 100 > last, "{name}: {summary:?}");
        let lost: u64 = summary.lost.iter().map(|(first, last)| last - first + 1).sum();
        let most = match name {
            "no live file" | "an empty sealed file" => 100,
            _ => 1,
        };
        assert!(lost <= most, "{name}: {summary:?}");
        let mut again = Solo::started(Wal::new(small()), after.clone());
        assert_eq!(again.machine.health(), Health::Open, "{name}: {:?}", again.notes);
        deny(&mut again, 1);
        again.run();
        assert!(released(&again).contains(&1), "{name}");
        frames(&again.files);
        // A second repair finds nothing to do.
        let (same, summary) = repaired(&after);
        assert_eq!((same, summary.lost.len()), (after, 0), "{name}");
    }
}

fn flip(files: &mut Files, file: File, at: usize) {
    let bytes = files.get_mut(&file).unwrap();
    bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
}

#[test]
fn tombstones_are_delivered_even_where_the_cursor_of_errors_was_further_on() {
    let log_id = crate::ids::IdSource::new(crate::machine::Entropy([1; 32])).next(crate::time::Wall::default());
    let base = Base { log_id, node_id: "n".into(), first_seq: Seq::new(3).unwrap(), prev_h: frame::genesis(&log_id) };
    let at = |error| Positions {
        log_id,
        cursors: [("error", error), ("decision", 3), ("lifecycle", 3)].map(|(class, seq)| (class.into(), seq)).into(),
        repairs: 1,
    };
    let after = |error, ranges: &[(u64, u64)]| {
        let summary = super::repair::Summary { lost: ranges.to_vec(), ..Default::default() };
        let after = summary.cursors(&base, Some(&at(error)));
        assert_eq!((after.repairs, after.cursors["decision"]), (2, 3), "a drain that rests notices the repair");
        after.cursors["error"]
    };
    assert_eq!(after(100, &[(5, 7)]), 4);
    assert_eq!(after(100, &[(5, 7), (200, 210)]), 4);
    assert_eq!(after(100, &[(200, 210), (5, 7)]), 4);
    assert_eq!(after(7, &[(5, 7)]), 4);
    assert_eq!(after(6, &[(5, 7)]), 6, "the tombstone has the last lost sequence, which is ahead");
    assert_eq!(after(100, &[]), 100);
    let none = super::repair::Summary::default().cursors(&base, None);
    assert_eq!((none.cursors["error"], none.repairs), (2, 1));
}
