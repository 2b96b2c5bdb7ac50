//! Tells the program when it was built: no clock is believed to be before it (FAULTS T09, T11).
//!
//! `SOURCE_DATE_EPOCH`, else the time of the commit, else 0: the same sources give the same program.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=SOURCE_DATE_EPOCH");
    // Where the commit changes, if this is a checkout at all.
    if let Some(head) = git(&["rev-parse", "--path-format=absolute", "--git-path", "logs/HEAD"])
        && std::path::Path::new(&head).exists()
    {
        println!("cargo::rerun-if-changed={head}");
    }
    let given = std::env::var("SOURCE_DATE_EPOCH").ok();
    let seconds =
        given.or_else(|| git(&["log", "-1", "--format=%ct"])).and_then(|text| text.trim().parse::<u64>().ok());
    println!("cargo::rustc-env=EDGE_BUILD_SECONDS={}", seconds.unwrap_or(0));
}

fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok().map(|text| text.trim().to_owned())
}
