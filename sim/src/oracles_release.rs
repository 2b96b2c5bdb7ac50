//! What must hold of releases: **I-S1** nothing is in force that did not pass all four steps on the very bytes, **I-S2** no
//! activation below a floor, **I-S3** what `activation.json` names is there and durable.
//!
//! What is true of a release stands in `releases.rs`; `activation.json` is read here by its documented form.

use std::collections::BTreeMap;

use machines::disk::File;
use machines::ids::Hash32;
use machines::time::Wall;
use machines::verify::{self, Step};

use crate::marks::Mark;
use crate::oracles::{Commit, Oracle};
use crate::plan::{Goal, NAMES, Order, Wants};
use crate::policies;
use crate::releases::{self, ALL, Binding};
use crate::world::{Errand, Operator, World, fired};

/// Nothing: no policy, no release.
pub const NOTHING: u8 = u8::MAX;
/// Something that nobody made.
pub const UNKNOWN: u8 = u8::MAX - 1;

/// How a verification ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The image of this release passed.
    Passed(u8),
    /// This step failed.
    Failed(Step),
    /// The source could not be reached or read.
    Source,
}

/// What `activation.json` says, by numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The policy in force.
    pub variant: u8,
    /// The lock that it came with: see `releases.rs`.
    pub lock: u8,
    /// The last known good policy.
    pub lkg: u8,
    /// The lock that that came with.
    pub lkg_lock: u8,
    /// The floors of `NAMES`.
    pub floors: [Option<u64>; 2],
    /// The time floor.
    pub time: Option<Wall>,
}

/// A file that says nothing.
pub const EMPTY: Seen =
    Seen { variant: NOTHING, lock: NOTHING, lkg: NOTHING, lkg_lock: NOTHING, floors: [None; 2], time: None };

/// What a run has verified so far.
#[derive(Debug, Default)]
pub(crate) struct Supply {
    /// Locks that passed on this node, as a set.
    pub(crate) passed: u64,
    /// The highest sequence of each name that was reported as put in force, since its floor was reset.
    highest: [u64; 2],
    /// What it was before the reset.
    forgotten: [u64; 2],
    /// The locks that imports left remembered, by policy, as long as nothing else may have replaced the record.
    remembered: BTreeMap<u8, u8>,
    /// The latest date that was reported as taken note of.
    time: Option<Wall>,
    /// How verifications ended.
    pub verdicts: Vec<Verdict>,
    /// What a broken operator keeps.
    pub last: Option<verify::Verified<verify::Release>>,
}

impl Supply {
    pub(crate) fn reset(&mut self) {
        self.passed = 0;
        self.highest = [0; 2];
        self.forgotten = [0; 2];
        self.remembered.clear();
        self.time = None;
        self.verdicts.clear();
        self.last = None;
    }

    /// A release was in force before the story begins.
    pub(crate) fn installed(&mut self, lock: &Binding) {
        self.passed |= 1 << lock.number;
        self.highest[0] = lock.sequence;
    }

    /// A release was put in force, or was about to be: its own record stands from then on, whatever stood there.
    pub(crate) fn forget_record(&mut self, passed: Option<(u8, Wall)>) {
        if let Some(lock) = passed.and_then(|p| releases::lock(p.0)) {
            self.remembered.remove(&lock.variant);
        }
    }

    fn has_passed(&self, number: u8) -> bool {
        number < 64 && self.passed >> number & 1 == 1
    }
}

fn between<'a>(text: &'a str, from: &str, to: &str) -> Option<&'a str> {
    let rest = text.split_once(from)?.1;
    Some(rest.rsplit_once(to)?.0)
}

fn variant(slot: &str) -> u8 {
    let digest = slot.strip_prefix("{\"bundle\":\"sha256:").and_then(|rest| rest.get(..64));
    let Some(digest) = digest.and_then(|hex| Hash32::parse_hex(hex.as_bytes())) else {
        return if slot == "null" { NOTHING } else { UNKNOWN };
    };
    policies::ALL.iter().find(|v| v.digest == digest).map_or(UNKNOWN, |v| v.number)
}

