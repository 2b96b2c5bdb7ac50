//! SPEC 6 to 8 from the outside: a release that is made, signed, carried, verified and put in force, from a layout, an
//! archive and our registry; keys, locks, floors; and the mistakes of people.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;

use machines::json::Value;
use tempfile::TempDir;

use crate::harness::{ECHO, Node, autonomy, finish, json, stderr, stdout};

pub const PASSED: &str = "[PASS] Step 1: cosign signature valid
[PASS] Step 2: agent binary digest matches lock
[PASS] Step 3: behavioral fingerprint matches BLAKE3(canonical(lock))
[PASS] Step 4: policy bundle semver compatible with runtime
verification OK
";

/// Runs a command with the password of the tests' keys.
pub fn with_password(args: &[&str]) -> Output {
    autonomy(args).env("COSIGN_PASSWORD", "correct horse").stdin(Stdio::null()).output().unwrap()
}

/// Runs a command that has to do it.
pub fn done(args: &[&str]) -> String {
    let output = with_password(args);
    assert!(output.status.success(), "{args:?}: {}{}", stdout(&output), stderr(&output));
    stdout(&output)
}

/// Everything in a folder: names and contents.
pub fn tree(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let Ok(entries) = std::fs::read_dir(dir) else { return found };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.push((path.clone(), Vec::new()));
            found.extend(tree(&path));
        } else {
            found.push((path.clone(), std::fs::read(&path).unwrap()));
        }
    }
    found.sort();
    found
}

pub fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let there = to.join(path.file_name().unwrap());
        if path.is_dir() { copy_folder(&path, &there) } else { std::fs::copy(&path, &there).map(drop).unwrap() }
    }
}

/// A folder with keys, policies and locks, in which releases are made.
pub struct Workshop {
    pub dir: TempDir,
}

/// What a release is made of; the rest is the same for all.
#[derive(Clone)]
pub struct Recipe {
    pub agent: &'static str,
    pub policy: &'static str,
    pub sequence: u64,
    pub lock: Vec<&'static str>,
    pub sign: Vec<&'static str>,
}

impl Default for Recipe {
    fn default() -> Self {
        Self { agent: "agent of the first release", policy: "1.0.0", sequence: 7, lock: Vec::new(), sign: Vec::new() }
    }
}

impl Workshop {
    fn new() -> Self {
        let shop = Self { dir: tempfile::tempdir().unwrap() };
        for key in ["ours", "theirs"] {
            done(&["keys", "generate", "--type", "cosign", "--out", &shop.path(key)]);
        }
        let policies = concat!(env!("CARGO_MANIFEST_DIR"), "/../../demo/policies");
        for version in ["1.0.0", "1.1.0"] {
            let out = shop.bundle(version);
            done(&["policy", "build", "--in", policies, "--out", &out, "--version", version]);
        }
        shop
    }

