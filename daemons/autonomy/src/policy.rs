//! `autonomy policy …`

use std::io::Read as _;

use daemon_common::failure::{Ended, Failure};
use daemon_common::output::{Output, harmless, object, print, sha256};
use io_drive::disk::PolicyLayout;
use io_node::policies::Limits;
use io_policy::Outcome;
use machines::activation::{Activation, Command, LockSlot, Report, Slot, Terms};
use machines::json::{self, Value};
use machines::oci::Reference;
use machines::policy::bundle::{self, BuildOptions, Bundle};
use machines::policy::verdict::{EvaluationFault, Verdict, decide};
use machines::verify::Failed;

use crate::artifacts::{self, block_on, trusted};
use crate::bundles::{self, Files};
use crate::cli::{self, Policy, PolicyPlace};
use crate::config;
use crate::verify;

/// Runs one of the commands.
pub fn dispatch(command: Policy, output: Output) -> Ended {
    match command {
        Policy::Build(args) => build(&args, output),
        Policy::Load(args) => load(&args, output),
        Policy::Status(args) => status(&args.place, output),
        Policy::Rollback(args) => rollback(&args, output),
        Policy::Test(args) => test(&args, output),
        Policy::Eval(args) => eval(&args, output),
    }
}

fn build(args: &cli::Build, output: Output) -> Ended {
    let files = bundles::collect(&args.input, false)?;
    io_policy::compile(&files, &Limits::default())
        .map_err(|refusal| Failure::refused(format!("policy build: {refusal}")))?;
    let options = BuildOptions {
        version: args.bundle_version.clone(),
        name: args.name.clone(),
        sequence: args.sequence,
        min_sequence: args.min_sequence,
        runtime_version: args.runtime_version.clone(),
        redact: args.redact.clone(),
    };
    let refused = |refusal: machines::policy::Refusal| Failure::refused(format!("policy build: {refusal}"));
    let bytes = bundle::build(&files, &options).map_err(refused)?;
    let built = bundle::open(&bytes).map_err(refused)?;
    std::fs::write(&args.out, &bytes).map_err(|e| Failure::refused(format!("{}: {e}", args.out.display())))?;
    let out = args.out.display().to_string();
    let text = format!("policy built: {}\nbundle hash: sha256:{}", bundles::rego_names(&built), built.bundle_hash);
    output.print(&text, || {
        object([
            ("out", Value::from(out)),
            ("files", names(&built)),
            ("version", Value::from(built.manifest.version.to_string())),
            ("bundle_hash", sha256(&built.bundle_hash)),
            ("digest", sha256(&built.digest)),
        ])
    })?;
    Ok(0)
}

fn load(args: &cli::Load, output: Output) -> Ended {
    let file = config::File::read(args.place.config.as_deref())?;
    let command = match (&args.bundle, &args.image) {
        (Some(bundle), _) => {
            Ok(Command::Load { bytes: bundles::read_bundle(bundle)?, require_verified: file.require_verified })
        }
        (None, Some(image)) => verified(args, image, &file)?,
        (None, None) => return Err(Failure::usage("policy load: give --bundle FILE, or --image REF")),
    };
    let marker = "policy load: REJECTED — ";
    let layout = config::layout(&args.place, &file);
    let command = match command {
        Ok(command) => command,
        Err(reason) => {
            let code = rejected(marker, &reason, output)?;
            let image = args.image.as_ref().map(ToString::to_string).unwrap_or_default();
            bundles::record_refusal(layout, &image, &reason, file.node_name);
            return Ok(code);
        }
    };
    let report = match bundles::change(layout, command, file.node_name)? {
        Ok(report) => report,
        Err(reason) => return rejected(marker, &reason, output),
    };
    let bundle = asked_for(&report)?;
    let text = format!("policy loaded: {}\nbundle hash: sha256:{}", bundles::rego_names(bundle), bundle.bundle_hash);
    output.print(&text, || {
        object([
            ("loaded", Value::from(true)),
            ("files", names(bundle)),
            ("bundle_hash", sha256(&bundle.bundle_hash)),
            ("active", slot(report.activation.current.as_ref())),
            ("lkg", slot(report.activation.lkg.as_ref())),
        ])
    })?;
    Ok(0)
}

