//! `autonomy runtime start`: from flags and file to a running node, and from a signal to its end.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use daemon_common::failure::{Ended, Failure};
use daemon_common::logs::open_log;
use io_drive::disk::{Disk, Layout};
use io_drive::lock::WriterLock;
use io_drive::log::Log;
use io_node::http::{self, Access, App, OwnThreads, Token};
use io_node::metrics::Metrics;
use io_node::node::{Node, Parts, Phase};
use io_node::policies::{Limits, STACK_BYTES, this_thread_may_judge};
use io_node::tools::Tools;
use io_node::tools::registry::{self, ToolConfig};
use io_telemetry::Exporter;
use machines::disk::{Done, File, Op};
use machines::machine::{Level, Note};
use machines::runtime::Mode;
use machines::semver::Version;
use machines::time::Span;
use machines::wal::files::Base;
use machines::wal::{self, OnFull};
use machines::{interceptor, runtime};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::background::Background;
use crate::cli::{self, VERSION};
use crate::config::{self, is_strict, tightened};
use crate::telemetry;

/// The variable that turns strict mode on.
pub const STRICT_VARIABLE: &str = "AUTONOMY_STRICT_MODE";
/// The node's name where nobody gave one.
const NODE_ID: &str = "node";
/// Open files that are enough for every connection.
const FILES: u64 = 65_536;
/// Connections that have a thread to themselves.
const OWN_THREADS: usize = 2;
/// How much longer than a tool may run the last calls are waited for.
const STOP_MARGIN: Duration = Duration::from_secs(5);

/// What a node is started with.
pub struct Plan {
    pub layout: Layout,
    pub listen: SocketAddr,
    pub node_id: Option<String>,
    pub strict: bool,
    pub require_verified: bool,
    /// Deny every call until this boot's precheck passed.
    pub require_precheck: bool,
    pub token: Option<Token>,
    pub names: Vec<String>,
    pub max_in_flight: usize,
    pub tool_timeout: Duration,
    pub decision_limit: Duration,
    pub wal_max_bytes: u64,
    pub wal_retain: Duration,
    pub wal_on_full: OnFull,
    pub tools: ToolConfig,
    /// Where the log is delivered to in the background, if anywhere.
    pub exporter: Option<Exporter>,
    pub log: Log,
}

/// Starts the runtime and serves until SIGTERM or SIGINT.
///
/// # Errors
/// 1 when it may not or cannot start, 3 when a file that was named cannot be read.
pub fn start(args: &cli::Start) -> Ended {
    let plan = plan(args)?;
    let log = plan.log;
    tokio_runtime()?.block_on(async {
        // From here on no signal ends the process by itself: who saw it start can stop it in order.
        let mut terminate = handler(SignalKind::terminate())?;
        let mut interrupt = handler(SignalKind::interrupt())?;
        let running = tokio::select! {
            running = boot(plan) => running?,
            // Nothing was answered yet; the next start recovers from here as from any end.
            _ = terminate.recv() => return Err(Failure::refused("ended by SIGTERM before it was ready")),
            _ = interrupt.recv() => return Err(Failure::refused("ended by SIGINT before it was ready")),
        };
        let why = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        log.note(&Note::new(Level::Info, "runtime.stopping").with("signal", why));
        let stopped = tokio::select! {
            stopped = running.stop() => stopped,
            // Asked twice, it does not wait for what runs.
            _ = terminate.recv() => Err(Failure::refused("ended by a second signal before the last calls were answered")),
            _ = interrupt.recv() => Err(Failure::refused("ended by a second signal before the last calls were answered")),
        };
        let code = stopped?;
        log.note(&Note::new(Level::Info, "runtime.stopped"));
        // The driver's threads wait for work that will not come; the process ends without them.
        std::process::exit(code.into())
    })
}

/// A tokio runtime whose workers may judge calls themselves.
pub fn tokio_runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(std::thread::available_parallelism().map_or(1, usize::from))
        .max_blocking_threads(4)
        .thread_stack_size(STACK_BYTES)
        .thread_name("server")
        .on_thread_start(this_thread_may_judge)
        .enable_all()
        .build()
        .map_err(|error| Failure::refused(format!("the system gives no threads: {error}")))
}

/// A handler of a signal.
pub fn handler(kind: SignalKind) -> Result<tokio::signal::unix::Signal, Failure> {
    signal(kind).map_err(|error| Failure::refused(format!("signals cannot be handled: {error}")))
}