    /// One for all tests: keys are slow to open on purpose.
    pub fn shared() -> &'static Self {
        static SHOP: OnceLock<Workshop> = OnceLock::new();
        SHOP.get_or_init(Self::new)
    }

    pub fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    pub fn bundle(&self, version: &str) -> String {
        self.path(&format!("policy-{version}.tar.gz"))
    }

    pub fn public(&self) -> String {
        self.path("ours.pub")
    }

    pub fn key(&self) -> String {
        self.path("ours.key")
    }

    /// Makes the image and attaches lock and policy; nothing is signed.
    pub fn attach(&self, image: &str, recipe: &Recipe) {
        let scratch = tempfile::tempdir().unwrap();
        let agent = scratch.path().join("agent");
        std::fs::write(&agent, recipe.agent).unwrap();
        let lock = scratch.path().join("autonomy.lock.json").to_str().unwrap().to_owned();
        let (bundle, sequence) = (self.bundle(recipe.policy), recipe.sequence.to_string());
        done(&["oci", "push", agent.to_str().unwrap(), "--to", image]);
        let create = ["lock", "create", "--image", image, "--bundle", &bundle, "--name", "agent", "--version", "1.0.0"];
        done(&[&create[..], &["--sequence", &sequence, "--out", &lock], &recipe.lock].concat());
        done(&["oci", "attach-lock", "--image", image, "--lock", &lock]);
        done(&["oci", "attach-policy", "--image", image, "--bundle", &bundle]);
    }

    pub fn sign(&self, image: &str, recipe: &Recipe) {
        let key = self.key();
        done(&[&["oci", "sign", "--image", image, "--key", &key][..], &recipe.sign].concat());
    }

    /// A whole release.
    pub fn release(&self, image: &str, recipe: &Recipe) {
        self.attach(image, recipe);
        self.sign(image, recipe);
    }

    /// A release in an archive of its own.
    pub fn archive(&self, name: &str, recipe: &Recipe) -> String {
        let scratch = tempfile::tempdir().unwrap();
        let image = format!("oci:{}:v1", scratch.path().join("layout").display());
        self.release(&image, recipe);
        let out = self.path(name);
        done(&["bundle", "create", "--image", &image, "--out", &out]);
        out
    }

    pub fn verify(&self, image: &str, more: &[&str]) -> Output {
        let public = self.public();
        let args = ["verify", "--image", image, "--pubkey", &public, "--require-lock", "--require-policy"];
        finish(&[&args[..], more].concat())
    }

    pub fn load(&self, image: &str, node: &Node, more: &[&str]) -> Output {
        let public = self.public();
        let args = ["policy", "load", "--image", image, "--pubkey", &public, "--state-root", node.path()];
        finish(&[&args[..], more].concat())
    }

    pub fn import(&self, archive: &str, node: &Node, more: &[&str]) -> Output {
        let public = self.public();
        let args = ["bundle", "import", archive, "--pubkey", &public, "--state-root", node.path()];
        finish(&[&args[..], more].concat())
    }
}

/// Our own registry, as a process.
pub struct Registry {
    child: Child,
    pub host: String,
    _dir: TempDir,
}

impl Registry {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("registry").to_str().unwrap().to_owned();
        let mut command = autonomy(&["oci", "serve", "--listen", "127.0.0.1:0", "--dir", &folder]);
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
        let host = line.trim().strip_prefix("oci registry: listening on http://");
        let host = host.unwrap_or_else(|| panic!("{line}")).to_owned();
        Self { child, host, _dir: dir }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn root_can_unshare() -> bool {
    rustix_is_root() && Command::new("unshare").args(["-n", "true"]).status().is_ok_and(|status| status.success())
}

fn rustix_is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}

/// Act 2 of the story.
fn act_2(image: &str) {
    let shop = Workshop::shared();
    shop.release(image, &Recipe::default());
    let verified = shop.verify(image, &[]);
    assert_eq!((stdout(&verified).as_str(), verified.status.code()), (PASSED, Some(0)), "{}", stderr(&verified));
    let node = Node::bare();
    let loaded = shop.load(image, &node, &[]);
    let text = stdout(&loaded);
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("policy loaded: echo_allow.rego + shell_deny.rego"), "{}", stderr(&loaded));
    assert!(lines.next().unwrap().starts_with("bundle hash: sha256:") && lines.next().is_none(), "{text}");
    let runtime = node.start(&[]);
    let answer = runtime.call(ECHO);
    assert_eq!((answer.status, answer.text("policy_ref").as_str()), (200, "1.0.0"));
    let status = stdout(&finish(&["policy", "status", "--state-root", node.path()]));
    for line in ["lock: agent 1.0.0 (sequence 7) blake3:", "image: sha256:", "floor: agent 7", "time floor: "] {
        assert!(status.lines().any(|found| found.starts_with(line)), "{line}: {status}");
    }
}

#[test]
fn act_2_word_for_word_against_a_layout() {
    let dir = tempfile::tempdir().unwrap();
    act_2(&format!("oci:{}:v1.0.0", dir.path().join("layout").display()));
}

#[test]
fn act_2_word_for_word_against_an_archive() {
    let dir = tempfile::tempdir().unwrap();
    act_2(&format!("oci-archive:{}:v1.0.0", dir.path().join("site.tar").display()));
}

