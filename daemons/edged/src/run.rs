//! `edged run`: from a passed precheck to a daemon that serves, and from a signal to its end.

use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use daemon_common::failure::{Ended, Failure};
use io_drive::clock;
use io_drive::disk::{Disk, Layout};
use io_drive::lock::WriterLock;
use io_drive::log::Log;
use io_edge::Tree;
use io_http::{Bodies, Limits, Site, UnixSocket, bind_loopback, serve};
use machines::edge::{self, admit_boot, admit_root};
use machines::machine::{Halt, Level, Note};
use machines::precheck::files::Name;
use machines::tree::{Mode, Op};
use machines::wal;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::assurance::Assurance;
use crate::cli::{self, Cli, VERSION};
use crate::config::Config;
use crate::control::{About, Control};
use crate::metrics::Metrics;
use crate::node::{Node, Phase};
use crate::notify::notify;
use crate::precheck::{boot_id, configuration, tree};

/// How long the log may take to be closed.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// 1 when it cannot serve; what SPEC 10 says of the others was logged.
pub fn run(cli: &Cli, args: &cli::Run) -> Ended {
    let (config, log) = match configuration(&cli.config, args.log) {
        Ok(read) => read,
        Err(code) => return Ok(code),
    };
    let boot_id = match boot_id(&log) {
        Ok(id) => id,
        Err(code) => return Ok(code),
    };
    let mut tree = tree(&config);
    if let Err(halt) = admit(&mut tree, &boot_id) {
        let note = Note::new(Level::Error, "edged: refused to start").with("error", halt.message);
        log.note(&note.with("state_root", config.state_root.as_str()));
        return Ok(halt.code);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| Failure::refused(format!("the system gives no threads: {error}")))?;
    let code = runtime.block_on(serving(&config, tree, boot_id, log))?;
    // The driver's threads wait for work that will not come; the process ends without them.
    std::process::exit(code.into())
}

/// Takes the state root, and asks whether this boot's precheck passed.
fn admit(tree: &mut Tree, boot_id: &str) -> Result<(), Halt> {
    admit_root(tree.hold())?;
    let marker = Op::Read { at: Name::Marker.place(), most: Name::Marker.most() };
    admit_boot(tree.run(vec![marker]), boot_id)
}

async fn serving(config: &Config, tree: Tree, boot_id: String, log: Log) -> Ended {
    let handler = |kind| signal(kind).map_err(|error| Failure::refused(format!("signals cannot be handled: {error}")));
    let mut terminate = handler(SignalKind::terminate())?;
    let mut interrupt = handler(SignalKind::interrupt())?;
    let (stop, stopped) = watch::channel(false);
    let running = tokio::select! {
        running = boot(config, tree, boot_id, log, stopped) => running?,
        // Nothing was promised yet; the next start recovers from here as from any end.
        _ = terminate.recv() => return Err(Failure::refused("ended by SIGTERM before it was ready")),
        _ = interrupt.recv() => return Err(Failure::refused("ended by SIGINT before it was ready")),
    };
    let why = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    };
    notify(log, "STOPPING=1");
    log.note(&Note::new(Level::Info, "edged.stopping").with("signal", why));
    stop.send_replace(true);
    let ended = tokio::time::timeout(PATIENCE, running.end()).await;
    let code = ended.map_err(|_| Failure::refused(format!("the log was not closed within {PATIENCE:?}")))?;
    log.note(&Note::new(Level::Info, "edged.stopped"));
    Ok(code)
}

/// A daemon that serves.
struct Running {
    node: Node,
    servers: Vec<tokio::task::JoinHandle<()>>,
    /// Held until the process ends.
    _lock: WriterLock,
}

impl Running {
    async fn end(self) -> u8 {
        for server in self.servers {
            // It panicked, or it ended: either way it serves no more.
            let _ = server.await;
        }
        self.node.stop().await;
        u8::from(self.node.status().health == wal::Health::Failed)
    }
}

