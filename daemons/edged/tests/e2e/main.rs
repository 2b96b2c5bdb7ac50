//! The `edged` binary from outside: real processes, real files, real signals.

mod act4;
mod certificates;
mod crash;
mod exits;
mod harness;
mod hostile;
mod init;
mod run;
