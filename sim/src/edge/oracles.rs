//! What must hold, looked at before and after every operation, at every power loss and at every end (SPEC 12 I-E1 to I-E3).
//!
//! - I-E1: a line is added to the chain by a first start or a completed reconstruction alone, one at a time; what is
//!   installed is durable by then, and the chain is durable before anything that follows from it is written.
//! - I-E2: nothing is written but the node's own records and what a release makes whose signature is good over the very
//!   bytes that were read; and only where the world's state lets a precheck carry it out at all. What lies at a destination
//!   is old or new as a whole, also after a power loss.
//! - I-E3: every precheck ends with the exit code that the state of the world deserves; records contradict each other only
//!   where somebody changed them.
//! - The marker says 0 for this boot only when everything is in order. The node has a whole identity at every instant (T17).

use std::sync::Arc;

use machines::disk::FaultKind;
use machines::ids::Hash32;
use machines::precheck::Ended;
use machines::tree::{Done, Op, Place, Root};

use super::ledger::{File, KEPT, Line, Print, Seen, key_of};
use super::marks::Mark;
use super::material::{Made, Makes, destinations, releases, state};
use super::plan::What;
use super::process::Process;
use super::reference::Told;
use super::run::{Clock, Run};
use super::tree::{Content, Entry, View};
use crate::oracles::Oracle;

/// Whose a place is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    Marker,
    Records,
    Identity,
    Destination,
    Nobody,
}

fn whose(process: &Process, place: &Place) -> Whose {
    if File::Marker.is_or_temp(place) {
        return Whose::Marker;
    }
    let folders = ["bootstrap", "epoch", "epoch/current", "epoch/previous"];
    let own = place.root == Root::State;
    if KEPT.into_iter().any(|file| file.is_or_temp(place)) || (own && folders.contains(&place.path.as_str())) {
        return Whose::Records;
    }
    if own && (place.path.as_str() == "identity" || place.path.is_in("identity.previous")) {
        return Whose::Identity;
    }
    let made = process.approved.into_iter().flat_map(|release| &release.made);
    if made.into_iter().any(|made| made.at == *place || made.at.temp() == *place) {
        return Whose::Destination;
    }
    Whose::Nobody
}

/// The places that an operation changes.
fn changes(op: &Op) -> Vec<&Place> {
    match op {
        Op::Put { at, .. } | Op::MakeFolder { at, .. } | Op::Link { at, .. } => vec![at],
        Op::Copy { to, .. } => vec![to],
        Op::Rename { from, to } => vec![from, to],
        Op::Exchange { a, b } => vec![a, b],
        Op::Remove(at) | Op::RemoveFolder(at) => vec![at],
        Op::Open(_)
        | Op::Lock
        | Op::Look(_)
        | Op::List { .. }
        | Op::Read { .. }
        | Op::Hash(_)
        | Op::Sync(_)
        | Op::SyncFolder(_) => Vec::new(),
    }
}

impl Run {
    /// Whether this operation may be carried out at all.
    pub(super) fn judge_before(&mut self, process: &mut Process, op: &Op) {
        process.synced |= matches!(op, Op::Sync(_) | Op::SyncFolder(_));
        let meddled = process.meddled.is_some();
        for place in changes(op) {
            let whose = whose(process, place);
            process.wrote |= whose != Whose::Marker;
            let forecast = process.forecast;
            let wrong = match whose {
                _ if !process.locked => Some("without the lock"),
                Whose::Marker => None,
                Whose::Records if process.over && !matches!(op, Op::Remove(_)) => Some("after an operation failed"),
                Whose::Records if forecast.first || forecast.finishes || forecast.rebuilds => None,
                Whose::Records if meddled && (process.approved.is_some()) => None,
                Whose::Records => Some("though the records are to stay"),
                Whose::Identity if matches!(op, Op::Exchange { .. }) && !forecast.rotates && !meddled => {
                    Some("though the next identity is not to come in force")
                }
                Whose::Identity if process.rotate => None,
                Whose::Identity => Some("without being asked to rotate"),
                Whose::Destination if process.over && !matches!(op, Op::Remove(_)) => Some("after an operation failed"),
                Whose::Destination if forecast.rebuilds || meddled => {
                    process.touched = true;
                    None
                }
                Whose::Destination => Some("though this precheck has to refuse"),
                Whose::Nobody => Some("which nothing allows"),
            };
            if let Some(words) = wrong {
                self.fail(Oracle::UnverifiedOperation, format!("{} is written {words} ({})", place.path, forecast.why));
            }
            if whose == Whose::Destination {
                self.ledger_mut().unfinished = true;
                if self.passes() {
                    self.fail(Oracle::Marker, format!("{} is changed while the marker says 0", place.path));
                }
            }
        }
    }

