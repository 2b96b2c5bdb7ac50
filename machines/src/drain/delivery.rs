//! A batch on its way, and the search for the record that a receiver does not take.

use alloc::sync::Arc;

use super::batch::Batch;

/// A batch of which the first `done` records are dealt with.
#[derive(Clone, Debug)]
pub struct Delivery {
    batch: Arc<Batch>,
    done: usize,
    /// How many records go next.
    size: usize,
    /// A record before this one is known to be poisonous.
    suspect: Option<usize>,
}

impl Delivery {
    /// A batch of which nothing was sent.
    pub fn new(batch: Batch) -> Self {
        let size = batch.len();
        Self { batch: Arc::new(batch), done: 0, size, suspect: None }
    }

    /// The batch.
    pub const fn batch(&self) -> &Arc<Batch> {
        &self.batch
    }

    /// The records that go next: from the first up to, not including, the second index.
    pub fn slice(&self) -> (usize, usize) {
        (self.done, self.done.saturating_add(self.size).min(self.batch.len()))
    }

    /// Whether every record was dealt with.
    pub fn is_over(&self) -> bool {
        self.done >= self.batch.len()
    }

    /// The slice was taken.
    pub fn taken(&mut self) {
        self.done = self.slice().1;
        match self.suspect {
            // The poisonous one is still ahead: half of what it must be in.
            Some(end) if self.done < end => self.size = (end - self.done).div_ceil(2),
            Some(_) | None => self.forget(),
        }
    }

    /// The one record that the slice was made of is put aside; whether there are more like it will show.
    pub fn put_aside(&mut self) {
        self.done = self.slice().1;
        self.forget();
    }

    fn forget(&mut self) {
        self.suspect = None;
        self.size = self.batch.len().saturating_sub(self.done);
    }

    /// The slice was refused for one of its records: halves it. False when it was made of that record alone.
    pub fn narrow(&mut self) -> bool {
        let (from, to) = self.slice();
        if to - from <= 1 {
            return false;
        }
        self.suspect = Some(to);
        self.size = (to - from) / 2;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drain::batch::Class;
    use crate::ids::{IdSource, Seq};
    use crate::machine::Entropy;
    use crate::time::Wall;
    use crate::wal::frame::Kind;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn batch(n: usize) -> Batch {
        let log = IdSource::new(Entropy([1; 32])).next(Wall::default());
        let mut batch = Batch::new(log, "n".into(), Class::Decision);
        for i in 0..n {
            batch.push(b"x", Seq::new(u64::try_from(i).unwrap() + 1).unwrap(), Kind::Decision);
        }
        batch
    }

    /// Sends a batch to a receiver that does not take these records; says what it took, what was put aside, and how
    /// many sends that took.
    fn deliver(n: usize, poison: &[usize]) -> (Vec<usize>, Vec<usize>, usize) {
        let mut delivery = Delivery::new(batch(n));
        let (mut taken, mut aside, mut sends) = (Vec::new(), Vec::new(), 0);
        while !delivery.is_over() {
            let (from, to) = delivery.slice();
            assert!(from < to, "a slice is never empty");
            sends += 1;
            assert!(sends < 10_000, "it does not end");
            if !(from..to).any(|i| poison.contains(&i)) {
                taken.extend(from..to);
                delivery.taken();
            } else if !delivery.narrow() {
                aside.push(from);
                delivery.put_aside();
            }
        }
        (taken, aside, sends)
    }

    #[test]
    fn n06_one_poisonous_record_is_found_in_a_logarithm_of_sends() {
        for n in [1usize, 2, 3, 7, 64, 512] {
            for poison in 0..n {
                let (taken, aside, sends) = deliver(n, &[poison]);
                assert_eq!(aside, [poison]);
                assert_eq!(taken, (0..n).filter(|i| *i != poison).collect::<Vec<_>>());
                let bound = usize::try_from(n.next_power_of_two().trailing_zeros()).unwrap() + 3;
                assert!(sends <= bound, "{n} records, poison {poison}: {sends} sends");
            }
        }
    }

    proptest! {
        #[test]
        fn n06_any_set_of_poisonous_records_is_put_aside_and_all_others_go(
            n in 1usize..200, seed in prop::collection::vec(0usize..200, 0..12),
        ) {
            let mut poison: Vec<usize> = seed.into_iter().filter(|i| *i < n).collect();
            poison.sort_unstable();
            poison.dedup();
            let (taken, aside, _) = deliver(n, &poison);
            prop_assert_eq!(&aside, &poison);
            prop_assert_eq!(taken, (0..n).filter(|i| !poison.contains(i)).collect::<Vec<_>>());
        }
    }
}
