//! `runtime.toml` (SPEC 14), and what flags and the environment may do to it: about safety they only tighten.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use daemon_common::failure::Failure;
use daemon_common::settings::{Document, parse_span};
use io_drive::disk::PolicyLayout;
use machines::wal::OnFull;

use crate::cli::{PolicyPlace, STATE_ROOT};

/// Everything that the file says; `None` where it says nothing.
#[derive(Clone, Debug, Default)]
pub struct File {
    pub node_id: Option<String>,
    /// The name of the locks that this node takes.
    pub node_name: Option<String>,
    /// The folder of the public keys whose signatures count.
    pub cosign_keys: Option<PathBuf>,
    pub state_root: Option<PathBuf>,
    pub address: Option<SocketAddr>,
    pub names: Vec<String>,
    pub token_file: Option<PathBuf>,
    pub max_in_flight: Option<u64>,
    pub strict: bool,
    pub require_verified: bool,
    pub require_precheck: bool,
    pub decision_limit: Option<Duration>,
    pub wal_max_bytes: Option<u64>,
    pub wal_retain: Option<Duration>,
    pub wal_on_full: Option<OnFull>,
    pub otlp_endpoint: Option<String>,
    pub otlp_headers: Vec<String>,
    pub otlp_ca: Option<PathBuf>,
    pub otlp_cert: Option<PathBuf>,
    pub otlp_key: Option<PathBuf>,
    pub tool_timeout: Option<Duration>,
    pub shell_enabled: bool,
    pub shell_dir: Option<PathBuf>,
}

/// Most calls that may be allowed at once: each holds memory.
pub const MOST_IN_FLIGHT: u64 = 65_536;

impl File {
    /// Reads the file; without one, everything is as the defaults have it.
    ///
    /// # Errors
    /// 3 when it cannot be read, 1 when it is faulty; the message lists every fault with its line.
    pub fn read(path: Option<&Path>) -> Result<Self, Failure> {
        let Some(path) = path else { return Ok(Self::default()) };
        let name = path.display();
        let text = std::fs::read_to_string(path).map_err(|e| Failure::unreadable(format!("{name}: {e}")))?;
        Self::parse(&text).map_err(|faults| {
            let lines: Vec<String> = faults.iter().map(|fault| format!("{name}: {fault}")).collect();
            Failure::refused(lines.join("\n"))
        })
    }

    fn parse(text: &str) -> Result<Self, Vec<String>> {
        let document = Document::parse(text).map_err(|fault| vec![fault])?;
        let root = document.root();
        let node = root.section("node");
        let listen = root.section("listen");
        let policy = root.section("policy");
        let wal = root.section("wal");
        let otlp = root.section("otlp");
        let trust = root.section("trust");
        let tools = root.section("tools");
        let shell = tools.section("shell");
        let mut odd = Vec::new();
        let address = listen.text("address").and_then(|text| {
            let address = text.parse();
            if address.is_err() {
                odd.push(format!("`listen.address` is {text:?}, must be an address and a port like 127.0.0.1:7777"));
            }
            address.ok()
        });
        let node_id = node.text("id");
        if let Some(Err(words)) = node_id.as_deref().map(check_node_id) {
            odd.push(format!("`node.id` {words}"));
        }
        let node_name = node.text("name");
        if let Some(name) = node_name.as_deref().filter(|name| !is_lock_name(name)) {
            odd.push(format!("`node.name` is {name:?}, must be a lock's name: 1 to 64 characters of a-z 0-9 . _ -"));
        }
        let file = Self {
            node_id,
            node_name,
            cosign_keys: trust.path("cosign_keys"),
            state_root: node.path("state_root"),
            address,
            names: listen.texts("names").unwrap_or_default(),
            token_file: listen.path("token_file"),
            max_in_flight: listen.number("max_in_flight", 1, MOST_IN_FLIGHT),
            strict: root.bool("strict").unwrap_or(false),
            require_verified: policy.bool("require_verified").unwrap_or(false),
            require_precheck: root.bool("require_precheck").unwrap_or(false),
            decision_limit: policy.number("decision_limit_ms", 1, 10_000).map(Duration::from_millis),
            wal_max_bytes: wal.number("max_bytes", 1 << 20, 1 << 50),
            wal_retain: wal.span("retain"),
            wal_on_full: wal.choice("on_full", &[("deny", OnFull::Deny), ("shed_lifecycle", OnFull::ShedLifecycle)]),
            otlp_endpoint: otlp.text("endpoint"),
            otlp_headers: otlp.texts("headers").unwrap_or_default(),
            otlp_ca: otlp.path("ca"),
            otlp_cert: otlp.path("cert"),
            otlp_key: otlp.path("key"),
            tool_timeout: tools.span("timeout"),
            shell_enabled: shell.bool("enabled").unwrap_or(false),
            shell_dir: shell.path("dir"),
        };
        for section in [node, listen, policy, wal, otlp, trust, shell, tools, root] {
            section.finish();
        }
        let mut faults = document.into_faults();
        faults.extend(odd);
        if faults.is_empty() { Ok(file) } else { Err(faults) }
    }
}

