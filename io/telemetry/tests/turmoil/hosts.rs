//! What runs on the two hosts: a node, which is the drain with its production exporter over a simulated network, and a
//! collector, which is the production sink.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use io_drive::disk::{Disk, Layout};
use io_telemetry::client::Dial;
use io_telemetry::serve::Listener;
use io_telemetry::sink::{Sink, SinkConfig};
use io_telemetry::{Exporter, ExporterConfig};
use machines::disk::{Lane, Op, Tag};
use machines::drain::{Drain, Input, Output};
use machines::machine::{Effect, Entropy, Event, Machine, Outbox};
use machines::net::{self, Fault};
use machines::time::{Mono, Now, Wall};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::log::EPOCH;
use super::rig::{Shared, What};

/// How long the cursors take to reach the disk: a crash can fall between an answer and its cursor.
const WRITE: Duration = Duration::from_millis(3);
/// Where the collector listens.
const PORT: u16 = 4318;

/// Connections of the simulated network.
pub struct SimDial(Arc<Shared>);

impl Dial for SimDial {
    type Stream = turmoil::net::TcpStream;

    async fn dial(&self, host: &str, port: u16, within: Duration) -> Result<Self::Stream, Fault> {
        let connect = async {
            // The simulator refuses a connection whose first packet is lost, and sends the answer to it past the
            // link. Real TCP is silent when either is lost, and sends the first packet again.
            let mut again = Duration::from_secs(1);
            loop {
                if !self.0.cut.load(Ordering::SeqCst) {
                    let connected = turmoil::net::TcpStream::connect((host, port)).await;
                    if connected.is_ok() || !self.0.cut.load(Ordering::SeqCst) {
                        break connected;
                    }
                }
                sleep(again).await;
                again *= 2;
            }
        };
        match timeout(within, connect).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => Err(Fault::Unresolvable(host.to_owned())),
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Err(Fault::Refused),
            Ok(Err(error)) => Err(Fault::Broken(error.to_string())),
            Err(_) => Err(Fault::TimedOut),
        }
    }
}

/// Drains the log as the production pump does: the lane of the reads in line, other lanes and requests beside it.
pub async fn node(shared: Arc<Shared>) -> turmoil::Result {
    let disk = Arc::new(Disk::open_existing(&Layout::log(shared.node_dir.path()))?);
    let config = ExporterConfig::new(format!("http://collector:{PORT}"));
    let exporter = Arc::new(Exporter::with_dial(&config, SimDial(Arc::clone(&shared)))?);
    let (feed, inbox) = unbounded_channel();
    tokio::spawn(stopping(Arc::clone(&shared), feed.clone()));
    let pump =
        Pump { machine: Drain::new(shared.config.clone()), shared, disk, exporter, feed, lanes: BTreeMap::new() };
    pump.run(inbox).await;
    Ok(())
}

async fn stopping(shared: Arc<Shared>, feed: UnboundedSender<Event<Input>>) {
    shared.stop.notified().await;
    let _ = feed.send(Event::Input(Input::Stop));
}

struct Pump {
    machine: Drain,
    shared: Arc<Shared>,
    disk: Arc<Disk>,
    exporter: Arc<Exporter<SimDial>>,
    feed: UnboundedSender<Event<Input>>,
    lanes: BTreeMap<Lane, Worker>,
}

/// A lane that has a task of its own.
struct Worker {
    chains: UnboundedSender<(Tag, Vec<Op>)>,
    task: tokio::task::JoinHandle<()>,
}

