//! `autonomy oci pull` and `oci copy`, `bundle create`, and what `bundle import` keeps.

use std::path::Path;

use io_artifacts::source::Transport;
use machines::oci::Digest;

use crate::cli;
use crate::failure::{Ended, Failure};
use crate::output::Output;

pub fn pull(_args: &cli::OciPull, _output: Output) -> Ended {
    Err(Failure::refused("not yet"))
}

pub fn copy(_args: &cli::OciCopy, _output: Output) -> Ended {
    Err(Failure::refused("not yet"))
}

pub fn create_bundle(_args: &cli::BundleCreate, _output: Output) -> Ended {
    Err(Failure::refused("not yet"))
}

pub async fn keep(_source: &Transport, _image: &Digest, _folder: &Path) -> Result<(), Failure> {
    Err(Failure::refused("not yet"))
}
