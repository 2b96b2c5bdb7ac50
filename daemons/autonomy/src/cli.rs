//! Flags and commands.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::{MOST_IN_FLIGHT, node_id_arg, span_arg};
use crate::output::Output;

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
    Runtime(RuntimeCommand),
    /// Run a command with a runtime of its own.
    Run(Run),
    /// Build, load and try policies.
    #[command(subcommand)]
    Policy(Policy),
    /// Look at the log, check it, mend it.
    #[command(subcommand)]
    Wal(Wal),
    /// Deliver the log to an OTLP collector, and look at what waits.
    #[command(subcommand)]
    Telemetry(Telemetry),
    /// Print the version.
    Version,
}

#[derive(Debug, Subcommand)]
pub enum RuntimeCommand {
    /// Start the runtime and serve tool calls until SIGTERM.
    Start(Start),
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// time=… level=INFO msg="…" key=value …
    #[default]
    Logfmt,
    /// One JSON object a line.
    Json,
}

/// How quiet a log line may be and still be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// Errors only.
    Error,
    /// Errors and warnings.
    Warn,
    /// Everything.
    #[default]
    Info,
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
    /// How log lines look
    #[arg(long, value_enum, default_value_t)]
    pub log_format: LogFormat,
    /// Which log lines are written
    #[arg(long, value_enum, default_value_t)]
    pub log_level: LogLevel,
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

/// Where policies are kept.
#[derive(Debug, Args)]
pub struct PolicyPlace {
    /// The policy folder [default: {state root}/policy]; one that lies elsewhere also holds activation.json
    #[arg(long, alias = "manager-dir", value_name = "DIR")]
    pub policy_dir: Option<PathBuf>,
    /// The state root
    #[arg(long, value_name = "DIR", default_value = STATE_ROOT)]
    pub state_root: PathBuf,
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
  autonomy policy load --bundle bundle.tar.gz --policy-dir ./state/policy")]
    Load(Load),
    /// Say what is in force, and what was before.
    Status(PolicyStatus),
    /// Go back to the last known good bundle.
    #[command(after_help = "Examples:
  autonomy policy rollback
  autonomy policy rollback --below-floor --reason 'bundle 12 denies the backup job'")]
    Rollback(Rollback),
    /// Run the tests (rules named test_…) in a folder of Rego files.
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
    #[arg(long, value_name = "FILE")]
    pub bundle: PathBuf,
    #[command(flatten)]
    pub place: PolicyPlace,
    /// The node's configuration file, for `policy.require_verified`
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
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

#[derive(Debug, Subcommand)]
pub enum Wal {
    /// Say what the log holds.
    Inspect(WalDir),
    /// Check every frame; changes nothing and may run beside a writer.
    Verify(WalDir),
    /// Print the last frames as JSON lines.
    #[command(after_help = "Examples:
  autonomy wal tail --dir ./state/telemetry -n 5
  autonomy wal tail --dir ./state/telemetry --follow | jq .body")]
    Tail(Tail),
    /// Mend a log that is refused: damaged files go to quarantine-<time>/, lost ranges become tombstones.
    Repair(Repair),
}

#[derive(Debug, Args)]
pub struct WalDir {
    /// The log's folder
    #[arg(long, value_name = "DIR", default_value = "/var/lib/autonomy/telemetry")]
    pub dir: PathBuf,
}

#[derive(Debug, Args)]
pub struct Tail {
    #[command(flatten)]
    pub place: WalDir,
    /// How many frames
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10)]
    pub lines: usize,
    /// Go on with new frames as they become durable
    #[arg(short, long)]
    pub follow: bool,
}

#[derive(Debug, Args)]
pub struct Repair {
    #[command(flatten)]
    pub place: WalDir,
    /// Do it; without, only say what would be done
    #[arg(long)]
    pub yes: bool,
}

#[derive(Debug, Subcommand)]
pub enum Telemetry {
    /// Send every undelivered event to an OTLP/HTTP collector, errors first.
    Drain(Drain),
    /// Say what was delivered and what waits.
    #[command(after_help = "Example:
  autonomy telemetry status --dir ./state/telemetry --output json | jq .waiting")]
    Status(WalDir),
    /// Print the durable log as JSON lines.
    #[command(after_help = "Examples:
  autonomy telemetry export --dir ./state/telemetry > log.jsonl
  autonomy telemetry export --dir ./state/telemetry --from 1200 | jq 'select(.kind == \"error\")'")]
    Export(Export),
    /// Receive OTLP logs, for demos and tests: stores what it takes, and answers as it is told.
    Sink(Sink),
    /// Receive OTLP logs and forward them as events to a control plane.
    Bridge(Bridge),
}

