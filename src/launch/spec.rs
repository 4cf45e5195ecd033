//! What an instance is to be: built from an entry and from what healer itself was given, and
//! carried to the stage as bytes.
//!
//! Deciding what goes where is here; doing it is `stage`'s. Called by `launch` and `stage`;
//! `daemon` calls [`Baseline::record`] before it changes any limit of healer's own.

use std::collections::BTreeMap;
use std::ffi::{CStr, OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;

use nix::sched::{CpuSet, sched_getaffinity};
use rustix::process::{Resource as Kernel, getpriority_process, getrlimit};

use super::head::{Account, Head, Limits, Scheduling};
use crate::config::{InheritEnv, Limit, Process, Resource, RunAs};
use crate::instance::program::search_path;

/// The kernel's number of a resource.
pub(super) fn kernel(resource: Resource) -> Kernel {
    match resource {
        Resource::As => Kernel::As,
        Resource::Core => Kernel::Core,
        Resource::Cpu => Kernel::Cpu,
        Resource::Data => Kernel::Data,
        Resource::Fsize => Kernel::Fsize,
        Resource::Locks => Kernel::Locks,
        Resource::Memlock => Kernel::Memlock,
        Resource::Msgqueue => Kernel::Msgqueue,
        Resource::Nice => Kernel::Nice,
        Resource::Nofile => Kernel::Nofile,
        Resource::Nproc => Kernel::Nproc,
        Resource::Rss => Kernel::Rss,
        Resource::Rtprio => Kernel::Rtprio,
        Resource::Rttime => Kernel::Rttime,
        Resource::Sigpending => Kernel::Sigpending,
        Resource::Stack => Kernel::Stack,
    }
}

/// Variables that speak to healer alone; no instance inherits them, whatever `inherit_env` says.
const OWN_VARIABLES: [&str; 3] = ["NOTIFY_SOCKET", "INVOCATION_ID", "JOURNAL_STREAM"];
const OWN_PREFIXES: [&str; 3] = ["WATCHDOG_", "LISTEN_", "HEALER_"];

/// Who a program runs as, told in the environment; the stage fills in those of a named user.
const ACCOUNT_VARIABLES: [&str; 4] = ["HOME", "USER", "LOGNAME", "SHELL"];

/// What healer was given by whoever started it, which every instance is given in turn.
#[derive(Clone, Debug, PartialEq)]
pub struct Baseline {
    limits: Limits,
    scheduling: Scheduling,
    oom_score_adj: i32,
    umask: u32,
    environment: BTreeMap<OsString, OsString>,
}

impl Baseline {
    /// Records healer's own, at its start: before it raises a limit or lowers its OOM score.
    ///
    /// # Errors
    ///
    /// `/proc/self` cannot be read.
    pub fn record() -> io::Result<Self> {
        let myself = procfs::process::Process::myself().map_err(io::Error::other)?;
        let stat = myself.stat().map_err(io::Error::other)?;
        let status = myself.status().map_err(io::Error::other)?;
        let unknown = |what| move || io::Error::other(format!("/proc/self does not tell {what}"));
        let number = |what, number: Option<u32>| {
            number.and_then(|number| i32::try_from(number).ok()).ok_or_else(unknown(what))
        };
        Ok(Self {
            limits: Resource::ALL.map(|(resource, _)| {
                let limit = getrlimit(kernel(resource));
                (limit.current, limit.maximum)
            }),
            scheduling: Scheduling {
                policy: number("the scheduling policy", stat.policy)?,
                priority: number("the real-time priority", stat.rt_priority)?,
                nice: getpriority_process(None)?,
                cpus: affinity(),
            },
            oom_score_adj: std::fs::read_to_string("/proc/self/oom_score_adj")?
                .trim()
                .parse()
                .map_err(io::Error::other)?,
            umask: status.umask.ok_or_else(unknown("the umask"))?,
            environment: std::env::vars_os().collect(),
        })
    }
}

fn affinity() -> Option<Vec<usize>> {
    let set = sched_getaffinity(nix::unistd::Pid::from_raw(0)).ok()?;
    Some((0..CpuSet::count()).filter(|cpu| set.is_set(*cpu) == Ok(true)).collect())
}

/// [`RunAs`], as the stage is told it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum As<'a> {
    Healer,
    Root,
    User { user: &'a str, group: Option<&'a str> },
}

/// What the stage is told: how, which program, with which words, where.
///
/// As bytes it is the head and a list of NUL-terminated strings: user and group, the directory, the
/// program, its arguments, its environment. So the stage hands the strings to execve(2) where they
/// lie.
#[derive(Debug, PartialEq)]
pub(super) struct Spec<'a> {
    pub(super) head: Head,
    pub(super) run_as: As<'a>,
    pub(super) directory: &'a CStr,
    /// The program first.
    pub(super) arguments: Vec<&'a CStr>,
    pub(super) environment: Vec<&'a CStr>,
}

/// Why an entry cannot be told to the stage.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SpecError {
    #[error("no command: it is only watched")]
    WatchOnly,
    #[error("command {0} is not in PATH")]
    NotInPath(String),
    #[error("a NUL byte in {0}")]
    Nul(&'static str),
}