fn lock(slot: &str) -> u8 {
    if slot == "null" {
        return NOTHING;
    }
    let known = ALL.locks.iter().find(|lock| lock.slots.iter().any(|(_, known)| known == slot));
    known.map_or(UNKNOWN, |lock| lock.number)
}

/// Reads `activation.json`; `None` when it is no whole file.
pub(crate) fn read(bytes: &[u8]) -> Option<Seen> {
    let text = std::str::from_utf8(bytes).ok()?.strip_suffix("}\n")?;
    let text = text.rsplit_once(",\"h\":").map_or(text, |(covered, _)| covered);
    let (slots, rest) = text.strip_prefix("{\"current\":")?.split_once(",\"floors\":{")?;
    let (slots, in_force) = slots.rsplit_once(",\"lock\":")?;
    let (current, lkg) = slots.split_once(",\"lkg\":")?;
    let (floors, time) = rest.split_once("},\"time_floor\":")?;
    let floor = |name: &str| {
        let rest = floors.split_once(&format!("\"{name}\":"))?.1;
        rest.split(',').next()?.parse().ok()
    };
    Some(Seen {
        variant: variant(current),
        lock: lock(in_force),
        lkg: variant(lkg),
        lkg_lock: between(lkg, ",\"lock\":", "}").map_or(NOTHING, lock),
        floors: NAMES.map(floor),
        time: time.strip_prefix('"').and_then(|t| t.strip_suffix('"')).and_then(Wall::parse_rfc3339),
    })
}

impl World {
    /// What `activation.json` says now, with its fingerprint.
    pub(crate) fn seen_on_disk(&self) -> Option<(Seen, u64)> {
        let seen = read(self.disk.read(File::Activation)?)?;
        Some((seen, self.disk.fingerprint(|file| file == File::Activation)))
    }

    /// `activation.json` was replaced: **I-S1** to **I-S3** of what it says now, against what it said `before`.
    pub(crate) fn check_replaced(&mut self, proc: usize, before: Option<&Seen>, now: &Seen) {
        self.check_named(now, true);
        let Some(Some(operator)) = proc.checked_sub(1).and_then(|p| self.operators.get(p)) else { return };
        let errand = operator.errand;
        let passed = operator.checking.as_ref().and_then(|checking| checking.passed);
        if let Some(words) = self.unverified(errand, passed, before, now) {
            return self.fail(Oracle::Unverified, || words);
        }
        let damaged = self.has_fired(fired::MEDIA_POLICY);
        let sets = match errand {
            // What is in force keeps its lock when it is loaded once more by itself.
            Errand::Load => self.plan.config.verified,
            Errand::Rollback { below: false } => true,
            Errand::Fetch(order) => matches!(order.goal, Goal::Activate(_)),
            Errand::Rollback { below: true } | Errand::ResetFloor { .. } => false,
        };
        if let Some(lock) = releases::lock(now.lock).filter(|_| sets && !damaged) {
            let highest = self.supply.highest.get(usize::from(lock.name)).copied().unwrap_or(0);
            if lock.sequence < highest {
                let (number, sequence) = (lock.number, lock.sequence);
                return self.fail(Oracle::BelowFloor, || {
                    format!("lock {number} (sequence {sequence}) is in force after sequence {highest} was")
                });
            }
            if let (Errand::Fetch(order), Some(before)) = (errand, before)
                && let Some(code) = refusal(lock, passed.map(|p| p.1), &order, before)
            {
                let number = lock.number;
                return self.fail(Oracle::Verdict, || format!("lock {number} is in force in spite of {code}"));
            }
        }
        if let Errand::ResetFloor { name, time } = errand {
            let Supply { highest, forgotten, .. } = &mut self.supply;
            if let (Some(highest), Some(forgotten)) =
                (highest.get_mut(usize::from(name)), forgotten.get_mut(usize::from(name)))
            {
                *forgotten = std::mem::take(highest);
            }
            self.supply.time = self.supply.time.filter(|_| !time);
        }
        if now.time < self.supply.time && !damaged {
            return self.fail(Oracle::TimeFloor, || format!("the time floor went back to {:?}", now.time));
        }
        if let Some(before) = before.filter(|_| !damaged) {
            self.check_floors(errand, passed, before, now);
        }
    }

