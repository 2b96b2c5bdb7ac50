use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use machines::disk::{Completion, Done, File, Op};
use machines::machine::Deadline;
use machines::time::{Now, Span};

use super::*;
use crate::disk::Layout;

/// Appends each input to the live file, flushes it, and says when it is flushed; wakes once, some time after the start.
struct Toy {
    len: u64,
    flushing: BTreeMap<u32, String>,
    made: u32,
    wake: Option<Deadline>,
}

enum Ask {
    Write(String),
    Break,
    Halt,
}

#[derive(Debug, PartialEq)]
enum Said {
    Ready,
    Flushed(String),
    Woken,
}

impl Machine for Toy {
    const NAME: &'static str = "toy";
    type Input = Ask;
    type Output = Said;

    fn handle(&mut self, now: Now, event: Event<Ask>, out: &mut Outbox<'_, Said>) {
        let tag = |id| disk::Tag { lane: Lane::Log, id };
        match event {
            Event::Start(_) => {
                self.wake = Some(Deadline { at: now.mono.after(Span::from_millis(20)), why: "toy" });
                out.disk(tag(0), vec![Op::Put { file: File::Live, bytes: vec![] }, Op::Sync(File::Live)]);
            }
            Event::Due => {
                if self.wake.is_some_and(|d| d.at <= now.mono) {
                    self.wake = None;
                    out.output(Said::Woken);
                }
            }
            Event::Input(Ask::Write(text)) => {
                self.made += 1;
                let bytes = text.clone().into_bytes();
                let at = self.len;
                self.len += u64::try_from(bytes.len()).unwrap();
                out.disk(tag(self.made), vec![Op::Append { file: File::Live, at, bytes }, Op::Sync(File::Live)]);
                self.flushing.insert(self.made, text);
            }
            Event::Input(Ask::Break) => panic!("a broken invariant"),
            Event::Input(Ask::Halt) => out.halt(Halt { code: 1, message: "told to".into() }),
            Event::Disk(tag, done) => {
                assert_eq!(done, Completion::Ok(Done::Nothing));
                out.output(self.flushing.remove(&tag.id).map_or(Said::Ready, Said::Flushed));
            }
            Event::Tree(..) | Event::Net(..) | Event::Work(..) => {}
        }
    }

    fn deadline(&self) -> Option<Deadline> {
        self.wake
    }

    fn check(&self) {}
}

struct Tell(Mutex<Sender<Said>>, Mutex<Sender<Halt>>);

impl Hands<Toy> for Tell {
    fn work(&self, _: &Driver<Toy, Self>, _: work::Tag, _: work::Op) -> Option<work::Got> {
        None
    }
    fn output(&self, output: Said) {
        let _ = lock(&self.0).send(output);
    }
    fn note(&self, _: Note) {}
    fn halt(&self, halt: Halt) {
        let _ = lock(&self.1).send(halt);
    }
    fn hand_over(&self, job: Job) {
        std::thread::spawn(job);
    }
}

type Running = (tempfile::TempDir, Driver<Toy, Tell>, Receiver<Said>, Receiver<Halt>);

fn start() -> Running {
    let root = tempfile::tempdir().unwrap();
    let disk = Disk::open(&Layout::new(root.path(), None, None), Arc::new(())).unwrap();
    let ((say, said), (halt, halted)) = (channel(), channel());
    let toy = Toy { len: 0, flushing: BTreeMap::new(), made: 0, wake: None };
    let driver = Driver::start(toy, Arc::new(disk), Tell(Mutex::new(say), Mutex::new(halt))).unwrap();
    (root, driver, said, halted)
}

const LONG: Duration = Duration::from_secs(10);

#[test]
fn chains_of_one_lane_run_in_the_order_emitted_whoever_brings_the_events() {
    in_order(Driver::feed);
}

#[test]
fn they_do_when_whoever_brings_the_events_flushes_as_well() {
    in_order(Driver::feed_and_flush);
    // Some of each.
    in_order(|driver, event| {
        let lead = matches!(&event, Event::Input(Ask::Write(text)) if text.as_bytes()[2..4].iter().any(|b| b % 3 == 0));
        if lead { driver.feed_and_flush(event) } else { driver.feed(event) }
    });
}

#[test]
fn a_thread_that_flushes_itself_has_its_answer_when_it_comes_back() {
    let (_root, driver, said, _) = start();
    let mut at_once = 0;
    for n in 0..500 {
        driver.feed_and_flush(Event::Input(Ask::Write(format!("{n};"))));
        let want = Said::Flushed(format!("{n};"));
        let mut waited = false;
        while said.try_recv().map_or(true, |said| said != want) {
            waited = true;
            std::thread::yield_now();
        }
        at_once += usize::from(!waited);
        // The log's thread has to be asleep for the lane to be taken over.
        std::thread::sleep(Duration::from_micros(100));
    }
    // Not each time: a slow disk leaves it to the log's thread.
    assert!(at_once > 0);
    driver.close();
}

fn in_order(bring: fn(&Driver<Toy, Tell>, Event<Ask>)) {
    let (root, driver, said, _) = start();
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let driver = driver.clone();
            std::thread::spawn(move || {
                for n in 0..25 {
                    bring(&driver, Event::Input(Ask::Write(format!("{writer}-{n:02};"))));
                }
            })
        })
        .collect();
    for writer in writers {
        writer.join().unwrap();
    }
    let mut flushed = 0;
    while flushed < 100 {
        if let Said::Flushed(_) = said.recv_timeout(LONG).unwrap() {
            flushed += 1;
        }
    }
    driver.close();
    let text = std::fs::read_to_string(root.path().join("telemetry/telemetry.wal")).unwrap();
    for writer in 0..4 {
        let own: Vec<&str> = text.split_terminator(';').filter(|w| w.starts_with(&format!("{writer}-"))).collect();
        assert_eq!(own, (0..25).map(|n| format!("{writer}-{n:02}")).collect::<Vec<_>>());
    }
}

#[test]
fn the_machine_is_woken_at_its_deadline() {
    let (_root, driver, said, _) = start();
    let mut heard = vec![said.recv_timeout(LONG).unwrap(), said.recv_timeout(LONG).unwrap()];
    heard.sort_by_key(|s| *s == Said::Woken);
    assert_eq!(heard, [Said::Ready, Said::Woken]);
    driver.close();
}

#[test]
fn a_halt_reaches_the_process() {
    let (_root, driver, _, halted) = start();
    driver.feed(Event::Input(Ask::Halt));
    assert_eq!(halted.recv_timeout(LONG).unwrap().message, "told to");
    driver.close();
}

/// The test runs itself once more in a process of its own, where the machine panics.
#[test]
fn a_panic_in_the_machine_ends_the_process() {
    const CHILD: &str = "DRIVER_TEST_CHILD";
    if std::env::var_os(CHILD).is_some() {
        let (_root, driver, ..) = start();
        let _ = std::thread::spawn(move || driver.feed(Event::Input(Ask::Break))).join();
        println!("still alive");
        return;
    }
    let name = "driver::tests::a_panic_in_the_machine_ends_the_process";
    let out = std::process::Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success() && !String::from_utf8_lossy(&out.stdout).contains("still alive"), "{text}");
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&out.status), Some(6), "{text}");
    assert!(text.contains("msg=\"process.aborted\" cause=\"toy\""), "{text}");
}
