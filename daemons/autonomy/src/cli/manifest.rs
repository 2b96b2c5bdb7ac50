//! `autonomy manifest …`

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::config::node_id_arg;

#[derive(Debug, Subcommand)]
pub enum ManifestCommand {
    /// Make a manifest from a folder: what a node rebuilds its runtime with.
    #[command(after_help = "Examples:
  autonomy manifest create --in files --version 7 --out /var/lib/autonomy/runtime
  autonomy manifest create --in files --version 7 --out release --node edge-07 --binary bin/agent --prefix runtime/agent

Files are copied to OUT/binaries/ and installed from there with the mode that they have in DIR, under PREFIX of the state
root. Folders become ensure_dir, links become symlink. OUT/manifest.json is to be signed: autonomy manifest sign.")]
    Create(ManifestCreate),
    /// Sign a manifest: 64 raw bytes of Ed25519 in FILE.sig.
    #[command(after_help = "Example:
  autonomy keys generate --type manifest --out manifest
  autonomy manifest sign --key manifest.key release/manifest.json")]
    Sign(ManifestSign),
    /// Check a manifest as a node would: signature, content, where it writes, and what it copies.
    #[command(after_help = "Example:
  autonomy manifest verify --pubkey manifest.pub --state-root /var/lib/autonomy /var/lib/autonomy/runtime/manifest.json")]
    Verify(ManifestVerify),
}

#[derive(Debug, Args)]
pub struct ManifestCreate {
    /// The folder whose content is installed
    #[arg(long = "in", value_name = "DIR")]
    pub input: PathBuf,
    /// Raised with every release: a node takes none below the highest that it has carried out
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=machines::manifest::MAX_VERSION))]
    pub version: u64,
    /// Where manifest.json and binaries/ go
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// The one node that it is for [default: every node that trusts the key]
    #[arg(long, value_name = "ID", value_parser = node_id_arg)]
    pub node: Option<String>,
    /// The runtime's binary, beneath DIR [default: the only executable file]
    #[arg(long, value_name = "PATH")]
    pub binary: Option<String>,
    /// Where it is installed: beneath the state root, or an absolute folder of `[reconstruct] allow`
    #[arg(long, value_name = "DEST", default_value = "runtime")]
    pub prefix: String,
}

#[derive(Debug, Args)]
pub struct ManifestSign {
    /// The private key
    #[arg(long, value_name = "FILE")]
    pub key: PathBuf,
    /// The manifest
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

#[derive(Debug, Args)]
pub struct ManifestVerify {
    /// The public key, 32 raw bytes
    #[arg(long, value_name = "FILE")]
    pub pubkey: PathBuf,
    /// Also check what lies in runtime/binaries/ of this state root
    #[arg(long, value_name = "DIR")]
    pub state_root: Option<PathBuf>,
    /// A folder of `[reconstruct] allow`; may be given more than once
    #[arg(long = "allow", value_name = "DIR")]
    pub allow: Vec<String>,
    /// The manifest; its signature lies beside it in FILE.sig
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}
