//! What is in force on this node (SPEC 3 and 8): `activation.json` alone says it.
//!
//! `Watch` is the runtime's side: it follows the file and opens what it names. `Loader` is an operator's command:
//! it changes the file, in another process, under the lock that both share.

pub mod history;
mod loader;
mod release;
#[cfg(test)]
mod release_tests;
mod verified;
mod watch;

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::ids::Hash32;
use crate::json::{self, Value, escape_into, push_u64};
use crate::policy::bundle::Bundle;
use crate::time::Wall;
use crate::wal::frame::split_tail;

pub use loader::{Command, Loader, Report};
pub use release::{LockSlot, Rejection, Terms};
pub use verified::Record;
pub use watch::{Change, Input as WatchInput, Opened, WORK, Watch};

/// The longest `activation.json`, in bytes.
pub const MAX_BYTES: u32 = 64 * 1024;

/// What is read of a bundle's file: one byte more than it may have, so that a longer one shows.
#[allow(clippy::as_conversions)] // a constant that fits
const BUNDLE_BYTES: u32 = crate::policy::bundle::MAX_PACKED as u32 + 1;

/// A bundle as `activation.json` names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// SHA-256 of the bundle's bytes: its file's name.
    pub bundle: Hash32,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its sequence.
    pub sequence: u64,
    /// Its `bundle_hash`.
    pub bundle_hash: Hash32,
    /// The lock with which it passed the four steps on this node; none when an operator loaded it by itself.
    pub lock: Option<LockSlot>,
}

impl Slot {
    /// The slot of an opened bundle, without a lock.
    #[must_use]
    pub fn of(bundle: &Bundle) -> Self {
        Self {
            bundle: bundle.digest,
            name: bundle.manifest.name.clone(),
            version: bundle.manifest.version.to_string(),
            sequence: bundle.manifest.sequence,
            bundle_hash: bundle.bundle_hash,
            lock: None,
        }
    }

    /// Whether the slot names this bundle.
    #[must_use]
    pub fn names(&self, bundle: &Bundle) -> bool {
        Self { lock: None, ..self.clone() } == Self::of(bundle)
    }
}

/// The content of `activation.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Activation {
    /// The policy in force.
    pub current: Option<Slot>,
    /// The last known good one.
    pub lkg: Option<Slot>,
    /// The lowest admissible sequence, by the name of a lock or by `policy/` and the name of a bundle.
    pub floors: BTreeMap<String, u64>,
    /// The earliest that it can be: the latest `autonomy.signed-at` that was verified here.
    pub time_floor: Option<Wall>,
}

/// The floor's key of a policy bundle: locks have names without a slash.
fn floor_key(name: &str) -> String {
    alloc::format!("policy/{name}")
}

impl Activation {
    /// The lowest admissible sequence of bundles of this name.
    #[must_use]
    pub fn policy_floor(&self, name: &str) -> u64 {
        self.floors.get(&floor_key(name)).copied().unwrap_or(0)
    }

    /// Whether a bundle may be in force: it admits this runtime, and its sequence is not below its floor.
    ///
    /// # Errors
    /// Why not.
    pub fn admit(&self, bundle: &Bundle, runtime: &crate::semver::Version) -> Result<(), String> {
        bundle.manifest.compatible(runtime).map_err(|refusal| refusal.to_string())?;
        let (name, sequence) = (&bundle.manifest.name, bundle.manifest.sequence);
        let floor = self.policy_floor(name);
        if sequence < floor {
            return Err(alloc::format!(
                "sequence {sequence} of bundle `{name}` is below its floor {floor}, set by an earlier bundle's min_sequence"
            ));
        }
        Ok(())
    }

    /// What is in force once `bundle` is, with the lock that it was verified with: the former current becomes the last
    /// known good one.
    #[must_use]
    pub fn with(&self, bundle: &Bundle, lock: Option<LockSlot>) -> Self {
        let mut after = self.clone();
        let floor = self.policy_floor(&bundle.manifest.name).max(bundle.manifest.min_sequence);
        if floor > 0 {
            after.floors.insert(floor_key(&bundle.manifest.name), floor);
        }
        if let Some(lock) = &lock {
            after.saw(lock);
            after.floors.insert(lock.name.clone(), self.lock_floor(&lock.name).max(lock.sequence));
        }
        after.lkg = match &self.current {
            // Loaded once more, perhaps with another lock: what was good before it stays the way back.
            Some(current) if !current.names(bundle) => Some(current.clone()),
            Some(_) | None => self.lkg.clone(),
        };
        after.current = Some(Slot { lock, ..Slot::of(bundle) });
        after
    }

