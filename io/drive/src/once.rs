//! A machine that runs to its end on the calling thread, for commands.

use std::collections::VecDeque;
use std::time::Duration;

use machines::machine::{Effect, Event, Halt, Machine, Note, Outbox};
use machines::{disk, tree, work};

use crate::clock::{Clock, entropy};
use crate::disk::Disk;

/// Why a machine did not reach its end.
#[derive(Debug, thiserror::Error)]
pub enum OnceError {
    /// The machine ended the process.
    #[error("{}", .0.message)]
    Halted(Halt),
    /// It waits for nothing and has said nothing: a mistake in the machine.
    #[error("{0} stands still without a result; please report this")]
    Stuck(&'static str),
    /// The kernel gave no entropy.
    #[error(transparent)]
    Entropy(#[from] std::io::Error),
}

/// What a command's machine can reach; it must not ask for anything else.
pub trait Outside {
    /// Runs a chain of disk operations.
    fn disk(&mut self, chain: Vec<disk::Op>) -> disk::Completion {
        panic!("this command has no files by name: {chain:?}")
    }

    /// Runs a chain of operations on files by path.
    fn tree(&mut self, chain: Vec<tree::Op>) -> tree::Completion {
        panic!("this command has no files by path: {chain:?}")
    }

    /// Does a piece of work; `None` when its result never comes.
    fn work(&mut self, op: work::Op) -> Option<work::Got> {
        panic!("this command does no work: {op:?}")
    }

    /// Writes a log line.
    fn note(&mut self, line: Note);
}

/// Runs `machine` until it says something, and returns that. Disk chains and work run at once, one after another.
///
/// # Errors
/// When the machine halts, or stands still without an output.
pub fn run_to_end<M: Machine>(
    machine: M,
    disk: &Disk,
    work: impl FnMut(work::Op) -> Option<work::Got>,
    note: impl FnMut(Note),
) -> Result<M::Output, OnceError> {
    run_with(machine, &mut Files { disk, work, note })
}

/// Runs `machine` until it says something, and returns that. What it asks of `outside` runs at once, one after another.
///
/// # Errors
/// When the machine halts, or stands still without an output.
pub fn run_with<M: Machine>(mut machine: M, outside: &mut impl Outside) -> Result<M::Output, OnceError> {
    let clock = Clock;
    let mut events = VecDeque::from([Event::Start(entropy()?)]);
    let mut effects = Vec::new();
    loop {
        let event = match (events.pop_front(), machine.deadline()) {
            (Some(event), _) => event,
            (None, Some(deadline)) => {
                std::thread::sleep(Duration::from_nanos(deadline.at.since(clock.mono()).as_nanos()));
                Event::Due
            }
            (None, None) => return Err(OnceError::Stuck(M::NAME)),
        };
        machine.handle(clock.now(), event, &mut Outbox::over(&mut effects));
        machine.check();
        let mut said = None;
        for effect in effects.drain(..) {
            match effect {
                Effect::Disk(tag, chain) => events.push_back(Event::Disk(tag, outside.disk(chain))),
                Effect::Tree(tag, chain) => events.push_back(Event::Tree(tag, outside.tree(chain))),
                Effect::Net(tag, _) => panic!("{}: a command's machine has no network here: {tag:?}", M::NAME),
                Effect::Work(tag, op) => events.extend(outside.work(op).map(|got| Event::Work(tag, got))),
                Effect::Output(output) => said = said.or(Some(output)),
                Effect::Note(line) => outside.note(line),
                Effect::Halt(halt) => return Err(OnceError::Halted(halt)),
            }
        }
        if let Some(output) = said {
            return Ok(output);
        }
    }
}

/// The files of a node, for [`run_to_end`].
struct Files<'a, W, N> {
    disk: &'a Disk,
    work: W,
    note: N,
}

impl<W: FnMut(work::Op) -> Option<work::Got>, N: FnMut(Note)> Outside for Files<'_, W, N> {
    fn disk(&mut self, chain: Vec<disk::Op>) -> disk::Completion {
        self.disk.execute(chain)
    }

    fn work(&mut self, op: work::Op) -> Option<work::Got> {
        (self.work)(op)
    }

    fn note(&mut self, line: Note) {
        (self.note)(line);
    }
}
