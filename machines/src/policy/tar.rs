//! Canonical ustar (POSIX.1-1988) and nothing else: regular files, no prefix, no extension headers.
//!
//! Readers that forgive disagree on what an archive holds (FAULTS F05), so each byte of a header that has a
//! meaning must have the one value that canonical writers give it, and each byte without one must be zero.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use super::Refusal;

const BLOCK: usize = 512;
/// Longest file name, in bytes: the name field, without the prefix that ustar could add.
pub(super) const MAX_NAME: usize = 100;

/// What an archive may hold.
pub(super) struct Limits {
    pub(super) files: usize,
    pub(super) file_bytes: u64,
}

/// The files of an archive by name. Names are on the allow-list of [`check_name`] and do not clash.
pub(super) fn read<'a>(archive: &'a [u8], limits: &Limits) -> Result<BTreeMap<&'a str, &'a [u8]>, Refusal> {
    let (blocks, odd) = archive.as_chunks::<BLOCK>();
    if !odd.is_empty() {
        return Err(Refusal::Tar { offset: archive.len(), what: "the length is no multiple of 512" });
    }
    let mut names = Names::default();
    let mut files = BTreeMap::new();
    let mut at = 0_usize;
    loop {
        let offset = at.saturating_mul(BLOCK);
        let header = Header { offset, block: blocks.get(at).ok_or(Refusal::Tar { offset, what: END })? };
        if header.block.iter().all(|b| *b == 0) {
            check_end(blocks.get(at..).unwrap_or_default(), offset)?;
            return Ok(files);
        }
        let (name, len) = header.read(limits)?;
        names.add(name)?;
        if files.len() == limits.files {
            return Err(Refusal::TooManyFiles { max: limits.files });
        }
        let start = offset.saturating_add(BLOCK);
        let cut = Refusal::Tar { offset: start, what: "the archive ends within a file" };
        let Ok(len) = usize::try_from(len) else { return Err(cut) };
        let body_blocks = len.div_ceil(BLOCK);
        let end = start.saturating_add(body_blocks.saturating_mul(BLOCK));
        let Some((body, padding)) = archive.get(start..end).and_then(|body| body.split_at_checked(len)) else {
            return Err(cut);
        };
        if padding.iter().any(|b| *b != 0) {
            return Err(Refusal::Tar { offset: start.saturating_add(len), what: "the padding is not zero" });
        }
        files.insert(name, body);
        at = at.saturating_add(1).saturating_add(body_blocks);
    }
}

const END: &str = "the two zero blocks at the end are missing";

fn check_end(rest: &[[u8; BLOCK]], offset: usize) -> Result<(), Refusal> {
    if rest.len() < 2 {
        return Err(Refusal::Tar { offset, what: END });
    }
    if rest.iter().flatten().any(|b| *b != 0) {
        return Err(Refusal::Tar { offset, what: "something follows the zero block that ends the archive" });
    }
    Ok(())
}

/// One header block, with its offset for messages.
struct Header<'a> {
    offset: usize,
    block: &'a [u8; BLOCK],
}

impl<'a> Header<'a> {
    fn read(&self, limits: &Limits) -> Result<(&'a str, u64), Refusal> {
        if self.number(148..156, "the checksum field is not octal")? != self.sum() {
            return Err(self.bad("the checksum does not fit the header"));
        }
        if self.field(257..265) != b"ustar\x0000" {
            return Err(self.bad("it is not in ustar format"));
        }
        let name = self.text(0..100, "there are bytes behind the end of the name")?;
        self.check_kind(name)?;
        let name = check_name(name)?;
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
        let len = self.number(124..136, "the size is not octal")?;
        if len > limits.file_bytes {
            return Err(Refusal::FileTooLarge { name: String::from(name), len, max: limits.file_bytes });
        }
        Ok((name, len))
    }

    fn check_kind(&self, name: &[u8]) -> Result<(), Refusal> {
        let kind = match self.field(156..157).first() {
            Some(b'0') => return Ok(()),
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
        Err(Refusal::EntryKind { name: String::from_utf8_lossy(name).into_owned(), kind })
    }

    fn bad(&self, what: &'static str) -> Refusal {
        Refusal::Tar { offset: self.offset, what }
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
pub(super) fn check_name(name: &[u8]) -> Result<&str, Refusal> {
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
pub(super) struct Names {
    /// Lower-case name → the name as spelled.
    files: BTreeMap<String, String>,
    /// Lower-case folder → a file in it.
    folders: BTreeMap<String, String>,
}

impl Names {
    pub(super) fn add(&mut self, name: &str) -> Result<(), Refusal> {
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

/// Appends one file: mode 0644, owner 0, time 0. The name must have passed [`check_name`].
pub(super) fn append(out: &mut Vec<u8>, name: &str, data: &[u8]) {
    let mut header = Vec::with_capacity(BLOCK);
    let put = |header: &mut Vec<u8>, text: &[u8], width: usize| {
        let end = header.len().saturating_add(width);
        header.extend_from_slice(text);
        header.resize(end, 0);
    };
    put(&mut header, name.as_bytes(), 100);
    put(&mut header, b"0000644", 8);
    put(&mut header, b"0000000", 8);
    put(&mut header, b"0000000", 8);
    put(&mut header, octal::<11>(data.len()).as_slice(), 12);
    put(&mut header, b"00000000000", 12);
    let before_sum = header.len();
    put(&mut header, b"        ", 8);
    put(&mut header, b"0", 1);
    put(&mut header, b"", 100);
    put(&mut header, b"ustar\x0000", 8);
    put(&mut header, b"", 64);
    put(&mut header, b"0000000", 8);
    put(&mut header, b"0000000", 8);
    put(&mut header, b"", 155 + 12);
    let sum = header.iter().map(|b| usize::from(*b)).sum::<usize>();
    let checksum = octal::<6>(sum).into_iter().chain([0, b' ']);
    for (byte, digit) in header.iter_mut().skip(before_sum).zip(checksum) {
        *byte = digit;
    }
    out.extend_from_slice(&header);
    out.extend_from_slice(data);
    out.resize(out.len().next_multiple_of(BLOCK), 0);
}

/// Appends the end of the archive: two zero blocks.
pub(super) fn finish(out: &mut Vec<u8>) {
    out.resize(out.len().saturating_add(2 * BLOCK), 0);
}

fn octal<const WIDTH: usize>(n: usize) -> [u8; WIDTH] {
    let mut digits = [b'0'; WIDTH];
    let mut rest = n;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + u8::try_from(rest & 7).unwrap_or(0);
        rest >>= 3;
    }
    digits
}

#[cfg(test)]
#[path = "tar_tests.rs"]
mod tests;
