//! Files by path that forget: every name and every file is in the cache and on the medium, and a power loss decides what is
//! left of the difference.
//!
//! What is modelled, and no more kindly than real file systems behave:
//!
//! - `Sync` brings a file's bytes and mode to the medium, not its name; `SyncFolder` the names in a folder and the folder's
//!   own mode, not its own name.
//! - Creations, renames, exchanges and removals are atomic each. At a power loss each that was not synced is kept or dropped
//!   by itself; only changes of one name keep their order, and what rests on a dropped one is dropped.
//! - Bytes that were not synced are kept, dropped, cut short, or page by page kept, zero or garbage. A name may be there
//!   before the bytes are.
//! - A failed `Sync` leaves the bytes clean that are not on the medium: no later one brings them there. A failed
//!   `SyncFolder` brings nothing there; a later one does.
//! - A process crash leaves the cache as it is.

mod key;
mod lay;
mod power;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use machines::disk::FaultKind;
use machines::ids::Hash32;
use machines::tree::{Done, Kind, Mode, Op, Place, Root};

/// Bytes of a page: small, so that even a chain of epochs has several.
pub const PAGE: usize = 512;

/// The bytes of a file and a hash of them.
#[derive(Clone, Debug)]
pub struct Content {
    bytes: Arc<[u8]>,
    key: u64,
}

impl Content {
    /// These bytes.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        let digest = blake3::hash(bytes);
        let key = digest.as_bytes().iter().take(8).fold(0u64, |key, byte| key << 8 | u64::from(*byte));
        Self { bytes: bytes.into(), key }
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Equal for equal bytes.
    #[must_use]
    pub const fn key(&self) -> u64 {
        self.key
    }
}

impl PartialEq for Content {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for Content {}

type Id = usize;
type Names = BTreeMap<Arc<str>, Id>;
/// A name in a folder.
type At = (Id, Arc<str>);

#[derive(Clone, Debug)]
enum Node {
    File { cache: Content, medium: Content, dirty: bool },
    Folder { cache: Names, medium: Names },
    Link(Arc<str>),
}

#[derive(Clone, Debug)]
struct Inode {
    node: Node,
    mode: u16,
    medium_mode: u16,
}

/// A change of names that is not on the medium.
#[derive(Clone, Debug)]
enum Change {
    Set(At, Id),
    Clear(At),
    Rename(At, At, Id),
    Exchange((At, Id), (At, Id)),
}

impl Change {
    fn names(&self) -> (&At, &At) {
        match self {
            Self::Set(at, _) | Self::Clear(at) => (at, at),
            Self::Rename(from, to, _) => (from, to),
            Self::Exchange((a, _), (b, _)) => (a, b),
        }
    }

    fn touches(&self, folder: Id) -> bool {
        let (a, b) = self.names();
        a.0 == folder || b.0 == folder
    }
}

/// What of the unsynced survives a power loss. The items are counted by [`Tree::unsynced`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survival {
    /// Everything.
    All,
    /// Nothing: strict power loss.
    None,
    /// Item n where bit n is set, whole.
    Bits(u64),
    /// Drawn by this number, item by item, bytes page by page.
    Mix(u64),
}

/// Which of the two states of the tree is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// What reads give.
    Cache,
    /// What a power loss leaves at least.
    Medium,
}

/// What lies at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A regular file.
    File(Content, u16),
    /// A folder.
    Folder(u16),
    /// A symbolic link.
    Link(Arc<str>),
}

/// A tree of folders, files and links beneath roots.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    inodes: Vec<Arc<Inode>>,
    roots: BTreeMap<Root, Id>,
    changes: Vec<Change>,
}

impl Tree {
    /// Adds an empty root.
    pub fn add_root(&mut self, root: Root) {
        let id = self.add(Node::Folder { cache: Names::new(), medium: Names::new() }, 0o700);
        self.roots.insert(root, id);
    }

    fn add(&mut self, node: Node, mode: u16) -> Id {
        self.inodes.push(Arc::new(Inode { node, mode, medium_mode: 0o600 }));
        self.inodes.len().saturating_sub(1)
    }

    fn node(&self, id: Id) -> Option<&Node> {
        self.inodes.get(id).map(|inode| &inode.node)
    }

    fn change_inode(&mut self, id: Id, change: impl FnOnce(&mut Inode)) {
        if let Some(inode) = self.inodes.get_mut(id) {
            change(Arc::make_mut(inode));
        }
    }

