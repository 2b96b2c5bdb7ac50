//! The trace of a run: a rolling hash of compact records, the same in debug and release and under any number of threads;
//! and, only when somebody wants to read, lines of text.

use crate::rng::mix;

/// The hash of everything that happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    hash: u64,
    records: u64,
}

impl Trace {
    /// Adds a record.
    pub const fn record(&mut self, kind: u64, a: u64, b: u64) {
        let word = (a ^ kind << 56).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ b.rotate_left(32);
        self.hash = (self.hash ^ word).wrapping_mul(0xd6e8_feb8_6659_fd93).rotate_left(27);
        self.records += 1;
    }

    /// The hash.
    #[must_use]
    pub const fn hash(self) -> u64 {
        mix(self.hash ^ self.records)
    }

    /// How many records it covers.
    #[must_use]
    pub const fn records(self) -> u64 {
        self.records
    }
}

/// A line of the timeline.
#[derive(Clone, Debug)]
pub struct Line {
    /// Microseconds since the start of the world.
    pub at_us: u64,
    /// What happened.
    pub text: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_content_of_records_count() {
        let run = |records: &[(u64, u64, u64)]| {
            let mut trace = Trace::default();
            for (kind, a, b) in records {
                trace.record(*kind, *a, *b);
            }
            trace.hash()
        };
        let base = run(&[(1, 2, 3), (4, 5, 6)]);
        assert_eq!(base, run(&[(1, 2, 3), (4, 5, 6)]));
        for other in [&[(4, 5, 6), (1, 2, 3)][..], &[(1, 2, 3)], &[(1, 2, 3), (4, 5, 7)], &[(1, 3, 2), (4, 5, 6)]] {
            assert_ne!(base, run(other));
        }
    }
}
