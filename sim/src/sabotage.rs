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
    /// `activation.json` is written in place.
    LoadNotAtomic,
    /// The new `activation.json` is not synced before it is renamed.
    RenameWithoutSync,
    /// A run depends on something outside its plan.
    Nondeterminism,
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
    (Sabotage::LoadNotAtomic, "load-not-atomic"),
    (Sabotage::RenameWithoutSync, "rename-without-sync"),
    (Sabotage::Nondeterminism, "nondeterminism"),
];
