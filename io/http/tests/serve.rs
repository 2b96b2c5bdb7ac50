//! The whole server over real sockets: who is heard, how much, how long, and the orderly end.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::StatusCode;
use io_http::{
    Answer, Asked, Bodies, Handler, Limits, Listener, Site, UnixSocket, bind, json, serve, text, unix, wrong_method,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// Says what it was asked.
#[derive(Default)]
struct Echo {
    /// `/wait` is answered after this.
    go_on: Notify,
}

impl Handler for Echo {
    async fn answer(&self, asked: Asked) -> Option<Answer> {
        match asked.path.as_str() {
            "/echo" => Some(json(StatusCode::OK, format!("{} {} {}", asked.method, asked.query, asked.body.len()))),
            "/who" => Some(text(StatusCode::OK, &format!("{:?}", asked.peer.map(|peer| peer.uid)))),
            "/wait" => {
                self.go_on.notified().await;
                Some(text(StatusCode::OK, "waited"))
            }
            "/large" => Some(json(StatusCode::OK, vec![b' '; 32 << 20])),
            "/get" => Some(wrong_method("GET")),
            _ => None,
        }
    }
}

struct Server {
    handler: Arc<Echo>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

fn start<L: Listener>(listener: L, site: Site, limits: Limits, bodies: Bodies) -> Server {
    let handler = Arc::new(Echo::default());
    let (stop, stopped) = oneshot::channel();
    let shutdown = async {
        let _ = stopped.await;
    };
    let task = tokio::spawn(serve(listener, site, Arc::clone(&handler), limits, bodies, shutdown));
    Server { handler, stop, task }
}

async fn over_tcp(limits: Limits, bodies: Bodies) -> (SocketAddr, Server) {
    let (listener, address) = bind("127.0.0.1:0").await.unwrap();
    (address, start(listener, Site::new(address, &[]), limits, bodies))
}

/// Sends this and reads to the end, ten seconds at most.
async fn raw(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), request: &[u8]) -> String {
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let ended = timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await;
    assert!(ended.is_ok(), "the connection stays open behind {:?}", String::from_utf8_lossy(&answer));
    String::from_utf8_lossy(&answer).into_owned()
}

async fn ask(address: SocketAddr, request: &str) -> String {
    raw(&mut TcpStream::connect(address).await.unwrap(), request.as_bytes()).await
}

fn status(answer: &str) -> u16 {
    answer.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).and_then(|code| code.parse().ok()).unwrap_or(0)
}

const LAST: &str = "host: localhost\r\nconnection: close\r\n";

async fn says(address: SocketAddr) -> u16 {
    status(&ask(address, &format!("GET /echo HTTP/1.1\r\n{LAST}\r\n")).await)
}

#[tokio::test]
async fn a_request_is_read_whole_and_answered() {
    let (address, _server) = over_tcp(Limits::default(), Bodies::default()).await;
    let answer = ask(address, &format!("PUT /echo?a=b HTTP/1.1\r\n{LAST}content-length: 5\r\n\r\nhello")).await;
    assert!(status(&answer) == 200 && answer.ends_with("\r\n\r\nPUT a=b 5"), "{answer}");
    let answer =
        ask(address, &format!("PUT /echo HTTP/1.1\r\n{LAST}transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"))
            .await;
    assert!(answer.ends_with("\r\n\r\nPUT  3"), "{answer}");
    let answer = ask(address, &format!("POST /get HTTP/1.1\r\n{LAST}\r\n")).await;
    assert!(status(&answer) == 405 && answer.contains("allow: GET"), "{answer}");
    assert_eq!(ask(address, &format!("GET /cut HTTP/1.1\r\n{LAST}\r\n")).await, "");
    let answer = ask(address, &format!("GET /who HTTP/1.1\r\n{LAST}\r\n")).await;
    assert!(answer.ends_with("None\n"), "{answer}");
}