    fn names(&self, view: View, folder: Id) -> Option<&Names> {
        match (self.node(folder)?, view) {
            (Node::Folder { cache, .. }, View::Cache) => Some(cache),
            (Node::Folder { medium, .. }, View::Medium) => Some(medium),
            (Node::File { .. } | Node::Link(_), _) => None,
        }
    }

    /// The folder that holds a place, as a number, and the place's name in it.
    fn folder(&self, view: View, place: &Place) -> Result<At, FaultKind> {
        let mut at = *self.roots.get(&place.root).ok_or(FaultKind::NotFound)?;
        let mut parts = place.path.components().peekable();
        while let Some(part) = parts.next() {
            let names = match self.node(at) {
                Some(Node::Folder { .. }) => self.names(view, at).ok_or(FaultKind::Refused)?,
                Some(Node::File { .. } | Node::Link(_)) | None => return Err(FaultKind::Refused),
            };
            if parts.peek().is_none() {
                return Ok((at, part.into()));
            }
            at = *names.get(part).ok_or(FaultKind::NotFound)?;
        }
        Ok((at, "".into()))
    }

    fn id(&self, view: View, place: &Place) -> Result<Id, FaultKind> {
        let (folder, name) = self.folder(view, place)?;
        if name.is_empty() {
            return Ok(folder);
        }
        self.names(view, folder).and_then(|names| names.get(&name)).copied().ok_or(FaultKind::NotFound)
    }

    fn entry(&self, view: View, id: Id) -> Option<Entry> {
        let inode = self.inodes.get(id)?;
        let mode = if view == View::Cache { inode.mode } else { inode.medium_mode };
        Some(match &inode.node {
            Node::File { cache, medium, .. } => {
                Entry::File(if view == View::Cache { cache.clone() } else { medium.clone() }, mode)
            }
            Node::Folder { .. } => Entry::Folder(mode),
            Node::Link(target) => Entry::Link(Arc::clone(target)),
        })
    }

    /// What lies at a place; `None` also where a link or a file is on the way.
    #[must_use]
    pub fn at(&self, view: View, place: &Place) -> Option<Entry> {
        self.entry(view, self.id(view, place).ok()?)
    }

    /// The bytes of the file at a place, as reads give them.
    #[must_use]
    pub fn file(&self, place: &Place) -> Option<Content> {
        match self.at(View::Cache, place)? {
            Entry::File(content, _) => Some(content),
            Entry::Folder(_) | Entry::Link(_) => None,
        }
    }

    /// The names in a folder with what they name; empty where there is none.
    #[must_use]
    pub fn list(&self, view: View, place: &Place) -> Vec<(Arc<str>, Entry)> {
        let Ok(id) = self.id(view, place) else { return Vec::new() };
        let names = self.names(view, id).into_iter().flatten();
        names.filter_map(|(name, id)| Some((Arc::clone(name), self.entry(view, *id)?))).collect()
    }

