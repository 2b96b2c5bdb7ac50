//! A source in memory, releases to put into it, and a run of the machine over it.

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use super::*;
use crate::lock::{AgentArtifact, Draft, Inputs, PolicyBundle, Runtime};
use crate::machine::{Effect, Entropy, Event, Machine as _, Outbox};
use crate::oci::{Descriptor, EMPTY_BLOB, Image, Manifest, Target, media, tags};
use crate::policy::bundle::{self, BuildOptions};
use crate::signature::{self, SIGNED_AT};
use crate::time::{Mono, Now};
use crate::work::{self, Compiled, Got};

pub(crate) const DAY: u64 = 24 * 3_600 * 1_000_000;
pub(crate) const TODAY: Wall = Wall::from_micros(20_400 * DAY);
pub(crate) const TAG: &str = "v1.0.0";

/// A key of the tests: its signature is a hash over its name and the message.
#[derive(Clone, Copy)]
pub(crate) struct Key(pub(crate) &'static str);

pub(crate) const OURS: Key = Key("ours");
pub(crate) const THEIRS: Key = Key("theirs");

impl Key {
    pub(crate) fn sign(self, message: &[u8]) -> Vec<u8> {
        let mut bytes = self.0.as_bytes().to_vec();
        bytes.extend_from_slice(message);
        Digest::of(&bytes).hash().0.to_vec()
    }
}

/// How signatures are laid out.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Layout {
    Simple,
    Bundle,
}

/// A source in memory.
#[derive(Clone, Default)]
pub(crate) struct Source {
    pub(crate) tags: BTreeMap<String, Digest>,
    pub(crate) manifests: BTreeMap<Digest, Vec<u8>>,
    pub(crate) blobs: BTreeMap<Digest, Vec<u8>>,
    pub(crate) referrers: BTreeMap<Digest, Vec<Descriptor>>,
}

impl Source {
    pub(crate) fn blob(&mut self, media_type: &str, bytes: &[u8]) -> Descriptor {
        let descriptor = Descriptor::of(media_type, bytes);
        self.blobs.insert(descriptor.digest, bytes.to_vec());
        descriptor
    }

    pub(crate) fn put(&mut self, tag: Option<&str>, bytes: Vec<u8>) -> Digest {
        let digest = Digest::of(&bytes);
        let manifest = Manifest::parse(&bytes, None).unwrap();
        if let Some(subject) = manifest.subject() {
            let mut entry = Descriptor::of(manifest.media_type(), &bytes);
            entry.artifact_type = manifest.artifact_type().map(Into::into);
            self.referrers.entry(subject.digest).or_default().push(entry);
        }
        self.manifests.insert(digest, bytes);
        if let Some(tag) = tag {
            self.tags.insert(tag.into(), digest);
        }
        digest
    }

    pub(crate) fn attach(&mut self, kind: &str, image: Digest, tag: Option<&str>, bytes: &[u8]) -> Digest {
        let layer = self.blob(kind, bytes);
        let subject = Descriptor::of(media::IMAGE_MANIFEST, &self.manifests[&image]);
        self.put(tag, Image::artifact(kind, layer, Some(subject)).to_bytes())
    }

    pub(crate) fn sign(&mut self, digest: Digest, key: Key, layout: Layout, signed_at: Option<&str>) {
        let annotations: BTreeMap<String, String> =
            signed_at.map(|at| (SIGNED_AT.to_string(), at.to_string())).into_iter().collect();
        match layout {
            Layout::Simple => {
                let payload = signature::simple::payload(&digest, "localhost:5000/app", &annotations);
                let layer = signature::simple::layer(&payload, &key.sign(&payload));
                self.blobs.insert(layer.digest, payload);
                let tag = tags::signature(&digest);
                let mut layers = match self.tags.get(&tag).map(|at| Manifest::parse(&self.manifests[at], None).unwrap())
                {
                    Some(Manifest::Image(image)) => image.layers,
                    _ => Vec::new(),
                };
                layers.push(layer);
                let (config, image) = signature::simple::manifest(layers);
                self.blobs.insert(image.config.digest, config);
                self.put(Some(&tag), image.to_bytes());
            }
            Layout::Bundle => {
                let bytes = signature::bundle::make(&digest, &annotations, |message| key.sign(message), "");
                let subject = Descriptor::of(media::IMAGE_MANIFEST, &self.manifests[&digest]);
                self.blobs.insert(Digest::of(&bytes), bytes.clone());
                self.put(None, signature::bundle::referrer(&subject, &bytes, None).to_bytes());
            }
        }
    }

