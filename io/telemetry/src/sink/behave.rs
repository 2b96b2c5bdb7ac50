//! What a sink does with a request.

use std::str::FromStr;

/// The behaviours of a sink, each a fault that a drain has to stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Behave {
    /// Stores all, answers full success.
    #[default]
    Accept,
    /// Stores all but the last record, and says that one was rejected.
    Partial,
    /// 429 with `Retry-After: 1`; nothing is stored.
    TooMany,
    /// 503 with `Retry-After: 1`; nothing is stored.
    Unavailable,
    /// Reads the request and never answers; nothing is stored.
    Hang,
    /// Stores all and closes the connection without an answer: the answer is lost.
    Cut,
    /// Counts records and looks at nothing else: for measurements.
    Discard,
    /// 400 for a request that holds a record whose body contains this text; nothing of it is stored.
    Poison(String),
}

/// A behaviour that there is not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?}: there is accept, partial, 429, 503, hang, cut, discard and poison:TEXT")]
pub struct UnknownBehaviour(String);

impl FromStr for Behave {
    type Err = UnknownBehaviour;

    fn from_str(text: &str) -> Result<Self, UnknownBehaviour> {
        Ok(match text {
            "accept" => Self::Accept,
            "partial" => Self::Partial,
            "429" => Self::TooMany,
            "503" => Self::Unavailable,
            "hang" => Self::Hang,
            "cut" => Self::Cut,
            "discard" => Self::Discard,
            other => match other.strip_prefix("poison:") {
                Some(text) if !text.is_empty() => Self::Poison(text.to_owned()),
                Some(_) | None => return Err(UnknownBehaviour(other.chars().take(64).collect())),
            },
        })
    }
}

impl std::fmt::Display for Behave {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Accept => "accept",
            Self::Partial => "partial",
            Self::TooMany => "429",
            Self::Unavailable => "503",
            Self::Hang => "hang",
            Self::Cut => "cut",
            Self::Discard => "discard",
            Self::Poison(text) => return write!(f, "poison:{text}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_behaviour_reads_back_from_its_name() {
        for name in ["accept", "partial", "429", "503", "hang", "cut", "discard", "poison:bad thing"] {
            assert_eq!(name.parse::<Behave>().unwrap().to_string(), name);
        }
        for name in ["", "ACCEPT", "poison", "poison:", "200"] {
            assert!(name.parse::<Behave>().is_err(), "{name}");
        }
    }
}
