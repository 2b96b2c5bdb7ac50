//! One suite for the contract of `machines::disk`, run against the simulated disk here and against the real driver by
//! the crate that holds it. Each check is a plain function over an empty disk; [`CHECKS`] lists them.
//!
//! ```text
//! for (name, check) in sim::conformance::CHECKS {
//!     let mut disk = MyDisk::over(&tempfile::tempdir()?);
//!     check(&mut disk).map_err(|why| format!("{name}: {why}"))?;
//! }
//! ```

use machines::disk::{Completion, Dir, Done, Fault, FaultKind, File, Lane, Lock, Op, Replaced, Tag, replace};
use machines::ids::{Hash32, Seq};

/// What a driver offers to the suite: an empty state root, with its folders made.
pub trait DiskUnderTest {
    /// Hands all chains in, in this order, and waits until all have completed. Gives the completions in the order in
    /// which they came, each with its tag.
    fn run_all(&mut self, chains: Vec<(Tag, Vec<Op>)>) -> Vec<(Tag, Completion)>;

    /// Cuts a file behind the driver's back, as an operator might.
    fn tamper_truncate(&mut self, file: File, len: u64);

    /// Ends the process and starts another one over the same files: the driver forgets what it had open.
    fn restart(&mut self);

    /// Turns the power off and on with everything unsynced lost. `false` when this disk cannot do that; the check
    /// then proves nothing and passes.
    fn power_cut(&mut self) -> bool;

    /// Runs one chain.
    fn run(&mut self, chain: Vec<Op>) -> Completion {
        let tag = Tag { lane: Lane::Log, id: 1 };
        let done = self.run_all(vec![(tag, chain)]);
        done.into_iter().next().map_or(Err(Fault { step: 0, kind: FaultKind::Io(0) }), |(_, completion)| completion)
    }
}

/// A check: what is wrong, in words.
pub type Check = fn(&mut dyn DiskUnderTest) -> Result<(), String>;

/// Every check with its name.
pub const CHECKS: &[(&str, Check)] = &[
    ("operations run in order", operations_run_in_order),
    ("the first failure ends a chain and is named", first_failure_ends_the_chain),
    ("each tag completes exactly once", each_tag_completes_once),
    ("a lane runs its chains in order", lanes_keep_their_order),
    ("put replaces what was there", put_replaces),
    ("append wants the length that it names", append_checks_the_length),
    ("d26 a file cut under the writer is noticed", truncation_under_the_writer_is_noticed),
    ("d26 a file cut under the writer is noticed by its sync", truncation_is_noticed_at_sync),
    ("read gives what is there and no more", read_is_bounded),
    ("read of the tail gives the end and the length", tail_is_the_end),
    ("publish overwrites eight bytes", publish_overwrites),
    ("rewrite leaves every byte as it is", rewrite_changes_nothing),
    ("truncate cuts", truncate_cuts),
    ("rename replaces, also the file that is appended to", rename_replaces),
    ("remove of a missing name is no fault", remove_is_lenient),
    ("missing files are named as missing", missing_is_not_found),
    ("the listing names the log's files with their lengths", listing_is_of_the_log),
    ("every file has a place of its own", files_do_not_collide),
    ("a restart keeps what was written", restart_keeps),
    ("what was synced survives a power cut", synced_survives),
    ("the lock is taken and given back", lock_round_trip),
];

/// Runs every check, each over a new disk from `fresh`.
///
/// # Errors
/// The name of the first check that failed, and why.
pub fn run_suite<D: DiskUnderTest>(mut fresh: impl FnMut() -> D) -> Result<(), String> {
    for (name, check) in CHECKS {
        check(&mut fresh()).map_err(|why| format!("{name}: {why}"))?;
    }
    Ok(())
}

fn want<T: PartialEq + std::fmt::Debug>(what: &str, got: &T, wanted: &T) -> Result<(), String> {
    if got == wanted { Ok(()) } else { Err(format!("{what}: got {got:?}, wanted {wanted:?}")) }
}

fn put(file: File, bytes: &[u8]) -> Op {
    Op::Put { file, bytes: bytes.to_vec() }
}

fn append(at: u64, bytes: &[u8]) -> Op {
    Op::Append { file: File::Live, at, bytes: bytes.to_vec() }
}

fn read_all(disk: &mut dyn DiskUnderTest, file: File) -> Result<Vec<u8>, String> {
    match disk.run(vec![Op::Read { file, at: 0, len: 1 << 20 }]) {
        Ok(Done::Bytes(bytes)) => Ok(bytes),
        other => Err(format!("reading {}: {other:?}", file.name())),
    }
}

