//! The one reaper: it alone waits for children, healer's own and the orphans that healer is given
//! as sub-reaper, and keeps how a known child ended until that is asked for.
//!
//! Pidfds tell when an instance ended, the reaper how. Also here: which orphan is the daemon that a
//! daemonising command left behind. Called by `recovery`.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};

use crate::clock;
use crate::config::Process;
use crate::event::{Cpu, End, Exit, Instance, Pid, Signal};

use super::own_pid;
use super::program;
use super::table::{Row, Table};
use super::who::{self, Fit};

/// Makes orphans among healer's descendants healer's children, prctl(2) `PR_SET_CHILD_SUBREAPER`.
///
/// # Errors
///
/// What prctl(2) reports.
pub fn become_subreaper() -> io::Result<()> {
    nix::sys::prctl::set_child_subreaper(true).map_err(io::Error::from)
}

/// healer's children: who is expected to end, and how those ended that were not asked for yet.
#[derive(Debug, Default)]
pub struct Reaper {
    // A child's PID is its own until it is reaped, so that among the living the PID is enough.
    living: HashMap<Pid, Instance>,
    ended: HashMap<Instance, Exit>,
}

impl Reaper {
    /// Knows no child yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Keep this child's exit for [`Reaper::take`]. Call it right after the spawn, or once an
    /// orphan turns out to be an instance: before the next [`Reaper::reap`].
    pub fn expect(&mut self, child: Instance) {
        self.living.insert(child.pid, child);
    }

    /// Whether `pid` is a child that is expected and was not reaped.
    #[must_use]
    pub fn expects(&self, pid: Pid) -> bool {
        self.living.contains_key(&pid)
    }

    /// Reaps every child that has ended; to be called on SIGCHLD and before an exit is taken.
    ///
    /// # Errors
    ///
    /// What wait4(2) reports, other than "no child".
    pub fn reap(&mut self) -> io::Result<()> {
        while let Some((pid, end, usage)) = wait_for_any()? {
            let Some(instance) = self.living.remove(&pid) else { continue };
            let exit = Exit {
                end,
                runtime: Some(clock::now().since(clock::started(instance))),
                cpu: Some(Cpu { user: duration(usage.ru_utime), system: duration(usage.ru_stime) }),
                peak_rss: own_peak(usage.ru_maxrss),
                ..Exit::default()
            };
            self.ended.insert(instance, exit);
        }
        Ok(())
    }

    /// How this instance ended, once; `None` where it was not reaped (yet).
    pub fn take(&mut self, instance: Instance) -> Option<Exit> {
        self.ended.remove(&instance)
    }

    /// Expects this child no longer: it is reaped as an orphan is, and nothing of it is kept.
    pub fn forget(&mut self, child: Instance) {
        if self.living.get(&child.pid) == Some(&child) {
            self.living.remove(&child.pid);
        }
        self.ended.remove(&child);
    }
}

fn wait_for_any() -> io::Result<Option<(Pid, Option<End>, libc::rusage)>> {
    let mut status = 0;
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    #[expect(unsafe_code, reason = "no safe wrapper of wait4(2) gives the resource usage")]
    // SAFETY: both pointers are to live, writable memory of their types, and all zeroes is a valid
    // `rusage` where the kernel writes none.
    let (pid, usage) = unsafe {
        let options = libc::WNOHANG | libc::__WALL;
        (libc::wait4(-1, &raw mut status, options, usage.as_mut_ptr()), usage.assume_init())
    };
    match pid {
        1.. => Ok(Some((Pid(pid), end_of(status), usage))),
        0 => Ok(None),
        _ => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ECHILD) => Ok(None),
            error => Err(error),
        },
    }
}

/// What a status of wait(2) says.
pub fn end_of(status: libc::c_int) -> Option<End> {
    if libc::WIFEXITED(status) {
        return Some(End::Code(libc::WEXITSTATUS(status)));
    }
    libc::WIFSIGNALED(status).then(|| End::Signal {
        signal: Signal(libc::WTERMSIG(status)),
        core_dumped: libc::WCOREDUMP(status),
    })
}

/// What a child itself took at most, in bytes. Until its exec it shares healer's memory, as
/// posix_spawn(3) does without a copy, and Linux counts that peak as the child's: one that is not
/// higher may be healer's.
fn own_peak(counted: libc::c_long) -> Option<u64> {
    let own = getrusage(UsageWho::RUSAGE_SELF).map_or(0, |own| own.max_rss());
    // In KiB, getrusage(2).
    u64::try_from(counted).ok().filter(|_| counted > own).map(|kib| kib * 1024)
}

