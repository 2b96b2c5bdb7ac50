//! A connection whose writes do not wait for ever: who takes nothing of an answer is cut off (FAULTS N16). One that is
//! still sending when it is refused gets its answer all the same.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// How long, and for how many bytes, a connection that is closed is read: the kernel answers bytes that nobody read with a
/// reset, which takes the answer along.
const LINGER: (Duration, usize) = (Duration::from_millis(500), 4 << 20);

/// A stream with a bound on the time that one write may wait.
#[derive(Debug)]
pub struct Patient<S> {
    stream: S,
    patience: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
    /// Our side is closed; so many bytes more are read.
    closed: Option<usize>,
}

impl<S> Patient<S> {
    pub const fn new(stream: S, patience: Duration) -> Self {
        Self { stream, patience, waiting: None, closed: None }
    }

    fn bounded<T>(&mut self, cx: &mut Context<'_>, done: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if done.is_ready() {
            self.waiting = None;
            return done;
        }
        let patience = self.patience;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(patience)));
        if waiting.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        // Polled again after this, it fails again.
        waiting.as_mut().reset(Instant::now());
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> Patient<S> {
    /// Reads what still comes, until the other side closes too.
    fn linger(&mut self, mut left: usize, cx: &mut Context<'_>) -> Poll<()> {
        let mut scratch = [0; 8192];
        while left > 0 {
            let mut read = ReadBuf::new(&mut scratch);
            match Pin::new(&mut self.stream).poll_read(cx, &mut read) {
                Poll::Ready(Ok(())) if !read.filled().is_empty() => left = left.saturating_sub(read.filled().len()),
                Poll::Ready(Ok(()) | Err(_)) => return Poll::Ready(()),
                Poll::Pending => {
                    self.closed = Some(left);
                    return self.waiting.get_or_insert_with(|| Box::pin(sleep(LINGER.0))).as_mut().poll(cx);
                }
            }
        }
        Poll::Ready(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.bounded(cx, done)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.bounded(cx, done)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = Pin::new(&mut self.stream).poll_flush(cx);
        self.bounded(cx, done)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let left = match self.closed {
            Some(left) => left,
            None => {
                let done = Pin::new(&mut self.stream).poll_shutdown(cx);
                ready!(self.bounded(cx, done))?;
                LINGER.1
            }
        };
        self.linger(left, cx).map(Ok)
    }
}
