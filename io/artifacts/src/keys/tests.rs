use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use machines::oci::Digest;
use machines::signature::{bundle, simple};
use tempfile::TempDir;

use super::*;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn layout(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../machines/src/signature/fixtures").join(name)).unwrap()
}

fn password(text: &str) -> Password {
    Password::new(text.into())
}

/// A copy of a private key of the test data with the mode that a private key has; a checkout gives another.
fn private(folder: &TempDir, name: &str) -> PathBuf {
    put(folder, name, &fs::read(data("keys").join(name)).unwrap(), 0o600)
}

fn put(folder: &TempDir, name: &str, bytes: &[u8], mode: u32) -> PathBuf {
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn fixture_key() -> PublicKeys {
    PublicKeys::from_files(&[data("keys/fixture.pub")]).unwrap()
}

fn hex(text: &str) -> Vec<u8> {
    let text = if text == "-" { "" } else { text };
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// The signatures that cosign 3.1.3 made: the bytes that are signed, and the signature.
fn signatures_of_cosign() -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut found = Vec::new();
    for name in ["demo", "plain", "odd"] {
        let signed = bundle::read(&layout(&format!("{name}.bundle.json"))).unwrap();
        found.push((signed.message, signed.signature));
        let manifest = layout(&format!("{name}.sig-manifest.json"));
        let machines::oci::Manifest::Image(image) = machines::oci::Manifest::parse(&manifest, None).unwrap() else {
            panic!("an index");
        };
        let payload = layout(&format!("{name}.payload.json"));
        let (_, signature) = simple::signatures(&image).unwrap().pop().unwrap();
        found.push((payload, signature));
    }
    found
}

#[test]
fn signatures_that_cosign_made_are_good_in_both_layouts() {
    let (keys, others) = (fixture_key(), PublicKeys::from_files(&[data("keys/legacy.pub")]).unwrap());
    let both = PublicKeys::from_files(&[data("keys/legacy.pub"), data("keys/fixture.pub")]).unwrap();
    for (message, signature) in signatures_of_cosign() {
        assert_eq!(keys.check(&message, &signature), Some(0));
        assert_eq!(both.check(&message, &signature), Some(1));
        assert_eq!(others.check(&message, &signature), None, "S02: another key");
        let mut changed = message.clone();
        changed[40] ^= 1;
        assert_eq!(keys.check(&changed, &signature), None);
        assert_eq!(keys.check(&message, &signature[..signature.len() - 1]), None);
        assert_eq!(keys.check(&message, &[]), None);
    }
}

#[test]
fn s03_signatures_swapped_pairwise_fit_nothing() {
    let keys = fixture_key();
    let made = signatures_of_cosign();
    for (at, (message, _)) in made.iter().enumerate() {
        for (other, (_, signature)) in made.iter().enumerate() {
            assert_eq!(keys.check(message, signature).is_some(), at == other, "{at} {other}");
        }
    }
}

#[test]
fn key_boxes_of_cosign_open_with_their_passwords_alone() {
    let folder = tempfile::tempdir().unwrap();
    for (name, word, public) in
        [("fixture.key", "test", "fixture.pub"), ("legacy.key", "", "legacy.pub"), ("owasp.key", "", "legacy.pub")]
    {
        let path = private(&folder, name);
        let key = SigningKey::open(&path, &password(word)).unwrap();
        let public = PublicKey::read(&data("keys").join(public)).unwrap();
        assert_eq!(key.public(), public, "{name}");
        assert!(public.check(b"message", &key.sign(b"message")));
        let wrong = SigningKey::open(&path, &password("wrong word")).unwrap_err();
        assert!(matches!(wrong, Fault::Password(_)), "{wrong}");
        assert!(!wrong.to_string().contains("wrong word"));
    }
    // As `cosign sign` wrote it into the bundle.
    let hint = PublicKey::read(&data("keys/fixture.pub")).unwrap().hint();
    assert!(String::from_utf8(layout("demo.bundle.json")).unwrap().contains(&format!("\"hint\":\"{hint}\"")));
}

#[test]
fn a_key_box_that_asks_for_much_memory_or_is_damaged_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let pem = fs::read(data("keys/fixture.key")).unwrap();
    let (_, sealed) = pem_rfc7468::decode_vec(&pem).unwrap();
    let sealed = String::from_utf8(sealed).unwrap();
    let cases = [
        ("\"N\":65536", "\"N\":1073741824"),
        ("\"N\":65536", "\"N\":65537"),
        ("\"N\":65536", "\"N\":-65536"),
        ("\"r\":8", "\"r\":4096"),
        ("\"p\":1", "\"p\":1000"),
        ("\"scrypt\"", "\"pbkdf2\""),
        ("\"nacl/secretbox\"", "\"none\""),
        ("\"nonce\":\"", "\"nonce\":\"AAAA"),
        ("\"nonce\":\"", "\"nonces\":\""),
        ("\"salt\":\"", "\"salt\":\"*"),
        ("{\"kdf\"", "{\"kdf\":{},\"kdf\""),
        ("\"ciphertext\":\"", "\"ciphertext\":\"AAAA\",\"was\":\""),
        ("{\"kdf\"", "[\"kdf\""),
    ];
    for (from, to) in cases {
        let changed = sealed.replacen(from, to, 1);
        assert_ne!(changed, sealed);
        let pem = pem_rfc7468::encode_string(secret_box::LABEL, Default::default(), changed.as_bytes()).unwrap();
        let path = put(&folder, "changed.key", pem.as_bytes(), 0o600);
        let fault = SigningKey::open(&path, &password("test")).unwrap_err();
        assert!(matches!(fault, Fault::Format { .. }), "{to}: {fault}");
    }
    // Changed bytes within the box cannot be told from a wrong password.
    let at = sealed.find("ciphertext\":\"").unwrap() + 40;
    let other = if sealed.as_bytes()[at] == b'A' { "B" } else { "A" };
    let changed = format!("{}{other}{}", &sealed[..at], &sealed[at + 1..]);
    let pem = pem_rfc7468::encode_string(secret_box::LABEL, Default::default(), changed.as_bytes()).unwrap();
    let path = put(&folder, "changed.key", pem.as_bytes(), 0o600);
    assert!(matches!(SigningKey::open(&path, &password("test")), Err(Fault::Password(_))));
}

