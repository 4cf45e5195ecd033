//! Where an instance's stdout and stderr go, and how its log file is kept small.
//!
//! Opening what the entry asks for, and rotation by copy and truncate. Called by `launch`, before
//! each launch, and by `daemon`, which rotates on a slow timer off the runtime's thread.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{OFlags, fcntl_setfl, fstat};
use rustix::net::{
    AddressFamily, Shutdown, SocketAddrUnix, SocketFlags, SocketType, connect, shutdown,
    socket_with,
};

use crate::config::{Config, Output, OutputFile, Process};
use crate::event::ProcessName;

/// Where journald listens for streams of lines, systemd-journald.service(8).
const JOURNAL: &str = "/run/systemd/journal/stdout";

/// What `output: auto` means, found once at healer's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Auto {
    Journal,
    Inherit,
    File,
}

/// Where the output of instances goes.
#[derive(Clone, Debug)]
pub(super) struct Outputs {
    directory: PathBuf,
    journal: PathBuf,
    auto: Auto,
}

/// What could not be opened.
#[derive(Debug)]
pub(super) struct OutputError {
    pub(super) what: String,
    pub(super) error: io::Error,
}

impl Outputs {
    pub(super) fn new(log_directory: &Path) -> Self {
        Self {
            directory: log_directory.join("processes"),
            journal: PathBuf::from(JOURNAL),
            auto: auto(),
        }
    }

    pub(super) fn with_directory(self, log_directory: &Path) -> Self {
        Self { directory: log_directory.join("processes"), ..self }
    }

    pub(super) fn with_journal(self, journal: PathBuf) -> Self {
        Self { journal, ..self }
    }

    /// Opens stdout and stderr for a launch of `process`.
    pub(super) fn open(&self, process: &Process) -> Result<[OwnedFd; 2], OutputError> {
        let auto = matches!(process.output, Output::Auto(_)).then_some(self.auto);
        let failed = |what: String| move |error| OutputError { what, error };
        match (&process.output, auto) {
            (Output::Journal, _) | (_, Some(Auto::Journal)) => {
                twice(open_journal(&self.journal, &process.name))
                    .map_err(failed(format!("output to the journal at {}", self.journal.display())))
            }
            (Output::Inherit, _) | (_, Some(Auto::Inherit)) => {
                own_output().map_err(failed("output to healer's own".to_owned()))
            }
            (Output::File(_), _) | (_, Some(Auto::File)) => {
                let path = self.file(&process.name);
                twice(open_file(&self.directory, &path))
                    .map_err(failed(format!("output to {}", path.display())))
            }
            (Output::Null, _) | (Output::Auto(_), None) => {
                twice(OpenOptions::new().write(true).open("/dev/null").map(OwnedFd::from))
                    .map_err(failed("output to /dev/null".to_owned()))
            }
        }
    }

    /// The files that a configuration's processes write, and when to rotate each.
    pub(super) fn files(&self, config: &Config) -> Vec<(PathBuf, OutputFile)> {
        let written = |process: &Process| match process.output {
            Output::File(file) => Some((self.file(&process.name), file)),
            Output::Auto(file) if self.auto == Auto::File => Some((self.file(&process.name), file)),
            Output::Auto(_) | Output::Journal | Output::Inherit | Output::Null => None,
        };
        config.processes.iter().filter_map(|process| written(process)).collect()
    }

    fn file(&self, process: &ProcessName) -> PathBuf {
        self.directory.join(format!("{}.log", process.as_str()))
    }
}

fn auto() -> Auto {
    if is_journal(io::stderr()) || is_journal(io::stdout()) {
        Auto::Journal
    } else if std::process::id() == 1 {
        Auto::Inherit
    } else {
        Auto::File
    }
}

/// Whether `fd` leads to systemd's journal: `$JOURNAL_STREAM` says so, systemd.exec(5).
#[must_use]
pub fn is_journal(fd: impl AsFd) -> bool {
    std::env::var("JOURNAL_STREAM").is_ok_and(|stream| is_stream(&stream, fd))
}

/// Whether `fd` is the stream that is named as `DEVICE:INODE`.
fn is_stream(stream: &str, fd: impl AsFd) -> bool {
    fstat(fd).is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}

fn own_output() -> io::Result<[OwnedFd; 2]> {
    Ok([io::stdout().as_fd().try_clone_to_owned()?, io::stderr().as_fd().try_clone_to_owned()?])
}

