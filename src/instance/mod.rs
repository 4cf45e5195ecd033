//! Identity: an instance is held by a pidfd, opened and verified here.
//!
//! `who` decides which living process is meant, `program` what an entry's command resolves to,
//! `left` what remains of a dead instance, `reaper` how a child ended, `table` what `/proc` shows,
//! `readable` when. Called by monitors, `launch`, `recovery` and `demo`.

pub mod left;
pub mod program;
pub mod readable;
pub mod reaper;
pub mod table;
pub mod who;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::{io, ptr};

use rustix::process::{PidfdFlags, pidfd_open};

use crate::clock::tick_of;
use crate::event::{Instance, Pid, Signal, Time};

/// healer's own PID.
#[must_use]
pub fn own_pid() -> Pid {
    Pid(std::process::id().cast_signed())
}

/// A process that cannot be mistaken for another: its pidfd, and the start time read while the
/// pidfd proved that the PID was still the same process's.
#[derive(Debug)]
pub struct Held {
    instance: Instance,
    session: Pid,
    pidfd: OwnedFd,
}

impl Held {
    /// Takes hold of the process that has `pid` now; `None` where there is none (any more), a
    /// zombie included.
    ///
    /// # Errors
    ///
    /// What pidfd_open(2) or reading `/proc/PID/stat` reports, other than "no such process".
    pub fn open(pid: Pid) -> io::Result<Option<Self>> {
        let Some(raw) = rustix::process::Pid::from_raw(pid.0) else { return Ok(None) };
        let pidfd = match pidfd_open(raw, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            // A thread that leads no group: EINVAL, or ENOENT from Linux 6.18 on.
            Err(rustix::io::Errno::SRCH | rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {
                return Ok(None);
            }
            Err(errno) => return Err(errno.into()),
        };
        // The pidfd pins the process, not its number: what is read of the number afterwards is
        // the same process's only if the pidfd still shows it running after the reading.
        let stat = match procfs::process::Process::new(pid.0).and_then(|process| process.stat()) {
            Ok(stat) => stat,
            Err(procfs::ProcError::NotFound(_)) => return Ok(None),
            Err(procfs::ProcError::Io(error, _)) if error.raw_os_error() == Some(libc::ESRCH) => {
                return Ok(None);
            }
            Err(procfs::ProcError::Io(error, _)) => return Err(error),
            Err(error) => return Err(io::Error::other(error)),
        };
        let instance = Instance { pid, start_ticks: stat.starttime };
        let held = Self { instance, session: Pid(stat.session), pidfd };
        Ok(held.is_running()?.then_some(held))
    }

    /// Takes hold of exactly this instance; `None` where it is gone, even if its PID lives on.
    ///
    /// # Errors
    ///
    /// As [`Held::open`].
    pub fn open_exactly(instance: Instance) -> io::Result<Option<Self>> {
        Ok(Self::open(instance.pid)?.filter(|held| held.instance == instance))
    }

    /// Takes hold of a child that was just spawned as the leader of a session of its own, between
    /// the moments `before` and `after`, and that nobody has waited for; `None` where it has ended.
    ///
    /// Linux 6.18 lets a reader of `/proc/PID/stat` wait while the process is in execve(2), and
    /// then healer would wait through most of each launch. So it is read only where the moments
    /// lie in two clock ticks, and the start time between them may be either.
    ///
    /// # Errors
    ///
    /// As [`Held::open`].
    pub fn open_spawned(pid: Pid, before: Time, after: Time) -> io::Result<Option<Self>> {
        let Some(raw) = rustix::process::Pid::from_raw(pid.0) else { return Ok(None) };
        if tick_of(before) != tick_of(after) {
            return Self::open(pid);
        }
        let pidfd = pidfd_open(raw, PidfdFlags::empty())?;
        let instance = Instance { pid, start_ticks: tick_of(before) };
        let held = Self { instance, session: pid, pidfd };
        Ok(held.is_running()?.then_some(held))
    }

    /// Which process this is.
    #[must_use]
    pub fn instance(&self) -> Instance {
        self.instance
    }

    /// The session it was in when it was taken hold of.
    #[must_use]
    pub fn session(&self) -> Pid {
        self.session
    }

    /// Whether it still runs: false from the moment its last thread ended, zombie or not.
    ///
    /// # Errors
    ///
    /// What poll(2) reports.
    pub fn is_running(&self) -> io::Result<bool> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut set = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        Ok(poll(&mut set, Some(&now))? == 0)
    }

    /// Sends a signal to this process and to no other, pidfd_send_signal(2); `false` where it has
    /// ended already.
    ///
    /// # Errors
    ///
    /// No permission, or no such signal.
    pub fn signal(&self, signal: Signal) -> io::Result<bool> {
        #[expect(unsafe_code, reason = "no safe wrapper sends a real-time signal")]
        // SAFETY: the descriptor is open, and with no siginfo and no flags the kernel reads no
        // memory of ours.
        let sent = unsafe {
            let (pidfd, no_info) = (self.pidfd.as_raw_fd(), ptr::null::<libc::siginfo_t>());
            libc::syscall(libc::SYS_pidfd_send_signal, pidfd, signal.0, no_info, 0_u32)
        };
        if sent == 0 {
            return Ok(true);
        }
        match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ESRCH) => Ok(false),
            error => Err(error),
        }
    }
}

impl AsFd for Held {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}
