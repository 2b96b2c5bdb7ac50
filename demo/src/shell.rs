//! What a person would type, what it prints, and the pace of the telling.

use std::io::BufRead as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

/// How fast the story is told: `DEMO_PACE` is a number of seconds after each step, or `ask`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// No waiting.
    Straight,
    /// This long after each step.
    Wait(Duration),
    /// Until Enter is pressed.
    Ask,
}

impl Pace {
    /// Reads the variable's value; none and empty mean no waiting.
    ///
    /// # Errors
    /// It is neither a number of seconds nor `ask`.
    pub fn parse(value: Option<&str>) -> Result<Self> {
        match value {
            None | Some("" | "0") => Ok(Self::Straight),
            Some("ask") => Ok(Self::Ask),
            Some(seconds) => match seconds.parse::<f64>() {
                Ok(n) if (0.0..=3600.0).contains(&n) => Ok(Self::Wait(Duration::from_secs_f64(n))),
                Ok(_) | Err(_) => bail!("DEMO_PACE is `{seconds}`; use a number of seconds up to 3600, or `ask`"),
            },
        }
    }
}

/// The terminal of the story.
#[derive(Debug)]
pub struct Shell {
    autonomy: PathBuf,
    pace: Pace,
    muted: bool,
}

/// What a command printed.
#[derive(Debug)]
pub struct Printed {
    /// The exit code; 128 and more for a signal.
    pub code: i32,
    /// stdout.
    pub out: String,
    /// stderr.
    pub err: String,
}

impl Shell {
    /// A terminal in which `autonomy` is this binary.
    #[must_use]
    pub fn new(autonomy: &Path, pace: Pace) -> Self {
        Self { autonomy: autonomy.to_path_buf(), pace, muted: false }
    }

    /// The same, but commands and what they print are not shown.
    #[must_use]
    pub fn muted(&self) -> Self {
        Self { autonomy: self.autonomy.clone(), pace: Pace::Straight, muted: true }
    }

    /// A heading.
    pub fn act(&self, title: &str) {
        println!("\n== {title}");
    }

    /// A sentence of the teller.
    pub fn say(&self, words: &str) {
        println!("  {words}");
    }

    /// Shows a command as typed.
    pub fn type_in(&self, command: &str) {
        if self.muted {
            return;
        }
        println!("\n[OPERATOR] $ {command}");
    }

    /// Shows what was printed, and waits as the pace says.
    pub fn print(&self, output: &str) {
        if self.muted {
            return;
        }
        for line in output.lines() {
            println!("{line}");
        }
        match self.pace {
            Pace::Straight => {}
            Pace::Wait(time) => std::thread::sleep(time),
            Pace::Ask => {
                println!("  -- Enter --");
                // At the end of the input the story goes on.
                let _ = std::io::stdin().lock().read_line(&mut String::new());
            }
        }
    }

    /// Shows and runs `autonomy` with these arguments.
    ///
    /// # Errors
    /// The binary cannot be run.
    pub fn autonomy(&self, arguments: &[&str]) -> Result<Printed> {
        self.autonomy_around(Around::default(), arguments)
    }

    /// The same within something, or with variables.
    ///
    /// # Errors
    /// The binary cannot be run.
    pub fn autonomy_around(&self, around: Around<'_>, arguments: &[&str]) -> Result<Printed> {
        self.type_in(&around.typed("autonomy", arguments));
        let printed = self.quietly_around(around, arguments)?;
        self.print(&format!("{}{}", printed.out, printed.err));
        Ok(printed)
    }

    /// Runs `autonomy` with these arguments and shows nothing.
    ///
    /// # Errors
    /// The binary cannot be run.
    pub fn quietly(&self, arguments: &[&str]) -> Result<Printed> {
        self.quietly_around(Around::default(), arguments)
    }

