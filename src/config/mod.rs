//! The configuration as the rest of healer uses it: validated, defaults applied, swapped whole.
//!
//! `load` finds and reads the file, under the rule of `ownership`. `file` is `config.yaml` as a tree
//! of values, `section` reads it key by key, `check` turns it into a [`Config`] or into every file
//! `fault` at once, `marks` finds their lines; `probe` is what `type: network` comes to. What depends
//! on the machine is `preflight`'s.

pub mod check;
pub mod fault;
pub mod file;
pub mod load;
pub mod marks;
pub mod ownership;
pub mod probe;
pub mod section;

#[cfg(test)]
pub(crate) mod fixture;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::event::{ProcessName, Signal};

use self::probe::Probe;

/// Who reads a configuration, where that decides what is permitted or what a default is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reader {
    /// healer's effective user is root.
    pub as_root: bool,
    /// healer is PID 1.
    pub as_pid1: bool,
    /// Who called sudo, where healer stays in the foreground; such a user's file is accepted.
    pub sudo_uid: Option<u32>,
    /// Nothing but the file's text counts (`healer check --file-only`).
    pub file_only: bool,
}

/// A whole configuration. `Process` entries are shared, so that a reload can tell "unchanged".
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// How and where healer itself logs.
    pub log: Log,
    /// Holds `healer.pid`; created with mode 0755 if missing.
    pub pid_file_directory: PathBuf,
    /// healer's own working directory when daemonised, and the default of each process.
    pub working_directory: PathBuf,
    /// How many launches may be between `go` and the confirmed exec at one time, node-wide; ≥ 1.
    pub max_parallel_launches: usize,
    /// In file order.
    pub processes: Vec<Arc<Process>>,
}

impl Config {
    /// The enabled processes that are to be watched by eBPF, by their names; `None` without any.
    #[must_use]
    pub fn watched_by_ebpf(&self) -> Option<String> {
        let asks =
            |process: &&Arc<Process>| process.enabled && process.monitors.contains(&Monitor::Ebpf);
        let names: Vec<_> =
            self.processes.iter().filter(asks).map(|one| one.name.as_str()).collect();
        listed(&names)
    }
}

/// A few names and how many more there are, for a message; `None` without any.
pub(crate) fn listed(names: &[&str]) -> Option<String> {
    match names {
        [] => None,
        [first, second, third, rest @ ..] if !rest.is_empty() => {
            Some(format!("{first}, {second}, {third} and {} more", rest.len()))
        }
        few => Some(few.join(", ")),
    }
}

/// How and where healer itself logs.
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// The least severe level that is written.
    pub level: LogLevel,
    /// Text for people or JSON for machines.
    pub format: LogFormat,
    /// Holds `healer.DATE.log`, a file a day, and `processes/NAME.log`.
    pub directory: PathBuf,
}

/// `log_level`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// The operator must act.
    Error,
    /// Degraded.
    Warn,
    /// One line per transition or launch.
    Info,
    /// Each look and probe.
    Debug,
    /// Everything.
    Trace,
}

/// `log_format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One line of `key=value` fields.
    Text,
    /// One JSON object a line.
    Json,
}

/// One entry of `processes:`.
#[derive(Clone, Debug, PartialEq)]
pub struct Process {
    /// Unique.
    pub name: ProcessName,
    /// `false`: neither watched nor started.
    pub enabled: bool,
    /// Absolute; or a bare name, until `preflight` looked it up in healer's PATH and found it.
    /// `None`: the entry is only watched, by its probe; nothing below that concerns a start has a
    /// meaning.
    pub command: Option<PathBuf>,
    /// Arguments after the command.
    pub args: Vec<String>,
    /// Set in the instance's environment, over everything inherited.
    pub env: BTreeMap<String, String>,
    /// What of healer's environment an instance inherits.
    pub inherit_env: InheritEnv,
    /// Absolute.
    pub working_dir: PathBuf,
    /// Whose rights an instance gets.
    pub run_as: RunAs,
    /// `None`: as healer was given it.
    pub umask: Option<u32>,
    /// Resource limits that differ from those healer was given, setrlimit(2).
    pub limits: BTreeMap<Resource, Limit>,
    /// -20 to 19; `None`: as healer was given it.
    pub nice: Option<i32>,
    /// -1000 to 1000; `None`: as healer was given it.
    pub oom_score_adj: Option<i32>,
    /// Where stdout and stderr go.
    pub output: Output,
    /// Start it when it is down as healer starts (or as a reload adds it).
    pub autostart: bool,
    /// Decides who the process is where command and arguments cannot.
    pub matching: Matching,
    /// At least one.
    pub monitors: Vec<Monitor>,
    /// Alive for so long is ready.
    pub ready_after: Duration,
    /// How an instance, or what is left of one, is ended.
    pub stop: Stop,
    /// When and how often it is brought back.
    pub recovery: Recovery,
    /// Whom it waits for; no target twice, and no cycle among all entries.
    pub dependencies: Vec<Dependency>,
}

