//! `autonomy wal …` and `autonomy telemetry …`

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use crate::config::span_arg;

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
