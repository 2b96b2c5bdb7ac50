//! Files by path beneath a root: what a reconstruction reads and writes (SPEC 10), and the contract of its driver.
//!
//! [`crate::disk`] names files by what they are; a signed manifest names them by paths of its own. A [`Place`] is a root and
//! a checked relative path, so that nothing absolute and no `..` can be asked for, and the driver adds what only the kernel
//! can promise:
//!
//! - Every path is resolved beneath its root, by descriptor, and a link at any place of it is a [`Fault`] of kind
//!   [`FaultKind::Refused`], never followed (FAULTS F09, F13). Only regular files are read.
//! - The operations of a chain run in order; the first that fails ends it. One chain is under way at a time.
//! - [`Op::Sync`] makes a file's content and mode durable, [`Op::SyncFolder`] the names in a folder. What was neither
//!   synced may be gone, there, or torn after a power cut. A failed write or sync is never issued again by the driver.
//! - A crash gives locks back.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use crate::disk::FaultKind;
use crate::ids::Hash32;
use crate::tar;

/// Names a chain; chosen by the emitting machine, unique in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(pub u32);

/// What a path starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Root {
    /// The state root.
    State,
    /// The n-th folder of `[reconstruct] allow`, from 0.
    Allowed(u16),
}

/// A relative path of plain components; empty for the root itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Path(String);

/// Why a text is no [`Path`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPath {
    /// Longer than [`Path::MOST`] bytes.
    #[error("longer than {} bytes", Path::MOST)]
    Long,
    /// A component is longer than 200 bytes; temporary names need room.
    #[error("a component is longer than {} bytes", Path::MOST_COMPONENT)]
    LongComponent,
    /// It starts at the root of the file system.
    #[error("it is absolute")]
    Absolute,
    /// An empty component.
    #[error("it is empty or has an empty component")]
    Empty,
    /// `.` or `..`.
    #[error("`.` and `..` are not allowed")]
    Dots,
    /// A character beyond the allow-list of F01.
    #[error("only letters, digits and `.`, `_`, `-`, `+`, `@`, `/` are allowed")]
    Character,
}

impl Path {
    /// Most bytes of a path.
    pub const MOST: usize = 1024;
    /// Most bytes of a component.
    pub const MOST_COMPONENT: usize = 200;

    /// The root itself.
    #[must_use]
    pub const fn top() -> Self {
        Self(String::new())
    }

    /// Reads a path: components of `[A-Za-z0-9._+@-]` joined by `/` (FAULTS F01). Nothing is cleaned up.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, BadPath> {
        if text.len() > Self::MOST {
            return Err(BadPath::Long);
        }
        if text.starts_with('/') {
            return Err(BadPath::Absolute);
        }
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'+' | b'@');
        for component in text.split('/') {
            match component {
                "" => return Err(BadPath::Empty),
                "." | ".." => return Err(BadPath::Dots),
                long if long.len() > Self::MOST_COMPONENT => return Err(BadPath::LongComponent),
                other if !other.bytes().all(plain) => return Err(BadPath::Character),
                _ => {}
            }
        }
        Ok(Self(text.into()))
    }

    /// The text; empty for the root.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The components; none for the root.
    pub fn components(&self) -> impl Iterator<Item = &str> {
        self.0.split('/').filter(|part| !part.is_empty())
    }

    /// The folder above, and the last component; `None` for the root.
    #[must_use]
    pub fn split_last(&self) -> Option<(Self, &str)> {
        match self.0.rsplit_once('/') {
            Some((above, last)) => Some((Self(above.into()), last)),
            None if self.0.is_empty() => None,
            None => Some((Self::top(), &self.0)),
        }
    }

    /// Whether this is `folder` or lies beneath it, whatever the case of the letters: on some file systems that makes
    /// no difference.
    #[must_use]
    pub fn is_in(&self, folder: &str) -> bool {
        match self.0.get(..folder.len()) {
            Some(head) if head.eq_ignore_ascii_case(folder) => {
                self.0.get(folder.len()..).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            Some(_) | None => false,
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "." } else { &self.0 })
    }
}

/// A path beneath a root.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Where it starts.
    pub root: Root,
    /// How it goes on.
    pub path: Path,
}

impl Place {
    /// A place beneath the state root.
    #[must_use]
    pub const fn state(path: Path) -> Self {
        Self { root: Root::State, path }
    }

    /// A root itself.
    #[must_use]
    pub const fn top(root: Root) -> Self {
        Self { root, path: Path::top() }
    }

