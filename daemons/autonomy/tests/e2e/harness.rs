//! Starting the binary, talking to it, waiting for it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use machines::json::{Limits, Value, parse};
use tempfile::TempDir;

/// How long anything is waited for.
pub const LONG: Duration = Duration::from_secs(30);

pub const ECHO: &str = r#"{"kind":"tool.echo","params":{"message":"hello"}}"#;
pub const SHELL: &str = r#"{"kind":"tool.shell","params":{"argv":["/bin/true"]}}"#;

/// A command line of the binary, without what the tester's environment says.
pub fn autonomy(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_autonomy"));
    command.args(args).env_remove("AUTONOMY_STRICT_MODE").env_remove("AUTONOMY_RUNTIME_URL");
    command
}

/// Runs a command to its end.
pub fn finish(args: &[&str]) -> Output {
    autonomy(args).stdin(Stdio::null()).output().unwrap()
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub fn json(text: &str) -> Value {
    parse(text.as_bytes(), &Limits::default()).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// Waits for something to become so.
pub fn until<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(started.elapsed() < LONG, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A state root.
pub struct Node {
    pub root: Arc<TempDir>,
}

impl Node {
    /// Without a policy.
    pub fn bare() -> Self {
        Self { root: Arc::new(tempfile::tempdir().unwrap()) }
    }

    /// With the demo's policy in force.
    pub fn demo() -> Self {
        let node = Self::bare();
        let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/../../demo/policies");
        let loaded = node.load(Path::new(demo), "1.0.0", &[]);
        assert!(loaded.status.success(), "{}", stderr(&loaded));
        node
    }

    /// With this Rego in force.
    pub fn with_policy(rego: &str) -> Self {
        let node = Self::bare();
        let loaded = node.load_rego(rego, "1.0.0", &[]);
        assert!(loaded.status.success(), "{}", stderr(&loaded));
        node
    }

    pub fn path(&self) -> &str {
        self.root.path().to_str().unwrap()
    }

    pub fn telemetry(&self) -> PathBuf {
        self.root.path().join("telemetry")
    }

    /// Builds a bundle from one Rego text.
    pub fn build_rego(&self, rego: &str, version: &str, more: &[&str]) -> PathBuf {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("policy.rego"), rego).unwrap();
        self.build(dir.path(), version, more)
    }

    pub fn build(&self, dir: &Path, version: &str, more: &[&str]) -> PathBuf {
        let out = self.root.path().join(format!("bundle-{version}.tar.gz"));
        let args =
            ["policy", "build", "--in", dir.to_str().unwrap(), "--out", out.to_str().unwrap(), "--version", version];
        let built = finish(&[&args[..], more].concat());
        assert!(built.status.success(), "{}", stderr(&built));
        out
    }

    pub fn load(&self, dir: &Path, version: &str, more: &[&str]) -> Output {
        self.load_bundle(&self.build(dir, version, more))
    }

    pub fn load_rego(&self, rego: &str, version: &str, more: &[&str]) -> Output {
        self.load_bundle(&self.build_rego(rego, version, more))
    }

    pub fn load_bundle(&self, bundle: &Path) -> Output {
        finish(&["policy", "load", "--bundle", bundle.to_str().unwrap(), "--state-root", self.path()])
    }

    /// A running runtime on this state root.
    pub fn start(&self, more: &[&str]) -> Runtime {
        let mut runtime = Runtime::spawn(self.command(more)).started();
        runtime.root = Some(Arc::clone(&self.root));
        runtime
    }

    /// The command line of a runtime on this state root.
    pub fn command(&self, more: &[&str]) -> Command {
        let args = ["runtime", "start", "--listen", "127.0.0.1:0", "--state-root", self.path()];
        autonomy(&[&args[..], more].concat())
    }

    pub fn verify(&self) -> Output {
        finish(&["wal", "verify", "--dir", self.telemetry().to_str().unwrap()])
    }

    pub fn inspect(&self) -> Value {
        let dir = self.telemetry();
        json(&stdout(&finish(&["--output", "json", "wal", "inspect", "--dir", dir.to_str().unwrap()])))
    }

    /// All frames up to the safe-point.
    pub fn frames(&self) -> Vec<Value> {
        let dir = self.telemetry();
        let out = finish(&["wal", "tail", "-n", "100000", "--dir", dir.to_str().unwrap()]);
        assert!(out.status.success(), "{}", stderr(&out));
        stdout(&out).lines().map(json).collect()
    }
}

/// A runtime process.
pub struct Runtime {
    pub child: Child,
    pub address: SocketAddr,
    log: Arc<(Mutex<Vec<String>>, Condvar)>,
    /// Kept as long as it runs.
    root: Option<Arc<TempDir>>,
}

impl Runtime {
    pub fn spawn(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new((Mutex::new(Vec::new()), Condvar::new()));
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let lines = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                lines.0.lock().unwrap().push(line);
                lines.1.notify_all();
            }
        });
        Self { child, address: SocketAddr::from(([127, 0, 0, 1], 0)), log, root: None }
    }

    /// Waits until it serves.
    pub fn started(mut self) -> Self {
        let line = self.logged("msg=\"runtime.started\"");
        let listen = line.split("listen=\"").nth(1).and_then(|rest| rest.split('"').next());
        self.address = listen.unwrap_or_else(|| panic!("no address: {line}")).parse().unwrap();
        self
    }

    /// Waits for a log line that contains this.
    pub fn logged(&self, text: &str) -> String {
        let (lines, more) = &*self.log;
        let started = Instant::now();
        let mut lines = lines.lock().unwrap();
        loop {
            if let Some(line) = lines.iter().find(|line| line.contains(text)) {
                return line.clone();
            }
            assert!(started.elapsed() < LONG, "no line with {text} in {lines:#?}");
            lines = more.wait_timeout(lines, Duration::from_millis(100)).unwrap().0;
        }
    }

    pub fn log_lines(&self) -> Vec<String> {
        self.log.0.lock().unwrap().clone()
    }

    pub fn connect(&self) -> Connection {
        Connection::to(self.address)
    }

    /// One request on a connection of its own.
    pub fn get(&self, path: &str) -> Response {
        self.connect().request("GET", path, &[], "")
    }

    /// One call on a connection of its own.
    pub fn call(&self, body: &str) -> Response {
        self.connect().call(body)
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    pub fn ended(&mut self) -> ExitStatus {
        let child = &mut self.child;
        until("the end of the runtime", || child.try_wait().unwrap())
    }

    /// Ends it as an operator does.
    pub fn stop(mut self) {
        self.signal("TERM");
        let status = self.ended();
        assert_eq!(status.code(), Some(0), "{:#?}", self.log_lines());
    }

    /// Ends it as a crash does.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An answer.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Response {
    pub fn json(&self) -> Value {
        json(&self.body)
    }

    pub fn text(&self, field: &str) -> String {
        self.json().get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
    }

    pub fn decision(&self) -> String {
        self.text("decision")
    }

    pub fn reason(&self) -> String {
        self.text("reason")
    }
}

