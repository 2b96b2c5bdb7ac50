//! The fixtures as they are computed now, and the rules of the house, as part of `make test`.

use std::path::Path;

fn copy(from: &Path, to: &Path) {
    for name in golden::tree::names(from).unwrap() {
        let target = to.join(&name);
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::copy(from.join(&name), target).unwrap();
    }
}

#[test]
fn every_fixture_is_as_computed() {
    let differences = golden::check(&golden::root().join("golden/fixtures")).unwrap();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn the_template_lock_of_the_demo_verifies_and_is_written_as_the_product_writes_it() {
    let path = golden::root().join("demo/locks/example.lock.json");
    let bytes = std::fs::read(&path).unwrap();
    let lock = machines::lock::Lock::read(&bytes).unwrap();
    assert!(lock.matches(), "{}: the fingerprint must be blake3:{}", path.display(), lock.computed());
    assert_eq!(String::from_utf8(lock.to_bytes()).unwrap(), String::from_utf8(bytes).unwrap());
}

#[test]
fn the_lock_in_the_documentation_is_a_fixture() {
    let page = std::fs::read_to_string(golden::root().join("docs/lock-format.md")).unwrap();
    let lock = std::fs::read_to_string(golden::root().join("golden/fixtures/lock/full.lock.json")).unwrap();
    assert!(
        page.contains(&format!("```json\n{lock}```")),
        "docs/lock-format.md: show golden/fixtures/lock/full.lock.json"
    );
}

#[test]
fn the_rules_of_the_house_hold() {
    let findings = golden::lint::check(&golden::root()).unwrap();
    assert!(findings.errors.is_empty(), "{}", findings.errors.join("\n"));
}

#[test]
fn a_changed_a_missing_and_an_extra_output_are_shown_and_update_mends_them() {
    let scratch = tempfile::tempdir().unwrap();
    copy(&golden::root().join("golden/fixtures"), scratch.path());
    assert!(golden::check(scratch.path()).unwrap().is_empty());

    let wal = scratch.path().join("wal/telemetry.wal");
    let mut bytes = std::fs::read(&wal).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&wal, bytes).unwrap();
    std::fs::remove_file(scratch.path().join("json/results.txt")).unwrap();
    std::fs::write(scratch.path().join("policy/stray.txt"), "x").unwrap();
    let shown = golden::check(scratch.path()).unwrap();
    assert_eq!(shown.len(), 3, "{shown:?}");
    assert!(shown[0].contains("equal up to offset 100"), "{}", shown[0]);
    assert!(shown[1].contains("stray.txt") && shown[2].contains("results.txt"), "{shown:?}");

    assert_eq!(golden::update(scratch.path()).unwrap().len(), 2);
    std::fs::remove_file(scratch.path().join("policy/stray.txt")).unwrap();
    assert!(golden::check(scratch.path()).unwrap().is_empty());
}
