//! `edged init`.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::process::Output;

use crate::harness::{Site, chmod, code, edged, json, stderr, stdout};

fn init(root: &std::path::Path) -> Output {
    edged(&["init", "--state-root", root.to_str().unwrap()]).output().unwrap()
}

#[test]
fn a_state_root_is_laid_out_and_nothing_is_changed_the_second_time() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("data/autonomy");
    let output = init(&root);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(stdout(&output).contains("next:"), "{}", stdout(&output));
    for path in
        ["", "bootstrap", "epoch", "epoch/current", "identity", "identity/next", "runtime", "runtime/binaries", "edge"]
    {
        let meta = fs::metadata(root.join(path)).unwrap();
        assert!(meta.is_dir() && meta.mode() & 0o7777 == 0o700, "{path}: {:o}", meta.mode());
    }
    let example = root.join("edge.toml.example");
    assert_eq!(fs::metadata(&example).unwrap().mode() & 0o7777, 0o600);
    // It is a configuration: the node starts with it.
    let config = example.to_str().unwrap();
    let output = edged(&["--config", config, "config", "--output", "json"]).output().unwrap();
    assert_eq!(json(&stdout(&output)).get("node.state_root").unwrap().as_str(), root.to_str());
    let output = edged(&["--config", config, "precheck"]).output().unwrap();
    assert_eq!(code(&output), 0, "{}", stderr(&output));

    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("state");
    fs::create_dir(&root).unwrap();
    chmod(&root, 0o755);
    assert_eq!(code(&init(&root)), 0);
    fs::write(root.join("edge.toml.example"), "mine").unwrap();
    chmod(&root.join("runtime"), 0o755);
    let output = edged(&["init", "--state-root", root.to_str().unwrap(), "--output", "json"]).output().unwrap();
    assert_eq!(code(&output), 0);
    assert_eq!(json(&stdout(&output)).get("made").unwrap().to_text(), "[]");
    assert_eq!(fs::read_to_string(root.join("edge.toml.example")).unwrap(), "mine");
    assert_eq!(fs::metadata(root.join("runtime")).unwrap().mode() & 0o7777, 0o755);
}

#[test]
fn a_state_root_that_was_started_from_is_refused() {
    let site = Site::started();
    let before = site.tree();
    let output = init(&site.state());
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains("epoch/chain.jsonl is there"), "{}", stderr(&output));
    assert_eq!(site.tree(), before);
    let daemon = site.run();
    assert_eq!(code(&init(&site.state())), 4);
    daemon.stop();
}

#[test]
fn what_is_in_the_way_is_named() {
    let site = Site::new();
    chmod(&site.state(), 0o777);
    assert_eq!(code(&init(&site.state())), 2);
    chmod(&site.state(), 0o700);
    fs::remove_dir_all(site.file("identity")).unwrap();
    symlink("/tmp", site.file("identity")).unwrap();
    let output = init(&site.state());
    assert!(code(&output) == 1 && stderr(&output).contains("identity is there and no folder"), "{}", stderr(&output));
    let file = site.dir.path().join("file");
    fs::write(&file, "").unwrap();
    assert_eq!(code(&init(&file)), 1);
    assert_eq!(code(&edged(&["init", "--node", "a b"]).output().unwrap()), 64);
}
