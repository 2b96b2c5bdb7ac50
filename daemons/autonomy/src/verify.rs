//! `autonomy verify`, and the four steps for the commands that need them passed.

use std::sync::Arc;
use std::time::Duration;

use daemon_common::failure::{Ended, Failure};
use daemon_common::output::{Output, harmless, object, print};
use io_artifacts::keys::PublicKeys;
use io_artifacts::source::Transport;
use io_artifacts::verify::{self as driver, Means};
use io_drive::clock::Clock;
use io_node::policies::{self, Limits};
use machines::json::Value;
use machines::oci::Reference;
use machines::semver::Version;
use machines::time::{Span, Wall};
use machines::verify::{BUDGET, Failed, MAX_AGE, Options, Outcome, Passed, Release, Step, TIMEOUT, Verified};

use crate::artifacts::{self, block_on_source, open, trusted};
use crate::cli::{self, PolicyPlace, Trust, VERSION};
use crate::config;
use crate::policy;

/// The time of this program's build, in seconds since 1970.
const BUILT: &str = env!("AUTONOMY_BUILD_SECONDS");

/// What must be there and what may be missing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Terms {
    /// A lock is required.
    pub lock: bool,
    /// A policy is required.
    pub policy: bool,
    /// A signature without a date counts.
    pub undated: bool,
}

impl Terms {
    /// What whatever is to be activated has to be.
    pub const ACTIVATION: Self = Self { lock: true, policy: true, undated: false };
}

/// Verifies an image and prints the steps.
pub fn verify(args: &cli::Verify, output: Output) -> Ended {
    let file = config::File::read(args.place.config.as_deref())?;
    let keys = trusted(&args.trust, &file)?;
    let terms = Terms { lock: args.require_lock, policy: args.require_policy, undated: args.allow_undated };
    let options = options(&args.image, &args.trust, &args.place, &file, terms)?;
    let mut said = Said::new(output);
    let ended = block_on_source(&args.image, async {
        let source = open(&args.image, &args.access).await?;
        Ok(four_steps(&source, options, &keys, |step, outcome| said.step(step, outcome)).await)
    })?;
    said.end(&ended, &keys)
}

/// Runs the four steps, and tells how each ended.
pub async fn four_steps(
    source: &Transport,
    options: Options,
    keys: &Arc<PublicKeys>,
    told: impl FnMut(Step, &Outcome),
) -> Result<Passed, Failed> {
    // Nothing is kept of what may yet fail.
    let means = Means {
        keys: Arc::clone(keys),
        open_bundle: Arc::new(|bytes: Vec<u8>| policies::open(&bytes, &Limits::default())),
        cache: None,
    };
    driver::run(source, options, &means, Clock.now(), told).await
}

/// What a verification that passed yields to be activated.
///
/// # Errors
/// In words, when something was let pass that must not be activated.
pub fn release(passed: Passed) -> Result<Box<Verified<Release>>, String> {
    let release = passed.release.map(Box::new);
    release.ok_or_else(|| "the verification did not cover all that activation needs".to_owned())
}

/// What is asked of the machine.
///
/// # Errors
/// When the node's `activation.json` is there and cannot be read: its time floor must not be passed over.
pub fn options(
    image: &Reference,
    trust: &Trust,
    place: &PolicyPlace,
    file: &config::File,
    terms: Terms,
) -> Result<Options, Failure> {
    let version = runtime()?;
    let floor = policy::activation(&config::layout(place, file))?.time_floor;
    Ok(Options {
        reference: image.clone(),
        require_lock: terms.lock,
        require_policy: terms.policy,
        max_age: trust.max_age.map_or(MAX_AGE, span),
        allow_undated: terms.undated,
        time_floor: floor.map_or(built(), |floor| floor.max(built())),
        runtime: version,
        platform: artifacts::platform(),
        timeout: trust.timeout.map_or(TIMEOUT, span),
        budget: BUDGET,
    })
}

/// This runtime's version.
///
/// # Errors
/// Never seen: the build's version is one.
pub fn runtime() -> Result<Version, Failure> {
    Version::parse(VERSION).map_err(|e| Failure::refused(format!("version {VERSION}: {e}")))
}

fn span(given: Duration) -> Span {
    Span::from_nanos(u64::try_from(given.as_nanos()).unwrap_or(u64::MAX))
}

/// When this program was built, as far as that is known: it cannot be earlier.
fn built() -> Wall {
    Wall::from_micros(BUILT.parse::<u64>().unwrap_or(0).saturating_mul(1_000_000))
}

/// What was said of a verification: at once as text, at the end as one object.
pub struct Said {
    output: Output,
    steps: Vec<(Step, Outcome)>,
}

impl Said {
    /// Nothing yet.
    pub const fn new(output: Output) -> Self {
        Self { output, steps: Vec::new() }
    }

