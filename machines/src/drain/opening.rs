//! Taking the drain's lock and reading what has to be known before the first frame.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use crate::disk::{Completion, Done, Fault, FaultKind, File, Lock, Op, Tag};
use crate::ids::{Hash32, Seq};
use crate::wal::files::{Base, Positions, parse_safe_seq};
use crate::wal::frame::genesis;
use crate::wal::scan::{Link, prev_behind};

use super::batch::{Class, PerClass};
use super::files::Files;
use super::index::Index;
use super::session::{At, Session};
use super::unreadable;

/// Bytes asked for of the small files.
const SMALL: u32 = 4096;
/// Bytes at the end of a segment in which the hash of its last frame is found, a tombstone's bridge included.
const TAIL: u32 = 1024;
/// How often the folder is looked at again when what was read does not fit together: the writer removed files meanwhile.
const TRIES: u32 = 5;

/// What is known so far.
#[derive(Debug)]
pub struct Opening {
    tag: Tag,
    stage: Stage,
    tries: u32,
    base: Option<Base>,
    at: At,
    safe: u64,
    files: Files,
}

#[derive(Debug)]
enum Stage {
    Base,
    Positions,
    Safe,
    List,
    /// The hash before this segment.
    Before(Seq),
}

/// What comes next.
#[derive(Debug)]
pub enum Went {
    /// Read this, under the tag that was given.
    On(Vec<Op>),
    /// The log is open.
    Open(Box<Session>),
    /// Another drain has the lock.
    Held,
    /// It may be opened in a moment; why it cannot be now.
    TooEarly(String),
    /// It cannot be opened.
    Wrong(String),
}

impl Opening {
    /// The first chain, under this tag.
    pub fn begin(tag: Tag) -> (Self, Vec<Op>) {
        let opening =
            Self { tag, stage: Stage::Base, tries: 0, base: None, at: At::default(), safe: 0, files: Files::default() };
        (opening, vec![Op::Lock(Lock::Drain), read(File::Base)])
    }

    /// Whether this completion is waited for.
    pub fn awaits(&self, tag: Tag) -> bool {
        self.tag == tag
    }

    /// Takes a completion; what it asks for next goes under the tag `next`.
    pub fn on_disk(&mut self, next: Tag, completion: Completion) -> Went {
        self.tag = next;
        match self.stage {
            Stage::Base => self.on_base(completion),
            Stage::Positions => self.on_positions(completion),
            Stage::Safe => match bytes(completion) {
                Ok(bytes) => match parse_safe_seq(&bytes) {
                    Some(safe) => {
                        self.safe = safe;
                        self.stage = Stage::List;
                        Went::On(vec![Op::List])
                    }
                    None => Went::Wrong("telemetry.safe_seq is not 8 bytes; look with `autonomy wal verify`".into()),
                },
                Err(kind) => Went::Wrong(unreadable(File::SafeSeq, kind)),
            },
            Stage::List => match completion {
                Ok(Done::Listing(listing)) => {
                    self.files = Files::of(&listing);
                    self.find_start()
                }
                Ok(Done::Nothing | Done::Bytes(_) | Done::Tail { .. }) => {
                    panic!("drain: a listing completed with something else")
                }
                Err(fault) => Went::Wrong(format!("cannot list the log folder: {}", fault.kind)),
            },
            Stage::Before(segment) => match completion {
                Ok(Done::Tail { bytes, .. }) => match prev_behind(&bytes) {
                    Some(prev) => self.open(segment.get(), prev),
                    None => Went::Wrong(format!(
                        "the sealed file before sequence {} does not end in a frame; look with `autonomy wal verify`",
                        segment.get()
                    )),
                },
                Ok(Done::Nothing | Done::Bytes(_) | Done::Listing(_)) => {
                    panic!("drain: a tail completed with something else")
                }
                // Removed since it was listed.
                Err(Fault { kind: FaultKind::NotFound, .. }) => self.again(),
                Err(fault) => Went::Wrong(format!("cannot read a sealed file: {}", fault.kind)),
            },
        }
    }

    fn on_base(&mut self, completion: Completion) -> Went {
        match completion {
            Ok(_) => {}
            Err(Fault { step: 0, kind: FaultKind::Held }) => return Went::Held,
            Err(Fault { step: 0, kind }) => return Went::Wrong(format!("cannot take telemetry.drain.lock: {kind}")),
            Err(Fault { kind: FaultKind::NotFound, .. }) => {
                return Went::Wrong("there is no log in this folder (telemetry.base is missing)".into());
            }
            Err(fault) => return Went::Wrong(unreadable(File::Base, fault.kind)),
        }
        // A damaged id would be sent to the receiver and written beside the cursors. While nothing was removed, it shows.
        let fits = |base: &Base| base.first_seq > Seq::FIRST || base.prev_h == genesis(&base.log_id);
        self.base = bytes(completion).ok().as_deref().and_then(Base::parse).filter(fits);
        if self.base.is_none() {
            return Went::Wrong("telemetry.base is damaged; look with `autonomy wal verify`".into());
        }
        self.stage = Stage::Positions;
        Went::On(vec![read(File::Positions)])
    }

