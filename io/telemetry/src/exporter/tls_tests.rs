//! Who a collector is, and who we are, by certificates of a test's own authority.

use std::path::PathBuf;
use std::sync::Arc;

use machines::net::Body;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::testing::{answer, decisions, export, peer, request};

/// An authority and where its files lie.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
    folder: TempDir,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        let folder = TempDir::new().unwrap();
        std::fs::write(folder.path().join("ca.pem"), certificate.pem()).unwrap();
        Self { der: certificate.der().clone(), issuer: Issuer::new(params, key), folder }
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        Some(self.folder.path().join(name))
    }

    /// A certificate for a host, also as `NAME.pem` and `NAME.key`.
    fn issue(
        &self,
        host: &str,
        change: impl Fn(&mut CertificateParams),
    ) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([host.to_owned()]).unwrap();
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(self.folder.path().join(format!("{host}.pem")), certificate.pem()).unwrap();
        std::fs::write(self.folder.path().join(format!("{host}.key")), key.serialize_pem()).unwrap();
        (certificate.der().clone(), PrivateKeyDer::Pkcs8(key.serialize_der().into()))
    }
}

/// A collector with this certificate; with `clients`, it takes only what that authority has certified.
async fn collector(identity: (CertificateDer<'static>, PrivateKeyDer<'static>), clients: Option<&Authority>) -> u16 {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(authority.der.clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        }
    };
    let acceptor = TlsAcceptor::from(Arc::new(builder.with_single_cert(vec![identity.0], identity.1).unwrap()));
    let address = peer(move |stream, _| {
        let acceptor = acceptor.clone();
        async move {
            let (accepted, stream) = match acceptor.accept(stream).into_fallible().await {
                Ok(accepted) => (Some(accepted), None),
                Err((_, stream)) => (None, Some(stream)),
            };
            if let Some(mut stream) = stream {
                // What the client still sends is taken, so that the alert is not lost in a reset.
                stream.shutdown().await.unwrap();
                while stream.read(&mut [0; 4096]).await.is_ok_and(|n| n > 0) {}
            }
            let Some(mut stream) = accepted else { return };
            while request(&mut stream).await.is_some() {
                let kind = "content-type: application/x-protobuf\r\n";
                stream.write_all(&answer("200 OK", kind, "")).await.unwrap();
            }
        }
    })
    .await;
    address.port()
}

async fn send(host: &str, port: u16, change: impl Fn(&mut ExporterConfig)) -> Got {
    let mut config = ExporterConfig::new(format!("https://{host}:{port}"));
    change(&mut config);
    Exporter::new(&config).unwrap().export(&export(decisions(3))).await
}

fn is_full(got: &Got) -> bool {
    matches!(got, Got::Answered(answer) if answer.status == 200 && matches!(answer.body, Body::Full { .. }))
}

fn tls_words(got: Got) -> String {
    let Got::Failed(Fault::Tls(words)) = got else { panic!("{got:?}") };
    words
}

#[tokio::test]
async fn a_collector_of_the_given_authority_is_spoken_to() {
    let ours = Authority::new();
    for host in ["localhost", "127.0.0.1"] {
        let port = collector(ours.issue(host, |_| ()), None).await;
        let got = send(host, port, |config| config.ca = ours.path("ca.pem")).await;
        assert!(is_full(&got), "{got:?}");
    }
}

#[tokio::test]
async fn n13_a_collector_of_another_authority_is_refused() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let port = collector(theirs.issue("localhost", |_| ()), None).await;
    // Both authorities bear the same name: it is the key that counts.
    let words = tls_words(send("localhost", port, |config| config.ca = ours.path("ca.pem")).await);
    assert!(words.contains("BadSignature"), "{words}");
    // Nor is it one of the public ones.
    let words = tls_words(send("localhost", port, |_| ()).await);
    assert!(words.contains("UnknownIssuer"), "{words}");
}

#[tokio::test]
async fn n13_an_address_that_holds_another_names_certificate_is_refused() {
    let ours = Authority::new();
    let port = collector(ours.issue("elsewhere.example", |_| ()), None).await;
    let words = tls_words(send("localhost", port, |config| config.ca = ours.path("ca.pem")).await);
    assert!(words.contains("not valid for name \"localhost\""), "{words}");
}

