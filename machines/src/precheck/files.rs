//! The files of a precheck besides the chain: the stored fingerprint, the evidence, and the marker of this boot (SPEC 10).
//!
//! Fingerprint and evidence are projections of the chain, for people and scripts: what is in force is said by the chain.

use alloc::borrow::ToOwned;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use super::chain::Entry;
use crate::canonical;
use crate::fields::{self, Fields, Wrong};
use crate::ids::Hash32;
use crate::json::{Number, Value};
use crate::time::Wall;
use crate::tree::{Path, Place};

/// Most bytes of each of these files.
pub const MAX_BYTES: u32 = 1 << 20;

/// The files and folders of a precheck, beneath the state root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Name {
    /// `bootstrap/`.
    Bootstrap,
    /// `bootstrap/os_fingerprint.json`.
    Fingerprint,
    /// `bootstrap/precheck.json`.
    Marker,
    /// `epoch/`.
    Epoch,
    /// `epoch/chain.jsonl`.
    Chain,
    /// `epoch/current/`.
    CurrentFolder,
    /// `epoch/current/evidence.json`.
    Current,
    /// `epoch/previous/`.
    PreviousFolder,
    /// `epoch/previous/evidence.json`.
    Previous,
    /// `runtime/manifest.json`.
    Manifest,
    /// `runtime/manifest.json.sig`.
    Signature,
    /// `identity/manifest-verify.pub`.
    Key,
    /// `identity/`.
    Identity,
    /// `identity.previous/`: the identity before the last rotation, or the next one while it is put together.
    IdentityPrevious,
    /// `identity.previous/next/`.
    PreviousNext,
    /// `identity/next/`.
    Next,
    /// `activation.json`, for its floor of time.
    Activation,
    /// `edge/telemetry/telemetry.base`: there since `edged` ran for the first time.
    EdgeLog,
    /// `edge/`.
    Edge,
    /// `edge/reported.json`: the epochs that the log of `edged` has.
    Reported,
}

impl Name {
    /// The path.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bootstrap => "bootstrap",
            Self::Fingerprint => "bootstrap/os_fingerprint.json",
            Self::Marker => "bootstrap/precheck.json",
            Self::Epoch => "epoch",
            Self::Chain => "epoch/chain.jsonl",
            Self::CurrentFolder => "epoch/current",
            Self::Current => "epoch/current/evidence.json",
            Self::PreviousFolder => "epoch/previous",
            Self::Previous => "epoch/previous/evidence.json",
            Self::Manifest => "runtime/manifest.json",
            Self::Signature => "runtime/manifest.json.sig",
            Self::Key => "identity/manifest-verify.pub",
            Self::Identity => "identity",
            Self::IdentityPrevious => "identity.previous",
            Self::PreviousNext => "identity.previous/next",
            Self::Next => "identity/next",
            Self::Activation => "activation.json",
            Self::EdgeLog => "edge/telemetry/telemetry.base",
            Self::Edge => "edge",
            Self::Reported => "edge/reported.json",
        }
    }

    /// Most bytes of the file.
    #[must_use]
    pub fn most(self) -> u32 {
        if self == Self::Chain {
            super::chain::MAX_BYTES
        } else if self == Self::Manifest {
            crate::manifest::MAX_BYTES
        } else {
            MAX_BYTES
        }
    }

    /// The place.
    #[must_use]
    pub fn place(self) -> Place {
        // The texts above are plain paths; a test reads each of them.
        Place::state(Path::parse(self.as_str()).unwrap_or_else(|_| Path::top()))
    }
}

/// `bootstrap/os_fingerprint.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct Fingerprint {
    /// The fingerprint of the host that the node was last rebuilt for.
    pub composite_hash: Hash32,
    /// What it was made of; empty where that is not known any more.
    pub components: Value,
    /// The chain's last epoch when it was written.
    pub boot_epoch: u64,
    /// When the chain's line was made.
    pub captured_at: Wall,
}

impl Fingerprint {
    /// Reads the file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut fields = open(bytes, "os_fingerprint")?;
        let mut read = || -> Result<Self, Wrong> {
            Ok(Self {
                composite_hash: fields.bare_hash("composite_hash")?,
                components: fields.need("components", "an object", |v| v.as_object().is_some().then_some(v))?,
                boot_epoch: fields.number("boot_epoch")?,
                captured_at: fields.need("captured_at", TIME, |v| Wall::parse_any_rfc3339(v.as_str()?))?,
            })
        };
        let file = read().map_err(words)?;
        fields.finish().map_err(words)?;
        Ok(file)
    }

    /// The file's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        lines([
            ("composite_hash", Value::String(alloc::format!("{}", self.composite_hash))),
            ("components", self.components.clone()),
            ("boot_epoch", Value::Number(Number::from(self.boot_epoch))),
            ("captured_at", time(self.captured_at)),
        ])
    }
}

