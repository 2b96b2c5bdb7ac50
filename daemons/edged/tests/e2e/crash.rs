//! Reconstructions that are killed at any moment, and several at once (SPEC 12 I-E1, I-E3).

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::harness::{Site, code, stderr};

/// How often.
const KILLS: u64 = 200;
/// Bytes of the binary.
const BYTES: usize = 3 << 20;

/// Bytes of a binary that no other version has.
fn binary(version: u64) -> Vec<u8> {
    let mut bytes = vec![0; BYTES];
    blake3::Hasher::new().update(&version.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

#[test]
fn e03_a_reconstruction_that_is_killed_at_any_moment_is_completed_by_the_next_precheck() {
    let site = Site::started();
    let mut state = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    println!("seed {state}");
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as f64 / f64::from(1u32 << 31)
    };
    // How long a whole one takes here.
    let replace = |n: u64| {
        site.kernel(&format!("6.1.{n}"));
        site.release(n, &binary(n));
    };
    replace(1);
    let started = Instant::now();
    assert_eq!(code(&site.precheck(&[])), 0);
    let mut whole = started.elapsed();

    let (mut cut, mut committed) = (0, 0);
    for n in 2..2 + KILLS {
        let before = site.epoch();
        replace(n);
        let mut child = site.command(&["precheck"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let delay = whole.mul_f64(random() * 1.25);
        std::thread::sleep(delay);
        let ended_by_itself = child.try_wait().unwrap().is_some();
        let _ = child.kill();
        child.wait().unwrap();
        cut += u64::from(!ended_by_itself);
        committed += u64::from(!ended_by_itself && site.epoch() > before);
        if ended_by_itself {
            whole = whole.mul_f64(0.98).min(delay);
        }

        let output = site.precheck(&[]);
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        assert_eq!(site.epoch(), before + 1, "the epoch advanced once");
        assert_eq!(site.chain().last().manifest_version, n);
        assert!(fs::read(site.file("runtime/bin/agent")).unwrap() == binary(n), "installed are the signed bytes");
        let fingerprint = fs::read_to_string(site.file("bootstrap/os_fingerprint.json")).unwrap();
        assert!(fingerprint.contains(&format!("\"boot_epoch\": {}", before + 1)), "{fingerprint}");
        let evidence = fs::read_to_string(site.file("epoch/current/evidence.json")).unwrap();
        assert!(evidence.contains(&format!("blake3:{}", blake3::hash(&binary(n)))), "{evidence}");
        let left: Vec<_> = fs::read_dir(site.file("runtime/bin")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["agent"], "nothing half-written stays");
    }
    println!("{cut} of {KILLS} were cut short, {committed} of them behind the commit");
    assert!(cut > KILLS / 4, "only {cut} were cut short: the delays do not fit this machine");
}

#[test]
fn several_prechecks_at_once_rebuild_once() {
    let site = Site::started();
    for n in 1..=5 {
        site.kernel(&format!("6.1.{n}"));
        site.release(n, &binary(n));
        let children: Vec<_> = (0..6)
            .map(|_| site.command(&["precheck"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
            .collect();
        let codes: Vec<_> = children.into_iter().map(|mut child| child.wait().unwrap().code().unwrap()).collect();
        assert!(codes.contains(&0) && codes.iter().all(|code| matches!(code, 0 | 4)), "{codes:?}");
        assert_eq!(site.epoch(), n);
    }
}

#[test]
fn a_precheck_waits_for_nobody_who_holds_the_state_root() {
    let site = Site::started();
    let daemon = site.run();
    let started = Instant::now();
    let output = site.precheck(&[]);
    assert_eq!(code(&output), 4, "{}", stderr(&output));
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!(code(&site.command(&["run"]).output().unwrap()), 4);
    daemon.stop();
    assert_eq!(code(&site.precheck(&[])), 0);
}
