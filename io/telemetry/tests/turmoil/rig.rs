//! The world around the two hosts: what the scenario does to them, what was seen, and what must always hold.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use io_telemetry::sink::{Behave, SinkHandle};
use machines::drain::batch::Class;
use machines::drain::{Config, Failure, Output, Until};
use machines::net::{Answer, Got};
use machines::wal::frame::Kind;
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::Notify;

use super::hosts;
use super::log::{EPOCH, Log};

/// Records in a batch, unless a scenario says otherwise.
pub const BATCH: usize = 8;

/// Something that happened at the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A request left the drain: its class and sequences.
    Sent(Class, Vec<u64>),
    /// It ended.
    Got(Got),
    /// The drain said something.
    Said(Output),
}

impl What {
    /// Whether a receiver took a batch.
    pub fn is_taken(&self) -> bool {
        matches!(self, Self::Got(Got::Answered(Answer { status: 200, .. })))
    }
}

/// What the hosts and the scenario share: it outlives every crash.
pub struct Shared {
    pub config: Config,
    pub node_dir: TempDir,
    pub sink_dir: TempDir,
    /// Packets from the node or to it are lost.
    pub cut: AtomicBool,
    /// The collector is to listen.
    pub up: AtomicBool,
    pub stop: Notify,
    seed: u64,
    log: Mutex<Log>,
    behave: Mutex<Behave>,
    handle: Mutex<Option<SinkHandle>>,
    marks: Mutex<Vec<(u128, What)>>,
}

impl Shared {
    pub fn entropy(&self) -> [u8; 32] {
        *blake3::hash(&self.seed.to_le_bytes()).as_bytes()
    }

    pub fn ends_when_empty(&self) -> bool {
        self.config.until == Until::Empty
    }

    pub fn behave(&self) -> Behave {
        self.behave.lock().unwrap().clone()
    }

    pub fn serves(&self, handle: SinkHandle) {
        *self.handle.lock().unwrap() = Some(handle);
    }

    pub fn mark(&self, what: What) {
        let at = turmoil::sim_elapsed().expect("on a host").as_millis();
        self.marks.lock().unwrap().push((at, what));
    }

    /// The lines of the collector's file, in the order in which it took them.
    pub fn taken(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.sink_dir.path().join("records.jsonl")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).expect("whole lines")).collect()
    }

    /// No cursor is ahead of what the collector took.
    pub fn check_cursors(&self) {
        let log = self.log.lock().unwrap();
        let taken: BTreeSet<_> = self.taken().iter().map(seq_of).collect();
        for (class, cursor) in Class::ALL.into_iter().zip(log.cursors()) {
            let lost = log.entries.iter().find(|e| e.class == class && e.seq <= cursor && !taken.contains(&e.seq));
            assert_eq!(lost, None, "the cursor of {class:?} is at {cursor}");
        }
    }
}

pub fn seq_of(line: &Value) -> u64 {
    line["seq"].as_u64().expect("a sequence")
}

/// A simulation.
pub struct Rig {
    sim: turmoil::Sim<'static>,
    shared: Arc<Shared>,
    record_len: usize,
}

/// A scenario's settings; the rest is as in production.
pub struct Plan {
    pub until: Until,
    pub batch_records: usize,
    /// Messages take a time up to this one, different for each.
    pub latency: Duration,
    /// Bytes of a record's body.
    pub record_len: usize,
    /// The log at the start.
    pub kinds: Vec<Kind>,
    pub up: bool,
    pub behave: Behave,
}

impl Plan {
    /// A node that drains a mixed log to a collector that is there.
    pub fn new(until: Until) -> Self {
        Self {
            until,
            batch_records: BATCH,
            latency: Duration::from_millis(20),
            record_len: 40,
            kinds: mixed(96),
            up: true,
            behave: Behave::Accept,
        }
    }

