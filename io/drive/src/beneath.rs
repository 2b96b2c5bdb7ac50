//! Files beneath a folder: opened, made, renamed and removed without following a link and without leaving the folder,
//! whoever moves things about meanwhile (FAULTS F01, F09, F13).
//!
//! A name is a path relative to the folder, of plain components joined by `/`. Where the kernel has openat2(2) it
//! resolves the name under `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS`; elsewhere each component is
//! opened by itself with `O_NOFOLLOW`. What is renamed or removed is named by its folder's descriptor and one component.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::place::{self, Taken};

const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// How often a name is resolved again when somebody renamed a part of it meanwhile.
const TRIES: u32 = 64;

/// A folder beneath which files are named.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
    path: PathBuf,
    /// The kernel has no openat2(2), or a filter forbids it.
    walks: bool,
}

impl Root {
    /// Opens a folder, which must not be a link itself.
    ///
    /// # Errors
    /// When it is none, or cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // A trailing slash would make the kernel follow a link in the last place.
        let name: PathBuf = path.components().collect();
        let fd = rustix::fs::openat(CWD, &name, flags, Mode::empty())?;
        let probe = rustix::fs::openat2(&fd, ".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), BENEATH);
        Ok(Self { fd, path: name, walks: probe.is_err() })
    }

    /// Opens a folder beneath which each component of a name is opened by itself, as where the kernel has no openat2(2).
    ///
    /// # Errors
    /// As [`Root::open`].
    pub fn open_walking(path: &Path) -> io::Result<Self> {
        Ok(Self { walks: true, ..Self::open(path)? })
    }

    /// Where the folder was when it was opened; for messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder's own descriptor.
    #[must_use]
    pub const fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Opens a regular file for reading.
    ///
    /// # Errors
    /// When the name is not plain, leads through a link, or names no regular file that can be read.
    pub fn read(&self, name: &str) -> io::Result<File> {
        // NONBLOCK: opening a FIFO must not wait for its other end.
        let file = File::from(self.resolve(name, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())?);
        if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("not a regular file")) }
    }

    /// The whole of a regular file.
    ///
    /// # Errors
    /// As [`Root::read`], and when it is longer than `max` bytes.
    pub fn read_all(&self, name: &str, max: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.read(name)?.take(max.saturating_add(1)).read_to_end(&mut bytes)?;
        if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > max {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("longer than {max} bytes")));
        }
        Ok(bytes)
    }

    /// Makes a file that was not there, mode 0600, for reading and writing.
    ///
    /// # Errors
    /// When something of that name is there already, or it cannot be made.
    pub fn create(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        Ok(File::from(self.resolve(name, flags, Mode::RUSR | Mode::WUSR)?))
    }

    /// Makes a file that was not there with these bytes, and syncs it. The folder is not synced.
    ///
    /// # Errors
    /// As [`Root::create`], and when it cannot be written; then it is removed again.
    pub fn write_new(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut file = self.create(name)?;
        let written = file.write_all(bytes).and_then(|()| file.sync_all());
        if written.is_err() {
            let _ = self.remove(name);
        }
        written
    }

    /// Whether something of this name is there, whatever it is.
    ///
    /// # Errors
    /// When the name is not plain or leads through a link, or the folder cannot be read.
    pub fn exists(&self, name: &str) -> io::Result<bool> {
        found(self.resolve(name, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty()).map(drop))
    }

    /// Makes a folder, mode 0700; `false` when it is there. The folder above is synced in both cases, for whoever made it
    /// may have died before.
    ///
    /// # Errors
    /// When it cannot be made or synced, or something else is there.
    pub fn make_folder(&self, name: &str) -> io::Result<bool> {
        let (above, last) = self.above(name)?;
        let made = match rustix::fs::mkdirat(&above, last, Mode::RWXU) {
            Ok(()) => true,
            Err(Errno::EXIST) => {
                self.resolve(name, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
                false
            }
            Err(errno) => return Err(errno.into()),
        };
        rustix::fs::fsync(&above)?;
        Ok(made)
    }

    /// Renames `from` to `to`, replacing what is there, and syncs the folder of `to`.
    ///
    /// # Errors
    /// When either folder cannot be resolved, or the rename or the sync fails.
    pub fn put_in_place(&self, from: &str, to: &str) -> io::Result<()> {
        let (from_folder, from) = self.above(from)?;
        let (to_folder, to) = self.above(to)?;
        place::named((&from_folder, from), (&to_folder, to), Taken::Replace)
    }

    /// Removes a file; `false` when it was not there. The folder is not synced.
    ///
    /// # Errors
    /// When the name cannot be resolved, or it cannot be removed.
    pub fn remove(&self, name: &str) -> io::Result<bool> {
        let above = match self.above(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            other => other?,
        };
        found(rustix::fs::unlinkat(&above.0, above.1, AtFlags::empty()).map_err(io::Error::from))
    }

    /// Syncs a folder; an empty name is the root itself.
    ///
    /// # Errors
    /// When it cannot be opened or synced.
    pub fn sync_folder(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::fsync(self.folder(name)?)?)
    }

    /// The entries of a folder in no order, one at a time; an empty name is the root itself. Names that are not UTF-8 are
    /// passed over: nothing here makes them.
    ///
    /// # Errors
    /// When the folder cannot be opened. Each entry may fail by itself.
    pub fn entries(&self, name: &str) -> io::Result<impl Iterator<Item = io::Result<Entry>> + use<>> {
        let folder = self.folder(name)?;
        let dir = Dir::read_from(folder.as_fd())?;
        Ok(dir.filter_map(move |entry| match entry {
            Ok(entry) => {
                let name = entry.file_name().to_str().ok().filter(|name| !matches!(*name, "." | ".."))?.to_owned();
                let mut kind = entry.file_type();
                if kind == FileType::Unknown {
                    kind = rustix::fs::statat(&folder, name.as_str(), AtFlags::SYMLINK_NOFOLLOW)
                        .map_or(kind, |stat| FileType::from_raw_mode(stat.st_mode));
                }
                Some(Ok(Entry { name, is_folder: kind.is_dir(), is_file: kind.is_file() }))
            }
            Err(errno) => Some(Err(errno.into())),
        }))
    }

    /// Opens a folder for reading; an empty name is the root itself.
    ///
    /// # Errors
    /// When the name is not plain, leads through a link, or names no folder that can be opened.
    pub fn folder(&self, name: &str) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        if name.is_empty() {
            return Ok(rustix::fs::openat(&self.fd, ".", flags, Mode::empty())?);
        }
        self.resolve(name, flags, Mode::empty())
    }

    /// The folder that holds `name`, and its last component: what is there can be named without resolving the rest again.
    ///
    /// # Errors
    /// As [`Root::folder`] of that folder.
    pub fn above<'a>(&self, name: &'a str) -> io::Result<(OwnedFd, &'a str)> {
        check(name)?;
        let (folder, last) = name.rsplit_once('/').unwrap_or(("", name));
        Ok((self.folder(folder)?, last))
    }

    /// Opens a name with these flags, `O_CLOEXEC` added; `mode` is for what is made. A link in the last place is opened
    /// itself with `O_PATH | O_NOFOLLOW`, and refused otherwise.
    ///
    /// # Errors
    /// When the name is not plain (`InvalidInput`), leads through a link (`ELOOP` or `ENOTDIR`), or cannot be opened.
    pub fn resolve(&self, name: &str, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        check(name)?;
        let flags = flags | OFlags::CLOEXEC;
        if self.walks {
            return walk(&self.fd, name, flags, mode);
        }
        let mut tries = 0;
        loop {
            tries += 1;
            match rustix::fs::openat2(&self.fd, name, flags, mode, BENEATH) {
                // Somebody renamed a part of it while it was resolved.
                Err(Errno::AGAIN) if tries < TRIES => {}
                Err(Errno::INTR) => {}
                other => return Ok(other?),
            }
        }
    }
}

