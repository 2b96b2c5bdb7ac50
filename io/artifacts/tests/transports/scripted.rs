//! A registry that does as it is told, byte for byte.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use io_artifacts::source::{Options, Timeouts, Transport};
use machines::oci::Place;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;

#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// Where a range that is asked for begins.
    pub fn from(&self) -> usize {
        self.header("range").map_or(0, |range| range["bytes=".len()..range.len() - 1].parse().unwrap())
    }
}

pub enum Body {
    Whole(Vec<u8>),
    /// Fewer bytes than its length says, then the end of the connection.
    Cut(usize, Vec<u8>),
    /// Without a length, up to the end of the connection.
    Unframed(Vec<u8>),
    Endless,
    /// These bytes of a longer body, then nothing.
    Silent(Vec<u8>),
}

pub struct Answer {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Body,
}

pub fn answer(status: u16, body: impl Into<Vec<u8>>) -> Answer {
    Answer { status, headers: Vec::new(), body: Body::Whole(body.into()) }
}

impl Answer {
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub fn body(mut self, body: Body) -> Self {
        self.body = body;
        self
    }
}

type Script = dyn Fn(&Request) -> Answer + Send + Sync;

pub struct Server {
    pub address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    /// Bytes of endless bodies.
    pub sent: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    pub async fn start(script: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        Self::over(None, script).await
    }

    /// With TLS, when that is given.
    pub async fn over(
        tls: Option<tokio_rustls::TlsAcceptor>,
        script: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (requests, sent) = (Arc::<Mutex<Vec<Request>>>::default(), Arc::<AtomicU64>::default());
        let (script, seen, count): (Arc<Script>, _, _) = (Arc::new(script), Arc::clone(&requests), Arc::clone(&sent));
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (script, seen, count, tls) =
                    (Arc::clone(&script), Arc::clone(&seen), Arc::clone(&count), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => exchange(stream, &*script, &seen, &count).await,
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => exchange(stream, &*script, &seen, &count).await,
                            Err(_) => None,
                        },
                    }
                });
            }
        });
        Self { address, requests, sent, task }
    }

    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    pub fn place(&self) -> Place {
        Place::Registry { host: self.address.to_string(), repository: "app".into() }
    }

    pub async fn open(&self) -> Transport {
        Transport::open(&self.place(), &options()).await.unwrap()
    }

    pub async fn create(&self) -> Transport {
        Transport::create(&self.place(), &options()).await.unwrap()
    }
}

/// Quick to give up.
pub fn options() -> Options {
    let timeouts = Timeouts {
        connect: Duration::from_secs(2),
        idle: Duration::from_millis(300),
        answer: Duration::from_secs(5),
        least_speed: 1024,
    };
    Options { timeouts, tries: 3, backoff: Duration::from_millis(1), ..Options::default() }
}

async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    script: &Script,
    seen: &Mutex<Vec<Request>>,
    count: &AtomicU64,
) -> Option<()> {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break end + 4;
        }
        let mut part = [0; 4096];
        let read = stream.read(&mut part).await.ok().filter(|n| *n > 0)?;
        bytes.extend_from_slice(&part[..read]);
    };
    let text = String::from_utf8(bytes[..head].to_vec()).ok()?;
    let mut lines = text.lines();
    let mut first = lines.next()?.split(' ');
    let (method, path) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers: Vec<_> = lines
        .filter_map(|line| line.split_once(':').map(|(name, value)| (name.to_lowercase(), value.trim().to_owned())))
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length").map_or(0, |(_, len)| len.parse().unwrap());
    let mut body = bytes.split_off(head);
    while body.len() < length {
        let mut part = vec![0; 64 * 1024];
        let read = stream.read(&mut part).await.ok().filter(|n| *n > 0)?;
        body.extend_from_slice(&part[..read]);
    }
    let request = Request { method, path, headers, body };
    let Answer { status, headers, body } = script(&request);
    let is_head = request.method == "HEAD";
    seen.lock().unwrap().push(request);
    let mut out = format!("HTTP/1.1 {status} x\r\nConnection: close\r\n");
    for (name, value) in headers {
        out.push_str(&format!("{name}: {value}\r\n"));
    }
    match &body {
        Body::Whole(bytes) => out.push_str(&format!("Content-Length: {}\r\n\r\n", bytes.len())),
        Body::Cut(claimed, _) => out.push_str(&format!("Content-Length: {claimed}\r\n\r\n")),
        Body::Unframed(_) => out.push_str("\r\n"),
        Body::Silent(_) => out.push_str("Content-Length: 1000000\r\n\r\n"),
        Body::Endless => out.push_str("Transfer-Encoding: chunked\r\n\r\n"),
    }
    stream.write_all(out.as_bytes()).await.ok()?;
    match body {
        _ if is_head => {}
        Body::Whole(bytes) | Body::Cut(_, bytes) | Body::Unframed(bytes) => stream.write_all(&bytes).await.ok()?,
        Body::Silent(bytes) => {
            stream.write_all(&bytes).await.ok()?;
            tokio::time::sleep(Duration::from_secs(30)).await;
        }
        Body::Endless => {
            let chunk = [b"10000\r\n", &[b'x'; 65536][..], b"\r\n"].concat();
            loop {
                stream.write_all(&chunk).await.ok()?;
                count.fetch_add(65536, Ordering::Relaxed);
            }
        }
    }
    stream.shutdown().await.ok()
}

/// Serves manifests and blobs of a registry that has these; everything else is 404.
pub fn serving(entries: &[(&str, &str, &[u8])]) -> impl Fn(&Request) -> Answer + Send + Sync + 'static {
    let entries: Vec<_> =
        entries.iter().map(|(path, kind, bytes)| ((*path).to_owned(), (*kind).to_owned(), bytes.to_vec())).collect();
    move |request: &Request| match entries.iter().find(|(path, _, _)| *path == request.path) {
        Some((_, kind, bytes)) => answer(200, bytes.clone()).with("Content-Type", kind.clone()),
        None => answer(404, r#"{"errors":[{"code":"NOT_FOUND","message":"nothing here"}]}"#),
    }
}
