//! Why a precheck ends: the exit code and the log line, in one place for each cause (SPEC 10; FAULTS B13).

use alloc::string::{String, ToString as _};

use super::certificates;
use super::exit;
use super::verdict::Contradiction;
use crate::disk::FaultKind;
use crate::ids::Hash32;
use crate::machine::{Level, Note};
use crate::manifest;
use crate::time::Wall;
use crate::tree::{Fault, Kind, Opened, Place, Root};

/// The end of a precheck that does not pass.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub exit: u8,
    pub note: Note,
    /// Nothing is said of this boot by it: what the marker says stays.
    pub unmarked: bool,
}

impl Refusal {
    fn new(exit: u8, msg: &'static str) -> Self {
        Self { exit, note: Note::new(Level::Error, msg), unmarked: false }
    }

    fn with(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.note = self.note.with(key, value.into());
        self
    }

    /// The refusal of a rotation: the certificate in force is what it was.
    pub(super) fn unmarked(mut self) -> Self {
        self.unmarked = true;
        self
    }

    fn failed(msg: &'static str) -> Self {
        Self::new(exit::RECONSTRUCTION, msg)
    }

    /// What is wrong with an opened state root (FAULTS F12).
    pub(super) fn of_root(root: Opened) -> Option<Self> {
        let refused = |msg| Some(Self::new(exit::STATE_ROOT, msg));
        if !root.writable {
            return refused("precheck: state root is not writable");
        }
        if !root.ours {
            return refused("precheck: state root belongs to another user")
                .map(|refusal| refusal.with("hint", "chown it to the user that edged runs as"));
        }
        if root.mode & 0o022 != 0 {
            let mode = alloc::format!("{:04o}", root.mode);
            return refused("precheck: state root is writable by others")
                .map(|refusal| refusal.with("mode", mode).with("hint", "chmod 0700"));
        }
        None
    }

    pub(super) fn state_root(fault: &Fault) -> Self {
        if fault.kind == FaultKind::NotFound {
            return Self::new(exit::STATE_ROOT, "precheck: state root is missing")
                .with("hint", "edged init --state-root DIR lays one out");
        }
        Self::new(exit::STATE_ROOT, "precheck: state root cannot be used").with("error", fault.kind.to_string())
    }

    pub(super) fn outside(key: &str) -> Self {
        Self::new(exit::STATE_ROOT, "precheck: a configured path resolves outside the state root").with("key", key)
    }

    pub(super) fn held() -> Self {
        Self::new(exit::HELD, "precheck: another precheck or edged holds the state root")
    }

    pub(super) fn no_certificate() -> Self {
        Self::new(exit::CERTIFICATE, "precheck: the relay is enabled and no certificate is configured")
            .with("hint", "set tls.cert, tls.key and tls.ca")
    }

    pub(super) fn certificate_unreadable(words: String) -> Self {
        Self::new(exit::CERTIFICATE, "precheck: certificate cannot be read").with("error", words)
    }

    pub(super) fn certificate(fault: certificates::Fault, not_after: Wall) -> Self {
        match fault {
            certificates::Fault::Mismatch => Self::new(exit::CERTIFICATE, "precheck: certificate and key do not match"),
            certificates::Fault::Exposed => {
                Self::new(exit::CERTIFICATE, "precheck: the certificate's key is readable by others")
                    .with("hint", "chmod 0600")
            }
            certificates::Fault::Expiring => {
                let mut text = String::new();
                not_after.write_rfc3339(&mut text);
                Self::new(exit::CERTIFICATE, "precheck: certificate expires within 7 days")
                    .with("not_after", text)
                    .with("hint", "place a new pair in identity/next/ and run: edged precheck --rotate-certs")
            }
        }
    }

    pub(super) fn rotation(what: impl Into<String>) -> Self {
        Self::new(exit::CERTIFICATE, "precheck: the next certificate cannot be put in force")
            .with("error", what)
            .unmarked()
    }

    pub(super) fn cannot_read(file: &str, fault: &Fault) -> Self {
        Self::failed("precheck: a file cannot be read").with("file", file).with("error", fault.kind.to_string())
    }

    pub(super) fn cannot_write(file: &str, fault: &Fault) -> Self {
        Self::failed("precheck: a file cannot be written").with("file", file).with("error", fault.kind.to_string())
    }

