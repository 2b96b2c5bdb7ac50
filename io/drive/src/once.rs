//! A machine that runs to its end on the calling thread, for commands.

use std::collections::VecDeque;
use std::time::Duration;

use machines::machine::{Effect, Event, Halt, Machine, Note, Outbox};
use machines::work;

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

/// Runs `machine` until it says something, and returns that. Disk chains and work run at once, one after another.
///
/// # Errors
/// When the machine halts, or stands still without an output.
pub fn run_to_end<M: Machine>(
    mut machine: M,
    disk: &Disk,
    mut work: impl FnMut(work::Op) -> Option<work::Got>,
    mut note: impl FnMut(Note),
) -> Result<M::Output, OnceError> {
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
                Effect::Disk(tag, chain) => events.push_back(Event::Disk(tag, disk.execute(chain))),
                Effect::Net(tag, _) => panic!("{}: a command's machine has no network here: {tag:?}", M::NAME),
                Effect::Work(tag, op) => events.extend(work(op).map(|got| Event::Work(tag, got))),
                Effect::Output(output) => said = said.or(Some(output)),
                Effect::Note(line) => note(line),
                Effect::Halt(halt) => return Err(OnceError::Halted(halt)),
            }
        }
        if let Some(output) = said {
            return Ok(output);
        }
    }
}
