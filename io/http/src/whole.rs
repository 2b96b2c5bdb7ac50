//! A small HTTP/1.1 server for whoever answers whole requests: metrics, controls, receivers.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::connection::{Limits, accept, connection};
use crate::lengths::Watched;
use crate::listen::Listener;
use crate::site::Site;
use crate::unix::Credentials;

/// The bounds of bodies.
#[derive(Clone, Copy, Debug)]
pub struct Bodies {
    /// Bytes of one.
    pub bytes: usize,
    /// How long one may take.
    pub time: Duration,
    /// How many are held at once.
    pub at_once: usize,
    /// How long a request may wait until its body is one of them.
    pub wait: Duration,
}

impl Default for Bodies {
    fn default() -> Self {
        Self { bytes: 1 << 20, time: Duration::from_secs(10), at_once: 16, wait: Duration::from_secs(5) }
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
    /// Whose process asks, over a unix socket.
    pub peer: Option<Credentials>,
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
    with_type(status, "text/plain; charset=utf-8", words.to_owned() + "\n")
}

/// An answer of JSON.
#[must_use]
pub fn json(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    with_type(status, "application/json", body)
}

/// The answer to a wrong method on a path that takes `allowed`.
#[must_use]
pub fn wrong_method(allowed: &'static str) -> Answer {
    let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "this path does not take this method");
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    answer
}

fn with_type(status: StatusCode, media_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    answer
}

/// Serves until `shutdown` is ready, then lets requests under way finish within the grace and cuts off the rest.
pub async fn serve<L: Listener, H: Handler>(
    listener: L,
    site: Site,
    handler: Arc<H>,
    limits: Limits,
    bodies: Bodies,
    shutdown: impl Future<Output = ()> + Send,
) {
    let server = Arc::new(Server { site, handler, bodies, held: Arc::new(Semaphore::new(bodies.at_once)) });
    accept(listener, &limits, shutdown, |stream, stop| {
        let server = Arc::clone(&server);
        let peer = L::peer(&stream);
        async move {
            let (stream, seen) = Watched::new(stream);
            let service = service_fn(move |request| {
                let (server, ambiguous) = (Arc::clone(&server), seen.next_is_ambiguous());
                async move { server.answer(request, peer, ambiguous).await.ok_or(Cut) }
            });
            connection(stream, service, &limits, stop).await;
        }
    })
    .await;
}

/// The handler wants the connection closed without an answer.
#[derive(Debug, thiserror::Error)]
#[error("cut")]
struct Cut;

struct Server<H> {
    site: Site,
    handler: Arc<H>,
    bodies: Bodies,
    held: Arc<Semaphore>,
}

impl<H: Handler> Server<H> {
    async fn answer(&self, request: Request<Incoming>, peer: Option<Credentials>, ambiguous: bool) -> Option<Answer> {
        if ambiguous {
            let words = "Content-Length and Transfer-Encoding: a request says its length once";
            return Some(closing(text(StatusCode::BAD_REQUEST, words)));
        }
        if let Err(foreign) = self.site.check(request.uri(), request.headers()) {
            return Some(closing(text(foreign.status(), &foreign.to_string())));
        }
        match self.read(request, peer).await {
            Ok(asked) => self.handler.answer(asked).await,
            Err(answer) => Some(closing(answer)),
        }
    }

    async fn read(&self, request: Request<Incoming>, peer: Option<Credentials>) -> Result<Asked, Answer> {
        let most = self.bodies.bytes;
        let too_large = || text(StatusCode::PAYLOAD_TOO_LARGE, &format!("the body is longer than {} KiB", most / 1024));
        let length = request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        if length.is_some_and(|length| usize::try_from(length).map_or(true, |length| length > most)) {
            return Err(too_large());
        }
        let Ok(Ok(held)) = timeout(self.bodies.wait, Arc::clone(&self.held).acquire_owned()).await else {
            let mut busy = text(StatusCode::SERVICE_UNAVAILABLE, "too many requests at once");
            busy.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
            return Err(busy);
        };
        let (parts, body) = request.into_parts();
        let body = match timeout(self.bodies.time, whole(body, most)).await {
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
            peer,
            _held: held,
        })
    }
}

/// The body; `None` past the bound.
async fn whole(mut body: Incoming, most: usize) -> Result<Option<Bytes>, hyper::Error> {
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        if bytes.len() + data.len() > most {
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
