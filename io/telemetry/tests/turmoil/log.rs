//! The node's log: written by the test in place of a node, in the files that a drain reads.

use std::io::Write as _;
use std::path::PathBuf;

use machines::disk::File;
use machines::drain::batch::Class;
use machines::ids::{Hash32, IdSource, Seq};
use machines::machine::Entropy;
use machines::time::Wall;
use machines::wal::files::{Base, Positions};
use machines::wal::frame::{self, Kind, Place, Record};

/// 2026-11-21T12:00:00Z, the first moment of every simulation.
pub const EPOCH: Wall = Wall::from_micros(1_795_262_400_000_000);

/// What a record in the log is known by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub seq: u64,
    pub class: Class,
    /// As the collector has to see it.
    pub event_id: String,
}

/// The writer of a log.
pub struct Log {
    folder: PathBuf,
    ids: IdSource,
    prev: Hash32,
    pub entries: Vec<Entry>,
}

impl Log {
    /// A new log in this folder.
    pub fn new(folder: PathBuf) -> Self {
        let mut ids = IdSource::new(Entropy([7; 32]));
        let log_id = ids.next(EPOCH);
        let base = Base { log_id, node_id: "n1".into(), first_seq: Seq::FIRST, prev_h: frame::genesis(&log_id) };
        std::fs::write(folder.join(File::Base.name()), base.to_bytes()).unwrap();
        let log = Self { folder, ids, prev: base.prev_h, entries: Vec::new() };
        std::fs::write(log.path(File::Live), b"").unwrap();
        std::fs::write(log.path(File::SafeSeq), 0u64.to_le_bytes()).unwrap();
        log
    }

    fn path(&self, file: File) -> PathBuf {
        self.folder.join(file.name())
    }

    /// Appends records of these kinds, each with a body of about `len` bytes, and moves the safe-point behind them.
    pub fn append(&mut self, kinds: &[Kind], len: usize) {
        let mut bytes = Vec::new();
        for kind in kinds {
            let seq = self.last() + 1;
            let place = Place { seq: Seq::new(seq).unwrap(), ts: EPOCH, safe: seq - 1 };
            let body = body(*kind, seq, len);
            let record = Record { kind: *kind, audit_id: self.ids.next(EPOCH), trace: None, body };
            self.prev = frame::encode(&mut bytes, &self.prev, &place, &record);
            let event_id = format!("n1:wal:{seq}:{}", &self.prev.to_string()[..16]);
            self.entries.push(Entry { seq, class: Class::of(*kind), event_id });
        }
        let mut live = std::fs::File::options().append(true).open(self.path(File::Live)).unwrap();
        live.write_all(&bytes).unwrap();
        std::fs::write(self.path(File::SafeSeq), self.last().to_le_bytes()).unwrap();
    }

    /// The last sequence.
    pub fn last(&self) -> u64 {
        u64::try_from(self.entries.len()).unwrap()
    }

    /// The cursors as they are on the disk, in the order of the classes; none were written yet when all are 0.
    pub fn cursors(&self) -> [u64; 3] {
        match std::fs::read(self.path(File::Positions)) {
            Ok(bytes) => {
                let positions = Positions::parse(&bytes).expect("the drain wrote its cursors whole");
                Class::ALL.map(|class| positions.cursors[class.name()])
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => [0; 3],
            Err(error) => panic!("{error}"),
        }
    }
}

fn body(kind: Kind, seq: u64, len: usize) -> String {
    // Not the same letters again and again, so that a long body stays long when it is compressed.
    let filler = std::iter::successors(Some(blake3::hash(&seq.to_le_bytes())), |h| Some(blake3::hash(h.as_bytes())));
    let note: String = filler.flat_map(|h| h.to_hex().chars().collect::<Vec<_>>()).take(len).collect();
    match kind {
        Kind::Decision => format!(r#"{{"decision":"allow","tool":"tool.echo","n":{seq},"note":"{note}"}}"#),
        Kind::Action => format!(r#"{{"outcome":"ok","n":{seq},"note":"{note}"}}"#),
        Kind::Lifecycle => format!(r#"{{"phase":"polled","n":{seq},"note":"{note}"}}"#),
        Kind::Error => format!(r#"{{"code":"test","n":{seq},"note":"{note}"}}"#),
    }
}
