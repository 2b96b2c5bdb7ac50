//! Accepting and serving connections within bounds, until it is time to stop (FAULTS N16, N17, X08).

use std::error::Error;
use std::io;
use std::pin::Pin;
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::HttpService;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::listen::Listener;
use crate::patient::Patient;

/// The bounds of a server's connections.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once; more wait to be accepted.
    pub connections: usize,
    /// Bytes of a request's head.
    pub head_bytes: usize,
    /// How long a head may take, and how long a kept connection may be idle.
    pub head_time: Duration,
    /// Bytes that are read ahead of whoever takes them, at least 8 KiB.
    pub ahead_bytes: usize,
    /// How long writes may wait for a caller that does not keep [`crate::PACE`].
    pub write_time: Duration,
    /// How long requests under way may take to finish when the server is told to stop.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 256,
            head_bytes: 16 * 1024,
            head_time: Duration::from_secs(30),
            ahead_bytes: 256 * 1024,
            write_time: Duration::from_secs(30),
            grace: Duration::from_secs(2),
        }
    }
}

/// Becomes true when the server is to stop; a sender that is gone says so too.
pub type Stop = watch::Receiver<bool>;

/// The pause after a failed accept (no descriptors, no memory): time for connections to end instead of a spin.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Returns once the server is to stop.
pub async fn told_to_stop(stop: &mut Stop) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Errors of accept(2) that belong to the one connection that is gone already.
#[must_use]
pub fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

/// One try to tell why, without waiting; then the connection is closed.
pub fn turn_away<S: AsyncWrite + Unpin>(mut stream: S, answer: &[u8]) {
    let mut cx = Context::from_waker(Waker::noop());
    let _ = Pin::new(&mut stream).poll_write(&mut cx, answer);
    let _ = Pin::new(&mut stream).poll_shutdown(&mut cx);
}

/// Gives each connection to `serve` until `shutdown` is ready, then tells them to stop and cuts off those that do not end
/// within the grace.
pub async fn accept<L, F>(
    mut listener: L,
    limits: &Limits,
    shutdown: impl Future<Output = ()> + Send,
    mut serve: impl FnMut(L::Stream, Stop) -> F + Send,
) where
    L: Listener,
    F: Future<Output = ()> + Send + 'static,
{
    let (tell, told) = watch::channel(false);
    let mut open = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        let full = open.len() >= limits.connections;
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(_) = open.join_next(), if !open.is_empty() => {}
            accepted = listener.accept(), if !full => match accepted {
                Ok(stream) => drop(open.spawn(serve(stream, told.clone()))),
                Err(error) if is_of_one_connection(&error) => {}
                Err(_) => sleep(ACCEPT_PAUSE).await,
            },
        }
    }
    drop(listener);
    let _ = tell.send(true);
    let _ = timeout(limits.grace, async { while open.join_next().await.is_some() {} }).await;
    open.shutdown().await;
}

/// Serves one connection with HTTP/1.1, until it ends or, told to stop, has answered the request that it is in.
pub async fn connection<S, V, B>(stream: S, service: V, limits: &Limits, mut stop: Stop)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    V: HttpService<Incoming, ResBody = B>,
    V::Error: Into<Box<dyn Error + Send + Sync>>,
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_time)
        .max_header_size(limits.head_bytes)
        .max_buf_size(limits.ahead_bytes)
        .serve_connection(TokioIo::new(Patient::new(stream, limits.write_time)), service);
    tokio::pin!(connection);
    // An error is the caller's end of a broken or malformed connection: it has been answered or is gone.
    tokio::select! {
        _ = connection.as_mut() => {}
        () = told_to_stop(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}
