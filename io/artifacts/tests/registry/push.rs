//! Push: blobs at once, in chunks, from another repository; manifests.

use std::sync::Arc;
use std::time::Duration;

use machines::oci::{Descriptor, Digest, Index, media};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::client::{Server, bytes, image, names, push_blob, soon};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_comes_in_by_post_by_put_or_in_chunks() {
    let server = Server::start().await;
    let blob = bytes(700_001, 1);
    let digest = Digest::of(&blob);
    let want = format!("/v2/a/blobs/{digest}");

    let put = server.session("a").await;
    let reply = server.ask("PUT", &format!("{put}?digest={digest}"), &[], blob.clone()).await;
    assert_eq!((reply.status, reply.header("location")), (201, want.as_str()));
    assert_eq!(reply.header("docker-content-digest"), digest.to_string());

    // Encoded as many clients do it.
    let encoded = digest.to_string().replace(':', "%3A");
    let reply = server.ask("POST", &format!("/v2/b/blobs/uploads/?digest={encoded}"), &[], blob.clone()).await;
    assert_eq!((reply.status, reply.header("location")), (201, want.replace("/a/", "/b/").as_str()));

    let mut at = server.session("c").await;
    for (from, to) in [(0, 300_000), (300_000, 300_001), (300_001, 600_000)] {
        let range = format!("{from}-{}", to - 1);
        let reply = server.ask("PATCH", &at, &[("content-range", &range)], blob[from..to].to_vec()).await;
        assert_eq!((reply.status, reply.header("range")), (202, format!("0-{}", to - 1).as_str()));
        at = reply.header("location").to_owned();
        let status = server.get(&at).await;
        assert_eq!((status.status, status.header("range")), (204, format!("0-{}", to - 1).as_str()));
        assert_eq!(status.header("location"), at);
    }
    let reply = server
        .ask("PUT", &format!("{at}?digest={digest}"), &[("content-range", "600000-700000")], blob[600_000..].to_vec())
        .await;
    assert_eq!(reply.status, 201);
    for repository in ["a", "b", "c"] {
        assert!(server.get(&format!("/v2/{repository}/blobs/{digest}")).await.body == blob);
    }
    assert_eq!(names(&server.path().join("blobs/sha256")), [digest.hex()]);
    assert_eq!(server.get(&at).await.status, 404, "the session is over");
    assert!(names(&server.path().join("uploads")).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunks_out_of_order_are_refused_and_the_session_goes_on() {
    let server = Server::start().await;
    let at = server.session("a").await;
    let patch = |range: &'static str, body: &'static str| {
        let (server, at) = (&server, at.as_str());
        async move { server.ask("PATCH", at, &[("content-range", range)], body).await }
    };
    assert_eq!(patch("0-4", "first").await.status, 202);
    for range in ["0-4", "6-9", "100-104"] {
        let reply = patch(range, "wrong").await;
        assert_eq!(
            (reply.status, reply.header("range"), reply.header("location")),
            (416, "0-4", at.as_str()),
            "{range}"
        );
    }
    assert_eq!(patch("5-8", "later").await.status, 400, "five bytes are no four");
    assert_eq!(patch("bytes 5-9/10", "later").await.status, 400);
    assert_eq!(server.get(&at).await.header("range"), "0-4");
    assert_eq!(patch("5-9", "later").await.status, 202);
    let put = format!("{at}?digest={}", Digest::of(b"firstlater"));
    assert_eq!(server.ask("PUT", &put, &[("content-range", "3-4")], "xx").await.status, 416);
    assert_eq!(server.ask("PUT", &put, &[], "").await.status, 201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_that_broke_off_goes_on_where_it_stopped() {
    let server = Server::start().await;
    let blob = bytes(600_000, 3);
    let at = server.session("a").await;
    let head = format!("PATCH {at} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n", blob.len());
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&blob[..400_000]).await.unwrap();
    stream.flush().await.unwrap();
    drop(stream);
    let mut kept = String::new();
    for _ in 0..500 {
        kept = server.get(&at).await.header("range").to_owned();
        if kept == "0-399999" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(kept, "0-399999", "what came stands");
    let digest = Digest::of(&blob);
    let mut reply = server.ask("PUT", &format!("{at}?digest={digest}"), &[], blob[400_000..].to_vec()).await;
    while reply.status == 429 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        reply = server.ask("PUT", &format!("{at}?digest={digest}"), &[], blob[400_000..].to_vec()).await;
    }
    assert_eq!(reply.status, 201, "{reply:?}");
    assert!(server.get(&format!("/v2/a/blobs/{digest}")).await.body == blob);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_is_mounted_where_its_repository_has_it() {
    let server = Server::start().await;
    let digest = server.push_blob("a", b"blob").await;
    let mounted = server.ask("POST", &format!("/v2/b/blobs/uploads/?mount={digest}&from=a"), &[], "").await;
    assert_eq!((mounted.status, mounted.header("location")), (201, format!("/v2/b/blobs/{digest}").as_str()));
    assert_eq!(server.get(&format!("/v2/b/blobs/{digest}")).await.body, "blob");
    for query in [
        format!("?mount={digest}&from=c"),
        format!("?mount={digest}"),
        format!("?mount={}&from=a", Digest::of(b"unknown")),
    ] {
        let reply = server.ask("POST", &format!("/v2/d/blobs/uploads/{query}"), &[], "").await;
        assert_eq!(reply.status, 202, "{query}");
        assert!(reply.header("location").starts_with("/v2/d/blobs/uploads/"));
    }
    for query in
        ["?mount=sha256:00&from=a".to_owned(), format!("?mount={digest}&from=../a"), "?digest=md5:00".to_owned()]
    {
        assert_eq!(server.ask("POST", &format!("/v2/d/blobs/uploads/{query}"), &[], "").await.status, 400, "{query}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s12_other_bytes_than_the_digest_promised_are_never_visible() {
    let server = Server::start().await;
    let promised = Digest::of(b"promised");
    let reply = server.ask("POST", &format!("/v2/a/blobs/uploads/?digest={promised}"), &[], "other").await;
    assert_eq!((reply.status, reply.code().as_str()), (400, "DIGEST_INVALID"));
    let at = server.session("a").await;
    assert_eq!(server.ask("PATCH", &at, &[], "promise").await.status, 202);
    assert_eq!(server.ask("PUT", &at, &[], "").await.code(), "DIGEST_INVALID", "no digest");
    let reply = server.ask("PUT", &format!("{at}?digest={promised}"), &[], "").await;
    assert_eq!((reply.status, reply.code().as_str()), (400, "DIGEST_INVALID"));
    assert_eq!(server.get(&at).await.status, 404, "the session is over");
    assert_eq!(server.get(&format!("/v2/a/blobs/{promised}")).await.status, 404);
    let bytes = image(b"layer", None).to_bytes();
    let path = format!("/v2/a/manifests/{promised}");
    let reply = server.ask("PUT", &path, &[("content-type", media::IMAGE_MANIFEST)], bytes).await;
    assert_eq!((reply.status, reply.code().as_str()), (400, "DIGEST_INVALID"));
    for folder in ["blobs/sha256", "uploads", "repositories"] {
        assert!(names(&server.path().join(folder)).is_empty(), "{folder}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s13_endless_data_is_cut_at_the_bound() {
    let server = Server::with(|settings| settings.limits.blob_bytes = 1 << 20).await;
    let exact = bytes(1 << 20, 1);
    server.push_blob("a", &exact).await;
    let long = bytes((1 << 20) + 1, 1);
    let path = format!("/v2/a/blobs/uploads/?digest={}", Digest::of(&long));
    let reply = server.ask("POST", &path, &[], long.clone()).await;
    assert_eq!((reply.status, reply.code().as_str()), (413, "SIZE_INVALID"));

    // Without a length: nobody knows before it is there.
    let at = server.session("a").await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = format!("PATCH {at} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let chunk = [format!("{:x}\r\n", 64 * 1024).as_bytes(), &[7; 64 * 1024], b"\r\n"].concat();
    let mut sent = 0;
    while sent < 64 << 20 && stream.write_all(&chunk).await.is_ok() {
        sent += 64 * 1024;
    }
    assert!(sent < 32 << 20, "{sent} bytes were taken");
    assert_eq!(server.get(&at).await.status, 404, "the session is over");
    soon(|| names(&server.path().join("uploads")).is_empty()).await;
    assert_eq!(names(&server.path().join("blobs/sha256")), [Digest::of(&exact).hex()]);

    // In chunks that are short enough each.
    let at = server.session("a").await;
    assert_eq!(server.ask("PATCH", &at, &[], long[..1 << 19].to_vec()).await.status, 202);
    assert_eq!(server.ask("PATCH", &at, &[], long[1 << 19..].to_vec()).await.status, 413);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_push_the_same_blob_at_once() {
    let server = Server::start().await;
    let blob: Arc<[u8]> = bytes(500_000, 5).into();
    let digest = Digest::of(&blob);
    let pushes: Vec<_> = (0..16)
        .map(|n| {
            let (address, blob) = (server.address, Arc::clone(&blob));
            tokio::spawn(async move {
                push_blob(address, if n % 2 == 0 { "a" } else { "b/c" }, &blob).await.map_err(|e| e.to_string())
            })
        })
        .collect();
    let pulls: Vec<_> = (0..16)
        .map(|_| {
            let address = server.address;
            tokio::spawn(async move {
                let reply =
                    crate::client::ask(address, "GET", &format!("/v2/a/blobs/{digest}"), &[], "").await.unwrap();
                (reply.status, reply.body)
            })
        })
        .collect();
    for push in pushes {
        assert_eq!(push.await.unwrap(), Ok(digest));
    }
    for pull in pulls {
        let (status, body) = pull.await.unwrap();
        assert!(status == 404 || (status == 200 && body == *blob), "all of it or none");
    }
    assert_eq!(names(&server.path().join("blobs/sha256")), [digest.hex()]);
    assert!(names(&server.path().join("uploads")).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_are_bounded_and_abandoned_ones_go() {
    let server = Server::with(|settings| {
        settings.limits.uploads = 3;
        settings.limits.upload_expiry = Duration::from_millis(400);
    })
    .await;
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(server.session("a").await);
    }
    let refused = server.ask("POST", "/v2/a/blobs/uploads/", &[], "").await;
    assert_eq!((refused.status, refused.code().as_str()), (429, "TOOMANYREQUESTS"));
    assert!(!refused.header("retry-after").is_empty());
    assert_eq!(server.delete(&open[0]).await.status, 204);
    assert_eq!(server.delete(&open[0]).await.status, 404);
    assert_eq!(names(&server.path().join("uploads")).len(), 2);
    soon(|| names(&server.path().join("uploads")).is_empty()).await;
    assert_eq!(server.get(&open[1]).await.code(), "BLOB_UPLOAD_UNKNOWN");
    server.session("a").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_of_one_repository_and_one_request_at_a_time() {
    let server = Server::start().await;
    let at = server.session("a").await;
    let elsewhere = at.replace("/v2/a/", "/v2/b/");
    assert_eq!(server.get(&elsewhere).await.status, 404);
    assert_eq!(server.ask("PATCH", &elsewhere, &[], "x").await.status, 404);
    let head = format!("PATCH {at} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\nfirst");
    let mut held = None;
    // One that asks whether the session is held may itself be in the way of the one that is to hold it.
    'tries: for _ in 0..20 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            if server.ask("PATCH", &at, &[], "").await.status == 429 {
                held = Some(stream);
                break 'tries;
            }
        }
    }
    let mut stream = held.expect("the session is held by the first");
    stream.write_all(b"later").await.unwrap();
    let digest = Digest::of(b"firstlater");
    let mut reply = server.ask("PUT", &format!("{at}?digest={digest}"), &[], "").await;
    while reply.status == 429 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        reply = server.ask("PUT", &format!("{at}?digest={digest}"), &[], "").await;
    }
    assert_eq!(reply.status, 201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_is_taken_when_all_that_it_names_is_there() {
    let server = Server::start().await;
    let put = |named: String, kind: &'static str, body: Vec<u8>| {
        let server = &server;
        async move { server.ask("PUT", &format!("/v2/a/manifests/{named}"), &[("content-type", kind)], body).await }
    };
    let manifest = image(b"layer", None);
    for blob in [&b""[..], b"layer", b"{}"] {
        if !blob.is_empty() {
            server.push_blob("a", blob).await;
        }
        if blob != b"{}" {
            let reply = put("v1".into(), media::IMAGE_MANIFEST, manifest.to_bytes()).await;
            assert_eq!((reply.status, reply.code().as_str()), (400, "MANIFEST_BLOB_UNKNOWN"));
        }
    }
    let mut wrong = manifest.clone();
    wrong.layers[0].size += 1;
    assert_eq!(put("v1".into(), media::IMAGE_MANIFEST, wrong.to_bytes()).await.code(), "SIZE_INVALID");
    let reply = put("v1".into(), media::IMAGE_MANIFEST, manifest.to_bytes()).await;
    let digest = Digest::of(&manifest.to_bytes());
    assert_eq!((reply.status, reply.header("location")), (201, "/v2/a/manifests/v1"));
    assert_eq!(reply.header("docker-content-digest"), digest.to_string());

    let child = Descriptor::of(media::IMAGE_MANIFEST, &manifest.to_bytes());
    let stranger = Descriptor::of(media::IMAGE_MANIFEST, b"stranger");
    let index = |children| Index::new(media::IMAGE_INDEX.into(), children).to_bytes();
    let reply = put("all".into(), media::IMAGE_INDEX, index(vec![child.clone(), stranger])).await;
    assert_eq!((reply.status, reply.code().as_str()), (400, "MANIFEST_BLOB_UNKNOWN"));
    assert_eq!(put("all".into(), media::IMAGE_INDEX, index(vec![child])).await.status, 201);
    assert_eq!(server.get("/v2/a/manifests/all").await.header("content-type"), media::IMAGE_INDEX);

    let twice = br#"{"schemaVersion":2,"schemaVersion":2,"manifests":[]}"#.to_vec();
    for (kind, body) in [
        (media::IMAGE_INDEX, manifest.to_bytes()),
        ("application/json", manifest.to_bytes()),
        (media::IMAGE_MANIFEST, b"{}".to_vec()),
        (media::IMAGE_MANIFEST, Vec::new()),
        (media::IMAGE_INDEX, twice),
    ] {
        let reply = put("bad".into(), kind, body).await;
        assert_eq!((reply.status, reply.code().as_str()), (400, "MANIFEST_INVALID"), "{kind}");
    }
    assert_eq!(
        put("v1".into(), "application/vnd.oci.image.manifest.v1+json; charset=utf-8", manifest.to_bytes()).await.status,
        201
    );
    assert_eq!(put("-bad".into(), media::IMAGE_MANIFEST, manifest.to_bytes()).await.code(), "TAG_INVALID");
}