    /// Why what is in force now did not pass, if so.
    fn unverified(
        &self,
        errand: Errand,
        passed: Option<(u8, Wall)>,
        before: Option<&Seen>,
        now: &Seen,
    ) -> Option<String> {
        let lock = now.lock;
        let known = releases::lock(lock);
        // What had rotted is copied from file to file; what is new in force is never that.
        let copies = !matches!(errand, Errand::Load | Errand::Fetch(Order { goal: Goal::Activate(_), .. }));
        if copies && self.has_fired(fired::MEDIA_POLICY) {
            return None;
        }
        if lock == UNKNOWN || known.is_some_and(|known| !known.genuine || known.variant != now.variant) {
            return Some(format!("a lock is in force that nobody signed for this policy: {now:?}"));
        }
        let same = before.is_none_or(|b| (b.variant, b.lock) == (now.variant, now.lock));
        match errand {
            Errand::Fetch(Order { goal: Goal::Activate(_), .. }) => (passed.map(|p| p.0) != Some(lock))
                .then(|| format!("lock {lock} is in force where {passed:?} was verified")),
            Errand::Fetch(Order { goal: Goal::Import, .. }) | Errand::ResetFloor { .. } => {
                (!same).then(|| format!("something else is in force after what changes nothing: {now:?}"))
            }
            Errand::Load if self.plan.config.verified => (!self.supply.has_passed(lock))
                .then(|| format!("policy {} is loaded and never passed the four steps here", now.variant)),
            // The policy in force, loaded once more, keeps the lock that it came with.
            Errand::Load => {
                (lock != NOTHING && !same).then(|| format!("a load without a record came with lock {lock}"))
            }
            Errand::Rollback { .. } => {
                let back = before.is_none_or(|b| (b.lkg, b.lkg_lock) == (now.variant, now.lock));
                (!back).then(|| format!("a rollback went elsewhere than back: {now:?}"))
            }
        }
    }

    /// **I-S2**: floors are exactly what this change makes of them, and the time floor moves to verified dates alone.
    fn check_floors(&mut self, errand: Errand, passed: Option<(u8, Wall)>, before: &Seen, now: &Seen) {
        let mut floors = before.floors;
        let mut times = vec![before.time];
        let kept = matches!(errand, Errand::Load) && !self.plan.config.verified;
        match errand {
            Errand::Load if kept => {}
            Errand::Fetch(_) => times = vec![before.time.max(passed.map(|p| p.1))],
            Errand::Load if now.lock != NOTHING => {
                let slots = releases::lock(now.lock).map_or(&[][..], |lock| lock.slots.as_slice());
                times = slots.iter().map(|(date, _)| before.time.max(Some(*date))).collect();
            }
            Errand::ResetFloor { name, time } => {
                if let Some(floor) = floors.get_mut(usize::from(name)) {
                    *floor = None;
                }
                times = vec![before.time.filter(|_| !time)];
            }
            Errand::Load | Errand::Rollback { .. } => {}
        }
        let raises = matches!(errand, Errand::Load | Errand::Fetch(Order { goal: Goal::Activate(_), .. })) && !kept;
        if let Some(lock) = releases::lock(now.lock).filter(|_| raises)
            && let Some(floor) = floors.get_mut(usize::from(lock.name))
        {
            if *floor > Some(lock.sequence) {
                let (number, floor) = (lock.number, *floor);
                return self
                    .fail(Oracle::BelowFloor, || format!("lock {number} is in force below its floor {floor:?}"));
            }
            *floor = Some(lock.sequence);
        }
        if floors != now.floors {
            let is = now.floors;
            return self.fail(Oracle::BelowFloor, || format!("the floors are {is:?} where they must be {floors:?}"));
        }
        if !times.contains(&now.time) {
            let is = now.time;
            self.fail(Oracle::TimeFloor, || format!("the time floor is {is:?} where it must be one of {times:?}"));
        }
    }

