//! Who may write, who may read, and how it stops.

use std::time::Duration;

use io_artifacts::serve::{ServeError, Settings, Token, listen};
use machines::oci::Digest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{Server, bytes};

const TOKEN: &str = "0123456789abcdef";
/// `autonomy` and the token.
const BASIC: &str = "Basic YXV0b25vbXk6MDEyMzQ1Njc4OWFiY2RlZg==";
const BEARER: &str = "Bearer 0123456789abcdef";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_token_everybody_reads_and_its_holders_write() {
    let server = Server::with(|settings| settings.token = Token::new(TOKEN)).await;
    let greeted = server.get("/v2/").await;
    assert_eq!((greeted.status, greeted.code().as_str()), (401, "UNAUTHORIZED"));
    assert!(greeted.header("www-authenticate").starts_with("Basic realm="), "so that clients send what they have");
    let digest = Digest::of(b"blob");
    let post = format!("/v2/a/blobs/uploads/?digest={digest}");
    assert_eq!(server.ask("POST", &post, &[], "blob").await.status, 401);
    assert_eq!(server.ask("POST", &post, &[("authorization", "Basic Og==")], "blob").await.status, 401);
    for given in [BASIC, BEARER] {
        assert_eq!(server.ask("GET", "/v2/", &[("authorization", given)], "").await.status, 200);
        assert_eq!(server.ask("POST", &post, &[("authorization", given)], "blob").await.status, 201);
    }
    let path = format!("/v2/a/blobs/{digest}");
    assert_eq!(server.get(&path).await.status, 200);
    assert_eq!(server.ask("GET", &path, &[("authorization", "Basic Og==")], "").await.status, 200);
    assert_eq!(server.ask("GET", &path, &[("authorization", "Bearer wrong")], "").await.status, 401);
    let twice = [("authorization", BEARER), ("authorization", BEARER)];
    assert_eq!(server.ask("GET", &path, &twice, "").await.status, 401);
    for (method, path) in [
        ("PUT", "/v2/a/manifests/v1"),
        ("DELETE", "/v2/a/manifests/v1"),
        ("GET", "/v2/a/blobs/uploads/0123456789abcdef0123456789abcdef"),
    ] {
        assert_eq!(server.ask(method, path, &[], "").await.status, 401, "{method} {path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_refused_while_still_sending_learns_why() {
    let server = Server::with(|settings| settings.token = Token::new(TOKEN)).await;
    let blob = bytes(3 << 20, 1);
    let path = format!("/v2/a/blobs/uploads/?digest={}", Digest::of(&blob));
    let head = format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n", blob.len());
    for _ in 0..20 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        for piece in blob.chunks(64 * 1024) {
            stream.write_all(piece).await.unwrap();
        }
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_private_registry_is_read_with_the_token_too() {
    let server = Server::with(|settings| {
        settings.token = Token::new(TOKEN);
        settings.private = true;
    })
    .await;
    assert_eq!(server.get("/v2/_catalog").await.status, 401);
    assert_eq!(server.ask("GET", "/v2/_catalog", &[("authorization", BASIC)], "").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beyond_loopback_nobody_writes_without_a_token() {
    let folder = tempfile::tempdir().unwrap();
    let everywhere = "0.0.0.0:0".parse().unwrap();
    let settings = Settings::new(folder.path().join("registry"));
    let refused = listen(everywhere, settings.clone(), |_| {}, async {}).await.unwrap_err();
    assert!(matches!(refused, ServeError::TokenRequired(_)));
    assert!(refused.to_string().contains("--token-file"));
    assert!(!folder.path().join("registry").exists(), "refused before anything is made");
    let with_token = Settings { token: Token::new(TOKEN), ..settings };
    listen(everywhere, with_token, |_| {}, async {}).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_under_way_ends_before_it_stops() {
    let server = Server::with(|settings| settings.limits.grace = Duration::from_secs(5)).await;
    let blob = bytes(1_000_000, 2);
    let digest = Digest::of(&blob);
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let path = format!("/v2/a/blobs/uploads/?digest={digest}");
    let head = format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n", blob.len());
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&blob[..500_000]).await.unwrap();
    let (address, path) = (server.address, server.path());
    crate::client::soon(|| !crate::client::names(&path.join("uploads")).is_empty()).await;
    let mut server = server;
    let folder = server.folder.take();
    let stopping = server.begin_stop();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(TcpStream::connect(address).await.is_err(), "no new connection");
    stream.write_all(&blob[500_000..]).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    stopping.await.unwrap().unwrap();
    drop(folder);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_end_in_time_is_cut() {
    let server = Server::with(|settings| settings.limits.grace = Duration::from_millis(200)).await;
    let at = server.session("a").await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = format!("PATCH {at} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\nbytes");
    stream.write_all(head.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let uploads = server.path().join("uploads");
    let folder = tokio::time::timeout(Duration::from_secs(5), server.stop()).await.unwrap();
    assert!(crate::client::names(&uploads).is_empty(), "sessions end with it");
    drop(folder);
}
