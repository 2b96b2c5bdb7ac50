//! Act 4 of the story and its coda, as they stand in SPEC 10 and 13; and what counts as another system.

use std::fs;

use crate::harness::{Site, ZEROS, code, edgectl, may_trace, stderr, stdout};

#[test]
fn the_operating_system_is_replaced_and_the_node_rebuilds_itself() {
    let site = Site::started();
    site.release(1, b"a binary");
    let current = site.chain().last().new_hash.to_string();
    site.zero_fingerprint();

    let output = site.precheck(&["--log-level", "info"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let said = stderr(&output);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 3, "{said}");
    let detected =
        format!("level=WARN msg=\"edge.os.update_detected\" previous_hash=\"{ZEROS}\" current_hash=\"{current}\"");
    assert!(lines[0].starts_with("time=") && lines[0].ends_with(&detected), "{said}");
    assert!(lines[1].ends_with("level=INFO msg=\"edge.os.reconstruction_started\""), "{said}");
    let (before, after) = lines[2].split_once(" duration_seconds=").unwrap();
    assert!(before.ends_with("level=INFO msg=\"edge.os.reconstruction_completed\""), "{said}");
    let (seconds, epoch) = after.split_once(' ').unwrap();
    assert!(seconds.parse::<f64>().unwrap() < 30.0 && seconds.split('.').nth(1).unwrap().len() == 3, "{said}");
    assert_eq!(epoch, "boot_epoch=1");

    assert_eq!(fs::read(site.file("runtime/bin/agent")).unwrap(), b"a binary");
    let evidence = fs::read_to_string(site.file("epoch/current/evidence.json")).unwrap();
    assert!(evidence.contains(&format!("\"binary_hash\": \"blake3:{}\"", blake3::hash(b"a binary"))), "{evidence}");
    assert!(fs::read_to_string(site.file("epoch/previous/evidence.json")).unwrap().contains("\"epoch\": 0"));
    assert!(fs::read_to_string(site.file("bootstrap/os_fingerprint.json")).unwrap().contains("\"boot_epoch\": 1"));

    let daemon = site.run();
    let socket = site.dir.path().join("ctl.sock");
    let asked = edgectl(&["--socket", socket.to_str().unwrap(), "epoch"]);
    assert_eq!(code(&asked), 0, "{}", stderr(&asked));
    assert!(stdout(&asked).lines().any(|line| line == "BootEpoch: 1"), "{}", stdout(&asked));
    daemon.stop();

    // The coda: zeros again, the key moved away.
    site.zero_fingerprint();
    fs::rename(site.file("identity/manifest-verify.pub"), site.dir.path().join("away")).unwrap();
    site.refuses("level=ERROR msg=\"precheck: manifest verify key missing on reconstruction path\"");
    let refused = site.command(&["run"]).output().unwrap();
    assert_eq!(code(&refused), 5);
    assert!(stderr(&refused).contains("this boot's precheck ended with exit 5; run: edged precheck"));
    assert_eq!(site.epoch(), 1);

    // With the key back it goes on.
    fs::rename(site.dir.path().join("away"), site.file("identity/manifest-verify.pub")).unwrap();
    assert_eq!(code(&site.precheck(&[])), 0);
    assert_eq!(site.epoch(), 2);
}

#[test]
fn a_kernel_a_libc_and_a_comment_are_told_apart() {
    let site = Site::started();
    site.release(1, b"a binary");
    let changed = |what: &str| {
        let output = site.precheck(&[]);
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        assert!(stderr(&output).contains(&format!("changed=\"{what}\"")), "{what}: {}", stderr(&output));
    };
    site.kernel("6.1.0-19-amd64");
    changed("kernel");
    site.libc("2.37");
    changed("libc");
    assert_eq!(site.epoch(), 2);

    let release = site.system("etc/os-release");
    let text = fs::read_to_string(&release).unwrap();
    fs::write(&release, format!("# maintained by nobody\n{text}HOME_URL=\"https://example.org/\"\n")).unwrap();
    let output = site.precheck(&[]);
    assert!(code(&output) == 0 && stderr(&output).contains("msg=\"edge.os.unchanged\""), "{}", stderr(&output));
    assert_eq!(site.epoch(), 2);
    fs::write(&release, text.replace("12", "13")).unwrap();
    changed("os_release");
    assert_eq!(site.epoch(), 3);
}

#[test]
fn an_unchanged_precheck_flushes_nothing() {
    if !may_trace() {
        return;
    }
    let site = Site::started();
    let before = site.tree();
    let trace = site.dir.path().join("trace");
    let plain = site.command(&["precheck"]);
    let mut traced = std::process::Command::new("strace");
    traced.args(["-f", "-qq", "-e", "trace=fsync,fdatasync,syncfs,sync,sync_file_range,msync,openat,openat2", "-o"]);
    let output = traced.arg(&trace).arg(plain.get_program()).args(plain.get_args()).output().unwrap();
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let calls = fs::read_to_string(&trace).unwrap();
    assert!(calls.contains("openat"), "{calls}");
    assert!(!calls.contains("sync"), "{calls}");
    assert!(crate::harness::names(&site.tree(), &before).is_empty());
}