    /// An operation is cut in its middle: what is half done has to be allowed as well.
    pub(super) fn judge_half(&mut self, process: &Process, op: &Op) {
        for place in changes(op) {
            if whose(process, place) == Whose::Nobody || !process.locked {
                self.fail(Oracle::UnverifiedOperation, format!("{} is half written", place.path));
            }
        }
    }

    /// What came of it.
    pub(super) fn judge_after(&mut self, process: &mut Process, op: &Op, result: &Result<Done, FaultKind>) {
        if result.is_err() {
            return;
        }
        match op {
            Op::Rename { to, .. } if File::Marker.is(to) => self.judge_marker(process),
            Op::Rename { to, .. } if File::Chain.is(to) => self.judge_commit(process),
            Op::Rename { to, .. } => match KEPT.into_iter().find(|file| file.is(to)) {
                Some(file) => self.judge_projection(process, file),
                None => self.judge_installed(process, to),
            },
            Op::SyncFolder(_) => self.judge_epoch(),
            Op::Open(_)
            | Op::Lock
            | Op::Look(_)
            | Op::List { .. }
            | Op::Read { .. }
            | Op::Hash(_)
            | Op::Put { .. }
            | Op::Copy { .. }
            | Op::MakeFolder { .. }
            | Op::Link { .. }
            | Op::Sync(_)
            | Op::Exchange { .. }
            | Op::Remove(_)
            | Op::RemoveFolder(_) => {}
        }
        if process.rotate && !changes(op).is_empty() {
            self.judge_identity("the middle of a rotation");
        }
    }

    /// T17: never keyless, neither now nor after a power loss.
    pub(super) fn judge_identity(&mut self, when: &str) {
        if self.whole && !(self.identity_is_whole(View::Cache) && self.identity_is_whole(View::Medium)) {
            self.fail(Oracle::Identity, format!("no whole identity in {when}"));
        }
    }

    fn judge_marker(&mut self, process: &Process) {
        if !self.passes() || process.meddled.is_some() {
            return;
        }
        let host = process.host.unwrap_or(self.host_hash());
        let told = self.ledger.records(&self.tree, View::Cache).told(host);
        if told != (Told::Goes { left: false, replaced: None }) {
            self.fail(Oracle::Marker, format!("the marker says 0, the records say {told:?}"));
        }
    }

