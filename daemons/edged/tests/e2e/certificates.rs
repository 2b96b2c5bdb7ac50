//! Exit 3, and `--rotate-certs` (FAULTS T08, T16, T17).

use std::fs;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use time::{Duration, OffsetDateTime};

use crate::harness::{Site, chmod, code, names, stderr};

/// A certificate, its key and its authority, PEM.
pub struct Certificate {
    pub cert: String,
    pub key: String,
    pub ca: String,
}

impl Certificate {
    /// One that ends in so many days.
    pub fn of(days: i64) -> Self {
        Self::ending(Duration::days(days))
    }

    pub fn ending(left: Duration) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["edge-07".into()]).unwrap();
        let now = OffsetDateTime::now_utc();
        params.not_before = now - Duration::days(400);
        params.not_after = now + left;
        let cert = params.signed_by(&key, &authority).unwrap();
        Self { cert: cert.pem(), key: key.serialize_pem(), ca: authority.pem() }
    }
}

/// Lays the files down.
pub fn install(folder: &Path, certificate: &Certificate) {
    fs::write(folder.join("node.crt"), &certificate.cert).unwrap();
    fs::write(folder.join("node.key"), &certificate.key).unwrap();
    fs::write(folder.join("ca.crt"), &certificate.ca).unwrap();
    chmod(&folder.join("node.key"), 0o600);
}

const TLS: &str = "[tls]\ncert = \"identity/node.crt\"\nkey = \"identity/node.key\"\nca = \"identity/ca.crt\"\n";

fn with(certificate: &Certificate) -> Site {
    let site = Site::started();
    site.configure(TLS);
    install(&site.file("identity"), certificate);
    site
}

fn exits(site: &Site, want: i32, words: &str) {
    let output = site.precheck(&[]);
    assert_eq!(code(&output), want, "{words}: {}", stderr(&output));
    assert!(stderr(&output).contains(words), "{words}: {}", stderr(&output));
}

#[test]
fn t08_a_certificate_is_too_old_seven_days_before_its_end() {
    const EXPIRES: &str = "msg=\"precheck: certificate expires within 7 days\" not_after=\"";
    exits(&with(&Certificate::of(8)), 0, "edge.os.unchanged");
    exits(&with(&Certificate::ending(Duration::days(7) + Duration::hours(1))), 0, "edge.os.unchanged");
    exits(&with(&Certificate::of(7)), 3, EXPIRES);
    exits(&with(&Certificate::of(6)), 3, EXPIRES);
    exits(&with(&Certificate::of(-1)), 3, EXPIRES);
    // A refusal for the certificate is a refusal for `edged run` too.
    let site = with(&Certificate::of(6));
    exits(&site, 3, EXPIRES);
    let output = site.command(&["run"]).output().unwrap();
    assert!(code(&output) == 5 && stderr(&output).contains("ended with exit 3"), "{}", stderr(&output));
}

#[test]
fn t16_what_does_not_belong_together_or_cannot_be_read_is_exit_3() {
    let site = with(&Certificate::of(60));
    exits(&site, 0, "edge.os.unchanged");
    chmod(&site.file("identity/node.key"), 0o644);
    exits(&site, 3, "readable by others");
    chmod(&site.file("identity/node.key"), 0o600);
    fs::write(site.file("identity/node.key"), Certificate::of(60).key).unwrap();
    exits(&site, 3, "do not match");
    for file in ["identity/node.crt", "identity/node.key", "identity/ca.crt"] {
        let site = with(&Certificate::of(60));
        fs::write(site.file(file), "no certificate").unwrap();
        exits(&site, 3, "certificate cannot be read");
        fs::remove_file(site.file(file)).unwrap();
        exits(&site, 3, "certificate cannot be read");
    }
    let site = Site::started();
    site.configure("[relay]\nenabled = true\n");
    exits(&site, 3, "the relay is enabled and no certificate is configured");
}

#[test]
fn t17_a_certificate_that_was_issued_elsewhere_is_put_in_force_by_one_rename() {
    let (old, new) = (Certificate::of(6), Certificate::of(90));
    let site = with(&old);
    exits(&site, 3, "rotate-certs");
    let rotate = || site.precheck(&["--rotate-certs"]);
    let refused = |words: &str| {
        let before = site.tree();
        let output = rotate();
        assert_eq!(code(&output), 3, "{}", stderr(&output));
        assert!(stderr(&output).contains(words), "{words}: {}", stderr(&output));
        let changed = names(&site.tree(), &before);
        let aside = |path: &std::path::PathBuf| path.starts_with(site.file("identity.previous"));
        assert!(changed.iter().all(aside), "{words}: {changed:?}");
    };
    refused("has to hold node.crt and node.key");
    // A pair that does not match, one that ends too soon: what is in force stays.
    fs::write(site.file("identity/next/node.crt"), &new.cert).unwrap();
    fs::write(site.file("identity/next/node.key"), &old.key).unwrap();
    refused("do not match");
    fs::write(site.file("identity/next/node.crt"), &old.cert).unwrap();
    refused("expires within 7 days");
    fs::write(site.file("identity/next/node.crt"), &new.cert).unwrap();
    fs::write(site.file("identity/next/node.key"), &new.key).unwrap();
    // The new certificate has an authority of its own, which is not checked here: only the pair is.
    let output = rotate();
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(stderr(&output).contains("msg=\"edge.certificates.rotated\""), "{}", stderr(&output));
    let read = |path: &str| fs::read_to_string(site.file(path)).unwrap();
    assert_eq!((read("identity/node.crt"), read("identity/node.key")), (new.cert, new.key));
    assert_eq!(read("identity/ca.crt"), old.ca);
    assert!(site.file("identity/manifest-verify.pub").exists());
    assert_eq!(read("identity.previous/node.crt"), old.cert);
    exits(&site, 0, "edge.os.unchanged");
}