#[test]
fn act_2_word_for_word_against_our_registry() {
    let registry = Registry::start();
    act_2(&format!("{}/agents/myapp:v1.0.0", registry.host));
}

#[test]
fn what_is_copied_from_place_to_place_stays_whole_and_verifies() {
    let shop = Workshop::shared();
    let (registry, other, dir) = (Registry::start(), Registry::start(), tempfile::tempdir().unwrap());
    let image = format!("{}/agent:v1", registry.host);
    shop.release(&image, &Recipe::default());
    let archive = dir.path().join("a.tar").display().to_string();
    done(&["oci", "pull", &image, "--to", &format!("oci-archive:{archive}")]);
    drop(registry);
    let there = format!("{}/mirror/agent:v1", other.host);
    done(&["oci", "copy", &format!("oci-archive:{archive}"), &there]);
    let layout = format!("oci:{}", dir.path().join("layout").display());
    done(&["oci", "copy", &there, &layout]);
    for image in [&format!("oci-archive:{archive}"), &there, &layout] {
        assert_eq!(stdout(&shop.verify(image, &[])), PASSED, "{image}");
        let report = json(&done(&["oci", "inspect", image, "--output", "json"]));
        let tags: Vec<_> =
            report.get("tags").and_then(Value::as_array).unwrap().iter().filter_map(Value::as_str).collect();
        assert!(["v1", "v1-lock", "v1-policy"].iter().all(|tag| tags.contains(tag)), "{image}: {tags:?}");
        assert_eq!(report.get("lock_attached").and_then(Value::as_bool), Some(true));
        let signatures = report.get("signatures").and_then(Value::as_array).unwrap();
        assert!(signatures.len() == 2 && signatures.iter().all(|one| one.get("signed_at").unwrap().as_str().is_some()));
    }
    let again = dir.path().join("b.tar").display().to_string();
    done(&["bundle", "create", "--image", &there, "--out", &again]);
    assert_eq!(std::fs::read(&archive).unwrap(), std::fs::read(&again).unwrap(), "the same content, the same bytes");
    for (command, file) in [("pull-lock", "lock.json"), ("pull-policy", "policy.tar.gz")] {
        let out = dir.path().join(file).display().to_string();
        done(&["oci", command, "--image", &there, "--out", &out]);
    }
    assert!(
        done(&["lock", "verify", &dir.path().join("lock.json").display().to_string()]).starts_with("lock verify: OK")
    );
    assert_eq!(std::fs::read(dir.path().join("policy.tar.gz")).unwrap(), std::fs::read(shop.bundle("1.0.0")).unwrap());
}

#[test]
fn one_archive_brings_a_release_where_there_is_no_network() {
    let shop = Workshop::shared();
    let archive = shop.archive("airgap.tar", &Recipe { lock: vec!["--channel", "stable"], ..Recipe::default() });
    let node = Node::bare();
    let (public, path) = (shop.public(), node.path().to_owned());
    let import =
        ["bundle", "import", &archive, "--pubkey", &public, "--state-root", &path, "--activate", "--channel", "stable"];
    // Without root the same, with the network left alone.
    let cut_off = root_can_unshare();
    let run = |args: &[&str]| {
        if cut_off {
            let exe = env!("CARGO_BIN_EXE_autonomy");
            Command::new("unshare").args(["-n", exe]).args(args).stdin(Stdio::null()).output().unwrap()
        } else {
            finish(args)
        }
    };
    let verified = run(&["bundle", "verify", &archive, "--pubkey", &public]);
    assert_eq!(stdout(&verified), PASSED, "{}", stderr(&verified));
    let imported = run(&import);
    let text = stdout(&imported);
    assert!(imported.status.success(), "{}", stderr(&imported));
    assert!(
        text.starts_with(PASSED) && text.contains("\nbundle activated: agent 1.0.0 (sequence 7) blake3:"),
        "{text}"
    );
    let blobs = std::fs::read_dir(node.root.path().join("blobs/sha256")).unwrap().count();
    assert!(blobs >= 10, "{blobs}");
    assert_eq!(node.start(&[]).call(ECHO).status, 200);
    let wrong = shop.import(&archive, &node, &["--activate", "--channel", "beta"]);
    assert_eq!(wrong.status.code(), Some(1));
    assert!(stderr(&wrong).starts_with("bundle import: REJECTED — wrong_channel: "), "{}", stderr(&wrong));
}

