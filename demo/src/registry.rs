//! The registry of the story: `autonomy oci serve`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::service::{Service, Serving};
use crate::shell::Shell;

/// A registry that is started and ended, always on the same address.
#[derive(Debug)]
pub struct Registry {
    service: Service,
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
        let service = Service::new(autonomy, "registry", 5000, "/v2/")?;
        Ok(Self { address: service.address, service, dir: dir.to_path_buf() })
    }

    /// Shows and starts it.
    ///
    /// # Errors
    /// It does not answer.
    pub fn start(&self, shell: &Shell) -> Result<Serving> {
        self.service.start(&self.arguments(), shell)
    }

    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// It does not answer.
    pub fn quietly(&self) -> Result<Serving> {
        self.service.quietly(&self.arguments())
    }

    fn arguments(&self) -> Vec<String> {
        let mut all: Vec<String> = ["oci", "serve", "--listen"].map(String::from).into();
        all.extend([self.address.to_string(), "--dir".into(), self.dir.display().to_string()]);
        all
    }
}
