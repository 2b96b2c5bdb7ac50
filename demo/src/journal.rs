//! What the log holds, read frame by frame with the product's own reader.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use machines::disk::File;
use machines::wal::files::Base;
use machines::wal::frame::{Frame, Kind};
use machines::wal::scan::Chain;

/// What the log says of one call.
#[derive(Clone, Debug, Default)]
pub struct Call {
    /// The decision's body.
    pub decision: Option<String>,
    /// Whether an action or an error frame closes it.
    pub outcome: bool,
}

/// A log as it was read.
#[derive(Debug)]
pub struct Journal {
    /// Calls by audit id.
    pub calls: BTreeMap<String, Call>,
    /// The bodies of error frames.
    pub errors: Vec<String>,
    /// The last sequence.
    pub last: u64,
}

/// Reads a whole log: its base, the sealed files in order, the live one. Nothing may write to it meanwhile.
///
/// # Errors
/// A file that is missing, or a frame that does not follow the one before it.
pub fn read(telemetry: &Path) -> Result<Journal> {
    let mut journal = Journal { calls: BTreeMap::new(), errors: Vec::new(), last: 0 };
    journal.last = each(telemetry, &mut |frame| journal.take(frame))?;
    Ok(journal)
}

/// What `telemetry.base` says.
///
/// # Errors
/// It is missing or damaged.
pub fn base(telemetry: &Path) -> Result<Base> {
    let path = telemetry.join(File::Base.name());
    let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Base::parse(&bytes).context("telemetry.base is not a base")
}

/// Calls `take` with every frame of a log in order; the last sequence. Nothing may write to it meanwhile.
///
/// # Errors
/// A file that is missing, or a frame that does not follow the one before it.
pub fn each(telemetry: &Path, take: &mut dyn FnMut(&Frame<'_>)) -> Result<u64> {
    let file = |file: File| {
        let path = telemetry.join(file.name());
        std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let base = base(telemetry)?;
    let mut parts = Vec::new();
    for entry in std::fs::read_dir(telemetry).with_context(|| format!("cannot list {}", telemetry.display()))? {
        let name = entry?.file_name();
        if let Some(sealed @ File::Sealed(_)) = name.to_str().and_then(File::of_log) {
            parts.push(sealed);
        }
    }
    parts.sort();
    parts.push(File::Live);
    let mut chain = Chain::new(base.first_seq, base.prev_h);
    for part in parts {
        let bytes = file(part)?;
        let (good, bad) = chain.read(&bytes, true, &mut |frame, _| take(frame));
        ensure!(bad.is_none() && good == bytes.len(), "{}: {bad:?} at offset {good}", part.name());
    }
    Ok(chain.last())
}

impl Journal {
    fn take(&mut self, frame: &Frame<'_>) {
        let id = frame.audit_id.to_string();
        match frame.kind {
            Kind::Decision => self.calls.entry(id).or_default().decision = Some(frame.body.into()),
            Kind::Action => self.calls.entry(id).or_default().outcome = true,
            Kind::Error => {
                if let Some(call) = self.calls.get_mut(&id) {
                    call.outcome = true;
                }
                self.errors.push(frame.body.into());
            }
            Kind::Lifecycle => {}
        }
    }
}
