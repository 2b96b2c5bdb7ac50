//! Requests whose length could be read in two ways (FAULTS N14). A request with both `Content-Length` and
//! `Transfer-Encoding` is chunked to whoever follows RFC 9112 (6.3), and something else to whoever does not; hyper takes it
//! as chunked, hides the other header and closes behind it. Here its bytes are watched on their way to hyper, so that it
//! can be refused.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Of a line of a head, this much is looked at: more than a header that says a length needs.
const LINE: usize = 128;

/// A stream on which requests are watched.
#[derive(Debug)]
pub struct Watched<S> {
    stream: S,
    reader: Reader,
    seen: Seen,
}

/// What was seen of the requests of one connection.
#[derive(Clone, Debug, Default)]
pub struct Seen(Arc<Requests>);

#[derive(Debug, Default)]
struct Requests {
    taken: AtomicU64,
    /// The number of the one whose length can be read in two ways, counted from 1; behind it there is no request.
    ambiguous: AtomicU64,
}

impl Seen {
    /// Whether the next request's length can be read in two ways; to be asked once for each request, in order.
    #[must_use]
    pub fn next_is_ambiguous(&self) -> bool {
        let number = self.0.taken.fetch_add(1, Ordering::Relaxed) + 1;
        number == self.0.ambiguous.load(Ordering::Relaxed)
    }
}

impl<S> Watched<S> {
    /// Watches what is read from a new connection.
    pub fn new(stream: S) -> (Self, Seen) {
        let seen = Seen::default();
        (Self { stream, reader: Reader::default(), seen: seen.clone() }, seen)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let done = Pin::new(&mut self.stream).poll_read(cx, buf);
        if let Some(number) = buf.filled().get(before..).and_then(|new| self.reader.read(new)) {
            self.seen.0.ambiguous.store(number, Ordering::Relaxed);
        }
        done
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Where in a request the next byte belongs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    #[default]
    Head,
    /// So many bytes of the body are to come.
    Body(u64),
    ChunkSize,
    /// So many bytes of the chunk, its line's end among them, are to come.
    Chunk(u64),
    Trailer,
    /// No request can come any more.
    Over,
}

/// Follows the requests of a connection. What it cannot follow, hyper refuses, and then there is no next request either.
#[derive(Debug, Default)]
struct Reader {
    at: At,
    line: Vec<u8>,
    /// Whether the head has a line yet: empty ones before it are passed over.
    begun: bool,
    length: Option<u64>,
    chunked: bool,
    requests: u64,
}

impl Reader {
    /// Reads on; the number of a request, from 1, whose length can be read in two ways.
    fn read(&mut self, mut bytes: &[u8]) -> Option<u64> {
        let mut ambiguous = None;
        while !bytes.is_empty() {
            let taken = match &mut self.at {
                At::Over => return ambiguous,
                At::Body(left) | At::Chunk(left) => {
                    let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    *left = left.saturating_sub(u64::try_from(taken).unwrap_or(u64::MAX));
                    if *left == 0 {
                        self.at = if matches!(self.at, At::Body(_)) { At::Head } else { At::ChunkSize };
                    }
                    taken
                }
                At::Head | At::ChunkSize | At::Trailer => {
                    let end = bytes.iter().position(|b| *b == b'\n');
                    let taken = end.map_or(bytes.len(), |end| end + 1);
                    let room = LINE.saturating_sub(self.line.len()).min(taken);
                    self.line.extend_from_slice(bytes.get(..room).unwrap_or_default());
                    if end.is_some() && self.end_of_line() {
                        ambiguous = Some(self.requests);
                    }
                    taken
                }
            };
            bytes = bytes.get(taken..).unwrap_or_default();
        }
        ambiguous
    }

    /// At the end of a line: whether it ends a head that says its length in two ways.
    fn end_of_line(&mut self) -> bool {
        let line = std::mem::take(&mut self.line);
        let text = line.trim_ascii();
        let found = match self.at {
            At::Head if !text.is_empty() => {
                if self.begun {
                    self.header(text);
                }
                self.begun = true;
                false
            }
            At::Head => self.begun && self.end_of_head(),
            At::ChunkSize => {
                let digits = text.iter().take_while(|b| b.is_ascii_hexdigit()).count();
                let digits = text.get(..digits).and_then(|digits| std::str::from_utf8(digits).ok());
                self.at = match digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()) {
                    Some(0) => At::Trailer,
                    Some(size) => At::Chunk(size.saturating_add(2)),
                    None => At::Over,
                };
                false
            }
            At::Trailer if text.is_empty() => {
                self.at = At::Head;
                false
            }
            At::Trailer | At::Body(_) | At::Chunk(_) | At::Over => false,
        };
        // The room is kept for the next line.
        self.line = line;
        self.line.clear();
        found
    }