#[tokio::test]
async fn t18_foreign_hosts_and_pages_are_refused_over_tcp_and_over_a_unix_socket() {
    let (address, _server) = over_tcp(Limits::default(), Bodies::default()).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.sock");
    let socket = UnixSocket::bind(&path).await.unwrap();
    let _control = start(socket, Site::local(), Limits::default(), Bodies::default());
    for (head, want) in [
        ("host: localhost\r\n", 200),
        ("", 400),
        ("host: localhost\r\nhost: localhost\r\n", 400),
        ("host: evil.example\r\n", 403),
        ("host: localhost\r\norigin: http://evil.example\r\n", 403),
        ("host: localhost\r\norigin: http://localhost:3000\r\n", 200),
    ] {
        let request = format!("GET /who HTTP/1.1\r\n{head}connection: close\r\n\r\n");
        assert_eq!(status(&ask(address, &request).await), want, "{head:?}");
        let answer = local(&path, &request).await;
        assert_eq!(status(&answer), want, "{head:?}");
        assert!(want != 200 || answer.contains("Some("), "{answer}");
    }
}

async fn local(path: &Path, request: &str) -> String {
    raw(&mut unix::connect(path).await.unwrap(), request.as_bytes()).await
}

#[tokio::test]
async fn n14_a_request_with_two_lengths_is_refused_and_the_connection_closed() {
    let (address, _server) = over_tcp(Limits::default(), Bodies::default()).await;
    let smuggled = format!("GET /echo HTTP/1.1\r\n{LAST}\r\n");
    for both in
        ["content-length: 5\r\ntransfer-encoding: chunked\r\n", "transfer-encoding: chunked\r\ncontent-length: 5\r\n"]
    {
        for before in ["", "GET /echo HTTP/1.1\r\nhost: localhost\r\n\r\n"] {
            let request = format!("{before}PUT /echo HTTP/1.1\r\nhost: localhost\r\n{both}\r\n0\r\n\r\n{smuggled}");
            let answer = ask(address, &request).await;
            let refused = answer.matches("HTTP/1.1 400").count();
            let all = answer.matches("HTTP/1.1 ").count();
            assert_eq!((refused, all), (1, if before.is_empty() { 1 } else { 2 }), "{both:?}: {answer}");
        }
    }
}

#[tokio::test]
async fn n15_http_2_is_not_spoken() {
    let (address, _server) = over_tcp(Limits::default(), Bodies::default()).await;
    let answer = ask(address, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
    assert!(matches!(status(&answer), 0 | 400 | 505), "{answer}");
}

#[tokio::test]
async fn n16_slow_callers_are_cut_and_the_others_are_served() {
    let bound = Duration::from_millis(300);
    let limits = Limits { head_time: bound, write_time: bound, connections: 8, ..Limits::default() };
    let (address, _server) = over_tcp(limits, Bodies { time: bound, ..Bodies::default() }).await;
    let kept = "GET /echo HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let body = format!("PUT /echo HTTP/1.1\r\n{LAST}content-length: 100\r\n\r\nbytes");
    let large = format!("GET /large HTTP/1.1\r\n{LAST}\r\n");
    let mut slow = Vec::new();
    for request in ["GET /echo HTTP/1.1\r\nhost: loc", "", kept, &body, &large] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        slow.push(stream);
    }
    for _ in 0..20 {
        assert_eq!(says(address).await, 200);
    }
    for (n, stream) in slow.iter_mut().enumerate() {
        // Nothing of the large answer is read while its server waits.
        sleep(if n == 4 { bound * 3 } else { Duration::ZERO }).await;
        let rest = raw(stream, b"").await;
        assert!(rest.len() < 32 << 20, "connection {n} got it all");
        assert!(n != 3 || status(&rest) == 408, "{rest}");
    }
}

