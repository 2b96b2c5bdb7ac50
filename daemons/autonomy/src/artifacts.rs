//! What the commands about images have in common.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use daemon_common::failure::Failure;
use daemon_common::output::harmless;
use io_artifacts::Fault;
use io_artifacts::keys::{Password, PublicKeys};
use io_artifacts::source::{Credentials, Found, Options, Transport};
use io_node::policies::{STACK_BYTES, this_thread_may_judge};
use machines::json::Value;
use machines::oci::{Descriptor, Digest, MAX_MANIFEST, Manifest, Place, Reference, Target};

use crate::cli::{Access, Trust};
use crate::config;
use crate::terminal;

/// Runs what waits for files and registries.
///
/// # Errors
/// Its own, and when the system gives no threads.
pub fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let mut threads = tokio::runtime::Builder::new_multi_thread();
    run(threads.worker_threads(std::thread::available_parallelism().map_or(1, usize::from)).enable_all(), work)
}

/// The same for work whose source is this. What lies on this machine needs no threads but those that read long blobs.
///
/// # Errors
/// As [`block_on`].
pub fn block_on_source<T>(source: &Reference, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    match source.place {
        Place::Registry { .. } => block_on(work),
        Place::Layout(_) | Place::Archive(_) => {
            let mut threads = tokio::runtime::Builder::new_current_thread();
            // Nothing here waits for a socket. Threads are started for what takes long: a large blob, compiling a policy.
            threads.enable_time().thread_stack_size(STACK_BYTES).on_thread_start(this_thread_may_judge);
            run(&mut threads, work)
        }
    }
}

fn run<T>(builder: &mut tokio::runtime::Builder, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = builder.build().map_err(|error| Failure::refused(format!("the system gives no threads: {error}")))?;
    let ended = runtime.block_on(work);
    // What is still under way after a failure is not waited for.
    runtime.shutdown_background();
    ended
}

/// How a place is opened. Credentials are looked for where they are of use.
fn options(place: &Place, access: &Access) -> Result<Options, Failure> {
    let credentials = match (place, &access.authfile) {
        (Place::Layout(_) | Place::Archive(_), _) => Credentials::default(),
        (Place::Registry { .. }, Some(file)) => Credentials::read(file)?,
        (Place::Registry { .. }, None) => match docker_config().filter(|file| file.exists()) {
            Some(file) => Credentials::read(&file)?,
            None => Credentials::default(),
        },
    };
    Ok(Options {
        ca: access.ca.clone(),
        plain_http: access.plain_http,
        credentials,
        token_hosts: access.token_hosts.clone(),
        ..Options::default()
    })
}

/// Where Docker and what follows it keep credentials.
fn docker_config() -> Option<PathBuf> {
    let folder = |variable| std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
    let docker = folder("DOCKER_CONFIG").or_else(|| folder("HOME").map(|home| home.join(".docker")))?;
    Some(docker.join("config.json"))
}

/// Opens the place of an image to read from it.
pub async fn open(image: &Reference, access: &Access) -> Result<Transport, Failure> {
    let opened = Transport::open(&image.place, &options(&image.place, access)?).await;
    opened.map_err(|fault| {
        // What is only read and cannot be opened is a source that cannot be read, whatever the reason.
        let unreadable = matches!(fault, Fault::File { .. });
        let failure = Failure::from(fault);
        if unreadable { Failure::unreadable(failure.message) } else { failure }
    })
}

/// Opens the place of an image to write to it; a layout or an archive that is not there is made.
pub async fn create(image: &Reference, access: &Access) -> Result<Transport, Failure> {
    Ok(Transport::create(&image.place, &options(&image.place, access)?).await?)
}

/// An image, resolved: from here on it is its digest that is meant.
pub struct Resolved {
    /// The digest of its manifest's bytes.
    pub digest: Digest,
    /// The manifest.
    pub manifest: Manifest,
    /// Its length in bytes.
    pub size: u64,
}

