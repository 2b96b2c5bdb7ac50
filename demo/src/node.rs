//! One runtime: the real binary in a folder of its own.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::http::{Answer, Client};
use crate::scratch::{self, lock};

/// How long a start or a clean stop may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where a runtime lives and how it is started.
#[derive(Clone, Debug)]
pub struct Node {
    /// The `autonomy` binary.
    pub autonomy: PathBuf,
    /// `--state-root`
    pub root: PathBuf,
    /// `--listen`
    pub address: SocketAddr,
    /// Variables of its environment beside the inherited ones.
    pub environment: Vec<(String, String)>,
    /// Flags beside `--listen` and `--state-root`.
    pub flags: Vec<String>,
}

impl Node {
    /// A node with its state in `root`, on 127.0.0.1: port 7777 if it is free, else any.
    ///
    /// # Errors
    /// There is no free port.
    pub fn new(autonomy: &Path, root: &Path) -> Result<Self> {
        let loopback = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).and_then(|free| free.local_addr());
        let address = loopback(7777).or_else(|_| loopback(0)).context("no free port on 127.0.0.1")?;
        let (autonomy, root) = (autonomy.to_path_buf(), root.to_path_buf());
        Ok(Self { autonomy, root, address, environment: Vec::new(), flags: Vec::new() })
    }

    /// `{root}/telemetry`
    #[must_use]
    pub fn telemetry(&self) -> PathBuf {
        self.root.join("telemetry")
    }

    /// `{root}/policy`
    #[must_use]
    pub fn policy(&self) -> PathBuf {
        self.root.join("policy")
    }

    /// The command line behind the program's name.
    #[must_use]
    pub fn arguments(&self) -> Vec<String> {
        let root = self.root.display().to_string();
        let mut all: Vec<String> = ["runtime", "start", "--listen"].map(String::from).into();
        all.extend([self.address.to_string(), "--state-root".into(), root]);
        all.extend(self.flags.iter().cloned());
        all
    }

    /// Starts it and waits until it says that it has started and answers `GET /health`.
    ///
    /// # Errors
    /// It ended or did not answer in time; what it wrote to stderr is in the error.
    pub fn start(&self) -> Result<Running> {
        let running = self.spawn()?;
        running.wait_until_it_answers()?;
        Ok(running)
    }

    /// Starts it and does not wait.
    ///
    /// # Errors
    /// The binary cannot be run.
    pub fn spawn(&self) -> Result<Running> {
        std::fs::create_dir_all(&self.root).with_context(|| format!("cannot create {}", self.root.display()))?;
        let log = self.root.join("runtime.stderr");
        let stderr = File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        let mut command = Command::new(&self.autonomy);
        without_ours(&mut command);
        let child = command
            .args(self.arguments())
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .with_context(|| format!("cannot run {}; `make build` makes it", self.autonomy.display()))?;
        let pid = child.id();
        Ok(Running { child: scratch::guarded(child), pid, address: self.address, log })
    }
}

/// Takes away what the caller's environment says to `autonomy` and to `cosign`, so that the play is the same everywhere.
pub(crate) fn without_ours(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let says = ["AUTONOMY_", "COSIGN_", "SIGSTORE_"].iter().any(|prefix| text.starts_with(prefix));
        if says || text == "REGISTRY_AUTH_FILE" {
            command.env_remove(&name);
        }
    }
}

/// A runtime that was started; killed when it goes out of scope.
#[derive(Debug)]
pub struct Running {
    child: Arc<Mutex<Child>>,
    /// Its process id.
    pub pid: u32,
    /// Where it listens.
    pub address: SocketAddr,
    log: PathBuf,
}

impl Running {
    /// A new connection to it.
    ///
    /// # Errors
    /// It cannot be reached.
    pub fn client(&self) -> Result<Client> {
        Client::connect(self.address, PATIENCE)
    }

    /// `GET path` over a connection of its own.
    ///
    /// # Errors
    /// No answer.
    pub fn get(&self, path: &str) -> Result<Answer> {
        self.client()?.get(path)
    }

    /// `POST /v1/tool` over a connection of its own.
    ///
    /// # Errors
    /// No answer.
    pub fn call(&self, body: &str) -> Result<Answer> {
        self.client()?.post("/v1/tool", body)
    }

    /// Waits until the log was opened, which a line on stderr says, and `GET /health` is answered.
    ///
    /// # Errors
    /// It ended or did not answer in time.
    pub fn wait_until_it_answers(&self) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            let answer = Client::connect(self.address, Duration::from_secs(1)).and_then(|mut c| c.get("/health"));
            if answer.is_ok() && self.stderr().contains("runtime.started") {
                return Ok(());
            }
            if let Some(status) = lock(&self.child).try_wait()? {
                bail!("the runtime ended with {status}:\n{}", self.stderr());
            }
            if Instant::now() > until {
                bail!("the runtime does not answer on {}:\n{}", self.address, self.stderr());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What it wrote to stderr so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// `kill -9` by its process id.
    pub fn kill_9(self) {
        drop(self);
    }

    /// SIGTERM, then waits for its end.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn stop(self) -> Result<ExitStatus> {
        terminate(self.pid)?;
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = lock(&self.child).try_wait()? {
                return Ok(status);
            }
            if Instant::now() > until {
                bail!("the runtime does not end on SIGTERM:\n{}", self.stderr());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Sends SIGTERM to a process of ours.
pub(crate) fn terminate(pid: u32) -> Result<()> {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    let pid = pid.context("a process without an id")?;
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).context("sending SIGTERM")
}

impl Drop for Running {
    fn drop(&mut self) {
        scratch::kill(&self.child);
    }
}
