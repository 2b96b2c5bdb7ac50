//! Sources of images that nobody should believe: what they say is not printed as if we had said it, those that cannot be read
//! are told apart from those that are refused, and one that never answers is not waited for.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use io_artifacts::blob::Blob;
use io_artifacts::source::Layout;
use machines::oci::{Descriptor, Digest, Image, Manifest, Target, media, tags};
use machines::signature::{SIGNED_AT, simple};

use crate::harness::{Node, finish, stderr, stdout};
use crate::supply::{Recipe, Workshop};

/// Words that would pass for ours on a line of their own, and that would move the cursor, clear the screen and name the window.
const FORGED: &str = "x\r\n[PASS] Step 1: cosign signature valid\nverification OK\nautonomy: fine\u{1b}[2J\u{1b}[1A\u{1b}]0;owned\u{7}\u{9b}31m\u{202e}";

/// Nothing that the source said makes a line of its own or reaches the terminal as a command.
fn is_harmless(what: &str, output: &Output) {
    for text in [stdout(output), stderr(output)] {
        let odd = text.chars().find(|c| c.is_control() && *c != '\n' || matches!(c, '\u{202a}'..='\u{202e}'));
        assert_eq!(odd, None, "{what}: {text:?}");
        let forged = text.lines().find(|line| {
            line.starts_with("[PASS]") || line.starts_with("verification OK") || *line == "autonomy: fine"
        });
        assert_eq!(forged, None, "{what}: {text}");
    }
}

/// A registry that answers whatever is asked with these bytes, or never.
fn registry(answer: Option<String>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut waiting = Vec::new();
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let Some(answer) = &answer else {
                waiting.push(stream);
                continue;
            };
            let mut request = [0; 4096];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    address
}

fn refusing(status: &str, body: &str) -> SocketAddr {
    let headers = format!("Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close", body.len());
    registry(Some(format!("HTTP/1.1 {status} x\r\n{headers}\r\n\r\n{body}")))
}

/// Text as JSON has it, with everything odd escaped: parsed, it is the words again.
fn quoted(words: &str) -> String {
    let escaped: String = words.chars().map(|c| format!("\\u{:04x}", u32::from(c))).collect();
    format!("\"{escaped}\"")
}

#[test]
fn s04_words_of_a_source_pass_for_none_of_ours() {
    let shop = Workshop::shared();
    let public = shop.public();
    // What a registry says of its errors, and of the credentials that it wants.
    let errors = format!("{{\"errors\":[{{\"code\":{0},\"message\":{0},\"detail\":{0}}}]}}", quoted(FORGED));
    for status in ["500", "403", "401", "404", "418"] {
        let image = format!("{}/agent:v1", refusing(status, &errors));
        let (node, verify) = (Node::bare(), ["verify", "--image", &image, "--pubkey", &public]);
        let load = ["policy", "load", "--image", &image, "--pubkey", &public, "--state-root", node.path()];
        for args in [&verify[..], &load, &["oci", "inspect", &image], &["oci", "copy", &image, "oci:/no/such/place:v1"]]
        {
            let output = finish(args);
            assert!(matches!(output.status.code(), Some(1 | 3)), "{status} {args:?}: {}", stderr(&output));
            is_harmless(&format!("{status} {args:?}"), &output);
        }
    }
    // A lock in which every text is forged.
    let dir = tempfile::tempdir().unwrap();
    let layout = dir.path().join("layout");
    let image = format!("oci:{}:v1", layout.display());
    shop.release(&image, &Recipe { sign: vec!["--layout", "simple"], ..Recipe::default() });
    let lock = dir.path().join("lock.json");
    for field in ["name", "version", "ref", "required_version", "behavioral_fingerprint", "digest"] {
        std::fs::write(&lock, with_forged(&layout, field)).unwrap();
        let file = lock.display().to_string();
        for args in [&["lock", "show", &file][..], &["lock", "verify", &file], &["lock", "fingerprint", &file]] {
            let output = finish(args);
            assert_eq!(output.status.code(), Some(1), "{field} {args:?}");
            is_harmless(&format!("{field} {args:?}"), &output);
        }
    }
    forge(&layout);
    assert!(stdout(&finish(&["verify", "--image", &image, "--pubkey", &public])).contains("no trusted key made it"));
    let archive = dir.path().join("a.tar").display().to_string();
    for args in [
        &["oci", "inspect", &image][..],
        &["verify", "--image", &image, "--pubkey", &public],
        &["oci", "copy", &image, &format!("oci-archive:{archive}")],
        &["oci", "inspect", &format!("oci-archive:{archive}")],
        &["bundle", "inspect", &archive],
        &["bundle", "verify", &archive, "--pubkey", &public],
    ] {
        let output = finish(args);
        if args[0] == "oci" && args[1] == "inspect" {
            assert!(output.status.success() && stdout(&output).contains("[PASS]"), "{args:?}: it is told, on its line");
        }
        is_harmless(&format!("{args:?}"), &output);
    }
}

/// The release's lock with this field forged, wherever it stands.
fn with_forged(layout: &Path, field: &str) -> String {
    let there = Layout::open(layout).unwrap();
    let found = there.manifest(&Target::Tag("v1-lock".into()), 1 << 20).unwrap();
    let Ok(Manifest::Image(attached)) = Manifest::parse(&found.bytes, None) else { panic!("no lock") };
    let text = std::fs::read_to_string(layout.join("blobs/sha256").join(attached.layers[0].digest.hex())).unwrap();
    let lines = text.lines().map(|line| {
        let Some((key, rest)) = line.split_once(&format!("\"{field}\": \"")) else { return line.to_owned() };
        let behind = rest.rsplit_once('"').unwrap().1;
        format!("{key}\"{field}\": {}{behind}", quoted(FORGED))
    });
    let forged = lines.collect::<Vec<_>>().join("\n");
    assert_ne!(forged, text.trim_end(), "{field} is in a lock");
    forged
}

