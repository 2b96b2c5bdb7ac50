//! `autonomy bundle …`: the airgap archive.

use std::path::Path;
use std::sync::Arc;

use daemon_common::failure::{Ended, Failure};
use daemon_common::output::{Output, object, print};
use io_artifacts::cache::Cache;
use io_artifacts::copy;
use io_artifacts::keys::PublicKeys;
use io_artifacts::source::Transport;
use machines::activation::{Command, LockSlot, Terms};
use machines::json::Value;
use machines::oci::{Place, Reference, Target};
use machines::verify::{Failed, Inventory, Passed};

use crate::artifacts::{block_on, open, trusted};
use crate::cli::{self, Access, BundleCommand, PolicyPlace, Trust};
use crate::verify::{self, Said};
use crate::{bundles, config, oci, policy};

/// The bound of a node's blob cache, in bytes.
const CACHE_BYTES: u64 = 16 << 30;

/// Runs one of the commands.
pub fn dispatch(command: BundleCommand, output: Output) -> Ended {
    match command {
        BundleCommand::Create(args) => oci::create_bundle(&args, output),
        BundleCommand::Inspect(args) => oci::inspect(&archive(&args.file)?, &Access::default(), output),
        BundleCommand::Verify(args) => check(&args, output),
        BundleCommand::Import(args) => import(&args, output),
    }
}

/// The archive's one image.
fn archive(file: &Path) -> Result<Reference, Failure> {
    let path = file.to_str().ok_or_else(|| Failure::usage(format!("{}: the name is not UTF-8", file.display())))?;
    // Not by way of the text of a reference: a file's name may hold what separates a tag there.
    Ok(Reference { place: Place::Archive(path.to_owned()), target: Target::Only })
}

/// An archive under verification.
struct Checked {
    keys: Arc<PublicKeys>,
    file: config::File,
    said: Said,
    source: Transport,
    ended: Result<Passed, Failed>,
}

async fn four_steps(file: &Path, trust: &Trust, place: &PolicyPlace, output: Output) -> Result<Checked, Failure> {
    let config = config::File::read(place.config.as_deref())?;
    let keys = trusted(trust, &config)?;
    let image = archive(file)?;
    let options = verify::options(&image, trust, place, &config, verify::Terms::ACTIVATION)?;
    let source = open(&image, &Access::default()).await?;
    let mut said = Said::new(output);
    let ended = verify::four_steps(&source, options, &keys, |step, outcome| said.step(step, outcome)).await;
    Ok(Checked { keys, file: config, said, source, ended })
}

fn check(args: &cli::BundleVerify, output: Output) -> Ended {
    let checked = block_on(four_steps(&args.file, &args.trust, &args.place, output))?;
    checked.said.end(&checked.ended, &checked.keys)
}

/// Takes what was verified into the blob cache of a state root.
fn keep(source: &Transport, parts: &Inventory, state_root: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(state_root).map_err(|e| Failure::refused(format!("{}: {e}", state_root.display())))?;
    let cache = Cache::open(state_root, CACHE_BYTES)?;
    block_on(async {
        copy::keep(source, parts, &cache).await?;
        Ok(())
    })
}

/// Verifies, and only then stores. The archive is opened once: what was verified is what is taken in.
fn import(args: &cli::BundleImport, output: Output) -> Ended {
    let checked = block_on(four_steps(&args.file, &args.trust, &args.place, output))?;
    let Checked { keys, file, said, source, ended } = checked;
    let layout = config::layout(&args.place, &file);
    let passed = match ended {
        Ok(passed) => passed,
        Err(failed) => {
            let refused = matches!(failed, Failed::Step(..)).then(|| failed.to_string());
            let code = said.end(&Err(failed), &keys)?;
            if let Some(why) = refused {
                bundles::record_refusal(layout, source.place(), &why, file.node_name);
            }
            return Ok(code);
        }
    };
    if output == Output::Text {
        print("verification OK")?;
    }
    let marker = "bundle import: REJECTED — ";
    let release = match verify::release(passed) {
        Ok(release) => release,
        Err(reason) => {
            let code = policy::rejected(marker, &reason, output)?;
            bundles::record_refusal(layout, source.place(), &reason, file.node_name);
            return Ok(code);
        }
    };
    let terms = Terms { name: file.node_name.clone(), channel: args.channel.clone(), ..Terms::default() };
    // What will be refused is refused before anything of it is stored; the refusal itself is recorded.
    let before = policy::activation(&layout)?;
    let runtime = verify::runtime()?;
    let (lock, bundle) = (&release.get().lock, &release.get().bundle);
    let admitted = if args.activate {
        before.admit_release(release.get(), &terms).is_ok() && before.admit(bundle, &runtime).is_ok()
    } else {
        before.admit_lock(&lock.name, u64::MAX, terms.name.as_deref()).is_ok()
    };
    if admitted {
        keep(&source, &release.get().parts, &layout.activation)?;
    }
    let slot = LockSlot::of(release.get());
    let command = if args.activate { Command::Activate { release, terms } } else { Command::Remember { release } };
    if let Err(reason) = bundles::change(layout, command, file.node_name.clone())? {
        return policy::rejected(marker, &reason, output);
    }
    let done = if args.activate { "activated" } else { "imported" };
    let text = format!(
        "bundle {done}: {} {} (sequence {}) blake3:{}\nimage: {}",
        slot.name, slot.version, slot.sequence, slot.fingerprint, slot.image
    );
    output.print(&text, || {
        object([
            ("imported", Value::from(true)),
            ("activated", Value::from(args.activate)),
            ("release", policy::lock_slot(&slot)),
        ])
    })?;
    Ok(0)
}
