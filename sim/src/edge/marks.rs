//! Named situations of a node's start; a sweep that never reaches one of them tests less than it seems to.

macro_rules! marks {
    ($($(#[$doc:meta])* $mark:ident = $name:literal,)*) => {
        /// A situation.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(usize)]
        pub enum Mark { $($(#[$doc])* $mark,)* }

        /// All of them with their names.
        pub const MARKS: &[(Mark, &str)] = &[$((Mark::$mark, $name),)*];
    };
}

marks! {
    /// A chain was begun.
    FirstRun = "first run",
    /// Nothing was to be done.
    Unchanged = "unchanged host",
    /// A manifest was carried out to its end.
    Rebuilt = "runtime rebuilt",
    /// A chain reached its fourth epoch.
    EpochFour = "epoch 4",
    /// Only the kernel was another one.
    KernelOnly = "kernel alone replaced",
    /// Only the C library was another one.
    LibcOnly = "C library alone replaced",
    /// What a crash left behind the commit was finished.
    Finished = "projections finished",
    /// What was finished was followed by another reconstruction.
    FinishedAndRebuilt = "finished, then rebuilt for a third host",
    /// The next identity was put in force.
    Rotated = "identity rotated",
    /// The next identity was refused.
    RotationRefused = "rotation refused",
    /// Exit 2.
    StateRoot = "exit 2: state root",
    /// Exit 2 because the last marker could not be written.
    NoMarker = "exit 2: marker cannot be written",
    /// Exit 3.
    Certificate = "exit 3: certificate",
    /// A certificate was too old by the floor, though not by the clock.
    ExpiredByFloor = "certificate too old by the floor alone",
    /// Exit 4.
    Held = "exit 4: held by another",
    /// The records contradicted each other.
    Contradiction = "exit 5: records contradict",
    /// The key was missing.
    KeyMissing = "exit 5: key missing",
    /// The signature was not good.
    BadSignature = "exit 5: signature",
    /// The manifest was for another node.
    OtherNode = "exit 5: other node",
    /// The manifest was older.
    Older = "exit 5: older version",
    /// The manifest wanted what no manifest may.
    Barred = "exit 5: barred operation",
    /// A source was not what was signed.
    SourceOther = "exit 5: source",
    /// Something was in the way.
    InTheWay = "exit 5: in the way",
    /// There was no space.
    Full = "no space",
    /// An operation failed.
    Failed = "an operation failed",
    /// A process was killed before its commit, with operations carried out.
    KilledBefore = "killed before the commit",
    /// A process was killed behind its commit.
    KilledAfter = "killed behind the commit",
    /// A power loss met something unsynced.
    PowerLost = "power loss with something unsynced",
    /// The power was cut during a second attempt.
    SecondAttempt = "power loss during a second attempt",
    /// The manifest changed while it was proven, and the bytes read were carried out.
    SwappedUnused = "manifest swapped, read bytes carried out",
    /// The manifest or its signature changed while it was proven, and was refused.
    SwappedRefused = "manifest swapped, refused",
    /// A source changed between the look at it and its copy.
    SourceSwapped = "source swapped between look and copy",
    /// The clock was behind the build.
    ClockLost = "clock behind the build",
    /// A release for a folder outside the state root was carried out.
    Outside = "rebuilt outside the state root",
    /// A story ended well.
    Healed = "story ended well",
    /// A story ended well after the records were put back from a copy.
    PutBack = "records put back from a copy",
}

/// How often each situation was reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts([u64; MARKS.len()]);

impl Default for Counts {
    fn default() -> Self {
        Self([0; MARKS.len()])
    }
}

impl Counts {
    /// A situation was reached.
    pub fn hit(&mut self, mark: Mark) {
        if let Some(count) = self.0.get_mut(mark as usize) {
            *count += 1;
        }
    }

    /// How often it was.
    #[must_use]
    pub fn of(&self, mark: Mark) -> u64 {
        self.0.get(mark as usize).copied().unwrap_or(0)
    }

    /// Adds those of another sweep.
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