    pub fn start(self, seed: u64) -> Rig {
        let node_dir = tempfile::tempdir().unwrap();
        let mut log = Log::new(node_dir.path().to_owned());
        log.append(&self.kinds, self.record_len);
        let config = Config { batch_records: self.batch_records, until: self.until, ..Config::default() };
        let shared = Arc::new(Shared {
            config,
            node_dir,
            sink_dir: tempfile::tempdir().unwrap(),
            cut: AtomicBool::new(false),
            up: AtomicBool::new(self.up),
            stop: Notify::new(),
            seed,
            log: Mutex::new(log),
            behave: Mutex::new(self.behave),
            handle: Mutex::new(None),
            marks: Mutex::new(Vec::new()),
        });
        let mut sim = turmoil::Builder::new()
            .rng_seed(seed)
            .epoch(SystemTime::UNIX_EPOCH + Duration::from_micros(EPOCH.as_micros()))
            .simulation_duration(Duration::from_secs(3600))
            .min_message_latency(Duration::from_millis(2))
            .max_message_latency(self.latency)
            .build();
        let one = Arc::clone(&shared);
        sim.host("collector", move || hosts::collector(Arc::clone(&one)));
        let one = Arc::clone(&shared);
        sim.host("node", move || hosts::node(Arc::clone(&one)));
        Rig { sim, shared, record_len: self.record_len }
    }
}

/// Records of all kinds, errors last.
pub fn mixed(records: usize) -> Vec<Kind> {
    let kinds = [Kind::Lifecycle, Kind::Decision, Kind::Action, Kind::Decision, Kind::Action, Kind::Decision];
    let errors = records / 12;
    let mut all: Vec<_> = kinds.into_iter().cycle().take(records - errors).collect();
    all.extend(std::iter::repeat_n(Kind::Error, errors));
    all
}

/// What happens to the world.
impl Rig {
    fn step(&mut self) {
        if let Err(error) = self.sim.step() {
            panic!("a host failed: {error}\n{}", self.trace());
        }
    }

    /// Lets so much time pass.
    pub fn pass(&mut self, span: Duration) {
        let end = self.sim.elapsed() + span;
        while self.sim.elapsed() < end {
            self.step();
        }
    }

    /// Goes on until something is so, which must take no longer than `within`.
    pub fn until(&mut self, what: &str, within: Duration, mut is_so: impl FnMut(&Self) -> bool) {
        let end = self.sim.elapsed() + within;
        while !is_so(self) {
            assert!(self.sim.elapsed() < end, "waited {within:?} for: {what}\n{}", self.trace());
            self.step();
        }
    }

    /// Goes on until `count` more marks are so.
    pub fn until_marks(&mut self, what: &str, count: usize, is_one: impl Fn(&What) -> bool) {
        let from = self.shared.marks.lock().unwrap().len();
        let so = |rig: &Self| {
            let marks = rig.shared.marks.lock().unwrap();
            marks.iter().skip(from).filter(|(_, mark)| is_one(mark)).count() >= count
        };
        self.until(what, Duration::from_secs(120), so);
    }

    /// Goes on until `count` more batches were taken and the node knows it.
    pub fn until_taken(&mut self, count: usize) {
        self.until_marks("batches are taken", count, What::is_taken);
    }

    /// Goes on until the next request is on its way, which takes it two milliseconds at least.
    pub fn until_sent(&mut self) {
        self.until_marks("a request", 1, |what| matches!(what, What::Sent(..)));
        self.pass(Duration::from_millis(1));
    }

    /// Goes on until the collector stores something: the answer to it is on its way then.
    pub fn until_stored(&mut self) {
        let before = self.stored();
        self.until("the collector stores a batch", Duration::from_secs(60), |rig| rig.stored() > before);
    }

    /// Goes on until cursors are written.
    pub fn until_cursors_move(&mut self) {
        let before = self.cursors();
        self.until("cursors are written", Duration::from_secs(60), |rig| rig.cursors() != before);
    }

