use std::sync::Arc;

use io_artifacts::Fault;
use io_artifacts::source::{Options, Transport};
use machines::oci::{Descriptor, MAX_MANIFEST, Place, media};

use crate::images::tag;
use crate::scripted::{Server, answer, options};

struct Authority {
    acceptor: tokio_rustls::TlsAcceptor,
    folder: tempfile::TempDir,
}

fn authority() -> Authority {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap().self_signed(&key).unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ca.pem"), certificate.pem()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let private = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private)
        .unwrap();
    Authority { acceptor: Arc::new(config).into(), folder }
}

fn place(server: &Server) -> Place {
    Place::Registry { host: format!("localhost:{}", server.address.port()), repository: "app".into() }
}

#[tokio::test]
async fn a_named_authority_is_trusted_and_no_other() {
    let authority = authority();
    let manifest = machines::oci::Image::artifact("x", Descriptor::of(media::OCTET_STREAM, b"x"), None).to_bytes();
    let server = Server::over(Some(authority.acceptor.clone()), move |_| answer(200, manifest.clone())).await;
    let with = |ca: &std::path::Path| Options { ca: Some(ca.to_owned()), ..options() };
    let there = Transport::open(&place(&server), &with(&authority.folder.path().join("ca.pem"))).await.unwrap();
    assert!(there.manifest(&tag("v1"), MAX_MANIFEST).await.is_ok());
    let stranger = self::authority();
    let there = Transport::open(&place(&server), &with(&stranger.folder.path().join("ca.pem"))).await.unwrap();
    let fault = there.manifest(&tag("v1"), MAX_MANIFEST).await.unwrap_err();
    assert!(matches!(fault, Fault::Unreachable { .. }) && fault.to_string().contains("certificate"), "{fault}");
    assert_eq!(server.requests().len(), 1);
    let missing = Transport::open(&place(&server), &with(std::path::Path::new("/none/ca.pem"))).await.unwrap_err();
    assert!(missing.to_string().contains("/none/ca.pem"), "{missing}");
}

#[tokio::test]
async fn from_tls_nothing_leads_to_plain_http() {
    let authority = authority();
    let plain = Server::start(|_| answer(200, b"blob".to_vec())).await;
    let to = plain.address;
    let server = Server::over(Some(authority.acceptor.clone()), move |request| match request.method.as_str() {
        "GET" => answer(307, "").with("Location", format!("http://{to}/blob")),
        "HEAD" => answer(404, ""),
        _ => answer(202, "").with("Location", format!("http://{to}/upload")),
    })
    .await;
    let options = Options { ca: Some(authority.folder.path().join("ca.pem")), ..options() };
    let there = Transport::create(&place(&server), &options).await.unwrap();
    let blob = Descriptor::of(media::OCTET_STREAM, b"blob");
    let fault = there.bytes(&blob, 10).await.unwrap_err().to_string();
    assert!(fault.contains("from TLS"), "{fault}");
    let put = there.put_blob(&blob, &io_artifacts::blob::Blob::from_bytes(b"blob".to_vec())).await;
    assert!(put.unwrap_err().to_string().contains("from TLS"));
    assert!(plain.requests().is_empty());
}
