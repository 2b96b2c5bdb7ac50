//! A connection whose writes do not wait for ever: a caller that takes nothing of its answer is cut off. One that is
//! still sending when it is refused gets its answer all the same.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// How long, and for how many bytes, a connection that is closed is read: the kernel answers bytes that nobody read with
/// a reset, which takes the answer along.
const LINGER: (Duration, usize) = (Duration::from_millis(200), 4 << 20);

/// A stream with a bound on the time that one write may wait.
pub struct Patient<S> {
    stream: S,
    patience: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
    closed: Option<Lingering>,
}

/// Our side is closed: so many bytes more are read, until then.
struct Lingering {
    left: usize,
    until: Pin<Box<Sleep>>,
}

impl<S> Patient<S> {
    pub fn new(stream: S, patience: Duration) -> Self {
        Self { stream, patience, waiting: None, closed: None }
    }

    fn bounded<T>(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>>
    where
        S: Unpin,
    {
        let done = write(Pin::new(&mut self.stream), cx);
        if done.is_ready() {
            self.waiting = None;
            return done;
        }
        let patience = self.patience;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(patience)));
        if waiting.as_mut().poll(cx).is_ready() {
            // Polled again after this, it fails again.
            waiting.as_mut().reset(Instant::now());
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Poll::Pending
    }
}

impl<S: AsyncRead + Unpin> Patient<S> {
    /// Reads what still comes, until the other side closes too.
    fn linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (time, bytes) = LINGER;
        let closed = self.closed.get_or_insert_with(|| Lingering { left: bytes, until: Box::pin(sleep(time)) });
        let mut scratch = [0; 8192];
        while closed.left > 0 && closed.until.as_mut().poll(cx).is_pending() {
            let mut read = ReadBuf::new(&mut scratch);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read)).unwrap_or_default();
            match read.filled().len() {
                // Closed there too, or broken.
                0 => break,
                n => closed.left = closed.left.saturating_sub(n),
            }
        }
        // Nothing more is read, however often this is asked again.
        closed.left = 0;
        Poll::Ready(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.bounded(cx, |stream, cx| stream.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.bounded(cx, |stream, cx| stream.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.bounded(cx, |stream, cx| stream.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.closed.is_none() {
            ready!(self.as_mut().bounded(cx, |stream, cx| stream.poll_shutdown(cx)))?;
        }
        self.linger(cx).map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn who_is_still_sending_gets_the_answer_and_is_not_waited_for_for_ever() {
        let (mut caller, server) = duplex(16);
        let mut server = Patient::new(server, Duration::from_secs(30));
        let closing = tokio::spawn(async move {
            server.write_all(b"413").await.unwrap();
            // The server flushes each time before it closes.
            poll_fn(|cx| {
                let _ = Pin::new(&mut server).poll_flush(cx);
                Pin::new(&mut server).poll_shutdown(cx)
            })
            .await
            .unwrap();
        });
        // More than the pipe holds: it is taken although nobody wants it.
        caller.write_all(&[0; 100_000]).await.unwrap();
        let mut answer = [0; 3];
        caller.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"413");
        // Neither closed nor sending: the connection ends without it.
        tokio::time::timeout(Duration::from_secs(20), closing).await.unwrap().unwrap();
    }
}
