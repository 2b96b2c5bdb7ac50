//! The machine of `edged` with its driver, and the hands that carry out what it wants done.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use io_drive::disk::Disk;
use io_drive::driver::{Driver, Hands};
use io_drive::log::Log;
use io_drive::pool::Job;
use io_edge::Tree;
use machines::edge::{Config, Edge, Input, Output, Status};
use machines::machine::{Event, Halt, Level, Note};
use machines::{tree, work};
use tokio::runtime::Handle;
use tokio::sync::watch;

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// It opens its log.
    Starting,
    /// The log has every epoch.
    Ready,
    /// The log is closed.
    Stopped,
}

/// A running machine.
#[derive(Clone)]
pub struct Node {
    driver: Driver<Edge, EdgeHands>,
    phase: watch::Receiver<Phase>,
}

struct EdgeHands {
    tokio: Handle,
    /// Holds the state root's lock as long as it lives.
    tree: Mutex<Tree>,
    phase: watch::Sender<Phase>,
    log: Log,
}

impl Node {
    /// Starts the machine over a state root that is held. To be called within a tokio runtime.
    ///
    /// # Errors
    /// When the system gives no thread or no entropy.
    pub fn start(config: Config, disk: Disk, tree: Tree, log: Log) -> std::io::Result<Self> {
        let (phase, seen) = watch::channel(Phase::Starting);
        let hands = EdgeHands { tokio: Handle::current(), tree: Mutex::new(tree), phase, log };
        Ok(Self { driver: Driver::start(Edge::new(config), Arc::new(disk), hands)?, phase: seen })
    }

    /// How it stands.
    pub fn status(&self) -> Status {
        self.driver.look(Edge::status)
    }

    /// Waits until it has come this far.
    pub async fn reached(&self, phase: Phase) {
        // The sender lives as long as the driver.
        let _ = self.phase.clone().wait_for(|now| *now >= phase).await;
    }

    /// Makes the log durable and closes it.
    pub async fn stop(&self) {
        self.driver.feed(Event::Input(Input::Stop));
        self.reached(Phase::Stopped).await;
    }
}

impl Hands<Edge> for EdgeHands {
    fn work(&self, _driver: &Driver<Edge, Self>, tag: work::Tag, _op: work::Op) -> Option<work::Got> {
        panic!("edge: it has no workers: {tag:?}")
    }

    /// Two short files, read and replaced at the start: nobody waits behind it.
    fn tree(&self, _driver: &Driver<Edge, Self>, _tag: tree::Tag, chain: Vec<tree::Op>) -> Option<tree::Completion> {
        Some(held(&self.tree).run(chain))
    }

    fn output(&self, output: Output) {
        self.phase.send_replace(match output {
            Output::Ready => Phase::Ready,
            Output::Stopped => Phase::Stopped,
        });
    }

    fn note(&self, note: Note) {
        self.log.note(&note);
    }

    fn halt(&self, halt: Halt) {
        self.log.note(&Note::new(Level::Error, "edged.halted").with("reason", halt.message));
        std::process::exit(halt.code.into())
    }

    fn hand_over(&self, job: Job) {
        self.tokio.spawn(async move { job() });
    }
}

/// A panic of another thread leaves it whole: a chain is one call.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
