//! `edgectl epoch`

use std::path::Path;

use daemon_common::failure::{Ended, Failure};
use daemon_common::output::{Output, harmless, object};
use io_edge::Tree;
use machines::disk::FaultKind;
use machines::json::Value;
use machines::precheck::chain::Chain;
use machines::precheck::files::Name;
use machines::tree::{Done, Op, Root};

use crate::ask::ask;

/// Says which boot epoch the node is in.
///
/// # Errors
/// 3 when edged or the files cannot be reached, 1 when the chain does not verify.
pub fn epoch(socket: &Path, state_root: Option<&Path>, output: Output) -> Ended {
    let epoch = match state_root {
        Some(root) => read(root)?,
        None => ask(socket, "/v1/epoch")?,
    };
    output.print(&text(&epoch), || epoch)?;
    Ok(0)
}

fn text(epoch: &Value) -> String {
    let mut lines = Vec::new();
    for (label, key) in [
        ("BootEpoch", "boot_epoch"),
        ("Since", "at"),
        ("PreviousHash", "previous_hash"),
        ("CurrentHash", "new_hash"),
        ("ManifestVersion", "manifest_version"),
    ] {
        if let Some(value) = epoch.get(key) {
            let text = value.as_str().map_or_else(|| value.to_text(), ToOwned::to_owned);
            lines.push(format!("{label}: {}", harmless(&text)));
        }
    }
    lines.join("\n")
}

/// The chain's last line, from its file.
fn read(root: &Path) -> Result<Value, Failure> {
    let file = root.join(Name::Chain.as_str());
    let unreadable = |kind: FaultKind| Failure::unreadable(format!("{}: {kind}", file.display()));
    let root =
        std::path::absolute(root).map_err(|error| Failure::unreadable(format!("{}: {error}", root.display())))?;
    let mut tree = Tree::new(root, Vec::new());
    tree.run(vec![Op::Open(Root::State)]).map_err(|fault| unreadable(fault.kind))?;
    let read = Op::Read { at: Name::Chain.place(), most: Name::Chain.most() };
    let bytes = match tree.run(vec![read]).map_err(|fault| unreadable(fault.kind))? {
        Done::Bytes(bytes) => bytes,
        Done::Nothing | Done::Opened(_) | Done::Is(_) | Done::Names(_) | Done::Hash(..) => Vec::new(),
    };
    let chain = Chain::parse(&bytes);
    let chain = chain.map_err(|cause| Failure::refused(format!("{}: is damaged: {cause}", file.display())))?;
    let last = chain.last();
    Ok(object([
        ("boot_epoch", Value::from(last.epoch)),
        ("previous_hash", Value::from(last.previous_hash.to_string())),
        ("new_hash", Value::from(last.new_hash.to_string())),
        ("manifest_version", Value::from(last.manifest_version)),
        ("at", Value::from(last.at.to_string())),
    ]))
}
