//! A state root, and a host that it lies on.

use std::path::{Path, PathBuf};

use io_edge::host::{Sources, Text};
use io_edge::{Given, Tree, precheck};
use machines::machine::{Field, Note};
use machines::manifest::Destinations;
use machines::precheck::certificates::Pair;
use machines::precheck::{Config, Ended};
use machines::tree::{self, Place};
use tempfile::TempDir;

pub(crate) fn place(path: &str) -> Place {
    Place::state(tree::Path::parse(path).unwrap())
}

/// A node.
pub(crate) struct Node {
    folder: TempDir,
    pub given: Given,
    pub config: Config,
}

impl Node {
    /// An empty state root on a host of which everything is given.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (root, host) = (folder.path().join("state"), folder.path().join("host"));
        for made in
            [&root, &host.join("etc"), &host.join("lib64"), &root.join("runtime/binaries"), &root.join("identity")]
        {
            std::fs::create_dir_all(made).unwrap();
        }
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o700)).unwrap();
        std::fs::write(host.join("etc/os-release"), "ID=debian\nVERSION_ID=\"12\"\n").unwrap();
        std::fs::write(host.join("lib64/libc.so.6"), "GNU C Library (GNU libc) stable release version 2.36.\n")
            .unwrap();
        let given = Given {
            host: Sources {
                root: host,
                kernel: Text::Is("6.1.0-18-amd64".into()),
                machine: Text::Is("x86_64".into()),
                ..Sources::default()
            },
            pinned_key: None,
        };
        let config = Config {
            node_id: Some("node-1".into()),
            destinations: Destinations { state_root: root.to_str().unwrap().into(), allow: Vec::new() },
            paths: Vec::new(),
            tls: None,
            relay: false,
            pinned_key: false,
            boot_id: "0f1e2d3c-0000-4000-8000-000000000001".into(),
            rotate: false,
            built_at: io_edge::built_at(),
        };
        Self { folder, given, config }
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    pub(crate) fn host(&self) -> PathBuf {
        self.folder.path().join("host")
    }

    pub(crate) fn tree(&self) -> Tree {
        Tree::new(self.root(), Vec::new())
    }

    /// A precheck in a process of its own: how it ended, what it said, and how often it synced.
    pub(crate) fn precheck(&self) -> (Ended, Vec<Note>, u64) {
        let mut tree = self.tree();
        let mut notes = Vec::new();
        let ended = precheck(self.config.clone(), &mut tree, &self.given, |note| notes.push(note)).unwrap();
        (ended, notes, tree.syncs())
    }

    pub(crate) fn write(&self, path: &str, bytes: impl AsRef<[u8]>) {
        write(&self.root().join(path), bytes.as_ref(), 0o600);
    }

    /// Every file beneath the state root with its content.
    pub(crate) fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut found = Vec::new();
        let mut left = vec![self.root()];
        while let Some(folder) = left.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let entry = entry.unwrap();
                match entry.file_type().unwrap().is_dir() {
                    true => left.push(entry.path()),
                    false => found.push((entry.path(), std::fs::read(entry.path()).unwrap_or_default())),
                }
            }
        }
        found.sort();
        found
    }
}

/// Writes a file with these permission bits.
pub(crate) fn write(path: &Path, bytes: &[u8], mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(path, bytes).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Where [`Node`] has its certificate.
pub(crate) fn pair() -> Pair {
    Pair { cert: place("identity/node.crt"), key: place("identity/node.key"), ca: place("identity/ca.crt") }
}

/// The messages of notes, in order.
pub(crate) fn messages(notes: &[Note]) -> Vec<&'static str> {
    notes.iter().map(|note| note.msg).collect()
}

/// A field of a note as text.
pub(crate) fn field(note: &Note, key: &str) -> String {
    match note.fields.iter().find(|(name, _)| *name == key) {
        Some((_, Field::Text(text))) => text.clone(),
        Some((_, other)) => other.bare().unwrap_or_default(),
        None => panic!("{note:?} has no {key}"),
    }
}
