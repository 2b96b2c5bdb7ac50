//! A node on a host of its own: its state root, its configuration, the system under it, and the binary.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use ed25519_dalek::{Signer as _, SigningKey};
use machines::ids::Hash32;
use machines::json::{Limits, Value, parse};
use machines::manifest::{Manifest, Operation};
use machines::precheck::chain::Chain;
use machines::tree::Mode;
use tempfile::TempDir;

/// How long anything is waited for.
pub const LONG: Duration = Duration::from_secs(30);
/// What an operator writes over the stored fingerprint to have the runtime rebuilt.
pub const ZEROS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// A command line of the binary.
pub fn edged(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_edged"));
    command.args(args).env_remove("NOTIFY_SOCKET").stdin(Stdio::null());
    command
}

/// `edgectl`, which lies beside it; built where nobody did yet.
pub fn edgectl(args: &[&str]) -> Output {
    let binary = Path::new(env!("CARGO_BIN_EXE_edged")).with_file_name("edgectl");
    if !binary.exists() {
        let built = Command::new(env!("CARGO")).args(["build", "--quiet", "--locked", "-p", "edgectl"]).status();
        assert!(built.unwrap().success(), "edgectl cannot be built");
    }
    Command::new(binary).args(args).stdin(Stdio::null()).output().unwrap()
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("ended by a signal: {}", stderr(output)))
}

pub fn json(text: &str) -> Value {
    parse(text.as_bytes(), &Limits::default()).unwrap_or_else(|e| panic!("{e}: {text}"))
}

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

/// A node.
pub struct Site {
    pub dir: TempDir,
    pub key: SigningKey,
}

/// Everything beneath a folder: kind, mode and content.
pub type Tree = BTreeMap<PathBuf, (u32, Vec<u8>)>;

impl Site {
    /// Laid out with `edged init`, on a system of its own, never started.
    pub fn new() -> Self {
        let site = Self { dir: tempfile::tempdir().unwrap(), key: SigningKey::from_bytes(&[7; 32]) };
        let init = edged(&["init", "--state-root", site.state().to_str().unwrap(), "--node", "edge-07"]).output();
        assert_eq!(code(&init.unwrap()), 0);
        fs::create_dir_all(site.system("etc")).unwrap();
        fs::create_dir_all(site.system("lib64")).unwrap();
        site.kernel("6.1.0-18-amd64");
        site.libc("2.36");
        fs::write(site.system("etc/os-release"), "ID=debian\nVERSION_ID=\"12\"\n").unwrap();
        fs::write(site.state().join("identity/manifest-verify.pub"), site.key.verifying_key().as_bytes()).unwrap();
        site.configure("");
        site
    }

    /// The same, started for the first time.
    pub fn started() -> Self {
        let site = Self::new();
        let first = site.precheck(&[]);
        assert_eq!(code(&first), 0, "{}", stderr(&first));
        site
    }

    pub fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub fn file(&self, path: &str) -> PathBuf {
        self.state().join(path)
    }

    /// A file of the system under the node.
    pub fn system(&self, path: &str) -> PathBuf {
        self.dir.path().join("system").join(path)
    }

    pub fn kernel(&self, release: &str) {
        fs::write(self.dir.path().join("kernel"), format!("{release}\n")).unwrap();
    }

    pub fn libc(&self, version: &str) {
        let banner = format!("GNU C Library (Debian GLIBC) stable release version {version}.\n");
        fs::write(self.system("lib64/libc.so.6"), banner).unwrap();
    }

    pub fn config(&self) -> PathBuf {
        self.dir.path().join("edge.toml")
    }

    /// Writes the configuration, with `more` behind it.
    pub fn configure(&self, more: &str) {
        let (state, dir) = (self.state(), self.dir.path().display());
        let text = format!(
            "[node]\nid = \"edge-07\"\nstate_root = \"{}\"\n[fingerprint]\nroot = \"{dir}/system\"\n\
             kernel_release = \"{dir}/kernel\"\n[control]\nsocket = \"{dir}/ctl.sock\"\n[metrics]\nlisten = \"127.0.0.1:0\"\n{more}",
            state.display()
        );
        fs::write(self.config(), text).unwrap();
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let config = self.config();
        edged(&[&["--config", config.to_str().unwrap()], args].concat())
    }

    pub fn precheck(&self, more: &[&str]) -> Output {
        self.command(&[&["precheck"], more].concat()).output().unwrap()
    }

    /// Lays down and signs a manifest that installs these bytes.
    pub fn release(&self, version: u64, bytes: &[u8]) {
        fs::write(self.file("runtime/binaries/agent"), bytes).unwrap();
        self.sign(&self.manifest(version, bytes));
    }

    pub fn manifest(&self, version: u64, bytes: &[u8]) -> Manifest {
        Manifest {
            version,
            node: None,
            binary_path: "runtime/bin/agent".into(),
            operations: vec![folder("runtime/bin"), copy("runtime/binaries/agent", "runtime/bin/agent", bytes)],
        }
    }

