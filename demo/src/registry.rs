//! The registry of the story: `autonomy oci serve`.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::http::Client;
use crate::node::without_ours;
use crate::scratch::{self, lock};
use crate::shell::Shell;

const PATIENCE: Duration = Duration::from_secs(10);

/// A registry that is started and ended, always on the same address.
#[derive(Debug)]
pub struct Registry {
    autonomy: PathBuf,
    /// `--dir`
    pub dir: PathBuf,
    /// `--listen`
    pub address: SocketAddr,
}

impl Registry {
    /// One that keeps everything in this folder, on port 5000 if it is free, else any.
    ///
    /// # Errors
    /// There is no free port.
    pub fn new(autonomy: &Path, dir: &Path) -> Result<Self> {
        let loopback = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).and_then(|free| free.local_addr());
        let address = loopback(5000).or_else(|_| loopback(0)).context("no free port on 127.0.0.1")?;
        Ok(Self { autonomy: autonomy.to_path_buf(), dir: dir.to_path_buf(), address })
    }

    /// Shows and starts it.
    ///
    /// # Errors
    /// It does not answer.
    pub fn start(&self, shell: &Shell) -> Result<Serving> {
        shell.type_in(&format!("autonomy {} &", self.arguments().join(" ")));
        let up = self.quietly()?;
        shell.print(&format!("[pid {}]", up.pid));
        Ok(up)
    }

    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// It does not answer.
    pub fn quietly(&self) -> Result<Serving> {
        let mut command = Command::new(&self.autonomy);
        without_ours(&mut command);
        let child = command
            .args(self.arguments())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot run {}; `make build` makes it", self.autonomy.display()))?;
        let pid = child.id();
        let up = Serving { child: scratch::guarded(child), pid };
        let until = Instant::now() + PATIENCE;
        loop {
            let answer = Client::connect(self.address, PATIENCE).and_then(|mut client| client.get("/v2/"));
            if answer.is_ok_and(|answer| answer.status == 200) {
                return Ok(up);
            }
            if let Some(status) = lock(&up.child).try_wait()? {
                bail!("the registry ended with {status}");
            }
            if Instant::now() > until {
                bail!("the registry does not answer on {}", self.address);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn arguments(&self) -> Vec<String> {
        let mut all: Vec<String> = ["oci", "serve", "--listen"].map(String::from).into();
        all.extend([self.address.to_string(), "--dir".into(), self.dir.display().to_string()]);
        all
    }
}

/// A registry that runs; killed when it goes out of scope.
#[derive(Debug)]
pub struct Serving {
    child: Arc<Mutex<Child>>,
    /// Its process id.
    pub pid: u32,
}

impl Serving {
    /// Ends it, by its id.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        scratch::kill(&self.child);
    }
}
