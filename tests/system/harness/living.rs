//! Who is alive, by `/proc`, and signals that cannot hit anyone else.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// A living process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Living {
    /// Its PID, an identity only together with its words.
    pub pid: i32,
    /// Its command line.
    pub words: Vec<Vec<u8>>,
}

impl Living {
    /// Reads one; `None` for the dead, zombies and kernel threads.
    pub fn read(pid: i32) -> Option<Self> {
        let own = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let text = if own.is_empty() { of_other_threads(pid)? } else { own };
        let words = text.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
        Some(Self { pid, words })
    }

    /// Whether `word` is among the words of its command line.
    pub fn has(&self, word: impl AsRef<OsStr>) -> bool {
        self.words.iter().any(|own| own == word.as_ref().as_bytes())
    }

    /// Whether it works in `dir`, or names anything in it on its command line.
    pub fn is_of(&self, dir: &Path) -> bool {
        let path = dir.as_os_str().as_bytes();
        self.words.iter().any(|word| word.windows(path.len()).any(|part| part == path))
            || fs::read_link(format!("/proc/{}/cwd", self.pid))
                .is_ok_and(|cwd| cwd.starts_with(dir))
    }
}

/// The command line by another thread, where the leader has ended and others live.
fn of_other_threads(pid: i32) -> Option<Vec<u8>> {
    fs::read_dir(format!("/proc/{pid}/task")).ok()?.find_map(|thread| {
        fs::read(thread.ok()?.path().join("cmdline")).ok().filter(|text| !text.is_empty())
    })
}

/// All that live now.
pub fn living() -> impl Iterator<Item = Living> {
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(Living::read)
}

/// Sends `signal` to this process and no other; false where it is gone.
pub fn kill(process: &Living, signal: Signal) -> bool {
    let Ok(pidfd) = pidfd_open(Pid::from_raw(process.pid).unwrap(), PidfdFlags::empty()) else {
        return false;
    };
    // The pidfd is of whoever has the number now; its words tell whether that is still the one.
    Living::read(process.pid).as_ref() == Some(process) && pidfd_send_signal(&pidfd, signal).is_ok()
}
