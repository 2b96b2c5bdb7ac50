//! What needs a person at a terminal.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};

use io_artifacts::keys::{PASSWORD_VARIABLE, Password};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use crate::failure::Failure;

/// The longest password, in bytes.
const MAX_PASSWORD: u64 = 4096;

/// Asks for the password of a key that is there.
///
/// # Errors
/// When there is no terminal, or it is closed.
pub fn ask_password(prompt: &str) -> Result<Password, Failure> {
    let mut typed = ask(prompt)?;
    Ok(Password::new(std::mem::take(&mut *typed)))
}

/// Asks for a new password, twice.
///
/// # Errors
/// As [`ask_password`], and when the two differ.
pub fn ask_new_password(what: &str) -> Result<Password, Failure> {
    let mut first = ask(&format!("Password for {what}: "))?;
    let second = ask("The same again: ")?;
    if first != second {
        return Err(Failure::refused("the two passwords differ; nothing was made"));
    }
    Ok(Password::new(std::mem::take(&mut *first)))
}

/// What is typed, without showing it.
fn ask(prompt: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let tty = OpenOptions::new().read(true).write(true).open("/dev/tty").map_err(|_| {
        Failure::usage(format!(
            "there is no terminal to ask for the password; set {PASSWORD_VARIABLE} (it may be empty)"
        ))
    })?;
    let failed = |error: std::io::Error| Failure::refused(format!("the terminal gives no password: {error}"));
    let _hidden = Hidden::start(&tty).map_err(failed)?;
    (&tty).write_all(prompt.as_bytes()).map_err(failed)?;
    let mut line = Zeroizing::new(Vec::with_capacity(256));
    let read = BufReader::new((&tty).take(MAX_PASSWORD)).read_until(b'\n', &mut line);
    (&tty).write_all(b"\n").map_err(failed)?;
    if read.map_err(failed)? == 0 {
        return Err(Failure::refused("the terminal gives no password: it was closed"));
    }
    while matches!(line.last(), Some(b'\n' | b'\r')) {
        line.pop();
    }
    Ok(line)
}

/// A terminal that shows nothing of what is typed, until this goes away.
struct Hidden<'t> {
    tty: &'t File,
    before: Termios,
}

impl<'t> Hidden<'t> {
    fn start(tty: &'t File) -> std::io::Result<Self> {
        let before = tcgetattr(tty)?;
        let mut hidden = before.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        tcsetattr(tty, OptionalActions::Flush, &hidden)?;
        Ok(Self { tty, before })
    }
}

impl Drop for Hidden<'_> {
    fn drop(&mut self) {
        // There is nobody to tell.
        let _ = tcsetattr(self.tty, OptionalActions::Flush, &self.before);
    }
}