    pub(super) fn cannot_mark(fault: &Fault) -> Self {
        Self::new(exit::STATE_ROOT, "precheck: bootstrap/precheck.json cannot be written")
            .with("error", fault.kind.to_string())
    }

    pub(super) fn host(words: String) -> Self {
        Self::failed("precheck: the host's fingerprint cannot be taken").with("error", words)
    }

    pub(super) fn contradiction(contradiction: &Contradiction) -> Self {
        Self::failed("precheck: the node's records contradict each other").with("error", contradiction.to_string())
    }

    pub(super) fn key_missing() -> Self {
        Self::failed("precheck: manifest verify key missing on reconstruction path")
    }

    pub(super) fn key_unreadable(words: String) -> Self {
        Self::failed("precheck: manifest verify key cannot be read").with("error", words)
    }

    pub(super) fn manifest_missing(file: &str) -> Self {
        Self::failed("precheck: manifest or its signature missing on reconstruction path").with("file", file)
    }

    pub(super) fn bad_signature() -> Self {
        Self::failed("precheck: manifest signature is not good").with(
            "hint",
            "runtime/manifest.json.sig must be made over these very bytes with the key of identity/manifest-verify.pub",
        )
    }

    pub(super) fn manifest(refusal: &manifest::Refusal) -> Self {
        Self::failed("precheck: manifest refused").with("error", refusal.to_string())
    }

    pub(super) fn other_node(want: &str, own: Option<&str>) -> Self {
        Self::failed("precheck: manifest is for another node").with("node", want).with("own", own.unwrap_or(""))
    }

    pub(super) fn older(version: u64, highest: u64) -> Self {
        let mut refusal = Self::failed("precheck: manifest is older than the one that was carried out");
        refusal.note = refusal.note.with("version", version).with("highest", highest);
        refusal
    }

    pub(super) fn chain_full() -> Self {
        Self::failed("precheck: epoch/chain.jsonl is full")
    }

    pub(super) fn source(place: &Place, fault: &Fault) -> Self {
        Self::failed("precheck: a source of the manifest cannot be read")
            .with("file", path(place))
            .with("error", fault.kind.to_string())
    }

    pub(super) fn other_bytes(place: &Place, want: Hash32, got: Hash32) -> Self {
        Self::failed("precheck: a source of the manifest is not what was signed")
            .with("file", path(place))
            .with("want", alloc::format!("blake3:{want}"))
            .with("got", alloc::format!("blake3:{got}"))
    }

    /// What is wrong with an opened folder of `[reconstruct] allow`: whoever else may write there could swap what is
    /// being put in place.
    pub(super) fn of_allowed(root: Root, opened: Opened) -> Option<Self> {
        let why = if !opened.writable {
            "it is not writable"
        } else if !opened.ours {
            "it belongs to another user"
        } else if opened.mode & 0o022 != 0 {
            "it is writable by others"
        } else {
            return None;
        };
        let refusal = Self::failed("precheck: a folder of reconstruct.allow cannot be used");
        Some(refusal.with("file", path(&Place::top(root))).with("error", why))
    }

    pub(super) fn destination(place: &Place, found: &Kind) -> Self {
        let found = match found {
            Kind::Nothing => "nothing is there; an ensure_dir before it makes a folder",
            Kind::File { .. } => "a file is there",
            Kind::Folder => "a folder is there",
            Kind::Link => "a link is there",
            Kind::Other => "a device, pipe or socket is there",
        };
        Self::failed("precheck: a destination of the manifest cannot be used")
            .with("file", path(place))
            .with("error", found)
    }

    pub(super) fn unusable(place: &Place, fault: &Fault) -> Self {
        Self::failed("precheck: a destination of the manifest cannot be used")
            .with("file", path(place))
            .with("error", fault.kind.to_string())
    }

    pub(super) fn step(place: &Place, fault: &Fault) -> Self {
        Self::failed("precheck: an operation of the manifest failed")
            .with("file", path(place))
            .with("error", fault.kind.to_string())
    }
}

/// A place for a message.
fn path(place: &Place) -> String {
    match place.root {
        Root::State => place.path.to_string(),
        Root::Allowed(n) => alloc::format!("reconstruct.allow[{n}]/{}", place.path),
    }
}
