//! What the world is made of: processes, calls, work under way, events.

use machines::activation::Loader;
use machines::runtime::Runtime;
use machines::time::Wall;
use machines::verify::{Step, Verify};
use machines::work::Got;

use crate::ledger::NONE;
use crate::oracles::Failure;
use crate::plan::{Call, Goal, OpKind, Order};
use crate::source::Source;

/// Nanoseconds of a microsecond.
pub(crate) const US: u64 = 1_000;
/// Operators at once.
pub(crate) const OPERATORS: usize = 4;
/// The process of the drain in the background of the runtime; commands follow it.
pub(crate) const BACKGROUND: usize = 1 + OPERATORS;
/// Drains at once: one in the background and two commands.
pub(crate) const DRAINS: usize = 3;
/// Processes: the node, operators, drains.
pub(crate) const PROCS: usize = BACKGROUND + DRAINS;
/// The calls that end a run have these numbers and up.
pub(crate) const PROBE: u32 = 60_000;
/// How long a healed world may take to drain, in microseconds.
pub(crate) const DRAIN_US: u64 = 30_000_000;

/// Faults that happened in this run so far: what an oracle may take as an excuse. See `oracles.rs`.
pub(crate) mod fired {
    /// Bytes of the log were damaged on the medium, or the file was cut by an operator.
    pub const MEDIA_LOG: u32 = 1;
    /// The live file was cut by an operator: the writer notices that its length is wrong.
    pub const CUT: u32 = 64;
    /// Bytes of policy files were damaged on the medium.
    pub const MEDIA_POLICY: u32 = 2;
    /// A sync reported failure.
    pub const LOST_SYNC: u32 = 4;
    /// An operation failed, or the disk was full.
    pub const DEVICE: u32 = 8;
    /// A read failed, or the sync that the node does before it takes a policy from a file.
    pub const READ: u32 = 16;
    /// The device was slow or the process stopped: times prove nothing.
    pub const SLOW: u32 = 32;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ev {
    Step(u32),
    Disk {
        proc: u8,
        lane: u8,
        epoch: u32,
    },
    Work {
        slot: u32,
        epoch: u32,
    },
    Due {
        epoch: u32,
        token: u32,
    },
    Start {
        epoch: u32,
    },
    /// A broken driver's completion.
    Early {
        tag: u32,
        epoch: u32,
    },
    Client(u32),
    /// The node is ready and drains in the background from now on.
    Background {
        epoch: u32,
    },
    DrainDue {
        proc: u8,
        epoch: u32,
        token: u32,
    },
    /// The precheck of this boot ends.
    Precheck {
        boot: u32,
    },
    /// A request reaches the collector.
    Arrive(u32),
    /// A copy of one does.
    Copy(u32),
    /// Its answer reaches the drain.
    Answer(u32),
    Heal,
    Watch,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub at: u64,
    pub order: u64,
    pub ev: Ev,
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// Where a call stands, as its caller sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Stage {
    #[default]
    Unsent,
    Waiting,
    Answered,
    /// The connection broke: the caller knows nothing.
    Lost,
    /// Nobody was listening.
    Refused,
}

/// One call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallRec {
    pub stage: Stage,
    pub call: Call,
    pub by_loop: u32,
    /// The oldest commit that may decide it.
    pub floor: u32,
    pub sent_us: u64,
    pub decision: u32,
    pub outcome: u32,
    pub tools_run: u8,
    pub status: u16,
    pub allow: bool,
}

impl CallRec {
    pub(crate) const fn new(call: Call, by_loop: u32) -> Self {
        Self {
            stage: Stage::Unsent,
            call,
            by_loop,
            floor: 0,
            sent_us: 0,
            decision: NONE,
            outcome: NONE,
            tools_run: 0,
            status: 0,
            allow: false,
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct LoopState {
    pub first: u32,
    pub n: u32,
    pub think_us: u64,
    pub next: u32,
}

/// The node's process.
#[derive(Debug, Default)]
pub(crate) struct Node {
    pub machine: Option<Box<Runtime>>,
    pub epoch: u32,
    pub life: u32,
    pub effects: u32,
    pub ready: bool,
    pub due_at: u64,
    pub due_token: u32,
    pub paused_until: u64,
    pub down_us: u64,
    /// It refused to open its log.
    pub halted: bool,
    pub stopping: bool,
    pub wrote_log: bool,
    pub started_us: u64,
    /// What the log's files said was durable when this life began.
    pub floor: u64,
    pub refusal_io: bool,
    pub was_failed: bool,
}

/// What an operator's process does.
#[derive(Debug)]
pub(crate) enum Deed {
    /// It verifies a release.
    Verifying(Box<Verify>),
    /// It changes what is in force.
    Changing(Box<Loader>),
}

/// What an operator asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Errand {
    Load,
    /// With `--below-floor` or without.
    Rollback {
        below: bool,
    },
    /// A release.
    Fetch(Order),
    ResetFloor {
        name: u8,
        time: bool,
    },
}

impl Errand {
    /// Whether it is about which policy is in force.
    pub(crate) const fn sets_policy(self) -> bool {
        match self {
            Self::Load | Self::Rollback { .. } => true,
            Self::Fetch(order) => matches!(order.goal, Goal::Activate(_)),
            Self::ResetFloor { .. } => false,
        }
    }
}

/// An operator's process.
#[derive(Debug)]
pub(crate) struct Operator {
    pub deed: Deed,
    pub errand: Errand,
    /// Of one that fetches a release.
    pub checking: Option<Box<Checking>>,
    pub effects: u32,
    pub crash: Option<u32>,
    pub locked: bool,
    /// What `activation.json` was when the lock was taken.
    pub before: u64,
    /// The same with all bundles, locks and records.
    pub before_all: u64,
    pub commits: u32,
    pub faulted: bool,
    /// What it committed, as an index.
    pub committed: Option<u32>,
    pub epoch: u32,
}

/// A verification under way.
#[derive(Clone, Debug)]
pub(crate) struct Checking {
    pub source: Source,
    /// The node's time floor when it began.
    pub floor: Wall,
    /// The earliest and the latest that the clock has said meanwhile.
    pub clock: (Wall, Wall),
    /// Steps that ended, in order: passed, failed, skipped.
    pub steps: Vec<(Step, Option<bool>)>,
    /// What passed: a release and the date of its signature.
    pub passed: Option<(u8, Wall)>,
}

#[derive(Debug)]
pub(crate) enum Job {
    Evaluate {
        call: u32,
        variant: u8,
    },
    Tool {
        call: u32,
    },
    /// What is known beforehand.
    Known(Option<Got>),
}

#[derive(Debug)]
pub(crate) struct WorkSlot {
    pub tag: machines::work::Tag,
    pub job: Job,
    pub proc: u8,
    pub epoch: u32,
    pub live: bool,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Armed {
    pub op: OpKind,
    pub file: crate::plan::FileKind,
    pub nospace: bool,
    pub partial: bool,
}

/// Where a run is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    #[default]
    Faults,
    Draining,
    Probing,
    Restarting,
    /// The node is up again for good; what is left is delivered.
    Delivering,
    Over,
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The first broken invariant.
    pub failure: Option<Failure>,
    /// The hash of everything that happened.
    pub hash: u64,
    /// How many events there were.
    pub events: u64,
    /// Effects of the node's lives, the first 16.
    pub effects: [u32; 16],
}
