//! The story in one terminal and the drills, played with the real binary in a temporary folder.
//!
//! What a person would type is shown as it would be typed; HTTP requests are made by a small client of our own,
//! so that neither curl nor jq is needed. Every process is ended by its id, also on Ctrl-C.

pub mod act1;
pub mod act2;
pub mod act3;
pub mod act4;
pub mod checks;
pub mod drill3;
pub mod drill4;
pub mod drill5;
pub mod drills;
pub mod edge;
pub mod http;
pub mod journal;
pub mod load;
pub mod node;
pub mod offline;
pub mod registry;
pub mod release;
pub mod scratch;
pub mod service;
pub mod shell;
pub mod sink;