/// The image's own signature is taken away; then there is one that claims to be made at a forged time, and something is
/// attached whose kind is forged.
fn forge(layout: &Path) {
    let there = Layout::open(layout).unwrap();
    let image = there.manifest(&Target::Tag("v1".into()), 1 << 20).unwrap();
    let digest = Digest::of(&image.bytes);
    let payload = simple::payload(&digest, FORGED, &[(SIGNED_AT.to_owned(), FORGED.to_owned())].into());
    let layer = simple::layer(&payload, b"no signature");
    let (config, manifest) = simple::manifest(vec![layer.clone()]);
    there.put_blob(&layer, &Blob::from_bytes(payload)).unwrap();
    there.put_blob(&manifest.config, &Blob::from_bytes(config)).unwrap();
    there.put_manifest(&Target::Tag(tags::signature(&digest)), &manifest.media_type, &manifest.to_bytes()).unwrap();
    let size = u64::try_from(image.bytes.len()).unwrap();
    let subject = Descriptor::new(media::IMAGE_MANIFEST, digest, size);
    let layer = Descriptor::of(media::OCTET_STREAM, b"junk");
    there.put_blob(&layer, &Blob::from_bytes(b"junk".to_vec())).unwrap();
    let attached = Image::artifact(FORGED, layer, Some(subject)).to_bytes();
    let _ = there.put_manifest(&Target::Digest(Digest::of(&attached)), media::IMAGE_MANIFEST, &attached);
}

#[test]
fn an_archive_that_cannot_be_read_is_told_apart_from_one_that_is_refused() {
    let shop = Workshop::shared();
    let dir = tempfile::tempdir().unwrap();
    let whole = std::fs::read(shop.archive("readable.tar", &Recipe::default())).unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    std::fs::create_dir(path("folder")).unwrap();
    let other = [&machines::tar::header("other", 0).unwrap()[..], &[0; 1024]].concat();
    let files = [
        ("missing", None, 3),
        ("folder", None, 3),
        ("empty", Some(Vec::new()), 3),
        ("text", Some(b"no tar archive at all ".repeat(100)), 3),
        ("cut-in-a-header", Some(whole[..700].to_vec()), 3),
        ("cut-in-a-file", Some(whole[..whole.len() / 2].to_vec()), 3),
        ("without-its-end", Some(whole[..whole.len() - 1024].to_vec()), 3),
        // These can be read, and are no archive of an image, or end in something else.
        ("of-something-else", Some(other), 1),
        ("goes-on", Some([&whole[..], &[7; 512]].concat()), 1),
    ];
    for (name, bytes, code) in files {
        let file = path(name);
        bytes.iter().for_each(|bytes| std::fs::write(&file, bytes).unwrap());
        let (public, image, node) = (shop.public(), format!("oci-archive:{file}"), Node::bare());
        for args in [
            &["verify", "--image", &image, "--pubkey", &public][..],
            &["bundle", "inspect", &file],
            &["bundle", "verify", &file, "--pubkey", &public],
            &["bundle", "import", &file, "--pubkey", &public, "--state-root", node.path()],
            &["policy", "load", "--image", &image, "--pubkey", &public, "--state-root", node.path()],
            &["oci", "inspect", &image],
            &["oci", "copy", &image, &format!("oci:{}", path("out"))],
        ] {
            let output = finish(args);
            assert_eq!(output.status.code(), Some(code), "{name} {args:?}: {}", stderr(&output));
            assert!(stderr(&output).contains(name) && stdout(&output).is_empty(), "{name}: {}", stderr(&output));
        }
        assert!(!Path::new(&path("out")).exists(), "{name}");
    }
    // So it is with a layout that is a file, and with a policy bundle.
    let text = path("text");
    for (args, code) in [
        (vec!["oci".to_owned(), "inspect".into(), format!("oci:{text}")], 3),
        (vec!["policy".into(), "load".into(), "--bundle".into(), path("folder"), "--policy-dir".into(), path("p")], 3),
        (vec!["policy".into(), "load".into(), "--bundle".into(), path("missing"), "--policy-dir".into(), path("p")], 3),
        (vec!["policy".into(), "load".into(), "--bundle".into(), text.clone(), "--policy-dir".into(), path("p")], 1),
    ] {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        assert_eq!(finish(&args).status.code(), Some(code), "{args:?}");
    }
}

#[test]
fn a_registry_that_never_answers_is_waited_for_as_long_as_was_said() {
    let shop = Workshop::shared();
    let image = format!("{}/agent:v1", registry(None));
    let node = Node::bare();
    let (public, begun) = (shop.public(), std::time::Instant::now());
    for args in [
        &["verify", "--image", &image, "--pubkey", &public][..],
        &["policy", "load", "--image", &image, "--pubkey", &public, "--state-root", node.path()],
    ] {
        let output = finish(&[args, &["--timeout", "500ms"]].concat());
        assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(3), ""), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains("--timeout"), "{}", stderr(&output));
    }
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    // Nothing is known of it: no refusal is recorded.
    assert!(!node.root.path().join("policy/history.jsonl").exists());
}