fn nothing(disk: &mut dyn DiskUnderTest, chain: Vec<Op>) -> Result<(), String> {
    want("completion", &disk.run(chain), &Ok(Done::Nothing))
}

fn operations_run_in_order(disk: &mut dyn DiskUnderTest) -> Result<(), String> {
    let read = Op::Read { file: File::Live, at: 0, len: 100 };
    let got = disk.run(vec![put(File::Live, b"ab"), append(2, b"cd"), Op::Sync(File::Live), append(4, b"ef"), read]);
    want("bytes", &got, &Ok(Done::Bytes(b"abcdef".to_vec())))
}

fn first_failure_ends_the_chain(disk: &mut dyn DiskUnderTest) -> Result<(), String> {
    nothing(disk, vec![put(File::Live, b"ab")])?;
    let got = disk.run(vec![append(2, b"c"), append(9, b"d"), append(3, b"e")]);
    want("completion", &got, &Err(Fault { step: 1, kind: FaultKind::Changed }))?;
    want("bytes", &read_all(disk, File::Live)?, &b"abc".to_vec())
}

fn each_tag_completes_once(disk: &mut dyn DiskUnderTest) -> Result<(), String> {
    let mut chains = Vec::new();
    for id in 0..60 {
        for lane in [Lane::Log, Lane::Keeping, Lane::Policy] {
            let file = match lane {
                Lane::Log | Lane::Drain => File::Live,
                Lane::Keeping | Lane::Cursors => File::Positions,
                Lane::Policy | Lane::Marker => File::Activation,
            };
            let chain = if id % 3 == 2 { vec![Op::Sync(File::Base)] } else { vec![put(file, b"x"), Op::Sync(file)] };
            chains.push((Tag { lane, id }, chain));
        }
    }
    let mut given: Vec<Tag> = chains.iter().map(|chain| chain.0).collect();
    let mut got: Vec<Tag> = disk.run_all(chains).into_iter().map(|done| done.0).collect();
    given.sort_unstable();
    got.sort_unstable();
    want("tags", &got, &given)
}

fn lanes_keep_their_order(disk: &mut dyn DiskUnderTest) -> Result<(), String> {
    let mut chains = vec![(Tag { lane: Lane::Log, id: 0 }, vec![put(File::Live, b"")])];
    for id in 0..40u8 {
        let tag = |lane| Tag { lane, id: u32::from(id) + 1 };
        chains.push((tag(Lane::Log), vec![append(u64::from(id), &[id]), Op::Sync(File::Live)]));
        chains.push((tag(Lane::Keeping), vec![put(File::Positions, &[id])]));
    }
    let done = disk.run_all(chains);
    for lane in [Lane::Log, Lane::Keeping] {
        let ids: Vec<u32> = done.iter().filter(|d| d.0.lane == lane).map(|d| d.0.id).collect();
        if !ids.is_sorted() {
            return Err(format!("{lane:?} completed out of order: {ids:?}"));
        }
    }
    want("live", &read_all(disk, File::Live)?, &(0..40u8).collect::<Vec<u8>>())?;
    want("positions", &read_all(disk, File::Positions)?, &vec![39u8])
}

fn put_replaces(disk: &mut dyn DiskUnderTest) -> Result<(), String> {
    nothing(disk, vec![put(File::Base, b"a longer text"), put(File::Base, b"short")])?;
    want("bytes", &read_all(disk, File::Base)?, &b"short".to_vec())
}

fn append_checks_the_length(disk: &mut dyn DiskUnderTest) -> Result<(), String> {
    nothing(disk, vec![put(File::Live, b"abc")])?;
    for wrong in [0, 2, 4] {
        let got = disk.run(vec![append(wrong, b"x")]);
        want("completion", &got, &Err(Fault { step: 0, kind: FaultKind::Changed }))?;
    }
    nothing(disk, vec![append(3, b"d")])?;
    want("bytes", &read_all(disk, File::Live)?, &b"abcd".to_vec())
}

fn truncation_under_the_writer_is_noticed(disk: &mut dyn DiskUnderTest) -> Result<(), String> {
    nothing(disk, vec![put(File::Live, b""), append(0, b"abcd"), Op::Sync(File::Live)])?;
    disk.tamper_truncate(File::Live, 2);
    want("completion", &disk.run(vec![append(4, b"ef")]), &Err(Fault { step: 0, kind: FaultKind::Changed }))
}

