//! Keys, locks and images by command: what is printed, what is made twice the same, and what people get wrong.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use machines::json::Value;

use crate::harness::{autonomy, finish, json, stderr, stdout};
use crate::supply::{Recipe, Registry, Workshop, done, tree, with_password};

#[test]
fn keys_are_made_once_kept_private_and_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let prefix = |name: &str| dir.path().join(name).display().to_string();
    for kind in ["cosign", "manifest", "publisher"] {
        let made = json(&done(&["keys", "generate", "--type", kind, "--out", &prefix(kind), "--output", "json"]));
        let private = dir.path().join(format!("{kind}.key"));
        assert_eq!(std::fs::metadata(&private).unwrap().permissions().mode() & 0o777, 0o600);
        let again = with_password(&["keys", "generate", "--type", kind, "--out", &prefix(kind)]);
        assert_eq!(again.status.code(), Some(1));
        assert!(stderr(&again).contains("never overwritten"), "{}", stderr(&again));
        for half in ["key", "pub"] {
            let seen = json(&done(&["keys", "inspect", &format!("{}.{half}", prefix(kind)), "--output", "json"]));
            assert_eq!(seen.get("fingerprint"), made.get("fingerprint"), "{kind}.{half}");
            assert_eq!(
                seen.get("half").and_then(Value::as_str),
                Some(if half == "key" { "private" } else { "public" })
            );
        }
    }
    let locked = finish(&["keys", "inspect", &format!("{}.key", prefix("cosign"))]);
    assert!(stdout(&locked).contains("cosign (ECDSA P-256) private key"), "{}", stdout(&locked));
    assert!(!stdout(&locked).contains("fingerprint"), "without the password nothing is known of it");
    std::fs::write(dir.path().join("none"), "hello").unwrap();
    assert_eq!(finish(&["keys", "inspect", &prefix("none")]).status.code(), Some(1));
    assert_eq!(finish(&["keys", "inspect", &prefix("missing")]).status.code(), Some(3));
}

#[test]
fn c06_no_password_is_asked_for_on_a_command_line_or_without_a_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("k").display().to_string();
    // In a session of its own there is no terminal to ask.
    let exe = env!("CARGO_BIN_EXE_autonomy");
    let mut command = std::process::Command::new("setsid");
    command.args(["--wait", exe, "keys", "generate", "--type", "cosign", "--out", &out]).env_remove("COSIGN_PASSWORD");
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("set COSIGN_PASSWORD"), "{}", stderr(&output));
    assert!(tree(dir.path()).is_empty());
    for args in [["keys", "generate", "--help"], ["oci", "sign", "--help"]] {
        assert!(!stdout(&finish(&args)).contains("--password"));
    }
    let shop = Workshop::shared();
    let wrong = autonomy(&["keys", "inspect", &shop.key()]).env("COSIGN_PASSWORD", "wrong").output().unwrap();
    assert_eq!(wrong.status.code(), Some(1));
    assert!(stderr(&wrong).contains("COSIGN_PASSWORD") && !stderr(&wrong).contains("wrong)"), "{}", stderr(&wrong));
}

