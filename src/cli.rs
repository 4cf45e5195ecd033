//! The arguments of the command line. What they lead to is `main`'s.

use std::env;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Keeps the critical processes of this machine alive.
///
/// Without a command: runs the daemon.
#[derive(Debug, Parser)]
#[command(name = "healer", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// The configuration.
    #[command(flatten)]
    pub file: FileArgument,
    /// Do not daemonise; so does HEALER_NO_DAEMON=1.
    #[arg(long)]
    pub foreground: bool,
    /// Print the path of the configuration that would be used, and exit.
    #[arg(long)]
    pub print_config_path: bool,
    /// What to do instead of running the daemon.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Which configuration is meant.
#[derive(Args, Debug)]
pub struct FileArgument {
    /// The configuration; else $HEALER_CONFIG, /etc/healer/config.yaml or ./config.yaml.
    #[arg(short, long = "config", value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// The commands beside running the daemon.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Tell every fault of a configuration: of its text, and of this machine for it.
    Check {
        /// Look at nothing but the file's text.
        #[arg(long)]
        file_only: bool,
        /// Which one.
        #[command(flatten)]
        file: FileArgument,
    },
    /// Show on a small service what healer does; needs no configuration and no rights.
    Demo,
    /// The small service of the demo.
    #[command(hide = true)]
    DemoService {
        /// Its directory and its name.
        home: PathBuf,
    },
}

impl Cli {
    /// Whether the daemon is to stay in the foreground: by argument, by environment, or as PID 1.
    #[must_use]
    pub fn stays_in_foreground(&self) -> bool {
        let by_environment = || {
            env::var("HEALER_NO_DAEMON").is_ok_and(|value| {
                ["1", "true", "yes"].contains(&value.to_ascii_lowercase().as_str())
            })
        };
        self.foreground || std::process::id() == 1 || by_environment()
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }
}
