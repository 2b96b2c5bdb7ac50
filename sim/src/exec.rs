//! Disk operations on their way: latency, faults, and what is watched while they take effect.

use machines::disk::{Completion, Dir, Done, Fault, FaultKind as Kind, File, Lane, Lock, Op, Tag};
use machines::machine::Event;

use crate::disk::identity;
use crate::lanes::{Chain, LANES, index};
use crate::marks::Mark;
use crate::ops::{classify, words};
use crate::oracles::Oracle;
use crate::plan::{FileKind, OpKind};
use crate::rng::{Stream, draw};
use crate::sabotage::Sabotage;
use crate::world::{BACKGROUND, Ev, US, World, fired};

impl World {
    /// A process hands a chain in.
    pub(crate) fn submit(&mut self, proc: usize, tag: Tag, mut ops: Vec<Op>) {
        if self.sabotage.is_some() {
            self.spoil_chain(proc, tag.lane, &mut ops);
        }
        // The node looks at `activation.json` four times a second; nobody wants to read that.
        let poll = self.node.ready && matches!(ops.as_slice(), [Op::Read { file: File::Activation, .. }]);
        if !poll {
            self.say(|| format!("p{proc} {:?}#{}: {}", tag.lane, tag.id, words(&ops)));
        }
        self.trace.record(8, (proc as u64) << 40 | u64::from(tag.id), ops.len() as u64);
        if tag.lane == Lane::Log {
            for op in &ops {
                if let Op::Append { file: File::Live, at, bytes } = op {
                    self.note_frames(*at, bytes);
                } else if matches!(op, Op::Rename { from: File::Live, .. }) {
                    self.seals += 1;
                    self.hit(Mark::Sealed);
                }
            }
        }
        let at = proc * LANES + index(tag.lane);
        let Some(queue) = self.lanes.get_mut(at) else { return };
        queue.chains.push_back(Chain { tag, ops, step: 0, told: false });
        if queue.chains.len() == 1 {
            self.begin_op(at);
        }
        if proc == 0 && tag.lane == Lane::Log && self.node.ready && self.sabotaged_by(Sabotage::AnswersEarly) {
            self.tell_early(at);
        }
    }

    pub(crate) fn note_frames(&mut self, at: u64, bytes: &[u8]) {
        let (calls, trace) = (&mut self.calls, &mut self.trace);
        let (mut unknown, mut allowed) = (0, false);
        let count = self.ledger.submit(bytes, at, |index, entry, _| {
            trace.record(9, entry.seq, entry.h);
            let Ok(place) = calls.binary_search_by_key(&entry.call, |rec| rec.call.id) else { return };
            let Some(rec) = calls.get_mut(place) else { return };
            match entry.kind {
                crate::ledger::Kind::Allow => {
                    rec.decision = index;
                    allowed = true;
                }
                crate::ledger::Kind::Deny => rec.decision = index,
                crate::ledger::Kind::Outcome => rec.outcome = index,
                crate::ledger::Kind::Unknown => {
                    rec.outcome = index;
                    unknown += 1;
                }
                crate::ledger::Kind::Other => {}
            }
        });
        for _ in 0..unknown {
            self.hit(Mark::OutcomeUnknown);
        }
        if allowed {
            self.check_allowed_by_precheck();
        }
        if count >= 8 {
            self.hit(Mark::GroupOfEight);
        }
        if self.sabotaged_by(Sabotage::ToolRunsEarly) {
            self.tools_run_early();
        }
    }