    /// Carries an operation out. `Open` and `Lock` belong to the world.
    pub fn apply(&mut self, op: &Op) -> Result<Done, FaultKind> {
        match op {
            Op::Open(_) | Op::Lock => return Ok(Done::Nothing),
            Op::Look(place) => return self.look(place),
            Op::List { at, most } => return self.listed(at, *most),
            Op::Read { at, most } => {
                let content = self.regular(at)?;
                if content.bytes.len() > usize::try_from(*most).unwrap_or(usize::MAX) {
                    return Err(FaultKind::TooLarge);
                }
                return Ok(Done::Bytes(content.bytes.to_vec()));
            }
            Op::Hash(place) => return Ok(hash(&self.regular(place)?)),
            Op::Put { at, bytes, mode } => self.create(at, bytes, *mode)?,
            Op::Copy { from, to, mode } => {
                let content = self.regular(from)?;
                self.create(to, &content.bytes, *mode)?;
                return Ok(hash(&content));
            }
            Op::MakeFolder { at, mode } => self.make_folder(at, *mode)?,
            Op::Link { at, target } => {
                let (folder, name) = self.vacant(at)?;
                let id = self.add(Node::Link(target.as_str().into()), 0o777);
                self.change(Change::Set((folder, name), id));
            }
            Op::Sync(place) => self.sync(place)?,
            Op::SyncFolder(place) => self.sync_folder(place)?,
            Op::Rename { from, to } => {
                let id = self.id(View::Cache, from)?;
                if let Some(Entry::Folder(_)) = self.at(View::Cache, to) {
                    return Err(FaultKind::Refused);
                }
                let change = Change::Rename(self.folder(View::Cache, from)?, self.folder(View::Cache, to)?, id);
                self.change(change);
            }
            Op::Exchange { a, b } => {
                let one = (self.folder(View::Cache, a)?, self.id(View::Cache, a)?);
                let other = (self.folder(View::Cache, b)?, self.id(View::Cache, b)?);
                self.change(Change::Exchange(one, other));
            }
            Op::Remove(place) => match self.id(View::Cache, place) {
                Ok(id) if matches!(self.node(id), Some(Node::Folder { .. })) => return Err(FaultKind::Refused),
                Ok(_) => self.change(Change::Clear(self.folder(View::Cache, place)?)),
                Err(FaultKind::NotFound) => {}
                Err(kind) => return Err(kind),
            },
            Op::RemoveFolder(place) => match self.id(View::Cache, place) {
                Ok(id) => match self.names(View::Cache, id) {
                    Some(names) if names.is_empty() => self.change(Change::Clear(self.folder(View::Cache, place)?)),
                    Some(_) => return Err(FaultKind::Io(39)),
                    None => return Err(FaultKind::Refused),
                },
                Err(FaultKind::NotFound) => {}
                Err(kind) => return Err(kind),
            },
        }
        Ok(Done::Nothing)
    }

    /// What an operation that was cut in its middle leaves: half a file.
    pub fn apply_half(&mut self, op: &Op) {
        let _ = match op {
            Op::Put { at, bytes, mode } => self.create(at, half(bytes), *mode),
            Op::Copy { from, to, mode } => {
                self.regular(from).and_then(|content| self.create(to, half(&content.bytes), *mode))
            }
            Op::Open(_)
            | Op::Lock
            | Op::Look(_)
            | Op::List { .. }
            | Op::Read { .. }
            | Op::Hash(_)
            | Op::MakeFolder { .. }
            | Op::Link { .. }
            | Op::Sync(_)
            | Op::SyncFolder(_)
            | Op::Rename { .. }
            | Op::Exchange { .. }
            | Op::Remove(_)
            | Op::RemoveFolder(_) => Ok(()),
        };
    }

    /// A sync that reports failure: the bytes are clean from here on, and not on the medium.
    pub fn fail_sync(&mut self, place: &Place) {
        let Ok(id) = self.id(View::Cache, place) else { return };
        self.change_inode(id, |inode| {
            if let Node::File { dirty, .. } = &mut inode.node {
                *dirty = false;
            }
        });
    }

    fn look(&self, place: &Place) -> Result<Done, FaultKind> {
        let kind = match self.id(View::Cache, place) {
            Ok(id) => match self.entry(View::Cache, id) {
                Some(entry) => kind(&entry),
                None => Kind::Nothing,
            },
            Err(FaultKind::NotFound) => Kind::Nothing,
            Err(kind) => return Err(kind),
        };
        Ok(Done::Is(kind))
    }

    fn listed(&self, at: &Place, most: u32) -> Result<Done, FaultKind> {
        let id = self.id(View::Cache, at)?;
        let names = self.names(View::Cache, id).ok_or(FaultKind::Refused)?;
        if names.len() > usize::try_from(most).unwrap_or(usize::MAX) {
            return Err(FaultKind::TooLarge);
        }
        let named = |(name, id): (&Arc<str>, &Id)| Some((name.to_string(), kind(&self.entry(View::Cache, *id)?)));
        Ok(Done::Names(names.iter().filter_map(named).collect()))
    }

    fn regular(&self, place: &Place) -> Result<Content, FaultKind> {
        match self.node(self.id(View::Cache, place)?) {
            Some(Node::File { cache, .. }) => Ok(cache.clone()),
            Some(Node::Folder { .. } | Node::Link(_)) | None => Err(FaultKind::Refused),
        }
    }

    /// A place where nothing is, in a folder that is there.
    fn vacant(&self, place: &Place) -> Result<At, FaultKind> {
        let (folder, name) = self.folder(View::Cache, place)?;
        match self.id(View::Cache, place) {
            Ok(_) => Err(FaultKind::Refused),
            Err(FaultKind::NotFound) => Ok((folder, name)),
            Err(kind) => Err(kind),
        }
    }

