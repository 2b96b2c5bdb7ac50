use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use io_artifacts::Fault;
use io_artifacts::blob::Discard;
use io_artifacts::source::{Credentials, Options, Transport};
use machines::oci::{Descriptor, Digest, Image, Index, MAX_MANIFEST, Place, Target, media, tags};

use crate::images::{layout, tag};
use crate::scripted::{Answer, Body, Request, Server, answer, options, serving};

fn content() -> Vec<u8> {
    (0..200_000_u32).flat_map(u32::to_le_bytes).collect()
}

fn blob() -> Descriptor {
    Descriptor::of(media::OCTET_STREAM, &content())
}

fn manifest() -> Vec<u8> {
    Image::artifact("x", Descriptor::of(media::OCTET_STREAM, b"layer"), None).to_bytes()
}

#[tokio::test]
async fn manifests_come_with_what_the_registry_calls_them_and_its_digest_is_not_believed() {
    let server = Server::start(|_| {
        answer(200, manifest())
            .with("Content-Type", format!("{}; charset=utf-8", media::IMAGE_MANIFEST))
            .with("Docker-Content-Digest", Digest::of(b"a lie").to_string())
    })
    .await;
    let there = server.open().await;
    let found = there.manifest(&tag("v1"), MAX_MANIFEST).await.unwrap();
    assert_eq!(found.media_type.as_deref(), Some(media::IMAGE_MANIFEST));
    assert_eq!(found.digest, Some(Digest::of(&manifest())), "our own");
    let request = &server.requests()[0];
    assert_eq!((request.method.as_str(), request.path.as_str()), ("GET", "/v2/app/manifests/v1"));
    assert!(request.header("accept").unwrap().contains(media::IMAGE_INDEX));
    assert!(request.header("authorization").is_none());
    let other = Target::Digest(Digest::of(b"another"));
    assert!(matches!(there.manifest(&other, MAX_MANIFEST).await, Err(Fault::Mismatch { .. })));
    assert!(matches!(there.manifest(&Target::Only, MAX_MANIFEST).await, Err(Fault::Refused { .. })));
}

#[tokio::test]
async fn s11_a_tag_is_resolved_once_and_then_the_digest_alone_is_asked_for() {
    let turn = AtomicUsize::new(0);
    let server = Server::start(move |request: &Request| {
        // The tag moves with every request.
        let n = turn.fetch_add(1, Ordering::Relaxed);
        let moved = Image::artifact(&format!("x{n}"), Descriptor::of(media::OCTET_STREAM, b"layer"), None).to_bytes();
        assert!(request.path.starts_with("/v2/app/manifests/"));
        answer(200, moved)
    })
    .await;
    let there = server.open().await;
    let first = there.manifest(&tag("v1"), MAX_MANIFEST).await.unwrap().digest.unwrap();
    let fault = there.manifest(&Target::Digest(first), MAX_MANIFEST).await.unwrap_err();
    assert!(matches!(fault, Fault::Mismatch { want, .. } if want == first), "{fault}");
}

#[tokio::test]
async fn s12_other_bytes_for_a_digest_leave_nothing() {
    let server = Server::start(|_| answer(200, vec![7; 800_000])).await;
    let there = server.open().await;
    assert_eq!(blob().size, 800_000);
    let folder = tempfile::tempdir().unwrap();
    let local = Transport::create(&layout(folder.path()), &Options::default()).await.unwrap();
    let Transport::Layout(site) = &local else { panic!() };
    let fault = there.stream(&blob(), site.incoming().unwrap()).await.map(drop).unwrap_err();
    assert!(matches!(fault, Fault::Mismatch { got, .. } if got == Digest::of(&vec![7; 800_000])), "{fault}");
    assert!(!local.has_blob(&blob()).await.unwrap());
    assert_eq!(std::fs::read_dir(folder.path().join("blobs/sha256")).unwrap().count(), 0);
    assert_eq!(server.requests().len(), 1, "what is wrong is not asked for again");
}

