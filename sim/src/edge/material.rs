//! What lies about in the world of a precheck: keys, binaries, manifests good and bad, identities. Signatures are keyed hashes
//! here, so that a key signs and verifies; everything else is in its real form.

use std::sync::OnceLock;

use machines::ids::Hash32;
use machines::manifest::{Manifest, Operation};
use machines::tree::{Mode, Path, Place, Root};

use super::tree::Content;
use crate::rng::{Rng, Stream};

/// The state root's path.
pub const STATE_ROOT: &str = "/data/autonomy";
/// The one folder of `[reconstruct] allow`.
pub const ALLOWED: &str = "/opt/agent";
/// The node's id, where it has one.
pub const NODE: &str = "node-a";

/// A place beneath the state root.
#[must_use]
pub fn state(path: &str) -> Place {
    Place::state(Path::parse(path).unwrap_or_else(|_| Path::top()))
}

fn allowed(path: &str) -> Place {
    Place { root: Root::Allowed(0), path: Path::parse(path).unwrap_or_else(|_| Path::top()) }
}

/// The key of this number, as it lies in `identity/manifest-verify.pub`.
#[must_use]
pub fn key(n: u8) -> [u8; 32] {
    blake3::derive_key("autonomy sim edge key", &[n])
}

/// The signature that a key makes.
#[must_use]
pub fn sign(key: &[u8; 32], bytes: &[u8]) -> [u8; 64] {
    let mut signature = [0; 64];
    blake3::Hasher::new_keyed(key).update(bytes).finalize_xof().fill(&mut signature);
    signature
}

/// How many variants of each source there are.
pub const VARIANTS: u8 = 4;
/// The sources: where they lie beneath `runtime/binaries/`.
pub const SOURCES: [&str; 2] = ["runtime/binaries/agent", "runtime/binaries/lib/helper"];

/// A variant of a source; the last one is never in a manifest.
#[must_use]
pub fn binary(source: usize, variant: u8) -> Vec<u8> {
    let id = u64::try_from(source).unwrap_or(0) << 8 | u64::from(variant);
    let mut rng = Rng::new(7, Stream::Garbage, id);
    (0..900 + 170 * id % 700).map(|_| u8::try_from(rng.range(0, 255)).unwrap_or(0)).collect()
}

/// What a step of a manifest makes, told without the machines' words.
#[derive(Clone, Debug)]
pub enum Makes {
    /// A copy of the source of this number with exactly these bytes.
    Copy(usize, Content),
    /// A file with these bytes.
    File(Content),
    /// A folder.
    Folder,
    /// A link that says this.
    Link(&'static str),
}

/// A step of a manifest and what it leads to.
#[derive(Clone, Debug)]
pub struct Made {
    /// Where.
    pub at: Place,
    /// What.
    pub makes: Makes,
    /// With this mode.
    pub mode: u16,
}

/// A manifest that somebody may place on the node.
#[derive(Clone, Debug)]
pub struct Release {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its version.
    pub version: u64,
    /// The node that it is for.
    pub node: Option<&'static str>,
    /// What it makes, in order; its folders are made before what lies in them.
    pub made: Vec<Made>,
    /// The binary's BLAKE3, where it installs one.
    pub binary: Option<Hash32>,
    /// No node may carry it out, signed or not.
    pub barred: bool,
    /// It needs the allowed folder outside.
    pub outside: bool,
}

/// The first release that every node can carry out.
pub const FIRST: u8 = 0;
/// The release that ends every story; above all others.
pub const LAST: u8 = 19;

/// All releases.
#[must_use]
pub fn releases() -> &'static [Release] {
    static ALL: OnceLock<Vec<Release>> = OnceLock::new();
    ALL.get_or_init(|| (0..=LAST).map(build).collect())
}

/// A release by its number.
#[must_use]
pub fn release(n: u8) -> Option<&'static Release> {
    releases().get(usize::from(n))
}

/// The release with exactly these bytes.
#[must_use]
pub fn known(bytes: &[u8]) -> Option<&'static Release> {
    releases().iter().find(|release| release.bytes == bytes)
}

/// Every place that some release makes which a node may carry out.
#[must_use]
pub fn destinations() -> &'static [Place] {
    static ALL: OnceLock<Vec<Place>> = OnceLock::new();
    ALL.get_or_init(|| {
        let admitted = releases().iter().filter(|release| !release.barred);
        let mut all: Vec<Place> = admitted.flat_map(|release| &release.made).map(|made| made.at.clone()).collect();
        all.sort();
        all.dedup();
        all
    })
}

struct Draft {
    manifest: Manifest,
    made: Vec<Made>,
}

impl Draft {
    fn folder(&mut self, path: &str, at: Place, mode: u16) {
        let bits = Mode::new(mode).unwrap_or(Mode::PRIVATE);
        self.manifest.operations.push(Operation::EnsureDir { path: path.into(), mode: bits });
        self.made.push(Made { at, makes: Makes::Folder, mode });
    }

    fn copy(&mut self, source: usize, variant: u8, destination: &str, at: Place, mode: u16) {
        let bytes = binary(source, variant);
        self.manifest.operations.push(Operation::CopyBinary {
            source: SOURCES.get(source).copied().unwrap_or_default().into(),
            destination: destination.into(),
            mode: Mode::new(mode).unwrap_or(Mode::PRIVATE),
            blake3: Hash32(*blake3::hash(&bytes).as_bytes()),
        });
        self.made.push(Made { at, makes: Makes::Copy(source, Content::new(&bytes)), mode });
    }

