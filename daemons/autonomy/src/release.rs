//! `autonomy release …`

use daemon_common::failure::{Ended, Failure};
use daemon_common::output::{Output, object};
use machines::activation::Command;
use machines::json::Value;

use crate::bundles;
use crate::cli::{self, Floor, Release};
use crate::config;

/// Runs one of the commands.
pub fn dispatch(command: Release, output: Output) -> Ended {
    match command {
        Release::Floor(Floor::Reset(args)) => reset(&args, output),
    }
}

fn reset(args: &cli::FloorReset, output: Output) -> Ended {
    if args.reason.trim().is_empty() {
        return Err(Failure::usage("--reason: say why; it is recorded"));
    }
    let file = config::File::read(args.place.config.as_deref())?;
    let layout = config::layout(&args.place, &file);
    let command = Command::ResetFloor { name: args.name.clone(), time: args.time_floor, reason: args.reason.clone() };
    let marker = "release floor reset: REJECTED — ";
    if let Err(reason) = bundles::change(layout, command, file.node_name)? {
        return crate::policy::rejected(marker, &reason, output);
    }
    let time = if args.time_floor { ", and the time floor" } else { "" };
    output.print(&format!("release floor reset: {}{time}", args.name), || {
        object([("reset", Value::from(args.name.as_str())), ("time_floor", Value::from(args.time_floor))])
    })?;
    Ok(0)
}
