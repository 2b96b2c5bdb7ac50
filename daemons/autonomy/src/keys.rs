//! `autonomy keys …`

use std::path::Path;

use daemon_common::failure::{Ended, Failure};
use daemon_common::output::{Output, object};
use io_artifacts::keys::{
    Ed25519Key, Ed25519PublicKey, Generated, Kind, MAX_FILE, PASSWORD_VARIABLE, Password, PublicKey, SigningKey,
    generate,
};
use machines::json::Value;

use crate::bundles;
use crate::cli::{self, KeyType, Keys};
use crate::terminal;

/// Runs one of the commands.
pub fn dispatch(command: Keys, output: Output) -> Ended {
    match command {
        Keys::Generate(args) => make(&args, output),
        Keys::Inspect(args) => inspect(&args.file, output),
    }
}

fn make(args: &cli::KeysGenerate, output: Output) -> Ended {
    let (kind, what) = match args.kind {
        KeyType::Cosign => (Kind::Cosign, "cosign key pair (ECDSA P-256)"),
        KeyType::Manifest => (Kind::Manifest, "manifest key pair (Ed25519)"),
        KeyType::Publisher => (Kind::Publisher, "publisher key pair (Ed25519)"),
    };
    let password = match (args.kind, Password::from_env()) {
        (KeyType::Cosign, Some(password)) => password,
        (KeyType::Cosign, None) => terminal::ask_new_password(&format!("{}.key", args.out.display()))?,
        (KeyType::Manifest | KeyType::Publisher, _) => Password::new(Vec::new()),
    };
    let Generated { private, public, fingerprint } = generate(kind, &args.out, &password)?;
    let (private, public) = (private.display().to_string(), public.display().to_string());
    let text =
        format!("{what}\nprivate key: {private} (keep it secret)\npublic key: {public}\nfingerprint: {fingerprint}");
    output.print(&text, || {
        object([
            ("private_key", Value::from(private)),
            ("public_key", Value::from(public)),
            ("fingerprint", Value::from(fingerprint.to_string())),
        ])
    })?;
    Ok(0)
}

/// What a key file holds.
struct Found {
    kind: &'static str,
    private: bool,
    /// Of the public half, where it is known.
    fingerprint: Option<String>,
    remark: Option<&'static str>,
}

fn inspect(path: &Path, output: Output) -> Ended {
    let bytes = zeroize::Zeroizing::new(bundles::read(path, MAX_FILE)?);
    let found = look(path, &bytes)?;
    let half = if found.private { "private" } else { "public" };
    let mut text = format!("{}: {} {half} key", path.display(), found.kind);
    if let Some(fingerprint) = &found.fingerprint {
        text.push_str(&format!("\nfingerprint: {fingerprint}"));
    }
    if let Some(remark) = found.remark {
        text.push_str(&format!("\n{remark}"));
    }
    output.print(&text, || {
        object([
            ("kind", Value::from(found.kind)),
            ("half", Value::from(half)),
            ("fingerprint", found.fingerprint.map_or(Value::Null, Value::from)),
        ])
    })?;
    Ok(0)
}

/// Which kind it is follows from its first words; the readers of the keys then read it whole.
fn look(path: &Path, bytes: &[u8]) -> Result<Found, Failure> {
    const COSIGN: &str = "cosign (ECDSA P-256)";
    const ED25519: &str = "Ed25519";
    let begins = |label: &str| bytes.starts_with(format!("-----BEGIN {label}-----").as_bytes());
    if begins("PUBLIC KEY") {
        let fingerprint = Some(PublicKey::read(path)?.fingerprint().to_string());
        return Ok(Found { kind: COSIGN, private: false, fingerprint, remark: None });
    }
    if begins("ENCRYPTED SIGSTORE PRIVATE KEY") || begins("ENCRYPTED COSIGN PRIVATE KEY") {
        let Some(password) = Password::from_env() else {
            let remark = "its public half shows with the password in COSIGN_PASSWORD";
            debug_assert!(remark.contains(PASSWORD_VARIABLE));
            return Ok(Found { kind: COSIGN, private: true, fingerprint: None, remark: Some(remark) });
        };
        let key = SigningKey::open(path, &password)?;
        let fingerprint = Some(key.public().fingerprint().to_string());
        return Ok(Found { kind: COSIGN, private: true, fingerprint, remark: None });
    }
    if begins("PRIVATE KEY") {
        let fingerprint = Some(Ed25519Key::open(path)?.public().fingerprint().to_string());
        return Ok(Found { kind: ED25519, private: true, fingerprint, remark: None });
    }
    if bytes.len() == 32 {
        let fingerprint = Some(Ed25519PublicKey::read(path)?.fingerprint().to_string());
        return Ok(Found { kind: ED25519, private: false, fingerprint, remark: None });
    }
    Err(Failure::refused(format!(
        "{}: is no key that is used here: neither cosign's PEM, nor Ed25519 in PKCS#8 PEM or as 32 raw bytes",
        path.display()
    )))
}