    /// I-E1, and that everything is installed for good.
    fn judge_commit(&mut self, process: &mut Process) {
        let host = process.host.unwrap_or(self.host_hash());
        let before = self.ledger.before();
        let place = File::Chain.place();
        let Some(content) = self.tree.file(&place) else {
            return self.fail(Oracle::EpochOnce, "epoch/chain.jsonl is no file after its rename");
        };
        let records = self.ledger.records(&self.tree, View::Cache);
        let wall = self.wall();
        let lines: Vec<Line> = before.iter().flat_map(|(_, lines)| lines.iter().copied()).collect();
        let (line, text) = match (lines.last(), process.approved) {
            (None, _) if process.forecast.first => Line::behind(None, Hash32([0; 32]), host, 0, wall),
            (Some(last), Some(release)) => {
                let stored = records.print.value().map_or(last.new, |print| print.hash);
                let previous = if stored == host { last.new } else { stored };
                if previous == host {
                    self.fail(Oracle::EpochOnce, "a line is added though the host is the one of before");
                }
                Line::behind(Some(last), previous, host, release.version, wall)
            }
            (None | Some(_), _) => {
                return self.fail(Oracle::EpochOnce, "a line is added that no first start or release explains");
            }
        };
        let old = before.as_ref().map_or(&[][..], |(bytes, _)| bytes.bytes());
        if content.bytes() != [old, text.as_bytes()].concat() {
            return self.fail(
                Oracle::EpochOnce,
                format!("the chain is not the chain before and one line of epoch {}", line.epoch),
            );
        }
        let mut chain = lines;
        chain.push(line);
        self.ledger_mut().learn_chain(&content, chain.into());
        self.ledger_mut().chain = Some(content);
        process.committed = true;
        let moved = [What::InTheWay, What::FolderLink, What::DestinationsGone];
        if process.meddled.is_some_and(|edit| moved.contains(&edit.what)) {
            return;
        }
        let made: Vec<&Made> = process.approved.into_iter().flat_map(|release| &release.made).collect();
        for made in made {
            if !process.forecast.first && !is_made(self.tree.at(View::Medium, &made.at).as_ref(), made) {
                self.fail(Oracle::EpochOnce, format!("{} is not durable when the epoch advances", made.at.path));
            }
        }
    }

    /// What follows from the chain says what the chain says, and comes after it.
    fn judge_projection(&mut self, process: &Process, file: File) {
        let records = self.ledger.records(&self.tree, View::Cache);
        let medium = self.ledger.records(&self.tree, View::Medium);
        let content = self.tree.file(&file.place());
        let (Some(lines), Some(content)) = (records.chain.value(), content) else {
            return self.fail(Oracle::EpochOnce, format!("{file:?} is written without a chain"));
        };
        if medium.chain.value() != Some(lines) {
            return self.fail(Oracle::EpochOnce, format!("{file:?} is written before the chain is durable"));
        }
        let Some(last) = lines.last().copied() else { return };
        let bytes = content.bytes();
        let right = match file {
            File::Print => {
                let (head, tail) = last.print_ends();
                let print = Print { hash: last.new, epoch: last.epoch };
                self.ledger_mut().learn_print(&content, print);
                bytes.starts_with(head.as_bytes()) && bytes.ends_with(tail.as_bytes())
            }
            File::Current => {
                let of = |release: &&super::material::Release| release.version == last.version;
                let binaries = releases().iter().filter(of).map(|release| release.binary);
                let mut allowed: Vec<_> = [None].into_iter().chain(binaries).collect();
                if process.committed {
                    allowed = vec![process.approved.filter(|_| last.epoch > 0).and_then(|release| release.binary)];
                }
                self.ledger_mut().learn_evidence(&content, last);
                allowed.into_iter().any(|binary| last.evidence(binary).as_bytes() == bytes)
            }
            // It is the current evidence of before, byte by byte.
            File::Previous => {
                let before = lines.len().checked_sub(2).and_then(|n| lines.get(n));
                before.is_some() && records.previous.value() == before
            }
            File::Chain | File::Marker => true,
        };
        if !right {
            self.fail(Oracle::EpochOnce, format!("{file:?} does not say what the chain says"));
        }
    }

    /// I-E2: what gets its name is what the release makes, with its mode.
    fn judge_installed(&mut self, process: &Process, place: &Place) {
        let made = process.approved.into_iter().flat_map(|release| &release.made).find(|made| made.at == *place);
        let entry = self.tree.at(View::Cache, place);
        let (Some(made), Some(entry)) = (made, entry) else { return };
        if !is_made(Some(&entry), made) {
            self.fail(Oracle::UnverifiedOperation, format!("{} is not what the signed manifest makes", place.path));
        }
        let key = key_of(&entry);
        self.ledger_mut().allow(place, key);
    }

