//! The collector of the story: `autonomy telemetry sink`.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use machines::json::{Limits, Value, parse};

use crate::http::Client;
use crate::node::without_ours;
use crate::scratch::{self, lock};
use crate::shell::Shell;

const PATIENCE: Duration = Duration::from_secs(10);

/// A receiver that is started and stopped, always on the same address.
#[derive(Debug)]
pub struct Sink {
    autonomy: PathBuf,
    dir: PathBuf,
    /// `--listen`
    pub address: SocketAddr,
}

impl Sink {
    /// One that keeps what it takes in this folder, on port 4318 if it is free, else any.
    ///
    /// # Errors
    /// There is no free port.
    pub fn new(autonomy: &Path, dir: &Path) -> Result<Self> {
        let loopback = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).and_then(|free| free.local_addr());
        let address = loopback(4318).or_else(|_| loopback(0)).context("no free port on 127.0.0.1")?;
        Ok(Self { autonomy: autonomy.to_path_buf(), dir: dir.to_path_buf(), address })
    }

    /// Shows and starts it.
    ///
    /// # Errors
    /// It does not answer.
    pub fn start(&self, shell: &Shell) -> Result<Collecting> {
        shell.type_in(&format!("autonomy {} &", self.arguments("accept").join(" ")));
        let up = self.quietly("accept")?;
        shell.print(&format!("[pid {}]", up.pid));
        Ok(up)
    }

    /// Starts it with this behaviour and waits until it answers.
    ///
    /// # Errors
    /// It does not answer.
    pub fn quietly(&self, behave: &str) -> Result<Collecting> {
        let mut command = Command::new(&self.autonomy);
        without_ours(&mut command);
        let child = command
            .args(self.arguments(behave))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot run {}; `make build` makes it", self.autonomy.display()))?;
        let pid = child.id();
        let up = Collecting { child: scratch::guarded(child), pid, address: self.address };
        let until = Instant::now() + PATIENCE;
        while up.stats().is_err() {
            if let Some(status) = lock(&up.child).try_wait()? {
                bail!("the sink ended with {status}");
            }
            if Instant::now() > until {
                bail!("the sink does not answer on {}", self.address);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(up)
    }

    fn arguments(&self, behave: &str) -> Vec<String> {
        let mut all: Vec<String> = ["telemetry", "sink", "--listen"].map(String::from).into();
        all.extend([self.address.to_string(), "--dir".into(), self.dir.display().to_string()]);
        if behave != "accept" {
            all.extend(["--behave".into(), behave.into()]);
        }
        all
    }

    /// The event ids of what it took, and how many records it took more than once.
    ///
    /// # Errors
    /// What it stored cannot be read.
    pub fn ids(&self) -> Result<(BTreeSet<String>, usize)> {
        let mut records = 0;
        let mut ids = BTreeSet::new();
        for record in self.records()? {
            records += 1;
            ids.insert(record.get("event_id").and_then(Value::as_str).unwrap_or_default().to_owned());
        }
        let duplicates = records - ids.len();
        Ok((ids, duplicates))
    }

    /// What it took, in order. A last line that a kill cut off is no record: it was not acknowledged.
    ///
    /// # Errors
    /// What it stored cannot be read.
    pub fn records(&self) -> Result<Vec<Value>> {
        let path = self.dir.join("records.jsonl");
        let file = match std::fs::File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let mut records = Vec::new();
        for line in BufReader::new(file).lines() {
            if let Ok(record) = parse(line?.as_bytes(), &Limits::default()) {
                records.push(record);
            }
        }
        Ok(records)
    }
}

/// A sink that runs; killed when it goes out of scope.
#[derive(Debug)]
pub struct Collecting {
    child: Arc<Mutex<Child>>,
    /// Its process id.
    pub pid: u32,
    address: SocketAddr,
}

impl Collecting {
    /// What it counted.
    ///
    /// # Errors
    /// It does not answer.
    pub fn stats(&self) -> Result<Value> {
        Ok(Client::connect(self.address, PATIENCE)?.get("/stats")?.json())
    }

    /// Ends it.
    ///
    /// # Errors
    /// None; it is killed by its id.
    pub fn stop(self) -> Result<()> {
        drop(self);
        Ok(())
    }
}

impl Drop for Collecting {
    fn drop(&mut self) {
        scratch::kill(&self.child);
    }
}
