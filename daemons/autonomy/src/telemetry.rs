//! `autonomy telemetry …`

use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use daemon_common::failure::{Ended, Failure};
use daemon_common::output::{Output, object, print};
use indicatif::{ProgressBar, ProgressStyle};
use io_drive::disk::Disk;
use io_drive::lock::{LockError, WriterLock};
use io_drive::pump::{self, Feed, Inbox, Outside, PumpError};
use io_telemetry::bridge::{Bridge, BridgeConfig};
use io_telemetry::sink::{Sink, SinkConfig, UnknownBehaviour};
use io_telemetry::{Exporter, ExporterConfig, parse_header};
use machines::disk::{Done, FaultKind, File, Op};
use machines::drain::batch::{Class, PerClass};
use machines::drain::{Config, Drain, Failure as DrainFailure, Input, Output as Said, Queue, Until};
use machines::json::Value;
use machines::machine::{Event, Field, Note};
use machines::net;
use machines::time::Span;
use machines::wal::files::Positions;
use machines::wal::frame::Kind;
use machines::wal::{self, Wal};
use tokio::runtime::Handle;
use tokio::signal::unix::SignalKind;

use crate::cli::{self, Telemetry};
use crate::runtime::handler;

/// Runs one of the commands.
pub fn dispatch(command: Telemetry, output: Output) -> Ended {
    match command {
        Telemetry::Drain(args) => drain(&args, output),
        Telemetry::Status(args) => status(&args.dir, output),
        Telemetry::Export(args) => crate::wal::export(&args.place.dir, args.from),
        Telemetry::Sink(args) => sink(&args),
        Telemetry::Bridge(args) => bridge(&args),
    }
}

/// An exporter for this endpoint.
///
/// # Errors
/// What is wrong with the address, the headers or the files.
pub fn exporter(
    endpoint: &str,
    encoding: cli::Encoding,
    compressed: bool,
    peer: &cli::Peer,
) -> Result<Exporter, Failure> {
    let headers: Result<Vec<_>, _> = peer.headers.iter().map(|header| parse_header(header)).collect();
    let config = ExporterConfig {
        endpoint: endpoint.to_owned(),
        encoding: match encoding {
            cli::Encoding::Protobuf => io_telemetry::Encoding::Protobuf,
            cli::Encoding::Json => io_telemetry::Encoding::Json,
        },
        gzip: compressed,
        headers: headers.map_err(|error| Failure::usage(error.to_string()))?,
        ca: peer.tls.ca.clone(),
        cert: peer.tls.cert.clone(),
        key: peer.tls.key.clone(),
    };
    Exporter::new(&config).map_err(|error| Failure::usage(error.to_string()))
}

/// What a drain has outside: the network, and somebody who is told.
pub struct Outlet<T> {
    pub exporter: Arc<Exporter>,
    pub handle: Handle,
    pub tell: T,
}

/// Who is told what a drain says.
pub trait Tell {
    /// Takes what it says; `Break` ends it.
    fn said(&mut self, said: Said, drain: &Drain) -> ControlFlow<()>;
    /// Writes a log line.
    fn note(&mut self, note: Note);
}

/// Feeds the result of a request when it goes out of scope, however that comes about: each request completes once.
struct Reply {
    feed: Feed<Input>,
    tag: net::Tag,
    got: Option<net::Got>,
}

impl Drop for Reply {
    fn drop(&mut self) {
        let gone = || net::Got::Failed(net::Fault::Broken("the request was given up".to_owned()));
        let got = self.got.take().unwrap_or_else(gone);
        self.feed.feed(Event::Net(self.tag, got));
    }
}

impl<T: Tell> Outside<Drain> for Outlet<T> {
    fn net(&mut self, feed: &Feed<Input>, tag: net::Tag, op: net::Op) {
        let (exporter, feed) = (Arc::clone(&self.exporter), feed.clone());
        let net::Op::Export(export) = op;
        let reply = Reply { feed, tag, got: None };
        self.handle.spawn(async move {
            let mut reply = reply;
            reply.got = Some(exporter.export(&export).await);
        });
    }

    fn output(&mut self, said: Said, drain: &Drain, _feed: &Feed<Input>) -> ControlFlow<()> {
        self.tell.said(said, drain)
    }

    fn note(&mut self, note: Note) {
        self.tell.note(note);
    }
}

