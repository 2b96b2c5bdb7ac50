//! The drain while it holds the lock: what is read, what is under way, and what comes next.
//!
//! Reading the next batch runs beside the write of the cursors for the last one; nothing is read while a batch is being
//! sent, and nothing is sent while cursors are being written.

mod reading;

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use crate::disk::{self, Completion, Dir, Done, Fault, FaultKind, File, Lane, Op, Replaced, Tag};
use crate::ids::Seq;
use crate::machine::Deadline;
use crate::net;
use crate::time::{Mono, Now, Span};
use crate::wal::files::{Base, Positions, parse_safe_seq};
use crate::wal::scan::Link;

use super::batch::{Batch, Class, PerClass};
use super::delivery::Delivery;
use super::files::Files;
use super::index::{Block, Index};
use super::opening::at;
use super::order::Order;
use super::rejected::{self, Reason};
use super::{Config, Queue, Until};

/// Bytes asked for in one read of frames.
const CHUNK: u32 = 128 * 1024;
/// Bytes asked for where a frame is longer than that.
const LARGE: u32 = 512 * 1024;
/// How often something that does not fit is read again, the last times after a pause, before it is called damage.
const MISFITS: u32 = 10;
/// How often without a pause.
const AT_ONCE: u32 = 3;
/// The pause.
const PAUSE: Span = Span::from_millis(20);
/// The shortest time that an answer is given at the end of a command's time.
const SHORTEST_ANSWER: Span = Span::from_millis(100);
/// The longest that an answer may take.
const LONGEST_ANSWER: Span = Span::from_secs(10);

/// What to do next.
#[derive(Debug)]
pub enum Next {
    /// Run this chain; `asked` is told its tag.
    Disk(Lane, Vec<Op>),
    /// Ask this; `sent` is told its tag.
    Net(net::Op),
    /// Say what waits.
    Say(Queue),
    /// Everything is delivered.
    Empty,
    /// It was told to end here, and the cursors are durable.
    End,
    /// Something is under way.
    Wait,
}

/// The drain's knowledge of the log.
#[derive(Debug)]
pub struct Session {
    base: Base,
    /// The cursors as they are on the disk.
    cursors: PerClass<u64>,
    /// How often the log had been repaired when it was opened.
    repairs: u64,
    /// Up to which sequence events are delivered: a safe-point.
    target: u64,
    files: Files,
    index: Index,
    /// For each class, where in its block the next record is looked for.
    places: PerClass<Option<Place>>,
    order: Order,
    announced: bool,
    /// The safe-point was read since the last batch.
    fresh: bool,
    /// What the next read is for, until its tag is known.
    wanted: Option<Reading>,
    reading: Option<(Tag, Reading)>,
    gather: Option<Batch>,
    /// What is being sent.
    delivery: Option<Delivery>,
    /// Of each class, what was tried and has to be tried again when the class has its turn.
    parked: PerClass<Option<Delivery>>,
    flight: Option<net::Tag>,
    /// The cursors that are being written, and the rejected record with them, if any.
    write: Option<Write>,
    not_before: Option<Mono>,
    misfits: u32,
    look_again: bool,
    large: bool,
    ends: bool,
}

/// A place between two frames.
#[derive(Clone, Copy, Debug)]
struct Place {
    segment: u64,
    at: u64,
    link: Link,
}

#[derive(Clone, Copy, Debug)]
enum Reading {
    List,
    Safe,
    /// The end of the index.
    Walk {
        file: File,
        len: u32,
    },
    /// Records for the batch, from this block.
    Gather {
        file: File,
        len: u32,
        block: Block,
    },
}

#[derive(Debug)]
struct Write {
    tag: Option<Tag>,
    cursors: PerClass<u64>,
    /// A rejected record, or a batch, that has to be durable first.
    aside: Option<(Seq, Vec<u8>)>,
}

/// What `telemetry.pos` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct At {
    /// The cursors.
    pub cursors: PerClass<u64>,
    /// How often the log was repaired.
    pub repairs: u64,
}

/// What a look at the safe-point of a log shows that was left alone for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Glimpse {
    /// Nothing new.
    Nothing,
    /// More than was looked through.
    More,
    /// Less, or no safe-point: another log, or none.
    Other,
}

/// Why a session cannot go on.
#[derive(Debug)]
pub enum Wrong {
    /// What was read does not belong there, however often it is read: damage, or the files changed since they were found.
    Misfit(String),
    /// The cursors could not be written; the session still knows what to write.
    Write(String),
    /// The device does not give something.
    Unreadable(String),
}

