//! Manifests, keys and records that somebody tampered with: refused with exit 5, and nothing written (SPEC 12 I-E2).

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use ed25519_dalek::{Signer as _, SigningKey};
use machines::manifest::{Manifest, Operation};
use machines::tree::Mode;

use crate::harness::{Site, code, copy, folder, stderr};

/// A node whose system was replaced, and a good release.
fn replaced() -> Site {
    let site = Site::started();
    site.release(3, b"good");
    site.kernel("6.2.0");
    site
}

fn with(site: &Site, operations: Vec<Operation>) -> Manifest {
    Manifest { operations, ..site.manifest(3, b"good") }
}

fn write(path: &str) -> Operation {
    Operation::WriteFile { path: path.into(), mode: Mode::new(0o644).unwrap(), content: b"x".to_vec() }
}

fn link(path: &str, target: &str) -> Operation {
    Operation::Symlink { path: path.into(), target: target.into() }
}

#[test]
fn b05_sources_and_destinations_stay_where_they_may_be() {
    let site = replaced();
    let outside = site.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), b"good").unwrap();
    fs::create_dir(site.file("runtime/dir")).unwrap();
    symlink(&outside, site.file("runtime/linked")).unwrap();
    symlink(outside.join("secret"), site.file("runtime/binaries/linked")).unwrap();
    symlink(&outside, site.file("runtime/binaries/folder")).unwrap();
    let absolute = outside.join("x");
    let absolute = absolute.to_str().unwrap();
    let inside = site.file("epoch/x");
    for operations in [
        vec![copy("runtime/binaries/../../outside/secret", "runtime/x", b"good")],
        vec![copy("identity/manifest-verify.pub", "runtime/x", b"good")],
        vec![copy(outside.join("secret").to_str().unwrap(), "runtime/x", b"good")],
        vec![copy("Runtime/Binaries/agent", "runtime/x", b"good")],
        vec![copy("runtime/binaries/linked", "runtime/x", b"good")],
        vec![copy("runtime/binaries/folder/secret", "runtime/x", b"good")],
        vec![copy("runtime/binaries", "runtime/x", b"good")],
        vec![copy("runtime/binaries/none", "runtime/x", b"good")],
        vec![write("../x")],
        vec![write("runtime/../epoch/x")],
        vec![write("./runtime/x")],
        vec![write("runtime//x")],
        vec![write(absolute)],
        vec![write("/etc/x")],
        vec![write(inside.to_str().unwrap())],
        vec![write("runtime/a b")],
        vec![write("runtime/linked/x")],
        vec![write("runtime/dir")],
        vec![write("runtime/none/x")],
        vec![folder("runtime/linked")],
        vec![folder("runtime/linked/x")],
        // What belongs to the node itself, in any spelling.
        vec![write("epoch/chain.jsonl")],
        vec![write("EPOCH/x")],
        vec![write("bootstrap/precheck.json")],
        vec![write("Identity/manifest-verify.pub")],
        vec![write("runtime/binaries/x")],
        vec![write("runtime/Manifest.json")],
        vec![write("telemetry/x")],
        vec![folder("policy/x")],
        vec![write("activation.json")],
        vec![write("edge/x")],
        // Two names that a file system may not keep apart, one name twice.
        vec![write("runtime/x"), write("runtime/X")],
        vec![write("runtime/x"), write("runtime/x")],
        vec![write("runtime/x"), write("runtime/x/y")],
        // Links out, and through links made before.
        vec![link("runtime/x", "../../etc/passwd")],
        vec![link("runtime/x", "/etc/passwd")],
        vec![link("runtime/l", "dir"), write("runtime/l/x")],
        vec![link("runtime/dir", "bin")],
    ] {
        site.sign(&with(&site, operations.clone()));
        let before = fs::read_dir(&outside).unwrap().count();
        site.refuses("msg=\"precheck: ");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), before, "{operations:?}");
        assert_eq!(site.epoch(), 0);
    }
    // The same node takes what is as it should be: all of these were refused for themselves.
    site.sign(&site.manifest(3, b"good"));
    assert_eq!(code(&site.precheck(&[])), 0);
    assert_eq!(site.epoch(), 1);
}

#[test]
fn b06_bytes_other_than_the_signed_ones_are_not_installed() {
    let site = replaced();
    fs::write(site.file("runtime/binaries/agent"), b"evil").unwrap();
    site.refuses("a source of the manifest is not what was signed");
    fs::write(site.file("runtime/binaries/agent"), b"good").unwrap();
    assert_eq!(code(&site.precheck(&[])), 0);
    assert_eq!(fs::read(site.file("runtime/bin/agent")).unwrap(), b"good");
}

