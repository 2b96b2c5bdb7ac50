//! A registry on disk: pull, push, content discovery and, where it is switched on, content management of the OCI
//! distribution-spec 1.1, over HTTP/1.1.
//!
//! [`listen`] is what `autonomy oci serve` calls; [`serve`] takes any listener. What lies where in the folder is said in
//! [`store`]; `docs/registry.md` is for those who run it.

mod access;
mod answer;
mod blobs;
mod manifests;
mod registry;
mod route;
mod store;
mod uploads;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use io_http::lengths::Watched;
use io_http::{BindError, Listener, Site, TokenError};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::interval;

pub use access::Token;
pub use store::StoreError;

use access::Access;
use registry::Registry;
use store::Store;
use uploads::Uploads;

/// What a registry serves, and to whom.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The folder. It is made where it is missing; it must be empty or a registry's.
    pub dir: PathBuf,
    /// Names that it answers to beside its own address and the loopback names.
    pub hosts: Vec<String>,
    /// Who has it may write. Without it everybody may who can connect, which is refused beyond loopback.
    pub token: Option<Token>,
    /// Reading needs the token too.
    pub private: bool,
    /// Nothing is written; the folder may lie on a medium that cannot be.
    pub read_only: bool,
    /// Tags, manifests and blobs may be deleted.
    pub deletes: bool,
    /// The bounds.
    pub limits: Limits,
}

impl Settings {
    /// A registry in this folder with everything else at its default: no token, deletes off.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            hosts: Vec::new(),
            token: None,
            private: false,
            read_only: false,
            deletes: false,
            limits: Limits::default(),
        }
    }
}

/// The bounds (FAULTS N16, N17).
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once; more wait to be accepted.
    pub connections: usize,
    /// Bytes of a request's head.
    pub head_bytes: usize,
    /// How long a head may take, and how long a kept connection may be idle.
    pub head_time: Duration,
    /// How long nothing of a body may come, and how long an answer may wait for who takes less of it than
    /// [`io_http::PACE`]. A blob as a whole may take as long as it does.
    pub idle_time: Duration,
    /// Upload sessions at once; more are told to come again.
    pub uploads: usize,
    /// When a session that nobody comes back to is forgotten.
    pub upload_expiry: Duration,
    /// The longest blob, in bytes.
    pub blob_bytes: u64,
    /// KiB of manifests that are received at once, at least 4096.
    pub manifests_kib: usize,
    /// How long requests under way may take to finish when the registry is to stop.
    pub grace: Duration,
}

impl Limits {
    /// What holds for every connection.
    const fn connection(&self) -> io_http::Limits {
        io_http::Limits {
            connections: self.connections,
            head_bytes: self.head_bytes,
            head_time: self.head_time,
            ahead_bytes: 256 * 1024,
            write_time: self.idle_time,
            grace: self.grace,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 256,
            head_bytes: 16 * 1024,
            head_time: Duration::from_secs(30),
            idle_time: Duration::from_secs(30),
            uploads: 256,
            upload_expiry: Duration::from_secs(3600),
            blob_bytes: 16 << 30,
            manifests_kib: 16 * 1024,
            grace: Duration::from_secs(10),
        }
    }
}

/// Why a registry does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The folder is not fit.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The address cannot be had.
    #[error(transparent)]
    Listen(#[from] BindError),
    /// Anybody on a network could write.
    #[error("{0} is not a loopback address: give --token-file or --read-only, or listen on 127.0.0.1")]
    TokenRequired(SocketAddr),
    /// Nobody could read.
    #[error("a private registry needs --token-file")]
    PrivateWithoutToken,
    /// The token's file cannot be read.
    #[error(transparent)]
    TokenUnreadable(TokenError),
    /// The file holds no usable token.
    #[error(transparent)]
    TokenUnusable(TokenError),
}

/// Serves on a TCP address until `shutdown` is ready. `ready` is told the address once connections are accepted, with the
/// port that was chosen where 0 was asked for.
///
/// # Errors
/// When the settings contradict each other, the folder is not fit or in use, or the address cannot be had.
pub async fn listen(
    address: SocketAddr,
    settings: Settings,
    ready: impl FnOnce(SocketAddr),
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServeError> {
    let registry = open(address, settings).await?;
    let (listener, address) = io_http::bind(&address.to_string()).await?;
    ready(address);
    accept(listener, registry, shutdown).await;
    Ok(())
}

/// Serves what a listener gives until `shutdown` is ready, then lets requests under way finish and cuts off those that do
/// not in time. `address` is where the listener listens.
///
/// # Errors
/// When the settings contradict each other, or the folder is not fit or in use.
pub async fn serve<L: Listener>(
    listener: L,
    address: SocketAddr,
    settings: Settings,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServeError> {
    let registry = open(address, settings).await?;
    accept(listener, registry, shutdown).await;
    Ok(())
}

async fn open(address: SocketAddr, settings: Settings) -> Result<Arc<Registry>, ServeError> {
    let access = Access::new(address, settings.token, settings.private, settings.read_only)?;
    let (dir, read_only) = (settings.dir.clone(), settings.read_only);
    let opened = spawn_blocking(move || Store::open(&dir, read_only)).await;
    let store = opened.map_err(|error| StoreError::Io(settings.dir, io::Error::other(error)))??;
    let limits = settings.limits;
    Ok(Arc::new(Registry {
        store: Arc::new(store),
        limits,
        buffers: answer::Buffers::default(),
        uploads: Uploads::new(limits.uploads, limits.upload_expiry),
        manifests: Arc::new(Semaphore::new(limits.manifests_kib.max(4096))),
        site: Site::new(address, &settings.hosts).or_any_address(),
        access,
        read_only,
        deletes: settings.deletes,
    }))
}

async fn accept<L: Listener>(listener: L, registry: Arc<Registry>, shutdown: impl Future<Output = ()> + Send) {
    let limits = registry.limits.connection();
    let serving = io_http::accept(listener, &limits, shutdown, |stream, stop| {
        let registry = Arc::clone(&registry);
        async move {
            let (stream, seen) = Watched::new(stream);
            let service = service_fn(move |request| {
                let (registry, ambiguous) = (Arc::clone(&registry), seen.next_is_ambiguous());
                async move { Ok::<_, std::convert::Infallible>(registry.answer(request, ambiguous).await) }
            });
            io_http::connection(stream, service, &limits, stop).await;
        }
    });
    tokio::select! {
        () = serving => {}
        () = sweep(&registry) => {}
    }
}

/// Forgets upload sessions that nobody comes back to, for ever.
async fn sweep(registry: &Registry) {
    let every = (registry.limits.upload_expiry / 4).clamp(Duration::from_millis(10), Duration::from_secs(60));
    let mut sweep = interval(every);
    loop {
        sweep.tick().await;
        registry.uploads.expire();
    }
}
