//! A server of the story beside the node: `autonomy` as a child that is started and ended, always on the same address.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::http::{Answer, Client};
use crate::node::without_ours;
use crate::scratch::{self, lock};
use crate::shell::Shell;

const PATIENCE: Duration = Duration::from_secs(10);

/// What is run, and how one sees that it serves.
#[derive(Debug)]
pub struct Service {
    autonomy: PathBuf,
    name: &'static str,
    probe: &'static str,
    /// `--listen`
    pub address: SocketAddr,
}

impl Service {
    /// A server that is called `name` and answers `GET probe` with 200, on this port if it is free, else any.
    ///
    /// # Errors
    /// There is no free port.
    pub fn new(autonomy: &Path, name: &'static str, port: u16, probe: &'static str) -> Result<Self> {
        let loopback = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).and_then(|free| free.local_addr());
        let address = loopback(port).or_else(|_| loopback(0)).context("no free port on 127.0.0.1")?;
        Ok(Self { autonomy: autonomy.to_path_buf(), name, probe, address })
    }

    /// Shows and starts it.
    ///
    /// # Errors
    /// It does not answer.
    pub fn start(&self, arguments: &[String], shell: &Shell) -> Result<Serving> {
        shell.type_in(&format!("autonomy {} &", arguments.join(" ")));
        let up = self.quietly(arguments)?;
        shell.print(&format!("[pid {}]", up.pid));
        Ok(up)
    }

    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// It does not answer.
    pub fn quietly(&self, arguments: &[String]) -> Result<Serving> {
        let mut command = Command::new(&self.autonomy);
        without_ours(&mut command);
        let child = command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot run {}; `make build` makes it", self.autonomy.display()))?;
        let pid = child.id();
        let up = Serving { child: scratch::guarded(child), pid, address: self.address };
        let until = Instant::now() + PATIENCE;
        while !up.get(self.probe).is_ok_and(|answer| answer.status == 200) {
            if let Some(status) = lock(&up.child).try_wait()? {
                bail!("the {} ended with {status}", self.name);
            }
            if Instant::now() > until {
                bail!("the {} does not answer on {}", self.name, self.address);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(up)
    }
}

/// A server that runs; killed when it goes out of scope.
#[derive(Debug)]
pub struct Serving {
    child: Arc<Mutex<Child>>,
    /// Its process id.
    pub pid: u32,
    address: SocketAddr,
}

impl Serving {
    /// `GET path` over a connection of its own.
    ///
    /// # Errors
    /// No answer.
    pub fn get(&self, path: &str) -> Result<Answer> {
        Client::connect(self.address, PATIENCE)?.get(path)
    }

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