/// `epoch/current/evidence.json` and `epoch/previous/evidence.json`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// The boot epoch.
    pub epoch: u64,
    /// The fingerprint before.
    pub previous_hash: Hash32,
    /// The fingerprint from here on.
    pub new_hash: Hash32,
    /// When.
    pub rotated_at: Wall,
    /// BLAKE3 of the runtime's binary, where the manifest installed one.
    pub binary_hash: Option<Hash32>,
}

impl Evidence {
    /// The evidence of a line of the chain.
    #[must_use]
    pub const fn of(entry: &Entry, binary_hash: Option<Hash32>) -> Self {
        Self {
            epoch: entry.epoch,
            previous_hash: entry.previous_hash,
            new_hash: entry.new_hash,
            rotated_at: entry.at,
            binary_hash,
        }
    }

    /// Whether this is what that line of the chain says.
    #[must_use]
    pub fn agrees(&self, entry: &Entry) -> bool {
        *self == Self::of(entry, self.binary_hash)
    }

    /// Reads the file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut fields = open(bytes, "evidence")?;
        let mut read = || -> Result<Self, Wrong> {
            Ok(Self {
                epoch: fields.number("epoch")?,
                previous_hash: fields.bare_hash("previous_hash")?,
                new_hash: fields.bare_hash("new_hash")?,
                rotated_at: fields.need("rotated_at", TIME, |v| Wall::parse_rfc3339(v.as_str()?))?,
                binary_hash: fields.take("binary_hash", "\"blake3:\" and 64 hex digits", |v| fields::blake3(&v))?,
            })
        };
        let file = read().map_err(words)?;
        fields.finish().map_err(words)?;
        Ok(file)
    }

    /// The file's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut members = alloc::vec![
            ("epoch", Value::Number(Number::from(self.epoch))),
            ("previous_hash", Value::String(alloc::format!("{}", self.previous_hash))),
            ("new_hash", Value::String(alloc::format!("{}", self.new_hash))),
            ("rotated_at", time(self.rotated_at)),
        ];
        if let Some(hash) = self.binary_hash {
            members.push(("binary_hash", Value::String(alloc::format!("blake3:{hash}"))));
        }
        lines(members)
    }
}

/// `bootstrap/precheck.json`: how this boot's precheck ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marker {
    /// The kernel's id of the boot.
    pub boot_id: String,
    /// The exit code.
    pub exit: u8,
}

impl Marker {
    /// Reads the file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut fields = open(bytes, "precheck")?;
        let mut read = || -> Result<Self, Wrong> {
            Ok(Self {
                boot_id: fields.text("boot_id")?,
                exit: fields.need("exit", "an exit code", |v| u8::try_from(v.as_u64()?).ok())?,
            })
        };
        let file = read().map_err(words)?;
        fields.finish().map_err(words)?;
        Ok(file)
    }

    /// The file's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let exit = Value::Number(Number::from(u64::from(self.exit)));
        lines([("boot_id", Value::String(self.boot_id.clone())), ("exit", exit)])
    }

    /// Whether the file says that this boot's precheck passed.
    ///
    /// # Errors
    /// In words for the operator, why it does not; `bytes` is `None` where there is no file.
    pub fn passed(bytes: Option<&[u8]>, boot_id: &str) -> Result<(), String> {
        let Some(bytes) = bytes else { return Err("no precheck was run".into()) };
        let marker = Self::parse(bytes).map_err(|cause| alloc::format!("bootstrap/precheck.json: {cause}"))?;
        if marker.boot_id != boot_id {
            return Err("the last precheck was run in another boot".into());
        }
        if marker.exit != 0 {
            return Err(alloc::format!("this boot's precheck ended with exit {}", marker.exit));
        }
        Ok(())
    }
}

const TIME: &str = "a time like 2026-01-31T12:00:00.000000Z";

fn words(wrong: Wrong) -> String {
    alloc::format!("{wrong}")
}

fn open(bytes: &[u8], within: &str) -> Result<Fields, String> {
    let most = usize::try_from(MAX_BYTES).unwrap_or(usize::MAX);
    let value = canonical::parse(bytes, most).map_err(|cause| alloc::format!("{cause}"))?;
    Fields::open(value, within).map_err(words)
}

fn time(at: Wall) -> Value {
    let mut text = String::new();
    at.write_rfc3339(&mut text);
    Value::String(text)
}

/// An object in this order, a member a line.
fn lines(members: impl IntoIterator<Item = (&'static str, Value)>) -> Vec<u8> {
    let mut out = String::from("{");
    for (n, (key, value)) in members.into_iter().enumerate() {
        out.push_str(if n == 0 { "\n  \"" } else { ",\n  \"" });
        out.push_str(key);
        out.push_str("\": ");
        value.write(&mut out);
    }
    out.push_str("\n}\n");
    out.into_bytes()
}

/// An object without members.
#[must_use]
pub fn nothing() -> Value {
    Value::Object(BTreeMap::new())
}

/// A text as a value.
#[must_use]
pub fn text(text: &str) -> Value {
    Value::String(text.to_owned())
}
