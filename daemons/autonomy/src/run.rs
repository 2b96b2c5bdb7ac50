//! `autonomy run`: a runtime for the life of one command.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use daemon_common::failure::{Ended, Failure};
use daemon_common::logs::{LogFormat, LogLevel, open_log};
use io_drive::disk::{Layout, PolicyLayout};
use io_node::policies::Limits;
use io_node::tools::registry::ToolConfig;
use machines::activation::Command;
use machines::policy::bundle::{BuildOptions, MAX_FILE, build};
use machines::wal::OnFull;
use tokio::process::Child;
use tokio::signal::unix::{Signal, SignalKind};

use crate::bundles::{self, Files};
use crate::cli;
use crate::config::is_strict;
use crate::runtime::{self, Plan, STRICT_VARIABLE, boot, handler};

/// The demo policy: what it is and does is shown in `demo/policies`.
const DEMO: [(&str, &str); 2] = [
    ("echo_allow.rego", include_str!("../../../demo/policies/echo_allow.rego")),
    ("shell_deny.rego", include_str!("../../../demo/policies/shell_deny.rego")),
];

/// Where the command finds the runtime.
const URL_VARIABLE: &str = "AUTONOMY_RUNTIME_URL";

/// Runs the command with a runtime of its own and returns its exit code.
///
/// # Errors
/// When the policy is refused or the runtime cannot start; the command did not run then.
pub fn run(args: &cli::Run) -> Ended {
    let (dir, kept) = match &args.dir {
        Some(dir) => (dir.clone(), false),
        None => (temporary()?, true),
    };
    let bundle = bundle(args.policy.as_deref())?;
    let policy = PolicyLayout::new(&dir, None);
    bundles::change(policy, Command::Load { bytes: bundle, require_verified: false }, None)?
        .map_err(|reason| Failure::refused(format!("the policy is refused: {reason}")))?;
    let log = open_log(LogFormat::Logfmt, LogLevel::Warn);
    let plan = Plan {
        layout: Layout::new(&dir, None, None),
        listen: std::net::SocketAddr::from(([127, 0, 0, 1], 0)),
        node_id: None,
        strict: is_strict(false, false, std::env::var_os(STRICT_VARIABLE).as_deref()),
        require_verified: false,
        require_precheck: false,
        token: None,
        names: Vec::new(),
        max_in_flight: 1024,
        tool_timeout: Duration::from_secs(30),
        decision_limit: Limits::TIME,
        wal_max_bytes: 1 << 30,
        wal_retain: Duration::from_secs(7 * 86_400),
        wal_on_full: OnFull::Deny,
        tools: ToolConfig::default(),
        exporter: None,
        log,
    };
    let code = runtime::tokio_runtime()?.block_on(async {
        // Before the command is there, so that no signal is lost between the two.
        let mut signals = Signals::new()?;
        let running = boot(plan).await?;
        let url = format!("http://{}", running.address);
        let mut command =
            tokio::process::Command::new(args.command.first().map_or("".as_ref(), |name| name.as_os_str()));
        command.args(args.command.iter().skip(1)).env(URL_VARIABLE, &url);
        let code = match command.spawn() {
            Ok(child) => signals.forward_until_end(child).await?,
            Err(error) => {
                let name = args.command.first().cloned().unwrap_or_default();
                eprintln!("autonomy run: cannot run {}: {error}", Path::new(&name).display());
                // As a shell says it.
                if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 }
            }
        };
        running.stop().await?;
        Ok::<u8, Failure>(code)
    })?;
    let wal = dir.join("telemetry");
    let hint = if kept { ", which stays until you remove it" } else { "" };
    eprintln!("autonomy run: the log is in {}{hint}; autonomy wal tail --dir {}", wal.display(), wal.display());
    std::process::exit(code.into())
}

/// The bundle to put in force: built from one Rego file, given whole, or the demo's.
fn bundle(given: Option<&Path>) -> Result<Vec<u8>, Failure> {
    let mut files = Files::new();
    match given {
        None => files.extend(DEMO.map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec()))),
        Some(path) if path.extension().is_some_and(|e| e == "rego") => {
            files.insert("policy.rego".to_owned(), bundles::read(path, MAX_FILE)?);
        }
        Some(path) => return bundles::read_bundle(path),
    }
    let name = Some(if given.is_some() { "run" } else { "demo" }.to_owned());
    build(&files, &BuildOptions { version: "0.0.0".to_owned(), name, ..BuildOptions::default() })
        .map_err(|refusal| Failure::refused(format!("the policy is refused: {refusal}")))
}

/// A new folder of ours alone.
fn temporary() -> Result<PathBuf, Failure> {
    use std::os::unix::fs::DirBuilderExt;
    let failed = |error: std::io::Error| Failure::refused(format!("no temporary folder can be made: {error}"));
    let random = io_drive::clock::entropy().map_err(failed)?.0;
    let name: String = random.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let dir = std::env::temp_dir().join(format!("autonomy-run-{name}"));
    std::fs::DirBuilder::new().mode(0o700).create(&dir).map_err(failed)?;
    Ok(dir)
}

/// The signals that are passed on.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    quit: Signal,
    user1: Signal,
    user2: Signal,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        Ok(Self {
            terminate: handler(SignalKind::terminate())?,
            interrupt: handler(SignalKind::interrupt())?,
            hangup: handler(SignalKind::hangup())?,
            quit: handler(SignalKind::quit())?,
            user1: handler(SignalKind::user_defined1())?,
            user2: handler(SignalKind::user_defined2())?,
        })
    }

    /// Passes signals on until the command has ended; its exit code, 128+n when signal n ended it.
    async fn forward_until_end(&mut self, mut child: Child) -> Result<u8, Failure> {
        use rustix::process::{Pid, Signal, kill_process};
        let id = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        // A terminal sends its own signals to the whole foreground group, the command included.
        let from_terminal = at_a_terminal();
        loop {
            let signal = tokio::select! {
                ended = child.wait() => {
                    let ended = ended.map_err(|e| Failure::refused(format!("cannot wait for the command: {e}")))?;
                    let code = ended.code().or_else(|| ended.signal().map(|n| n.saturating_add(128)));
                    return Ok(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1));
                }
                _ = self.terminate.recv() => Some(Signal::TERM),
                _ = self.interrupt.recv() => (!from_terminal).then_some(Signal::INT),
                _ = self.hangup.recv() => Some(Signal::HUP),
                _ = self.quit.recv() => (!from_terminal).then_some(Signal::QUIT),
                _ = self.user1.recv() => Some(Signal::USR1),
                _ = self.user2.recv() => Some(Signal::USR2),
            };
            if let (Some(id), Some(signal)) = (id, signal) {
                // It may have ended just now.
                let _ = kill_process(id, signal);
            }
        }
    }
}

fn at_a_terminal() -> bool {
    use std::io::IsTerminal as _;
    std::io::stdin().is_terminal()
}
