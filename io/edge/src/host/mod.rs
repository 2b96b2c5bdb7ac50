//! What this host is: the sources of its fingerprint (SPEC 10). Each of them can be given, so that another root file system
//! can be pointed at. Every file is read within a bound.

mod libc;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use machines::ids::Hash32;
use machines::precheck::host::{Components, os_release};

use crate::bounded;

/// Most extra files of a fingerprint.
pub const MOST_EXTRA_FILES: usize = 64;
/// Most bytes of one extra file.
pub const MOST_EXTRA_BYTES: u64 = 256 << 20;
/// Where the kernel tells the id of this boot.
pub const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Most bytes of a short text, like a kernel's release.
const MOST_TEXT: u64 = 256;
/// Most bytes of an `os-release`.
const MOST_OS_RELEASE: u64 = 64 * 1024;
/// Most bytes of the name of an extra file.
const MOST_PATH: usize = 4096;
/// Where an `os-release` lies, the first that is there (os-release(5)).
const OS_RELEASE: [&str; 2] = ["etc/os-release", "usr/lib/os-release"];

/// Where a short text comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Text {
    /// From the kernel that runs.
    #[default]
    Own,
    /// This.
    Is(String),
    /// The content of a file, without space around it.
    File(PathBuf),
}

/// Where the components of a fingerprint come from. The default is this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources {
    /// The root of the system that is looked at: its `os-release`, C library and extra files.
    pub root: PathBuf,
    /// The kernel's release.
    pub kernel: Text,
    /// The machine, like `x86_64`.
    pub machine: Text,
    /// `[fingerprint] os_release`, a file that is read as it is; else the one of the system beneath `root`.
    pub os_release: Option<PathBuf>,
    /// `[fingerprint] extra_files`, absolute; looked up beneath `root`.
    pub extra_files: Vec<String>,
}

impl Default for Sources {
    fn default() -> Self {
        Self { root: "/".into(), kernel: Text::Own, machine: Text::Own, os_release: None, extra_files: Vec::new() }
    }
}

impl Sources {
    /// Reads the components, each source once (FAULTS B12).
    ///
    /// # Errors
    /// Which source cannot be read, and why. A file that is not there is no error where a system may do without it.
    pub fn components(&self) -> Result<Components, String> {
        let uname = rustix::system::uname();
        let machine = self.machine.read("machine", uname.machine().to_bytes())?;
        Ok(Components {
            kernel: self.kernel.read("kernel release", uname.release().to_bytes())?,
            os_release: self.os_release()?,
            libc: libc::version(&self.root, &machine)?,
            files: self.files()?,
            machine,
        })
    }

    fn os_release(&self) -> Result<BTreeMap<String, String>, String> {
        let bytes = match &self.os_release {
            Some(path) => {
                let read = bounded::open(path).and_then(|file| bounded::whole(file, MOST_OS_RELEASE));
                read.map_err(|why| format!("fingerprint.os_release {}: {why}", path.display()))?
            }
            None => {
                let found = first(&self.root, OS_RELEASE.into_iter().map(str::to_owned))?;
                let Some((name, file)) = found else { return Ok(BTreeMap::new()) };
                bounded::whole(file, MOST_OS_RELEASE).map_err(|why| format!("/{name}: {why}"))?
            }
        };
        Ok(os_release(&String::from_utf8_lossy(&bytes)))
    }

    fn files(&self) -> Result<BTreeMap<String, Option<Hash32>>, String> {
        if self.extra_files.len() > MOST_EXTRA_FILES {
            return Err(format!("fingerprint.extra_files: more than {MOST_EXTRA_FILES} files"));
        }
        let mut files = BTreeMap::new();
        for path in &self.extra_files {
            let hash =
                extra_file(path).map_err(str::to_owned).and_then(|()| self.extra(path).map_err(|e| e.to_string()));
            files.insert(path.clone(), hash.map_err(|why| format!("fingerprint.extra_files {path:?}: {why}"))?);
        }
        Ok(files)
    }

    fn extra(&self, path: &str) -> io::Result<Option<Hash32>> {
        match bounded::open_in(&self.root, path) {
            Ok(file) => bounded::hashed(file, MOST_EXTRA_BYTES).map(Some),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Text {
    fn read(&self, what: &str, own: &[u8]) -> Result<String, String> {
        let bytes = match self {
            Self::Own => own.to_vec(),
            Self::Is(text) => text.clone().into_bytes(),
            Self::File(path) => {
                let read = bounded::open(path).and_then(|file| bounded::whole(file, MOST_TEXT));
                read.map_err(|why| format!("{what}: {}: {why}", path.display()))?
            }
        };
        let text = str::from_utf8(&bytes).unwrap_or_default().trim();
        let plain = text.bytes().all(|b| matches!(b, b' '..=b'~'));
        if text.is_empty() || !plain || text.len() > 256 {
            return Err(format!("{what}: not one line of up to {MOST_TEXT} printable characters"));
        }
        Ok(text.to_owned())
    }
}

/// Whether a path can be one of `[fingerprint] extra_files`.
///
/// # Errors
/// What is wrong with it.
pub fn extra_file(path: &str) -> Result<(), &'static str> {
    if !path.starts_with('/') {
        return Err("it is not absolute");
    }
    if path.len() > MOST_PATH {
        return Err("it is longer than 4096 bytes");
    }
    // The path stands in the signed-like document whose hash is the fingerprint: one spelling for each.
    if !path.bytes().all(|b| matches!(b, b' '..=b'~')) {
        return Err("only printable ASCII characters are allowed");
    }
    Ok(())
}

/// The id of this boot, from [`BOOT_ID`] or another file.
///
/// # Errors
/// When the file cannot be read or holds no id.
pub fn boot_id(path: &Path) -> Result<String, String> {
    let bytes = bounded::open(path).and_then(|file| bounded::whole(file, MOST_TEXT));
    let bytes = bytes.map_err(|why| format!("{}: {why}", path.display()))?;
    let text = str::from_utf8(&bytes).unwrap_or_default().trim();
    if text.len() == 36 && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-') {
        return Ok(text.to_owned());
    }
    Err(format!("{}: no id of a boot: wanted are 36 hex digits and hyphens", path.display()))
}

/// The first of these files that is there, beneath `root`.
fn first(root: &Path, names: impl Iterator<Item = String>) -> Result<Option<(String, File)>, String> {
    for name in names {
        match bounded::open_in(root, &name) {
            Ok(file) => return Ok(Some((name, file))),
            Err(error) if is_absent(&error) => {}
            Err(error) => return Err(format!("{}: {error}", root.join(&name).display())),
        }
    }
    Ok(None)
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests;