impl Pump {
    async fn run(mut self, mut inbox: UnboundedReceiver<Event<Input>>) {
        let started = Instant::now();
        let mut own = VecDeque::from([Event::Start(Entropy(self.shared.entropy()))]);
        let mut effects = Vec::new();
        loop {
            let event = match own.pop_front() {
                Some(event) => event,
                None => wait(&mut inbox, self.machine.deadline().map(|deadline| deadline.at), started).await,
            };
            if let Event::Disk(tag, _) = &event
                && tag.lane == Lane::Cursors
            {
                self.shared.check_cursors();
            }
            if let Event::Net(_, got) = &event {
                self.shared.mark(What::Got(got.clone()));
            }
            self.machine.handle(now(started), event, &mut Outbox::over(&mut effects));
            self.machine.check();
            for effect in effects.drain(..) {
                match effect {
                    Effect::Disk(tag, chain) if tag.lane == Lane::Drain => {
                        own.push_back(Event::Disk(tag, self.disk.execute(chain)));
                    }
                    Effect::Disk(tag, chain) => self.give(tag, chain),
                    Effect::Net(tag, net::Op::Export(export)) => self.send(tag, export),
                    Effect::Output(output) => {
                        let last = matches!(output, Output::Failed(_) | Output::Stopped)
                            || matches!(output, Output::Complete { .. }) && self.shared.ends_when_empty();
                        self.shared.mark(What::Said(output));
                        if last {
                            return self.finish().await;
                        }
                    }
                    Effect::Note(note) => panic!("nobody else drains this log: {note:?}"),
                    Effect::Tree(..) | Effect::Work(..) | Effect::Halt(_) => {
                        panic!("a drain has no files by path and no workers, and ends no process")
                    }
                }
            }
        }
    }

    fn send(&self, tag: net::Tag, export: net::Export) {
        let seqs = export.batch.frames(export.from, export.to).map(|frame| frame.seq.get()).collect();
        self.shared.mark(What::Sent(export.batch.class, seqs));
        let (exporter, feed) = (Arc::clone(&self.exporter), self.feed.clone());
        tokio::spawn(async move {
            let got = exporter.export(&export).await;
            let _ = feed.send(Event::Net(tag, got));
        });
    }

    fn give(&mut self, tag: Tag, chain: Vec<Op>) {
        let (disk, feed) = (Arc::clone(&self.disk), self.feed.clone());
        let worker = self.lanes.entry(tag.lane).or_insert_with(|| {
            let (chains, mut given) = unbounded_channel();
            let task = tokio::spawn(async move {
                while let Some((tag, chain)) = given.recv().await {
                    sleep(WRITE).await;
                    let _ = feed.send(Event::Disk(tag, disk.execute(chain)));
                }
            });
            Worker { chains, task }
        });
        let _ = worker.chains.send((tag, chain));
    }

    /// Lets the lanes finish what they were given.
    async fn finish(self) {
        for (_, Worker { chains, task }) in self.lanes {
            drop(chains);
            task.await.expect("a lane runs to its end");
        }
        self.shared.check_cursors();
    }
}

/// The next event, or the deadline; what has come is taken first.
async fn wait(inbox: &mut UnboundedReceiver<Event<Input>>, at: Option<Mono>, started: Instant) -> Event<Input> {
    let due = async {
        match at {
            Some(at) => sleep_until(started + Duration::from_nanos(at.as_nanos())).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        event = inbox.recv() => event.expect("the pump has a sender of its own"),
        () = due => Event::Due,
    }
}

/// The node's monotonic clock begins anew with its process, the wall clock does not.
fn now(started: Instant) -> Now {
    let mono = u64::try_from(started.elapsed().as_nanos()).unwrap();
    let since = u64::try_from(turmoil::sim_elapsed().unwrap_or_default().as_micros()).unwrap();
    Now { mono: Mono::from_nanos(mono), wall: Wall::from_micros(EPOCH.as_micros() + since) }
}

/// A listener of the simulated network.
struct Ear(turmoil::net::TcpListener);

impl Listener for Ear {
    type Stream = turmoil::net::TcpStream;

    async fn accept(&mut self) -> io::Result<Self::Stream> {
        self.0.accept().await.map(|(stream, _)| stream)
    }
}

/// Serves whenever it is told to be up; the host answers for it with a refusal while it is not.
pub async fn collector(shared: Arc<Shared>) -> turmoil::Result {
    while !shared.up.load(Ordering::SeqCst) {
        sleep(Duration::from_millis(1)).await;
    }
    let listener = turmoil::net::TcpListener::bind(("0.0.0.0", PORT)).await?;
    let address = listener.local_addr()?;
    let config = SinkConfig {
        listen: address.to_string(),
        dir: Some(shared.sink_dir.path().to_owned()),
        behave: shared.behave(),
        hosts: vec!["collector".into()],
    };
    let sink = Sink::with_listener(Ear(listener), address, &config)?;
    shared.serves(sink.handle());
    sink.run(std::future::pending()).await;
    Ok(())
}