    /// The same within something, or with variables.
    ///
    /// # Errors
    /// The binary cannot be run.
    pub fn quietly_around(&self, around: Around<'_>, arguments: &[&str]) -> Result<Printed> {
        // What lies between may change the folder, so that a relative path would miss.
        let autonomy = self.autonomy.canonicalize().unwrap_or_else(|_| self.autonomy.clone());
        execute(around, &autonomy, arguments)
            .with_context(|| format!("cannot run {}; `make build` makes it", self.autonomy.display()))
    }

    /// Shows and runs the program of this name that lies beside `autonomy`.
    ///
    /// # Errors
    /// The binary cannot be run.
    pub fn sibling(&self, name: &str, arguments: &[&str]) -> Result<Printed> {
        self.type_in(&Around::default().typed(name, arguments));
        let program = self.autonomy.with_file_name(name);
        let printed = execute(Around::default(), &program, arguments)
            .with_context(|| format!("cannot run {}; `make build` makes it", program.display()))?;
        self.print(&format!("{}{}", printed.out, printed.err));
        Ok(printed)
    }

    /// Shows and runs another program.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn other(&self, around: Around<'_>, program: &str, arguments: &[&str]) -> Result<Printed> {
        self.type_in(&around.typed(program, arguments));
        let printed =
            execute(around, Path::new(program), arguments).with_context(|| format!("cannot run {program}"))?;
        self.print(&format!("{}{}", printed.out, printed.err));
        Ok(printed)
    }
}

/// What stands around a command.
#[derive(Clone, Copy, Debug, Default)]
pub struct Around<'a> {
    /// The command that runs it, such as `unshare -n`.
    pub within: &'a [&'a str],
    /// Variables of its environment. Their values are not shown.
    pub variables: &'a [(&'a str, &'a str)],
}

impl Around<'_> {
    fn typed(&self, program: &str, arguments: &[&str]) -> String {
        let variables: String = self.variables.iter().map(|(name, _)| format!("{name}=… ")).collect();
        let words: Vec<String> =
            self.within.iter().chain([&program]).chain(arguments).map(|word| quoted(word)).collect();
        format!("{variables}{}", words.join(" "))
    }
}

/// As a person would have to type it.
fn quoted(word: &str) -> String {
    let special = |c: char| c.is_whitespace() || "'\"\\$`<>|&;()*?{}".contains(c);
    if word.is_empty() || word.contains(special) {
        format!("'{}'", word.replace('\'', "'\\''"))
    } else {
        word.to_owned()
    }
}

fn execute(around: Around<'_>, program: &Path, arguments: &[&str]) -> std::io::Result<Printed> {
    let mut command = match around.within.split_first() {
        Some((first, rest)) => {
            let mut command = Command::new(first);
            command.args(rest).arg(program);
            command
        }
        None => Command::new(program),
    };
    crate::node::without_ours(&mut command);
    let variables = around.variables.iter().copied();
    let done = command.args(arguments).envs(variables).stdin(Stdio::null()).output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Printed { code: done.status.code().unwrap_or(128), out: text(&done.stdout), err: text(&done.stderr) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_can_be_typed_and_holds_no_password() {
        let around = Around { within: &["unshare", "-n"], variables: &[("COSIGN_PASSWORD", "hunter2")] };
        let typed = around.typed("autonomy", &["lock", "create", "--runtime-version", ">=0.1.0 <2.0.0", "it's"]);
        let want = "COSIGN_PASSWORD=… unshare -n autonomy lock create --runtime-version '>=0.1.0 <2.0.0' 'it'\\''s'";
        assert_eq!(typed, want);
    }

    #[test]
    fn the_pace_is_seconds_or_ask_and_nothing_else() {
        assert_eq!(Pace::parse(None).unwrap(), Pace::Straight);
        assert_eq!(Pace::parse(Some("1.5")).unwrap(), Pace::Wait(Duration::from_millis(1500)));
        assert_eq!(Pace::parse(Some("ask")).unwrap(), Pace::Ask);
        for bad in ["fast", "-1", "NaN", "inf", "1e9"] {
            assert!(Pace::parse(Some(bad)).is_err(), "{bad}");
        }
    }
}
