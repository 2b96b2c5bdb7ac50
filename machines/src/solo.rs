//! The solo harness of the tests: one machine, a perfect disk in memory, and a transcript of what went between.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::{Debug, Write as _};

use crate::disk::{Completion, Done, Fault, FaultKind, File, Op, Tag};
use crate::machine::{Effect, Entropy, Event, Halt, Machine, Note, Outbox};
use crate::net;
use crate::time::{Mono, Now, Span, Wall};
use crate::tree;
use crate::work;

pub type Files = BTreeMap<File, Vec<u8>>;

pub struct Solo<M: Machine> {
    pub machine: M,
    pub files: Files,
    pub chains: VecDeque<(Tag, Vec<Op>)>,
    /// Chains of files by path: the test's to carry out.
    pub trees: VecDeque<(tree::Tag, Vec<tree::Op>)>,
    pub requests: VecDeque<(net::Tag, net::Op)>,
    pub works: VecDeque<(work::Tag, work::Op)>,
    pub outputs: Vec<M::Output>,
    pub notes: Vec<Note>,
    pub halt: Option<Halt>,
    pub now: Now,
    pub transcript: String,
    /// The next chain fails so at this step.
    pub fail: Option<(usize, FaultKind)>,
}

impl<M: Machine> Solo<M>
where
    M::Output: Debug,
{
    pub fn new(machine: M, files: Files) -> Self {
        Self {
            machine,
            files,
            chains: VecDeque::new(),
            trees: VecDeque::new(),
            requests: VecDeque::new(),
            works: VecDeque::new(),
            outputs: Vec::new(),
            notes: Vec::new(),
            halt: None,
            now: Now { mono: Mono::ZERO, wall: Wall::from_micros(1_763_724_637_000_000) },
            transcript: String::new(),
            fail: None,
        }
    }

    /// Starts the machine and runs everything that follows.
    pub fn started(machine: M, files: Files) -> Self {
        let mut solo = Self::new(machine, files);
        solo.event(Event::Start(Entropy([3; 32])));
        solo.run();
        solo
    }

    pub fn input(&mut self, input: M::Input) {
        self.event(Event::Input(input));
    }

    pub fn event(&mut self, event: Event<M::Input>) {
        let mut effects = Vec::new();
        self.machine.handle(self.now, event, &mut Outbox::over(&mut effects));
        self.machine.check();
        for effect in effects {
            match effect {
                Effect::Disk(tag, chain) => {
                    for op in &chain {
                        writeln!(self.transcript, "  disk {:?}: {}", tag.lane, short(op)).unwrap();
                    }
                    self.chains.push_back((tag, chain));
                }
                Effect::Tree(tag, chain) => self.trees.push_back((tag, chain)),
                Effect::Net(tag, op) => self.requests.push_back((tag, op)),
                Effect::Work(tag, op) => self.works.push_back((tag, op)),
                Effect::Output(output) => {
                    writeln!(self.transcript, "  says {output:?}").unwrap();
                    self.outputs.push(output);
                }
                Effect::Note(note) => {
                    writeln!(self.transcript, "  notes {}", note.msg).unwrap();
                    self.notes.push(note);
                }
                Effect::Halt(halt) => {
                    writeln!(self.transcript, "  halts {}", halt.code).unwrap();
                    self.halt = Some(halt);
                }
            }
        }
    }

    /// Executes the oldest chain and feeds its completion.
    pub fn step(&mut self) -> bool {
        let Some((tag, chain)) = self.chains.pop_front() else { return false };
        let completion = self.execute(&chain);
        writeln!(self.transcript, "{:?} chain: {}", tag.lane, if completion.is_ok() { "done" } else { "failed" })
            .unwrap();
        self.event(Event::Disk(tag, completion));
        true
    }

    pub fn run(&mut self) {
        while self.step() {}
    }

    /// Lets time pass to the machine's deadline and wakes it.
    pub fn wake(&mut self) {
        let due = self.machine.deadline().expect("a deadline");
        self.now.mono = self.now.mono.max(due.at);
        writeln!(self.transcript, "due: {}", due.why).unwrap();
        self.event(Event::Due);
        self.run();
    }

    pub fn pass(&mut self, span: Span) {
        self.now.mono = self.now.mono.after(span);
        self.now.wall = Wall::from_micros(self.now.wall.as_micros() + span.as_micros());
    }

    fn execute(&mut self, chain: &[Op]) -> Completion {
        let mut done = Done::Nothing;
        let fail = self.fail.take();
        for (step, op) in chain.iter().enumerate() {
            if let Some((at, kind)) = fail
                && at == step
            {
                return Err(Fault { step, kind });
            }
            done = self.op(op).map_err(|kind| Fault { step, kind })?;
        }
        Ok(done)
    }

    fn op(&mut self, op: &Op) -> Result<Done, FaultKind> {
        match op {
            Op::List => Ok(Done::Listing(
                self.files
                    .iter()
                    .filter(|(f, _)| f.dir() == crate::disk::Dir::Telemetry && !matches!(f, File::Temp(_)))
                    .map(|(f, b)| (*f, b.len() as u64))
                    .collect(),
            )),
            Op::Read { file, at, len } => {
                let bytes = self.files.get(file).ok_or(FaultKind::NotFound)?;
                let from = bytes.len().min(*at as usize);
                let to = bytes.len().min(from + *len as usize);
                Ok(Done::Bytes(bytes[from..to].to_vec()))
            }
            Op::ReadTail { file, len } => {
                let bytes = self.files.get(file).ok_or(FaultKind::NotFound)?;
                let from = bytes.len().saturating_sub(*len as usize);
                Ok(Done::Tail { total: bytes.len() as u64, bytes: bytes[from..].to_vec() })
            }
            Op::Put { file, bytes } => {
                self.files.insert(*file, bytes.clone());
                Ok(Done::Nothing)
            }
            Op::Append { file, at, bytes } => {
                let content = self.files.get_mut(file).ok_or(FaultKind::NotFound)?;
                if content.len() as u64 != *at {
                    return Err(FaultKind::Changed);
                }
                content.extend_from_slice(bytes);
                Ok(Done::Nothing)
            }
            Op::Publish(seq) => {
                self.files.insert(File::SafeSeq, seq.get().to_le_bytes().to_vec());
                Ok(Done::Nothing)
            }
            Op::Truncate { file, len } => {
                self.files.get_mut(file).ok_or(FaultKind::NotFound)?.truncate(*len as usize);
                Ok(Done::Nothing)
            }
            Op::Sync(file) => self.files.get(file).map(|_| Done::Nothing).ok_or(FaultKind::NotFound),
            Op::Rename { from, to } => {
                let bytes = self.files.remove(from).ok_or(FaultKind::NotFound)?;
                self.files.insert(*to, bytes);
                Ok(Done::Nothing)
            }
            Op::Remove(file) => {
                self.files.remove(file);
                Ok(Done::Nothing)
            }
            Op::SyncDir(_) | Op::MakeDir(_) | Op::Lock(_) | Op::Unlock(_) | Op::Rewrite { .. } => Ok(Done::Nothing),
        }
    }
}

/// An operation in a few words, without bytes.
fn short(op: &Op) -> String {
    match op {
        Op::Put { file, bytes } => alloc::format!("Put {} ({} bytes)", file.name(), bytes.len()),
        Op::Append { file, at, bytes } => alloc::format!("Append {} at {at} ({} bytes)", file.name(), bytes.len()),
        other => alloc::format!("{other:?}"),
    }
}
