//! The policy bundle (SPEC 3): a `.tar.gz` of Rego files, `manifest.json` and at most one `data.json`.
//!
//! A bundle is untrusted input. It is read from memory in one pass under fixed limits, and refused as a whole
//! for anything that two readers could understand differently.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use sha2::{Digest as _, Sha256};

use super::manifest::{self, Manifest};
use super::{Refusal, gzip, tar};
use crate::ids::Hash32;
use crate::json::{self, Value};

/// Most bytes of a bundle as it is given.
pub const MAX_PACKED: usize = 4 * 1024 * 1024;
/// Most bytes of the unpacked archive.
pub const MAX_UNPACKED: usize = 8 * 1024 * 1024;
/// Most bytes of one file.
pub const MAX_FILE: u64 = 1024 * 1024;
/// Most files, the manifest included.
pub const MAX_FILES: usize = 256;

const DATA: &str = "data.json";

/// A bundle that passed every check of its format. Whether it compiles, fits this runtime and is allowed by
/// the floor is for others to say.
#[derive(Clone, PartialEq, Eq)]
pub struct Bundle {
    /// What `manifest.json` says.
    pub manifest: Manifest,
    /// The Rego files, UTF-8, and `data.json` when there is one, exactly as they are in the archive.
    pub files: BTreeMap<String, Vec<u8>>,
    /// SHA-256 of the bundle's bytes as they were given: its identity in storage, releases and decisions.
    pub digest: Hash32,
    /// SHA-256 over names, contents and manifest; recomputed, and equal to the manifest's `bundle_hash`.
    pub bundle_hash: Hash32,
}

impl Bundle {
    /// The Rego files by name, in byte order.
    pub fn rego(&self) -> impl Iterator<Item = (&str, &str)> {
        let rego = self.files.iter().filter(|(name, _)| is_rego(name));
        rego.filter_map(|(name, text)| Some((name.as_str(), core::str::from_utf8(text).ok()?)))
    }

    /// The text of `data.json`, a JSON object, when there is one.
    #[must_use]
    pub fn data(&self) -> Option<&str> {
        core::str::from_utf8(self.files.get(DATA)?).ok()
    }
}

impl fmt::Debug for Bundle {
    /// Which bundle it is; megabytes of policy are no use in a trace.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Manifest { name, version, sequence, .. } = &self.manifest;
        write!(f, "Bundle({name} {version}, sequence {sequence}, sha256:{})", self.digest)
    }
}

/// Reads a bundle.
///
/// # Errors
/// [`Refusal`] for everything that is not exactly a bundle within the limits, or whose `bundle_hash` does not
/// fit; it says what is wrong, and where.
pub fn open(bytes: &[u8]) -> Result<Bundle, Refusal> {
    if bytes.len() > MAX_PACKED {
        return Err(Refusal::TooLarge { len: bytes.len(), max: MAX_PACKED });
    }
    let archive = gzip::unpack(bytes, MAX_UNPACKED)?;
    let mut entries = tar::read(&archive, &tar::Limits { files: MAX_FILES, file_bytes: MAX_FILE })?;
    let (manifest, hashed) = Manifest::read(entries.remove(manifest::FILE).ok_or(Refusal::NoManifest)?)?;
    for (name, content) in &entries {
        check_file(name, content)?;
    }
    if !entries.keys().any(|name| is_rego(name)) {
        return Err(Refusal::NoRego);
    }
    let bundle_hash = bundle_hash(&entries, &hashed);
    if bundle_hash != manifest.bundle_hash {
        return Err(Refusal::BundleHash { want: manifest.bundle_hash, got: bundle_hash });
    }
    let files = entries.into_iter().map(|(name, content)| (String::from(name), content.to_vec())).collect();
    let digest = Hash32(Sha256::digest(bytes).into());
    Ok(Bundle { manifest, files, digest, bundle_hash })
}

/// What the builder writes into the manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BuildOptions {
    /// `policy_bundle_version`
    pub version: String,
    /// `name`; none writes the default.
    pub name: Option<String>,
    /// `sequence`
    pub sequence: u64,
    /// `min_sequence`
    pub min_sequence: u64,
    /// `required_runtime_version`; none leaves it out.
    pub runtime_version: Option<String>,
    /// `redact`; empty leaves it out.
    pub redact: Vec<String>,
}