    /// Starts the operation that is next in a lane.
    fn begin_op(&mut self, at: usize) {
        let Some(queue) = self.lanes.get_mut(at) else { return };
        let Some(chain) = queue.chains.front() else { return };
        let Some(op) = chain.ops.get(chain.step) else { return };
        let proc = at / LANES;
        if matches!(op, Op::Lock(Lock::Activation)) {
            if self.lock.is_some_and(|owner| usize::from(owner) != proc) {
                queue.waits = true;
                return self.hit(Mark::LockContended);
            }
            self.lock = u8::try_from(proc).ok();
        }
        queue.ops += 1;
        let noise = draw(self.plan.seed, Stream::DiskLatency, at as u64, queue.ops);
        let sync = self.plan.config.sync_us * US;
        let mut takes = match op {
            Op::List | Op::Read { .. } | Op::ReadTail { .. } => 5_000 + noise % 60_000,
            Op::Put { .. } | Op::Append { .. } | Op::Rewrite { .. } => 4_000 + noise % 30_000,
            Op::Publish(_) | Op::Truncate { .. } | Op::Rename { .. } | Op::Remove(_) => 2_000 + noise % 12_000,
            Op::MakeDir(_) | Op::Lock(_) | Op::Unlock(_) => 1_000,
            Op::Sync(_) | Op::SyncDir(_) => sync / 2 + noise % (sync * 2).max(1),
        };
        if self.now < self.stall_until && matches!(op, Op::Sync(_) | Op::SyncDir(_)) {
            takes += self.stall_add;
        }
        if self.sabotaged_by(Sabotage::Nondeterminism) {
            takes += crate::sweep::outside_number() % 50_000;
        }
        let lane = u8::try_from(at % LANES).unwrap_or(0);
        let epoch = self.epoch_of(proc);
        self.push(self.now + takes, Ev::Disk { proc: u8::try_from(proc).unwrap_or(0), lane, epoch });
    }

    pub(crate) fn epoch_of(&self, proc: usize) -> u32 {
        if proc >= BACKGROUND {
            return self.drainer(proc).map_or(u32::MAX, |drainer| drainer.epoch);
        }
        match proc.checked_sub(1) {
            None => self.node.epoch,
            Some(p) => self.operators.get(p).and_then(|o| o.as_ref()).map_or(u32::MAX, |o| o.epoch),
        }
    }

    /// An operation takes effect.
    pub(crate) fn disk_event(&mut self, proc: u8, lane: u8, epoch: u32) {
        let proc = usize::from(proc);
        if self.epoch_of(proc) != epoch {
            return;
        }
        let at = proc * LANES + usize::from(lane);
        let Some(mut chain) = self.lanes.get_mut(at).and_then(|queue| queue.chains.pop_front()) else { return };
        let Some(op) = chain.ops.get(chain.step) else { return };
        let result = self.perform(proc, op);
        self.trace.record(10, (at as u64) << 32 | chain.step as u64, self.now ^ u64::from(result.is_ok()));
        let early = self.sabotaged_by(Sabotage::CompletesBeforeSync)
            && proc == 0
            && matches!(op, Op::Append { file: File::Live, .. });
        let step = chain.step;
        chain.step += 1;
        let ended = result.is_err() || chain.step >= chain.ops.len();
        if let Err(kind) = &result {
            self.say(|| format!("p{proc} {:?}#{} step {step}: {kind:?}", chain.tag.lane, chain.tag.id));
        }
        let sealing = proc == 0 && chain.ops.iter().any(|op| matches!(op, Op::Rename { from: File::Live, .. }));
        if sealing {
            self.seal_step(step);
            if self.epoch_of(proc) != epoch {
                return self.hit(Mark::CrashInSeal);
            }
        }
        if self.process_effect(proc, epoch) {
            return;
        }
        let (tag, told) = (chain.tag, chain.told);
        if !ended {
            chain.told |= early;
            if let Some(queue) = self.lanes.get_mut(at) {
                queue.chains.push_front(chain);
            }
            self.begin_op(at);
            if early && !told {
                self.deliver_completion(proc, tag, Ok(Done::Nothing));
            }
            return;
        }
        if self.lanes.get(at).is_some_and(|queue| !queue.chains.is_empty()) {
            self.begin_op(at);
        }
        if !told {
            self.deliver_completion(proc, tag, result.map_err(|kind| Fault { step, kind }));
        }
    }

