//! Flags and commands.

mod bundle;
mod later;
mod log;
mod manifest;
mod oci;
mod policy;
mod supply;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use daemon_common::logs::LogFlags;
use daemon_common::output::Output;

use crate::config::{MOST_IN_FLIGHT, node_id_arg, span_arg};

pub use bundle::*;
pub use later::*;
pub use log::*;
pub use manifest::*;
pub use oci::*;
pub use policy::*;
pub use supply::*;

/// This command's version, which is the runtime's.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Where a node keeps what it must remember.
pub const STATE_ROOT: &str = "/var/lib/autonomy";

/// Decides AI agents' tool calls by policy on this machine, and records every decision durably.
#[derive(Debug, Parser)]
#[command(name = "autonomy", version, arg_required_else_help = true)]
#[command(after_help = "Examples:
  autonomy run -- python agent.py
  autonomy runtime start --state-root /var/lib/autonomy
  autonomy policy build --in policies --out bundle.tar.gz --version 1.0.0
  autonomy policy load --bundle bundle.tar.gz
  autonomy verify --image localhost:5000/agent:v1 --pubkey cosign.pub --require-lock --require-policy
  autonomy bundle import site.tar --pubkey cosign.pub --activate
  autonomy wal verify --dir /var/lib/autonomy/telemetry
  autonomy telemetry drain --endpoint http://127.0.0.1:4318

Exit codes: 0 done, 1 refused or failed, 2 usage, 3 a source or peer cannot be reached or read.")]
pub struct Cli {
    /// How results are printed.
    #[arg(long, value_enum, global = true, default_value_t)]
    pub output: Output,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// The runtime of this node.
    #[command(subcommand)]
    Runtime(Later<RuntimeCommand>),
    /// Run a command with a runtime of its own.
    Run(Later<Run>),
    /// Build, load and try policies.
    #[command(subcommand)]
    Policy(Later<Policy>),
    /// Check an image: its signature, its lock, its behavioural fingerprint, its policy.
    Verify(Later<Verify>),
    /// Bind an image to a policy, and read what binds them.
    #[command(subcommand)]
    Lock(Later<Lock>),
    /// Make key pairs, and look at keys.
    #[command(subcommand)]
    Keys(Later<Keys>),
    /// Push, attach, sign, copy and serve images.
    #[command(subcommand)]
    Oci(Later<Oci>),
    /// Carry a release in one file to where there is no network.
    #[command(subcommand)]
    Bundle(Later<BundleCommand>),
    /// What this node takes.
    #[command(subcommand)]
    Release(Later<Release>),
    /// Prepare what a node rebuilds its runtime with when its operating system was replaced.
    #[command(subcommand)]
    Manifest(Later<ManifestCommand>),
    /// Look at the log, check it, mend it.
    #[command(subcommand)]
    Wal(Later<Wal>),
    /// Deliver the log to an OTLP collector, and look at what waits.
    #[command(subcommand)]
    Telemetry(Later<Telemetry>),
    /// Print the version.
    Version,
}

#[derive(Debug, Subcommand)]
pub enum RuntimeCommand {
    /// Start the runtime and serve tool calls until SIGTERM.
    Start(Start),
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  autonomy runtime start
  autonomy runtime start --listen 127.0.0.1:0 --state-root ./state --node-id laptop
  autonomy runtime start --listen 10.1.2.3:7777 --token-file /etc/autonomy/token --config runtime.toml
  AUTONOMY_STRICT_MODE=1 autonomy runtime start        # denies every call

Flags and the environment can only tighten what the configuration file says about safety.")]
pub struct Start {
    /// Address and port to serve on; port 0 takes a free one [default: 127.0.0.1:7777]
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
    /// The folder of everything that the node must remember [default: /var/lib/autonomy]
    #[arg(long, value_name = "DIR")]
    pub state_root: Option<PathBuf>,
    /// The log's folder [default: {state root}/telemetry]
    #[arg(long, value_name = "DIR")]
    pub wal_dir: Option<PathBuf>,
    /// The policy folder [default: {state root}/policy]; one that lies elsewhere also holds activation.json
    #[arg(long, value_name = "DIR")]
    pub policy_dir: Option<PathBuf>,
    /// The node's name, as policies and the log see it [default: the log's own, or `node`]
    #[arg(long, value_name = "ID", value_parser = node_id_arg)]
    pub node_id: Option<String>,
    /// Deny every call, whatever the policy says; also AUTONOMY_STRICT_MODE
    #[arg(long)]
    pub strict: bool,
    /// Deny every call until `edged precheck` of this boot has passed
    #[arg(long)]
    pub require_precheck: bool,
    /// File with the bearer token that callers must show; required on any address but loopback
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Calls that may be under way at once [default: 1024]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=MOST_IN_FLIGHT))]
    pub max_in_flight: Option<u64>,
    /// How long a tool may run [default: 30s]
    #[arg(long, value_name = "SPAN", value_parser = span_arg)]
    pub tool_timeout: Option<Duration>,
    /// Deliver the log to this OTLP/HTTP collector in the background
    #[arg(long, value_name = "URL")]
    pub otlp_endpoint: Option<String>,
    /// Configuration file
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub log: LogFlags,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  autonomy run -- python agent.py
  autonomy run --policy my.rego -- sh -c 'curl -s $AUTONOMY_RUNTIME_URL/health'
  autonomy run --dir ./trial -- npm test

The command finds the runtime in AUTONOMY_RUNTIME_URL. Its exit code is passed on, 128+n when signal n ended it.
Without --policy the demo policy is in force: tool.echo is allowed, tool.shell is denied.")]
pub struct Run {
    /// A Rego file or a policy bundle to put in force
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// The state root to use [default: a new temporary folder, which stays]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// The command and its arguments
    #[arg(required = true, last = true, value_name = "CMD")]
    pub command: Vec<std::ffi::OsString>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn flags_do_not_contradict_each_other() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_command_that_is_described_later_keeps_its_title() {
        let mut listed = Cli::command();
        let titles: Vec<_> = listed.get_subcommands().map(|c| c.get_about().map(ToString::to_string)).collect();
        listed.build();
        for (command, title) in listed.get_subcommands().zip(titles) {
            assert!(title.is_some(), "{}", command.get_name());
            assert_eq!(command.get_about().map(ToString::to_string), title, "{}", command.get_name());
        }
    }
}
