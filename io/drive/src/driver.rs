//! The driver of a long-lived machine.
//!
//! Threads: one runs the chains of [`Lane::Log`], one those of [`Lane::Keeping`] and [`Lane::Marker`], one those of [`Lane::Policy`], one sleeps
//! until the machine's deadline. Everything else runs on the thread that brings an event. A call therefore costs two
//! wake-ups: its task wakes the log's thread, and the log's thread, when no further chain waits, carries out
//! itself what came out of the flush (the tool, the next flush) and in the end wakes the task with the answer. A thread
//! that brings a call may spare it both ([`Driver::feed_and_flush`]): while the log's thread sleeps, and the disk is quick,
//! it takes the lane over for the two flushes of its call.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use machines::disk::{self, Lane};
use machines::machine::{Effect, Event, Halt, Machine, Note, Outbox};
use machines::tree;
use machines::work;

use crate::clock::{self, Clock};
use crate::disk::Disk;
use crate::fuse::{Fuse, lock};
use crate::pool::Job;
use crate::queue::{Pushed, Queue};
use crate::timer::Timer;

/// Carries out what is not the disk's. Everything here is called without the machine's lock, on any thread, and must not
/// wait for long.
pub trait Hands<M: Machine>: Send + Sync + Sized + 'static {
    /// Does a piece of work at once and returns its result; or starts it elsewhere, returns `None`, and feeds the
    /// result to the driver later. Must not panic: it catches what it runs.
    fn work(&self, driver: &Driver<M, Self>, tag: work::Tag, op: work::Op) -> Option<work::Got>;
    /// Runs a chain of operations on files by path at once and returns its result; or starts it elsewhere, returns `None`, and
    /// feeds the result later. Whose machine has such files says how.
    fn tree(&self, driver: &Driver<M, Self>, tag: tree::Tag, chain: Vec<tree::Op>) -> Option<tree::Completion> {
        let _ = (driver, chain);
        panic!("{}: this driver has no files by path: {tag:?}", M::NAME)
    }
    /// Tells the outside.
    fn output(&self, output: M::Output);
    /// Writes a log line.
    fn note(&self, note: Note);
    /// Ends the process; when it returns (in a test), the driver takes no more events.
    fn halt(&self, halt: Halt);
    /// Runs a short job on some other thread, soon.
    fn hand_over(&self, job: Job);
}

/// Chains of the log that a thread that brought an event runs at most: those of one call.
const OWN_CHAINS: u32 = 2;
/// A chain of the log that took longer makes the next ones wait for the log's own thread.
const QUICK: Duration = Duration::from_millis(1);

/// A running machine.
pub struct Driver<M: Machine, H>(Arc<Shared<M, H>>);