fn plan(args: &cli::Start) -> Result<Plan, Failure> {
    let file = config::File::read(args.config.as_deref())?;
    let log = open_log(args.log.log_format, args.log.log_level);
    let exporter = exporter(args.otlp_endpoint.as_ref(), &file)?;
    let state_root = args.state_root.clone().or(file.state_root).unwrap_or_else(|| PathBuf::from(cli::STATE_ROOT));
    let token_file = args.token_file.clone().or(file.token_file);
    let token = token_file.map(|path| Token::read(&path)).transpose().map_err(|error| match error {
        http::AccessError::TokenUnreadable(..) => Failure::unreadable(error.to_string()),
        http::AccessError::TokenRequired(_) | http::AccessError::TokenUnusable(_) => {
            Failure::refused(error.to_string())
        }
    })?;
    let in_flight = tightened(file.max_in_flight, args.max_in_flight, 1024);
    Ok(Plan {
        layout: Layout::new(&state_root, args.wal_dir.as_deref(), args.policy_dir.as_deref()),
        listen: args.listen.or(file.address).unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 7777))),
        node_id: args.node_id.clone().or(file.node_id),
        strict: is_strict(file.strict, args.strict, std::env::var_os(STRICT_VARIABLE).as_deref()),
        require_verified: file.require_verified,
        require_precheck: file.require_precheck || args.require_precheck,
        token,
        names: file.names,
        max_in_flight: usize::try_from(in_flight).unwrap_or(usize::MAX),
        tool_timeout: tightened(file.tool_timeout, args.tool_timeout, Duration::from_secs(30)),
        decision_limit: file.decision_limit.unwrap_or(Limits::TIME),
        wal_max_bytes: file.wal_max_bytes.unwrap_or(1 << 30),
        wal_retain: file.wal_retain.unwrap_or(Duration::from_secs(7 * 86_400)),
        wal_on_full: file.wal_on_full.unwrap_or(OnFull::Deny),
        tools: ToolConfig { shell_enabled: file.shell_enabled, shell_dir: file.shell_dir },
        exporter,
        log,
    })
}

/// What delivers the log, by flag or by file.
fn exporter(endpoint: Option<&String>, file: &config::File) -> Result<Option<Exporter>, Failure> {
    let Some(endpoint) = endpoint.or(file.otlp_endpoint.as_ref()) else { return Ok(None) };
    let peer = cli::Peer {
        headers: file.otlp_headers.clone(),
        tls: cli::Tls { ca: file.otlp_ca.clone(), cert: file.otlp_cert.clone(), key: file.otlp_key.clone() },
    };
    telemetry::exporter(endpoint, cli::Encoding::default(), true, &peer).map(Some)
}

/// A node that serves.
pub struct Running {
    pub node: Node,
    pub address: SocketAddr,
    stop: watch::Sender<bool>,
    server: JoinHandle<()>,
    patience: Duration,
    drain: Option<Background>,
    /// Held until the process ends.
    _lock: WriterLock,
}

/// Opens the files, binds the address, starts the node, and returns when it is ready.
pub async fn boot(mut plan: Plan) -> Result<Running, Failure> {
    raise_file_limit();
    let metrics = Arc::new(Metrics::default());
    let disk =
        Disk::open(&plan.layout, Arc::<Metrics>::clone(&metrics)).map_err(|e| Failure::refused(e.to_string()))?;
    let folder = disk.telemetry().ok_or_else(|| Failure::refused("the layout has no log folder"))?;
    let lock = WriterLock::take(folder).map_err(|error| {
        let folder = plan.layout.telemetry.as_deref().unwrap_or_else(|| std::path::Path::new("telemetry"));
        Failure::refused(format!("{}: {error}", folder.display()))
    })?;
    let node_id = plan.node_id.clone().or_else(|| log_owner(&disk)).unwrap_or_else(|| NODE_ID.to_owned());
    let access =
        Access::new(plan.listen, plan.token.clone(), &plan.names).map_err(|e| Failure::refused(e.to_string()))?;
    let listener = TcpListener::bind(plan.listen)
        .await
        .and_then(|listener| listener.local_addr().map(|address| (listener, address)))
        .map_err(|error| Failure::refused(format!("cannot listen on {}: {error}", plan.listen)));
    let (listener, address) = listener?;
    let tools = Tools::new(registry::all(&plan.tools));
    let machine = machine_config(&plan, &node_id, &tools)?;
    let log = plan.log;
    let exporter = plan.exporter.take();
    let parts = Parts {
        disk: Arc::new(disk),
        tools,
        node_id: node_id.clone(),
        limits: Limits { time: Some(plan.decision_limit), ..Limits::default() },
        metrics: Arc::clone(&metrics),
        log,
        on_halt: Box::new(move |halt| {
            log.note(&Note::new(Level::Error, "runtime.halted").with("reason", halt.message));
            std::process::exit(halt.code.into())
        }),
    };
    let node = Node::start(machine, parts).map_err(|error| Failure::refused(format!("cannot start: {error}")))?;
    let (stop, stopped) = watch::channel(false);
    let limits = http::Limits {
        max_in_flight: plan.max_in_flight,
        connections: connections(http::Limits::default().connections.max(plan.max_in_flight)),
        ..http::Limits::default()
    };
    let app = App::new(node.clone(), access, limits, VERSION);
    let own = OwnThreads::start(OWN_THREADS).map_err(|error| Failure::refused(format!("cannot start: {error}")))?;
    let server = tokio::spawn(http::serve(listener, app, own, stopped));
    node.reached(Phase::Ready).await;
    started(&log, &node, address, &plan);
    let drain = match (exporter, &plan.layout.telemetry) {
        (Some(exporter), Some(folder)) => Some(Background::start(folder, exporter, metrics, log)?),
        (Some(_) | None, None) | (None, Some(_)) => None,
    };
    let patience = plan.tool_timeout + STOP_MARGIN;
    Ok(Running { node, address, stop, server, patience, drain, _lock: lock })
}

