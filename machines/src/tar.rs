//! Canonical ustar (POSIX.1-1988) and nothing else: one header at a time, no prefix, no extension headers.
//!
//! Readers that forgive disagree on what an archive holds (FAULTS F05), so each byte of a header that has a
//! meaning must have the one value that canonical writers give it, and each byte without one must be zero. This is the
//! one parser of headers in the product; policy bundles and image archives are both read with it.

use alloc::collections::BTreeMap;
use alloc::string::String;

/// Everything in an archive comes in blocks of so many bytes.
pub const BLOCK: usize = 512;
/// The longest name, in bytes: the name field, without the prefix that ustar could add.
pub const MAX_NAME: usize = 100;
/// The largest file, in bytes: what eleven octal digits say.
pub const MAX_SIZE: u64 = (1 << 33) - 1;
/// What is wrong with an archive that ends without its end.
pub const NO_END: &str = "the two zero blocks at the end are missing";
/// What is wrong with an archive that goes on behind its end.
pub const BEHIND_END: &str = "something follows the zero block that ends the archive";
/// What is wrong with padding that holds something.
pub const PADDING: &str = "the padding is not zero";
/// What is wrong with an archive that is cut within a file.
pub const CUT: &str = "the archive ends within a file";

/// Why a header or a name is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The header is not canonical ustar.
    #[error("tar archive, at byte {offset}: {what}; pack with `tar --format=ustar`")]
    Malformed {
        /// Where, in the archive.
        offset: u64,
        /// What is wrong there.
        what: &'static str,
    },
    /// An entry of a kind that is not taken.
    #[error("entry {name:?} is {kind}; only regular files are taken")]
    Kind {
        /// The entry's name as far as it is readable.
        name: String,
        /// What it is.
        kind: &'static str,
    },
    /// A name outside the allow-list.
    #[error("file name {name:?}: {what}")]
    Name {
        /// The name as far as it is readable.
        name: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Two files of one name, or of names that differ only in case, or one name is a folder of the other.
    #[error("file names {first:?} and {second:?} are the same, or differ only in case, or nest in each other")]
    Clash {
        /// The earlier one.
        first: String,
        /// The later one.
        second: String,
    },
}

/// What a header announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry<'a> {
    /// A regular file: its name, which passed [`check_name`], and its length in bytes.
    File {
        /// The name.
        name: &'a str,
        /// The length in bytes, at most [`MAX_SIZE`].
        size: u64,
    },
    /// A folder, its name without the slash at its end. It has no content.
    Folder {
        /// The name.
        name: &'a str,
    },
    /// The first of the zero blocks that end an archive.
    End,
}

/// Which entries besides regular files are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Folders {
    /// An entry that is a folder is refused.
    Refused,
    /// Folders are taken: they say nothing that the names of files do not say as well.
    Taken,
}

/// Reads the header in `block`, which begins at byte `offset` of the archive.
///
/// # Errors
/// [`Refusal`] for everything that is not exactly a header as canonical writers make it, for other kinds of entries, and
/// for names outside the allow-list.
pub fn entry(block: &[u8; BLOCK], offset: u64, folders: Folders) -> Result<Entry<'_>, Refusal> {
    if block.iter().all(|b| *b == 0) {
        return Ok(Entry::End);
    }
    Header { offset, block }.read(folders)
}

/// Whether the block is the header of some tar archive, of whatever kind: its checksum fits it.
#[must_use]
pub fn is_header(block: &[u8; BLOCK]) -> bool {
    let header = Header { offset: 0, block };
    header.number(148..156, "").is_ok_and(|sum| sum == header.sum())
}

/// How many bytes a file of `size` bytes takes behind its header, the padding to whole blocks included.
#[must_use]
pub fn padded(size: u64) -> u64 {
    size.checked_next_multiple_of(512).unwrap_or(u64::MAX)
}

/// One header block, with its offset for messages.
struct Header<'a> {
    offset: u64,
    block: &'a [u8; BLOCK],
}