fn duration(time: libc::timeval) -> Duration {
    let micros = i128::from(time.tv_sec) * 1_000_000 + i128::from(time.tv_usec);
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

/// The daemon that a launched command left behind when it exited: an orphan that came to healer
/// from the launch. That is one in the launched process's session; else one, started since, that
/// runs the entry's program (daemons make a session of their own). Of several, a session leader,
/// then the oldest. One that shows no arguments may come from another entry's launch of the same
/// program: it is taken only where it is the only one. `known` tells the instances of all entries.
///
/// A double-forking command may be seen between its forks: the process found then exits 0 at once,
/// as the command itself did, and the daemon is its successor in turn.
pub fn successor(
    launched: Instance,
    process: &Process,
    known: &dyn Fn(Instance) -> bool,
    table: &Table,
) -> Option<Instance> {
    let orphans: Vec<&Row> =
        table.rows().iter().filter(|row| is_orphan(row, launched, known)).collect();
    let in_session = orphans.iter().filter(|row| row.session == launched.pid);
    if let Some(found) = foremost(in_session) {
        return Some(found);
    }
    let wanted = program::wanted(process).ok()?;
    let fits: Vec<_> = orphans.iter().map(|row| (row, who::fits(&wanted, row))).collect();
    let full = fits.iter().filter(|(_, fit)| *fit == Fit::Full);
    foremost(full.map(|(row, _)| *row)).or_else(|| {
        // A worker whose master is gone shows a title too, but leads no session.
        let is_leader = |row: &Row| row.session == row.instance.pid;
        let mut rewritten =
            fits.iter().filter(|(row, fit)| *fit == Fit::Rewritten && is_leader(row));
        let only = rewritten.next().filter(|_| rewritten.next().is_none());
        only.map(|(row, _)| row.instance)
    })
}

/// Whether something lives, or ended and was not reaped yet, that came to healer since the launch
/// and is none of healer's `known` children: of it a daemon may yet come. A parent that ended in
/// the middle of a double fork may be seen where its child, the daemon, is not yet. Where the
/// kernel does not list children, it is possible.
pub fn may_have_left(launched: Instance, known: &dyn Fn(Pid) -> bool) -> bool {
    let came_since = |pid: Pid| match Row::read(pid) {
        Ok(Some(row)) => row.instance.start_ticks >= launched.start_ticks,
        Ok(None) | Err(_) => true,
    };
    own_children().is_none_or(|all| all.into_iter().any(|pid| !known(pid) && came_since(pid)))
}

/// healer's own children, zombies included; `None` where the kernel does not list them
/// (`CONFIG_PROC_CHILDREN`). Such a list may skip one while others vanish from it; healer's do not,
/// as only its reaper, on this same thread, lets a child vanish.
///
/// The kernel lists them by thread. Orphans are given to the first one, and this one alone spawns:
/// the others have none, and to list all threads would take longer than to look at these.
pub(super) fn own_children() -> Option<Vec<Pid>> {
    thread_local! {
        /// The lists, and whose they are: to open them takes several times as long as to read them.
        static LISTS: RefCell<Option<(Pid, Vec<File>)>> = const { RefCell::new(None) };
    }
    LISTS.with_borrow_mut(|lists| {
        let own = own_pid();
        if lists.as_ref().is_none_or(|(owner, _)| *owner != own) {
            let this = Pid(nix::unistd::gettid().as_raw());
            let threads = BTreeSet::from([own, this]);
            let open = |thread: &Pid| File::open(format!("/proc/self/task/{thread}/children"));
            *lists = Some((own, threads.iter().map(open).collect::<io::Result<_>>().ok()?));
        }
        let (_, lists) = lists.as_ref()?;
        lists.iter().map(read_list).collect::<Option<Vec<_>>>().map(|lists| lists.concat())
    })
}

fn read_list(list: &File) -> Option<Vec<Pid>> {
    let (mut text, mut part) = (Vec::new(), [0; 4096]);
    loop {
        match list.read_at(&mut part, text.len() as u64).ok()? {
            0 => break,
            more => text.extend_from_slice(&part[..more]),
        }
    }
    let pids = std::str::from_utf8(&text).ok()?.split_ascii_whitespace();
    Some(pids.filter_map(|pid| pid.parse().ok().map(Pid)).collect())
}

/// A child of healer that is nobody's instance and started no earlier than the launched one.
fn is_orphan(row: &Row, launched: Instance, known: &dyn Fn(Instance) -> bool) -> bool {
    row.parent == own_pid()
        && row.instance != launched
        && row.instance.start_ticks >= launched.start_ticks
        && !known(row.instance)
}

fn foremost<'a>(rows: impl Iterator<Item = &'a &'a Row>) -> Option<Instance> {
    let order = |row: &&&Row| (row.session != row.instance.pid, row.instance.start_ticks);
    rows.min_by_key(order).map(|row| row.instance)
}
