//! The plan of a run: configuration, workload, faults with their times. A run is a pure function of its plan.
//!
//! The text form is what is printed on a failure, kept in `regressions/` and edited by the shrinker: one line each,
//! `key=value` pairs, times in microseconds since the start of the world, `#` starts a comment.

use std::fmt::{self, Write as _};

use crate::disk::Survival;

pub use crate::manner::{MANNERS, Manner};
pub use crate::prechecks::{MARKINGS, Marking};
pub use crate::supply::{Goal, LIES, Lies, NAMES, Order, PARTS, Part, WANTS, Wants};

/// The version of the text form.
pub const VERSION: u32 = 1;

/// A whole run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The key of all noise that the plan does not say.
    pub seed: u64,
    /// How the node is configured.
    pub config: Config,
    /// Which kinds of faults were switched on when the plan was drawn; says nothing more to the run.
    pub mask: Mask,
    /// What happens, in the order of time.
    pub steps: Vec<Step>,
}

/// The node's configuration and the run's frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Most calls at once.
    pub max_in_flight: u32,
    /// Size of the log.
    pub max_bytes: u64,
    /// How long delivered sealed files stay, in microseconds.
    pub retain_us: u64,
    /// Shed lifecycle events first.
    pub shed: bool,
    /// Strict mode.
    pub strict: bool,
    /// `tool.shell` is enabled.
    pub shell: bool,
    /// A tool's time limit, in microseconds.
    pub tool_timeout_us: u64,
    /// After this long an evaluation counts as over budget, in microseconds.
    pub backstop_us: u64,
    /// The bundle that is in force at the first start; `None` for a node without policy.
    pub policy: Option<u8>,
    /// The typical time of a sync, in microseconds.
    pub sync_us: u64,
    /// When faults end and everything has to drain.
    pub heal_us: u64,
    /// The runtime drains in the background.
    pub drain: bool,
    /// Records in a batch of the background drain, and of drains that end a run.
    pub batch: u32,
    /// How long a drain waits for an answer, and a command tries, in microseconds.
    pub patience_us: u64,
    /// The collector refuses one in so many records, by what they are; 0 = none.
    pub poison: u32,
    /// Events in the log before the story begins.
    pub past: u32,
    /// Only what passed the four steps on the node may be in force.
    pub verified: bool,
    /// Calls are denied until a precheck of this boot has passed.
    pub precheck: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_in_flight: 64,
            max_bytes: 1 << 30,
            retain_us: 1_000_000,
            shed: false,
            strict: false,
            shell: false,
            tool_timeout_us: 200_000,
            backstop_us: 60_000,
            policy: Some(0),
            sync_us: 500,
            heal_us: 1_000_000,
            drain: false,
            batch: 512,
            patience_us: 400_000,
            poison: 0,
            past: 0,
            verified: false,
            precheck: false,
        }
    }
}

/// Kinds of faults and of load, as a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mask(pub u64);

/// The names of the mask's bits.
pub const KINDS: &[&str] = &[
    "process",
    "power",
    "double",
    "nospace",
    "opfail",
    "syncfail",
    "stall",
    "rot",
    "misdirect",
    "cutlive",
    "clock",
    "pause",
    "loads",
    "loadcrash",
    "badbundles",
    "badtools",
    "badpolicies",
    "tinylog",
    "tinylimit",
    "bursts",
    "stops",
    "reader",
    "strict",
    "nopolicy",
    "drain",
    "drains",
    "draincrash",
    "collector",
    "poison",
    "past",
    "releases",
    "lies",
    "years",
    "verified",
    "precheck",
];

impl Mask {
    /// Whether the kind of this name is on.
    #[must_use]
    pub fn has(self, kind: &str) -> bool {
        KINDS.iter().position(|k| *k == kind).is_some_and(|at| self.0 >> at & 1 == 1)
    }

    /// Switches the kind of this name on or off.
    pub fn set(&mut self, kind: &str, on: bool) {
        if let Some(at) = KINDS.iter().position(|k| *k == kind) {
            self.0 = self.0 & !(1 << at) | u64::from(on) << at;
        }
    }
}

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// When.
    pub when: When,
    /// What.
    pub what: What,
}

