//! The tamper table (FAULTS 5): each part of a release altered, removed, swapped with another release's, or signed by
//! another key. The right step fails, later ones are skipped, nothing is put in force and nothing is left behind.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use io_artifacts::blob::Blob;
use io_artifacts::keys::{Password, SigningKey};
use io_artifacts::source::Layout;
use machines::json::Value;
use machines::oci::{Descriptor, Digest, Image, Index, Manifest, Target, media, tags};
use machines::signature::simple;
use machines::tar;
use machines::verify::Step;
use tempfile::TempDir;

use crate::harness::{Node, finish, json, stderr, stdout};
use crate::supply::{PASSED, Recipe, Workshop, copy_folder, done, tree};

/// A layout with two whole releases, `v1` and `v2`, that is damaged on purpose.
struct Case {
    dir: TempDir,
}

impl Case {
    fn new() -> Self {
        static BASE: OnceLock<TempDir> = OnceLock::new();
        let base = BASE.get_or_init(|| {
            let dir = tempfile::tempdir().unwrap();
            let shop = Workshop::shared();
            let image = |tag: &str| format!("oci:{}:{tag}", dir.path().join("layout").display());
            shop.release(&image("v1"), &Recipe::default());
            let other = Recipe { agent: "agent of another release", policy: "1.1.0", ..Recipe::default() };
            shop.release(&image("v2"), &other);
            dir
        });
        let case = Self { dir: tempfile::tempdir().unwrap() };
        copy_folder(&base.path().join("layout"), &case.layout());
        case
    }

    fn layout(&self) -> PathBuf {
        self.dir.path().join("layout")
    }

    fn image(&self) -> String {
        format!("oci:{}:v1", self.layout().display())
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.layout().join("blobs/sha256").join(digest.hex())
    }

    fn index(&self) -> Index {
        let bytes = std::fs::read(self.layout().join("index.json")).unwrap();
        let Ok(Manifest::Index(index)) = Manifest::parse(&bytes, None) else { panic!("no index") };
        index
    }

    fn edit(&self, change: impl FnOnce(&mut Vec<Descriptor>)) {
        let mut index = self.index();
        change(&mut index.manifests);
        std::fs::write(self.layout().join("index.json"), index.to_bytes()).unwrap();
    }

    /// What a tag leads to.
    fn tagged(&self, tag: &str) -> Digest {
        let found = self.index().manifests.into_iter().find(|entry| tag_of(entry) == Some(tag));
        found.unwrap_or_else(|| panic!("no tag {tag}")).digest
    }

    fn manifest(&self, digest: &Digest) -> Image {
        let Ok(Manifest::Image(image)) = Manifest::parse(&std::fs::read(self.blob(digest)).unwrap(), None) else {
            panic!("no image {digest}")
        };
        image
    }

    /// The digest of the one layer of what a tag leads to.
    fn layer(&self, tag: &str) -> Digest {
        self.manifest(&self.tagged(tag)).layers[0].digest
    }

    /// Changes one byte in the middle of a blob.
    fn flip(&self, digest: &Digest) {
        let mut bytes = std::fs::read(self.blob(digest)).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(self.blob(digest), bytes).unwrap();
    }

    /// No entry leads to this manifest any more.
    fn unlist(&self, digest: &Digest) {
        self.edit(|entries| entries.retain(|entry| entry.digest != *digest));
    }

    /// The tag leads to what another tag leads to.
    fn retag(&self, tag: &str, other: &str) {
        self.edit(|entries| {
            let mut moved = entries.iter().find(|entry| tag_of(entry) == Some(other)).unwrap().clone();
            moved.annotations.insert(media::REF_NAME.into(), tag.into());
            entries.retain(|entry| tag_of(entry) != Some(tag));
            entries.push(moved);
        });
    }

    /// Removes every signature of a manifest, in both layouts.
    fn unsign(&self, digest: &Digest) {
        let signatures: Vec<Digest> = self
            .index()
            .manifests
            .iter()
            .filter(|entry| {
                let bundle = entry.artifact_type.as_deref() == Some(media::SIGSTORE_BUNDLE);
                let of = |entry: &Descriptor| self.manifest(&entry.digest).subject.is_some_and(|s| s.digest == *digest);
                tag_of(entry) == Some(&tags::signature(digest)) || (bundle && of(entry))
            })
            .map(|entry| entry.digest)
            .collect();
        assert_eq!(signatures.len(), 2, "one in each layout");
        signatures.iter().for_each(|signature| self.unlist(signature));
    }