/// How records are encoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Encoding {
    /// OTLP in protobuf.
    #[default]
    Protobuf,
    /// OTLP in JSON.
    Json,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  autonomy telemetry drain --endpoint http://127.0.0.1:4318
  autonomy telemetry drain --dir ./state/telemetry --endpoint https://otel.internal:4318 --ca ca.pem --header 'authorization=Bearer …'
  autonomy telemetry drain --endpoint http://127.0.0.1:4318 --follow

Records go to the path /v1/logs. What is delivered is remembered in telemetry.pos; after a crash at most one batch is
sent again, with the same ids. It may run beside a runtime; two drains of one log are refused.

Exit codes: 0 all delivered, 1 the receiver does not want it or the log cannot be read, 3 nobody answers.")]
pub struct Drain {
    #[command(flatten)]
    pub place: WalDir,
    /// The collector
    #[arg(long, value_name = "URL")]
    pub endpoint: String,
    /// Most records in a batch
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    pub batch: u64,
    /// How records are encoded
    #[arg(long, value_enum, default_value_t)]
    pub encoding: Encoding,
    /// How long it tries before it gives up
    #[arg(long, value_name = "SPAN", default_value = "30s", value_parser = span_arg)]
    pub timeout: Duration,
    /// Go on with new events until SIGTERM, and never give up
    #[arg(long)]
    pub follow: bool,
    /// Send bodies as they are, not with gzip
    #[arg(long)]
    pub no_compression: bool,
    #[command(flatten)]
    pub peer: Peer,
}

/// How a peer is spoken to.
#[derive(Clone, Debug, Default, Args)]
pub struct Peer {
    /// A header of every request; may repeat
    #[arg(long = "header", value_name = "NAME=VALUE")]
    pub headers: Vec<String>,
    #[command(flatten)]
    pub tls: Tls,
}

/// Certificates.
#[derive(Clone, Debug, Default, Args)]
pub struct Tls {
    /// Certificates (PEM) that the peer's certificate must lead to
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Our certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "key")]
    pub cert: Option<PathBuf>,
    /// Its key (PEM)
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Export {
    #[command(flatten)]
    pub place: WalDir,
    /// The first sequence
    #[arg(long, value_name = "SEQ", default_value_t = 1)]
    pub from: u64,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  autonomy telemetry sink --listen 127.0.0.1:4318 --dir ./received
  autonomy telemetry sink --behave 503                    # a collector that is busy
  curl -X POST '127.0.0.1:4318/behave?mode=accept'        # … and works again
  curl 127.0.0.1:4318/stats

Behaviours: accept, partial (rejects one record of each batch), 429, 503, hang (never answers), cut (stores and hangs up),
poison:TEXT (400 for a batch with a record that holds TEXT), discard (accepts and stores nothing).")]
pub struct Sink {
    /// Address and port; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:4318")]
    pub listen: SocketAddr,
    /// Folder for records.jsonl [default: records are only counted]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// How it answers
    #[arg(long, value_name = "HOW", default_value = "accept")]
    pub behave: String,
    /// A name that it is reached by, beside its address and loopback names; may repeat
    #[arg(long = "host", value_name = "NAME")]
    pub hosts: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  autonomy telemetry bridge --forward-url http://127.0.0.1:8080

Answers 200 only when the control plane took every record; else 503, and the sender keeps its records.")]
pub struct Bridge {
    /// Address and port
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:4318")]
    pub listen: SocketAddr,
    /// The control plane
    #[arg(long, value_name = "URL")]
    pub forward_url: String,
    /// A name that it is reached by, beside its address and loopback names; may repeat
    #[arg(long = "host", value_name = "NAME")]
    pub hosts: Vec<String>,
    #[command(flatten)]
    pub tls: Tls,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn flags_do_not_contradict_each_other() {
        Cli::command().debug_assert();
    }
}
