//! The registry's folder. Everything here blocks; the endpoints call it from threads that may wait.
//!
//! ```text
//! registry                                    what the folder is, and the lock of whoever serves it
//! blobs/sha256/<hex>                          bytes of blobs and manifests, shared by all repositories
//! repositories/<name>/_blobs/<hex>            empty: this repository has the blob
//! repositories/<name>/_manifests/<hex>        the manifest's media type: this repository has it
//! repositories/<name>/_tags/<tag>             the digest of the manifest that is tagged so
//! repositories/<name>/_referrers/<hex>/<hex>  the descriptor of a manifest that refers to the first
//! uploads/<id>                                what is being written; removed at start
//! ```
//!
//! No component of a repository's name begins with `_`, so names and what is kept under them cannot meet. A file gets its
//! name only when it is whole, hashed and synced; what names it comes after it: bytes, then the repository's entry, then
//! referrer and tag. Bytes that nothing names are removed at start.

mod contents;
mod listing;

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, RwLock};

use io_drive::beneath::Root;
use machines::ids::Hash32;
use machines::oci::Digest;
use rustix::fs::{FlockOperation, Mode};

pub use contents::{Found, PutError};
pub use listing::Page;

use super::route::Repository;

/// The file that says what the folder is.
const MARK: &str = "registry";
const NEW_MARK: &str = "registry.new";
const MARK_TEXT: &[u8] = b"autonomy registry 1\n";
const BYTES: &str = "blobs/sha256";
const REPOSITORIES: &str = "repositories";
const UPLOADS: &str = "uploads";
/// How many folders are remembered as synced.
const KNOWN_FOLDERS: usize = 16 * 1024;

/// Why a folder cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be used.
    #[error("{0}: {1}")]
    Io(PathBuf, #[source] io::Error),
    /// It holds something else.
    #[error("{0}: holds files and is no registry's folder; give an empty or a new one")]
    Foreign(PathBuf),
    /// It was made by a version that this one does not know.
    #[error("{0}: was made by another version of the registry (it says {1:?})")]
    Version(PathBuf, String),
    /// Others could change it.
    #[error(
        "{0}: belongs to somebody else or others may write into it (mode {1:04o}); use chmod go-w, chown, or another folder"
    )]
    Open(PathBuf, u32),
    /// Somebody serves it already.
    #[error("{0}: is served by another process; stop it first, or give another folder")]
    Held(PathBuf),
}

/// The registry's folder, open.
#[derive(Debug)]
pub struct Store {
    root: Root,
    /// Adding shares it: every step of an addition may be repeated and none undoes another's. Removing takes it alone.
    changes: RwLock<()>,
    /// Folders that this process made or found, and synced.
    known: Mutex<BTreeSet<String>>,
    _lock: OwnedFd,
}

impl Store {
    /// Opens a folder and holds it until dropped. When it is to be written, it is made where it is missing, and what a
    /// crash left is removed.
    ///
    /// # Errors
    /// When the folder is not fit, or in use.
    pub fn open(path: &Path, read_only: bool) -> Result<Self, StoreError> {
        let io = |error: io::Error| StoreError::Io(path.into(), error);
        if !read_only {
            make(path).map_err(io)?;
        }
        let root = Root::open(path).map_err(io)?;
        if !read_only {
            check_owner(&root)?;
            mark(&root)?;
        }
        let lock = lock(&root, read_only)?;
        let found = root.read_all(MARK, 64).map_err(io)?;
        if found != MARK_TEXT {
            return Err(StoreError::Version(path.into(), String::from_utf8_lossy(&found).into_owned()));
        }
        let store = Self { root, changes: RwLock::default(), known: Mutex::default(), _lock: lock };
        if !read_only {
            store.prepare().map_err(io)?;
        }
        Ok(store)
    }

    fn prepare(&self) -> io::Result<()> {
        for folder in [BYTES, REPOSITORIES, UPLOADS] {
            self.make_folders(folder)?;
        }
        let mut left = 0_u32;
        for entry in self.root.entries(UPLOADS)? {
            left += u32::from(self.root.remove(&format!("{UPLOADS}/{}", entry?.name))?);
        }
        let removed = self.remove_nameless()?;
        if left > 0 || removed > 0 {
            tracing::info!(uploads = left, blobs = removed, "registry: removed what was left over");
        }
        Ok(())
    }

    /// Removes bytes that no repository names: a crash came between, or a deletion. Nothing else runs yet. Whatever
    /// cannot be read ends it before anything is removed.
    fn remove_nameless(&self) -> io::Result<u32> {
        let mut named: BTreeSet<Hash32> = BTreeSet::new();
        self.each_repository(&mut |repository| {
            for kind in ["_blobs", "_manifests"] {
                let Some(entries) = missing_is_none(self.root.entries(&format!("{REPOSITORIES}/{repository}/{kind}")))?
                else {
                    continue;
                };
                for entry in entries {
                    named.extend(Hash32::parse_hex(entry?.name.as_bytes()));
                }
            }
            Ok(())
        })?;
        let mut removed = 0;
        for entry in self.root.entries(BYTES)? {
            let name = entry?.name;
            if Hash32::parse_hex(name.as_bytes()).is_none_or(|hash| !named.contains(&hash)) {
                removed += u32::from(self.root.remove(&format!("{BYTES}/{name}"))?);
            }
        }
        Ok(removed)
    }