#[test]
fn a_lock_is_made_twice_the_same_and_tells_what_it_binds() {
    let shop = Workshop::shared();
    let dir = tempfile::tempdir().unwrap();
    let image = format!("oci:{}:v1", dir.path().join("layout").display());
    let agent = dir.path().join("agent");
    std::fs::write(&agent, "agent").unwrap();
    done(&["oci", "push", agent.to_str().unwrap(), "--to", &image]);
    let file = |name: &str| dir.path().join(name).display().to_string();
    let prompt = format!("sha256:{}", "ab".repeat(32));
    let create = |out: &str, more: &[&str]| {
        let (bundle, out) = (shop.bundle("1.0.0"), file(out));
        let args = ["lock", "create", "--image", &image, "--bundle", &bundle, "--name", "agent", "--version", "2.1.0"];
        with_password(&[&args[..], &["--sequence", "9", "--channel", "stable", "--out", &out], more].concat())
    };
    for out in ["a.json", "b.json"] {
        let made = create(out, &["--prompt-hash", &prompt]);
        assert!(made.status.success(), "{}", stderr(&made));
    }
    assert_eq!(std::fs::read(file("a.json")).unwrap(), std::fs::read(file("b.json")).unwrap());
    let fingerprint = done(&["lock", "fingerprint", &file("a.json")]);
    assert!(
        done(&["lock", "verify", &file("a.json")])
            .ends_with(&format!("blake3:{}", fingerprint.trim_start_matches("blake3:")))
    );
    let shown = done(&["lock", "show", &file("a.json")]);
    for line in ["lock: agent 2.1.0", "sequence: 9", "channels: stable", &format!("prompt: {prompt}")] {
        assert!(shown.lines().any(|found| found == line), "{line}: {shown}");
    }
    let whole = json(&done(&["lock", "show", &file("a.json"), "--output", "json"]));
    assert_eq!(whole.get("behavioral_fingerprint").and_then(Value::as_str), Some(fingerprint.trim()));
    let text = std::fs::read_to_string(file("a.json")).unwrap().replace("\"sequence\": 9", "\"sequence\": 10");
    std::fs::write(file("c.json"), text).unwrap();
    let changed = finish(&["lock", "verify", &file("c.json")]);
    assert_eq!(changed.status.code(), Some(1));
    assert!(
        stdout(&changed).starts_with("lock verify: FAILED — agent 2.1.0 (sequence 10) states blake3:"),
        "{}",
        stdout(&changed)
    );
    std::fs::write(file("d.json"), "{\"schema_version\":1}").unwrap();
    assert_eq!(finish(&["lock", "show", &file("d.json")]).status.code(), Some(1));
    assert_eq!(finish(&["lock", "show", &file("nothing.json")]).status.code(), Some(3));
    for more in [["--prompt-hash", "abc"], ["--tool-inputs-hash", "md5:00"]] {
        assert_eq!(create("e.json", &more).status.code(), Some(2));
    }
    let bad = create("e.json", &["--runtime-version", "^1"]);
    assert_eq!(bad.status.code(), Some(1));
    assert!(stderr(&bad).contains("--runtime-version"), "{}", stderr(&bad));
    assert!(!dir.path().join("e.json").exists());
}

#[test]
fn c07_the_same_files_are_the_same_image_wherever_they_are_pushed() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start();
    let rootfs = dir.path().join("rootfs");
    std::fs::create_dir_all(rootfs.join("bin")).unwrap();
    std::fs::write(rootfs.join("bin/agent"), "#!/bin/sh\n").unwrap();
    std::fs::write(dir.path().join("model.bin"), vec![7; 3_000_000]).unwrap();
    let (rootfs, model) = (rootfs.display().to_string(), dir.path().join("model.bin").display().to_string());
    for files in [vec![rootfs.as_str()], vec![model.as_str()]] {
        let push = |to: String| {
            let pushed =
                done(&[&["oci", "push"], files.as_slice(), &["--to", &to, "--platform", "linux/amd64"]].concat());
            pushed.lines().last().unwrap().to_owned()
        };
        let layout = push(format!("oci:{}:v1", dir.path().join("layout").display()));
        assert_eq!(layout, push(format!("{}/a/b:v1", registry.host)));
        assert_eq!(layout, push(format!("oci-archive:{}:v1", dir.path().join("a.tar").display())));
    }
    for (args, code) in [
        (vec!["oci", "push", &rootfs, &model, "--to", "oci:x:v1"], 2),
        (vec!["oci", "push", &model, "--to", "oci:x:v1", "--platform", "linux"], 2),
        (vec!["oci", "push", &model, "--to", "oci:x:v1", "-a", "novalue"], 2),
        (vec!["oci", "push", "/no/such/file", "--to", "oci:x:v1"], 3),
        (vec!["oci", "push", &model, "--to", "myapp:v1"], 2),
    ] {
        let output = autonomy(&args).current_dir(dir.path()).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", stderr(&output));
        assert!(!dir.path().join("x").exists(), "{args:?}");
    }
}

