//! The seeded simulator. See `docs/simulation.md`.
#![forbid(unsafe_code)]

pub mod clock;
mod collector;
pub mod conformance;
pub mod disk;
mod drainer;
mod exec;
pub mod exhaust;
mod harm;
mod heal;
mod lanes;
pub mod ledger;
mod manner;
pub mod marks;
mod node;
mod operators;
mod ops;
pub mod oracles;
mod oracles_drain;
mod oracles_policy;
mod past;
pub mod plan;
mod plan_text;
pub mod policies;
pub mod rng;
pub mod sabotage;
pub mod shrink;
mod spoil;
mod state;
pub mod swarm;
pub mod sweep;
pub mod timeline;
pub mod trace;
mod work;
pub mod world;