fn truncation_is_noticed_at_sync(disk: &mut dyn DiskUnderTest) -> Result<(), String> {
    nothing(disk, vec![put(File::Live, b""), append(0, b"abcd"), Op::Sync(File::Live)])?;
    disk.tamper_truncate(File::Live, 0);
    // The next append of the lane says so before anything is answered from it.
    let got = disk.run(vec![append(4, b"ef"), Op::Sync(File::Live)]);
    want("completion", &got, &Err(Fault { step: 0, kind: FaultKind::Changed }))?;
    want("bytes", &read_all(disk, File::Live)?, &Vec::new())
}

fn read_is_bounded(disk: &mut dyn DiskUnderTest) -> Result<(), String> {
    nothing(disk, vec![put(File::Live, b"abcdef")])?;
    for (at, len, bytes) in [(0, 3, &b"abc"[..]), (4, 9, b"ef"), (6, 9, b""), (90, 9, b""), (2, 0, b"")] {
        let got = disk.run(vec![Op::Read { file: File::Live, at, len }]);
        want("bytes", &got, &Ok(Done::Bytes(bytes.to_vec())))?;
    }
    Ok(())
}

fn tail_is_the_end(disk: &mut dyn DiskUnderTest) -> Result<(), String> {
    nothing(disk, vec![put(File::History, b"abcdef")])?;
    for (len, bytes) in [(2, &b"ef"[..]), (6, b"abcdef"), (60, b"abcdef"), (0, b"")] {
        let got = disk.run(vec![Op::ReadTail { file: File::History, len }]);
        want("tail", &got, &Ok(Done::Tail { total: 6, bytes: bytes.to_vec() }))?;
    }
    Ok(())
}

fn publish_overwrites(disk: &mut dyn DiskUnderTest) -> Result<(), String> {
    let seq = Seq::new(0x0102_0304_0506_0708).ok_or("a sequence")?;
    nothing(disk, vec![put(File::SafeSeq, &[9; 8]), Op::Publish(seq), Op::Sync(File::SafeSeq)])?;
    want("bytes", &read_all(disk, File::SafeSeq)?, &vec![8, 7, 6, 5, 4, 3, 2, 1])
}

fn rewrite_changes_nothing(disk: &mut dyn DiskUnderTest) -> Result<(), String> {
    nothing(disk, vec![put(File::Live, b"abcdef"), Op::Sync(File::Live)])?;
    for (from, to) in [(2, 5), (0, 6), (6, 6), (0, 1)] {
        nothing(disk, vec![Op::Rewrite { file: File::Live, from, to }, Op::Sync(File::Live)])?;
    }
    want("bytes", &read_all(disk, File::Live)?, &b"abcdef".to_vec())?;
    nothing(disk, vec![append(6, b"g")])?;
    want("bytes", &read_all(disk, File::Live)?, &b"abcdefg".to_vec())
}

fn truncate_cuts(disk: &mut dyn DiskUnderTest) -> Result<(), String> {
    nothing(disk, vec![put(File::Live, b"abcdef"), Op::Truncate { file: File::Live, len: 4 }, append(4, b"x")])?;
    want("bytes", &read_all(disk, File::Live)?, &b"abcdx".to_vec())
}

fn rename_replaces(disk: &mut dyn DiskUnderTest) -> Result<(), String> {
    let sealed = File::Sealed(Seq::FIRST);
    nothing(disk, vec![put(File::Live, b"one"), append(3, b"!"), Op::Sync(File::Live)])?;
    nothing(
        disk,
        vec![
            Op::Rename { from: File::Live, to: sealed },
            put(File::Live, b""),
            Op::SyncDir(Dir::Telemetry),
            append(0, b"two"),
            Op::Sync(File::Live),
        ],
    )?;
    want("sealed", &read_all(disk, sealed)?, &b"one!".to_vec())?;
    want("live", &read_all(disk, File::Live)?, &b"two".to_vec())?;
    nothing(disk, replace(Replaced::Base, b"first".to_vec()))?;
    nothing(disk, replace(Replaced::Base, b"second".to_vec()))?;
    want("base", &read_all(disk, File::Base)?, &b"second".to_vec())?;
    let temp = disk.run(vec![Op::Read { file: File::Temp(Replaced::Base), at: 0, len: 9 }]);
    want("temporary file", &temp, &Err(Fault { step: 0, kind: FaultKind::NotFound }))
}

