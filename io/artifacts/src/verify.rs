//! Carries out what the verification machine asks: of a source, of the trusted keys, of the policy engine. Nothing is
//! decided here.
//!
//! Several questions are under way at once, within bounds: at most four blobs are read at a time, each through less than two
//! MiB of memory, and at most four answers that are held whole. What waits when the time is over is cut off.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use machines::machine::{Effect, Entropy, Event, Machine as _, Outbox};
use machines::oci::Descriptor;
use machines::policy::bundle::Bundle;
use machines::time::{Now, Span};
use machines::verify::{Answer, Ask, Failed, Options, Outcome, Output, Passed, SourceFault, Step, Verify};
use machines::work::{Compiled, Got, Op, Tag};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use crate::Fault;
use crate::blob::{BlobSink, Discard, Incoming, Memory, Streamed};
use crate::cache::Cache;
use crate::keys::PublicKeys;
use crate::source::{self, Transport};

/// How many blobs are read at once.
const STREAMS: usize = 4;
/// How many other questions are under way at once.
const QUESTIONS: usize = 4;
/// The longest blob that is held in memory, in bytes: a lock, a signature, a policy bundle.
const MAX_HELD: u64 = 4 * 1024 * 1024;

/// Unpacks and compiles a policy bundle: the policy engine, which has a room of its own.
pub type OpenBundle = dyn Fn(Vec<u8>) -> Result<(Arc<Bundle>, Compiled), String> + Send + Sync;

/// What a verification needs besides its source.
#[derive(Clone)]
pub struct Means {
    /// The keys that are trusted.
    pub keys: Arc<PublicKeys>,
    /// The policy engine.
    pub open_bundle: Arc<OpenBundle>,
    /// Where blobs are kept that went through and were the right ones, and looked for first.
    pub cache: Option<Cache>,
}

/// Runs a verification to its end; `told` hears of each step when it ended. It judges by the wall clock of `now`, as it is
/// when it begins; the time that it may take runs from there.
///
/// # Errors
/// The failed step, or that the source cannot be reached or read.
pub async fn run(
    source: &Transport,
    options: Options,
    means: &Means,
    now: Now,
    mut told: impl FnMut(Step, &Outcome),
) -> Result<Passed, Failed> {
    let mut machine = Verify::new(options);
    let begun = Instant::now();
    let mut work = Work::new(source, means);
    // The machine makes no ids.
    let mut event = Event::Start(Entropy([0; 32]));
    loop {
        let mut effects = Vec::new();
        let elapsed = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let now = Now { mono: now.mono.after(Span::from_nanos(elapsed)), ..now };
        machine.handle(now, event, &mut Outbox::over(&mut effects));
        machine.check();
        for effect in effects {
            match effect {
                Effect::Work(tag, op) => work.begin(tag, op)?,
                Effect::Output(Output::Step(step, outcome)) => told(step, &outcome),
                Effect::Output(Output::End(end)) => return *end,
                Effect::Note(note) => tracing::info!("{}", note.msg),
                Effect::Disk(..) | Effect::Tree(..) | Effect::Net(..) | Effect::Halt(_) => return Err(foreign()),
            }
        }
        let left = machine.deadline().map_or(Span::ZERO, |deadline| deadline.at.since(now.mono));
        event = match tokio::time::timeout(Duration::from_nanos(left.as_nanos()), work.running.join_next()).await {
            Ok(Some(Ok((tag, got, _permit)))) => Event::Work(tag, got),
            Ok(Some(Err(error))) => return Err(Failed::Source(Fault::task(source.place(), &error).to_string())),
            Ok(None) => return Err(foreign()),
            Err(_) => Event::Due,
        };
    }
}

/// Never seen: the machine asks for work alone, and until it has ended it waits for some.
fn foreign() -> Failed {
    Failed::Source("the verification asks for something that it has no business with".into())
}

/// What is under way.
struct Work {
    source: Transport,
    means: Means,
    streams: Arc<Semaphore>,
    questions: Arc<Semaphore>,
    /// With each answer the permit under which it was got: as long as it is not consumed, no other takes its place.
    running: JoinSet<(Tag, Got, Option<OwnedSemaphorePermit>)>,
    over: Arc<AtomicBool>,
}

impl Drop for Work {
    /// A thread that hashes a long blob is told that nobody waits for it.
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

impl Work {
    fn new(source: &Transport, means: &Means) -> Self {
        Self {
            source: source.clone(),
            means: means.clone(),
            streams: Arc::new(Semaphore::new(STREAMS)),
            questions: Arc::new(Semaphore::new(QUESTIONS)),
            running: JoinSet::new(),
            over: Arc::default(),
        }
    }

