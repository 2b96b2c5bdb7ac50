//! Bundles for commands: collecting files, building, loading.

use std::collections::BTreeMap;
use std::path::Path;

use daemon_common::failure::Failure;
use daemon_common::output::harmless;
use io_drive::disk::{Disk, Layout, PolicyLayout};
use io_drive::once::run_to_end;
use io_node::policies::{self, Limits};
use machines::activation::{Command, Loader, Report};
use machines::policy::bundle::{Bundle, MAX_FILE, MAX_FILES, MAX_PACKED};
use machines::semver::Version;
use machines::work::{self, Got};

use crate::cli::VERSION;

/// The files of a bundle by name.
pub type Files = BTreeMap<String, Vec<u8>>;

/// Folders within folders that are looked into.
const MAX_DEPTH: usize = 16;

/// Reads `*.rego` in any folder beneath `dir`, and `data.json` at its top. Names that begin with a dot are left out; so
/// are `*_test.rego` unless `tests` are wanted.
///
/// # Errors
/// 3 when something cannot be read; 1 when something is a link or too large.
pub fn collect(dir: &Path, tests: bool) -> Result<Files, Failure> {
    let mut files = Files::new();
    walk(dir, "", tests, 0, &mut files)?;
    if files.keys().any(|name| name.ends_with(".rego")) {
        Ok(files)
    } else {
        Err(Failure::refused(format!("{}: there is no .rego file in it", dir.display())))
    }
}

fn walk(dir: &Path, prefix: &str, tests: bool, depth: usize, files: &mut Files) -> Result<(), Failure> {
    let unreadable = |path: &Path, error: std::io::Error| Failure::unreadable(format!("{}: {error}", path.display()));
    if depth > MAX_DEPTH {
        return Err(Failure::refused(format!("{}: more than {MAX_DEPTH} folders deep", dir.display())));
    }
    for entry in std::fs::read_dir(dir).map_err(|e| unreadable(dir, e))? {
        let entry = entry.map_err(|e| unreadable(dir, e))?;
        let path = entry.path();
        let Ok(name) = entry.file_name().into_string() else {
            return Err(Failure::refused(format!("{}: the name is not UTF-8", path.display())));
        };
        if name.starts_with('.') {
            continue;
        }
        let kind = entry.file_type().map_err(|e| unreadable(&path, e))?;
        let full = format!("{prefix}{name}");
        let is_rego = name.ends_with(".rego") && (tests || !name.ends_with("_test.rego"));
        if kind.is_dir() {
            walk(&path, &format!("{full}/"), tests, depth + 1, files)?;
        } else if is_rego || full == "data.json" {
            if !kind.is_file() {
                return Err(Failure::refused(format!("{}: is a link or no regular file", path.display())));
            }
            files.insert(full, read(&path, MAX_FILE)?);
        }
        if files.len() > MAX_FILES {
            return Err(Failure::refused(format!("{}: more than {MAX_FILES} files", dir.display())));
        }
    }
    Ok(())
}

/// Reads a file of at most `most` bytes.
///
/// # Errors
/// 3 when it cannot be read, 1 when it is longer.
pub fn read(path: &Path, most: u64) -> Result<Vec<u8>, Failure> {
    use std::io::Read as _;
    let unreadable = |error: std::io::Error| Failure::unreadable(format!("{}: {error}", path.display()));
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(unreadable)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > most {
        return Err(Failure::refused(format!("{}: is larger than {most} bytes", path.display())));
    }
    Ok(bytes)
}

/// Reads a bundle's file; one byte more than a bundle may have shows that it is too large.
///
/// # Errors
/// 3 when it cannot be read.
pub fn read_bundle(path: &Path) -> Result<Vec<u8>, Failure> {
    read(path, u64::try_from(MAX_PACKED).unwrap_or(u64::MAX).saturating_add(1))
}

/// Changes what is in force on a node that is configured for locks of this name, if it is.
///
/// # Errors
/// The outer one when the folders cannot be used or the machine stands still; the inner one when the change is refused.
pub fn change(place: PolicyLayout, command: Command, name: Option<String>) -> Result<Result<Report, String>, Failure> {
    let version = Version::parse(VERSION).map_err(|e| Failure::refused(format!("version {VERSION}: {e}")))?;
    let layout = Layout { telemetry: None, policy: Some(place), bootstrap: None };
    let disk = Disk::open(&layout, std::sync::Arc::new(())).map_err(|e| Failure::refused(e.to_string()))?;
    let open = |op| match op {
        work::Op::OpenBundle(bytes) => Some(Got::Opened(policies::open(&bytes, &Limits::default()))),
        work::Op::Evaluate { .. }
        | work::Op::Tool(_)
        | work::Op::CancelTool
        | work::Op::Artifact(_)
        | work::Op::CheckSignature { .. }
        | work::Op::Host(_) => None,
    };
    let loader = Loader::new(command, version).configured_for(name);
    run_to_end(loader, &disk, open, |_| {}).map_err(|e| Failure::refused(e.to_string()))
}

/// Appends to the history that an image from this place was refused. That this cannot be done is said, and changes nothing
/// about the refusal.
pub fn record_refusal(place: PolicyLayout, image: &str, why: &str, name: Option<String>) {
    let reason = format!("{image}: {why}");
    let said = match change(place, Command::Refused { reason: reason.clone() }, name) {
        Err(failure) => failure.message,
        Ok(Err(words)) if words != reason => words,
        Ok(_) => return,
    };
    eprintln!("autonomy: this refusal is not in the history of policies: {}", harmless(&said));
}

/// `echo_allow.rego + shell_deny.rego`
pub fn rego_names(bundle: &Bundle) -> String {
    bundle.rego().map(|(name, _)| name).collect::<Vec<_>>().join(" + ")
}
