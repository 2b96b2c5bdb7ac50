//! Reading a log back, frame by frame, and looking for good frames behind a bad one.

use alloc::collections::BTreeMap;

use crate::ids::{Hash32, Seq, Uuid};
use crate::json;

use super::frame::{self, Frame, Kind, MAX_FRAME, PREFIX, TAIL};

/// Why the bytes at some point are no good frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bad {
    /// The file ends inside the frame.
    Torn,
    /// The length is none that a frame can have.
    Length,
    /// The bytes are not a frame's JSON.
    Json,
    /// A frame of another sequence than the one that belongs here.
    Seq,
    /// The frame's hash does not verify against the frame before it.
    Hash,
}

/// A place in the log's chain: which frame belongs here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its sequence.
    pub next: u64,
    /// The hash that it has to follow.
    pub prev: Hash32,
}

/// What stands at a place.
#[derive(Debug)]
pub enum Step<'b> {
    /// The frame that belongs here, and its N bytes.
    Frame(Frame<'b>, &'b [u8]),
    /// The bytes end before the frame does.
    More,
    /// Something else.
    Bad(Bad),
}

/// What a glance at a place shows: kind and sequence, with nothing verified.
#[derive(Debug)]
pub enum Glance<'b> {
    /// A frame whose sequence belongs here.
    Frame {
        /// Its sequence.
        seq: u64,
        /// Its kind.
        kind: Kind,
        /// Its N bytes.
        bytes: &'b [u8],
    },
    /// The bytes end before the frame does.
    More,
    /// Something else.
    Bad(Bad),
}

impl<'b> From<Step<'b>> for Glance<'b> {
    fn from(step: Step<'b>) -> Self {
        match step {
            Step::Frame(frame, bytes) => Self::Frame { seq: frame.seq.get(), kind: frame.kind, bytes },
            Step::More => Self::More,
            Step::Bad(bad) => Self::Bad(bad),
        }
    }
}

impl Link {
    /// Looks at the frame at the start of `bytes` without verifying it, and moves behind it. The hash that the next one
    /// has to follow is then not known: `prev_behind` reads it where a stretch of glances ends.
    pub fn glance<'b>(&mut self, bytes: &'b [u8]) -> Glance<'b> {
        let body = match whole_frame(bytes) {
            Whole::Yes(body) => body,
            Whole::No(None) => return Glance::More,
            Whole::No(Some(bad)) => return Glance::Bad(bad),
        };
        let Some((seq, kind)) = frame::head(body) else { return Glance::Bad(Bad::Json) };
        let first = match kind {
            Kind::Error => {
                Frame::parse(body).and_then(|frame| Tombstone::of(frame.body)).map_or(seq, |lost| lost.first)
            }
            Kind::Decision | Kind::Action | Kind::Lifecycle => seq,
        };
        if first != self.next || seq < first {
            return Glance::Bad(Bad::Seq);
        }
        self.next = seq.saturating_add(1);
        Glance::Frame { seq, kind, bytes: body }
    }

    /// Reads the frame at the start of `bytes` and, if it belongs here, moves behind it.
    pub fn step<'b>(&mut self, bytes: &'b [u8]) -> Step<'b> {
        let body = match whole_frame(bytes) {
            Whole::Yes(body) => body,
            Whole::No(None) => return Step::More,
            Whole::No(Some(bad)) => return Step::Bad(bad),
        };
        let Some(frame) = Frame::parse(body) else { return Step::Bad(Bad::Json) };
        let Some(prev) = self.behind(&frame) else {
            return Step::Bad(if frame.seq.get() == self.next { Bad::Hash } else { Bad::Seq });
        };
        *self = Self { next: frame.seq.get().saturating_add(1), prev };
        Step::Frame(frame, body)
    }

    /// The hash that the frame after `frame` follows, if `frame` belongs here.
    fn behind(&self, frame: &Frame<'_>) -> Option<Hash32> {
        if frame.kind == Kind::Error
            && let Some(lost) = Tombstone::of(frame.body)
        {
            let here = lost.first == self.next && lost.last == frame.seq.get() && frame.follows(&self.prev);
            return here.then_some(lost.bridge);
        }
        (frame.seq.get() == self.next && frame.follows(&self.prev)).then_some(frame.h)
    }
}

