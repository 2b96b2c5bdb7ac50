//! Closed loops over HTTP/1.1 keep-alive: one thread, one epoll, requests that are made once.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::time::Timespec;

/// What a run gave.
#[derive(Debug)]
pub struct Ran {
    /// Answers with 200.
    pub calls: usize,
    /// Answers with another status: denied over the budget or refused under the load.
    pub others: usize,
    /// From the first to the last moment in which answers counted.
    pub took: Duration,
    /// Times of the single calls in microseconds, sorted.
    pub times_us: Vec<f64>,
}

impl Ran {
    /// Answers with 200 a second.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        as_f64(self.calls) / self.took.as_secs_f64()
    }
}

/// A count as a number to calculate with.
#[must_use]
#[allow(clippy::cast_precision_loss)] // counts stay far below 2^52
pub fn as_f64(n: usize) -> f64 {
    n as f64
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub enum Ask {
    /// `GET /health`
    Health,
    /// An echo that policy allows: two durable events.
    Echo,
}

impl Ask {
    fn request(self, address: SocketAddr) -> Vec<u8> {
        match self {
            Self::Health => format!("GET /health HTTP/1.1\r\nhost: {address}\r\n\r\n").into_bytes(),
            Self::Echo => {
                let body = demo::act1::ECHO;
                let len = body.len();
                let head = format!("POST /v1/tool HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n");
                format!("{head}content-length: {len}\r\n\r\n{body}").into_bytes()
            }
        }
    }
}

struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    filled: usize,
    sent: Instant,
}

/// `clients` closed loops for `time`, after a warm-up of a fifth of it.
///
/// # Errors
/// A connection that breaks, or no answer for 10 s.
pub fn run(address: SocketAddr, clients: usize, ask: Ask, time: Duration) -> Result<Ran> {
    let request = ask.request(address);
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC).context("epoll")?;
    let mut connections = Vec::with_capacity(clients);
    for n in 0..clients {
        let stream = TcpStream::connect(address).with_context(|| format!("client {n} to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        epoll::add(&poll, &stream, EventData::new_u64(u64::try_from(n)?), EventFlags::IN).context("epoll")?;
        connections.push(Connection { stream, buffer: vec![0; 4096], filled: 0, sent: Instant::now() });
    }
    let begin = Instant::now();
    let (from, until) = (begin + time / 5, begin + time / 5 + time);
    for connection in &mut connections {
        connection.send(&request)?;
    }
    let mut ran = Ran { calls: 0, others: 0, took: time, times_us: Vec::with_capacity(1 << 20) };
    let mut events = Vec::with_capacity(256);
    let patience = Timespec { tv_sec: 10, tv_nsec: 0 };
    loop {
        epoll::wait(&poll, spare_capacity(&mut events), Some(&patience)).context("epoll")?;
        ensure!(!events.is_empty(), "no answer for 10 s at {clients} clients");
        let now = Instant::now();
        for event in events.drain(..) {
            let Some(connection) = connections.get_mut(usize::try_from(event.data.u64())?) else { continue };
            let Some(good) = connection.answered()? else { continue };
            if now >= from && good {
                ran.calls += 1;
                ran.times_us.push(connection.sent.elapsed().as_secs_f64() * 1e6);
            }
            ran.others += usize::from(!good);
            connection.send(&request)?;
        }
        if now >= until {
            ran.took = now - from;
            break;
        }
    }
    ran.times_us.sort_by(f64::total_cmp);
    Ok(ran)
}

impl Connection {
    fn send(&mut self, request: &[u8]) -> Result<()> {
        self.sent = Instant::now();
        self.filled = 0;
        let written = self.stream.write(request).context("sending a request")?;
        ensure!(written == request.len(), "the socket took {written} of {} bytes", request.len());
        Ok(())
    }

    /// Reads once; once the whole answer is there, whether it is a 200.
    fn answered(&mut self) -> Result<Option<bool>> {
        let Some(room) = self.buffer.get_mut(self.filled..).filter(|room| !room.is_empty()) else {
            bail!("an answer longer than {} bytes", self.buffer.len());
        };
        match self.stream.read(room) {
            Ok(0) => bail!("the server closed the connection"),
            Ok(n) => self.filled += n,
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return Ok(None),
            Err(e) => return Err(e).context("reading an answer"),
        }
        let read = self.buffer.get(..self.filled).unwrap_or_default();
        let whole = answer_len(read).is_some_and(|len| read.len() >= len);
        Ok(whole.then(|| read.starts_with(b"HTTP/1.1 200")))
    }
}

/// The length of the answer that starts here, once its head is whole.
fn answer_len(read: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"content-length:";
    let head = read.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let lines = read.get(..head)?.split(|b| *b == b'\n');
    let value = lines.into_iter().find_map(|line| {
        let (name, value) = line.split_at_checked(NAME.len())?;
        name.eq_ignore_ascii_case(NAME).then_some(value)
    })?;
    let len: usize = std::str::from_utf8(value).ok()?.trim().parse().ok()?;
    Some(head + len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_as_long_as_it_says() {
        assert_eq!(answer_len(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"), Some(40));
        assert_eq!(answer_len(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n"), None);
    }
}
