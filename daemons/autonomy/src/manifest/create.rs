//! `autonomy manifest create`: a folder becomes operations and sources.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use daemon_common::failure::{Ended, Failure};
use daemon_common::output::{Output, object};
use io_edge::Tree;
use machines::ids::Hash32;
use machines::json::Value;
use machines::manifest::{Destinations, Manifest, Operation, Plan};
use machines::tree::{Done, Mode, Op, Path as Inner, Place, Root};

use super::{count, plain, replace, sidecar, unwritable};
use crate::cli;

/// What sources are called in a manifest.
const SOURCES: &str = "runtime/binaries";
/// Where they lie beneath `--out`, which becomes `runtime/`.
const BINARIES: &str = "binaries";
/// The manifest beneath `--out`.
const MANIFEST: &str = "manifest.json";
/// Folders within folders that are gone into.
const MAX_DEPTH: usize = 32;

/// Makes sources and manifest. The manifest comes last, so that it never names what is not there.
pub fn create(args: &cli::ManifestCreate, output: Output) -> Ended {
    let mut found = Vec::new();
    walk(&args.input, "", 0, &mut found)?;
    let prefix = plain(&args.prefix);
    let binary = binary(args, &found)?;
    // Judged before anything is written; the hashes are not known yet and change no path.
    let mut manifest = Manifest {
        version: args.version,
        node: args.node.clone(),
        binary_path: format!("{prefix}/{binary}"),
        operations: operations(&prefix, &found, |_| Ok(Hash32([0; 32])))?,
    };
    judge(&manifest, &prefix)?;
    make_folder(&args.out)?;
    let signature = sidecar(&args.out.join(MANIFEST));
    match fs::remove_file(&signature) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(unwritable(&signature, &error)),
        Ok(()) | Err(_) => {}
    }
    let root = std::path::absolute(&args.out).map_err(|error| unwritable(&args.out, &error))?;
    let mut tree = Tree::new(root, Vec::new());
    tree.run(vec![Op::Open(Root::State)])
        .map_err(|fault| Failure::refused(format!("{}: {}", args.out.display(), fault.kind)))?;
    manifest.operations = operations(&prefix, &found, |name| install(args, &mut tree, name))?;
    let text = manifest.to_text();
    // As a node would read it: also its size is judged here.
    let read = Manifest::parse(text.as_bytes()).map_err(|refusal| Failure::refused(refusal.to_string()))?;
    if read != manifest {
        return Err(Failure::refused("the manifest is not read as it was written; please report this"));
    }
    let file = args.out.join(MANIFEST);
    replace(&file, |out| out.write_all(text.as_bytes())).map_err(|error| unwritable(&file, &error))?;
    let name = file.display().to_string();
    let text = format!(
        "manifest created: version {}, {} operations\nmanifest: {name}\nbinary: {}\nnext: autonomy manifest sign --key KEY {name}",
        manifest.version,
        manifest.operations.len(),
        manifest.binary_path
    );
    output.print(&text, || {
        object([
            ("version", Value::from(manifest.version)),
            ("operations", count(&manifest)),
            ("manifest", Value::from(name.as_str())),
            ("binary_path", Value::from(manifest.binary_path.as_str())),
        ])
    })?;
    Ok(0)
}

/// What lies in the folder.
enum Entry {
    Folder(Mode),
    File(Mode),
    Link(String),
}

/// Everything beneath the folder by its name, in byte order, each folder before what lies in it.
fn walk(dir: &Path, within: &str, depth: usize, found: &mut Vec<(String, Entry)>) -> Result<(), Failure> {
    let unreadable = |path: &Path, error: io::Error| Failure::unreadable(format!("{}: {error}", path.display()));
    if depth > MAX_DEPTH {
        return Err(Failure::refused(format!("{}: more than {MAX_DEPTH} folders deep", dir.display())));
    }
    let entries = fs::read_dir(dir).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let mut paths: Vec<PathBuf> =
        entries.map_err(|error| unreadable(dir, error))?.iter().map(fs::DirEntry::path).collect();
    paths.sort();
    for path in paths {
        let refused = |words: &str| Failure::refused(format!("{}: {words}", path.display()));
        let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(|| refused("its name is not UTF-8"))?;
        let full = format!("{within}{name}");
        Inner::parse(&full).map_err(|cause| refused(&cause.to_string()))?;
        let meta = fs::symlink_metadata(&path).map_err(|error| unreadable(&path, error))?;
        let bits = meta.permissions().mode() & 0o7777;
        let mode = || {
            let mode = u16::try_from(bits).ok().and_then(Mode::new);
            mode.ok_or_else(|| refused("has a set-user-id, set-group-id or sticky bit, which no manifest installs"))
        };
        if meta.is_dir() {
            let folder = mode()?;
            if !folder.is_usable_folder() {
                return Err(refused("its owner may not list, enter and write it; later operations write there"));
            }
            found.push((full.clone(), Entry::Folder(folder)));
            walk(&path, &format!("{full}/"), depth + 1, found)?;
        } else if meta.is_file() {
            found.push((full, Entry::File(mode()?)));
        } else if meta.is_symlink() {
            let target = fs::read_link(&path).map_err(|error| unreadable(&path, error))?;
            let target = target.to_str().ok_or_else(|| refused("its target is not UTF-8"))?;
            found.push((full, Entry::Link(target.to_owned())));
        } else {
            return Err(refused("is a device, pipe or socket, which no manifest installs"));
        }
    }
    Ok(())
}

