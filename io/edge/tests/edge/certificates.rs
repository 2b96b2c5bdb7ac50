use std::path::Path;

use io_edge::Tree;
use io_edge::certificates::read;
use machines::precheck::certificates::{Certificates, Fault};
use machines::precheck::exit;
use machines::time::Wall;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, PKCS_ED25519, date_time_ymd};

use crate::node::{Node, field, pair, write};

/// An authority and what it issued, in PEM.
struct Issued {
    cert: String,
    key: String,
    ca: String,
}

fn params(last_year: i32) -> CertificateParams {
    let mut params = CertificateParams::new(vec!["node-1".into()]).unwrap();
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(last_year, 1, 1);
    params
}

fn issued(last_year: i32, key: &KeyPair) -> Issued {
    let mut authority = params(2090);
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let cert = params(last_year).signed_by(key, &authority).unwrap();
    Issued { cert: cert.pem(), key: key.serialize_pem(), ca: authority.pem() }
}

impl Issued {
    fn lay(&self, root: &Path) {
        write(&root.join("identity/node.crt"), self.cert.as_bytes(), 0o644);
        write(&root.join("identity/node.key"), self.key.as_bytes(), 0o600);
        write(&root.join("identity/ca.crt"), self.ca.as_bytes(), 0o644);
    }
}

fn year(year: u64) -> Wall {
    Wall::parse_rfc3339(&format!("{year}-01-01T00:00:00.000000Z")).unwrap()
}

fn opened(node: &Node) -> Tree {
    let mut tree = node.tree();
    tree.hold().unwrap();
    tree
}

#[test]
fn a_pair_is_read_with_its_end_and_its_faults() {
    let node = Node::new();
    let root = node.root();
    for key in [KeyPair::generate().unwrap(), KeyPair::generate_for(&PKCS_ED25519).unwrap()] {
        issued(2080, &key).lay(&root);
        let good = Certificates { matches: true, exposed: false, not_after: year(2080) };
        assert_eq!(read(&opened(&node), &pair()), Ok(good));
    }
    // The whole chain counts: the first end in it is the end.
    let key = KeyPair::generate().unwrap();
    let chain = Issued {
        cert: issued(2080, &key).cert + &issued(2040, &KeyPair::generate().unwrap()).cert,
        ..issued(2080, &key)
    };
    chain.lay(&root);
    assert_eq!(read(&opened(&node), &pair()).unwrap().not_after, year(2040));
    // Another key.
    Issued { key: KeyPair::generate().unwrap().serialize_pem(), ..issued(2080, &key) }.lay(&root);
    assert_eq!(read(&opened(&node), &pair()).unwrap().fault(year(2030)), Some(Fault::Mismatch));
    // T16: a key that others may read.
    issued(2080, &key).lay(&root);
    for mode in [0o640, 0o604, 0o620, 0o601] {
        write(&root.join("identity/node.key"), key.serialize_pem().as_bytes(), mode);
        assert_eq!(read(&opened(&node), &pair()).unwrap().fault(year(2030)), Some(Fault::Exposed), "{mode:o}");
    }
}