    /// **I-S3**: every file that `activation.json` names is there with the bytes that were verified, and durable where
    /// `firm` asks for it.
    pub(crate) fn check_named(&mut self, seen: &Seen, firm: bool) {
        if self.has_fired(fired::MEDIA_POLICY) {
            return;
        }
        let policy = |number| policies::variant(number).map(|v| (File::Bundle(v.digest), v.bytes.as_slice()));
        let lock = |number| releases::lock(number).map(|lock| (File::Lock(lock.fingerprint), lock.bytes.as_slice()));
        let named = [policy(seen.variant), lock(seen.lock), policy(seen.lkg), lock(seen.lkg_lock)];
        for (at, (file, bytes)) in named.into_iter().enumerate().filter_map(|(at, named)| Some((at, named?))) {
            let oracle = if at % 2 == 0 { Oracle::LoadAtomic } else { Oracle::ReleaseAtomic };
            match self.disk.read(file) {
                None => self.fail(oracle, || format!("activation.json names {}, which is not there", file.name())),
                Some(there) if there != bytes => {
                    let oracle = if seen.lock < UNKNOWN { Oracle::Unverified } else { oracle };
                    self.fail(oracle, || format!("{} has other bytes than were verified or loaded", file.name()));
                }
                Some(_) if firm && !self.disk.is_lasting(file) => {
                    self.fail(oracle, || format!("activation.json names {}, which is not durable", file.name()));
                }
                Some(_) => {}
            }
        }
    }

    /// A change of an operator was reported: what was promised for ever, and whether a refusal had a reason.
    pub(crate) fn check_order_done(&mut self, proc: usize, refused: Option<&str>) {
        let Some(Some(operator)) = proc.checked_sub(1).and_then(|p| self.operators.get(p)) else { return };
        let (errand, faulted, before) = (operator.errand, operator.faulted, operator.before);
        let passed = operator.checking.as_ref().and_then(|checking| checking.passed);
        let commit = operator.committed.and_then(|at| self.commits.get(at as usize)).copied();
        match (commit, refused) {
            (Some(commit), None) => self.promised(errand, passed, &commit),
            (None, None) | (Some(_), Some(_)) => {}
            (None, Some(why)) => {
                let excused = faulted || self.has_fired(fired::MEDIA_POLICY | fired::READ);
                self.check_refusal(errand, passed, before, excused, why);
            }
        }
    }

    /// **I-S4**: an import leaves a record of its release, or of a later one of that name; it never takes one back.
    fn check_remembered(&mut self, passed: Option<(u8, Wall)>) {
        let Some(lock) = passed.and_then(|p| releases::lock(p.0)) else { return };
        let activates = |o: &Operator| matches!(o.errand, Errand::Fetch(Order { goal: Goal::Activate(_), .. }));
        let excused = self.has_fired(fired::MEDIA_POLICY | fired::READ | fired::LOST_SYNC);
        if excused || self.operators.iter().flatten().any(activates) {
            return self.supply.forget_record(passed);
        }
        let found = policies::variant(lock.variant).and_then(|policy| self.recorded(policy.digest));
        let Some(found) = found.filter(|found| found.variant == lock.variant) else {
            let number = lock.number;
            return self.fail(Oracle::Unverified, || format!("lock {number} was imported, and no record says so"));
        };
        let before = self.supply.remembered.get(&lock.variant).copied().and_then(releases::lock);
        let least = before.filter(|before| before.name == lock.name).map_or(0, |before| before.sequence);
        if found.name != lock.name || found.sequence < least.max(lock.sequence) {
            let (number, found) = (lock.number, found.number);
            return self.fail(Oracle::Unverified, || {
                format!("lock {number} was imported where sequence {least} was remembered, and lock {found} is now")
            });
        }
        if found.sequence > lock.sequence {
            self.hit(Mark::RecordKept);
        }
        self.supply.remembered.insert(lock.variant, found.number);
    }