impl Running {
    /// Takes no more calls, waits for the last answers, and makes the log durable.
    ///
    /// # Errors
    /// When that takes longer than a tool may run, and a little.
    pub async fn stop(self) -> Result<u8, Failure> {
        let late = |what: &str| Failure::refused(format!("{what} within {:?}", self.patience));
        self.stop.send_replace(true);
        if let Some(drain) = self.drain {
            // What was not delivered waits in the log for the next start.
            let _ = tokio::task::spawn_blocking(move || drain.stop()).await;
        }
        let ended = tokio::time::timeout(self.patience, self.server).await;
        ended.map_err(|_| late("the last calls were not answered")).map(|_| ())?;
        let ended = tokio::time::timeout(self.patience, self.node.stop()).await;
        ended.map_err(|_| late("the log was not closed"))?;
        Ok(u8::from(self.node.mode() == Mode::WalFailed))
    }
}

fn machine_config(plan: &Plan, node_id: &str, tools: &Tools) -> Result<runtime::Config, Failure> {
    let version = Version::parse(VERSION).map_err(|e| Failure::refused(format!("version {VERSION}: {e}")))?;
    let span = |time: Duration| Span::from_nanos(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    Ok(runtime::Config {
        calls: interceptor::Config {
            strict: plan.strict,
            max_in_flight: plan.max_in_flight,
            tool_timeout: span(plan.tool_timeout),
            // For an engine that hangs: its own limit comes far earlier, also for decisions that wait in line.
            decision_backstop: span(plan.decision_limit.saturating_mul(20).max(Duration::from_secs(2))),
            tools: tools.enabled(),
        },
        wal: wal::Config {
            node_id: Some(node_id.to_owned()),
            max_bytes: plan.wal_max_bytes,
            retain: span(plan.wal_retain),
            on_full: plan.wal_on_full,
        },
        version,
        require_verified: plan.require_verified,
        require_precheck: plan.require_precheck.then(boot_id).transpose()?,
    })
}

/// Which boot this is: a precheck of another one does not count.
fn boot_id() -> Result<String, Failure> {
    io_drive::clock::boot_id().map_err(|error| {
        Failure::refused(format!("require_precheck is on, and the kernel does not say which boot this is: {error}"))
    })
}

fn started(log: &Log, node: &Node, address: SocketAddr, plan: &Plan) {
    let status = node.status();
    let mut note = Note::new(Level::Info, "runtime.started")
        .with("listen", address.to_string())
        .with("mode", status.mode.as_str())
        .with("node_id", node.node_id())
        .with("version", VERSION);
    if let Some(wal) = &status.wal {
        note = note.with("log_id", wal.log_id.to_string()).with("head", wal.head);
    }
    if let Some(policy) = &status.in_force {
        let hash = format!("sha256:{}", policy.bundle_hash);
        note = note.with("policy", policy.version.as_str()).with("policy_hash", hash);
    }
    if let Some(folder) = &plan.layout.telemetry {
        note = note.with("wal_dir", folder.display().to_string());
    }
    log.note(&note);
}

/// The node that an existing log belongs to.
fn log_owner(disk: &Disk) -> Option<String> {
    match disk.execute(vec![Op::Read { file: File::Base, at: 0, len: 4096 }]) {
        Ok(Done::Bytes(bytes)) => Base::parse(&bytes).map(|base| base.node_id),
        Ok(Done::Nothing | Done::Tail { .. } | Done::Listing(_)) | Err(_) => None,
    }
}

/// As many open files as the system lets us have, up to what is of use.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.map_or(FILES, |hard| hard.min(FILES));
    if limit.current.is_some_and(|soft| soft < most) {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum: limit.maximum });
    }
}

/// How many connections there may be: half of the open files stay for the log and for tools (FAULTS X06).
fn connections(wanted: usize) -> usize {
    let files = getrlimit(Resource::Nofile).current.map_or(FILES, |soft| soft.min(FILES));
    wanted.min(usize::try_from(files / 2).unwrap_or(usize::MAX).max(1))
}