impl<'a> Header<'a> {
    fn read(&self, folders: Folders) -> Result<Entry<'a>, Refusal> {
        if self.number(148..156, "the checksum field is not octal")? != self.sum() {
            return Err(self.bad("the checksum does not fit the header"));
        }
        if self.field(257..265) != b"ustar\x0000" {
            return Err(self.bad("it is not in ustar format"));
        }
        let name = self.text(0..100, "there are bytes behind the end of the name")?;
        let folder = self.is_folder(name, folders)?;
        let name = check_name(if folder { name.strip_suffix(b"/").unwrap_or(name) } else { name })?;
        for (range, what) in [
            (157..257, "a regular file has a link target"),
            (345..500, "the name has a prefix; names have at most 100 bytes"),
            (500..512, "the unused end of the header is not zero"),
        ] {
            if self.field(range).iter().any(|b| *b != 0) {
                return Err(self.bad(what));
            }
        }
        self.text(265..297, "there are bytes behind the end of the user name")?;
        self.text(297..329, "there are bytes behind the end of the group name")?;
        for range in [100..108, 108..116, 116..124, 136..148, 329..337, 337..345] {
            // Mode, owner, group, time and device are not used, but must be well-formed or absent.
            if self.field(range.clone()).iter().any(|b| *b != 0) {
                self.number(range, "mode, owner, time or device is not octal")?;
            }
        }
        let size = self.number(124..136, "the size is not octal")?;
        if !folder {
            return Ok(Entry::File { name, size });
        }
        if size == 0 { Ok(Entry::Folder { name }) } else { Err(self.bad("a folder has content")) }
    }

    fn is_folder(&self, name: &[u8], folders: Folders) -> Result<bool, Refusal> {
        let kind = match self.field(156..157).first() {
            Some(b'0') => return Ok(false),
            Some(b'5') if folders == Folders::Taken => return Ok(true),
            Some(b'\0') => "a file of the old tar format",
            Some(b'1') => "a hard link",
            Some(b'2') => "a symbolic link",
            Some(b'3' | b'4') => "a device",
            Some(b'5') => "a folder",
            Some(b'6') => "a FIFO",
            Some(b'x' | b'g' | b'X') => "a PAX extension header",
            Some(b'L' | b'K' | b'S' | b'M' | b'V' | b'N' | b'D') => "a GNU extension",
            Some(_) | None => "of an unknown kind",
        };
        Err(Refusal::Kind { name: String::from_utf8_lossy(name).into_owned(), kind })
    }

    const fn bad(&self, what: &'static str) -> Refusal {
        Refusal::Malformed { offset: self.offset, what }
    }

    fn field(&self, range: core::ops::Range<usize>) -> &'a [u8] {
        self.block.get(range).unwrap_or_default()
    }

    /// A text field up to its first NUL; only NULs may follow.
    fn text(&self, range: core::ops::Range<usize>, what: &'static str) -> Result<&'a [u8], Refusal> {
        let field = self.field(range);
        let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
        let (text, rest) = field.split_at_checked(end).unwrap_or_default();
        if rest.iter().any(|b| *b != 0) { Err(self.bad(what)) } else { Ok(text) }
    }

    /// A number field: octal digits from the first byte on, then at least one NUL or space, and only those.
    fn number(&self, range: core::ops::Range<usize>, what: &'static str) -> Result<u64, Refusal> {
        let field = self.field(range);
        let end = field.iter().position(|b| !matches!(b, b'0'..=b'7')).ok_or_else(|| self.bad(what))?;
        let (digits, rest) = field.split_at_checked(end).unwrap_or_default();
        if digits.is_empty() || rest.iter().any(|b| !matches!(b, b'\0' | b' ')) {
            return Err(self.bad(what));
        }
        // At most 11 digits of three bits.
        Ok(digits.iter().fold(0_u64, |n, digit| n << 3 | u64::from(digit & 7)))
    }

    /// The sum of the header's bytes, the checksum field taken as spaces.
    fn sum(&self) -> u64 {
        let bytes = self.field(0..148).iter().chain(&[b' '; 8]).chain(self.field(156..BLOCK));
        bytes.map(|b| u64::from(*b)).sum()
    }
}

/// A name on the allow-list: components of `[A-Za-z0-9._-]` joined by `/`, none empty, `.` or `..`, at most 100
/// bytes (FAULTS F01). Nothing is cleaned up.
///
/// # Errors
/// What is wrong with the name.
pub fn check_name(name: &[u8]) -> Result<&str, Refusal> {
    let bad = |what| Err(Refusal::Name { name: String::from_utf8_lossy(name).into_owned(), what });
    if name.len() > MAX_NAME {
        return bad("longer than 100 bytes");
    }
    let allowed = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/');
    let Some(text) = core::str::from_utf8(name).ok().filter(|text| text.bytes().all(|b| allowed(&b))) else {
        return bad("only letters, digits, `.`, `_`, `-` and `/` are allowed");
    };
    for component in text.split('/') {
        match component {
            "" => return bad("it is empty, absolute, or has an empty component"),
            "." | ".." => return bad("`.` and `..` are not allowed; pack with bare names, like `tar … *.rego`"),
            _ => {}
        }
    }
    Ok(text)
}

/// Names seen so far, to find those that one file system could not keep apart.
#[derive(Default)]
pub struct Names {
    /// Lower-case name → the name as spelled.
    files: BTreeMap<String, String>,
    /// Lower-case folder → a file in it.
    folders: BTreeMap<String, String>,
}

