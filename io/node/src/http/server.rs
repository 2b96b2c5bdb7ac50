//! Accepting and serving connections, generic over the listener, so that a simulated network can stand in.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hyper_util::service::TowerToHyperService;
use io_http::{ACCEPT_PAUSE, Listener, Stop, connection, is_of_one_connection, told_to_stop, turn_away};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::own::OwnThreads;
use super::{App, routes};

/// A listener whose connections can be served by another runtime than the one that accepted them.
pub trait Movable: Listener {
    /// Takes a connection out of the runtime in which it was accepted; what is returned opens it in another one.
    ///
    /// # Errors
    /// The connection is lost.
    fn moved(
        stream: Self::Stream,
    ) -> io::Result<impl FnOnce() -> io::Result<Self::Stream> + Send + use<Self> + 'static>;
}

impl Movable for TcpListener {
    fn moved(stream: Self::Stream) -> io::Result<impl FnOnce() -> io::Result<Self::Stream> + Send + use<> + 'static> {
        let stream = stream.into_std()?;
        Ok(move || TcpStream::from_std(stream))
    }
}

/// What a connection over the limit is told (SPEC 2, FAULTS X06).
const OVERLOAD: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n\
    connection: close\r\ncontent-length: 39\r\n\r\n{\"decision\":\"deny\",\"reason\":\"overload\"}";

/// Serves until `stop` becomes true; then takes no more connections, lets each finish the request that it is in, and
/// returns when all have ended. The first connections get the threads of `own`, the others share this runtime.
pub async fn serve<L: Movable>(mut listener: L, app: App, own: OwnThreads, mut stop: Stop) {
    let router = routes::router(app.clone());
    let limits = app.limits.connection();
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
        if open.load(Ordering::Relaxed) >= limits.connections {
            app.node.metrics().refused("overload", 503);
            turn_away(stream, OVERLOAD);
            continue;
        }
        let guard = Counted::new(Arc::clone(&open), app.clone());
        let (router, stop, alive) = (router.clone(), stop.clone(), alive.clone());
        let serve = move |stream| async move {
            connection(stream, TowerToHyperService::new(router), &limits, stop).await;
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
