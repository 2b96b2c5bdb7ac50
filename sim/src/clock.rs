//! The node's two clocks: the monotonic one drifts and never goes back; the wall clock also jumps.

use machines::time::{Mono, Now, Wall};

const MILLION: u64 = 1_000_000;

/// A pair of clocks over the world's time, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// World and monotonic time at the last change of rate.
    world: u64,
    mono: u64,
    /// Nanoseconds of the clock per million nanoseconds of the world.
    rate: u64,
    /// The wall clock's reading, in microseconds, when the monotonic clock stood at zero.
    wall_us: i128,
}

impl Clock {
    /// Clocks that start now, with this wall reading.
    #[must_use]
    pub const fn new(wall_us: u64) -> Self {
        Self { world: 0, mono: 1_000_000_000, rate: MILLION, wall_us: wall_us as i128 }
    }

    fn mono(&self, world: u64) -> u64 {
        self.mono + world.saturating_sub(self.world) * self.rate / MILLION
    }

    /// What the node reads at a moment of the world.
    #[must_use]
    pub fn now(&self, world: u64) -> Now {
        let mono = self.mono(world);
        let wall = (self.wall_us + i128::from(mono / 1_000)).clamp(0, i128::from(u64::MAX));
        Now { mono: Mono::from_nanos(mono), wall: Wall::from_micros(u64::try_from(wall).unwrap_or(0)) }
    }

    /// The first moment of the world at which the monotonic clock reads `mono` or later.
    #[must_use]
    pub fn when(&self, mono: Mono) -> u64 {
        let ahead = u128::from(mono.as_nanos().saturating_sub(self.mono));
        let world = (ahead * u128::from(MILLION)).div_ceil(u128::from(self.rate));
        self.world.saturating_add(u64::try_from(world).unwrap_or(u64::MAX))
    }

    /// From `world` on, the clocks run faster by `ppm` parts of a million, or slower below zero.
    pub fn drift(&mut self, world: u64, ppm: i32) {
        self.mono = self.mono(world);
        self.world = world;
        let ppm = i64::from(ppm.clamp(-500_000, 500_000));
        self.rate = u64::try_from(1_000_000 + ppm).unwrap_or(MILLION);
    }

    /// The wall clock jumps.
    pub fn jump(&mut self, by_us: i64) {
        self.wall_us = self.wall_us.saturating_add(i128::from(by_us));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn x10_the_monotonic_clock_never_goes_back_whatever_the_wall_clock_does() {
        let mut clock = Clock::new(5_000_000);
        let mut last = 0;
        for (at, ppm, jump) in [(10, 0, -9_000_000), (20, -400_000, 50), (30, 300_000, -50), (40, 0, i64::MAX)] {
            clock.drift(at * 1_000_000, ppm);
            clock.jump(jump);
            let now = clock.now(at * 1_000_000 + 500_000).mono.as_nanos();
            assert!(now >= last);
            last = now;
        }
        assert_eq!(Clock::new(0).now(0).wall.as_micros() / 10, 100_000);
    }

    #[test]
    fn a_wait_ends_when_the_drifting_clock_says_so() {
        for ppm in [-300_000, 0, 7, 250_000] {
            let mut clock = Clock::new(0);
            clock.drift(3_000, ppm);
            let due = Mono::from_nanos(clock.now(3_000).mono.as_nanos() + 1_234_567);
            let at = clock.when(due);
            assert!(clock.now(at).mono >= due);
            assert!(clock.now(at - 2).mono < due);
        }
    }
}
