//! The disk as the machines see it, and the contract of every driver.
//!
//! A machine names files by what they are, never by a path, and asks for chains of operations. The contract,
//! checked by one conformance suite against the simulated and the real disk:
//!
//! - The operations of a chain run in order; the first that fails ends the chain, and the completion names
//!   it. Nothing after it was tried.
//! - The chains of one lane run in the order emitted, one after another. Lanes run side by side.
//! - Each tag completes exactly once, with the result of the chain's last operation.
//! - A successful `Sync(file)` makes durable what earlier completed operations wrote to that file. Creations,
//!   renames and removals are durable after `SyncDir`.
//! - A failed write or sync is never issued again by the driver, and short writes are continued, not reported.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use crate::ids::{Hash32, Seq};

/// Chains of one lane run one after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// The log's appends: what an answer waits for.
    Log,
    /// The log's housekeeping, outside the path of an answer.
    Keeping,
    /// Policy and activation files.
    Policy,
    /// What the drain reads.
    Drain,
    /// What the drain writes: cursors and rejected records.
    Cursors,
    /// What the runtime reads of this boot's precheck: short reads, which may wait behind those of `Keeping`.
    Marker,
}

/// Names a chain: its lane and a number that the emitting machine chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag {
    /// The lane in which the chain runs.
    pub lane: Lane,
    /// The machine's own number.
    pub id: u32,
}

/// A folder beneath the state root (SPEC 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dir {
    /// The folder that holds `activation.json`: the state root.
    State,
    /// `telemetry/`.
    Telemetry,
    /// `policy/`.
    Policy,
    /// `policy/bundles/`.
    Bundles,
    /// `telemetry/rejected/`.
    Rejected,
    /// `policy/locks/`.
    Locks,
    /// `policy/verified/`.
    Verified,
    /// `bootstrap/`, which is `edged`'s: looked for anew each time, never made here.
    Bootstrap,
}

/// Every file that a machine touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum File {
    /// `telemetry.wal`, the live segment.
    Live,
    /// `telemetry-<first seq, 20 digits>.wal`, a sealed segment.
    Sealed(Seq),
    /// `telemetry.safe_seq`.
    SafeSeq,
    /// `telemetry.base`.
    Base,
    /// `telemetry.pos`.
    Positions,
    /// `rejected/<seq>.json`: what a receiver did not take.
    Rejected(Seq),
    /// `activation.json`.
    Activation,
    /// `policy/history.jsonl`.
    History,
    /// `policy/bundles/<sha256>.tar.gz`.
    Bundle(Hash32),
    /// `policy/locks/<fingerprint>.json`: a lock as it was verified.
    Lock(Hash32),
    /// `policy/verified/<sha256 of a bundle>.json`: the lock with which a bundle passed the four steps on this node.
    Verified(Hash32),
    /// `telemetry/active-lock.json`: a copy of the lock in force, for people.
    ActiveLock,
    /// `bootstrap/precheck.json`: how this boot's precheck ended. Only read here.
    Precheck,
    /// The temporary file beside a file that is being replaced.
    Temp(Replaced),
}

/// Files that are replaced as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Replaced {
    /// `telemetry.base`.
    Base,
    /// `telemetry.safe_seq`, only when it is created.
    SafeSeq,
    /// `telemetry.pos`.
    Positions,
    /// A rejected record.
    Rejected(Seq),
    /// `activation.json`.
    Activation,
    /// A policy bundle.
    Bundle(Hash32),
    /// A lock.
    Lock(Hash32),
    /// A bundle's record.
    Verified(Hash32),
    /// `active-lock.json`.
    ActiveLock,
}