#[test]
fn what_is_no_private_key_is_refused_with_words() {
    let folder = tempfile::tempdir().unwrap();
    let open = |name: &str, bytes: &[u8]| {
        SigningKey::open(&put(&folder, name, bytes, 0o600), &password("")).unwrap_err().to_string()
    };
    assert!(open("empty", b"").contains("no PEM"));
    assert!(open("plain", &fs::read(data("keys/openssl-ed25519.key")).unwrap()).contains("import-key-pair"));
    assert!(open("long", &vec![b'-'; 20_000]).contains("16 KiB"));
    let folder_itself = SigningKey::open(folder.path(), &password(""));
    assert!(folder_itself.is_err());
    let fifo = folder.path().join("fifo");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    assert!(matches!(SigningKey::open(&fifo, &password("")), Err(Fault::NoKey { .. })), "and it does not hang");
    assert!(matches!(SigningKey::open(Path::new("/nonexistent/x.key"), &password("")), Err(Fault::Read { .. })));
}

#[test]
fn t16_a_private_key_that_others_may_read_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let cosign = private(&folder, "fixture.key");
    let ed25519 = private(&folder, "openssl-ed25519.key");
    for loose in [0o644, 0o640, 0o604, 0o610, 0o601, 0o660] {
        for path in [&cosign, &ed25519] {
            fs::set_permissions(path, fs::Permissions::from_mode(loose)).unwrap();
        }
        let refused =
            [SigningKey::open(&cosign, &password("test")).map(|_| ()), Ed25519Key::open(&ed25519).map(|_| ())];
        for fault in refused.map(Result::unwrap_err) {
            assert!(matches!(fault, Fault::LooseMode { mode, .. } if mode == loose), "{fault}");
            assert!(fault.to_string().contains("chmod 600"), "{fault}");
        }
    }
    for tight in [0o600, 0o400] {
        fs::set_permissions(&cosign, fs::Permissions::from_mode(tight)).unwrap();
        assert!(SigningKey::open(&cosign, &password("test")).is_ok());
    }
}

#[test]
fn x13_a_process_that_holds_a_private_key_leaves_no_core() {
    let folder = tempfile::tempdir().unwrap();
    Ed25519Key::open(&private(&folder, "openssl-ed25519.key")).unwrap();
    assert_eq!(rustix::process::getrlimit(rustix::process::Resource::Core).current, Some(0));
    let dumpable = rustix::process::dumpable_behavior().unwrap();
    assert_eq!(dumpable, rustix::process::DumpableBehavior::NotDumpable);
}

