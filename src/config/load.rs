//! Finds the configuration file and reads it, once, within bounds.
//!
//! What is in it is `check`'s, who may change it `ownership`'s. Called by `main` and at each reload
//! by `daemon`.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::fs::{FileType, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{self, Path, PathBuf};

use rustix::fs::OFlags;

use super::check::{Checked, Environment, VARIABLES, check, pid_file_directory};
use super::fault::Fault;
use super::ownership::{Distrust, Examined, examine};
use super::{Config, Reader, marks};

/// A configuration for 10,000 processes has a quarter of this.
const LARGEST_FILE: u64 = 16 << 20;

/// A configuration that may be used.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// What its author should know all the same; one sentence fragment each.
    pub warnings: Vec<String>,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// No file was named and none is where one is looked for.
    #[error("no configuration found: neither {} nor {} exists; say -c FILE or set HEALER_CONFIG",
        looked[0].display(), looked[1].display())]
    NotFound {
        /// The files that do not exist.
        looked: [PathBuf; 2],
    },
    /// The system refuses.
    #[error("the configuration {} cannot be read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A directory, a pipe, a device.
    #[error("the configuration {} is {kind}: a regular file is expected", path.display())]
    NotAFile {
        /// What the path leads to.
        path: PathBuf,
        /// What that is.
        kind: &'static str,
    },
    /// More than is read.
    #[error("the configuration {} is larger than {} MiB", path.display(), LARGEST_FILE >> 20)]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// Others than root decide what a root healer would run.
    #[error("the configuration {} cannot be trusted by root: {} {} (cure: {} {})",
        path.display(), element.display(), distrust.what, distrust.cure, element.display())]
    Untrusted {
        /// The file.
        path: PathBuf,
        /// It, or a directory above it.
        element: PathBuf,
        /// Why, and the cure.
        distrust: Distrust,
    },
    /// An environment variable that is a key of the configuration holds no text.
    #[error("the environment variable {variable} is not UTF-8 text")]
    NotText {
        /// Its name.
        variable: &'static str,
    },
    /// The text is wrong.
    #[error(transparent)]
    Faults(#[from] FileFaults),
}

impl Reader {
    /// What this process is. `foreground`: it does not daemonise.
    #[must_use]
    pub fn this_process(foreground: bool) -> Self {
        let sudo_uid = || env::var("SUDO_UID").ok()?.parse().ok();
        Self {
            as_root: rustix::process::geteuid().is_root(),
            as_pid1: std::process::id() == 1,
            sudo_uid: if foreground { sudo_uid() } else { None },
            file_only: false,
        }
    }
}

/// Every file fault of a configuration, in the order of the text.
#[derive(Debug, thiserror::Error)]
pub struct FileFaults {
    /// The file.
    pub path: PathBuf,
    /// At least one.
    pub faults: Vec<Fault>,
    /// Whether there are more.
    pub more: bool,
}

impl fmt::Display for FileFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.faults.len();
        let faults = if count == 1 { "fault" } else { "faults" };
        let least = if self.more { "more than " } else { "" };
        write!(f, "the configuration {} has {least}{count} {faults}", self.path.display())?;
        for fault in &self.faults {
            write!(f, "\n  {fault}")?;
        }
        Ok(())
    }
}

/// The absolute path of the file to read: `explicit`, `$HEALER_CONFIG`, or one of two places.
///
/// # Errors
/// No file is named and neither place holds one.
pub fn find(explicit: Option<&Path>, as_root: bool) -> Result<PathBuf, LoadError> {
    let named = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
    let places = places(as_root);
    let found = explicit
        .map(Path::to_path_buf)
        .or_else(|| named("HEALER_CONFIG").map(PathBuf::from))
        .or_else(|| places.iter().find(|place| may_exist(place)).cloned());
    let Some(found) = found else { return Err(LoadError::NotFound { looked: places }) };
    path::absolute(&found).map_err(|source| LoadError::Unreadable { path: found, source })
}

/// Root looks in the working directory last: it is often someone else's.
fn places(as_root: bool) -> [PathBuf; 2] {
    let (system, here) = ("/etc/healer/config.yaml", "./config.yaml");
    if as_root { [system, here] } else { [here, system] }.map(PathBuf::from)
}