#[test]
fn what_people_get_wrong_is_said_and_changes_nothing() {
    let shop = Workshop::shared();
    let dir = tempfile::tempdir().unwrap();
    let layout = dir.path().join("layout");
    let (image, bundle, public) = (format!("oci:{}:v1", layout.display()), shop.bundle("1.0.0"), shop.public());
    shop.release(&image, &Recipe::default());
    let before = tree(&layout);
    let (nowhere, other) =
        (format!("oci:{}:v1", dir.path().join("none").display()), format!("oci:{}:v2", layout.display()));
    let garbage = dir.path().join("garbage").display().to_string();
    std::fs::write(&garbage, "garbage").unwrap();
    let (key, missing) = (shop.key(), "/no/such/file");
    for (args, code, words) in [
        (vec!["verify", "--image", &image], 2, "no key is trusted"),
        (vec!["verify", "--image", &image, "--pubkey", missing], 3, missing),
        (vec!["verify", "--image", &image, "--pubkey", &garbage], 1, "no such public key"),
        (vec!["verify", "--image", "agent", "--pubkey", &public], 2, "no registry is named"),
        (vec!["verify", "--image", &nowhere, "--pubkey", &public], 3, "none"),
        (vec!["verify", "--image", &other, "--pubkey", &public], 3, "v2"),
        (vec!["verify", "--image", "127.0.0.1:1/a:v1", "--pubkey", &public], 3, "127.0.0.1:1/a"),
        (vec!["verify", "--image", &image, "--pubkey", &public, "--max-age", "1"], 2, "no span of time"),
        (vec!["verify", "--image", &image, "--pubkey", &public, "--timeout", "1"], 2, "no span of time"),
        (vec!["policy", "load", "--bundle", &bundle, "--timeout", "1s"], 2, "cannot be used with"),
        (vec!["policy", "load", "--image", &image, "--bundle", &bundle], 2, "cannot be used with"),
        (vec!["policy", "load"], 2, "--image"),
        (vec!["oci", "attach-lock", "--image", &image, "--lock", &garbage], 1, "lock: "),
        (vec!["oci", "attach-policy", "--image", &image, "--bundle", &garbage], 1, "garbage"),
        (vec!["oci", "attach-lock", "--image", &nowhere, "--lock", &garbage], 1, "garbage"),
        (vec!["oci", "attach-policy", "--image", &nowhere, "--bundle", &bundle], 3, "none"),
        (vec!["oci", "sign", "--image", &other, "--key", &key], 3, "v2"),
        (vec!["oci", "sign", "--image", &image, "--key", &public], 1, "gives others access"),
        (vec!["oci", "sign", "--image", &image, "--key", &key, "-a", "autonomy.signed-at=yesterday"], 2, "RFC 3339"),
        (vec!["oci", "pull", &image, "--to", "127.0.0.1:1/a:v1"], 2, "oci copy"),
        (vec!["bundle", "import", &garbage, "--pubkey", &public], 3, "garbage"),
        (vec!["bundle", "import", missing, "--pubkey", &public], 3, missing),
        (vec!["bundle", "import", &garbage, "--pubkey", &public, "--channel", "stable"], 2, "--activate"),
        (vec!["release", "floor", "reset", "--name", "agent"], 2, "--reason"),
        (vec!["release", "floor", "reset", "--name", "agent", "--reason", " "], 2, "--reason"),
    ] {
        let output = with_password(&args);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(words), "{args:?}: {}", stderr(&output));
        assert_eq!(stdout(&output), "", "{args:?}");
        assert_eq!(tree(&layout), before, "{args:?}");
    }
    assert!(!dir.path().join("none").exists(), "a mistyped name makes no layout");
}

#[test]
fn a_registry_whose_port_is_taken_or_that_anybody_could_write_to_does_not_start() {
    let registry = Registry::start();
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("registry").display().to_string();
    let taken = finish(&["oci", "serve", "--listen", &registry.host, "--dir", &folder]);
    assert_eq!(taken.status.code(), Some(1));
    assert!(stderr(&taken).contains(&registry.host), "{}", stderr(&taken));
    let open = finish(&["oci", "serve", "--listen", "0.0.0.0:0", "--dir", &folder]);
    assert_eq!(open.status.code(), Some(2));
    assert!(stderr(&open).contains("--token-file"), "{}", stderr(&open));
    std::fs::create_dir_all(dir.path().join("other")).unwrap();
    std::fs::write(dir.path().join("other/file"), "x").unwrap();
    let other =
        finish(&["oci", "serve", "--listen", "127.0.0.1:0", "--dir", &dir.path().join("other").display().to_string()]);
    assert_eq!(other.status.code(), Some(1), "{}", stderr(&other));
}

#[test]
fn every_command_shows_examples() {
    for args in [
        vec!["verify"],
        vec!["lock", "create"],
        vec!["keys", "generate"],
        vec!["keys", "inspect"],
        vec!["oci", "push"],
        vec!["oci", "pull"],
        vec!["oci", "attach-lock"],
        vec!["oci", "attach-policy"],
        vec!["oci", "pull-lock"],
        vec!["oci", "pull-policy"],
        vec!["oci", "sign"],
        vec!["oci", "copy"],
        vec!["oci", "inspect"],
        vec!["oci", "serve"],
        vec!["bundle", "create"],
        vec!["bundle", "inspect"],
        vec!["bundle", "verify"],
        vec!["bundle", "import"],
        vec!["release", "floor", "reset"],
        vec!["policy", "load"],
        vec!["lock", "fingerprint"],
        vec!["lock", "verify"],
        vec!["lock", "show"],
    ] {
        let help = finish(&[&args[..], &["--help"]].concat());
        assert!(help.status.success() && stdout(&help).contains("Example"), "{args:?}: {}", stdout(&help));
    }
}