impl Process {
    /// The PID file, where one of the monitors is `type: pid`.
    #[must_use]
    pub fn pid_file(&self) -> Option<&Path> {
        self.pid_monitor().map(|(path, _)| path)
    }

    /// How long one probe may take, where one of the monitors probes.
    #[must_use]
    pub fn probe_timeout(&self) -> Option<Duration> {
        self.probe().map(|probe| probe.timeout)
    }

    /// The PID file and `interval_secs`, where one of the monitors is `type: pid`.
    #[must_use]
    pub fn pid_monitor(&self) -> Option<(&Path, Duration)> {
        self.monitors.iter().find_map(|monitor| match monitor {
            Monitor::Pid { path, interval } => Some((path.as_path(), *interval)),
            Monitor::Ebpf | Monitor::Network(_) => None,
        })
    }

    /// The probe, where one of the monitors is `type: network`.
    #[must_use]
    pub fn probe(&self) -> Option<&Arc<Probe>> {
        self.monitors.iter().find_map(|monitor| match monitor {
            Monitor::Network(probe) => Some(probe),
            Monitor::Pid { .. } | Monitor::Ebpf => None,
        })
    }

    /// Whether nothing runs here: it is watched from afar, and never started.
    #[must_use]
    pub fn is_watch_only(&self) -> bool {
        self.command.is_none()
    }
}

/// `inherit_env`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InheritEnv {
    /// Nothing.
    Nothing,
    /// Everything but what is healer's own (NOTIFY_SOCKET, HEALER_* …).
    Everything,
    /// These variables, where healer has them.
    Only(Vec<String>),
}

/// `run_as_root`, `run_as_user`, `run_as_group`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunAs {
    /// As healer itself: neither key, and healer is not root.
    Healer,
    /// As root, with root's full capabilities.
    Root,
    /// As this user, with the supplementary groups of the group database.
    User {
        /// A name or a number.
        user: String,
        /// `None`: the user's primary group.
        group: Option<String>,
    },
}

/// A resource of setrlimit(2), by its YAML key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "each is RLIMIT_ and its name, explained in setrlimit(2)")]
pub enum Resource {
    As,
    Core,
    Cpu,
    Data,
    Fsize,
    Locks,
    Memlock,
    Msgqueue,
    Nice,
    Nofile,
    Nproc,
    Rss,
    Rtprio,
    Rttime,
    Sigpending,
    Stack,
}

impl Resource {
    /// All of them, each with its YAML key.
    pub const ALL: [(Self, &str); 16] = [
        (Self::As, "as"),
        (Self::Core, "core"),
        (Self::Cpu, "cpu"),
        (Self::Data, "data"),
        (Self::Fsize, "fsize"),
        (Self::Locks, "locks"),
        (Self::Memlock, "memlock"),
        (Self::Msgqueue, "msgqueue"),
        (Self::Nice, "nice"),
        (Self::Nofile, "nofile"),
        (Self::Nproc, "nproc"),
        (Self::Rss, "rss"),
        (Self::Rtprio, "rtprio"),
        (Self::Rttime, "rttime"),
        (Self::Sigpending, "sigpending"),
        (Self::Stack, "stack"),
    ];
}

/// A soft and a hard limit; `None` is unlimited. One number in YAML sets both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What is enforced.
    pub soft: Option<u64>,
    /// How far the process may raise it.
    pub hard: Option<u64>,
}

/// `output`, with `output_max_bytes` and `output_keep`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// The journal where healer's own output goes there, healer's own as PID 1, else a file.
    Auto(OutputFile),
    /// systemd's journal, identifier `healer-NAME`.
    Journal,
    /// `log_directory/processes/NAME.log`.
    File(OutputFile),
    /// healer's own stdout and stderr.
    Inherit,
    /// Nowhere.
    Null,
}

/// Rotation of an output file, by copy and truncate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutputFile {
    /// Rotated once it is larger than this.
    pub max_bytes: u64,
    /// How many rotated files (`NAME.log.1` is the newest) are kept.
    pub keep: u32,
}

/// `match`. All that are given must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Matching {
    /// The file it runs, compared by device and inode.
    pub exe: Option<PathBuf>,
    /// `/proc/PID/comm`, at most 15 bytes.
    pub comm: Option<String>,
    /// Searched in the command line, words joined by single blanks.
    pub cmdline: Option<Pattern>,
}

impl Matching {
    /// Whether nothing is given.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.exe.is_none() && self.comm.is_none() && self.cmdline.is_none()
    }
}

/// A compiled regular expression, compared by its text.
#[derive(Clone, Debug)]
pub struct Pattern(pub regex::bytes::Regex);

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

/// One of an entry's monitors.
#[derive(Clone, Debug, PartialEq)]
pub enum Monitor {
    /// Watches a PID file.
    Pid {
        /// Absolute.
        path: PathBuf,
        /// The safety net's period where inotify cannot work; with inotify at least 30 s.
        interval: Duration,
    },
    /// Watches by eBPF; where that cannot be, by the instance's pidfd alone.
    Ebpf,
    /// Asks it whether it works.
    Network(Arc<Probe>),
}

