//! Pushing: to a registry that does as it is told, and to our own.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use io_artifacts::Fault;
use io_artifacts::blob::Blob;
use io_artifacts::serve::{Settings, listen};
use io_artifacts::source::{Options, Transport};
use machines::oci::{Descriptor, Digest, Image, Manifest, Place, Target, media, tags};
use tokio::sync::oneshot;

use crate::images::{check_release, release, tag};
use crate::scripted::{Answer, Request, Server, answer, options};

/// Our own registry, in a folder of its own.
pub struct Ours {
    pub host: String,
    _folder: tempfile::TempDir,
    _stop: oneshot::Sender<()>,
}

impl Ours {
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings::new(folder.path().join("registry"));
        let ((tell, told), (stop, stopped)) = (oneshot::channel(), oneshot::channel::<()>());
        tokio::spawn(async move {
            let ready = |address: std::net::SocketAddr| tell.send(address).unwrap();
            let shutdown = async { drop(stopped.await) };
            listen("127.0.0.1:0".parse().unwrap(), settings, ready, shutdown).await
        });
        Self { host: told.await.unwrap().to_string(), _folder: folder, _stop: stop }
    }

    pub fn place(&self, repository: &str) -> Place {
        Place::Registry { host: self.host.clone(), repository: repository.into() }
    }
}

#[tokio::test]
async fn what_is_pushed_to_our_registry_is_pulled_from_it() {
    let ours = Ours::start().await;
    let to = Transport::create(&ours.place("team/app"), &Options::default()).await.unwrap();
    let root = release(&to).await;
    let there = Transport::open(&ours.place("team/app"), &Options::default()).await.unwrap();
    check_release(&there, &root).await;
    assert_eq!(there.tags(100).await.unwrap().len(), 6, "and no tag of the referrers tag schema");
    // In parts, too.
    let chunked = Options { chunk_bytes: 100_000, ..Options::default() };
    let to = Transport::create(&ours.place("team/app"), &chunked).await.unwrap();
    let bytes: Vec<u8> = (0..250_001_u32).map(|n| n.to_le_bytes()[0]).collect();
    let blob = Descriptor::of(media::OCTET_STREAM, &bytes);
    to.put_blob(&blob, &Blob::from_bytes(bytes.clone())).await.unwrap();
    assert!(there.bytes(&blob, 1 << 20).await.unwrap() == bytes);
    // Taken over from another repository.
    let Transport::Registry(other) = Transport::create(&ours.place("other"), &Options::default()).await.unwrap() else {
        panic!()
    };
    assert!(!other.has_blob(&blob).await.unwrap());
    assert!(other.mount(&blob, "team/app").await.unwrap());
    assert!(other.has_blob(&blob).await.unwrap());
    assert!(!other.mount(&Descriptor::of(media::OCTET_STREAM, b"nowhere"), "team/app").await.unwrap());
}

#[tokio::test]
async fn s12_a_blob_that_is_not_what_it_is_called_is_never_completed() {
    let ours = Ours::start().await;
    let to = Transport::create(&ours.place("app"), &options()).await.unwrap();
    let (wrong, right) = (vec![1; 600_000], vec![2; 600_000]);
    let blob = Descriptor::of(media::OCTET_STREAM, &right);
    for options in [options(), Options { chunk_bytes: 100_000, ..options() }] {
        let to = Transport::create(&ours.place("app"), &options).await.unwrap();
        assert!(to.put_blob(&blob, &Blob::from_bytes(wrong.clone())).await.is_err());
        assert!(!to.has_blob(&blob).await.unwrap());
    }
    let fault = to.put_blob(&blob, &Blob::from_bytes(vec![2; 599_999])).await.unwrap_err().to_string();
    assert!(fault.contains("599999"), "{fault}");
    to.put_blob(&blob, &Blob::from_bytes(right)).await.unwrap();
    assert!(to.has_blob(&blob).await.unwrap());
    assert!(to.put_manifest(&tag("v1"), media::IMAGE_MANIFEST, b"{}").await.is_err(), "no manifest");
    let manifest = Image::artifact("x", blob, None).to_bytes();
    assert!(to.put_manifest(&tag("v1"), media::IMAGE_INDEX, &manifest).await.is_err(), "called something else");
    assert!(to.put_manifest(&tag("-"), media::IMAGE_MANIFEST, &manifest).await.is_err(), "no tag");
}

