//! What a power loss may and may not do.

use super::*;
use machines::disk::{Replaced, replace};
use machines::ids::Seq;

fn fresh(seed: u64) -> Disk {
    let mut disk = Disk::default();
    disk.reset(seed);
    disk
}

fn run(disk: &mut Disk, ops: &[Op]) {
    for op in ops {
        disk.apply(op).unwrap();
    }
}

fn append(at: u64, bytes: &[u8]) -> Op {
    Op::Append { file: File::Live, at, bytes: bytes.to_vec() }
}

fn live(disk: &mut Disk, bytes: &[u8]) {
    run(
        disk,
        &[Op::Put { file: File::Live, bytes: bytes.to_vec() }, Op::Sync(File::Live), Op::SyncDir(Dir::Telemetry)],
    );
}

/// D01, D10: whatever the seed, what was synced is there, and what was not is kept, dropped, mixed, torn and garbage.
#[test]
fn d10_a_power_loss_keeps_what_was_synced_and_mixes_the_rest() {
    let old = vec![1u8; 5_000];
    let new = vec![2u8; 9_000];
    let (mut kept, mut dropped, mut mixed, mut noise, mut shorter) = (0, 0, 0, 0, 0);
    for seed in 0..400 {
        let mut disk = fresh(seed);
        live(&mut disk, &old);
        run(&mut disk, &[append(5_000, &new)]);
        disk.power_loss(Survival::Mix);
        let bytes = disk.read(File::Live).unwrap();
        assert_eq!(&bytes[..5_000], old.as_slice(), "seed {seed}: durable bytes changed");
        let tail = &bytes[5_000..];
        let twos = tail.iter().filter(|b| **b == 2).count();
        shorter += usize::from(tail.len() < 9_000 && !tail.is_empty());
        noise += usize::from(tail.iter().any(|b| *b != 0 && *b != 2));
        match twos {
            9_000 => kept += 1,
            0 => dropped += 1,
            _ => mixed += 1,
        }
    }
    for (what, n) in [("kept", kept), ("dropped", dropped), ("mixed", mixed), ("noise", noise), ("shorter", shorter)] {
        assert!(n > 5, "{what}: {n} of 400");
    }
}

/// A sector that was durable is old or new after a power loss, never anything else.
#[test]
fn d16_the_safe_point_is_old_or_new_never_torn() {
    let (mut old, mut new) = (0, 0);
    for seed in 0..200 {
        let mut disk = fresh(seed);
        run(&mut disk, &replace(Replaced::SafeSeq, 7u64.to_le_bytes().to_vec()));
        run(&mut disk, &[Op::Publish(Seq::new(0x0102_0304_0506).unwrap())]);
        disk.power_loss(Survival::Mix);
        match u64::from_le_bytes(disk.read(File::SafeSeq).unwrap().try_into().unwrap()) {
            7 => old += 1,
            0x0102_0304_0506 => new += 1,
            torn => panic!("seed {seed}: {torn:x}"),
        }
    }
    assert!(old > 20 && new > 20, "{old} old, {new} new");
}

/// D05: after a failed sync the pages are clean and not on the medium; a later sync that succeeds does not help.
#[test]
fn d05_a_failed_sync_loses_pages_that_a_later_sync_does_not_bring_back() {
    let mut lost = 0;
    for seed in 0..100 {
        let mut disk = fresh(seed);
        live(&mut disk, b"old");
        run(&mut disk, &[append(3, &[2; 600])]);
        disk.sync_fails(File::Live, seed);
        assert_eq!(disk.read(File::Live).unwrap().len(), 603, "the page cache still shows it");
        run(&mut disk, &[Op::Sync(File::Live)]);
        disk.power_loss(Survival::Everything);
        lost += usize::from(disk.read(File::Live).unwrap().get(3..603) != Some(&[2; 600]));
    }
    assert!((20..80).contains(&lost), "{lost} of 100");
}

/// D18: a file whose folder was not synced may be gone; a prefix of what was done to the folder survives.
#[test]
fn d18_names_survive_as_a_prefix_or_as_a_subset_that_respects_names() {
    let (mut none, mut all, mut some) = (0, 0, 0);
    for (seed, how) in (0..200).flat_map(|seed| [(seed, Survival::Mix), (seed, Survival::MixSubset)]) {
        let mut disk = fresh(seed);
        live(&mut disk, b"log");
        let sealed = File::Sealed(Seq::FIRST);
        run(&mut disk, &[Op::Rename { from: File::Live, to: sealed }, Op::Put { file: File::Live, bytes: Vec::new() }]);
        disk.power_loss(how);
        match (disk.read(File::Live).is_some(), disk.read(sealed).is_some()) {
            (true, false) => none += 1,
            (true, true) => all += 1,
            (false, true) => some += 1,
            (false, false) => panic!("seed {seed}: a rename lost the file"),
        }
        assert_eq!(disk.read(if disk.read(sealed).is_some() { sealed } else { File::Live }), Some(&b"log"[..]));
    }
    assert!(none > 20 && all > 20 && some > 20, "{none} {all} {some}");
}

#[test]
fn strict_power_loss_keeps_nothing_unsynced_and_a_process_crash_everything() {
    let mut disk = fresh(1);
    live(&mut disk, b"a");
    run(&mut disk, &[append(1, b"b")]);
    assert_eq!(disk.read(File::Live), Some(&b"ab"[..]));
    assert!(!disk.is_settled());
    disk.power_loss(Survival::Nothing);
    assert_eq!(disk.read(File::Live), Some(&b"a"[..]));
    assert!(disk.is_settled());
}

#[test]
fn rot_is_sticky_and_hidden_by_the_page_cache_until_a_power_loss() {
    let mut disk = fresh(1);
    live(&mut disk, &[0; 64]);
    let at = disk.rot(File::Live, 12_345, false).unwrap();
    assert_eq!(disk.read(File::Live), Some(&[0u8; 64][..]));
    run(&mut disk, &[Op::Sync(File::Live)]);
    disk.power_loss(Survival::Everything);
    for _ in 0..2 {
        assert_eq!(disk.read(File::Live).unwrap()[at].count_ones(), 1);
    }
}