    pub(crate) fn answer(&self, ask: &Ask) -> Result<Answer, SourceFault> {
        let manifest = |digest: &Digest| {
            let bytes = self.manifests.get(digest).ok_or(SourceFault::NotFound)?.clone();
            let value = crate::json::parse(&bytes, &crate::json::Limits::default()).ok();
            let media_type = value.and_then(|v| v.get("mediaType")?.as_str().map(String::from));
            Ok(Answer::Manifest { media_type, digest: Some(*digest), bytes })
        };
        match ask {
            Ask::Manifest { at: Target::Tag(tag), .. } => manifest(self.tags.get(tag).ok_or(SourceFault::NotFound)?),
            Ask::Manifest { at: Target::Digest(digest), .. } => manifest(digest),
            Ask::Manifest { at: Target::Only, .. } => Err(SourceFault::NotFound),
            Ask::Referrers { subject, .. } => {
                Ok(Answer::Referrers(self.referrers.get(subject).cloned().unwrap_or_default()))
            }
            Ask::Bytes(descriptor) => {
                self.blobs.get(&descriptor.digest).cloned().map(Answer::Bytes).ok_or(SourceFault::NotFound)
            }
            Ask::Stream(descriptor) => {
                let bytes = self.blobs.get(&descriptor.digest).ok_or(SourceFault::NotFound)?;
                Ok(Answer::Hashed { digest: Digest::of(bytes), size: bytes.len() as u64 })
            }
        }
    }
}

pub(crate) fn policy(version: &str, runtime: &str) -> Vec<u8> {
    let files = [("a.rego".to_string(), b"package autonomy\nallow := true\n".to_vec())].into();
    let options =
        BuildOptions { version: version.into(), runtime_version: Some(runtime.into()), ..BuildOptions::default() };
    bundle::build(&files, &options).unwrap()
}

pub(crate) fn lock(image: Digest, bundle: &[u8], sequence: u64) -> Lock {
    Lock::new(draft(image, bundle, sequence)).unwrap()
}

pub(crate) fn draft(image: Digest, bundle: &[u8], sequence: u64) -> Draft {
    Draft {
        name: "agent".into(),
        version: Version::parse("1.0.0").unwrap(),
        sequence,
        channels: Vec::new(),
        agent_artifact: AgentArtifact { reference: "localhost:5000/app:v1.0.0".into(), digest: image },
        policy_bundle: PolicyBundle {
            reference: "localhost:5000/app:v1.0.0-policy".into(),
            digest: Digest::of(bundle),
            version: Version::parse("1.2.3").unwrap(),
        },
        runtime: Runtime::parse(">=0.1.0 <1.0.0").unwrap(),
        inputs: Inputs::default(),
    }
}

/// What a release is made of, each part replaceable.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) layers: Vec<Vec<u8>>,
    pub(crate) bundle: Vec<u8>,
    /// What is attached as the lock, given the image and the bundle; none attaches none.
    pub(crate) lock: fn(Digest, &[u8]) -> Option<Vec<u8>>,
    pub(crate) attach_bundle: bool,
    pub(crate) keys: [Option<Key>; 3],
    pub(crate) layout: Layout,
    pub(crate) signed_at: Option<&'static str>,
}

impl Default for Parts {
    fn default() -> Self {
        Self {
            layers: vec![b"layer one".to_vec(), b"layer two".to_vec()],
            bundle: policy("1.2.3", ">=0.1.0"),
            lock: |image, bundle| Some(lock(image, bundle, 7).to_bytes()),
            attach_bundle: true,
            keys: [Some(OURS); 3],
            layout: Layout::Simple,
            signed_at: Some("2025-11-01T00:00:00Z"),
        }
    }
}

impl Parts {
    pub(crate) fn publish(&self) -> (Source, Digest) {
        let mut source = Source::default();
        let image = self.publish_into(&mut source, TAG);
        (source, image)
    }

    pub(crate) fn publish_into(&self, source: &mut Source, tag: &str) -> Digest {
        let config = source.blob(media::IMAGE_CONFIG, EMPTY_BLOB);
        let layers = self.layers.iter().map(|layer| source.blob(media::IMAGE_LAYER, layer)).collect();
        let image = Image {
            media_type: media::IMAGE_MANIFEST.into(),
            artifact_type: None,
            config,
            layers,
            subject: None,
            annotations: BTreeMap::new(),
        };
        let image = source.put(Some(tag), image.to_bytes());
        let mut signed = vec![Some(image)];
        signed.push(
            (self.lock)(image, &self.bundle)
                .map(|bytes| source.attach(media::LOCK, image, Some(&tags::lock(tag).unwrap()), &bytes)),
        );
        signed.push(
            self.attach_bundle
                .then(|| source.attach(media::POLICY_BUNDLE, image, Some(&tags::policy(tag).unwrap()), &self.bundle)),
        );
        for (digest, key) in signed.into_iter().zip(self.keys) {
            if let (Some(digest), Some(key)) = (digest, key) {
                source.sign(digest, key, self.layout, self.signed_at);
            }
        }
        image
    }
}

