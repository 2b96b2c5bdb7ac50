//! A temporary folder, and the list of everything that has to end when the play ends, however it ends.

use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};

static CHILDREN: Mutex<Vec<Arc<Mutex<Child>>>> = Mutex::new(Vec::new());
static FOLDERS: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// A lock whose holder panicked is still a lock.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A folder that is removed when it goes out of scope, or on Ctrl-C.
#[derive(Debug)]
pub struct Scratch {
    folder: tempfile::TempDir,
}

impl Scratch {
    /// A new folder in the system's temporary folder, or beneath `within`.
    ///
    /// # Errors
    /// It cannot be created.
    pub fn new(within: Option<&Path>) -> Result<Self> {
        let within = within.map_or_else(std::env::temp_dir, Path::to_path_buf);
        let make = tempfile::Builder::new().prefix("autonomy-").tempdir_in(&within);
        let folder = make.with_context(|| format!("cannot create a temporary folder in {}", within.display()))?;
        lock(&FOLDERS).push(folder.path().to_path_buf());
        Ok(Self { folder })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        lock(&FOLDERS).retain(|folder| folder != self.folder.path());
    }
}

/// Puts a process on the list of those that are killed on Ctrl-C.
#[must_use]
pub fn guarded(child: Child) -> Arc<Mutex<Child>> {
    let child = Arc::new(Mutex::new(child));
    lock(&CHILDREN).push(Arc::clone(&child));
    child
}

/// Kills a process by its id, waits for it, and takes it off the list.
pub fn kill(child: &Arc<Mutex<Child>>) {
    let mut process = lock(child);
    // A process that ended already is no error here.
    let _ = process.kill();
    let _ = process.wait();
    drop(process);
    lock(&CHILDREN).retain(|other| !Arc::ptr_eq(other, child));
}

/// From now on SIGINT and SIGTERM end every process on the list, remove every folder and end this process with
/// 130 or 143.
///
/// # Errors
/// The thread or the handlers cannot be set up.
pub fn clean_up_on_signals() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().context("signal handling")?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    let watch = move || {
        let code = runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => 130,
                _ = terminate.recv() => 143,
            }
        });
        eprintln!("\ninterrupted: ending what was started");
        for child in lock(&CHILDREN).iter() {
            let mut process = lock(child);
            let _ = process.kill();
            let _ = process.wait();
        }
        for folder in lock(&FOLDERS).iter() {
            let _ = std::fs::remove_dir_all(folder);
        }
        std::process::exit(code);
    };
    std::thread::Builder::new().name("signals".into()).spawn(watch).context("signal handling")?;
    Ok(())
}
