//! The built binary from the outside: real processes, real files, loopback ports. Nothing sleeps for luck: every wait is
//! for an event, with a bound.

mod boundary;
mod commands;
mod disk_faults;
mod durability;
mod harness;
mod http_attacks;
mod manifest;
mod policy;
mod precheck;
mod process;
mod prompts;
mod sources;
mod supply;
mod supply_commands;
mod tamper;
mod telemetry;
