//! What the world remembers of a node's records: every chain, fingerprint and evidence that a precheck wrote, rendered here a
//! second time from SPEC 10 and compared byte by byte, so that what lies on the disk is known by its bytes alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use machines::ids::Hash32;
use machines::time::Wall;
use machines::tree::{Place, Root};

use super::material::state;
use super::tree::{Content, Entry, Tree, View};

/// The files of a node's records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum File {
    /// `epoch/chain.jsonl`.
    Chain,
    /// `bootstrap/os_fingerprint.json`.
    Print,
    /// `epoch/current/evidence.json`.
    Current,
    /// `epoch/previous/evidence.json`.
    Previous,
    /// `bootstrap/precheck.json`.
    Marker,
}

/// The four that are kept; the marker is for one boot.
pub const KEPT: [File; 4] = [File::Chain, File::Print, File::Current, File::Previous];

impl File {
    const fn path(self) -> &'static str {
        match self {
            Self::Chain => "epoch/chain.jsonl",
            Self::Print => "bootstrap/os_fingerprint.json",
            Self::Current => "epoch/current/evidence.json",
            Self::Previous => "epoch/previous/evidence.json",
            Self::Marker => "bootstrap/precheck.json",
        }
    }

    /// Where it lies.
    #[must_use]
    pub fn place(self) -> Place {
        state(self.path())
    }

    /// Whether it lies there.
    #[must_use]
    pub fn is(self, place: &Place) -> bool {
        place.root == Root::State && place.path.as_str() == self.path()
    }

    /// Whether it or its temporary file lies there.
    #[must_use]
    pub fn is_or_temp(self, place: &Place) -> bool {
        self.is(place) || (place.path.as_str().ends_with(".tmp") && *place == self.place().temp())
    }
}

/// A line of the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// The epoch.
    pub epoch: u64,
    /// The fingerprint before.
    pub previous: Hash32,
    /// The fingerprint from here on.
    pub new: Hash32,
    /// The manifest's version.
    pub version: u64,
    /// When.
    pub at: Wall,
    /// The hash that ends the line.
    pub h: [u8; 32],
}

fn time(at: Wall) -> String {
    let mut text = String::new();
    at.write_rfc3339(&mut text);
    text
}

impl Line {
    /// The line behind `before` with these values, and its text.
    #[must_use]
    pub fn behind(before: Option<&Self>, previous: Hash32, new: Hash32, version: u64, at: Wall) -> (Self, String) {
        let prev = before.map_or_else(|| *blake3::hash(b"autonomy-epoch-v1").as_bytes(), |line| line.h);
        let epoch = before.map_or(0, |line| line.epoch + 1);
        let mut text = format!(
            "{{\"epoch\":{epoch},\"previous_hash\":\"{previous}\",\"new_hash\":\"{new}\",\"manifest_version\":{version},\"at\":\"{}\",\"prev\":\"{}\"",
            time(at),
            Hash32(prev)
        );
        let mut hasher = blake3::Hasher::new();
        hasher.update(&prev).update(text.as_bytes());
        let h = *hasher.finalize().as_bytes();
        text.push_str(&format!(",\"h\":\"{}\"}}\n", Hash32(h)));
        (Self { epoch, previous, new, version, at, h }, text)
    }

    /// The evidence of this line.
    #[must_use]
    pub fn evidence(&self, binary: Option<Hash32>) -> String {
        let binary = binary.map_or_else(String::new, |hash| format!(",\n  \"binary_hash\": \"blake3:{hash}\""));
        format!(
            "{{\n  \"epoch\": {},\n  \"previous_hash\": \"{}\",\n  \"new_hash\": \"{}\",\n  \"rotated_at\": \"{}\"{binary}\n}}\n",
            self.epoch,
            self.previous,
            self.new,
            time(self.at)
        )
    }

    /// The ends of the fingerprint file of this line; the components stand between.
    #[must_use]
    pub fn print_ends(&self) -> (String, String) {
        (
            format!("{{\n  \"composite_hash\": \"{}\",\n  \"components\": {{", self.new),
            format!("}},\n  \"boot_epoch\": {},\n  \"captured_at\": \"{}\"\n}}\n", self.epoch, time(self.at)),
        )
    }
}

/// What a fingerprint file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Print {
    /// `composite_hash`.
    pub hash: Hash32,
    /// `boot_epoch`.
    pub epoch: u64,
}