#[test]
fn b04_a_manifest_counts_only_under_its_signature() {
    let site = replaced();
    let text = site.manifest(3, b"good").to_text();
    let (manifest, signature) = (site.file("runtime/manifest.json"), site.file("runtime/manifest.json.sig"));
    let good = fs::read(&signature).unwrap();
    site.sign_text(&text, &SigningKey::from_bytes(&[8; 32]));
    site.refuses("manifest signature is not good");
    for (bytes, words) in [
        (vec![], "must be 64 bytes"),
        (good[..63].to_vec(), "must be 64 bytes"),
        ([&good[..], b"\n"].concat(), "must be 64 bytes"),
        (vec![0; 64], "manifest signature is not good"),
    ] {
        fs::write(&signature, bytes).unwrap();
        site.refuses(words);
    }
    fs::write(&signature, &good).unwrap();
    fs::write(&manifest, text.replace("0755", "0777")).unwrap();
    site.refuses("manifest signature is not good");
    fs::write(&manifest, format!("{text} ")).unwrap();
    site.refuses("manifest signature is not good");
    fs::remove_file(&signature).unwrap();
    site.refuses("manifest or its signature missing");
    fs::remove_file(&manifest).unwrap();
    site.refuses("manifest or its signature missing");
    // Signed, and no manifest.
    for text in ["", "{}", "[]", "{\"version\": 3}", &text.replace("\"version\": 3", "\"version\": 3, \"version\": 4")]
    {
        site.sign_text(text, &site.key);
        site.refuses("manifest refused");
    }
    // The key's file, too long, too short, a link.
    site.sign_text(&text, &site.key);
    let key = site.file("identity/manifest-verify.pub");
    for bytes in [vec![1; 31], vec![1; 33], vec![0; 32]] {
        fs::write(&key, &bytes).unwrap();
        site.refuses("precheck: manifest");
    }
    fs::write(site.dir.path().join("key"), site.key.verifying_key().as_bytes()).unwrap();
    fs::remove_file(&key).unwrap();
    symlink(site.dir.path().join("key"), &key).unwrap();
    site.refuses("identity/manifest-verify.pub");
}

#[test]
fn u01_an_older_manifest_and_another_nodes_are_refused() {
    let site = replaced();
    assert_eq!(code(&site.precheck(&[])), 0);
    site.kernel("6.3.0");
    site.release(2, b"good");
    site.refuses("manifest is older than the one that was carried out\" version=2 highest=3");
    site.sign(&Manifest { node: Some("edge-08".into()), ..site.manifest(3, b"good") });
    site.refuses("manifest is for another node\" node=\"edge-08\" own=\"edge-07\"");
    // The same version again is none of that: the system was replaced once more.
    site.sign(&Manifest { node: Some("edge-07".into()), ..site.manifest(3, b"good") });
    assert_eq!(code(&site.precheck(&[])), 0);
    assert_eq!(site.epoch(), 2);
}

#[test]
fn b07_records_that_contradict_each_other_are_refused() {
    let once = || {
        let site = replaced();
        assert_eq!(code(&site.precheck(&[])), 0);
        site
    };
    let site = once();
    fs::remove_file(site.file("bootstrap/os_fingerprint.json")).unwrap();
    site.refuses("bootstrap/os_fingerprint.json is missing though this node was started before");
    let site = once();
    fs::remove_file(site.file("epoch/chain.jsonl")).unwrap();
    site.refuses("epoch/chain.jsonl is missing though this node was started before");
    let site = once();
    let chain = fs::read(site.file("epoch/chain.jsonl")).unwrap();
    let first = chain.split_inclusive(|b| *b == b'\n').next().unwrap().to_vec();
    for (bytes, words) in [
        (first, "the chain was set back"),
        (chain[..chain.len() - 1].to_vec(), "epoch/chain.jsonl is damaged"),
        (vec![], "epoch/chain.jsonl is damaged"),
        (String::from_utf8(chain).unwrap().replace("\"epoch\":1", "\"epoch\":2").into_bytes(), "is damaged"),
    ] {
        fs::write(site.file("epoch/chain.jsonl"), bytes).unwrap();
        site.refuses(words);
    }
    let site = once();
    fs::remove_dir_all(site.file("epoch")).unwrap();
    fs::remove_dir_all(site.file("bootstrap")).unwrap();
    fs::create_dir(site.file("bootstrap")).unwrap();
    // `edged` has run here before: not even then is it a first start.
    fs::create_dir_all(site.file("edge/telemetry")).unwrap();
    fs::write(site.file("edge/telemetry/telemetry.base"), "{}").unwrap();
    site.refuses("epoch/chain.jsonl is missing though this node was started before");
    let site = once();
    fs::write(site.file("epoch/current/evidence.json"), "{}").unwrap();
    site.refuses("epoch/current/evidence.json");
}

