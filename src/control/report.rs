//! From what recovery and the daemon know to the documents of `protocol`.
//!
//! No I/O: what a clock says is passed in. Called by `routes`; the daemon fills in the [`Facts`].

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::clock::{self, Calendar};
use crate::config::Config;
use crate::event::{
    Change, End, Exit, Instance, Killer, Pause, ProcessName, Sent, State, Time, Wait,
};
use crate::preflight::HostFault;
use crate::recovery::status::{Ended, Phase, ProcessStatus};

use super::history::{Noted, Recorded};
use super::protocol as told;

/// What the daemon knows of itself; passed on whole, whenever something of it changes.
#[derive(Clone, Debug)]
pub struct Facts {
    /// When healer started.
    pub started: Time,
    /// The path of the configuration.
    pub path: PathBuf,
    /// healer's own effective capabilities.
    pub capabilities: Vec<String>,
    /// Why the kernel does not tell why instances end, and what is lost.
    pub without_ebpf: Option<(String, &'static str)>,
    /// The present configuration.
    pub config: Arc<Config>,
    /// What this machine lacks for it.
    pub lacks: Vec<HostFault>,
    /// What came of the last reload.
    pub last_reload: Option<Reloaded>,
}

/// What came of a reload.
#[derive(Clone, Debug, Default)]
pub struct Reloaded {
    /// When it came to its end.
    pub at: Time,
    /// How many entries the configuration has then.
    pub processes: usize,
    /// Why the file was refused; empty where it was taken.
    pub faults: Vec<String>,
    /// What its author should know all the same.
    pub warnings: Vec<String>,
    /// What this machine lacks for it.
    pub lacks: Vec<String>,
    /// Keys whose change waits for a restart of healer.
    pub needs_restart: Vec<String>,
}

impl Reloaded {
    /// One that has come to its end now.
    pub fn now() -> Self {
        Self { at: clock::now(), ..Self::default() }
    }
}

/// Somebody wants the file to be taken as it is now.
#[derive(Debug)]
pub struct ReloadAsked {
    /// Who, in words.
    pub by: String,
    /// What came of it.
    pub done: oneshot::Sender<Reloaded>,
}

/// `GET /v1/status`.
pub fn status(facts: &Facts, all: &[ProcessStatus], calendar: &Calendar) -> told::Status {
    let mut lacks: HashMap<Option<&ProcessName>, Vec<told::HostFault>> = HashMap::new();
    for fault in &facts.lacks {
        lacks.entry(fault.process.as_ref()).or_default().push(host_fault(fault));
    }
    let mut known: HashMap<_, _> = all.iter().map(|status| (&status.name, status)).collect();
    let mut processes = Vec::with_capacity(facts.config.processes.len());
    for entry in &facts.config.processes {
        let faults = lacks.remove(&Some(&entry.name)).unwrap_or_default();
        processes.push(match known.remove(&entry.name) {
            Some(status) => process(status, faults, calendar),
            None => unwatched(&entry.name, entry.enabled),
        });
    }
    // A reload is under way: recovery has its configuration, the facts have not.
    let rest = all.iter().filter(|status| known.contains_key(&status.name));
    processes.extend(rest.map(|status| process(status, vec![], calendar)));
    told::Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        started_at: calendar.date(facts.started),
        uptime_secs: secs(calendar.ago(facts.started)),
        config: facts.path.display().to_string(),
        capabilities: facts.capabilities.clone(),
        ebpf: told::Ebpf {
            loaded: facts.without_ebpf.is_none(),
            reason: facts.without_ebpf.as_ref().map(|(reason, _)| reason.clone()),
            lost: facts.without_ebpf.as_ref().map(|(_, lost)| (*lost).to_owned()),
        },
        last_reload: facts.last_reload.as_ref().map(|reloaded| reload(reloaded, calendar)),
        host_faults: lacks.remove(&None).unwrap_or_default(),
        processes,
    }
}

/// One process, as recovery and the machine have it.
pub fn one(facts: &Facts, status: &ProcessStatus, calendar: &Calendar) -> told::Process {
    let lacks = facts.lacks.iter().filter(|fault| fault.process.as_ref() == Some(&status.name));
    process(status, lacks.map(host_fault).collect(), calendar)
}