    /// The folder that holds it; a root holds itself.
    #[must_use]
    pub fn folder(&self) -> Self {
        let path = self.path.split_last().map_or_else(Path::top, |(above, _)| above);
        Self { root: self.root, path }
    }

    /// The temporary file beside it: `.<name>.tmp`. A root has none and gives itself.
    #[must_use]
    pub fn temp(&self) -> Self {
        let Some((above, last)) = self.path.split_last() else { return self.clone() };
        let mut text = above.0;
        if !text.is_empty() {
            text.push('/');
        }
        text.push('.');
        text.push_str(last);
        text.push_str(".tmp");
        Self { root: self.root, path: Path(text) }
    }

    /// The place `name` in this folder.
    ///
    /// # Errors
    /// When `name` is no plain component, or the path becomes too long.
    pub fn join(&self, name: &str) -> Result<Self, BadPath> {
        let mut text = self.path.0.clone();
        if !text.is_empty() {
            text.push('/');
        }
        text.push_str(name);
        Ok(Self { root: self.root, path: Path::parse(&text)? })
    }
}

/// Permission bits, at most 0o777: no set-user-id, set-group-id or sticky bit.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mode(u16);

impl Mode {
    /// Only the owner reads and writes.
    pub const PRIVATE: Self = Self(0o600);
    /// A folder that only the owner enters.
    pub const PRIVATE_FOLDER: Self = Self(0o700);

    /// `None` beyond 0o777.
    #[must_use]
    pub const fn new(bits: u16) -> Option<Self> {
        if bits <= 0o777 { Some(Self(bits)) } else { None }
    }

    /// Whether the owner may list, enter and write a folder of this mode.
    #[must_use]
    pub const fn is_usable_folder(self) -> bool {
        self.0 & 0o700 == 0o700
    }

    /// Reads three or four octal digits, like `"0755"`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let octal = matches!(text.len(), 3 | 4) && text.bytes().all(|b| matches!(b, b'0'..=b'7'));
        Self::new(u16::from_str_radix(text, 8).ok().filter(|_| octal)?)
    }

    /// The bits.
    #[must_use]
    pub const fn bits(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

impl fmt::Debug for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Opens a root and says what it is; every other operation beneath it needs this first. Ends a chain.
    Open(Root),
    /// Takes the lock of the state root for the life of the process; [`FaultKind::Held`] when another has it.
    Lock,
    /// What is at this place, without following it; nothing there, or no folder to hold it, is an answer and no fault. Ends a
    /// chain.
    Look(Place),
    /// The names in a folder, sorted; more than `most` is a fault of kind [`FaultKind::TooLarge`]. Ends a chain.
    List {
        /// The folder.
        at: Place,
        /// How many entries at most.
        most: u32,
    },
    /// A whole regular file, read through one descriptor; longer than `most` is [`FaultKind::TooLarge`]. Ends a chain.
    Read {
        /// The file.
        at: Place,
        /// How many bytes at most.
        most: u32,
    },
    /// BLAKE3 of a regular file. Ends a chain.
    Hash(Place),
    /// Creates a regular file, gives it this mode, and writes the bytes; something there is a fault (FAULTS F14).
    Put {
        /// The file.
        at: Place,
        /// Its content.
        bytes: Vec<u8>,
        /// Its permission bits, whatever the umask.
        mode: Mode,
    },
    /// Copies a regular file as [`Op::Put`] would write it, reading it through one descriptor, and says the BLAKE3 of the bytes written. Ends a chain.
    Copy {
        /// What is copied.
        from: Place,
        /// The copy.
        to: Place,
        /// The copy's permission bits.
        mode: Mode,
    },
    /// Makes a folder, or gives the one that is there this mode; anything else there is [`FaultKind::Refused`].
    MakeFolder {
        /// The folder.
        at: Place,
        /// Its permission bits.
        mode: Mode,
    },
    /// Makes a symbolic link; something there is a fault.
    Link {
        /// The link.
        at: Place,
        /// What it says, as it is.
        target: String,
    },
    /// Makes a file's content, length and mode durable.
    Sync(Place),
    /// Makes the names in a folder, and the folder's own mode, durable.
    SyncFolder(Place),
    /// Renames within one root, replacing what is there; a folder there is a fault.
    Rename {
        /// The name before.
        from: Place,
        /// The name after.
        to: Place,
    },
    /// Exchanges two names of one root in one step.
    Exchange {
        /// One.
        a: Place,
        /// The other.
        b: Place,
    },
    /// Removes a file or link; not there is no fault.
    Remove(Place),
    /// Removes an empty folder; not there is no fault.
    RemoveFolder(Place),
}

