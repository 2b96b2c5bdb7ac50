//! A registry on disk: pull, push, content discovery and, where it is switched on, content management of the OCI
//! distribution-spec 1.1, over HTTP/1.1.
//!
//! [`listen`] is what `autonomy oci serve` calls; [`serve`] takes any listener. What lies where in the folder is said in
//! [`store`]; `docs/registry.md` is for those who run it.

mod access;
mod answer;
mod blobs;
mod manifests;
mod patient;
mod registry;
mod route;
mod store;
mod uploads;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use io_telemetry::serve::{Listener, Site};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{interval, sleep, timeout};

pub use access::Token;
pub use store::StoreError;

use access::Access;
use patient::Patient;
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
    /// How long nothing of a body may come, and how long nothing of an answer may be taken. A blob as a whole may take as
    /// long as it does.
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
    #[error("cannot listen on {0}: {1}")]
    Listen(SocketAddr, #[source] io::Error),
    /// Anybody on a network could write.
    #[error("{0} is not a loopback address: give --token-file or --read-only, or listen on 127.0.0.1")]
    TokenRequired(SocketAddr),
    /// Nobody could read.
    #[error("a private registry needs --token-file")]
    PrivateWithoutToken,
    /// The token's file cannot be read.
    #[error("{0}: cannot read the token: {1}")]
    TokenUnreadable(PathBuf, #[source] io::Error),
    /// The file holds no usable token.
    #[error("{0}: must hold one token of 16 to 1024 visible ASCII characters in one line")]
    TokenUnusable(PathBuf),
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
    let failed = |error| ServeError::Listen(address, error);
    let listener = tokio::net::TcpListener::bind(address).await.map_err(failed)?;
    ready(listener.local_addr().map_err(failed)?);
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
        site: Site::new(address, &settings.hosts),
        access,
        read_only,
        deletes: settings.deletes,
    }))
}

async fn accept<L: Listener>(mut listener: L, registry: Arc<Registry>, shutdown: impl Future<Output = ()> + Send) {
    let (tell, told) = watch::channel(false);
    let mut open = JoinSet::new();
    let mut sweep =
        interval((registry.limits.upload_expiry / 4).clamp(Duration::from_millis(10), Duration::from_secs(60)));
    tokio::pin!(shutdown);
    loop {
        let full = open.len() >= registry.limits.connections;
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(_) = open.join_next(), if !open.is_empty() => {}
            _ = sweep.tick() => registry.uploads.expire(),
            accepted = listener.accept(), if !full => match accepted {
                Ok(stream) => {
                    open.spawn(connection(stream, Arc::clone(&registry), told.clone()));
                }
                // No descriptors or no memory: time for connections to end instead of a spin.
                Err(_) => sleep(Duration::from_millis(50)).await,
            },
        }
    }
    drop(listener);
    let _ = tell.send(true);
    let _ = timeout(registry.limits.grace, async { while open.join_next().await.is_some() {} }).await;
    open.shutdown().await;
}

async fn connection<S>(stream: S, registry: Arc<Registry>, mut stop: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = registry.limits;
    let service = service_fn(move |request| {
        let registry = Arc::clone(&registry);
        async move { Ok::<_, std::convert::Infallible>(registry.answer(request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_time)
        .max_header_size(limits.head_bytes)
        .max_buf_size(256 * 1024)
        .serve_connection(TokioIo::new(Patient::new(stream, limits.idle_time)), service);
    tokio::pin!(connection);
    // An error is the caller's end of a broken or malformed connection.
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
