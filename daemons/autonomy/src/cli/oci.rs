//! `autonomy oci …`

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use machines::oci::Reference;

use super::{Access, reference_arg};

#[derive(Debug, Subcommand)]
pub enum Oci {
    /// Make an image from files, or from a folder, and push it; the same input gives the same digest.
    #[command(after_help = "Examples:
  autonomy oci push agent --to localhost:5000/agent:v1
  autonomy oci push ./rootfs --to oci-archive:agent.tar:v1
  autonomy oci push agent model.bin --to oci:./layout:v1 --platform linux/arm64

Each file becomes a layer; a folder becomes one layer, a tar archive of what is in it, without owners and times.")]
    Push(OciPush),
    /// Copy an image, with all that is attached to it, to a layout or an archive.
    #[command(after_help = "Examples:
  autonomy oci pull localhost:5000/agent:v1 --to oci:./layout
  autonomy oci pull localhost:5000/agent:v1 --to oci-archive:agent.tar")]
    Pull(OciPull),
    /// Attach a lock to an image.
    #[command(after_help = "Example:
  autonomy oci attach-lock --image localhost:5000/agent:v1 --lock autonomy.lock.json")]
    AttachLock(OciAttachLock),
    /// Attach a policy bundle to an image.
    #[command(after_help = "Example:
  autonomy oci attach-policy --image localhost:5000/agent:v1 --bundle policy.tar.gz")]
    AttachPolicy(OciAttachPolicy),
    /// Write the lock that is attached to an image to a file. It is not verified: see `autonomy verify`.
    #[command(after_help = "Example:
  autonomy oci pull-lock --image localhost:5000/agent:v1 --out autonomy.lock.json")]
    PullLock(OciPullSidecar),
    /// Write the policy bundle that is attached to an image to a file. It is not verified: see `autonomy verify`.
    #[command(after_help = "Example:
  autonomy oci pull-policy --image localhost:5000/agent:v1 --out policy.tar.gz")]
    PullPolicy(OciPullSidecar),
    /// Sign an image, and the lock and the policy that are attached to it.
    #[command(after_help = "Examples:
  COSIGN_PASSWORD=… autonomy oci sign --image localhost:5000/agent:v1 --key cosign.key
  autonomy oci sign --image oci-archive:site.tar --key cosign.key -a team=robots

What is signed is the digest to which the name leads now, and the time (annotation autonomy.signed-at). Both layouts of
cosign are written: `cosign verify --key cosign.pub --insecure-ignore-tlog` and skopeo accept them.")]
    Sign(OciSign),
    /// Copy an image, with all that is attached to it, from anywhere to anywhere.
    #[command(after_help = "Examples:
  autonomy oci copy localhost:5000/agent:v1 registry.internal/agent:v1
  autonomy oci copy oci-archive:site.tar localhost:5000/agent:v1")]
    Copy(OciCopy),
    /// Say what an image is and what is attached to it. Nothing of it is verified.
    #[command(after_help = "Examples:
  autonomy oci inspect localhost:5000/agent:v1
  autonomy oci inspect oci-archive:site.tar --output json | jq .release")]
    Inspect(OciInspect),
    /// Serve a folder as a registry: pull, push, referrers.
    #[command(after_help = "Examples:
  autonomy oci serve --listen 127.0.0.1:5000 --dir ./registry
  autonomy oci serve --listen 10.0.0.5:5000 --dir /srv/registry --token-file token --host registry.internal
  autonomy oci serve --dir /media/stick/registry --read-only

Plain HTTP; beyond loopback put a proxy with TLS before it. The token is the password of `docker login`.")]
    Serve(OciServe),
}

#[derive(Debug, Args)]
pub struct OciPush {
    /// The files, or one folder
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Where to
    #[arg(long, value_name = "REF", value_parser = reference_arg)]
    pub to: Reference,
    /// What it runs on, as OS/ARCHITECTURE in Go's words [default: this machine]
    #[arg(long, value_name = "OS/ARCH")]
    pub platform: Option<String>,
    /// An annotation of the image; may repeat
    #[arg(short = 'a', long = "annotation", value_name = "KEY=VALUE")]
    pub annotations: Vec<String>,
    #[command(flatten)]
    pub access: Access,
}