/// One destination for both, so that the lines keep their order.
fn twice(opened: io::Result<OwnedFd>) -> io::Result<[OwnedFd; 2]> {
    let stdout = opened?;
    let stderr = stdout.try_clone()?;
    Ok([stdout, stderr])
}

fn open_file(directory: &Path, path: &Path) -> io::Result<OwnedFd> {
    let open = || {
        // Without O_NONBLOCK a FIFO in this place would hold up healer.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let flags = flags.bits().cast_signed();
        OpenOptions::new().append(true).create(true).mode(0o640).custom_flags(flags).open(path)
    };
    let file = match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            DirBuilder::new().recursive(true).mode(0o750).create(directory)?;
            open()?
        }
        opened => opened?,
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    fcntl_setfl(&file, OFlags::APPEND)?;
    Ok(file.into())
}

/// Opens a stream of lines to journald: what is written first describes all that follows.
fn open_journal(path: &Path, process: &ProcessName) -> io::Result<OwnedFd> {
    // A journal that does not answer must not hold up healer: no waiting here, only in the
    // instance, as everywhere else.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let stream = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&stream, &SocketAddrUnix::new(path)?)?;
    shutdown(&stream, Shutdown::Read)?;
    let mut stream = std::os::unix::net::UnixStream::from(stream);
    // Identifier, no unit, priority 6 (info) unless a line says otherwise (`<3>`), and no copies
    // to syslog, the kernel's log or the console.
    write!(stream, "healer-{}\n\n6\n1\n0\n0\n0\n", process.as_str())?;
    stream.set_nonblocking(false)?;
    Ok(stream.into())
}

/// Rotates `path` where it is larger than `limits` allow; says whether it did. It must not run
/// twice at the same time for one file.
///
/// The file is copied and then emptied, since its writer keeps it open. What is written between
/// the last read and the emptying, a matter of microseconds, is lost; a crash in between leaves
/// those lines in both files.
///
/// # Errors
///
/// What the file system reports, a full disk above all; then the file is left as it was.
pub fn rotate(path: &Path, limits: OutputFile) -> io::Result<bool> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let mut file = match OpenOptions::new().read(true).write(true).custom_flags(flags).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        opened => opened?,
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.size() <= limits.max_bytes {
        return Ok(false);
    }
    if limits.keep > 0 {
        let copy = with_suffix(path, "new");
        let written = copy_to(&mut file, &copy, &metadata.permissions());
        if let Err(error) = written.and_then(|()| shift(path, limits.keep)) {
            let _ = std::fs::remove_file(&copy);
            return Err(error);
        }
        std::fs::rename(&copy, with_suffix(path, "1"))?;
        io::copy(&mut file, &mut OpenOptions::new().append(true).open(with_suffix(path, "1"))?)?;
    }
    file.set_len(0)?;
    Ok(true)
}

fn copy_to(file: &mut File, copy: &Path, permissions: &Permissions) -> io::Result<()> {
    match std::fs::remove_file(copy) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut copied = OpenOptions::new().write(true).create_new(true).mode(0o600).open(copy)?;
    copied.set_permissions(Permissions::from_mode(permissions.mode() & 0o777))?;
    io::copy(file, &mut copied)?;
    // Before the original is emptied: a power cut must not leave neither.
    copied.sync_all()
}

/// Makes room for a new `PATH.1`, forgetting the oldest.
fn shift(path: &Path, keep: u32) -> io::Result<()> {
    let rotated = |number: u32| with_suffix(path, &number.to_string());
    let there = (1..keep).take_while(|number| rotated(*number).exists()).last().unwrap_or(0);
    for number in (1..=there).rev() {
        std::fs::rename(rotated(number), rotated(number + 1))?;
    }
    // An earlier configuration may have kept more.
    let older = (keep..u32::MAX).map(|number| rotated(number + 1));
    older.take_while(|older| std::fs::remove_file(older).is_ok()).for_each(drop);
    Ok(())
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn journal_stream_is_told_by_device_and_inode() {
        let (file, other) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let stat = fstat(&file).unwrap();
        let stream = format!("{}:{}", stat.st_dev, stat.st_ino);
        assert!(is_stream(&stream, &file));
        assert!(!is_stream(&stream, &other));
        assert!(!is_stream("", &file));
    }
}
