//! What a precheck has to say about a state of the world, in words of its own: SPEC 10 written down a second time, without a
//! look at the machine. The first check that fails decides.

use machines::ids::Hash32;
use machines::tree::Root;

use super::ledger::{Records, Seen};
use super::material::{self, Makes, NODE, Release, SOURCES, read_certificate, read_certificate_key, sign, state};
use super::run::Run;
use super::tree::{Entry, View};

/// Seven days, in microseconds.
pub const WEEK: u64 = 7 * 24 * 3600 * 1_000_000;

/// What a precheck has to come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forecast {
    /// The exit code.
    pub exit: u8,
    /// Why, in a few words.
    pub why: &'static str,
    /// It puts the next identity in force.
    pub rotates: bool,
    /// It begins a chain.
    pub first: bool,
    /// It finishes what another one left.
    pub finishes: bool,
    /// It carries out a manifest.
    pub rebuilds: bool,
    /// The records contradict each other.
    pub contradicts: bool,
}

impl Forecast {
    const fn refused(exit: u8, why: &'static str) -> Self {
        Self { exit, why, rotates: false, first: false, finishes: false, rebuilds: false, contradicts: false }
    }

    /// Nothing is to be done.
    #[must_use]
    pub const fn unchanged(&self) -> bool {
        self.exit == 0 && !self.rotates && !self.first && !self.finishes && !self.rebuilds
    }
}

/// What the records say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// They contradict each other.
    Contradiction,
    /// The first start.
    First,
    /// They go together, or a precheck was cut short while it wrote them.
    Goes {
        /// Something is left to write.
        left: bool,
        /// The fingerprint that was in force and is not this host's.
        replaced: Option<Hash32>,
    },
}

impl Records {
    /// What they say on this host. Every state that a crash can leave is listed here; any other is a contradiction.
    #[must_use]
    pub fn told(&self, host: Hash32) -> Told {
        let broken = self.print == Seen::Broken || self.current == Seen::Broken || self.previous == Seen::Broken;
        let lines = match &self.chain {
            Seen::Broken => return Told::Contradiction,
            Seen::Absent => {
                let evidence = self.current != Seen::Absent || self.previous != Seen::Absent;
                let print = self.print.value().is_none_or(|print| print.epoch == 0 && print.hash == host);
                return if broken || evidence || self.ran || !print { Told::Contradiction } else { Told::First };
            }
            Seen::Is(lines) => lines,
        };
        let line = |back: usize| lines.len().checked_sub(back).and_then(|n| lines.get(n)).copied();
        let Some(last) = line(1) else { return Told::Contradiction };
        let (before, earlier) = (line(2), line(3));
        let print = self.print.value();
        let is = (print.map(|print| print.epoch), self.current.value().copied(), self.previous.value().copied());
        let below = last.epoch.checked_sub(1);
        // The fingerprint's epoch, the evidence, and whether the fingerprint is still to be written.
        let done = (Some(last.epoch), Some(last), before);
        let (whole, print_left) = match last.epoch {
            _ if broken => return Told::Contradiction,
            _ if is == done => (true, false),
            0 if is == (None, None, None) => (false, true),
            0 if is == (Some(0), None, None) => (false, false),
            0 => return Told::Contradiction,
            _ if is == (below, Some(last), before) => (false, true),
            _ if is == (below, before, before) || is == (below, before, earlier) => (false, true),
            _ => return Told::Contradiction,
        };
        let stored = print.filter(|_| !print_left).map_or(last.new, |print| print.hash);
        let replaced = [stored, last.new].into_iter().find(|hash| *hash != host);
        Told::Goes { left: !whole, replaced }
    }
}

impl Run {
    /// What a precheck has to come to that starts now; `held` by another one.
    #[must_use]
    pub fn forecast(&self, rotate: bool, held: bool) -> Forecast {
        if self.root_wrong.is_some() {
            return Forecast::refused(2, "state root");
        }
        if self.paths().iter().any(|(_, place)| matches!(self.tree.at(View::Cache, place), Some(Entry::Link(_)))) {
            return Forecast::refused(2, "configured path");
        }
        if held {
            return Forecast::refused(4, "held");
        }
        let identity = if rotate {
            if !self.next_is_good() {
                return Forecast::refused(3, "next identity");
            }
            "identity/next"
        } else {
            "identity"
        };
        let certificate = match self.config.tls {
            false if self.config.relay => Err("no certificate"),
            false => Ok(()),
            true => self.certificate(identity, "identity", rotate),
        };
        let mut forecast = match certificate {
            Err(why) => Forecast::refused(3, why),
            Ok(()) => self.by_records(),
        };
        forecast.rotates = rotate;
        forecast
    }