impl Session {
    /// A log that was opened so.
    pub fn new(base: Base, at: At, safe: u64, files: Files, index: Index) -> Self {
        Self {
            base,
            cursors: at.cursors,
            repairs: at.repairs,
            target: safe,
            files,
            index,
            places: PerClass::default(),
            order: Order::default(),
            announced: false,
            fresh: true,
            wanted: None,
            reading: None,
            gather: None,
            delivery: None,
            parked: PerClass::default(),
            flight: None,
            write: None,
            not_before: None,
            misfits: 0,
            look_again: false,
            large: false,
            ends: false,
        }
    }

    /// What waits, as far as it was looked at.
    pub fn queue(&self) -> Queue {
        let waiting = self.index.waiting();
        let actions = self.index.actions();
        let mut queue = Queue {
            errors: waiting.error,
            decisions: waiting.decision.saturating_sub(actions),
            lifecycle: waiting.lifecycle,
            actions,
        };
        // What was gathered and not taken waits as well.
        for delivery in Class::ALL.into_iter().filter_map(|class| self.parked.get(class).as_ref()).chain(&self.delivery)
        {
            let batch = delivery.batch();
            let (from, to) = (delivery.slice().0, batch.len());
            let events = batch.events(from, to);
            match batch.class {
                Class::Error => queue.errors += events,
                Class::Lifecycle => queue.lifecycle += events,
                Class::Decision => {
                    queue.decisions += events;
                    queue.actions += u64::try_from(to.saturating_sub(from)).unwrap_or(u64::MAX).saturating_sub(events);
                }
            }
        }
        queue
    }

    /// Whether the queue was said since the last time that everything was delivered; forgets it.
    pub fn was_announced(&mut self) -> bool {
        core::mem::replace(&mut self.announced, false)
    }

    /// Whether something waits that is known of.
    pub fn has_work(&self) -> bool {
        self.write.is_some()
            || self.delivery.is_some()
            || self.gather.is_some()
            || self.index.last() < self.target
            || self.anything_waits()
    }

    fn anything_waits(&self) -> bool {
        let waiting = self.waiting();
        Class::ALL.iter().any(|class| *waiting.get(*class) > 0)
    }

    /// Records of each class that wait: in the log, or gathered and not taken.
    fn waiting(&self) -> PerClass<u64> {
        let mut waiting = *self.index.waiting();
        for class in Class::ALL {
            *waiting.get_mut(class) += u64::from(self.parked.get(class).is_some());
        }
        waiting
    }

    /// When it wants to be woken.
    pub fn deadline(&self) -> Option<Deadline> {
        if self.flight.is_some() || self.reading.is_some() || self.write.is_some() {
            return None;
        }
        self.not_before.map(|at| Deadline { at, why: "try again" })
    }

    /// Panics on a broken invariant.
    pub fn check(&self) {
        assert!(self.flight.is_none() || self.delivery.is_some(), "drain: an answer is waited for without a batch");
        assert!(self.flight.is_none() || self.write.is_none(), "drain: sent before the cursors were durable");
        assert!(self.gather.is_none() || self.delivery.is_none(), "drain: two batches at once");
    }

    /// What can be started now.
    pub fn next(&mut self, now: Now, config: &Config, since: Option<Mono>) -> Next {
        if let Some(write) = &self.write
            && write.tag.is_none()
        {
            return Next::Disk(Lane::Cursors, self.chain_of(write));
        }
        if self.not_before.is_some_and(|at| at > now.mono) {
            return Next::Wait;
        }
        self.not_before = None;
        if self.ends {
            return if self.write.is_some() { Next::Wait } else { Next::End };
        }
        if self.reading.is_none()
            && self.delivery.is_none()
            && let Some(next) = self.next_read(config)
        {
            return next;
        }
        if self.reading.is_some() || self.flight.is_some() || self.write.is_some() {
            return Next::Wait;
        }
        if let Some(delivery) = &self.delivery {
            let (from, to) = delivery.slice();
            let left = match (config.until, since) {
                (Until::Empty, Some(since)) => {
                    let tried = now.mono.since(since).as_nanos();
                    Span::from_nanos(config.timeout.as_nanos().saturating_sub(tried)).max(SHORTEST_ANSWER)
                }
                (Until::Empty, None) | (Until::Stopped, _) => config.timeout,
            };
            let timeout = left.min(LONGEST_ANSWER);
            return Next::Net(net::Op::Export(net::Export { batch: Arc::clone(delivery.batch()), from, to, timeout }));
        }
        if Class::ALL.iter().any(|class| *self.cursors.get(*class) < self.index.last()) {
            // A stretch without events: the cursors pass over it all the same.
            self.write_cursors(self.cursors, None);
            return self.next(now, config, since);
        }
        Next::Empty
    }