fn drain(args: &cli::Drain, output: Output) -> Ended {
    let dir = &args.place.dir;
    let exporter = Arc::new(exporter(&args.endpoint, args.encoding, !args.no_compression, &args.peer)?);
    let disk = Arc::new(crate::wal::open(dir)?);
    recover(&disk, dir)?;
    let config = Config {
        batch_records: usize::try_from(args.batch).unwrap_or(usize::MAX),
        until: if args.follow { Until::Stopped } else { Until::Empty },
        timeout: Span::from_nanos(u64::try_from(args.timeout.as_nanos()).unwrap_or(u64::MAX)),
        ..Config::default()
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| Failure::refused(format!("the system gives no threads: {error}")))?;
    let inbox = Inbox::default();
    stop_on_signals(&runtime, inbox.feed())?;
    let tell = Teller::new(output, args.follow);
    let mut outlet = Outlet { exporter, handle: runtime.handle().clone(), tell };
    let ended = pump::run(Drain::new(config), &disk, &inbox, &mut outlet);
    // A request that was given up is not waited for.
    runtime.shutdown_background();
    ended.map_err(|error| Failure::refused(error.to_string()))?;
    outlet.tell.ended()
}

fn stop_on_signals(runtime: &tokio::runtime::Runtime, feed: Feed<Input>) -> Result<(), Failure> {
    let _inside = runtime.enter();
    let mut terminate = handler(SignalKind::terminate())?;
    let mut interrupt = handler(SignalKind::interrupt())?;
    runtime.spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        feed.feed(Event::Input(Input::Stop));
    });
    Ok(())
}

/// When nobody writes the log, recovers it first: takes the writer lock, cuts a torn tail and makes what is kept durable,
/// so that nothing is delivered that a crash could still take back (SPEC 4).
///
/// # Errors
/// When there is no log, or it is damaged, or it cannot be written.
pub fn recover(disk: &Arc<Disk>, dir: &Path) -> Result<(), Failure> {
    let here = |words: &str| format!("{}: {words}", dir.display());
    match disk.execute(vec![Op::Read { file: File::Base, at: 0, len: 1 }]) {
        Err(fault) if fault.kind == FaultKind::NotFound && crate::wal::is_empty(disk) => {
            return Err(Failure::unreadable(here("there is no log in this folder")));
        }
        Ok(_) | Err(_) => {}
    }
    let Some(folder) = disk.telemetry() else { return Err(Failure::usage("no log folder was given")) };
    let lock = match WriterLock::take(folder) {
        Ok(lock) => lock,
        // Its writer keeps it in order.
        Err(LockError::Held(_)) => return Ok(()),
        Err(LockError::Io(error)) => return Err(Failure::refused(here(&format!("telemetry.lock: {error}")))),
    };
    let machine = Wal::new(wal::Config::default());
    let mut opening = Opening { failed: false };
    pump::run(machine, disk, &Inbox::default(), &mut opening).map_err(|error| match error {
        PumpError::Halted(halt) => Failure::refused(here(&halt.message)),
        PumpError::System(error) => Failure::refused(error.to_string()),
    })?;
    drop(lock);
    if opening.failed {
        return Err(Failure::refused(here("the log could not be written; free space or mend the disk")));
    }
    Ok(())
}

/// A log that is opened only to be closed.
struct Opening {
    failed: bool,
}

impl Outside<Wal> for Opening {
    fn net(&mut self, _feed: &Feed<wal::Input>, tag: net::Tag, _op: net::Op) {
        panic!("wal: it has no network: {tag:?}")
    }

    fn output(&mut self, output: wal::Output, _machine: &Wal, feed: &Feed<wal::Input>) -> ControlFlow<()> {
        match output {
            wal::Output::Opened { .. } => {
                feed.feed(Event::Input(wal::Input::Stop));
                ControlFlow::Continue(())
            }
            wal::Output::Stopped => ControlFlow::Break(()),
            wal::Output::Failed => {
                self.failed = true;
                ControlFlow::Break(())
            }
            wal::Output::Released(_) | wal::Output::Refused(..) => ControlFlow::Continue(()),
        }
    }

    fn note(&mut self, note: Note) {
        eprintln!("autonomy: {}", in_words(&note));
    }
}

/// Tells a person or a script how a drain goes: results on stdout, troubles on stderr, a bar on a terminal.
struct Teller {
    output: Output,
    follow: bool,
    bar: ProgressBar,
    queue: Queue,
    sent: u64,
    batches: u64,
    rejected: u64,
    failure: Option<DrainFailure>,
    stopped: bool,
}

impl Teller {
    fn new(output: Output, follow: bool) -> Self {
        let seen = output == Output::Text && std::io::stderr().is_terminal() && std::io::stdout().is_terminal();
        let bar = if seen { ProgressBar::new(0) } else { ProgressBar::hidden() };
        let style = "{bar:30} {pos}/{len} events  {per_sec}  {eta}";
        bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self {
            output,
            follow,
            bar,
            queue: Queue::default(),
            sent: 0,
            batches: 0,
            rejected: 0,
            failure: None,
            stopped: false,
        }
    }

