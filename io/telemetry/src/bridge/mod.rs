//! `autonomy telemetry bridge`: takes OTLP logs and forwards them to the control plane's `POST /v1/events` (SPEC 5, 9).
//!
//! It keeps nothing: a request is answered 200 only when all of it was forwarded, and what is sent again has the same
//! ids, which the control plane knows.

mod event;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue, USER_AGENT};
use hyper::{Method, StatusCode};
use io_http::BindError;
use machines::net::Fault;
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::answer::{self, Form};
use crate::client::{Client, Dial, Target, Tcp, TlsError, UrlError, tls_config};
use crate::receive::{LogsRequest, Received, Refusal, encoding};
use crate::reply;
use crate::serve::{self, Answer, Asked, Handler, Listener};
use crate::work;

use event::{Chunk, Chunks};

/// How a bridge is set up.
#[derive(Clone, Debug)]
pub struct BridgeConfig {
    /// The address to listen on, `host:port`; port 0 is any free one.
    pub listen: String,
    /// The control plane: `http://host:port` or `https://…`; `/v1/events` is put behind its path.
    pub forward_url: String,
    /// PEM file of the authorities to trust in place of the built-in ones.
    pub ca: Option<PathBuf>,
    /// PEM file of our certificate and its chain.
    pub cert: Option<PathBuf>,
    /// PEM file of its key.
    pub key: Option<PathBuf>,
    /// How long forwarding one request may take.
    pub timeout: Duration,
    /// Host names that it answers to beside loopback ones and its own address.
    pub hosts: Vec<String>,
}

impl BridgeConfig {
    /// A bridge from this address to this control plane, without files, with 20 s for a request: less than a drain waits.
    #[must_use]
    pub fn new(listen: impl Into<String>, forward_url: impl Into<String>) -> Self {
        Self {
            listen: listen.into(),
            forward_url: forward_url.into(),
            ca: None,
            cert: None,
            key: None,
            timeout: Duration::from_secs(20),
            hosts: Vec::new(),
        }
    }
}

/// Why a bridge cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum BridgeError {
    /// The control plane's URL cannot be used.
    #[error("control plane {0}")]
    ForwardUrl(#[from] UrlError),
    /// A certificate or key cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Files of TLS were given for a URL without it.
    #[error("{0}: is http, which uses no certificate; write https:// or leave the certificate and authority files out")]
    TlsWithoutHttps(String),
    /// The address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] BindError),
}

/// A bridge that listens and does not serve yet.
#[derive(Debug)]
pub struct Bridge<L = TcpListener, D: Dial = Tcp> {
    listener: L,
    address: SocketAddr,
    hosts: Vec<String>,
    forward: Forward<D>,
}

impl Bridge {
    /// Listens over TCP.
    ///
    /// # Errors
    /// Whatever in the configuration cannot work.
    pub async fn bind(config: &BridgeConfig) -> Result<Self, BridgeError> {
        let (listener, address) = io_http::bind(&config.listen).await?;
        Self::with_parts(listener, address, Tcp, config)
    }
}

impl<L: Listener, D: Dial> Bridge<L, D> {
    /// A bridge over a listener that has this address and connections that `dial` makes.
    ///
    /// # Errors
    /// Whatever in the configuration cannot work.
    pub fn with_parts(listener: L, address: SocketAddr, dial: D, config: &BridgeConfig) -> Result<Self, BridgeError> {
        let target = Target::parse(&config.forward_url, "/v1/events")?;
        let files = [&config.ca, &config.cert, &config.key];
        if !target.tls && files.iter().any(|file| file.is_some()) {
            return Err(BridgeError::TlsWithoutHttps(config.forward_url.clone()));
        }
        let tls = tls_config(config.ca.as_deref(), config.cert.as_deref(), config.key.as_deref())?;
        let forward = Forward { client: Client::new(dial, target, tls)?, timeout: config.timeout };
        Ok(Self { listener, address, hosts: config.hosts.clone(), forward })
    }

