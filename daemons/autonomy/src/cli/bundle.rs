//! `autonomy bundle …`: the airgap archive.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use machines::oci::Reference;

use super::{Access, PolicyPlace, Trust, reference_arg};

#[derive(Debug, Subcommand)]
pub enum BundleCommand {
    /// Write an image with its lock, its policy and all signatures to one archive.
    #[command(after_help = "Example:
  autonomy bundle create --image registry.internal/agent:v1 --out site.tar")]
    Create(BundleCreate),
    /// Say what an archive holds. Nothing of it is verified.
    #[command(after_help = "Example:
  autonomy bundle inspect site.tar")]
    Inspect(BundleInspect),
    /// Check an archive: all four steps, lock and policy required. Nothing is stored.
    #[command(after_help = "Example:
  autonomy bundle verify site.tar --pubkey cosign.pub")]
    Verify(BundleVerify),
    /// Check an archive and take it in; with --activate put it in force.
    #[command(after_help = "Examples:
  autonomy bundle import site.tar --pubkey cosign.pub --state-root /var/lib/autonomy
  autonomy bundle import /media/stick/site.tar --config /etc/autonomy/runtime.toml --activate --channel stable

All four steps pass before anything is stored. What was imported may be loaded where `policy.require_verified` is on.")]
    Import(BundleImport),
}

#[derive(Debug, Args)]
pub struct BundleCreate {
    /// The image
    #[arg(long, value_name = "REF", value_parser = reference_arg)]
    pub image: Reference,
    /// The archive to write
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    #[command(flatten)]
    pub access: Access,
}

#[derive(Debug, Args)]
pub struct BundleInspect {
    /// The archive
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

#[derive(Debug, Args)]
pub struct BundleVerify {
    /// The archive
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    #[command(flatten)]
    pub trust: Trust,
    #[command(flatten)]
    pub place: PolicyPlace,
}

#[derive(Debug, Args)]
pub struct BundleImport {
    /// The archive
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    #[command(flatten)]
    pub trust: Trust,
    #[command(flatten)]
    pub place: PolicyPlace,
    /// Put it in force
    #[arg(long)]
    pub activate: bool,
    /// The channel that it comes by; a lock for other channels is refused
    #[arg(long, value_name = "C", requires = "activate")]
    pub channel: Option<String>,
}