    /// Takes note of a step, and prints it.
    pub fn step(&mut self, step: Step, outcome: &Outcome) {
        if self.output == Output::Text {
            // A reader that cannot be written to hears the exit code.
            let _ = print(&line(step, outcome));
        }
        self.steps.push((step, outcome.clone()));
    }

    /// How far a verification that passed went.
    fn extent(&self) -> &'static str {
        let passed = |step: Step| self.steps.contains(&(step, Outcome::Pass));
        if passed(Step::Compatibility) {
            "all"
        } else if passed(Step::Fingerprint) {
            "signature and lock only"
        } else {
            "signature only"
        }
    }

    /// Prints the last line, or the object, and gives the exit code.
    ///
    /// # Errors
    /// 3 when the source could not be reached or read: then there is no result.
    pub fn end(&self, ended: &Result<Passed, Failed>, keys: &PublicKeys) -> Ended {
        if let Err(Failed::Source(words)) = ended {
            return Err(unknown(words));
        }
        self.output.print(&self.last_line(ended), || self.value(ended, keys))?;
        Ok(u8::from(ended.is_err()))
    }

    fn last_line(&self, ended: &Result<Passed, Failed>) -> String {
        match (ended, self.extent()) {
            (Err(_), _) => "verification FAILED".to_owned(),
            (Ok(_), "all") => "verification OK".to_owned(),
            (Ok(_), extent) => format!("verification OK ({extent})"),
        }
    }

    fn value(&self, ended: &Result<Passed, Failed>, keys: &PublicKeys) -> Value {
        let steps = self.steps.iter().map(|(step, outcome)| {
            let (word, reason) = match outcome {
                Outcome::Pass => ("pass", None),
                Outcome::Fail(why) => ("fail", Some(why)),
                Outcome::Skip(why) => ("skip", Some(why)),
            };
            object([
                ("step", Value::from(u64::from(step.number()))),
                ("title", Value::from(step.title())),
                ("outcome", Value::from(word)),
                ("reason", reason.map_or(Value::Null, |why| Value::from(why.as_str()))),
            ])
        });
        let steps = Value::Array(steps.collect());
        match ended {
            Err(failed) => {
                object([("ok", Value::from(false)), ("steps", steps), ("reason", Value::from(failed.to_string()))])
            }
            Ok(passed) => object([
                ("ok", Value::from(true)),
                ("extent", Value::from(self.extent())),
                ("steps", steps),
                ("image", artifacts::digest(&passed.image)),
                ("key", key(keys, passed.key)),
                ("signed_at", passed.signed_at.map_or(Value::Null, |at| Value::from(at.to_string()))),
                ("lock", passed.lock.as_ref().map_or(Value::Null, lock)),
                ("policy", passed.bundle.as_deref().map_or(Value::Null, bundle)),
            ]),
        }
    }
}

/// Nothing is known of the image: its source cannot be reached or read.
fn unknown(words: &str) -> Failure {
    Failure::unreadable(harmless(words))
}

/// A step in one line, whatever words the source put into its reason.
fn line(step: Step, outcome: &Outcome) -> String {
    let head = format!("Step {}: {}", step.number(), step.title());
    match outcome {
        Outcome::Pass => format!("[PASS] {head}"),
        Outcome::Fail(why) => format!("[FAIL] {head} — {}", harmless(why)),
        Outcome::Skip(_) => format!("[SKIP] {head}"),
    }
}

fn key(keys: &PublicKeys, number: u16) -> Value {
    keys.get(number).map_or(Value::Null, |(path, key)| {
        object([
            ("file", Value::from(path.display().to_string())),
            ("fingerprint", Value::from(key.fingerprint().to_string())),
        ])
    })
}

fn lock(lock: &machines::lock::Lock) -> Value {
    object([
        ("name", Value::from(lock.name.as_str())),
        ("version", Value::from(lock.version.to_string())),
        ("sequence", Value::from(lock.sequence)),
        ("fingerprint", Value::from(format!("blake3:{}", lock.fingerprint))),
    ])
}

fn bundle(bundle: &machines::policy::bundle::Bundle) -> Value {
    object([
        ("name", Value::from(bundle.manifest.name.as_str())),
        ("version", Value::from(bundle.manifest.version.to_string())),
        ("digest", Value::from(format!("sha256:{}", bundle.digest))),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_source_make_no_line_of_ours_and_move_no_cursor() {
        let forged =
            "no\n[PASS] Step 1: cosign signature valid\r\nverification OK\u{1b}[2J\u{1b}]0;title\u{7}\u{9b}1A\u{202e}";
        let line = line(Step::Signature, &Outcome::Fail(forged.into()));
        assert!(line.starts_with("[FAIL] Step 1: cosign signature valid — no\\n[PASS]"), "{line}");
        assert_eq!(line.lines().count(), 1);
        assert!(line.chars().all(|c| !c.is_control() && c != '\u{202e}'), "{line}");
        let failure = unknown(forged);
        assert!(failure.code == 3 && failure.message.lines().count() == 1, "{}", failure.message);
    }
}