#[tokio::test]
async fn s13_endless_answers_are_cut_where_they_must_end() {
    let server = Server::start(|_| answer(200, "").body(Body::Endless)).await;
    let there = server.open().await;
    let small = Descriptor::new(media::OCTET_STREAM, Digest::of(b"x"), 100_000);
    let fault = there.stream(&small, Discard).await.map(drop).unwrap_err();
    assert!(matches!(fault, Fault::Mismatch { got_bytes: 100_001, .. }), "{fault}");
    for fault in [
        there.manifest(&tag("v1"), 50_000).await.map(drop).unwrap_err(),
        there.referrers(&small.digest, None, 9).await.map(drop).unwrap_err(),
        there.tags(9).await.map(drop).unwrap_err(),
    ] {
        assert!(matches!(fault, Fault::TooLong { .. }), "{fault}");
    }
    // What sockets hold is all that was sent beyond the bounds (4 MiB of each list).
    let sent = server.sent.load(Ordering::Relaxed);
    assert!(sent < 40 << 20, "{sent} bytes were sent");
    let told = Server::start(|_| answer(200, "").body(Body::Cut(usize::MAX >> 2, b"x".to_vec()))).await;
    let fault = told.open().await.manifest(&tag("v1"), 50_000).await.unwrap_err();
    assert!(matches!(fault, Fault::TooLong { max: 50_000, .. }), "{fault}");
    assert_eq!(told.requests().len(), 1);
}

#[tokio::test]
async fn a_broken_blob_is_continued_where_it_broke() {
    let server = Server::start(|request: &Request| {
        let (content, from) = (content(), request.from());
        let part = content[from..content.len().min(from + 300_000)].to_vec();
        let last = content.len() - 1;
        let body =
            if from + part.len() == content.len() { Body::Whole(part) } else { Body::Cut(content.len() - from, part) };
        match from {
            0 => answer(200, "").body(body),
            _ => answer(206, "").with("Content-Range", format!("bytes {from}-{last}/{}", content.len())).body(body),
        }
    })
    .await;
    let bytes = server.open().await.bytes(&blob(), 1 << 20).await.unwrap();
    assert!(bytes == content());
    let from: Vec<_> = server.requests().iter().map(Request::from).collect();
    assert!(from.len() >= 3 && from[0] == 0 && from.windows(2).all(|pair| pair[0] < pair[1]), "{from:?}");
}

#[tokio::test]
async fn a_registry_that_ignores_ranges_is_read_from_the_beginning_and_so_is_the_hash() {
    let turn = AtomicUsize::new(0);
    let server = Server::start(move |_| match turn.fetch_add(1, Ordering::Relaxed) {
        0 | 1 => answer(200, "").body(Body::Cut(800_000, content()[..500_000].to_vec())),
        _ => answer(200, content()),
    })
    .await;
    assert!(server.open().await.bytes(&blob(), 1 << 20).await.unwrap() == content());
    assert_eq!(server.requests().len(), 3);
    // And not for ever.
    let never = Server::start(|_| answer(200, "").body(Body::Cut(800_000, content()[..500_000].to_vec()))).await;
    let fault = never.open().await.bytes(&blob(), 1 << 20).await.unwrap_err();
    assert!(matches!(fault, Fault::Unreachable { .. }), "{fault}");
    assert!(never.requests().len() <= 8, "{}", never.requests().len());
}

#[tokio::test]
async fn a_body_without_a_length_that_ends_early_is_a_broken_one() {
    let turn = AtomicUsize::new(0);
    let server = Server::start(move |request: &Request| match turn.fetch_add(1, Ordering::Relaxed) {
        0 => answer(200, "").body(Body::Unframed(content()[..500_000].to_vec())),
        _ => {
            let from = request.from();
            answer(206, content()[from..].to_vec()).with("Content-Range", format!("bytes {from}-799999/800000"))
        }
    })
    .await;
    assert!(server.open().await.bytes(&blob(), 1 << 20).await.unwrap() == content());
    let short = Server::start(|_| answer(200, content()[..500_000].to_vec())).await;
    let fault = short.open().await.bytes(&blob(), 1 << 20).await.unwrap_err();
    assert!(matches!(fault, Fault::Mismatch { got_bytes: 500_000, .. }), "complete and too short: {fault}");
}

