//! Reading ahead. A long file is read window by window, each looked at before the next is asked for; meanwhile a thread
//! of its own has the kernel fetch what comes next. Only the page cache is filled: what a reader gets is always what the
//! file holds when it reads.

use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use rustix::fs::Advice;

use crate::fuse::lock;

/// How far ahead of the reader.
const DISTANCE: u64 = 32 << 20;
/// How much is asked for in one go: the kernel takes no more than its own read-ahead or the device's largest request.
const PART: u64 = 512 << 10;
/// How many requests wait for the thread at most; what is beyond that the reader fetches itself.
const QUEUE: usize = 128;
/// The thread ends when nobody reads for so long.
const PATIENCE: Duration = Duration::from_secs(1);

/// Bytes of a file that are wanted soon.
struct Part {
    fd: OwnedFd,
    from: u64,
    to: u64,
}

/// Hands parts to the thread, which is started when there are any.
#[derive(Default)]
pub struct Ahead(Mutex<Option<SyncSender<Part>>>);

impl Ahead {
    /// A reader is about to read `len` bytes at `at`; the file has `left` from there.
    pub fn reads(&self, fd: &OwnedFd, at: u64, len: u64, left: u64) {
        if left <= len {
            return;
        }
        // Each part is asked for once: when the reader comes within reach of it.
        let reach = |from: u64| from.saturating_add(DISTANCE).next_multiple_of(PART);
        let from = if at == 0 { 0 } else { reach(at) };
        let to = reach(at.saturating_add(len)).min(at.saturating_add(left));
        if from < to
            && let Ok(fd) = fd.try_clone()
        {
            self.send(Part { fd, from, to });
        }
    }

    /// Without a thread, or when it is far behind, the reader fetches for itself: nothing but time is lost.
    fn send(&self, part: Part) {
        let mut thread = lock(&self.0);
        let part = match thread.as_ref() {
            None => part,
            Some(running) => match running.try_send(part) {
                Ok(()) | Err(TrySendError::Full(_)) => return,
                Err(TrySendError::Disconnected(part)) => part,
            },
        };
        let (sender, parts) = sync_channel(QUEUE);
        let started = std::thread::Builder::new().name("read-ahead".to_owned()).spawn(move || fetch(&parts));
        *thread = started.is_ok_and(|_| sender.try_send(part).is_ok()).then_some(sender);
    }
}

fn fetch(parts: &Receiver<Part>) {
    while let Ok(Part { fd, from, to }) = parts.recv_timeout(PATIENCE) {
        let mut next = from;
        while next < to {
            let _ = rustix::fs::fadvise(&fd, next, NonZeroU64::new(PART), Advice::WillNeed);
            next = next.saturating_add(PART);
        }
    }
}
