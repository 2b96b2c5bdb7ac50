//! The simulator's own reading of frames by their documented form (SPEC 4).

use super::{Kind, NONE};

/// What a frame says to those who read only what they need.
#[derive(Clone, Copy, Debug)]
pub struct Parsed {
    /// Its sequence.
    pub seq: u64,
    /// The first 16 digits of its hash.
    pub h: u64,
    /// Its kind.
    pub kind: Kind,
    /// The call that its `agent` names, or `NONE`.
    pub call: u32,
    /// Its id.
    pub audit: u128,
    /// Whether it is the outcome of a tool that ran out of time.
    pub timeout: bool,
    /// The class that it is delivered in, most important first: [`ERROR`], [`DECISION`], [`LIFECYCLE`].
    pub class: u8,
}

/// The class of errors.
pub const ERROR: usize = 0;
/// The class of decisions and their actions.
pub const DECISION: usize = 1;
/// The class of lifecycle events.
pub const LIFECYCLE: usize = 2;

/// The bytes of a frame behind what its hash covers.
const TAIL: usize = 73;

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// Reads 36 characters of a UUID.
#[must_use]
pub fn uuid(text: &[u8]) -> Option<u128> {
    let mut n = 0u128;
    for digit in text.iter().filter(|c| **c != b'-') {
        n = n << 4 | u128::from(hex(*digit)?);
    }
    Some(n)
}

pub(crate) fn number(text: &[u8]) -> Option<(u64, &[u8])> {
    let len = text.iter().position(|b| !b.is_ascii_digit())?;
    let (digits, rest) = text.split_at_checked(len)?;
    let n = digits.iter().try_fold(0u64, |n, d| n.checked_mul(10)?.checked_add(u64::from(d - b'0')))?;
    Some((n, rest))
}

/// The 64 bits of the hash at a frame's end.
pub(super) fn tail_hash(frame: &[u8]) -> Option<u64> {
    let tail = frame.get(frame.len().checked_sub(TAIL)?..)?;
    let digits = tail.strip_prefix(b",\"h\":\"")?.first_chunk::<16>()?;
    // Without a branch for each digit: this is asked of every frame at every look at the log.
    let (mut n, mut bad) = (0u64, false);
    for c in digits {
        let (digit, letter) = (c.wrapping_sub(b'0'), c.wrapping_sub(b'a'));
        bad |= (digit >= 10) & (letter >= 6);
        n = n << 4 | u64::from(if digit < 10 { digit } else { letter.wrapping_add(10) & 15 });
    }
    (!bad).then_some(n)
}

/// The whole hash at a frame's end.
pub(super) fn whole_hash(frame: &[u8]) -> Option<[u8; 32]> {
    let tail = frame.get(frame.len().checked_sub(TAIL)?..)?;
    hash32(tail.strip_prefix(b",\"h\":\"")?.strip_suffix(b"\"}\n")?)
}

/// Whether the frame's hash verifies behind this one.
pub(super) fn follows(frame: &[u8], prev: &[u8; 32]) -> bool {
    let Some(covered) = frame.len().checked_sub(TAIL).and_then(|len| frame.get(..len)) else { return false };
    let mut hasher = blake3::Hasher::new();
    hasher.update(prev);
    hasher.update(covered);
    whole_hash(frame) == Some(*hasher.finalize().as_bytes())
}

fn hash32(digits: &[u8]) -> Option<[u8; 32]> {
    if digits.len() != 64 {
        return None;
    }
    let mut bytes = [0u8; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.as_chunks::<2>().0) {
        *byte = hex(pair[0])? << 4 | hex(pair[1])?;
    }
    Some(bytes)
}

/// The frame at the start of `bytes` without its length, and how many bytes both take. `None` when it is not whole.
#[must_use]
pub fn next_frame(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let (len, rest) = bytes.split_first_chunk::<4>()?;
    let len = usize::try_from(u32::from_be_bytes(*len)).ok()?;
    Some((rest.get(..len)?, len + 4))
}

/// The sequence of a frame and the first 16 digits of its hash.
#[must_use]
pub fn place(frame: &[u8]) -> Option<(u64, u64)> {
    Some((number(frame.strip_prefix(b"{\"seq\":")?)?.0, tail_hash(frame)?))
}

/// Reads one frame.
#[must_use]
pub fn parse(frame: &[u8]) -> Option<Parsed> {
    let h = tail_hash(frame)?;
    let (seq, rest) = number(frame.strip_prefix(b"{\"seq\":")?)?;
    let rest = rest.strip_prefix(b",\"ts\":\"")?.get(27..)?.strip_prefix(b"\",\"kind\":\"")?;
    let word = rest.iter().position(|b| *b == b'"')?;
    let (kind, rest) = rest.split_at_checked(word)?;
    let rest = rest.strip_prefix(b"\",\"audit_id\":\"")?;
    let audit = uuid(rest.get(..36)?)?;
    // Trace and span are hex digits or nothing, so that the body starts at the first brace.
    let head = rest.get(..220).unwrap_or(rest);
    let (blocks, _) = head.as_chunks::<16>();
    let clean = blocks.iter().take_while(|block| !block.iter().fold(false, |any, b| any | (*b == b'{'))).count() * 16;
    let body_at = clean + head.get(clean..)?.iter().position(|b| *b == b'{')?;
    let body = rest.get(body_at..rest.len().checked_sub(TAIL)?)?;
    let mut timeout = false;
    let class = match kind {
        b"error" => ERROR,
        b"lifecycle" => LIFECYCLE,
        _ => DECISION,
    };
    let kind = match kind {
        b"decision" if body.starts_with(b"{\"decision\":\"allow\"") => Kind::Allow,
        b"decision" => Kind::Deny,
        b"action" => Kind::Outcome,
        b"error" if body.starts_with(b"{\"code\":\"outcome_unknown\"") => Kind::Unknown,
        b"error" if body.starts_with(b"{\"code\":\"tool_") || body.starts_with(b"{\"code\":\"invalid_params") => {
            timeout = body.starts_with(b"{\"code\":\"tool_timeout");
            Kind::Outcome
        }
        _ => Kind::Other,
    };
    let call = match kind {
        Kind::Allow | Kind::Deny => agent(body).unwrap_or(NONE),
        Kind::Outcome | Kind::Unknown | Kind::Other => NONE,
    };
    Some(Parsed { seq, h, kind, call, audit, timeout, class: u8::try_from(class).unwrap_or(0) })
}

fn agent(body: &[u8]) -> Option<u32> {
    const NAME: &[u8] = b"\"agent\":\"c";
    let from = body.len().saturating_sub(64);
    let end = body.get(from..)?;
    let at = end.windows(NAME.len()).rposition(|w| w == NAME)?;
    let (n, _) = number(end.get(at + NAME.len()..)?)?;
    u32::try_from(n).ok()
}

/// What `telemetry.base` says: the first sequence and the chain before it.
#[must_use]
pub fn base(bytes: &[u8]) -> Option<(u64, [u8; 32])> {
    let field = |name: &[u8]| {
        let at = bytes.windows(name.len()).position(|w| w == name)?;
        bytes.get(at + name.len()..)
    };
    let (first, _) = number(field(b"\"first_seq\":")?)?;
    Some((first, hash32(field(b"\"prev_h\":\"")?.get(..64)?)?))
}
