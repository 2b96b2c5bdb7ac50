//! `autonomy verify`, `lock …`, `keys …`, `release …`

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use machines::oci::Reference;

use super::PolicyPlace;
use crate::config::span_arg;

/// An image reference for clap.
pub fn reference_arg(text: &str) -> Result<Reference, String> {
    Reference::parse(text).map_err(|refusal| refusal.to_string())
}

/// How a registry is spoken to.
#[derive(Clone, Debug, Default, Args)]
pub struct Access {
    /// Certificates (PEM) that a registry's certificate must lead to [default: those of the public authorities]
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Speak plain HTTP beyond loopback, without credentials
    #[arg(long)]
    pub plain_http: bool,
    /// A Docker configuration file with credentials [default: $DOCKER_CONFIG/config.json, else ~/.docker/config.json]
    #[arg(long, value_name = "FILE", env = "REGISTRY_AUTH_FILE")]
    pub authfile: Option<PathBuf>,
    /// A host that a registry's credentials may be sent to for a token; may repeat
    #[arg(long = "token-host", value_name = "HOST")]
    pub token_hosts: Vec<String>,
}

/// Whose signatures count, and how old they may be.
#[derive(Clone, Debug, Args)]
pub struct Trust {
    /// A public key of cosign's; may repeat [default: the folder `trust.cosign_keys` of the configuration file]
    #[arg(long, visible_aliases = ["pub", "pub-key"], value_name = "FILE")]
    pub pubkey: Vec<PathBuf>,
    /// How long ago an image may have been signed [default: 8760h]
    #[arg(long, value_name = "SPAN", value_parser = span_arg)]
    pub max_age: Option<Duration>,
    /// How long the verification may take in all; then the image counts as one that cannot be read [default: 10m]
    #[arg(long, value_name = "SPAN", value_parser = span_arg)]
    pub timeout: Option<Duration>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  autonomy verify --image localhost:5000/agent:v1 --pubkey cosign.pub --require-lock --require-policy
  autonomy verify --image oci-archive:site.tar --pubkey cosign.pub --require-lock --require-policy
  autonomy verify --image registry.internal/agent@sha256:… --pubkey a.pub --pubkey b.pub --max-age 720h --output json

Four steps: signatures; the image's and the policy's digests against the lock; the behavioural fingerprint; versions. A
lock that is attached is always checked. Without one, only the signature is: say --require-lock where it matters.

Exit codes: 0 verified, 1 a step failed, 3 the image cannot be reached or read, so that nothing is known.")]
pub struct Verify {
    /// The image: registry/name:tag, registry/name@sha256:…, oci:DIR[:tag] or oci-archive:FILE[:tag]
    #[arg(long, value_name = "REF", value_parser = reference_arg)]
    pub image: Reference,
    #[command(flatten)]
    pub trust: Trust,
    /// Fail when no lock is attached
    #[arg(long)]
    pub require_lock: bool,
    /// Fail when no policy bundle is attached
    #[arg(long)]
    pub require_policy: bool,
    /// Let a signature count that does not say when it was made; what is activated must say so
    #[arg(long)]
    pub allow_undated: bool,
    #[command(flatten)]
    pub place: PolicyPlace,
    #[command(flatten)]
    pub access: Access,
}

#[derive(Debug, Subcommand)]
pub enum Lock {
    /// Bind an image, a policy bundle and what else shapes the agent; the same input gives the same bytes.
    #[command(after_help = "Example:
  autonomy lock create --image localhost:5000/agent:v1 --bundle policy.tar.gz --name agent --version 1.0.0 \\
    --sequence 7 --channel stable --runtime-version '>=0.1.0 <2.0.0' --out autonomy.lock.json

The image's digest is resolved now. Attach the lock with `autonomy oci attach-lock`, then sign all with `autonomy oci sign`.")]
    Create(LockCreate),
    /// Print the fingerprint that a lock must have.
    #[command(after_help = "Example:
  autonomy lock fingerprint autonomy.lock.json")]
    Fingerprint(LockFile),
    /// Check a lock by itself: its schema and its fingerprint.
    #[command(after_help = "Example:
  autonomy lock verify demo/locks/example.lock.json

Whether the image and the policy are what it binds, `autonomy verify` finds out.")]
    Verify(LockFile),
    /// Print what a lock binds.
    #[command(after_help = "Example:
  autonomy lock show autonomy.lock.json --output json | jq .agent_artifact")]
    Show(LockFile),
}

#[derive(Debug, Args)]
pub struct LockCreate {
    /// The agent's image
    #[arg(long, value_name = "REF", value_parser = reference_arg)]
    pub image: Reference,
    /// Its policy bundle
    #[arg(long, value_name = "FILE")]
    pub bundle: PathBuf,
    /// The lock's name; a node keeps to one
    #[arg(long, value_name = "N")]
    pub name: String,
    /// Its version: a semantic version
    #[arg(long = "version", value_name = "V")]
    pub lock_version: String,
    /// Its sequence; a node takes no lower one once it has taken this
    #[arg(long, value_name = "S")]
    pub sequence: u64,
    /// A channel that it is for; may repeat [default: all]
    #[arg(long = "channel", value_name = "C")]
    pub channels: Vec<String>,
    /// Runtimes that it fits, like '>=0.1.0 <2.0.0' [default: the bundle's, else any]
    #[arg(long, value_name = "RANGE")]
    pub runtime_version: Option<String>,
    /// Hash of the agent's prompt, sha256:… or blake3:…
    #[arg(long, value_name = "HASH")]
    pub prompt_hash: Option<String>,
    /// Hash of its tools' descriptions, sha256:… or blake3:…
    #[arg(long, value_name = "HASH")]
    pub tool_inputs_hash: Option<String>,
    /// Where the bundle will lie [default: <tag>-policy beside the image]
    #[arg(long, value_name = "REF", value_parser = reference_arg)]
    pub policy_ref: Option<Reference>,
    /// The lock to write
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    #[command(flatten)]
    pub access: Access,
}

#[derive(Debug, Args)]
pub struct LockFile {
    /// The lock
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

/// What a key pair is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KeyType {
    /// Signs images, locks and policies: ECDSA P-256, encrypted with COSIGN_PASSWORD, as cosign has it.
    Cosign,
    /// Signs manifests of operations: Ed25519.
    Manifest,
    /// Signs relay objects: Ed25519.
    Publisher,
}

#[derive(Debug, Subcommand)]
pub enum Keys {
    /// Make PREFIX.key (mode 0600) and PREFIX.pub; no file is ever overwritten.
    #[command(after_help = "Examples:
  autonomy keys generate --type cosign --out cosign       # asks for a password
  COSIGN_PASSWORD=… autonomy keys generate --type cosign --out ci/cosign
  autonomy keys generate --type manifest --out manifest-verify

A password comes from COSIGN_PASSWORD or from the terminal, never from the command line. Empty, it protects nothing: then
only the file's mode does.")]
    Generate(KeysGenerate),
    /// Say what a key file holds, and the fingerprint of its public half.
    #[command(after_help = "Examples:
  autonomy keys inspect cosign.pub
  COSIGN_PASSWORD=… autonomy keys inspect cosign.key")]
    Inspect(KeysInspect),
}

#[derive(Debug, Args)]
pub struct KeysGenerate {
    /// What the pair is for
    #[arg(long = "type", value_enum, value_name = "TYPE")]
    pub kind: KeyType,
    /// The files' names without their endings
    #[arg(long, value_name = "PREFIX")]
    pub out: PathBuf,
}

#[derive(Debug, Args)]
pub struct KeysInspect {
    /// The key
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

#[derive(Debug, Subcommand)]
pub enum Release {
    /// The floors below which no release is taken.
    #[command(subcommand)]
    Floor(Floor),
}

#[derive(Debug, Subcommand)]
pub enum Floor {
    /// Forget the floor of a name: releases of any sequence are taken again. Recorded with the reason.
    #[command(after_help = "Examples:
  autonomy release floor reset --name agent --reason 'sequence 900 was published by mistake'
  autonomy release floor reset --name agent --time-floor --reason 'signed by a machine whose clock was a year ahead'

This is the way out of a mistake, not the way back to an older release: publish its content under a new sequence instead.")]
    Reset(FloorReset),
}

#[derive(Debug, Args)]
pub struct FloorReset {
    /// The locks' name
    #[arg(long, value_name = "N")]
    pub name: String,
    /// Why
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
    /// Forget the time floor too
    #[arg(long)]
    pub time_floor: bool,
    #[command(flatten)]
    pub place: PolicyPlace,
}
