//! The words everyone uses: who a process is, what was seen of it, how it ended, where it stands.
//!
//! Pure data. Monitors publish [`Observation`]s, recovery publishes [`Change`]s; both travel on the
//! bus as [`Event`]s. Deciding what follows from them is left to `lifecycle`, `breaker` and `recovery`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// A moment, in nanoseconds of `CLOCK_BOOTTIME`: it goes on during suspend and no one can set it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// The moment `by` later; saturates at the end of time (584 years after boot).
    #[must_use]
    pub fn after(self, by: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// How long ago `earlier` was; zero where it is not earlier.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// The name of an entry of `processes:`: `[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}`, checked by `config`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessName(Arc<str>);

impl ProcessName {
    /// Takes a name that `config` has checked.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// The name as written in the configuration.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ProcessName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A process ID in healer's PID namespace. Never an identity by itself: see [`Instance`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pid(pub i32);

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One running incarnation of a process: PID and start time together, which no other process of
/// this boot shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instance {
    /// Its process ID (the thread group's).
    pub pid: Pid,
    /// When it started, in clock ticks since boot: field 22 of `/proc/PID/stat`, proc_pid_stat(5).
    pub start_ticks: u64,
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pid.fmt(f)
    }
}

/// A signal by its number, 1 to 64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signal(pub i32);

impl Signal {
    /// Whether a process brings this signal upon itself by a fault of its program (signal(7)).
    #[must_use]
    pub fn is_fault(self) -> bool {
        use nix::sys::signal::Signal as S;
        [S::SIGSEGV, S::SIGBUS, S::SIGFPE, S::SIGILL, S::SIGABRT, S::SIGSYS, S::SIGTRAP]
            .iter()
            .any(|fault| *fault as i32 == self.0)
    }

    /// Whether this is how operators and service managers ask a process to end.
    #[must_use]
    pub fn asks_to_end(self) -> bool {
        use nix::sys::signal::Signal as S;
        [S::SIGTERM, S::SIGINT, S::SIGHUP].iter().any(|polite| *polite as i32 == self.0)
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match nix::sys::signal::Signal::try_from(self.0) {
            Ok(signal) => f.write_str(signal.as_str()),
            Err(_) => write!(f, "signal {}", self.0),
        }
    }
}

/// How an instance came to its end: by itself or by a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It exited with this code, 0 to 255.
    Code(i32),
    /// A signal ended it.
    Signal {
        /// Which one.
        signal: Signal,
        /// Whether the kernel wrote a core dump.
        core_dumped: bool,
    },
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal { signal, core_dumped: false } => signal.fmt(f),
            Self::Signal { signal, core_dumped: true } => write!(f, "{signal}, core dumped"),
        }
    }
}

/// Who brought a signal about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Killer {
    /// Another process sent it.
    Process {
        /// Its PID; `None` where it has none in healer's PID namespace.
        pid: Option<Pid>,
        /// Its `comm`, at most 15 bytes.
        comm: String,
        /// Its real user.
        uid: u32,
    },
    /// The process sent it to itself: abort(3), raise(3), SIGPIPE.
    Itself,
    /// The kernel: a fault of the program, a limit, a timer, lack of memory.
    Kernel,
}

impl fmt::Display for Killer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Process { pid, comm, uid } = self else {
            return f.write_str(if *self == Self::Itself { "itself" } else { "the kernel" });
        };
        let comm = printable(comm);
        match pid {
            Some(pid) => write!(f, "{comm} (PID {pid}, ")?,
            None => write!(f, "{comm} (outside of this PID namespace, ")?,
        }
        match uid {
            0 => f.write_str("root)"),
            uid => write!(f, "uid {uid})"),
        }
    }
}

/// What a process or a cgroup is called is somebody's choice, and this goes to logs.
fn printable(name: &str) -> String {
    name.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// A signal and who brought it about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Which one.
    pub signal: Signal,
    /// By whom.
    pub by: Killer,
}

impl fmt::Display for Sent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} by {}", self.signal, self.by)
    }
}

/// The kernel chose the process as the victim of memory running out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Oom {
    /// The path of its memory cgroup, as `/proc/PID/cgroup` shows it to healer, or its end after a
    /// `…`; `None` for the root, or where it is not known.
    pub cgroup: Option<String>,
}

