//! The contract of `machines::disk`, checked by the suite that the simulated disk passes too: here against the real
//! disk, through the driver and its lanes.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use io_drive::disk::{Disk, Layout};
use io_drive::driver::{Driver, Hands};
use io_drive::pool::Job;
use machines::disk::{Completion, Dir, File, Op, Tag};
use machines::machine::{Deadline, Event, Halt, Machine, Note, Outbox};
use machines::time::Now;
use machines::work;
use sim::conformance::{DiskUnderTest, run_suite};

/// Asks for the chains that it is given, all in one step, and tells their completions, numbered as they came: the
/// order of outputs is nobody's promise.
#[derive(Default)]
struct Forward {
    completed: u64,
}

type Told = (u64, Tag, Completion);

impl Machine for Forward {
    const NAME: &'static str = "forward";
    type Input = Vec<(Tag, Vec<Op>)>;
    type Output = Told;

    fn handle(&mut self, _: Now, event: Event<Self::Input>, out: &mut Outbox<'_, Self::Output>) {
        match event {
            Event::Input(chains) => chains.into_iter().for_each(|(tag, chain)| out.disk(tag, chain)),
            Event::Disk(tag, completion) => {
                self.completed += 1;
                out.output((self.completed, tag, completion));
            }
            Event::Start(_) | Event::Due | Event::Tree(..) | Event::Net(..) | Event::Work(..) => {}
        }
    }

    fn deadline(&self) -> Option<Deadline> {
        None
    }

    fn check(&self) {}
}

struct Tell(Mutex<Sender<Told>>);

impl Hands<Forward> for Tell {
    fn work(&self, _: &Driver<Forward, Self>, _: work::Tag, _: work::Op) -> Option<work::Got> {
        None
    }
    fn output(&self, output: Told) {
        self.0.lock().unwrap().send(output).unwrap();
    }
    fn note(&self, _: Note) {}
    fn halt(&self, _: Halt) {}
    fn hand_over(&self, job: Job) {
        std::thread::spawn(job);
    }
}

struct Real {
    root: tempfile::TempDir,
    driver: Driver<Forward, Tell>,
    told: Receiver<Told>,
}

fn start(root: &tempfile::TempDir) -> (Driver<Forward, Tell>, Receiver<Told>) {
    let disk = Disk::open(&Layout::new(root.path(), None, None), Arc::new(())).unwrap();
    let (tell, told) = channel();
    (Driver::start(Forward::default(), Arc::new(disk), Tell(Mutex::new(tell))).unwrap(), told)
}

impl Real {
    fn fresh() -> Self {
        let root = tempfile::tempdir().unwrap();
        let (driver, told) = start(&root);
        Self { root, driver, told }
    }

    fn path(&self, file: File) -> PathBuf {
        let folder = match file.dir() {
            Dir::State => self.root.path().to_path_buf(),
            Dir::Telemetry => self.root.path().join("telemetry"),
            Dir::Policy => self.root.path().join("policy"),
            Dir::Bundles => self.root.path().join("policy/bundles"),
            Dir::Rejected => self.root.path().join("telemetry/rejected"),
            Dir::Locks => self.root.path().join("policy/locks"),
            Dir::Verified => self.root.path().join("policy/verified"),
            Dir::Bootstrap => self.root.path().join("bootstrap"),
        };
        folder.join(file.name())
    }
}

impl DiskUnderTest for Real {
    fn run_all(&mut self, chains: Vec<(Tag, Vec<Op>)>) -> Vec<(Tag, Completion)> {
        let count = chains.len();
        self.driver.feed(Event::Input(chains));
        let mut told: Vec<_> = (0..count).map(|_| self.told.recv_timeout(Duration::from_secs(60)).unwrap()).collect();
        told.sort_unstable_by_key(|(n, ..)| *n);
        told.into_iter().map(|(_, tag, completion)| (tag, completion)).collect()
    }

    fn tamper_truncate(&mut self, file: File, len: u64) {
        std::fs::File::options().write(true).open(self.path(file)).unwrap().set_len(len).unwrap();
    }

    fn restart(&mut self) {
        self.driver.close();
        (self.driver, self.told) = start(&self.root);
    }

    fn power_cut(&mut self) -> bool {
        false
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        self.driver.close();
    }
}

#[test]
fn the_real_disk_keeps_the_contract() {
    run_suite(Real::fresh).unwrap();
}