/// Writes what the stage is to do for `process`.
pub(super) fn encode(process: &Process, baseline: &Baseline) -> Result<Vec<u8>, SpecError> {
    let command = process.command.as_deref().ok_or(SpecError::WatchOnly)?;
    if !command.is_absolute() {
        return Err(SpecError::NotInPath(command.display().to_string()));
    }
    let (account, names) = match &process.run_as {
        RunAs::Healer => (Account::Healer, [None, None]),
        RunAs::Root => (Account::Root, [None, None]),
        RunAs::User { user, group: None } => (Account::User, [Some(user), None]),
        RunAs::User { user, group } => (Account::UserAndGroup, [Some(user), group.as_ref()]),
    };
    let head = Head {
        limits: limits(process, baseline),
        scheduling: Scheduling {
            nice: process.nice.unwrap_or(baseline.scheduling.nice),
            ..baseline.scheduling.clone()
        },
        // A negative one makes healer the last that memory is taken from, which is its own affair.
        oom_score_adj: process.oom_score_adj.unwrap_or(baseline.oom_score_adj.max(0)),
        umask: process.umask.unwrap_or(baseline.umask),
        account,
        arguments: 1 + process.args.len(),
    };
    let mut bytes = Vec::with_capacity(2048);
    head.write(&mut bytes);
    let mut add = |parts: &[&OsStr], what| {
        for part in parts {
            if part.as_bytes().contains(&0) {
                return Err(SpecError::Nul(what));
            }
            bytes.extend_from_slice(part.as_bytes());
        }
        bytes.push(0);
        Ok(())
    };
    for (name, what) in names.into_iter().zip(["run_as_user", "run_as_group"]) {
        if let Some(name) = name {
            add(&[OsStr::new(name)], what)?;
        }
    }
    add(&[process.working_dir.as_os_str()], "working_dir")?;
    add(&[command.as_os_str()], "command")?;
    for argument in &process.args {
        add(&[OsStr::new(argument)], "args")?;
    }
    for (name, value) in environment(process, baseline) {
        add(&[&name, OsStr::new("="), &value], "env")?;
    }
    Ok(bytes)
}

/// Reads what [`encode`] wrote; `None` where it is anything else.
pub(super) fn decode(bytes: &[u8]) -> Option<Spec<'_>> {
    let (head, strings) = Head::read(bytes)?;
    let mut strings = strings.split_inclusive(|byte| *byte == 0).map(CStr::from_bytes_with_nul);
    let mut next = || strings.next()?.ok();
    let run_as = match head.account {
        Account::Healer => As::Healer,
        Account::Root => As::Root,
        Account::User => As::User { user: next()?.to_str().ok()?, group: None },
        Account::UserAndGroup => {
            As::User { user: next()?.to_str().ok()?, group: Some(next()?.to_str().ok()?) }
        }
    };
    let directory = next()?;
    let mut arguments = strings.collect::<Result<Vec<_>, _>>().ok()?;
    if head.arguments == 0 || head.arguments > arguments.len() {
        return None;
    }
    let environment = arguments.split_off(head.arguments);
    Some(Spec { head, run_as, directory, arguments, environment })
}

fn limits(process: &Process, baseline: &Baseline) -> Limits {
    let mut limits = baseline.limits;
    for ((resource, _), limit) in Resource::ALL.iter().zip(&mut limits) {
        if let Some(Limit { soft, hard }) = process.limits.get(resource) {
            *limit = (*soft, *hard);
        }
    }
    limits
}

/// Everything but the account's variables of a named user, which only the stage can look up.
fn environment(process: &Process, baseline: &Baseline) -> BTreeMap<OsString, OsString> {
    let given = &baseline.environment;
    let inherited = given.iter().filter(|(name, _)| inherits(&process.inherit_env, name));
    let mut environment: BTreeMap<_, _> =
        inherited.map(|(name, value)| (name.clone(), value.clone())).collect();
    let path = search_path(process, given.get(OsStr::new("PATH")).cloned());
    environment.insert("PATH".into(), path);
    for name in ACCOUNT_VARIABLES {
        let value = match (&process.run_as, name) {
            (RunAs::Healer, _) => given.get(OsStr::new(name)).cloned(),
            (RunAs::Root, "HOME") => Some("/root".into()),
            (RunAs::Root, "SHELL") => Some("/bin/sh".into()),
            (RunAs::Root, _) => Some("root".into()),
            (RunAs::User { .. }, _) => None,
        };
        match value {
            Some(value) => environment.insert(name.into(), value),
            None => environment.remove(OsStr::new(name)),
        };
    }
    environment.extend(process.env.iter().map(|(name, value)| (name.into(), value.into())));
    environment
}

fn inherits(asked: &InheritEnv, name: &OsStr) -> bool {
    let asked = match asked {
        InheritEnv::Nothing => false,
        InheritEnv::Everything => true,
        InheritEnv::Only(names) => names.iter().any(|asked| name == OsStr::new(asked)),
    };
    let healers_own = OWN_VARIABLES.iter().any(|own| name == OsStr::new(own))
        || OWN_PREFIXES.iter().any(|own| name.as_bytes().starts_with(own.as_bytes()));
    asked && !healers_own
}

#[cfg(test)]
#[path = "spec_tests.rs"]
mod tests;
