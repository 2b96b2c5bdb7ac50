//! Random numbers by counting: the n-th number of a stream is a mix of (seed, stream, identity, n).
//!
//! Nothing here has a state that two users share. What is drawn for one thing (a chain of disk operations, a file at a
//! power loss, a call) does not move when another thing is taken out of the plan. Whole numbers only.

/// What a number is drawn for. Each stream is independent of the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Stream {
    /// Which kinds of faults a run has.
    Mask = 1,
    /// The configuration of a run.
    Config,
    /// The workload.
    Load,
    /// The faults and their times.
    Faults,
    /// The entropy that a machine is started with.
    Entropy,
    /// How long a disk operation takes.
    DiskLatency,
    /// How long a piece of work takes.
    WorkLatency,
    /// What of an operation in flight a crash lets through.
    Cut,
    /// What survives a power loss.
    Survival,
    /// Bytes that were never written by anybody.
    Garbage,
    /// Choices of the harness, not of a run.
    Harness,
    /// How long a request takes, and what becomes of it on its way.
    Net,
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The finaliser of SplitMix64: every input bit reaches every output bit.
#[must_use]
pub const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The `n`-th number of the thing `id` in `stream` of the run `seed`.
#[must_use]
pub const fn draw(seed: u64, stream: Stream, id: u64, n: u64) -> u64 {
    let key = mix(mix(seed.wrapping_add(GOLDEN)) ^ (stream as u64).wrapping_mul(0xd6e8_feb8_6659_fd93));
    mix(mix(key ^ id.wrapping_mul(GOLDEN)).wrapping_add(n.wrapping_mul(GOLDEN)))
}

/// A sequence of numbers for one thing.
#[derive(Clone, Debug)]
pub struct Rng {
    key: u64,
    n: u64,
}

impl Rng {
    /// The numbers of the thing `id` in `stream` of the run `seed`.
    #[must_use]
    pub const fn new(seed: u64, stream: Stream, id: u64) -> Self {
        Self { key: draw(seed, stream, id, u64::MAX), n: 0 }
    }

    /// The next 64 bits.
    pub const fn next(&mut self) -> u64 {
        self.n = self.n.wrapping_add(GOLDEN);
        mix(self.key.wrapping_add(self.n))
    }

    /// A number from `low` to `high`, both included; `low` when they are the wrong way round.
    pub fn range(&mut self, low: u64, high: u64) -> u64 {
        let Some(width) = high.checked_sub(low).and_then(|w| w.checked_add(1)) else {
            return if high < low { low } else { self.next() };
        };
        // Lemire's multiply and shift; the bias of at most width / 2^64 does not matter here.
        let wide = u128::from(self.next()) * u128::from(width);
        low + u64::try_from(wide >> 64).unwrap_or(0)
    }

    /// The same for `u32`.
    pub fn range32(&mut self, low: u32, high: u32) -> u32 {
        u32::try_from(self.range(u64::from(low), u64::from(high))).unwrap_or(low)
    }

    /// True in `num` of `den` cases.
    pub fn ratio(&mut self, num: u64, den: u64) -> bool {
        self.range(1, den.max(1)) <= num
    }

    /// One of these; the first when there is nothing to choose.
    pub fn pick<T: Copy>(&mut self, from: &[T], or: T) -> T {
        let last = u64::try_from(from.len()).unwrap_or(u64::MAX).saturating_sub(1);
        let at = usize::try_from(self.range(0, last)).unwrap_or(0);
        from.get(at).copied().unwrap_or(or)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_in_range_and_reach_both_ends() {
        let mut rng = Rng::new(7, Stream::Harness, 0);
        let mut seen = [0u32; 5];
        for _ in 0..1_000 {
            let n = rng.range(3, 7);
            seen[usize::try_from(n - 3).unwrap()] += 1;
        }
        assert!(seen.iter().all(|n| *n > 120), "{seen:?}");
        assert_eq!(rng.range(9, 9), 9);
        assert_eq!(rng.range(9, 3), 9);
        rng.range(0, u64::MAX);
    }

    #[test]
    fn ratios_are_what_they_say() {
        let mut rng = Rng::new(8, Stream::Harness, 1);
        let hits = (0..10_000).filter(|_| rng.ratio(1, 4)).count();
        assert!((2_300..2_700).contains(&hits), "{hits}");
        assert!(!(0..100).any(|_| rng.ratio(0, 4)));
        assert!((0..100).all(|_| rng.ratio(4, 4)));
    }

    #[test]
    fn streams_and_identities_are_independent() {
        let a = draw(1, Stream::Cut, 5, 0);
        assert_ne!(a, draw(1, Stream::Survival, 5, 0));
        assert_ne!(a, draw(1, Stream::Cut, 6, 0));
        assert_ne!(a, draw(2, Stream::Cut, 5, 0));
        assert_ne!(a, draw(1, Stream::Cut, 5, 1));
        assert_eq!(a, draw(1, Stream::Cut, 5, 0));
    }
}