/// The activation of an image's release, when all four steps pass; the inner error is the step that does not.
///
/// # Errors
/// When the image cannot be reached or read, or no key is trusted.
fn verified(args: &cli::Load, image: &Reference, file: &config::File) -> Result<Result<Command, String>, Failure> {
    let keys = trusted(&args.trust, file)?;
    let options = verify::options(image, &args.trust, &args.place, file, verify::Terms::ACTIVATION)?;
    let ended = block_on(async {
        let source = artifacts::open(image, &args.access).await?;
        Ok(verify::four_steps(&source, options, &keys, |_, _| {}).await)
    })?;
    match ended {
        Ok(passed) => {
            let terms = Terms { name: file.node_name.clone(), ..Terms::default() };
            Ok(verify::release(passed).map(|release| Command::Activate { release, terms }))
        }
        Err(failed @ Failed::Step(..)) => Ok(Err(failed.to_string())),
        Err(Failed::Source(words)) => Err(Failure::unreadable(harmless(&words))),
    }
}

fn rollback(args: &cli::Rollback, output: Output) -> Ended {
    let below_floor = args.reason.clone().filter(|_| args.below_floor);
    let file = config::File::read(args.place.config.as_deref())?;
    let layout = config::layout(&args.place, &file);
    let report = match bundles::change(layout, Command::Rollback { below_floor }, file.node_name)? {
        Ok(report) => report,
        Err(reason) => return rejected("policy rollback: REJECTED — ", &reason, output),
    };
    let bundle = asked_for(&report)?;
    let text =
        format!("policy rolled back: {}\nbundle hash: sha256:{}", bundles::rego_names(bundle), bundle.bundle_hash);
    output.print(&text, || {
        object([
            ("rolled_back", Value::from(true)),
            ("files", names(bundle)),
            ("active", slot(report.activation.current.as_ref())),
            ("lkg", slot(report.activation.lkg.as_ref())),
        ])
    })?;
    Ok(0)
}

/// The bundle that a report is about.
fn asked_for(report: &Report) -> Result<&Bundle, Failure> {
    report.bundle.as_deref().ok_or_else(|| Failure::refused("the change named no bundle; please report this"))
}

/// A refusal is the command's result as well as its failure: the line goes to stderr, an object to stdout.
pub fn rejected(marker: &str, reason: &str, output: Output) -> Ended {
    if output == Output::Json {
        print(&object([("rejected", Value::from(reason))]).to_text())?;
    }
    eprintln!("{marker}{}", harmless(reason));
    Ok(1)
}

fn status(place: &PolicyPlace, output: Output) -> Ended {
    let activation = activation(&layout(place)?)?;
    let line = |slot: &Option<Slot>| {
        slot.as_ref().map_or_else(
            || "none".to_owned(),
            |s| format!("{} {} (sequence {}) sha256:{}", harmless(&s.name), s.version, s.sequence, s.bundle_hash),
        )
    };
    let lock = activation.current.as_ref().and_then(|current| current.lock.as_ref());
    let of_lock = |lock: &LockSlot| {
        format!("{} {} (sequence {}) blake3:{}", lock.name, lock.version, lock.sequence, lock.fingerprint)
    };
    let mut text = format!("active: {}", line(&activation.current));
    text.push_str(&format!("\nlock: {}", lock.map_or_else(|| "none".to_owned(), of_lock)));
    if let Some(lock) = lock {
        text.push_str(&format!("\nimage: {} signed at {}", lock.image, lock.signed_at));
    }
    text.push_str(&format!("\nlast known good: {}", line(&activation.lkg)));
    for (name, floor) in &activation.floors {
        text.push_str(&format!("\nfloor: {} {floor}", harmless(name)));
    }
    if let Some(floor) = activation.time_floor {
        text.push_str(&format!("\ntime floor: {floor}"));
    }
    output.print(&text, || {
        let floors = activation.floors.iter().map(|(name, floor)| (name.clone(), Value::from(*floor)));
        object([
            ("active", slot(activation.current.as_ref())),
            ("lkg", slot(activation.lkg.as_ref())),
            ("floors", Value::Object(floors.collect())),
            ("lock", lock.map_or(Value::Null, lock_slot)),
            ("time_floor", activation.time_floor.map_or(Value::Null, |floor| Value::from(floor.to_string()))),
        ])
    })?;
    Ok(0)
}