    fn sign(&self, digest: &Digest, key: &str, more: &[&str]) {
        let (key, image) = (Workshop::shared().path(key), format!("oci:{}@{digest}", self.layout().display()));
        let args = ["oci", "sign", "--image", &image, "--key", &key, "--recursive=false"];
        done(&[&args[..], more].concat());
    }

    /// The layout as an archive, as it is: not by our own commands, which copy nothing that is damaged.
    fn archive(&self) -> String {
        self.edit(|entries| entries.retain(|entry| tag_of(entry) != Some("v2")));
        let top = self.layout();
        let mut bytes = Vec::new();
        for (path, content) in tree(&top).into_iter().filter(|(path, _)| path.is_file()) {
            let name = path.strip_prefix(&top).unwrap().to_str().unwrap();
            bytes.extend(tar::header(name, u64::try_from(content.len()).unwrap()).unwrap());
            bytes.extend(&content);
            bytes.resize(bytes.len().next_multiple_of(tar::BLOCK), 0);
        }
        bytes.resize(bytes.len() + 2 * tar::BLOCK, 0);
        let out = self.dir.path().join("site.tar");
        std::fs::write(&out, bytes).unwrap();
        out.display().to_string()
    }
}

fn tag_of(entry: &Descriptor) -> Option<&str> {
    entry.annotations.get(media::REF_NAME).map(String::as_str)
}

/// What a verification prints when step `failed` fails; its reason goes up to the end of the line.
fn expected(failed: u8) -> Vec<String> {
    let line = |step: &Step| {
        let word = match step.number().cmp(&failed) {
            std::cmp::Ordering::Less => "PASS",
            std::cmp::Ordering::Equal => "FAIL",
            std::cmp::Ordering::Greater => "SKIP",
        };
        format!("[{word}] Step {}: {}", step.number(), step.title())
    };
    Step::ALL.iter().map(line).chain(["verification FAILED".to_owned()]).collect()
}

/// Step `failed` fails, the others are as they must be, and neither command changes a node.
fn refused(what: &str, case: &Case, failed: u8, words: &str) {
    let shop = Workshop::shared();
    let verified = shop.verify(&case.image(), &[]);
    let text = stdout(&verified);
    assert_eq!(verified.status.code(), Some(1), "{what}: {text}{}", stderr(&verified));
    let without_reason: Vec<&str> = text.lines().map(|line| line.split(" — ").next().unwrap()).collect();
    assert_eq!(without_reason, expected(failed), "{what}: {text}");
    assert!(text.contains(words), "{what}: {text}");
    let node = Node::demo();
    let (before, mut lines) = (but_history(&node), history(&node));
    // It is in the history, with its step, and that is all that is left behind.
    let mut recorded = |place: &str| {
        assert_eq!(but_history(&node), before, "{what}: something was left behind");
        let now = history(&node);
        assert_eq!(now.len(), lines.len() + 1, "{what}: {now:?}");
        assert_eq!(now[..lines.len()], lines, "{what}");
        let line = json(now.last().unwrap());
        let text = |field: &str| line.get(field).and_then(Value::as_str).unwrap().to_owned();
        assert_eq!(text("event"), "refused", "{what}");
        assert!(text("reason").starts_with(&format!("{place}: step {failed}: ")), "{what}: {}", text("reason"));
        lines = now;
    };
    let loaded = shop.load(&case.image(), &node, &[]);
    assert_eq!((loaded.status.code(), stdout(&loaded).as_str()), (Some(1), ""), "{what}");
    let marker = format!("policy load: REJECTED — step {failed}: ");
    assert!(stderr(&loaded).starts_with(&marker), "{what}: {}", stderr(&loaded));
    recorded(&case.image());
    let archive = case.archive();
    for more in [&["--activate"][..], &[]] {
        let imported = shop.import(&archive, &node, more);
        assert_eq!(imported.status.code(), Some(1), "{what}: {}{}", stdout(&imported), stderr(&imported));
        assert!(stdout(&imported).ends_with("verification FAILED\n"), "{what}: {}", stdout(&imported));
        recorded(&format!("oci-archive:{archive}"));
    }
}

