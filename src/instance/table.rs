//! What `/proc` shows of the living: one pass over `stat`, the rest read only of those who matter.
//!
//! Answers no question about who is who; that is `who`'s. Called by `who`, `program`, `left`,
//! `reaper`, `monitor/pid`, `recovery` and `demo`.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use procfs::process::{self, Stat};
use procfs::{ProcError, ProcResult};
use rustix::fs::OFlags;

use crate::event::{Instance, Pid};

/// The flag of kernel threads in field 9 of `/proc/PID/stat` (`include/linux/sched.h`).
const PF_KTHREAD: u32 = 0x0020_0000;

/// A file's identity: what renames and symbolic links cannot change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId {
    /// Device.
    pub dev: u64,
    /// Inode.
    pub ino: u64,
}

impl FileId {
    /// Of a file that was looked at.
    #[must_use]
    pub fn of(metadata: &std::fs::Metadata) -> Self {
        Self { dev: metadata.dev(), ino: metadata.ino() }
    }
}

/// The program file a process runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exe {
    /// Its identity and its path, without the trailing ` (deleted)` of a replaced file.
    File(FileId, PathBuf),
    /// No permission to know.
    Unreadable,
    /// None: a kernel thread, or it just ended.
    Gone,
}

/// What `/proc/PID` tells of a process beyond its `stat`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Details {
    /// Its real user.
    pub uid: u32,
    /// How many PID namespaces deep it lives: the numbers in `NSpid`.
    pub depth: usize,
    /// Its command line as it stands, words ended by NULs unless it was rewritten.
    pub cmdline: Vec<u8>,
}

/// One living process.
#[derive(Debug)]
pub struct Row {
    /// Who.
    pub instance: Instance,
    /// Its parent; healer's own PID for its orphans.
    pub parent: Pid,
    /// Its session.
    pub session: Pid,
    /// Whether it is a thread of the kernel's.
    pub kernel_thread: bool,
    /// `comm`, at most 15 bytes.
    pub comm: String,
    /// The state letter of proc_pid_stat(5).
    pub state: char,
    exe: OnceCell<Exe>,
    details: OnceCell<Result<Option<Details>, i32>>,
}

impl Row {
    /// Reads one process; `None` where there is none, a zombie included.
    ///
    /// # Errors
    ///
    /// What reading `/proc` reports, other than "no such process".
    pub fn read(pid: Pid) -> io::Result<Option<Self>> {
        match process::Process::new(pid.0).and_then(|process| process.stat()) {
            Ok(stat) => Ok(Self::of(stat)),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(io::Error::other(error)),
        }
    }

    fn of(stat: Stat) -> Option<Self> {
        // A leader thread that ended shows Z while its process lives on in other threads.
        let dead = match stat.state {
            'Z' => stat.num_threads <= 1,
            'X' | 'x' => true,
            _ => false,
        };
        (!dead).then(|| Self {
            instance: Instance { pid: Pid(stat.pid), start_ticks: stat.starttime },
            parent: Pid(stat.ppid),
            session: Pid(stat.session),
            kernel_thread: stat.flags & PF_KTHREAD != 0,
            comm: stat.comm,
            state: stat.state,
            exe: OnceCell::new(),
            details: OnceCell::new(),
        })
    }

    /// The program file it runs.
    pub fn exe(&self) -> &Exe {
        self.exe.get_or_init(|| match self.with_process(read_exe) {
            Ok(exe) => exe,
            Err(error) if is_gone(&error) => Exe::Gone,
            Err(_) => Exe::Unreadable,
        })
    }

    /// User, namespace depth and command line; `None` where it ended meanwhile or hides them.
    ///
    /// # Errors
    ///
    /// No descriptor or memory is left: then nothing follows about this process.
    pub fn details(&self) -> io::Result<Option<&Details>> {
        let read = || match self.with_process(read_details) {
            Ok(details) => Ok(Some(details)),
            Err(error) if is_gone(&error) || is_hidden(&error) => Ok(None),
            Err(ProcError::Io(error, _)) => Err(error.raw_os_error().unwrap_or(libc::EIO)),
            Err(_) => Err(libc::EIO),
        };
        let read = self.details.get_or_init(read);
        read.as_ref().map(Option::as_ref).map_err(|errno| io::Error::from_raw_os_error(*errno))
    }

    /// Whether it is still there: same PID, same start.
    pub fn is_current(&self) -> bool {
        self.with_process(|_, _| Ok(())).is_ok()
    }

    /// Runs `read` on the directory of exactly this process: an open `/proc/PID` directory goes
    /// dead with its process and never shows another one of the same number.
    fn with_process<T>(
        &self,
        read: impl FnOnce(&process::Process, &Path) -> ProcResult<T>,
    ) -> ProcResult<T> {
        let process = process::Process::new(self.instance.pid.0)?;
        let stat = process.stat()?;
        if stat.starttime != self.instance.start_ticks {
            return Err(ProcError::NotFound(None));
        }
        // The dead leader of a living process has no memory and no program; its threads have.
        let thread = if stat.state == 'Z' { living_thread(&process) } else { None };
        let prefix = thread.map(|tid| format!("task/{tid}/")).unwrap_or_default();
        read(&process, Path::new(&prefix))
    }
}

fn living_thread(process: &process::Process) -> Option<i32> {
    process
        .tasks()
        .ok()?
        .filter_map(Result::ok)
        .find(|task| task.stat().is_ok_and(|stat| !matches!(stat.state, 'Z' | 'X')))
        .map(|task| task.tid)
}

