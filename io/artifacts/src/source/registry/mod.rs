//! A repository of a registry (distribution-spec 1.1).
//!
//! A registry is not trusted: what it sends is bounded while it is read, its digests are not believed, and it is never
//! given credentials that belong to another host.

mod auth;
mod blobs;
mod http;
mod manifests;
mod net;
mod push;
mod upload;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use machines::oci::Digest;
use reqwest::Url;

pub use self::auth::Credentials;

use self::auth::Auth;
use self::net::Net;
use crate::Fault;

/// How registries are spoken to.
#[derive(Clone, Debug)]
pub struct Options {
    /// A file of certificate authorities in PEM that are trusted instead of the public ones. With it TLS is spoken to
    /// every registry, loopback addresses included.
    pub ca: Option<PathBuf>,
    /// Speak plain HTTP also where not every address is loopback. Credentials are never sent that way.
    pub plain_http: bool,
    /// Who we are, by registry.
    pub credentials: Credentials,
    /// Hosts, with their port where it is not 443, that a registry's credentials may be sent to besides the registry
    /// itself, when it says that tokens are given out there.
    pub token_hosts: Vec<String>,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// How often a request is sent at most, when connections fail, or the registry is busy or broken.
    pub tries: u32,
    /// How long to wait before the second try; it doubles with each, up to five seconds.
    pub backoff: Duration,
    /// A blob that is longer is sent in parts of so many bytes.
    pub chunk_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            ca: None,
            plain_http: false,
            credentials: Credentials::default(),
            token_hosts: Vec::new(),
            timeouts: Timeouts::default(),
            tries: 4,
            backoff: Duration::from_millis(250),
            chunk_bytes: 256 * 1024 * 1024,
        }
    }
}

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// To resolve a name, and to make a connection with TLS.
    pub connect: Duration,
    /// Without a byte.
    pub idle: Duration,
    /// A request and its answer, without what their length adds.
    pub answer: Duration,
    /// What a body adds: its length at this speed, in bytes per second.
    pub least_speed: u64,
}

/// The longest exchange.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            idle: Duration::from_secs(30),
            answer: Duration::from_secs(60),
            least_speed: 32 * 1024,
        }
    }
}

impl Timeouts {
    /// The whole of an exchange that moves so many bytes; whatever they are, a day.
    fn overall(&self, bytes: u64) -> Duration {
        self.answer.saturating_add(Duration::from_secs(bytes / self.least_speed.max(1))).min(LONGEST)
    }
}

/// A repository of a registry.
#[derive(Clone, Debug)]
pub struct Registry {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// `host/repository`, for messages.
    place: String,
    host: String,
    repository: String,
    /// `scheme://host[:port]/`
    base: Url,
    net: Net,
    auth: Auth,
    options: Options,
}

impl Registry {
    /// Resolves the registry's name and settles how it is spoken to: plain HTTP where every address is loopback and no
    /// authority was named, TLS elsewhere.
    ///
    /// # Errors
    /// When the name does not resolve, or the authorities' file cannot be used.
    pub async fn open(host: &str, repository: &str, options: &Options, write: bool) -> Result<Self, Fault> {
        let place = format!("{host}/{repository}");
        let net = Net::new(&place, options)?;
        let base = net.base(host).await?;
        let auth = Auth::new(&place, host, repository, options, write);
        let (host, repository, options) = (host.to_owned(), repository.to_owned(), options.clone());
        Ok(Self { inner: Arc::new(Inner { place, host, repository, base, net, auth, options }) })
    }

    /// `host/repository`.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.inner.place
    }

    /// The registry's name.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.inner.host
    }

    /// The repository's name.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.inner.repository
    }

    /// A URL beneath the repository; what is put into it is checked by its type.
    fn url(&self, tail: &str) -> Result<Url, Fault> {
        let path = format!("v2/{}/{tail}", self.inner.repository);
        self.inner.base.join(&path).map_err(|error| self.unreachable(format!("no URL can be made of {path}: {error}")))
    }

    fn blob_url(&self, digest: &Digest) -> Result<Url, Fault> {
        self.url(&format!("blobs/{digest}"))
    }

    fn unreachable(&self, why: impl Into<String>) -> Fault {
        Fault::Unreachable { place: self.inner.place.clone(), why: why.into() }
    }

    fn broken(&self, why: impl Into<String>) -> Fault {
        Fault::broken(&self.inner.place, why)
    }
}
