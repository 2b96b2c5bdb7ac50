//! What the log says of one call, read from its files.

use std::collections::BTreeMap;

use io_drive::disk::Disk;
use machines::disk::{Done, FaultKind, File, Op};
use machines::ids::Uuid;
use machines::json::{Limits, Value, parse};
use machines::time::Wall;
use machines::wal::frame::{Frame, Kind, MAX_FRAME, PREFIX};

/// How much of a file is read at a time, in bytes.
const WINDOW: u32 = 1024 * 1024;

/// The decision on the call and its outcome, if any, as the text of a JSON object; `None` when the log, up to the
/// safe-point, knows no such call. The chain is not verified here: `autonomy wal verify` does that.
///
/// # Errors
/// When a file cannot be read.
pub fn find(disk: &Disk, id: Uuid, safe: u64) -> Result<Option<String>, FaultKind> {
    let files = segments(disk)?;
    let mut found = None;
    for file in files.get(first_candidate(disk, &files, id)?..).unwrap_or(&[]) {
        let ended = each_frame(disk, *file, 0, &mut |frame, _| {
            if frame.seq.get() > safe {
                return true;
            }
            if frame.audit_id != id {
                return false;
            }
            match (&mut found, frame.kind) {
                (None, Kind::Decision) => {
                    let deny = !frame.body.starts_with(machines::wal::scan::ALLOW);
                    found = members(frame);
                    // A deny has no outcome to look for.
                    deny
                }
                (Some(decision), Kind::Action | Kind::Error) => {
                    let outcome = members(frame).map_or(Value::Null, Value::from);
                    decision.insert("outcome".to_owned(), outcome);
                    true
                }
                (None | Some(_), Kind::Decision | Kind::Action | Kind::Error | Kind::Lifecycle) => false,
            }
        })?;
        if ended.is_none() {
            break;
        }
    }
    Ok(found.map(|mut decision| {
        decision.entry("outcome".to_owned()).or_insert(Value::Null);
        Value::from(decision).to_text()
    }))
}

/// The files that hold frames, oldest first; the live one last.
///
/// # Errors
/// When the folder cannot be read.
pub fn segments(disk: &Disk) -> Result<Vec<File>, FaultKind> {
    let Done::Listing(listing) = run(disk, Op::List)? else { return Ok(Vec::new()) };
    let mut sealed: Vec<_> = listing.iter().filter_map(|(file, _)| Some((file.sealed_first()?, *file))).collect();
    sealed.sort_unstable();
    Ok(sealed.into_iter().map(|(_, file)| file).chain([File::Live]).collect())
}

/// The file before the first one that begins later than the id was made: ids carry their time, and a call's frames
/// come after its id.
fn first_candidate(disk: &Disk, files: &[File], id: Uuid) -> Result<usize, FaultKind> {
    for (at, file) in files.iter().enumerate() {
        let head = match run(disk, Op::Read { file: *file, at: 0, len: 96 }) {
            Ok(Done::Bytes(head)) => head,
            Ok(Done::Nothing | Done::Tail { .. } | Done::Listing(_)) | Err(FaultKind::NotFound) => continue,
            Err(kind) => return Err(kind),
        };
        if first_time(&head).is_some_and(|ts| ts.as_millis() > id.millis()) {
            return Ok(at.saturating_sub(1));
        }
    }
    Ok(files.len().saturating_sub(1))
}

fn first_time(head: &[u8]) -> Option<Wall> {
    let text = std::str::from_utf8(head.get(PREFIX..)?).ok()?;
    let at = text.find("\"ts\":\"")?.checked_add(6)?;
    Wall::parse_rfc3339(text.get(at..at.checked_add(27)?)?)
}

/// Calls `each` with the whole frames of a file from offset `at`, and with their bytes, until it returns true or a
/// frame is bad: `None` then, else the offset behind the last whole frame. A file that is not there has none.
///
/// # Errors
/// When the file cannot be read.
pub fn each_frame(
    disk: &Disk,
    file: File,
    mut at: u64,
    each: &mut dyn FnMut(&Frame<'_>, &[u8]) -> bool,
) -> Result<Option<u64>, FaultKind> {
    loop {
        let bytes = match run(disk, Op::Read { file, at, len: WINDOW }) {
            Ok(Done::Bytes(bytes)) => bytes,
            Ok(Done::Nothing | Done::Tail { .. } | Done::Listing(_)) | Err(FaultKind::NotFound) => return Ok(Some(at)),
            Err(kind) => return Err(kind),
        };
        let mut rest: &[u8] = &bytes;
        while let Some((body, behind)) = frame_of(rest) {
            if Frame::parse(body).is_none_or(|frame| each(&frame, body)) {
                return Ok(None);
            }
            rest = behind;
        }
        let read = bytes.len() - rest.len();
        if read == 0 {
            return Ok(Some(at));
        }
        at += u64::try_from(read).unwrap_or(u64::MAX);
    }
}

fn frame_of(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (prefix, rest) = bytes.split_first_chunk::<PREFIX>()?;
    let len = usize::try_from(u32::from_be_bytes(*prefix)).ok().filter(|len| *len <= MAX_FRAME)?;
    rest.split_at_checked(len)
}

/// The body's members with the frame's own beside them.
fn members(frame: &Frame<'_>) -> Option<BTreeMap<String, Value>> {
    let body = parse(frame.body.as_bytes(), &Limits { max_bytes: MAX_FRAME, ..Limits::default() }).ok()?;
    let mut members = body.into_object().ok()?;
    members.insert("seq".to_owned(), Value::from(frame.seq.get()));
    members.insert("ts".to_owned(), Value::from(frame.ts));
    members.insert("kind".to_owned(), Value::from(frame.kind.as_str()));
    members.insert("audit_id".to_owned(), Value::from(frame.audit_id.to_string()));
    members.insert("h".to_owned(), Value::from(frame.h.to_string()));
    Some(members)
}

fn run(disk: &Disk, op: Op) -> Result<Done, FaultKind> {
    disk.execute(vec![op]).map_err(|fault| fault.kind)
}