/// CPU time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cpu {
    /// In the program.
    pub user: Duration,
    /// In the kernel on its behalf.
    pub system: Duration,
}

/// Everything known of an instance's end. Unknown parts are `None`, never guessed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exit {
    /// Code or signal.
    pub end: Option<End>,
    /// Who sent the signal that ended it.
    pub killer: Option<Killer>,
    /// It was killed for want of memory.
    pub oom: Option<Oom>,
    /// The signal that came shortly before, where no signal is known to have ended it: a process
    /// that handles SIGTERM exits by itself.
    pub last_signal: Option<Sent>,
    /// From its start to its end.
    pub runtime: Option<Duration>,
    /// CPU time. Of healer's own children, that of their waited-for children is included
    /// (getrusage(2)).
    pub cpu: Option<Cpu>,
    /// Peak resident set size in bytes; `None` for a child of healer's that took no more than healer
    /// did, as that cannot be told then.
    pub peak_rss: Option<u64>,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.oom, self.end, &self.killer) {
            (Some(Oom { cgroup: Some(cgroup) }), ..) => {
                write!(f, "OOM-killed (in cgroup {})", printable(cgroup))?;
            }
            (Some(Oom { cgroup: None }), ..) => f.write_str("OOM-killed")?,
            // That the kernel sent it goes without saying.
            (None, Some(End::Signal { signal, core_dumped }), Some(killer))
                if !(signal.is_fault() && *killer == Killer::Kernel) =>
            {
                write!(f, "{signal} by {killer}")?;
                f.write_str(if core_dumped { ", core dumped" } else { "" })?;
            }
            (None, Some(end), _) => end.fmt(f)?,
            (None, None, _) => f.write_str("cause unknown")?,
        }
        match &self.last_signal {
            Some(sent) => write!(f, " after {sent}"),
            None => Ok(()),
        }
    }
}

/// What a monitor saw of one process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observation {
    /// This living instance is the process.
    Up(Instance),
    /// No living instance is to be found.
    Missing,
    /// It cannot be told which living instance is the process; `reason` says what would decide.
    Unclear {
        /// A sentence fragment for the operator.
        reason: String,
    },
    /// Its probe succeeds: so many times in a row as it takes to be called healthy.
    Healthy {
        /// Which instance was held when it did; `None` for a process that is only watched.
        instance: Option<Instance>,
    },
    /// So many probes in a row failed that it is called hung.
    Unhealthy {
        /// Which instance was held while they did; `None` for a process that is only watched.
        instance: Option<Instance>,
        /// Why the last one failed: a sentence fragment for the operator.
        reason: String,
    },
}

/// Where a process stands, as operators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Not looked at yet, or it cannot be told which process is meant.
    Unknown {
        /// What would decide; empty before the first look.
        reason: String,
    },
    /// Not running, and nothing is under way (`autostart: false`).
    Down,
    /// Waits before the next start, because it keeps ending before it is ready.
    BackingOff {
        /// When the start is due.
        until: Time,
    },
    /// To be started, but waits for what it depends on.
    Held {
        /// For whom, and why that takes so long; at least one.
        waiting: Vec<Wait>,
    },
    /// Being started: waits for a launch slot, for what is left of the last instance to go, for
    /// the exec, or for a daemonising command's successor.
    Starting,
    /// Running.
    Up {
        /// The living instance.
        instance: Instance,
        /// Whether its probe succeeds; without one, whether it lived for `ready_after_secs`.
        ready: bool,
    },
    /// Being ended.
    Stopping {
        /// The instance that is to end.
        instance: Instance,
        /// Why, and what keeps it from ending if something does.
        reason: String,
    },
    /// The breaker is Open: no start before `until`.
    BreakerOpen {
        /// When the one trial is due.
        until: Time,
    },
    /// The breaker is HalfOpen and its one trial is starting or has to prove itself.
    Trial {
        /// The instance on trial, once it runs.
        instance: Option<Instance>,
    },
    /// Ended, and `restart` says to leave it so.
    Finished,
    /// Only watched, and its probe succeeds.
    Reachable,
    /// Only watched, and its probe fails.
    Unreachable {
        /// Why the last probe failed.
        reason: String,
    },
    /// Watched, but left as it is until somebody resumes it.
    Paused {
        /// By whom, and for how long.
        pause: Pause,
        /// The living instance, if there is one.
        instance: Option<Instance>,
    },
}

