//! What the daemons and commands of this house share: reading a TOML file against a closed schema ([`settings`]), results on
//! stdout ([`output`]), how a command ends ([`failure`]), its log ([`logs`]), and what needs a person ([`terminal`]).

#[cfg(feature = "artifacts")]
mod artifacts;
pub mod failure;
pub mod logs;
pub mod output;
pub mod settings;
pub mod terminal;
