//! `tool.shell`: runs a command, given as a list of arguments; no shell reads it.
//!
//! The environment is empty, the input is nothing, the command leads a process group of its own, and the group is killed
//! as a whole when the command ends, is cancelled, or says more than it may (FAULTS A13).

use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use machines::json::Value;
use machines::work::ToolFault;
use rustix::process::{Pid, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Outcome, Started, Tool};

/// Most that a command may write to its standard output, and to its standard error, in bytes.
pub const MAX_OUTPUT: usize = 64 * 1024;
/// Most arguments.
const MAX_ARGV: usize = 1024;
/// How long the output of a command that has ended is waited for: processes that left its group may hold it open.
const LAST_OUTPUT: Duration = Duration::from_secs(1);

/// Runs commands.
pub struct Shell {
    enabled: bool,
    dir: PathBuf,
}

impl Shell {
    /// Runs its commands in `dir`.
    #[must_use]
    pub fn new(enabled: bool, dir: PathBuf) -> Self {
        Self { enabled, dir }
    }
}

impl Tool for Shell {
    fn kind(&self) -> &'static str {
        "tool.shell"
    }

    fn enabled(&self) -> bool {
        self.enabled
    }

    fn start(&self, params: &Value) -> Started {
        match argv(params) {
            Some(argv) => Started::Running(Box::pin(run(argv, self.dir.clone()))),
            None => Started::Done(Err(ToolFault::BadParams(format!(
                "tool.shell takes {{\"argv\": [a string, …]}} with 1 to {MAX_ARGV} arguments, the first not empty, none \
                 with a NUL, and nothing else"
            )))),
        }
    }
}

fn argv(params: &Value) -> Option<Vec<String>> {
    let fields = params.as_object()?;
    let argv = fields.get("argv")?.as_array()?;
    if fields.len() != 1 || argv.len() > MAX_ARGV {
        return None;
    }
    let argv: Vec<String> = argv.iter().map(|arg| arg.as_str().map(str::to_owned)).collect::<Option<_>>()?;
    let fits = argv.first().is_some_and(|name| !name.is_empty()) && !argv.iter().any(|arg| arg.contains('\0'));
    fits.then_some(argv)
}

async fn run(argv: Vec<String>, dir: PathBuf) -> Outcome {
    let failed = |what: &str, error: std::io::Error| ToolFault::Failed(format!("{what}: {error}"));
    let (name, args) = argv.split_first().ok_or_else(|| ToolFault::BadParams("argv is empty".into()))?;
    let mut child = Command::new(name)
        .args(args)
        .env_clear()
        .current_dir(&dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|error| failed(&format!("cannot run {name:?} in {}", dir.display()), error))?;
    let (stdout, stderr) = (child.stdout.take().map(OwnedFd::from), child.stderr.take().map(OwnedFd::from));
    let mut group = Group::new(child).map_err(|error| failed("cannot watch the command", error))?;

    let pipes = async { tokio::try_join!(capped("stdout", stdout), capped("stderr", stderr)) };
    tokio::pin!(pipes);
    let (out, err) = tokio::select! {
        biased;
        output = &mut pipes => {
            let output = output?;
            group.ended().await.map_err(|error| failed("cannot watch the command", error))?;
            output
        }
        ended = group.ended() => {
            ended.map_err(|error| failed("cannot watch the command", error))?;
            // What it started in its group goes with it, and lets go of the pipes.
            group.kill();
            tokio::time::timeout(LAST_OUTPUT, pipes).await.map_err(|_| {
                ToolFault::Failed("the command ended, and a process that it left behind holds its output open".into())
            })??
        }
    };
    group.kill();
    let status = group.reap().map_err(|error| failed("cannot tell how the command ended", error))?;
    let mut output = std::collections::BTreeMap::new();
    output.insert("exit_code".to_owned(), status.code().map_or(Value::Null, |code| Value::from(i64::from(code))));
    if let Some(signal) = status.signal() {
        output.insert("signal".to_owned(), Value::from(i64::from(signal)));
    }
    output.insert("stdout".to_owned(), Value::from(String::from_utf8_lossy(&out).into_owned()));
    output.insert("stderr".to_owned(), Value::from(String::from_utf8_lossy(&err).into_owned()));
    Ok(Value::from(output))
}

/// Reads a pipe to its end, or fails as soon as it gives more than it may.
async fn capped(name: &str, pipe: Option<OwnedFd>) -> Result<Vec<u8>, ToolFault> {
    let broken = |error: std::io::Error| ToolFault::Failed(format!("cannot read the command's {name}: {error}"));
    let Some(pipe) = pipe else { return Ok(Vec::new()) };
    let mut pipe = Receiver::from_owned_fd(pipe).map_err(broken)?;
    let mut bytes = Vec::new();
    loop {
        if pipe.read_buf(&mut bytes).await.map_err(broken)? == 0 {
            return Ok(bytes);
        }
        if bytes.len() > MAX_OUTPUT {
            return Err(ToolFault::Failed(format!("the command wrote more than {MAX_OUTPUT} bytes to {name}")));
        }
    }
}

/// A command and its process group. The leader is reaped last, so that the group's number cannot be another's when the
/// group is killed. Dropping it kills the group and leaves the reaping to a task.
struct Group {
    leader: Option<Leader>,
}

struct Leader {
    id: Pid,
    child: Child,
    /// Told whenever some child of this process ends.
    exits: Signal,
}

