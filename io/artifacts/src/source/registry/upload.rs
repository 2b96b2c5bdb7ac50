//! The body of an upload: a part of a blob, read on a thread of its own while it is sent.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use machines::ids::Hash32;
use machines::oci::Digest;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use crate::blob::Blob;

/// How much is read at once, in bytes.
const PART: usize = 256 * 1024;
/// How many parts wait to be sent.
const PARTS: usize = 2;

/// A part of a blob that is to be sent; it can be sent again.
#[derive(Clone, Debug)]
pub(super) struct Upload {
    blob: Blob,
    from: u64,
    len: u64,
    /// What the part must come to, where it is the whole.
    digest: Option<Digest>,
}

impl Upload {
    /// The whole blob, which is broken off when it is not this one.
    pub(super) const fn whole(blob: Blob, digest: Digest) -> Self {
        let len = blob.size();
        Self { blob, from: 0, len, digest: Some(digest) }
    }

    /// `len` bytes from `from`.
    pub(super) const fn part(blob: Blob, from: u64, len: u64) -> Self {
        Self { blob, from, len, digest: None }
    }

    pub(super) const fn len(&self) -> u64 {
        self.len
    }

    /// Begins to read.
    pub(super) fn start(&self) -> Sending {
        let (sender, parts) = mpsc::channel(PARTS);
        let upload = self.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = upload.read(&sender) {
                // The connection may be gone already.
                let _ = sender.blocking_send(Err(error));
            }
        });
        Sending { parts, left: self.len }
    }

    fn read(&self, sender: &mpsc::Sender<io::Result<Bytes>>) -> io::Result<()> {
        let mut hash = Sha256::new();
        let mut sent = 0_u64;
        // The last part waits until the whole was hashed: other bytes are never completed.
        let mut last = Bytes::new();
        while sent < self.len {
            let want = usize::try_from(self.len.saturating_sub(sent)).unwrap_or(PART).min(PART);
            let mut part = vec![0; want];
            if self.blob.read_at(self.from.saturating_add(sent), &mut part)? != want {
                return Err(io::Error::other(format!("{}: it was cut while it was read", self.blob.place())));
            }
            hash.update(&part);
            sent = sent.saturating_add(u64::try_from(want).unwrap_or(u64::MAX));
            let part = std::mem::replace(&mut last, Bytes::from(part));
            if !part.is_empty() && sender.blocking_send(Ok(part)).is_err() {
                return Ok(());
            }
        }
        let got = Digest::from_hash(Hash32(hash.finalize().into()));
        if let Some(want) = self.digest.filter(|want| *want != got) {
            return Err(io::Error::other(format!("{}: wanted {want}, got {got}", self.blob.place())));
        }
        if !last.is_empty() {
            let _ = sender.blocking_send(Ok(last));
        }
        Ok(())
    }
}

/// An upload under way.
pub(super) struct Sending {
    parts: mpsc::Receiver<io::Result<Bytes>>,
    left: u64,
}

impl Body for Sending {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let part = std::task::ready!(self.parts.poll_recv(cx));
        Poll::Ready(part.map(|part| {
            part.map(|bytes| {
                self.left = self.left.saturating_sub(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
                Frame::data(bytes)
            })
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
