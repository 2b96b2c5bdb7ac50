//! Devices and machines that are broken on purpose. Each must be caught within 1,000 seeds, else the simulator is the one
//! that is broken.

/// What is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// `Sync` reports success and does nothing.
    SyncDoesNothing,
    /// `SyncDir` reports success and does nothing.
    SyncDirDoesNothing,
    /// Every fifth append reports success and does nothing.
    AppendDropped,
    /// A chain of the log completes when its append is done, before its sync.
    CompletesBeforeSync,
    /// A chain of the log completes when it is handed in: the answer is released early.
    AnswersEarly,
    /// The safe-point is published before the sync.
    PublishesBeforeSync,
    /// The driver runs an allowed tool when its decision is handed to the disk.
    ToolRunsEarly,
    /// An allowed call is answered when its tool is done, before its outcome is recorded.
    AnswersBeforeOutcome,
    /// A deny of the policy reaches the machine as an allow.
    DenyBecomesAllow,
    /// The engine judges by the first policy for ever.
    StalePolicy,
    /// The node reads the first `activation.json` for ever.
    StaleActivation,
    /// `outcome_unknown` never reaches the disk.
    OutcomeLost,
    /// Recovery reads no floor.
    FloorIgnored,
    /// Recovery does not sync what it found.
    RecoveryDoesNotSync,
    /// Recovery does not write again what a failed sync may have left in the cache alone.
    RewriteSkipped,
    /// Once the medium was damaged, recovery cannot read the last good frame either.
    GoodFrameCut,
    /// Once the medium was damaged, recovery never again reads `telemetry.base`.
    WholeLogRefused,
    /// `activation.json` is written in place.
    LoadNotAtomic,
    /// The new `activation.json` is not synced before it is renamed.
    RenameWithoutSync,
    /// A run depends on something outside its plan.
    Nondeterminism,
    /// The drain's driver says that a batch was taken as soon as it leaves.
    CursorBeforeAnswer,
    /// The drain reads a safe-point that covers all that was ever handed to the disk.
    ExportPastSafe,
    /// The drain believes that every error was delivered.
    ErrorsForgotten,
    /// `telemetry.pos` is not synced before it is renamed.
    CursorNotSynced,
    /// The writer believes that everything was delivered.
    UndeliveredRemoved,
    /// The drain's driver takes a rejection for success.
    RejectionTaken,
    /// Everybody gets the drain's lock.
    DrainLockShared,
    /// A rejected record never gets its name.
    RejectedLost,
    /// Every signature is said to be good: step 1 is skipped.
    SignatureBelieved,
    /// A trusted key's signature of anything counts for everything.
    PayloadDigestIgnored,
    /// What goes through is said to have the digest that was wanted.
    LayerHashBelieved,
    /// The bundle is fetched once more when it is written, and is another one.
    BundleFetchedTwice,
    /// The lock that is written says something else under the same fingerprint.
    LockRewritten,
    /// Who changes `activation.json` reads no floors.
    FloorNotKept,
    /// The lock is written after `activation.json`, which names it.
    LockAfterActivation,
    /// The lock is not synced before it is renamed.
    LockNotSynced,
    /// The time floor is the clock.
    TimeFloorFromClock,
    /// A verification is not told the time floor.
    TimeFloorUnread,
    /// The record of a verified bundle is believed of every bundle.
    RecordForOtherBytes,
    /// An operator activates what passed last when a verification fails.
    FailureIgnored,
    /// The node finds a marker that passes, whatever is there.
    MarkerIgnored,
}

/// All of them with their names.
pub const ALL: &[(Sabotage, &str)] = &[
    (Sabotage::SyncDoesNothing, "sync-does-nothing"),
    (Sabotage::SyncDirDoesNothing, "syncdir-does-nothing"),
    (Sabotage::AppendDropped, "append-dropped"),
    (Sabotage::CompletesBeforeSync, "completes-before-sync"),
    (Sabotage::AnswersEarly, "answers-early"),
    (Sabotage::PublishesBeforeSync, "publishes-before-sync"),
    (Sabotage::ToolRunsEarly, "tool-runs-early"),
    (Sabotage::AnswersBeforeOutcome, "answers-before-outcome"),
    (Sabotage::DenyBecomesAllow, "deny-becomes-allow"),
    (Sabotage::StalePolicy, "stale-policy"),
    (Sabotage::StaleActivation, "stale-activation"),
    (Sabotage::OutcomeLost, "outcome-lost"),
    (Sabotage::FloorIgnored, "floor-ignored"),
    (Sabotage::RecoveryDoesNotSync, "recovery-does-not-sync"),
    (Sabotage::RewriteSkipped, "rewrite-skipped"),
    (Sabotage::GoodFrameCut, "good-frame-cut"),
    (Sabotage::WholeLogRefused, "whole-log-refused"),
    (Sabotage::LoadNotAtomic, "load-not-atomic"),
    (Sabotage::RenameWithoutSync, "rename-without-sync"),
    (Sabotage::Nondeterminism, "nondeterminism"),
    (Sabotage::CursorBeforeAnswer, "cursor-before-answer"),
    (Sabotage::ExportPastSafe, "export-past-safe-point"),
    (Sabotage::ErrorsForgotten, "errors-forgotten"),
    (Sabotage::CursorNotSynced, "cursor-not-synced"),
    (Sabotage::UndeliveredRemoved, "undelivered-removed"),
    (Sabotage::RejectionTaken, "rejection-taken"),
    (Sabotage::DrainLockShared, "drain-lock-shared"),
    (Sabotage::RejectedLost, "rejected-lost"),
    (Sabotage::SignatureBelieved, "signature-believed"),
    (Sabotage::PayloadDigestIgnored, "payload-digest-ignored"),
    (Sabotage::LayerHashBelieved, "layer-hash-believed"),
    (Sabotage::BundleFetchedTwice, "bundle-fetched-twice"),
    (Sabotage::LockRewritten, "lock-rewritten"),
    (Sabotage::FloorNotKept, "floor-not-kept"),
    (Sabotage::LockAfterActivation, "lock-after-activation"),
    (Sabotage::LockNotSynced, "lock-not-synced"),
    (Sabotage::TimeFloorFromClock, "time-floor-from-clock"),
    (Sabotage::TimeFloorUnread, "time-floor-unread"),
    (Sabotage::RecordForOtherBytes, "record-for-other-bytes"),
    (Sabotage::FailureIgnored, "failed-verification-ignored"),
    (Sabotage::MarkerIgnored, "marker-ignored"),
];