/// What is in force on a node; nothing, where nothing ever was.
///
/// # Errors
/// When `activation.json` is there and cannot be read or is damaged.
pub fn activation(layout: &PolicyLayout) -> Result<Activation, Failure> {
    let path = layout.activation.join("activation.json");
    match std::fs::read(&path) {
        Ok(bytes) => {
            Activation::parse(&bytes).map_err(|words| Failure::refused(format!("{}: damaged: {words}", path.display())))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Activation::default()),
        Err(error) => Err(Failure::unreadable(format!("{}: {error}", path.display()))),
    }
}

/// A lock in force, for JSON.
pub fn lock_slot(lock: &LockSlot) -> Value {
    object([
        ("fingerprint", Value::from(format!("blake3:{}", lock.fingerprint))),
        ("name", Value::from(lock.name.as_str())),
        ("version", Value::from(lock.version.as_str())),
        ("sequence", Value::from(lock.sequence)),
        ("image", artifacts::digest(&lock.image)),
        ("signed_at", Value::from(lock.signed_at.to_string())),
    ])
}

/// As `opa test` does: a folder without tests passes, unless it is said that there have to be some.
fn test(args: &cli::PolicyTest, output: Output) -> Ended {
    let files = bundles::collect(&args.dir, true)?;
    let report = io_policy::test(&files, &Limits::default())
        .map_err(|refusal| Failure::refused(format!("policy test: {refusal}")))?;
    let passed_all = report.passed() || report.tests.is_empty();
    let word = |outcome: &Outcome| match outcome {
        Outcome::Pass => "PASS",
        Outcome::Fail => "FAIL",
        Outcome::Error(_) => "ERROR",
        Outcome::Skipped => "SKIPPED",
    };
    let mut text = String::new();
    for test in &report.tests {
        text.push_str(&format!("{}: {} ({}:{})", word(&test.outcome), test.name, test.file, test.line));
        if let Outcome::Error(why) = &test.outcome {
            text.push_str(&format!(": {}", harmless(why)));
        }
        text.push('\n');
        for line in &test.prints {
            text.push_str(&format!("  {}\n", harmless(line)));
        }
    }
    let passed = report.tests.iter().filter(|test| test.outcome == Outcome::Pass).count();
    text.push_str(&format!("PASS: {passed}/{}", report.tests.len()));
    output.print(&text, || {
        let tests = report.tests.iter().map(|test| {
            object([
                ("name", Value::from(test.name.as_str())),
                ("file", Value::from(test.file.as_str())),
                ("line", Value::from(u64::from(test.line))),
                ("outcome", Value::from(word(&test.outcome))),
            ])
        });
        object([("passed", Value::from(passed_all)), ("tests", Value::Array(tests.collect()))])
    })?;
    if report.tests.is_empty() {
        let none = format!("{}: there is no test; name rules test_…", args.dir.display());
        if args.fail_on_empty {
            return Err(Failure::refused(none));
        }
        eprintln!("autonomy: {none}");
    }
    Ok(u8::from(!passed_all))
}

