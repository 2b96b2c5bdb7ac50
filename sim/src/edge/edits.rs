//! What operators, attackers and the medium do to a node's files and clock. It is durable at once.

use std::sync::Arc;

use machines::activation::Activation;
use machines::ids::Hash32;
use machines::time::Wall;
use machines::tree::Place;

use super::ledger::{File, KEPT, Line, Print, key_of};
use super::material::{
    self, Makes, SOURCES, VARIANTS, binary, certificate, certificate_key, destinations, release, sign, state,
};
use super::plan::{Edit, What};
use super::run::{Clock, DAY, Run};
use super::tree::{Content, View};
use crate::rng::mix;

/// The number of the node's own key.
const OWN: u8 = 1;
/// The number of somebody else's.
const OTHER: u8 = 2;

impl Run {
    /// Somebody does this.
    pub fn edit(&mut self, edit: Edit) {
        self.say(|| format!("somebody: {edit}"));
        self.trace.record(4, edit.what as u64, u64::from(edit.n));
        self.tree.sync_all();
        self.whole = false;
        self.edit_manifest(edit);
        self.edit_sources(edit);
        self.edit_records(edit);
        self.edit_identity(edit);
        self.edit_surroundings(edit);
        for place in destinations() {
            if let Some(entry) = self.tree.at(View::Cache, place) {
                self.ledger_mut().allow(place, key_of(&entry));
            }
        }
        let chain = self.tree.file(&File::Chain.place());
        self.ledger_mut().chain = chain;
        // Who sets the files back sets the epoch back.
        let records = self.ledger.records(&self.tree, View::Medium);
        self.ledger_mut().epoch = records.chain.value().and_then(|lines| lines.last()).map(|line| line.epoch);
    }

    #[allow(clippy::wildcard_enum_match_arm)] // the others are somebody else's
    fn edit_manifest(&mut self, edit: Edit) {
        let (manifest, signature) = (state("runtime/manifest.json"), state("runtime/manifest.json.sig"));
        let Some(release) = release(edit.n % (material::LAST + 1)) else { return };
        match edit.what {
            What::Release => {
                self.tree.lay(&manifest, &release.bytes, 0o644);
                self.tree.lay(&signature, &sign(&material::key(OWN), &release.bytes), 0o644);
            }
            What::ReleaseUnsigned => {
                self.tree.lay(&manifest, &release.bytes, 0o644);
                self.tree.clear(&signature);
            }
            What::ReleaseForged => {
                self.tree.lay(&manifest, &release.bytes, 0o644);
                self.tree.lay(&signature, &sign(&material::key(OTHER), &release.bytes), 0o644);
            }
            What::ReleaseUnderOldSignature => self.tree.lay(&manifest, &release.bytes, 0o644),
            What::SignatureOnly => self.tree.lay(&signature, &sign(&material::key(OWN), &release.bytes), 0o644),
            What::SignatureShort => self.tree.lay(&signature, &[7; 63], 0o644),
            What::ManifestGone => self.tree.clear(&manifest),
            What::Key => self.lay_key(Some(&material::key(OWN))),
            What::KeyGone => self.lay_key(None),
            What::KeyOther => self.lay_key(Some(&material::key(OTHER))),
            What::KeyShort => self.lay_key(Some(b"no key")),
            _ => {}
        }
    }

    fn lay_key(&mut self, bytes: Option<&[u8]>) {
        let place = state("identity/manifest-verify.pub");
        match bytes {
            _ if self.config.pinned => self.pinned = bytes.map(Content::new),
            Some(bytes) => self.tree.lay(&place, bytes, 0o644),
            None => self.tree.clear(&place),
        }
    }

    #[allow(clippy::wildcard_enum_match_arm)] // the others are somebody else's
    fn edit_sources(&mut self, edit: Edit) {
        let which = usize::from(edit.n) % SOURCES.len();
        let Some(place) = SOURCES.get(which).map(|path| state(path)) else { return };
        match edit.what {
            What::SourcesRight => {
                let placed = self.tree.file(&state("runtime/manifest.json"));
                let release = placed.and_then(|content| material::known(content.bytes()));
                let first = material::release(material::FIRST);
                for made in release.or(first).into_iter().flat_map(|release| &release.made) {
                    if let Makes::Copy(n, content) = &made.makes
                        && let Some(path) = SOURCES.get(*n)
                    {
                        self.tree.lay(&state(path), content.bytes(), 0o755);
                    }
                }
            }
            What::SourceOther => self.tree.lay(&place, &binary(which, VARIANTS - 1), 0o755),
            What::SourceGone => self.tree.clear(&place),
            What::SourceLink => self.tree.lay_link(&place, "../../../etc/shadow"),
            What::SourceRot => self.flip(&place, u64::from(edit.n)),
            _ => {}
        }
    }

