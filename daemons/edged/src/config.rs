//! `edge.toml` (SPEC 14).

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use daemon_common::settings::{Document, Section};
use io_edge::host;
use machines::manifest::is_node_id;
use machines::precheck::files::Name;
use machines::tree::Place;

use crate::places::{Leads, StateRoot};

/// The configuration as it is in force.
#[derive(Clone, Debug)]
pub struct Config {
    pub node_id: Option<String>,
    pub state_root: StateRoot,
    /// `None` when no certificate is configured.
    pub tls: Option<Tls>,
    /// A manifest key that is not `identity/manifest-verify.pub`.
    pub manifest_key: Option<PathBuf>,
    pub publishers: Option<PathBuf>,
    pub fingerprint: Fingerprint,
    /// Folders outside the state root that a manifest may write in.
    pub allow: Vec<String>,
    pub relay: Relay,
    pub storage: Storage,
    /// What one peer may send in a second; `None` is without a limit.
    pub per_peer_bytes_per_second: Option<u64>,
    pub socket: PathBuf,
    /// `None` for `"off"`.
    pub metrics: Option<SocketAddr>,
}

/// `[tls]`.
#[derive(Clone, Debug)]
pub struct Tls {
    pub cert: Place,
    pub key: Place,
    pub ca: Place,
    pub crl: Option<Place>,
}

/// `[fingerprint]`.
#[derive(Clone, Debug)]
pub struct Fingerprint {
    pub root: PathBuf,
    pub os_release: Option<PathBuf>,
    pub kernel_release: Option<PathBuf>,
    pub extra_files: Vec<String>,
}

/// `[relay]`.
#[derive(Clone, Debug)]
pub struct Relay {
    pub enabled: bool,
    pub listen: SocketAddr,
    pub success_condition: SuccessCondition,
    pub worker_count: u64,
    pub max_retries: u64,
    pub max_retry_age: Duration,
    pub dial_timeout: Duration,
    pub ack_timeout: Duration,
    /// `None` is without a limit, here and below.
    pub bytes_per_second: Option<u64>,
    pub daily_quota_bytes: Option<u64>,
    pub orphan_ttl: Duration,
    pub peers: Vec<Peer>,
}

/// When an object counts as delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SuccessCondition {
    /// Every peer has every segment.
    AllPeers,
    /// One peer has every segment.
    OnePeer,
}

/// `[[relay.peers]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub id: String,
    /// `host:port`.
    pub address: String,
}

/// `[storage]`.
#[derive(Clone, Debug)]
pub struct Storage {
    pub ceiling_bytes: u64,
    /// Per cent of the ceiling from which on something is evicted.
    pub evict_threshold: u64,
}

/// Why there is no configuration.
#[derive(Debug)]
pub enum Refused {
    /// It is faulty, or cannot be read: every fault, with its line.
    Faults(Vec<String>),
    /// These keys name paths that lead out of the state root.
    Outside(Vec<(String, String)>),
}

/// The port that collectors look for metrics on.
const METRICS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9464);
const SOCKET: &str = "/run/edged/ctl.sock";
const RELAY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 7443);
/// Most peers, and most folders of `[reconstruct] allow`.
const MOST: usize = 64;
/// Most bytes of the file.
const MOST_BYTES: u64 = 1 << 20;
/// Most bytes of anything that is counted.
const MOST_COUNTED: u64 = 1 << 50;

impl Config {
    /// Reads the file.
    ///
    /// # Errors
    /// Every fault of it, or else every path that leads out of the state root.
    pub fn read(file: &Path) -> Result<Self, Refused> {
        let text = text(file).map_err(|words| Refused::Faults(vec![words]))?;
        Self::parse(&text)
    }

