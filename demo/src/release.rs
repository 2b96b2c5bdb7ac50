//! A release as its publisher makes it: keys, image, lock, policy bundle, signatures.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use machines::json::{Limits, Value, parse};

use crate::shell::{Around, Printed, Shell};

/// The password of every key that is made here. They live as long as their temporary folder.
const PASSWORD: &[(&str, &str)] = &[("COSIGN_PASSWORD", "as long as the play lasts")];

/// A key pair in cosign's format.
#[derive(Clone, Debug)]
pub struct Keys {
    /// `PREFIX.key`
    pub private: PathBuf,
    /// `PREFIX.pub`
    pub public: PathBuf,
}

impl Keys {
    /// Makes a pair.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn generate(shell: &Shell, prefix: &Path) -> Result<Self> {
        let out = prefix.display().to_string();
        let around = Around { variables: PASSWORD, ..Around::default() };
        let done = shell.autonomy_around(around, &["keys", "generate", "--type", "cosign", "--out", &out])?;
        ensure!(done.code == 0, "keys generate failed: {}", done.err);
        let named = |ending: &str| PathBuf::from(format!("{out}.{ending}"));
        Ok(Self { private: named("key"), public: named("pub") })
    }
}

/// What is released.
#[derive(Clone, Copy, Debug)]
pub struct Draft<'a> {
    /// Where the image goes, with a tag.
    pub image: &'a str,
    /// The agent's one file.
    pub agent: &'a Path,
    /// The policy bundle.
    pub bundle: &'a Path,
    /// The lock's name.
    pub name: &'a str,
    /// The lock's version.
    pub version: &'a str,
    /// The lock's sequence.
    pub sequence: u64,
    /// The lock's only channel.
    pub channel: &'a str,
    /// The lock to write.
    pub lock: &'a Path,
}

impl Draft<'_> {
    /// Pushes the image, makes its lock, attaches lock and policy. Nothing is signed yet.
    ///
    /// # Errors
    /// A command fails.
    pub fn publish(&self, shell: &Shell) -> Result<()> {
        let text = |path: &Path| path.display().to_string();
        let (agent, bundle, lock) = (text(self.agent), text(self.bundle), text(self.lock));
        let sequence = self.sequence.to_string();
        succeeded(&shell.autonomy(&["oci", "push", &agent, "--to", self.image])?)?;
        let create = ["lock", "create", "--image", self.image, "--bundle", &bundle, "--name", self.name];
        let more = ["--version", self.version, "--sequence", &sequence, "--channel", self.channel];
        let fits = ["--runtime-version", ">=0.1.0 <2.0.0", "--out", &lock];
        succeeded(&shell.autonomy(&[&create[..], &more, &fits].concat())?)?;
        succeeded(&shell.autonomy(&["oci", "attach-lock", "--image", self.image, "--lock", &lock])?)?;
        succeeded(&shell.autonomy(&["oci", "attach-policy", "--image", self.image, "--bundle", &bundle])?)
    }
}

/// Fails with what a command said.
///
/// # Errors
/// Its exit code is not 0.
pub fn succeeded(done: &Printed) -> Result<()> {
    ensure!(done.code == 0, "exit {}: {}{}", done.code, done.out, done.err);
    Ok(())
}

/// Who signs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signer {
    /// `autonomy oci sign`
    Own,
    /// The real cosign, of this version.
    Cosign(String),
}

impl Signer {
    /// cosign when a version that signs images by key without any service is on the path, else our own.
    #[must_use]
    pub fn installed() -> Self {
        let asked = Command::new("cosign").arg("version").stdin(Stdio::null()).output();
        let Ok(done) = asked else { return Self::Own };
        let text = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        version_of(&text).map_or(Self::Own, Self::Cosign)
    }

    /// Signs the image of a registry, its lock and its policy, with these annotations besides the time.
    ///
    /// # Errors
    /// It cannot sign.
    pub fn sign(&self, shell: &Shell, keys: &Keys, image: &str) -> Result<()> {
        match self {
            Self::Own => own(shell, keys, image, &[]),
            Self::Cosign(_) => cosign(shell, keys, image),
        }
    }
}

/// The version, when it is 2 or later: cosign 1 cannot do without a transparency log.
fn version_of(text: &str) -> Option<String> {
    let version = text.lines().find_map(|line| line.strip_prefix("GitVersion:"))?.trim();
    let major: u32 = version.trim_start_matches('v').split('.').next()?.parse().ok()?;
    (major >= 2).then(|| version.to_owned())
}

/// `autonomy oci sign`; `more` stands behind it.
///
/// # Errors
/// It fails.
pub fn own(shell: &Shell, keys: &Keys, image: &str, more: &[&str]) -> Result<()> {
    let key = keys.private.display().to_string();
    let sign = ["oci", "sign", "--image", image, "--key", &key];
    let around = Around { variables: PASSWORD, ..Around::default() };
    succeeded(&shell.autonomy_around(around, &[&sign[..], more].concat())?)
}

/// `cosign sign`, for the image, the lock and the policy each, since cosign knows nothing of what belongs together.
fn cosign(shell: &Shell, keys: &Keys, image: &str) -> Result<()> {
    let told = shell.quietly(&["oci", "inspect", image, "--output", "json"])?;
    succeeded(&told)?;
    let told = parse(told.out.as_bytes(), &Limits::default()).map_err(|e| anyhow::anyhow!("oci inspect: {e:?}"))?;
    let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).map(ToOwned::to_owned);
    let mut digests = vec![text(&told, "digest").context("oci inspect names no digest")?];
    for attached in told.get("attached").and_then(Value::as_array).into_iter().flatten() {
        digests.push(text(attached, "manifest").context("oci inspect names no manifest")?);
    }
    let (repository, _) = image.rsplit_once(':').context("an image without a tag")?;
    let help = Command::new("cosign").args(["sign", "--help"]).stdin(Stdio::null()).output().context("cosign")?;
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    let key = keys.private.display().to_string();
    let now = machines::time::Wall::from_micros(u64::try_from(
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_micros(),
    )?);
    let signed_at = format!("{}={now}", machines::signature::SIGNED_AT);
    let mut sign = vec!["sign", "--yes", "--key", &key, "--tlog-upload=false", "-a", &signed_at];
    // cosign 3 asks its services unless it is told not to; cosign 2 may not know the word.
    if help.contains("--use-signing-config") {
        sign.push("--use-signing-config=false");
    }
    for digest in digests {
        let subject = format!("{repository}@{digest}");
        let around = Around { variables: PASSWORD, ..Around::default() };
        succeeded(&shell.other(around, "cosign", &[&sign[..], &[&subject]].concat())?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_cosign_that_signs_without_services_is_used() {
        assert_eq!(version_of("  ___\nGitVersion:    v3.1.3\nGitCommit: x\n"), Some("v3.1.3".into()));
        assert_eq!(version_of("GitVersion:    v1.13.1\n"), None);
        assert_eq!(version_of("GitVersion:    devel\n"), None);
        assert_eq!(version_of("cosign: not found"), None);
    }
}
