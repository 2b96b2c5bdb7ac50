//! The machine: resolve, find and check signatures, choose lock and bundle, go through the bytes, judge.

use alloc::boxed::Box;
use alloc::string::{String, ToString as _};
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::ask::{Answer, Ask, SourceFault};
use super::attached::{Attached, FoundLock, Kind};
use super::hunt::{Hunt, Want};
use super::layers::Layers;
use super::sidecars::{Candidates, Sidecars};
use super::{Failed, Inventory, Options, Outcome, Output, Passed, Release, Step, Verified, fresh};
use crate::lock::Lock;
use crate::machine::{Deadline, Event, Machine, Outbox};
use crate::oci::{Digest, MAX_MANIFEST, Manifest, tags};
use crate::policy::bundle::Bundle;
use crate::time::{Mono, Now, Wall};
use crate::work::{self, Got};

/// Nothing can be asked of it once it runs.
#[derive(Clone, Copy, Debug)]
pub enum Input {}

/// The machine; its last output is the end.
#[derive(Debug)]
pub struct Verify {
    options: Options,
    /// The number of the next piece of work.
    next: u64,
    /// The steps that are not decided yet.
    open: &'static [Step],
    /// When it has to be over; none before it begins.
    until: Option<Mono>,
    /// What it was told so far, in bytes.
    told: u64,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Idle,
    /// Waiting for the image's manifest.
    Resolving,
    /// Looking for the image's signatures.
    Image(Image, Hunt),
    /// Looking for locks and bundles.
    Attachments(Signed, Attached),
    /// Looking for the signatures of the lock and the bundles.
    Sidecars(Signed, Candidates, Vec<(Kind, Hunt)>),
    /// Going through the image's bytes and the bundle's.
    Bytes(Signed, Sidecars, Layers, Fetch),
    /// Unpacking the bundle.
    Opening(Signed, FoundLock, Vec<u8>),
    Done,
}

/// The image as it was resolved.
#[derive(Debug)]
struct Image {
    digest: Digest,
    manifest: Manifest,
    /// What of the release was read and is what it must be.
    parts: Inventory,
}

/// An image with a signature that counts.
#[derive(Debug)]
struct Signed {
    image: Image,
    key: u16,
    signed_at: Option<Wall>,
}

/// The bundle's bytes.
#[derive(Debug)]
enum Fetch {
    /// There is none to be fetched.
    None,
    Asked(u64),
    Got(Vec<u8>),
}

type Out<'a, 'b> = &'a mut Outbox<'b, Output>;

impl Machine for Verify {
    const NAME: &'static str = "verify";
    type Input = Input;
    type Output = Output;

    fn handle(&mut self, now: Now, event: Event<Input>, out: Out<'_, '_>) {
        match event {
            Event::Start(_) => {
                self.until = Some(now.mono.after(self.options.timeout));
                self.stage = Stage::Resolving;
                let at = self.options.reference.target.clone();
                self.ask(Ask::Manifest { at, max: MAX_MANIFEST }, out);
            }
            Event::Due => self.due(now, out),
            Event::Work(work::Tag(number), got) => self.on_work(now, number, got, out),
            Event::Disk(tag, _) => panic!("verify: it has no disk: {tag:?}"),
            Event::Tree(tag, _) => panic!("verify: it has no files by path: {tag:?}"),
            Event::Net(tag, _) => panic!("verify: it asks by work alone: {tag:?}"),
            Event::Input(never) => match never {},
        }
    }

    fn deadline(&self) -> Option<Deadline> {
        let at = self.until.filter(|_| !matches!(self.stage, Stage::Done))?;
        Some(Deadline { at, why: "the verification has to be over" })
    }

    fn check(&self) {
        let ended = matches!(self.stage, Stage::Done);
        assert!(!ended || self.open.is_empty(), "verify: it ended with undecided steps");
    }
}

impl Verify {
    /// A verification that has not begun.
    #[must_use]
    pub const fn new(options: Options) -> Self {
        Self { options, next: 0, open: &Step::ALL, until: None, told: 0, stage: Stage::Idle }
    }

    fn ask(&mut self, ask: Ask, out: Out<'_, '_>) -> u64 {
        asking(&mut self.next, out)(ask)
    }

