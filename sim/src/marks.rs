//! Named situations: a sweep that never reaches one of them tests less than it seems to.

/// A situation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(usize)]
pub enum Mark {
    /// A recovery cut bytes behind the last good frame.
    TornTailCut,
    /// The live file was sealed.
    Sealed,
    /// The node went down between the operations of a seal.
    CrashInSeal,
    /// One sync carried eight frames or more.
    GroupOfEight,
    /// Undelivered events filled the log.
    WalFull,
    /// A full log took calls again.
    WalFullResumed,
    /// Delivered sealed files were removed.
    SegmentsRemoved,
    /// After a power loss the safe-point was behind the last durable frame.
    SafePointBehind,
    /// A restart wrote `outcome_unknown`.
    OutcomeUnknown,
    /// A call was decided by the last known good policy because the current one was unusable.
    LkgFallback,
    /// Neither slot was usable.
    BothSlotsCorrupt,
    /// A load was killed before its commit.
    LoadCrashedBefore,
    /// A load was killed after its commit.
    LoadCrashedAfter,
    /// A load had to wait for the lock.
    LockContended,
    /// A load was refused.
    LoadRefused,
    /// A rollback succeeded.
    RolledBack,
    /// The limit of calls at once was hit.
    Overload,
    /// A tool ran out of time.
    ToolTimeout,
    /// A result came after its call was given up.
    LateResult,
    /// A decision was denied for its budget.
    Budget,
    /// The node went down while it recovered.
    RecoveryCrashed,
    /// Two crashes within one second.
    DoubleCrash,
    /// The wall clock jumped back.
    ClockBack,
    /// The node was stopped and went on.
    Paused,
    /// No space led to a failed log.
    NoSpaceFailed,
    /// A failed sync led to a failed log.
    SyncFailed,
    /// A completed restart out of a failed log.
    RecoveredFromFailed,
    /// Damage above the floor took an answered frame, or one that was read.
    DamageTookFrames,
    /// A refusal to open a damaged log.
    RefusedToOpen,
    /// A flipped bit was noticed.
    RotDetected,
    /// The file was cut under the writer.
    ChangedUnderWriter,
    /// An outcome could not be recorded.
    OutcomeNotRecorded,
    /// The runtime stopped in good order.
    CleanStop,
    /// A call was decided while a new policy was being loaded.
    HotReload,
    /// A process crash, then a power loss before anything was synced anew.
    ProcessThenPower,
    /// A power loss in mid-append.
    PowerInAppend,
    /// A whole run ended with every call answered, every outcome known and every event delivered.
    Drained,
    /// Events were delivered by the drain in the background of the runtime.
    DrainedInBackground,
    /// Events were delivered by a command beside the runtime.
    DrainedBeside,
    /// Events were delivered by a command while no node was up.
    DrainedAlone,
    /// A command that found no writer recovered the log.
    RecoveredByDrain,
    /// The collector was down and a batch was taken later.
    CollectorBack,
    /// Records that were stored were sent again.
    SentAgain,
    /// Records were put aside in `rejected/`.
    PutAside,
    /// A receiver rejected some of a batch, which is kept.
    PartialKept,
    /// A drain sent again when the collector's `Retry-After` was over.
    RetryAfterWaited,
    /// A drain was killed between a delivery and its cursor.
    KilledBeforeCursor,
    /// What a drain read did not fit, and then did.
    SealedUnderReader,
    /// A command found another drain at work.
    HeldByAnother,
    /// A lower class had its turn while a higher one waited.
    StarvationTurn,
    /// After an outage, errors went before decisions that waited too.
    ErrorsFirst,
    /// A verified release was put in force.
    ReleaseActivated,
    /// A verified release was stored and remembered.
    ReleaseImported,
    /// An older release was imported, and what is remembered of a newer one with the same policy stayed.
    RecordKept,
    /// A policy was loaded because it had passed the four steps here.
    LoadedByRecord,
    /// A policy that had not passed them was refused.
    LoadNotVerified,
    /// A release failed step 1.
    RejectedStep1,
    /// A release failed step 2.
    RejectedStep2,
    /// A release failed step 3.
    RejectedStep3,
    /// A release failed step 4.
    RejectedStep4,
    /// A source could not be reached: nothing is known.
    SourceOutOfReach,
    /// A lie of a source about one answer was found out.
    LieRejected,
    /// A release passed in spite of a lie that does not matter.
    PassedInSpite,
    /// A tag moved after it was resolved; what was resolved passed.
    TagMoved,
    /// A tag led to an older release, which was refused.
    StaleTagRefused,
    /// A release below the floor was refused.
    BelowFloorRefused,
    /// A floor was reset.
    FloorReset,
    /// A release was put in force that was below the floor before the reset.
    BelowAfterReset,
    /// A release of another name was refused.
    WrongName,
    /// A release of another channel was refused.
    WrongChannel,
    /// A release that was not announced was refused.
    WrongFingerprint,
    /// A release was too old by the floor while the clock would have admitted it.
    ExpiredByFloor,
    /// A release was too old by the clock alone.
    ExpiredByClock,
    /// A verification or an activation was killed before its commit.
    ReleaseCutBefore,
    /// An activation was killed after its commit.
    ReleaseCutAfter,
    /// A release passed among many signatures that nobody trusts.
    CrowdedPassed,
    /// The image of an index passed.
    IndexPassed,
    /// A call was denied for want of a precheck.
    PrecheckBarred,
    /// A call was allowed after one was denied for want of a precheck.
    PrecheckLetIn,
    /// A call was denied for want of a precheck after one was allowed.
    PrecheckTurned,
    /// A call was denied although another boot's precheck had passed.
    PrecheckOfAnotherBoot,
}