#[tokio::test]
async fn another_range_than_was_asked_for_is_refused() {
    for range in [
        "bytes 0-799999/800000",
        "bytes 500000-799999/900000",
        "bytes 500001-799999/800000",
        "bytes x-y/z",
        "500000",
        "",
    ] {
        let turn = AtomicUsize::new(0);
        let server = Server::start(move |_| match turn.fetch_add(1, Ordering::Relaxed) {
            0 => answer(200, "").body(Body::Cut(800_000, content()[..500_000].to_vec())),
            _ => answer(206, content()[500_000..].to_vec()).with("Content-Range", range),
        })
        .await;
        let fault = server.open().await.bytes(&blob(), 1 << 20).await.unwrap_err();
        assert!(fault.to_string().contains("another range"), "{range}: {fault}");
    }
    let unasked = Server::start(|_| answer(206, content()).with("Content-Range", "bytes 0-799999/800000")).await;
    assert!(unasked.open().await.bytes(&blob(), 1 << 20).await.is_err());
    let turn = AtomicUsize::new(0);
    let unable = Server::start(move |_| match turn.fetch_add(1, Ordering::Relaxed) {
        0 => answer(200, "").body(Body::Cut(800_000, content()[..500_000].to_vec())),
        1 => answer(416, ""),
        _ => answer(200, content()),
    })
    .await;
    assert!(unable.open().await.bytes(&blob(), 1 << 20).await.unwrap() == content());
}

#[tokio::test]
async fn silence_is_not_waited_for_for_ever() {
    let turn = AtomicUsize::new(0);
    let server = Server::start(move |request: &Request| match turn.fetch_add(1, Ordering::Relaxed) {
        0 => answer(200, "").body(Body::Silent(content()[..400_000].to_vec())),
        _ => {
            let from = request.from();
            answer(206, content()[from..].to_vec()).with("Content-Range", format!("bytes {from}-799999/800000"))
        }
    })
    .await;
    assert!(server.open().await.bytes(&blob(), 1 << 20).await.unwrap() == content());
    let hung = Server::start(|_| answer(200, "").body(Body::Silent(b"x".to_vec()))).await;
    let fault = hung.open().await.manifest(&tag("v1"), MAX_MANIFEST).await.unwrap_err();
    assert!(fault.to_string().contains("silent"), "{fault}");
}