#[tokio::test]
async fn n16_connections_past_the_cap_wait_for_one_that_ends() {
    let limits = Limits { connections: 2, ..Limits::default() };
    let (address, _server) = over_tcp(limits, Bodies::default()).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /echo HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        let _ = stream.read(&mut [0; 8]).await.unwrap();
        held.push(stream);
    }
    assert!(timeout(Duration::from_millis(200), says(address)).await.is_err());
    held.pop();
    assert_eq!(timeout(Duration::from_secs(10), says(address)).await, Ok(200));
}

#[tokio::test]
async fn n17_heads_and_bodies_past_their_bounds_are_refused_before_they_are_held() {
    let (address, _server) = over_tcp(Limits::default(), Bodies { bytes: 1024, ..Bodies::default() }).await;
    let long = "x".repeat(64 * 1024);
    assert_eq!(status(&ask(address, &format!("GET /echo HTTP/1.1\r\n{LAST}x: {long}\r\n\r\n")).await), 431);
    for length in ["1025", "99999999999", "18446744073709551615"] {
        let answer = ask(address, &format!("PUT /echo HTTP/1.1\r\n{LAST}content-length: {length}\r\n\r\n")).await;
        assert!(matches!(status(&answer), 413 | 431), "{length}: {answer}");
    }
    let chunked = format!(
        "PUT /echo HTTP/1.1\r\n{LAST}transfer-encoding: chunked\r\n\r\n401\r\n{}\r\n0\r\n\r\n",
        "x".repeat(1025)
    );
    assert_eq!(status(&ask(address, &chunked).await), 413);
    let exact = format!("PUT /echo HTTP/1.1\r\n{LAST}content-length: 1024\r\n\r\n{}", "x".repeat(1024));
    assert_eq!(status(&ask(address, &exact).await), 200);
}

#[tokio::test]
async fn x05_more_bodies_than_are_held_at_once_are_told_to_come_again() {
    let bodies = Bodies { at_once: 1, wait: Duration::from_millis(100), ..Bodies::default() };
    let (address, server) = over_tcp(Limits::default(), bodies).await;
    let first = tokio::spawn(async move { ask(address, &format!("GET /wait HTTP/1.1\r\n{LAST}\r\n")).await });
    let mut busy = String::new();
    while status(&busy) != 503 {
        busy = ask(address, &format!("GET /echo HTTP/1.1\r\n{LAST}\r\n")).await;
    }
    assert!(busy.contains("retry-after: 1"), "{busy}");
    server.handler.go_on.notify_one();
    assert_eq!(status(&first.await.unwrap()), 200);
    assert_eq!(says(address).await, 200);
}

#[tokio::test]
async fn x08_a_stop_answers_what_runs_and_cuts_off_what_does_not_end() {
    let (address, server) = over_tcp(Limits::default(), Bodies::default()).await;
    let request = "GET /wait HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let mut running = TcpStream::connect(address).await.unwrap();
    running.write_all(request.as_bytes()).await.unwrap();
    let mut idle = TcpStream::connect(address).await.unwrap();
    idle.write_all(b"GET /echo HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let _ = idle.read(&mut [0; 8]).await.unwrap();
    sleep(Duration::from_millis(100)).await;
    server.stop.send(()).unwrap();
    while TcpStream::connect(address).await.is_ok() {
        sleep(Duration::from_millis(5)).await;
    }
    server.handler.go_on.notify_one();
    let answer = raw(&mut running, b"").await;
    assert!(status(&answer) == 200 && answer.ends_with("waited\n"), "{answer}");
    server.task.await.unwrap();

    let grace = Duration::from_millis(200);
    let (address, server) = over_tcp(Limits { grace, ..Limits::default() }, Bodies::default()).await;
    let mut stuck = TcpStream::connect(address).await.unwrap();
    stuck.write_all(request.as_bytes()).await.unwrap();
    sleep(Duration::from_millis(100)).await;
    let began = Instant::now();
    server.stop.send(()).unwrap();
    server.task.await.unwrap();
    assert!(began.elapsed() < grace * 20, "{:?}", began.elapsed());
    assert_eq!(raw(&mut stuck, b"").await, "");
}
