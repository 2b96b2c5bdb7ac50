//! The node: the runtime machine with its driver, and the hands that carry out its work.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use io_drive::disk::Disk;
use io_drive::driver::{Driver, Hands};
use io_drive::log::Log;
use io_drive::pool::{Job, Pool};
use machines::interceptor::{Answer, CallId, Request};
use machines::machine::{Event, Halt, Note};
use machines::policy::verdict::EvaluationFault;
use machines::runtime::{Config, Input, Output, Runtime, Status};
use machines::work::{self, Compiled, Got};
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::task::AbortHandle;

use crate::metrics::Metrics;
use crate::policies::{self, Limits, STACK_BYTES};
use crate::tools::{Started, Tools};

/// How far the runtime is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// It opens its log and its policy; calls wait.
    Starting,
    /// Calls are decided.
    Ready,
    /// The last call was answered and the log is closed.
    Stopped,
}

/// What a node needs besides its machine's configuration.
pub struct Parts {
    /// Its files.
    pub disk: Arc<Disk>,
    /// Its tools.
    pub tools: Tools,
    /// Its name, as policies see it.
    pub node_id: String,
    /// The bound of one decision.
    pub limits: Limits,
    /// Its metrics.
    pub metrics: Arc<Metrics>,
    /// Where its log lines go.
    pub log: Log,
    /// What ends the process when the machine says so.
    pub on_halt: Box<dyn Fn(Halt) + Send + Sync>,
}

/// A running node.
#[derive(Clone)]
pub struct Node(Arc<Inner>);

struct Inner {
    driver: Driver<Runtime, NodeHands>,
    next_call: AtomicU64,
    phase: watch::Receiver<Phase>,
}

/// Carries out what the runtime machine wants done.
pub struct NodeHands {
    tokio: Handle,
    /// One worker may wait for the disk for a moment: another one goes on reading calls.
    many_workers: bool,
    pool: Arc<Pool>,
    waiting: Mutex<BTreeMap<CallId, oneshot::Sender<Answer>>>,
    running: Mutex<BTreeMap<work::Tag, AbortHandle>>,
    phase: watch::Sender<Phase>,
    parts: Parts,
}

thread_local! {
    static MAY_WAIT: Cell<bool> = const { Cell::new(false) };
}

/// Says that this thread serves one caller and nobody else: it may wait for the disk for a moment.
pub fn this_thread_may_wait() {
    MAY_WAIT.set(true);
}

/// Threads for what takes its time: policies that are opened, decisions that are slow.
const WORKERS: usize = 2;

impl Node {
    /// Starts the machine; calls can be made at once and wait until it is ready. To be called within a tokio runtime.
    ///
    /// # Errors
    /// When the system gives no thread or no entropy.
    pub fn start(config: Config, parts: Parts) -> std::io::Result<Self> {
        let (phase, phase_seen) = watch::channel(Phase::Starting);
        let hands = NodeHands {
            many_workers: Handle::current().metrics().num_workers() > 1,
            tokio: Handle::current(),
            pool: Arc::new(Pool::start(WORKERS, STACK_BYTES)?),
            waiting: Mutex::new(BTreeMap::new()),
            running: Mutex::new(BTreeMap::new()),
            phase,
            parts,
        };
        let disk = Arc::clone(&hands.parts.disk);
        let driver = Driver::start(Runtime::new(config), disk, hands)?;
        Ok(Self(Arc::new(Inner { driver, next_call: AtomicU64::new(1), phase: phase_seen })))
    }

    /// Makes a call and waits for its answer. A caller that goes away loses the answer and nothing else.
    pub async fn call(&self, request: Request) -> Answer {
        let started = Instant::now();
        let call = CallId(self.0.next_call.fetch_add(1, Ordering::Relaxed));
        let (answer, answered) = oneshot::channel();
        let hands = self.0.driver.hands();
        let alone = {
            let mut waiting = held(&hands.waiting);
            waiting.insert(call, answer);
            waiting.len() == 1
        };
        let event = Event::Input(Input::Call(call, Arc::new(request)));
        // A lone call flushes for itself, which spares it two wake-ups; several share the flushes of the log's thread.
        // It may hold up nobody meanwhile: it has its thread to itself, or another worker goes on.
        if alone && (hands.many_workers || MAY_WAIT.get()) {
            self.0.driver.feed_and_flush(event)
        } else {
            self.0.driver.feed(event)
        }
        // The sender is dropped unused only when the process ends.
        let answer = answered.await.unwrap_or_else(|_| Answer::refused(503, "stopping".into()));
        hands.parts.metrics.answered(answer.is_allow(), answer.status(), started.elapsed());
        answer
    }

    /// How the runtime stands.
    #[must_use]
    pub fn status(&self) -> Status {
        self.0.driver.look(Runtime::status)
    }