/// `stop`: this signal, SIGCONT, then SIGKILL after the time-out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop {
    /// The first signal.
    pub signal: Signal,
    /// How long it is given before SIGKILL.
    pub timeout: Duration,
    /// Whether what is left of a dead instance is ended before the next launch.
    pub leftovers: bool,
}

/// `recovery.restart`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// Whatever the cause.
    Always,
    /// Not after exit 0, nor after TERM, INT or HUP from outside; an unknown cause is a failure.
    OnFailure,
    /// Never.
    Never,
}

/// `recovery`.
#[derive(Clone, Debug, PartialEq)]
pub struct Recovery {
    /// Which ends call for a restart.
    pub restart: Restart,
    /// When to stop trying, and for how long.
    pub breaker: Breaker,
    /// How restarts in a row are spread.
    pub backoff: Backoff,
    /// From spawn to exec, and from there to a daemonising command's successor.
    pub start_timeout: Duration,
}

/// One of `dependencies`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dependency {
    /// An entry's name, not its own.
    pub target: ProcessName,
    /// When there is something to wait for.
    pub kind: DependencyKind,
    /// What happens when `max_wait` is over. `hard: false` is another word for `Skip`.
    pub on_failure: OnFailure,
    /// How long a start is held for this target.
    pub max_wait: Duration,
    /// Restart the dependent when the target was restarted.
    pub restart: bool,
}

/// `kind` of a dependency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DependencyKind {
    /// Wait until the target is ready.
    Requires,
    /// Wait only while the target is being started or brought back.
    After,
}

/// `on_failure` of a dependency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// Stay down, without a timer, until there is nothing to wait for.
    Abort,
    /// Start without it.
    Skip,
    /// Start without it, and count as degraded until it is ready.
    Degrade,
}

/// The breaker's policy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Breaker {
    /// Failures permitted in `window`; one more opens the breaker.
    pub retries: u32,
    /// The sliding window.
    pub window: Duration,
    /// The first Open period.
    pub cooldown: Duration,
    /// Multiplies the Open period with each failed trial; ≥ 1.
    pub cooldown_factor: f64,
    /// The longest Open period.
    pub cooldown_max: Duration,
    /// A trial that lives, and is ready, for so long closes the breaker.
    pub half_open: Duration,
}

/// The delay before the n-th restart in a row, n ≥ 2: `initial`·`factor`^(n-2), at most `max`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    /// Before the second restart in a row.
    pub initial: Duration,
    /// ≥ 1.
    pub factor: f64,
    /// The longest delay.
    pub max: Duration,
    /// The delay is varied by up to this share of itself, 0 to 1, up or down; never beyond `max`.
    pub jitter: f64,
}

impl Breaker {
    /// How long the breaker stays Open after so many failed trials in a row.
    #[must_use]
    pub fn open_period(&self, failed_trials: u32) -> Duration {
        grown(self.cooldown, self.cooldown_factor, failed_trials, self.cooldown_max)
    }
}

impl Backoff {
    /// The delay after it has grown so many times, before jitter.
    #[must_use]
    pub fn delay(&self, times: u32) -> Duration {
        grown(self.initial, self.factor, times, self.max)
    }
}

/// `initial`·`factor`^`times`, at most `max` but never less than `initial`.
fn grown(initial: Duration, factor: f64, times: u32, max: Duration) -> Duration {
    let exponent = i32::try_from(times).unwrap_or(i32::MAX);
    let seconds = initial.as_secs_f64() * factor.powi(exponent);
    // Too large, infinite, or not a number (0 · ∞): the bound stands in.
    Duration::try_from_secs_f64(seconds).unwrap_or(max).min(max).max(initial)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(&[], None)]
    #[case(&["a", "b", "c"], Some("a, b, c"))]
    #[case(&["a", "b", "c", "d", "e"], Some("a, b, c and 2 more"))]
    fn few_names_are_listed_and_the_rest_counted(
        #[case] names: &[&str],
        #[case] said: Option<&str>,
    ) {
        assert_eq!(listed(names).as_deref(), said);
    }

    #[rstest]
    #[case(1, 2.0, 0, 30, 1)]
    #[case(1, 2.0, 4, 30, 16)]
    #[case(1, 2.0, 5, 30, 30)]
    #[case(1, 2.0, u32::MAX, 30, 30)]
    #[case(0, 1e300, u32::MAX, 30, 30)]
    #[case(40, 2.0, 0, 30, 40)]
    fn growth_is_bounded(
        #[case] initial: u64,
        #[case] factor: f64,
        #[case] times: u32,
        #[case] max: u64,
        #[case] expected: u64,
    ) {
        let secs = Duration::from_secs;
        assert_eq!(grown(secs(initial), factor, times, secs(max)), secs(expected));
    }
}