impl Replaced {
    /// The file itself.
    #[must_use]
    pub const fn file(self) -> File {
        match self {
            Self::Base => File::Base,
            Self::SafeSeq => File::SafeSeq,
            Self::Positions => File::Positions,
            Self::Rejected(seq) => File::Rejected(seq),
            Self::Activation => File::Activation,
            Self::Bundle(digest) => File::Bundle(digest),
            Self::Lock(fingerprint) => File::Lock(fingerprint),
            Self::Verified(digest) => File::Verified(digest),
            Self::ActiveLock => File::ActiveLock,
        }
    }
}

impl File {
    /// The folder that the file lies in.
    #[must_use]
    pub const fn dir(self) -> Dir {
        match self {
            Self::Live | Self::Sealed(_) | Self::SafeSeq | Self::Base | Self::Positions | Self::ActiveLock => {
                Dir::Telemetry
            }
            Self::Activation => Dir::State,
            Self::History => Dir::Policy,
            Self::Bundle(_) => Dir::Bundles,
            Self::Rejected(_) => Dir::Rejected,
            Self::Lock(_) => Dir::Locks,
            Self::Verified(_) => Dir::Verified,
            Self::Precheck => Dir::Bootstrap,
            Self::Temp(of) => of.file().dir(),
        }
    }

    /// The file's name within its folder.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Live => "telemetry.wal".into(),
            Self::Sealed(first) => alloc::format!("telemetry-{:020}.wal", first.get()),
            Self::SafeSeq => "telemetry.safe_seq".into(),
            Self::Base => "telemetry.base".into(),
            Self::Positions => "telemetry.pos".into(),
            Self::Rejected(seq) => alloc::format!("{}.json", seq.get()),
            Self::Activation => "activation.json".into(),
            Self::History => "history.jsonl".into(),
            Self::Bundle(digest) => alloc::format!("{digest}.tar.gz"),
            Self::Lock(hash) | Self::Verified(hash) => alloc::format!("{hash}.json"),
            Self::ActiveLock => "active-lock.json".into(),
            Self::Precheck => "precheck.json".into(),
            Self::Temp(of) => alloc::format!(".{}.tmp", of.file().name()),
        }
    }

    /// The first sequence of a sealed segment; `None` for any other file.
    #[must_use]
    pub const fn sealed_first(self) -> Option<Seq> {
        match self {
            Self::Sealed(first) => Some(first),
            Self::Live
            | Self::SafeSeq
            | Self::Base
            | Self::Positions
            | Self::Rejected(_)
            | Self::Activation
            | Self::History
            | Self::Bundle(_)
            | Self::Lock(_)
            | Self::Verified(_)
            | Self::ActiveLock
            | Self::Precheck
            | Self::Temp(_) => None,
        }
    }

    /// The log file that a name in the telemetry folder stands for; `None` for a name that is not ours.
    #[must_use]
    pub fn of_log(name: &str) -> Option<Self> {
        match name {
            "telemetry.wal" => Some(Self::Live),
            "telemetry.safe_seq" => Some(Self::SafeSeq),
            "telemetry.base" => Some(Self::Base),
            "telemetry.pos" => Some(Self::Positions),
            other => {
                let digits = other.strip_prefix("telemetry-")?.strip_suffix(".wal")?;
                if digits.len() != 20 || !digits.bytes().all(|b| b.is_ascii_digit()) {
                    return None;
                }
                Some(Self::Sealed(Seq::new(digits.parse().ok()?)?))
            }
        }
    }
}

