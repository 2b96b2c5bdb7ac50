//! How much room a record may take (SPEC 4, space): decisions leave a reserve for fault and lifecycle events, and
//! every allowed call holds the room for its own outcome, so that neither is ever refused for want of room.

use super::{Class, OnFull};

/// The smallest `max_bytes`.
pub const LEAST: u64 = 1024 * 1024;

/// The room that an allowed call holds for its outcome: capped output and message, ids, chain.
pub const OUTCOME: u64 = 12 * 1024;

/// The room of one log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    max: u64,
    on_full: OnFull,
}

impl Room {
    /// A log of at most `max_bytes` bytes, at least 1 MiB.
    pub fn new(max_bytes: u64, on_full: OnFull) -> Self {
        Self { max: max_bytes.max(LEAST), on_full }
    }

    /// The length at which the live file is sealed: min(64 MiB, max_bytes/8).
    pub fn seal_at(self) -> u64 {
        (self.max / 8).min(64 * 1024 * 1024)
    }

    /// What decisions leave to faults and lifecycle events.
    fn reserve(self) -> u64 {
        let whole = (self.max / 16).min(1024 * 1024);
        match self.on_full {
            OnFull::Deny => whole,
            OnFull::ShedLifecycle => whole / 2,
        }
    }

    /// Whether a record of `len` bytes of this class has room in a log of `used` bytes with `open` allowed calls
    /// that wait for their outcome.
    pub fn admits(self, class: Class, len: u64, used: u64, open: u64) -> bool {
        let held = open.saturating_mul(OUTCOME);
        let after = used.saturating_add(len);
        let limit = match class {
            Class::Allow => self.max.saturating_sub(self.reserve()).saturating_sub(held.saturating_add(OUTCOME)),
            Class::Deny => self.max.saturating_sub(self.reserve()).saturating_sub(held),
            // Its room was held since its decision, under the limit of that time; it is never refused.
            Class::Outcome => return true,
            Class::Lifecycle => match self.on_full {
                OnFull::Deny => self.max.saturating_sub(held),
                OnFull::ShedLifecycle => self.max.saturating_sub(self.reserve().saturating_mul(2)).saturating_sub(held),
            },
            Class::Fault => self.max.saturating_sub(held),
        };
        after <= limit
    }

    /// Whether room should be made now, before a call has to wait for it.
    pub fn is_short(self, used: u64, open: u64) -> bool {
        !self.admits(Class::Allow, self.seal_at(), used, open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d25_what_decisions_may_fill_leaves_room_for_every_outcome_and_fault() {
        for on_full in [OnFull::Deny, OnFull::ShedLifecycle] {
            for max in [0, LEAST, 64 * LEAST, 1 << 30] {
                let room = Room::new(max, on_full);
                // Fill with allows until one more is refused; their outcomes then still fit, whatever order.
                let (mut used, mut open) = (0u64, 0u64);
                while room.admits(Class::Allow, 4_000, used, open) && open < 2_000 {
                    used += 4_000;
                    open += 1;
                }
                assert!(open > 0);
                assert!(room.admits(Class::Fault, 1_000, used, open), "a fault has room beside them");
                while open > 0 {
                    assert!(room.admits(Class::Outcome, OUTCOME, used, open));
                    used += OUTCOME;
                    open -= 1;
                }
                assert!(used <= room.max);
            }
        }
    }

    #[test]
    fn lifecycle_events_are_shed_before_decisions_are_refused_only_when_asked_to() {
        let refused_first = |on_full| {
            let room = Room::new(LEAST, on_full);
            let mut used = 0;
            while room.admits(Class::Lifecycle, 500, used, 0) && room.admits(Class::Deny, 500, used, 0) {
                used += 500;
            }
            !room.admits(Class::Lifecycle, 500, used, 0)
        };
        assert!(!refused_first(OnFull::Deny));
        assert!(refused_first(OnFull::ShedLifecycle));
    }
}
