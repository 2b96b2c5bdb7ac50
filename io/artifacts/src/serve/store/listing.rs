//! Listings, page by page: a page holds the smallest names behind the last one told, and costs memory for a page only.

use std::collections::BTreeSet;
use std::io;

use machines::ids::Hash32;
use machines::json::Value;
use machines::oci::Digest;

use super::{Store, missing_is_none, within};
use crate::serve::route::Repository;

/// Most referrers that one answer names, and the bytes at which it ends.
const REFERRERS: usize = 500;
const REFERRERS_BYTES: usize = 2 * 1024 * 1024;
/// Most referrers that are looked at for one answer, when only some kinds are asked for.
const REFERRERS_LOOKED_AT: usize = 4000;

/// A part of a listing.
#[derive(Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// The entries, in order.
    pub entries: Vec<T>,
    /// Where the next page begins: behind this name. `None` at the end.
    pub more_after: Option<String>,
}

/// The smallest keys of those behind `last`, at most `n` of them.
struct Smallest<K> {
    n: usize,
    last: Option<K>,
    kept: BTreeSet<K>,
    more: bool,
}

impl<K: Ord> Smallest<K> {
    const fn new(n: usize, last: Option<K>) -> Self {
        Self { n, last, kept: BTreeSet::new(), more: false }
    }

    fn offer(&mut self, key: K) {
        if self.last.as_ref().is_some_and(|last| key <= *last) {
            return;
        }
        self.kept.insert(key);
        if self.kept.len() > self.n {
            self.kept.pop_last();
            self.more = true;
        }
    }
}

/// Lexical order regardless of case, and by bytes where that is the same (distribution-spec, "Listing Tags").
fn by_letters(name: &str) -> (String, String) {
    (name.to_ascii_lowercase(), name.to_owned())
}

impl Store {
    /// `n` tags of a repository behind `last`; `None` when there is no such repository.
    pub fn tags(&self, repository: &Repository, n: usize, last: Option<&str>) -> io::Result<Option<Page<String>>> {
        if !self.has_repository(repository)? {
            return Ok(None);
        }
        let mut smallest = Smallest::new(n, last.map(by_letters));
        if let Some(entries) = missing_is_none(self.root.entries(&within(repository, "_tags")))? {
            for entry in entries {
                smallest.offer(by_letters(&entry?.name));
            }
        }
        Ok(Some(page(smallest.more, smallest.kept.into_iter().map(|(_, name)| name).collect())))
    }

    /// `n` repositories behind `last`.
    pub fn repositories(&self, n: usize, last: Option<&str>) -> io::Result<Page<String>> {
        let mut smallest = Smallest::new(n, last.map(str::to_owned));
        self.each_repository(&mut |name| {
            smallest.offer(name.to_owned());
            Ok(())
        })?;
        Ok(page(smallest.more, smallest.kept.into_iter().collect()))
    }

    /// Descriptors of the manifests that refer to `subject`, behind the one with the digest `last`, of the kind `kind`.
    pub fn referrers(
        &self,
        repository: &Repository,
        subject: &Digest,
        kind: Option<&str>,
        last: Option<&Digest>,
    ) -> io::Result<Page<Value>> {
        let folder = format!("{}/{}", within(repository, "_referrers"), subject.hash());
        let mut smallest = Smallest::new(REFERRERS_LOOKED_AT, last.map(|digest| *digest.hash()));
        if let Some(entries) = missing_is_none(self.root.entries(&folder))? {
            for entry in entries {
                if let Some(hash) = Hash32::parse_hex(entry?.name.as_bytes()) {
                    smallest.offer(hash);
                }
            }
        }
        let mut page = Page { entries: Vec::new(), more_after: None };
        let (mut bytes, mut before) = (0_usize, None);
        for hash in smallest.kept {
            if page.entries.len() >= REFERRERS || bytes >= REFERRERS_BYTES {
                page.more_after = before;
                return Ok(page);
            }
            if let Some(descriptor) = self.referrer(&folder, &hash, kind)? {
                bytes = bytes.saturating_add(descriptor.encoded_len());
                page.entries.push(descriptor);
            }
            before = Some(Digest::from_hash(hash).to_string());
        }
        page.more_after = before.filter(|_| smallest.more);
        Ok(page)
    }
}

fn page(more: bool, entries: Vec<String>) -> Page<String> {
    let more_after = entries.last().filter(|_| more).cloned();
    Page { entries, more_after }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_holds_the_smallest_behind_the_last() {
        let page_of = |n, last: Option<&str>| {
            let mut smallest = Smallest::new(n, last.map(by_letters));
            for name in ["b", "C", "a", "d", "B", "v10", "v2"] {
                smallest.offer(by_letters(name));
            }
            page(smallest.more, smallest.kept.into_iter().map(|(_, name)| name).collect())
        };
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            page_of(9, None),
            Page { entries: names(&["a", "B", "b", "C", "d", "v10", "v2"]), more_after: None }
        );
        assert_eq!(page_of(3, None), Page { entries: names(&["a", "B", "b"]), more_after: Some("b".into()) });
        assert_eq!(page_of(3, Some("b")), Page { entries: names(&["C", "d", "v10"]), more_after: Some("v10".into()) });
        assert_eq!(page_of(3, Some("v10")), Page { entries: names(&["v2"]), more_after: None });
        assert_eq!(page_of(3, Some("zz")), Page { entries: vec![], more_after: None });
        assert_eq!(page_of(0, None), Page { entries: vec![], more_after: None });
    }
}
