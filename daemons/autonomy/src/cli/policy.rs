//! `autonomy policy …`

use std::path::PathBuf;

use clap::{Args, Subcommand};
use machines::oci::Reference;

use super::{Access, Trust, reference_arg};
use crate::config::node_id_arg;

/// Where policies are kept.
#[derive(Clone, Debug, Args)]
pub struct PolicyPlace {
    /// The policy folder [default: {state root}/policy]; one that lies elsewhere also holds activation.json
    #[arg(long, alias = "manager-dir", value_name = "DIR")]
    pub policy_dir: Option<PathBuf>,
    /// The state root [default: the configuration file's, else /var/lib/autonomy]
    #[arg(long, value_name = "DIR")]
    pub state_root: Option<PathBuf>,
    /// The node's configuration file
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum Policy {
    /// Build a bundle from a folder of Rego files; the same input gives the same bytes.
    #[command(after_help = "Example:
  autonomy policy build --in policies --out bundle.tar.gz --version 1.2.0 --sequence 12

Taken are *.rego in any folder, except *_test.rego, and data.json at the top.")]
    Build(Build),
    /// Put a bundle in force; a running runtime serves it within a second.
    #[command(after_help = "Example:
  autonomy policy load --bundle bundle.tar.gz --policy-dir ./state/policy
  autonomy policy load --image localhost:5000/agent:v1 --pubkey cosign.pub

With --image, lock and policy are required and all four steps of `autonomy verify` must pass; the bytes that were checked
are the bytes that are put in force.")]
    Load(Load),
    /// Say what is in force, and what was before.
    Status(PolicyStatus),
    /// Go back to the last known good bundle.
    #[command(after_help = "Examples:
  autonomy policy rollback
  autonomy policy rollback --below-floor --reason 'bundle 12 denies the backup job'")]
    Rollback(Rollback),
    /// Run the tests (rules named test_…) in a folder of Rego files.
    #[command(after_help = "Examples:
  autonomy policy test policies
  autonomy policy test policies --fail-on-empty        # where a folder without tests is a mistake

Exit codes: 0 all passed, or there is none, 1 one failed.")]
    Test(PolicyTest),
    /// Decide one call without making it.
    #[command(after_help = "Examples:
  echo '{\"kind\":\"tool.echo\",\"params\":{}}' | autonomy policy eval --input - --in policies
  autonomy policy eval --input call.json --bundle bundle.tar.gz --explain")]
    Eval(Eval),
}

#[derive(Debug, Args)]
pub struct Build {
    /// The folder
    #[arg(long = "in", value_name = "DIR")]
    pub input: PathBuf,
    /// The bundle to write
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// policy_bundle_version: a semantic version
    #[arg(long = "version", value_name = "V")]
    pub bundle_version: String,
    /// The bundle's name [default: policy]
    #[arg(long, value_name = "N")]
    pub name: Option<String>,
    /// Its sequence
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub sequence: u64,
    /// Bars every bundle of this name below it, for ever
    #[arg(long, value_name = "M", default_value_t = 0)]
    pub min_sequence: u64,
    /// Runtimes that it fits, like '>=0.1.0 <2.0.0'
    #[arg(long, value_name = "RANGE")]
    pub runtime_version: Option<String>,
    /// A path in params or output that is masked in the log; may repeat
    #[arg(long, value_name = "PATH")]
    pub redact: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Load {
    /// The bundle
    #[arg(long, value_name = "FILE", conflicts_with_all = ["image", "pubkey", "max_age", "timeout", "ca"])]
    pub bundle: Option<PathBuf>,
    /// An image whose policy is put in force when all four steps pass
    #[arg(long, value_name = "REF", required_unless_present = "bundle", value_parser = reference_arg)]
    pub image: Option<Reference>,
    #[command(flatten)]
    pub trust: Trust,
    #[command(flatten)]
    pub access: Access,
    #[command(flatten)]
    pub place: PolicyPlace,
}

#[derive(Debug, Args)]
pub struct PolicyStatus {
    #[command(flatten)]
    pub place: PolicyPlace,
}

#[derive(Debug, Args)]
pub struct Rollback {
    #[command(flatten)]
    pub place: PolicyPlace,
    /// Go below min_sequence; recorded with the reason
    #[arg(long, requires = "reason")]
    pub below_floor: bool,
    /// Why
    #[arg(long, value_name = "TEXT", requires = "below_floor")]
    pub reason: Option<String>,
}

#[derive(Debug, Args)]
pub struct PolicyTest {
    /// The folder
    pub dir: PathBuf,
    /// Fail where there is no test
    #[arg(long)]
    pub fail_on_empty: bool,
}

#[derive(Debug, Args)]
pub struct Eval {
    /// The call: {"kind":…,"params":…,"agent":…}; - reads standard input
    #[arg(long, value_name = "FILE")]
    pub input: PathBuf,
    /// A folder of Rego files to ask
    #[arg(long = "in", value_name = "DIR", conflicts_with = "bundle")]
    pub dir: Option<PathBuf>,
    /// A bundle to ask [default: the one in force]
    #[arg(long, value_name = "FILE")]
    pub bundle: Option<PathBuf>,
    #[command(flatten)]
    pub place: PolicyPlace,
    /// The node's name, as the policy sees it
    #[arg(long, value_name = "ID", default_value = "node", value_parser = node_id_arg)]
    pub node_id: String,
    /// Say which lines were evaluated
    #[arg(long)]
    pub explain: bool,
}
