//! The state of the world while a story is told: everything but the processes.

use std::sync::Arc;

use machines::ids::Hash32;
use machines::manifest::Destinations;
use machines::precheck::certificates::Pair;
use machines::precheck::host::{Answer, Ask, Components};
use machines::precheck::{self, certificates::Certificates};
use machines::time::{Mono, Now, Wall};
use machines::tree::{Place, Root};

use super::ledger::{File, Ledger};
use super::marks::{Counts, Mark};
use super::material::{self, ALLOWED, NODE, STATE_ROOT, read_certificate, read_certificate_key, state};
use super::plan::Config;
use super::sabotage::Sabotage;
use super::tree::{Content, Entry, Survival, Tree, View};
use crate::oracles::{Failure, Oracle};
use crate::trace::{Line, Trace};

/// The true time at which every story begins, and the build's: 2026-11-21 and twenty days before.
const BEGIN_US: u64 = 1_795_219_200_000_000;
/// A day, in microseconds.
pub const DAY: u64 = 24 * 3600 * 1_000_000;

/// How the wall clock differs from the true time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// Not at all.
    Right,
    /// So many days behind.
    Behind(u64),
    /// So many years ahead.
    Ahead(u64),
    /// It says 1970.
    Lost,
}

/// The world but for its processes.
#[derive(Clone, Debug)]
pub struct Run {
    /// What noise is drawn from.
    pub seed: u64,
    /// What is configured.
    pub config: Config,
    /// All files.
    pub tree: Tree,
    /// Which host is under the node.
    pub host: u8,
    /// Its components cannot be read.
    pub hidden: bool,
    /// Which boot this is.
    pub boot: u32,
    /// The true time, in microseconds.
    pub true_us: u64,
    /// The wall clock.
    pub clock: Clock,
    /// The latest time that a signed release names.
    pub floor_us: u64,
    /// What is wrong with the state root.
    pub root_wrong: Option<u8>,
    /// The key outside the state root, where one is configured.
    pub pinned: Option<Content>,
    /// What the world remembers.
    pub ledger: Arc<Ledger>,
    /// The process that holds the state root.
    pub held_by: Option<u32>,
    /// The next process's number.
    pub processes: u32,
    /// The node had a whole identity when its precheck began: it must have one ever after.
    pub whole: bool,
    /// Operations so far, by all processes.
    pub events: u64,
    /// The hash of what happened.
    pub trace: Trace,
    /// The first invariant that broke.
    pub failure: Option<Failure>,
    /// Situations that were reached.
    pub counts: Counts,
    /// What is broken on purpose.
    pub sabotage: Option<Sabotage>,
    /// What happened, for readers.
    pub lines: Option<Vec<Line>>,
}

impl Run {
    /// A fresh state root on host 0.
    #[must_use]
    pub fn new(seed: u64, config: Config, sabotage: Option<Sabotage>) -> Self {
        let mut tree = Tree::default();
        tree.add_root(Root::State);
        tree.add_root(Root::Allowed(0));
        Self {
            seed,
            config,
            tree,
            host: 0,
            hidden: false,
            boot: 1,
            true_us: BEGIN_US,
            clock: Clock::Right,
            floor_us: 0,
            root_wrong: None,
            pinned: None,
            ledger: Arc::default(),
            held_by: None,
            processes: 0,
            whole: false,
            events: 0,
            trace: Trace::default(),
            failure: None,
            counts: Counts::default(),
            sabotage,
            lines: None,
        }
    }

    /// Whether this is broken on purpose.
    #[must_use]
    pub fn broken(&self, sabotage: Sabotage) -> bool {
        self.sabotage == Some(sabotage)
    }

    /// Writes a line for readers.
    pub fn say(&mut self, text: impl FnOnce() -> String) {
        let at_us = self.events;
        if let Some(lines) = &mut self.lines {
            lines.push(Line { at_us, text: text() });
        }
    }