    /// Makes these folders, one in the other, so that they stay.
    fn make_folders(&self, path: &str) -> io::Result<()> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.contains(path) {
            return Ok(());
        }
        for (at, _) in path.match_indices('/').chain([(path.len(), "")]) {
            let folder = path.get(..at).unwrap_or(path);
            if !known.contains(folder) {
                self.root.make_folder(folder)?;
                if known.len() >= KNOWN_FOLDERS {
                    known.clear();
                }
                known.insert(folder.into());
            }
        }
        Ok(())
    }

    /// Puts a small file in place, whole and synced, over what was there.
    fn put(&self, folder: &str, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.make_folders(folder)?;
        let temp = format!("{UPLOADS}/{}", random_name()?);
        self.root.write_new(&temp, bytes)?;
        let renamed = self.root.put_in_place(&temp, &format!("{folder}/{name}"));
        if renamed.is_err() {
            let _ = self.root.remove(&temp);
        }
        renamed
    }

    /// Takes a file and syncs the folder, so that it stays away; `false` when it was not there.
    fn take(&self, folder: &str, name: &str) -> io::Result<bool> {
        let there = self.root.remove(&format!("{folder}/{name}"))?;
        if there {
            self.root.sync_folder(folder)?;
        }
        Ok(there)
    }

    /// A new file for bytes to come, and its name.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new_upload(&self) -> io::Result<(String, std::fs::File)> {
        let id = random_name()?;
        let file = self.root.create(&format!("{UPLOADS}/{id}"))?;
        Ok((id, file))
    }

    /// Removes what was written under this name.
    pub fn discard_upload(&self, id: &str) {
        let _ = self.root.remove(&format!("{UPLOADS}/{id}"));
    }
}

/// A folder of a repository.
fn within(repository: &Repository, kind: &str) -> String {
    format!("{REPOSITORIES}/{}/{kind}", repository.as_str())
}

fn bytes_name(digest: &Digest) -> String {
    format!("{BYTES}/{}", digest.hash())
}

/// 32 hex digits that nobody guesses.
fn random_name() -> io::Result<String> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn missing_is_none<T>(done: io::Result<T>) -> io::Result<Option<T>> {
    match done {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes the folder and its missing parents, mode 0700, each synced into the one above.
fn make(path: &Path) -> io::Result<()> {
    if path.symlink_metadata().is_ok() {
        return Ok(());
    }
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) => Path::new("."),
        None => return Ok(()),
    };
    if !parent.exists() {
        make(parent)?;
    }
    match rustix::fs::mkdir(path, Mode::RWXU) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    std::fs::File::open(parent)?.sync_all()
}

/// The folder is ours and nobody else writes into it (FAULTS F12).
fn check_owner(root: &Root) -> Result<(), StoreError> {
    let stat = rustix::fs::fstat(root.fd()).map_err(|errno| StoreError::Io(root.path().into(), errno.into()))?;
    let owned = stat.st_uid == rustix::process::geteuid().as_raw();
    if owned && stat.st_mode & 0o022 == 0 {
        Ok(())
    } else {
        Err(StoreError::Open(root.path().into(), stat.st_mode & 0o7777))
    }
}

/// Says in an empty folder that it is a registry's now. A folder of something else, an image layout perhaps, is left alone:
/// its blobs would be nameless here.
fn mark(root: &Root) -> Result<(), StoreError> {
    let io = |error: io::Error| StoreError::Io(root.path().into(), error);
    if root.exists(MARK).map_err(io)? {
        return Ok(());
    }
    for entry in root.entries("").map_err(io)? {
        // A crash may have left the first; the second is a file system's own.
        if !matches!(entry.map_err(io)?.name.as_str(), NEW_MARK | "lost+found") {
            return Err(StoreError::Foreign(root.path().into()));
        }
    }
    root.remove(NEW_MARK).map_err(io)?;
    root.write_new(NEW_MARK, MARK_TEXT).and_then(|()| root.put_in_place(NEW_MARK, MARK)).map_err(io)
}

/// One process writes; those who only read share.
fn lock(root: &Root, shared: bool) -> Result<OwnedFd, StoreError> {
    let file = root.read(MARK).map_err(|error| StoreError::Io(root.path().join(MARK), error))?;
    let kind = if shared { FlockOperation::NonBlockingLockShared } else { FlockOperation::NonBlockingLockExclusive };
    loop {
        match rustix::fs::flock(&file, kind) {
            Ok(()) => return Ok(OwnedFd::from(file)),
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(StoreError::Held(root.path().into())),
            Err(errno) => return Err(StoreError::Io(root.path().join(MARK), errno.into())),
        }
    }
}