    /// Counts an effect of a process. True when that was its last.
    fn process_effect(&mut self, proc: usize, epoch: u32) -> bool {
        if proc == 0 {
            return self.effect_done() || self.failure.is_some();
        }
        if proc >= BACKGROUND {
            return self.drain_effect(proc, epoch) || self.failure.is_some();
        }
        self.operator_effect(proc);
        self.epoch_of(proc) != epoch || self.failure.is_some()
    }

    fn deliver_completion(&mut self, proc: usize, tag: Tag, completion: Completion) {
        if proc == 0 {
            self.feed(Event::Disk(tag, completion));
        } else if proc >= BACKGROUND {
            self.drain_completion(proc, tag, completion);
        } else {
            self.feed_operator(proc, Event::Disk(tag, completion));
        }
    }

    /// A broken driver says that the last chain of a lane is done before it is.
    fn tell_early(&mut self, at: usize) {
        let Some(chain) = self.lanes.get_mut(at).and_then(|queue| queue.chains.back_mut()) else { return };
        if !chain.told {
            chain.told = true;
            let (tag, epoch) = (chain.tag.id, self.node.epoch);
            self.push(self.now + 1_000, Ev::Early { tag, epoch });
        }
    }

    /// The broken driver's completion arrives.
    pub(crate) fn early_event(&mut self, tag: u32, epoch: u32) {
        if epoch == self.node.epoch {
            self.deliver_completion(0, Tag { lane: Lane::Log, id: tag }, Ok(Done::Nothing));
        }
    }

    /// The lock is given back; the longest waiting lane gets it.
    pub(crate) fn unlock(&mut self) {
        self.lock = None;
        if let Some(at) = self.lanes.iter().position(|queue| queue.waits) {
            if let Some(queue) = self.lanes.get_mut(at) {
                queue.waits = false;
            }
            self.begin_op(at);
        }
    }

    fn perform(&mut self, proc: usize, op: &Op) -> Result<Done, Kind> {
        let (kind, file) = classify(op);
        if let Some(kind) = kind {
            let hit =
                |armed: &crate::world::Armed| armed.op == kind && (armed.file == FileKind::Any || armed.file == file);
            if let Some(at) = self.armed.iter().position(hit) {
                let armed = self.armed.remove(at);
                return Err(self.op_fails(proc, op, armed.nospace, armed.partial));
            }
            if self.now < self.full_until {
                let needs = match kind {
                    OpKind::Put | OpKind::Append => true,
                    OpKind::Sync => self.full_syncs,
                    OpKind::Rename | OpKind::SyncDir => self.full_renames,
                    OpKind::List | OpKind::Read | OpKind::Publish | OpKind::Truncate | OpKind::Remove => false,
                };
                if needs {
                    let partial = draw(self.plan.seed, Stream::Cut, self.now, 5).is_multiple_of(2);
                    return Err(self.op_fails(proc, op, true, partial));
                }
            }
        }
        self.apply_op(proc, op)
    }

    fn op_fails(&mut self, proc: usize, op: &Op, nospace: bool, partial: bool) -> Kind {
        self.fired |= fired::DEVICE;
        if let Some(Some(operator)) = proc.checked_sub(1).and_then(|p| self.operators.get_mut(p)) {
            operator.faulted = true;
        }
        if let Some(drainer) = self.drainer_mut(proc) {
            drainer.faulted = true;
        }
        let key = draw(self.plan.seed, Stream::Cut, self.now, 6);
        if proc == 0
            && matches!(op, Op::Sync(File::Activation | File::Bundle(_)) | Op::SyncDir(Dir::State | Dir::Bundles))
        {
            self.fired |= fired::READ;
        }
        match op {
            Op::Sync(file) => {
                self.fired |= fired::LOST_SYNC;
                self.disk.sync_fails(*file, key ^ identity(*file));
            }
            Op::Append { bytes, .. } | Op::Put { bytes, .. } if partial && !bytes.is_empty() => {
                self.disk.apply_cut(op, usize::try_from(key % bytes.len() as u64).unwrap_or(0));
                if let (Op::Append { file: File::Live, at, .. }, Some(inode)) = (op, self.disk.number(File::Live)) {
                    self.ledger.place(inode, *at, bytes.len());
                }
            }
            Op::List | Op::Read { .. } | Op::ReadTail { .. } => self.fired |= fired::READ,
            Op::Append { .. }
            | Op::Put { .. }
            | Op::Rewrite { .. }
            | Op::Publish(_)
            | Op::Truncate { .. }
            | Op::Rename { .. }
            | Op::Remove(_)
            | Op::SyncDir(_)
            | Op::MakeDir(_)
            | Op::Lock(_)
            | Op::Unlock(_) => {}
        }
        if nospace { Kind::NoSpace } else { Kind::Io(5) }
    }