impl Names {
    /// Adds the name of a file.
    ///
    /// # Errors
    /// [`Refusal::Clash`] with a name that was added before (FAULTS F06).
    pub fn add(&mut self, name: &str) -> Result<(), Refusal> {
        let lower = name.to_ascii_lowercase();
        let parents = || lower.match_indices('/').filter_map(|(at, _)| lower.get(..at));
        let clash = parents()
            .find_map(|parent| self.files.get(parent))
            .or_else(|| self.files.get(&lower))
            .or_else(|| self.folders.get(&lower));
        if let Some(first) = clash {
            return Err(Refusal::Clash { first: first.clone(), second: String::from(name) });
        }
        for parent in parents() {
            self.folders.insert(String::from(parent), String::from(name));
        }
        self.files.insert(lower, String::from(name));
        Ok(())
    }
}

/// The header of a regular file: mode 0644, owner 0, time 0.
///
/// # Errors
/// When the name is not on the allow-list, or the file has 8 GiB or more.
pub fn header(name: &str, size: u64) -> Result<[u8; BLOCK], Refusal> {
    check_name(name.as_bytes())?;
    if size > MAX_SIZE {
        let what = "8 GiB or more, which a header of ustar cannot say; keep it in an image layout or a registry";
        return Err(Refusal::Name { name: String::from(name), what });
    }
    let mut block = [0; BLOCK];
    let mut put = |at: usize, text: &[u8]| {
        for (byte, new) in block.iter_mut().skip(at).zip(text) {
            *byte = *new;
        }
    };
    put(0, name.as_bytes());
    put(100, b"0000644");
    put(108, b"0000000");
    put(116, b"0000000");
    put(124, octal::<11>(size).as_slice());
    put(136, b"00000000000");
    put(156, b"0");
    put(257, b"ustar\x0000");
    put(329, b"0000000");
    put(337, b"0000000");
    let sum = Header { offset: 0, block: &block }.sum();
    let checksum = octal::<6>(sum).into_iter().chain([0, b' ']);
    for (byte, digit) in block.iter_mut().skip(148).zip(checksum) {
        *byte = digit;
    }
    Ok(block)
}

fn octal<const WIDTH: usize>(n: u64) -> [u8; WIDTH] {
    let mut digits = [b'0'; WIDTH];
    let mut rest = n;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + u8::try_from(rest & 7).unwrap_or(0);
        rest >>= 3;
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString as _;

    fn folder(name: &[u8], size: &[u8]) -> [u8; BLOCK] {
        let mut block = header("x", 0).unwrap();
        block[..100].fill(0);
        block[..name.len()].copy_from_slice(name);
        block[124..124 + size.len()].copy_from_slice(size);
        block[156] = b'5';
        let sum = Header { offset: 0, block: &block }.sum();
        block[148..154].copy_from_slice(&octal::<6>(sum));
        block
    }

    #[test]
    fn folders_are_taken_only_where_that_is_asked_for() {
        let block = folder(b"blobs/sha256/", b"00000000000");
        assert_eq!(entry(&block, 0, Folders::Taken), Ok(Entry::Folder { name: "blobs/sha256" }));
        let refused = entry(&block, 0, Folders::Refused).unwrap_err();
        assert!(matches!(&refused, Refusal::Kind { kind: "a folder", .. }), "{refused}");
        assert!(entry(&folder(b"blobs", b"00000000000"), 0, Folders::Taken).is_ok());
        assert!(entry(&folder(b"blobs/", b"00000000001"), 0, Folders::Taken).is_err(), "a folder with content");
        for name in [&b"/"[..], b"../", b"./", b"blobs//", b"/blobs/", b""] {
            assert!(entry(&folder(name, b"00000000000"), 0, Folders::Taken).is_err(), "{name:?}");
        }
    }

    #[test]
    fn what_is_written_reads_back_up_to_the_largest_size() {
        for size in [0, 1, 511, 512, 1 << 32, MAX_SIZE] {
            let block = header("blobs/sha256/a", size).unwrap();
            assert_eq!(entry(&block, 0, Folders::Refused), Ok(Entry::File { name: "blobs/sha256/a", size }));
        }
        let refused = header("a", MAX_SIZE + 1).unwrap_err().to_string();
        assert!(refused.contains("8 GiB"), "{refused}");
        assert!(header("../a", 0).is_err());
        assert_eq!([0, 1, 512, 513].map(padded), [0, 512, 512, 1024]);
        assert_eq!(padded(u64::MAX), u64::MAX);
    }

    #[test]
    fn a_zero_block_is_the_end() {
        assert_eq!(entry(&[0; BLOCK], 512, Folders::Taken), Ok(Entry::End));
    }
}
