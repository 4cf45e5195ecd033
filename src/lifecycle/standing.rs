//! Where a process stands, with what has to be remembered there; how operators see it.

use crate::config::Process;
use crate::event::{Exit, Instance, State, Time, Wait};

/// Where a process stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Cannot tell. `wanted`: to be started once it is known not to run.
    Unknown {
        reason: String,
        wanted: bool,
        look_at: Time,
    },
    Down {
        look_at: Time,
    },
    Finished {
        look_at: Time,
    },
    /// A failure awaits the breaker's answer, which comes before anything else does.
    Judged,
    BackingOff {
        until: Time,
    },
    Refused {
        until: Time,
    },
    /// To be started once its dependencies allow it. `waiting` is empty until it was said that they
    /// do not. `look`: others had time to start one.
    Awaiting {
        waiting: Vec<Wait>,
        look: bool,
    },
    Preparing,
    Queued {
        prepared: Time,
    },
    Launching {
        prepared: Time,
    },
    /// Its command exited 0 before it was ready; a daemon may have come out of it.
    Succession {
        /// The instance that exited.
        launched: Instance,
        /// When the launch was confirmed.
        launched_at: Time,
        exit: Exit,
        looks: u32,
        look_at: Time,
    },
    Up {
        instance: Instance,
        /// When it started.
        since: Time,
        /// When it was taken hold of.
        held: Time,
        ready: bool,
        /// Why its probes fail, where nothing may be done about it.
        hung: Option<String>,
        /// When healer launched it, this one or one before; `None` where others started it, and once
        /// it has lived for so long that no daemon will come out of it.
        launched: Option<Time>,
        /// It ran before this healer took hold of it.
        found: bool,
    },
    /// Only watched; what its probe says, once it has said something.
    Remote {
        health: Option<Result<(), String>>,
    },
    Stopping {
        instance: Instance,
        why: Why,
        /// What keeps it from ending, and when to try again.
        stuck: Option<(String, Time)>,
    },
}

/// Why an instance is being ended, and what follows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Why {
    /// Its probes fail: a failure, as if it had died.
    Hung {
        /// Why the last one failed.
        reason: String,
    },
    /// It was asked for, or a dependency was restarted: started again, which costs no budget.
    Restart {
        /// By whom, or because of whom, in words.
        reason: String,
    },
    /// An operator wants it down.
    Stop {
        /// Who, in words.
        by: String,
    },
}

impl Why {
    /// It is no longer to stay down.
    pub(super) fn resume(&mut self) {
        if matches!(self, Self::Stop { .. }) {
            *self = Self::Restart { reason: "resumed".to_owned() };
        }
    }

    fn words(&self) -> String {
        match self {
            Self::Hung { reason } => format!("hung: {reason}"),
            Self::Restart { reason } => format!("to be restarted: {reason}"),
            Self::Stop { by } => format!("stopped by {by}"),
        }
    }
}

impl Standing {
    /// As operators see it; `trial`: the breaker is HalfOpen.
    pub(super) fn state(&self, trial: bool) -> State {
        match self {
            Self::Unknown { reason, .. } => State::Unknown { reason: reason.clone() },
            Self::Up { instance, .. } if trial => State::Trial { instance: Some(*instance) },
            Self::Up { instance, ready, .. } => State::Up { instance: *instance, ready: *ready },
            Self::Stopping { instance, why, stuck } => {
                let stuck = stuck.iter().map(|(reason, _)| format!("; {reason}"));
                let reason = why.words() + &stuck.collect::<String>();
                State::Stopping { instance: *instance, reason }
            }
            Self::Remote { health: None } => State::Unknown { reason: String::new() },
            Self::Remote { health: Some(Ok(())) } => State::Reachable,
            Self::Remote { health: Some(Err(reason)) } => {
                State::Unreachable { reason: reason.clone() }
            }
            Self::Refused { until } => State::BreakerOpen { until: *until },
            Self::Down { .. } => State::Down,
            Self::Finished { .. } => State::Finished,
            Self::Awaiting { waiting, .. } if !waiting.is_empty() => {
                State::Held { waiting: waiting.clone() }
            }
            _ if trial => State::Trial { instance: None },
            Self::BackingOff { until } => State::BackingOff { until: *until },
            Self::Judged
            | Self::Awaiting { .. }
            | Self::Preparing
            | Self::Queued { .. }
            | Self::Launching { .. }
            | Self::Succession { .. } => State::Starting,
        }
    }

    /// The living instance, as far as one is held.
    pub(super) fn instance(&self) -> Option<Instance> {
        match self {
            Self::Up { instance, .. } | Self::Stopping { instance, .. } => Some(*instance),
            _ => None,
        }
    }

    /// Whether an answer is due at once, so that this is not yet worth telling anybody.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Judged => true,
            Self::Awaiting { waiting, .. } => waiting.is_empty(),
            _ => false,
        }
    }

    /// When time alone changes something here.
    pub(super) fn deadline(&self, process: &Process) -> Option<Time> {
        match self {
            Self::Unknown { look_at, .. } | Self::Down { look_at } | Self::Finished { look_at } => {
                Some(*look_at)
            }
            Self::BackingOff { until } => Some(*until),
            Self::Succession { launched_at, look_at, .. } => {
                Some(launched_at.after(process.recovery.start_timeout).min(*look_at))
            }
            Self::Up { ready, hung, since, held, found, launched, .. } => {
                let ready = (!ready && hung.is_none())
                    .then(|| ready_at(process, *since, *held, *found))
                    .flatten();
                let settled = launched.map(|at| at.after(process.recovery.start_timeout));
                ready.into_iter().chain(settled).min()
            }
            Self::Stopping { stuck, .. } => stuck.as_ref().map(|(_, again)| *again),
            Self::Remote { .. }
            | Self::Judged
            | Self::Refused { .. }
            | Self::Awaiting { .. }
            | Self::Preparing
            | Self::Queued { .. }
            | Self::Launching { .. } => None,
        }
    }
}

/// When an instance is ready by time alone. One that is probed is ready when its probe says so; but
/// of one that was `found`, and ran before healer did, that is believed after one time-out, so that
/// a restart of healer holds nobody back.
pub(super) fn ready_at(process: &Process, since: Time, held: Time, found: bool) -> Option<Time> {
    match process.probe_timeout() {
        None => Some(since.after(process.ready_after)),
        Some(timeout) if found => Some(held.after(timeout)),
        Some(_) => None,
    }
}