/// When a step happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// At a time, in microseconds.
    At(u64),
    /// Right after the `n`-th effect of the node's `life`-th life, both from 1; n = 0 is before the first.
    Effect {
        /// Which life of the node's process.
        life: u32,
        /// How many effects of it have taken place.
        n: u32,
    },
    /// Right after the `step`-th operation, from 0, of the `nth` chain that seals the live file, from 1.
    Seal {
        /// Which seal.
        nth: u32,
        /// Which operation.
        step: u32,
    },
}

/// Tools of the simulated node, by how they behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// Gives its parameters back.
    Echo,
    /// `tool.shell`, enabled or not.
    Shell,
    /// Runs and fails.
    Fail,
    /// Never ends.
    Hang,
    /// Ends close to its time limit, on either side.
    Slow,
    /// Runs; its answer never arrives.
    Lost,
    /// Finds its parameters unfit.
    Bad,
    /// Says itself that it ran out of time.
    TimedOut,
    /// Is not known.
    Unknown,
}

/// All tools.
pub const TOOLS: &[Tool] = &[
    Tool::Echo,
    Tool::Shell,
    Tool::Fail,
    Tool::Hang,
    Tool::Slow,
    Tool::Lost,
    Tool::Bad,
    Tool::TimedOut,
    Tool::Unknown,
];

impl Tool {
    /// The `kind` of a request for it.
    #[must_use]
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Echo => "tool.echo",
            Self::Shell => "tool.shell",
            Self::Fail => "tool.fail",
            Self::Hang => "tool.hang",
            Self::Slow => "tool.slow",
            Self::Lost => "tool.lost",
            Self::Bad => "tool.bad",
            Self::TimedOut => "tool.timed",
            Self::Unknown => "tool.unknown",
        }
    }
}

/// One call, without its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its number: unique in the plan, and the key of its noise.
    pub id: u32,
    /// Which tool.
    pub tool: Tool,
    /// What the policies make of it: see `policies.rs`.
    pub class: u8,
    /// Bytes of padding in its parameters.
    pub pad: u32,
}

/// How the node goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// `kill -9`: the page cache stays.
    Process,
    /// Power loss.
    Power(Survival),
}

/// Operations by kind, for faults that hit the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpKind {
    /// `List`
    List,
    /// `Read` and `ReadTail`
    Read,
    /// `Put`
    Put,
    /// `Append`
    Append,
    /// `Publish`
    Publish,
    /// `Truncate`
    Truncate,
    /// `Sync`
    Sync,
    /// `Rename`
    Rename,
    /// `Remove`
    Remove,
    /// `SyncDir`
    SyncDir,
}

/// Files by kind, for faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// Any file.
    Any,
    /// `telemetry.wal`
    Live,
    /// A sealed segment.
    Sealed,
    /// `telemetry.safe_seq`
    SafeSeq,
    /// `telemetry.base`
    Base,
    /// `telemetry.pos`
    Positions,
    /// `activation.json`
    Activation,
    /// `policy/history.jsonl`
    History,
    /// A bundle.
    Bundle,
    /// A rejected record.
    Rejected,
    /// A lock, or the record of a verified bundle.
    Lock,
    /// `active-lock.json`
    ActiveLock,
    /// `bootstrap/precheck.json`
    Marker,
    /// A temporary file.
    Temp,
}