/// An entry that recovery does not know: disabled, or not looked at yet.
pub fn unwatched(name: &ProcessName, enabled: bool) -> told::Process {
    told::Process {
        name: name.to_string(),
        enabled,
        ok: true,
        state: if enabled { "unknown" } else { "disabled" }.to_owned(),
        breaker: told::Breaker { phase: "closed".to_owned(), ..told::Breaker::default() },
        ..told::Process::default()
    }
}

/// What came of a reload.
pub fn reload(reloaded: &Reloaded, calendar: &Calendar) -> told::Reload {
    told::Reload {
        taken: reloaded.faults.is_empty(),
        at: calendar.date(reloaded.at),
        ago_secs: secs(calendar.ago(reloaded.at)),
        processes: reloaded.processes,
        faults: reloaded.faults.clone(),
        warnings: reloaded.warnings.clone(),
        host_faults: reloaded.lacks.clone(),
        needs_restart: reloaded.needs_restart.clone(),
    }
}

/// One line of `GET /v1/events`.
pub fn event(recorded: &Recorded, calendar: &Calendar) -> told::Event {
    let what = match &recorded.what {
        Noted::Lagged(lost) => told::Happened::Lagged { lost: *lost },
        Noted::Did(change) => happened(change, recorded.at, calendar),
    };
    let text = match &recorded.what {
        Noted::Lagged(lost) => format!("{lost} events were lost before this one"),
        Noted::Did(change) => words(change, calendar),
    };
    let process = recorded.process.as_ref().map(ToString::to_string);
    told::Event { seq: recorded.seq, at: calendar.date(recorded.at), process, text, what }
}

fn process(
    status: &ProcessStatus,
    host_faults: Vec<told::HostFault>,
    calendar: &Calendar,
) -> told::Process {
    let (until, until_secs) = deadline(ends(&status.state), calendar);
    let waiting = match &status.state {
        State::Held { waiting } => waiting.iter().map(|wait| waits(wait, calendar)).collect(),
        _ => vec![],
    };
    told::Process {
        name: status.name.to_string(),
        enabled: true,
        ok: host_faults.is_empty() && is_ok(status),
        state: word(&status.state).to_owned(),
        ready: status.running.map(|running| running.ready),
        reason: reason(&status.state).or_else(|| status.trouble.clone()),
        since: Some(calendar.date(status.since)),
        since_secs: Some(secs(calendar.ago(status.since))),
        until,
        until_secs,
        instance: status.running.map(|running| told::Instance {
            pid: running.instance.pid.0,
            started_at: calendar.date(running.since),
            uptime_secs: secs(calendar.ago(running.since)),
            adopted: running.adopted,
        }),
        failures: told::Failures {
            count: status.failures,
            retries: status.retries,
            window_secs: secs(status.window),
        },
        breaker: breaker(status.breaker, calendar),
        last_exit: status
            .last_exit
            .as_ref()
            .map(|Ended { instance, at, exit: how }| exit(*instance, how, *at, calendar)),
        launch_failure: status.launch_failure.as_ref().map(|failure| told::LaunchFailure {
            reason: failure.reason.clone(),
            at: calendar.date(failure.at),
            ago_secs: secs(calendar.ago(failure.at)),
        }),
        waiting_for: waiting,
        degraded_without: status.degraded_without.iter().map(ToString::to_string).collect(),
        paused: status.pause.as_ref().map(|Pause { by, until }| {
            let (until, until_secs) = deadline(*until, calendar);
            told::Paused { by: by.clone(), until, until_secs }
        }),
        host_faults,
    }
}

/// Whether nobody needs to look after it: it runs or is on its way, or is down because somebody
/// wants it so.
fn is_ok(status: &ProcessStatus) -> bool {
    let of_state = match &status.state {
        State::Unknown { reason } => reason.is_empty(),
        State::Held { .. }
        | State::BackingOff { .. }
        | State::BreakerOpen { .. }
        | State::Trial { .. }
        | State::Unreachable { .. } => false,
        State::Down
        | State::Starting
        | State::Up { .. }
        | State::Stopping { .. }
        | State::Finished
        | State::Paused { .. }
        | State::Reachable => true,
    };
    of_state && status.trouble.is_none()
}

