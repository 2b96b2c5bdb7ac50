//! What a person at a terminal sees: passwords are asked for, and whoever breaks off is not left typing blindly.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};

/// A terminal of our own, and a command at it that asks for a password.
struct Prompted {
    master: File,
    terminal: File,
    child: Child,
}

impl Prompted {
    fn start(out: &str) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let terminal = rustix::fs::open(name.as_c_str(), OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
        let terminal = File::from(terminal);
        assert!(tcgetattr(&terminal).unwrap().local_modes.contains(LocalModes::ECHO));
        let exe = env!("CARGO_BIN_EXE_autonomy");
        let child = Command::new("setsid")
            .args(["--ctty", exe, "keys", "generate", "--type", "cosign", "--out", out])
            .env_remove("COSIGN_PASSWORD")
            .stdin(Stdio::from(terminal.try_clone().unwrap()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut prompted = Self { master: File::from(master), terminal, child };
        prompted.said("Password for");
        assert!(!prompted.echoes(), "what is typed does not show");
        prompted
    }

    /// Reads until these words were said.
    fn said(&mut self, words: &str) {
        let mut text = Vec::new();
        while !String::from_utf8_lossy(&text).contains(words) {
            let mut part = [0; 256];
            let n = self.master.read(&mut part).unwrap();
            text.extend_from_slice(&part[..n]);
        }
    }

    fn echoes(&self) -> bool {
        tcgetattr(&self.terminal).unwrap().local_modes.contains(LocalModes::ECHO)
    }

    fn code(&mut self) -> Option<i32> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            if begun.elapsed() > Duration::from_secs(60) {
                self.child.kill().unwrap();
                panic!("it does not end");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn a_prompt_that_is_broken_off_leaves_a_terminal_that_shows_what_is_typed() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("k").display().to_string();
    // Ctrl-C and Ctrl-\\, as the terminal makes signals of them.
    for (key, code) in [(b"\x03", 130), (b"\x1c", 131)] {
        let mut prompted = Prompted::start(&out);
        prompted.master.write_all(b"half a pass").unwrap();
        prompted.master.write_all(key).unwrap();
        assert_eq!(prompted.code(), Some(code));
        assert!(prompted.echoes(), "after {code}");
    }
    for (signal, code) in [("-TERM", 143), ("-HUP", 129)] {
        let mut prompted = Prompted::start(&out);
        let pid = prompted.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
        assert_eq!(prompted.code(), Some(code));
        assert!(prompted.echoes(), "after {signal}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing was made");
    // And one that is answered: between the two questions and after them it is the same.
    let mut prompted = Prompted::start(&out);
    prompted.master.write_all(b"correct horse\n").unwrap();
    prompted.said("The same again");
    prompted.master.write_all(b"correct horse\n").unwrap();
    assert_eq!(prompted.code(), Some(0));
    assert!(prompted.echoes());
}