impl Resolved {
    /// How others refer to it.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor::new(self.manifest.media_type(), self.digest, self.size)
    }
}

/// Finds out which manifest is meant.
///
/// # Errors
/// When it is not there, cannot be read, or is no manifest.
pub async fn resolve(at: &Transport, target: &Target) -> Result<Resolved, Failure> {
    read(at, &at.manifest(target, MAX_MANIFEST).await?)
}

fn read(at: &Transport, found: &Found) -> Result<Resolved, Failure> {
    let manifest = Manifest::parse(&found.bytes, found.media_type.as_deref())
        .map_err(|refusal| Failure::refused(harmless(&format!("{}: {refusal}", at.place()))))?;
    let size = u64::try_from(found.bytes.len()).unwrap_or(u64::MAX);
    Ok(Resolved { digest: Digest::of(&found.bytes), manifest, size })
}

/// The manifest with this tag; `None` when there is none.
pub async fn tagged(at: &Transport, tag: Option<String>) -> Result<Option<Resolved>, Failure> {
    let Some(tag) = tag else { return Ok(None) };
    match at.manifest(&Target::Tag(tag), MAX_MANIFEST).await {
        Ok(found) => read(at, &found).map(Some),
        Err(fault) if fault.is_not_found() => Ok(None),
        Err(fault) => Err(fault.into()),
    }
}

/// The keys whose signatures count: those of the flags, or those of the configuration file. Where both name keys, each of
/// the flags' has to be among the file's: a flag only tightens (SPEC 1).
///
/// # Errors
/// 2 when nobody names a key; else when a key cannot be read, or is not among the file's.
pub fn trusted(trust: &Trust, file: &config::File) -> Result<Arc<PublicKeys>, Failure> {
    let configured = file.cosign_keys.as_deref().map(PublicKeys::from_folder).transpose()?;
    if trust.pubkey.is_empty() {
        return configured.map(Arc::new).ok_or_else(|| {
            Failure::usage("no key is trusted; give --pubkey FILE, or --config FILE with `cosign_keys` in [trust]")
        });
    }
    let given = PublicKeys::from_files(&trust.pubkey)?;
    if let Some(configured) = configured {
        for (path, key) in given.iter() {
            if !configured.iter().any(|(_, known)| known == key) {
                return Err(Failure::refused(format!(
                    "{}: is not among the keys of `trust.cosign_keys`; a flag can only narrow what the file trusts",
                    path.display()
                )));
            }
        }
    }
    Ok(Arc::new(given))
}

/// The password of a key that is there: `COSIGN_PASSWORD`, or asked for.
///
/// # Errors
/// When there is nobody to ask.
pub fn password_of(key: &Path) -> Result<Password, Failure> {
    match Password::from_env() {
        Some(password) => Ok(password),
        None => terminal::ask_password(&format!("Password of {}: ", key.display())),
    }
}

/// Parses `KEY=VALUE`.
///
/// # Errors
/// When it is none, or a key comes twice.
pub fn annotations(given: &[String]) -> Result<std::collections::BTreeMap<String, String>, Failure> {
    let mut map = std::collections::BTreeMap::new();
    for text in given {
        let pair = text.split_once('=').filter(|(key, _)| !key.is_empty());
        let (key, value) = pair.ok_or_else(|| Failure::usage(format!("-a {text:?}: write KEY=VALUE")))?;
        if map.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(Failure::usage(format!("-a {key}: is given twice")));
        }
    }
    Ok(map)
}

/// A digest for JSON.
pub fn digest(digest: &Digest) -> Value {
    Value::from(digest.to_string())
}

/// What images for this machine run on, in Go's words.
pub fn platform() -> (String, String) {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "x86" => "386",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        "loongarch64" => "loong64",
        same => same,
    };
    (std::env::consts::OS.to_owned(), architecture.to_owned())
}
