//! A place without any network: a network namespace of its own, in which not even loopback is up.

use std::process::{Command, Stdio};

/// How a command is run there, or why that is not possible on this machine.
///
/// # Errors
/// In words: there is no `unshare`, or the system does not let this user have a namespace.
pub fn within() -> Result<&'static [&'static str], String> {
    // Root may have one as it is; anybody else where users may have namespaces in which they are root.
    const WAYS: [&[&str]; 2] = [&["unshare", "-n"], &["unshare", "-r", "-n"]];
    let mut why = String::new();
    for way in WAYS {
        match possible(way) {
            Ok(()) => return Ok(way),
            Err(words) => why = words,
        }
    }
    Err(why)
}

fn possible(way: &[&str]) -> Result<(), String> {
    let Some((program, rest)) = way.split_first() else { return Err("no command".into()) };
    let done = Command::new(program).args(rest).arg("true").stdin(Stdio::null()).output();
    match done {
        Ok(done) if done.status.success() => Ok(()),
        Ok(done) => Err(String::from_utf8_lossy(&done.stderr).trim().replace('\n', "; ")),
        Err(error) => Err(format!("no network namespace without unshare: {error}")),
    }
}