/// Everything of a node but the history of policies.
fn but_history(node: &Node) -> Vec<(PathBuf, Vec<u8>)> {
    tree(node.root.path()).into_iter().filter(|(path, _)| !path.ends_with("policy/history.jsonl")).collect()
}

fn history(node: &Node) -> Vec<String> {
    let text = std::fs::read_to_string(node.root.path().join("policy/history.jsonl")).unwrap();
    text.lines().map(str::to_owned).collect()
}

type Row = (&'static str, u8, &'static str, fn(&Case));

fn check(rows: &[Row]) {
    let whole = Case::new();
    assert_eq!(stdout(&Workshop::shared().verify(&whole.image(), &[])), PASSED, "untouched, it passes");
    for (what, failed, words, change) in rows {
        let case = Case::new();
        change(&case);
        refused(what, &case, *failed, words);
    }
}

#[test]
fn s12_s17_the_image_tampered_with() {
    check(&[
        ("altered", 2, "got", |case| case.flip(&case.layer("v1"))),
        ("its manifest altered", 1, "want sha256:", |case| case.flip(&case.tagged("v1"))),
        ("removed", 2, "it is not there", |case| std::fs::remove_file(case.blob(&case.layer("v1"))).unwrap()),
        ("longer", 2, "", |case| {
            let path = case.blob(&case.layer("v1"));
            let longer = [std::fs::read(&path).unwrap(), b"more".to_vec()].concat();
            std::fs::write(path, longer).unwrap();
        }),
        ("swapped with another release's", 2, "the lock binds the image sha256:", |case| {
            case.unlist(&case.tagged("v2-lock"));
            case.unlist(&case.tagged("v2-policy"));
            // The image's new lock and policy are the old one's.
            let image = case.tagged("v2");
            for tag in ["v1-lock", "v1-policy"] {
                let mut attached = case.manifest(&case.tagged(tag));
                attached.subject = Some(Descriptor::new(
                    media::IMAGE_MANIFEST,
                    image,
                    std::fs::metadata(case.blob(&image)).unwrap().len(),
                ));
                let layout = Layout::open(&case.layout()).unwrap();
                let old = case.tagged(tag);
                let new =
                    layout.put_manifest(&Target::Tag(tag.into()), media::IMAGE_MANIFEST, &attached.to_bytes()).unwrap();
                case.unlist(&old);
                case.sign(&new, "ours.key", &[]);
            }
            case.retag("v1", "v2");
        }),
    ]);
}

#[test]
fn s01_s03_the_signature_tampered_with() {
    check(&[
        ("removed", 1, "no signature of the image", |case| case.unsign(&case.tagged("v1"))),
        ("altered", 1, "counts", |case| {
            let image = case.tagged("v1");
            let bundles = case.index().manifests.into_iter().filter(|entry| {
                entry.artifact_type.as_deref() == Some(media::SIGSTORE_BUNDLE)
                    && case.manifest(&entry.digest).subject.is_some_and(|subject| subject.digest == image)
            });
            bundles.for_each(|entry| case.flip(&case.manifest(&entry.digest).layers[0].digest));
            case.flip(&case.layer(&tags::signature(&image)));
        }),
        ("swapped with another release's", 1, "it is a signature of sha256:", |case| {
            let (image, other) = (case.tagged("v1"), case.tagged("v2"));
            case.unsign(&image);
            case.edit(|entries| {
                let mut moved =
                    entries.iter().find(|entry| tag_of(entry) == Some(&tags::signature(&other))).unwrap().clone();
                moved.annotations.insert(media::REF_NAME.into(), tags::signature(&image));
                entries.push(moved);
            });
        }),
        ("made by another key", 1, "no trusted key made it", |case| {
            case.unsign(&case.tagged("v1"));
            case.sign(&case.tagged("v1"), "theirs.key", &[]);
        }),
        ("expired", 1, "expired: signed at 2020-01-01", |case| {
            case.unsign(&case.tagged("v1"));
            case.sign(&case.tagged("v1"), "ours.key", &["-a", "autonomy.signed-at=2020-01-01T00:00:00Z"]);
        }),
        ("without a date", 1, "oci sign", undated),
    ]);
}