    /// A bit of a file flips.
    fn flip(&mut self, place: &Place, n: u64) {
        let Some(content) = self.tree.file(place) else { return };
        let mut bytes = content.bytes().to_vec();
        let key = mix(self.seed ^ n << 32);
        let at = usize::try_from(key % u64::try_from(bytes.len().max(1)).unwrap_or(1)).unwrap_or(0);
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= 1 << (key >> 61);
        }
        self.tree.lay(place, &bytes, 0o600);
    }

    fn halve(&mut self, file: File) {
        if let Some(content) = self.tree.file(&file.place()) {
            let half = content.bytes().get(..content.bytes().len() / 2).unwrap_or_default().to_vec();
            self.tree.lay(&file.place(), &half, 0o600);
        }
    }

    #[allow(clippy::wildcard_enum_match_arm)] // the others are somebody else's
    fn edit_records(&mut self, edit: Edit) {
        let records = self.ledger.records(&self.tree, View::Cache);
        let lines: Vec<Line> = records.chain.value().map(|lines| lines.to_vec()).unwrap_or_default();
        match edit.what {
            What::PrintZero => self.edit_print(|print| Print { hash: Hash32([0; 32]), ..print }),
            What::PrintAhead => {
                let more = u64::from(edit.n % 3) + 1;
                self.edit_print(|print| Print { epoch: print.epoch + more, ..print });
            }
            What::PrintGone => self.tree.clear(&File::Print.place()),
            What::PrintTorn => self.halve(File::Print),
            What::PrintBack => self.put_print_back(),
            What::CurrentGone => self.tree.clear(&File::Current.place()),
            What::CurrentTorn => self.halve(File::Current),
            What::CurrentOther => {
                let other = lines.last().map(|line| Line { new: Hash32([5; 32]), ..*line });
                self.lay_evidence(File::Current, other);
            }
            What::PreviousGone => self.tree.clear(&File::Previous.place()),
            What::PreviousOther => self.lay_evidence(File::Previous, lines.last().copied()),
            What::ChainCut => {
                if let Some(bytes) = self.tree.file(&File::Chain.place()) {
                    let text = bytes.bytes().to_vec();
                    let cut = text.strip_suffix(b"\n").and_then(|text| text.iter().rposition(|b| *b == b'\n'));
                    let kept = text.get(..cut.map_or(0, |at| at + 1)).unwrap_or_default();
                    self.tree.lay(&File::Chain.place(), kept, 0o600);
                }
            }
            What::ChainGone => self.tree.clear(&File::Chain.place()),
            What::ChainRot => self.flip(&File::Chain.place(), u64::from(edit.n)),
            What::ChainTorn => self.halve(File::Chain),
            What::RecordsGone => KEPT.into_iter().for_each(|file| self.tree.clear(&file.place())),
            What::RecordsRight => {
                for (file, content) in KEPT.into_iter().zip(self.ledger.copy.clone()) {
                    match content {
                        Some(content) => self.tree.lay(&file.place(), content.bytes(), 0o600),
                        None => self.tree.clear(&file.place()),
                    }
                }
            }
            _ => return,
        }
        self.ledger_mut().tampered = edit.what != What::RecordsRight;
    }

    /// The fingerprint is written with another hash or epoch.
    fn edit_print(&mut self, change: impl Fn(Print) -> Print) {
        let records = self.ledger.records(&self.tree, View::Cache);
        let (Some(print), Some(content)) = (records.print.value().copied(), self.tree.file(&File::Print.place()))
        else {
            return;
        };
        let new = change(print);
        let text = String::from_utf8_lossy(content.bytes())
            .replacen(&print.hash.to_string(), &new.hash.to_string(), 1)
            .replacen(&format!("\"boot_epoch\": {}", print.epoch), &format!("\"boot_epoch\": {}", new.epoch), 1);
        self.tree.lay(&File::Print.place(), text.as_bytes(), 0o600);
        self.ledger_mut().learn_print(&Content::new(text.as_bytes()), new);
    }

    /// The fingerprint of the epoch before, for another host.
    fn put_print_back(&mut self) {
        self.edit_print(|print| Print { epoch: print.epoch.saturating_sub(1), hash: Hash32([6; 32]) });
    }

    fn lay_evidence(&mut self, file: File, line: Option<Line>) {
        if let Some(line) = line {
            let text = line.evidence(None);
            self.tree.lay(&file.place(), text.as_bytes(), 0o600);
            self.ledger_mut().learn_evidence(&Content::new(text.as_bytes()), line);
        }
    }

    #[allow(clippy::wildcard_enum_match_arm)] // the others are somebody else's
    fn edit_identity(&mut self, edit: Edit) {
        let end = self.true_us + u64::from(edit.n) * DAY;
        let pair = 10 + edit.n % 100;
        match edit.what {
            What::Cert => self.lay_pair("identity", (pair, pair), end),
            What::CertMixed => self.lay_pair("identity", (pair, pair + 1), end + 365 * DAY),
            What::CertExposed => self.tree.chmod(&state("identity/node.key"), 0o644),
            What::CertNoCa => self.tree.clear(&state("identity/ca.crt")),
            What::CertGone => self.tree.clear(&state("identity/node.crt")),
            What::Next => self.lay_pair("identity/next", (pair + 100, pair + 100), end),
            What::NextMixed => self.lay_pair("identity/next", (pair + 100, pair), end + 365 * DAY),
            What::NextHalf => {
                self.lay_pair("identity/next", (pair + 100, pair + 100), end + 365 * DAY);
                self.tree.clear(&state("identity/next/node.key"));
            }
            What::IdentityOdd => self.tree.lay_folder(&state("identity/odd")),
            What::IdentityRight => self.tree.clear(&state("identity/odd")),
            _ => {}
        }
    }

    fn lay_pair(&mut self, folder: &str, (pair, of): (u8, u8), end: u64) {
        self.tree.lay(&state(&format!("{folder}/node.crt")), &certificate(pair, end), 0o644);
        self.tree.lay(&state(&format!("{folder}/node.key")), &certificate_key(of), 0o600);
        if folder == "identity" {
            self.tree.lay(&state("identity/ca.crt"), b"authorities\n", 0o644);
        }
    }

    #[allow(clippy::wildcard_enum_match_arm)] // the others are somebody else's
    fn edit_surroundings(&mut self, edit: Edit) {
        let n = u64::from(edit.n);
        match edit.what {
            What::Ran if self.ledger.copy.iter().any(Option::is_some) => {
                self.tree.lay(&state("edge/telemetry/telemetry.base"), b"base", 0o600);
            }
            What::Floor => {
                self.floor_us = self.true_us + n * DAY;
                let floor = Wall::from_micros(self.floor_us);
                let activation = Activation { time_floor: Some(floor), ..Activation::default() };
                self.tree.lay(&state("activation.json"), &activation.to_bytes(), 0o600);
            }
            What::ClockBehind => self.clock = Clock::Behind(n),
            What::ClockAhead => self.clock = Clock::Ahead(n),
            What::ClockLost => self.clock = Clock::Lost,
            What::ClockRight => self.clock = Clock::Right,
            What::RootWrong => self.root_wrong = Some(edit.n),
            What::RootRight => self.root_wrong = None,
            What::PathLink => self.tree.lay_link(&state("telemetry"), "/var/log"),
            What::PathRight => self.tree.lay_folder(&state("telemetry")),
            What::InTheWay => {
                let all = destinations();
                if let Some(place) = all.get(usize::from(edit.n) % all.len().max(1)) {
                    self.tree.clear(place);
                    self.tree.lay_folder(place);
                }
            }
            What::FolderLink => self.tree.lay_link(&state("runtime/bin"), "/usr/bin"),
            What::DestinationsGone => destinations().iter().rev().for_each(|place| self.tree.clear(place)),
            What::HostHidden => self.hidden = true,
            What::HostSeen => self.hidden = false,
            What::HostFlips => self.host = edit.n % 6,
            _ => {}
        }
    }

    /// What every story begins with: a state root as somebody prepared it.
    pub fn prepare(&mut self) {
        for edit in [(What::Key, 0), (What::Release, material::FIRST), (What::SourcesRight, 0), (What::PathRight, 0)] {
            self.edit(Edit { what: edit.0, n: edit.1 });
        }
        if self.config.tls {
            self.edit(Edit { what: What::Cert, n: 200 });
        }
    }

    /// Somebody looks after everything but the records.
    pub fn heal(&mut self) {
        for (what, n) in [
            (What::RootRight, 0),
            (What::PathRight, 0),
            (What::ClockRight, 0),
            (What::HostSeen, 0),
            (What::IdentityRight, 0),
            (What::DestinationsGone, 0),
            (What::Key, 0),
            (What::Release, material::LAST),
            (What::SourcesRight, 0),
            (What::Cert, 250),
        ] {
            self.edit(Edit { what, n });
        }
        // Whoever vouched for a far future is no longer believed.
        self.floor_us = 0;
        self.tree.clear(&state("activation.json"));
    }
}

/// A chain of lines, for who looks at one.
#[must_use]
pub fn lines_of(run: &Run) -> Arc<[Line]> {
    let records = run.ledger.records(&run.tree, View::Cache);
    records.chain.value().cloned().unwrap_or_else(|| Arc::from([]))
}
