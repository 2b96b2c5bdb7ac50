//! What the files of a node and the host together say: one table, walked by tests.

use alloc::string::String;
use alloc::vec::Vec;

use super::chain::{Chain, Entry};
use super::files::{Evidence, Fingerprint};
use crate::ids::Hash32;

/// A file as it was found: absent, unusable with the reason, or read.
pub type Found<T> = Option<Result<T, String>>;

/// What was read.
#[derive(Clone, Debug)]
pub struct State {
    /// `epoch/chain.jsonl`.
    pub chain: Found<Chain>,
    /// `bootstrap/os_fingerprint.json`.
    pub fingerprint: Found<Fingerprint>,
    /// `epoch/current/evidence.json`.
    pub current: Found<Evidence>,
    /// `epoch/previous/evidence.json`.
    pub previous: Found<Evidence>,
    /// `edged` has run on this state root before.
    pub ran_before: bool,
}

/// A file that follows from the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Projection {
    /// `epoch/previous/evidence.json`, from the current evidence.
    Previous,
    /// `epoch/current/evidence.json`.
    Current,
    /// `bootstrap/os_fingerprint.json`.
    Fingerprint,
}

/// The projections of the first start. The fingerprint goes first, so that evidence without one is never the trace of a
/// crash.
pub const OF_FIRST: [Projection; 2] = [Projection::Fingerprint, Projection::Current];
/// The projections of a reconstruction.
pub const OF_LATER: [Projection; 3] = [Projection::Previous, Projection::Current, Projection::Fingerprint];

/// What follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Neither chain nor evidence: the first start.
    FirstRun,
    /// The chain stands. What it is ahead of is written first, then the host is compared.
    Stands {
        /// What a crash left unwritten, in order.
        unwritten: Vec<Projection>,
        /// The fingerprint that was in force, when the host is another one.
        replaced: Option<Hash32>,
    },
    /// The files contradict each other.
    Refused(Contradiction),
}

/// How the files contradict each other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Contradiction {
    /// Evidence or an older start of `edged`, and no chain.
    #[error("epoch/chain.jsonl is missing though this node was started before; put it back from a copy")]
    ChainMissing,
    /// The chain does not verify.
    #[error("epoch/chain.jsonl is damaged: {0}; put it back from a copy")]
    ChainBroken(String),
    /// No fingerprint beside a chain and evidence.
    #[error(
        "bootstrap/os_fingerprint.json is missing though this node was started before; put it back from a copy, or write \
         one with a composite_hash of zeros, boot_epoch {0}, components {{}} and captured_at to have the runtime rebuilt"
    )]
    FingerprintMissing(u64),
    /// A fingerprint that cannot be read.
    #[error("bootstrap/os_fingerprint.json cannot be used: {0}")]
    FingerprintUnusable(String),
    /// A fingerprint of another host and no chain.
    #[error("bootstrap/os_fingerprint.json is there without epoch/chain.jsonl and names another host")]
    FingerprintForeign,
    /// The fingerprint's epoch is above the chain's.
    #[error(
        "boot_epoch {stored} of bootstrap/os_fingerprint.json is above the {chain} of epoch/chain.jsonl: the chain was set back"
    )]
    EpochAhead {
        /// The fingerprint's.
        stored: u64,
        /// The chain's.
        chain: u64,
    },
    /// The fingerprint's epoch is further below the chain's than a crash can leave it.
    #[error(
        "boot_epoch {stored} of bootstrap/os_fingerprint.json is below the {chain} of epoch/chain.jsonl: the file was set back"
    )]
    EpochBehind {
        /// The fingerprint's.
        stored: u64,
        /// The chain's.
        chain: u64,
    },
    /// Evidence that the chain does not explain.
    #[error("{file} does not say what epoch/chain.jsonl says: {cause}; put it back from a copy")]
    Evidence {
        /// Which.
        file: &'static str,
        /// What is wrong with it.
        cause: String,
    },
}

const CURRENT: &str = "epoch/current/evidence.json";
const PREVIOUS: &str = "epoch/previous/evidence.json";