    fn create(&mut self, at: &Place, bytes: &[u8], mode: Mode) -> Result<(), FaultKind> {
        let at = self.vacant(at)?;
        let node = Node::File { cache: Content::new(bytes), medium: Content::new(&[]), dirty: true };
        let id = self.add(node, mode.bits());
        self.change(Change::Set(at, id));
        Ok(())
    }

    fn make_folder(&mut self, at: &Place, mode: Mode) -> Result<(), FaultKind> {
        match self.id(View::Cache, at) {
            Ok(id) if matches!(self.node(id), Some(Node::Folder { .. })) => {
                self.change_inode(id, |inode| inode.mode = mode.bits());
                Ok(())
            }
            Ok(_) => Err(FaultKind::Refused),
            Err(FaultKind::NotFound) => {
                let at = self.folder(View::Cache, at)?;
                let id = self.add(Node::Folder { cache: Names::new(), medium: Names::new() }, mode.bits());
                self.change(Change::Set(at, id));
                Ok(())
            }
            Err(kind) => Err(kind),
        }
    }

    fn sync(&mut self, place: &Place) -> Result<(), FaultKind> {
        let id = self.id(View::Cache, place)?;
        let mut regular = false;
        self.change_inode(id, |inode| {
            if let Node::File { cache, medium, dirty } = &mut inode.node {
                regular = true;
                if *dirty {
                    *medium = cache.clone();
                    *dirty = false;
                }
                inode.medium_mode = inode.mode;
            }
        });
        if regular { Ok(()) } else { Err(FaultKind::Refused) }
    }

    fn sync_folder(&mut self, place: &Place) -> Result<(), FaultKind> {
        let folder = self.id(View::Cache, place)?;
        if self.names(View::Cache, folder).is_none() {
            return Err(FaultKind::Refused);
        }
        self.change_inode(folder, |inode| inode.medium_mode = inode.mode);
        // What touches the folder, and what came before it on the same names.
        let mut needed: BTreeSet<At> = BTreeSet::new();
        let mut taken = Vec::new();
        for (n, change) in self.changes.iter().enumerate().rev() {
            let (a, b) = change.names();
            if change.touches(folder) || needed.contains(a) || needed.contains(b) {
                needed.extend([a.clone(), b.clone()]);
                taken.push(n);
            }
        }
        for n in taken.iter().rev() {
            if let Some(change) = self.changes.get(*n).cloned() {
                self.on(View::Medium, &change);
            }
        }
        for n in taken {
            self.changes.remove(n);
        }
        Ok(())
    }

    fn change(&mut self, change: Change) {
        self.on(View::Cache, &change);
        self.changes.push(change);
    }

    fn on(&mut self, view: View, change: &Change) {
        match change {
            Change::Set(at, id) => self.set(view, at, Some(*id)),
            Change::Clear(at) => self.set(view, at, None),
            Change::Rename(from, to, id) => {
                self.set(view, from, None);
                self.set(view, to, Some(*id));
            }
            Change::Exchange((a, one), (b, other)) => {
                self.set(view, a, Some(*other));
                self.set(view, b, Some(*one));
            }
        }
    }

    fn set(&mut self, view: View, at: &At, to: Option<Id>) {
        self.change_inode(at.0, |inode| {
            let Node::Folder { cache, medium } = &mut inode.node else { return };
            let names = if view == View::Cache { cache } else { medium };
            match to {
                Some(id) => names.insert(Arc::clone(&at.1), id),
                None => names.remove(&at.1),
            };
        });
    }
}

fn half(bytes: &[u8]) -> &[u8] {
    bytes.get(..bytes.len() / 2).unwrap_or_default()
}

fn hash(content: &Content) -> Done {
    let len = u64::try_from(content.bytes.len()).unwrap_or(u64::MAX);
    Done::Hash(Hash32(*blake3::hash(&content.bytes).as_bytes()), len)
}

fn kind(entry: &Entry) -> Kind {
    match entry {
        Entry::File(content, mode) => {
            Kind::File { len: u64::try_from(content.bytes.len()).unwrap_or(u64::MAX), mode: *mode }
        }
        Entry::Folder(_) => Kind::Folder,
        Entry::Link(_) => Kind::Link,
    }
}
