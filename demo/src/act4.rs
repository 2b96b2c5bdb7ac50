//! Act 4 of the story and its coda: the operating system under the node is replaced; the node rebuilds its runtime from a
//! signed manifest, its epoch advances once, and without the key it refuses to start.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use machines::precheck::files::{Fingerprint, Name};

use crate::checks::Checks;
use crate::edge::Edge;
use crate::node::Node;
use crate::scratch::Scratch;
use crate::shell::Shell;

/// What stands for the runtime's binary.
pub const AGENT: &[u8] = b"#!/bin/sh\necho the agent's runtime, version 1\n";

/// Plays Act 4 and the coda alone.
///
/// # Errors
/// Something that the story needs does not run at all; a check that fails is no error.
pub fn alone(shell: &Shell, autonomy: &Path, _policies: &Path) -> Result<Checks> {
    let scratch = Scratch::new(None)?;
    let mut checks = Checks::default();
    let node = Node::new(autonomy, &scratch.path().join("state"))?;
    let edge = play(shell, &mut checks, &node, scratch.path())?;
    coda(shell, &mut checks, &edge)?;
    Ok(checks)
}

/// Plays Act 4 on the state root of this node.
///
/// # Errors
/// Something that the story needs does not run at all.
pub fn play(shell: &Shell, checks: &mut Checks, node: &Node, scratch: &Path) -> Result<Edge> {
    shell.act("Act 4: the operating system is replaced, the node goes on");
    let edge = Edge::new(node, scratch)?;
    let init = edge.init(shell)?;
    checks.that("edged init exits 0", init.code == 0, &init.err);
    seal(shell, checks, &edge, 1)?;
    let first = edge.precheck(shell)?;
    checks.that("the first precheck exits 0", first.code == 0, &first.err);

    tamper(shell, &edge)?;
    let done = edge.precheck(shell)?;
    checks.that("the precheck on another system exits 0", done.code == 0, &done.err);
    let zeros = "0".repeat(64);
    checks.marker(
        &format!(r#"level=WARN msg="edge.os.update_detected" previous_hash="{zeros}" current_hash=""#),
        &done.err,
    );
    checks.marker(r#"level=INFO msg="edge.os.reconstruction_started""#, &done.err);
    checks.marker(r#"level=INFO msg="edge.os.reconstruction_completed" duration_seconds="#, &done.err);
    checks.that("it ends with boot_epoch=1", done.err.lines().any(|line| line.ends_with(" boot_epoch=1")), &done.err);
    checks.that("what was signed is installed", edge.installed("agent")? == AGENT, "the binary is another one");
    let epoch = shell.sibling("edgectl", &["epoch", "--state-root", &edge.root()])?;
    checks.marker("BootEpoch: 1", &epoch.out);
    checks.that("the fingerprint says boot_epoch 1", stored(&edge)?.boot_epoch == 1, "it says another");

    let running = edge.start(shell)?;
    let live = edge.edgectl(shell, &["epoch"])?;
    checks.marker("BootEpoch: 1", &live.out);
    let held = edge.precheck(shell)?;
    checks.that("a precheck beside a running edged exits 4", held.code == 4, &held.err);
    let status = running.stop()?;
    checks.that("SIGTERM ends edged with 0", status.success(), &status.to_string());
    shell
        .say("Another system was noticed, the manifest verified, its very bytes carried out, the epoch advanced once.");
    Ok(edge)
}

/// Plays the fail-closed coda on the edge of Act 4.
///
/// # Errors
/// Something that the story needs does not run at all.
pub fn coda(shell: &Shell, checks: &mut Checks, edge: &Edge) -> Result<()> {
    shell.act("The coda: what cannot be verified does not start");
    tamper(shell, edge)?;
    let (key, away) = (edge.path(Name::Key), edge.folder.join("manifest-verify.pub"));
    shell.type_in(&format!("mv {} {}", key.display(), edge.folder.display()));
    rename(&key, &away)?;
    shell.print("");
    let refused = edge.precheck(shell)?;
    shell.print(&format!("Exit: {}", refused.code));
    checks.marker(r#"level=ERROR msg="precheck: manifest verify key missing on reconstruction path""#, &refused.err);
    checks.that("Exit: 5", refused.code == 5, &refused.err);
    let not_started = edge.start_refused(shell)?;
    checks.that("edged run refuses to start", not_started.code == 5, &not_started.err);
    shell.type_in(&format!("mv {} {}", away.display(), key.display()));
    rename(&away, &key)?;
    shell.print("");
    let again = edge.precheck(shell)?;
    checks.that("with the key back, the precheck exits 0", again.code == 0, &again.err);
    checks.that("and the epoch is 2", stored(edge)?.boot_epoch == 2, "it is another");
    Ok(())
}

/// Makes and signs a manifest whose one binary is [`AGENT`].
///
/// # Errors
/// The binary cannot be run, or a file cannot be written.
pub fn seal(shell: &Shell, checks: &mut Checks, edge: &Edge, version: u64) -> Result<()> {
    let files = edge.files()?;
    write(&files.join("bin/agent"), AGENT)?;
    let prefix = edge.folder.join("manifest").display().to_string();
    if !Path::new(&format!("{prefix}.key")).exists() {
        let made = shell.autonomy(&["keys", "generate", "--type", "manifest", "--out", &prefix])?;
        checks.that("keys generate exits 0", made.code == 0, &made.err);
        std::fs::copy(format!("{prefix}.pub"), edge.path(Name::Key)).context("cannot lay the key in identity/")?;
    }
    let manifest = edge.path(Name::Manifest);
    let (input, out) = (files.display().to_string(), edge.runtime().display().to_string());
    let file = manifest.display().to_string();
    let version = version.to_string();
    let create = ["manifest", "create", "--in", &input, "--version", &version, "--out", &out, "--binary", "bin/agent"];
    let made = shell.autonomy(&create)?;
    checks.that("manifest create exits 0", made.code == 0, &made.err);
    let signed = shell.autonomy(&["manifest", "sign", "--key", &format!("{prefix}.key"), &file])?;
    checks.that("manifest sign exits 0", signed.code == 0, &signed.err);
    let public = format!("{prefix}.pub");
    let root = edge.root();
    let verified = shell.autonomy(&["manifest", "verify", "--pubkey", &public, "--state-root", &root, &file])?;
    checks.marker("manifest OK: version", &verified.out);
    Ok(())
}

/// Zeros the stored fingerprint, as the story does.
///
/// # Errors
/// The file cannot be read or written.
pub fn tamper(shell: &Shell, edge: &Edge) -> Result<()> {
    let path = edge.path(Name::Fingerprint);
    shell.type_in(&format!(
        "sed -i 's/\"composite_hash\": \"[0-9a-f]*\"/\"composite_hash\": \"000…000\"/' {}",
        path.display()
    ));
    let mut stored = stored(edge)?;
    stored.composite_hash = machines::ids::Hash32([0; 32]);
    std::fs::write(&path, stored.to_bytes()).with_context(|| format!("cannot write {}", path.display()))?;
    shell.print("fingerprint tampered — OS replacement simulated");
    Ok(())
}

/// The stored fingerprint.
///
/// # Errors
/// The file cannot be read.
pub fn stored(edge: &Edge) -> Result<Fingerprint> {
    let path = edge.path(Name::Fingerprint);
    let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Fingerprint::parse(&bytes).map_err(anyhow::Error::msg)
}

/// Renames a file.
///
/// # Errors
/// It cannot be renamed.
pub fn rename(from: &PathBuf, to: &PathBuf) -> Result<()> {
    std::fs::rename(from, to).with_context(|| format!("cannot move {} to {}", from.display(), to.display()))
}

/// Writes a file, executable, with the folders above it.
///
/// # Errors
/// It cannot be written.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = path.parent().context("a file lies in a folder")?;
    std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    std::fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).context("cannot set a mode")
}
