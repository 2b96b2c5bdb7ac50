//! The runtime's side of a precheck: follows the marker of this boot and says whether it passed (SPEC 2, 10).
//!
//! Nothing is known before the first look, and whoever waits for the answer allows nothing meanwhile. A marker that cannot be
//! read, or not in time, has not passed.

use alloc::string::{String, ToString};
use alloc::vec;

use crate::disk::{Completion, Done, Fault, FaultKind, File, Lane, Op, Tag};
use crate::machine::{Deadline, Event, Level, Machine, Note, Outbox};
use crate::time::{Mono, Now, Span};

use super::files::{MAX_BYTES, Marker};

/// From one look to the next.
const POLL: Span = Span::from_secs(1);

/// How long a look may take before what was seen last counts no more.
const PATIENCE: Span = Span::from_secs(5);

/// Nothing can be asked of it.
#[derive(Clone, Copy, Debug)]
pub enum Input {}

/// It tells that what is known of the precheck changed, or is known for the first time; [`Watch::passed`] says how it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Changed;

/// The machine.
#[derive(Debug)]
pub struct Watch {
    boot_id: String,
    tags: u32,
    /// `None` before the first look has ended.
    verdict: Option<Result<(), String>>,
    stage: Stage,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    /// Until the next look.
    Resting(Mono),
    /// The marker is being read.
    Looking { tag: Tag, next: Mono, until: Mono },
    /// A look took too long. What it gives in the end may be old, so that another one follows it at once.
    Late(Tag),
}

impl Machine for Watch {
    const NAME: &'static str = "precheck_watch";
    type Input = Input;
    type Output = Changed;

    fn handle(&mut self, now: Now, event: Event<Input>, out: &mut Outbox<'_, Changed>) {
        match event {
            Event::Start(_) => self.look(now, out),
            Event::Due => match self.stage {
                Stage::Resting(until) if until <= now.mono => self.look(now, out),
                Stage::Looking { tag, until, .. } if until <= now.mono => {
                    self.stage = Stage::Late(tag);
                    self.judged(Err("bootstrap/precheck.json: reading it takes too long".into()), out);
                }
                Stage::Resting(_) | Stage::Looking { .. } | Stage::Late(_) => {}
            },
            Event::Disk(tag, completion) => match self.stage {
                Stage::Looking { tag: mine, next, .. } if mine == tag => {
                    self.stage = Stage::Resting(next);
                    let verdict = self.judge(completion);
                    self.judged(verdict, out);
                }
                Stage::Late(mine) if mine == tag => self.look(now, out),
                Stage::Resting(_) | Stage::Looking { .. } | Stage::Late(_) => {
                    panic!("precheck_watch: an unexpected completion: {tag:?}")
                }
            },
            Event::Tree(tag, _) => panic!("precheck_watch: it has no files by path: {tag:?}"),
            Event::Net(tag, _) => panic!("precheck_watch: it has no network: {tag:?}"),
            Event::Work(tag, _) => panic!("precheck_watch: it has no workers: {tag:?}"),
            Event::Input(never) => match never {},
        }
    }

    fn deadline(&self) -> Option<Deadline> {
        match self.stage {
            Stage::Resting(at) => Some(Deadline { at, why: "look at this boot's precheck" }),
            Stage::Looking { until, .. } => Some(Deadline { at: until, why: "a precheck that takes too long to read" }),
            Stage::Late(_) => None,
        }
    }

    fn check(&self) {
        let first = matches!(self.stage, Stage::Looking { .. } | Stage::Resting(Mono::ZERO));
        assert!(first || self.verdict.is_some(), "precheck_watch: it has looked and knows nothing");
    }
}

impl Watch {
    /// A watch that has looked at nothing yet; `boot_id` is the kernel's id of this boot.
    #[must_use]
    pub const fn new(boot_id: String) -> Self {
        Self { boot_id, tags: 0, verdict: None, stage: Stage::Resting(Mono::ZERO) }
    }

    /// Whether this boot's precheck passed, by the last look; `None` before the first one has ended.
    ///
    /// # Errors
    /// In words for the operator, why it does not count as passed.
    #[must_use]
    pub const fn passed(&self) -> Option<&Result<(), String>> {
        self.verdict.as_ref()
    }

    fn look(&mut self, now: Now, out: &mut Outbox<'_, Changed>) {
        self.tags = self.tags.wrapping_add(1);
        let tag = Tag { lane: Lane::Marker, id: self.tags };
        self.stage = Stage::Looking { tag, next: now.mono.after(POLL), until: now.mono.after(PATIENCE) };
        out.disk(tag, vec![Op::Read { file: File::Precheck, at: 0, len: MAX_BYTES }]);
    }

    fn judge(&self, completion: Completion) -> Result<(), String> {
        if self.boot_id.is_empty() {
            return Err("this boot has no id".into());
        }
        match completion {
            Ok(Done::Bytes(bytes)) => Marker::passed(Some(&bytes), &self.boot_id),
            Err(Fault { kind: FaultKind::NotFound, .. }) => Marker::passed(None, &self.boot_id),
            Err(fault) => Err(alloc::format!("bootstrap/precheck.json cannot be read: {}", fault.kind)),
            Ok(Done::Nothing | Done::Tail { .. } | Done::Listing(_)) => panic!("precheck_watch: a read without bytes"),
        }
    }

    fn judged(&mut self, verdict: Result<(), String>, out: &mut Outbox<'_, Changed>) {
        if self.verdict.as_ref() == Some(&verdict) {
            return;
        }
        out.note(match &verdict {
            Ok(()) => Note::new(Level::Info, "precheck_passed").with("boot_id", self.boot_id.as_str()),
            Err(why) => Note::new(Level::Warn, "precheck_failed").with("reason", why.to_string()),
        });
        self.verdict = Some(verdict);
        out.output(Changed);
    }
}