struct Shared<M: Machine, H> {
    core: Mutex<Core<M>>,
    log: Queue<Chain>,
    keeping: Queue<Chain>,
    policy: Queue<Chain>,
    timer: Timer,
    clock: Clock,
    disk: Arc<Disk>,
    /// The last chain of the log was quick.
    quick: AtomicBool,
    hands: H,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

type Chain = (disk::Tag, Vec<disk::Op>);

struct Core<M: Machine> {
    machine: M,
    /// Reused from event to event.
    effects: Vec<Effect<M::Output>>,
}

impl<M: Machine, H> Clone for Driver<M, H> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<M, H> Driver<M, H>
where
    M: Machine + Send + 'static,
    M::Input: Send + 'static,
    M::Output: Send + 'static,
    H: Hands<M>,
{
    /// Starts the threads and gives the machine its first event.
    ///
    /// # Errors
    /// When the system gives no thread or no entropy.
    pub fn start(machine: M, disk: Arc<Disk>, hands: H) -> std::io::Result<Self> {
        let entropy = clock::entropy()?;
        let driver = Self(Arc::new(Shared {
            core: Mutex::new(Core { machine, effects: Vec::new() }),
            log: Queue::new(),
            keeping: Queue::new(),
            policy: Queue::new(),
            timer: Timer::new(),
            clock: Clock,
            disk,
            quick: AtomicBool::new(false),
            hands,
            threads: Mutex::new(Vec::new()),
        }));
        driver.thread("log", Self::run_log)?;
        driver.thread("keeping", |driver| driver.run_lane(&driver.0.keeping))?;
        driver.thread("policy", |driver| driver.run_lane(&driver.0.policy))?;
        driver.thread("timer", Self::run_timer)?;
        driver.feed(Event::Start(entropy));
        Ok(driver)
    }

    /// Gives the machine an event and carries out, on this thread, what follows from it at once.
    pub fn feed(&self, event: Event<M::Input>) {
        let mut effects = VecDeque::new();
        self.step(event, &mut effects, &mut Lead::never());
        self.carry_out(effects);
    }

    /// The same for a thread that may wait for the disk for a moment: while the log's thread has nothing to do, this one
    /// flushes what its event led to. No more than one thread does that at a time, and none while the disk is slow.
    pub fn feed_and_flush(&self, event: Event<M::Input>) {
        let shared = &*self.0;
        let mut lead =
            Lead { own_left: if shared.quick.load(Ordering::Relaxed) { OWN_CHAINS } else { 0 }, ..Lead::never() };
        let mut effects = VecDeque::new();
        self.step(event, &mut effects, &mut lead);
        loop {
            while let Some(effect) = effects.pop_front() {
                if lead.chain.is_some() {
                    effects.push_front(effect);
                    self.hand_over(std::mem::take(&mut effects));
                    break;
                }
                self.carry_out_one(effect, &mut effects, &mut lead);
            }
            let Some((tag, chain)) = lead.chain.take() else { break };
            let done = self.execute_log(chain);
            self.step(Event::Disk(tag, done), &mut effects, &mut lead);
        }
        if lead.leads {
            shared.log.give_back();
        }
    }

    /// Looks at the machine, for a status; the machine stands still meanwhile.
    pub fn look<T>(&self, at: impl FnOnce(&M) -> T) -> T {
        let core = lock(&self.0.core);
        let _fuse = Fuse(M::NAME);
        at(&core.machine)
    }

    /// What carries out the machine's work.
    #[must_use]
    pub fn hands(&self) -> &H {
        &self.0.hands
    }

    /// Ends the threads after what they are doing, and waits for them. Not to be called from one of them.
    pub fn close(&self) {
        self.0.log.close();
        self.0.keeping.close();
        self.0.policy.close();
        self.0.timer.close();
        for thread in std::mem::take(&mut *lock(&self.0.threads)) {
            let _ = thread.join();
        }
    }

    /// One event under the lock. The disk chains go to their lanes before the lock is given back, so that each lane sees
    /// them in the order emitted; the other effects are appended to `rest`.
    fn step(&self, event: Event<M::Input>, rest: &mut VecDeque<Effect<M::Output>>, lead: &mut Lead) {
        let shared = &*self.0;
        let mut wake = [false; 3];
        {
            let mut core = lock(&shared.core);
            let _fuse = Fuse(M::NAME);
            let Core { machine, effects } = &mut *core;
            // Read under the lock: the machine never sees the time go back.
            machine.handle(shared.clock.now(), event, &mut Outbox::over(effects));
            machine.check();
            let [log, keeping, policy] = &mut wake;
            for effect in effects.drain(..) {
                match effect {
                    Effect::Disk(tag, chain) => match tag.lane {
                        Lane::Log => *log |= self.push_log((tag, chain), lead),
                        // A short read, which needs no thread of its own.
                        Lane::Keeping | Lane::Marker => *keeping |= push(&shared.keeping, (tag, chain)),
                        Lane::Policy => *policy |= push(&shared.policy, (tag, chain)),
                        Lane::Drain | Lane::Cursors => panic!("{}: the drain has a driver of its own", M::NAME),
                    },
                    other @ (Effect::Tree(..)
                    | Effect::Net(..)
                    | Effect::Work(..)
                    | Effect::Output(_)
                    | Effect::Note(_)
                    | Effect::Halt(_)) => {
                        rest.push_back(other);
                    }
                }
            }
            shared.timer.set(machine.deadline());
        }
        for (wake, lane) in wake.into_iter().zip([&shared.log, &shared.keeping, &shared.policy]) {
            if wake {
                lane.wake();
            }
        }
    }

    /// Puts a chain into the log's lane; or keeps it, when this thread leads the lane and the chain is the next one.
    /// True when the log's thread has to be woken.
    fn push_log(&self, chain: Chain, lead: &mut Lead) -> bool {
        let log = &self.0.log;
        if lead.leads {
            // Behind what others pushed meanwhile.
            let _ = log.push(chain, false);
            if lead.own_left > 0 && lead.chain.is_none() {
                lead.own_left -= 1;
                lead.chain = log.next_of_mine();
            }
            return false;
        }
        match log.push(chain, lead.own_left > 0) {
            Pushed::Waits => false,
            Pushed::WaitsForWake => true,
            Pushed::Yours(chain) => {
                lead.leads = true;
                lead.own_left -= 1;
                lead.chain = Some(chain);
                false
            }
        }
    }

    fn execute_log(&self, chain: Vec<disk::Op>) -> disk::Completion {
        let started = Instant::now();
        let done = self.0.disk.execute(chain);
        self.0.quick.store(started.elapsed() < QUICK, Ordering::Relaxed);
        done
    }

    fn carry_out(&self, mut effects: VecDeque<Effect<M::Output>>) {
        while let Some(effect) = effects.pop_front() {
            self.carry_out_one(effect, &mut effects, &mut Lead::never());
        }
    }

    fn carry_out_one(&self, effect: Effect<M::Output>, rest: &mut VecDeque<Effect<M::Output>>, lead: &mut Lead) {
        let hands = &self.0.hands;
        match effect {
            Effect::Work(tag, op) => {
                if let Some(got) = hands.work(self, tag, op) {
                    self.step(Event::Work(tag, got), rest, lead);
                }
            }
            Effect::Output(output) => hands.output(output),
            Effect::Note(note) => hands.note(note),
            Effect::Halt(halt) => hands.halt(halt),
            Effect::Tree(tag, chain) => {
                if let Some(done) = hands.tree(self, tag, chain) {
                    self.step(Event::Tree(tag, done), rest, lead);
                }
            }
            Effect::Net(tag, _) => panic!("{}: this driver has no network: {tag:?}", M::NAME),
            // Moved to their lanes in `step`.
            Effect::Disk(..) => {}
        }
    }

    fn hand_over(&self, effects: VecDeque<Effect<M::Output>>) {
        let driver = self.clone();
        self.0.hands.hand_over(Box::new(move || driver.carry_out(effects)));
    }

    /// The log's thread: flush, then, as long as no further chain waits, carry out what the flush released.
    fn run_log(&self) {
        while let Some((tag, chain)) = self.0.log.pop() {
            let done = self.execute_log(chain);
            let mut effects = VecDeque::new();
            self.step(Event::Disk(tag, done), &mut effects, &mut Lead::never());
            while let Some(effect) = effects.pop_front() {
                if self.0.log.has_waiting() {
                    effects.push_front(effect);
                    self.hand_over(effects);
                    break;
                }
                self.carry_out_one(effect, &mut effects, &mut Lead::never());
            }
        }
    }

    fn run_lane(&self, lane: &Queue<Chain>) {
        while let Some((tag, chain)) = lane.pop() {
            let done = self.0.disk.execute(chain);
            self.feed(Event::Disk(tag, done));
        }
    }

    fn run_timer(&self) {
        let mut handled = false;
        while self.0.timer.wait(self.0.clock, handled) {
            self.feed(Event::Due);
            handled = true;
        }
    }

    fn thread(&self, name: &str, run: impl FnOnce(&Self) + Send + 'static) -> std::io::Result<()> {
        let driver = self.clone();
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let _fuse = Fuse("a thread of the driver");
            run(&driver);
        })?;
        lock(&self.0.threads).push(thread);
        Ok(())
    }
}

fn push(lane: &Queue<Chain>, chain: Chain) -> bool {
    matches!(lane.push(chain, false), Pushed::WaitsForWake)
}

/// What a thread that brought an event does with the log's lane.
struct Lead {
    /// It runs the lane's chains now.
    leads: bool,
    /// How many more it would run.
    own_left: u32,
    /// The one that it runs next.
    chain: Option<Chain>,
}

impl Lead {
    /// It leaves them to the lane's thread.
    fn never() -> Self {
        Self { leads: false, own_left: 0, chain: None }
    }
}

#[cfg(test)]
mod tests;
