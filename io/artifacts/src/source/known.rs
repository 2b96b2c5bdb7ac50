//! What a handle of a layout has read and need not parse again: the same bytes say the same.
//!
//! Nothing is spared but parsing: who asks has read the bytes just now, and hashed those of a manifest, so that damage is
//! seen each time. The search for what refers to an image looks through the same manifests for each image again.

use std::collections::BTreeMap;
use std::sync::Arc;

use machines::oci::{Digest, Index, Manifest};

/// How many bytes of documents are kept in parsed form; what is beyond is parsed again.
const MOST: usize = 256 * 1024;

/// Documents that were parsed.
#[derive(Debug, Default)]
pub(super) struct Known {
    index: Option<(Vec<u8>, Index)>,
    manifests: BTreeMap<Digest, Option<Arc<Manifest>>>,
    bytes: usize,
}

impl Known {
    /// The index that these bytes are.
    pub fn index(&self, bytes: &[u8]) -> Option<&Index> {
        self.index.as_ref().filter(|(known, _)| known == bytes).map(|(_, index)| index)
    }

    /// Keeps the index, in place of the one before.
    pub fn keep_index(&mut self, bytes: Vec<u8>, index: &Index) {
        self.index = (bytes.len() <= MOST).then(|| (bytes, index.clone()));
    }

    /// The manifest of this digest, `None` within when it is none that we read.
    pub fn manifest(&self, digest: Digest) -> Option<&Option<Arc<Manifest>>> {
        self.manifests.get(&digest)
    }

    /// Keeps what the bytes of a manifest were found to say.
    pub fn keep_manifest(&mut self, digest: Digest, bytes: &[u8], manifest: &Option<Arc<Manifest>>) {
        let after = self.bytes.saturating_add(bytes.len());
        if after <= MOST {
            self.bytes = after;
            self.manifests.insert(digest, manifest.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_bytes_are_known() {
        let mut known = Known::default();
        let index = Index::new("application/vnd.oci.image.index.v1+json".into(), Vec::new());
        let bytes = index.to_bytes();
        assert!(known.index(&bytes).is_none());
        known.keep_index(bytes.clone(), &index);
        assert_eq!(known.index(&bytes), Some(&index));
        let mut other = bytes.clone();
        other.push(b' ');
        assert!(known.index(&other).is_none());
        let manifest = Manifest::parse(&bytes, None).ok().map(Arc::new);
        known.keep_manifest(Digest::of(&bytes), &bytes, &manifest);
        assert_eq!(known.manifest(Digest::of(&bytes)), Some(&manifest));
        assert_eq!(known.manifest(Digest::of(&other)), None);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut known = Known::default();
        let long = vec![b' '; MOST + 1];
        known.keep_index(long.clone(), &Index::new(String::new(), Vec::new()));
        assert!(known.index(&long).is_none());
        for n in 0..100_u8 {
            known.keep_manifest(Digest::of(&[n]), &[b' '; MOST / 10], &None);
        }
        assert_eq!(known.manifests.len(), 10);
    }
}
