//! `autonomy lock …`

use std::path::Path;

use daemon_common::failure::{Ended, Failure};
use daemon_common::output::{Output, harmless, object, print};
use io_node::policies::{self, Limits};
use machines::canonical;
use machines::json::Value;
use machines::lock::{AgentArtifact, Draft, InputHash, Inputs, Lock, MAX_BYTES, PolicyBundle, Runtime};
use machines::oci::{Digest, Reference, Target, tags};
use machines::policy::bundle::Bundle;
use machines::semver::Version;

use crate::artifacts::{block_on, open, resolve};
use crate::bundles;
use crate::cli::{self, Lock as LockCommand};

/// What a lock says where neither it nor its bundle restricts the runtime.
const ANY_RUNTIME: &str = ">=0.0.0-0";

/// Runs one of the commands.
pub fn dispatch(command: LockCommand, output: Output) -> Ended {
    match command {
        LockCommand::Create(args) => create(&args, output),
        LockCommand::Fingerprint(args) => fingerprint(&args.file, output),
        LockCommand::Verify(args) => verify(&args.file, output),
        LockCommand::Show(args) => show(&args.file, output),
    }
}

/// Reads a lock and its bytes.
///
/// # Errors
/// 3 when it cannot be read, 1 when it is none. Its fingerprint is not compared.
pub fn read(path: &Path) -> Result<(Lock, Vec<u8>), Failure> {
    let bytes = bundles::read(path, u64::try_from(MAX_BYTES).unwrap_or(u64::MAX))?;
    let lock = Lock::read(&bytes).map_err(|refusal| Failure::refused(format!("{}: {refusal}", path.display())))?;
    Ok((lock, bytes))
}

/// Reads a bundle that compiles, and its bytes.
///
/// # Errors
/// 3 when it cannot be read, 1 when it is refused.
pub fn read_bundle(path: &Path) -> Result<(std::sync::Arc<Bundle>, Vec<u8>), Failure> {
    let bytes = bundles::read_bundle(path)?;
    match policies::open(&bytes, &Limits::default()) {
        Ok((bundle, _)) => Ok((bundle, bytes)),
        Err(why) => Err(Failure::refused(format!("{}: {why}", path.display()))),
    }
}

fn create(args: &cli::LockCreate, output: Output) -> Ended {
    let (bundle, bytes) = read_bundle(&args.bundle)?;
    let digest = block_on(async {
        let source = open(&args.image, &args.access).await?;
        Ok(resolve(&source, &args.image.target).await?.digest)
    })?;
    let refused = |flag: &str, why: &dyn std::fmt::Display| Failure::refused(format!("lock create: {flag}: {why}"));
    let of_bundle = || bundle.manifest.required_runtime.as_ref().map(ToString::to_string);
    let required = args.runtime_version.clone().or_else(of_bundle);
    let lock = Lock::new(Draft {
        name: args.name.clone(),
        version: Version::parse(&args.lock_version).map_err(|why| refused("--version", &why))?,
        sequence: args.sequence,
        channels: args.channels.clone(),
        agent_artifact: AgentArtifact { reference: args.image.to_string(), digest },
        policy_bundle: PolicyBundle {
            reference: policy_reference(args).to_string(),
            digest: Digest::of(&bytes),
            version: bundle.manifest.version.clone(),
        },
        runtime: Runtime::parse(required.as_deref().unwrap_or(ANY_RUNTIME))
            .map_err(|why| refused("--runtime-version", &why))?,
        inputs: Inputs {
            prompt: input_hash("--prompt-hash", args.prompt_hash.as_deref())?,
            tool_inputs: input_hash("--tool-inputs-hash", args.tool_inputs_hash.as_deref())?,
        },
    })
    .map_err(|why| Failure::refused(format!("lock create: {why}")))?;
    let out = args.out.display().to_string();
    std::fs::write(&args.out, lock.to_bytes()).map_err(|e| Failure::refused(format!("{out}: {e}")))?;
    let text = format!("lock created: {out}\nimage: {digest}\nfingerprint: blake3:{}", lock.fingerprint);
    output.print(&text, || {
        object([
            ("out", Value::from(out)),
            ("image", Value::from(digest.to_string())),
            ("policy_bundle", Value::from(lock.policy_bundle.digest.to_string())),
            ("fingerprint", Value::from(format!("blake3:{}", lock.fingerprint))),
        ])
    })?;
    Ok(0)
}

