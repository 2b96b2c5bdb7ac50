//! A precheck on a tree in memory that does what it is asked.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use crate::disk::FaultKind;
use crate::ids::Hash32;
use crate::machine::{Effect, Entropy, Event, Machine as _, Note, Outbox};
use crate::manifest::Destinations;
use crate::precheck::certificates::{Certificates, Pair};
use crate::precheck::files::Name;
use crate::precheck::host::{Answer, Ask, Components};
use crate::precheck::{Config, Ended, Precheck};
use crate::time::{Mono, Now, Span, Wall};
use crate::tree::{Completion, Done, Fault, Kind, Mode, Op, Opened, Path, Place, Root};
use crate::work;

pub const NOW: Wall = Wall::from_micros(1_800_000_000_000_000);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    File(Vec<u8>, Mode),
    Folder(BTreeMap<String, Node>),
    Link(String),
}

pub struct Rig {
    pub top: Node,
    pub config: Config,
    pub host: Components,
    pub certificates: Result<Certificates, String>,
    pub pinned: Option<Vec<u8>>,
    pub root: Result<Opened, FaultKind>,
    pub allowed: Opened,
    pub held: bool,
    /// What is in the tree is replaced by this before the n-th operation of the next run.
    pub swap: Option<(usize, &'static str, Vec<u8>)>,
    pub done: Vec<Op>,
    pub notes: Vec<Note>,
}

pub fn place(path: &str) -> Place {
    if path.is_empty() { Place::state(Path::top()) } else { Place::state(Path::parse(path).unwrap()) }
}

/// The toy signature of the tests: the BLAKE3 of key and bytes, twice.
pub fn sign(key: &[u8; 32], message: &[u8]) -> Vec<u8> {
    let hash = *blake3::Hasher::new().update(key).update(message).finalize().as_bytes();
    [hash, hash].concat()
}

impl Rig {
    /// A state root as `edged init` lays it out, with the manifest key 7….
    pub fn new() -> Self {
        let host = Components {
            kernel: "6.1".into(),
            machine: "x86_64".into(),
            libc: "glibc 2.36".into(),
            ..Components::default()
        };
        let config = Config {
            node_id: Some("n7".into()),
            destinations: Destinations { state_root: "/data/state".into(), allow: Vec::new() },
            paths: Vec::new(),
            tls: None,
            relay: false,
            pinned_key: false,
            boot_id: "boot-1".into(),
            rotate: false,
            built_at: Wall::from_micros(1_700_000_000_000_000),
        };
        let mut rig = Self {
            top: Node::Folder(BTreeMap::new()),
            config,
            host,
            certificates: Err("no certificate here".into()),
            pinned: None,
            root: Ok(Opened { ours: true, mode: 0o700, writable: true }),
            allowed: Opened { ours: true, mode: 0o755, writable: true },
            held: false,
            swap: None,
            done: Vec::new(),
            notes: Vec::new(),
        };
        for folder in
            ["bootstrap", "epoch", "epoch/current", "identity", "identity/next", "runtime", "runtime/binaries"]
        {
            rig.put(folder, Node::Folder(BTreeMap::new()));
        }
        rig.write("identity/manifest-verify.pub", &[7; 32]);
        rig
    }

    /// Lays a manifest with its signature and its one binary.
    pub fn release(&mut self, manifest: &str) {
        self.write("runtime/manifest.json", manifest.as_bytes());
        self.write("runtime/manifest.json.sig", &sign(&[7; 32], manifest.as_bytes()));
    }