    /// Goes on until the last request that was sent has ended without an answer.
    pub fn until_fault(&mut self) -> Got {
        self.until_marks("a fault", 1, |what| matches!(what, What::Got(Got::Failed(_))));
        self.marks()
            .into_iter()
            .rev()
            .find_map(|what| if let What::Got(got) = what { Some(got) } else { None })
            .unwrap()
    }

    /// Goes on until the drain has ended; its last words.
    pub fn until_end(&mut self) -> Output {
        let end = self.sim.elapsed() + Duration::from_secs(300);
        while self.sim.is_host_running("node") {
            assert!(self.sim.elapsed() < end, "the drain does not end\n{}", self.trace());
            self.step();
        }
        match self.marks().pop() {
            Some(What::Said(output)) => output,
            other => panic!("{other:?}"),
        }
    }

    /// Lets a drain that goes on deliver everything, and tells it to stop.
    pub fn until_empty_and_stop(&mut self) {
        let all = |rig: &Self| rig.has_said_complete() && rig.cursors() == [rig.last(); 3];
        self.until("everything is delivered", Duration::from_secs(120), all);
        self.stop();
        assert_eq!(self.until_end(), Output::Stopped);
    }

    pub fn stop(&self) {
        self.shared.stop.notify_one();
    }

    /// Packets are lost, both ways.
    pub fn partition(&mut self) {
        self.shared.cut.store(true, Ordering::SeqCst);
        self.sim.partition("node", "collector");
    }

    /// Packets of one host are lost on their way to the other.
    pub fn partition_oneway(&mut self, from: &str, to: &str) {
        self.shared.cut.store(true, Ordering::SeqCst);
        self.sim.partition_oneway(from, to);
    }

    pub fn repair(&mut self) {
        self.shared.cut.store(false, Ordering::SeqCst);
        self.sim.repair("node", "collector");
    }

    pub fn hold(&mut self) {
        self.sim.hold("node", "collector");
    }

    pub fn release(&mut self) {
        self.sim.release("node", "collector");
    }

    pub fn crash(&mut self, host: &str) {
        self.sim.crash(host);
    }

    pub fn bounce(&mut self, host: &str) {
        self.sim.bounce(host);
    }

    /// The collector's power fails and comes back: what was on its way is lost, and nobody tells the node.
    pub fn power_cycle_collector(&mut self) {
        self.sim.partition("node", "collector");
        self.sim.bounce("collector");
        self.sim.repair("node", "collector");
    }

    /// The collector begins to listen.
    pub fn come_up(&mut self) {
        self.shared.up.store(true, Ordering::SeqCst);
    }

    /// The collector listens no more, from its next start on.
    pub fn stay_down(&mut self) {
        self.shared.up.store(false, Ordering::SeqCst);
    }

    /// Every message takes exactly so long.
    pub fn slow(&mut self, trip: Duration) {
        self.sim.set_link_latency("node", "collector", trip);
    }

    pub fn behave(&mut self, behave: Behave) {
        *self.shared.behave.lock().unwrap() = behave.clone();
        if let Some(handle) = &*self.shared.handle.lock().unwrap() {
            handle.behave(behave);
        }
    }

    /// The node writes more events.
    pub fn write(&mut self, kinds: &[Kind]) {
        self.shared.log.lock().unwrap().append(kinds, self.record_len);
    }
}

/// What there is to see.
impl Rig {
    pub fn elapsed(&self) -> Duration {
        self.sim.elapsed()
    }

    pub fn marks(&self) -> Vec<What> {
        self.shared.marks.lock().unwrap().iter().map(|(_, what)| what.clone()).collect()
    }

    fn has_said_complete(&self) -> bool {
        matches!(self.shared.marks.lock().unwrap().last(), Some((_, What::Said(Output::Complete { .. }))))
    }

    pub fn count(&self, is_one: impl Fn(&What) -> bool) -> usize {
        self.marks().iter().filter(|what| is_one(what)).count()
    }

