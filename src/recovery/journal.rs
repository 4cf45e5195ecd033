//! The daemon's log of what recovery did: fixed messages, the data in fields, one line each.

use std::time::Duration;

use tracing::{debug, error, info, warn};

use crate::clock;
use crate::event::{Change, End, Exit, Pid, ProcessName, State, Time};

/// Writes one change.
pub fn write(process: &ProcessName, change: &Change) {
    match change {
        Change::Adopted(instance) => {
            info!(%process, pid = instance.pid.0, "adopted a running instance");
        }
        Change::Ended { instance, exit } => ended(process, instance.pid, exit),
        Change::Hung { instance, reason } => {
            warn!(%process, pid = instance.pid.0, %reason, "hung; it is ended and replaced");
        }
        Change::Stuck { instance, reason } => {
            error!(%process, pid = instance.pid.0, %reason, "cannot be ended; nothing is started beside it");
        }
        Change::Started { instance, outage: None } => {
            info!(%process, pid = instance.pid.0, "started");
        }
        Change::Started { instance, outage: Some(outage) } => {
            let outage_ms = outage.as_secs_f64() * 1_000.0;
            // Whoever kills a process to have it down, and finds it back, reads this line.
            let to_keep_it_down = format!("healer stop {process}");
            info!(%process, pid = instance.pid.0, outage_ms, to_keep_it_down, "restarted");
        }
        Change::LaunchFailed { reason } => warn!(%process, %reason, "launch failed"),
        Change::NodeFault { reason } => {
            error!(%process, %reason, "this machine cannot start processes now; all launches wait");
        }
        Change::Waived { on: dependency, waited, degraded } => {
            let (wait_ms, reason) = (millis(waited.as_millis()), "max_wait_secs is over");
            warn!(%process, %dependency, wait_ms, reason, degraded, "starts without a dependency");
        }
        Change::Overdue { on: dependency, waited } => {
            let (wait_ms, reason) = (millis(waited.as_millis()), "max_wait_secs is over");
            error!(%process, %dependency, wait_ms, reason, "stays down until a dependency is ready");
        }
        Change::Complete { on: dependency } => {
            info!(%process, %dependency, "a dependency is ready; degraded for want of it no longer");
        }
        Change::Moved { from, to } => moved(process, from, to),
        Change::BreakerOpened { until, failures } => {
            error!(%process, failures, wait_ms = until_ms(*until), "breaker opened");
        }
        Change::BreakerReopened { until } => {
            error!(%process, wait_ms = until_ms(*until), "trial failed; breaker open again");
        }
        Change::BreakerClosed => info!(%process, "trial proved itself; breaker closed"),
    }
}

fn ended(process: &ProcessName, pid: Pid, exit: &Exit) {
    let ms = |time: Duration| millis(time.as_millis());
    let pid = pid.0;
    let runtime_ms = exit.runtime.map(ms);
    let (user_ms, system_ms) =
        (exit.cpu.map(|cpu| ms(cpu.user)), exit.cpu.map(|cpu| ms(cpu.system)));
    let peak_rss_kib = exit.peak_rss.map(|bytes| bytes / 1024);
    if exit.end == Some(End::Code(0)) {
        info!(%process, pid, reason = %exit, runtime_ms, user_ms, system_ms, peak_rss_kib, "ended");
    } else {
        warn!(%process, pid, reason = %exit, runtime_ms, user_ms, system_ms, peak_rss_kib, "ended");
    }
}

/// Most moves are told by what led to them: an end, a start, the breaker.
fn moved(process: &ProcessName, from: &State, to: &State) {
    match to {
        State::Unknown { reason } => {
            warn!(%process, %from, %to, %reason, "cannot tell which process is meant");
        }
        State::BackingOff { until } => {
            let wait_ms = until_ms(*until);
            info!(%process, %from, %to, wait_ms, "backing off before the next start");
        }
        State::Down => info!(%process, %from, %to, "down; autostart is off"),
        State::Finished => info!(%process, %from, %to, "finished; restart says to leave it so"),
        State::Held { waiting } if !matches!(from, State::Held { .. }) => {
            for wait in waiting {
                let (dependency, reason) = (&wait.on, &wait.reason);
                let wait_ms = wait.until.map(until_ms);
                info!(%process, %from, %to, %dependency, %reason, wait_ms, "held: waits for a dependency");
            }
        }
        State::Starting if matches!(from, State::Held { .. }) => {
            info!(%process, %from, %to, "held no longer: nothing is left to wait for");
        }
        State::Stopping { instance, reason } => {
            info!(%process, %from, %to, pid = instance.pid.0, %reason, "ending it");
        }
        State::Paused { pause, .. } => {
            let (by, wait_ms) = (&pause.by, pause.until.map(until_ms));
            info!(%process, %from, %to, by, wait_ms, "paused: it is watched, and left as it is");
        }
        State::Unreachable { reason } => warn!(%process, %from, %to, %reason, "does not answer"),
        State::Reachable => info!(%process, %from, %to, "answers"),
        State::Up { instance, ready: true } => {
            info!(%process, %from, %to, pid = instance.pid.0, "ready");
        }
        _ => debug!(%process, %from, %to, "state changed"),
    }
}

fn until_ms(until: Time) -> u64 {
    millis(until.since(clock::now()).as_millis())
}

fn millis(millis: u128) -> u64 {
    u64::try_from(millis).unwrap_or(u64::MAX)
}
