//! One pass over the headers of an archive: where each blob lies. Contents are skipped, not read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt;

use machines::oci::Digest;
use machines::tar::{self, BLOCK, Entry, Folders};

use super::Part;
use crate::Fault;

/// Most entries of an archive.
pub(super) const MAX_ENTRIES: usize = 65_536;
/// How many zeros may follow the end: writers fill up their last record.
const MAX_TAIL: u64 = 1024 * 1024;
const STEP: u64 = 512;
/// Where blobs lie.
pub(super) const BLOBS: &str = "blobs/sha256/";

/// What an archive of a layout holds.
pub(super) struct Contents {
    pub(super) marker: Part,
    pub(super) index: Part,
    pub(super) blobs: BTreeMap<Digest, Part>,
}

/// Reads the headers of an archive of `len` bytes.
pub(super) fn scan(place: &str, file: &File, len: u64) -> Result<Contents, Fault> {
    Scan { place, file, len }.run()
}

struct Scan<'a> {
    place: &'a str,
    file: &'a File,
    len: u64,
}

impl Scan<'_> {
    fn run(&self) -> Result<Contents, Fault> {
        let (mut marker, mut index, mut blobs) = (None, None, BTreeMap::new());
        let mut folders = BTreeSet::new();
        let mut at = 0;
        for _ in 0..=MAX_ENTRIES {
            let block = self.block(at)?;
            let entry = tar::entry(&block, at, Folders::Taken);
            let (name, size) = match entry.map_err(|refusal| self.refused(at, &block, &refusal))? {
                Entry::End => {
                    self.check_end(at)?;
                    let missing = |what: &str| {
                        Fault::broken(self.place, format!("holds no {what}; is it an archive of an image layout?"))
                    };
                    return Ok(Contents {
                        marker: marker.ok_or_else(|| missing("oci-layout"))?,
                        index: index.ok_or_else(|| missing("index.json"))?,
                        blobs,
                    });
                }
                Entry::Folder { name } => {
                    if !matches!(name, "blobs" | "blobs/sha256") {
                        return Err(self.foreign(name));
                    }
                    if !folders.insert(name.to_owned()) {
                        return Err(self.twice(name));
                    }
                    at = at.saturating_add(STEP);
                    continue;
                }
                Entry::File { name, size } => (name, size),
            };
            let offset = at.saturating_add(STEP);
            let part = Part { offset, size };
            let before = match name {
                "oci-layout" => marker.replace(part),
                "index.json" => index.replace(part),
                _ => blobs.insert(self.digest(name)?, part),
            };
            if before.is_some() {
                return Err(self.twice(name));
            }
            at = offset.saturating_add(tar::padded(size));
            self.check_body(part, at)?;
        }
        Err(Fault::too_long(self.place, "entries", u64::try_from(MAX_ENTRIES).unwrap_or(u64::MAX)))
    }

    fn digest(&self, name: &str) -> Result<Digest, Fault> {
        let hex = name.strip_prefix(BLOBS).ok_or_else(|| self.foreign(name))?;
        Digest::parse(&format!("sha256:{hex}")).map_err(|_| self.foreign(name))
    }

    fn foreign(&self, name: &str) -> Fault {
        let why =
            format!("holds {name:?}; an archive of a layout holds oci-layout, index.json and blobs/sha256/<digest>");
        Fault::broken(self.place, why)
    }

    fn twice(&self, name: &str) -> Fault {
        Fault::broken(self.place, format!("holds {name:?} twice"))
    }

    fn malformed(&self, offset: u64, what: &str) -> Fault {
        Fault::broken(self.place, format!("tar archive, at byte {offset}: {what}"))
    }

    /// An archive of which a part is not there: nothing can be said of it.
    fn cut(&self, offset: u64, what: &str) -> Fault {
        Fault::unreadable(self.place, format!("tar archive, at byte {offset}: {what}"))
    }

    /// A header that is refused. A file that does not begin with the header of any tar archive is none at all.
    fn refused(&self, at: u64, block: &[u8; BLOCK], refusal: &tar::Refusal) -> Fault {
        if at == 0 && !tar::is_header(block) {
            return Fault::unreadable(self.place, format!("is no tar archive ({refusal})"));
        }
        Fault::broken(self.place, refusal.to_string())
    }

    /// The body lies within the archive, and its padding is zero.
    fn check_body(&self, part: Part, end: u64) -> Result<(), Fault> {
        if end > self.len {
            return Err(self.cut(part.offset, tar::CUT));
        }
        let from = part.offset.saturating_add(part.size);
        let mut padding = [0; BLOCK];
        let padding = padding.get_mut(..usize::try_from(end.saturating_sub(from)).unwrap_or(0)).unwrap_or_default();
        self.read(padding, from)?;
        if padding.iter().any(|b| *b != 0) { Err(self.malformed(from, tar::PADDING)) } else { Ok(()) }
    }

    /// At least two zero blocks, and only zeros up to the end of the file.
    fn check_end(&self, at: u64) -> Result<(), Fault> {
        let left = self.len.saturating_sub(at);
        if left < 2 * STEP {
            return Err(self.cut(at, tar::NO_END));
        }
        if left > MAX_TAIL {
            return Err(Fault::too_long(self.place, "bytes behind the end of the archive", MAX_TAIL));
        }
        let mut tail = vec![0; usize::try_from(left).unwrap_or(0)];
        self.read(&mut tail, at)?;
        if tail.iter().any(|b| *b != 0) || !left.is_multiple_of(STEP) {
            return Err(self.malformed(at, tar::BEHIND_END));
        }
        Ok(())
    }

    fn block(&self, at: u64) -> Result<[u8; BLOCK], Fault> {
        let mut block = [0; BLOCK];
        if at.saturating_add(STEP) > self.len {
            return Err(self.cut(at, tar::NO_END));
        }
        self.read(&mut block, at)?;
        Ok(block)
    }

    fn read(&self, buffer: &mut [u8], at: u64) -> Result<(), Fault> {
        self.file
            .read_exact_at(buffer, at)
            .map_err(|error| Fault::unreadable(self.place, format!("cannot be read at byte {at}: {error}")))
    }
}
