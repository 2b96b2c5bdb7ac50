//! `autonomy telemetry sink`: an OTLP/HTTP receiver for demos and tests, which can be told to misbehave (SPEC 5).
//!
//! `POST /v1/logs` takes records, `GET /stats` counts them, `POST /behave?mode=…` changes what becomes of requests.

mod behave;
mod store;
#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hyper::{Method, StatusCode};
use io_http::BindError;
use serde_json::json;
use tokio::net::TcpListener;

use crate::receive::{LogsRequest, Received, Refusal, encoding};
use crate::reply;
use crate::serve::{self, Answer, Asked, Handler, Listener};
use crate::work;

pub use behave::{Behave, UnknownBehaviour};
pub use store::Stats;
use store::{Lines, Store};

/// How a sink is set up.
#[derive(Clone, Debug, Default)]
pub struct SinkConfig {
    /// The address to listen on, `host:port`; port 0 is any free one.
    pub listen: String,
    /// The folder of `records.jsonl`; without one records are only counted.
    pub dir: Option<PathBuf>,
    /// What it does with requests.
    pub behave: Behave,
    /// Host names that it answers to beside loopback ones and its own address.
    pub hosts: Vec<String>,
}

/// Why a sink cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] BindError),
    /// The folder or its file cannot be used.
    #[error("{0}: records cannot be stored there: {1}")]
    Store(PathBuf, #[source] io::Error),
}

/// A sink that listens and does not serve yet.
#[derive(Debug)]
pub struct Sink<L = TcpListener> {
    listener: L,
    address: SocketAddr,
    hosts: Vec<String>,
    shared: Arc<Shared>,
}

/// Reads and steers a sink that runs.
#[derive(Clone, Debug)]
pub struct SinkHandle(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    behave: Mutex<Behave>,
    store: Mutex<Store>,
}

impl Sink {
    /// Listens, and opens the store.
    ///
    /// # Errors
    /// When the address or the folder cannot be used.
    pub async fn bind(config: &SinkConfig) -> Result<Self, SinkError> {
        let (listener, address) = io_http::bind(&config.listen).await?;
        Self::with_listener(listener, address, config)
    }
}

impl<L: Listener> Sink<L> {
    /// A sink over a listener that has this address.
    ///
    /// # Errors
    /// When the folder cannot be used.
    pub fn with_listener(listener: L, address: SocketAddr, config: &SinkConfig) -> Result<Self, SinkError> {
        let store = Store::open(config.dir.as_deref())
            .map_err(|error| SinkError::Store(config.dir.clone().unwrap_or_default(), error))?;
        let shared = Shared { behave: Mutex::new(config.behave.clone()), store: Mutex::new(store) };
        Ok(Self { listener, address, hosts: config.hosts.clone(), shared: Arc::new(shared) })
    }

    /// The address that it listens on.
    pub const fn addr(&self) -> SocketAddr {
        self.address
    }

    /// A handle that outlives the serving.
    #[must_use]
    pub fn handle(&self) -> SinkHandle {
        SinkHandle(Arc::clone(&self.shared))
    }

    /// Serves until `shutdown` is ready.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) {
        serve::serve(self.listener, self.address, &self.hosts, Arc::new(Receiver(self.shared)), shutdown).await;
    }
}

impl SinkHandle {
    /// What was taken so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.0.store().stats()
    }

    /// Changes what becomes of requests from now on.
    pub fn behave(&self, behave: Behave) {
        *self.0.behave.lock().unwrap_or_else(PoisonError::into_inner) = behave;
    }
}

impl Shared {
    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn logs(self: Arc<Self>, asked: Asked) -> Option<Answer> {
        self.store().asked();
        let behave = self.behave.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if behave == Behave::Hang {
            drop(asked);
            return std::future::pending().await;
        }
        // Unpacking and writing take time; the other connections have theirs meanwhile.
        let worked = work::run(asked.body.len(), move || {
            let encoding = encoding(&asked.headers).unwrap_or_default();
            match self.take(&asked, &behave) {
                Ok(answer) => answer,
                Err(refusal) => Some(reply::refused(refusal.status(), encoding, &refusal.to_string())),
            }
        });
        worked.await.flatten()
    }

