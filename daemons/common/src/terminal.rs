//! What needs a person at a terminal.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::sync::{Mutex, PoisonError};
use std::task::Poll;

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::signal::unix::{Signal, SignalKind, signal};
use zeroize::Zeroizing;

use crate::failure::Failure;

/// The longest password, in bytes.
const MAX_PASSWORD: u64 = 4096;

/// Asks for a new password, twice; `variable` is what would have spared the question.
///
/// # Errors
/// As [`ask`], and when the two differ.
pub fn ask_twice(prompt: &str, variable: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let first = ask(prompt, variable)?;
    let second = ask("The same again: ", variable)?;
    if first != second {
        return Err(Failure::refused("the two passwords differ; nothing was made"));
    }
    Ok(first)
}

/// What is typed, without showing it; `variable` is what would have spared the question.
///
/// # Errors
/// When there is no terminal, or it is closed.
pub fn ask(prompt: &str, variable: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let tty = OpenOptions::new().read(true).write(true).open("/dev/tty").map_err(|_| {
        Failure::usage(format!("there is no terminal to ask for the password; set {variable} (it may be empty)"))
    })?;
    let failed = |error: std::io::Error| Failure::refused(format!("the terminal gives no password: {error}"));
    watch().map_err(failed)?;
    let hidden = Hidden::start(&tty).map_err(failed)?;
    (&tty).write_all(prompt.as_bytes()).map_err(failed)?;
    let mut line = Zeroizing::new(Vec::with_capacity(256));
    let read = BufReader::new((&tty).take(MAX_PASSWORD)).read_until(b'\n', &mut line);
    drop(hidden);
    (&tty).write_all(b"\n").map_err(failed)?;
    if read.map_err(failed)? == 0 {
        return Err(Failure::refused("the terminal gives no password: it was closed"));
    }
    while matches!(line.last(), Some(b'\n' | b'\r')) {
        line.pop();
    }
    Ok(line)
}

/// The terminal that shows nothing at the moment, and how it was before.
static HIDDEN: Mutex<Option<(File, Termios)>> = Mutex::new(None);

/// A terminal that shows nothing of what is typed, until this goes away or a signal ends the process.
struct Hidden;

impl Hidden {
    fn start(tty: &File) -> io::Result<Self> {
        let before = tcgetattr(tty)?;
        let mut hidden = before.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        let mut held = HIDDEN.lock().unwrap_or_else(PoisonError::into_inner);
        *held = Some((tty.try_clone()?, before));
        tcsetattr(tty, OptionalActions::Flush, &hidden)?;
        Ok(Self)
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        restore();
    }
}

/// The terminal shows again what is typed.
fn restore() {
    let held = HIDDEN.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some((tty, before)) = held {
        // There is nobody to tell.
        let _ = tcsetattr(&tty, OptionalActions::Flush, &before);
    }
}

/// The signals that end a process at a terminal, and their numbers.
const SIGNALS: [(SignalKind, i32); 4] =
    [(SignalKind::hangup(), 1), (SignalKind::interrupt(), 2), (SignalKind::quit(), 3), (SignalKind::terminate(), 15)];

/// From here on, a signal that ends the process lets the terminal show again before it does: whoever presses Ctrl-C at the
/// prompt must not be left typing blindly. The exit code is a shell's, 128 and the signal's number. For commands only: what
/// is to end in order has handlers of its own.
fn watch() -> io::Result<()> {
    static WATCHED: Mutex<bool> = Mutex::new(false);
    let mut watched = WATCHED.lock().unwrap_or_else(PoisonError::into_inner);
    if *watched {
        return Ok(());
    }
    let (ready, begun) = std::sync::mpsc::channel();
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        let waited = tokio::runtime::Builder::new_current_thread().enable_io().build().and_then(|runtime| {
            runtime.block_on(async {
                let mut handlers = Vec::new();
                for (kind, number) in SIGNALS {
                    handlers.push((signal(kind)?, number));
                }
                let _ = ready.send(Ok(()));
                Ok(std::future::poll_fn(|cx| {
                    let came = handlers.iter_mut().find_map(|(handler, number): &mut (Signal, i32)| {
                        handler.poll_recv(cx).is_ready().then_some(*number)
                    });
                    came.map_or(Poll::Pending, Poll::Ready)
                })
                .await)
            })
        });
        match waited {
            Ok(number) => {
                restore();
                std::process::exit(128 + number);
            }
            // Before there was a handler: whoever waits hears it.
            Err(error) => drop(ready.send(Err(error))),
        }
    })?;
    begun.recv().map_err(io::Error::other)??;
    *watched = true;
    Ok(())
}
