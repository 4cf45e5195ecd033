//! inotify on the directories of PID files; on the nearest parent where one does not exist yet.
//!
//! The directory, not the file, so that a file replaced by rename or created later is seen. Says
//! whose file may have changed; reading it is `pid`'s.

use std::collections::{BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};

use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask};

use crate::event::ProcessName;
use crate::instance::readable::Readable;

/// Everything after which a PID file may read differently, or its directory be another.
const MASK: WatchMask = WatchMask::MODIFY
    .union(WatchMask::CLOSE_WRITE)
    .union(WatchMask::CREATE)
    .union(WatchMask::DELETE)
    .union(WatchMask::MOVE)
    .union(WatchMask::ATTRIB)
    .union(WatchMask::DELETE_SELF)
    .union(WatchMask::MOVE_SELF)
    .union(WatchMask::ONLYDIR);

/// How often directories may appear and vanish under our hands before we leave it to the timer.
const TRIES: usize = 8;

/// Whose files may have changed.
#[derive(Debug, PartialEq, Eq)]
pub enum Touched {
    /// Theirs.
    These(BTreeSet<ProcessName>),
    /// Anyone's: events were lost.
    All,
}

/// One inotify queue for all PID files.
#[derive(Debug)]
pub struct Watcher {
    inotify: Inotify,
    readable: Readable,
    /// Who waits for which name in which directory.
    waiting: HashMap<WatchDescriptor, HashMap<OsString, BTreeSet<ProcessName>>>,
    watched: HashMap<ProcessName, (WatchDescriptor, OsString)>,
}

impl Watcher {
    /// Opens the queue.
    ///
    /// # Errors
    ///
    /// No inotify instance is left (`fs.inotify.max_user_instances`).
    pub fn new() -> io::Result<Self> {
        let inotify = Inotify::init()?;
        let readable = Readable::new(&inotify)?;
        Ok(Self { inotify, readable, waiting: HashMap::new(), watched: HashMap::new() })
    }

    /// Watches a process's file, or for the directories on the way to it. Again for the same
    /// process: checks that the watch is still in the right place, and moves it if not.
    ///
    /// # Errors
    ///
    /// No watch is left (`fs.inotify.max_user_watches`), no permission, or a file system that does
    /// not tell what other machines or a user-space server change on it.
    pub fn watch(&mut self, process: &ProcessName, file: &Path) -> io::Result<()> {
        let found = self.nearest(file);
        match &found {
            Ok(place) if self.watched.get(process) == Some(place) => return Ok(()),
            _ => self.forget(process),
        }
        let (watch, name) = found?;
        let names = self.waiting.entry(watch.clone()).or_default();
        names.entry(name.clone()).or_default().insert(process.clone());
        self.watched.insert(process.clone(), (watch, name));
        Ok(())
    }

    /// Watches no longer.
    pub fn forget(&mut self, process: &ProcessName) {
        let Some((watch, name)) = self.watched.remove(process) else { return };
        let Some(names) = self.waiting.get_mut(&watch) else { return };
        if let Some(processes) = names.get_mut(&name) {
            processes.remove(process);
        }
        names.retain(|_, processes| !processes.is_empty());
        if names.is_empty() {
            self.waiting.remove(&watch);
            // The only error is that the kernel has removed it already, with its directory.
            let _ = self.inotify.watches().remove(watch);
        }
    }

    /// Waits until files may have changed. Cancel safe.
    ///
    /// # Errors
    ///
    /// What reading the queue reports.
    pub async fn next(&mut self) -> io::Result<Touched> {
        let Self { inotify, readable, waiting, .. } = self;
        readable.read(|| touched(inotify, waiting)).await
    }

    /// Watches the directory of `path`, or the nearest existing one above it, for the next name on
    /// the way.
    fn nearest(&mut self, path: &Path) -> io::Result<(WatchDescriptor, OsString)> {
        let mut watches = self.inotify.watches();
        let mut error = io::Error::from(io::ErrorKind::NotFound);
        for _ in 0..TRIES {
            for (directory, name) in ways(path) {
                if changes_unseen(&directory) {
                    return Err(io::ErrorKind::Unsupported.into());
                }
                match watches.add(&directory, MASK) {
                    Ok(watch) => {
                        let next = directory.join(name);
                        if next == path || !next.is_dir() {
                            return Ok((watch, name.to_owned()));
                        }
                        // It was created before the watch was there: go nearer.
                        if !self.waiting.contains_key(&watch) {
                            watches.remove(watch)?;
                        }
                        break;
                    }
                    Err(absent) if is_absent(&absent) => error = absent,
                    Err(other) => return Err(other),
                }
            }
        }
        Err(error)
    }
}

/// Whether files there may change without passing through this kernel, inotify(7).
fn changes_unseen(directory: &Path) -> bool {
    use nix::sys::statfs::{FUSE_SUPER_MAGIC, NFS_SUPER_MAGIC, SMB_SUPER_MAGIC, statfs};
    let unseen = [FUSE_SUPER_MAGIC, NFS_SUPER_MAGIC, SMB_SUPER_MAGIC];
    statfs(directory).is_ok_and(|found| unseen.contains(&found.filesystem_type()))
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Each directory above `path`, the nearest first, with the name in it that leads to `path`.
fn ways(path: &Path) -> impl Iterator<Item = (PathBuf, &OsStr)> {
    path.ancestors().filter_map(|at| Some((at.parent()?.to_owned(), at.file_name()?)))
}

fn touched(
    inotify: &mut Inotify,
    waiting: &HashMap<WatchDescriptor, HashMap<OsString, BTreeSet<ProcessName>>>,
) -> io::Result<Touched> {
    let mut buffer = [0; 16 * 1024];
    let mut these = BTreeSet::new();
    for event in inotify.read_events(&mut buffer)? {
        if event.mask.contains(EventMask::Q_OVERFLOW) {
            return Ok(Touched::All);
        }
        let Some(names) = waiting.get(&event.wd) else { continue };
        match event.name {
            Some(name) => these.extend(names.get(name).into_iter().flatten().cloned()),
            // The directory itself was moved or removed, or only its metadata changed.
            None => these.extend(names.values().flatten().cloned()),
        }
    }
    Ok(Touched::These(these))
}
