//! Writing an archive: canonical ustar, always in the same order.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use machines::oci::{Descriptor, Digest, media};
use machines::tar::{self, BLOCK};
use rustix::fs::{Mode, OFlags};

use super::super::local::MARKER;
use super::scan::{BLOBS, MAX_ENTRIES};
use crate::Fault;
use crate::blob::{Blob, BlobSink, Folder, private};
use crate::place::{self, Taken};

/// A folder beside the archive for what will go into it. It is removed with the value.
#[derive(Debug)]
pub(super) struct Staging {
    path: PathBuf,
    blobs: Arc<Folder>,
}

impl Staging {
    pub(super) fn beside(archive: &Path) -> Result<Self, Fault> {
        let path = beside(archive, "blobs")?;
        let failed = |errno: rustix::io::Errno| Fault::file(&path, "cannot be made", errno);
        rustix::fs::mkdir(&path, Mode::RWXU).map_err(failed)?;
        let blobs = Arc::new(Folder::named(&path, Mode::RUSR | Mode::WUSR)?);
        Ok(Self { path, blobs })
    }

    pub(super) const fn blobs(&self) -> &Arc<Folder> {
        &self.blobs
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // By descriptor and name: what may have been laid in the folder's place stays (FAULTS F10).
        for (digest, _, _) in self.blobs.list().unwrap_or_default() {
            let _ = self.blobs.remove(&digest);
        }
        self.blobs.sweep();
        let _ = rustix::fs::rmdir(&self.path);
    }
}

/// A name beside the archive that nobody can foresee.
fn beside(archive: &Path, what: &str) -> Result<PathBuf, Fault> {
    let name = archive.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| Fault::refused(&archive.display().to_string(), "is no name of a file"))?;
    let own = private(&format!(".{name}.{what}-"))
        .map_err(|errno| Fault::file(archive, "the system gives no random bytes", errno))?;
    Ok(archive.with_file_name(own))
}

/// Writes the archive `path`.
pub(super) fn write(path: &Path, index: &[u8], blobs: &BTreeMap<Digest, Blob>) -> Result<(), Fault> {
    if blobs.len() > MAX_ENTRIES - 2 {
        let max = u64::try_from(MAX_ENTRIES).unwrap_or(u64::MAX);
        return Err(Fault::too_long(&path.display().to_string(), "entries", max));
    }
    let own = beside(path, "new")?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
    let fd = rustix::fs::open(&own, flags, mode).map_err(|errno| Fault::file(&own, "cannot be made", errno))?;
    let names = own.file_name().zip(path.file_name());
    let (temp, name) = names.ok_or_else(|| Fault::refused(&path.display().to_string(), "is no name of a file"))?;
    let written = fill(&File::from(fd), index, blobs, path).and_then(|()| {
        let named =
            place::folder_of(path).and_then(|folder| place::named((&folder, temp), (&folder, name), Taken::Replace));
        named.map_err(|error| Fault::file(path, "cannot be put in place", error))
    });
    if written.is_err() {
        let _ = std::fs::remove_file(&own);
    }
    written
}

fn fill(file: &File, index: &[u8], blobs: &BTreeMap<Digest, Blob>, path: &Path) -> Result<(), Fault> {
    let failed = |error: io::Error| Fault::file(path, "cannot be written", error);
    let mut out = BufWriter::with_capacity(256 * 1024, file.try_clone().map_err(failed)?);
    for (name, bytes) in [("oci-layout", MARKER), ("index.json", index)] {
        head(&mut out, name, u64::try_from(bytes.len()).unwrap_or(u64::MAX), path)?;
        out.write_all(bytes).and_then(|()| pad(&mut out, u64::try_from(bytes.len()).unwrap_or(0))).map_err(failed)?;
    }
    for (digest, blob) in blobs {
        head(&mut out, &format!("{BLOBS}{}", digest.hex()), blob.size(), path)?;
        // What is written is hashed: an archive never holds other bytes than its names say (FAULTS F15).
        let descriptor = Descriptor::new(media::OCTET_STREAM, *digest, blob.size());
        out = blob.pump(blob.size(), Tail(out))?.matching(&descriptor)?.into_sink().0;
        pad(&mut out, blob.size()).map_err(failed)?;
    }
    out.write_all(&[0; 2 * BLOCK]).and_then(|()| out.flush()).and_then(|()| file.sync_all()).map_err(failed)
}

fn head(out: &mut impl Write, name: &str, size: u64, path: &Path) -> Result<(), Fault> {
    let header =
        tar::header(name, size).map_err(|refusal| Fault::refused(&path.display().to_string(), refusal.to_string()))?;
    out.write_all(&header).map_err(|error| Fault::file(path, "cannot be written", error))
}

fn pad(out: &mut impl Write, size: u64) -> io::Result<()> {
    let missing = usize::try_from(tar::padded(size).saturating_sub(size)).unwrap_or(0);
    out.write_all([0; BLOCK].get(..missing).unwrap_or_default())
}

/// The end of the archive that is being written. It cannot begin anew, and blobs of this machine never do.
struct Tail(BufWriter<File>);

impl BlobSink for Tail {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    fn restart(&mut self) -> io::Result<()> {
        Err(io::Error::other("an archive is written once, from its beginning to its end"))
    }
}