/// A signature as `cosign sign` makes it when it is not asked to date it.
fn undated(case: &Case) {
    let image = case.tagged("v1");
    case.unsign(&image);
    let password = Password::new(b"correct horse".to_vec());
    let key = SigningKey::open(Path::new(&Workshop::shared().key()), &password).unwrap();
    let payload = simple::payload(&image, "localhost/agent", &BTreeMap::new());
    let layer = simple::layer(&payload, &key.sign(&payload));
    let (config, manifest) = simple::manifest(vec![layer.clone()]);
    let layout = Layout::open(&case.layout()).unwrap();
    layout.put_blob(&layer, &Blob::from_bytes(payload)).unwrap();
    layout.put_blob(&manifest.config, &Blob::from_bytes(config)).unwrap();
    let tag = Target::Tag(tags::signature(&image));
    layout.put_manifest(&tag, &manifest.media_type, &manifest.to_bytes()).unwrap();
}

#[test]
fn an_undated_signature_serves_verify_alone_and_only_when_it_is_let() {
    let case = Case::new();
    undated(&case);
    let shop = Workshop::shared();
    assert_eq!(stdout(&shop.verify(&case.image(), &["--allow-undated"])), PASSED);
    let flag = shop.load(&case.image(), &Node::bare(), &["--allow-undated"]);
    assert_eq!(flag.status.code(), Some(2), "activation knows no such flag");
}

#[test]
fn s17_s18_the_lock_tampered_with() {
    check(&[
        ("altered", 1, "lock", |case| case.flip(&case.layer("v1-lock"))),
        ("removed", 1, "a lock is required", |case| case.unlist(&case.tagged("v1-lock"))),
        ("swapped with another release's", 2, "the lock binds the image sha256:", |case| {
            attach_lock(case, "v2-lock", |text| text)
        }),
        ("its signature removed", 1, "no signature of the lock", |case| case.unsign(&case.tagged("v1-lock"))),
        ("signed by another key", 1, "no trusted key made it", |case| {
            case.unsign(&case.tagged("v1-lock"));
            case.sign(&case.tagged("v1-lock"), "theirs.key", &[]);
        }),
        ("its fingerprint wrong", 3, "its canonical form gives blake3:", |case| {
            attach_lock(case, "v1-lock", |text| text.replace("\"sequence\": 7", "\"sequence\": 8"));
        }),
    ]);
}

/// Replaces the image's lock by what becomes of the one under `tag`, signed by the trusted key.
fn attach_lock(case: &Case, tag: &str, change: impl FnOnce(String) -> String) {
    let text = std::fs::read_to_string(case.blob(&case.layer(tag))).unwrap();
    let file = case.dir.path().join("lock.json");
    std::fs::write(&file, change(text)).unwrap();
    case.unlist(&case.tagged("v1-lock"));
    done(&["oci", "attach-lock", "--image", &case.image(), "--lock", file.to_str().unwrap()]);
    case.sign(&case.tagged("v1-lock"), "ours.key", &[]);
}

#[test]
fn s17_s27_the_policy_tampered_with() {
    check(&[
        ("altered", 2, "got the bytes of sha256:", |case| case.flip(&case.layer("v1-policy"))),
        ("removed", 1, "a policy bundle is required", |case| case.unlist(&case.tagged("v1-policy"))),
        ("its bytes removed", 2, "policy bundle", |case| {
            std::fs::remove_file(case.blob(&case.layer("v1-policy"))).unwrap()
        }),
        ("swapped with another release's", 2, "the lock binds the policy bundle sha256:", |case| {
            case.unlist(&case.tagged("v1-policy"));
            let bundle = Workshop::shared().bundle("1.1.0");
            done(&["oci", "attach-policy", "--image", &case.image(), "--bundle", &bundle]);
            case.sign(&case.tagged("v1-policy"), "ours.key", &[]);
        }),
        ("its signature removed", 1, "no signature of the policy bundle", |case| {
            case.unsign(&case.tagged("v1-policy"))
        }),
        ("signed by another key", 1, "no trusted key made it", |case| {
            case.unsign(&case.tagged("v1-policy"));
            case.sign(&case.tagged("v1-policy"), "theirs.key", &[]);
        }),
    ]);
}