/// Where a node's policy is: as the flags say, else as the file says.
#[must_use]
pub fn layout(place: &PolicyPlace, file: &File) -> PolicyLayout {
    let root = place.state_root.as_deref().or(file.state_root.as_deref()).unwrap_or_else(|| Path::new(STATE_ROOT));
    PolicyLayout::new(root, place.policy_dir.as_deref())
}

/// Whether strict mode is on: by the file, by a flag, or by `AUTONOMY_STRICT_MODE`, which is on for every value but
/// empty, `0` and `false`.
#[must_use]
pub fn is_strict(file: bool, flag: bool, variable: Option<&std::ffi::OsStr>) -> bool {
    file || flag || variable.is_some_and(|value| !matches!(value.to_str(), Some("" | "0" | "false")))
}

/// A limit by flag, held to the file's where the file has one.
#[must_use]
pub fn tightened<T: Ord>(file: Option<T>, flag: Option<T>, default: T) -> T {
    match (file, flag) {
        (Some(file), Some(flag)) => file.min(flag),
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => default,
    }
}

/// Checks a node's id: 1 to 128 characters of a-z A-Z 0-9 . _ -
///
/// # Errors
/// What it must be.
pub fn check_node_id(id: &str) -> Result<(), String> {
    let fits = (1..=128).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if fits { Ok(()) } else { Err(format!("is {id:?}, must be 1 to 128 characters of a-z A-Z 0-9 . _ -")) }
}

/// What a lock may be called (SPEC 6).
fn is_lock_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-'))
}

/// A node id for clap.
pub fn node_id_arg(text: &str) -> Result<String, String> {
    check_node_id(text).map(|()| text.to_owned())
}

/// A span of time for clap.
pub fn span_arg(text: &str) -> Result<Duration, String> {
    parse_span(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn x12_the_environment_and_flags_can_only_tighten() {
        for file in [false, true] {
            for flag in [false, true] {
                for (variable, on) in [
                    (None, false),
                    (Some(""), false),
                    (Some("0"), false),
                    (Some("false"), false),
                    (Some("1"), true),
                    (Some("no"), true),
                    (Some("FALSE"), true),
                    (Some("off"), true),
                    (Some(" 0"), true),
                ] {
                    assert_eq!(is_strict(file, flag, variable.map(AsRef::as_ref)), file || flag || on, "{variable:?}");
                }
            }
        }
        assert_eq!(tightened(Some(8), Some(16), 1024), 8);
        assert_eq!(tightened(Some(8), Some(4), 1024), 4);
        assert_eq!(tightened(None, Some(4096), 1024), 4096);
        assert_eq!(tightened(None, None::<u64>, 1024), 1024);
    }

    #[test]
    fn a_whole_file_is_read() {
        let file = File::parse(
            "strict = true\nrequire_precheck = true\n[trust]\ncosign_keys = \"/k\"\n[node]\nid = \"n7\"\nname = \"agent\"\nstate_root = \"/s\"\n[listen]\naddress = \"127.0.0.1:1\"\n\
             names = [\"n7.internal\"]\ntoken_file = \"/t\"\nmax_in_flight = 7\n[policy]\nrequire_verified = true\n\
             decision_limit_ms = 20\n[wal]\nmax_bytes = 2097152\nretain = \"1d\"\non_full = \"shed_lifecycle\"\n\
             [tools]\ntimeout = \"5s\"\n[tools.shell]\nenabled = true\ndir = \"/w\"\n",
        )
        .unwrap();
        assert!(file.strict && file.require_verified && file.require_precheck && file.shell_enabled);
        assert_eq!((file.node_id.as_deref(), file.max_in_flight), (Some("n7"), Some(7)));
        assert_eq!((file.node_name.as_deref(), file.cosign_keys), (Some("agent"), Some(PathBuf::from("/k"))));
        assert_eq!(file.wal_on_full, Some(OnFull::ShedLifecycle));
        assert_eq!(file.tool_timeout, Some(Duration::from_secs(5)));
    }

    #[test]
    fn x12_every_fault_of_a_file_is_listed() {
        let text = "stirct = true\n[trust]\ncosign_key = \"/k\"\n[node]\nname = \"Agent\"\n[listen]\naddress = \"here\"\n[wal]\nmax_bytes = 1\n[tools.shel]\nenabled = true\n";
        let faults = File::parse(text).unwrap_err();
        assert_eq!(faults.len(), 6, "{faults:?}");
        assert!(faults.contains(&"unknown key `stirct` at line 1, did you mean `strict`?".to_owned()), "{faults:?}");
        let near = "unknown key `trust.cosign_key` at line 3, did you mean `trust.cosign_keys`?";
        assert!(faults.contains(&near.to_owned()), "{faults:?}");
        assert!(faults.iter().any(|fault| fault.starts_with("`node.name` is \"Agent\"")), "{faults:?}");
    }
}