    /// Whatever was not answered by now is as good as never answered.
    fn due(&mut self, now: Now, out: Out<'_, '_>) {
        let over = self.deadline().is_some_and(|deadline| deadline.at <= now.mono);
        if !over {
            return;
        }
        let seconds = self.options.timeout.as_millis() / 1_000;
        let reference = &self.options.reference;
        self.source(alloc::format!("{reference}: the verification was not over within {seconds} s (--timeout)"), out);
    }

    /// Takes an answer. What was asked in an earlier stage and comes late is of no use any more.
    fn on_work(&mut self, now: Now, number: u64, got: Got, out: Out<'_, '_>) {
        if let Got::Artifact(Ok(answer)) = &got {
            self.told = self.told.saturating_add(answer.weight());
        }
        if self.told > self.options.budget && !matches!(self.stage, Stage::Done) {
            let budget = self.options.budget;
            return self.fail(
                alloc::format!(
                    "more than {budget} bytes of manifests, listings and signatures; remove from the source what is \
                     attached to the image and is not of the release"
                ),
                out,
            );
        }
        match (core::mem::replace(&mut self.stage, Stage::Done), got) {
            (Stage::Done, _) => {}
            (Stage::Resolving, Got::Artifact(answer)) => self.resolved(answer, out),
            (Stage::Image(image, mut hunt), got) => match hear(&mut hunt, number, got, &mut self.next, out) {
                Err(fault) => self.unreachable(&fault, out),
                Ok(()) if hunt.is_over() => self.image_hunted(now, image, &hunt, out),
                Ok(()) => self.stage = Stage::Image(image, hunt),
            },
            (Stage::Attachments(signed, mut found), Got::Artifact(answer)) => {
                let heard = found.answered(number, answer, &mut asking(&mut self.next, out));
                match heard {
                    Err(fault) => self.unreachable(&fault, out),
                    Ok(()) if found.is_over() => self.chosen(now, signed, &found, out),
                    Ok(()) => self.stage = Stage::Attachments(signed, found),
                }
            }
            (Stage::Sidecars(signed, candidates, mut hunts), got) => {
                let heard = match hunts.iter_mut().find(|(_, hunt)| hunt.asked(number)) {
                    Some((_, hunt)) => hear(hunt, number, got, &mut self.next, out),
                    None => Ok(()),
                };
                match heard {
                    Err(fault) => self.unreachable(&fault, out),
                    Ok(()) if hunts.iter().all(|(_, hunt)| hunt.is_over()) => {
                        self.sidecars_hunted(now, signed, candidates, &hunts, out);
                    }
                    Ok(()) => self.stage = Stage::Sidecars(signed, candidates, hunts),
                }
            }
            (Stage::Bytes(signed, sidecars, layers, fetch), Got::Artifact(answer)) => {
                self.bytes(signed, sidecars, layers, fetch, (number, answer), out);
            }
            (Stage::Opening(signed, lock, bytes), Got::Opened(opened)) => {
                self.opened(signed, lock, bytes, opened.map(|(bundle, _)| bundle), out);
            }
            (stage, got) => panic!("verify: {got:?} in {stage:?}"),
        }
    }

    fn resolved(&mut self, answer: Result<Answer, SourceFault>, out: Out<'_, '_>) {
        let reference = self.options.reference.clone();
        let (media_type, named, bytes) = match answer {
            Ok(Answer::Manifest { media_type, digest, bytes }) => (media_type, digest, bytes),
            Ok(other) => panic!("verify: {other:?} is no manifest"),
            Err(fault @ (SourceFault::TooLong { .. } | SourceFault::Mismatch { .. })) => {
                return self.fail(alloc::format!("the manifest of {reference}: {fault}"), out);
            }
            Err(fault @ SourceFault::NotFound) => {
                return self.source(alloc::format!("{reference}: {fault}"), out);
            }
            Err(fault @ (SourceFault::Unreachable(_) | SourceFault::Denied(_))) => {
                return self.unreachable(&fault, out);
            }
        };
        let digest = Digest::of(&bytes);
        let wanted = match &reference.target {
            crate::oci::Target::Digest(wanted) => Some(*wanted),
            crate::oci::Target::Tag(_) | crate::oci::Target::Only => named,
        };
        if let Some(wanted) = wanted
            && wanted != digest
        {
            return self.fail(alloc::format!("the manifest of {reference}: want {wanted}, got {digest}"), out);
        }
        match Manifest::parse(&bytes, media_type.as_deref()) {
            Ok(manifest) => {
                let hunt = Hunt::start(digest, &mut wanting(&mut self.next, out));
                let mut parts = Inventory::default();
                parts.add_manifest(manifest.media_type(), &bytes);
                self.stage = Stage::Image(Image { digest, manifest, parts }, hunt);
            }
            Err(refusal) => self.fail(alloc::format!("the manifest of {reference}: {refusal}"), out),
        }
    }