/// A file as it lies there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen<T> {
    /// Nothing.
    Absent,
    /// Nothing that anybody wrote as a whole.
    Broken,
    /// This.
    Is(T),
}

impl<T> Seen<T> {
    /// The value that is there.
    pub fn value(&self) -> Option<&T> {
        match self {
            Self::Is(value) => Some(value),
            Self::Absent | Self::Broken => None,
        }
    }
}

/// The node's records as they lie there.
#[derive(Clone, Debug)]
pub struct Records {
    /// The chain's lines; never none.
    pub chain: Seen<Arc<[Line]>>,
    /// The fingerprint.
    pub print: Seen<Print>,
    /// The current evidence: the line that it is about.
    pub current: Seen<Line>,
    /// The previous evidence.
    pub previous: Seen<Line>,
    /// `edged` ran here.
    pub ran: bool,
}

/// What the world remembers.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    chains: BTreeMap<u64, Arc<[Line]>>,
    prints: BTreeMap<u64, Print>,
    evidence: BTreeMap<u64, Line>,
    /// What may lie at a destination: bytes or link, by key.
    legit: BTreeMap<Place, Vec<u64>>,
    /// The chain as it lay there before the operation that is looked at.
    pub chain: Option<Content>,
    /// The kept files as they were when a precheck passed last, by [`KEPT`].
    pub copy: [Option<Content>; 4],
    /// The last epoch of the chain on the medium.
    pub epoch: Option<u64>,
    /// Somebody changed the records since a precheck passed.
    pub tampered: bool,
    /// A reconstruction has begun and no precheck has passed since.
    pub unfinished: bool,
}

impl Ledger {
    /// Remembers a chain.
    pub fn learn_chain(&mut self, content: &Content, lines: Arc<[Line]>) {
        self.chains.insert(content.key(), lines);
    }

    /// The chain of before, with its lines.
    #[must_use]
    pub fn before(&self) -> Option<(Content, Arc<[Line]>)> {
        let content = self.chain.clone()?;
        let lines = Arc::clone(self.chains.get(&content.key())?);
        Some((content, lines))
    }

    /// Remembers a fingerprint.
    pub fn learn_print(&mut self, content: &Content, print: Print) {
        self.prints.insert(content.key(), print);
    }

    /// Remembers evidence.
    pub fn learn_evidence(&mut self, content: &Content, line: Line) {
        self.evidence.insert(content.key(), line);
    }

    /// Remembers that this may lie there.
    pub fn allow(&mut self, place: &Place, key: u64) {
        let keys = self.legit.entry(place.clone()).or_default();
        if !keys.contains(&key) {
            keys.push(key);
        }
    }

    /// Whether this may lie there.
    #[must_use]
    pub fn allows(&self, place: &Place, key: u64) -> bool {
        self.legit.get(place).is_some_and(|keys| keys.contains(&key))
    }

    /// An earlier fingerprint: the one of the highest epoch below this one.
    #[must_use]
    pub fn print_below(&self, epoch: u64) -> Option<u64> {
        self.prints
            .iter()
            .filter(|(_, print)| print.epoch < epoch)
            .max_by_key(|(_, print)| print.epoch)
            .map(|(k, _)| *k)
    }

    /// The records as they lie there.
    #[must_use]
    pub fn records(&self, tree: &Tree, view: View) -> Records {
        fn seen<T: Clone>(tree: &Tree, view: View, file: File, known: &BTreeMap<u64, T>) -> Seen<T> {
            match tree.at(view, &file.place()) {
                None => Seen::Absent,
                Some(Entry::File(content, _)) => {
                    known.get(&content.key()).map_or(Seen::Broken, |value| Seen::Is(value.clone()))
                }
                Some(Entry::Folder(_) | Entry::Link(_)) => Seen::Broken,
            }
        }
        Records {
            chain: seen(tree, view, File::Chain, &self.chains),
            print: seen(tree, view, File::Print, &self.prints),
            current: seen(tree, view, File::Current, &self.evidence),
            previous: seen(tree, view, File::Previous, &self.evidence),
            ran: tree.at(view, &state("edge/telemetry/telemetry.base")).is_some(),
        }
    }
}

/// Equal for files with equal bytes and links that say the same; folders are all the same.
#[must_use]
pub fn key_of(entry: &Entry) -> u64 {
    match entry {
        Entry::File(content, _) => content.key(),
        Entry::Folder(_) => 1,
        Entry::Link(target) => Content::new(target.as_bytes()).key() ^ 2,
    }
}
