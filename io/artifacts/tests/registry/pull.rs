//! Pull: blobs, parts of them, manifests by tag and digest.

use machines::json::Value;
use machines::oci::{Digest, media};

use crate::client::{Server, bytes, image};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_pushed_is_pulled_byte_for_byte() {
    let server = Server::start().await;
    let base = server.get("/v2/").await;
    assert_eq!((base.status, base.header("docker-distribution-api-version")), (200, "registry/2.0"));

    // From nothing through one piece to several and a rest.
    for (n, length) in [0, 1, 4096, 256 * 1024, 256 * 1024 + 1, 3 * 1024 * 1024 + 17].into_iter().enumerate() {
        let blob = bytes(length, u8::try_from(n).unwrap());
        let digest = server.push_blob("library/app", &blob).await;
        let path = format!("/v2/library/app/blobs/{digest}");
        let (got, head) = (server.get(&path).await, server.head(&path).await);
        assert_eq!((got.status, head.status), (200, 200));
        assert!(got.body == blob, "{length} bytes");
        assert!(head.body.is_empty());
        for reply in [&got, &head] {
            assert_eq!(reply.header("content-length"), length.to_string());
            assert_eq!(reply.header("docker-content-digest"), digest.to_string());
            assert_eq!(reply.header("etag"), format!("\"{digest}\""));
            assert_eq!(reply.header("content-type"), "application/octet-stream");
        }
    }

    let digest = server.push_image("library/app", "v1", b"layer", None).await;
    for named in ["v1".to_owned(), digest.to_string()] {
        let path = format!("/v2/library/app/manifests/{named}");
        let (got, head) = (server.get(&path).await, server.head(&path).await);
        assert_eq!(got.body, image(b"layer", None).to_bytes());
        for reply in [&got, &head] {
            assert_eq!(reply.status, 200);
            assert_eq!(reply.header("content-type"), media::IMAGE_MANIFEST);
            assert_eq!(reply.header("docker-content-digest"), digest.to_string());
        }
        assert_eq!(head.header("content-length"), got.body.len().to_string());
        let known = server.ask("GET", &path, &[("if-none-match", got.header("etag"))], "").await;
        assert_eq!((known.status, known.body.len()), (304, 0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_pull_goes_on_with_a_range() {
    let server = Server::start().await;
    let blob = bytes(1024 * 1024 + 3, 9);
    let digest = server.push_blob("a", &blob).await;
    let path = format!("/v2/a/blobs/{digest}");
    let tag = format!("\"{digest}\"");
    for (range, from, to) in [
        ("bytes=0-0", 0, 1),
        ("bytes=1000-1999", 1000, 2000),
        ("bytes=700000-", 700_000, blob.len()),
        ("bytes=-3", blob.len() - 3, blob.len()),
        ("bytes=1048000-99999999", 1_048_000, blob.len()),
    ] {
        let part = server.ask("GET", &path, &[("range", range), ("if-range", &tag)], "").await;
        assert_eq!(part.status, 206, "{range}");
        assert!(part.body == blob[from..to], "{range}");
        assert_eq!(part.header("content-range"), format!("bytes {from}-{}/{}", to - 1, blob.len()));
    }
    let beyond = server.ask("GET", &path, &[("range", "bytes=1048579-")], "").await;
    assert_eq!((beyond.status, beyond.header("content-range")), (416, "bytes */1048579"));
    for (name, value) in [("range", "bytes=0-1,5-6"), ("range", "lines=0-1")] {
        assert_eq!(server.ask("GET", &path, &[(name, value)], "").await.status, 200, "{value}");
    }
    let other = server.ask("GET", &path, &[("range", "bytes=0-1"), ("if-range", "\"sha256:00\"")], "").await;
    assert_eq!((other.status, other.body.len()), (200, blob.len()), "another version's part is not taken");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_there_is_named_by_its_code() {
    let server = Server::start().await;
    let digest = server.push_image("a", "v1", b"layer", None).await;
    let unknown = Digest::of(b"unknown");
    for (path, code) in [
        (format!("/v2/a/blobs/{unknown}"), "BLOB_UNKNOWN"),
        (format!("/v2/b/blobs/{}", Digest::of(b"layer")), "BLOB_UNKNOWN"),
        // A manifest is no blob, though its bytes lie beside them.
        (format!("/v2/a/blobs/{digest}"), "BLOB_UNKNOWN"),
        (format!("/v2/a/manifests/{unknown}"), "MANIFEST_UNKNOWN"),
        (format!("/v2/a/manifests/{}", Digest::of(b"layer")), "MANIFEST_UNKNOWN"),
        ("/v2/a/manifests/v2".to_owned(), "MANIFEST_UNKNOWN"),
        (format!("/v2/b/manifests/{digest}"), "MANIFEST_UNKNOWN"),
        ("/v2/b/tags/list".to_owned(), "NAME_UNKNOWN"),
        ("/v2/a/blobs/uploads/0123456789abcdef0123456789abcdef".to_owned(), "BLOB_UPLOAD_UNKNOWN"),
    ] {
        let reply = server.get(&path).await;
        assert_eq!((reply.status, reply.code().as_str()), (404, code), "{path}");
        assert_eq!(reply.header("content-type"), "application/json");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s16_a_manifest_is_not_given_to_who_takes_other_kinds_only() {
    let server = Server::start().await;
    server.push_image("a", "v1", b"layer", None).await;
    let accept = |value: &'static str| {
        let server = &server;
        async move { server.ask("GET", "/v2/a/manifests/v1", &[("accept", value)], "").await }
    };
    for value in ["*/*", "application/*", "text/html, application/vnd.oci.image.manifest.v1+json;q=0.1"] {
        assert_eq!(accept(value).await.status, 200, "{value}");
    }
    let refused = accept(media::IMAGE_INDEX).await;
    assert_eq!((refused.status, refused.code().as_str()), (404, "MANIFEST_UNKNOWN"));
    let message = refused.json();
    let message = message.get("errors").and_then(Value::as_array).unwrap()[0].get("message").cloned().unwrap();
    assert!(message.as_str().unwrap().contains(media::IMAGE_MANIFEST), "{message:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_registry_serves_and_takes_nothing() {
    let server = Server::start().await;
    let digest = server.push_image("a", "v1", b"layer", None).await;
    let folder = server.stop().await.unwrap();
    let mut settings = io_artifacts::serve::Settings::new(folder.path().join("registry"));
    settings.read_only = true;
    settings.deletes = true;
    let server = Server::of(settings.clone()).await.unwrap();
    let second = Server::of(settings).await.unwrap();
    assert_eq!(second.get("/v2/a/manifests/v1").await.status, 200, "readers share the folder");
    assert_eq!(server.get(&format!("/v2/a/blobs/{}", Digest::of(b"layer"))).await.body, "layer");
    for (method, path) in [
        ("POST", "/v2/a/blobs/uploads/".to_owned()),
        ("PUT", "/v2/a/manifests/v2".to_owned()),
        ("DELETE", format!("/v2/a/manifests/{digest}")),
        ("DELETE", "/v2/a/blobs/uploads/0123456789abcdef0123456789abcdef".to_owned()),
    ] {
        let reply = server.ask(method, &path, &[], "").await;
        assert_eq!((reply.status, reply.code().as_str()), (405, "UNSUPPORTED"), "{method} {path}");
    }
}