    /// The address that it listens on.
    pub const fn addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` is ready.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) {
        serve::serve(self.listener, self.address, &self.hosts, Arc::new(self.forward), shutdown).await;
    }
}

/// Forwards requests.
#[derive(Debug)]
struct Forward<D: Dial> {
    client: Client<D>,
    timeout: Duration,
}

/// Why events were not forwarded.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    words: String,
    /// Seconds.
    retry_after: u64,
}

/// How long to wait when the control plane does not say.
const RETRY_AFTER_SECONDS: u64 = 5;

impl<D: Dial> Forward<D> {
    async fn logs(&self, asked: Asked) -> Answer {
        let encoding = encoding(&asked.headers).unwrap_or_default();
        let worked = work::run(asked.body.len(), move || {
            let chunks = events(&asked);
            // The body is held as events from here on.
            drop(asked);
            chunks
        });
        let chunks = match worked.await {
            Some(Ok(chunks)) => chunks,
            Some(Err(refusal)) => return reply::refused(refusal.status(), encoding, &refusal.to_string()),
            None => {
                let words = "the worker that reads the request is gone";
                return reply::later(StatusCode::SERVICE_UNAVAILABLE, encoding, words, RETRY_AFTER_SECONDS);
            }
        };
        let end = Instant::now() + self.timeout;
        let mut conflicts = 0;
        for chunk in chunks {
            match self.post(chunk, end.saturating_duration_since(Instant::now())).await {
                Ok(conflict) => conflicts += conflict,
                Err(held) => {
                    let status = StatusCode::SERVICE_UNAVAILABLE;
                    return reply::later(status, encoding, &held.words, held.retry_after);
                }
            }
        }
        match conflicts {
            0 => reply::full(encoding),
            // Forwarded, and never to be taken: sending them again changes nothing.
            n => reply::partial(encoding, n, "the control plane has other events under the same ids"),
        }
    }

    /// Posts events and returns how many of them the control plane has with other content.
    async fn post(&self, chunk: Chunk, within: Duration) -> Result<u64, Held> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("autonomy-bridge/", env!("CARGO_PKG_VERSION"))));
        let held = |words: String, retry_after| Held { words, retry_after };
        let reply = self.client.post(headers, Bytes::from(chunk.json), within).await.map_err(|fault: Fault| {
            held(format!("the control plane cannot be reached: {fault}"), RETRY_AFTER_SECONDS)
        })?;
        let wait = answer::retry_after(&reply.headers, SystemTime::now());
        let wait = wait.map_or(RETRY_AFTER_SECONDS, |span| span.as_millis().div_ceil(1_000).clamp(1, 300));
        let said = || answer::words(Form::of(&reply.headers), &reply.body);
        if reply.status != StatusCode::OK {
            return Err(held(format!("the control plane answered {}: {}", reply.status.as_u16(), said()), wait));
        }
        match taken(&reply.body) {
            Some((received, conflict)) if received == chunk.events => Ok(conflict),
            Some((received, _)) => {
                let words = format!("the control plane received {received} of {} events", chunk.events);
                Err(held(words, wait))
            }
            None => Err(held(format!("the control plane's answer is not understood: {}", said()), wait)),
        }
    }
}

/// `received` and `conflict` of the control plane's answer.
fn taken(body: &[u8]) -> Option<(u64, u64)> {
    let value: serde_json::Value = serde_json::from_slice(body).ok()?;
    let conflict = value.get("conflict").map_or(Some(0), serde_json::Value::as_u64)?;
    Some((value.get("received")?.as_u64()?, conflict))
}

fn events(asked: &Asked) -> Result<Vec<Chunk>, Refusal> {
    let request = LogsRequest::open(&asked.headers, asked.body.clone())?;
    let mut chunks = Chunks::default();
    request.each(&mut |source, record| {
        chunks.push(source, Received::of(source, record));
        Ok(())
    })?;
    Ok(chunks.finish())
}

impl<D: Dial> Handler for Forward<D> {
    async fn answer(&self, asked: Asked) -> Option<Answer> {
        Some(match (asked.path.as_str(), &asked.method) {
            ("/v1/logs", &Method::POST) => self.logs(asked).await,
            ("/v1/logs", _) => serve::wrong_method("POST"),
            _ => serve::text(StatusCode::NOT_FOUND, "there is /v1/logs"),
        })
    }
}