    /// How the runtime stands, in a word.
    #[must_use]
    pub fn mode(&self) -> machines::runtime::Mode {
        self.0.driver.look(Runtime::mode)
    }

    /// The node's name.
    #[must_use]
    pub fn node_id(&self) -> &str {
        &self.0.driver.hands().parts.node_id
    }

    /// The node's files.
    #[must_use]
    pub fn disk(&self) -> &Arc<Disk> {
        &self.0.driver.hands().parts.disk
    }

    /// The node's metrics.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.0.driver.hands().parts.metrics
    }

    /// Waits until the runtime has come this far.
    pub async fn reached(&self, phase: Phase) {
        // The sender lives as long as the driver.
        let _ = self.0.phase.clone().wait_for(|now| *now >= phase).await;
    }

    /// Takes no more calls, answers what is under way, and makes the log durable.
    pub async fn stop(&self) {
        self.0.driver.feed(Event::Input(Input::Stop));
        self.reached(Phase::Stopped).await;
    }

    /// Ends the driver's threads; blocks until they have ended.
    pub fn close(&self) {
        self.0.driver.close();
        self.0.driver.hands().pool.close();
    }
}

impl Hands<Runtime> for NodeHands {
    fn work(&self, driver: &Driver<Runtime, Self>, tag: work::Tag, op: work::Op) -> Option<Got> {
        match op {
            work::Op::OpenBundle(bytes) => {
                self.later(driver, tag, move |hands| Got::Opened(policies::open(&bytes, &hands.parts.limits)));
                None
            }
            work::Op::Evaluate { policy, request } => self.judge(driver, tag, policy, request),
            work::Op::Tool(request) => self.run_tool(driver, tag, &request),
            work::Op::CancelTool => {
                if let Some(tool) = held(&self.running).remove(&tag) {
                    tool.abort();
                }
                None
            }
            work::Op::Artifact(_) | work::Op::CheckSignature { .. } | work::Op::Host(_) => {
                panic!("the runtime verifies nothing: {tag:?}")
            }
        }
    }

    fn output(&self, output: Output) {
        match output {
            Output::Ready => self.reach(Phase::Ready),
            Output::Stopped => self.reach(Phase::Stopped),
            Output::Answer(call, answer) => {
                let waiting = held(&self.waiting).remove(&call);
                if let Some(waiting) = waiting {
                    // A caller that went away has no ear for it.
                    let _ = waiting.send(answer);
                }
            }
        }
    }

    fn note(&self, note: Note) {
        self.parts.log.note(&note);
    }

    fn halt(&self, halt: Halt) {
        (self.parts.on_halt)(halt);
    }

    fn hand_over(&self, job: Job) {
        self.tokio.spawn(async move { job() });
    }
}

impl NodeHands {
    fn reach(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// Does a piece of work on the pool and feeds its result.
    fn later(&self, driver: &Driver<Runtime, Self>, tag: work::Tag, work: impl FnOnce(&Self) -> Got + Send + 'static) {
        let driver = driver.clone();
        self.pool.submit(Box::new(move || {
            let got = work(driver.hands());
            driver.feed(Event::Work(tag, got));
        }));
    }

    fn judge(
        &self,
        driver: &Driver<Runtime, Self>,
        tag: work::Tag,
        policy: Compiled,
        request: Arc<Request>,
    ) -> Option<Got> {
        if let Some(judged) = policies::judge_at_once(&policy, &request, &self.parts.node_id) {
            return Some(Got::Evaluated(self.counted(judged)));
        }
        self.later(driver, tag, move |hands| {
            Got::Evaluated(hands.counted(policies::judge(&policy, &request, &hands.parts.node_id)))
        });
        None
    }

    fn counted(&self, judged: policies::Judged) -> policies::Judged {
        if matches!(judged, Err(EvaluationFault::Panic)) {
            self.parts.metrics.panicked("evaluator");
        }
        judged
    }

    fn run_tool(&self, driver: &Driver<Runtime, Self>, tag: work::Tag, request: &Request) -> Option<Got> {
        let running = match self.parts.tools.start(request.kind(), request.params()) {
            Started::Done(outcome) => return Some(Got::Ran(outcome)),
            Started::Running(running) => running,
        };
        let driver = driver.clone();
        // Held while the task is made, so that it cannot end before it is entered.
        let mut tasks = held(&self.running);
        let task = self.tokio.spawn(async move {
            let outcome = running.await;
            held(&driver.hands().running).remove(&tag);
            driver.feed(Event::Work(tag, Got::Ran(outcome)));
        });
        tasks.insert(tag, task.abort_handle());
        None
    }
}

/// These maps are changed by single calls: a panic of another thread leaves them whole.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