#[test]
fn a_key_that_is_pinned_in_the_image_is_the_only_one() {
    let site = replaced();
    let pinned = site.dir.path().join("pinned.pub");
    let other = SigningKey::from_bytes(&[9; 32]);
    fs::write(&pinned, other.verifying_key().as_bytes()).unwrap();
    site.configure(&format!("[trust]\nmanifest_key = {:?}\n", pinned.to_str().unwrap()));
    site.refuses("manifest signature is not good");
    site.sign_text(&site.manifest(3, b"good").to_text(), &other);
    assert_eq!(code(&site.precheck(&[])), 0);
    fs::remove_file(&pinned).unwrap();
    site.kernel("6.3.0");
    site.refuses("manifest verify key missing on reconstruction path");
}

#[test]
fn folders_outside_are_written_only_when_the_configuration_allows_them() {
    let site = replaced();
    let (one, two) = (site.dir.path().join("one"), site.dir.path().join("two"));
    fs::create_dir(&one).unwrap();
    fs::create_dir(&two).unwrap();
    let agent = one.join("agent");
    let manifest = Manifest {
        binary_path: agent.to_str().unwrap().into(),
        ..with(&site, vec![copy("runtime/binaries/agent", agent.to_str().unwrap(), b"good")])
    };
    site.sign(&manifest);
    site.refuses("lies neither beneath the state root nor beneath a folder of [reconstruct] allow");
    site.configure(&format!("[reconstruct]\nallow = [{:?}, {:?}]\n", two.to_str().unwrap(), one.to_str().unwrap()));
    let output = site.precheck(&[]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert_eq!(fs::read(agent).unwrap(), b"good");
}

/// Whoever swaps files all the time, in every way: never is an operation carried out from bytes that were not verified.
#[test]
fn e02_a_manifest_that_is_swapped_while_it_is_verified() {
    let site = Site::started();
    let good = site.manifest(3, b"good").to_text();
    let evil = Manifest {
        operations: vec![
            folder("runtime/bin"),
            write("runtime/evil"),
            copy("runtime/binaries/agent", "runtime/bin/agent", b"evil"),
        ],
        ..site.manifest(3, b"evil")
    }
    .to_text();
    let sign = |text: &str, key: &SigningKey| key.sign(text.as_bytes()).to_bytes().to_vec();
    let signature = sign(&good, &site.key);
    let forged = sign(&evil, &SigningKey::from_bytes(&[8; 32]));
    site.release(3, b"good");
    let stop = AtomicBool::new(false);
    let (mut passed, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let path = |name: &str| site.file(&format!("runtime/{name}"));
            let replace = |to: &Path, bytes: &[u8]| {
                let aside = to.with_extension("aside");
                fs::write(&aside, bytes).unwrap();
                fs::rename(&aside, to).unwrap();
            };
            let mut n = 0u32;
            while !stop.load(Ordering::Relaxed) {
                n += 1;
                // In place and by rename, the signature before and after; and the binary between look and copy.
                let (text, signed, agent) = if n.is_multiple_of(3) {
                    (&evil, &forged, &b"evil"[..])
                } else {
                    (&good, &signature, &b"good"[..])
                };
                match n % 4 {
                    0 => fs::write(path("manifest.json"), text).unwrap(),
                    1 => replace(&path("manifest.json"), text.as_bytes()),
                    2 => replace(&path("manifest.json.sig"), signed),
                    _ => replace(&path("binaries/agent"), agent),
                }
                if n.is_multiple_of(7) {
                    replace(&path("manifest.json"), good.as_bytes());
                    replace(&path("manifest.json.sig"), &signature);
                    replace(&path("binaries/agent"), b"good");
                    std::thread::sleep(std::time::Duration::from_millis(u64::from(n % 5) * 3));
                }
            }
        });
        for n in 0..400 {
            site.kernel(&format!("6.2.{n}"));
            let before = site.epoch();
            let output = site.precheck(&[]);
            let said = stderr(&output);
            match code(&output) {
                0 => {
                    passed += 1;
                    assert_eq!(site.epoch(), before + 1, "{said}");
                    assert_eq!(fs::read(site.file("runtime/bin/agent")).unwrap(), b"good");
                }
                5 => {
                    refused += 1;
                    assert!(said.contains("level=ERROR"), "{said}");
                    assert_eq!(site.epoch(), before, "{said}");
                }
                other => panic!("exit {other}: {said}"),
            }
            assert!(!site.file("runtime/evil").exists(), "{said}");
            let installed = fs::read(site.file("runtime/bin/agent")).unwrap_or_else(|_| b"good".to_vec());
            assert_eq!(installed, b"good", "{said}");
            if n >= 60 && passed > 4 && refused > 4 {
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    println!("{passed} passed, {refused} were refused");
    assert!(passed > 0 && refused > 0, "{passed} passed, {refused} were refused: the swaps met nothing");
}