    fn parse(text: &str) -> Result<Self, Refused> {
        let document = Document::parse(text).map_err(|fault| Refused::Faults(vec![fault]))?;
        let mut outside = Vec::new();
        let config = read(document.root(), &mut outside);
        let faults = document.into_faults();
        match (faults.is_empty(), outside.is_empty()) {
            (true, true) => Ok(config),
            (true, false) => Err(Refused::Outside(outside)),
            (false, _) => Err(Refused::Faults(faults)),
        }
    }

    /// The keys whose paths lie within the state root, with their places.
    #[must_use]
    pub fn places(&self) -> Vec<(&'static str, Place)> {
        let Some(tls) = &self.tls else { return Vec::new() };
        let mut places = vec![("tls.cert", tls.cert.clone()), ("tls.key", tls.key.clone()), ("tls.ca", tls.ca.clone())];
        places.extend(tls.crl.clone().map(|crl| ("tls.crl", crl)));
        places
    }
}

fn text(file: &Path) -> Result<String, String> {
    use std::io::Read as _;
    let words = |error: std::io::Error| format!("cannot be read: {error}");
    // A pipe would be waited for.
    if !std::fs::metadata(file).map_err(words)?.is_file() {
        return Err("is no regular file".into());
    }
    let file = std::fs::File::open(file).map_err(words)?;
    let mut bytes = Vec::new();
    file.take(MOST_BYTES + 1).read_to_end(&mut bytes).map_err(words)?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err("is larger than 1 MiB".into());
    }
    String::from_utf8(bytes).map_err(|_| "is no UTF-8 text".into())
}

/// Reads every key. A fault is noted in the document, and a default stands in for the value.
fn read(root: Section<'_, '_>, outside: &mut Vec<(String, String)>) -> Config {
    let node = root.section("node");
    let node_id = node.parsed("id", parse_node_id);
    let state_root = node.parsed("state_root", StateRoot::parse).unwrap_or_default();
    node.finish();
    let trust = root.section("trust");
    let manifest_key = file(&trust, "manifest_key").filter(|text| match state_root.resolve(text) {
        Leads::Inside(place) => place != Name::Key.place(),
        Leads::Outside | Leads::Nowhere(_) => true,
    });
    let publishers = file(&trust, "publishers").map(|text| state_root.outside(&text));
    trust.finish();
    let config = Config {
        node_id,
        tls: tls(root.section("tls"), &state_root, outside),
        manifest_key: manifest_key.map(|text| state_root.outside(&text)),
        publishers,
        fingerprint: fingerprint(root.section("fingerprint"), &state_root),
        allow: allow(root.section("reconstruct"), &state_root),
        relay: relay(root.section("relay")),
        storage: storage(root.section("storage")),
        per_peer_bytes_per_second: quota(root.section("quota")),
        socket: socket(root.section("control"), &state_root),
        metrics: metrics(root.section("metrics")),
        state_root,
    };
    root.finish();
    config
}

fn parse_node_id(text: &str) -> Result<String, &'static str> {
    is_node_id(text).then(|| text.to_owned()).ok_or("must be 1 to 128 characters of a-z A-Z 0-9 . _ -")
}

/// A path that may name a file outside the state root.
fn file(section: &Section<'_, '_>, key: &'static str) -> Option<String> {
    section.parsed(key, |text| if text.is_empty() { Err("must be a path") } else { Ok(text.to_owned()) })
}

/// A certificate, its key and the authorities: all three or none.
fn tls(section: Section<'_, '_>, root: &StateRoot, outside: &mut Vec<(String, String)>) -> Option<Tls> {
    let mut given = Vec::new();
    let mut place = |key: &'static str| {
        let text = section.text(key)?;
        given.push(key);
        match root.resolve(&text) {
            Leads::Inside(place) => return Some(place),
            Leads::Outside => outside.push((format!("tls.{key}"), text)),
            Leads::Nowhere(cause) => section.fault(key, format!("is {text:?}, no path within the state root: {cause}")),
        }
        None
    };
    let [cert, key, ca, crl] = ["cert", "key", "ca", "crl"].map(&mut place);
    if !given.is_empty() {
        for key in ["cert", "key", "ca"] {
            if !section.has(key) {
                section.fault(key, format!("is missing beside `tls.{}`: cert, key and ca belong together", given[0]));
            }
        }
    }
    section.finish();
    Some(Tls { cert: cert?, key: key?, ca: ca?, crl })
}

