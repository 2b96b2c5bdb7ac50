//! Which file a segment is in. The writer may rename the live file at any moment, so that this is asked again
//! whenever something does not fit.

use alloc::vec::Vec;

use crate::disk::File;
use crate::ids::Seq;

/// The sealed segments that were listed, by their first sequence.
#[derive(Clone, Debug, Default)]
pub struct Files {
    sealed: Vec<Seq>,
}

impl Files {
    /// What a listing shows.
    #[must_use]
    pub fn of(listing: &[(File, u64)]) -> Self {
        let mut sealed: Vec<Seq> = listing.iter().filter_map(|(file, _)| file.sealed_first()).collect();
        sealed.sort_unstable();
        Self { sealed }
    }

    /// The file of a segment: its own if it is sealed, else the live one.
    #[must_use]
    pub fn holds(&self, segment: u64) -> File {
        self.sealed.iter().find(|first| first.get() == segment).map_or(File::Live, |first| File::Sealed(*first))
    }

    /// The sealed segment that may hold `seq`, and the one before it, among those that begin at or behind `base`.
    #[must_use]
    pub fn around(&self, base: Seq, seq: u64) -> (Option<Seq>, Option<Seq>) {
        let mut before = self.sealed.iter().filter(|first| **first >= base && first.get() <= seq).rev();
        (before.next().copied(), before.next().copied())
    }

    /// Whether there are sealed segments at or behind `base`.
    #[must_use]
    pub fn any_from(&self, base: Seq) -> bool {
        self.sealed.iter().any(|first| *first >= base)
    }
}