fn read_exe(process: &process::Process, thread: &Path) -> ProcResult<Exe> {
    // O_PATH follows the link to the very file, even where its name was removed or replaced.
    let file = process.open_relative_flags(thread.join("exe"), OFlags::PATH | OFlags::CLOEXEC)?;
    let path = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    let path = match path.as_os_str().as_bytes().strip_suffix(b" (deleted)") {
        Some(stripped) => PathBuf::from(OsStr::from_bytes(stripped)),
        None => path,
    };
    Ok(Exe::File(FileId::of(&file.metadata()?), path))
}

fn read_details(process: &process::Process, thread: &Path) -> ProcResult<Details> {
    use std::io::Read;
    let mut cmdline = Vec::new();
    process.open_relative(thread.join("cmdline"))?.take(CMDLINE_MAX).read_to_end(&mut cmdline)?;
    if cmdline.is_empty() {
        // Erased by the program itself, or gone with the memory of a process that is ending.
        process.open_relative_flags(thread.join("exe"), OFlags::PATH | OFlags::CLOEXEC)?;
    }
    let status = process.status()?;
    // A PID that names a thread has a directory in /proc too, only unlisted.
    if status.tgid != process.pid() {
        return Err(ProcError::NotFound(None));
    }
    let depth = status.nspid.map_or(1, |numbers| numbers.len());
    Ok(Details { uid: status.ruid, depth, cmdline })
}

/// Command lines may be 2 MiB; who a process is shows earlier.
const CMDLINE_MAX: u64 = 128 * 1024;

fn is_hidden(error: &ProcError) -> bool {
    matches!(error, ProcError::PermissionDenied(_))
}

fn is_gone(error: &ProcError) -> bool {
    match error {
        ProcError::NotFound(_) => true,
        ProcError::Io(error, _) => error.raw_os_error() == Some(libc::ESRCH),
        _ => false,
    }
}

/// Everything that lived when it was taken.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Row>,
    by_pid: HashMap<Pid, usize>,
    by_file: OnceCell<ByFile>,
}

#[derive(Debug, Default)]
struct ByFile {
    ids: HashMap<FileId, Vec<usize>>,
    paths: HashMap<PathBuf, Vec<usize>>,
    unreadable: Vec<usize>,
}

impl Table {
    /// Takes a snapshot: one `stat` per process.
    ///
    /// # Errors
    ///
    /// `/proc` cannot be listed, or no descriptor or memory is left: a snapshot is complete.
    pub fn snapshot() -> io::Result<Self> {
        let mut rows = Vec::new();
        for process in process::all_processes().map_err(io::Error::other)? {
            match process.and_then(|process| process.stat()) {
                Ok(stat) => rows.extend(Row::of(stat)),
                // It ended since the listing, or is hidden from healer (hidepid).
                Err(error) if is_gone(&error) || is_hidden(&error) => {}
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        let by_pid = rows.iter().enumerate().map(|(at, row)| (row.instance.pid, at)).collect();
        Ok(Self { rows, by_pid, by_file: OnceCell::new() })
    }

    /// All of them.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The one with this PID.
    pub fn row(&self, pid: Pid) -> Option<&Row> {
        self.by_pid.get(&pid).map(|at| &self.rows[*at])
    }

    /// Those who run this file, by its identity or by its path, and those of whom it cannot be told.
    pub fn running<'a>(
        &'a self,
        id: Option<FileId>,
        path: &Path,
    ) -> impl Iterator<Item = &'a Row> + use<'a> {
        let index = self.by_file.get_or_init(|| self.index());
        let by_id = id.and_then(|id| index.ids.get(&id)).into_iter().flatten();
        let by_path = index.paths.get(path).into_iter().flatten();
        let mut found: Vec<usize> =
            by_id.chain(by_path).chain(&index.unreadable).copied().collect();
        found.sort_unstable();
        found.dedup();
        found.into_iter().map(|at| &self.rows[at])
    }

    fn index(&self) -> ByFile {
        let mut index = ByFile::default();
        for (at, row) in self.rows.iter().enumerate().filter(|(_, row)| !row.kernel_thread) {
            match row.exe() {
                Exe::File(id, path) => {
                    index.ids.entry(*id).or_default().push(at);
                    index.paths.entry(path.clone()).or_default().push(at);
                }
                Exe::Unreadable => index.unreadable.push(at),
                Exe::Gone => {}
            }
        }
        index
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::own_pid;

    #[test]
    fn healer_finds_itself_with_its_program_and_user() {
        let table = Table::snapshot().unwrap();
        let row = table.row(own_pid()).unwrap();
        assert!(row.is_current());
        let own = std::fs::metadata("/proc/self/exe").unwrap();
        let path = std::env::current_exe().unwrap();
        assert_eq!(*row.exe(), Exe::File(FileId::of(&own), path.clone()));
        let details = row.details().unwrap().unwrap();
        assert_eq!(details.uid, nix::unistd::getuid().as_raw());
        assert!(details.cmdline.starts_with(std::env::args().next().unwrap().as_bytes()));
        assert!(table.running(None, &path).any(|row| row.instance.pid == own_pid()));
    }

    #[test]
    fn another_start_time_is_another_process() {
        let mut row = Row::read(own_pid()).unwrap().unwrap();
        row.instance.start_ticks += 1;
        assert!(!row.is_current());
        assert_eq!(*row.exe(), Exe::Gone);
        assert_eq!(row.details().unwrap(), None);
    }

    #[test]
    fn a_pid_of_nobody_has_no_row() {
        assert!(Row::read(Pid(i32::MAX)).unwrap().is_none());
        assert!(Row::read(Pid(-1)).unwrap().is_none());
    }
}