fn fingerprint(section: Section<'_, '_>, root: &StateRoot) -> Fingerprint {
    let extra_files = section.texts("extra_files").unwrap_or_default();
    for path in &extra_files {
        if let Err(words) = host::extra_file(path) {
            section.fault("extra_files", format!("holds {path:?}: {words}"));
        }
    }
    if extra_files.len() > host::MOST_EXTRA_FILES {
        section.fault("extra_files", format!("names more than {} files", host::MOST_EXTRA_FILES));
    }
    let fingerprint = Fingerprint {
        root: file(&section, "root").map_or_else(|| PathBuf::from("/"), |text| root.outside(&text)),
        os_release: file(&section, "os_release").map(|text| root.outside(&text)),
        kernel_release: file(&section, "kernel_release").map(|text| root.outside(&text)),
        extra_files,
    };
    section.finish();
    fingerprint
}

/// A folder that held the state root, or lay in it, would let operations reach what belongs to the node itself.
fn allow(section: Section<'_, '_>, root: &StateRoot) -> Vec<String> {
    let mut folders = Vec::new();
    for text in section.texts("allow").unwrap_or_default() {
        match StateRoot::parse(&text) {
            Ok(folder) if root.overlaps(folder.as_str()) => {
                section.fault("allow", format!("holds {text:?}, which holds the state root or lies in it"));
            }
            Ok(folder) => folders.push(folder.as_str().to_owned()),
            Err(words) => section.fault("allow", format!("holds {text:?}; a folder {words}")),
        }
    }
    if folders.len() > MOST {
        section.fault("allow", format!("names more than {MOST} folders"));
    }
    section.finish();
    folders
}

fn relay(section: Section<'_, '_>) -> Relay {
    let conditions = [("all_peers", SuccessCondition::AllPeers), ("one_peer", SuccessCondition::OnePeer)];
    let mut peers: Vec<Peer> = Vec::new();
    for table in section.sections("peers", MOST) {
        for key in ["id", "address"] {
            if !table.has(key) {
                table.fault(key, "is missing");
            }
        }
        let id = table.parsed("id", parse_node_id);
        let address = table.parsed("address", parse_address);
        if let (Some(id), Some(address)) = (id, address) {
            if peers.iter().any(|peer| peer.id == id) {
                table.fault("id", format!("is {id:?}, which another peer has too"));
            }
            peers.push(Peer { id, address });
        }
        table.finish();
    }
    let span = |key, default| section.span(key).unwrap_or(Duration::from_secs(default));
    let relay = Relay {
        enabled: section.bool("enabled").unwrap_or(false),
        listen: section.parsed("listen", parse_listen).unwrap_or(RELAY),
        success_condition: section.choice("success_condition", &conditions).unwrap_or(SuccessCondition::AllPeers),
        worker_count: section.number("worker_count", 1, 64).unwrap_or(4),
        max_retries: section.number("max_retries", 1, 1_000).unwrap_or(8),
        max_retry_age: span("max_retry_age", 72 * 3600),
        dial_timeout: span("dial_timeout", 10),
        ack_timeout: span("ack_timeout", 30),
        bytes_per_second: section.number("bytes_per_second", 1024, MOST_COUNTED),
        daily_quota_bytes: section.number("daily_quota_bytes", 1 << 20, MOST_COUNTED),
        orphan_ttl: span("orphan_ttl", 24 * 3600),
        peers,
    };
    section.finish();
    relay
}

