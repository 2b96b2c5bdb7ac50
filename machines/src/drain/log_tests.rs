//! The drain and a log that changes, rots or is not there, and receivers that reject.

use std::format;
use std::string::ToString;
use std::vec;
use std::vec::Vec;

use super::batch::{Class, PerClass, event_id};
use super::tests::*;
use super::*;
use crate::ids::{IdSource, Seq};
use crate::machine::Entropy;
use crate::net::{Answer, Body, Fault, Got};
use crate::solo::{Files, Solo};
use crate::time::Wall;
use crate::wal::files::{Base, Positions};
use crate::wal::frame::{Frame, Kind};

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
    // A read that was under way when the write failed holds nothing up.
    let positions = rig.files[&File::Positions].clone();
    rig.files = folder(&[D, D, E]);
    rig.files.insert(File::Positions, positions);
    rig.wake();
    assert_eq!(accept_all(&mut rig), [(Class::Error, vec![3])]);
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
