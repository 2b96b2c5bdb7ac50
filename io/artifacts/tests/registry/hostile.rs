//! Requests that are made to be misunderstood, and callers that take their time.

use std::time::{Duration, Instant};

use machines::oci::{Digest, media};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{Server, bytes, names, soon};

/// How many answers a connection gave, and the status of the first.
fn answers(text: &str) -> (usize, u16) {
    let first = text.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).and_then(|status| status.parse().ok());
    (text.matches("HTTP/1.1 ").count(), first.unwrap_or(0))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n14_a_request_with_two_lengths_is_one_request_or_none() {
    let server = Server::start().await;
    let at = server.session("a").await;
    let smuggled = "DELETE /v2/a/manifests/v1 HTTP/1.1\r\nhost: localhost\r\n\r\n";
    server.push_image("a", "v1", b"layer", None).await;
    // To whoever follows RFC 9112 (6.3) chunked wins; whoever does not sees another request behind it. It is neither.
    for head in
        ["content-length: 5\r\ntransfer-encoding: chunked\r\n", "transfer-encoding: chunked\r\ncontent-length: 5\r\n"]
    {
        let request = format!("PATCH {at} HTTP/1.1\r\nhost: localhost\r\n{head}\r\n5\r\nhello\r\n0\r\n\r\n{smuggled}");
        let answer = server.raw(request.as_bytes()).await;
        assert!(answers(&answer) == (1, 400) && answer.contains("connection: close"), "{head:?}: {answer}");
    }
    // One of each, one behind the other, is no trouble.
    let request = format!(
        "PATCH {at} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\nPATCH {at} HTTP/1.1\r\nhost: localhost\r\n\
        transfer-encoding: chunked\r\nconnection: close\r\n\r\n0\r\n\r\n"
    );
    let answer = server.raw(request.as_bytes()).await;
    assert_eq!(answers(&answer), (2, 202), "{answer}");
    for head in [
        "content-length: 5\r\ncontent-length: 6\r\n",
        "content-length: 5, 6\r\n",
        "content-length: +5\r\n",
        "content-length: 0x5\r\n",
        "transfer-encoding: chunked, identity\r\n",
        "transfer-encoding: xchunked\r\n",
        "transfer-encoding : chunked\r\n",
        "transfer-encoding: gzip\r\n",
        "x: y\r\n\x20continued: z\r\ncontent-length: 5\r\n",
    ] {
        let request = format!("PATCH {at} HTTP/1.1\r\nhost: localhost\r\n{head}\r\n0\r\n\r\n{smuggled}");
        let answer = server.raw(request.as_bytes()).await;
        let (count, status) = answers(&answer);
        assert!(count <= 1 && (status == 400 || status == 0), "{head:?}: {answer}");
    }
    for body in [
        "g\r\nx\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "ffffffffffffffffff\r\n",
        "-1\r\n\r\n",
        "5;\nhello\r\n0\r\n\r\n",
    ] {
        let request =
            format!("PATCH {at} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n{body}{smuggled}");
        let answer = server.raw(request.as_bytes()).await;
        let (count, status) = answers(&answer);
        assert!(count <= 1 && (status == 400 || status == 0), "{body:?}: {answer}");
    }
    assert_eq!(server.get("/v2/a/manifests/v1").await.status, 200, "nothing was smuggled");
    assert_eq!(server.get(&at).await.header("range"), "0-0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n15_http_2_is_not_spoken() {
    let server = Server::start().await;
    let answer = server.raw(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
    assert!(matches!(answers(&answer), (0 | 1, 0 | 400 | 505)), "{answer}");
    let upgrade = "GET /v2/ HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade, http2-settings, close\r\nupgrade: h2c\r\n\
        http2-settings: AAMAAABkAAQAAP__\r\n\r\n";
    let answer = server.raw(upgrade.as_bytes()).await;
    assert_eq!(answers(&answer), (1, 200), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n16_slow_callers_are_cut_and_the_others_are_served() {
    let server = Server::with(|settings| {
        settings.limits.head_time = Duration::from_millis(300);
        settings.limits.idle_time = Duration::from_millis(300);
        settings.limits.connections = 10;
    })
    .await;
    let large = server.push_blob("a", &bytes(32 << 20, 1)).await;
    let at = server.session("a").await;
    let head = "GET /v2/ HTTP/1.1\r\nhost: loc".to_owned();
    let body = format!("PATCH {at} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000\r\n\r\nbytes");
    let manifest = "PUT /v2/a/manifests/v1 HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n{".to_owned();
    let pull = format!("GET /v2/a/blobs/{large} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    let began = Instant::now();
    let mut slow = Vec::new();
    let kept = "GET /v2/ HTTP/1.1\r\nhost: localhost\r\n\r\n".to_owned();
    for request in [&head, &body, &manifest, &String::new(), &kept, &pull, &head, &pull] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        slow.push(stream);
    }
    for _ in 0..20 {
        assert_eq!(server.get("/v2/").await.status, 200);
    }
    for (n, mut stream) in slow.into_iter().enumerate() {
        // Nothing is read of a pull while its server waits; what it had sent by then may still come.
        tokio::time::sleep(Duration::from_millis(if n >= 5 { 900 } else { 0 })).await;
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "connection {n} is not cut");
        assert!(rest.len() < 32 << 20, "connection {n} got it all");
    }
    assert!(began.elapsed() < Duration::from_secs(20));
    assert_eq!(server.get(&at).await.status, 204, "the session of the slow one goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n16_who_takes_a_little_of_a_blob_now_and_then_frees_its_connection_for_others() {
    let server = Server::with(|settings| {
        settings.limits.idle_time = Duration::from_millis(500);
        settings.limits.connections = 3;
    })
    .await;
    let large = server.push_blob("a", &bytes(32 << 20, 1)).await;
    let pull = format!("GET /v2/a/blobs/{large} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    let began = Instant::now();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(pull.as_bytes()).await.unwrap();
        // Each time before its server would lose patience with who takes nothing at all.
        tokio::spawn(async move {
            while stream.read(&mut [0; 64]).await.is_ok_and(|taken| taken > 0) {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
    }
    let served = tokio::time::timeout(Duration::from_secs(20), server.get("/v2/")).await;
    assert_eq!(served.map(|reply| reply.status), Ok(200), "all connections are held");
    assert!(began.elapsed() >= Duration::from_millis(400), "they were held for a while");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n16_a_slow_but_steady_push_is_taken() {
    let server = Server::with(|settings| settings.limits.idle_time = Duration::from_millis(400)).await;
    let blob = bytes(20, 1);
    let digest = Digest::of(&blob);
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = format!(
        "POST /v2/a/blobs/uploads/?digest={digest} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 20\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    for byte in blob {
        stream.write_all(&[byte]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answers(&answer), (1, 201), "a blob may take longer as a whole than nothing may come: {answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n17_heads_and_manifests_too_large_are_refused_before_they_are_held() {
    let server = Server::start().await;
    let long = "x".repeat(64 * 1024);
    let answer = server.raw(format!("GET /v2/ HTTP/1.1\r\nhost: localhost\r\nx: {long}\r\n\r\n").as_bytes()).await;
    assert_eq!(answers(&answer), (1, 431), "{answer}");
    let answer = server.raw(format!("GET /v2/{long}/tags/list HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes()).await;
    assert!(matches!(answers(&answer), (1, 414 | 431)), "{answer}");
    let many: String = (0..200).map(|n| format!("x{n}: y\r\n")).collect();
    let answer = server.raw(format!("GET /v2/ HTTP/1.1\r\nhost: localhost\r\n{many}\r\n").as_bytes()).await;
    assert_eq!(answers(&answer), (1, 431), "{answer}");

    let head = "PUT /v2/a/manifests/v1 HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n";
    let declared = format!("{head}content-length: {}\r\n\r\n", (4 << 20) + 1);
    assert_eq!(answers(&server.raw(declared.as_bytes()).await), (1, 413));
    let whole = vec![b' '; (4 << 20) + 1];
    let chunked =
        [format!("{head}transfer-encoding: chunked\r\n\r\n{:x}\r\n", whole.len()).as_bytes(), &whole, b"\r\n0\r\n\r\n"]
            .concat();
    let answer = server.raw(&chunked).await;
    assert!(matches!(answers(&answer), (1, 413) | (0, 0)), "{answer}");

    // Just at the bound it is taken.
    server.push_blob("a", b"{}").await;
    let mut text = crate::client::image(b"{}", None).to_bytes();
    text.resize(4 << 20, b' ');
    let reply = server.ask("PUT", "/v2/a/manifests/v1", &[("content-type", media::IMAGE_MANIFEST)], text.clone()).await;
    assert_eq!(reply.status, 201, "{reply:?}");
    assert!(server.get("/v2/a/manifests/v1").await.body == text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn u22_paths_methods_and_headers_are_taken_as_they_are() {
    let server = Server::start().await;
    let digest = server.push_image("a/b", "v1", b"layer", None).await;
    std::fs::write(server.path().parent().unwrap().join("secret"), "secret").unwrap();
    for path in [
        "/v2/a%2Fb/manifests/v1",
        "/v2/a/b/manifests/%76%31",
        "/v2/a//b/manifests/v1",
        "//v2/a/b/manifests/v1",
        "/v2//a/b/manifests/v1",
        "/v2/a/./b/manifests/v1",
        "/v2/a/c/../b/manifests/v1",
        "/v2/a/b/manifests/v1/",
        "/v2/a/b/manifests/../tags/list",
        "/v2/%2e%2e/%2e%2e/secret/tags/list",
        "/v2/../../secret",
        "/v2/a/b/blobs/../../../../secret",
        "/v2/a/b/blobs/uploads/../../../../secret",
        "/v2/a/b/_manifests/manifests/v1",
        "/v2/a/b/manifests/v1%00",
        "/v2/a/b/manifests/v1;x",
        "/V2/a/b/manifests/v1",
        "/v2/A/b/manifests/v1",
        "\\v2\\",
        "/v2/a\\b/manifests/v1",
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        let answer = server.raw(request.as_bytes()).await;
        let (count, status) = answers(&answer);
        assert!(count == 1 && matches!(status, 400 | 404), "{path}: {answer}");
        assert!(!answer.contains("secret\n"), "{path}: {answer}");
    }
    let request = "GET http://evil.example/v2/ HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    assert_eq!(answers(&server.raw(request.as_bytes()).await), (1, 403));
    let overridden =
        [("x-http-method-override", "DELETE"), ("x-original-url", "/v2/other/"), ("x-forwarded-host", "evil.example")];
    assert_eq!(server.ask("GET", "/v2/a/b/manifests/v1?_method=DELETE", &overridden, "").await.status, 200);
    for (method, path) in [
        ("PUT", format!("/v2/a/b/blobs/{digest}")),
        ("POST", "/v2/a/b/manifests/v1".to_owned()),
        ("GET", "/v2/a/b/blobs/uploads/".to_owned()),
        ("TRACE", "/v2/".to_owned()),
        ("DELETE", "/v2/a/b/tags/list".to_owned()),
        ("get", "/v2/".to_owned()),
        ("PROPFIND", "/v2/".to_owned()),
    ] {
        let reply = server.ask(method, &path, &[], "").await;
        assert_eq!((reply.status, reply.code().as_str()), (405, "UNSUPPORTED"), "{method} {path}");
        assert!(!reply.header("allow").is_empty());
    }
    assert_eq!(server.get("/v2/a/b/manifests/v1").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f01_names_that_lead_elsewhere_make_nothing() {
    let server = Server::start().await;
    let digest = Digest::of(b"x");
    for name in ["..", "../../x", "a/../../x", "_blobs", "a/_tags", "uploads/..", ".", "-", "a/", "A"] {
        let request = format!(
            "POST /v2/{name}/blobs/uploads/?digest={digest} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 1\r\n\r\nx"
        );
        assert!(matches!(answers(&server.raw(request.as_bytes()).await), (1, 400 | 404)), "{name}");
        let mount = format!("/v2/a/blobs/uploads/?mount={digest}&from={}", name.replace('/', "%2F"));
        assert_eq!(server.ask("POST", &mount, &[], "").await.status, 400, "{name}");
    }
    assert!(names(&server.path().join("repositories")).is_empty());
    assert_eq!(names(server.path().parent().unwrap()), ["registry"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t18_other_hosts_and_other_sites_pages_are_refused() {
    let server = Server::with(|settings| settings.hosts = vec!["registry.internal".into()]).await;
    for host in ["localhost:5000", "127.0.0.1", "[::1]:5000", "registry.internal:5000", "Registry.Internal"] {
        assert_eq!(server.ask("GET", "/v2/", &[("host", host)], "").await.status, 200, "{host}");
    }
    for host in ["evil.example", "registry.internal.evil.example", "10.0.0.1:5000", "user@localhost"] {
        let reply = server.ask("GET", "/v2/", &[("host", host)], "").await;
        assert_eq!((reply.status, reply.code().as_str()), (403, "DENIED"), "{host}");
    }
    for origin in ["http://evil.example", "null"] {
        assert_eq!(server.ask("GET", "/v2/", &[("origin", origin)], "").await.status, 403, "{origin}");
    }
    assert_eq!(server.ask("GET", "/v2/", &[("origin", "http://localhost:3000")], "").await.status, 200);
    for head in ["", "host: localhost\r\nhost: localhost\r\n"] {
        let answer = server.raw(format!("GET /v2/ HTTP/1.1\r\n{head}connection: close\r\n\r\n").as_bytes()).await;
        assert_eq!(answers(&answer), (1, 400), "{head:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_breaks_leaves_nothing_of_a_blob_sent_at_once() {
    let server = Server::start().await;
    let blob = bytes(1 << 20, 4);
    let path = format!("/v2/a/blobs/uploads/?digest={}", Digest::of(&blob));
    let head = format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n", blob.len());
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&blob[..700_000]).await.unwrap();
    soon(|| !names(&server.path().join("uploads")).is_empty()).await;
    drop(stream);
    soon(|| names(&server.path().join("uploads")).is_empty()).await;
    assert!(names(&server.path().join("blobs/sha256")).is_empty());
}