    fn header(&mut self, line: &[u8]) {
        let Some(colon) = line.iter().position(|b| *b == b':') else { return };
        let (name, value) = line.split_at(colon);
        if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.chunked = true;
        } else if name.eq_ignore_ascii_case(b"content-length") {
            let value = value.get(1..).and_then(|value| std::str::from_utf8(value.trim_ascii()).ok());
            // What is no number, hyper refuses; should it ever take one, this connection is followed no further.
            self.length = Some(value.and_then(|value| value.parse().ok()).unwrap_or(u64::MAX));
        }
    }

    fn end_of_head(&mut self) -> bool {
        self.requests += 1;
        self.begun = false;
        let (length, chunked) = (self.length.take(), std::mem::take(&mut self.chunked));
        self.at = match (length, chunked) {
            (Some(_), true) => At::Over,
            (None, true) => At::ChunkSize,
            (Some(0) | None, false) => At::Head,
            (Some(length), false) => At::Body(length),
        };
        length.is_some() && chunked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: &str = "POST / HTTP/1.1\r\nhost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";

    /// What is found, read whole and byte by byte, and how many requests there were.
    fn found(text: &str) -> (Option<u64>, u64) {
        let mut whole = Reader::default();
        let at_once = whole.read(text.as_bytes());
        let mut pieces = Reader::default();
        let piecewise = text.as_bytes().iter().filter_map(|byte| pieces.read(&[*byte])).last();
        assert_eq!((at_once, whole.requests), (piecewise, pieces.requests), "{text:?}");
        (at_once, whole.requests)
    }

    #[test]
    fn n14_two_lengths_are_seen_wherever_they_stand() {
        assert_eq!(found(BOTH), (Some(1), 1));
        assert_eq!(found("P / H\ntransfer-encoding:chunked\ncontent-length:0\n\n"), (Some(1), 1));
        for before in [
            "",
            "\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\n\r\n",
            "POST / HTTP/1.1\r\ncontent-length: 17\r\ncontent-length: 17\r\n\r\nContent-Length: 5",
            "PUT / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\nx: y\r\n\r\n",
        ] {
            let requests = u64::from(before.trim().contains("HTTP/1.1")) + 1;
            assert_eq!(found(&format!("{before}{BOTH}")), (Some(requests), requests), "{before:?}");
            // Behind it there is no request.
            assert_eq!(found(&format!("{before}{BOTH}{BOTH}")), (Some(requests), requests), "{before:?}");
        }
    }

    #[test]
    fn n14_one_length_is_one_length_whatever_the_body_says() {
        for (text, requests) in [
            ("GET / HTTP/1.1\r\nhost: a\r\n\r\n", 1),
            ("P / H\r\ncontent-length: 43\r\n\r\nContent-Length: 5\r\nTransfer-Encoding: x\r\n\r\n", 1),
            ("P / H\r\ntransfer-encoding: chunked\r\n\r\n12\r\nContent-Length: 5\n\r\n0\r\n\r\nGET / H\r\n\r\n", 2),
            ("P / H\r\nx-content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 1),
            ("P / H\r\ntransfer-encoding: chunked\r\n\r\n0\r\ncontent-length: 5\r\n\r\n", 1),
            ("P / H\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n\r\n", 1),
            ("P / H\r\ncontent-length: x\r\n\r\n", 1),
        ] {
            assert_eq!(found(text), (None, requests), "{text:?}");
        }
        let long = format!("P / H\r\n{}content-length: 5\r\ncontent-length: 5\r\n\r\n01234", "x".repeat(LINE));
        assert_eq!(found(&format!("{long}{BOTH}")), (Some(2), 2));
    }

    #[test]
    fn each_request_is_asked_about_once() {
        let seen = Seen::default();
        seen.0.ambiguous.store(2, Ordering::Relaxed);
        assert_eq!(
            [seen.next_is_ambiguous(), seen.next_is_ambiguous(), seen.next_is_ambiguous()],
            [false, true, false]
        );
        assert!(!Seen::default().next_is_ambiguous());
    }
}