pub(crate) fn options() -> Options {
    Options {
        reference: Reference::parse("localhost:5000/app:v1.0.0").unwrap(),
        require_lock: true,
        require_policy: true,
        max_age: MAX_AGE,
        allow_undated: false,
        time_floor: Wall::from_micros(0),
        runtime: Version::parse("0.1.0").unwrap(),
        platform: ("linux".into(), "amd64".into()),
        timeout: TIMEOUT,
        budget: BUDGET,
    }
}

/// A release of this name, sequence and channels that went through the machine.
pub(crate) fn verified(
    name: &'static str,
    sequence: u64,
    channels: &[&str],
    signed_at: &'static str,
) -> Verified<Release> {
    let (mut source, image) = Parts { lock: |_, _| None, ..Parts::default() }.publish();
    let bundle = policy("1.2.3", ">=0.1.0");
    let mut draft = draft(image, &bundle, sequence);
    draft.name = name.into();
    draft.channels = channels.iter().map(|channel| (*channel).into()).collect();
    let lock = source.attach(media::LOCK, image, None, &Lock::new(draft).unwrap().to_bytes());
    source.sign(lock, OURS, Layout::Simple, None);
    source.sign(image, OURS, Layout::Simple, Some(signed_at));
    run(&source, options()).end.unwrap().release.expect("a release")
}

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) steps: Vec<(Step, Outcome)>,
    pub(crate) end: Result<Passed, Failed>,
    pub(crate) asks: usize,
}

impl Ended {
    /// The step that failed.
    pub(crate) fn failed(&self) -> Option<u8> {
        match &self.end {
            Err(Failed::Step(step, _)) => Some(step.number()),
            Ok(_) | Err(Failed::Source(_)) => None,
        }
    }

    pub(crate) fn words(&self) -> String {
        self.end.as_ref().map_or_else(ToString::to_string, |_| String::new())
    }
}

/// Runs a verification. `pick` chooses which of so many open questions is answered next; `fail` replaces the answer of the
/// n-th question.
pub(crate) fn run_with(
    source: &Source,
    options: Options,
    now: Wall,
    mut pick: impl FnMut(usize) -> usize,
    fail: Option<(usize, SourceFault)>,
) -> Ended {
    let mut machine = Verify::new(options);
    let now = Now { mono: Mono::ZERO, wall: now };
    let mut queue: Vec<(work::Tag, work::Op)> = Vec::new();
    let (mut steps, mut end, mut asks) = (Vec::new(), None, 0);
    let mut event = Event::Start(Entropy([0; 32]));
    loop {
        let mut effects = Vec::new();
        machine.handle(now, event, &mut Outbox::over(&mut effects));
        machine.check();
        for effect in effects {
            match effect {
                Effect::Work(tag, op) => queue.push((tag, op)),
                Effect::Output(Output::Step(step, outcome)) => steps.push((step, outcome)),
                Effect::Output(Output::End(how)) => assert!(end.replace(*how).is_none(), "it ends once"),
                other => panic!("{other:?}"),
            }
        }
        if queue.is_empty() {
            break;
        }
        let at = pick(queue.len()) % queue.len();
        let (tag, op) = queue.remove(at);
        let got = match op {
            work::Op::Artifact(ask) => {
                asks += 1;
                let fault = fail.as_ref().filter(|(n, _)| *n == asks).map(|(_, fault)| fault.clone());
                Got::Artifact(fault.map_or_else(|| source.answer(&ask), Err))
            }
            work::Op::CheckSignature { message, signature } => {
                Got::Checked((OURS.sign(&message) == signature).then_some(0))
            }
            work::Op::OpenBundle(bytes) => Got::Opened(
                bundle::open(&bytes)
                    .map(|bundle| (Arc::new(bundle), Compiled(Arc::new(()))))
                    .map_err(|refusal| refusal.to_string()),
            ),
            other => panic!("{other:?}"),
        };
        event = Event::Work(tag, got);
    }
    let ended = Ended { steps, end: end.expect("it ends"), asks };
    // What is told is told in order, and the end is what the steps say.
    let told: Vec<u8> = ended.steps.iter().map(|(step, _)| step.number()).collect();
    assert!(told.iter().enumerate().all(|(i, n)| usize::from(*n) == i + 1), "{told:?}");
    let failed =
        ended.steps.iter().find(|(_, outcome)| matches!(outcome, Outcome::Fail(_))).map(|(step, _)| step.number());
    assert_eq!(failed, ended.failed());
    if let Ok(Passed { release: Some(_), .. }) = &ended.end {
        assert!(ended.steps.len() == 4 && ended.steps.iter().all(|(_, outcome)| *outcome == Outcome::Pass));
    }
    ended
}

pub(crate) fn run(source: &Source, options: Options) -> Ended {
    run_with(source, options, TODAY, |_| 0, None)
}