/// The hash that the first frame of a file follows, from the last bytes of the file before it.
#[must_use]
pub fn prev_behind(tail: &[u8]) -> Option<Hash32> {
    if let Some(bridge) = bridge_before(tail) {
        return Some(bridge);
    }
    frame::split_tail(tail).map(|(_, h)| h)
}

/// A position in the log's chain and what was counted on the way to it.
#[derive(Clone, Debug)]
pub struct Chain {
    /// The sequence that belongs here.
    pub next: u64,
    /// The hash that the next frame has to follow.
    pub prev: Hash32,
    /// Frames by kind, in the order decision, action, lifecycle, error.
    pub counts: [u64; 4],
    /// Durable allows without an outcome so far, with their sequence.
    pub open: BTreeMap<Uuid, Seq>,
    /// The first frame's time text is kept per file by the caller; this is the last frame's.
    pub last_ts: [u8; 27],
}

impl Chain {
    /// The start of a log whose first retained sequence is `first` and whose chain before it is `prev`.
    #[must_use]
    pub const fn new(first: Seq, prev: Hash32) -> Self {
        Self { next: first.get(), prev, counts: [0; 4], open: BTreeMap::new(), last_ts: [b'0'; 27] }
    }

    /// The last good sequence; 0 before the first.
    #[must_use]
    pub const fn last(&self) -> u64 {
        self.next.saturating_sub(1)
    }

    /// Reads frames from the start of `bytes` as long as they are whole and good. Returns how many bytes were
    /// good, and what is wrong with the next frame if it is bad. With `at_end` the file ends with these
    /// bytes; without, an incomplete frame only means that more has to be read.
    pub fn read<'b>(
        &mut self,
        bytes: &'b [u8],
        at_end: bool,
        each: &mut dyn FnMut(&Frame<'b>, usize),
    ) -> (usize, Option<Bad>) {
        let mut at = 0usize;
        loop {
            let rest = bytes.get(at..).unwrap_or(&[]);
            if rest.is_empty() {
                return (at, None);
            }
            let body = match whole_frame(rest) {
                Whole::Yes(body) => body,
                Whole::No(None) => return (at, at_end.then_some(Bad::Torn)),
                Whole::No(Some(bad)) => return (at, Some(bad)),
            };
            let Some(frame) = Frame::parse(body) else { return (at, Some(Bad::Json)) };
            let Some(after) = self.step(&frame) else {
                let bad = if frame.seq.get() == self.next { Bad::Hash } else { Bad::Seq };
                return (at, Some(bad));
            };
            each(&frame, at);
            self.take(&frame, after);
            at += PREFIX + body.len();
        }
    }

    /// The hash that the frame after `frame` follows, if `frame` belongs here.
    fn step(&self, frame: &Frame<'_>) -> Option<Hash32> {
        Link { next: self.next, prev: self.prev }.behind(frame)
    }

    fn take(&mut self, frame: &Frame<'_>, after: Hash32) {
        let [decisions, actions, lifecycles, errors] = &mut self.counts;
        let count = match frame.kind {
            Kind::Decision => {
                if frame.body.starts_with(ALLOW) {
                    self.open.insert(frame.audit_id, frame.seq);
                }
                decisions
            }
            Kind::Action => {
                self.open.remove(&frame.audit_id);
                actions
            }
            Kind::Lifecycle => lifecycles,
            Kind::Error => {
                self.open.remove(&frame.audit_id);
                errors
            }
        };
        *count += 1;
        if let Ok(ts) = frame.ts.as_bytes().try_into() {
            self.last_ts = ts;
        }
        self.prev = after;
        self.next = frame.seq.get().saturating_add(1);
    }
}

/// How the body of a decision that allows begins.
pub const ALLOW: &str = "{\"decision\":\"allow\"";

enum Whole<'a> {
    Yes(&'a [u8]),
    No(Option<Bad>),
}

fn whole_frame(rest: &[u8]) -> Whole<'_> {
    let Some((prefix, body)) = rest.split_first_chunk::<PREFIX>() else { return Whole::No(None) };
    let Ok(len) = usize::try_from(u32::from_be_bytes(*prefix)) else { return Whole::No(Some(Bad::Length)) };
    if len <= TAIL || len > MAX_FRAME {
        return Whole::No(Some(Bad::Length));
    }
    match body.get(..len) {
        Some(body) => Whole::Yes(body),
        None => Whole::No(None),
    }
}