    /// An invariant broke.
    pub fn fail(&mut self, oracle: Oracle, words: impl Into<String>) {
        if self.failure.is_none() {
            let words = words.into();
            self.say(|| format!("FAILED {}: {words}", oracle.name()));
            self.failure = Some(Failure { oracle, words, at_us: self.events });
        }
    }

    /// A situation was reached.
    pub fn mark(&mut self, mark: Mark) {
        self.counts.hit(mark);
    }

    /// The ledger, to be written in.
    pub fn ledger_mut(&mut self) -> &mut Ledger {
        Arc::make_mut(&mut self.ledger)
    }

    /// The kernel's id of this boot.
    #[must_use]
    pub fn boot_id(&self) -> String {
        format!("boot-{}", self.boot)
    }

    /// When the program was built, in microseconds.
    #[must_use]
    pub const fn built_us(&self) -> u64 {
        BEGIN_US - 20 * DAY
    }

    /// The wall clock.
    #[must_use]
    pub const fn wall(&self) -> Wall {
        Wall::from_micros(match self.clock {
            Clock::Right => self.true_us,
            Clock::Behind(days) => self.true_us.saturating_sub(days * DAY),
            Clock::Ahead(years) => self.true_us.saturating_add(years * 365 * DAY),
            Clock::Lost => self.true_us - BEGIN_US,
        })
    }

    /// Both clocks; the wall clock stands while a precheck runs.
    #[must_use]
    pub const fn now(&self) -> Now {
        Now { mono: Mono::from_nanos(self.events * 50_000), wall: self.wall() }
    }

    /// The configured paths.
    #[must_use]
    pub fn paths(&self) -> Vec<(&'static str, Place)> {
        vec![("telemetry.dir", state("telemetry")), ("policy.dir", state("policy/bundles"))]
    }

    /// What a precheck is told.
    #[must_use]
    pub fn settings(&self, rotate: bool) -> precheck::Config {
        let pair =
            || Pair { cert: state("identity/node.crt"), key: state("identity/node.key"), ca: state("identity/ca.crt") };
        let allow = if self.config.allow { vec![ALLOWED.to_owned()] } else { Vec::new() };
        precheck::Config {
            node_id: self.config.named.then(|| NODE.to_owned()),
            destinations: Destinations { state_root: STATE_ROOT.to_owned(), allow },
            paths: self.paths(),
            tls: self.config.tls.then(pair),
            relay: self.config.relay,
            pinned_key: self.config.pinned,
            boot_id: self.boot_id(),
            rotate,
            built_at: Wall::from_micros(self.built_us()),
        }
    }

    /// Kernel and C library of the host: some hosts differ in one of them alone.
    fn parts(&self) -> (String, String) {
        (format!("6.1.{}", self.host / 2), format!("glibc 2.{}", 36 + self.host % 2))
    }

    /// The host's components.
    #[must_use]
    pub fn components(&self) -> Components {
        let (kernel, libc) = self.parts();
        Components { kernel, libc, machine: "x86_64".into(), ..Components::default() }
    }

    /// The host's fingerprint, from its canonical text.
    #[must_use]
    pub fn host_hash(&self) -> Hash32 {
        let (kernel, libc) = self.parts();
        let text = format!(
            "{{\"files\":{{}},\"kernel\":\"{kernel}\",\"libc\":\"{libc}\",\"machine\":\"x86_64\",\"os_release\":{{}}}}"
        );
        Hash32(*blake3::hash(text.as_bytes()).as_bytes())
    }