    /// What is in force after going back to the last known good bundle: the two change places. With `below_floor`
    /// its floor comes down to it; what the bundle itself bars stays barred.
    #[must_use]
    pub fn swapped(&self, bundle: &Bundle, below_floor: bool) -> Self {
        let manifest = &bundle.manifest;
        let kept = self.policy_floor(&manifest.name);
        let lowered = if below_floor { kept.min(manifest.sequence) } else { kept };
        let floor = lowered.max(manifest.min_sequence);
        let mut floors = self.floors.clone();
        if floor > 0 || kept > 0 {
            floors.insert(floor_key(&manifest.name), floor);
        }
        Self { current: self.lkg.clone(), lkg: self.current.clone(), floors, time_floor: self.time_floor }
    }

    /// The file's bytes: one line of JSON.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut text = self.covered();
        let h = Hash32(*blake3::hash(text.as_bytes()).as_bytes());
        text.push_str(",\"h\":\"");
        h.write_hex(&mut text);
        text.push_str("\"}\n");
        text.into_bytes()
    }

    /// The hash that the file ends in, `h`: BLAKE3-256 of the bytes before it.
    #[must_use]
    pub fn hash(&self) -> Hash32 {
        Hash32(*blake3::hash(self.covered().as_bytes()).as_bytes())
    }

    /// The file up to its hash.
    fn covered(&self) -> String {
        let mut text = String::from("{\"current\":");
        write_slot(self.current.as_ref(), false, &mut text);
        text.push_str(",\"lkg\":");
        write_slot(self.lkg.as_ref(), true, &mut text);
        text.push_str(",\"lock\":");
        match self.current.as_ref().and_then(|current| current.lock.as_ref()) {
            Some(lock) => lock.write(&mut text),
            None => text.push_str("null"),
        }
        text.push_str(",\"floors\":{");
        for (i, (name, floor)) in self.floors.iter().enumerate() {
            if i > 0 {
                text.push(',');
            }
            escape_into(name, &mut text);
            text.push(':');
            push_u64(&mut text, *floor);
        }
        text.push_str("},\"time_floor\":");
        match self.time_floor {
            Some(floor) => {
                text.push('"');
                floor.write_rfc3339(&mut text);
                text.push('"');
            }
            None => text.push_str("null"),
        }
        text
    }

    /// Reads the file. It ends in BLAKE3-256 over the bytes before, so that no floor can rot unseen; one that was written
    /// without is taken too.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let value = json::parse(bytes, &json::Limits::default()).map_err(|e| e.to_string())?;
        let fields = value.as_object().ok_or("not an object")?;
        match split_tail(bytes) {
            Some((covered, h)) if *blake3::hash(covered).as_bytes() == h.0 => {}
            None if value.get("h").is_none() => {}
            Some(_) | None => return Err("its hash `h` does not fit its content".into()),
        }
        for name in fields.keys() {
            if !["current", "lkg", "lock", "floors", "time_floor", "h"].contains(&name.as_str()) {
                return Err(alloc::format!("unknown field `{name}`"));
            }
        }
        let slot = |name: &str| match value.get(name) {
            None => Err(alloc::format!("`{name}` is missing")),
            Some(Value::Null) => Ok(None),
            Some(slot) => parse_slot(slot).map(Some).ok_or_else(|| alloc::format!("`{name}` is not a bundle")),
        };
        let (mut current, lkg) = (slot("current")?, slot("lkg")?);
        let lock = match value.get("lock") {
            None | Some(Value::Null) => None,
            Some(lock) => Some(LockSlot::parse(lock).ok_or("`lock` is not a lock")?),
        };
        match (&mut current, lock) {
            (Some(slot), lock) if slot.lock.is_none() => slot.lock = lock,
            (Some(_), _) => return Err("`current` has a lock of its own; it stands in `lock`".into()),
            (None, Some(_)) => return Err("there is a `lock` and no `current`".into()),
            (None, None) => {}
        }
        let time_floor = match value.get("time_floor") {
            None | Some(Value::Null) => None,
            Some(floor) => Some(floor.as_str().and_then(Wall::parse_rfc3339).ok_or("`time_floor` is no time")?),
        };
        let mut floors = BTreeMap::new();
        for (name, floor) in value.get("floors").and_then(Value::as_object).ok_or("`floors` is missing")? {
            let floor = floor.as_u64().ok_or_else(|| alloc::format!("the floor of `{name}` is not a number"))?;
            floors.insert(name.clone(), floor);
        }
        Ok(Self { current, lkg, floors, time_floor })
    }
}