    fn on_positions(&mut self, completion: Completion) -> Went {
        self.at = At::default();
        match bytes(completion) {
            Ok(bytes) => {
                let own = Positions::parse(&bytes)
                    .filter(|positions| self.base.as_ref().is_some_and(|base| base.log_id == positions.log_id));
                let Some(positions) = own else {
                    return Went::Wrong(
                        "telemetry.pos is damaged or holds the cursors of another log; nothing is sent by it. Look with \
                         `autonomy wal verify`, mend with `autonomy wal repair`"
                            .into(),
                    );
                };
                self.at = at(&positions);
            }
            Err(FaultKind::NotFound) => {}
            Err(kind) => return Went::Wrong(unreadable(File::Positions, kind)),
        }
        self.stage = Stage::Safe;
        Went::On(vec![read(File::SafeSeq)])
    }

    /// Finds the segment that holds the first undelivered sequence.
    fn find_start(&mut self) -> Went {
        let highest = Class::ALL.into_iter().map(|class| *self.at.cursors.get(class)).max().unwrap_or(0);
        if highest > self.safe {
            // While a log is being recovered its safe-point is still the one from before. Otherwise nothing may be believed
            // that these cursors say.
            return Went::TooEarly(format!(
                "telemetry.pos says that {highest} was delivered, but the log is only known durable up to {}; if no runtime \
                 is just starting, look with `autonomy wal verify`, mend with `autonomy wal repair`",
                self.safe
            ));
        }
        let Some(base) = &self.base else { return Went::Wrong("telemetry.base is missing".to_string()) };
        let first = base.first_seq;
        for class in Class::ALL {
            // What is not retained was delivered before it was removed.
            let cursor = self.at.cursors.get_mut(class);
            *cursor = (*cursor).max(first.get().saturating_sub(1));
        }
        let lowest = Class::ALL.into_iter().map(|class| *self.at.cursors.get(class)).min().unwrap_or(0);
        match self.files.around(first, lowest.saturating_add(1)) {
            (Some(segment), _) if segment == first => {
                let prev = base.prev_h;
                self.open(segment.get(), prev)
            }
            (Some(segment), Some(before)) => {
                self.stage = Stage::Before(segment);
                Went::On(vec![Op::ReadTail { file: File::Sealed(before), len: TAIL }])
            }
            // Only the live file is left, and it begins the log.
            (None, _) if !self.files.any_from(first) => {
                let prev = base.prev_h;
                self.open(first.get(), prev)
            }
            // The writer removed files between our looks.
            (Some(_) | None, None | Some(_)) => self.again(),
        }
    }

    fn again(&mut self) -> Went {
        self.tries += 1;
        if self.tries > TRIES {
            return Went::Wrong(
                "telemetry.base does not name the first file of the log; look with `autonomy wal verify`".into(),
            );
        }
        self.stage = Stage::Base;
        Went::On(vec![Op::Lock(Lock::Drain), read(File::Base)])
    }

    fn open(&mut self, segment: u64, prev: Hash32) -> Went {
        let Some(base) = self.base.take() else { return self.again() };
        let index = Index::new(segment, 0, Link { next: segment, prev });
        Went::Open(Box::new(Session::new(base, self.at, self.safe, core::mem::take(&mut self.files), index)))
    }
}

/// What a parsed `telemetry.pos` says.
pub fn at(positions: &Positions) -> At {
    let mut cursors = PerClass::default();
    for class in Class::ALL {
        *cursors.get_mut(class) = positions.cursors.get(class.name()).copied().unwrap_or(0);
    }
    At { cursors, repairs: positions.repairs }
}

const fn read(file: File) -> Op {
    Op::Read { file, at: 0, len: SMALL }
}

fn bytes(completion: Completion) -> Result<Vec<u8>, FaultKind> {
    match completion {
        Ok(Done::Bytes(bytes)) => Ok(bytes),
        Ok(Done::Nothing | Done::Tail { .. } | Done::Listing(_)) => {
            panic!("drain: a read completed without bytes")
        }
        Err(fault) => Err(fault.kind),
    }
}