/// A state's name in documents.
fn word(state: &State) -> &'static str {
    match state {
        State::Unknown { .. } => "unknown",
        State::Down => "down",
        State::BackingOff { .. } => "backing_off",
        State::Held { .. } => "held",
        State::Starting => "starting",
        State::Up { .. } => "up",
        State::Stopping { .. } => "stopping",
        State::BreakerOpen { .. } => "breaker_open",
        State::Trial { .. } => "trial",
        State::Finished => "finished",
        State::Paused { .. } => "paused",
        State::Reachable => "reachable",
        State::Unreachable { .. } => "unreachable",
    }
}

fn ends(state: &State) -> Option<Time> {
    match state {
        State::BackingOff { until } | State::BreakerOpen { until } => Some(*until),
        State::Paused { pause, .. } => pause.until,
        _ => None,
    }
}

fn reason(state: &State) -> Option<String> {
    match state {
        State::Unknown { reason }
        | State::Stopping { reason, .. }
        | State::Unreachable { reason } => Some(reason.clone()).filter(|reason| !reason.is_empty()),
        _ => None,
    }
}

fn waits(wait: &Wait, calendar: &Calendar) -> told::Wait {
    let (changes, changes_secs) = deadline(wait.changes, calendar);
    let (until, until_secs) = deadline(wait.until, calendar);
    let (process, reason) = (wait.on.to_string(), wait.reason.clone());
    told::Wait { process, reason, changes, changes_secs, until, until_secs }
}

fn breaker(phase: Phase, calendar: &Calendar) -> told::Breaker {
    let (phase, until) = match phase {
        Phase::Closed => ("closed", None),
        Phase::Open { until } => ("open", Some(until)),
        Phase::HalfOpen => ("half_open", None),
    };
    let (until, until_secs) = deadline(until, calendar);
    told::Breaker { phase: phase.to_owned(), until, until_secs }
}

fn exit(instance: Instance, exit: &Exit, at: Time, calendar: &Calendar) -> told::Exit {
    let (code, signal, core_dumped) = match exit.end {
        Some(End::Code(code)) => (Some(code), None, false),
        Some(End::Signal { signal, core_dumped }) => (None, Some(signal.to_string()), core_dumped),
        None => (None, None, false),
    };
    told::Exit {
        pid: instance.pid.0,
        at: calendar.date(at),
        ago_secs: secs(calendar.ago(at)),
        cause: exit.to_string(),
        code,
        signal,
        core_dumped,
        killer: exit.killer.as_ref().map(killer),
        oom: exit.oom.is_some(),
        oom_cgroup: exit.oom.as_ref().and_then(|oom| oom.cgroup.clone()),
        last_signal: exit
            .last_signal
            .as_ref()
            .map(|Sent { signal, by }| told::Sent { signal: signal.to_string(), by: killer(by) }),
        runtime_secs: exit.runtime.map(secs),
        cpu_user_secs: exit.cpu.map(|cpu| secs(cpu.user)),
        cpu_system_secs: exit.cpu.map(|cpu| secs(cpu.system)),
        peak_rss_bytes: exit.peak_rss,
    }
}

fn killer(killer: &Killer) -> told::Killer {
    let kind = |kind: &str| told::Killer { kind: kind.to_owned(), ..told::Killer::default() };
    match killer {
        Killer::Process { pid, comm, uid } => told::Killer {
            pid: pid.map(|pid| pid.0),
            comm: Some(comm.clone()),
            uid: Some(*uid),
            ..kind("process")
        },
        Killer::Itself => kind("itself"),
        Killer::Kernel => kind("kernel"),
    }
}

fn host_fault(fault: &HostFault) -> told::HostFault {
    told::HostFault { key: fault.key.to_owned(), message: fault.message.clone() }
}