#[test]
fn c06_nothing_shows_a_secret() {
    let folder = tempfile::tempdir().unwrap();
    let key = SigningKey::open(&private(&folder, "fixture.key"), &password("test")).unwrap();
    assert_eq!(format!("{key:?}"), format!("SigningKey({})", key.public().fingerprint()));
    let key = Ed25519Key::open(&private(&folder, "openssl-ed25519.key")).unwrap();
    assert_eq!(format!("{key:?}"), format!("Ed25519Key({})", key.public().fingerprint()));
    assert_eq!(format!("{:?}", password("secret")), "Password(…)");
}

#[test]
fn pairs_are_made_with_tight_modes_and_work() {
    let folder = tempfile::tempdir().unwrap();
    let made = generate(Kind::Cosign, &folder.path().join("site.a"), &password("word")).unwrap();
    assert_eq!(made.private, folder.path().join("site.a.key"));
    assert_eq!(mode(&made.private), 0o600);
    assert!(fs::read_to_string(&made.private).unwrap().starts_with("-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\n"));
    let key = SigningKey::open(&made.private, &password("word")).unwrap();
    let keys = PublicKeys::from_files(std::slice::from_ref(&made.public)).unwrap();
    assert_eq!(keys.check(b"message", &key.sign(b"message")), Some(0));
    assert_eq!(made.fingerprint, key.public().fingerprint());
    assert!(matches!(SigningKey::open(&made.private, &password("")), Err(Fault::Password(_))));

    for (kind, name) in [(Kind::Manifest, "manifest"), (Kind::Publisher, "publisher")] {
        let made = generate(kind, &folder.path().join(name), &password("")).unwrap();
        assert_eq!(mode(&made.private), 0o600);
        assert!(fs::read_to_string(&made.private).unwrap().starts_with("-----BEGIN PRIVATE KEY-----\n"));
        assert_eq!(fs::read(&made.public).unwrap().len(), 32);
        let key = Ed25519Key::open(&made.private).unwrap();
        let public = Ed25519PublicKey::read(&made.public).unwrap();
        assert_eq!(made.fingerprint, public.fingerprint());
        assert!(public.check(b"message", &key.sign(b"message")));
        assert!(!public.check(b"massage", &key.sign(b"message")));
    }
    let names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 6, "no drafts are left: {names:?}");
}

#[test]
fn an_ed25519_key_of_openssl_is_read_and_ours_is_as_short() {
    let folder = tempfile::tempdir().unwrap();
    let path = private(&folder, "openssl-ed25519.key");
    let public = hex("bb59fe06fac3b8b67401e1d51bf4a2c4a7cd7e6f91d1eaa59a93ef1c41849fb1");
    assert_eq!(Ed25519Key::open(&path).unwrap().public().to_bytes().as_slice(), public);
    let made = generate(Kind::Manifest, &folder.path().join("ours"), &password("")).unwrap();
    assert_eq!(fs::metadata(&made.private).unwrap().len(), fs::metadata(&path).unwrap().len());
}

/// A pair whose halves do not belong together is no pair, so that no signature is ever made with another's public half.
#[test]
fn s09_a_private_key_that_names_another_public_half_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let other = generate(Kind::Manifest, &folder.path().join("other"), &password("")).unwrap();
    let other = fs::read(other.public).unwrap();
    // PKCS#8 version 2: version 1, Ed25519, the private key, and [1] the public key.
    let secret = fs::read(data("keys/openssl-ed25519.key")).unwrap();
    let (_, der) = pem_rfc7468::decode_vec(&secret).unwrap();
    let own = hex("bb59fe06fac3b8b67401e1d51bf4a2c4a7cd7e6f91d1eaa59a93ef1c41849fb1");
    for (public, good) in [(own, true), (other, false)] {
        let mut pair = vec![0x30, 0x51, 0x02, 0x01, 0x01];
        pair.extend_from_slice(&der[5..]);
        pair.extend_from_slice(&[0x81, 0x21, 0x00]);
        pair.extend_from_slice(&public);
        let pem = pem_rfc7468::encode_string("PRIVATE KEY", Default::default(), &pair).unwrap();
        assert_eq!(Ed25519Key::open(&put(&folder, "pair.key", pem.as_bytes(), 0o600)).is_ok(), good);
    }
}

