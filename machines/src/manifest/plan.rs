//! Where the operations of a manifest go: every path judged before the first one is touched (FAULTS B05, F01, F06).

use alloc::borrow::ToOwned;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use super::{Manifest, Operation, Refusal};
use crate::ids::Hash32;
use crate::tree::{BadPath, Mode, Path, Place, Root};

/// What belongs to the node itself, beneath the state root.
const RESERVED: [&str; 13] = [
    "epoch",
    "bootstrap",
    "identity",
    "identity.previous",
    "telemetry",
    "policy",
    "activation.json",
    "activation.lock",
    "blobs",
    "edge",
    "runtime/binaries",
    "runtime/manifest.json",
    "runtime/manifest.json.sig",
];

/// The only place that binaries are copied from.
const BINARIES: &str = "runtime/binaries";

/// The folders that operations may write in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destinations {
    /// The state root, absolute, without `.`, `..` and a slash at its end.
    pub state_root: String,
    /// `[reconstruct] allow`, each written like the state root.
    pub allow: Vec<String>,
}

/// An operation whose paths were judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Copy a file whose BLAKE3 has to be this.
    Copy {
        /// The file.
        from: Place,
        /// The copy.
        to: Place,
        /// The copy's permission bits.
        mode: Mode,
        /// BLAKE3 of its bytes.
        blake3: Hash32,
    },
    /// Make a folder.
    Folder {
        /// The folder.
        at: Place,
        /// Its permission bits.
        mode: Mode,
    },
    /// Write a file.
    Write {
        /// The file.
        at: Place,
        /// Its permission bits.
        mode: Mode,
        /// Its content.
        bytes: Vec<u8>,
    },
    /// Make a link.
    Link {
        /// The link.
        at: Place,
        /// What it says.
        target: String,
    },
}

impl Step {
    /// What it makes.
    #[must_use]
    pub const fn at(&self) -> &Place {
        match self {
            Self::Copy { to, .. } => to,
            Self::Folder { at, .. } | Self::Write { at, .. } | Self::Link { at, .. } => at,
        }
    }
}

/// The operations of a manifest, judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// In the manifest's order.
    pub steps: Vec<Step>,
}

impl Plan {
    /// Judges every path of a manifest.
    ///
    /// # Errors
    /// The first path that cannot be used, with its field and why.
    pub fn new(manifest: &Manifest, destinations: &Destinations) -> Result<Self, Refusal> {
        let mut taken = Taken::default();
        let mut steps = Vec::with_capacity(manifest.operations.len());
        for (n, operation) in manifest.operations.iter().enumerate() {
            steps.push(step(n, operation, destinations, &mut taken)?);
        }
        destinations.place("manifest.binary_path", &manifest.binary_path)?;
        Ok(Self { steps })
    }

    /// The folders that have to be there before the first step: what no earlier step makes.
    #[must_use]
    pub fn expected_folders(&self) -> Vec<Place> {
        let mut made: Vec<&Place> = Vec::new();
        let mut expected: Vec<Place> = Vec::new();
        for step in &self.steps {
            let folder = step.at().folder();
            if !made.contains(&&folder) && !expected.contains(&folder) {
                expected.push(folder);
            }
            if let Step::Folder { at, .. } = step {
                made.push(at);
            }
        }
        expected
    }
}

impl Destinations {
    /// Where a path of a manifest leads.
    fn place(&self, field: &str, text: &str) -> Result<Place, Refusal> {
        let bad = |cause| Refusal::Path { field: field.into(), path: text.into(), cause };
        if !text.starts_with('/') {
            return own(field, text, Path::parse(text).map_err(bad)?);
        }
        if let Some(rest) = beneath(text, &self.state_root) {
            return own(field, text, Path::parse(rest).map_err(bad)?);
        }
        // Of two folders of which one holds the other, the inner one: it is the more exact permission.
        let inner =
            self.allow.iter().enumerate().filter_map(|(n, folder)| Some((n, folder.len(), beneath(text, folder)?)));
        let Some((n, _, rest)) = inner.max_by_key(|(_, len, _)| *len) else {
            return Err(Refusal::Outside { field: field.into(), path: text.into() });
        };
        let root = Root::Allowed(u16::try_from(n).map_err(|_| bad(BadPath::Long))?);
        Ok(Place { root, path: not_temporary(field, text, Path::parse(rest).map_err(bad)?)? })
    }

    /// Whether a link at `at` that says `target` stays within the folders that may be written.
    fn holds(&self, at: &Place, target: &str) -> bool {
        if target.starts_with('/') {
            let within = |folder: &str| beneath(target, folder).is_some_and(|rest| Path::parse(rest).is_ok());
            return within(&self.state_root) || self.allow.iter().any(|folder| within(folder));
        }
        // First up, then down: behind a name, which may be a link itself, `..` would lead from wherever that points.
        let mut depth = at.folder().path.components().count();
        let mut down = false;
        for component in target.split('/') {
            match component {
                "" => return false,
                "." => {}
                ".." if down => return false,
                ".." => match depth.checked_sub(1) {
                    Some(less) => depth = less,
                    None => return false,
                },
                _ => down = true,
            }
        }
        true
    }
}