    /// The requests, in order.
    pub fn sent(&self) -> Vec<(Class, Vec<u64>)> {
        self.marks()
            .into_iter()
            .filter_map(|m| if let What::Sent(c, seqs) = m { Some((c, seqs)) } else { None })
            .collect()
    }

    /// The words of the failed tries, in order.
    pub fn troubles(&self) -> Vec<String> {
        let words = |what| if let What::Said(Output::Trouble { words, .. }) = what { Some(words) } else { None };
        self.marks().into_iter().filter_map(words).collect()
    }

    /// The last sequence of the log.
    pub fn last(&self) -> u64 {
        self.shared.log.lock().unwrap().last()
    }

    pub fn cursors(&self) -> [u64; 3] {
        self.shared.log.lock().unwrap().cursors()
    }

    /// Bytes in the collector's file.
    pub fn stored(&self) -> u64 {
        std::fs::metadata(self.shared.sink_dir.path().join("records.jsonl")).map_or(0, |meta| meta.len())
    }

    /// The lines of the collector's file.
    pub fn taken(&self) -> Vec<Value> {
        self.shared.taken()
    }

    /// How many records the collector took again.
    pub fn repeated(&self) -> usize {
        let taken = self.taken();
        let unique: BTreeSet<_> = taken.iter().map(seq_of).collect();
        taken.len() - unique.len()
    }

    /// The class of the first record that the collector took behind its first `lines`.
    pub fn class_behind(&self, lines: usize) -> Class {
        let taken = self.taken();
        let seq = seq_of(taken.get(lines).expect("it took more"));
        self.shared.log.lock().unwrap().entries.iter().find(|entry| entry.seq == seq).expect("of the log").class
    }

    pub fn trace(&self) -> String {
        let mut text = String::new();
        for (at, what) in self.shared.marks.lock().unwrap().iter() {
            writeln!(text, "{at:>7} ms  {what:?}").unwrap();
        }
        text
    }
}

/// What must hold.
impl Rig {
    /// Everything is at the collector with its own id, in the order of its class, and the cursors say so; at most so
    /// many records came twice. Returns what two runs of one seed have to have in common.
    pub fn delivered(self, most_repeated: usize) -> String {
        let trace = self.trace();
        self.shared.check_cursors();
        assert_eq!(self.cursors(), [self.last(); 3], "{trace}");
        let taken = self.taken();
        let log = self.shared.log.lock().unwrap();
        let mut first = Vec::new();
        let mut seen = std::collections::BTreeMap::new();
        for line in &taken {
            match seen.insert(seq_of(line), line) {
                // N03: what comes again is the same to the last byte, so that whoever reads it can tell.
                Some(before) => assert_eq!(before, line, "{trace}"),
                None => first.push(seq_of(line)),
            }
        }
        assert!(taken.len() - first.len() <= most_repeated, "{} came again\n{trace}", taken.len() - first.len());
        for entry in &log.entries {
            let line = seen.get(&entry.seq).unwrap_or_else(|| panic!("{entry:?} is lost\n{trace}"));
            assert_eq!(line["event_id"], entry.event_id);
        }
        assert_eq!(seen.len(), log.entries.len(), "the collector has what is not in the log\n{trace}");
        for class in Class::ALL {
            let of_class = |seq: &&u64| log.entries.iter().any(|e| e.seq == **seq && e.class == class);
            assert!(first.iter().filter(of_class).is_sorted(), "{class:?} came out of order\n{trace}");
        }
        let order: Vec<_> = taken.iter().map(seq_of).collect();
        format!("{trace}stored: {order:?}\n")
    }

    /// The drain gave up so; nothing is at the collector and no cursor moved.
    pub fn gave_up(&mut self) -> Failure {
        let Output::Failed(failure) = self.until_end() else { panic!("{}", self.trace()) };
        assert_eq!((self.taken().len(), self.cursors()), (0, [0; 3]), "{}", self.trace());
        failure
    }
}