#[test]
fn s20_a_release_for_other_runtimes_fails_at_step_4() {
    let case = Case::new();
    let shop = Workshop::shared();
    let file = case.dir.path().join("lock.json").display().to_string();
    let (image, bundle) = (case.image(), shop.bundle("1.0.0"));
    let create = ["lock", "create", "--image", &image, "--bundle", &bundle, "--name", "agent", "--version", "1.0.0"];
    done(&[&create[..], &["--sequence", "9", "--runtime-version", ">=9.0.0", "--out", &file]].concat());
    case.unlist(&case.tagged("v1-lock"));
    done(&["oci", "attach-lock", "--image", &image, "--lock", &file]);
    case.sign(&case.tagged("v1-lock"), "ours.key", &[]);
    refused("another runtime", &case, 4, "the lock wants a runtime >=9.0.0");
}

/// An archive in which something is wrong with an entry, put before the others.
fn hostile(case: &Case, name: &str, change: impl FnOnce(&mut ::tar::Header)) -> String {
    let archive = case.archive();
    let good = std::fs::read(&archive).unwrap();
    let mut header = ::tar::Header::new_ustar();
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header.set_mode(0o644);
    header.set_size(0);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_entry_type(::tar::EntryType::Regular);
    change(&mut header);
    header.set_cksum();
    std::fs::write(&archive, [header.as_bytes(), good.as_slice()].concat()).unwrap();
    archive
}

#[test]
fn f01_f04_f05_f06_a_hostile_archive_is_refused_before_anything_is_written() {
    let shop = Workshop::shared();
    let link = |header: &mut ::tar::Header, kind| {
        header.set_entry_type(kind);
        header.as_mut_bytes()[157..168].copy_from_slice(b"/etc/passwd");
    };
    type Change = Box<dyn Fn(&mut ::tar::Header)>;
    let rows: Vec<(&str, Change)> = vec![
        ("../escape", Box::new(|_| {})),
        ("/etc/escape", Box::new(|_| {})),
        ("blobs/sha256/../../escape", Box::new(|_| {})),
        ("index.json", Box::new(|_| {})),
        ("INDEX.JSON", Box::new(|_| {})),
        ("blobs/sha256/link", Box::new(move |header| link(header, ::tar::EntryType::Symlink))),
        ("blobs/sha256/link", Box::new(move |header| link(header, ::tar::EntryType::Link))),
        ("blobs/sha256/device", Box::new(|header| header.set_entry_type(::tar::EntryType::Char))),
        ("blobs/sha256/pipe", Box::new(|header| header.set_entry_type(::tar::EntryType::Fifo))),
        ("PaxHeaders/x", Box::new(|header| header.set_entry_type(::tar::EntryType::XHeader))),
        ("././@LongLink", Box::new(|header| header.set_entry_type(::tar::EntryType::GNULongName))),
        ("blobs/sha256/sparse", Box::new(|header| header.set_entry_type(::tar::EntryType::GNUSparse))),
        ("blobs/sha256/bomb", Box::new(|header| header.set_size((1 << 33) - 1))),
    ];
    let good = Case::new();
    let untouched = shop.import(&good.archive(), &Node::bare(), &["--activate"]);
    assert!(untouched.status.success(), "{}", stderr(&untouched));
    let node = Node::demo();
    for (name, change) in rows {
        let case = Case::new();
        let archive = hostile(&case, name, change);
        let around = (tree(node.root.path()), tree(case.dir.path()));
        for args in [
            vec!["bundle", "inspect", &archive],
            vec!["oci", "copy", &format!("oci-archive:{archive}"), &format!("oci:{archive}.out")],
        ] {
            let output = finish(&args);
            assert_eq!(output.status.code(), Some(1), "{name}: {args:?}: {}{}", stdout(&output), stderr(&output));
        }
        let imported = shop.import(&archive, &node, &["--activate"]);
        assert_eq!(
            (imported.status.code(), stdout(&imported).as_str()),
            (Some(1), ""),
            "{name}: {}",
            stderr(&imported)
        );
        assert!(stderr(&imported).contains("site.tar"), "{name}: it names the file: {}", stderr(&imported));
        assert_eq!((tree(node.root.path()), tree(case.dir.path())), around, "{name}: something was written");
    }
}