/// What follows the folder in an absolute path that lies beneath it.
fn beneath<'t>(text: &'t str, folder: &str) -> Option<&'t str> {
    text.strip_prefix(folder)?.strip_prefix('/')
}

/// Names that temporary files have; see [`Place::temp`].
const TEMPORARY: &str = ".*.tmp";

fn not_temporary(field: &str, text: &str, path: Path) -> Result<Path, Refusal> {
    let temporary = |part: &str| part.starts_with('.') && part.to_ascii_lowercase().ends_with(".tmp");
    if path.components().any(temporary) {
        return Err(Refusal::Reserved { field: field.into(), path: text.into(), folder: TEMPORARY });
    }
    Ok(path)
}

fn own(field: &str, text: &str, path: Path) -> Result<Place, Refusal> {
    let path = not_temporary(field, text, path)?;
    if let Some(folder) = RESERVED.iter().find(|folder| path.is_in(folder)) {
        return Err(Refusal::Reserved { field: field.into(), path: text.into(), folder });
    }
    Ok(Place::state(path))
}

fn step(n: usize, operation: &Operation, destinations: &Destinations, taken: &mut Taken) -> Result<Step, Refusal> {
    let field = |key: &str| alloc::format!("operations[{n}].{key}");
    match operation {
        Operation::CopyBinary { source, destination, mode, blake3 } => {
            let from = self::source(&field("source"), source)?;
            let field = field("destination");
            let to = destinations.place(&field, destination)?;
            taken.add(&field, destination, &to, false)?;
            Ok(Step::Copy { from, to, mode: *mode, blake3: *blake3 })
        }
        Operation::EnsureDir { path, mode } => {
            let field = field("path");
            let at = destinations.place(&field, path)?;
            taken.add(&field, path, &at, true)?;
            Ok(Step::Folder { at, mode: *mode })
        }
        Operation::WriteFile { path, mode, content } => {
            let field = field("path");
            let at = destinations.place(&field, path)?;
            taken.add(&field, path, &at, false)?;
            Ok(Step::Write { at, mode: *mode, bytes: content.clone() })
        }
        Operation::Symlink { path, target } => {
            let at = destinations.place(&field("path"), path)?;
            taken.add(&field("path"), path, &at, false)?;
            if !destinations.holds(&at, target) {
                return Err(Refusal::Target { field: field("target"), target: target.clone() });
            }
            Ok(Step::Link { at, target: target.clone() })
        }
    }
}

fn source(field: &str, text: &str) -> Result<Place, Refusal> {
    let path = Path::parse(text).map_err(|cause| Refusal::Path { field: field.into(), path: text.into(), cause })?;
    // Spelled exactly: on a file system that folds case, another spelling is still the same file, but nobody needs one.
    match path.as_str().strip_prefix(BINARIES) {
        Some(rest) if rest.starts_with('/') => Ok(Place::state(path)),
        Some(_) | None => Err(Refusal::Source { field: field.into(), path: text.into() }),
    }
}

/// What the operations so far make, by names in lower case: `true` for a folder, with its spelling.
#[derive(Default)]
struct Taken(BTreeMap<(Root, String), (bool, String)>);

impl Taken {
    fn add(&mut self, field: &str, text: &str, place: &Place, folder: bool) -> Result<(), Refusal> {
        let clash = |other: &str| Refusal::Clash { field: field.into(), path: text.into(), other: other.to_owned() };
        let mut above = place.clone();
        while let Some((parent, _)) = above.path.split_last() {
            above = Place { root: place.root, path: parent };
            if above.path.as_str().is_empty() {
                break;
            }
            let entry = self.0.entry(key(&above)).or_insert_with(|| (true, above.path.as_str().into()));
            if !entry.0 || entry.1 != above.path.as_str() {
                return Err(clash(&entry.1));
            }
        }
        match self.0.entry(key(place)) {
            alloc::collections::btree_map::Entry::Vacant(free) => {
                free.insert((folder, place.path.as_str().into()));
                Ok(())
            }
            // A folder may be named again by what lies in it, and once by itself after that.
            alloc::collections::btree_map::Entry::Occupied(there) => {
                let (is_folder, spelled) = there.get();
                if folder && *is_folder && spelled == place.path.as_str() { Ok(()) } else { Err(clash(spelled)) }
            }
        }
    }
}

fn key(place: &Place) -> (Root, String) {
    (place.root, place.path.as_str().to_ascii_lowercase())
}