fn remove_is_lenient(disk: &mut dyn DiskUnderTest) -> Result<(), String> {
    nothing(disk, vec![Op::Remove(File::Positions)])?;
    nothing(disk, vec![put(File::Positions, b"x"), Op::Remove(File::Positions), Op::SyncDir(Dir::Telemetry)])?;
    let got = disk.run(vec![Op::Read { file: File::Positions, at: 0, len: 1 }]);
    want("completion", &got, &Err(Fault { step: 0, kind: FaultKind::NotFound }))
}

fn missing_is_not_found(disk: &mut dyn DiskUnderTest) -> Result<(), String> {
    let not_found = Err(Fault { step: 0, kind: FaultKind::NotFound });
    for op in [
        Op::Read { file: File::Activation, at: 0, len: 1 },
        Op::ReadTail { file: File::History, len: 1 },
        append(0, b"x"),
        Op::Truncate { file: File::Live, len: 0 },
        Op::Rewrite { file: File::Live, from: 0, to: 0 },
        Op::Sync(File::Live),
        Op::Publish(Seq::FIRST),
        Op::Rename { from: File::Live, to: File::Sealed(Seq::FIRST) },
    ] {
        let words = format!("{op:?}");
        want(&words, &disk.run(vec![op]), &not_found)?;
    }
    Ok(())
}

fn listing_is_of_the_log(disk: &mut dyn DiskUnderTest) -> Result<(), String> {
    let sealed = File::Sealed(Seq::new(12).ok_or("a sequence")?);
    nothing(
        disk,
        vec![
            put(File::Live, b"abc"),
            put(sealed, b"abcd"),
            put(File::SafeSeq, &[0; 8]),
            put(File::Base, b"b"),
            put(File::Positions, b""),
            put(File::Temp(Replaced::Base), b"not of the log"),
            put(File::Activation, b"elsewhere"),
        ],
    )?;
    let Ok(Done::Listing(mut found)) = disk.run(vec![Op::List]) else { return Err("no listing".into()) };
    found.sort_unstable();
    let mut wanted = vec![(File::Live, 3), (sealed, 4), (File::SafeSeq, 8), (File::Base, 1), (File::Positions, 0)];
    wanted.sort_unstable();
    want("listing", &found, &wanted)
}

fn files_do_not_collide(disk: &mut dyn DiskUnderTest) -> Result<(), String> {
    let files = [
        File::Live,
        File::Sealed(Seq::FIRST),
        File::SafeSeq,
        File::Base,
        File::Positions,
        File::Activation,
        File::History,
        File::Bundle(Hash32([1; 32])),
        File::Bundle(Hash32([2; 32])),
        File::Temp(Replaced::Base),
        File::Temp(Replaced::SafeSeq),
        File::Temp(Replaced::Activation),
        File::Temp(Replaced::Bundle(Hash32([1; 32]))),
    ];
    for (n, file) in (0u8..).zip(files) {
        nothing(disk, vec![put(file, &[n])])?;
    }
    for (n, file) in (0u8..).zip(files) {
        want(&file.name(), &read_all(disk, file)?, &vec![n])?;
    }
    Ok(())
}

fn restart_keeps(disk: &mut dyn DiskUnderTest) -> Result<(), String> {
    nothing(disk, vec![put(File::Live, b"abc"), append(3, b"def")])?;
    disk.restart();
    want("bytes", &read_all(disk, File::Live)?, &b"abcdef".to_vec())?;
    nothing(disk, vec![append(6, b"g")])
}

fn synced_survives(disk: &mut dyn DiskUnderTest) -> Result<(), String> {
    nothing(disk, vec![put(File::Live, b""), Op::SyncDir(Dir::Telemetry), append(0, b"abc"), Op::Sync(File::Live)])?;
    nothing(disk, vec![append(3, b"def")])?;
    nothing(disk, replace(Replaced::Activation, b"{}".to_vec()))?;
    if !disk.power_cut() {
        return Ok(());
    }
    want("live", &read_all(disk, File::Live)?, &b"abc".to_vec())?;
    want("activation", &read_all(disk, File::Activation)?, &b"{}".to_vec())
}

fn lock_round_trip(disk: &mut dyn DiskUnderTest) -> Result<(), String> {
    for _ in 0..2 {
        nothing(disk, vec![Op::Lock(Lock::Activation), put(File::Activation, b"1"), Op::Unlock(Lock::Activation)])?;
    }
    nothing(disk, vec![Op::Lock(Lock::Activation)])?;
    disk.restart();
    nothing(disk, vec![Op::Lock(Lock::Activation), Op::Unlock(Lock::Activation)])
}