#[test]
fn a_key_is_never_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let prefix = folder.path().join("site");
    for there in ["site.key", "site.pub"] {
        let path = put(&folder, there, b"old", 0o644);
        for kind in [Kind::Cosign, Kind::Manifest] {
            let refused = generate(kind, &prefix, &password("")).unwrap_err();
            assert!(matches!(&refused, Fault::Exists(which) if *which == path), "{refused}");
        }
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "and nothing else was made");
        fs::remove_file(path).unwrap();
    }
    let missing = generate(Kind::Manifest, &folder.path().join("no/such/site"), &password(""));
    assert!(matches!(missing, Err(Fault::Write { .. })));
    // A link that leads nowhere is a name as well.
    std::os::unix::fs::symlink("nowhere", folder.path().join("site.key")).unwrap();
    assert!(matches!(generate(Kind::Manifest, &prefix, &password("")), Err(Fault::Exists(_))));
}

#[test]
fn of_several_that_make_the_same_pair_one_does() {
    let folder = tempfile::tempdir().unwrap();
    let prefix = folder.path().join("site");
    let made: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..8).map(|_| scope.spawn(|| generate(Kind::Publisher, &prefix, &password("")))).collect();
        threads.into_iter().filter_map(|thread| thread.join().unwrap().ok()).collect()
    });
    let [made] = made.as_slice() else { panic!("{made:?}") };
    let key = Ed25519Key::open(&made.private).unwrap();
    assert_eq!(Ed25519PublicKey::read(&made.public).unwrap(), key.public());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn s06_one_key_under_two_names_counts_once() {
    let folder = tempfile::tempdir().unwrap();
    let pem = fs::read_to_string(data("keys/fixture.pub")).unwrap();
    put(&folder, "a.pub", pem.as_bytes(), 0o644);
    put(&folder, "b.pub", format!("The same, with a remark.\n{pem}").as_bytes(), 0o644);
    put(&folder, "c.pub", &fs::read(data("keys/legacy.pub")).unwrap(), 0o644);
    put(&folder, "d.txt", b"no key, and not asked", 0o644);
    let keys = PublicKeys::from_folder(folder.path()).unwrap();
    assert_eq!(keys.len(), 2);
    let names: Vec<_> = keys.iter().map(|(path, _)| path.file_name().unwrap().to_owned()).collect();
    assert_eq!(names, ["a.pub", "c.pub"]);
    assert_eq!(keys.get(1).unwrap().1, &PublicKey::read(&data("keys/legacy.pub")).unwrap());
    assert!(keys.get(2).is_none());
}

#[test]
fn s07_keys_of_other_algorithms_are_refused_and_no_file_is_passed_over() {
    for other in ["keys/rsa.pub", "keys/p384.pub", "keys/ed25519.pub", "keys/fixture.key", "keys/README.md"] {
        let fault = PublicKey::read(&data(other)).unwrap_err();
        assert!(fault.to_string().contains("P-256"), "{fault}");
        assert!(PublicKeys::from_files(&[data("keys/fixture.pub"), data(other)]).is_err(), "{other}");
    }
    // A key that is not on the curve, and two keys in one file.
    let folder = tempfile::tempdir().unwrap();
    let pem = fs::read_to_string(data("keys/fixture.pub")).unwrap();
    let (_, mut der) = pem_rfc7468::decode_vec(pem.as_bytes()).unwrap();
    *der.last_mut().unwrap() ^= 1;
    let off = pem_rfc7468::encode_string("PUBLIC KEY", Default::default(), &der).unwrap();
    assert!(PublicKey::read(&put(&folder, "off.pub", off.as_bytes(), 0o644)).is_err());
    assert!(PublicKey::read(&put(&folder, "two.pub", format!("{pem}{pem}").as_bytes(), 0o644)).is_err());
    assert!(PublicKeys::from_folder(folder.path()).is_err());
    assert!(matches!(PublicKeys::from_files(&[]), Err(Fault::NoKeys(_))));
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(PublicKeys::from_folder(empty.path()), Err(Fault::NoKeys(_))));
}