/// The frame that stands for a range of lost ones after an operator's repair (SPEC 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tombstone {
    /// The first lost sequence.
    pub first: u64,
    /// The last lost sequence, the tombstone's own.
    pub last: u64,
    /// The hash that the frame behind the tombstone verifies against.
    pub bridge: Hash32,
}

/// The code of a tombstone.
pub const LOST_RANGE: &str = "wal_lost_range";

impl Tombstone {
    /// Reads an error frame's body; `None` when it is no tombstone.
    #[must_use]
    pub fn of(body: &str) -> Option<Self> {
        if !body.starts_with("{\"code\":\"wal_lost_range\"") {
            return None;
        }
        let value = json::parse(body.as_bytes(), &json::Limits::default()).ok()?;
        Some(Self {
            first: value.get("first_lost")?.as_u64()?,
            last: value.get("last_lost")?.as_u64()?,
            bridge: Hash32::parse_hex(value.get("bridge_h")?.as_str()?.as_bytes())?,
        })
    }

    /// The body of the frame.
    #[must_use]
    pub fn body(&self) -> alloc::string::String {
        alloc::format!(
            "{{\"code\":\"{LOST_RANGE}\",\"message\":\"frames {} to {} were lost and could not be repaired\",\
             \"first_lost\":{},\"last_lost\":{},\"bridge_h\":\"{}\"}}",
            self.first,
            self.last,
            self.first,
            self.last,
            self.bridge
        )
    }
}

/// The bytes that two windows of a search must share so that no frame is missed between them.
pub const OVERLAP: usize = TAIL + PREFIX + MAX_FRAME;

/// The sequence that the frame at the start of `bytes` says, if there is one.
#[must_use]
pub fn seq_at(bytes: &[u8]) -> Option<u64> {
    match whole_frame(bytes) {
        Whole::Yes(body) => Frame::parse(body).map(|frame| frame.seq.get()),
        Whole::No(_) => None,
    }
}

/// Looks through `bytes` for frames that verify against the stored hash of the frame just before them, wherever they
/// start, and says whether one of them shows that durable data is damaged: it knew `next` to be durable, or is
/// itself at or below the floor.
///
/// A frame holds exactly one line feed, its last byte, so that the byte behind any line feed may start one.
#[must_use]
pub fn shows_durable(bytes: &[u8], next: u64, floor: u64) -> bool {
    let mut shown = false;
    each_good_behind(bytes, &mut |frame, _, _| shown |= frame.safe >= next || frame.seq.get() <= floor);
    shown
}

/// Calls `each` with every frame in `bytes` that verifies against the stored hash just before it, its offset, and
/// that hash. Behind a tombstone it is the tombstone's bridge that counts.
pub fn each_good_behind<'b>(bytes: &'b [u8], each: &mut dyn FnMut(&Frame<'b>, usize, Hash32)) {
    for feed in memchr::memchr_iter(b'\n', bytes) {
        let start = feed + 1;
        let Some((_, stored)) = bytes.get(..start).and_then(frame::split_tail) else { continue };
        let Whole::Yes(body) = whole_frame(bytes.get(start..).unwrap_or(&[])) else { continue };
        let Some(frame) = Frame::parse(body) else { continue };
        if frame.follows(&stored) {
            each(&frame, start, stored);
        } else if let Some(bridge) = bridge_before(bytes.get(..start).unwrap_or(&[]))
            && frame.follows(&bridge)
        {
            each(&frame, start, bridge);
        }
    }
}

/// The bridge of a tombstone that ends these bytes.
fn bridge_before(bytes: &[u8]) -> Option<Hash32> {
    // A tombstone is short: its body starts within this many bytes of its end.
    let window = bytes.get(bytes.len().saturating_sub(640)..)?;
    let body = memchr::memmem::rfind(window, b",\"body\":{\"code\":\"wal_lost_range\"")?;
    let (covered, _) = frame::split_tail(window)?;
    let body = covered.get(body + b",\"body\":".len()..)?;
    Tombstone::of(core::str::from_utf8(body).ok()?).map(|lost| lost.bridge)
}