    fn file(&mut self, path: &str, at: Place, bytes: &[u8], mode: u16) {
        let bits = Mode::new(mode).unwrap_or(Mode::PRIVATE);
        self.manifest.operations.push(Operation::WriteFile { path: path.into(), mode: bits, content: bytes.to_vec() });
        self.made.push(Made { at, makes: Makes::File(Content::new(bytes)), mode });
    }

    fn link(&mut self, path: &str, at: Place, target: &'static str) {
        self.manifest.operations.push(Operation::Symlink { path: path.into(), target: target.into() });
        self.made.push(Made { at, makes: Makes::Link(target), mode: 0o777 });
    }

    /// Two copies, a file, folders and a link.
    fn usual(&mut self, variant: u8) {
        self.folder("runtime/bin", state("runtime/bin"), 0o755);
        self.copy(0, variant, "runtime/bin/agent", state("runtime/bin/agent"), 0o755);
        self.copy(1, variant, "/data/autonomy/runtime/bin/helper", state("runtime/bin/helper"), 0o700);
        self.folder("runtime/etc", state("runtime/etc"), 0o750);
        let text = format!("release = {variant}\n");
        self.file("runtime/etc/agent.conf", state("runtime/etc/agent.conf"), text.as_bytes(), 0o640);
        self.link("runtime/bin/current", state("runtime/bin/current"), "agent");
    }
}

/// What is odd about the release of each number; the rest is usual.
fn build(n: u8) -> Release {
    let manifest = Manifest { version: 1, node: None, binary_path: "runtime/bin/agent".into(), operations: Vec::new() };
    let mut draft = Draft { manifest, made: Vec::new() };
    let (mut node, mut barred, mut outside) = (None, false, false);
    let mut edit: Option<(&str, &str)> = None;
    let variant = n % (VARIANTS - 1);
    match n {
        0 | 1 => draft.manifest.version = u64::from(n) + 1,
        // The same version as 1 with other bytes.
        2 => draft.manifest.version = 2,
        3 => {
            draft.manifest.version = 3;
            node = Some(NODE);
        }
        4 => {
            draft.manifest.version = 3;
            node = Some("node-b");
        }
        5 => {
            draft.manifest.version = 4;
            outside = true;
            draft.folder("/opt/agent/bin", allowed("bin"), 0o755);
            draft.copy(0, variant, "/opt/agent/bin/agent", allowed("bin/agent"), 0o755);
            draft.link("/opt/agent/data", allowed("data"), STATE_BIN);
        }
        // What belongs to the node itself, what lies outside, what cannot be told apart.
        6 => draft.file("epoch/chain.jsonl", state("epoch/chain.jsonl"), b"", 0o600),
        7 => draft.file("identity/manifest-verify.pub", state("identity/manifest-verify.pub"), &key(9), 0o600),
        8 => draft.file("/etc/passwd", state("etc/passwd"), b"root::0:0::/:/bin/sh\n", 0o644),
        9 => draft.link("runtime/escape", state("runtime/escape"), "../../../etc"),
        10 => draft.file("runtime/BIN/agent", state("runtime/BIN/agent"), b"case", 0o600),
        // Folders that nobody makes.
        11 => draft.file("runtime/absent/file", state("runtime/absent/file"), b"no folder\n", 0o600),
        // A file where the others have a folder, and the other way round.
        12 => draft.file("runtime/opt", state("runtime/opt"), b"a file\n", 0o600),
        13 => draft.folder("runtime/opt", state("runtime/opt"), 0o700),
        14 => edit = Some(("\"version\"", "\"extra\": 1, \"version\"")),
        15 => edit = Some(("runtime/binaries/agent", "runtime/binaries/../binaries/agent")),
        16 => edit = Some(("\"op\"", "\"do\"")),
        17 => edit = Some(("\"0755\"", "\"4755\"")),
        18 => draft.manifest.version = 5,
        _ => draft.manifest.version = 50,
    }
    if (6..18).contains(&n) {
        draft.manifest.version = 6;
        barred = matches!(n, 6..=10 | 14..=17);
    }
    if n != 18 {
        draft.usual(variant);
    }
    draft.manifest.node = node.map(str::to_owned);
    let mut text = draft.manifest.to_text();
    if let Some((from, to)) = edit {
        text = text.replacen(from, to, 1);
    }
    let binary = (n != 18).then(|| Hash32(*blake3::hash(&binary(0, variant)).as_bytes()));
    let version = draft.manifest.version;
    Release { bytes: text.into_bytes(), version, node, made: draft.made, binary, barred, outside }
}

const STATE_BIN: &str = "/data/autonomy/runtime/bin";

/// The certificate's text: a pair's number and its end.
#[must_use]
pub fn certificate(pair: u8, not_after_us: u64) -> Vec<u8> {
    format!("certificate {pair} {not_after_us}\n").into_bytes()
}

/// The key's text.
#[must_use]
pub fn certificate_key(pair: u8) -> Vec<u8> {
    format!("key {pair}\n").into_bytes()
}

/// A certificate's pair and end.
#[must_use]
pub fn read_certificate(bytes: &[u8]) -> Option<(u8, u64)> {
    let rest = std::str::from_utf8(bytes).ok()?.strip_prefix("certificate ")?.strip_suffix('\n')?;
    let (pair, end) = rest.split_once(' ')?;
    Some((pair.parse().ok()?, end.parse().ok()?))
}

/// A key's pair.
#[must_use]
pub fn read_certificate_key(bytes: &[u8]) -> Option<u8> {
    std::str::from_utf8(bytes).ok()?.strip_prefix("key ")?.strip_suffix('\n')?.parse().ok()
}