    /// The epoch on the medium never goes back.
    pub(super) fn judge_epoch(&mut self) {
        let medium = self.ledger.records(&self.tree, View::Medium);
        let epoch = medium.chain.value().and_then(|lines| lines.last()).map(|line| line.epoch);
        if epoch < self.ledger.epoch {
            let words = format!("the durable chain was at epoch {:?} and is at {epoch:?}", self.ledger.epoch);
            self.fail(Oracle::EpochOnce, words);
        }
        if epoch > self.ledger.epoch {
            self.ledger_mut().epoch = epoch;
        }
    }

    /// What a power loss left.
    pub(super) fn after_power_cut(&mut self) {
        self.judge_epoch();
        self.judge_identity("what a power loss left");
        if self.passes() {
            self.fail(Oracle::Marker, "the marker of another boot counts");
        }
        if !self.ledger.tampered {
            let records = self.ledger.records(&self.tree, View::Cache);
            let torn = records.chain == Seen::Broken
                || records.print == Seen::Broken
                || records.current == Seen::Broken
                || records.previous == Seen::Broken;
            if torn {
                self.fail(Oracle::Converges, "a power loss left half a record");
            }
        }
        for place in destinations() {
            if let Some(entry) = self.tree.at(View::Cache, place)
                && !matches!(entry, Entry::Folder(_))
                && !self.ledger.allows(place, key_of(&entry))
            {
                self.fail(Oracle::UnverifiedOperation, format!("a power loss left something else at {}", place.path));
            }
        }
        let chain = self.tree.file(&File::Chain.place());
        self.ledger_mut().chain = chain;
    }

    /// A precheck has ended: with the code that it must, and with what that code says.
    pub(super) fn process_ended(&mut self, process: &Process) {
        let Some(ended) = process.ended else { return };
        let number = process.number;
        self.say(|| format!("p{number}: ends with {}", ended.exit));
        self.trace.record(3, u64::from(ended.exit), ended.boot_epoch.map_or(0, |epoch| epoch + 1));
        let want = process.fault_exit.unwrap_or(process.forecast.exit);
        if ended.exit != want && !process.also.contains(&ended.exit) {
            self.fail(
                Oracle::ExitCode,
                format!(
                    "exit {} where {want} is right ({}); it said {:?}",
                    ended.exit, process.forecast.why, process.notes
                ),
            );
        }
        if process.errors == (ended.exit == 0) {
            self.fail(Oracle::ErrorNote, format!("exit {} with the lines {:?}", ended.exit, process.notes));
        }
        if process.forecast.contradicts && !self.ledger.tampered {
            self.fail(Oracle::Converges, format!("the records contradict each other: {:?}", process.notes));
        }
        let marked = self.tree.file(&File::Marker.place());
        // A state root that was never started has no folder for one yet.
        let folder = self.tree.at(View::Cache, &state("bootstrap")).is_some();
        let place_to_mark = folder && process.fault_exit.is_none();
        // A rotation that is refused changes nothing, and says nothing of this boot.
        let not_rotated = process.rotate && ended.exit == 3 && !process.notes.contains(&"edge.certificates.rotated");
        if ended.exit == 0 {
            self.judge_passed(process, ended);
        } else if not_rotated {
            // The marker stays as it was.
        } else if process.locked && self.passes() {
            self.fail(Oracle::Marker, format!("exit {} and the marker says 0 for this boot", ended.exit));
        } else if process.locked && place_to_mark && marked != Some(self.marker(ended.exit)) {
            self.fail(Oracle::Marker, format!("exit {} and the marker does not say so", ended.exit));
        } else if !process.locked && process.wrote {
            self.fail(Oracle::UnverifiedOperation, "something was written without the lock");
        }
        if process.forecast.unchanged() && process.meddled.is_none() && (process.wrote || process.synced) {
            self.fail(Oracle::UnverifiedOperation, "an unchanged host, and something was written or synced");
        }
        self.mark_end(process, ended);
    }

