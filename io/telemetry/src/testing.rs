//! Batches and exports for tests.

use std::net::SocketAddr;
use std::sync::Arc;

use machines::drain::batch::{Batch, Class};
use machines::ids::{Hash32, IdSource, Seq};
use machines::machine::Entropy;
use machines::net::Export;
use machines::time::{Span, Wall};
use machines::wal::frame::{self, Kind, PREFIX, Place, Record, TraceIds};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::{TcpListener, TcpStream};

/// 2026-11-21T12:00:00.123456Z.
pub const NOW: Wall = Wall::from_micros(1_795_262_400_123_456);

/// What a record of a test says.
#[derive(Clone, Debug)]
pub struct Said {
    pub kind: Kind,
    pub traced: bool,
    pub body: String,
}

impl Said {
    pub fn new(kind: Kind, body: impl Into<String>) -> Self {
        Self { kind, traced: false, body: body.into() }
    }
}

/// A batch of these records with sequences from `first`, with frames as the log writes them.
pub fn batch(node_id: &str, first: u64, said: &[Said]) -> Batch {
    let mut ids = IdSource::new(Entropy([3; 32]));
    let mut batch = Batch::new(ids.next(NOW), node_id.into(), Class::Decision);
    let mut prev = Hash32([9; 32]);
    for (at, said) in said.iter().enumerate() {
        let seq = Seq::new(first + u64::try_from(at).unwrap()).unwrap();
        let header = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let trace = said.traced.then(|| TraceIds::parse(header).unwrap());
        let record = Record { kind: said.kind, audit_id: ids.next(NOW), trace, body: said.body.clone() };
        let place = Place { seq, ts: NOW, safe: 0 };
        let mut bytes = Vec::new();
        prev = frame::encode(&mut bytes, &prev, &place, &record);
        batch.push(&bytes[PREFIX..], seq, said.kind);
    }
    batch
}

/// `count` decisions of about 300 bytes each.
pub fn decisions(count: usize) -> Batch {
    let said: Vec<_> = (0..count).map(|n| Said::new(Kind::Decision, body(n))).collect();
    batch("node-7", 1, &said)
}

fn body(n: usize) -> String {
    format!(
        "{{\"decision\":\"allow\",\"tool\":\"tool.echo\",\"params\":{{\"message\":\"call number {n} of a long day\",\
         \"to\":\"somebody\"}},\"policy_ref\":\"1.4.{}\",\"policy_hash\":\"sha256:{:064x}\",\"agent\":\"planner-{n:04}\",\
         \"note\":\"{}\"}}",
        n % 7,
        n * 7919,
        "x".repeat(40)
    )
}

/// All of a batch, within five seconds.
pub fn export(batch: Batch) -> Export {
    let to = batch.len();
    Export { batch: Arc::new(batch), from: 0, to, timeout: Span::from_secs(5) }
}

/// A server that gives each connection and its number to `serve`.
pub async fn peer<F, R>(serve: F) -> SocketAddr
where
    F: Fn(TcpStream, usize) -> R + Send + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for number in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(stream, number));
        }
    });
    address
}

/// Reads one request with a `Content-Length`; `None` at the end of the connection.
pub async fn request(stream: &mut (impl AsyncRead + Unpin)) -> Option<(String, Vec<u8>)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).await.ok()?;
    Some((head, body))
}

/// An answer with these headers (each line with its end) and body.
pub fn answer(status: &str, headers: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}