#[test]
fn s02_s23_the_key_swapped_altered_or_removed() {
    let (shop, case) = (Workshop::shared(), Case::new());
    let verify = |keys: &[&str]| {
        let mut args = vec!["verify", "--image"];
        let image = case.image();
        args.push(&image);
        for key in keys {
            args.extend(["--pubkey", key]);
        }
        finish(&args)
    };
    let (ours, theirs) = (shop.public(), shop.path("theirs.pub"));
    let swapped = verify(&[&theirs]);
    assert_eq!(swapped.status.code(), Some(1));
    assert!(stdout(&swapped).starts_with("[FAIL] Step 1: cosign signature valid — "), "{}", stdout(&swapped));
    assert_eq!(stdout(&verify(&[&theirs, &ours])), PASSED);
    let altered = case.dir.path().join("altered.pub").display().to_string();
    let mut pem = std::fs::read(&ours).unwrap();
    let middle = pem.len() / 2;
    pem[middle] = if pem[middle] == b'A' { b'B' } else { b'A' };
    std::fs::write(&altered, pem).unwrap();
    // A point off the curve is no key; one that happens to lie on it is another's.
    let output = verify(&[&altered]);
    assert_eq!(output.status.code(), Some(1), "{}{}", stdout(&output), stderr(&output));
    assert!(!stdout(&output).contains("[PASS]"), "{}", stdout(&output));
    assert_eq!(verify(&[&case.dir.path().join("none.pub").display().to_string()]).status.code(), Some(3));
}

#[test]
fn what_is_attached_and_was_not_verified_is_not_taken_in() {
    let case = Case::new();
    let layout = Layout::open(&case.layout()).unwrap();
    let image = case.tagged("v1");
    let size = std::fs::metadata(case.blob(&image)).unwrap().len();
    let subject = Descriptor::new(media::IMAGE_MANIFEST, image, size);
    let mut junk = Vec::new();
    let attach = |kind: &str, bytes: &[u8], remark: &str| {
        let layer = Descriptor::of(kind, bytes);
        layout.put_blob(&layer, &Blob::from_bytes(bytes.to_vec())).unwrap();
        let mut manifest = Image::artifact(kind, layer, Some(subject.clone()));
        manifest.annotations.insert("remark".into(), remark.into());
        let bytes = manifest.to_bytes();
        let digest = Digest::of(&bytes);
        layout.put_manifest(&Target::Digest(digest), media::IMAGE_MANIFEST, &bytes).unwrap();
        digest
    };
    // Parts that nobody asked for, an older lock that nobody signed, and the bundle once more by a manifest of a stranger.
    junk.push(attach("application/vnd.example.sbom", b"a list of parts", ""));
    junk.push(Digest::of(b"a list of parts"));
    let lock = std::fs::read_to_string(case.blob(&case.layer("v1-lock"))).unwrap();
    let old = machines::lock::Lock::read(lock.as_bytes()).unwrap();
    let old = machines::lock::Lock::new(machines::lock::Draft {
        name: old.name,
        version: old.version,
        sequence: old.sequence - 1,
        channels: old.channels,
        agent_artifact: old.agent_artifact,
        policy_bundle: old.policy_bundle,
        runtime: old.runtime,
        inputs: old.inputs,
    });
    let old = old.unwrap().to_bytes();
    junk.extend([attach(media::LOCK, &old, ""), Digest::of(&old)]);
    let bundle = std::fs::read(case.blob(&case.layer("v1-policy"))).unwrap();
    junk.push(attach(media::POLICY_BUNDLE, &bundle, "by a stranger"));
    case.sign(&image, "theirs.key", &[]);
    let node = Node::bare();
    let imported = Workshop::shared().import(&case.archive(), &node, &["--activate"]);
    assert!(imported.status.success(), "{}{}", stdout(&imported), stderr(&imported));
    let kept = |digest: &Digest| node.root.path().join("blobs/sha256").join(digest.hex()).exists();
    for digest in &junk {
        assert!(!kept(digest), "{digest} was never verified");
    }
    let wanted = [image, case.layer("v1"), case.tagged("v1-lock"), case.layer("v1-lock"), case.tagged("v1-policy")];
    for digest in wanted.iter().chain([&Digest::of(&bundle)]) {
        assert!(kept(digest), "{digest}");
    }
    // One list of signatures holds ours and the stranger's: his payload is not taken in with it.
    let list = case.manifest(&case.tagged(&tags::signature(&image)));
    assert_eq!(list.layers.iter().filter(|layer| kept(&layer.digest)).count(), list.layers.len() - 1);
}