    /// The lock with which a policy is remembered.
    fn recorded(&self, policy: Hash32) -> Option<&'static Binding> {
        let text = std::str::from_utf8(self.disk.read(File::Verified(policy))?).ok()?;
        releases::lock(lock(between(text, ",\"lock\":", ",\"h\":")?))
    }

    fn promised(&mut self, errand: Errand, passed: Option<(u8, Wall)>, commit: &Commit) {
        let seen = &commit.seen;
        match errand {
            Errand::Fetch(Order { goal: Goal::Import, .. }) => {
                self.hit(Mark::ReleaseImported);
                self.check_remembered(passed);
            }
            Errand::Fetch(_) => self.hit(Mark::ReleaseActivated),
            Errand::ResetFloor { .. } => return self.hit(Mark::FloorReset),
            Errand::Load if seen.lock != NOTHING => self.hit(Mark::LoadedByRecord),
            Errand::Load => {}
            Errand::Rollback { .. } => return,
        }
        if matches!(errand, Errand::Fetch(_)) || seen.lock != NOTHING {
            self.supply.time = self.supply.time.max(seen.time);
        }
        let kept = matches!(errand, Errand::Load) && !self.plan.config.verified;
        let activates = matches!(errand, Errand::Load | Errand::Fetch(Order { goal: Goal::Activate(_), .. }));
        if let Some(lock) = releases::lock(seen.lock).filter(|_| activates && !kept) {
            let name = usize::from(lock.name);
            if self.supply.forgotten.get(name).is_some_and(|forgotten| *forgotten > lock.sequence) {
                self.hit(Mark::BelowAfterReset);
            }
            if let Some(highest) = self.supply.highest.get_mut(name) {
                *highest = (*highest).max(lock.sequence);
            }
        }
    }

    /// A verified release that was refused: there must be a reason, and it must be that one.
    fn check_refusal(&mut self, errand: Errand, passed: Option<(u8, Wall)>, before: u64, excused: bool, why: &str) {
        if let Errand::Load = errand {
            if why.starts_with("require_verified") {
                self.hit(Mark::LoadNotVerified);
            }
            return;
        }
        let Errand::Fetch(order) = errand else { return };
        let Some(lock) = passed.and_then(|p| releases::lock(p.0)) else { return };
        let code = why.split(':').next().unwrap_or("");
        let mark = match code {
            "rollback" if order.lies.has("stale") => Some(Mark::StaleTagRefused),
            "rollback" => Some(Mark::BelowFloorRefused),
            "wrong_name" => Some(Mark::WrongName),
            "wrong_fingerprint" => Some(Mark::WrongFingerprint),
            "wrong_channel" => Some(Mark::WrongChannel),
            _ => None,
        };
        if let Some(mark) = mark {
            self.hit(mark);
        }
        let commit = self.commits.iter().rev().find(|commit| commit.print == before);
        if excused || commit.is_none() && before != 0 {
            return;
        }
        let (seen, policy_floor) = commit.map_or((EMPTY, 0), |commit| (commit.seen, commit.floor));
        let date = passed.map(|p| p.1);
        let Goal::Activate(wants) = order.goal else {
            // One of another name than the node runs is not kept either.
            if code == "wrong_name" && reasons(lock, date, &order, Wants::Anything, &seen).contains(&code) {
                return;
            }
            let why = why.to_owned();
            return self.fail(Oracle::Verdict, || format!("a verified release was not stored, without cause: {why}"));
        };
        let reasons = reasons(lock, date, &order, wants, &seen);
        let policy = policies::variant(lock.variant).map_or(0, |policy| policy.sequence);
        let sure = refusal(lock, date, &order, &seen);
        let barred = sure.is_none() && policy < policy_floor && why.contains("below its floor");
        if !barred && !reasons.contains(&code) {
            let (number, why) = (lock.number, why.to_owned());
            self.fail(Oracle::Verdict, || {
                format!("lock {number} was verified and refused, and only {reasons:?} would be a reason: {why}")
            });
        }
    }
}

