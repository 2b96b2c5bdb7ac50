//! An HTTP/1.1 client for one address: one POST, one answer or one fault, all within a time.
//!
//! It sits on hyper's connection and not on a ready-made client, so that connecting, TLS and the exchange each report
//! their own faults; so that nothing follows a redirect, reads a proxy variable or decompresses an answer; and so that
//! the connection can come from a simulated network.

mod dial;
mod fault;
mod target;
mod tls;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderMap};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use machines::net::Fault;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use crate::bounds;

pub use dial::{Dial, Tcp};
pub use target::{Target, UrlError};
pub use tls::{TlsError, config as tls_config};

/// How long a kept connection may take to be ready for the next request, before it is given up for a new one.
const TURN_OVER: Duration = Duration::from_millis(20);

/// A whole answer.
#[derive(Debug)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body as it was sent, at most 64 KiB.
    pub body: Bytes,
}

/// A client of one address. It keeps one idle connection.
pub struct Client<D: Dial = Tcp> {
    dial: D,
    target: Target,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    idle: Mutex<Option<Connection>>,
}

impl<D: Dial> std::fmt::Debug for Client<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("target", &self.target).finish_non_exhaustive()
    }
}

impl<D: Dial> Client<D> {
    /// A client of `target`; `tls` is used when its URL says `https`.
    ///
    /// # Errors
    /// When the host is neither a name nor an address that a certificate can carry.
    pub fn new(dial: D, target: Target, tls: Arc<rustls::ClientConfig>) -> Result<Self, UrlError> {
        let tls = if target.tls {
            let name = ServerName::try_from(target.host.clone()).map_err(|_| UrlError {
                url: target.host.clone(),
                why: "is not a name or address that a certificate can carry",
            })?;
            Some((TlsConnector::from(tls), name))
        } else {
            None
        };
        Ok(Self { dial, target, tls, idle: Mutex::new(None) })
    }

    /// Posts `body` with these headers and reads the whole answer, both within the time.
    ///
    /// A kept connection that its peer closed before anything of the request was sent on it is replaced by a new one.
    ///
    /// # Errors
    /// The fault, when no whole answer was read.
    pub async fn post(&self, headers: HeaderMap, body: Bytes, within: Duration) -> Result<Reply, Fault> {
        timeout(within, self.exchange(headers, body, within)).await.unwrap_or(Err(Fault::TimedOut))
    }

    async fn exchange(&self, headers: HeaderMap, body: Bytes, within: Duration) -> Result<Reply, Fault> {
        let end = Instant::now() + within;
        let mut request = self.request(headers, body);
        if let Some(kept) = self.kept().await {
            match self.send(kept, request).await {
                Err((_, Some(unsent))) => request = *unsent,
                Err((fault, None)) => return Err(fault),
                Ok(reply) => return Ok(reply),
            }
        }
        let connection = self.connect(end.saturating_duration_since(Instant::now())).await?;
        self.send(connection, request).await.map_err(|(fault, _)| fault)
    }

    fn request(&self, headers: HeaderMap, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.target.path.clone();
        *request.headers_mut() = headers;
        request.headers_mut().insert(HOST, self.target.authority.clone());
        request
    }

    async fn connect(&self, within: Duration) -> Result<Connection, Fault> {
        let stream = self.dial.dial(&self.target.host, self.target.port, within).await?;
        match &self.tls {
            None => Connection::open(stream).await,
            Some((connector, name)) => {
                let stream = connector.connect(name.clone(), stream).await.map_err(|e| fault::of_handshake(&e))?;
                Connection::open(stream).await
            }
        }
    }

    /// One exchange. With the fault comes the request, when nothing of it was sent.
    async fn send(
        &self,
        mut connection: Connection,
        request: Request<Full<Bytes>>,
    ) -> Result<Reply, (Fault, Option<Box<Request<Full<Bytes>>>>)> {
        let response = connection.sender.try_send_request(request).await.map_err(|mut error| {
            let unsent = error.take_message().map(Box::new);
            (fault::of_exchange(error.error()), unsent)
        })?;
        let reply = read(response).await.map_err(|fault| (fault, None))?;
        *self.idle.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection);
        Ok(reply)
    }

    /// The kept connection, if it can be used. It cannot after an answer that came before the whole request was taken,
    /// which says nothing about the answer: so this is looked at here, and not when the answer was read.
    async fn kept(&self) -> Option<Connection> {
        let mut kept = self.idle.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        let ready = timeout(TURN_OVER, kept.sender.ready()).await;
        matches!(ready, Ok(Ok(()))).then_some(kept)
    }
}

/// The answer's body, up to its bound.
async fn read(response: Response<hyper::body::Incoming>) -> Result<Reply, Fault> {
    let (parts, mut body) = response.into_parts();
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| fault::of_exchange(&error))?;
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > bounds::ANSWER {
            return Err(Fault::TooLong);
        }
        bytes.extend_from_slice(&data);
    }
    Ok(Reply { status: parts.status, headers: parts.headers, body: bytes.freeze() })
}

/// A connection and the task that drives it, which ends with it: an exchange that ran out of time leaves nothing behind.
struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    task: tokio::task::AbortHandle,
}

impl Connection {
    async fn open<S>(stream: S) -> Result<Self, Fault>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = http1::Builder::new()
            .max_header_size(bounds::ANSWER_HEAD)
            .max_buf_size(bounds::ANSWER.max(bounds::ANSWER_HEAD))
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| fault::of_exchange(&error))?;
        // Its error is the sender's error as well.
        let task = tokio::spawn(async move { drop(connection.await) }).abort_handle();
        Ok(Self { sender, task })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}
