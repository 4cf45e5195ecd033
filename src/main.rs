//! Exit codes and the printed error chain.

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use healer::cli::{Cli, Command};
use healer::config::Reader;
use healer::config::load::{LoadError, find, load};
use healer::control::client::ClientError;
use healer::monitor::ebpf;
use healer::operator::{OperatorError, Said};
use healer::preflight::{self, HostFaults};
use healer::{daemon, demo, operator};

/// The exit codes, after sysexits.h.
mod code {
    /// A process needs attention, or what was asked of it is not done.
    pub const NOT_WELL: u8 = 1;
    /// The arguments are wrong, or name no process.
    pub const USAGE: u8 = 64;
    /// The configuration has file faults or, in `check`, host faults; a reload refused it.
    pub const FAULTS: u8 = 65;
    /// There is no configuration, or it cannot be read or trusted.
    pub const NO_CONFIGURATION: u8 = 66;
    /// No healer answers.
    pub const NOT_RUNNING: u8 = 69;
    /// Anything else.
    pub const SYSTEM: u8 = 71;
    /// The control socket is not for this user.
    pub const DENIED: u8 = 77;
}

fn main() -> ExitCode {
    // Before anything else: the stage is this binary too, and has to be quick.
    if let Some(code) = healer::launch::stage::run_if_asked() {
        return ExitCode::from(code);
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let is_error = error.use_stderr();
            // There is nobody left to tell if this fails.
            let _ = error.print();
            return if is_error { code::USAGE.into() } else { ExitCode::SUCCESS };
        }
    };
    match run(&cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            for cause in error.chain().skip(1) {
                eprintln!("caused by: {cause}");
            }
            exit_code(&error).into()
        }
    }
}

fn exit_code(error: &anyhow::Error) -> u8 {
    match error.downcast_ref() {
        Some(LoadError::Faults(_)) => code::FAULTS,
        Some(_) => code::NO_CONFIGURATION,
        None if error.is::<HostFaults>() => code::FAULTS,
        None => error.downcast_ref().map_or(code::SYSTEM, of_operator),
    }
}

fn of_operator(error: &OperatorError) -> u8 {
    match error {
        OperatorError::Configuration(_) => code::NO_CONFIGURATION,
        OperatorError::Name(_) => code::USAGE,
        OperatorError::Client(error) => of_client(error),
        OperatorError::System { .. } | OperatorError::Unread => code::SYSTEM,
    }
}

fn of_client(error: &ClientError) -> u8 {
    match error {
        ClientError::NotRunning { .. } => code::NOT_RUNNING,
        ClientError::Denied { .. } | ClientError::Refused { status: 403, .. } => code::DENIED,
        // No such process, or none that is enabled.
        ClientError::Refused { status: 404 | 409, .. } => code::USAGE,
        ClientError::Refused { .. } | ClientError::Broken { .. } => code::SYSTEM,
    }
}

fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    match &cli.command {
        Some(Command::Check { file_only, file }) => check(file.config.as_deref(), *file_only)?,
        Some(Command::Demo) => demo::run()?,
        Some(Command::DemoService { home }) => return Ok(demo::service::serve(home)?),
        Some(command) => {
            return Ok(match operator::run(command)? {
                Said::Well => ExitCode::SUCCESS,
                Said::NotWell => code::NOT_WELL.into(),
                Said::Faults => code::FAULTS.into(),
            });
        }
        None => {
            let reader = Reader::this_process(cli.stays_in_foreground());
            let path = find(cli.file.config.as_deref(), reader.as_root)?;
            if cli.print_config_path {
                println!("{}", path.display());
                return Ok(ExitCode::SUCCESS);
            }
            daemon::run(&path, &reader, cli.stays_in_foreground())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// `healer check`: every file fault, or else every host fault.
fn check(explicit: Option<&Path>, file_only: bool) -> anyhow::Result<()> {
    let this = Reader::this_process(true);
    let path = find(explicit, this.as_root)?;
    // The text means the same whoever looks at it, and wherever.
    let reader = if file_only { Reader { file_only, ..Reader::default() } } else { this };
    let mut loaded = load(&path, &reader)?;
    for warning in &loaded.warnings {
        eprintln!("warning: {warning}");
    }
    if !file_only {
        if let (Some(processes), Err(error)) = (loaded.config.watched_by_ebpf(), ebpf::available())
        {
            eprintln!(
                "warning: {processes}: watched by pidfd alone, as {error}; lost: {}",
                ebpf::LOST
            );
        }
        HostFaults::none_of(preflight::look(&mut loaded.config))?;
    }
    let count = loaded.config.processes.len();
    let processes = if count == 1 { "process" } else { "processes" };
    println!("{}: {count} {processes}, no faults", path.display());
    Ok(())
}