#[test]
fn what_cannot_be_read_is_named() {
    let node = Node::new();
    let key = KeyPair::generate().unwrap();
    let good = issued(2080, &key);
    let pem = |what: &str, text: &str| format!("-----BEGIN {what}-----\n{text}\n-----END {what}-----\n");
    for (file, bytes, words) in [
        ("node.crt", String::new(), "identity/node.crt: no certificate in PEM"),
        ("node.crt", pem("CERTIFICATE", "AAAA"), "identity/node.crt: no certificate"),
        ("node.crt", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n".into(), "identity/node.crt: no PEM"),
        ("node.crt", good.cert.repeat(65), "identity/node.crt: more than 64 certificates"),
        ("node.crt", "x".repeat(300_000), "identity/node.crt: larger than the limit"),
        ("node.key", good.cert.clone(), "identity/node.key: no private key in PEM"),
        (
            "node.key",
            pem("ENCRYPTED PRIVATE KEY", "AAAA"),
            "identity/node.key: no private key in PEM that is not encrypted",
        ),
        ("node.key", pem("PRIVATE KEY", "AAAA"), "identity/node.key: no private key of a kind"),
        ("ca.crt", String::new(), "identity/ca.crt: no certificate in PEM"),
        ("ca.crt", pem("CERTIFICATE", "AAAA"), "identity/ca.crt: no certificate of an authority"),
    ] {
        good.lay(&node.root());
        node.write(&format!("identity/{file}"), &bytes);
        let found = read(&opened(&node), &pair()).unwrap_err();
        assert!(found.starts_with(words), "{file}: {found}");
        assert!(!found.contains("AAAA"), "nothing of a file is repeated: {found}");
    }
    for file in ["node.crt", "node.key", "ca.crt"] {
        good.lay(&node.root());
        std::fs::remove_file(node.root().join("identity").join(file)).unwrap();
        assert_eq!(read(&opened(&node), &pair()).unwrap_err(), format!("identity/{file}: no such file"));
        std::os::unix::fs::symlink("/etc/hostname", node.root().join("identity").join(file)).unwrap();
        assert!(read(&opened(&node), &pair()).unwrap_err().contains("a link"), "{file}");
        std::fs::remove_file(node.root().join("identity").join(file)).unwrap();
    }
}

#[test]
fn t08_a_certificate_that_ends_or_is_not_its_keys_ends_a_precheck_with_3() {
    let mut node = Node::new();
    node.config.tls = Some(pair());
    let key = KeyPair::generate().unwrap();
    issued(2080, &key).lay(&node.root());
    assert_eq!(node.precheck().0.exit, exit::PASSED);
    issued(2021, &key).lay(&node.root());
    let (ended, notes, _) = node.precheck();
    assert_eq!(ended.exit, exit::CERTIFICATE);
    assert_eq!(field(&notes[0], "not_after"), "2021-01-01T00:00:00.000000Z");
    issued(2080, &key).lay(&node.root());
    assert_eq!(node.precheck().0.exit, exit::PASSED);
    std::fs::remove_file(node.root().join("identity/ca.crt")).unwrap();
    let (ended, notes, _) = node.precheck();
    assert_eq!((ended.exit, field(&notes[0], "error").as_str()), (exit::CERTIFICATE, "identity/ca.crt: no such file"));
}

#[test]
fn t17_the_next_pair_is_put_in_force_and_the_one_before_is_kept() {
    let mut node = Node::new();
    node.config.tls = Some(pair());
    let (old, new) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let (before, after) = (issued(2050, &old), issued(2060, &new));
    before.lay(&node.root());
    node.write("identity/manifest-verify.pub", [1; 32]);
    std::fs::create_dir(node.root().join("identity/next")).unwrap();
    node.write("identity/next/node.crt", &after.cert);
    node.write("identity/next/node.key", &before.key);
    node.config.rotate = true;
    assert_eq!(node.precheck().0.exit, exit::CERTIFICATE, "not a pair: nothing is put in force");
    assert_eq!(std::fs::read_to_string(node.root().join("identity/node.crt")).unwrap(), before.cert);
    node.write("identity/next/node.key", &after.key);
    let (ended, notes, _) = node.precheck();
    assert_eq!(ended.exit, exit::PASSED, "{notes:?}");
    for (file, content) in [
        ("identity/node.crt", after.cert.as_bytes()),
        ("identity/node.key", after.key.as_bytes()),
        ("identity/ca.crt", before.ca.as_bytes()),
        ("identity/manifest-verify.pub", &[1; 32]),
        ("identity.previous/node.crt", before.cert.as_bytes()),
        ("identity.previous/node.key", before.key.as_bytes()),
    ] {
        assert_eq!(std::fs::read(node.root().join(file)).unwrap(), content, "{file}");
    }
    node.config.rotate = false;
    assert_eq!(node.precheck().0.exit, exit::PASSED);
}