    fn image_hunted(&mut self, now: Now, mut image: Image, hunt: &Hunt, out: Out<'_, '_>) {
        let valid = match hunt.verdict("image") {
            Ok(valid) => valid,
            Err(reason) => return self.fail(reason, out),
        };
        let signed_at = match fresh::of_image(&valid, &self.options, now.wall) {
            Ok(signed_at) => signed_at,
            Err(reason) => return self.fail(reason, out),
        };
        let tag = self.options.reference.tag();
        let tags = [(Kind::Lock, tag.and_then(tags::lock)), (Kind::Policy, tag.and_then(tags::policy))];
        let found = Attached::start(image.digest, &hunt.others, tags, &mut asking(&mut self.next, out));
        image.parts.extend(&hunt.parts);
        let signed = Signed { image, key: valid.key, signed_at };
        if found.is_over() {
            self.chosen(now, signed, &found, out)
        } else {
            self.stage = Stage::Attachments(signed, found)
        }
    }

    fn chosen(&mut self, now: Now, signed: Signed, found: &Attached, out: Out<'_, '_>) {
        let locks = match found.chosen_locks() {
            Ok(locks) => locks,
            Err(reason) => return self.fail(reason, out),
        };
        let readable = locks.first().and_then(|lock| lock.read.as_ref().ok());
        let policies = found.chosen_policies(readable.map(|(lock, _)| lock));
        for (missing, required, kind) in [
            (locks.is_empty(), self.options.require_lock, Kind::Lock),
            (policies.is_empty(), self.options.require_policy, Kind::Policy),
        ] {
            if missing && required {
                let reason = alloc::format!("a {} is required and none is attached to the image", kind.name());
                return self.fail(reason, out);
            }
        }
        if let Some(Err(reason)) = policies.iter().map(|found| &found.layer).find(|layer| layer.is_err()) {
            return self.fail(reason.clone(), out);
        }
        let mut hunts = Vec::new();
        let manifests = locks.iter().map(|lock| (Kind::Lock, lock.manifest));
        for (kind, manifest) in manifests.chain(policies.iter().map(|found| (Kind::Policy, found.manifest))) {
            hunts.push((kind, Hunt::start(manifest, &mut wanting(&mut self.next, out))));
        }
        let candidates = Candidates { locks, policies };
        if hunts.is_empty() {
            self.sidecars_hunted(now, signed, candidates, &hunts, out);
        } else {
            self.stage = Stage::Sidecars(signed, candidates, hunts);
        }
    }

    fn sidecars_hunted(
        &mut self,
        now: Now,
        mut signed: Signed,
        candidates: Candidates,
        hunts: &[(Kind, Hunt)],
        out: Out<'_, '_>,
    ) {
        let options = &self.options;
        let judged = |manifest: Digest| {
            let found = hunts.iter().find(|(_, hunt)| hunt.subject() == manifest);
            let (kind, hunt) = found.ok_or_else(|| alloc::format!("nobody looked for signatures of {manifest}"))?;
            let valid = hunt.verdict(kind.name())?;
            fresh::of_attached(&valid, options, now.wall)
                .map_err(|why| alloc::format!("the {}: {why}", kind.name()))?;
            Ok(&hunt.parts)
        };
        let sidecars = match candidates.choose(judged, &mut signed.image.parts) {
            Ok(sidecars) => sidecars,
            Err(reason) => return self.fail(reason, out),
        };
        if let Some(FoundLock { read: Err(reason), genuine: false, .. }) = &sidecars.lock {
            return self.fail(reason.clone(), out);
        }
        let fetch = match &sidecars.lock {
            // Without a lock, the bytes of the image are all that the signature can be held against.
            None => Ok(None),
            Some(found) => {
                self.pass(out);
                sidecars.digests(found, &signed.image.digest)
            }
        };
        let fetch = match fetch {
            Ok(None) => Fetch::None,
            Ok(Some(layer)) => Fetch::Asked(self.ask(Ask::Bytes(layer), out)),
            Err(reason) => return self.fail(reason, out),
        };
        let platform = self.options.platform.clone();
        // Without a lock, nothing else holds the bytes of a bundle against what was signed.
        let unbound = sidecars.policies.iter().filter(|_| sidecars.lock.is_none());
        let beside: Vec<_> = unbound.filter_map(|found| found.layer.as_ref().ok()).cloned().collect();
        let manifest = &signed.image.manifest;
        let layers = Layers::start(manifest, &platform, &beside, &mut asking(&mut self.next, out));
        match layers {
            Ok(layers) => self.stage = Stage::Bytes(signed, sidecars, layers, fetch),
            Err(reason) => self.fail(reason, out),
        }
    }

