//! What a node did before the story begins: events of all classes in its log, whole and durable.

use std::collections::VecDeque;

use machines::disk::{Completion, Done, Fault, Op, Tag};
use machines::ids::IdSource;
use machines::machine::{Effect, Event, Machine as _, Outbox};
use machines::wal::frame::{Kind, Record};
use machines::wal::{Class, Input, Output, Wal};

use crate::disk::Survival;
use crate::rng::{Stream, draw};
use crate::world::World;

impl World {
    /// Writes the plan's past by the log itself, at once and without faults.
    pub(crate) fn write_past(&mut self) {
        let count = self.plan.config.past;
        if count == 0 {
            return;
        }
        let mut wal = Wal::new(self.config().wal);
        let mut ids = IdSource::new(self.entropy(4 << 32));
        let wall = self.clock.now(self.now).wall;
        let mut events = VecDeque::from([Event::Start(self.entropy(5 << 32))]);
        for n in 0..count {
            let (kind, class, body) = match draw(self.plan.seed, Stream::Load, 1 << 32, u64::from(n)) % 8 {
                0..=3 => (Kind::Lifecycle, Class::Lifecycle, format!("{{\"phase\":\"past\",\"n\":{n}}}")),
                4 | 5 => {
                    (Kind::Error, Class::Fault, format!("{{\"code\":\"past\",\"message\":\"simulated\",\"n\":{n}}}"))
                }
                _ => (Kind::Decision, Class::Deny, format!("{{\"decision\":\"deny\",\"reason\":\"past\",\"n\":{n}}}")),
            };
            let record = Record { kind, audit_id: ids.next(wall), trace: None, body };
            events.push_back(Event::Input(Input::Append { ticket: None, class, record }));
        }
        events.push_back(Event::Input(Input::Stop));
        let (mut opened, mut stopped) = (false, false);
        let mut chains: VecDeque<(Tag, Vec<Op>)> = VecDeque::new();
        while !stopped {
            // The log is opened before anything is asked of it; then one request after the other.
            let event = match chains.pop_front() {
                Some((tag, ops)) => Event::Disk(tag, self.run_at_once(&ops)),
                None => match events.pop_front() {
                    Some(event) => event,
                    None => return,
                },
            };
            let mut effects = Vec::new();
            wal.handle(self.clock.now(self.now), event, &mut Outbox::over(&mut effects));
            for effect in effects {
                match effect {
                    Effect::Disk(tag, ops) => chains.push_back((tag, ops)),
                    Effect::Output(Output::Opened { .. }) => opened = true,
                    Effect::Output(Output::Stopped) => stopped = true,
                    Effect::Output(Output::Released(_) | Output::Refused(..) | Output::Failed)
                    | Effect::Tree(..)
                    | Effect::Net(..)
                    | Effect::Work(..)
                    | Effect::Note(_)
                    | Effect::Halt(_) => {}
                }
            }
        }
        debug_assert!(opened, "the past begins with an open log");
        self.ledger.forget_unplaced();
        self.disk.power_loss(Survival::Everything);
    }

    fn run_at_once(&mut self, ops: &[Op]) -> Completion {
        let mut last = Done::Nothing;
        for (step, op) in ops.iter().enumerate() {
            if let Op::Append { at, bytes, .. } = op {
                self.note_frames(*at, bytes);
            }
            last = self.apply_op(0, op).map_err(|kind| Fault { step, kind })?;
        }
        Ok(last)
    }
}
