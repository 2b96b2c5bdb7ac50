//! Devices that are broken on purpose. Each must be caught within 1,000 seeds, else the simulator is the one that is broken.

/// What is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// `Sync` reports success and does nothing.
    SyncDoesNothing,
    /// `SyncFolder` reports success and does nothing.
    SyncFolderDoesNothing,
    /// The chain of epochs is not synced before it is renamed.
    ChainNotSynced,
    /// What is installed is not synced before it is renamed.
    InstalledNotSynced,
    /// The chain is replaced first; the operations follow it.
    EpochFirst,
    /// Evidence and fingerprint are written first; the chain follows them.
    ProjectionsFirst,
    /// The signature is checked over what lies there by then.
    ManifestReadAgain,
    /// Every signature is said to be good.
    SignatureBelieved,
    /// Everything is found as it has to be before the operations.
    PreflightSkipped,
    /// A copy is said to have the bytes that were looked at before.
    CopyNotCompared,
    /// The marker says 0 from the start.
    MarkerFirst,
    /// Everybody gets the lock.
    LockShared,
    /// The first chain is read for ever.
    StaleChain,
    /// Two names are exchanged one after the other.
    ExchangeInSteps,
    /// A file is renamed by copying it.
    RenameInPlace,
    /// A run depends on something outside its plan.
    Nondeterminism,
}

/// All of them with their names.
pub const ALL: &[(Sabotage, &str)] = &[
    (Sabotage::SyncDoesNothing, "edge-sync-does-nothing"),
    (Sabotage::SyncFolderDoesNothing, "edge-syncfolder-does-nothing"),
    (Sabotage::ChainNotSynced, "chain-not-synced"),
    (Sabotage::InstalledNotSynced, "installed-not-synced"),
    (Sabotage::EpochFirst, "epoch-before-operations"),
    (Sabotage::ProjectionsFirst, "projections-before-chain"),
    (Sabotage::ManifestReadAgain, "manifest-read-again"),
    (Sabotage::SignatureBelieved, "manifest-signature-believed"),
    (Sabotage::PreflightSkipped, "preflight-skipped"),
    (Sabotage::CopyNotCompared, "copy-not-compared"),
    (Sabotage::MarkerFirst, "marker-zero-first"),
    (Sabotage::LockShared, "state-lock-shared"),
    (Sabotage::StaleChain, "stale-chain"),
    (Sabotage::ExchangeInSteps, "exchange-in-steps"),
    (Sabotage::RenameInPlace, "rename-in-place"),
    (Sabotage::Nondeterminism, "edge-nondeterminism"),
];