    fn bytes(
        &mut self,
        mut signed: Signed,
        sidecars: Sidecars,
        mut layers: Layers,
        mut fetch: Fetch,
        (number, answer): (u64, Result<Answer, SourceFault>),
        out: Out<'_, '_>,
    ) {
        if layers.asked(number) {
            let heard = layers.answered(number, answer, &mut asking(&mut self.next, out));
            match heard {
                Err(fault) => return self.unreachable(&fault, out),
                Ok(Err(reason)) => return self.fail(reason, out),
                Ok(Ok(())) => {}
            }
        } else if matches!(fetch, Fetch::Asked(asked) if asked == number) {
            match answer {
                Ok(Answer::Bytes(bytes)) => fetch = Fetch::Got(bytes),
                Ok(other) => panic!("verify: {other:?} is no bundle"),
                Err(fault @ (SourceFault::Unreachable(_) | SourceFault::Denied(_))) => {
                    return self.unreachable(&fault, out);
                }
                Err(fault @ (SourceFault::NotFound | SourceFault::TooLong { .. } | SourceFault::Mismatch { .. })) => {
                    return self.fail(alloc::format!("the policy bundle: {fault}"), out);
                }
            }
        }
        if !layers.is_over() || matches!(fetch, Fetch::Asked(_)) {
            self.stage = Stage::Bytes(signed, sidecars, layers, fetch);
            return;
        }
        signed.image.parts.extend(&layers.parts);
        let bundle = match fetch {
            Fetch::None => None,
            Fetch::Asked(number) => panic!("verify: work {number} is not over"),
            Fetch::Got(bytes) => Some(bytes),
        };
        let Some(found) = sidecars.lock else {
            self.pass(out);
            return self.end(signed, None, None, "no lock is attached", out);
        };
        if let (Ok((lock, _)), Some(bytes)) = (&found.read, &bundle) {
            let (want, got) = (lock.policy_bundle.digest, Digest::of(bytes));
            if want != got {
                return self
                    .fail(alloc::format!("the lock binds the policy bundle {want}, got the bytes of {got}"), out);
            }
        }
        self.pass(out);
        self.fingerprint(signed, found, bundle, out);
    }

    fn fingerprint(&mut self, signed: Signed, found: FoundLock, bundle: Option<Vec<u8>>, out: Out<'_, '_>) {
        let Ok((lock, _)) = &found.read else { panic!("verify: step 2 passed without a lock") };
        if !lock.matches() {
            let (want, got) = (lock.fingerprint, lock.computed());
            return self
                .fail(alloc::format!("the lock says blake3:{want}, its canonical form gives blake3:{got}"), out);
        }
        self.pass(out);
        match bundle {
            Some(bytes) => {
                self.next = self.next.wrapping_add(1);
                out.work(work::Tag(self.next), work::Op::OpenBundle(bytes.clone()));
                self.stage = Stage::Opening(signed, found, bytes);
            }
            None => match self.admits(lock) {
                Ok(()) => {
                    let lock = found.read.ok().map(|(lock, _)| lock);
                    self.end(signed, lock, None, "no policy bundle is attached", out);
                }
                Err(reason) => self.fail(reason, out),
            },
        }
    }

    fn admits(&self, lock: &Lock) -> Result<(), String> {
        if lock.runtime.admits(&self.options.runtime) {
            return Ok(());
        }
        Err(alloc::format!("the lock wants a runtime {}, this one is {}", lock.runtime, self.options.runtime))
    }