    /// Looks at what is there before an operation changes it. Gives the cursors.
    fn before_op(&mut self, proc: usize, op: &Op) -> [u64; 3] {
        if let Op::Remove(file @ File::Sealed(_)) = op {
            self.check_removal(*file);
        }
        if matches!(op, Op::Read { file: File::SafeSeq, .. }) && proc >= BACKGROUND {
            self.note_safe_read(proc);
        }
        if matches!(op, Op::Rename { to: File::Positions, .. }) { self.cursors() } else { [0; 3] }
    }

    /// Does an operation without any fault, and looks at what it means.
    pub(crate) fn apply_op(&mut self, proc: usize, op: &Op) -> Result<Done, Kind> {
        let before = self.before_op(proc, op);
        if self.sabotage.is_some()
            && let Some(result) = self.spoil_op(proc, op)
        {
            return result;
        }
        let held = matches!(op, Op::Lock(Lock::Drain)) && !self.lock_drain(proc);
        let result = if held { Err(Kind::Held) } else { self.disk.apply(op) };
        match (op, &result) {
            (Op::Append { file: File::Live, at, bytes }, Ok(_)) => {
                self.node.wrote_log = true;
                if let Some(inode) = self.disk.number(File::Live) {
                    self.ledger.place(inode, *at, bytes.len());
                }
            }
            (Op::Append { file: File::Live, .. }, Err(Kind::Changed)) => {
                self.hit(Mark::ChangedUnderWriter);
                if !self.has_fired(fired::CUT) {
                    self.fail(Oracle::LogShape, || "the writer's idea of the log's length is wrong".into());
                }
            }
            (Op::Publish(seq), Ok(_)) => {
                self.node.wrote_log = true;
                self.check_published(seq.get());
            }
            (Op::Sync(File::Live), Ok(_)) => self.note_misdirected(),
            (Op::Rename { to: File::Base, .. }, Ok(_)) => self.base_written(),
            (Op::Rename { to: File::Activation, .. } | Op::Put { file: File::Activation, .. }, Ok(_)) => {
                self.committed(proc);
            }
            (
                Op::Truncate { file: File::Live, .. }
                | Op::Rewrite { file: File::Live | File::Sealed(_), .. }
                | Op::Put { file: File::Live | File::Base | File::SafeSeq, .. },
                Ok(_),
            ) => {
                self.node.wrote_log |= proc == 0;
            }
            (Op::Remove(File::Sealed(_)), Ok(_)) => self.hit(Mark::SegmentsRemoved),
            (Op::Rename { to: File::Positions, .. }, Ok(_)) => self.check_cursors(proc, before),
            (Op::Rename { to: file @ File::Rejected(_), .. }, Ok(_)) => self.put_aside(*file),
            (Op::Unlock(Lock::Drain), Ok(_)) => self.unlock_drain(proc),
            (Op::Lock(Lock::Activation), Ok(_)) => self.locked(proc),
            (Op::Unlock(Lock::Activation), Ok(_)) => self.unlock(),
            _ => {}
        }
        result
    }
}