    /// Runs a precheck to its end.
    pub fn run(&mut self) -> Ended {
        let mut machine = Precheck::new(self.config.clone());
        let mut events = VecDeque::from([Event::Start(Entropy([3; 32]))]);
        let mut mono = Mono::ZERO;
        (self.done, self.notes) = (Vec::new(), Vec::new());
        while let Some(event) = events.pop_front() {
            let mut effects = Vec::new();
            machine.handle(Now { mono, wall: NOW }, event, &mut Outbox::over(&mut effects));
            machine.check();
            mono = mono.after(Span::from_micros(100));
            for effect in effects {
                match effect {
                    Effect::Tree(tag, chain) => events.push_back(Event::Tree(tag, self.execute(chain))),
                    Effect::Work(tag, work::Op::Host(ask)) => {
                        events.push_back(Event::Work(tag, work::Got::Host(self.answer(ask))));
                    }
                    Effect::Note(note) => self.notes.push(note),
                    Effect::Output(ended) => {
                        assert!(events.is_empty());
                        return ended;
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        panic!("it stands still");
    }

    fn answer(&mut self, ask: Ask) -> Answer {
        match ask {
            Ask::Components => Answer::Components(Ok(self.host.clone())),
            Ask::Certificates(Pair { cert, key, .. }) => {
                assert!(
                    matches!(self.find(&cert), Some(Node::File(..))) && matches!(self.find(&key), Some(Node::File(..)))
                );
                Answer::Certificates(self.certificates.clone())
            }
            Ask::PinnedKey => Answer::Key(Ok(self.pinned.clone())),
            Ask::Ed25519 { key, message, signature } => Answer::Signed(sign(&key, &message) == signature),
        }
    }

    /// What was said, a line each.
    pub fn said(&self) -> String {
        let mut text = String::new();
        for note in &self.notes {
            text.push_str(&format!("{:?} {}", note.level, note.msg));
            for (key, value) in &note.fields {
                match value.bare() {
                    Some(bare) => text.push_str(&format!(" {key}={bare}")),
                    None => text.push_str(&format!(" {key}={value:?}")),
                }
            }
            text.push('\n');
        }
        text
    }

    pub fn last_error(&self) -> &'static str {
        self.notes.last().map_or("", |note| note.msg)
    }

    pub fn write(&mut self, path: &str, bytes: &[u8]) {
        self.put(path, Node::File(bytes.to_vec(), Mode::PRIVATE));
    }

    pub fn text(&self, path: &str) -> String {
        match self.find(&place(path)) {
            Some(Node::File(bytes, _)) => String::from_utf8(bytes.clone()).unwrap(),
            other => panic!("{path}: {other:?}"),
        }
    }

    pub fn put(&mut self, path: &str, node: Node) {
        let (folder, name) = split(&place(path));
        self.folder(&folder).unwrap().insert(name, node);
    }

    pub fn take(&mut self, path: &str) -> Option<Node> {
        let (folder, name) = split(&place(path));
        self.folder(&folder)?.remove(&name)
    }

    pub fn find(&self, at: &Place) -> Option<&Node> {
        at.path.components().try_fold(&self.top, |node, part| match node {
            Node::Folder(names) => names.get(part),
            Node::File(..) | Node::Link(_) => None,
        })
    }

    fn folder(&mut self, at: &Place) -> Option<&mut BTreeMap<String, Node>> {
        let node = at.path.components().try_fold(&mut self.top, |node, part| match node {
            Node::Folder(names) => names.get_mut(part),
            Node::File(..) | Node::Link(_) => None,
        })?;
        match node {
            Node::Folder(names) => Some(names),
            Node::File(..) | Node::Link(_) => None,
        }
    }

    fn execute(&mut self, chain: Vec<Op>) -> Completion {
        let mut done = Done::Nothing;
        for (step, op) in chain.into_iter().enumerate() {
            if let Some((n, path, bytes)) = self.swap.take() {
                if n == self.done.len() {
                    self.write(path, &bytes);
                } else {
                    self.swap = Some((n, path, bytes));
                }
            }
            self.done.push(op.clone());
            done = self.one(op).map_err(|kind| Fault { step, kind })?;
        }
        Ok(done)
    }

    fn file(&self, at: &Place) -> Result<Vec<u8>, FaultKind> {
        match self.find(at) {
            Some(Node::File(bytes, _)) => Ok(bytes.clone()),
            Some(Node::Folder(_) | Node::Link(_)) => Err(FaultKind::Refused),
            None => Err(FaultKind::NotFound),
        }
    }

    fn one(&mut self, op: Op) -> Result<Done, FaultKind> {
        match op {
            Op::Open(Root::State) => return self.root.map(Done::Opened),
            Op::Open(Root::Allowed(_)) => return Ok(Done::Opened(self.allowed)),
            Op::Lock if self.held => return Err(FaultKind::Held),
            Op::Lock | Op::Sync(_) | Op::SyncFolder(_) => {}
            Op::Look(at) => return Ok(Done::Is(kind(self.find(&at)))),
            Op::List { at, .. } => {
                let names = self.folder(&at).ok_or(FaultKind::NotFound)?;
                return Ok(Done::Names(names.iter().map(|(name, node)| (name.clone(), kind(Some(node)))).collect()));
            }
            Op::Read { at, most } => {
                let bytes = self.file(&at)?;
                return if bytes.len() > most as usize { Err(FaultKind::TooLarge) } else { Ok(Done::Bytes(bytes)) };
            }
            Op::Hash(at) => {
                let bytes = self.file(&at)?;
                return Ok(Done::Hash(Hash32(*blake3::hash(&bytes).as_bytes()), bytes.len() as u64));
            }
            Op::Put { at, bytes, mode } => self.create(&at, Node::File(bytes, mode))?,
            Op::Copy { from, to, mode } => {
                let bytes = self.file(&from)?;
                self.create(&to, Node::File(bytes.clone(), mode))?;
                return Ok(Done::Hash(Hash32(*blake3::hash(&bytes).as_bytes()), bytes.len() as u64));
            }
            Op::MakeFolder { at, .. } => match self.find(&at) {
                None => self.create(&at, Node::Folder(BTreeMap::new()))?,
                Some(Node::Folder(_)) => {}
                Some(Node::File(..) | Node::Link(_)) => return Err(FaultKind::Refused),
            },
            Op::Link { at, target } => self.create(&at, Node::Link(target))?,
            Op::Rename { from, to } => {
                let node = self.remove(&from).ok_or(FaultKind::NotFound)?;
                assert!(!matches!(self.find(&to), Some(Node::Folder(_))), "a folder is in the way of {to:?}");
                self.remove(&to);
                self.create(&to, node)?;
            }
            Op::Exchange { a, b } => {
                let (x, y) = (self.remove(&a).ok_or(FaultKind::NotFound)?, self.remove(&b).ok_or(FaultKind::NotFound)?);
                self.create(&a, y)?;
                self.create(&b, x)?;
            }
            Op::Remove(at) => assert!(!matches!(self.remove(&at), Some(Node::Folder(_))), "{at:?}"),
            Op::RemoveFolder(at) => {
                if let Some(Node::Folder(names)) = self.remove(&at) {
                    assert!(names.is_empty(), "{at:?}");
                }
            }
        }
        Ok(Done::Nothing)
    }

    fn create(&mut self, at: &Place, node: Node) -> Result<(), FaultKind> {
        let (folder, name) = split(at);
        let names = self.folder(&folder).ok_or(FaultKind::NotFound)?;
        assert!(names.insert(name, node).is_none(), "something is there: {at:?}");
        Ok(())
    }

    fn remove(&mut self, at: &Place) -> Option<Node> {
        let (folder, name) = split(at);
        self.folder(&folder)?.remove(&name)
    }
}

fn split(at: &Place) -> (Place, String) {
    (at.folder(), at.path.split_last().unwrap().1.to_string())
}

fn kind(node: Option<&Node>) -> Kind {
    match node {
        None => Kind::Nothing,
        Some(Node::File(bytes, mode)) => Kind::File { len: bytes.len() as u64, mode: mode.bits() },
        Some(Node::Folder(_)) => Kind::Folder,
        Some(Node::Link(_)) => Kind::Link,
    }
}

#[test]
fn the_names_of_the_files_are_plain_paths() {
    for name in [
        Name::Bootstrap,
        Name::Fingerprint,
        Name::Marker,
        Name::Epoch,
        Name::Chain,
        Name::CurrentFolder,
        Name::Current,
        Name::PreviousFolder,
        Name::Previous,
        Name::Manifest,
        Name::Signature,
        Name::Key,
        Name::Identity,
        Name::IdentityPrevious,
        Name::PreviousNext,
        Name::Next,
        Name::Activation,
        Name::EdgeLog,
    ] {
        assert_eq!(name.place().path.as_str(), name.as_str());
    }
}