#[test]
fn u01_a_node_that_took_sequence_7_refuses_a_signed_6_also_after_a_restart() {
    let shop = Workshop::shared();
    let new = shop.archive("seven.tar", &Recipe::default());
    let old =
        shop.archive("six.tar", &Recipe { sequence: 6, agent: "an older agent", policy: "1.1.0", ..Recipe::default() });
    let node = Node::bare();
    assert!(shop.import(&new, &node, &["--activate"]).status.success());
    node.start(&[]).stop();
    let refused = "rollback: sequence 6 of `agent` is below its floor 7";
    let activation = node.root.path().join("activation.json");
    let before = (std::fs::read(&activation).unwrap(), tree(&node.root.path().join("blobs")));
    let image = format!("oci-archive:{old}");
    assert_eq!(stdout(&shop.verify(&image, &[])), PASSED, "it is a good release");
    for (output, marker) in [
        (shop.import(&old, &node, &["--activate"]), "bundle import: REJECTED — "),
        (shop.load(&image, &node, &[]), "policy load: REJECTED — "),
    ] {
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).starts_with(&format!("{marker}{refused}")), "{}", stderr(&output));
        assert_eq!((std::fs::read(&activation).unwrap(), tree(&node.root.path().join("blobs"))), before);
    }
    // The operator's way out is recorded, and opens the door.
    let reset = |name: &str| {
        finish(&["release", "floor", "reset", "--name", name, "--reason", "drill", "--state-root", node.path()])
    };
    assert_eq!(reset("other").status.code(), Some(1));
    assert!(stderr(&reset("other")).starts_with("release floor reset: REJECTED — there is no floor of `other`"));
    assert_eq!(stdout(&reset("agent")), "release floor reset: agent\n");
    assert!(shop.load(&image, &node, &[]).status.success());
    let history = std::fs::read_to_string(node.root.path().join("policy/history.jsonl")).unwrap();
    assert!(history.contains("agent 7: drill"), "{history}");
}

#[test]
fn t09_a_clock_that_was_set_back_revives_no_release() {
    let shop = Workshop::shared();
    // Signed two years ahead of the clock: what the node has seen is later than what its clock says from now on.
    let ahead = vec!["-a", "autonomy.signed-at=2028-12-01T00:00:00Z"];
    let late = shop.archive("late.tar", &Recipe { sign: ahead, ..Recipe::default() });
    let early = shop.archive("early.tar", &Recipe { sequence: 8, ..Recipe::default() });
    let (node, image) = (Node::bare(), format!("oci-archive:{early}"));
    assert!(shop.load(&image, &Node::bare(), &[]).status.success(), "by the clock alone it is fresh");
    assert!(shop.load(&format!("oci-archive:{late}"), &node, &[]).status.success());
    let refused = shop.load(&image, &node, &[]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        stderr(&refused).starts_with("policy load: REJECTED — step 1: expired: signed at "),
        "{}",
        stderr(&refused)
    );
    let by_floor = shop.verify(&image, &["--state-root", node.path()]);
    assert!(
        stdout(&by_floor).starts_with("[FAIL] Step 1: cosign signature valid — expired: "),
        "{}",
        stdout(&by_floor)
    );
    assert_eq!(stdout(&shop.verify(&image, &["--state-root", node.path(), "--max-age", "30000h"])), PASSED);
    // A floor that cannot be read is not passed over.
    std::fs::write(node.root.path().join("activation.json"), "{").unwrap();
    let damaged = shop.verify(&image, &["--state-root", node.path()]);
    assert_eq!(damaged.status.code(), Some(1));
    assert!(stderr(&damaged).contains("activation.json: damaged"), "{}", stderr(&damaged));
}

