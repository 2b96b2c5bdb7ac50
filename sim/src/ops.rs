//! Operations by kind, for faults, and in words, for readers.

use machines::disk::{File, Op};

use crate::plan::{FileKind, OpKind};

/// The kind of an operation and of its file, for faults; `None` for what cannot fail.
pub(crate) fn classify(op: &Op) -> (Option<OpKind>, FileKind) {
    let of = |file: &File| match file {
        File::Live => FileKind::Live,
        File::Sealed(_) => FileKind::Sealed,
        File::SafeSeq => FileKind::SafeSeq,
        File::Base => FileKind::Base,
        File::Positions => FileKind::Positions,
        File::Activation => FileKind::Activation,
        File::History => FileKind::History,
        File::Bundle(_) => FileKind::Bundle,
        File::Rejected(_) => FileKind::Rejected,
        File::Lock(_) | File::Verified(_) => FileKind::Lock,
        File::ActiveLock => FileKind::ActiveLock,
        File::Precheck => FileKind::Marker,
        File::Temp(_) => FileKind::Temp,
    };
    match op {
        Op::List => (Some(OpKind::List), FileKind::Any),
        Op::Read { file, .. } | Op::ReadTail { file, .. } => (Some(OpKind::Read), of(file)),
        Op::Put { file, .. } => (Some(OpKind::Put), of(file)),
        Op::Append { file, .. } | Op::Rewrite { file, .. } => (Some(OpKind::Append), of(file)),
        Op::Publish(_) => (Some(OpKind::Publish), FileKind::SafeSeq),
        Op::Truncate { file, .. } => (Some(OpKind::Truncate), of(file)),
        Op::Sync(file) => (Some(OpKind::Sync), of(file)),
        Op::Rename { to, .. } => (Some(OpKind::Rename), of(to)),
        Op::Remove(file) => (Some(OpKind::Remove), of(file)),
        Op::SyncDir(_) => (Some(OpKind::SyncDir), FileKind::Any),
        Op::MakeDir(_) => (Some(OpKind::SyncDir), FileKind::Any),
        Op::Lock(_) | Op::Unlock(_) => (None, FileKind::Any),
    }
}

/// A chain in a few words.
pub(crate) fn words(ops: &[Op]) -> String {
    let one = |op: &Op| match op {
        Op::List => "list".to_owned(),
        Op::Read { file, at, len } => format!("read {}@{at}+{len}", file.name()),
        Op::ReadTail { file, len } => format!("tail {} {len}", file.name()),
        Op::Put { file, bytes } => format!("put {} {}b", file.name(), bytes.len()),
        Op::Append { file, at, bytes } => format!("append {}@{at} {}b", file.name(), bytes.len()),
        Op::Rewrite { file, from, to } => format!("rewrite {} {from}..{to}", file.name()),
        Op::Publish(seq) => format!("publish {}", seq.get()),
        Op::Truncate { file, len } => format!("truncate {} {len}", file.name()),
        Op::Sync(file) => format!("sync {}", file.name()),
        Op::Rename { from, to } => format!("rename {} {}", from.name(), to.name()),
        Op::Remove(file) => format!("remove {}", file.name()),
        Op::SyncDir(dir) => format!("syncdir {dir:?}"),
        Op::MakeDir(dir) => format!("mkdir {dir:?}"),
        Op::Lock(which) => format!("lock {which:?}"),
        Op::Unlock(which) => format!("unlock {which:?}"),
    };
    ops.iter().map(one).collect::<Vec<_>>().join(", ")
}
