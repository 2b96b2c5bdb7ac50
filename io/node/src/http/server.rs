//! Accepting and serving connections, generic over the listener, so that a simulated network can stand in.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};

use super::own::OwnThreads;
use super::patient::Patient;
use super::{App, routes};

/// Gives connections.
pub trait Listener: Send + 'static {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection. Dropping the future loses none.
    fn accept(&mut self) -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// Takes a connection out of the runtime in which it was accepted; what is returned opens it in another one.
    ///
    /// # Errors
    /// The connection is lost.
    fn moved(
        stream: Self::Stream,
    ) -> io::Result<impl FnOnce() -> io::Result<Self::Stream> + Send + use<Self> + 'static>;
}

impl Listener for tokio::net::TcpListener {
    type Stream = tokio::net::TcpStream;

    async fn accept(&mut self) -> io::Result<Self::Stream> {
        let (stream, _) = tokio::net::TcpListener::accept(self).await?;
        // An answer is one small write: it must not wait for the acknowledgement of the one before.
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }

    fn moved(stream: Self::Stream) -> io::Result<impl FnOnce() -> io::Result<Self::Stream> + Send + use<> + 'static> {
        let stream = stream.into_std()?;
        Ok(move || tokio::net::TcpStream::from_std(stream))
    }
}

/// What a connection over the limit is told (SPEC 2, FAULTS X06).
const OVERLOAD: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n\
    connection: close\r\ncontent-length: 39\r\n\r\n{\"decision\":\"deny\",\"reason\":\"overload\"}";

/// The pause after a failed accept (no descriptors, no memory): time for connections to end instead of a spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves until `stop` becomes true; then takes no more connections, lets each finish the request that it is in, and
/// returns when all have ended. The first connections get the threads of `own`, the others share this runtime.
pub async fn serve<L: Listener>(mut listener: L, app: App, own: OwnThreads, mut stop: watch::Receiver<bool>) {
    let router = routes::router(app.clone());
    let open = Arc::new(AtomicUsize::new(0));
    // Each connection holds a sender: when the last is gone, all have ended.
    let (alive, mut all_ended) = mpsc::channel::<Infallible>(1);
    loop {
        let accepted = tokio::select! {
            biased;
            () = told_to_stop(&mut stop) => break,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                if !is_of_one_connection(&error) {
                    app.node.metrics().refused("accept_failed", 0);
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
                continue;
            }
        };
        if open.load(Ordering::Relaxed) >= app.limits.connections {
            app.node.metrics().refused("overload", 503);
            turn_away(stream);
            continue;
        }
        let guard = Counted::new(Arc::clone(&open), app.clone());
        let (router, stop, alive) = (router.clone(), stop.clone(), alive.clone());
        let limits = app.limits;
        let serve = move |stream| async move {
            connection(Patient::new(stream, limits.write_time), router, &limits, stop).await;
            drop((guard, alive));
        };
        match own.take() {
            None => drop(tokio::spawn(serve(stream))),
            Some(thread) => {
                let Ok(open) = L::moved(stream) else { continue };
                thread.run(async move {
                    if let Ok(stream) = open() {
                        serve(stream).await;
                    }
                });
            }
        }
    }
    drop(listener);
    drop(alive);
    let _ = all_ended.recv().await;
}

async fn connection<S>(stream: S, router: axum::Router, limits: &super::Limits, mut stop: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_time)
        .max_header_size(limits.head_bytes)
        .max_buf_size(limits.head_bytes.saturating_mul(4).max(64 * 1024))
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
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

/// Returns once the server is to stop; a sender that is gone says so too.
async fn told_to_stop(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Errors of accept(2) that belong to the one connection that is gone already.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

/// One try to tell why, without waiting; then the connection is closed.
fn turn_away<S: AsyncWrite + Unpin>(mut stream: S) {
    let mut cx = Context::from_waker(Waker::noop());
    let _ = Pin::new(&mut stream).poll_write(&mut cx, OVERLOAD);
    let _ = Pin::new(&mut stream).poll_shutdown(&mut cx);
}

struct Counted {
    open: Arc<AtomicUsize>,
    app: App,
}

impl Counted {
    fn new(open: Arc<AtomicUsize>, app: App) -> Self {
        app.node.metrics().connections(open.fetch_add(1, Ordering::Relaxed) + 1);
        Self { open, app }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let before = self.open.fetch_sub(1, Ordering::Relaxed);
        self.app.node.metrics().connections(before.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_a_connection_too_many_says_its_length() {
        let text = std::str::from_utf8(OVERLOAD).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.ends_with(&format!("content-length: {}", body.len())), "{head}");
    }
}
