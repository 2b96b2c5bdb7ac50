//! The world of a node's start: prechecks over files by path, power cuts between any two operations, operators and attackers
//! with their hands in the state root, and oracles that know what each precheck has to say. See `docs/simulation.md`.

pub mod cli;
pub mod conformance;
mod edits;
pub mod exhaust;
pub mod ledger;
pub mod marks;
pub mod material;
mod oracles;
pub mod plan;
pub mod process;
mod reference;
pub mod run;
pub mod sabotage;
pub mod shrink;
pub mod swarm;
pub mod sweep;
pub mod tree;
pub mod world;