fn storage(section: Section<'_, '_>) -> Storage {
    let storage = Storage {
        ceiling_bytes: section.number("ceiling_bytes", 16 << 20, MOST_COUNTED).unwrap_or(1 << 30),
        evict_threshold: section.number("evict_threshold", 1, 100).unwrap_or(90),
    };
    section.finish();
    storage
}

fn quota(section: Section<'_, '_>) -> Option<u64> {
    let quota = section.number("per_peer_bytes_per_second", 1024, MOST_COUNTED);
    section.finish();
    quota
}

fn socket(section: Section<'_, '_>, root: &StateRoot) -> PathBuf {
    let socket = file(&section, "socket").map_or_else(|| PathBuf::from(SOCKET), |text| root.outside(&text));
    section.finish();
    socket
}

/// The listener asks for no credential: it is for this machine alone.
fn metrics(section: Section<'_, '_>) -> Option<SocketAddr> {
    let address = section.parsed("listen", |text| match text {
        "off" => Ok(None),
        text => match text.parse::<SocketAddr>() {
            Ok(address) if address.ip().is_loopback() => Ok(Some(address)),
            Ok(_) => Err(format!("is {text:?}; it asks for no credential and must be a loopback address")),
            Err(_) => Err(format!("is {text:?}, must be an address and a port like {METRICS}, or \"off\"")),
        },
    });
    section.finish();
    address.unwrap_or(Some(METRICS))
}

fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("is {text:?}, must be an address and a port like {RELAY}"))
}

