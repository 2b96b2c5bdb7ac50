//! The real clocks and the real source of entropy.

use machines::machine::Entropy;
use machines::time::{Mono, Now, Wall};
use rustix::time::{ClockId, clock_gettime};

/// Reads the time for a machine.
///
/// The monotonic reading is `CLOCK_BOOTTIME`: it counts the time for which the machine was suspended, so that
/// whatever ran out during an hour of sleep is found to have run out before it is next used (FAULTS X09).
/// A step of the wall clock moves only the labels (X10).
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock;

impl Clock {
    /// Both clocks.
    #[must_use]
    pub fn now(self) -> Now {
        Now { mono: self.mono(), wall: wall() }
    }

    /// The monotonic clock alone, in nanoseconds since boot.
    #[must_use]
    pub fn mono(self) -> Mono {
        Mono::from_nanos(nanos(ClockId::Boottime))
    }
}

/// The wall clock, in microseconds since 1970; before that, 0.
#[must_use]
pub fn wall() -> Wall {
    Wall::from_micros(nanos(ClockId::Realtime) / 1_000)
}

fn nanos(id: ClockId) -> u64 {
    let at = clock_gettime(id);
    let secs = u64::try_from(at.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(at.tv_nsec).unwrap_or(0);
    secs.saturating_mul(1_000_000_000).saturating_add(nanos)
}

/// 32 bytes from the kernel, for a machine's first event.
///
/// # Errors
/// When the kernel gives none; nothing may be started then.
pub fn entropy() -> Result<Entropy, std::io::Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|e| std::io::Error::other(format!("no entropy from the kernel: {e}")))?;
    Ok(Entropy(bytes))
}

/// The kernel's id of this boot: another one after every start of the machine, the same for every process in between.
///
/// # Errors
/// When `/proc` is not there or says nothing.
pub fn boot_id() -> Result<String, std::io::Error> {
    const FILE: &str = "/proc/sys/kernel/random/boot_id";
    let named = |error: std::io::Error| std::io::Error::new(error.kind(), format!("{FILE}: {error}"));
    let id = std::fs::read_to_string(FILE).map_err(named)?.trim().to_owned();
    if id.is_empty() { Err(std::io::Error::other(format!("{FILE} is empty"))) } else { Ok(id) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_moves_forward_and_the_label_is_of_our_time() {
        let (a, b) = (Clock.now(), Clock.now());
        assert!(b.mono >= a.mono && a.mono > Mono::ZERO);
        assert!(a.wall.to_string().as_str() > "2026-01-01");
    }

    #[test]
    fn a_boot_has_one_id() {
        let id = boot_id().unwrap();
        assert_eq!((id.len(), &id), (36, &boot_id().unwrap()));
    }

    #[test]
    fn entropy_differs_from_call_to_call() {
        assert_ne!(entropy().unwrap().0, entropy().unwrap().0);
    }
}
