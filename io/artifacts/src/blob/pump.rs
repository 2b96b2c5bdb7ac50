//! Sends a blob of this machine through a sink, hashed on the way. Of a long one a second thread reads the next part
//! while this one hashes, so that it takes about as long as the hash alone.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::{Absorb, Blob, BlobSink, Streamed};
use crate::Fault;

/// How much is read at once, in bytes: it stays in the cache of a core until it is hashed.
const PART: usize = 256 * 1024;
/// How much of a short blob: memory that is used once costs more than the calls that it spares.
const SMALL_PART: usize = 64 * 1024;
/// How many parts are in memory at most, of one blob.
const PARTS: usize = 3;
/// Blobs up to so many bytes are read and hashed by one thread.
const SHORT: u64 = 1024 * 1024;

impl Blob {
    /// Reads at most `most` bytes through `sink`. Blocks.
    ///
    /// # Errors
    /// When it cannot be read, or the sink does not take it. That the bytes are the right ones is for
    /// [`Streamed::matching`] to say.
    pub fn pump<S: BlobSink>(&self, most: u64, sink: S) -> Result<Streamed<S>, Fault> {
        let most = most.min(self.size);
        let mut absorb = Absorb::new(sink);
        let pumped = if most <= SHORT { self.alone(most, &mut absorb) } else { self.by_two(most, &mut absorb) };
        pumped.map_err(|error| self.unreadable(error))?;
        let (sink, digest, size) = absorb.finish();
        Ok(Streamed::new(sink, digest, size, self.place.clone()))
    }

    fn alone<S: BlobSink>(&self, most: u64, absorb: &mut Absorb<S>) -> io::Result<()> {
        let mut part = vec![0; SMALL_PART.min(usize::try_from(most).unwrap_or(SMALL_PART))];
        let mut at = 0;
        while at < most {
            let read = self.next(at, most, &mut part)?;
            if read == 0 {
                break;
            }
            absorb.take(part.get(..read).unwrap_or_default())?;
            at = at.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
        }
        Ok(())
    }

    fn by_two<S: BlobSink>(&self, most: u64, absorb: &mut Absorb<S>) -> io::Result<()> {
        let (full, filled) = sync_channel(PARTS);
        let (empty, emptied) = sync_channel(PARTS);
        for _ in 0..PARTS {
            // There is room for all of them.
            let _ = empty.send(vec![0; PART]);
        }
        // Both ends on this side go with the closure: a reader that waits for one is told when this side gives up.
        std::thread::scope(move |scope| {
            let reader = std::thread::Builder::new().name("blob-reader".to_owned());
            let started = reader.spawn_scoped(scope, move || self.read_ahead(most, &emptied, &full));
            if started.is_err() {
                return self.alone(most, absorb);
            }
            for part in filled {
                let (bytes, read) = part?;
                absorb.take(bytes.get(..read).unwrap_or_default())?;
                // The reader may be done.
                let _ = empty.send(bytes);
            }
            Ok(())
        })
    }

    /// Fills what comes back empty, until the end or until nobody takes it any more.
    fn read_ahead(&self, most: u64, empty: &Receiver<Vec<u8>>, full: &SyncSender<io::Result<(Vec<u8>, usize)>>) {
        let mut at = 0;
        while at < most
            && let Ok(mut part) = empty.recv()
        {
            let read = self.next(at, most, &mut part);
            let more = matches!(&read, Ok(1..));
            at = at.saturating_add(read.as_ref().map_or(0, |n| u64::try_from(*n).unwrap_or(u64::MAX)));
            if full.send(read.map(|n| (part, n))).is_err() || !more {
                return;
            }
        }
    }

    fn next(&self, at: u64, most: u64, part: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(most.saturating_sub(at)).unwrap_or(usize::MAX).min(part.len());
        self.read_at(at, part.get_mut(..want).unwrap_or_default())
    }
}