/// `host:port`, an IPv6 address in brackets.
fn parse_address(text: &str) -> Result<String, String> {
    let bad = || format!("is {text:?}, must be a host and a port like edge-02.site.example:{}", RELAY.port());
    let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
    port.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(bad)?;
    let named = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
    let fits = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => (1..=253).contains(&host.len()) && host.chars().all(named),
    };
    if fits { Ok(text.to_owned()) } else { Err(bad()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> Vec<String> {
        match Config::parse(text) {
            Err(Refused::Faults(faults)) => faults,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn every_key_has_a_default() {
        let config = Config::parse("").unwrap();
        assert_eq!(config.state_root.as_str(), "/var/lib/autonomy");
        assert!(config.tls.is_none() && config.manifest_key.is_none() && !config.relay.enabled);
        assert_eq!((config.relay.worker_count, config.relay.max_retries), (4, 8));
        assert_eq!(config.relay.max_retry_age, Duration::from_secs(72 * 3600));
        assert_eq!(config.metrics, Some(METRICS));
        assert_eq!(config.socket, Path::new(SOCKET));
        assert_eq!(config.fingerprint.root, Path::new("/"));
    }

    #[test]
    fn x12_every_fault_is_listed_with_its_key_and_line() {
        let text = "[node]\nid = \"a b\"\nstate_rot = \"/s\"\n[tls]\ncert = \"identity/node.crt\"\n\
                    [metrics]\nlisten = \"0.0.0.0:1\"\n[relay]\nmax_retries = 0\n[[relay.peers]]\nid = \"x\"\n\
                    [reconstruct]\nallow = [\"opt\", \"/var/lib\"]\n[storage]\nevict_threshold = 101\n";
        let found = faults(text);
        for want in [
            "`node.id` at line 2 must be 1 to 128",
            "unknown key `node.state_rot` at line 3, did you mean `node.state_root`?",
            "`tls.key` is missing beside `tls.cert`",
            "`tls.ca` is missing beside `tls.cert`",
            "`metrics.listen` at line 7 is \"0.0.0.0:1\"",
            "`relay.max_retries` at line 9 must be",
            "`relay.peers[0].address` is missing",
            "`reconstruct.allow` at line 13 holds \"opt\"",
            "`reconstruct.allow` at line 13 holds \"/var/lib\", which holds the state root",
            "`storage.evict_threshold` at line 15 must be",
        ] {
            assert!(found.iter().any(|fault| fault.starts_with(want)), "{want}: {found:#?}");
        }
        assert_eq!(found.len(), 10, "{found:#?}");
        assert_eq!(faults("[node\n").len(), 1);
    }

    #[test]
    fn f06_a_path_that_leads_out_is_told_apart_from_a_fault() {
        let tls =
            |cert: &str| Config::parse(&format!("[tls]\ncert = {cert:?}\nkey = \"identity/k\"\nca = \"identity/c\"\n"));
        for out in ["/etc/node.crt", "../node.crt", "identity/../../x"] {
            assert!(matches!(tls(out), Err(Refused::Outside(keys)) if keys == [("tls.cert".into(), out.into())]));
        }
        assert!(
            matches!(tls("identity/a b"), Err(Refused::Faults(faults)) if faults[0].contains("`tls.cert` at line 2"))
        );
        let config = tls("/var/lib/autonomy/identity/n").unwrap();
        assert_eq!(config.places().iter().map(|(key, _)| *key).collect::<Vec<_>>(), ["tls.cert", "tls.key", "tls.ca"]);
        assert_eq!(config.tls.unwrap().cert.path.as_str(), "identity/n");
    }

    #[test]
    fn some_keys_name_files_outside() {
        let config = Config::parse(
            "[trust]\nmanifest_key = \"/usr/share/key.pub\"\n[fingerprint]\nos_release = \"/slot/os-release\"\n\
             [control]\nsocket = \"ctl.sock\"\n[metrics]\nlisten = \"off\"\n",
        )
        .unwrap();
        assert_eq!(config.manifest_key.as_deref(), Some(Path::new("/usr/share/key.pub")));
        assert_eq!(config.socket, Path::new("/var/lib/autonomy/ctl.sock"));
        assert_eq!(config.metrics, None);
        // The usual place is read beneath the state root like everything else.
        let usual = Config::parse("[trust]\nmanifest_key = \"identity/manifest-verify.pub\"\n").unwrap();
        assert_eq!(usual.manifest_key, None);
    }

    #[test]
    fn peers_have_an_id_and_an_address() {
        let peers = |text: &str| Config::parse(text).map(|config| config.relay.peers);
        let two =
            "[[relay.peers]]\nid = \"a\"\naddress = \"h:1\"\n[[relay.peers]]\nid = \"b\"\naddress = \"[::1]:2\"\n";
        assert_eq!(peers(two).unwrap().len(), 2);
        assert!(
            faults(&two.replace("\"b\"", "\"a\""))[0].contains("`relay.peers[1].id` at line 5 is \"a\", which another")
        );
        for bad in ["h", "h:", "h:0", "h:65536", ":1", "::1:2", "[x]:1", "a b:1", "h/x:1"] {
            assert!(parse_address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_example_is_the_configuration_with_every_key() {
        let example = crate::init::example(Path::new("/data/autonomy"), Some("edge-07"));
        let config = Config::parse(&example).unwrap();
        assert_eq!((config.state_root.as_str(), config.node_id.as_deref()), ("/data/autonomy", Some("edge-07")));
        // With every comment that is a key taken for one, it still has no fault, and says no other than the defaults.
        let keys: String = example
            .lines()
            .map(|line| {
                line.strip_prefix("# ").filter(|line| line.contains(" = ") || line.starts_with('[')).unwrap_or(line)
            })
            .map(|line| format!("{line}\n"))
            .collect();
        let all = Config::parse(&keys).unwrap_or_else(|refused| panic!("{refused:?}\n{keys}"));
        for (key, value) in crate::show::lines(&all) {
            let name = key.rsplit('.').next().unwrap_or(&key).to_owned();
            assert!(keys.lines().any(|line| line.starts_with(&format!("{name} = "))), "{key} = {value} is not in it");
        }
        assert_eq!(all.relay.max_retry_age, config.relay.max_retry_age);
    }
}
