//! A folder as a layer: a tar archive in which nothing but names, contents, links and the right to execute remain.

use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use daemon_common::failure::Failure;
use io_artifacts::blob::{Blob, BlobSink as _, Scratch};
use tar::{Builder, EntryType, Header};

/// Most entries of a folder, those of its folders included.
const MAX_ENTRIES: usize = 100_000;
/// Folders within folders that are gone into.
const MAX_DEPTH: usize = 64;

/// Packs what is in `folder`. Owners are 0 and times 1970, names are in byte order: the same content gives the same bytes.
///
/// # Errors
/// 3 when something cannot be read; 1 when it is neither a file, a folder nor a link, or changes meanwhile.
pub fn folder(folder: &Path) -> Result<Blob, Failure> {
    let mut entries = Vec::new();
    walk(folder, Path::new(""), 0, &mut entries)?;
    let mut archive = Builder::new(Sink(Scratch::new()?));
    for (name, meta) in &entries {
        let path = folder.join(name);
        append(&mut archive, &path, name, meta).map_err(|error| unreadable(&path, &error))?;
    }
    let Sink(scratch) = archive.into_inner().map_err(|error| unreadable(folder, &error))?;
    Ok(scratch.into_blob()?)
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    let message = format!("{}: {error}", path.display());
    let refused = [io::ErrorKind::InvalidData, io::ErrorKind::InvalidInput, io::ErrorKind::StorageFull];
    if refused.contains(&error.kind()) { Failure::refused(message) } else { Failure::unreadable(message) }
}

/// Everything beneath a folder, each folder before what is in it.
fn walk(top: &Path, inside: &Path, depth: usize, entries: &mut Vec<(PathBuf, Metadata)>) -> Result<(), Failure> {
    let here = top.join(inside);
    if depth > MAX_DEPTH {
        return Err(Failure::refused(format!("{}: more than {MAX_DEPTH} folders deep", here.display())));
    }
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&here).map_err(|error| unreadable(&here, &error))? {
        names.push(entry.map_err(|error| unreadable(&here, &error))?.file_name());
        if names.len().saturating_add(entries.len()) > MAX_ENTRIES {
            return Err(Failure::refused(format!("{}: more than {MAX_ENTRIES} entries", top.display())));
        }
    }
    names.sort_unstable();
    for name in names {
        let name = inside.join(name);
        let path = top.join(&name);
        let meta = path.symlink_metadata().map_err(|error| unreadable(&path, &error))?;
        let is_folder = meta.is_dir();
        entries.push((name.clone(), meta));
        if is_folder {
            walk(top, &name, depth.saturating_add(1), entries)?;
        }
    }
    Ok(())
}

fn append(archive: &mut Builder<Sink>, path: &Path, name: &Path, meta: &Metadata) -> io::Result<()> {
    let mut header = Header::new_ustar();
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    let kind = meta.file_type();
    if kind.is_dir() {
        header.set_entry_type(EntryType::Directory);
        header.set_mode(0o755);
        return archive.append_data(&mut header, name, io::empty());
    }
    if kind.is_symlink() {
        header.set_entry_type(EntryType::Symlink);
        header.set_mode(0o777);
        return archive.append_link(&mut header, name, std::fs::read_link(path)?);
    }
    if !kind.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "is neither a file, a folder nor a link"));
    }
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    let executable = meta.permissions().mode() & 0o111 != 0;
    header.set_entry_type(EntryType::Regular);
    header.set_mode(if executable { 0o755 } else { 0o644 });
    header.set_size(size);
    let mut exactly = Exactly { file: file.take(size), left: size };
    archive.append_data(&mut header, name, &mut exactly)
}

/// Reads as many bytes as the header says, or fails: a file may be cut while it is read.
struct Exactly {
    file: io::Take<File>,
    left: u64,
}

impl io::Read for Exactly {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.left = self.left.saturating_sub(u64::try_from(read).unwrap_or(u64::MAX));
        if read == 0 && self.left > 0 && !buffer.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "became shorter while it was read"));
        }
        Ok(read)
    }
}

/// A temporary file as `tar` writes to it.
struct Sink(Scratch);

impl io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(of: &Path) -> Vec<u8> {
        let blob = folder(of).unwrap();
        let mut bytes = vec![0; usize::try_from(blob.size()).unwrap()];
        assert_eq!(blob.read_at(0, &mut bytes).unwrap(), bytes.len());
        bytes
    }

    fn sample() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("node_modules/@scope")).unwrap();
        std::fs::write(dir.path().join("node_modules/@scope/a b.js"), "x").unwrap();
        std::fs::write(dir.path().join("agent"), "#!/bin/sh\n").unwrap();
        std::fs::set_permissions(dir.path().join("agent"), std::fs::Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::symlink("agent", dir.path().join("latest")).unwrap();
        dir
    }

    #[test]
    fn c07_the_same_folder_gives_the_same_bytes() {
        let (one, two) = (sample(), sample());
        let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        File::options().write(true).open(two.path().join("agent")).unwrap().set_modified(old).unwrap();
        assert_eq!(bytes(one.path()), bytes(two.path()));
        std::fs::write(two.path().join("agent"), "#!/bin/sh\ntrue\n").unwrap();
        assert_ne!(bytes(one.path()), bytes(two.path()));
    }

    #[test]
    fn names_contents_links_and_the_right_to_execute_remain() {
        let dir = sample();
        let packed = bytes(dir.path());
        let mut archive = tar::Archive::new(packed.as_slice());
        let found: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let header = entry.header();
                (entry.path().unwrap().display().to_string(), header.entry_type(), header.mode().unwrap())
            })
            .collect();
        let expected = [
            ("agent", EntryType::Regular, 0o755),
            ("latest", EntryType::Symlink, 0o777),
            ("node_modules", EntryType::Directory, 0o755),
            ("node_modules/@scope", EntryType::Directory, 0o755),
            ("node_modules/@scope/a b.js", EntryType::Regular, 0o644),
        ];
        assert_eq!(found, expected.map(|(name, kind, mode)| (name.to_owned(), kind, mode)));
    }

    #[test]
    fn f04_a_socket_is_refused_by_name() {
        let dir = sample();
        let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
        let failure = folder(dir.path()).unwrap_err();
        assert_eq!(failure.code, 1);
        assert!(failure.message.contains("socket: is neither"), "{}", failure.message);
    }
}