/// A connection that is kept.
pub struct Connection(BufReader<TcpStream>);

impl Connection {
    pub fn to(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        Self(BufReader::new(stream))
    }

    pub fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.0.get_mut().write_all(bytes)
    }

    pub fn call(&mut self, body: &str) -> Response {
        self.request("POST", "/v1/tool", &["Content-Type: application/json"], body)
    }

    pub fn request(&mut self, method: &str, path: &str, headers: &[&str], body: &str) -> Response {
        self.send(request(method, path, &[&["Host: localhost"], headers].concat(), body).as_bytes()).unwrap();
        self.receive().expect("an answer")
    }

    /// The next answer; `None` when the connection was closed instead.
    pub fn receive(&mut self) -> Option<Response> {
        let mut head = String::new();
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if line == "\r\n" {
                break;
            }
            head.push_str(&line);
        }
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        self.0.read_exact(&mut body).ok()?;
        Some(Response { status, head, body: String::from_utf8(body).unwrap() })
    }

    /// Whether the other side has closed; waits for it.
    pub fn is_closed(&mut self) -> bool {
        !matches!(self.0.read(&mut [0]), Ok(1))
    }
}

/// A request as text; a body gets its length.
pub fn request(method: &str, path: &str, headers: &[&str], body: &str) -> String {
    let mut text = format!("{method} {path} HTTP/1.1\r\n");
    for header in headers {
        text.push_str(header);
        text.push_str("\r\n");
    }
    if !body.is_empty() {
        text.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    text + "\r\n" + body
}
