//! A registry in this process, and a client that says exactly what it is told to.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::header::{HeaderMap, HeaderName};
use hyper_util::rt::TokioIo;
use io_artifacts::serve::{ServeError, Settings, listen};
use machines::json::{Limits, Value, parse};
use machines::oci::{Descriptor, Digest, Image, media};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A registry that serves.
pub struct Server {
    pub address: SocketAddr,
    pub folder: Option<TempDir>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), ServeError>>,
}

impl Server {
    /// In a new folder, with deletion on.
    pub async fn start() -> Self {
        Self::with(|settings| settings.deletes = true).await
    }

    /// In a new folder, with these settings.
    pub async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = Settings::new(folder.path().join("registry"));
        change(&mut settings);
        let mut server = Self::of(settings).await.unwrap();
        server.folder = Some(folder);
        server
    }

    pub async fn of(settings: Settings) -> Result<Self, ServeError> {
        let (tell, told) = oneshot::channel();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            let ready = |address| {
                let _ = tell.send(address);
            };
            let shutdown = async {
                let _ = stopped.await;
            };
            listen("127.0.0.1:0".parse().unwrap(), settings, ready, shutdown).await
        });
        match told.await {
            Ok(address) => Ok(Self { address, folder: None, stop, task }),
            Err(_) => Err(task.await.unwrap().unwrap_err()),
        }
    }

    /// Stops it and gives back its folder.
    pub async fn stop(self) -> Option<TempDir> {
        let _ = self.stop.send(());
        self.task.await.unwrap().unwrap();
        self.folder
    }

    /// Tells it to stop without waiting.
    pub fn begin_stop(self) -> JoinHandle<Result<(), ServeError>> {
        let _ = self.stop.send(());
        self.task
    }

    pub fn path(&self) -> std::path::PathBuf {
        self.folder.as_ref().unwrap().path().join("registry")
    }

    pub async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Reply {
        ask(self.address, method, path, headers, body).await.unwrap()
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.ask("GET", path, &[], "").await
    }

    pub async fn head(&self, path: &str) -> Reply {
        self.ask("HEAD", path, &[], "").await
    }

    pub async fn delete(&self, path: &str) -> Reply {
        self.ask("DELETE", path, &[], "").await
    }

    /// Sends these bytes and reads until the end, ten seconds at most.
    pub async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let _ = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// A session's location.
    pub async fn session(&self, repository: &str) -> String {
        let reply = self.ask("POST", &format!("/v2/{repository}/blobs/uploads/"), &[], "").await;
        assert_eq!(reply.status, 202, "{reply:?}");
        reply.header("location").to_owned()
    }

    pub async fn push_blob(&self, repository: &str, bytes: &[u8]) -> Digest {
        push_blob(self.address, repository, bytes).await.unwrap()
    }

    pub async fn push_image(&self, repository: &str, tag: &str, layer: &[u8], subject: Option<Descriptor>) -> Digest {
        push_image(self.address, repository, tag, layer, subject).await.unwrap()
    }
}

/// An answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Reply {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(HeaderName::from_bytes(name.as_bytes()).unwrap()).map_or("", |value| value.to_str().unwrap())
    }

    pub fn json(&self) -> Value {
        parse(&self.body, &Limits::bytes(16 << 20)).unwrap()
    }

    /// The code of the specification's error.
    pub fn code(&self) -> String {
        let errors = self.json();
        let error = errors.get("errors").and_then(Value::as_array).unwrap().first().unwrap().clone();
        assert!(error.get("message").and_then(Value::as_str).is_some_and(|message| !message.is_empty()));
        error.get("code").and_then(Value::as_str).unwrap().to_owned()
    }

    /// The texts of a field that holds a list of them.
    pub fn list(&self, field: &str) -> Vec<String> {
        let value = self.json();
        let list = value.get(field).and_then(Value::as_array).unwrap();
        list.iter().map(|text| text.as_str().unwrap().to_owned()).collect()
    }
}

/// One request on a connection of its own.
pub async fn ask(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Result<Reply, Box<dyn std::error::Error + Send + Sync>> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let mut request = Request::builder().method(method).uri(path);
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        request = request.header("host", address.to_string());
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = sender.send_request(request.body(Full::new(body.into()))?).await?;
    let (parts, body) = response.into_parts();
    let body = body.collect().await?.to_bytes();
    driver.abort();
    Ok(Reply { status: parts.status.as_u16(), headers: parts.headers, body })
}

type Pushed = Result<Digest, Box<dyn std::error::Error + Send + Sync>>;

pub async fn push_blob(address: SocketAddr, repository: &str, bytes: &[u8]) -> Pushed {
    let digest = Digest::of(bytes);
    let path = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
    let reply = ask(address, "POST", &path, &[], bytes.to_vec()).await?;
    if reply.status == 201 { Ok(digest) } else { Err(format!("{reply:?}").into()) }
}

pub async fn push_manifest(address: SocketAddr, repository: &str, named: &str, bytes: &[u8]) -> Pushed {
    let path = format!("/v2/{repository}/manifests/{named}");
    let reply = ask(address, "PUT", &path, &[("content-type", media::IMAGE_MANIFEST)], bytes.to_vec()).await?;
    if reply.status == 201 { Ok(Digest::of(bytes)) } else { Err(format!("{reply:?}").into()) }
}

/// The manifest of an artifact with this layer.
pub fn image(layer: &[u8], subject: Option<Descriptor>) -> Image {
    Image::artifact("application/vnd.test", Descriptor::of(media::OCTET_STREAM, layer), subject)
}

pub async fn push_image(
    address: SocketAddr,
    repository: &str,
    tag: &str,
    layer: &[u8],
    subject: Option<Descriptor>,
) -> Pushed {
    push_blob(address, repository, layer).await?;
    push_blob(address, repository, b"{}").await?;
    push_manifest(address, repository, tag, &image(layer, subject).to_bytes()).await
}

/// The names in a folder, sorted; none where there is no folder.
pub fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Bytes that differ from place to place.
pub fn bytes(length: usize, seed: u8) -> Vec<u8> {
    let mut state = u32::from(seed) + 1;
    (0..length)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        })
        .collect()
}

/// Waits until something holds, ten seconds at most.
pub async fn soon(mut holds: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("did not come true in ten seconds");
}
