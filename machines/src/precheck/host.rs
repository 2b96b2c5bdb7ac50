//! What a precheck asks of the host, and the host's fingerprint: which operating system is under the node (SPEC 10).
//!
//! `composite_hash` is BLAKE3-256 of the canonical JSON (RFC 8785) of the components.

use alloc::borrow::ToOwned;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::certificates::{Certificates, Pair};
use crate::canonical;
use crate::ids::Hash32;
use crate::json::Value;

/// The fields of `os-release` that say which system it is (os-release(5)); names for people and addresses do not.
pub const IDENTITY_FIELDS: [&str; 8] =
    ["BUILD_ID", "ID", "ID_LIKE", "IMAGE_ID", "IMAGE_VERSION", "VARIANT_ID", "VERSION_CODENAME", "VERSION_ID"];

/// What a precheck asks; it costs time and decides nothing.
#[derive(Clone, Debug)]
pub enum Ask {
    /// What this host is.
    Components,
    /// A certificate, its key and the authorities.
    Certificates(Pair),
    /// The manifest key that is pinned outside the state root (`trust.manifest_key`), at most 64 bytes.
    PinnedKey,
    /// Whether an Ed25519 signature is good, strictly (RFC 8032; FAULTS S08).
    Ed25519 {
        /// The public key.
        key: [u8; 32],
        /// The very bytes that were signed.
        message: Arc<[u8]>,
        /// The signature.
        signature: [u8; 64],
    },
}

/// What it is told.
#[derive(Clone, Debug)]
pub enum Answer {
    /// Of `Components`, or what cannot be read.
    Components(Result<Components, String>),
    /// Of `Certificates`, or which file cannot be read, and why.
    Certificates(Result<Certificates, String>),
    /// Of `PinnedKey`: its bytes; `None` when there is no such file.
    Key(Result<Option<Vec<u8>>, String>),
    /// Of `Ed25519`.
    Signed(bool),
}

/// What a host is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Components {
    /// The kernel's release, like `6.1.0-18-amd64`.
    pub kernel: String,
    /// The machine, like `x86_64`.
    pub machine: String,
    /// The identity fields of `os-release`.
    pub os_release: BTreeMap<String, String>,
    /// The C library and its version, like `glibc 2.36`; what cannot be told apart otherwise by its BLAKE3.
    pub libc: String,
    /// `[fingerprint] extra_files`: BLAKE3 of each, `None` for one that is not there.
    pub files: BTreeMap<String, Option<Hash32>>,
}

impl Components {
    /// The components as `os_fingerprint.json` shows them.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let text = |text: &str| Value::String(text.to_owned());
        let os_release = self.os_release.iter().map(|(key, value)| (key.clone(), text(value))).collect();
        let files = self.files.iter().map(|(path, hash)| {
            let hash = hash.map_or(Value::Null, |hash| Value::String(alloc::format!("blake3:{hash}")));
            (path.clone(), hash)
        });
        let members = [
            ("kernel", text(&self.kernel)),
            ("machine", text(&self.machine)),
            ("os_release", Value::Object(os_release)),
            ("libc", text(&self.libc)),
            ("files", Value::Object(files.collect())),
        ];
        Value::Object(members.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
    }

    /// The fingerprint.
    #[must_use]
    pub fn composite_hash(&self) -> Hash32 {
        // `jcs` and not `to_bytes`: a path or a version outside ASCII is still one, and this document is not signed.
        Hash32(*blake3::hash(canonical::jcs(&self.to_value()).as_bytes()).as_bytes())
    }

    /// The components that differ from those that a file shows, by name: what was replaced.
    #[must_use]
    pub fn changed(&self, stored: &Value) -> Vec<String> {
        let (Value::Object(now), Some(before)) = (self.to_value(), stored.as_object()) else { return Vec::new() };
        now.into_iter().filter(|(key, value)| before.get(key) != Some(value)).map(|(key, _)| key).collect()
    }
}

/// The identity fields of an `os-release` file: `KEY=value` lines, values plain or in single or double quotes with
/// backslashes, comments and other lines passed over (os-release(5)). A field that is given twice has its last value.
#[must_use]
pub fn os_release(text: &str) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    for line in text.lines() {
        let Some((key, value)) = line.trim().split_once('=') else { continue };
        if IDENTITY_FIELDS.contains(&key) {
            fields.insert(key.to_owned(), unquoted(value));
        }
    }
    fields
}

/// A value as a shell reads it.
fn unquoted(text: &str) -> String {
    let mut out = String::new();
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('\'', None) | ('"', None) => quote = Some(c),
            (c, Some(open)) if c == open => quote = None,
            ('\\', None | Some('"')) => out.extend(chars.next()),
            (c, Some(_)) => out.push(c),
            (c, None) if c.is_whitespace() => break,
            (c, None) => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn debian() -> Components {
        Components {
            kernel: "6.1.0-18-amd64".into(),
            machine: "x86_64".into(),
            os_release: os_release("ID=debian\nVERSION_ID=\"12\"\nVERSION_CODENAME=bookworm\n"),
            libc: "glibc 2.36".into(),
            files: BTreeMap::from([("/etc/machine".into(), None)]),
        }
    }

    #[test]
    fn a_comment_changes_nothing_and_each_component_changes_something() {
        let base = debian();
        let commented = Components {
            os_release: os_release(
                "# a comment\nID=debian\nNAME=\"Debian\"\n\nVERSION_ID='12'\nVERSION_CODENAME=book\\worm\n#ID=other\n",
            ),
            ..base.clone()
        };
        assert_eq!(commented.composite_hash(), base.composite_hash());
        let stored = base.to_value();
        for (changed, name) in [
            (Components { kernel: "6.1.0-19-amd64".into(), ..base.clone() }, "kernel"),
            (Components { libc: "glibc 2.37".into(), ..base.clone() }, "libc"),
            (Components { machine: "aarch64".into(), ..base.clone() }, "machine"),
            (Components { os_release: os_release("ID=debian\nVERSION_ID=13"), ..base.clone() }, "os_release"),
            (
                Components { files: BTreeMap::from([("/etc/machine".into(), Some(Hash32([1; 32])))]), ..base.clone() },
                "files",
            ),
        ] {
            assert_ne!(changed.composite_hash(), base.composite_hash(), "{name}");
            assert_eq!(changed.changed(&stored), [name]);
        }
        assert!(base.changed(&stored).is_empty());
    }

    #[test]
    fn os_release_is_read_as_a_shell_reads_it() {
        let fields = os_release(
            "ID=a\nID=b\nVERSION_ID=\"1 \\\"2\\\"\" # x\nBUILD_ID='a\\b'\nIMAGE_ID=x y\n IMAGE_VERSION=3\nexport VARIANT_ID=z",
        );
        let want =
            [("BUILD_ID", "a\\b"), ("ID", "b"), ("IMAGE_ID", "x"), ("IMAGE_VERSION", "3"), ("VERSION_ID", "1 \"2\"")];
        assert_eq!(fields, want.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect());
    }
}
