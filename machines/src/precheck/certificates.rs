//! What a precheck asks of a node's certificate (SPEC 10, exit 3).

use crate::time::{Span, Wall};
use crate::tree::Place;

/// A certificate that ends within this time, or exactly at its end, is too old to start with: 7 days.
pub const LEAST_LEFT: Span = Span::from_secs(7 * 24 * 3600);

/// Where a certificate, its key and its authorities lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The certificate and its chain, PEM.
    pub cert: Place,
    /// Its private key, PEM.
    pub key: Place,
    /// The authorities, PEM.
    pub ca: Place,
}

/// What was found there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Certificates {
    /// The key is the certificate's.
    pub matches: bool,
    /// Others than the owner may read the key.
    pub exposed: bool,
    /// The first end of a certificate in the chain.
    pub not_after: Wall,
}

impl Certificates {
    /// The reason not to start with them at this time.
    #[must_use]
    pub fn fault(&self, now: Wall) -> Option<Fault> {
        if !self.matches {
            return Some(Fault::Mismatch);
        }
        if self.exposed {
            return Some(Fault::Exposed);
        }
        if self.not_after <= now.after(LEAST_LEFT) {
            return Some(Fault::Expiring);
        }
        None
    }
}

/// What is wrong with a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The key belongs to another certificate.
    Mismatch,
    /// The key's file is open to others (FAULTS T16).
    Exposed,
    /// It has ended or ends within 7 days.
    Expiring,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t08_exactly_seven_days_are_too_soon() {
        let now = Wall::from_micros(1_800_000_000_000_000);
        let ends = |left: Span| Certificates { matches: true, exposed: false, not_after: now.after(left) };
        assert_eq!(ends(LEAST_LEFT).fault(now), Some(Fault::Expiring));
        assert_eq!(ends(Span::from_micros(LEAST_LEFT.as_micros() + 1)).fault(now), None);
        assert_eq!(Certificates { matches: false, ..ends(LEAST_LEFT) }.fault(now), Some(Fault::Mismatch));
        assert_eq!(Certificates { exposed: true, ..ends(LEAST_LEFT) }.fault(now), Some(Fault::Exposed));
    }
}
