//! One edge: the real `edged` on a state root of its own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use machines::precheck::files::Name;

use crate::node::Node;
use crate::scratch::{self, lock};
use crate::shell::{Printed, Shell};

/// How long a start or a clean stop may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where an edge lives.
#[derive(Clone, Debug)]
pub struct Edge {
    /// The folder with `edged` and `edgectl`.
    programs: PathBuf,
    root: PathBuf,
    /// Configuration, keys and the control socket lie here.
    pub folder: PathBuf,
}

/// A running `edged`, killed when it goes out of scope.
#[derive(Debug)]
pub struct RunningEdge {
    child: Arc<Mutex<Child>>,
}

impl Edge {
    /// An edge on the state root of this node; its configuration is written to `scratch/edge/`.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn new(node: &Node, scratch: &Path) -> Result<Self> {
        let folder = scratch.join("edge");
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let programs = node.autonomy.parent().map(Path::to_path_buf).unwrap_or_default();
        let edge = Self { programs, root: node.root.clone(), folder };
        let config = format!(
            "[node]\nid = \"edge-1\"\nstate_root = {:?}\n\n[control]\nsocket = {:?}\n\n[metrics]\nlisten = \"127.0.0.1:0\"\n",
            edge.root,
            edge.socket(),
        );
        std::fs::write(edge.config(), config).context("cannot write edge.toml")?;
        Ok(edge)
    }

    fn config(&self) -> PathBuf {
        self.folder.join("edge.toml")
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("ctl.sock")
    }

    /// The state root.
    #[must_use]
    pub fn root(&self) -> String {
        self.root.display().to_string()
    }

    /// One of the node's files.
    #[must_use]
    pub fn path(&self, name: Name) -> PathBuf {
        self.root.join(name.as_str())
    }

    /// `runtime/` of the state root.
    #[must_use]
    pub fn runtime(&self) -> PathBuf {
        self.root.join("runtime")
    }

    /// What an operation installed as `runtime/bin/<name>`.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn installed(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.root.join("runtime/bin").join(name);
        std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    /// The folder of the files that a manifest is made from.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn files(&self) -> Result<PathBuf> {
        let files = self.folder.join("files");
        std::fs::create_dir_all(&files).with_context(|| format!("cannot create {}", files.display()))?;
        Ok(files)
    }

    /// Shows and runs `edged init`.
    ///
    /// # Errors
    /// The binary cannot be run.
    pub fn init(&self, shell: &Shell) -> Result<Printed> {
        shell.sibling("edged", &["init", "--state-root", &self.root()])
    }

    /// Shows and runs `edged precheck`.
    ///
    /// # Errors
    /// The binary cannot be run.
    pub fn precheck(&self, shell: &Shell) -> Result<Printed> {
        shell.sibling("edged", &["--config", &self.config().display().to_string(), "precheck"])
    }

    /// Shows and runs `edgectl` against the control socket.
    ///
    /// # Errors
    /// The binary cannot be run.
    pub fn edgectl(&self, shell: &Shell, arguments: &[&str]) -> Result<Printed> {
        let socket = self.socket().display().to_string();
        let mut all = vec!["--socket", &socket];
        all.extend(arguments);
        shell.sibling("edgectl", &all)
    }

    /// A precheck that is not waited for, for those who kill it.
    ///
    /// # Errors
    /// The binary cannot be run.
    pub fn begin_precheck(&self) -> Result<Child> {
        let mut command = Command::new(self.programs.join("edged"));
        command.arg("--config").arg(self.config()).arg("precheck");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().context("cannot run edged")
    }

    /// Shows and runs an `edged run` that has to end by itself.
    ///
    /// # Errors
    /// The binary cannot be run.
    pub fn start_refused(&self, shell: &Shell) -> Result<Printed> {
        shell.sibling("edged", &["--config", &self.config().display().to_string(), "run"])
    }

    /// Shows and starts `edged run`, and waits until its control socket is there.
    ///
    /// # Errors
    /// It ended, or did not come up in time.
    pub fn start(&self, shell: &Shell) -> Result<RunningEdge> {
        let config = self.config().display().to_string();
        shell.type_in(&format!("edged --config {config} run &"));
        let log = self.folder.join("edged.log");
        let file = std::fs::File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        let mut command = Command::new(self.programs.join("edged"));
        command.args(["--config", &config, "run"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
        let child = scratch::guarded(command.spawn().context("cannot run edged; `make build` makes it")?);
        let running = RunningEdge { child };
        let began = Instant::now();
        while !self.socket().exists() {
            let ended = lock(&running.child).try_wait()?;
            if ended.is_some() || began.elapsed() > PATIENCE {
                bail!("edged did not start:\n{}", std::fs::read_to_string(&log).unwrap_or_default());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        shell.print(&format!("[pid {}]", lock(&running.child).id()));
        Ok(running)
    }
}

impl RunningEdge {
    /// SIGTERM, and its end.
    ///
    /// # Errors
    /// It cannot be told, or does not end in time.
    pub fn stop(self) -> Result<ExitStatus> {
        crate::node::terminate(lock(&self.child).id())?;
        let began = Instant::now();
        loop {
            if let Some(status) = lock(&self.child).try_wait()? {
                return Ok(status);
            }
            if began.elapsed() > PATIENCE {
                bail!("edged did not end after SIGTERM");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for RunningEdge {
    fn drop(&mut self) {
        scratch::kill(&self.child);
    }
}