/// What a folder holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// It is a folder, and no link to one.
    pub is_folder: bool,
    /// It is a regular file, and no link to one.
    pub is_file: bool,
}

/// Component by component, none of them a link.
fn walk(root: &OwnedFd, name: &str, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    let mut at: Option<OwnedFd> = None;
    let mut rest = name;
    while let Some((component, after)) = rest.split_once('/') {
        let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        at = Some(rustix::fs::openat(at.as_ref().unwrap_or(root), component, step, Mode::empty())?);
        rest = after;
    }
    Ok(rustix::fs::openat(at.as_ref().unwrap_or(root), rest, flags | OFlags::NOFOLLOW, mode)?)
}

/// Plain components joined by single slashes.
fn check(name: &str) -> io::Result<()> {
    let plain = |part: &str| !matches!(part, "" | "." | "..") && !part.contains('\0');
    if name.split('/').all(plain) {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is no plain relative name")))
}

/// `false` for what is not there.
fn found(done: io::Result<()>) -> io::Result<bool> {
    match done {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// Each test runs with openat2 and with the walk.
    fn both(test: impl Fn(&Root, &Path)) {
        for walks in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let inside = folder.path().join("inside");
            std::fs::create_dir(&inside).unwrap();
            std::fs::write(folder.path().join("secret"), "secret").unwrap();
            let root = if walks { Root::open_walking(&inside) } else { Root::open(&inside) }.unwrap();
            test(&root, &inside);
            assert_eq!(std::fs::read(folder.path().join("secret")).unwrap(), b"secret");
        }
    }

    #[test]
    fn files_and_folders_are_made_read_renamed_and_removed() {
        both(|root, path| {
            assert!(root.make_folder("a").unwrap());
            assert!(!root.make_folder("a").unwrap());
            assert!(root.make_folder("a/b").unwrap());
            root.write_new("a/b/x", b"one").unwrap();
            assert_eq!(root.write_new("a/b/x", b"two").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
            root.put_in_place("a/b/x", "a/y").unwrap();
            assert!(!root.exists("a/b/x").unwrap() && root.exists("a/y").unwrap() && !root.exists("no/such").unwrap());
            assert_eq!(root.read_all("a/y", 3).unwrap(), b"one");
            assert_eq!(root.read_all("a/y", 2).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
            let mut names: Vec<_> = root.entries("a").unwrap().map(Result::unwrap).collect();
            names.sort_by(|a, b| a.name.cmp(&b.name));
            assert_eq!(
                names.iter().map(|e| (e.name.as_str(), e.is_folder)).collect::<Vec<_>>(),
                [("b", true), ("y", false)]
            );
            root.sync_folder("").unwrap();
            assert!(root.remove("a/y").unwrap() && !root.remove("a/y").unwrap() && !root.remove("no/such").unwrap());
            assert!(path.join("a/b").is_dir());
        });
    }

    #[test]
    fn f01_names_that_are_not_plain_are_refused() {
        both(|root, _| {
            for name in ["", ".", "..", "/etc/passwd", "../secret", "a/../../secret", "a//b", "a/", "./a", "a\0b"] {
                assert_eq!(root.read(name).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{name:?}");
                assert!(
                    root.create(name).is_err() && root.remove(name).is_err() && root.exists(name).is_err(),
                    "{name:?}"
                );
                assert!(root.put_in_place(name, "x").is_err() && root.make_folder(name).is_err(), "{name:?}");
            }
        });
    }

    #[test]
    fn f09_links_are_not_followed_at_any_place_of_a_name() {
        both(|root, path| {
            symlink("../secret", path.join("file")).unwrap();
            symlink("..", path.join("folder")).unwrap();
            symlink(".", path.join("here")).unwrap();
            std::fs::write(path.join("own"), "own").unwrap();
            for name in ["file", "folder/secret", "here/own", "folder/inside/own"] {
                assert!(root.read(name).is_err(), "{name}");
                assert!(root.create(name).is_err(), "{name}");
            }
            assert!(root.remove("folder/secret").is_err() && root.put_in_place("own", "folder/secret").is_err());
            assert!(root.make_folder("folder").is_err() && root.make_folder("folder/new").is_err());
            assert!(root.entries("folder").is_err());
            root.put_in_place("own", "file").unwrap();
            assert_eq!(std::fs::read(path.join("file")).unwrap(), b"own", "the link itself is replaced");
            assert!(Root::open(&path.join("here")).is_err(), "the root is no link");
        });
    }

    #[test]
    fn f13_magic_links_of_proc_lead_nowhere() {
        let root = Root::open(Path::new(&format!("/proc/{}", std::process::id()))).unwrap();
        let outside = File::open("/etc/passwd").unwrap();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&outside);
        assert!(root.read(&format!("fd/{fd}")).is_err());
        assert!(root.read("root/etc/passwd").is_err());
        assert!(root.read("status").is_ok());
    }

    #[test]
    fn f09_a_folder_swapped_for_a_link_while_names_are_resolved_leads_nowhere() {
        both(|root, path| {
            let outside = path.parent().unwrap().join("outside");
            std::fs::create_dir(&outside).unwrap();
            std::fs::write(outside.join("name"), "outside").unwrap();
            std::fs::create_dir(path.join("folder")).unwrap();
            std::fs::write(path.join("folder/name"), "inside").unwrap();
            symlink(&outside, path.join("link")).unwrap();
            let over = Arc::new(AtomicBool::new(false));
            let racer = std::thread::spawn({
                let (over, path) = (Arc::clone(&over), path.to_path_buf());
                move || {
                    let dir = File::open(&path).unwrap();
                    while !over.load(Ordering::Relaxed) {
                        let swap = rustix::fs::RenameFlags::EXCHANGE;
                        rustix::fs::renameat_with(&dir, "folder", &dir, "link", swap).unwrap();
                    }
                }
            });
            let (mut inside, mut refused) = (0_u32, 0_u32);
            for turn in 0..200_000 {
                match root.read("folder/name") {
                    Ok(mut file) => {
                        let mut text = String::new();
                        file.read_to_string(&mut text).unwrap();
                        assert_eq!(text, "inside");
                        inside += 1;
                    }
                    Err(_) => refused += 1,
                }
                if turn % 64 == 0 {
                    let _ = root.write_new("folder/written", b"x");
                    let _ = root.remove("folder/written");
                }
            }
            over.store(true, Ordering::Relaxed);
            racer.join().unwrap();
            assert!(inside > 0 && refused > 0, "the race was run: {inside} inside, {refused} refused");
            assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1);
        });
    }
}
