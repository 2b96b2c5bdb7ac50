//! The table of exit codes (SPEC 10): each cause alone, and every combination: the first check that fails decides.

use std::fs::File;

use rustix::fs::{FlockOperation, flock};

use crate::certificates::{Certificate, install};
use crate::harness::{Site, chmod, code, edged, json, stderr, stdout};

/// The causes in the order of the checks, with their exit codes.
const ORDER: [i32; 5] = [1, 2, 4, 3, 5];

#[test]
fn the_earlier_check_wins_in_every_combination() {
    for set in 0..32u32 {
        let site = Site::started();
        let has = |code: i32| set & (1 << ORDER.iter().position(|c| *c == code).unwrap()) != 0;
        let days = if has(3) { 6 } else { 60 };
        install(&site.file("identity"), &Certificate::of(days));
        let tls = "[tls]\ncert = \"identity/node.crt\"\nkey = \"identity/node.key\"\nca = \"identity/ca.crt\"\n";
        site.configure(&if has(1) { format!("{tls}[stroage]\n") } else { tls.into() });
        if has(5) {
            std::fs::remove_file(site.file("bootstrap/os_fingerprint.json")).unwrap();
        }
        let held = has(4).then(|| {
            let folder = File::open(site.state()).unwrap();
            flock(&folder, FlockOperation::LockExclusive).unwrap();
            folder
        });
        if has(2) {
            chmod(&site.state(), 0o777);
        }
        let output = site.precheck(&["--output", "json"]);
        let want = ORDER.into_iter().find(|code| has(*code)).unwrap_or(0);
        assert_eq!(code(&output), want, "{set:05b}: {}", stderr(&output));
        assert_eq!(json(&stdout(&output)).get("exit").unwrap().as_u64(), u64::try_from(want).ok());
        let errors = stderr(&output).lines().filter(|line| line.contains("level=ERROR")).count();
        assert_eq!(errors, usize::from(want != 0), "one cause, one line: {}", stderr(&output));
        drop(held);
    }
}

#[test]
fn every_fault_of_the_configuration_is_listed_with_file_key_and_line() {
    let site = Site::new();
    site.configure("[stroage]\nceiling_bytes = 1\n[relay]\nmax_retrys = 2\nworker_count = 0\n");
    let output = site.precheck(&[]);
    assert_eq!(code(&output), 1);
    let said = stderr(&output);
    let file = site.config();
    for fault in [
        "unknown key `stroage` at line 11, did you mean `storage`?",
        "unknown key `relay.max_retrys` at line 14, did you mean `relay.max_retries`?",
        "`relay.worker_count` at line 15 must be a whole number from 1 to 64",
    ] {
        let line = format!("file=\"{}\" error=\"{fault}\"", file.display());
        assert!(said.contains(&line), "{line}: {said}");
    }
    assert_eq!(said.lines().count(), 3, "{said}");
    let lines: Vec<_> = said.lines().map(|line| line.split(" at line ").nth(1).unwrap()[..2].to_owned()).collect();
    assert_eq!(lines, ["11", "14", "15"], "in their order");
    // As JSON for machines, and from every command that reads it.
    let output = site.precheck(&["--log-format", "json"]);
    for line in stderr(&output).lines() {
        assert_eq!(json(line).get("level").unwrap().as_str(), Some("ERROR"));
    }
    assert_eq!(code(&site.command(&["run"]).output().unwrap()), 1);
    assert_eq!(code(&site.command(&["config"]).output().unwrap()), 1);
    std::fs::write(site.config(), "[node\n").unwrap();
    assert_eq!(code(&site.precheck(&[])), 1);
    std::fs::remove_file(site.config()).unwrap();
    let output = site.precheck(&[]);
    assert!(code(&output) == 1 && stderr(&output).contains("cannot be read: No such file"), "{}", stderr(&output));
}

#[test]
fn f09_a_path_that_resolves_outside_is_exit_2_by_its_text_or_by_a_link() {
    let site = Site::started();
    let outside = site.dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    install(&outside, &Certificate::of(60));
    install(&site.file("identity"), &Certificate::of(60));
    let tls = |folder: &str| {
        site.configure(&format!(
            "[tls]\ncert = \"{folder}/node.crt\"\nkey = \"identity/node.key\"\nca = \"identity/ca.crt\"\n"
        ));
        let output = site.precheck(&[]);
        (code(&output), stderr(&output))
    };
    for folder in [outside.to_str().unwrap(), "../outside", "identity/../../outside"] {
        let (code, said) = tls(folder);
        assert!(code == 2 && said.contains("resolves outside the state root\" key=\"tls.cert\""), "{said}");
    }
    std::os::unix::fs::symlink(&outside, site.file("linked")).unwrap();
    let (code, said) = tls("linked");
    assert!(code == 2 && said.contains("resolves outside the state root\" key=\"tls.cert\""), "{said}");
    assert_eq!(tls("identity").0, 0);
}

#[test]
fn a_state_root_that_is_missing_open_to_others_or_read_only_is_exit_2() {
    let site = Site::started();
    for mode in [0o777, 0o770, 0o702] {
        chmod(&site.state(), mode);
        let output = site.precheck(&[]);
        assert!(code(&output) == 2 && stderr(&output).contains("writable by others"), "{}", stderr(&output));
        assert_eq!(code(&site.command(&["run"]).output().unwrap()), 2);
    }
    chmod(&site.state(), 0o700);
    std::fs::rename(site.state(), site.dir.path().join("away")).unwrap();
    let output = site.precheck(&[]);
    assert!(code(&output) == 2 && stderr(&output).contains("state root is missing"), "{}", stderr(&output));
    assert_eq!(code(&site.command(&["run"]).output().unwrap()), 2);
    std::fs::write(site.state(), "a file").unwrap();
    assert_eq!(code(&site.precheck(&[])), 2);
}

#[test]
fn usage_errors_are_64_and_help_is_0() {
    for args in [&[][..], &["prechek"], &["precheck", "--fast"], &["precheck", "--log-level", "loud"], &["run", "now"]]
    {
        assert_eq!(code(&edged(args).output().unwrap()), 64, "{args:?}");
    }
    for args in [&["--help"][..], &["--version"], &["precheck", "--help"], &["init", "--help"]] {
        let output = edged(args).output().unwrap();
        assert!(code(&output) == 0 && stdout(&output).contains("edged"), "{args:?}");
    }
}

#[test]
fn the_configuration_in_force_is_shown_with_every_default() {
    let site = Site::new();
    let output = site.command(&["config"]).output().unwrap();
    assert_eq!(code(&output), 0);
    let text = stdout(&output);
    assert!(text.contains("relay.max_retry_age = \"259200000ms\"\n") && text.contains("tls.cert = null\n"), "{text}");
    let output = site.command(&["config", "--output", "json"]).output().unwrap();
    assert_eq!(json(&stdout(&output)).get("node.id").unwrap().as_str(), Some("edge-07"));
}
