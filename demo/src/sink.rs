//! The collector of the story: `autonomy telemetry sink`.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use machines::json::{Limits, Value, parse};

use crate::service::{Service, Serving};
use crate::shell::Shell;

/// A receiver that is started and stopped, always on the same address.
#[derive(Debug)]
pub struct Sink {
    service: Service,
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
        let service = Service::new(autonomy, "sink", 4318, "/stats")?;
        Ok(Self { address: service.address, service, dir: dir.to_path_buf() })
    }

    /// Shows and starts it.
    ///
    /// # Errors
    /// It does not answer.
    pub fn start(&self, shell: &Shell) -> Result<Collecting> {
        self.service.start(&self.arguments("accept"), shell).map(Collecting::of)
    }

    /// Starts it with this behaviour and waits until it answers.
    ///
    /// # Errors
    /// It does not answer.
    pub fn quietly(&self, behave: &str) -> Result<Collecting> {
        self.service.quietly(&self.arguments(behave)).map(Collecting::of)
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
    serving: Serving,
    /// Its process id.
    pub pid: u32,
}

impl Collecting {
    const fn of(serving: Serving) -> Self {
        Self { pid: serving.pid, serving }
    }

    /// What it counted.
    ///
    /// # Errors
    /// It does not answer.
    pub fn stats(&self) -> Result<Value> {
        Ok(self.serving.get("/stats")?.json())
    }

    /// Ends it.
    ///
    /// # Errors
    /// None; it is killed by its id.
    pub fn stop(self) -> Result<()> {
        self.serving.stop();
        Ok(())
    }
}
