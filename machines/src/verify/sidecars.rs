//! The lock and the policy bundle that count, of all that are attached.

use alloc::string::String;
use alloc::vec::Vec;

use super::Inventory;
use super::attached::{FoundLock, FoundPolicy};
use crate::oci::{Descriptor, Digest};
use crate::policy::bundle::MAX_PACKED;

/// What may be chosen once it is known what is signed: one lock by several manifests, and bundles.
#[derive(Debug)]
pub(super) struct Candidates {
    pub(super) locks: Vec<FoundLock>,
    pub(super) policies: Vec<FoundPolicy>,
}

/// What was chosen.
#[derive(Debug)]
pub(super) struct Sidecars {
    pub(super) lock: Option<FoundLock>,
    pub(super) policies: Vec<FoundPolicy>,
}

impl Candidates {
    /// Chooses, of what several manifests attach, one whose signature counts: whoever attaches the same bytes once more takes
    /// nothing away by it. Without a lock nothing says which of several bundles is meant, and each has to be signed.
    /// `judged` gives the signatures of a manifest, or why none counts; what is chosen goes to `parts`.
    ///
    /// # Errors
    /// Why the first one of a kind does not count, when none does.
    pub(super) fn choose<'h>(
        self,
        judged: impl Fn(Digest) -> Result<&'h Inventory, String>,
        parts: &mut Inventory,
    ) -> Result<Sidecars, String> {
        let unbound = self.locks.is_empty();
        let mut lock = None;
        let mut refusal = None;
        for found in self.locks {
            match judged(found.manifest) {
                Ok(signatures) => {
                    parts.extend(&found.parts);
                    parts.extend(signatures);
                    (lock, refusal) = (Some(found), None);
                    break;
                }
                Err(reason) => refusal = refusal.or(Some(reason)),
            }
        }
        if let Some(reason) = refusal {
            return Err(reason);
        }
        let mut policies = Vec::new();
        for found in self.policies {
            match judged(found.manifest) {
                Ok(signatures) => {
                    parts.extend(&found.parts);
                    parts.extend(signatures);
                    policies.push(found);
                    if !unbound {
                        return Ok(Sidecars { lock, policies });
                    }
                }
                Err(reason) => refusal = refusal.or(Some(reason)),
            }
        }
        refusal.map_or(Ok(Sidecars { lock, policies }), Err)
    }
}

impl Sidecars {
    /// What of step 2 needs no bytes; gives the bundle that is to be fetched.
    ///
    /// # Errors
    /// What the lock binds, and what is there instead.
    pub(super) fn digests(&self, found: &FoundLock, image: &Digest) -> Result<Option<Descriptor>, String> {
        let (lock, _) = found.read.as_ref().map_err(Clone::clone)?;
        let want = lock.agent_artifact.digest;
        if want != *image {
            return Err(alloc::format!("the lock binds the image {want}, got {image}"));
        }
        let Some(policy) = self.policies.first() else { return Ok(None) };
        let layer = policy.layer.as_ref().map_err(Clone::clone)?;
        let want = lock.policy_bundle.digest;
        if layer.digest != want {
            return Err(alloc::format!("the lock binds the policy bundle {want}, got {}", layer.digest));
        }
        if layer.size > u64::try_from(MAX_PACKED).unwrap_or(0) {
            return Err(alloc::format!("the policy bundle has {} bytes, the limit is {MAX_PACKED}", layer.size));
        }
        Ok(Some(layer.clone()))
    }
}