    fn line(&self, text: &str) {
        if self.output == Output::Text {
            self.bar.suspend(|| {
                let _ = print(text);
            });
        }
    }

    fn error(&self, text: &str) {
        self.bar.suspend(|| eprintln!("{text}"));
    }

    /// The exit code, and the result as one object where that is wanted.
    fn ended(self) -> Ended {
        self.bar.finish_and_clear();
        let code = self.failure.as_ref().map_or(0, |failure| failure.why.exit_code());
        if self.output == Output::Json {
            let error = self.failure.as_ref().map_or(Value::Null, |f| Value::from(f.message.as_str()));
            let value = object([
                ("ok", Value::from(self.failure.is_none() && (self.follow || !self.stopped))),
                ("queue", queue_value(&self.queue)),
                ("events", Value::from(self.sent)),
                ("batches", Value::from(self.batches)),
                ("rejected", Value::from(self.rejected)),
                ("error", error),
            ]);
            print(&value.to_text())?;
        }
        if self.stopped && !self.follow {
            return Err(Failure::refused("stopped before everything was delivered; the next drain goes on from here"));
        }
        Ok(code)
    }
}

impl Tell for Teller {
    fn said(&mut self, said: Said, _drain: &Drain) -> ControlFlow<()> {
        match said {
            Said::Queued(queue) => {
                self.queue = queue;
                self.bar.set_length(self.sent.saturating_add(queue.events()));
                self.line(&queue_line(&queue));
            }
            Said::Accepted { batch, events, words, .. } => {
                (self.batches, self.sent) = (batch, self.sent.saturating_add(events));
                self.line(&format!("[drain] batch {batch} accepted: {events} events"));
                if !words.is_empty() {
                    self.error(&format!("[drain] the receiver warns: {words}"));
                }
                self.bar.set_position(self.sent);
            }
            Said::Rejected { records, words } => {
                self.rejected = self.rejected.saturating_add(records);
                self.error(&format!("[drain] {records} events rejected: {words}"));
            }
            Said::Trouble { words, retry_in } => {
                let again = retry_in.map(|span| format!(" (again in {})", seconds(span))).unwrap_or_default();
                self.error(&format!("[drain] OTLP error: {words}{again}"));
            }
            Said::Complete { events } => {
                self.line(&format!("drain complete: {events} events sent"));
                if !self.follow {
                    return ControlFlow::Break(());
                }
            }
            Said::Failed(failure) => {
                self.error(&format!("drain failed: {}", failure.message));
                self.failure = Some(failure);
                return ControlFlow::Break(());
            }
            Said::Stopped => {
                self.stopped = true;
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }

    fn note(&mut self, note: Note) {
        self.error(&format!("[drain] {}", in_words(&note)));
    }
}

/// A log line as `message key=value …`.
fn in_words(note: &Note) -> String {
    let mut text = note.msg.to_owned();
    for (key, value) in &note.fields {
        match value {
            Field::Number(_) | Field::Seconds(_) => {
                text.push_str(&format!(" {key}={}", value.bare().unwrap_or_default()));
            }
            Field::Text(value) => text.push_str(&format!(" {key}={value:?}")),
        }
    }
    text
}

fn seconds(span: Span) -> String {
    format!("{:.1} s", Duration::from_nanos(span.as_nanos()).as_secs_f64())
}

fn queue_line(queue: &Queue) -> String {
    let mut line = format!(
        "[drain] priority queue: {} events ({} errors, {} decisions, {} lifecycle)",
        queue.events(),
        queue.errors,
        queue.decisions,
        queue.lifecycle
    );
    if queue.actions > 0 {
        line.push_str(&format!(" + {} actions", queue.actions));
    }
    line
}

/// A queue as an object.
pub fn queue_value(queue: &Queue) -> Value {
    object([
        ("errors", Value::from(queue.errors)),
        ("decisions", Value::from(queue.decisions)),
        ("lifecycle", Value::from(queue.lifecycle)),
        ("actions", Value::from(queue.actions)),
    ])
}

fn status(dir: &Path, output: Output) -> Ended {
    let disk = crate::wal::open(dir)?;
    let failed = |kind: FaultKind| Failure::unreadable(format!("{}: {kind}", dir.display()));
    let base = crate::wal::base(&disk, dir)?;
    let safe = crate::wal::safe_seq(&disk).map_err(failed)?;
    let positions = match disk.execute(vec![Op::Read { file: File::Positions, at: 0, len: 4096 }]) {
        Ok(Done::Bytes(bytes)) => Some(Positions::parse(&bytes).ok_or_else(|| {
            Failure::refused(format!("{}: telemetry.pos is damaged; look with `autonomy wal verify`", dir.display()))
        })?),
        Ok(Done::Nothing | Done::Tail { .. } | Done::Listing(_)) => None,
        Err(fault) if fault.kind == FaultKind::NotFound => None,
        Err(fault) => return Err(failed(fault.kind)),
    };
    if positions.as_ref().is_some_and(|positions| positions.log_id != base.log_id) {
        return Err(Failure::refused(format!("{}: telemetry.pos holds the cursors of another log", dir.display())));
    }
    let mut cursors = PerClass::<u64>::default();
    for class in Class::ALL {
        let cursor = positions.as_ref().and_then(|positions| positions.cursors.get(class.name()).copied());
        *cursors.get_mut(class) = cursor.unwrap_or(base.first_seq.get().saturating_sub(1));
    }
    let mut waiting = Queue::default();
    let lowest = Class::ALL.into_iter().map(|class| *cursors.get(class)).min().unwrap_or(0);
    crate::wal::frames_between(&disk, lowest.saturating_add(1), safe, &mut |frame, _| {
        if frame.seq.get() > *cursors.get(Class::of(frame.kind)) {
            match frame.kind {
                Kind::Error => waiting.errors += 1,
                Kind::Decision => waiting.decisions += 1,
                Kind::Lifecycle => waiting.lifecycle += 1,
                Kind::Action => waiting.actions += 1,
            }
        }
    })
    .map_err(failed)?;
    let rejected = std::fs::read_dir(dir.join("rejected")).map_or(0, |entries| entries.flatten().count());
    let mut text = format!("log id: {}\nnode id: {}\nsafe seq: {safe}", base.log_id, base.node_id);
    for class in Class::ALL {
        text.push_str(&format!("\ndelivered {}: {}", class.name(), cursors.get(class)));
    }
    text.push_str(&format!(
        "\nwaiting: {} events ({} errors, {} decisions, {} lifecycle) + {} actions\nrejected files: {rejected}",
        waiting.events(),
        waiting.errors,
        waiting.decisions,
        waiting.lifecycle,
        waiting.actions
    ));
    output.print(&text, || {
        let cursors = Class::ALL.map(|class| (class.name(), Value::from(*cursors.get(class))));
        object([
            ("log_id", Value::from(base.log_id.to_string())),
            ("node_id", Value::from(base.node_id.as_str())),
            ("safe_seq", Value::from(safe)),
            ("cursors", object(cursors)),
            ("waiting", queue_value(&waiting)),
            ("rejected_files", Value::from(u64::try_from(rejected).unwrap_or(u64::MAX))),
        ])
    })?;
    Ok(0)
}

/// Prints where a receiver listens, and serves until a signal.
fn serve<S, F>(bind: impl Future<Output = Result<S, Failure>>, listens: &str, run: impl FnOnce(S, Stop) -> F) -> Ended
where
    S: Listens,
    F: Future<Output = ()>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::refused(format!("the system gives no threads: {error}")))?;
    runtime.block_on(async {
        let mut terminate = handler(SignalKind::terminate())?;
        let mut interrupt = handler(SignalKind::interrupt())?;
        let server = bind.await?;
        // On stderr, as a log line would be: results go to stdout, and a receiver has none.
        eprintln!("{listens} listening on http://{}", server.address());
        let stop: Stop = Box::pin(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        });
        run(server, stop).await;
        Ok(0)
    })
}