    fn opened(
        &mut self,
        signed: Signed,
        found: FoundLock,
        bundle_bytes: Vec<u8>,
        opened: Result<Arc<Bundle>, String>,
        out: Out<'_, '_>,
    ) {
        let Ok((lock, lock_bytes)) = found.read else { panic!("verify: step 3 passed without a lock") };
        let compatible = opened.and_then(|bundle| {
            let (want, got) = (&lock.policy_bundle.version, &bundle.manifest.version);
            if want.to_string() != got.to_string() {
                return Err(alloc::format!("the lock binds the policy bundle version {want}, got {got}"));
            }
            bundle.manifest.compatible(&self.options.runtime).map_err(|refusal| refusal.to_string())?;
            self.admits(&lock).map(|()| bundle)
        });
        let bundle = match compatible {
            Ok(bundle) => bundle,
            Err(reason) => return self.fail(reason, out),
        };
        self.pass(out);
        let image = signed.image.digest;
        let release = signed.signed_at.map(|signed_at| Release {
            image,
            lock: lock.clone(),
            lock_bytes,
            bundle: Arc::clone(&bundle),
            bundle_bytes,
            signed_at,
            good_until: signed_at.after(self.options.max_age),
            parts: signed.image.parts,
        });
        let (key, signed_at) = (signed.key, signed.signed_at);
        let release = release.map(Verified);
        let passed = Passed { image, key, signed_at, lock: Some(lock), bundle: Some(bundle), release };
        self.stage = Stage::Done;
        out.output(Output::End(Box::new(Ok(passed))));
    }

    /// The end of a verification that had less than everything to look at.
    fn end(&mut self, signed: Signed, lock: Option<Lock>, bundle: Option<Arc<Bundle>>, why: &str, out: Out<'_, '_>) {
        self.skip(why, out);
        self.stage = Stage::Done;
        let Signed { image, key, signed_at } = signed;
        let passed = Passed { image: image.digest, key, signed_at, lock, bundle, release: None };
        out.output(Output::End(Box::new(Ok(passed))));
    }

    /// The next step passed.
    fn pass(&mut self, out: Out<'_, '_>) {
        let Some((step, rest)) = self.open.split_first() else { panic!("verify: there are four steps") };
        self.open = rest;
        out.output(Output::Step(*step, Outcome::Pass));
    }

    /// The next step failed: nothing more is tried.
    fn fail(&mut self, reason: String, out: Out<'_, '_>) {
        let Some((step, rest)) = self.open.split_first() else { panic!("verify: there are four steps") };
        self.open = rest;
        out.output(Output::Step(*step, Outcome::Fail(reason.clone())));
        self.skip("", out);
        self.stage = Stage::Done;
        out.output(Output::End(Box::new(Err(Failed::Step(*step, reason)))));
    }

    fn skip(&mut self, why: &str, out: Out<'_, '_>) {
        for step in core::mem::take(&mut self.open) {
            out.output(Output::Step(*step, Outcome::Skip(why.into())));
        }
    }

    fn unreachable(&mut self, fault: &SourceFault, out: Out<'_, '_>) {
        self.source(fault.to_string(), out);
    }

    /// Nothing can be said of the steps that are open.
    fn source(&mut self, words: String, out: Out<'_, '_>) {
        self.open = &[];
        self.stage = Stage::Done;
        out.output(Output::End(Box::new(Err(Failed::Source(words)))));
    }
}

/// Gives a hunt what it waits for.
fn hear(hunt: &mut Hunt, number: u64, got: Got, next: &mut u64, out: Out<'_, '_>) -> Result<(), SourceFault> {
    match got {
        Got::Artifact(answer) => hunt.answered(number, answer, &mut wanting(next, out)),
        Got::Checked(key) => {
            hunt.checked(number, key);
            Ok(())
        }
        Got::Opened(_) | Got::Evaluated(_) | Got::Ran(_) | Got::Host(_) => {
            panic!("verify: work of another kind: {number}")
        }
    }
}

/// Asks the source, each time under a new number.
fn asking<'a>(next: &'a mut u64, out: &'a mut Outbox<'_, Output>) -> impl FnMut(Ask) -> u64 {
    move |ask| {
        *next = next.wrapping_add(1);
        out.work(work::Tag(*next), work::Op::Artifact(ask));
        *next
    }
}

/// The same for hunts, which also have signatures checked.
fn wanting<'a>(next: &'a mut u64, out: &'a mut Outbox<'_, Output>) -> impl FnMut(Want) -> u64 {
    move |want| {
        *next = next.wrapping_add(1);
        let op = match want {
            Want::Ask(ask) => work::Op::Artifact(ask),
            Want::Check { message, signature } => work::Op::CheckSignature { message, signature },
        };
        out.work(work::Tag(*next), op);
        *next
    }
}
