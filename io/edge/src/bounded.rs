//! Files of the host, outside the state root: read within a bound, and never waited for.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::path::Path;

use machines::ids::Hash32;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// How often a name is resolved again when somebody renamed a part of it meanwhile.
const TRIES: u32 = 64;

/// Bytes that are read and hashed at once. One buffer of this size stays within a core's second-level cache.
const PIECE: usize = 1 << 20;

/// `NONBLOCK`: a FIFO in place of a file must not hang the start of a node. `NOCTTY`: nor a terminal become its own.
const FLAGS: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

/// Opens a regular file of the host by its path. Links are followed: who may set them may also replace the file.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    regular(rustix::fs::openat(CWD, path, FLAGS, Mode::empty())?)
}

/// Opens a regular file of the system beneath `root`, as that system would resolve `path`: its absolute links start at
/// `root`.
pub(crate) fn open_in(root: &Path, path: &str) -> io::Result<File> {
    let relative = path.trim_start_matches('/');
    if root == Path::new("/") {
        return open(&root.join(relative));
    }
    let folder = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, root, folder, Mode::empty())?;
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let mut tries = 0;
    loop {
        tries += 1;
        match rustix::fs::openat2(&root, relative, FLAGS, Mode::empty(), inside) {
            Err(Errno::AGAIN) if tries < TRIES => {}
            Err(Errno::INTR) => {}
            other => return regular(other?),
        }
    }
}

fn regular(fd: OwnedFd) -> io::Result<File> {
    let file = File::from(fd);
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("not a regular file")) }
}

/// The whole of a file.
///
/// # Errors
/// When it cannot be read, or is longer than `most` bytes.
pub(crate) fn whole(file: File, most: u64) -> io::Result<Vec<u8>> {
    // The files of procfs say that they are empty, so the length is a hint for the buffer alone.
    let hint = file.metadata()?.len().min(most).saturating_add(1);
    let mut bytes = Vec::with_capacity(usize::try_from(hint).unwrap_or(0));
    file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > most {
        return Err(too_long(most));
    }
    Ok(bytes)
}

/// BLAKE3 of a file.
///
/// # Errors
/// As [`whole`], without holding the file in memory.
pub(crate) fn hashed(mut file: File, most: u64) -> io::Result<Hash32> {
    let (hash, len) = streamed(&mut file, most.saturating_add(1), |_| Ok(()))?;
    if len > most { Err(too_long(most)) } else { Ok(hash) }
}

/// Reads from `file` to its end, `most` bytes at most, and hands each piece on: BLAKE3 of what was handed on, and how many
/// bytes that was.
pub(crate) fn streamed(
    file: &mut File,
    most: u64,
    mut piece: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<(Hash32, u64)> {
    let size = usize::try_from(file.metadata()?.len().min(most)).unwrap_or(PIECE).clamp(4096, PIECE);
    let mut buffer = vec![0; size];
    let mut hasher = blake3::Hasher::new();
    let mut done: u64 = 0;
    while done < most {
        let room = usize::try_from(most - done).unwrap_or(usize::MAX).min(buffer.len());
        let len = match file.read(&mut buffer[..room]) {
            Ok(0) => break,
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(&buffer[..len]);
        piece(&buffer[..len])?;
        done += u64::try_from(len).unwrap_or(u64::MAX);
    }
    Ok((Hash32(*hasher.finalize().as_bytes()), done))
}

fn too_long(most: u64) -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, format!("longer than {most} bytes"))
}
