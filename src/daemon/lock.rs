//! One healer per PID file directory: `healer.pid` is held locked, and says who holds it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, OFlags, flock};

use crate::config::ownership::{Distrust, Examined, examine};

/// How long a lock is waited for whose holder is dead. A healer that was killed in the middle of a
/// spawn has left it to a child, which lets go of it at its exec.
const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(5);

/// The lock; released and its file removed when dropped.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    as_root: bool,
    // Holds the lock.
    file: File,
}

/// Why this healer does not start.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// There is one already.
    #[error("another healer{} holds {}; stop it, or set another pid_file_directory", by(*holder), path.display())]
    Held {
        /// The lock file.
        path: PathBuf,
        /// Its PID, as far as the file tells.
        holder: Option<u32>,
    },
    /// Others than root could put a PID file, or a directory, of their own there.
    #[error("{} {}: root's PID file cannot be there (cure: {} {}, or set another pid_file_directory)",
        element.display(), distrust.what, distrust.cure, element.display())]
    Unsafe {
        /// The directory, or one above it.
        element: PathBuf,
        /// Why, and the cure.
        distrust: Distrust,
    },
    /// The system refuses.
    #[error("cannot use {}; create it for healer, or set another pid_file_directory", path.display())]
    System {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

fn by(holder: Option<u32>) -> String {
    holder.map_or_else(String::new, |pid| format!(" (PID {pid})"))
}

impl Lock {
    /// Takes the lock in this directory, which is created where it is missing.
    ///
    /// # Errors
    ///
    /// [`LockError`].
    pub fn take(directory: &Path, as_root: bool) -> Result<Self, LockError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source: io::Error| LockError::System { path, source }
        };
        DirBuilder::new().recursive(true).mode(0o755).create(directory).map_err(at(directory))?;
        if as_root
            && let Examined::Distrusted { element, distrust } =
                examine(directory, None).map_err(at(directory))?
        {
            return Err(LockError::Unsafe { element, distrust });
        }
        let path = directory.join("healer.pid");
        let patience = Instant::now() + PATIENCE;
        loop {
            let mut file = open(&path).map_err(at(&path))?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    let mut text = String::new();
                    // An unreadable holder is one that goes unnamed.
                    let _ = file.read_to_string(&mut text);
                    let holder = text.trim().parse().ok();
                    if holder.is_some_and(is_dead) && Instant::now() < patience {
                        thread::sleep(PAUSE);
                        continue;
                    }
                    return Err(LockError::Held { path, holder });
                }
                Err(errno) => return Err(at(&path)(errno.into())),
            }
            // The one before may have removed the file between the opening and the lock.
            if is_at(&file, &path) {
                write(&mut file).map_err(at(&path))?;
                return Ok(Self { path, as_root, file });
            }
        }
    }

    /// Takes the lock anew where its file was removed or replaced, which would let a second healer
    /// in.
    ///
    /// # Errors
    ///
    /// As [`Lock::take`]; a second healer is in already, most likely.
    pub fn keep(&mut self) -> Result<(), LockError> {
        if !is_at(&self.file, &self.path) {
            let directory = self.path.parent().unwrap_or(Path::new("/"));
            *self = Self::take(directory, self.as_root)?;
        }
        Ok(())
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Removed while it is held, so that nobody else's is hit. Left behind it would do no harm.
        if is_at(&self.file, &self.path) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn is_dead(pid: u32) -> bool {
    !Path::new("/proc").join(pid.to_string()).exists()
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o644)
        .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed())
        .open(path)
}

fn is_at(file: &File, path: &Path) -> bool {
    let identity = |found: fs::Metadata| (found.dev(), found.ino());
    let opened = file.metadata().map(identity).ok();
    opened.is_some() && opened == fs::symlink_metadata(path).map(identity).ok()
}

fn write(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn as_root() -> bool {
        rustix::process::geteuid().is_root()
    }

    #[test]
    fn a_second_one_is_refused_naming_the_first_until_that_ends() {
        let directory = tempfile::tempdir().unwrap();
        let first = Lock::take(directory.path(), as_root()).unwrap();
        let refused = Lock::take(directory.path(), as_root()).unwrap_err().to_string();
        let own = format!("another healer (PID {}) holds ", std::process::id());
        assert!(refused.starts_with(&own), "{refused}");
        drop(first);
        assert!(!directory.path().join("healer.pid").exists());
        Lock::take(directory.path(), as_root()).unwrap();
    }

    #[test]
    fn a_lock_whose_file_was_removed_is_taken_anew_unless_another_was_quicker() {
        let above = tempfile::tempdir().unwrap();
        let directory = above.path().join("run");
        let mut first = Lock::take(&directory, as_root()).unwrap();
        first.keep().unwrap();
        fs::remove_dir_all(&directory).unwrap();
        first.keep().unwrap();
        Lock::take(&directory, as_root()).unwrap_err();
        fs::remove_dir_all(&directory).unwrap();
        let second = Lock::take(&directory, as_root()).unwrap();
        assert!(matches!(first.keep(), Err(LockError::Held { .. })));
        drop(first);
        assert!(is_at(&second.file, &second.path), "the second one's file was removed");
    }

    #[test]
    fn lock_that_a_dead_healer_left_to_a_child_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("healer.pid");
        // Above the highest PID that Linux gives, 2²².
        fs::write(&path, "4194305\n").unwrap();
        let left = File::open(&path).unwrap();
        flock(&left, FlockOperation::NonBlockingLockExclusive).unwrap();
        let child = thread::spawn(move || {
            thread::sleep(10 * PAUSE);
            drop(left);
        });
        Lock::take(directory.path(), as_root()).unwrap();
        child.join().unwrap();
    }

    #[test]
    fn a_file_left_by_a_crash_is_taken_over() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("healer.pid");
        fs::write(&path, "999999999999\n").unwrap();
        let _lock = Lock::take(directory.path(), as_root()).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
    }

    #[test]
    fn a_directory_that_others_may_write_is_refused_to_root() {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777))
            .unwrap();
        let refused = Lock::take(directory.path(), true).unwrap_err();
        assert!(matches!(refused, LockError::Unsafe { .. }), "{refused}");
    }

    #[test]
    fn a_directory_that_others_may_replace_is_refused_to_root() {
        if !as_root() {
            // Above a directory that is not root's, this one would not be reached.
            return;
        }
        let parent = tempfile::tempdir().unwrap();
        fs::set_permissions(parent.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777))
            .unwrap();
        let refused = Lock::take(&parent.path().join("run"), true).unwrap_err().to_string();
        let named = format!("{} is writable by everyone", parent.path().display());
        assert!(refused.starts_with(&named), "{refused}");
    }

    #[test]
    fn a_symbolic_link_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let victim = directory.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, directory.path().join("healer.pid")).unwrap();
        assert!(Lock::take(directory.path(), as_root()).is_err());
        assert_eq!(fs::read_to_string(victim).unwrap(), "precious");
    }
}