fn write_slot(slot: Option<&Slot>, with_lock: bool, text: &mut String) {
    let Some(slot) = slot else { return text.push_str("null") };
    text.push_str("{\"bundle\":\"sha256:");
    slot.bundle.write_hex(text);
    text.push_str("\",\"name\":");
    escape_into(&slot.name, text);
    text.push_str(",\"version\":");
    escape_into(&slot.version, text);
    text.push_str(",\"sequence\":");
    push_u64(text, slot.sequence);
    text.push_str(",\"bundle_hash\":\"sha256:");
    slot.bundle_hash.write_hex(text);
    text.push('"');
    if let Some(lock) = slot.lock.as_ref().filter(|_| with_lock) {
        text.push_str(",\"lock\":");
        lock.write(text);
    }
    text.push('}');
}

fn parse_slot(value: &Value) -> Option<Slot> {
    let lock = match value.get("lock") {
        None => None,
        Some(lock) => Some(LockSlot::parse(lock)?),
    };
    if value.as_object()?.len() != 5 + usize::from(lock.is_some()) {
        return None;
    }
    Some(Slot {
        lock,
        bundle: sha256(value.get("bundle")?)?,
        name: value.get("name")?.as_str()?.into(),
        version: value.get("version")?.as_str()?.into(),
        sequence: value.get("sequence")?.as_u64()?,
        bundle_hash: sha256(value.get("bundle_hash")?)?,
    })
}

fn sha256(value: &Value) -> Option<Hash32> {
    Hash32::parse_hex(value.as_str()?.strip_prefix("sha256:")?.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(n: u8, sequence: u64) -> Slot {
        Slot {
            bundle: Hash32([n; 32]),
            name: "policy".into(),
            version: "1.0.0".into(),
            sequence,
            bundle_hash: Hash32([n + 100; 32]),
            lock: None,
        }
    }

    fn lock(n: u8, sequence: u64) -> LockSlot {
        LockSlot {
            fingerprint: Hash32([n; 32]),
            name: "agent".into(),
            version: "2.0.0".into(),
            sequence,
            image: crate::oci::Digest::of(&[n]),
            signed_at: Wall::from_micros(1_763_724_637_000_000),
        }
    }

    #[test]
    fn the_file_reads_back() {
        let mut activation = Activation { current: Some(slot(1, 3)), ..Activation::default() };
        activation.floors.insert("policy/policy".into(), 2);
        let bytes = activation.to_bytes();
        assert_eq!(Activation::parse(&bytes).as_ref(), Ok(&activation));
        activation.current = Some(Slot { lock: Some(lock(7, 7)), ..slot(1, 3) });
        activation.lkg = Some(Slot { lock: Some(lock(6, 6)), ..slot(2, 2) });
        activation.time_floor = Some(Wall::from_micros(1_763_724_637_000_000));
        assert_eq!(Activation::parse(&activation.to_bytes()).as_ref(), Ok(&activation));
        activation.lkg = Some(slot(2, 2));
        assert_eq!(Activation::parse(&activation.to_bytes()).as_ref(), Ok(&activation));
        assert_eq!(Activation::parse(&Activation::default().to_bytes()), Ok(Activation::default()));
    }

    #[test]
    fn p18_a_damaged_file_names_what_is_wrong_and_is_no_activation() {
        for bytes in [&b""[..], b"{}", b"[]", b"{\"current\":1,\"lkg\":null,\"floors\":{}}", b"{\"current\":null}"] {
            assert!(Activation::parse(bytes).is_err());
        }
        let bytes = Activation { current: Some(slot(1, 3)), ..Activation::default() }.to_bytes();
        for cut in 0..bytes.len() - 1 {
            assert!(Activation::parse(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                assert!(Activation::parse(&damaged).is_err(), "byte {at} bit {bit}");
            }
        }
        // One that was written before files had a hash.
        let older = b"{\"current\":null,\"lkg\":null,\"lock\":null,\"floors\":{\"policy/p\":3},\"time_floor\":null}\n";
        assert_eq!(Activation::parse(older).map(|activation| activation.policy_floor("p")), Ok(3));
    }
}