    /// Answers what a precheck asks of its host.
    #[must_use]
    pub fn answer(&self, ask: &Ask) -> Answer {
        match ask {
            Ask::Components if self.hidden => Answer::Components(Err("no libc found".into())),
            Ask::Components => Answer::Components(Ok(self.components())),
            Ask::Certificates(pair) => Answer::Certificates(self.certificates(pair)),
            Ask::PinnedKey => Answer::Key(Ok(self.pinned.as_ref().map(|key| key.bytes().to_vec()))),
            Ask::Ed25519 { key, message, signature } => {
                let message = if self.broken(Sabotage::ManifestReadAgain) {
                    self.tree.file(&state("runtime/manifest.json")).map_or_else(Vec::new, |c| c.bytes().to_vec())
                } else {
                    message.to_vec()
                };
                let good = material::sign(key, &message) == *signature;
                Answer::Signed(good || self.broken(Sabotage::SignatureBelieved))
            }
        }
    }

    fn certificates(&self, pair: &Pair) -> Result<Certificates, String> {
        let file = |place: &Place| match self.tree.at(View::Cache, place) {
            Some(Entry::File(content, mode)) => Ok((content, mode)),
            Some(Entry::Folder(_) | Entry::Link(_)) | None => Err(format!("{}: not there", place.path)),
        };
        let (certificate, _) = file(&pair.cert)?;
        let (key, mode) = file(&pair.key)?;
        file(&pair.ca)?;
        let (number, end) = read_certificate(certificate.bytes()).ok_or("no certificate")?;
        let of = read_certificate_key(key.bytes()).ok_or("no key")?;
        Ok(Certificates { matches: number == of, exposed: mode & 0o077 != 0, not_after: Wall::from_micros(end) })
    }

    /// The marker's text for this boot.
    #[must_use]
    pub fn marker(&self, exit: u8) -> Content {
        Content::new(format!("{{\n  \"boot_id\": \"{}\",\n  \"exit\": {exit}\n}}\n", self.boot_id()).as_bytes())
    }

    /// Whether the marker says that this boot's precheck passed.
    #[must_use]
    pub fn passes(&self) -> bool {
        self.tree.file(&File::Marker.place()) == Some(self.marker(0))
    }

    /// Whether a whole identity is there: a certificate with its key, authorities and the manifest's key.
    #[must_use]
    pub fn identity_is_whole(&self, view: View) -> bool {
        let file = |name: &str| match self.tree.at(view, &state(&format!("identity/{name}"))) {
            Some(Entry::File(content, _)) => Some(content),
            Some(Entry::Folder(_) | Entry::Link(_)) | None => None,
        };
        let pair = file("node.crt").and_then(|content| read_certificate(content.bytes()));
        let key = file("node.key").and_then(|content| read_certificate_key(content.bytes()));
        let whole = pair.is_some() && pair.map(|(number, _)| number) == key;
        whole && file("ca.crt").is_some() && (self.config.pinned || file("manifest-verify.pub").is_some())
    }

    /// The host is shut down in good order and starts again.
    pub fn reboot(&mut self, host: u8) {
        self.tree.sync_all();
        self.next_boot(host);
    }

    /// The power is cut, and comes back.
    pub fn power_cut(&mut self, host: u8, survival: Survival) {
        let unsynced = self.tree.unsynced();
        if unsynced > 0 {
            self.mark(Mark::PowerLost);
        }
        self.say(|| format!("power cut: {unsynced} things unsynced, {survival} survives"));
        self.tree.power_cut(survival);
        self.next_boot(host);
        self.after_power_cut();
    }

    fn next_boot(&mut self, host: u8) {
        self.held_by = None;
        self.boot += 1;
        self.host = host;
        self.hidden = false;
        self.true_us += 3_600_000_000;
        let boot = self.boot;
        self.say(|| format!("boot {boot} as host {host}"));
    }

    /// Everything that the future depends on: runs in equal states go on equally.
    #[must_use]
    pub fn key(&self) -> u64 {
        let mut trace = Trace::default();
        trace.record(1, self.tree.key(), u64::from(self.boot) << 8 | u64::from(self.host));
        trace.record(2, self.true_us, u64::from(self.ledger.unfinished));
        trace.record(3, self.ledger.epoch.map_or(0, |epoch| epoch + 1), u64::from(self.whole));
        trace.hash()
    }
}
