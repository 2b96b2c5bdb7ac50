//! A small HTTP/1.1 server for the sink and the bridge, bounded in connections, heads, bodies and time, and generic over
//! the listener, so that a simulated network can stand in.

mod site;

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::bounds;

pub use site::Site;

/// Gives connections.
pub trait Listener: Send + 'static {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection. Dropping the future loses none.
    fn accept(&mut self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Listener for tokio::net::TcpListener {
    type Stream = tokio::net::TcpStream;

    async fn accept(&mut self) -> io::Result<Self::Stream> {
        let (stream, _) = tokio::net::TcpListener::accept(self).await?;
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }
}

/// A request that was read whole. While it lives its body counts among those that are held.
#[derive(Debug)]
pub struct Asked {
    /// The method.
    pub method: Method,
    /// The path.
    pub path: String,
    /// What stands behind the `?`.
    pub query: String,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    _held: OwnedSemaphorePermit,
}

/// An answer.
pub type Answer = Response<Full<Bytes>>;

/// Answers requests.
pub trait Handler: Send + Sync + 'static {
    /// The answer to a request; `None` closes the connection without one.
    fn answer(&self, asked: Asked) -> impl Future<Output = Option<Answer>> + Send;
}

/// An answer of plain text.
#[must_use]
pub fn text(status: StatusCode, words: &str) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(words.to_owned() + "\n")));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}

/// An answer of JSON.
#[must_use]
pub fn json(status: StatusCode, value: &serde_json::Value) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(value.to_string())));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

/// The answer to a wrong method on a path that takes `allowed`.
#[must_use]
pub fn wrong_method(allowed: &'static str) -> Answer {
    let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "this path does not take this method");
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    answer
}

/// Serves until `shutdown` is ready, then lets requests under way finish for two seconds and cuts off the rest.
pub async fn serve<L: Listener, H: Handler>(
    mut listener: L,
    site: Site,
    handler: Arc<H>,
    shutdown: impl Future<Output = ()> + Send,
) {
    let (tell, told) = watch::channel(false);
    let bodies = Arc::new(Semaphore::new(bounds::BODIES));
    let mut open = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        let full = open.len() >= bounds::CONNECTIONS;
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(_) = open.join_next(), if !open.is_empty() => {}
            accepted = listener.accept(), if !full => match accepted {
                Ok(stream) => {
                    let server = Server { site: site.clone(), handler: Arc::clone(&handler), bodies: Arc::clone(&bodies) };
                    open.spawn(connection(stream, server, told.clone()));
                }
                // No descriptors or no memory: time for connections to end instead of a spin.
                Err(_) => sleep(std::time::Duration::from_millis(50)).await,
            },
        }
    }
    drop(listener);
    let _ = tell.send(true);
    let _ = timeout(bounds::GRACE, async { while open.join_next().await.is_some() {} }).await;
    open.shutdown().await;
}

struct Server<H> {
    site: Site,
    handler: Arc<H>,
    bodies: Arc<Semaphore>,
}

/// The handler wants the connection closed without an answer.
#[derive(Debug, thiserror::Error)]
#[error("cut")]
struct Cut;

async fn connection<S, H>(stream: S, server: Server<H>, mut stop: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Handler,
{
    let server = Arc::new(server);
    let service = service_fn(move |request| {
        let server = Arc::clone(&server);
        async move { server.answer(request).await.ok_or(Cut) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds::HEAD_TIME)
        .max_header_size(bounds::REQUEST_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    // An error is the caller's end of a broken or malformed connection, or a cut.
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

impl<H: Handler> Server<H> {
    async fn answer(&self, request: Request<Incoming>) -> Option<Answer> {
        if let Err((status, words)) = self.site.check(request.uri(), request.headers()) {
            return Some(closing(text(StatusCode::from_u16(status).unwrap_or(StatusCode::FORBIDDEN), words)));
        }
        match self.read(request).await {
            Ok(asked) => self.handler.answer(asked).await,
            Err(answer) => Some(closing(answer)),
        }
    }

    async fn read(&self, request: Request<Incoming>) -> Result<Asked, Answer> {
        let too_large = || text(StatusCode::PAYLOAD_TOO_LARGE, "the body is longer than 64 MiB");
        let length = request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        let cap = u64::try_from(bounds::REQUEST).unwrap_or(u64::MAX);
        if length.is_some_and(|length| length > cap) {
            return Err(too_large());
        }
        let wait = timeout(bounds::BODIES_WAIT, Arc::clone(&self.bodies).acquire_owned()).await;
        let Ok(Ok(held)) = wait else {
            let mut busy = text(StatusCode::SERVICE_UNAVAILABLE, "too many requests at once");
            busy.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
            return Err(busy);
        };
        let (parts, body) = request.into_parts();
        let body = match timeout(bounds::BODY_TIME, whole(body)).await {
            Ok(Ok(Some(body))) => body,
            Ok(Ok(None)) => return Err(too_large()),
            Ok(Err(_)) => return Err(text(StatusCode::BAD_REQUEST, "the body did not come whole")),
            Err(_) => return Err(text(StatusCode::REQUEST_TIMEOUT, "the body did not come in time")),
        };
        Ok(Asked {
            method: parts.method,
            path: parts.uri.path().to_owned(),
            query: parts.uri.query().unwrap_or_default().to_owned(),
            headers: parts.headers,
            body,
            _held: held,
        })
    }
}

/// The body; `None` past the bound.
async fn whole(mut body: Incoming) -> Result<Option<Bytes>, hyper::Error> {
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        if bytes.len() + data.len() > bounds::REQUEST {
            return Ok(None);
        }
        bytes.extend_from_slice(&data);
    }
    Ok(Some(bytes.freeze()))
}

/// The body behind such an answer was not read: there is no next request.
fn closing(mut answer: Answer) -> Answer {
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    answer
}
