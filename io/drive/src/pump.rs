//! The driver of a machine that has a thread to itself and is in no hurry: the drain, or a log that is recovered by a
//! command.
//!
//! The machine lives on the calling thread, and so does the lane from which it reads; each other lane that it uses gets
//! a thread of its own, so that writing goes on beside reading. Requests over the network are the caller's to start.

use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use machines::disk::{Lane, Op, Tag};
use machines::machine::{Deadline, Effect, Event, Halt, Machine, Note, Outbox};
use machines::net;

use crate::clock::{Clock, entropy};
use crate::disk::Disk;
use crate::fuse::Fuse;

/// The longest sleep: the queue does not count suspended time, our clock does.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// Where a pump takes events from besides its own disk: answers of the network, and what is asked of the machine.
#[derive(Debug)]
pub struct Inbox<I> {
    sender: Sender<Event<I>>,
    receiver: Receiver<Event<I>>,
}

/// Feeds events to a pump. Events for a pump that has ended are dropped.
#[derive(Debug)]
pub struct Feed<I>(Sender<Event<I>>);

impl<I> Clone for Feed<I> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<I> Feed<I> {
    /// Feeds an event.
    pub fn feed(&self, event: Event<I>) {
        let _ = self.0.send(event);
    }
}

impl<I> Default for Inbox<I> {
    fn default() -> Self {
        let (sender, receiver) = channel();
        Self { sender, receiver }
    }
}

impl<I> Inbox<I> {
    /// What others feed it with.
    #[must_use]
    pub fn feed(&self) -> Feed<I> {
        Feed(self.sender.clone())
    }
}

/// What a pump cannot do itself.
pub trait Outside<M: Machine> {
    /// Starts a request; its result is fed as `Event::Net` later, exactly once.
    fn net(&mut self, feed: &Feed<M::Input>, tag: net::Tag, op: net::Op);
    /// Tells the outside; `Break` ends the pump.
    fn output(&mut self, output: M::Output, machine: &M, feed: &Feed<M::Input>) -> ControlFlow<()>;
    /// Writes a log line.
    fn note(&mut self, note: Note);
}

/// Why a machine ended before it was done.
#[derive(Debug, thiserror::Error)]
pub enum PumpError {
    /// The machine ended the process.
    #[error("{}", .0.message)]
    Halted(Halt),
    /// The system gave no entropy or no thread.
    #[error(transparent)]
    System(#[from] std::io::Error),
}

/// Runs a machine until `outside` says that its output was the last. Chains that were handed out by then are finished.
///
/// # Errors
/// When the machine halts, or the system gives no entropy or no thread.
pub fn run<M>(
    mut machine: M,
    disk: &Arc<Disk>,
    inbox: &Inbox<M::Input>,
    outside: &mut impl Outside<M>,
) -> Result<(), PumpError>
where
    M: Machine,
    M::Input: Send + 'static,
{
    let _fuse = Fuse(M::NAME);
    let clock = Clock;
    let feed = inbox.feed();
    let mut lanes = Lanes { disk: Arc::clone(disk), feed: feed.clone(), threads: BTreeMap::new() };
    let mut own = VecDeque::from([Event::Start(entropy()?)]);
    let mut effects = Vec::new();
    loop {
        // What comes from outside goes before our own reads, so that a long walk over the log can be stopped.
        let event = match (inbox.receiver.try_recv().ok(), own.pop_front()) {
            (Some(event), next) => {
                if let Some(next) = next {
                    own.push_front(next);
                }
                event
            }
            (None, Some(event)) => event,
            (None, None) => wait(&inbox.receiver, machine.deadline(), clock),
        };
        machine.handle(clock.now(), event, &mut Outbox::over(&mut effects));
        machine.check();
        for effect in effects.drain(..) {
            match effect {
                Effect::Disk(tag, chain) if tag.lane == Lane::Drain => {
                    own.push_back(Event::Disk(tag, disk.execute(chain)));
                }
                Effect::Disk(tag, chain) => lanes.give(tag, chain)?,
                Effect::Tree(tag, _) => panic!("{}: this driver has no files by path: {tag:?}", M::NAME),
                Effect::Net(tag, op) => outside.net(&feed, tag, op),
                Effect::Work(tag, _) => panic!("{}: a pump has no workers: {tag:?}", M::NAME),
                Effect::Output(output) => {
                    if outside.output(output, &machine, &feed).is_break() {
                        lanes.finish();
                        return Ok(());
                    }
                }
                Effect::Note(note) => outside.note(note),
                Effect::Halt(halt) => {
                    lanes.finish();
                    return Err(PumpError::Halted(halt));
                }
            }
        }
    }
}

/// The next event from outside, or the deadline.
fn wait<I>(receiver: &Receiver<Event<I>>, deadline: Option<Deadline>, clock: Clock) -> Event<I> {
    let sleep = deadline.map_or(LONGEST_SLEEP, |deadline| {
        Duration::from_nanos(deadline.at.since(clock.mono()).as_nanos()).min(LONGEST_SLEEP)
    });
    match receiver.recv_timeout(sleep) {
        Ok(event) => event,
        // A wake-up that comes too early is harmless. We hold a sender: the queue is never closed.
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => Event::Due,
    }
}

/// The threads of the lanes.
struct Lanes<I> {
    disk: Arc<Disk>,
    feed: Feed<I>,
    threads: BTreeMap<Lane, (Sender<(Tag, Vec<Op>)>, JoinHandle<()>)>,
}

impl<I: Send + 'static> Lanes<I> {
    fn give(&mut self, tag: Tag, chain: Vec<Op>) -> std::io::Result<()> {
        if !self.threads.contains_key(&tag.lane) {
            let (sender, chains) = channel::<(Tag, Vec<Op>)>();
            let (disk, feed) = (Arc::clone(&self.disk), self.feed.clone());
            let thread =
                std::thread::Builder::new().name(format!("{:?}", tag.lane).to_lowercase()).spawn(move || {
                    let _fuse = Fuse("a thread of a pump");
                    for (tag, chain) in chains {
                        feed.feed(Event::Disk(tag, disk.execute(chain)));
                    }
                })?;
            self.threads.insert(tag.lane, (sender, thread));
        }
        if let Some((sender, _)) = self.threads.get(&tag.lane) {
            // The thread takes chains as long as its sender lives, and that is here.
            let _ = sender.send((tag, chain));
        }
        Ok(())
    }

    /// Lets the threads finish what they were given, and ends them.
    fn finish(self) {
        for (_, (sender, thread)) in self.threads {
            drop(sender);
            let _ = thread.join();
        }
    }
}
