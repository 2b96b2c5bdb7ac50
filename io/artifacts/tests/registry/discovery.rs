//! Tags, referrers, repositories; and taking them away again.

use machines::json::Value;
use machines::oci::{Descriptor, Digest, media};

use crate::client::{Server, image, names, push_manifest};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tags_are_listed_in_order_page_by_page() {
    let server = Server::start().await;
    server.push_blob("a", b"only a blob").await;
    let empty = server.get("/v2/a/tags/list").await;
    assert_eq!((empty.status, empty.list("tags").len()), (200, 0));
    assert_eq!(empty.json().get("name").and_then(Value::as_str), Some("a"));
    for tag in ["v2", "v10", "Beta", "alpha", "_x", "v1"] {
        server.push_image("a", tag, b"layer", None).await;
    }
    let all = ["_x", "alpha", "Beta", "v1", "v10", "v2"];
    assert_eq!(server.get("/v2/a/tags/list").await.list("tags"), all);
    let mut path = "/v2/a/tags/list?n=4".to_owned();
    let mut pages = Vec::new();
    loop {
        let reply = server.get(&path).await;
        pages.push(reply.list("tags"));
        let Some(next) = reply.header("link").strip_suffix(">; rel=\"next\"").and_then(|link| link.strip_prefix('<'))
        else {
            break;
        };
        path = next.to_owned();
    }
    assert_eq!(pages, [all[..4].to_vec(), all[4..].to_vec()]);
    assert_eq!(server.get("/v2/a/tags/list?last=alpha&n=2").await.list("tags"), ["Beta", "v1"]);
    let none = server.get("/v2/a/tags/list?n=0").await;
    assert_eq!((none.list("tags").len(), none.header("link")), (0, ""));
    for n in ["-1", "x", "", "1.5"] {
        assert_eq!(server.get(&format!("/v2/a/tags/list?n={n}")).await.status, 400, "{n:?}");
    }
    server.push_image("b/c", "v1", b"layer", None).await;
    assert_eq!(server.get("/v2/_catalog").await.list("repositories"), ["a", "b/c"]);
    let first = server.get("/v2/_catalog?n=1").await;
    assert_eq!(
        (first.list("repositories").as_slice(), first.header("link")),
        (&["a".to_owned()][..], "</v2/_catalog?n=1&last=a>; rel=\"next\"")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn referrers_are_told_with_their_kind_and_remarks() {
    let server = Server::start().await;
    let subject_bytes = image(b"layer", None).to_bytes();
    let subject = Descriptor::of(media::IMAGE_MANIFEST, &subject_bytes);
    let path = format!("/v2/a/referrers/{}", subject.digest);
    let before = server.get(&path).await;
    assert_eq!(
        (before.status, before.header("content-type")),
        (200, media::IMAGE_INDEX),
        "no 404, or clients fall back"
    );
    assert_eq!(before.json().get("manifests").and_then(Value::as_array).map(<[Value]>::len), Some(0));

    // Before the subject is there itself.
    server.push_blob("a", b"{}").await;
    server.push_blob("a", b"lock").await;
    let mut lock = image(b"lock", Some(subject.clone()));
    lock.artifact_type = Some(media::LOCK.into());
    lock.annotations.insert("made-by".into(), "a test".into());
    let put = format!("/v2/a/manifests/{}", Digest::of(&lock.to_bytes()));
    let reply = server.ask("PUT", &put, &[("content-type", media::IMAGE_MANIFEST)], lock.to_bytes()).await;
    assert_eq!((reply.status, reply.header("oci-subject")), (201, subject.digest.to_string().as_str()));
    let mut plain = image(b"lock", Some(subject.clone()));
    plain.artifact_type = None;
    push_manifest(server.address, "a", "plain", &plain.to_bytes()).await.unwrap();
    server.push_image("a", "v1", b"layer", None).await;

    let all = server.get(&path).await.json();
    let all = all.get("manifests").and_then(Value::as_array).unwrap().to_vec();
    let of = |manifest: &machines::oci::Image| {
        let digest = Digest::of(&manifest.to_bytes()).to_string();
        all.iter().find(|d| d.get("digest").and_then(Value::as_str) == Some(&digest)).cloned().unwrap()
    };
    assert_eq!(all.len(), 2);
    let told = Descriptor::parse(&of(&lock), "manifests").unwrap();
    assert_eq!(told.artifact_type.as_deref(), Some(media::LOCK));
    assert_eq!(told.annotations.get("made-by").map(String::as_str), Some("a test"));
    assert_eq!(told.size, u64::try_from(lock.to_bytes().len()).unwrap());
    let kind = of(&plain).get("artifactType").and_then(Value::as_str).map(str::to_owned);
    assert_eq!(kind.as_deref(), Some(media::EMPTY_JSON), "the configuration's media type stands in");

    let filtered = server.get(&format!("{path}?artifactType={}", media::LOCK)).await;
    assert_eq!(filtered.header("oci-filters-applied"), "artifactType");
    assert_eq!(filtered.json().get("manifests").and_then(Value::as_array).unwrap(), [of(&lock)]);
    let none = server.get(&format!("{path}?artifactType=application%2Fother")).await;
    assert_eq!(none.json().get("manifests").and_then(Value::as_array).map(<[Value]>::len), Some(0));

    // Gone with the manifest.
    assert_eq!(server.delete(&put).await.status, 202);
    let left = server.get(&path).await.json();
    assert_eq!(left.get("manifests").and_then(Value::as_array).unwrap(), [of(&plain)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s14_thousands_of_referrers_come_in_pages() {
    let server = Server::start().await;
    server.push_image("a", "v1", b"layer", None).await;
    let subject = Digest::of(b"subject");
    let folder = server.path().join(format!("repositories/a/_referrers/{}", subject.hex()));
    std::fs::create_dir_all(&folder).unwrap();
    for n in 0..5001_u32 {
        let mut descriptor = Descriptor::of(media::IMAGE_MANIFEST, &n.to_be_bytes());
        descriptor.artifact_type = Some(if n == 5000 { "application/rare+x" } else { "application/common" }.into());
        std::fs::write(folder.join(descriptor.digest.hex()), descriptor.to_value().to_text()).unwrap();
    }
    let pages = async |mut path: String| {
        let (mut sizes, mut seen) = (Vec::new(), std::collections::BTreeSet::new());
        loop {
            let reply = server.get(&path).await;
            assert!(reply.body.len() < 4 << 20);
            let index = reply.json();
            let entries = index.get("manifests").and_then(Value::as_array).unwrap();
            sizes.push(entries.len());
            seen.extend(entries.iter().map(|d| d.get("digest").and_then(Value::as_str).unwrap().to_owned()));
            let link = reply.header("link").to_owned();
            let Some(next) = link.strip_suffix(">; rel=\"next\"").and_then(|link| link.strip_prefix('<')) else {
                return (sizes, seen.len());
            };
            path = next.to_owned();
        }
    };
    let (sizes, seen) = pages(format!("/v2/a/referrers/{subject}")).await;
    assert_eq!(seen, 5001);
    assert!(sizes.len() == 11 && sizes.iter().all(|size| *size <= 500), "{sizes:?}");
    let (sizes, seen) = pages(format!("/v2/a/referrers/{subject}?artifactType=application%2Frare%2Bx")).await;
    assert_eq!((sizes.len(), seen), (2, 1), "an answer looks at so many and no more");
    assert_eq!(server.get(&format!("/v2/a/referrers/{subject}?last=x")).await.status, 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s14_remarks_too_long_to_be_listed_are_refused() {
    let server = Server::start().await;
    server.push_blob("a", b"{}").await;
    server.push_blob("a", b"layer").await;
    let mut long = image(b"layer", Some(Descriptor::of(media::IMAGE_MANIFEST, b"subject")));
    long.annotations.insert("x".into(), "y".repeat(300 * 1024));
    let reply =
        server.ask("PUT", "/v2/a/manifests/v1", &[("content-type", media::IMAGE_MANIFEST)], long.to_bytes()).await;
    assert_eq!((reply.status, reply.code().as_str()), (400, "MANIFEST_INVALID"));
    long.subject = None;
    push_manifest(server.address, "a", "v1", &long.to_bytes()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_deleted_is_gone_from_its_repository_alone() {
    let server = Server::start().await;
    let digest = server.push_image("a", "v1", b"layer", None).await;
    server.push_image("a", "same", b"layer", None).await;
    server.push_image("a", "other", b"another", None).await;
    server.push_image("b", "v1", b"layer", None).await;

    assert_eq!(server.delete("/v2/a/manifests/v1").await.status, 202);
    assert_eq!(server.delete("/v2/a/manifests/v1").await.code(), "MANIFEST_UNKNOWN");
    assert_eq!(server.get("/v2/a/tags/list").await.list("tags"), ["other", "same"]);
    assert_eq!(server.get(&format!("/v2/a/manifests/{digest}")).await.status, 200, "the tag alone went");

    assert_eq!(server.delete(&format!("/v2/a/manifests/{digest}")).await.status, 202);
    assert_eq!(server.get("/v2/a/manifests/same").await.status, 404);
    assert_eq!(server.get("/v2/a/tags/list").await.list("tags"), ["other"], "its tags went with it");
    let layer = format!("/v2/a/blobs/{}", Digest::of(b"layer"));
    assert_eq!(server.delete(&layer).await.status, 202);
    assert_eq!(server.delete(&layer).await.code(), "BLOB_UNKNOWN");
    assert_eq!(server.get(&layer).await.status, 404);
    assert_eq!(server.get(&layer.replace("/a/", "/b/")).await.body, "layer");
    assert_eq!(server.get("/v2/b/manifests/v1").await.status, 200);

    // The bytes go at the next start, when no repository names them.
    let another = format!("/v2/a/blobs/{}", Digest::of(b"another"));
    server.delete(&another).await;
    let folder = server.stop().await.unwrap();
    let registry = folder.path().join("registry");
    assert!(names(&registry.join("blobs/sha256")).contains(&Digest::of(b"another").hex()));
    let again = Server::of(io_artifacts::serve::Settings::new(&registry)).await.unwrap();
    let left = names(&registry.join("blobs/sha256"));
    assert!(!left.contains(&Digest::of(b"another").hex()) && left.contains(&Digest::of(b"layer").hex()));
    assert_eq!(again.get(&layer.replace("/a/", "/b/")).await.body, "layer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_deletion_nothing_is_deleted() {
    let server = Server::with(|_| {}).await;
    let digest = server.push_image("a", "v1", b"layer", None).await;
    for path in [
        "/v2/a/manifests/v1".to_owned(),
        format!("/v2/a/manifests/{digest}"),
        format!("/v2/a/blobs/{}", Digest::of(b"layer")),
    ] {
        let reply = server.delete(&path).await;
        assert_eq!((reply.status, reply.code().as_str()), (405, "UNSUPPORTED"), "{path}");
        assert_eq!(server.get(&path).await.status, 200, "{path}");
    }
}