/// What happens in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// One call.
    Call(Call),
    /// A client that makes `n` calls (ids from `call.id`), each `think_us` after the answer to the one before.
    Loop {
        /// The first call.
        call: Call,
        /// How many.
        n: u32,
        /// Pause between answer and next call.
        think_us: u64,
    },
    /// `policy load` of a bundle by another process, which crashes after so many of its effects, if at all.
    Load {
        /// Which bundle: see `policies.rs`.
        variant: u8,
        /// After how many of its effects the process is killed.
        crash: Option<u32>,
    },
    /// `policy rollback` by another process.
    Rollback {
        /// With `--below-floor`.
        below: bool,
        /// After how many of its effects the process is killed.
        crash: Option<u32>,
    },
    /// A release is verified by another process and then put in force or stored.
    Fetch {
        /// Which, from where, and why.
        order: Order,
        /// After how many of its effects the process is killed.
        crash: Option<u32>,
    },
    /// `release floor reset` by another process.
    ResetFloor {
        /// Which of `NAMES`.
        name: u8,
        /// The time floor too.
        time: bool,
        /// After how many of its effects the process is killed.
        crash: Option<u32>,
    },
    /// The runtime is asked to stop, and started again `down_us` after it has.
    Stop {
        /// How long it stays down.
        down_us: u64,
    },
    /// Somebody leaves this as the marker of this boot's precheck.
    Mark {
        /// What.
        marking: Marking,
    },
    /// A reader reads the log up to the safe-point.
    Read,
    /// `telemetry drain` by another process, until everything is delivered.
    Drain {
        /// Records in a batch.
        batch: u32,
        /// After how many of its effects the process is killed.
        crash: Option<u32>,
    },
    /// The collector behaves so for a while.
    Collector {
        /// How.
        manner: Manner,
        /// How long.
        for_us: u64,
        /// `Retry-After` of its refusals; 0 = none.
        retry_us: u64,
    },
    /// The node goes down and comes up again after `down_us`.
    Crash {
        /// How.
        kind: Crash,
        /// How long it stays down.
        down_us: u64,
    },
    /// The next such operation on such a file fails.
    FailOp {
        /// Which operation.
        op: OpKind,
        /// On which file.
        file: FileKind,
        /// No space (else an I/O error).
        nospace: bool,
        /// A write that fails has written a part.
        partial: bool,
    },
    /// The disk is full for a while.
    Full {
        /// How long.
        for_us: u64,
        /// Syncs fail too (delayed allocation).
        syncs: bool,
        /// Renames fail too.
        renames: bool,
    },
    /// Syncs take longer for a while.
    Stall {
        /// How long.
        for_us: u64,
        /// By how much.
        add_us: u64,
    },
    /// One durable bit of such a file flips.
    Rot {
        /// Which file.
        file: FileKind,
        /// Chooses the bit.
        place: u64,
        /// The page cache does not hide it.
        evicted: bool,
    },
    /// The next sync of the live file writes to the wrong place.
    Misdirect,
    /// An operator cuts the live file to this part of a thousand of its length.
    CutLive {
        /// 1000 = nothing is cut.
        permille: u32,
    },
    /// The wall clock jumps.
    Jump {
        /// By how much; below zero = back.
        by_us: i64,
    },
    /// Both clocks run faster from now on.
    Drift {
        /// In parts of a million; below zero = slower.
        ppm: i32,
    },
    /// The node's process is stopped for a while and goes on (SIGSTOP, suspended machine).
    Pause {
        /// How long.
        for_us: u64,
    },
}

impl Plan {
    /// Reads the text form.
    ///
    /// # Errors
    /// What is wrong, with the line's number.
    pub fn parse(text: &str) -> Result<Self, String> {
        crate::plan_text::parse(text)
    }

    /// How many steps are faults.
    #[must_use]
    pub fn faults(&self) -> usize {
        self.steps.iter().filter(|step| step.what.is_fault()).count()
    }
}

impl What {
    /// Whether the step breaks something, as opposed to using the system.
    #[must_use]
    pub const fn is_fault(&self) -> bool {
        match self {
            Self::Call(_) | Self::Loop { .. } | Self::Rollback { .. } | Self::Load { .. } | Self::Stop { .. } => false,
            Self::Read | Self::Drain { .. } | Self::Fetch { .. } | Self::ResetFloor { .. } => false,
            // Once all faults end, nobody takes the marker away any more.
            Self::Mark { .. } => true,
            Self::Collector { .. }
            | Self::Crash { .. }
            | Self::FailOp { .. }
            | Self::Full { .. }
            | Self::Stall { .. }
            | Self::Rot { .. }
            | Self::Misdirect
            | Self::CutLive { .. }
            | Self::Jump { .. }
            | Self::Drift { .. }
            | Self::Pause { .. } => true,
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        crate::plan_text::print(self, &mut text);
        f.write_str(&text)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        crate::plan_text::print_step(self, &mut text)?;
        f.write_str(&text)
    }
}

impl fmt::Display for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for kind in KINDS.iter().filter(|kind| self.has(kind)) {
            if !first {
                f.write_char(',')?;
            }
            first = false;
            f.write_str(kind)?;
        }
        if first { f.write_str("none") } else { Ok(()) }
    }
}
