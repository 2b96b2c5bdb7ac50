//! Which class goes next (SPEC 5): the most important one that waits, but after eight batches of higher classes in a row a
//! lower one has its turn, so that none starves.

use super::batch::{Class, PerClass};

/// Batches of higher classes after which a waiting class has its turn.
pub const TURN: u32 = 8;

/// How often each class was passed over since it last went or had nothing waiting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Order {
    passed: PerClass<u32>,
}

impl Order {
    /// The class of the next batch, given how many records of each class wait; `None` when none does.
    #[must_use]
    pub fn next(&self, waiting: &PerClass<u64>) -> Option<Class> {
        let starving =
            Class::ALL.into_iter().rev().find(|class| *waiting.get(*class) > 0 && *self.passed.get(*class) >= TURN);
        starving.or_else(|| Class::ALL.into_iter().find(|class| *waiting.get(*class) > 0))
    }

    /// A batch of `class` goes, while so many records of each class waited.
    pub fn went(&mut self, class: Class, waiting: &PerClass<u64>) {
        for other in Class::ALL {
            let passed = self.passed.get_mut(other);
            if other == class || *waiting.get(other) == 0 {
                *passed = 0;
            } else if other > class {
                *passed = passed.saturating_add(1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn sent(mut waiting: PerClass<u64>, batches: usize) -> Vec<Class> {
        let mut order = Order::default();
        let mut went = Vec::new();
        for _ in 0..batches {
            let Some(class) = order.next(&waiting) else { break };
            order.went(class, &waiting);
            *waiting.get_mut(class) -= 1;
            went.push(class);
        }
        went
    }

    #[test]
    fn errors_go_first_and_the_lowest_class_after_eight_batches() {
        use Class::{Decision as D, Error as E, Lifecycle as L};
        let went = sent(PerClass { error: 20, decision: 20, lifecycle: 20 }, 21);
        assert_eq!(went, [E, E, E, E, E, E, E, E, L, D, E, E, E, E, E, E, E, L, E, D, E]);
        assert_eq!(sent(PerClass { error: 1, decision: 2, lifecycle: 1 }, 9), [E, D, D, L]);
    }

    proptest! {
        // Some 1.2 million choices.
        #![proptest_config(ProptestConfig::with_cases(4096))]
        #[test]
        fn n10_no_class_waits_longer_than_its_bound(
            arrivals in prop::collection::vec((0u64..3, 0u64..3, 0u64..2), 200..400),
        ) {
            let mut order = Order::default();
            let mut waiting = PerClass::<u64>::default();
            let mut since = PerClass::<u32>::default();
            for (error, decision, lifecycle) in arrivals {
                waiting.error += error;
                waiting.decision += decision;
                waiting.lifecycle += lifecycle;
                let Some(class) = order.next(&waiting) else { continue };
                // What is passed over is always less important than what goes, or not yet due.
                order.went(class, &waiting);
                for other in Class::ALL {
                    let since = since.get_mut(other);
                    *since = if other == class || *waiting.get(other) == 0 { 0 } else { *since + 1 };
                    // A class in its turn may wait for the turn of the one below it.
                    prop_assert!(*since <= TURN + 2, "{other:?} was passed over {since} times");
                }
                *waiting.get_mut(class) -= 1;
            }
        }
    }
}
