//! `autonomy manifest …`: for those who prepare a state root (SPEC 10).

mod create;

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use daemon_common::failure::{Ended, Failure};
use daemon_common::output::{Output, harmless, object};
use io_artifacts::keys::Ed25519Key;
use io_drive::place::{self, Taken};
use io_edge::{Tree, keys};
use machines::json::Value;
use machines::manifest::{self, Destinations, Manifest, Plan, Step, Unverified};
use machines::tree::{Done, Op, Root};

use crate::bundles;
use crate::cli::{self, ManifestCommand, STATE_ROOT};

/// Runs one of the commands.
pub fn dispatch(command: ManifestCommand, output: Output) -> Ended {
    match command {
        ManifestCommand::Create(args) => create::create(&args, output),
        ManifestCommand::Sign(args) => sign(&args, output),
        ManifestCommand::Verify(args) => verify(&args, output),
    }
}

fn sign(args: &cli::ManifestSign, output: Output) -> Ended {
    let name = args.file.display();
    let bytes = bundles::read(&args.file, manifest::MAX_BYTES.into())?;
    // What no node would take is not signed.
    let refused = |words: String| Failure::refused(format!("{name}: not signed: {}", harmless(&words)));
    let manifest = Manifest::parse(&bytes).map_err(|refusal| refused(refusal.to_string()))?;
    let key = Ed25519Key::open(&args.key)?;
    let signature = sidecar(&args.file);
    let written = replace(&signature, |file| file.write_all(&key.sign(&bytes)));
    written.map_err(|error| unwritable(&signature, &error))?;
    let fingerprint = key.public().fingerprint().to_string();
    let text = format!(
        "manifest signed: version {}, {} operations\nsignature: {}\nkey fingerprint: {fingerprint}",
        manifest.version,
        manifest.operations.len(),
        signature.display()
    );
    output.print(&text, || {
        object([
            ("version", Value::from(manifest.version)),
            ("operations", count(&manifest)),
            ("signature", Value::from(signature.display().to_string())),
            ("key_fingerprint", Value::from(fingerprint.as_str())),
        ])
    })?;
    Ok(0)
}

fn verify(args: &cli::ManifestVerify, output: Output) -> Ended {
    let bytes = bundles::read(&args.file, manifest::MAX_BYTES.into())?;
    // One byte more than a key or a signature shows that it is none.
    let key = bundles::read(&args.pubkey, 64)?;
    let signature = bundles::read(&sidecar(&args.file), 128)?;
    match check(args, bytes, &key, &signature) {
        Ok(manifest) => {
            let operations = manifest.operations.len();
            let sources = if args.state_root.is_some() { "" } else { "; runtime/binaries/ was not looked at" };
            output.print(
                &format!("manifest OK: version {}, {operations} operations{sources}", manifest.version),
                || {
                    object([
                        ("ok", Value::from(true)),
                        ("version", Value::from(manifest.version)),
                        ("operations", count(&manifest)),
                        ("sources_checked", Value::from(args.state_root.is_some())),
                    ])
                },
            )?;
            Ok(0)
        }
        Err(why) => {
            let why = harmless(&why);
            output.print(&format!("manifest verify: FAILED — {why}"), || {
                object([("ok", Value::from(false)), ("error", Value::from(why.as_str()))])
            })?;
            Ok(1)
        }
    }
}

fn check(args: &cli::ManifestVerify, bytes: Vec<u8>, key: &[u8], signature: &[u8]) -> Result<Manifest, String> {
    let unverified = Unverified::new(bytes, key, signature).map_err(|refusal| refusal.to_string())?;
    let good = match unverified.question() {
        machines::precheck::host::Ask::Ed25519 { key, message, signature } => keys::signed(&key, &message, &signature),
        machines::precheck::host::Ask::Components
        | machines::precheck::host::Ask::Certificates(_)
        | machines::precheck::host::Ask::PinnedKey => false,
    };
    let verified = unverified.answered(good).ok_or("the signature is not this key's over these bytes")?;
    let manifest = verified.parse().map_err(|refusal| refusal.to_string())?;
    let root = args.state_root.clone().unwrap_or_else(|| PathBuf::from(STATE_ROOT));
    let root = std::path::absolute(&root).map_err(|error| format!("{}: {error}", root.display()))?;
    let destinations = Destinations {
        state_root: plain(&root.display().to_string()),
        allow: args.allow.iter().map(|f| plain(f)).collect(),
    };
    let plan = Plan::new(&manifest, &destinations).map_err(|refusal| refusal.to_string())?;
    if args.state_root.is_some() {
        check_sources(root, &plan)?;
    }
    Ok(manifest)
}

/// Whether the files that the plan copies are the signed ones.
fn check_sources(root: PathBuf, plan: &Plan) -> Result<(), String> {
    let name = root.display().to_string();
    let mut tree = Tree::new(root, Vec::new());
    tree.run(vec![Op::Open(Root::State)]).map_err(|fault| format!("{name}: {}", fault.kind))?;
    for step in &plan.steps {
        let Step::Copy { from, blake3, .. } = step else { continue };
        let found = tree.run(vec![Op::Hash(from.clone())]);
        let found = found.map_err(|fault| format!("{name}/{}: {}", from.path, fault.kind))?;
        if !matches!(found, Done::Hash(hash, _) if hash == *blake3) {
            return Err(format!("{name}/{} is not what was signed, blake3:{blake3}", from.path));
        }
    }
    Ok(())
}

fn count(manifest: &Manifest) -> Value {
    Value::from(u64::try_from(manifest.operations.len()).unwrap_or(u64::MAX))
}

/// A folder without a slash at its end.
fn plain(folder: &str) -> String {
    folder.strip_suffix('/').unwrap_or(folder).to_owned()
}

/// `FILE.sig`.
fn sidecar(file: &Path) -> PathBuf {
    let mut name = OsString::from(file);
    name.push(".sig");
    PathBuf::from(name)
}

/// Replaces a file as a whole, with what `write` writes: temporary file beside it, sync, rename, sync of the folder. Everybody
/// may read it: it holds nothing secret, and the node that reads it may run as another user.
fn replace(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut aside = OsString::from(".");
    aside.push(name);
    aside.push(".tmp");
    let temp = path.with_file_name(&aside);
    // What lies there under that name is not written through.
    match fs::remove_file(&temp) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = File::options().write(true).create_new(true).mode(0o644).open(&temp)?;
    let written = write(&mut file).and_then(|()| file.sync_all()).and_then(|()| {
        let folder = place::folder_of(path)?;
        place::named((&folder, aside.as_os_str()), (&folder, name), Taken::Replace)
    });
    if written.is_err() {
        let _ = fs::remove_file(&temp);
    }
    written
}

fn unwritable(path: &Path, error: &io::Error) -> Failure {
    Failure::refused(format!("{}: cannot be written: {error}", path.display()))
}
