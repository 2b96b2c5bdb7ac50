//! Where a node's folders are, and their descriptors.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use machines::disk::FaultKind;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

/// How a folder of ours is opened.
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Where the folders of SPEC 1 are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// `telemetry/`; `None` for a command that has no business with the log.
    pub telemetry: Option<PathBuf>,
    /// The policy folders; `None` for a command that has no business with them.
    pub policy: Option<PolicyLayout>,
    /// `bootstrap/` of the state root, where this boot's precheck leaves its marker; `None` for who does not ask for it. It need not
    /// be there.
    pub bootstrap: Option<PathBuf>,
}

/// Where the policy and what is said about it are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyLayout {
    /// `policy/`, which holds `bundles/`.
    pub folder: PathBuf,
    /// The folder that holds `activation.json`: the state root, or a policy folder that lies elsewhere.
    pub activation: PathBuf,
}

impl Layout {
    /// The layout beneath a state root, with the folders that were given apart.
    #[must_use]
    pub fn new(state_root: &Path, telemetry: Option<&Path>, policy: Option<&Path>) -> Self {
        let telemetry = telemetry.map_or_else(|| state_root.join("telemetry"), Path::to_path_buf);
        let policy = Some(PolicyLayout::new(state_root, policy));
        Self { telemetry: Some(telemetry), policy, bootstrap: Some(state_root.join("bootstrap")) }
    }

    /// A log folder alone.
    #[must_use]
    pub fn log(folder: &Path) -> Self {
        Self { telemetry: Some(folder.to_path_buf()), policy: None, bootstrap: None }
    }
}

impl PolicyLayout {
    /// The policy folder beneath a state root, or the one that was given apart. When that is not `{state_root}/policy`,
    /// `activation.json` lies in it, so that a test or a demo needs no state root.
    #[must_use]
    pub fn new(state_root: &Path, folder: Option<&Path>) -> Self {
        let usual = state_root.join("policy");
        let folder = folder.map_or_else(|| usual.clone(), Path::to_path_buf);
        let activation = if same_place(&folder, &usual) { state_root.to_path_buf() } else { folder.clone() };
        Self { folder, activation }
    }
}

fn same_place(a: &Path, b: &Path) -> bool {
    let real = |path: &Path| std::fs::canonicalize(path).or_else(|_| std::path::absolute(path));
    a == b || matches!((real(a), real(b)), (Ok(a), Ok(b)) if a == b)
}

/// A folder that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It is a link or no folder.
    #[error("{0}: is a symbolic link or not a folder; give the folder itself")]
    NotAFolder(PathBuf),
    /// It cannot be made.
    #[error("{0}: cannot be created: {1}")]
    Create(PathBuf, #[source] std::io::Error),
    /// It cannot be opened.
    #[error("{0}: cannot be opened: {1}")]
    Open(PathBuf, #[source] std::io::Error),
}

/// Open descriptors of the folders.
#[derive(Default)]
pub struct Folders {
    pub telemetry: Option<OwnedFd>,
    pub activation: Option<OwnedFd>,
    pub policy: Option<OwnedFd>,
    pub bundles: Option<OwnedFd>,
    bootstrap: Option<PathBuf>,
}

impl Folders {
    /// Opens the folders; missing ones are made, or are an error.
    pub fn open(layout: &Layout, make_missing: bool) -> Result<Self, OpenError> {
        let get = |path: &Path| if make_missing { make_and_open(path) } else { open(path) };
        let mut folders = Self { bootstrap: layout.bootstrap.clone(), ..Self::default() };
        if let Some(policy) = &layout.policy {
            folders.activation = Some(get(&policy.activation)?);
            folders.policy = Some(get(&policy.folder)?);
            folders.bundles = Some(get(&policy.folder.join("bundles"))?);
        }
        folders.telemetry = layout.telemetry.as_deref().map(get).transpose()?;
        Ok(folders)
    }

    /// `bootstrap/` as it is now.
    pub fn bootstrap(&self) -> Result<OwnedFd, FaultKind> {
        let path = self.bootstrap.as_deref().ok_or(FaultKind::NotFound)?;
        rustix::fs::openat(CWD, path, FOLDER, Mode::empty()).map_err(super::kind_of)
    }
}

/// Makes a folder and its missing parents with mode 0700, each synced into the folder above it, and opens it.
fn make_and_open(path: &Path) -> Result<OwnedFd, OpenError> {
    make(path)?;
    open(path)
}

fn make(path: &Path) -> Result<(), OpenError> {
    if path.symlink_metadata().is_ok() {
        return Ok(());
    }
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) => Path::new("."),
        None => return Ok(()),
    };
    // A parent may be a link: only the folders that hold our files must not be.
    if !parent.exists() {
        make(parent)?;
    }
    let failed = |errno: Errno| OpenError::Create(path.to_path_buf(), errno.into());
    match rustix::fs::mkdir(path, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(failed(errno)),
    }
    let above = rustix::fs::open(parent, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    above.and_then(rustix::fs::fsync).map_err(failed)
}

fn open(path: &Path) -> Result<OwnedFd, OpenError> {
    // A trailing slash would make the kernel follow a link in the last place.
    let name: PathBuf = path.components().collect();
    rustix::fs::openat(CWD, &name, FOLDER, Mode::empty()).map_err(|errno| match errno {
        Errno::LOOP | Errno::NOTDIR => OpenError::NotAFolder(path.to_path_buf()),
        other => OpenError::Open(path.to_path_buf(), other.into()),
    })
}
