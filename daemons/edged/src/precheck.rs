//! `edged precheck`: the configuration, the state root, its lock, the certificate, the host; the first that fails decides.

use std::path::Path;

use daemon_common::failure::Ended;
use daemon_common::logs::{LogFlags, open_log};
use daemon_common::output::{harmless, object};
use io_drive::clock;
use io_drive::log::Log;
use io_edge::host::{Sources, Text};
use io_edge::{Given, Tree};
use machines::json::Value;
use machines::machine::{Level, Note};
use machines::manifest::Destinations;
use machines::precheck::certificates::Pair;
use machines::precheck::{self, exit};

use crate::cli::{self, Cli};
use crate::config::{Config, Refused};

/// Runs one precheck.
///
/// # Errors
/// When stdout takes nothing.
pub fn precheck(cli: &Cli, args: &cli::Precheck) -> Ended {
    let (config, log) = match configuration(&cli.config, args.log) {
        Ok(read) => read,
        Err(code) => return print(cli, code, None),
    };
    let boot_id = match boot_id(&log) {
        Ok(id) => id,
        Err(code) => return print(cli, code, None),
    };
    let mut tree = tree(&config);
    let given = Given { host: sources(&config), pinned_key: config.manifest_key.clone() };
    let ended =
        io_edge::precheck(machine(&config, boot_id, args.rotate_certs), &mut tree, &given, |note| log.note(&note));
    match ended {
        Ok(ended) => print(cli, ended.exit, ended.boot_epoch),
        Err(error) => {
            log.note(&Note::new(Level::Error, "precheck: cannot be carried out").with("error", error.to_string()));
            print(cli, exit::RECONSTRUCTION, None)
        }
    }
}

fn print(cli: &Cli, code: u8, boot_epoch: Option<u64>) -> Ended {
    let text = match boot_epoch {
        Some(epoch) => format!("precheck: passed\nBootEpoch: {epoch}"),
        None => format!("precheck: not passed, exit {code}"),
    };
    let printed = cli.output.print(&text, || {
        let epoch = boot_epoch.map_or(Value::Null, Value::from);
        object([("exit", Value::from(u64::from(code))), ("boot_epoch", epoch)])
    });
    // Whoever waits for the exit code gets the precheck's, whatever becomes of the words.
    if printed.is_err() {
        eprintln!("precheck: stdout takes nothing; it ended with exit {code}");
    }
    Ok(code)
}

/// The configuration and the log. Where there is none, the exit code: every fault was logged.
pub fn configuration(file: &Path, flags: LogFlags) -> Result<(Config, Log), u8> {
    let log = open_log(flags.log_format, flags.log_level);
    let name = file.display().to_string();
    match Config::read(file) {
        Ok(config) => Ok((config, log)),
        Err(Refused::Faults(faults)) => {
            for fault in faults {
                let note = Note::new(Level::Error, "configuration is invalid").with("file", name.as_str());
                log.note(&note.with("error", harmless(&fault)));
            }
            Err(exit::CONFIGURATION)
        }
        Err(Refused::Outside(keys)) => {
            for (key, path) in keys {
                let note = Note::new(Level::Error, "precheck: a configured path resolves outside the state root");
                log.note(&note.with("key", key).with("path", harmless(&path)).with("file", name.as_str()));
            }
            Err(exit::STATE_ROOT)
        }
    }
}

/// The kernel's id of this boot. Where it cannot be told, no marker could be believed.
pub fn boot_id(log: &Log) -> Result<String, u8> {
    clock::boot_id().map_err(|error| {
        log.note(&Note::new(Level::Error, "this boot cannot be told").with("error", error.to_string()));
        exit::RECONSTRUCTION
    })
}

/// The state root and the folders that a manifest may write in; opens nothing yet.
pub fn tree(config: &Config) -> Tree {
    Tree::new(config.state_root.path(), config.allow.iter().map(|folder| Path::new(folder).to_path_buf()).collect())
}

fn sources(config: &Config) -> Sources {
    let fingerprint = &config.fingerprint;
    Sources {
        root: fingerprint.root.clone(),
        kernel: fingerprint.kernel_release.clone().map_or(Text::Own, Text::File),
        os_release: fingerprint.os_release.clone(),
        extra_files: fingerprint.extra_files.clone(),
        ..Sources::default()
    }
}

fn machine(config: &Config, boot_id: String, rotate: bool) -> precheck::Config {
    let pair = |tls: &crate::config::Tls| Pair { cert: tls.cert.clone(), key: tls.key.clone(), ca: tls.ca.clone() };
    precheck::Config {
        node_id: config.node_id.clone(),
        destinations: Destinations { state_root: config.state_root.as_str().into(), allow: config.allow.clone() },
        paths: config.places(),
        tls: config.tls.as_ref().map(pair),
        relay: config.relay.enabled,
        pinned_key: config.manifest_key.is_some(),
        boot_id,
        rotate,
        built_at: io_edge::built_at(),
    }
}
