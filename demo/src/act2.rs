//! Act 2 of the story: an image, its lock and its policy are signed once, and taken only when all four steps pass: from a
//! registry, and from one file where there is no network at all.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use machines::json::Value;

use crate::act1::{self, ECHO, SHELL, policy, post, start};
use crate::checks::Checks;
use crate::node::{Node, Running};
use crate::offline;
use crate::registry::Registry;
use crate::release::{Draft, Keys, Signer};
use crate::scratch::Scratch;
use crate::shell::{Around, Printed, Shell};

/// What a verification prints that passes.
pub const PASSES: [&str; 4] = [
    "[PASS] Step 1: cosign signature valid",
    "[PASS] Step 2: agent binary digest matches lock",
    "[PASS] Step 3: behavioral fingerprint matches BLAKE3(canonical(lock))",
    "[PASS] Step 4: policy bundle semver compatible with runtime",
];
const LOADED: [&str; 2] = ["policy loaded: echo_allow.rego + shell_deny.rego", "bundle hash: sha256:"];
/// The content of the agent's image: some bytes that can be found again.
const AGENT: &[u8] = b"#!/bin/sh\necho the agent of the story, version 1.0.0\n";
/// The lock that the documentation shows.
const EXAMPLE: &str = "demo/locks/example.lock.json";
/// A change of policy is served within a second.
const SERVED: Duration = Duration::from_millis(1500);

/// Plays Act 1's calls and Act 2, without Act 3.
///
/// # Errors
/// Something that the story needs does not run at all; a check that fails is no error.
pub fn alone(shell: &Shell, autonomy: &Path, policies: &Path) -> Result<Checks> {
    let scratch = Scratch::new(None)?;
    let mut checks = Checks::default();
    let node = Node::new(autonomy, &scratch.path().join("state"))?;
    policy(shell, &mut checks, &node, scratch.path(), policies)?;
    let running = start(shell, &node)?;
    play(shell, &mut checks, &node, &running, scratch.path())?;
    calls(shell, &mut checks, &running)?;
    let status = running.stop()?;
    checks.that("SIGTERM ends the runtime with 0", status.success(), &status.to_string());
    Ok(checks)
}

/// For machines where nothing is signed: the policy is loaded from its file, and decides.
///
/// # Errors
/// Something that the story needs does not run at all; a check that fails is no error.
pub fn unsigned(shell: &Shell, autonomy: &Path, policies: &Path) -> Result<Checks> {
    let scratch = Scratch::new(None)?;
    let mut checks = Checks::default();
    let node = Node::new(autonomy, &scratch.path().join("state"))?;
    policy(shell, &mut checks, &node, scratch.path(), policies)?;
    shell.say("Nobody signed this bundle; `make demo-run` shows the signed way.");
    let running = start(shell, &node)?;
    act1::enforcement(shell, &mut checks, &node, &running)?;
    let status = running.stop()?;
    checks.that("SIGTERM ends the runtime with 0", status.success(), &status.to_string());
    Ok(checks)
}

fn calls(shell: &Shell, checks: &mut Checks, running: &Running) -> Result<()> {
    shell.act("What was verified decides");
    let echo = post(shell, running, ECHO, ".decision")?;
    checks.that("echo: 200, decision \"allow\"", (echo.status, &*echo.text("decision")) == (200, "allow"), &echo.body);
    let denied = post(shell, running, SHELL, ".decision")?;
    let holds = (denied.status, &*denied.text("decision")) == (403, "deny");
    checks.that("shell: 403, decision \"deny\"", holds, &denied.body);
    Ok(())
}

/// Whether there is a file, or a folder with something in it.
fn filled(path: &Path) -> bool {
    std::fs::read_dir(path).map_or_else(|_| path.exists(), |mut entries| entries.next().is_some())
}

/// The parts of Act 2.
struct Play<'a> {
    shell: &'a Shell,
    checks: &'a mut Checks,
    node: &'a Node,
    /// Everything of the act is kept beneath it.
    folder: PathBuf,
    keys: Keys,
    image: String,
}