/// What is at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing.
    Nothing,
    /// A regular file.
    File {
        /// Its length in bytes.
        len: u64,
        /// Its permission bits, with set-user-id and others as they are.
        mode: u16,
    },
    /// A folder.
    Folder,
    /// A symbolic link.
    Link,
    /// A device, a pipe, a socket.
    Other,
}

/// What a root is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// It belongs to the user of this process, or to the superuser.
    pub ours: bool,
    /// Its permission bits.
    pub mode: u16,
    /// This process may write in it, and the file system is not read-only.
    pub writable: bool,
}

/// What the last operation of a chain gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// It was done.
    Nothing,
    /// Of `Open`.
    Opened(Opened),
    /// Of `Look`.
    Is(Kind),
    /// Of `List`: names and kinds, sorted by name.
    Names(Vec<(String, Kind)>),
    /// Of `Read`.
    Bytes(Vec<u8>),
    /// Of `Hash` and `Copy`: BLAKE3-256 of the bytes, and how many they are.
    Hash(Hash32, u64),
}

/// Why a chain ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Which operation of the chain failed, from 0.
    pub step: usize,
    /// How it failed.
    pub kind: FaultKind,
}

/// The result of a chain.
pub type Completion = Result<Done, Fault>;

/// The one way to replace a file as a whole: temporary file beside it, write, sync, rename, sync of the folder. What a crash
/// or somebody else left under the temporary name is removed first.
#[must_use]
pub fn replace(at: &Place, bytes: Vec<u8>, mode: Mode) -> Vec<Op> {
    let temp = at.temp();
    let mut chain = alloc::vec![Op::Remove(temp.clone()), Op::Put { at: temp.clone(), bytes, mode }];
    chain.extend(settle(temp, at));
    chain
}

/// Puts a temporary file that was written in its place, durably.
#[must_use]
pub fn settle(temp: Place, at: &Place) -> [Op; 3] {
    [Op::Sync(temp.clone()), Op::Rename { from: temp, to: at.clone() }, Op::SyncFolder(at.folder())]
}

/// Names that one file system could not keep apart; see [`tar::Names`].
pub type Names = tar::Names;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f01_paths_are_plain_or_refused() {
        for good in ["a", "a/b", "runtime/binaries/agent-1.2+x@y_z", ".hidden", "a/.b", "..."] {
            assert_eq!(Path::parse(good).unwrap().as_str(), good);
        }
        for (bad, why) in [
            ("", BadPath::Empty),
            ("/etc/passwd", BadPath::Absolute),
            ("a//b", BadPath::Empty),
            ("a/", BadPath::Empty),
            (".", BadPath::Dots),
            ("../x", BadPath::Dots),
            ("a/../../x", BadPath::Dots),
            ("a\0b", BadPath::Character),
            ("a b", BadPath::Character),
            ("a\\b", BadPath::Character),
            ("\u{e4}", BadPath::Character),
        ] {
            assert_eq!(Path::parse(bad), Err(why), "{bad:?}");
        }
        assert_eq!(Path::parse(&"a".repeat(201)), Err(BadPath::LongComponent));
        assert_eq!(Path::parse(&"a/".repeat(600)), Err(BadPath::Long));
    }

    #[test]
    fn a_place_knows_its_folder_its_temporary_file_and_what_lies_in_it() {
        let place = Place::state(Path::parse("runtime/bin/agent").unwrap());
        assert_eq!(place.folder().path.as_str(), "runtime/bin");
        assert_eq!(place.temp().path.as_str(), "runtime/bin/.agent.tmp");
        assert_eq!(place.folder().folder().folder(), Place::top(Root::State));
        assert_eq!(Place::state(Path::parse("x").unwrap()).temp().path.as_str(), ".x.tmp");
        for (folder, is) in
            [("runtime", true), ("RUNTIME/Bin", true), ("runtime/b", false), ("runtime/bin/agent", true)]
        {
            assert_eq!(place.path.is_in(folder), is, "{folder}");
        }
    }

    #[test]
    fn modes_are_octal_and_never_set_user_id() {
        assert_eq!(Mode::parse("0755").unwrap().bits(), 0o755);
        assert_eq!(alloc::format!("{}", Mode::parse("640").unwrap()), "0640");
        for bad in ["4755", "1777", "77", "00755", "0o755", "0789", "", "+755"] {
            assert_eq!(Mode::parse(bad), None, "{bad}");
        }
    }
}
