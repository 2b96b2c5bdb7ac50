//! Whether a verified release may be in force on this node (SPEC 8).

use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::fmt;

use super::Activation;
use crate::ids::Hash32;
use crate::json::{Value, escape_into, push_u64};
use crate::oci::Digest;
use crate::time::Wall;
use crate::verify::Release;

/// A lock as `activation.json` names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockSlot {
    /// Its behavioural fingerprint.
    pub fingerprint: Hash32,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its sequence.
    pub sequence: u64,
    /// The image that it binds.
    pub image: Digest,
    /// When that image was signed.
    pub signed_at: Wall,
}

impl LockSlot {
    /// The slot of a release's lock.
    #[must_use]
    pub fn of(release: &Release) -> Self {
        Self {
            fingerprint: release.lock.fingerprint,
            name: release.lock.name.clone(),
            version: release.lock.version.to_string(),
            sequence: release.lock.sequence,
            image: release.image,
            signed_at: release.signed_at,
        }
    }

    /// Appends it as JSON.
    pub(super) fn write(&self, text: &mut String) {
        text.push_str("{\"fingerprint\":\"blake3:");
        self.fingerprint.write_hex(text);
        text.push_str("\",\"name\":");
        escape_into(&self.name, text);
        text.push_str(",\"version\":");
        escape_into(&self.version, text);
        text.push_str(",\"sequence\":");
        push_u64(text, self.sequence);
        text.push_str(",\"image\":\"");
        text.push_str(&self.image.to_string());
        text.push_str("\",\"signed_at\":\"");
        self.signed_at.write_rfc3339(text);
        text.push_str("\"}");
    }

    /// Reads it.
    pub(super) fn parse(value: &Value) -> Option<Self> {
        if value.as_object()?.len() != 6 {
            return None;
        }
        let text = |field: &str| value.get(field)?.as_str();
        Some(Self {
            fingerprint: Hash32::parse_hex(text("fingerprint")?.strip_prefix("blake3:")?.as_bytes())?,
            name: text("name")?.into(),
            version: text("version")?.into(),
            sequence: value.get("sequence")?.as_u64()?,
            image: Digest::parse(text("image")?).ok()?,
            signed_at: Wall::parse_rfc3339(text("signed_at")?)?,
        })
    }
}

/// What a release has to be besides verified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// The name that this node is configured for; without one the first activation pins it.
    pub name: Option<String>,
    /// The fingerprint that was announced.
    pub fingerprint: Option<Hash32>,
    /// The channel on which it was announced.
    pub channel: Option<String>,
}

/// Why a verified release is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// `wrong_name`, `wrong_fingerprint`, `wrong_channel`, `rollback` or `expired`.
    pub code: &'static str,
    /// What was wanted and what was found.
    pub words: String,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.words)
    }
}

impl Activation {
    /// The lowest admissible sequence of locks of this name.
    #[must_use]
    pub fn lock_floor(&self, name: &str) -> u64 {
        self.floors.get(name).copied().unwrap_or(0)
    }

    /// The name of the locks that this node takes, once one was activated.
    #[must_use]
    pub fn pinned_name(&self) -> Option<&str> {
        let in_force = self.current.as_ref().and_then(|current| current.lock.as_ref()).map(|lock| lock.name.as_str());
        // Bundles' floors have a slash in their keys, and locks' names have none. A floor that was reset pins no longer.
        let mut names = self.floors.keys().map(String::as_str).filter(|key| !key.contains('/'));
        in_force.filter(|name| self.floors.contains_key(*name)).or_else(|| names.next())
    }

    /// Whether a lock of this name and sequence may be in force.
    ///
    /// # Errors
    /// `wrong_name` or `rollback`.
    pub fn admit_lock(&self, name: &str, sequence: u64, configured: Option<&str>) -> Result<(), Rejection> {
        if let Some(want) = configured.or_else(|| self.pinned_name())
            && want != name
        {
            let how = if configured.is_some() { "is configured for" } else { "runs" };
            let words = alloc::format!("this node {how} `{want}`, the lock is of `{name}`");
            return Err(Rejection { code: "wrong_name", words });
        }
        let floor = self.lock_floor(name);
        if sequence < floor {
            let words = alloc::format!(
                "sequence {sequence} of `{name}` is below its floor {floor}; publish the old content under a new sequence, or \
                 see `autonomy release floor reset --help`"
            );
            return Err(Rejection { code: "rollback", words });
        }
        Ok(())
    }

    /// Whether a release may be in force.
    ///
    /// # Errors
    /// `wrong_name`, `wrong_fingerprint`, `wrong_channel`, `rollback`, or `expired` when the time floor moved on since it was verified.
    pub fn admit_release(&self, release: &Release, terms: &Terms) -> Result<(), Rejection> {
        let lock = &release.lock;
        if let Some(floor) = self.time_floor.filter(|floor| *floor > release.good_until) {
            let words = alloc::format!(
                "signed at {}, good until {}, and by its time floor it is {floor} on this node",
                release.signed_at,
                release.good_until
            );
            return Err(Rejection { code: "expired", words });
        }
        self.admit_lock(&lock.name, lock.sequence, terms.name.as_deref())?;
        if let Some(want) = terms.fingerprint
            && want != lock.fingerprint
        {
            let words = alloc::format!("blake3:{want} was announced, the lock is blake3:{}", lock.fingerprint);
            return Err(Rejection { code: "wrong_fingerprint", words });
        }
        if let Some(channel) = &terms.channel
            && !lock.channels.is_empty()
            && !lock.channels.contains(channel)
        {
            let words = alloc::format!("the lock is for {}, not for `{channel}`", lock.channels.join(", "));
            return Err(Rejection { code: "wrong_channel", words });
        }
        Ok(())
    }

    /// Takes note of when a release was signed: it is not earlier than that.
    pub(super) fn saw(&mut self, lock: &LockSlot) {
        self.time_floor = self.time_floor.max(Some(lock.signed_at));
    }

    /// Forgets the floor of a lock's name, and the time floor if that is wanted.
    ///
    /// # Errors
    /// When there is no such floor.
    pub fn without_floor(&self, name: &str, time: bool) -> Result<Self, String> {
        let mut after = self.clone();
        let known = !name.contains('/') && after.floors.remove(name).is_some();
        // The time floor is everybody's: it can be reset whatever name is given.
        let by_time = time && self.time_floor.is_some();
        if !known && !by_time {
            let known: Vec<&str> = self.floors.keys().map(String::as_str).filter(|key| !key.contains('/')).collect();
            let known = known.join(", ");
            let known = if known.is_empty() { String::from("there are none") } else { known };
            return Err(alloc::format!("there is no floor of `{name}` (floors of locks: {known})"));
        }
        if time {
            after.time_floor = None;
        }
        Ok(after)
    }
}