    fn next_read(&mut self, config: &Config) -> Option<Next> {
        if self.look_again {
            return Some(self.read(Reading::List, Op::List));
        }
        if self.index.last() < self.target {
            let file = self.files.holds(self.index.segment);
            let len = if self.large { LARGE } else { CHUNK };
            let op = Op::Read { file, at: self.index.at, len };
            return Some(self.read(Reading::Walk { file, len }, op));
        }
        if let Some(batch) = &self.gather {
            let class = batch.class;
            return self.read_for(class);
        }
        if config.until == Until::Stopped && !self.fresh {
            return Some(self.read(Reading::Safe, Op::Read { file: File::SafeSeq, at: 0, len: 64 }));
        }
        if !self.announced && (config.until == Until::Empty || self.anything_waits()) {
            self.announced = true;
            return Some(Next::Say(self.queue()));
        }
        let class = self.order.next(&self.waiting())?;
        if let Some(parked) = self.parked.get_mut(class).take() {
            self.delivery = Some(parked);
            return None;
        }
        self.gather = Some(Batch::new(self.base.log_id, self.base.node_id.clone(), class));
        self.read_for(class)
    }

    fn read(&mut self, why: Reading, op: Op) -> Next {
        self.wanted = Some(why);
        Next::Disk(Lane::Drain, vec![op])
    }

    /// Reads on where the next record of a class is.
    fn read_for(&mut self, class: Class) -> Option<Next> {
        let block = self.index.find(class)?;
        let place = match *self.places.get(class) {
            Some(place) if place.segment == block.segment && block.at <= place.at && place.at < block.end => place,
            Some(_) | None => Place { segment: block.segment, at: block.at, link: block.link },
        };
        *self.places.get_mut(class) = Some(place);
        let file = self.files.holds(place.segment);
        let most = if self.large { LARGE } else { CHUNK };
        let len = u32::try_from(block.end.saturating_sub(place.at)).unwrap_or(u32::MAX).min(most);
        Some(self.read(Reading::Gather { file, len, block }, Op::Read { file, at: place.at, len }))
    }

    /// The tag of the chain that `next` gave out.
    pub fn asked(&mut self, tag: Tag) {
        if tag.lane == Lane::Cursors {
            if let Some(write) = &mut self.write {
                write.tag = Some(tag);
            }
        } else {
            self.reading = self.wanted.take().map(|why| (tag, why));
        }
    }

    /// The tag of the request that `next` gave out.
    pub fn sent(&mut self, tag: net::Tag) {
        self.flight = Some(tag);
    }

    /// Whether this answer is waited for.
    pub fn awaits(&self, tag: net::Tag) -> bool {
        self.flight == Some(tag)
    }

    /// The answer is here: the batch, and which of its records were sent.
    pub fn landed(&mut self) -> (Arc<Batch>, usize, usize) {
        self.flight = None;
        let Some(delivery) = &self.delivery else { panic!("drain: an answer without a batch") };
        let (from, to) = delivery.slice();
        (Arc::clone(delivery.batch()), from, to)
    }

    /// What was sent is to be tried again, not before this time, and not before what has become more important.
    pub fn try_again(&mut self, at: Mono) {
        self.not_before = Some(at);
        self.park();
    }

    /// The receiver refuses what was sent for one of its records: half of it goes next. False when there is only one.
    pub fn narrow(&mut self) -> bool {
        let narrowed = self.delivery.as_mut().is_some_and(Delivery::narrow);
        if narrowed {
            self.park();
        }
        narrowed
    }

    fn park(&mut self) {
        if let Some(delivery) = self.delivery.take() {
            let class = delivery.batch().class;
            *self.parked.get_mut(class) = Some(delivery);
            self.fresh = false;
        }
    }

    /// A read that is under way will find nobody: what it was for is read again when it is wanted. What it gathered so far
    /// waits for its turn, behind what is more important by then.
    pub fn forget_read(&mut self) {
        self.reading = None;
        self.fresh = false;
        if let Some(batch) = self.gather.take().filter(|batch| !batch.is_empty()) {
            let class = batch.class;
            *self.parked.get_mut(class) = Some(Delivery::new(batch));
        }
    }

    /// Nothing more is sent; it ends when the cursors are durable.
    pub fn end_here(&mut self) {
        self.ends = true;
    }

    /// Nothing is done before this time.
    pub fn pause(&mut self, until: Mono) {
        self.not_before = Some(until);
    }

