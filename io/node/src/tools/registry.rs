//! Every tool of the product, in one list.

use std::path::PathBuf;

use super::Tool;
use super::echo::Echo;
use super::shell::Shell;

/// What the operator says about the tools (`[tools.…]` of `runtime.toml`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToolConfig {
    /// Whether `tool.shell` may run at all.
    pub shell_enabled: bool,
    /// The folder in which its commands run; the system's folder for temporary files when absent.
    pub shell_dir: Option<PathBuf>,
}

/// All tools.
#[must_use]
pub fn all(config: &ToolConfig) -> Vec<Box<dyn Tool>> {
    vec![
        Box::new(Echo),
        Box::new(Shell::new(config.shell_enabled, config.shell_dir.clone().unwrap_or_else(std::env::temp_dir))),
    ]
}