impl Group {
    fn new(mut child: Child) -> std::io::Result<Self> {
        let id = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let id = id.ok_or_else(|| std::io::Error::other("the command has no process number"));
        match id.and_then(|id| Ok((id, signal(SignalKind::child())?))) {
            Ok((id, exits)) => Ok(Self { leader: Some(Leader { id, child, exits }) }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    /// Waits until the leader has ended; it is not reaped yet.
    async fn ended(&mut self) -> std::io::Result<()> {
        match &mut self.leader {
            Some(leader) => leader.ended().await,
            None => Ok(()),
        }
    }

    fn kill(&self) {
        if let Some(leader) = &self.leader {
            let _ = kill_process_group(leader.id, rustix::process::Signal::KILL);
        }
    }

    /// How the leader, which has ended, ended.
    fn reap(&mut self) -> std::io::Result<std::process::ExitStatus> {
        match self.leader.take() {
            Some(mut leader) => leader.child.wait(),
            None => Err(std::io::Error::other("the command was reaped before")),
        }
    }
}

impl Leader {
    async fn ended(&mut self) -> std::io::Result<()> {
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        while waitid(WaitId::Pid(self.id), look)?.is_none() {
            let _ = self.exits.recv().await;
        }
        Ok(())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
        let Some(mut leader) = self.leader.take() else { return };
        if matches!(leader.child.try_wait(), Ok(Some(_))) {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let _ = leader.ended().await;
                let _ = leader.child.wait();
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use machines::json::{Limits, parse};

    use super::*;

    fn shell(dir: &std::path::Path, argv: &[&str]) -> Started {
        let argv: Vec<Value> = argv.iter().map(|arg| Value::from(*arg)).collect();
        Shell::new(true, dir.to_path_buf())
            .start(&Value::from(std::collections::BTreeMap::from([("argv".to_owned(), Value::from(argv))])))
    }

    async fn outcome(argv: &[&str]) -> Outcome {
        match shell(&std::env::temp_dir(), argv) {
            Started::Done(outcome) => outcome,
            Started::Running(running) => running.await,
        }
    }

    fn text<'a>(output: &'a Value, field: &str) -> &'a str {
        output.get(field).and_then(Value::as_str).unwrap()
    }

    #[tokio::test]
    async fn a_command_gives_its_output_and_its_exit_code() {
        let output = outcome(&["/bin/sh", "-c", "echo out; echo err >&2; exit 3"]).await.unwrap();
        assert_eq!(output.get("exit_code").and_then(Value::as_i64), Some(3));
        assert_eq!((text(&output, "stdout"), text(&output, "stderr")), ("out\n", "err\n"));
    }

    #[tokio::test]
    async fn a_command_sees_no_environment_and_no_input() {
        let output = outcome(&["/usr/bin/env"]).await.unwrap();
        assert_eq!(text(&output, "stdout"), "");
        let output = outcome(&["/bin/cat"]).await.unwrap();
        assert_eq!(output.get("exit_code").and_then(Value::as_i64), Some(0));
    }

    #[tokio::test]
    async fn a02_arguments_are_no_shell_text() {
        let output = outcome(&["/bin/echo", "; exit 1 $(id)"]).await.unwrap();
        assert_eq!(text(&output, "stdout"), "; exit 1 $(id)\n");
    }

    #[tokio::test]
    async fn a12_a_command_that_says_too_much_is_killed() {
        let fault = outcome(&["/bin/sh", "-c", "while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done"]).await;
        assert!(matches!(&fault, Err(ToolFault::Failed(why)) if why.contains("65536")), "{fault:?}");
    }

    #[tokio::test]
    async fn a_command_that_is_not_there_fails_in_words() {
        let fault = outcome(&["/no/such/command"]).await;
        assert!(matches!(&fault, Err(ToolFault::Failed(why)) if why.contains("/no/such/command")), "{fault:?}");
    }

    #[tokio::test]
    async fn a13_what_a_command_started_ends_with_it() {
        let started = Instant::now();
        let output = outcome(&["/bin/sh", "-c", "sleep 60 & echo $!"]).await.unwrap();
        assert!(started.elapsed() < Duration::from_secs(30));
        gone(text(&output, "stdout").trim()).await;
    }

    #[tokio::test]
    async fn a13_a_cancelled_command_is_killed_with_its_group() {
        let dir = tempfile::tempdir().unwrap();
        let script = "sleep 60 & echo $! > child; mv child ready; wait";
        let Started::Running(running) = shell(dir.path(), &["/bin/sh", "-c", script]) else { panic!("done at once") };
        let task = tokio::spawn(running);
        let ready = dir.path().join("ready");
        let child = poll(|| std::fs::read_to_string(&ready).ok()).await;
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        gone(child.trim()).await;
    }

    #[test]
    fn other_parameters_do_not_fit() {
        for params in [
            "{}",
            r#"{"argv":[]}"#,
            r#"{"argv":[""]}"#,
            r#"{"argv":"ls"}"#,
            r#"{"argv":["ls",1]}"#,
            r#"{"argv":["ls\u0000"]}"#,
            r#"{"argv":["ls"],"env":{}}"#,
        ] {
            assert_eq!(argv(&parse(params.as_bytes(), &Limits::default()).unwrap()), None, "{params}");
        }
    }

    /// Waits until a process is no more, or only waits to be reaped by whoever inherited it.
    async fn gone(pid: &str) {
        let stat = format!("/proc/{pid}/stat");
        poll(|| std::fs::read_to_string(&stat).map_or(Some(()), |stat| stat.contains(") Z ").then_some(()))).await;
    }

    async fn poll<T>(mut ready: impl FnMut() -> Option<T>) -> T {
        let started = Instant::now();
        loop {
            if let Some(value) = ready() {
                return value;
            }
            assert!(started.elapsed() < Duration::from_secs(10), "waited too long");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
