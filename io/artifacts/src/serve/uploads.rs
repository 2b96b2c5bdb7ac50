//! Blobs on their way in: sessions, their bytes hashed while they are written, nothing visible before the digest matched
//! (FAULTS S12, S13).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use machines::ids::Hash32;
use machines::oci::Digest;
use sha2::{Digest as _, Sha256};
use tokio::sync::OwnedMutexGuard;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::answer::{Code, Refusal};
use super::route::Repository;
use super::store::Store;

/// How many bytes are gathered before they are hashed and written.
const PIECE: usize = 256 * 1024;

/// One blob on its way in. Dropped before it was kept, it leaves nothing.
#[derive(Debug)]
pub struct Upload {
    store: Arc<Store>,
    id: String,
    file: File,
    hash: Sha256,
    size: Arc<AtomicU64>,
    kept: bool,
}

impl Upload {
    /// A new one, of no bytes.
    pub fn start(store: &Arc<Store>) -> io::Result<Self> {
        let (id, file) = store.new_upload()?;
        Ok(Self { store: Arc::clone(store), id, file, hash: Sha256::new(), size: Arc::default(), kept: false })
    }

    /// Bytes so far.
    pub fn size(&self) -> u64 {
        self.size.load(Ordering::Relaxed)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.file.write_all(bytes)?;
        self.size.fetch_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX), Ordering::Relaxed);
        Ok(())
    }

    /// Gives the repository the blob, when it is the one that was promised; blocks. Says what it is otherwise.
    pub fn keep(&mut self, repository: &Repository, promised: &Digest) -> io::Result<Result<(), Digest>> {
        let digest = Digest::from_hash(Hash32(self.hash.clone().finalize().into()));
        if digest != *promised {
            return Ok(Err(digest));
        }
        self.store.keep_blob(repository, &self.id, &self.file, &digest)?;
        self.kept = true;
        Ok(Ok(()))
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if !self.kept {
            self.store.discard_upload(&self.id);
        }
    }
}

/// An upload that one request at a time has in hand.
pub type InHand = OwnedMutexGuard<Upload>;

/// An upload that no other request can reach.
pub async fn in_hand(upload: Upload) -> InHand {
    Arc::new(tokio::sync::Mutex::new(upload)).lock_owned().await
}

#[derive(Debug)]
struct Session {
    repository: Repository,
    upload: Arc<tokio::sync::Mutex<Upload>>,
    size: Arc<AtomicU64>,
    touched: Instant,
}

/// The sessions that are open.
#[derive(Debug)]
pub struct Uploads {
    sessions: Mutex<BTreeMap<String, Session>>,
    most: usize,
    expiry: Duration,
}

impl Uploads {
    /// At most `most` sessions, each forgotten when nobody touched it for `expiry`.
    pub const fn new(most: usize, expiry: Duration) -> Self {
        Self { sessions: Mutex::new(BTreeMap::new()), most, expiry }
    }

    fn sessions(&self) -> MutexGuard<'_, BTreeMap<String, Session>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether another session may be opened.
    pub fn check_room(&self) -> Result<(), Refusal> {
        self.expire();
        if self.sessions().len() < self.most { Ok(()) } else { Err(Refusal::busy("too many uploads are open")) }
    }

    /// Opens a session, and gives its name.
    pub fn open(&self, repository: Repository, upload: Upload) -> Result<String, Refusal> {
        let mut sessions = self.sessions();
        if sessions.len() >= self.most {
            return Err(Refusal::busy("too many uploads are open"));
        }
        let (id, size) = (upload.id.clone(), Arc::clone(&upload.size));
        let upload = Arc::new(tokio::sync::Mutex::new(upload));
        sessions.insert(id.clone(), Session { repository, upload, size, touched: Instant::now() });
        Ok(id)
    }

    fn with<T>(&self, repository: &Repository, id: &str, f: impl FnOnce(&mut Session) -> T) -> Result<T, Refusal> {
        let mut sessions = self.sessions();
        let session = sessions.get_mut(id).filter(|session| session.repository == *repository);
        session.map(f).ok_or_else(|| Refusal::new(Code::BlobUploadUnknown, "no such upload session; begin again"))
    }

    /// How many bytes a session has.
    pub fn size(&self, repository: &Repository, id: &str) -> Result<u64, Refusal> {
        self.with(repository, id, |session| session.size.load(Ordering::Relaxed))
    }

    /// Takes a session in hand.
    pub fn take(&self, repository: &Repository, id: &str) -> Result<InHand, Refusal> {
        let upload = self.with(repository, id, |session| {
            session.touched = Instant::now();
            Arc::clone(&session.upload)
        })?;
        upload.try_lock_owned().map_err(|_| Refusal::busy("another request writes to this upload"))
    }

    /// Somebody was here.
    pub fn touch(&self, repository: &Repository, id: &str) {
        let _ = self.with(repository, id, |session| session.touched = Instant::now());
    }

    /// Ends a session; what it wrote goes when the last request lets go of it.
    pub fn end(&self, repository: &Repository, id: &str) -> Result<(), Refusal> {
        self.with(repository, id, |_| ())?;
        self.sessions().remove(id);
        Ok(())
    }

    /// Forgets sessions that nobody came back to.
    pub fn expire(&self) {
        let expiry = self.expiry;
        self.sessions().retain(|_, session| session.touched.elapsed() < expiry || session.upload.try_lock().is_err());
    }
}

/// Takes a body into an upload until it ends. `most` is the size that the upload may come to. While one piece is hashed and
/// written, the next is received.
///
/// An upload that comes back is good, with a refusal too: the body broke off, and what came stands. Otherwise it is lost.
pub async fn receive(
    mut upload: InHand,
    mut body: Incoming,
    most: u64,
    idle: Duration,
) -> Result<(InHand, Result<(), Refusal>), Refusal> {
    let mut size = upload.size();
    let (mut piece, mut spare) = (Vec::with_capacity(PIECE), Vec::new());
    let mut more = gather(&mut body, &mut piece, idle).await;
    while !piece.is_empty() {
        size = size.saturating_add(u64::try_from(piece.len()).unwrap_or(u64::MAX));
        if size > most {
            return Err(Refusal::new(Code::TooLarge, "the blob is longer than it may be here"));
        }
        // The job owns the upload: when the connection is gone it ends its piece all the same, and only then lets go.
        let writing = spawn_blocking(move || {
            let written = upload.write(&piece);
            (upload, piece, written)
        });
        if matches!(more, Ok(true)) {
            more = gather(&mut body, &mut spare, idle).await;
        }
        let (back, mut buffer, written) = writing.await.map_err(|error| lost(&io::Error::other(error)))?;
        written.map_err(|error| lost(&error))?;
        buffer.clear();
        (upload, piece, spare) = (back, spare, buffer);
    }
    Ok((upload, more.map(drop)))
}

fn lost(error: &io::Error) -> Refusal {
    Refusal::of_disk("write the upload", error)
}

/// Gathers a piece; whether more may come.
async fn gather(body: &mut Incoming, piece: &mut Vec<u8>, idle: Duration) -> Result<bool, Refusal> {
    while piece.len() < PIECE {
        match timeout(idle, body.frame()).await {
            Ok(Some(Ok(frame))) => piece.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data)),
            Ok(Some(Err(_))) => return Err(Refusal::new(Code::BlobUploadInvalid, "the body did not come whole")),
            Ok(None) => return Ok(false),
            Err(_) => return Err(Refusal::new(Code::Late, "nothing came for too long")),
        }
    }
    Ok(true)
}