fn happened(change: &Change, at: Time, calendar: &Calendar) -> told::Happened {
    use told::Happened;
    match change {
        Change::Adopted(instance) => Happened::Adopted { pid: instance.pid.0 },
        Change::Ended { instance, exit: how } => {
            Happened::Ended { exit: exit(*instance, how, at, calendar).into() }
        }
        Change::Hung { instance, reason } => {
            Happened::Hung { pid: instance.pid.0, reason: reason.clone() }
        }
        Change::Stuck { instance, reason } => {
            Happened::Stuck { pid: instance.pid.0, reason: reason.clone() }
        }
        Change::Started { instance, outage } => {
            Happened::Started { pid: instance.pid.0, outage_secs: outage.map(secs) }
        }
        Change::LaunchFailed { reason } => Happened::LaunchFailed { reason: reason.clone() },
        Change::NodeFault { reason } => Happened::NodeFault { reason: reason.clone() },
        Change::Waived { on, waited, degraded } => Happened::Waived {
            dependency: on.to_string(),
            waited_secs: secs(*waited),
            degraded: *degraded,
        },
        Change::Overdue { on, waited } => {
            Happened::Overdue { dependency: on.to_string(), waited_secs: secs(*waited) }
        }
        Change::Complete { on } => Happened::Complete { dependency: on.to_string() },
        Change::Moved { from, to } => Happened::Moved {
            from: word(from).to_owned(),
            to: word(to).to_owned(),
            ready: if let State::Up { ready, .. } = to { Some(*ready) } else { None },
            reason: why(to),
        },
        Change::BreakerOpened { until, failures } => {
            Happened::BreakerOpened { until: calendar.date(*until), failures: *failures }
        }
        Change::BreakerReopened { until } => {
            Happened::BreakerReopened { until: calendar.date(*until) }
        }
        Change::BreakerClosed => Happened::BreakerClosed,
    }
}

/// What led to a state, or what it waits for.
fn why(state: &State) -> Option<String> {
    match state {
        State::Held { waiting } => {
            let waits = waiting.iter().map(|wait| format!("{} is {}", wait.on, wait.reason));
            Some(waits.collect::<Vec<_>>().join(", "))
        }
        State::Paused { pause, .. } => Some(format!("by {}", pause.by)),
        state => reason(state),
    }
}

fn words(change: &Change, calendar: &Calendar) -> String {
    match change {
        Change::Adopted(instance) => format!("adopted, PID {instance}"),
        Change::Ended { instance, exit } => format!("ended: {exit} (PID {instance})"),
        Change::Hung { instance, reason } => {
            format!("hung: {reason} (PID {instance}); it is ended and replaced")
        }
        Change::Stuck { instance, reason } => {
            format!("cannot be ended: {reason} (PID {instance}); nothing is started beside it")
        }
        Change::Started { instance, outage: None } => format!("started, PID {instance}"),
        Change::Started { instance, outage: Some(outage) } => {
            format!("restarted, PID {instance}, after {:.1} ms", outage.as_secs_f64() * 1_000.0)
        }
        Change::LaunchFailed { reason } => format!("launch failed: {reason}"),
        Change::NodeFault { reason } => {
            format!("this machine cannot start processes now: {reason}; all launches wait")
        }
        Change::Waived { on, waited, degraded } => {
            let degraded = if *degraded { ", degraded" } else { "" };
            format!("starts without {on}{degraded}: waited {:.1} s", waited.as_secs_f64())
        }
        Change::Overdue { on, waited } => {
            format!("stays down until {on} is ready: waited {:.1} s", waited.as_secs_f64())
        }
        Change::Complete { on } => format!("{on} is ready: degraded without it no longer"),
        Change::Moved { from, to } => match why(to) {
            Some(why) => format!("from {from} to {to}: {why}"),
            None => format!("from {from} to {to}"),
        },
        Change::BreakerOpened { until, failures } => {
            format!("breaker opened after {failures} failures: {}", trial(*until, calendar))
        }
        Change::BreakerReopened { until } => {
            format!("the trial failed, breaker open again: {}", trial(*until, calendar))
        }
        Change::BreakerClosed => "breaker closed".to_owned(),
    }
}

fn trial(until: Time, calendar: &Calendar) -> String {
    format!("no start until {}, then one trial", calendar.date(until))
}

fn deadline(until: Option<Time>, calendar: &Calendar) -> (Option<String>, Option<f64>) {
    (until.map(|until| calendar.date(until)), until.map(|until| secs(calendar.ahead(until))))
}

/// To the millisecond: nobody reads more, and it is half as long.
fn secs(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1_000.0).round() / 1_000.0
}

#[cfg(test)]
mod tests;