/// The codes by which this lock may be refused where `activation.json` said this.
fn reasons(lock: &Binding, date: Option<Wall>, order: &Order, wants: Wants, seen: &Seen) -> Vec<&'static str> {
    let mut codes = Vec::new();
    if let (Some(date), Some(floor)) = (date, seen.time)
        && floor > date.after(verify::MAX_AGE)
    {
        codes.push("expired");
    }
    let pinned = |at: usize| seen.floors.get(at).is_some_and(Option::is_some);
    let configured = match wants {
        Wants::Agent => Some(0),
        Wants::Other => Some(1),
        Wants::Anything | Wants::Stable | Wants::Beta | Wants::Announced | Wants::Unannounced => None,
    };
    let other = usize::from(1 - lock.name.min(1));
    if configured.map_or(pinned(other), |name: u8| name != lock.name) {
        codes.push("wrong_name");
    }
    if seen.floors.get(usize::from(lock.name)).copied().flatten() > Some(lock.sequence) {
        codes.push("rollback");
    }
    let other = announced(order.release).is_some_and(|announced| announced != lock.fingerprint);
    if wants == Wants::Unannounced || wants == Wants::Announced && other {
        codes.push("wrong_fingerprint");
    }
    let channel = match wants {
        Wants::Stable => "stable",
        Wants::Beta => "beta",
        Wants::Anything | Wants::Agent | Wants::Other | Wants::Announced | Wants::Unannounced => "",
    };
    if !channel.is_empty() && !lock.channels.is_empty() && !lock.channels.contains(&channel) {
        codes.push("wrong_channel");
    }
    codes
}

/// The code by which this lock must be refused, if one is sure. Which of two names a node is pinned to is not said here.
fn refusal(lock: &Binding, date: Option<Wall>, order: &Order, seen: &Seen) -> Option<&'static str> {
    let (wants, import) = match order.goal {
        Goal::Activate(wants) => (wants, false),
        Goal::Import => (Wants::Anything, true),
    };
    let own = seen.floors.get(usize::from(lock.name)).copied().flatten();
    let configured = matches!(wants, Wants::Agent | Wants::Other);
    let sure = |code: &&str| if *code == "wrong_name" { configured || own.is_none() } else { !import };
    reasons(lock, date, order, wants, seen).into_iter().find(sure)
}

/// The fingerprint that is announced of a release.
pub(crate) fn announced(release: u8) -> Option<Hash32> {
    releases::lock(releases::release(release)?.lock?).map(|lock| lock.fingerprint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_read_by_its_documented_form() {
        let (lock, policy) = (&ALL.locks[2], &policies::ALL[2]);
        let bundle = format!("{{\"bundle\":\"sha256:{}\",\"name\":\"policy\"", policy.digest);
        let text = format!(
            "{{\"current\":{bundle}}},\"lkg\":{bundle},\"lock\":{0}}},\"lock\":{0},\"floors\":{{\"agent\":5,\"policy/policy\":6}},\"time_floor\":\"{1}\"}}\n",
            lock.slots[0].1, lock.slots[0].0
        );
        let seen = read(text.as_bytes()).unwrap();
        let want =
            Seen { variant: 2, lock: 2, lkg: 2, lkg_lock: 2, floors: [Some(5), None], time: Some(lock.slots[0].0) };
        assert_eq!(seen, want);
        assert_eq!(
            read(b"{\"current\":null,\"lkg\":null,\"lock\":null,\"floors\":{},\"time_floor\":null}\n"),
            Some(EMPTY)
        );
        for cut in 0..text.len() {
            assert_eq!(read(&text.as_bytes()[..cut]), None, "cut at {cut}");
        }
    }
}