    fn begin(&mut self, tag: Tag, op: Op) -> Result<(), Failed> {
        match op {
            Op::Artifact(ask) => {
                let limit = if matches!(ask, Ask::Stream(_)) { &self.streams } else { &self.questions };
                let (source, cache) = (self.source.clone(), self.means.cache.clone());
                let (limit, over) = (Arc::clone(limit), Arc::clone(&self.over));
                self.running.spawn(async move {
                    // It is never closed.
                    let permit = limit.acquire_owned().await.ok();
                    let answered = answer(&source, ask, cache, &over).await;
                    (tag, Got::Artifact(answered.map_err(in_the_machines_words)), permit)
                });
            }
            Op::CheckSignature { message, signature } => {
                let keys = Arc::clone(&self.means.keys);
                let check = move || (tag, Got::Checked(keys.check(&message, &signature)), None);
                if source::here() {
                    self.running.spawn(async move { check() });
                } else {
                    self.running.spawn_blocking(check);
                }
            }
            Op::OpenBundle(bytes) => {
                let open = Arc::clone(&self.means.open_bundle);
                self.running.spawn_blocking(move || (tag, Got::Opened(open(bytes)), None));
            }
            Op::Evaluate { .. } | Op::Tool(_) | Op::CancelTool | Op::Host(_) => return Err(foreign()),
        }
        Ok(())
    }
}

fn in_the_machines_words(fault: Fault) -> SourceFault {
    match fault {
        Fault::NotFound { .. } => SourceFault::NotFound,
        Fault::Denied { .. } => SourceFault::Denied(fault.to_string()),
        Fault::TooLong { max, .. } => SourceFault::TooLong { max },
        Fault::Mismatch { want, got, .. } => SourceFault::Mismatch { want, got },
        Fault::Unreachable { .. } | Fault::Broken { .. } | Fault::File { .. } | Fault::Refused { .. } => {
            SourceFault::Unreachable(fault.to_string())
        }
    }
}

async fn answer(source: &Transport, ask: Ask, cache: Option<Cache>, over: &Arc<AtomicBool>) -> Result<Answer, Fault> {
    match ask {
        Ask::Manifest { at, max } => {
            let found = source.manifest_unchecked(&at, max).await?;
            Ok(Answer::Manifest { media_type: found.media_type, digest: found.digest, bytes: found.bytes })
        }
        Ask::Referrers { subject, max } => source.referrers(&subject, None, max).await.map(Answer::Referrers),
        Ask::Bytes(descriptor) => {
            if descriptor.size > MAX_HELD {
                return Err(Fault::too_long(source.place(), format!("bytes of {}", descriptor.digest), MAX_HELD));
            }
            let streamed = source.stream_unchecked(&descriptor, Memory::default()).await?;
            Ok(Answer::Bytes(streamed.into_sink().0))
        }
        Ask::Stream(descriptor) => match cache {
            Some(cache) => through_cache(source, &descriptor, cache, over).await,
            None => {
                let streamed = source.stream_unchecked(&descriptor, Guarded::new(Discard, over)).await?;
                Ok(Answer::Hashed { digest: streamed.digest(), size: streamed.size() })
            }
        },
    }
}

/// From the cache when it is there, else from the source into the cache. That the cache cannot keep it is no failure.
async fn through_cache(
    source: &Transport,
    descriptor: &Descriptor,
    cache: Cache,
    over: &Arc<AtomicBool>,
) -> Result<Answer, Fault> {
    let (wanted, guard) = (descriptor.clone(), Arc::clone(over));
    let looked = tokio::task::spawn_blocking(move || {
        match cache.stream(&wanted, || Ok(Guarded::new(Discard, &guard))) {
            Ok(Some(kept)) => return (Some(Answer::Hashed { digest: kept.digest(), size: kept.size() }), None),
            Ok(None) => {}
            Err(fault) => uncached(&wanted, &fault),
        }
        let incoming = cache.incoming(&wanted).inspect_err(|fault| uncached(&wanted, fault)).ok().flatten();
        (None, incoming)
    });
    let (answer, incoming) = looked.await.map_err(|error| Fault::task(source.place(), &error))?;
    if let Some(answer) = answer {
        return Ok(answer);
    }
    let streamed = source.stream_unchecked(descriptor, Guarded::new(Kept(incoming), over)).await?;
    let answer = Answer::Hashed { digest: streamed.digest(), size: streamed.size() };
    let wanted = descriptor.clone();
    let keeping = tokio::task::spawn_blocking(move || keep(streamed, &wanted));
    keeping.await.map_err(|error| Fault::task(source.place(), &error))?;
    Ok(answer)
}

/// Keeps what was the right blob.
fn keep(streamed: Streamed<Guarded<Kept>>, descriptor: &Descriptor) {
    let Ok(matched) = streamed.matching(descriptor) else { return };
    let Some(matched) = matched.transpose(|guarded| guarded.sink.0) else { return };
    if let Err(fault) = matched.keep() {
        uncached(descriptor, &fault);
    }
}

fn uncached(descriptor: &Descriptor, fault: &Fault) {
    tracing::warn!(digest = %descriptor.digest, %fault, "the blob cache is of no use for a blob");
}

/// A file of the cache, as long as it takes what comes.
struct Kept(Option<Incoming>);

impl BlobSink for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.0.as_mut().is_some_and(|incoming| incoming.write(bytes).is_err()) {
            tracing::warn!("a blob is not kept in the cache: it cannot be written there");
            self.0 = None;
        }
        Ok(())
    }

    fn restart(&mut self) -> io::Result<()> {
        if self.0.as_mut().is_some_and(|incoming| incoming.restart().is_err()) {
            self.0 = None;
        }
        Ok(())
    }
}

/// A sink that ends when nobody waits any more.
struct Guarded<S> {
    sink: S,
    over: Arc<AtomicBool>,
}

impl<S> Guarded<S> {
    fn new(sink: S, over: &Arc<AtomicBool>) -> Self {
        Self { sink, over: Arc::clone(over) }
    }
}

impl<S: BlobSink> BlobSink for Guarded<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.over.load(Ordering::Relaxed) {
            return Err(io::Error::other("the verification is over"));
        }
        self.sink.write(bytes)
    }

    fn restart(&mut self) -> io::Result<()> {
        self.sink.restart()
    }
}
