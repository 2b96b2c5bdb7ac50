//! `autonomy oci …`

mod attach;
mod copy;
mod inspect;
mod pack;
mod push;
mod serve;
mod sign;

use daemon_common::failure::Ended;
use daemon_common::output::Output;

use crate::cli::Oci;

pub use copy::create_bundle;
pub use inspect::inspect;

/// Runs one of the commands.
pub fn dispatch(command: Oci, output: Output) -> Ended {
    match command {
        Oci::Push(args) => push::push(&args, output),
        Oci::Pull(args) => copy::pull(&args, output),
        Oci::AttachLock(args) => attach::lock(&args, output),
        Oci::AttachPolicy(args) => attach::policy(&args, output),
        Oci::PullLock(args) => attach::pull_lock(&args, output),
        Oci::PullPolicy(args) => attach::pull_policy(&args, output),
        Oci::Sign(args) => sign::sign(&args, output),
        Oci::Copy(args) => copy::copy(&args, output),
        Oci::Inspect(args) => inspect(&args.image, &args.access, output),
        Oci::Serve(args) => serve::serve(&args),
    }
}