    fn judge_passed(&mut self, process: &Process, ended: Ended) {
        let medium = self.ledger.records(&self.tree, View::Medium);
        let records = self.ledger.records(&self.tree, View::Cache);
        let epoch = records.chain.value().and_then(|lines| lines.last()).map(|line| line.epoch);
        if process.meddled.is_none() {
            if !self.passes() {
                self.fail(Oracle::Marker, "exit 0 and the marker does not say so");
            }
            if ended.boot_epoch != epoch {
                let words = format!("the epoch is said to be {:?} and the chain says {epoch:?}", ended.boot_epoch);
                self.fail(Oracle::EpochOnce, words);
            }
            if process.forecast.rebuilds != process.committed && !process.forecast.first {
                self.fail(Oracle::EpochOnce, format!("a line was added: {}", process.committed));
            }
        }
        if medium.chain != records.chain {
            self.fail(Oracle::EpochOnce, "exit 0 while the chain is not durable");
        }
        let copy = KEPT.map(|file| self.tree.file(&file.place()));
        let ledger = self.ledger_mut();
        ledger.copy = copy;
        ledger.unfinished = false;
        ledger.tampered = false;
    }

    fn mark_end(&mut self, process: &Process, ended: Ended) {
        let forecast = process.forecast;
        if ended.exit == 0 {
            let clean = process.meddled.is_none();
            for (reached, mark) in [
                (forecast.first, Mark::FirstRun),
                (forecast.unchanged() && clean, Mark::Unchanged),
                (process.committed && !forecast.first, Mark::Rebuilt),
                (forecast.finishes, Mark::Finished),
                (forecast.finishes && forecast.rebuilds, Mark::FinishedAndRebuilt),
                (forecast.rotates, Mark::Rotated),
                (ended.boot_epoch >= Some(4), Mark::EpochFour),
                (process.committed && process.approved.is_some_and(|release| release.outside), Mark::Outside),
                (process.notes.contains(&"clock_rollback"), Mark::ClockLost),
            ] {
                if reached {
                    self.mark(mark);
                }
            }
        }
        let swapped = process.meddled.is_some_and(|edit| {
            matches!(
                edit.what,
                What::Release | What::ReleaseForged | What::ReleaseUnderOldSignature | What::SignatureOnly
            )
        });
        if swapped && forecast.rebuilds {
            self.mark(if process.committed { Mark::SwappedUnused } else { Mark::SwappedRefused });
        }
        if process.touched && process.notes.contains(&"precheck: a source of the manifest is not what was signed") {
            self.mark(Mark::SourceSwapped);
        }
        if process.meddled.is_some() {
            return;
        }
        let by_clock = ended.exit == 3 && forecast.why == "certificate ends";
        if by_clock && self.clock != Clock::Right && self.floor_us > self.wall().as_micros().max(self.built_us()) {
            self.mark(Mark::ExpiredByFloor);
        }
        let mark = match (ended.exit, forecast.why) {
            (2, "state root" | "configured path") => Mark::StateRoot,
            (2, _) if process.locked => Mark::NoMarker,
            (3, "next identity") => Mark::RotationRefused,
            (3, _) => Mark::Certificate,
            (4, _) => Mark::Held,
            (5, "records") => Mark::Contradiction,
            (5, "key missing") => Mark::KeyMissing,
            (5, "signature") => Mark::BadSignature,
            (5, "other node") => Mark::OtherNode,
            (5, "older") => Mark::Older,
            (5, "barred") => Mark::Barred,
            (5, "source") => Mark::SourceOther,
            (5, "in the way" | "no folder for it") => Mark::InTheWay,
            (_, _) => return,
        };
        self.mark(mark);
    }
}

/// Whether this lies there as the release makes it.
fn is_made(entry: Option<&Entry>, made: &Made) -> bool {
    let content = |wanted: &Content| match entry {
        Some(Entry::File(content, mode)) => content == wanted && *mode == made.mode,
        Some(Entry::Folder(_) | Entry::Link(_)) | None => false,
    };
    match &made.makes {
        Makes::Copy(_, wanted) | Makes::File(wanted) => content(wanted),
        Makes::Folder => entry == Some(&Entry::Folder(made.mode)),
        Makes::Link(target) => entry == Some(&Entry::Link(Arc::from(*target))),
    }
}