/// A file that cannot be looked at is chosen all the same: reading it tells why.
fn may_exist(path: &Path) -> bool {
    match path.symlink_metadata() {
        Ok(_) => true,
        Err(error) => {
            !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
        }
    }
}

/// Reads and checks the file at the absolute `path`.
///
/// # Errors
/// The file cannot be read, must not be trusted, or has faults.
pub fn load(path: &Path, reader: &Reader) -> Result<Loaded, LoadError> {
    let environment = environment()?;
    let mut warnings = Vec::new();
    let bytes = if reader.as_root {
        read(&trusted(path, reader, &mut warnings)?, path)?
    } else {
        read(path, path)?
    };
    match check(&bytes, &environment, reader) {
        Ok(Checked { config, warnings: more }) => {
            warnings.extend(more);
            Ok(Loaded { config, warnings })
        }
        Err(mut refused) => {
            if let Ok(text) = str::from_utf8(&bytes) {
                marks::locate(&mut refused.faults, text);
            }
            let (faults, more) = (refused.faults, refused.more);
            Err(FileFaults { path: path.to_path_buf(), faults, more }.into())
        }
    }
}

/// Where the healer with this configuration has its control socket. Faults elsewhere in the file do
/// not matter: a healer that runs may have taken an earlier one. Nor does a file that is not found or
/// not readable, unless it was named: the operator of a socket need not be the file's reader.
///
/// # Errors
/// The file that was named cannot be read, or root must not trust the one that was found.
pub fn socket_directory(explicit: Option<&Path>, reader: &Reader) -> Result<PathBuf, LoadError> {
    let environment = environment()?;
    let read = find(explicit, reader.as_root).and_then(|path| {
        let resolved =
            if reader.as_root { trusted(&path, reader, &mut Vec::new())? } else { path.clone() };
        read(&resolved, &path)
    });
    let bytes = match read {
        Ok(bytes) => bytes,
        Err(LoadError::NotFound { .. } | LoadError::Unreadable { .. }) if explicit.is_none() => {
            Vec::new()
        }
        Err(error) => return Err(error),
    };
    Ok(pid_file_directory(&bytes, &environment))
}

/// Where `path` leads if root may trust it.
fn trusted(path: &Path, reader: &Reader, warnings: &mut Vec<String>) -> Result<PathBuf, LoadError> {
    let examined = examine(path, reader.sudo_uid)
        .map_err(|source| LoadError::Unreadable { path: path.to_path_buf(), source })?;
    match examined {
        Examined::Trusted { resolved, by_sudo } => {
            if by_sudo {
                warnings.push(format!(
                    "{} is not root's alone but of the user who called sudo: \
                     accepted in the foreground only",
                    path.display()
                ));
            }
            Ok(resolved)
        }
        Examined::Distrusted { element, distrust } => {
            Err(LoadError::Untrusted { path: path.to_path_buf(), element, distrust })
        }
    }
}

/// Reads what is at `resolved`, called `path` in messages. Never waits, whatever it is.
fn read(resolved: &Path, path: &Path) -> Result<Vec<u8>, LoadError> {
    let unreadable = |source| LoadError::Unreadable { path: path.to_path_buf(), source };
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC).bits();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.cast_signed())
        .open(resolved)
        .map_err(unreadable)?;
    let found = file.metadata().map_err(unreadable)?;
    if !found.is_file() {
        let kind = kind(found.file_type());
        return Err(LoadError::NotAFile { path: path.to_path_buf(), kind });
    }
    let mut bytes = Vec::new();
    if found.len() <= LARGEST_FILE {
        // It may grow while it is read.
        file.take(LARGEST_FILE + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    }
    if found.len().max(bytes.len() as u64) > LARGEST_FILE {
        return Err(LoadError::TooLarge { path: path.to_path_buf() });
    }
    Ok(bytes)
}

fn kind(file_type: FileType) -> &'static str {
    if file_type.is_dir() {
        "a directory"
    } else if file_type.is_fifo() {
        "a pipe"
    } else if file_type.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}

/// Those of [`VARIABLES`] that are set to something.
fn environment() -> Result<Environment, LoadError> {
    let mut environment = Environment::new();
    for (variable, key) in VARIABLES {
        let Some(value) = env::var_os(variable).filter(|value| !value.is_empty()) else { continue };
        let text = OsString::into_string(value).map_err(|_| LoadError::NotText { variable })?;
        environment.insert(key, text);
    }
    Ok(environment)
}