fn eval(args: &cli::Eval, output: Output) -> Ended {
    let files = policy_files(args)?;
    let input = input(args)?;
    let explained = io_policy::explain(&files, &input, &Limits::default())
        .map_err(|refusal| Failure::refused(format!("policy eval: {refusal}")))?;
    let (decision, reason) = match decide(explained.evaluation.as_ref()) {
        Verdict::Allow => ("allow", None),
        Verdict::Deny(reason) => ("deny", Some(reason)),
    };
    let mut text = format!("decision: {decision}");
    if let Some(reason) = &reason {
        text.push_str(&format!("\nreason: {}", harmless(reason)));
    }
    if let Err(EvaluationFault::Error(words)) = &explained.evaluation {
        text.push_str(&format!("\nerror: {}", harmless(words)));
    }
    let numbers =
        |lines: &std::collections::BTreeSet<u32>| lines.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
    if args.explain {
        for (file, lines) in &explained.lines {
            text.push_str(&format!(
                "\n{file}: evaluated {}; not {}",
                numbers(&lines.covered),
                numbers(&lines.not_covered)
            ));
        }
    }
    for line in &explained.prints {
        text.push_str(&format!("\n{}", harmless(line)));
    }
    output.print(&text, || {
        let mut value = std::collections::BTreeMap::from([("decision".to_owned(), Value::from(decision))]);
        value.extend(reason.map(|reason| ("reason".to_owned(), Value::from(reason))));
        if args.explain {
            let list = |lines: &std::collections::BTreeSet<u32>| {
                Value::Array(lines.iter().map(|line| Value::from(u64::from(*line))).collect())
            };
            let files = explained.lines.iter().map(|(file, lines)| {
                let lines = object([("evaluated", list(&lines.covered)), ("not_evaluated", list(&lines.not_covered))]);
                (file.clone(), lines)
            });
            value.insert("lines".to_owned(), Value::Object(files.collect()));
        }
        Value::from(value)
    })?;
    Ok(0)
}

/// The policy that is asked: a folder, a bundle, or what is in force.
fn policy_files(args: &cli::Eval) -> Result<Files, Failure> {
    if let Some(dir) = &args.dir {
        return bundles::collect(dir, false);
    }
    let (name, bytes) = match &args.bundle {
        Some(path) => (path.display().to_string(), bundles::read_bundle(path)?),
        None => in_force(&args.place)?,
    };
    let bundle = bundle::open(&bytes).map_err(|refusal| Failure::refused(format!("{name}: {refusal}")))?;
    Ok(bundle.files)
}

fn in_force(place: &PolicyPlace) -> Result<(String, Vec<u8>), Failure> {
    let layout = layout(place)?;
    let path = layout.activation.join("activation.json");
    let bytes = std::fs::read(&path).map_err(|error| {
        Failure::unreadable(format!(
            "{}: {error}; give --in DIR or --bundle FILE to ask another policy",
            path.display()
        ))
    })?;
    let activation =
        Activation::parse(&bytes).map_err(|words| Failure::refused(format!("{}: damaged: {words}", path.display())))?;
    let Some(slot) = activation.current else {
        return Err(Failure::refused("no policy is in force; give --in DIR or --bundle FILE"));
    };
    let path = layout.folder.join("bundles").join(format!("{}.tar.gz", slot.bundle));
    Ok((path.display().to_string(), bundles::read_bundle(&path)?))
}

/// The call as the policy sees it.
fn input(args: &cli::Eval) -> Result<Value, Failure> {
    let name = args.input.display();
    let most = u64::try_from(machines::interceptor::MAX_BODY).unwrap_or(u64::MAX);
    let bytes = if args.input.as_os_str() == "-" {
        let mut bytes = Vec::new();
        let read = std::io::stdin().lock().take(most.saturating_add(1)).read_to_end(&mut bytes);
        read.map_err(|error| Failure::unreadable(format!("standard input: {error}")))?;
        bytes
    } else {
        bundles::read(&args.input, most)?
    };
    // The same reading as a call's: what would be refused there is refused here.
    let request = machines::interceptor::Request::parse(&bytes, None)
        .map_err(|reason| Failure::refused(format!("{name}: {reason}")))?;
    let input = machines::policy::input::Input {
        kind: request.kind(),
        params: request.params(),
        node_id: &args.node_id,
        agent: request.agent(),
    };
    Ok(input.to_value())
}

fn layout(place: &PolicyPlace) -> Result<PolicyLayout, Failure> {
    Ok(config::layout(place, &config::File::read(place.config.as_deref())?))
}

fn slot(slot: Option<&Slot>) -> Value {
    slot.map_or(Value::Null, io_node::status::slot)
}

fn names(bundle: &bundle::Bundle) -> json::Value {
    Value::Array(bundle.rego().map(|(name, _)| Value::from(name)).collect())
}
