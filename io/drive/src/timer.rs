//! The machine's deadline, and the thread that sleeps until it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use machines::machine::Deadline;
use machines::time::Mono;

use crate::clock::Clock;
use crate::fuse::lock;

/// No deadline.
const NEVER: u64 = u64::MAX;
/// The longest sleep: the condition variable does not count suspended time, our clock does.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);
/// The pause after a wake-up that moved the deadline nowhere, so that a machine's mistake costs no whole core.
const BREATH: Duration = Duration::from_millis(1);

/// When the machine next wants to be woken.
pub struct Timer {
    at: AtomicU64,
    closed: Mutex<bool>,
    earlier: Condvar,
}

impl Timer {
    pub fn new() -> Self {
        Self { at: AtomicU64::new(NEVER), closed: Mutex::new(false), earlier: Condvar::new() }
    }

    /// Notes the machine's deadline; called under the machine's lock. Wakes the thread only for an earlier one: for
    /// a later one it wakes at the old time and goes back to sleep.
    pub fn set(&self, deadline: Option<Deadline>) {
        let at = deadline.map_or(NEVER, |d| d.at.as_nanos());
        let before = self.at.swap(at, Ordering::AcqRel);
        if at < before {
            // The thread reads `at` under this lock: either it has yet to read it, or it sleeps and is woken.
            drop(lock(&self.closed));
            self.earlier.notify_one();
        }
    }

    /// Sleeps until the deadline has come; false when the timer was closed. `again` says that the last deadline was
    /// just handled.
    pub fn wait(&self, clock: Clock, again: bool) -> bool {
        let mut closed = lock(&self.closed);
        let mut breathe = again;
        loop {
            if *closed {
                return false;
            }
            let at = self.at.load(Ordering::Acquire);
            let now = clock.mono();
            let sleep = if at == NEVER {
                LONGEST_SLEEP
            } else if Mono::from_nanos(at) > now {
                Duration::from_nanos(Mono::from_nanos(at).since(now).as_nanos()).min(LONGEST_SLEEP)
            } else if breathe {
                BREATH
            } else {
                return true;
            };
            breathe = false;
            closed = self.earlier.wait_timeout(closed, sleep).unwrap_or_else(|_| std::process::abort()).0;
        }
    }

    pub fn close(&self) {
        *lock(&self.closed) = true;
        self.earlier.notify_all();
    }
}
