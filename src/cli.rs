//! The arguments of the command line. What they lead to is `main`'s.

use std::env;
use std::path::PathBuf;
use std::time::Duration;

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

/// Which running healer is meant.
#[derive(Args, Debug)]
pub struct SocketArgument {
    /// The control socket; else healer.sock in the pid_file_directory of the configuration.
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// The configuration that names it.
    #[command(flatten)]
    pub file: FileArgument,
}

/// What is asked of which processes.
#[derive(Args, Debug)]
pub struct RequestArguments {
    /// Their names in the configuration.
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
    /// Return at once, not when it is done.
    #[arg(long)]
    pub no_wait: bool,
    /// Print JSON: a line for each process.
    #[arg(long)]
    pub json: bool,
    /// Of which healer.
    #[command(flatten)]
    pub socket: SocketArgument,
}

/// The commands beside running the daemon.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show how the running healer and its processes stand.
    Status {
        /// Only this process, in full.
        name: Option<String>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
        /// Print nothing: exit code 1 says that some process needs attention.
        #[arg(long, short, conflicts_with = "json")]
        quiet: bool,
        /// Of which healer.
        #[command(flatten)]
        socket: SocketArgument,
    },
    /// Show what happened last.
    Events {
        /// And go on to show what happens.
        #[arg(long, short)]
        follow: bool,
        /// Print JSON: a line for each event.
        #[arg(long)]
        json: bool,
        /// Of which healer.
        #[command(flatten)]
        socket: SocketArgument,
    },
    /// Have the running healer take its configuration as it is now, and tell what came of it.
    Reload {
        /// Print JSON.
        #[arg(long)]
        json: bool,
        /// Which healer.
        #[command(flatten)]
        socket: SocketArgument,
    },
    /// End processes, and keep them down until they are resumed.
    Stop(RequestArguments),
    /// Leave processes as they are, whatever happens to them, until they are resumed.
    Pause {
        /// Resume by itself after so long: 90s, 10m, 2h 30m.
        #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
        lasting: Option<Duration>,
        /// Which ones.
        #[command(flatten)]
        arguments: RequestArguments,
    },
    /// Undo stop and pause, and start what is down.
    Resume(RequestArguments),
    /// End processes and start them again, or start them; costs none of their retries.
    Restart(RequestArguments),
    /// Close the breakers of processes and forget their failures.
    Reset(RequestArguments),
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
    use std::collections::BTreeSet;

    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_and_option_is_in_the_manual_and_no_other_is() {
        let manual = include_str!("../docs/healer.8");
        let (cli, mut expected) = (Cli::command(), BTreeSet::new());
        let shown = cli.get_subcommands().filter(|command| !command.is_hide_set());
        for command in shown.chain([&cli]) {
            let options = command.get_arguments().filter_map(clap::Arg::get_long);
            expected.extend(options.filter(|long| !["help", "version"].contains(long)));
            let tag = format!("\n.It Cm {}\n", command.get_name());
            assert!(command.get_name() == "healer" || manual.contains(&tag), "{tag}");
        }
        let words: Vec<_> = manual.split_whitespace().collect();
        let named = words.windows(2).filter(|pair| pair[0] == "Fl" && pair[1].starts_with('-'));
        let named: BTreeSet<_> = named.map(|pair| pair[1].trim_start_matches('-')).collect();
        assert_eq!(named, expected);
    }
}