#[tokio::test]
async fn t08_an_expired_certificate_is_refused() {
    let ours = Authority::new();
    let expired = ours.issue("localhost", |params| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2020, 2, 1);
    });
    let port = collector(expired, None).await;
    let words = tls_words(send("localhost", port, |config| config.ca = ours.path("ca.pem")).await);
    assert!(words.contains("expired"), "{words}");
}

#[tokio::test]
async fn t01_a_collector_that_wants_a_certificate_gets_ours_or_says_so() {
    let (ours, clients) = (Authority::new(), Authority::new());
    let port = collector(ours.issue("localhost", |_| ()), Some(&clients)).await;
    clients.issue("node-7", |_| ());
    let got = send("localhost", port, |config| {
        config.ca = ours.path("ca.pem");
        (config.cert, config.key) = (clients.path("node-7.pem"), clients.path("node-7.key"));
    })
    .await;
    assert!(is_full(&got), "{got:?}");
    let words = tls_words(send("localhost", port, |config| config.ca = ours.path("ca.pem")).await);
    assert!(words.contains("CertificateRequired"), "{words}");
    ours.issue("node-8", |_| ());
    let got = send("localhost", port, |config| {
        config.ca = ours.path("ca.pem");
        (config.cert, config.key) = (ours.path("node-8.pem"), ours.path("node-8.key"));
    })
    .await;
    tls_words(got);
}

#[tokio::test]
async fn n13_a_server_without_tls_is_no_collector() {
    let address = peer(|mut stream, _| async move {
        let _ = stream.write_all(&answer("400 Bad Request", "", "plain HTTP")).await;
        while stream.read(&mut [0; 4096]).await.is_ok_and(|n| n > 0) {}
    })
    .await;
    let got = send("localhost", address.port(), |_| ()).await;
    tls_words(got);
}

#[tokio::test]
async fn a_handshake_that_is_cut_is_a_broken_connection_and_one_that_hangs_a_time_out() {
    let address = peer(|mut stream, _| async move {
        let _ = stream.read(&mut [0; 4096]).await;
    })
    .await;
    let got = send("localhost", address.port(), |_| ()).await;
    assert!(matches!(got, Got::Failed(Fault::Broken(_))), "{got:?}");
    let address = peer(|stream, _| async move {
        let _held = stream;
        std::future::pending().await
    })
    .await;
    let exporter = Exporter::new(&ExporterConfig::new(format!("https://{address}"))).unwrap();
    let operation = Export { timeout: machines::time::Span::from_millis(200), ..export(decisions(1)) };
    assert_eq!(exporter.export(&operation).await, Got::Failed(Fault::TimedOut));
}

#[test]
fn files_that_cannot_be_used_are_refused_by_name() {
    let ours = Authority::new();
    ours.issue("a", |_| ());
    ours.issue("b", |_| ());
    std::fs::write(ours.path("text.pem").unwrap(), "no certificate").unwrap();
    std::fs::write(ours.path("huge.pem").unwrap(), vec![b'x'; (1 << 20) + 1]).unwrap();
    let bad = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    std::fs::write(ours.path("bad.pem").unwrap(), bad).unwrap();
    let refused = |ca: &str, cert: &str, key: &str| {
        let path = |name: &str| if name.is_empty() { None } else { ours.path(name) };
        let mut config = ExporterConfig::new("https://localhost");
        (config.ca, config.cert, config.key) = (path(ca), path(cert), path(key));
        Exporter::new(&config).unwrap_err().to_string()
    };
    for (ca, cert, key, words) in [
        ("absent.pem", "", "", "absent.pem: cannot be read"),
        ("text.pem", "", "", "text.pem: holds no certificate"),
        ("huge.pem", "", "", "huge.pem: is longer than 1 MiB"),
        ("bad.pem", "", "", "bad.pem: a certificate in it cannot be used"),
        ("a.key", "", "", "a.key: holds no certificate"),
        ("", "a.pem", "", "only the certificate was given"),
        ("", "", "a.key", "only the key was given"),
        ("", "a.pem", "b.key", "cannot be used as a certificate and its key"),
        ("", "a.pem", "text.pem", "text.pem: holds no private key"),
    ] {
        let said = refused(ca, cert, key);
        assert!(said.contains(words), "{said}");
    }
}