#[test]
fn without_a_lock_only_the_signature_is_said_to_hold() {
    let shop = Workshop::shared();
    let dir = tempfile::tempdir().unwrap();
    let image = format!("oci:{}:v1", dir.path().join("layout").display());
    let (agent, lock) = (dir.path().join("agent"), dir.path().join("lock.json").display().to_string());
    std::fs::write(&agent, "agent").unwrap();
    done(&["oci", "push", agent.to_str().unwrap(), "--to", &image]);
    shop.sign(&image, &Recipe::default());
    let (public, bundle) = (shop.public(), shop.bundle("1.0.0"));
    let verify = || stdout(&finish(&["verify", "--image", &image, "--pubkey", &public]));
    let skipped = PASSED.replace("[PASS]", "[SKIP]").replace("[SKIP] Step 1", "[PASS] Step 1");
    assert_eq!(verify(), skipped.replace("OK", "OK (signature only)"));
    let create = ["lock", "create", "--image", &image, "--bundle", &bundle, "--name", "agent", "--version", "1.0.0"];
    done(&[&create[..], &["--sequence", "1", "--out", &lock]].concat());
    done(&["oci", "attach-lock", "--image", &image, "--lock", &lock]);
    shop.sign(&image, &Recipe::default());
    let expected = PASSED.replace("[PASS] Step 4", "[SKIP] Step 4").replace("OK", "OK (signature and lock only)");
    assert_eq!(verify(), expected);
    let refused = shop.load(&image, &Node::bare(), &[]);
    assert!(stderr(&refused).starts_with("policy load: REJECTED — step 1: "), "{}", stderr(&refused));
    let incomplete =
        finish(&["bundle", "create", "--image", &image, "--out", &dir.path().join("x.tar").display().to_string()]);
    assert_eq!(incomplete.status.code(), Some(1));
    assert!(stderr(&incomplete).contains("no policy bundle is attached"), "{}", stderr(&incomplete));
}

#[test]
fn only_what_passed_the_four_steps_here_is_admitted_where_that_is_required() {
    let shop = Workshop::shared();
    let archive = shop.archive("required.tar", &Recipe::default());
    let node = Node::bare();
    let keys = node.root.path().join("keys");
    std::fs::create_dir(&keys).unwrap();
    std::fs::copy(shop.public(), keys.join("ours.pub")).unwrap();
    let config = node.root.path().join("runtime.toml");
    let text = format!(
        "[node]\nname = \"agent\"\nstate_root = {:?}\n[policy]\nrequire_verified = true\n[trust]\ncosign_keys = {:?}\n",
        node.path(),
        keys.display().to_string()
    );
    std::fs::write(&config, &text).unwrap();
    let (config, bundle) = (config.display().to_string(), shop.bundle("1.0.0"));
    let load = || finish(&["policy", "load", "--bundle", &bundle, "--config", &config]);
    let refused = load();
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("did not pass the four steps on this node"), "{}", stderr(&refused));
    // Keys and state root are the file's.
    let imported = finish(&["bundle", "import", &archive, "--config", &config]);
    assert!(stdout(&imported).contains("bundle imported: agent 1.0.0"), "{}", stderr(&imported));
    assert!(stdout(&finish(&["policy", "status", "--state-root", node.path()])).starts_with("active: none"));
    assert!(load().status.success(), "{}", stderr(&load()));
    // A flag narrows what the file trusts, and never widens it.
    let theirs = shop.path("theirs.pub");
    let widened = finish(&["bundle", "import", &archive, "--config", &config, "--pubkey", &theirs]);
    assert_eq!(widened.status.code(), Some(1));
    assert!(stderr(&widened).contains("is not among the keys of `trust.cosign_keys`"), "{}", stderr(&widened));
    std::fs::write(node.root.path().join("runtime.toml"), text.replace("\"agent\"", "\"other\"")).unwrap();
    let wrong = finish(&["bundle", "import", &archive, "--config", &config, "--activate"]);
    assert!(stderr(&wrong).starts_with("bundle import: REJECTED — wrong_name: "), "{}", stderr(&wrong));
}