    /// What was sent is dealt with: moves the cursors behind it, and keeps the records in `rejected/` if there is a reason to.
    pub fn dealt_with(&mut self, reason: Option<Reason<'_>>) {
        let Some(mut delivery) = self.delivery.take() else { return };
        let (from, to) = delivery.slice();
        let batch = Arc::clone(delivery.batch());
        let aside = batch
            .items()
            .get(from)
            .and_then(|first| reason.map(|reason| (first.seq, rejected::to_bytes(&batch, from, to, reason))));
        let mut cursors = self.cursors;
        if let Some(last) = batch.items().get(to.saturating_sub(1)) {
            let cursor = cursors.get_mut(batch.class);
            *cursor = (*cursor).max(last.seq.get());
        }
        match reason {
            // Halved until it was alone.
            Some(reason) if reason.status != 200 => delivery.put_aside(),
            Some(_) | None => delivery.taken(),
        }
        if delivery.is_over() {
            self.order.went(batch.class, &self.waiting());
        } else {
            *self.parked.get_mut(batch.class) = Some(delivery);
        }
        // What has become more important goes before the rest.
        self.fresh = false;
        self.write_cursors(cursors, aside);
    }

    /// Wants the cursors written. When nothing waits any more, all of them move to the end of what was looked through: by
    /// then every frame in it was verified.
    fn write_cursors(&mut self, mut cursors: PerClass<u64>, aside: Option<(Seq, Vec<u8>)>) {
        if self.delivery.is_none() && !self.anything_waits() {
            for class in Class::ALL {
                let cursor = cursors.get_mut(class);
                *cursor = (*cursor).max(self.index.last());
            }
        }
        self.write = Some(Write { tag: None, cursors, aside });
    }

    fn chain_of(&self, write: &Write) -> Vec<Op> {
        let mut chain = Vec::new();
        if let Some((seq, bytes)) = &write.aside {
            chain.push(Op::MakeDir(Dir::Rejected));
            chain.extend(disk::replace(Replaced::Rejected(*seq), bytes.clone()));
        }
        let cursors = Class::ALL.into_iter().map(|class| (String::from(class.name()), *write.cursors.get(class)));
        let positions =
            Positions { log_id: self.base.log_id, cursors: cursors.collect::<BTreeMap<_, _>>(), repairs: self.repairs };
        chain.extend(disk::replace(Replaced::Positions, positions.to_bytes()));
        chain
    }

    /// A chain ended; one that is not ours is passed over. True when the cursors on the disk have moved.
    ///
    /// # Errors
    /// What is wrong with the log or the cursors, in words.
    pub fn on_disk(&mut self, now: Now, tag: Tag, completion: Completion, config: &Config) -> Result<bool, Wrong> {
        if self.write.as_ref().is_some_and(|write| write.tag == Some(tag)) {
            return self.written(completion);
        }
        match self.reading.take() {
            Some((mine, why)) if mine == tag => self.was_read(now, why, completion, config).map(|()| false),
            other => {
                self.reading = other;
                Ok(false)
            }
        }
    }

    fn written(&mut self, completion: Completion) -> Result<bool, Wrong> {
        let Some(write) = self.write.take() else { return Ok(false) };
        match completion {
            Ok(_) => {
                self.cursors = write.cursors;
                Ok(true)
            }
            Err(fault) => {
                let file = match &write.aside {
                    Some((seq, _)) if fault.step < 5 => format!("rejected/{}", File::Rejected(*seq).name()),
                    Some(_) | None => File::Positions.name(),
                };
                // It is written anew, from the first file on; nothing of it has to be sent again.
                self.write = Some(Write { tag: None, ..write });
                Err(Wrong::Write(format!("cannot write {file}: {}; until it can be, nothing more is sent", fault.kind)))
            }
        }
    }

    /// What a look at the safe-point shows.
    pub fn glanced(&mut self, completion: &Completion) -> Glimpse {
        match completion {
            Ok(Done::Bytes(bytes)) => match parse_safe_seq(bytes) {
                Some(safe) if safe == self.target => Glimpse::Nothing,
                Some(safe) if safe > self.target => {
                    self.target = safe;
                    Glimpse::More
                }
                Some(_) | None => Glimpse::Other,
            },
            Ok(Done::Nothing | Done::Tail { .. } | Done::Listing(_)) | Err(_) => Glimpse::Other,
        }
    }

    /// Whether the cursors on the disk are still ours, after a time without the lock.
    pub fn still_at(&self, completion: &Completion) -> bool {
        match completion {
            Ok(Done::Bytes(bytes)) => Positions::parse(bytes).is_some_and(|found| {
                let here = At { cursors: self.cursors, repairs: self.repairs };
                found.log_id == self.base.log_id && at(&found) == here
            }),
            // Never written, as when we opened it.
            Err(Fault { step: 1, kind: FaultKind::NotFound }) => {
                let none = self.base.first_seq.get().saturating_sub(1);
                self.repairs == 0 && Class::ALL.iter().all(|class| *self.cursors.get(*class) == none)
            }
            Ok(Done::Nothing | Done::Tail { .. } | Done::Listing(_)) | Err(_) => false,
        }
    }
}
