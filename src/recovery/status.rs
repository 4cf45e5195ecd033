//! How one process stands, in full, for whoever asks: `control` does.
//!
//! Pure. Most of it is the machines' own; a [`Record`] beside them keeps what they forget once it is
//! told: since when, how the last instance ended. `plan` has one for each process, and makes the
//! answers.

use std::time::Duration;

use crate::breaker::Breaker;
use crate::config::{Breaker as Policy, Process};
use crate::event::{Change, Exit, Instance, Pause, ProcessName, State, Time};
use crate::lifecycle::Lifecycle;

/// How one process stands.
#[derive(Clone, Debug, PartialEq)]
pub struct ProcessStatus {
    /// Which one.
    pub name: ProcessName,
    /// Where it stands.
    pub state: State,
    /// Since when.
    pub since: Time,
    /// The living instance.
    pub running: Option<Running>,
    /// What is wrong with the living instance.
    pub trouble: Option<String>,
    /// Who wants it left as it is.
    pub pause: Option<Pause>,
    /// Without whom it runs, or would: its `on_failure` is degrade, and they are not ready.
    pub degraded_without: Vec<ProcessName>,
    /// Something that healer started may turn up at any moment, whatever was asked since.
    pub expected: bool,
    /// Failures that count in `window` now.
    pub failures: usize,
    /// Failures permitted in `window`.
    pub retries: u32,
    /// The sliding window.
    pub window: Duration,
    /// The breaker's phase.
    pub breaker: Phase,
    /// How the last instance ended.
    pub last_exit: Option<Ended>,
    /// Why the last launch failed, if no later one succeeded.
    pub launch_failure: Option<Failure>,
}

/// The living instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Running {
    /// Which one.
    pub instance: Instance,
    /// Since its program runs.
    pub since: Time,
    /// Whether it was found running.
    pub adopted: bool,
    /// Whether it is ready.
    pub ready: bool,
}

/// A breaker's phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It permits restarts.
    Closed,
    /// It refuses them.
    Open {
        /// When the one trial is due.
        until: Time,
    },
    /// It has its one trial.
    HalfOpen,
}

/// The end of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Which one.
    pub instance: Instance,
    /// When healer saw it.
    pub at: Time,
    /// How.
    pub exit: Exit,
}

/// A launch that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The step and what the system said.
    pub reason: String,
    /// When.
    pub at: Time,
}

/// What was told of one process last.
#[derive(Clone, Debug)]
pub struct Record {
    since: Time,
    running_since: Time,
    adopted: bool,
    last_exit: Option<Ended>,
    launch_failure: Option<Failure>,
}

impl Record {
    /// Of a process that was not looked at yet.
    #[must_use]
    pub fn new(now: Time) -> Self {
        Self {
            since: now,
            running_since: now,
            adopted: false,
            last_exit: None,
            launch_failure: None,
        }
    }

    /// Takes down what is told of the process; `life` has taken that step already.
    pub fn note(&mut self, change: &Change, life: &Lifecycle, now: Time) {
        match change {
            Change::Moved { from, to } if from.to_string() != to.to_string() => self.since = now,
            Change::Adopted(_) => {
                let since = life.running().and_then(|(_, since)| since);
                (self.running_since, self.adopted) = (since.unwrap_or(now), true);
            }
            Change::Started { .. } => {
                (self.running_since, self.adopted) = (now, false);
                self.launch_failure = None;
            }
            Change::Ended { instance, exit } => {
                let (instance, exit) = (*instance, Exit::clone(exit));
                self.last_exit = Some(Ended { instance, at: now, exit });
            }
            Change::LaunchFailed { reason } => {
                self.launch_failure = Some(Failure { reason: reason.clone(), at: now });
            }
            _ => {}
        }
    }

    /// The whole answer.
    #[must_use]
    pub fn status(
        &self,
        process: &Process,
        life: &Lifecycle,
        breaker: &Breaker,
        now: Time,
    ) -> ProcessStatus {
        let Policy { retries, window, .. } = process.recovery.breaker;
        ProcessStatus {
            name: process.name.clone(),
            state: life.state(),
            since: self.since,
            running: life.running().map(|(instance, _)| Running {
                instance,
                since: self.running_since,
                adopted: self.adopted,
                ready: life.is_ready(),
            }),
            trouble: life.trouble(),
            pause: life.pause().cloned(),
            // The coordinator's to say.
            degraded_without: Vec::new(),
            expected: life.expects(),
            failures: breaker.failures(&process.recovery.breaker, now),
            retries,
            window,
            breaker: match breaker.open_until() {
                Some(until) => Phase::Open { until },
                None if breaker.is_half_open() => Phase::HalfOpen,
                None => Phase::Closed,
            },
            last_exit: self.last_exit.clone(),
            launch_failure: self.launch_failure.clone(),
        }
    }
}
