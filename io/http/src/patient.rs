//! A connection whose writes do not wait for ever: who takes nothing of an answer, or hardly anything, is cut off (FAULTS
//! N16). One that is still sending when it is refused gets its answer all the same.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// Bytes of an answer that a caller has to take in a second, on average: it earns as much waiting time as it takes at this
/// pace. What a satellite gives, shared by a few; and nobody holds a connection for a byte now and then.
pub const PACE: u32 = 4096;

/// A connection that is closed is read a little longer: the kernel answers bytes that nobody read with a reset, which takes
/// the answer along. It ends when nothing came for the first time, after the second, or after so many bytes.
const LINGER: (Duration, Duration, usize) = (Duration::from_millis(200), Duration::from_secs(2), 4 << 20);

/// A stream with a bound on the time that its writes may wait.
#[derive(Debug)]
pub struct Patient<S> {
    stream: S,
    patience: Duration,
    /// How much longer writes may wait. Waiting uses it up, what is taken earns it again.
    left: Duration,
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
    closed: Option<Lingering>,
}

/// Our side is closed: so many bytes more are read, until then.
#[derive(Debug)]
struct Lingering {
    left: usize,
    end: Instant,
    quiet: Pin<Box<Sleep>>,
}

impl<S> Patient<S> {
    /// A stream whose writes may wait for `patience` together, and longer only while [`PACE`] is kept.
    pub const fn new(stream: S, patience: Duration) -> Self {
        Self { stream, patience, left: patience, waiting: None, closed: None }
    }

    /// What becomes of a write of which `taken` says how many bytes went away.
    fn bounded<T>(
        &mut self,
        cx: &mut Context<'_>,
        done: Poll<io::Result<T>>,
        taken: impl FnOnce(&T) -> usize,
    ) -> Poll<io::Result<T>> {
        if let Poll::Ready(done) = done {
            if let Some((since, _)) = self.waiting.take() {
                self.left = self.left.saturating_sub(since.elapsed());
            }
            if self.left < self.patience
                && let Ok(value) = &done
            {
                self.left = (self.left + earned(taken(value))).min(self.patience);
            }
            return Poll::Ready(done);
        }
        let left = self.left;
        let (_, sleep) = self.waiting.get_or_insert_with(|| (Instant::now(), Box::pin(sleep(left))));
        if sleep.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        // Asked again after this, it fails again.
        sleep.as_mut().reset(Instant::now());
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

/// The waiting time that so many bytes are worth.
fn earned(bytes: usize) -> Duration {
    Duration::from_secs(u64::try_from(bytes).unwrap_or(u64::MAX)) / PACE
}

impl<S: AsyncRead + Unpin> Patient<S> {
    /// Reads what still comes, until the other side closes too.
    fn linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (quiet, most, bytes) = LINGER;
        let closed = self.closed.get_or_insert_with(|| Lingering {
            left: bytes,
            end: Instant::now() + most,
            quiet: Box::pin(sleep(quiet)),
        });
        let mut scratch = [0; 8192];
        while closed.left > 0 && closed.quiet.as_mut().poll(cx).is_pending() {
            let mut read = ReadBuf::new(&mut scratch);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read)).unwrap_or_default();
            match read.filled().len() {
                // Closed there too, or broken.
                0 => break,
                n => closed.left = closed.left.saturating_sub(n),
            }
            closed.quiet.as_mut().reset(closed.end.min(Instant::now() + quiet));
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
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.bounded(cx, done, |taken| *taken)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.bounded(cx, done, |taken| *taken)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = Pin::new(&mut self.stream).poll_flush(cx);
        self.bounded(cx, done, |()| 0)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.closed.is_none() {
            let done = Pin::new(&mut self.stream).poll_shutdown(cx);
            ready!(self.bounded(cx, done, |()| 0))?;
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

    #[tokio::test(start_paused = true)]
    async fn n16_who_sends_a_byte_now_and_then_to_a_closed_connection_is_not_read_for_ever() {
        let (mut caller, server) = duplex(16);
        let mut server = Patient::new(server, Duration::from_secs(30));
        let began = Instant::now();
        let closing = tokio::spawn(async move { server.shutdown().await });
        while caller.write_all(b"x").await.is_ok() {
            sleep(Duration::from_millis(100)).await;
        }
        closing.await.unwrap().unwrap();
        assert!(began.elapsed() <= LINGER.1 + Duration::from_millis(200), "{:?}", began.elapsed());
    }

    /// How long `bytes` may be on their way to a caller that takes `piece` bytes at a time and pauses between.
    async fn taking(bytes: usize, piece: usize, pause: Duration) -> (bool, Duration) {
        let (mut caller, server) = duplex(1024);
        let mut server = Patient::new(server, Duration::from_secs(30));
        let began = Instant::now();
        let reading = tokio::spawn(async move {
            let mut buffer = vec![0; piece];
            while caller.read_exact(&mut buffer).await.is_ok() {
                sleep(pause).await;
            }
        });
        let sent = server.write_all(&vec![0; bytes]).await;
        let taken = began.elapsed();
        reading.abort();
        (sent.is_ok(), taken)
    }

    #[tokio::test(start_paused = true)]
    async fn n16_who_takes_hardly_anything_is_cut_and_who_keeps_the_pace_is_not() {
        let second = Duration::from_secs(1);
        // Nothing, a byte now and then, and half of the pace.
        for (piece, pause) in [(1, second * 1000), (1, second * 29), (2048, second)] {
            let (whole, taken) = taking(1 << 20, piece, pause).await;
            assert!(!whole && taken < second * 70, "{piece} bytes each {pause:?}: {whole}, {taken:?}");
        }
        // A quarter more than the pace, evenly or after a pause that is shorter than its patience.
        for (piece, pause) in [(5120, second), (5120 * 20, second * 20)] {
            let (whole, taken) = taking(1 << 20, piece, pause).await;
            assert!(whole && taken > second * 150, "{piece} bytes each {pause:?}: {whole}, {taken:?}");
        }
    }
}