/// Plays it beside a runtime that runs, in `scratch`, where Act 1 built `bundle.tar.gz`. It makes no tool call.
///
/// # Errors
/// Something that the story needs does not run at all.
pub fn play(shell: &Shell, checks: &mut Checks, node: &Node, running: &Running, scratch: &Path) -> Result<()> {
    shell.act("Act 2: seed once, take only what is verified");
    let folder = scratch.join("supply");
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let registry = Registry::new(&node.autonomy, &folder.join("registry"))?;
    shell.say(&format!("The story's registry.local is {} here.", registry.address));
    let up = registry.start(shell)?;
    let keys = Keys::generate(shell, &folder.join("cosign"))?;
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&keys.private)?) & 0o777;
    checks.that("the private key's mode is 0600", mode == 0o600, &format!("{mode:o}"));
    let image = format!("{}/myapp:v1.0.0", registry.address);
    let mut play = Play { shell, checks, node, folder, keys, image };
    play.seed(&scratch.join("bundle.tar.gz"))?;
    play.verified(&scratch.join("bundle.tar.gz"), running)?;
    play.tampered(&registry)?;
    let archive = play.archive()?;
    shell.type_in(&format!("kill {}", up.pid));
    up.stop();
    shell.print("");
    play.offline(&archive)
}