    /// Whether the certificate in this folder, with the authorities in that one, can be used now.
    fn certificate(&self, folder: &str, authorities: &str, private: bool) -> Result<(), &'static str> {
        let file = |folder: &str, name: &str| match self.tree.at(View::Cache, &state(&format!("{folder}/{name}"))) {
            Some(Entry::File(content, mode)) => Ok((content, mode)),
            Some(Entry::Folder(_) | Entry::Link(_)) | None => Err("certificate unreadable"),
        };
        let (certificate, _) = file(folder, "node.crt")?;
        let (key, mode) = file(folder, "node.key")?;
        file(authorities, "ca.crt")?;
        let (pair, end) = read_certificate(certificate.bytes()).ok_or("certificate unreadable")?;
        if read_certificate_key(key.bytes()) != Some(pair) {
            return Err("pair");
        }
        if mode & 0o077 != 0 && !private {
            return Err("key exposed");
        }
        // The latest time that anybody vouches for.
        let now = self.wall().as_micros().max(self.built_us()).max(self.floor_us);
        if end <= now.saturating_add(WEEK) { Err("certificate ends") } else { Ok(()) }
    }

    /// Whether the next identity can be put together, and its certificate used.
    fn next_is_good(&self) -> bool {
        let files = |folder: &str, but: &str| {
            let list = self.tree.list(View::Cache, &state(folder));
            list.into_iter().all(|(name, entry)| match entry {
                Entry::File(..) => true,
                Entry::Folder(_) => &*name == but,
                Entry::Link(_) => false,
            })
        };
        self.config.tls && files("identity", "next") && self.certificate("identity/next", "identity", true).is_ok()
    }

    fn by_records(&self) -> Forecast {
        let host = self.host_hash();
        let told = self.ledger.records(&self.tree, View::Cache).told(host);
        if self.hidden {
            return Forecast::refused(5, "host hidden");
        }
        match told {
            Told::Contradiction => Forecast { contradicts: true, ..Forecast::refused(5, "records") },
            Told::First => Forecast { exit: 0, first: true, ..Forecast::default() },
            Told::Goes { left, replaced } => {
                let rebuilds = match replaced {
                    None => Ok(false),
                    Some(_) => self.provable().map(|_| true),
                };
                match rebuilds {
                    Ok(rebuilds) => Forecast { exit: 0, finishes: left, rebuilds, ..Forecast::default() },
                    Err(why) => Forecast { finishes: left, ..Forecast::refused(5, why) },
                }
            }
        }
    }

    /// The release that would be carried out now.
    pub(super) fn provable(&self) -> Result<&'static Release, &'static str> {
        let key = if self.config.pinned {
            self.pinned.clone().ok_or("key missing")?
        } else {
            self.tree.file(&state("identity/manifest-verify.pub")).ok_or("key missing")?
        };
        let manifest = self.tree.file(&state("runtime/manifest.json")).ok_or("manifest missing")?;
        let signature = self.tree.file(&state("runtime/manifest.json.sig")).ok_or("signature missing")?;
        let key: [u8; 32] = key.bytes().try_into().map_err(|_| "key length")?;
        if sign(&key, manifest.bytes()) != signature.bytes() {
            return Err("signature");
        }
        let release = material::known(manifest.bytes()).ok_or("signed by nobody we know")?;
        self.admissible(release)?;
        self.ready(release)?;
        Ok(release)
    }

    /// Whether this node may carry a release out at all, as far as its chain goes.
    pub(super) fn admissible(&self, release: &Release) -> Result<(), &'static str> {
        if release.barred || (release.outside && !self.config.allow) {
            return Err("barred");
        }
        if release.node.is_some_and(|node| !self.config.named || node != NODE) {
            return Err("other node");
        }
        let records = self.ledger.records(&self.tree, View::Cache);
        let highest = records.chain.value().and_then(|lines| lines.last()).map_or(0, |line| line.version);
        if release.version < highest { Err("older") } else { Ok(()) }
    }

    /// Whether every source is what was signed, and nothing is in the way.
    fn ready(&self, release: &Release) -> Result<(), &'static str> {
        let mut made: Vec<&machines::tree::Place> = Vec::new();
        for step in &release.made {
            let folder = step.at.folder();
            let there = matches!(self.tree.at(View::Cache, &folder), Some(Entry::Folder(_)));
            if !there && !made.contains(&&folder) {
                return Err("no folder for it");
            }
            let lies = self.tree.at(View::Cache, &step.at);
            let fits = match (&step.makes, lies) {
                (_, None) | (Makes::Folder, Some(Entry::Folder(_))) | (Makes::Link(_), Some(Entry::Link(_))) => true,
                (Makes::Copy(..) | Makes::File(_) | Makes::Link(_), Some(Entry::File(..))) => true,
                (Makes::Copy(..) | Makes::File(_) | Makes::Folder | Makes::Link(_), Some(_)) => false,
            };
            if !fits {
                return Err("in the way");
            }
            match &step.makes {
                Makes::Copy(source, content) => {
                    let place = SOURCES.get(*source).map(|path| state(path));
                    if place.and_then(|place| self.tree.file(&place)).as_ref() != Some(content) {
                        return Err("source");
                    }
                }
                Makes::Folder => made.push(&step.at),
                Makes::File(_) | Makes::Link(_) => {}
            }
        }
        let outside = release.made.iter().any(|step| step.at.root != Root::State);
        if outside && !self.config.allow { Err("barred") } else { Ok(()) }
    }
}