/// The runtime's binary among what was found.
fn binary(args: &cli::ManifestCreate, found: &[(String, Entry)]) -> Result<String, Failure> {
    let executable = |entry: &Entry| matches!(entry, Entry::File(mode) if mode.bits() & 0o111 != 0);
    let dir = args.input.display();
    if let Some(binary) = &args.binary {
        return match found.iter().find(|(name, _)| name == binary) {
            Some((name, entry)) if executable(entry) => Ok(name.clone()),
            Some(_) => Err(Failure::refused(format!("{dir}/{binary}: --binary is no executable file"))),
            None => Err(Failure::refused(format!("{dir}/{binary}: --binary is not there"))),
        };
    }
    let mut all = found.iter().filter(|(_, entry)| executable(entry)).map(|(name, _)| name);
    match (all.next(), all.next()) {
        (Some(one), None) => Ok(one.clone()),
        (Some(one), Some(other)) => Err(Failure::usage(format!(
            "{dir}: {one} and {other} are executable; say with --binary which is the runtime's"
        ))),
        (None, _) => {
            Err(Failure::refused(format!("{dir}: no file in it is executable (chmod 0755 the runtime's binary)")))
        }
    }
}

/// The folders of the prefix and then everything that was found; `blake3` says a source's hash.
fn operations(
    prefix: &str,
    found: &[(String, Entry)],
    mut blake3: impl FnMut(&str) -> Result<Hash32, Failure>,
) -> Result<Vec<Operation>, Failure> {
    let mut operations = Vec::new();
    if !prefix.starts_with('/') {
        let mut path = String::new();
        for part in prefix.split('/') {
            path.push_str(if path.is_empty() { "" } else { "/" });
            path.push_str(part);
            // `runtime/` is there and stays as it is.
            if path != "runtime" {
                operations.push(Operation::EnsureDir { path: path.clone(), mode: FOLDER });
            }
        }
    }
    for (name, entry) in found {
        let path = format!("{prefix}/{name}");
        operations.push(match entry {
            Entry::Folder(mode) => Operation::EnsureDir { path, mode: *mode },
            Entry::File(mode) => Operation::CopyBinary {
                source: format!("{SOURCES}/{name}"),
                destination: path,
                mode: *mode,
                blake3: blake3(name)?,
            },
            Entry::Link(target) => Operation::Symlink { path, target: target.clone() },
        });
    }
    Ok(operations)
}

/// Folders of the prefix: whoever runs the binary has to get there.
const FOLDER: Mode = match Mode::new(0o755) {
    Some(mode) => mode,
    None => Mode::PRIVATE_FOLDER,
};

/// Judges every path as a node would, whose state root is anywhere.
fn judge(manifest: &Manifest, prefix: &str) -> Result<(), Failure> {
    let allow = if prefix.starts_with('/') { vec![prefix.to_owned()] } else { Vec::new() };
    let destinations = Destinations { state_root: "/a-state-root".into(), allow };
    Plan::new(manifest, &destinations).map(|_| ()).map_err(|refusal| Failure::refused(refusal.to_string()))
}

/// Copies a file to the sources, and says what lies there then.
fn install(args: &cli::ManifestCreate, tree: &mut Tree, name: &str) -> Result<Hash32, Failure> {
    let (from, to) = (args.input.join(name), args.out.join(BINARIES).join(name));
    if let Some(folder) = to.parent() {
        make_folder(folder)?;
    }
    let copied = fs::File::open(&from).and_then(|mut from| replace(&to, |to| io::copy(&mut from, to).map(|_| ())));
    copied.map_err(|error| {
        Failure::refused(format!("{} cannot be copied to {}: {error}", from.display(), to.display()))
    })?;
    let refused = |words: String| Failure::refused(format!("{}: {words}", to.display()));
    let place = Inner::parse(&format!("{BINARIES}/{name}")).map_err(|cause| refused(cause.to_string()))?;
    match tree.run(vec![Op::Hash(Place::state(place))]).map_err(|fault| refused(fault.kind.to_string()))? {
        Done::Hash(hash, _) => Ok(hash),
        Done::Nothing | Done::Opened(_) | Done::Is(_) | Done::Names(_) | Done::Bytes(_) => {
            Err(refused("it has no hash".into()))
        }
    }
}

fn make_folder(path: &Path) -> Result<(), Failure> {
    let made = fs::DirBuilder::new().mode(0o700).recursive(true).create(path);
    made.map_err(|error| unwritable(path, &error))
}