impl State {
    /// The verdict about this state on a host with this fingerprint.
    #[must_use]
    pub fn judge(&self, host: Hash32) -> Verdict {
        match &self.chain {
            None => self.without_chain(host),
            Some(Err(cause)) => Verdict::Refused(Contradiction::ChainBroken(cause.clone())),
            Some(Ok(chain)) => match self.unwritten(chain) {
                Ok(unwritten) => {
                    let stored = match &self.fingerprint {
                        Some(Ok(stored)) if !unwritten.contains(&Projection::Fingerprint) => stored.composite_hash,
                        Some(_) | None => chain.last().new_hash,
                    };
                    // Both have to be this host's: the stored one is open to everybody who can write files.
                    let other = [stored, chain.last().new_hash].into_iter().find(|hash| *hash != host);
                    Verdict::Stands { unwritten, replaced: other }
                }
                Err(contradiction) => Verdict::Refused(contradiction),
            },
        }
    }

    fn without_chain(&self, host: Hash32) -> Verdict {
        if self.current.is_some() || self.previous.is_some() || self.ran_before {
            return Verdict::Refused(Contradiction::ChainMissing);
        }
        match &self.fingerprint {
            None => Verdict::FirstRun,
            Some(Err(cause)) => Verdict::Refused(Contradiction::FingerprintUnusable(cause.clone())),
            Some(Ok(stored)) if stored.boot_epoch > 0 => Verdict::Refused(Contradiction::ChainMissing),
            Some(Ok(stored)) if stored.composite_hash != host => Verdict::Refused(Contradiction::FingerprintForeign),
            Some(Ok(_)) => Verdict::FirstRun,
        }
    }

    /// What a crash left unwritten behind the chain's last line; everything else is a contradiction.
    fn unwritten(&self, chain: &Chain) -> Result<Vec<Projection>, Contradiction> {
        let last = chain.last();
        let stored = match &self.fingerprint {
            Some(Ok(stored)) => stored.boot_epoch,
            Some(Err(cause)) => return Err(Contradiction::FingerprintUnusable(cause.clone())),
            None if last.epoch == 0 && self.current.is_none() && self.previous.is_none() => {
                return Ok(OF_FIRST.to_vec());
            }
            None => return Err(Contradiction::FingerprintMissing(last.epoch)),
        };
        if stored > last.epoch {
            return Err(Contradiction::EpochAhead { stored, chain: last.epoch });
        }
        if stored == last.epoch {
            if last.epoch == 0 && self.current.is_none() && self.previous.is_none() {
                return Ok(alloc::vec![Projection::Current]);
            }
            says(CURRENT, &self.current, &[Some(last)])?;
            says(PREVIOUS, &self.previous, &[chain.before()])?;
            return Ok(Vec::new());
        }
        let Some(before) = chain.before().filter(|before| before.epoch == stored) else {
            return Err(Contradiction::EpochBehind { stored, chain: last.epoch });
        };
        if says(CURRENT, &self.current, &[Some(last)]).is_ok() {
            says(PREVIOUS, &self.previous, &[Some(before)])?;
            return Ok(alloc::vec![Projection::Fingerprint]);
        }
        says(CURRENT, &self.current, &[Some(before)])?;
        says(PREVIOUS, &self.previous, &[chain.earlier(), Some(before)])?;
        Ok(OF_LATER.to_vec())
    }
}

/// Whether evidence says what one of these lines says; `None` stands for no evidence.
fn says(file: &'static str, found: &Found<Evidence>, lines: &[Option<&Entry>]) -> Result<(), Contradiction> {
    let wrong = |cause: String| Contradiction::Evidence { file, cause };
    let fits = match found {
        None => lines.contains(&None),
        Some(Err(cause)) => return Err(wrong(cause.clone())),
        Some(Ok(evidence)) => lines.iter().flatten().any(|line| evidence.agrees(line)),
    };
    if fits {
        return Ok(());
    }
    let it = match found {
        None => String::from("it is missing"),
        Some(Ok(evidence)) => alloc::format!("it names epoch {}", evidence.epoch),
        Some(Err(cause)) => cause.clone(),
    };
    let want: Vec<String> =
        lines.iter().map(|line| line.map_or("no file".into(), |line| alloc::format!("epoch {}", line.epoch))).collect();
    Err(wrong(alloc::format!("{it}, the chain wants {}", want.join(" or "))))
}
