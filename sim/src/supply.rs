//! What a plan says of releases: what a source does wrong, to which part, and what a release has to be.

use std::fmt::{self, Write as _};

/// What a source does wrong, as a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lies(pub u32);

/// The names of the set's bits. The first eight are done to single answers, the others to the source as a whole.
pub const LIES: &[&str] = &[
    "bytes",
    "short",
    "endless",
    "missing",
    "unreachable",
    "denied",
    "digest",
    "media",
    "stale",
    "moved",
    "mixed",
    "swapped",
    "listing",
];

/// How many of `LIES` are done to single answers.
pub const OF_ANSWERS: u32 = 8;

impl Lies {
    /// The set of these; a name that is not known adds nothing.
    #[must_use]
    pub fn of(names: &[&str]) -> Self {
        let bits = names.iter().filter_map(|name| LIES.iter().position(|known| known == name));
        Self(bits.fold(0, |set, bit| set | 1 << bit))
    }

    /// Whether the lie of this name is among them.
    #[must_use]
    pub fn has(self, name: &str) -> bool {
        LIES.iter().position(|known| *known == name).is_some_and(|bit| self.0 >> bit & 1 == 1)
    }

    /// Reads what `Display` writes.
    ///
    /// # Errors
    /// A name that is not known.
    pub fn parse(text: &str) -> Result<Self, String> {
        let names: Vec<&str> = text.split(',').filter(|name| *name != "none").collect();
        match names.iter().find(|name| !LIES.contains(name)) {
            Some(name) => Err(format!("`{name}` is no lie of a source")),
            None => Ok(Self::of(&names)),
        }
    }
}

impl fmt::Display for Lies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for name in LIES.iter().filter(|name| self.has(name)) {
            if !std::mem::take(&mut first) {
                f.write_char(',')?;
            }
            f.write_str(name)?;
        }
        if first { f.write_str("none") } else { Ok(()) }
    }
}

/// To which part of a release the lies about single answers are told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Part {
    /// Now and then, to any.
    #[default]
    Any,
    /// The image's manifest.
    Image,
    /// Its configuration and layers.
    Layer,
    /// The lock and its manifest.
    Lock,
    /// The policy bundle and its manifest.
    Policy,
    /// Signatures and their manifests.
    Signature,
    /// The list of what refers to a manifest.
    Listing,
}

/// All of them with their names.
pub const PARTS: &[(&str, Part)] = &[
    ("any", Part::Any),
    ("image", Part::Image),
    ("layer", Part::Layer),
    ("lock", Part::Lock),
    ("policy", Part::Policy),
    ("signature", Part::Signature),
    ("listing", Part::Listing),
];

/// What a verified release has to be besides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wants {
    /// Nothing.
    #[default]
    Anything,
    /// The node is configured for `agent`.
    Agent,
    /// The node is configured for `other`.
    Other,
    /// It was announced on the channel `stable`.
    Stable,
    /// It was announced on the channel `beta`.
    Beta,
    /// Its fingerprint was announced.
    Announced,
    /// Another fingerprint was announced.
    Unannounced,
}

/// All of them with their names.
pub const WANTS: &[(&str, Wants)] = &[
    ("anything", Wants::Anything),
    ("agent", Wants::Agent),
    ("other", Wants::Other),
    ("stable", Wants::Stable),
    ("beta", Wants::Beta),
    ("announced", Wants::Announced),
    ("unannounced", Wants::Unannounced),
];

/// What is done with a release that passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// It is stored and remembered.
    Import,
    /// It is put in force.
    Activate(Wants),
}

/// A release that an operator verifies, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// Which release: see `releases.rs`.
    pub release: u8,
    /// What the source does wrong.
    pub lies: Lies,
    /// To which part.
    pub on: Part,
    /// What comes of it.
    pub goal: Goal,
}

/// Names of locks that have floors.
pub const NAMES: [&str; 2] = ["agent", "other"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_lies_read_back() {
        for bits in [0, 1, 2, 0b1_0010, (1 << LIES.len()) - 1] {
            assert_eq!(Lies::parse(&Lies(bits).to_string()), Ok(Lies(bits)));
        }
        assert!(Lies::parse("bytes,truth").is_err());
        assert_eq!(LIES.iter().position(|name| *name == "media"), Some(OF_ANSWERS as usize - 1));
    }
}
