//! Where healer's own log goes: the journal under systemd, a file as a daemon, else stderr.
//!
//! Lines are written by a thread of their own, so that a blocked pipe, a slow disk or a journal that
//! does not read never holds recovery up; what it cannot take is dropped. Called by `daemon`; the macros of `tracing` do the
//! rest.

use std::io;
use std::path::{Path, PathBuf};

use tracing_appender::non_blocking::{NonBlocking, WorkerGuard};
use tracing_appender::rolling::{RollingFileAppender, Rotation};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use crate::config::{Log, LogFormat, LogLevel};

use self::journal::Journal;

mod journal;

/// How many daily files of the daemon's log are kept.
const DAYS_KEPT: usize = 14;

/// Where the log goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// systemd's journal, with fields.
    Journal,
    /// `log_directory/healer.DATE.log`, a file a day.
    File,
    /// stderr.
    Stderr,
}

impl Target {
    /// The journal where stderr leads to it, a file where nobody reads stderr, else stderr.
    #[must_use]
    pub fn choose(stderr_is_journal: bool, daemonised: bool) -> Self {
        match daemonised {
            _ if stderr_is_journal => Self::Journal,
            true => Self::File,
            false => Self::Stderr,
        }
    }
}

/// The log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// No place for the file.
    #[error("cannot write logs to {}; create it for healer or set log_directory", directory.display())]
    Directory {
        /// Where it should have been.
        directory: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The journal does not answer.
    #[error("cannot reach the journal")]
    Journal(#[source] io::Error),
    /// Set up twice.
    #[error("logging is set up already")]
    Again(#[source] tracing_subscriber::util::TryInitError),
}

/// Lines still on their way are written when this is dropped.
#[derive(Debug)]
#[must_use]
pub struct Flush(#[expect(dead_code, reason = "kept to be dropped")] WorkerGuard);

/// Starts logging. `$RUST_LOG` overrides the level.
///
/// # Errors
///
/// [`LoggingError`].
pub fn start(log: &Log, target: Target) -> Result<Flush, LoggingError> {
    let (layer, flush) = match target {
        Target::Journal => {
            let (journal, guard) =
                Journal::at(Path::new(journal::SOCKET)).map_err(LoggingError::Journal)?;
            (journal.boxed(), Flush(guard))
        }
        Target::File => {
            let (writer, guard) = tracing_appender::non_blocking(open(&log.directory)?);
            (written(log.format, writer, false), Flush(guard))
        }
        Target::Stderr => {
            let (writer, guard) = tracing_appender::non_blocking(io::stderr());
            let colours = io::IsTerminal::is_terminal(&io::stderr());
            (written(log.format, writer, colours), Flush(guard))
        }
    };
    tracing_subscriber::registry()
        .with(layer.with_filter(filter(log.level)))
        .try_init()
        .map_err(LoggingError::Again)?;
    Ok(flush)
}

fn filter(level: LogLevel) -> EnvFilter {
    let level = match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    };
    EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level))
}

type Written<S> = Box<dyn Layer<S> + Send + Sync>;

fn written<S>(format: LogFormat, writer: NonBlocking, colours: bool) -> Written<S>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    let layer = fmt::layer().with_writer(writer).with_ansi(colours).with_target(false);
    match format {
        LogFormat::Text => layer.boxed(),
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
    }
}

fn open(directory: &Path) -> Result<RollingFileAppender, LoggingError> {
    let failed =
        |source: io::Error| LoggingError::Directory { directory: directory.to_owned(), source };
    std::fs::create_dir_all(directory).map_err(failed)?;
    RollingFileAppender::builder()
        .rotation(Rotation::DAILY)
        .filename_prefix("healer")
        .filename_suffix("log")
        .max_log_files(DAYS_KEPT)
        .build(directory)
        .map_err(|error| failed(io::Error::other(error)))
}