/// Builds a bundle of `files` (Rego files and `data.json`, by name); [`open`] takes what comes out.
///
/// Reproducible: files stand in byte order of their names, the manifest among them in canonical form; mode 0644,
/// owner 0, time 0; a fixed compression level, and no time or name in the gzip header.
///
/// # Errors
/// [`Refusal`] when `open` would refuse the result, or when `files` has a `manifest.json`.
pub fn build(files: &BTreeMap<String, Vec<u8>>, options: &BuildOptions) -> Result<Vec<u8>, Refusal> {
    let mut entries: BTreeMap<&str, &[u8]> = BTreeMap::new();
    for (name, content) in files {
        entries.insert(tar::check_name(name.as_bytes())?, content);
    }
    if entries.contains_key(manifest::FILE) {
        return Err(Refusal::Name { name: String::from(manifest::FILE), what: "the builder writes it itself" });
    }
    let mut members = members(options);
    let mut hash = String::from("sha256:");
    bundle_hash(&entries, &Value::Object(members.clone()).to_text()).write_hex(&mut hash);
    members.insert(String::from(manifest::HASH), Value::from(hash));
    let mut text = Value::Object(members).to_text();
    text.push('\n');
    entries.insert(manifest::FILE, text.as_bytes());
    let mut archive = Vec::new();
    for (name, content) in &entries {
        tar::append(&mut archive, name, content)?;
        if archive.len() > MAX_UNPACKED {
            return Err(Refusal::Bomb { max: MAX_UNPACKED });
        }
    }
    tar::finish(&mut archive);
    let bundle = gzip::pack(&archive);
    open(&bundle).map(|_| bundle)
}

fn members(options: &BuildOptions) -> BTreeMap<String, Value> {
    let mut members = BTreeMap::new();
    let mut put = |field: &str, value: Value| members.insert(String::from(field), value);
    put(manifest::VERSION, Value::from(options.version.as_str()));
    put(manifest::NAME, Value::from(options.name.as_deref().unwrap_or(manifest::DEFAULT_NAME)));
    put(manifest::SEQUENCE, Value::from(options.sequence));
    put(manifest::MIN_SEQUENCE, Value::from(options.min_sequence));
    if let Some(range) = &options.runtime_version {
        put(manifest::RUNTIME, Value::from(range.as_str()));
    }
    if !options.redact.is_empty() {
        put(manifest::REDACT, Value::Array(options.redact.iter().map(|path| Value::from(path.as_str())).collect()));
    }
    members
}

/// `*.rego` in any folder, with something before the dot.
fn is_rego(name: &str) -> bool {
    let file = name.rsplit('/').next().unwrap_or(name);
    file.strip_suffix(".rego").is_some_and(|stem| !stem.is_empty())
}

fn check_file(name: &str, content: &[u8]) -> Result<(), Refusal> {
    if is_rego(name) {
        return match core::str::from_utf8(content) {
            Ok(_) => Ok(()),
            Err(cause) => Err(Refusal::NotText { name: String::from(name), at: cause.valid_up_to() }),
        };
    }
    if name == DATA {
        let limits = json::Limits::bytes(content.len());
        return match json::parse(content, &limits).map_err(|cause| Refusal::Json { name: DATA, cause })? {
            Value::Object(_) => Ok(()),
            other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_)) => {
                Err(Refusal::NotAnObject { name: DATA, found: other.kind() })
            }
        };
    }
    Err(Refusal::Name {
        name: String::from(name),
        what: "a bundle holds *.rego files, manifest.json and data.json (both at the top) and nothing else",
    })
}

/// SPEC 3: for each file in byte order of its name its name and content, each behind its length as u64
/// little-endian; then the canonical manifest.
fn bundle_hash(entries: &BTreeMap<&str, &[u8]>, manifest: &str) -> Hash32 {
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        // usize has at most 64 bits.
        hash.update(u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_le_bytes());
        hash.update(bytes);
    };
    for (name, content) in entries {
        part(name.as_bytes());
        part(content);
    }
    hash.update(manifest);
    Hash32(hash.finalize().into())
}

#[cfg(test)]
#[path = "bundle_tests.rs"]
mod tests;