    fn take(&self, asked: &Asked, behave: &Behave) -> Result<Option<Answer>, Refusal> {
        let request = LogsRequest::open(&asked.headers, asked.body.clone())?;
        let encoding = request.encoding;
        Ok(match behave {
            Behave::TooMany => Some(reply::later(StatusCode::TOO_MANY_REQUESTS, encoding, "slow down", 1)),
            Behave::Unavailable => Some(reply::later(StatusCode::SERVICE_UNAVAILABLE, encoding, "not now", 1)),
            Behave::Hang => None,
            Behave::Discard => {
                let records = request.count()?;
                self.store().discarded(records);
                Some(reply::full(encoding))
            }
            Behave::Accept => Some(self.keep(&request, u64::MAX, None)?.unwrap_or_else(|| reply::full(encoding))),
            Behave::Poison(text) => {
                Some(self.keep(&request, u64::MAX, Some(text))?.unwrap_or_else(|| reply::full(encoding)))
            }
            Behave::Cut => self.keep(&request, u64::MAX, None)?,
            Behave::Partial => {
                let records = request.each(&mut |_, _| Ok(()))?;
                let rejected = records.min(1);
                let words = "the last record was rejected, as this sink was told";
                let done = self.keep(&request, records - rejected, None)?;
                Some(done.unwrap_or_else(|| reply::partial(encoding, rejected, words)))
            }
        })
    }

    /// Stores the first `limit` records; with an answer, none were.
    fn keep(&self, request: &LogsRequest, limit: u64, poison: Option<&str>) -> Result<Option<Answer>, Refusal> {
        let mut lines = Lines::default();
        let (mut left, mut poisoned) = (limit, false);
        request.each(&mut |source, record| {
            if left == 0 {
                return Ok(());
            }
            left -= 1;
            let received = Received::of(source, record);
            poisoned |= poison.is_some_and(|text| received.body_text().contains(text));
            lines.push(source, &received);
            Ok(())
        })?;
        if poisoned {
            let words = "a record in it holds the text that this sink was told to refuse";
            return Ok(Some(reply::refused(StatusCode::BAD_REQUEST, request.encoding, words)));
        }
        Ok(match self.store().store(&lines) {
            Ok(()) => None,
            Err(error) => {
                let words = format!("the records could not be stored: {error}");
                Some(reply::later(StatusCode::SERVICE_UNAVAILABLE, request.encoding, &words, 1))
            }
        })
    }

    fn told(&self, query: &str) -> Answer {
        let mode = query.split('&').find_map(|pair| pair.strip_prefix("mode="));
        let mode = mode.and_then(unescape).unwrap_or_default();
        match mode.parse::<Behave>() {
            Ok(behave) => {
                *self.behave.lock().unwrap_or_else(PoisonError::into_inner) = behave.clone();
                serve::json(StatusCode::OK, json!({ "behave": behave.to_string() }).to_string())
            }
            Err(error) => serve::text(StatusCode::BAD_REQUEST, &error.to_string()),
        }
    }
}

/// The text of a query's value (`%20` and `+` are spaces).
fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

/// Answers requests.
struct Receiver(Arc<Shared>);

impl Handler for Receiver {
    async fn answer(&self, asked: Asked) -> Option<Answer> {
        let Self(shared) = self;
        match (asked.path.as_str(), &asked.method) {
            ("/v1/logs", &Method::POST) => Arc::clone(shared).logs(asked).await,
            ("/v1/logs", _) => Some(serve::wrong_method("POST")),
            ("/stats", &Method::GET) => {
                let stats = serde_json::to_string(&shared.store().stats()).unwrap_or_default();
                Some(serve::json(StatusCode::OK, stats))
            }
            ("/stats", _) => Some(serve::wrong_method("GET")),
            ("/behave", &Method::POST) => Some(shared.told(&asked.query)),
            ("/behave", _) => Some(serve::wrong_method("POST")),
            _ => Some(serve::text(StatusCode::NOT_FOUND, "there is /v1/logs, /stats and /behave")),
        }
    }
}
