//! Passwords of keys, asked of a person at a terminal.

use daemon_common::failure::Failure;
use daemon_common::terminal::{ask, ask_twice};
use io_artifacts::keys::{PASSWORD_VARIABLE, Password};

/// Asks for the password of a key that is there.
///
/// # Errors
/// When there is no terminal, or it is closed.
pub fn ask_password(prompt: &str) -> Result<Password, Failure> {
    let mut typed = ask(prompt, PASSWORD_VARIABLE)?;
    Ok(Password::new(std::mem::take(&mut *typed)))
}

/// Asks for a new password, twice.
///
/// # Errors
/// As [`ask_password`], and when the two differ.
pub fn ask_new_password(what: &str) -> Result<Password, Failure> {
    let mut typed = ask_twice(&format!("Password for {what}: "), PASSWORD_VARIABLE)?;
    Ok(Password::new(std::mem::take(&mut *typed)))
}