/// All of them with their names.
pub const MARKS: &[(Mark, &str)] = &[
    (Mark::TornTailCut, "torn tail cut"),
    (Mark::Sealed, "segment sealed"),
    (Mark::CrashInSeal, "crash in a seal"),
    (Mark::GroupOfEight, "group commit of 8 or more"),
    (Mark::WalFull, "wal_full reached"),
    (Mark::WalFullResumed, "wal_full resumed"),
    (Mark::SegmentsRemoved, "delivered segments removed"),
    (Mark::SafePointBehind, "safe-point behind after power loss"),
    (Mark::OutcomeUnknown, "outcome_unknown written"),
    (Mark::LkgFallback, "LKG fallback"),
    (Mark::BothSlotsCorrupt, "both slots unusable"),
    (Mark::LoadCrashedBefore, "load crashed before its commit"),
    (Mark::LoadCrashedAfter, "load crashed after its commit"),
    (Mark::LockContended, "activation lock contended"),
    (Mark::LoadRefused, "load refused"),
    (Mark::RolledBack, "rolled back"),
    (Mark::Overload, "in-flight limit hit"),
    (Mark::ToolTimeout, "tool timeout"),
    (Mark::LateResult, "late result dropped"),
    (Mark::Budget, "budget"),
    (Mark::RecoveryCrashed, "recovery crashed"),
    (Mark::DoubleCrash, "double crash"),
    (Mark::ClockBack, "clock jumped back"),
    (Mark::Paused, "process paused"),
    (Mark::NoSpaceFailed, "no space, then wal_failed"),
    (Mark::SyncFailed, "failed sync, then wal_failed"),
    (Mark::RecoveredFromFailed, "restart out of wal_failed"),
    (Mark::DamageTookFrames, "damage above the floor took frames"),
    (Mark::RefusedToOpen, "refused to open"),
    (Mark::RotDetected, "bit rot noticed"),
    (Mark::ChangedUnderWriter, "file cut under the writer"),
    (Mark::OutcomeNotRecorded, "outcome_not_recorded"),
    (Mark::CleanStop, "clean stop"),
    (Mark::HotReload, "hot reload"),
    (Mark::ProcessThenPower, "process crash, then power loss"),
    (Mark::PowerInAppend, "power loss in mid-append"),
    (Mark::Drained, "drained"),
    (Mark::DrainedInBackground, "drained in the background"),
    (Mark::DrainedBeside, "drained by a command beside the runtime"),
    (Mark::DrainedAlone, "drained with the node down"),
    (Mark::RecoveredByDrain, "log recovered by a drain"),
    (Mark::CollectorBack, "collector down, then up"),
    (Mark::SentAgain, "stored, answer lost, sent again"),
    (Mark::PutAside, "rejected records put aside"),
    (Mark::PartialKept, "partial success"),
    (Mark::RetryAfterWaited, "Retry-After waited for"),
    (Mark::KilledBeforeCursor, "killed between delivery and cursor"),
    (Mark::SealedUnderReader, "misfit, then fits"),
    (Mark::HeldByAnother, "held by another drain"),
    (Mark::StarvationTurn, "starvation turn"),
    (Mark::ErrorsFirst, "errors first after an outage"),
    (Mark::ReleaseActivated, "release activated"),
    (Mark::ReleaseImported, "release imported"),
    (Mark::RecordKept, "older release imported, newer one remembered"),
    (Mark::LoadedByRecord, "policy loaded by its record"),
    (Mark::LoadNotVerified, "unverified policy refused"),
    (Mark::RejectedStep1, "release rejected at step 1"),
    (Mark::RejectedStep2, "release rejected at step 2"),
    (Mark::RejectedStep3, "release rejected at step 3"),
    (Mark::RejectedStep4, "release rejected at step 4"),
    (Mark::SourceOutOfReach, "source out of reach"),
    (Mark::LieRejected, "lie of a source found out"),
    (Mark::PassedInSpite, "release passed in spite of a lie"),
    (Mark::TagMoved, "tag moved between resolve and pull"),
    (Mark::StaleTagRefused, "stale tag refused"),
    (Mark::BelowFloorRefused, "release below the floor refused"),
    (Mark::FloorReset, "floor reset"),
    (Mark::BelowAfterReset, "older release after a reset"),
    (Mark::WrongName, "wrong_name"),
    (Mark::WrongChannel, "wrong_channel"),
    (Mark::WrongFingerprint, "wrong_fingerprint"),
    (Mark::ExpiredByFloor, "expired by the floor"),
    (Mark::ExpiredByClock, "expired by the clock"),
    (Mark::ReleaseCutBefore, "activation crashed before its commit"),
    (Mark::ReleaseCutAfter, "activation crashed after its commit"),
    (Mark::CrowdedPassed, "many signatures, one good"),
    (Mark::IndexPassed, "index resolved to this platform"),
    (Mark::PrecheckBarred, "precheck_failed"),
    (Mark::PrecheckLetIn, "precheck passed under a waiting runtime"),
    (Mark::PrecheckTurned, "marker turned bad under a runtime"),
    (Mark::PrecheckOfAnotherBoot, "another boot's precheck did not count"),
];

/// How often each situation was reached.
#[derive(Clone, Debug)]
pub struct Counts([u64; MARKS.len()]);

impl Default for Counts {
    fn default() -> Self {
        Self([0; MARKS.len()])
    }
}

impl Counts {
    /// Counts one.
    pub fn hit(&mut self, mark: Mark) {
        if let Some(n) = self.0.get_mut(mark as usize) {
            *n += 1;
        }
    }

    /// How often.
    #[must_use]
    pub fn of(&self, mark: Mark) -> u64 {
        self.0.get(mark as usize).copied().unwrap_or(0)
    }

    /// Adds another count.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine += theirs;
        }
    }

    /// Those never reached.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        MARKS.iter().filter(|(mark, _)| self.of(*mark) == 0).map(|(_, name)| *name).collect()
    }
}
