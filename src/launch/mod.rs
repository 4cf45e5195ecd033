//! Starting an instance: healer spawns the stage, takes hold of it, says `go`, and hears of the
//! exec or of the step that failed.
//!
//! `spec` says what the instance is to be, `stage` becomes it, `staged` is healer's side of it,
//! `output` is where it writes. Ending an instance is left to `instance`, waiting for its exit to
//! the one reaper. Called by `recovery`.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use self::output::Outputs;
use self::word::Word;
use crate::clock;
use crate::config::{Config, OutputFile, Process};
use crate::event::{Instance, Pid, ProcessName};
use crate::instance::Held;
use crate::instance::table::Row;

mod head;
mod identity;
mod output;
mod report;
mod spec;
pub mod stage;
mod staged;
mod word;

pub use self::output::{is_journal, rotate};
pub use self::spec::Baseline;
pub use self::staged::{Going, Staged};

/// Whether this process is a stage still, of whichever healer's: it has not become its program.
#[must_use]
pub fn is_stage(instance: Instance) -> bool {
    let command_line = std::fs::read(format!("/proc/{}/cmdline", instance.pid)).unwrap_or_default();
    let is_named_so = command_line.split(|byte| *byte == 0).next() == Some(stage::NAME.to_bytes());
    is_named_so && matches!(Row::read(instance.pid), Ok(Some(row)) if row.instance == instance)
}

/// The running binary, also after an upgrade has replaced the file.
const OWN_BINARY: &str = "/proc/self/exe";

/// Starts instances.
#[derive(Clone, Debug)]
pub struct Launcher {
    stage: PathBuf,
    baseline: Baseline,
    outputs: Outputs,
}

/// Why an instance was not started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The machine has run out of something; not the process's fault.
    #[error("cannot start {process}: {step}: {}", lower_case(.error))]
    Node {
        /// Which process.
        process: ProcessName,
        /// What failed.
        step: String,
        /// What the system said.
        error: io::Error,
    },
    /// A step failed.
    #[error("cannot start {process}: {step}{}", because(.error.as_ref()))]
    Failed {
        /// Which process.
        process: ProcessName,
        /// What failed.
        step: String,
        /// What the system said, where it was the system that refused.
        error: Option<io::Error>,
    },
    /// The deadline passed; what hung was killed.
    #[error("cannot start {process}: timed out in step \"{step}\"")]
    TimedOut {
        /// Which process.
        process: ProcessName,
        /// Where it hung.
        step: String,
    },
    /// The stage ended without a word: killed, most likely.
    #[error("cannot start {process}: it was ended before its exec")]
    Died {
        /// Which process.
        process: ProcessName,
    },
}

impl LaunchError {
    /// Whether it is the machine that lacks something, so that every other launch may fail too.
    #[must_use]
    pub fn is_node_fault(&self) -> bool {
        matches!(self, Self::Node { .. })
    }

    fn new(process: &ProcessName, step: impl Into<String>, error: io::Error) -> Self {
        let (process, step) = (process.clone(), step.into());
        match error.raw_os_error() {
            Some(libc::EAGAIN | libc::ENOMEM | libc::EMFILE | libc::ENFILE) => {
                Self::Node { process, step, error }
            }
            _ => Self::Failed { process, step, error: Some(error) },
        }
    }
}

fn because(error: Option<&io::Error>) -> String {
    error.map_or_else(String::new, |error| format!(": {}", lower_case(error)))
}

/// The system's words as part of a sentence.
fn lower_case(error: &io::Error) -> String {
    let mut text = error.to_string();
    if let Some(first) = text.get_mut(..1) {
        first.make_ascii_lowercase();
    }
    text
}

impl Launcher {
    /// A launcher whose instances are given what `baseline` recorded, and write to files below
    /// `log_directory` where that is what they ask for.
    #[must_use]
    pub fn new(baseline: Baseline, log_directory: &Path) -> Self {
        Self { stage: OWN_BINARY.into(), baseline, outputs: Outputs::new(log_directory) }
    }

    /// Uses this binary as the stage instead of the running one, which in tests is not healer's.
    #[must_use]
    pub fn with_stage(self, stage: PathBuf) -> Self {
        Self { stage, ..self }
    }

    /// Puts output files below another directory. What `output: auto` means stays as it was found
    /// when the launcher was made: later, healer's own output may lead elsewhere.
    #[must_use]
    pub fn with_log_directory(self, log_directory: &Path) -> Self {
        Self { outputs: self.outputs.with_directory(log_directory), ..self }
    }

    /// Speaks to a journal that listens there.
    #[must_use]
    pub fn with_journal(self, socket: PathBuf) -> Self {
        Self { outputs: self.outputs.with_journal(socket), ..self }
    }

    /// The output files of a configuration's processes, for [`rotate`].
    #[must_use]
    pub fn output_files(&self, config: &Config) -> Vec<(PathBuf, OutputFile)> {
        self.outputs.files(config)
    }

    /// Starts the stage of a new instance, which then waits for `go`. The child is the caller's,
    /// and the reaper's: nothing here waits for it.
    ///
    /// # Errors
    ///
    /// Nothing was started, or a stage that ends by itself.
    pub fn spawn(&self, process: &Process) -> Result<Staged, LaunchError> {
        let failed = |step: &'static str| {
            move |error: io::Error| LaunchError::new(&process.name, step, error)
        };
        let spec = spec::encode(process, &self.baseline).map_err(|error| LaunchError::Failed {
            process: process.name.clone(),
            step: error.to_string(),
            error: None,
        })?;
        let word = Word::of(spec).map_err(failed("writing the stage's specification"))?;
        let output = self
            .outputs
            .open(process)
            .map_err(|output| LaunchError::new(&process.name, output.what, output.error))?;
        let (healer, stage) = socket_pair().map_err(failed("opening the stage's socket"))?;
        let before = clock::now();
        let pid = self.spawn_stage(&stage).map_err(failed("spawning the stage"))?;
        drop(stage);
        let held = Held::open_spawned(pid, before, clock::now())
            .map_err(failed("opening the stage's pidfd"))?
            .ok_or_else(|| LaunchError::Died { process: process.name.clone() })?;
        Ok(Staged { process: process.name.clone(), held, socket: healer, word, output })
    }

    fn spawn_stage(&self, socket: &OwnedFd) -> io::Result<Pid> {
        let mut descriptors = PosixSpawnFileActions::init()?;
        descriptors.add_dup2(socket.as_raw_fd(), stage::SOCKET)?;
        let mut attributes = PosixSpawnAttr::init()?;
        // From its first moment: what is left of an instance is found by its session.
        let session = libc::c_int::from(libc::POSIX_SPAWN_SETSID);
        attributes.set_flags(PosixSpawnFlags::from_bits_retain(session))?;
        let environment: [&CStr; 0] = [];
        let pid = posix_spawn(
            self.stage.as_path(),
            &descriptors,
            &attributes,
            &[stage::NAME],
            &environment,
        )?;
        Ok(Pid(pid.as_raw()))
    }
}

/// healer's end, which never blocks, and the stage's.
fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (healer, stage) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    rustix::io::ioctl_fionbio(&healer, true)?;
    // dup2(2) of a descriptor to its own number would leave it to be closed by the exec.
    if stage.as_raw_fd() == stage::SOCKET {
        return Ok((healer, rustix::io::fcntl_dupfd_cloexec(&stage, stage::SOCKET + 1)?));
    }
    Ok((healer, stage))
}
