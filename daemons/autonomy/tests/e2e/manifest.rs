//! `autonomy manifest …`: from a folder to what a node takes.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use machines::json::Value;
use tempfile::TempDir;

use crate::harness::{finish, json, stderr, stdout};

/// A folder to install, a key pair, and a state root.
struct Release {
    dir: TempDir,
}

impl Release {
    fn new() -> Self {
        let release = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir_all(release.path("files/bin")).unwrap();
        release.put("files/bin/agent", b"a binary", 0o755);
        release.put("files/agent.conf", b"verbose = true\n", 0o640);
        symlink("bin/agent", release.path("files/run")).unwrap();
        fs::create_dir_all(release.path("state/runtime")).unwrap();
        let key = release.name("manifest");
        let made = finish(&["keys", "generate", "--type", "manifest", "--out", &key]);
        assert!(made.status.success(), "{}", stderr(&made));
        release
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn name(&self, path: &str) -> String {
        self.path(path).to_str().unwrap().to_owned()
    }

    fn put(&self, path: &str, bytes: &[u8], mode: u32) {
        fs::write(self.path(path), bytes).unwrap();
        fs::set_permissions(self.path(path), fs::Permissions::from_mode(mode)).unwrap();
    }

    fn create(&self, more: &[&str]) -> Output {
        let (input, out) = (self.name("files"), self.name("state/runtime"));
        finish(&[&["manifest", "create", "--in", &input, "--version", "7", "--out", &out], more].concat())
    }

    fn sign(&self) -> Output {
        finish(&["manifest", "sign", "--key", &self.name("manifest.key"), &self.name("state/runtime/manifest.json")])
    }

    fn verify(&self, more: &[&str]) -> Output {
        let file = self.name("state/runtime/manifest.json");
        finish(&[&["manifest", "verify", "--pubkey", &self.name("manifest.pub"), &file], more].concat())
    }

    fn text(&self) -> String {
        fs::read_to_string(self.path("state/runtime/manifest.json")).unwrap()
    }
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn failed(output: &Output, words: &str) {
    assert_eq!(code(output), 1, "{}", stderr(output));
    let said = stdout(output);
    assert!(said.starts_with("manifest verify: FAILED — ") && said.contains(words), "{words}: {said}");
}

#[test]
fn a_folder_becomes_a_signed_manifest_and_its_sources() {
    let release = Release::new();
    let created = release.create(&["--node", "edge-07"]);
    assert_eq!(code(&created), 0, "{}", stderr(&created));
    assert!(stdout(&created).starts_with("manifest created: version 7, 4 operations\n"), "{}", stdout(&created));
    let text = release.text();
    let hash = |bytes: &[u8]| format!("blake3:{}", blake3::hash(bytes).to_hex());
    let manifest = json(&text);
    let text_of = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    assert_eq!(text_of(&manifest, "binary_path"), "runtime/bin/agent");
    assert_eq!(text_of(&manifest, "node"), "edge-07");
    let Some(Value::Array(operations)) = manifest.get("operations") else { panic!("{text}") };
    let lines: Vec<Vec<String>> = operations
        .iter()
        .map(|op| {
            ["op", "source", "destination", "path", "mode", "target", "blake3"].map(|key| text_of(op, key)).to_vec()
        })
        .map(|fields| fields.into_iter().filter(|field| !field.is_empty()).collect())
        .collect();
    let conf = hash(b"verbose = true\n");
    let agent = hash(b"a binary");
    assert_eq!(
        lines,
        [
            vec!["copy_binary", "runtime/binaries/agent.conf", "runtime/agent.conf", "0640", &conf],
            vec!["ensure_dir", "runtime/bin", "0755"],
            vec!["copy_binary", "runtime/binaries/bin/agent", "runtime/bin/agent", "0755", &agent],
            vec!["symlink", "runtime/run", "bin/agent"],
        ]
    );
    assert_eq!(fs::read(release.path("state/runtime/binaries/bin/agent")).unwrap(), b"a binary");

    let signed = release.sign();
    assert!(stdout(&signed).starts_with("manifest signed: version 7, 4 operations\n"), "{}", stderr(&signed));
    assert_eq!(fs::read(release.path("state/runtime/manifest.json.sig")).unwrap().len(), 64);
    let verified = release.verify(&["--state-root", &release.name("state")]);
    assert_eq!((code(&verified), stdout(&verified).as_str()), (0, "manifest OK: version 7, 4 operations\n"));
    let verified = release.verify(&["--output", "json"]);
    assert_eq!(json(&stdout(&verified)).get("sources_checked"), Some(&Value::from(false)));

    // The same folder gives the same bytes, and the signature of what was there before goes.
    assert_eq!(code(&release.create(&["--node", "edge-07"])), 0);
    assert_eq!(release.text(), text);
    assert!(!release.path("state/runtime/manifest.json.sig").exists());
    assert_eq!(code(&release.verify(&[])), 3, "there is no signature");
}

#[test]
fn b04_what_was_changed_after_signing_does_not_verify() {
    let release = Release::new();
    assert_eq!(code(&release.create(&[])), 0);
    assert_eq!(code(&release.sign()), 0);
    let state = release.name("state");
    let verify = || release.verify(&["--state-root", &state]);
    assert_eq!(code(&verify()), 0);
    fs::write(release.path("state/runtime/binaries/bin/agent"), b"another").unwrap();
    failed(&verify(), "runtime/binaries/bin/agent is not what was signed");
    assert_eq!(code(&release.verify(&[])), 0, "the manifest itself is good");
    fs::remove_file(release.path("state/runtime/binaries/bin/agent")).unwrap();
    failed(&verify(), "runtime/binaries/bin/agent: no such file");
    symlink("/bin/true", release.path("state/runtime/binaries/bin/agent")).unwrap();
    failed(&verify(), "a link");
    let text = release.text();
    fs::write(release.path("state/runtime/manifest.json"), text.replace("0755", "0777")).unwrap();
    failed(&release.verify(&[]), "the signature is not this key's");
    fs::write(release.path("state/runtime/manifest.json"), &text).unwrap();
    fs::write(release.path("state/runtime/manifest.json.sig"), [0; 63]).unwrap();
    failed(&release.verify(&[]), "the signature must be 64 bytes");
    fs::write(release.path("manifest.pub"), [1; 31]).unwrap();
    assert_eq!(code(&release.verify(&[])), 1);
}

#[test]
fn b05_a_manifest_that_no_node_would_take_is_neither_made_nor_signed() {
    let refused = |change: &dyn Fn(&Release), more: &[&str], words: &str| {
        let release = Release::new();
        change(&release);
        let output = release.create(more);
        assert!(matches!(code(&output), 1 | 2), "{words}: {}", stdout(&output));
        assert!(stderr(&output).contains(words), "{words}: {}", stderr(&output));
        assert!(!release.path("state/runtime/manifest.json").exists(), "{words}");
        assert!(!release.path("state/runtime/binaries").exists(), "{words}");
    };
    let put = |path: &'static str| move |release: &Release| release.put(path, b"x", 0o644);
    refused(&put("files/a b"), &[], "only letters, digits");
    refused(&put("files/BIN"), &[], "clashes with");
    refused(&put("files/\u{e4}"), &[], "only letters, digits");
    refused(&|release| release.put("files/su", b"x", 0o4755), &[], "set-user-id");
    refused(&|release| symlink("../../../etc/passwd", release.path("files/out")).unwrap(), &[], "leads out");
    refused(&|release| symlink("/etc/passwd", release.path("files/out")).unwrap(), &[], "leads out");
    let fifo = |release: &Release| {
        assert!(Command::new("mkfifo").arg(release.path("files/pipe")).status().unwrap().success());
    };
    refused(&fifo, &[], "device, pipe or socket");
    refused(&|release| release.put("files/other", b"x", 0o755), &[], "say with --binary");
    refused(&|release| release.put("files/bin/agent", b"x", 0o644), &[], "no file in it is executable");
    refused(&|_| (), &["--binary", "agent.conf"], "no executable file");
    refused(&|_| (), &["--binary", "none"], "is not there");
    refused(&|_| (), &["--prefix", "epoch"], "is the node's own");
    refused(&|_| (), &["--prefix", "runtime/binaries"], "is the node's own");
    refused(&|_| (), &["--prefix", "../x"], "`.` and `..` are not allowed");
    refused(&|_| (), &["--prefix", ""], "is empty");

    let release = Release::new();
    fs::write(release.path("state/runtime/manifest.json"), "{\"version\": 1}").unwrap();
    let signed = release.sign();
    assert!(code(&signed) == 1 && stderr(&signed).contains("not signed"), "{}", stderr(&signed));
    assert!(!release.path("state/runtime/manifest.json.sig").exists());
}

#[test]
fn a_prefix_is_made_beneath_the_state_root_or_allowed_outside() {
    let release = Release::new();
    assert_eq!(code(&release.create(&["--prefix", "runtime/agent/v7"])), 0);
    let text = release.text();
    let made: Vec<&str> =
        text.lines().filter(|line| line.contains("ensure_dir")).map(|line| line.split('"').nth(7).unwrap()).collect();
    assert_eq!(made, ["runtime/agent", "runtime/agent/v7", "runtime/agent/v7/bin"]);
    assert_eq!(code(&release.create(&["--prefix", "/opt/agent"])), 0);
    assert_eq!(code(&release.sign()), 0);
    failed(&release.verify(&[]), "lies neither beneath the state root nor beneath a folder of [reconstruct] allow");
    assert_eq!(code(&release.verify(&["--allow", "/opt/agent/"])), 0);
    assert!(Path::new(&release.name("state/runtime/binaries/agent.conf")).exists());
}
