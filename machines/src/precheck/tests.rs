//! The table of verdicts, and prechecks on a tree in memory where nothing fails. Crashes and faults are the simulator's.

mod rig;
mod runs;
mod verdicts;
