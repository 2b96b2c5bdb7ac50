//! What a sink has taken: lines in a file, counts, and which records it has seen.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use serde::Serialize;

use crate::receive::{Received, Source};

/// How many ids are remembered: about 100 MiB.
const REMEMBERED: usize = 4_000_000;

/// What `GET /stats` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Requests to `/v1/logs`, whatever became of them.
    pub requests: u64,
    /// Records taken, repeated ones included.
    pub records: u64,
    /// Different records taken; `None` when they were not all looked at or are more than can be remembered.
    pub unique: Option<u64>,
    /// Records taken that had been taken before; `None` with `unique`.
    pub duplicates: Option<u64>,
}

/// A line of `records.jsonl`.
#[derive(Serialize)]
struct Line<'a> {
    event_id: &'a str,
    seq: Option<i64>,
    kind: Option<&'a str>,
    audit_id: Option<&'a str>,
    severity: &'a str,
    time: String,
    trace_id: &'a str,
    span_id: &'a str,
    body: String,
    node_id: Option<&'a str>,
    log_id: Option<&'a str>,
    h: Option<&'a str>,
}

/// Records of one request, ready to be stored.
#[derive(Debug, Default)]
pub struct Lines {
    bytes: Vec<u8>,
    ids: Vec<u128>,
}

impl Lines {
    /// Adds a record.
    pub fn push(&mut self, source: &Source, record: &Received) {
        let line = Line {
            event_id: &record.event_id,
            seq: record.seq,
            kind: record.kind.as_deref(),
            audit_id: record.audit_id.as_deref(),
            severity: &record.severity,
            time: record.time.to_string(),
            trace_id: &record.trace_id,
            span_id: &record.span_id,
            body: record.body_text(),
            node_id: source.node_id.as_deref(),
            log_id: source.log_id.as_deref(),
            h: record.h.as_deref(),
        };
        let written = serde_json::to_writer(&mut self.bytes, &line);
        debug_assert!(written.is_ok(), "text and numbers into memory");
        self.bytes.push(b'\n');
        let hash = blake3::hash(record.event_id.as_bytes());
        self.ids.extend(hash.as_bytes().first_chunk().map(|head| u128::from_be_bytes(*head)));
    }
}

/// The store of a sink.
#[derive(Debug)]
pub struct Store {
    file: Option<File>,
    seen: Option<BTreeSet<u128>>,
    stats: Stats,
}

impl Store {
    /// A store that appends to `records.jsonl` of the folder, which is created; without a folder it only counts.
    ///
    /// # Errors
    /// When folder or file cannot be made or opened.
    pub fn open(dir: Option<&Path>) -> io::Result<Self> {
        let file = match dir {
            None => None,
            Some(dir) => {
                std::fs::create_dir_all(dir)?;
                Some(append(&dir.join("records.jsonl"))?)
            }
        };
        let stats = Stats { unique: Some(0), duplicates: Some(0), ..Stats::default() };
        Ok(Self { file, seen: Some(BTreeSet::new()), stats })
    }

    /// The counts.
    pub const fn stats(&self) -> Stats {
        self.stats
    }

    /// Counts a request.
    pub const fn asked(&mut self) {
        self.stats.requests += 1;
    }

    /// Counts records that nobody looked at; from then on it is not known which are the same.
    pub fn discarded(&mut self, records: u64) {
        self.stats.records += records;
        if records > 0 {
            self.forget();
        }
    }

    /// Stores records: all of them, or, with an error, none. They are in the file when this returns.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn store(&mut self, lines: &Lines) -> io::Result<()> {
        if let Some(file) = &mut self.file {
            let before = file.seek(SeekFrom::End(0))?;
            if let Err(error) = file.write_all(&lines.bytes) {
                // Half a line must not stand before the next one.
                file.set_len(before)?;
                return Err(error);
            }
        }
        for id in &lines.ids {
            self.stats.records += 1;
            self.see(*id);
        }
        Ok(())
    }

    fn see(&mut self, id: u128) {
        let Some(seen) = &mut self.seen else { return };
        let count = if seen.insert(id) { &mut self.stats.unique } else { &mut self.stats.duplicates };
        *count = count.map(|n| n + 1);
        if seen.len() > REMEMBERED {
            self.forget();
        }
    }

    fn forget(&mut self) {
        self.seen = None;
        (self.stats.unique, self.stats.duplicates) = (None, None);
    }
}

/// Opens a file of lines to append to. A line that a crash cut short is ended, so that it spoils no other.
fn append(path: &Path) -> io::Result<File> {
    let mut file = File::options().read(true).append(true).create(true).open(path)?;
    if file.metadata()?.len() > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
        }
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ids: &[u128]) -> Lines {
        Lines { bytes: Vec::new(), ids: ids.to_vec() }
    }

    #[test]
    fn n03_repeated_records_are_counted_apart() {
        let mut store = Store::open(None).unwrap();
        store.store(&ids(&[1, 2])).unwrap();
        store.store(&ids(&[2, 3, 3])).unwrap();
        let stats = store.stats();
        assert_eq!((stats.records, stats.unique, stats.duplicates), (5, Some(3), Some(2)));
        store.discarded(4);
        let stats = store.stats();
        assert_eq!((stats.records, stats.unique, stats.duplicates), (9, None, None));
        assert_eq!(
            serde_json::to_string(&stats).unwrap(),
            r#"{"requests":0,"records":9,"unique":null,"duplicates":null}"#
        );
    }

    #[test]
    fn a_line_that_was_cut_short_spoils_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("records.jsonl");
        std::fs::write(&path, "{\"a\":1}\n{\"b\"").unwrap();
        let mut store = Store::open(Some(dir.path())).unwrap();
        store.store(&Lines { bytes: b"{\"c\":3}\n".to_vec(), ids: vec![1] }).unwrap();
        drop(Store::open(Some(dir.path())).unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"a\":1}\n{\"b\"\n{\"c\":3}\n");
    }
}