async fn boot(
    config: &Config,
    mut tree: Tree,
    boot_id: String,
    log: Log,
    stopped: watch::Receiver<bool>,
) -> Result<Running, Failure> {
    let assurance = Assurance::probe();
    if assurance == Assurance::Reduced {
        log.note(&Note::new(Level::Warn, "edge.assurance.reduced").with("missing", "cgroup_v2"));
    }
    let (disk, lock) = own_log(config, &mut tree)?;
    let wal = wal::Config { node_id: config.node_id.clone(), ..wal::Config::default() };
    let node = Node::start(edge::Config { wal }, disk, tree, log)
        .map_err(|error| Failure::refused(format!("cannot start: {error}")))?;
    node.reached(Phase::Ready).await;

    let mut servers = Vec::new();
    let mut metrics_address = None;
    if let Some(address) = config.metrics {
        let (listener, address) = bind_loopback(address)
            .await
            .map_err(|error| Failure::refused(format!("{error}; give another one as metrics.listen, or \"off\"")))?;
        metrics_address = Some(address);
        let handler = Arc::new(Metrics::new(node.clone(), assurance));
        servers.push(serve_metrics(listener, address, handler, stopped.clone()));
    }
    let about = About {
        node_id: config.node_id.clone(),
        state_root: config.state_root.as_str().into(),
        boot_id,
        assurance,
        relay: config.relay.enabled,
        metrics: metrics_address,
        started_at: clock::wall().to_string(),
    };
    let socket = control_socket(&config.socket).await?;
    let control = Arc::new(Control { node: node.clone(), about });
    let until = told(stopped);
    servers.push(tokio::spawn(serve(socket, Site::local(), control, Limits::default(), Bodies::default(), until)));
    started(&log, config, &node, metrics_address);
    notify(log, "READY=1");
    Ok(Running { node, servers, _lock: lock })
}

fn serve_metrics(
    listener: TcpListener,
    address: SocketAddr,
    handler: Arc<Metrics>,
    stopped: watch::Receiver<bool>,
) -> tokio::task::JoinHandle<()> {
    let site = Site::new(address, &[]);
    tokio::spawn(serve(listener, site, handler, Limits::default(), Bodies::default(), told(stopped)))
}

async fn told(mut stopped: watch::Receiver<bool>) {
    // The sender lives until the end.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

/// `edge/telemetry/`, and its writer's lock.
fn own_log(config: &Config, tree: &mut Tree) -> Result<(Disk, WriterLock), Failure> {
    let at = Name::Edge.place();
    let make = Op::MakeFolder { at: at.clone(), mode: Mode::PRIVATE_FOLDER };
    let ops = vec![make, Op::SyncFolder(at.clone()), Op::SyncFolder(at.folder())];
    let folder = config.state_root.path().join(Name::Edge.as_str());
    tree.run(ops).map_err(|fault| Failure::refused(format!("{}: {}", folder.display(), fault.kind)))?;
    let folder = folder.join("telemetry");
    let disk = Disk::open(&Layout::log(&folder), Arc::new(())).map_err(|error| Failure::refused(error.to_string()))?;
    let fd = disk.telemetry().ok_or_else(|| Failure::refused("the layout has no log folder"))?;
    let lock = WriterLock::take(fd).map_err(|error| Failure::refused(format!("{}: {error}", folder.display())))?;
    Ok((disk, lock))
}

/// The socket, and the folder for it where a service manager did not make it.
async fn control_socket(path: &Path) -> Result<UnixSocket, Failure> {
    if let Some(folder) = path.parent().filter(|folder| !folder.exists()) {
        let made = std::fs::DirBuilder::new().mode(0o700).create(folder);
        made.map_err(|error| Failure::refused(format!("{}: cannot be made: {error}", folder.display())))?;
    }
    UnixSocket::bind(path).await.map_err(|error| Failure::refused(format!("{error} (control.socket)")))
}

fn started(log: &Log, config: &Config, node: &Node, metrics: Option<SocketAddr>) {
    let status = node.status();
    let mut note = Note::new(Level::Info, "edged.started")
        .with("boot_epoch", status.epoch.map_or(0, |entry| entry.epoch))
        .with("state_root", config.state_root.as_str())
        .with("control", config.socket.display().to_string())
        .with("metrics", metrics.map_or_else(|| "off".into(), |address| address.to_string()))
        .with("version", VERSION);
    if let Some(wal) = &status.wal {
        note = note.with("node_id", wal.node_id.as_str()).with("log_id", wal.log_id.to_string()).with("head", wal.head);
    }
    log.note(&note);
}