    pub fn sign(&self, manifest: &Manifest) {
        self.sign_text(&manifest.to_text(), &self.key);
    }

    pub fn sign_text(&self, text: &str, key: &SigningKey) {
        fs::write(self.file("runtime/manifest.json"), text).unwrap();
        fs::write(self.file("runtime/manifest.json.sig"), key.sign(text.as_bytes()).to_bytes()).unwrap();
    }

    /// As the coda of the story does it.
    pub fn zero_fingerprint(&self) {
        let file = self.file("bootstrap/os_fingerprint.json");
        let text = fs::read_to_string(&file).unwrap();
        let at = text.find("\"composite_hash\": \"").unwrap() + 19;
        fs::write(&file, format!("{}{ZEROS}{}", &text[..at], &text[at + 64..])).unwrap();
    }

    pub fn chain(&self) -> Chain {
        Chain::parse(&fs::read(self.file("epoch/chain.jsonl")).unwrap()).unwrap()
    }

    pub fn epoch(&self) -> u64 {
        self.chain().last().epoch
    }

    /// The state root without this boot's marker, which every refusal leaves.
    pub fn tree(&self) -> Tree {
        let mut tree = Tree::new();
        snapshot(&self.state(), &mut tree);
        tree.remove(&self.file("bootstrap/precheck.json"));
        tree
    }

    /// A refused precheck: exit 5, these words, and nothing written.
    pub fn refuses(&self, words: &str) {
        let before = self.tree();
        let output = self.precheck(&[]);
        let said = stderr(&output);
        assert_eq!(code(&output), 5, "{words}: {said}");
        let error = said.lines().find(|line| line.contains("level=ERROR")).unwrap_or_default();
        assert!(error.contains(words), "{words}: {said}");
        assert_eq!(names(&self.tree(), &before), Vec::<PathBuf>::new(), "{words}: written though refused");
        let marker = fs::read_to_string(self.file("bootstrap/precheck.json")).unwrap();
        assert!(marker.contains("\"exit\": 5"), "{marker}");
    }

    /// A running daemon.
    pub fn run(&self) -> Daemon {
        let daemon = Daemon::spawn(self.command(&["run"]));
        daemon.logged("msg=\"edged.started\"");
        daemon
    }

    /// One request over the control socket: status and body.
    pub fn control(&self, path: &str) -> (u16, String) {
        let mut stream = UnixStream::connect(self.dir.path().join("ctl.sock")).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }
}

/// What differs between two trees.
pub fn names(a: &Tree, b: &Tree) -> Vec<PathBuf> {
    let all = a.keys().chain(b.keys()).collect::<std::collections::BTreeSet<_>>();
    all.into_iter().filter(|path| a.get(*path) != b.get(*path)).cloned().collect()
}

fn snapshot(folder: &Path, tree: &mut Tree) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let meta = fs::symlink_metadata(&path).unwrap();
        let content = if meta.is_symlink() {
            fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
        } else if meta.is_file() {
            fs::read(&path).unwrap()
        } else {
            Vec::new()
        };
        tree.insert(path.clone(), (meta.mode(), content));
        if meta.is_dir() {
            snapshot(&path, tree);
        }
    }
}

pub fn folder(path: &str) -> Operation {
    Operation::EnsureDir { path: path.into(), mode: Mode::new(0o755).unwrap() }
}

pub fn copy(source: &str, destination: &str, bytes: &[u8]) -> Operation {
    Operation::CopyBinary {
        source: source.into(),
        destination: destination.into(),
        mode: Mode::new(0o755).unwrap(),
        blake3: Hash32(*blake3::hash(bytes).as_bytes()),
    }
}

pub fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Whether `strace` may trace here. On CI it has to.
pub fn may_trace() -> bool {
    let works = Command::new("strace").args(["-e", "trace=none", "true"]).stderr(Stdio::null()).status();
    let works = works.is_ok_and(|status| status.success());
    if !works {
        assert!(std::env::var_os("CI").is_none(), "strace is missing or may not trace; install it");
        eprintln!("strace is not there or may not trace: this test proves nothing here");
    }
    works
}

/// A daemon's process.
pub struct Daemon {
    pub child: Child,
    log: Arc<(Mutex<Vec<String>>, Condvar)>,
}

impl Daemon {
    pub fn spawn(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new((Mutex::new(Vec::new()), Condvar::new()));
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let lines = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                lines.0.lock().unwrap().push(line);
                lines.1.notify_all();
            }
        });
        Self { child, log }
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

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    pub fn ended(&mut self) -> ExitStatus {
        let child = &mut self.child;
        until("the end of edged", || child.try_wait().unwrap())
    }

    /// Ends it as a service manager does.
    pub fn stop(mut self) {
        self.signal("TERM");
        let status = self.ended();
        assert_eq!(status.code(), Some(0), "{:#?}", self.log.0.lock().unwrap());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