/// Ready when a signal came.
type Stop = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// Something that listens.
trait Listens {
    fn address(&self) -> SocketAddr;
}

impl Listens for Sink {
    fn address(&self) -> SocketAddr {
        self.addr()
    }
}

impl Listens for Bridge {
    fn address(&self) -> SocketAddr {
        self.addr()
    }
}

fn sink(args: &cli::Sink) -> Ended {
    let behave = args.behave.parse().map_err(|error: UnknownBehaviour| Failure::usage(error.to_string()))?;
    let (listen, dir, hosts) = (args.listen.to_string(), args.dir.clone(), args.hosts.clone());
    let config = SinkConfig { listen, dir, behave, hosts };
    let bind = async { Sink::bind(&config).await.map_err(|error| Failure::refused(error.to_string())) };
    serve(bind, "telemetry sink:", Sink::run)
}

fn bridge(args: &cli::Bridge) -> Ended {
    let config = BridgeConfig {
        ca: args.tls.ca.clone(),
        cert: args.tls.cert.clone(),
        key: args.tls.key.clone(),
        hosts: args.hosts.clone(),
        ..BridgeConfig::new(args.listen.to_string(), args.forward_url.as_str())
    };
    let bind = async { Bridge::bind(&config).await.map_err(|error| Failure::refused(error.to_string())) };
    serve(bind, "telemetry bridge:", Bridge::run)
}