/// Where the bundle lies once it is attached: under a tag beside the image's, where that has one.
fn policy_reference(args: &cli::LockCreate) -> Reference {
    let beside = || args.image.tag().and_then(tags::policy).map(|tag| args.image.at(Target::Tag(tag)));
    args.policy_ref.clone().or_else(beside).unwrap_or_else(|| args.image.clone())
}

fn input_hash(flag: &str, text: Option<&str>) -> Result<Option<InputHash>, Failure> {
    let Some(text) = text else { return Ok(None) };
    match InputHash::parse(text) {
        Some(hash) => Ok(Some(hash)),
        None => Err(Failure::usage(format!("{flag} {text:?}: write sha256: or blake3: and 64 lower-case hex digits"))),
    }
}

fn fingerprint(path: &Path, output: Output) -> Ended {
    let (lock, _) = read(path)?;
    let computed = format!("blake3:{}", lock.computed());
    if !lock.matches() {
        eprintln!("autonomy: {}: states another fingerprint: blake3:{}", path.display(), lock.fingerprint);
    }
    output.print(&computed, || {
        object([("fingerprint", Value::from(computed.as_str())), ("matches", Value::from(lock.matches()))])
    })?;
    Ok(0)
}

fn verify(path: &Path, output: Output) -> Ended {
    let (lock, _) = read(path)?;
    let (stated, computed) = (lock.fingerprint, lock.computed());
    let name = format!("{} {} (sequence {})", lock.name, lock.version, lock.sequence);
    let text = if lock.matches() {
        format!("lock verify: OK — {name}, blake3:{computed}")
    } else {
        format!("lock verify: FAILED — {name} states blake3:{stated}, its canonical form gives blake3:{computed}")
    };
    output.print(&text, || {
        object([
            ("ok", Value::from(lock.matches())),
            ("stated", Value::from(format!("blake3:{stated}"))),
            ("computed", Value::from(format!("blake3:{computed}"))),
        ])
    })?;
    Ok(u8::from(!lock.matches()))
}

fn show(path: &Path, output: Output) -> Ended {
    let (lock, bytes) = read(path)?;
    if output == Output::Json {
        let whole = canonical::parse(&bytes, MAX_BYTES)
            .map_err(|why| Failure::refused(format!("{}: {why}", path.display())))?;
        print(&whole.to_text())?;
        return Ok(0);
    }
    let channels = if lock.channels.is_empty() { "all".to_owned() } else { lock.channels.join(", ") };
    let mut lines = vec![
        format!("lock: {} {}", lock.name, lock.version),
        format!("sequence: {}", lock.sequence),
        format!("channels: {channels}"),
        format!("image: {} ({})", lock.agent_artifact.digest, lock.agent_artifact.reference),
        format!(
            "policy: {} {} ({})",
            lock.policy_bundle.version, lock.policy_bundle.digest, lock.policy_bundle.reference
        ),
        format!("runtime: {}", lock.runtime),
    ];
    lines.extend(lock.inputs.prompt.map(|hash| format!("prompt: {hash}")));
    lines.extend(lock.inputs.tool_inputs.map(|hash| format!("tool inputs: {hash}")));
    lines.push(format!("fingerprint: blake3:{}", lock.fingerprint));
    if !lock.matches() {
        lines.push(format!("WRONG: its canonical form gives blake3:{}", lock.computed()));
    }
    let lines: Vec<String> = lines.iter().map(|line| harmless(line)).collect();
    print(&lines.join("\n"))?;
    Ok(0)
}
