//! Reading a PID file: bounded, never waiting, and only where it is a plain file.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use crate::event::Pid;

/// Larger files are something else. PostgreSQL's has a few lines after the PID.
const BYTES_MAX: u64 = 4096;

/// What a path holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Contents {
    /// No such file.
    Missing,
    /// A file that names no process: empty, or garbage, perhaps because it is being written.
    Nothing {
        /// When it was written.
        modified: i128,
    },
    /// A PID file.
    Names(PidFile),
    /// It may not or should not be read; `reason` is for the operator.
    Refused {
        /// Path and cause.
        reason: String,
    },
}

/// A PID file and who may have written it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PidFile {
    /// Whom it names.
    pub pid: Pid,
    /// The file's owner.
    pub owner: u32,
    /// Whether anyone but root can write it or put another in its place.
    pub open_to_others: bool,
    /// When it was written, in nanoseconds since 1970.
    pub modified: i128,
}

/// Reads the PID file at `path`.
#[must_use]
pub fn read(path: &Path) -> Contents {
    match try_read(path) {
        Ok(contents) => contents,
        Err(error) if is_absent(&error) => Contents::Missing,
        Err(error) => {
            Contents::Refused { reason: format!("cannot read {}: {error}", path.display()) }
        }
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn try_read(path: &Path) -> io::Result<Contents> {
    let refused =
        |what: &str| Ok(Contents::Refused { reason: format!("{} {what}", path.display()) });
    // O_PATH looks without opening: no FIFO waits and no device notices.
    let flags = libc::O_PATH | libc::O_NOFOLLOW;
    let found = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let metadata = found.metadata()?;
    if metadata.is_symlink() {
        return refused("is a symbolic link; name the file itself in pid_file_path");
    }
    if !metadata.is_file() {
        return refused("is no regular file; correct pid_file_path");
    }
    if metadata.len() > BYTES_MAX {
        return refused("is too large for a PID file; correct pid_file_path");
    }
    let mut bytes = Vec::new();
    let file = File::open(format!("/proc/self/fd/{}", found.as_raw_fd()))?;
    file.take(BYTES_MAX).read_to_end(&mut bytes)?;
    let modified = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
    let Some(pid) = parse(&bytes) else { return Ok(Contents::Nothing { modified }) };
    let directory = std::fs::metadata(path.parent().unwrap_or(Path::new("/")))?;
    let open_to_others = [&metadata, &directory]
        .iter()
        .any(|metadata| metadata.uid() != 0 || metadata.mode() & 0o022 != 0);
    Ok(Contents::Names(PidFile { pid, owner: metadata.uid(), open_to_others, modified }))
}

/// The number that the first line consists of.
fn parse(bytes: &[u8]) -> Option<Pid> {
    let line = bytes.split(|byte| *byte == b'\n').next()?.trim_ascii();
    let is_number = !line.is_empty() && line.iter().all(u8::is_ascii_digit);
    is_number.then(|| std::str::from_utf8(line).ok()?.parse().ok().map(Pid)).flatten()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::plain("812\n", Some(812))]
    #[case::no_newline("812", Some(812))]
    #[case::blanks("  812 \r\n", Some(812))]
    #[case::postgres("812\n/var/lib/postgresql\n1700000000\n5432\n", Some(812))]
    #[case::one("1\n", Some(1))]
    #[case::empty("", None)]
    #[case::blank_line("\n812\n", None)]
    #[case::words("pid: 812\n", None)]
    #[case::two_numbers("812 813\n", None)]
    #[case::negative("-1\n", None)]
    #[case::signed("+812\n", None)]
    #[case::too_large("99999999999999999999\n", None)]
    #[case::zeroes("\0\0\0\0", None)]
    fn the_first_line_is_a_number_or_nothing(#[case] text: &str, #[case] pid: Option<i32>) {
        assert_eq!(parse(text.as_bytes()), pid.map(Pid));
    }
}