impl Play<'_> {
    /// What the publisher does, once.
    fn seed(&mut self, bundle: &Path) -> Result<()> {
        let agent = self.folder.join("agent");
        std::fs::write(&agent, AGENT).with_context(|| format!("cannot write {}", agent.display()))?;
        let (lock, image) = (self.folder.join("autonomy.lock.json"), self.image.clone());
        let release = Draft {
            image: &image,
            agent: &agent,
            bundle,
            name: "myapp",
            version: "1.0.0",
            sequence: 1,
            channel: "stable",
            lock: &lock,
        };
        release.publish(self.shell)?;
        for lock in [lock.display().to_string(), EXAMPLE.into()] {
            let done = self.shell.autonomy(&["lock", "verify", &lock])?;
            let name = Path::new(&lock).file_name().unwrap_or_default().to_string_lossy().into_owned();
            self.checks.that(&format!("lock verify of {name} exits 0"), done.code == 0, &done.err);
        }
        let signer = Signer::installed();
        self.shell.say(&match &signer {
            Signer::Cosign(version) => format!("cosign {version} is installed, and signs."),
            Signer::Own => "cosign is not installed: `autonomy oci sign` signs, in cosign's own layouts.".into(),
        });
        let signed = signer.sign(self.shell, &self.keys, &image);
        let what = match signer {
            Signer::Cosign(version) => format!("cosign {version} signs image, lock and policy"),
            Signer::Own => "autonomy oci sign signs image, lock and policy".into(),
        };
        self.checks.that(&what, signed.is_ok(), &signed.err().map(|e| format!("{e:#}")).unwrap_or_default());
        Ok(())
    }

    fn verify(&self, around: Around<'_>, image: &str) -> Result<Printed> {
        let key = self.keys.public.display().to_string();
        self.shell.autonomy_around(around, &["verify", "--image", image, "--pubkey", &key, "--require-lock"])
    }

    /// The four lines in order, and the last one.
    fn passed(&mut self, what: &str, done: &Printed) {
        let want = format!("{}\nverification OK\n", PASSES.join("\n"));
        self.checks.that(&format!("{what}: four times PASS, verification OK"), done.out == want, &done.out);
        self.checks.that(&format!("{what}: exit 0"), done.code == 0, &format!("{}: {}", done.code, done.err));
    }

    fn loaded(&mut self, what: &str, done: &Printed) {
        for marker in LOADED {
            let detail = format!("{}{}", done.out, done.err);
            self.checks.that(&format!("{what}: {marker}"), done.out.contains(marker), &detail);
        }
        self.checks.that(&format!("{what}: exit 0"), done.code == 0, &done.err);
    }

    fn verified(&mut self, bundle: &Path, running: &Running) -> Result<()> {
        let done = self.verify(Around::default(), &self.image)?;
        for marker in PASSES {
            self.checks.marker(marker, &done.out);
        }
        self.passed("verify", &done);
        self.shell
            .say("Who signed, what was signed, how it behaves, whether it fits: any one fails, and it is refused.");

        let (bundle, root) = (bundle.display().to_string(), self.node.root.display().to_string());
        let done = self.shell.autonomy(&["policy", "load", "--bundle", &bundle, "--state-root", &root])?;
        self.loaded("policy load --bundle", &done);
        let key = self.keys.public.display().to_string();
        let image = ["policy", "load", "--image", &self.image, "--pubkey", &key, "--state-root", &root];
        let done = self.shell.autonomy(&image)?;
        self.loaded("policy load --image", &done);
        let hash = done.out.lines().find_map(|line| line.strip_prefix("bundle hash: ")).unwrap_or("none").to_owned();
        let served = self.served(running, &hash)?;
        self.checks.that("the runtime serves this bundle", served, &hash);
        let done = self.shell.autonomy(&["policy", "status", "--state-root", &root])?;
        self.checks.marker("lock: myapp 1.0.0 (sequence 1) blake3:", &done.out);
        self.checks.marker("floor: myapp 1", &done.out);
        Ok(())
    }

    /// Whether the runtime says within its time that this bundle decides.
    fn served(&self, running: &Running, hash: &str) -> Result<bool> {
        let until = std::time::Instant::now() + SERVED;
        loop {
            let status = running.get("/v1/status")?.json();
            let active = status.get("policy").and_then(|policy| policy.get("hash")).and_then(Value::as_str);
            if active == Some(hash) {
                return Ok(true);
            }
            if std::time::Instant::now() > until {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// One bit of the agent changes in the registry's folder.
    fn tampered(&mut self, registry: &Registry) -> Result<()> {
        self.shell.act("Act 2: one bit of the agent is changed in the registry");
        let blob = machines::oci::Digest::of(AGENT);
        let path = registry.dir.join("blobs/sha256").join(blob.hex());
        flip(&path, AGENT)?;
        let before = std::fs::read(self.node.root.join("activation.json"))?;
        let done = self.verify(Around::default(), &self.image)?;
        self.refused("the changed image", &done);
        let (root, key) = (self.node.root.display().to_string(), self.keys.public.display().to_string());
        let load = ["policy", "load", "--image", &self.image, "--pubkey", &key, "--state-root", &root];
        let done = self.shell.autonomy(&load)?;
        let marker = "policy load: REJECTED — step 2: ";
        let holds = done.code == 1 && done.err.contains(marker);
        self.checks.that(&format!("policy load --image of the changed image: {marker}…, exit 1"), holds, &done.err);
        let after = std::fs::read(self.node.root.join("activation.json"))?;
        self.checks.that("what is in force is as it was", before == after, "activation.json has changed");
        std::fs::write(&path, AGENT).with_context(|| format!("cannot write {}", path.display()))?;
        let done = self.verify(Around::default(), &self.image)?;
        self.passed("the bit is put back", &done);
        Ok(())
    }

    /// Step 1 passes, step 2 fails, and nothing more is tried.
    fn refused(&mut self, what: &str, done: &Printed) {
        let lines: Vec<&str> = done.out.lines().collect();
        let starts = [PASSES[0], "[FAIL] Step 2: ", "[SKIP] Step 3: ", "[SKIP] Step 4: "];
        let holds = lines.len() == 5
            && lines.iter().zip(starts).all(|(line, start)| line.starts_with(start))
            && lines.last() == Some(&"verification FAILED");
        let all = format!("{}{}", done.out, done.err);
        self.checks.that(&format!("{what}: FAIL at step 2, then SKIP, verification FAILED"), holds, &all);
        self.checks.that(&format!("{what}: exit 1"), done.code == 1, &done.code.to_string());
    }

    /// Everything in one file.
    fn archive(&mut self) -> Result<PathBuf> {
        self.shell.act("Act 2 without a network: one file, carried in");
        let archive = self.folder.join("site.tar");
        let out = archive.display().to_string();
        let done = self.shell.autonomy(&["bundle", "create", "--image", &self.image, "--out", &out])?;
        self.checks.that("bundle create exits 0", done.code == 0, &done.err);
        Ok(archive)
    }

    /// The same on a node that has no network, not even loopback.
    fn offline(&mut self, archive: &Path) -> Result<()> {
        let within = match offline::within() {
            Ok(within) => within,
            Err(why) => {
                self.checks.skipped("the archive is verified, imported and activated without a network", &why);
                return Ok(());
            }
        };
        let around = Around { within, ..Around::default() };
        self.shell.say("The registry is gone, and what follows runs where not even loopback is up.");
        let (image, key) = (self.image.clone(), self.keys.public.display().to_string());
        let done = self.verify(around, &image)?;
        self.checks.that("no network: the registry cannot be reached, exit 3", done.code == 3, &done.err);
        let file = archive.display().to_string();
        let done = self.verify(around, &format!("oci-archive:{file}"))?;
        self.passed("no network: verify of the archive", &done);

        let site = Node::new(&self.node.autonomy, &self.folder.join("site"))?;
        let root = site.root.display().to_string();
        let load = ["policy", "load", "--image", &format!("oci-archive:{file}"), "--pubkey", &key];
        let done = self.shell.autonomy_around(around, &[&load[..], &["--state-root", &root]].concat())?;
        self.loaded("no network: policy load --image of the archive", &done);

        let import = |file: &str, root: &str| {
            let import = ["bundle", "import", file, "--pubkey", &key, "--state-root", root];
            self.shell.autonomy_around(around, &[&import[..], &["--activate", "--channel", "stable"]].concat())
        };
        let done = import(&file, &root)?;
        let steps = format!("{}\nverification OK\n", PASSES.join("\n"));
        let holds =
            done.code == 0 && done.out.starts_with(&steps) && done.out.contains("bundle activated: myapp 1.0.0");
        let fresh = self.folder.join("fresh");
        let changed = self.folder.join("changed.tar");
        std::fs::copy(archive, &changed).with_context(|| format!("cannot write {}", changed.display()))?;
        flip(&changed, AGENT)?;
        let refused = import(&changed.display().to_string(), &fresh.display().to_string())?;
        self.checks.that("no network: bundle import verifies and activates, exit 0", holds, &done.out);
        self.refused("no network: the archive with one bit changed", &refused);
        let left = ["blobs", "activation.json", "policy/bundles", "policy/locks", "policy/verified"];
        let left: Vec<&str> = left.into_iter().filter(|name| filled(&fresh.join(name))).collect();
        self.checks.that("nothing of the changed archive is stored", left.is_empty(), &left.join(" "));
        let history = std::fs::read_to_string(fresh.join("policy/history.jsonl")).unwrap_or_default();
        self.checks.that("the history says that it was refused", history.contains(r#""event":"refused""#), &history);
        self.decides(&site)
    }

    /// A node that knows nothing but the archive decides by its policy.
    fn decides(&mut self, site: &Node) -> Result<()> {
        let running = start(self.shell, site)?;
        let echo = post(self.shell, &running, ECHO, ".decision")?;
        let holds = (echo.status, &*echo.text("decision"), &*echo.text("policy_ref")) == (200, "allow", "1.0.0");
        self.checks.that("the node that got the archive allows echo by policy 1.0.0", holds, &echo.body);
        let status = running.stop()?;
        self.checks.that("that node's runtime ends with 0", status.success(), &status.to_string());
        Ok(())
    }
}

/// Changes one bit in the middle of the first place in a file where these bytes stand.
fn flip(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut all = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let at = all.windows(bytes.len()).position(|window| window == bytes);
    let at = at.with_context(|| format!("{} does not hold the agent", path.display()))?;
    if let Some(byte) = all.get_mut(at + bytes.len() / 2) {
        *byte ^= 1;
    }
    std::fs::write(path, all).with_context(|| format!("cannot write {}", path.display()))
}