/// A registry from before OCI 1.1: it keeps manifests under names, and knows nothing of referrers.
fn old(
    kept: &Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    subject: Option<String>,
) -> impl Fn(&Request) -> Answer + Send + Sync + 'static {
    let kept = Arc::clone(kept);
    move |request: &Request| {
        let name = request.path.strip_prefix("/v2/app/manifests/").map(str::to_owned);
        match (request.method.as_str(), name) {
            ("PUT", Some(name)) => {
                kept.lock().unwrap().insert(name, request.body.clone());
                match &subject {
                    Some(subject) => answer(201, "").with("OCI-Subject", subject.clone()),
                    None => answer(201, ""),
                }
            }
            ("GET", Some(name)) => match kept.lock().unwrap().get(&name) {
                Some(bytes) => answer(200, bytes.clone()),
                None => answer(404, ""),
            },
            _ => answer(404, ""),
        }
    }
}

#[tokio::test]
async fn where_a_registry_does_not_list_referrers_their_index_is_kept_for_it() {
    let subject = Descriptor::of(media::IMAGE_MANIFEST, b"subject");
    let attached = |kind: &str| Image::artifact(kind, Descriptor::of(kind, b"x"), Some(subject.clone())).to_bytes();
    let schema = tags::referrers(&subject.digest);
    let kept = Arc::<Mutex<BTreeMap<_, _>>>::default();
    let server = Server::start(old(&kept, None)).await;
    let to = server.create().await;
    for kind in [media::LOCK, media::POLICY_BUNDLE, media::LOCK] {
        let bytes = attached(kind);
        to.put_manifest(&Target::Digest(Digest::of(&bytes)), media::IMAGE_MANIFEST, &bytes).await.unwrap();
    }
    let listed = kept.lock().unwrap()[&schema].clone();
    let Manifest::Index(index) = Manifest::parse(&listed, Some(media::IMAGE_INDEX)).unwrap() else { panic!() };
    let kinds: Vec<_> = index.manifests.iter().map(|entry| entry.artifact_type.as_deref().unwrap()).collect();
    assert_eq!(kinds, [media::LOCK, media::POLICY_BUNDLE], "each once");
    assert_eq!(to.referrers(&subject.digest, Some(media::LOCK), 4).await.unwrap().len(), 1);
    // One that says that it lists them is believed.
    let kept = Arc::<Mutex<BTreeMap<_, _>>>::default();
    let server = Server::start(old(&kept, Some(subject.digest.to_string()))).await;
    let bytes = attached(media::LOCK);
    let digest = Digest::of(&bytes);
    server.create().await.put_manifest(&Target::Digest(digest), media::IMAGE_MANIFEST, &bytes).await.unwrap();
    assert_eq!(kept.lock().unwrap().keys().collect::<Vec<_>>(), [&digest.to_string()]);
}

#[tokio::test]
async fn an_upload_is_begun_anew_when_it_breaks_and_refused_when_it_is_refused() {
    let turn = Arc::<Mutex<u32>>::default();
    let server = Server::start(move |request: &Request| {
        let mut turn = turn.lock().unwrap();
        match (request.method.as_str(), request.path.as_str()) {
            ("HEAD", _) => answer(404, ""),
            ("POST", "/v2/app/blobs/uploads/") => {
                *turn += 1;
                answer(202, "").with("Location", format!("/upload/{turn}?state=a"))
            }
            ("PUT", _) if *turn < 3 => answer(503, ""),
            ("PUT", _) => answer(201, ""),
            _ => answer(404, ""),
        }
    })
    .await;
    let to = server.create().await;
    let blob = Descriptor::of(media::OCTET_STREAM, b"blob");
    to.put_blob(&blob, &Blob::from_bytes(b"blob".to_vec())).await.unwrap();
    let last = server.requests().pop().unwrap();
    assert_eq!(last.path, format!("/upload/3?state=a&digest=sha256%3A{}", blob.digest.hex()));
    assert_eq!((last.body.as_slice(), last.header("content-length")), (&b"blob"[..], Some("4")));
    let denied = Server::start(|request: &Request| match request.method.as_str() {
        "HEAD" => answer(404, ""),
        _ => answer(403, r#"{"errors":[{"code":"DENIED","message":"read only"}]}"#),
    })
    .await;
    let fault = denied.create().await.put_blob(&blob, &Blob::from_bytes(b"blob".to_vec())).await.unwrap_err();
    assert!(matches!(fault, Fault::Denied { .. }) && fault.to_string().contains("DENIED, read only"), "{fault}");
    let nowhere = Server::start(|request: &Request| answer(if request.method == "HEAD" { 404 } else { 202 }, "")).await;
    let fault = nowhere.create().await.put_blob(&blob, &Blob::from_bytes(b"blob".to_vec())).await.unwrap_err();
    assert!(fault.to_string().contains("where an upload goes on"), "{fault}");
}