#[tokio::test]
async fn a_busy_or_broken_registry_is_asked_again_and_not_for_ever() {
    for status in [429, 500, 502, 503, 504] {
        let turn = AtomicUsize::new(0);
        let server = Server::start(move |_| match turn.fetch_add(1, Ordering::Relaxed) {
            0 | 1 => answer(status, "").with("Retry-After", "0"),
            _ => answer(200, manifest()),
        })
        .await;
        assert!(server.open().await.manifest(&tag("v1"), MAX_MANIFEST).await.is_ok(), "{status}");
        let turn = AtomicUsize::new(0);
        let blobs = Server::start(move |_| match turn.fetch_add(1, Ordering::Relaxed) {
            0 | 1 => answer(status, ""),
            _ => answer(200, content()),
        })
        .await;
        assert!(blobs.open().await.bytes(&blob(), 1 << 20).await.is_ok(), "{status}");
        let words = r#"{"errors":[{"code":"UNAVAILABLE","message":"gone\u001b[31m fishing"}]}"#;
        let always = Server::start(move |_| answer(status, words)).await;
        let fault = always.open().await.manifest(&tag("v1"), MAX_MANIFEST).await.unwrap_err();
        let text = fault.to_string();
        assert!(
            matches!(fault, Fault::Unreachable { .. }) && text.contains("UNAVAILABLE, gone [31m fishing"),
            "{text}"
        );
        assert_eq!(always.requests().len(), 3);
    }
    let turn = AtomicUsize::new(0);
    let later = Server::start(move |_| match turn.fetch_add(1, Ordering::Relaxed) {
        0 => answer(429, "").with("Retry-After", "1"),
        _ => answer(200, manifest()),
    })
    .await;
    let begin = Instant::now();
    assert!(later.open().await.manifest(&tag("v1"), MAX_MANIFEST).await.is_ok());
    assert!(begin.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn nobody_there_is_unreachable_and_nothing_there_is_not_found() {
    let address = Server::start(|_| answer(200, "")).await.address;
    let place = Place::Registry { host: format!("127.0.0.1:{}", address.port()), repository: "app".into() };
    tokio::time::sleep(Duration::from_millis(50)).await;
    let gone = Transport::open(&place, &options()).await.unwrap();
    let fault = gone.manifest(&tag("v1"), MAX_MANIFEST).await.unwrap_err();
    assert!(matches!(fault, Fault::Unreachable { .. }), "{fault}");
    let nowhere = Place::Registry { host: "no-such-host.invalid".into(), repository: "app".into() };
    let fault = Transport::open(&nowhere, &options()).await.unwrap_err();
    assert!(matches!(fault, Fault::Unreachable { .. }) && fault.to_string().contains("resolved"), "{fault}");
    let empty = Server::start(serving(&[])).await.open().await;
    let server = Server::start(serving(&[])).await;
    let there = server.open().await;
    drop(empty);
    assert!(there.manifest(&tag("v1"), MAX_MANIFEST).await.unwrap_err().is_not_found());
    assert!(there.bytes(&blob(), 1 << 20).await.unwrap_err().is_not_found());
    assert!(!there.has_blob(&blob()).await.unwrap());
    let odd = Server::start(|_| answer(418, "")).await;
    let fault = odd.open().await.manifest(&tag("v1"), MAX_MANIFEST).await.unwrap_err();
    assert!(matches!(fault, Fault::Broken { .. }) && fault.to_string().contains("418"), "{fault}");
}

fn index(entries: &[Descriptor]) -> Vec<u8> {
    Index::new(media::IMAGE_INDEX.into(), entries.to_vec()).to_bytes()
}

fn referrer(n: usize, kind: &str) -> Descriptor {
    let mut entry = Descriptor::of(media::IMAGE_MANIFEST, n.to_string().as_bytes());
    entry.artifact_type = Some(kind.into());
    entry
}

#[tokio::test]
async fn referrers_come_by_the_api_page_by_page_or_by_the_tag_schema() {
    let subject = Digest::of(b"subject");
    let paged = Server::start(move |request: &Request| match request.path.as_str() {
        path if path == format!("/v2/app/referrers/{subject}") => {
            answer(200, index(&[referrer(1, "a"), referrer(2, "b")]))
                .with("Link", r#"</v2/app/next?page=2>; rel="next""#)
        }
        "/v2/app/next?page=2" => answer(200, index(&[referrer(2, "b"), referrer(3, "a")])),
        _ => answer(404, ""),
    })
    .await;
    let there = paged.open().await;
    assert_eq!(there.referrers(&subject, None, 3).await.unwrap().len(), 3, "each once");
    assert_eq!(there.referrers(&subject, Some("a"), 3).await.unwrap().len(), 2, "filtered by us");
    assert!(matches!(there.referrers(&subject, Some("a"), 2).await, Err(Fault::TooLong { max: 2, .. })));
    let schema = format!("/v2/app/manifests/{}", tags::referrers(&subject));
    let old =
        Server::start(serving(&[(&schema, media::IMAGE_INDEX, &index(&[referrer(1, "a"), referrer(2, "b")]))])).await;
    assert_eq!(old.open().await.referrers(&subject, Some("b"), 3).await.unwrap().len(), 1);
    let none = Server::start(serving(&[])).await;
    assert!(none.open().await.referrers(&subject, None, 3).await.unwrap().is_empty());
    let image = Server::start(serving(&[(&schema, media::IMAGE_MANIFEST, &manifest())])).await;
    assert!(image.open().await.referrers(&subject, None, 3).await.is_err(), "an image is no list");
}

#[tokio::test]
async fn s14_thousands_of_referrers_and_pages_without_end_are_refused() {
    let subject = Digest::of(b"subject");
    let many: Vec<_> = (0..1000).map(|n| referrer(n, "a")).collect();
    let server = Server::start(move |_| answer(200, index(&many))).await;
    assert!(matches!(server.open().await.referrers(&subject, None, 64).await, Err(Fault::TooLong { max: 64, .. })));
    let more: Vec<_> = (0..1025).map(|n| referrer(n, "a")).collect();
    let server = Server::start(move |_| answer(200, index(&more))).await;
    assert!(server.open().await.referrers(&subject, None, 9999).await.is_err(), "more than an index may have");
    let circle = Server::start(|_| answer(200, index(&[])).with("Link", r#"</v2/app/again>; rel="next""#)).await;
    let fault = circle.open().await.referrers(&subject, None, 64).await.unwrap_err();
    assert!(matches!(fault, Fault::TooLong { .. }), "{fault}");
    assert!(circle.requests().len() <= 64);
    let tags =
        Server::start(|_| answer(200, r#"{"name":"app","tags":["a"]}"#).with("Link", r#"</v2/app/again>; rel="next""#))
            .await;
    assert!(matches!(tags.open().await.tags(10).await, Err(Fault::TooLong { .. })));
    let elsewhere =
        Server::start(|_| answer(200, index(&[])).with("Link", r#"<http://127.0.0.1:1/x>; rel="next""#)).await;
    let fault = elsewhere.open().await.referrers(&subject, None, 64).await.unwrap_err().to_string();
    assert!(fault.contains("another host"), "{fault}");
}

#[tokio::test]
async fn tags_are_listed_sorted_and_what_is_no_tag_is_left_out() {
    let server = Server::start(|request: &Request| match request.path.as_str() {
        "/v2/app/tags/list?n=1000" => answer(200, r#"{"name":"app","tags":["v2","v1","../x"]}"#)
            .with("Link", r#"<list?n=1000&last=v2>; rel="next""#),
        _ => answer(200, r#"{"name":"app","tags":["v3"]}"#),
    })
    .await;
    assert_eq!(server.open().await.tags(3).await.unwrap(), ["v1", "v2", "v3"]);
    assert!(matches!(server.open().await.tags(2).await, Err(Fault::TooLong { max: 2, .. })));
    let null = Server::start(|_| answer(200, r#"{"name":"app","tags":null}"#)).await;
    assert!(null.open().await.tags(3).await.unwrap().is_empty());
    for broken in ["", "[]", r#"{"tags":{}}"#, r#"{"tags":[],"tags":[]}"#] {
        let server = Server::start(move |_| answer(200, broken)).await;
        assert!(server.open().await.tags(3).await.is_err(), "{broken}");
    }
}

fn bearer(request: &Request, realm: &str, good: &str) -> Option<Answer> {
    (request.header("authorization") != Some(good)).then(|| {
        answer(401, "").with("WWW-Authenticate", format!(r#"Bearer realm="{realm}",service="s",scope="ignored""#))
    })
}

#[tokio::test]
async fn a_token_is_fetched_once_and_anew_when_it_is_no_longer_taken() {
    let good = std::sync::Arc::new(AtomicUsize::new(1));
    let current = std::sync::Arc::clone(&good);
    let server = Server::start(move |request: &Request| {
        let host = request.header("host").unwrap();
        let now = current.load(Ordering::Relaxed);
        if request.path.starts_with("/token?") {
            assert_eq!(request.path, "/token?service=s&scope=repository%3Aapp%3Apull");
            let login = request.header("authorization");
            return if login == Some("Basic dTpw") {
                answer(200, format!(r#"{{"token":"t{now}"}}"#))
            } else {
                answer(401, "")
            };
        }
        bearer(request, &format!("http://{host}/token"), &format!("Bearer t{now}"))
            .unwrap_or_else(|| answer(200, manifest()))
    })
    .await;
    let host = server.address.to_string();
    let with = |user: &str| Options { credentials: Credentials::of(&host, user, "p"), ..options() };
    let there = Transport::open(&server.place(), &with("u")).await.unwrap();
    for _ in 0..3 {
        there.manifest(&tag("v1"), MAX_MANIFEST).await.unwrap();
    }
    let paths = || server.requests().iter().map(|r| r.path.clone()).collect::<Vec<_>>();
    assert_eq!(paths().iter().filter(|path| path.starts_with("/token")).count(), 1);
    assert_eq!(paths().len(), 5);
    good.store(2, Ordering::Relaxed);
    there.manifest(&tag("v1"), MAX_MANIFEST).await.unwrap();
    assert_eq!(paths().iter().filter(|path| path.starts_with("/token")).count(), 2);
    for (options, words) in [(with("wrong"), "were not taken"), (options(), "no credentials")] {
        let there = Transport::open(&server.place(), &options).await.unwrap();
        let fault = there.manifest(&tag("v1"), MAX_MANIFEST).await.unwrap_err();
        assert!(matches!(fault, Fault::Denied { .. }) && fault.to_string().contains(words), "{fault}");
        assert!(!fault.to_string().contains("dTpw"), "{fault}");
    }
    // A registry that never has enough is not asked for ever.
    let greedy = Server::start(|request: &Request| {
        let host = request.header("host").unwrap();
        if request.path.starts_with("/token?") {
            answer(200, r#"{"token":"t"}"#)
        } else {
            bearer(request, &format!("http://{host}/token"), "x").unwrap()
        }
    })
    .await;
    assert!(matches!(greedy.open().await.manifest(&tag("v1"), MAX_MANIFEST).await, Err(Fault::Denied { .. })));
    assert!(greedy.requests().len() <= 3);
}

#[tokio::test]
async fn basic_credentials_are_shown_when_they_are_asked_for() {
    let server = Server::start(|request: &Request| match request.header("authorization") {
        Some("Basic dTpw") => answer(200, manifest()),
        Some(_) => answer(403, ""),
        None => answer(401, "").with("WWW-Authenticate", r#"Basic realm="r""#),
    })
    .await;
    let credentials = Credentials::of(&server.address.to_string(), "u", "p");
    let there = Transport::open(&server.place(), &Options { credentials, ..options() }).await.unwrap();
    assert!(there.manifest(&tag("v1"), MAX_MANIFEST).await.is_ok());
    assert!(there.manifest(&tag("v1"), MAX_MANIFEST).await.is_ok());
    assert_eq!(server.requests().len(), 3, "once they are known to be wanted, they are shown at once");
    assert!(matches!(server.open().await.manifest(&tag("v1"), MAX_MANIFEST).await, Err(Fault::Denied { .. })));
    let other = Options { credentials: Credentials::of("elsewhere.example", "u", "p"), ..options() };
    let there = Transport::open(&server.place(), &other).await.unwrap();
    assert!(matches!(there.manifest(&tag("v1"), MAX_MANIFEST).await, Err(Fault::Denied { .. })));
    assert!(server.requests().last().unwrap().header("authorization").is_none());
}

#[tokio::test]
async fn credentials_never_follow_to_another_host() {
    let store = Server::start(|_| answer(200, content())).await;
    let tokens = Server::start(|_| answer(200, r#"{"token":"t"}"#)).await;
    let (blobs, realm) = (store.address, tokens.address);
    let server = Server::start(move |request: &Request| {
        bearer(request, &format!("http://{realm}/token"), "Bearer t")
            .unwrap_or_else(|| answer(307, "").with("Location", format!("http://{blobs}/a/blob?signed=secret")))
    })
    .await;
    let credentials = Credentials::of(&server.address.to_string(), "u", "p");
    let there = Transport::open(&server.place(), &Options { credentials, ..options() }).await.unwrap();
    assert!(there.bytes(&blob(), 1 << 20).await.unwrap() == content());
    assert!(server.requests().last().unwrap().header("authorization").is_some());
    for elsewhere in [store.requests(), tokens.requests()] {
        assert_eq!(elsewhere.len(), 1);
        assert!(elsewhere[0].header("authorization").is_none(), "{elsewhere:?}");
    }
    // A challenge of another host is not answered.
    let asking = Server::start(|_| answer(401, "").with("WWW-Authenticate", "Basic realm=x")).await;
    let to = asking.address;
    let server = Server::start(move |_| answer(307, "").with("Location", format!("http://{to}/x"))).await;
    let credentials = Credentials::of(&server.address.to_string(), "u", "p");
    let there = Transport::open(&server.place(), &Options { credentials, ..options() }).await.unwrap();
    assert!(there.bytes(&blob(), 1 << 20).await.is_err());
    assert!(asking.requests().iter().all(|request| request.header("authorization").is_none()));
}

#[tokio::test]
async fn redirects_are_followed_three_times_for_blobs_and_never_for_manifests() {
    let server = Server::start(|request: &Request| match request.path.rsplit_once("/hop") {
        Some((_, "0")) => answer(200, content()),
        Some((_, n)) => answer(302, "").with("Location", format!("/hop{}", n.parse::<u8>().unwrap() - 1)),
        None => answer(301, "").with("Location", "/hop2"),
    })
    .await;
    let there = server.open().await;
    assert!(there.bytes(&blob(), 1 << 20).await.unwrap() == content());
    let fault = there.manifest(&tag("v1"), MAX_MANIFEST).await.unwrap_err().to_string();
    assert!(fault.contains("301"), "{fault}");
    for (location, words) in [
        (Some("/more"), "more than 3 redirects"),
        (None, "leads nowhere"),
        (Some("http://u:p@127.0.0.1/x"), "user name"),
        (Some("ftp://127.0.0.1/x"), "ftp"),
        (Some("file:///etc/passwd"), "file"),
        (Some("http://192.0.2.1/x"), "plain HTTP"),
    ] {
        let server = Server::start(move |_| match location {
            Some(location) => answer(307, "").with("Location", location),
            None => answer(307, ""),
        })
        .await;
        let fault = server.open().await.bytes(&blob(), 1 << 20).await.unwrap_err().to_string();
        assert!(fault.contains(words), "{location:?}: {fault}");
        assert!(server.requests().len() <= 4);
    }
}
