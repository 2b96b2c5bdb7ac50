//! What recovery does about damage: one table, walked whole by a test (SPEC 4, FAULTS D03, D04, D10-D17).

use core::fmt;

use super::scan::Bad;

/// Why a log must not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// A sequence is missing or out of order.
    SeqGap,
    /// The first retained frame is not the one that `telemetry.base` names.
    FirstSeqUnexpected,
    /// The safe-point lies before the first retained sequence, where nothing was ever removed undelivered.
    SafeSeqNotFound,
    /// The safe-point or a cursor lies behind the last frame: durable frames are gone.
    SafeSeqGtMaxSeq,
    /// `telemetry.safe_seq` is missing or not 8 bytes, beside frames.
    SafeSeqMissing,
    /// `telemetry.base` is missing or unreadable, beside frames.
    BaseMissing,
    /// Bytes that are no frame.
    InvalidJson,
    /// A hash does not verify.
    Hash,
    /// `telemetry.pos` is unreadable or belongs to another log.
    PositionsForeign,
}

impl Cause {
    /// The literal text in errors and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SeqGap => "SEQ_GAP",
            Self::FirstSeqUnexpected => "FIRST_SEQ_UNEXPECTED",
            Self::SafeSeqNotFound => "SAFESEQ_NOT_FOUND",
            Self::SafeSeqGtMaxSeq => "SAFESEQ_GT_MAXSEQ",
            Self::SafeSeqMissing => "SAFESEQ_MISSING",
            Self::BaseMissing => "BASE_MISSING",
            Self::InvalidJson => "WAL_CORRUPT_INVALID_JSON",
            Self::Hash => "WAL_CORRUPT_HASH",
            Self::PositionsForeign => "POSITIONS_FOREIGN",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// In which kind of file the damage is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment {
    /// Closed, wholly durable.
    Sealed,
    /// The one that was being written.
    Live,
}

/// What is known of a bad place in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The kind of file.
    pub segment: Segment,
    /// What is wrong.
    pub bad: Bad,
    /// The sequence that belongs here is the first retained one.
    pub first_of_log: bool,
    /// The sequence that belongs here, or the one of the frame that stands here, is at or below the floor: it was durable.
    pub at_or_below_floor: bool,
    /// A good frame behind says that the safe-point had reached the sequence that belongs here, or is itself at or below
    /// the floor: durable data is damaged.
    pub shown_durable: bool,
}

/// What is done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nobody can have been answered from these bytes: cut them off.
    Cut,
    /// Durable data is damaged: refuse to start and change nothing.
    Refuse(Cause),
}

/// The table.
///
/// | the frame that belongs here | verdict |
/// |---|---|
/// | was durable: at or below the floor, in a sealed file, or shown by a good frame behind | refuse, cause by what is wrong |
/// | was never known durable | cut |
#[must_use]
pub const fn judge(facts: Facts) -> Verdict {
    let durable = match facts.segment {
        Segment::Sealed => true,
        Segment::Live => facts.at_or_below_floor || facts.shown_durable,
    };
    if !durable {
        return Verdict::Cut;
    }
    Verdict::Refuse(match facts.bad {
        // The file simply ends too early: if good frames stand behind, it is the length that lies.
        Bad::Torn => match facts.segment {
            Segment::Sealed => Cause::SeqGap,
            Segment::Live if facts.shown_durable => Cause::InvalidJson,
            Segment::Live => Cause::SafeSeqGtMaxSeq,
        },
        Bad::Length | Bad::Json => Cause::InvalidJson,
        Bad::Seq if facts.first_of_log => Cause::FirstSeqUnexpected,
        Bad::Seq => Cause::SeqGap,
        Bad::Hash => Cause::Hash,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write as _;
    use std::string::String;

    #[test]
    fn every_combination_has_one_verdict() {
        let mut table = String::new();
        let mut cuts = 0;
        for segment in [Segment::Sealed, Segment::Live] {
            for bad in [Bad::Torn, Bad::Length, Bad::Json, Bad::Seq, Bad::Hash] {
                for bits in 0..8u8 {
                    let facts = Facts {
                        segment,
                        bad,
                        first_of_log: bits & 1 != 0,
                        at_or_below_floor: bits & 2 != 0,
                        shown_durable: bits & 4 != 0,
                    };
                    let verdict = judge(facts);
                    let durable = segment == Segment::Sealed || facts.at_or_below_floor || facts.shown_durable;
                    assert_eq!(verdict == Verdict::Cut, !durable, "{facts:?}: durable data is never cut");
                    cuts += u32::from(verdict == Verdict::Cut);
                    writeln!(
                        table,
                        "{segment:?} {bad:?} first={} floor={} shown={}: {verdict:?}",
                        facts.first_of_log, facts.at_or_below_floor, facts.shown_durable
                    )
                    .unwrap();
                }
            }
        }
        assert_eq!(cuts, 10);
        insta::assert_snapshot!(table);
    }
}
