//! `edged init`: a state root, laid out.

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use daemon_common::failure::{Ended, Failure};
use daemon_common::output::{Output, object};
use io_edge::Tree;
use machines::disk::FaultKind;
use machines::edge::admit_root;
use machines::json::Value;
use machines::precheck::files::Name;
use machines::tree::{self, Done, Kind, Mode, Op, Path as Inner, Place};

use crate::cli;

/// The folders, each before what lies in it. `epoch/previous/` comes with the first reconstruction.
const FOLDERS: [&str; 8] =
    ["bootstrap", "epoch", "epoch/current", "identity", "identity/next", "runtime", "runtime/binaries", "edge"];
/// The configuration with every key.
const EXAMPLE: &str = "edge.toml.example";

/// Lays out a state root; what is there already stays as it is.
///
/// # Errors
/// 1 when it cannot be made or was started from, 2 when it cannot be used, 4 when somebody holds it.
pub fn init(args: &cli::Init, output: Output) -> Ended {
    let root = std::path::absolute(&args.state_root)
        .map_err(|error| Failure::refused(format!("{}: {error}", args.state_root.display())))?;
    let name = root.display().to_string();
    make_root(&root).map_err(|error| Failure::refused(format!("{name}: cannot be made: {error}")))?;
    // As the configuration has to name it: without `..` and links.
    let root = fs::canonicalize(&root).map_err(|error| Failure::refused(format!("{name}: {error}")))?;
    let name = root.display().to_string();
    let mut tree = Tree::new(&root, Vec::new());
    admit_root(tree.hold())
        .map_err(|halt| Failure { code: halt.code, message: format!("{name}: {}", halt.message) })?;
    let failed = |what: &str, kind: FaultKind| Failure::refused(format!("{name}/{what}: {kind}"));
    let mut run = |what: &str, ops: Vec<Op>| tree.run(ops).map_err(|fault| failed(what, fault.kind));

    let chain = Name::Chain.as_str();
    if run(chain, vec![Op::Look(Name::Chain.place())])? != Done::Is(Kind::Nothing) {
        let words = "is there: this node was started before. To begin anew, take another folder";
        return Err(Failure::refused(format!("{name}/{chain} {words}")));
    }
    let mut made = Vec::new();
    for folder in FOLDERS {
        let at = place(folder)?;
        let found = run(folder, vec![Op::Look(at.clone())])?;
        if found == Done::Is(Kind::Folder) {
            continue;
        }
        if found != Done::Is(Kind::Nothing) {
            return Err(Failure::refused(format!("{name}/{folder} is there and no folder; move it away")));
        }
        let above = at.folder();
        let make = Op::MakeFolder { at: at.clone(), mode: Mode::PRIVATE_FOLDER };
        run(folder, vec![make, Op::SyncFolder(at), Op::SyncFolder(above)])?;
        made.push(format!("{folder}/"));
    }
    let at = place(EXAMPLE)?;
    if run(EXAMPLE, vec![Op::Look(at.clone())])? == Done::Is(Kind::Nothing) {
        let bytes = example(&root, args.node.as_deref()).into_bytes();
        run(EXAMPLE, tree::replace(&at, bytes, Mode::PRIVATE))?;
        made.push(EXAMPLE.into());
    }
    let text = format!(
        "state root: {name}\nmade: {}\n{}",
        if made.is_empty() { "nothing, everything was there".into() } else { made.join(" ") },
        next_steps(&name)
    );
    output.print(&text, || {
        object([
            ("state_root", Value::from(name.as_str())),
            ("made", Value::Array(made.iter().map(|made| Value::from(made.as_str())).collect())),
        ])
    })?;
    Ok(0)
}

/// Makes the folder and those above it that are missing; durable in the one above it.
fn make_root(root: &Path) -> std::io::Result<()> {
    if root.is_dir() {
        return Ok(());
    }
    fs::DirBuilder::new().mode(0o700).recursive(true).create(root)?;
    match root.parent() {
        Some(parent) => fs::File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

fn place(path: &str) -> Result<Place, Failure> {
    Inner::parse(path).map(Place::state).map_err(|cause| Failure::refused(format!("{path}: {cause}")))
}

/// `edge.toml` with every key and its default.
pub fn example(root: &Path, node: Option<&str>) -> String {
    let quoted = |text: &str| Value::from(text).to_text();
    let id = node.map_or_else(|| "# id = \"edge-01\"".to_owned(), |id| format!("id = {}", quoted(id)));
    include_str!("edge.toml.example").replace("@ID@", &id).replace("@STATE_ROOT@", &quoted(&root.display().to_string()))
}

fn next_steps(name: &str) -> String {
    format!(
        "next:
  1. cp {name}/{EXAMPLE} /etc/edge/edge.toml     # and look through it
  2. autonomy keys generate --type manifest --out manifest       # where releases are made; the private half stays there
     cp manifest.pub {name}/identity/manifest-verify.pub         # or into the image, as trust.manifest_key
  3. autonomy manifest create --in FILES --version 1 --out {name}/runtime
     autonomy manifest sign --key manifest.key {name}/runtime/manifest.json
  4. chown -R USER: {name}                         # to the user that edged runs as, when that is another one
  5. edged --config /etc/edge/edge.toml precheck && edged --config /etc/edge/edge.toml run"
    )
}