/// One operation on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Names and lengths of the log files in the telemetry folder; ends a chain.
    List,
    /// Up to `len` bytes from `at`, fewer only at the end of the file; ends a chain.
    Read {
        /// The file.
        file: File,
        /// Offset in bytes.
        at: u64,
        /// How many bytes at most.
        len: u32,
    },
    /// The last `len` bytes of a file, or all of a shorter one, with its length; ends a chain.
    ReadTail {
        /// The file.
        file: File,
        /// How many bytes at most.
        len: u32,
    },
    /// Creates the file or empties it, and writes these bytes from its start.
    Put {
        /// The file.
        file: File,
        /// Its whole content.
        bytes: Vec<u8>,
    },
    /// Appends to a file that exists and whose length is `at`; anything else is a fault (FAULTS D26).
    Append {
        /// The file.
        file: File,
        /// Its length before.
        at: u64,
        /// What is added.
        bytes: Vec<u8>,
    },
    /// Writes the bytes from `from` up to `to` again as they are, so that the next sync covers them: a sync that failed
    /// in an earlier life may have left them in the cache, clean and not on the device.
    Rewrite {
        /// The file.
        file: File,
        /// The first offset.
        from: u64,
        /// The offset behind the last.
        to: u64,
    },
    /// Overwrites the 8 bytes of `telemetry.safe_seq` by one aligned write.
    Publish(Seq),
    /// Cuts a file to `len` bytes.
    Truncate {
        /// The file.
        file: File,
        /// Its length after.
        len: u64,
    },
    /// Makes a file's content and length durable (`fdatasync`).
    Sync(File),
    /// Renames within one folder, replacing what is there.
    Rename {
        /// The name before.
        from: File,
        /// The name after.
        to: File,
    },
    /// Removes a name; a name that is not there is no fault.
    Remove(File),
    /// Makes a folder's creations, renames and removals durable.
    SyncDir(Dir),
    /// Makes a folder beneath another one of ours, if it is not there, and makes that durable.
    MakeDir(Dir),
    /// Takes a lock between processes.
    Lock(Lock),
    /// Gives a lock back; a crash gives it back too.
    Unlock(Lock),
}

/// A lock between processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lock {
    /// Who changes `activation.json`. Taking it waits for it.
    Activation,
    /// Who drains the log. Taking it fails with [`FaultKind::Held`] when another has it.
    Drain,
}

/// The one way to replace a file as a whole: temporary file beside it, write, sync, rename, sync of the folder.
#[must_use]
pub fn replace(what: Replaced, bytes: Vec<u8>) -> Vec<Op> {
    let temp = File::Temp(what);
    let file = what.file();
    vec![Op::Put { file: temp, bytes }, Op::Sync(temp), Op::Rename { from: temp, to: file }, Op::SyncDir(file.dir())]
}

/// The result of a chain.
pub type Completion = Result<Done, Fault>;

/// What the last operation of a chain gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// It was done.
    Nothing,
    /// The bytes that were read.
    Bytes(Vec<u8>),
    /// The last bytes of a file and the file's length.
    Tail {
        /// The file's length in bytes.
        total: u64,
        /// Its last bytes.
        bytes: Vec<u8>,
    },
    /// The log files that are there, with their lengths in bytes.
    Listing(Vec<(File, u64)>),
}

/// Why a chain ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Which operation of the chain failed, from 0.
    pub step: usize,
    /// How it failed.
    pub kind: FaultKind,
}

/// How an operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// There is no such file.
    NotFound,
    /// No space left, or a quota.
    NoSpace,
    /// The file is not what it was: its length or identity changed under the writer.
    Changed,
    /// Somebody else holds the lock.
    Held,
    /// This process may not.
    Denied,
    /// A link on the way, or something that is no regular file or no folder where one has to be.
    Refused,
    /// More than was asked for at most.
    TooLarge,
    /// Any other error of the device or the file system, with its `errno` where known, else 0.
    Io(i32),
}

impl core::fmt::Display for FaultKind {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::NotFound => f.write_str("no such file"),
            Self::NoSpace => f.write_str("no space left on device"),
            Self::Refused => f.write_str("a link, or not the kind of file that has to be there"),
            Self::TooLarge => f.write_str("larger than the limit"),
            Self::Denied => f.write_str("permission denied"),
            Self::Held => f.write_str("held by somebody else"),
            Self::Changed => f.write_str("the file was changed by somebody else"),
            Self::Io(errno) => write!(f, "input/output error (errno {errno})"),
        }
    }
}