#[test]
fn s08_vectors_for_ecdsa() {
    let folder = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(data("ecdsa_p256.txt")).unwrap();
    let mut key = None;
    let mut counted = [0, 0];
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (fields, remark) = line.split_once(" # ").unwrap_or((line, ""));
        match fields.split(' ').collect::<Vec<_>>().as_slice() {
            ["key", spki] => {
                let pem = pem_rfc7468::encode_string("PUBLIC KEY", Default::default(), &hex(spki)).unwrap();
                key = Some(PublicKey::read(&put(&folder, "vector.pub", pem.as_bytes(), 0o644)).unwrap());
            }
            [result, message, signature] => {
                let good = *result == "valid";
                assert_eq!(key.unwrap().check(&hex(message), &hex(signature)), good, "{remark}");
                counted[usize::from(good)] += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(counted, [59, 27]);
}

#[test]
fn s08_vectors_for_ed25519() {
    let text = fs::read_to_string(data("ed25519.txt")).unwrap();
    let mut counted = [0, 0];
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (fields, remark) = line.split_once(" # ").unwrap();
        let [result, key, message, signature] = fields.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let key = Ed25519PublicKey::from_bytes(&hex(key).try_into().unwrap());
        let good = key.is_some_and(|key| key.check(&hex(message), &hex(signature)));
        assert_eq!(good, result == "valid", "{remark}");
        counted[usize::from(good)] += 1;
    }
    assert_eq!(counted[1], 13, "{counted:?}");
}

/// The eight points of small order, in every encoding: as a key, each would take a forged signature.
#[test]
fn s08_keys_of_small_order_are_no_keys() {
    let points = [
        "0100000000000000000000000000000000000000000000000000000000000000",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0000000000000000000000000000000000000000000000000000000000000080",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
        // not canonical
        "0100000000000000000000000000000000000000000000000000000000000080",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    ];
    for point in points {
        let bytes: [u8; 32] = hex(point).try_into().unwrap();
        assert!(Ed25519PublicKey::from_bytes(&bytes).is_none(), "{point}");
    }
    // Not of small order, but not canonical: y = 3 + p.
    let canonical: [u8; 32] = {
        let mut bytes = [0; 32];
        bytes[0] = 3;
        bytes
    };
    let mut other = [0xff; 32];
    (other[0], other[31]) = (0xf0, 0x7f);
    assert!(Ed25519PublicKey::from_bytes(&canonical).is_some());
    assert!(Ed25519PublicKey::from_bytes(&other).is_none());
}

/// Whoever has a signature has two. cosign makes both kinds, so both are taken; they are the same key's.
#[test]
fn s08_both_values_of_s_are_taken_and_are_no_two_signers() {
    let keys = fixture_key();
    let mut high = 0;
    for (message, signature) in signatures_of_cosign() {
        let parsed = cosign::parse_der(&signature).unwrap();
        let (r, s) = parsed.split_scalars();
        let other = p256::ecdsa::Signature::from_scalars(r.to_bytes(), (-*s).to_bytes()).unwrap();
        let other_der = other.to_der().as_bytes().to_vec();
        assert_ne!(other_der, signature);
        assert_eq!(keys.check(&message, &other_der), keys.check(&message, &signature));
        high += usize::from(parsed.normalize_s() != parsed);
    }
    assert!(high > 0, "cosign made none with a high s: the fixtures do not show what they should");
    let folder = tempfile::tempdir().unwrap();
    let key = SigningKey::open(&private(&folder, "legacy.key"), &password("")).unwrap();
    for n in 0..32_u8 {
        let signature = cosign::parse_der(&key.sign(&[n])).unwrap();
        assert_eq!(signature.normalize_s(), signature, "ours is the lower one");
    }
}

/// The whole way, as `oci sign` and `verify` go it.
#[test]
fn what_we_sign_we_take() {
    let folder = tempfile::tempdir().unwrap();
    let key = SigningKey::open(&private(&folder, "fixture.key"), &password("test")).unwrap();
    let digest = Digest::of(b"an image");
    let annotations = BTreeMap::from([("autonomy.signed-at".to_string(), "2026-11-21T12:00:00Z".to_string())]);
    let made = bundle::make(&digest, &annotations, |message| key.sign(message), &key.public().hint());
    let signed = bundle::read(&made).unwrap();
    assert_eq!(signed.claim.digest, digest);
    assert_eq!(fixture_key().check(&signed.message, &signed.signature), Some(0));
    // S10: what was signed in one layout is no signature in the other.
    let payload = simple::payload(&digest, "registry/agent", &annotations);
    assert_eq!(fixture_key().check(&payload, &signed.signature), None);
    assert_eq!(fixture_key().check(&signed.message, &key.sign(&payload)), None);
}