/// Somebody's wish that a process be left as it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pause {
    /// Who wished so, in words: `root`, `uid 1000`.
    pub by: String,
    /// When it ends by itself; `None`: never.
    pub until: Option<Time>,
}

/// What an operator may ask of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// End it, and leave it down until it is resumed.
    Stop,
    /// Watch it, but start and end nothing.
    Pause {
        /// For so long; `None`: until it is resumed.
        lasting: Option<Duration>,
    },
    /// Undo a stop or a pause, and start it where it is down.
    Resume,
    /// End it and start it anew, free of budget; start it where it is down.
    Restart,
    /// Close its breaker and forget its failures.
    Reset,
}

/// What keeps a process from being started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    /// Which dependency is not ready.
    pub on: ProcessName,
    /// Where that one stands, in words: `breaker open`, `starting`.
    pub reason: String,
    /// When that changes by itself, as far as is known.
    pub changes: Option<Time>,
    /// When `max_wait_secs` is over; `None`: it is, and there is no other timer.
    pub until: Option<Time>,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown { .. } => "unknown",
            Self::Down => "down",
            Self::BackingOff { .. } => "backing-off",
            Self::Held { .. } => "held",
            Self::Starting => "starting",
            Self::Up { ready: false, .. } => "up",
            Self::Up { ready: true, .. } => "ready",
            Self::Stopping { .. } => "stopping",
            Self::BreakerOpen { .. } => "breaker-open",
            Self::Trial { .. } => "trial",
            Self::Finished => "finished",
            Self::Reachable => "reachable",
            Self::Unreachable { .. } => "unreachable",
            Self::Paused { .. } => "paused",
        })
    }
}

/// One thing that happened to a process, published by recovery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A running instance was found and is guarded from now on.
    Adopted(Instance),
    /// The guarded instance ended.
    Ended {
        /// Which one.
        instance: Instance,
        /// How. Boxed, as it is much larger than all other news.
        exit: Box<Exit>,
    },
    /// So many probes of the living instance failed in a row that it is to be replaced.
    Hung {
        /// Which one.
        instance: Instance,
        /// Why the last probe failed.
        reason: String,
    },
    /// The guarded instance cannot be ended.
    Stuck {
        /// Which one.
        instance: Instance,
        /// What keeps it.
        reason: String,
    },
    /// A launch was confirmed: the program runs.
    Started {
        /// The new instance.
        instance: Instance,
        /// From the end of the last instance to this exec; `None` for a first start.
        outage: Option<Duration>,
    },
    /// A launch failed.
    LaunchFailed {
        /// The step and what the system said.
        reason: String,
    },
    /// The machine, not the process, was at fault (EAGAIN, ENOMEM, EMFILE …): launches wait. Told
    /// once until one succeeds.
    NodeFault {
        /// The step and what the system said.
        reason: String,
    },
    /// It has waited for a dependency for `max_wait_secs`, and is started without it.
    Waived {
        /// Without whom.
        on: ProcessName,
        /// How long it has waited.
        waited: Duration,
        /// Whether it counts as degraded until that one is ready.
        degraded: bool,
    },
    /// It has waited for a dependency for `max_wait_secs`, and waits on until that one is ready.
    Overdue {
        /// For whom.
        on: ProcessName,
        /// How long it has waited.
        waited: Duration,
    },
    /// A dependency without which it was degraded is ready.
    Complete {
        /// Which one.
        on: ProcessName,
    },
    /// The process moved from one state to another.
    Moved {
        /// Where it stood.
        from: State,
        /// Where it stands now.
        to: State,
    },
    /// More than `retries` failures in `retry_window_secs`: Closed to Open.
    BreakerOpened {
        /// When the one trial is due.
        until: Time,
        /// Failures in the window, the one that opened it included.
        failures: usize,
    },
    /// The trial failed: HalfOpen to Open.
    BreakerReopened {
        /// When the next trial is due.
        until: Time,
    },
    /// The trial proved itself: HalfOpen to Closed.
    BreakerClosed,
}

/// What travels on the bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Of which process.
    pub process: ProcessName,
    /// When it was seen or done.
    pub at: Time,
    /// What.
    pub what: What,
}

/// The two kinds of news: what monitors saw and what recovery did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// From a monitor.
    Saw(Observation),
    /// From recovery.
    Did(Change),
}
