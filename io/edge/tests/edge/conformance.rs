//! The contract of `machines::tree`, checked by the suite that the simulated tree passes too.

use std::os::unix::fs::PermissionsExt as _;

use io_edge::Tree;
use sim::edge::conformance::conformance;
use tempfile::TempDir;

fn private() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    folder
}

#[test]
fn real_files_keep_the_contract() {
    let folder = private();
    let mut tree = Tree::new(folder.path(), Vec::new());
    conformance(&mut |chain| tree.run(chain)).unwrap();
}

#[test]
fn real_files_keep_the_contract_where_the_kernel_has_no_openat2() {
    let folder = private();
    let mut tree = Tree::new(folder.path(), Vec::new()).walking();
    conformance(&mut |chain| tree.run(chain)).unwrap();
}