#[derive(Debug, Args)]
pub struct OciPull {
    /// The image
    #[arg(value_name = "REF", value_parser = reference_arg)]
    pub image: Reference,
    /// Where to: oci:DIR[:tag] or oci-archive:FILE[:tag]
    #[arg(long, value_name = "REF", value_parser = reference_arg)]
    pub to: Reference,
    #[command(flatten)]
    pub access: Access,
}

#[derive(Debug, Args)]
pub struct OciAttachLock {
    /// The image
    #[arg(long, value_name = "REF", value_parser = reference_arg)]
    pub image: Reference,
    /// The lock
    #[arg(long, value_name = "FILE")]
    pub lock: PathBuf,
    #[command(flatten)]
    pub access: Access,
}

#[derive(Debug, Args)]
pub struct OciAttachPolicy {
    /// The image
    #[arg(long, value_name = "REF", value_parser = reference_arg)]
    pub image: Reference,
    /// The policy bundle
    #[arg(long, value_name = "FILE")]
    pub bundle: PathBuf,
    #[command(flatten)]
    pub access: Access,
}

#[derive(Debug, Args)]
pub struct OciPullSidecar {
    /// The image
    #[arg(long, value_name = "REF", value_parser = reference_arg)]
    pub image: Reference,
    /// The file to write
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    #[command(flatten)]
    pub access: Access,
}

/// In which of cosign's layouts a signature is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum SignatureLayout {
    /// Both.
    #[default]
    Both,
    /// cosign 2: simple signing, under the tag sha256-….sig.
    Simple,
    /// cosign 3: a sigstore bundle that refers to the image.
    Bundle,
}

#[derive(Debug, Args)]
pub struct OciSign {
    /// The image
    #[arg(long, value_name = "REF", value_parser = reference_arg)]
    pub image: Reference,
    /// The private key; its password comes from COSIGN_PASSWORD or from the terminal
    #[arg(long, value_name = "FILE")]
    pub key: PathBuf,
    /// The layouts of the signature
    #[arg(long, value_enum, default_value_t)]
    pub layout: SignatureLayout,
    /// Sign the attached lock and policy too
    #[arg(long, value_name = "YES", default_value_t = true, default_missing_value = "true", num_args = 0..=1,
        require_equals = true, action = clap::ArgAction::Set)]
    pub recursive: bool,
    /// A signed annotation; may repeat
    #[arg(short = 'a', long = "annotation", value_name = "KEY=VALUE")]
    pub annotations: Vec<String>,
    /// The name that the image is signed under, for skopeo's policies [default: the repository]
    #[arg(long, value_name = "NAME")]
    pub identity: Option<String>,
    #[command(flatten)]
    pub access: Access,
}

#[derive(Debug, Args)]
pub struct OciCopy {
    /// The image
    #[arg(value_name = "SRC", value_parser = reference_arg)]
    pub from: Reference,
    /// Where to
    #[arg(value_name = "DST", value_parser = reference_arg)]
    pub to: Reference,
    #[command(flatten)]
    pub access: Access,
}

#[derive(Debug, Args)]
pub struct OciInspect {
    /// The image
    #[arg(value_name = "REF", value_parser = reference_arg)]
    pub image: Reference,
    #[command(flatten)]
    pub access: Access,
}

#[derive(Debug, Args)]
pub struct OciServe {
    /// Address and port; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:5000")]
    pub listen: SocketAddr,
    /// The folder that is served; made when it is not there
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// A name that it is reached by, beside its address and loopback names; may repeat
    #[arg(long = "host", value_name = "NAME")]
    pub hosts: Vec<String>,
    /// File with the token that writing needs; required on any address but loopback, unless --read-only
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Reading needs the token too
    #[arg(long, requires = "token_file")]
    pub private: bool,
    /// Take nothing in; the folder may lie on a medium that cannot be written
    #[arg(long)]
    pub read_only: bool,
    /// Let tags, manifests and blobs be deleted
    #[arg(long)]
    pub deletes: bool,
}
