//! One process's life: where it stands, and what to do next.
//!
//! A pure machine. `recovery::plan` feeds it what was seen and done, and performs or passes on its
//! actions; whether a failure may be tried again is the breaker's answer, carried by the plan. It
//! never starts anything beside a living instance, because only [`Lifecycle::seeks`]-ing stages
//! lead to a launch, and every launch is preceded by a preparation that looks again.

use std::time::Duration;

use crate::config::{Backoff, Process};
use crate::event::{Change, End, Exit, Instance, State, Time};

use self::policy::{delay, ended_by_itself, is_failure};
pub use self::words::{Action, Input};

mod policy;
mod words;

/// How soon to look again where it could not be told which process is meant: it may have been seen
/// in the middle of an exec or of its end.
const RELOOK_UNCLEAR: Backoff = Backoff {
    initial: Duration::from_millis(200),
    factor: 2.0,
    max: Duration::from_secs(5),
    jitter: 0.0,
};
/// How soon to look again whether somebody started a process that healer does not start itself.
const RELOOK_DOWN: Duration = Duration::from_secs(30);
/// How soon to look again for the successor of a daemonising command.
const RELOOK_SUCCESSOR: Duration = Duration::from_millis(50);

const NO_DAEMON: &str = "exited 0 without leaving a daemon";

/// One process's life.
#[derive(Clone, Debug)]
pub struct Lifecycle {
    stage: Stage,
    /// The breaker is HalfOpen.
    trial: bool,
    /// Restarts in a row, none of them ready.
    row: u32,
    /// Whether the last failure is one that backoff delays.
    delayable: bool,
    /// The instance that ended last, and when: what is left of it goes before the next launch.
    last: Option<(Instance, Time)>,
    /// The state that the world was told last.
    told: State,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    /// Cannot tell. `wanted`: to be started once it is known not to run.
    Unknown {
        reason: String,
        wanted: bool,
        /// How often it was looked at in vain.
        looks: u32,
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
    Preparing,
    Queued,
    Launching,
    /// Its command exited 0 before it was ready; a daemon may have come out of it.
    Succession {
        /// The instance that exited.
        launched: Instance,
        /// When the launch was confirmed.
        launched_at: Time,
        exit: Exit,
        look_at: Time,
    },
    Up {
        instance: Instance,
        since: Time,
        ready: bool,
        /// When healer launched it; `None` for an adopted one.
        launched: Option<Time>,
    },
}

impl Lifecycle {
    /// A process that was not looked at yet, and the look it needs.
    pub fn new(now: Time) -> (Self, Action) {
        let stage = Stage::Unknown {
            reason: String::new(),
            wanted: false,
            looks: 0,
            look_at: now.after(RELOOK_UNCLEAR.delay(0)),
        };
        let told = State::Unknown { reason: String::new() };
        (Self { stage, trial: false, row: 0, delayable: false, last: None, told }, Action::Look)
    }

    /// Takes one input, moves on, and says what to do.
    pub fn on(&mut self, process: &Process, input: Input, now: Time) -> Vec<Action> {
        let mut actions = self.step(process, input, now);
        let to = self.state();
        // A judged failure is on its way elsewhere: the breaker's answer tells the move.
        if to != self.told && self.stage != Stage::Judged {
            let from = std::mem::replace(&mut self.told, to.clone());
            actions.push(Action::Tell(Change::Moved { from, to }));
        }
        actions
    }

    /// Where it stands, as operators see it.
    #[must_use]
    pub fn state(&self) -> State {
        match &self.stage {
            Stage::Unknown { reason, .. } => State::Unknown { reason: reason.clone() },
            Stage::Up { instance, .. } if self.trial => State::Trial { instance: Some(*instance) },
            Stage::Up { instance, ready, .. } => State::Up { instance: *instance, ready: *ready },
            Stage::Refused { until } => State::BreakerOpen { until: *until },
            Stage::Down { .. } => State::Down,
            Stage::Finished { .. } => State::Finished,
            _ if self.trial => State::Trial { instance: None },
            Stage::BackingOff { until } => State::BackingOff { until: *until },
            Stage::Judged
            | Stage::Preparing
            | Stage::Queued
            | Stage::Launching
            | Stage::Succession { .. } => State::Starting,
        }
    }

    /// When a [`Input::Tick`] will change something.
    #[must_use]
    pub fn next_deadline(&self, process: &Process) -> Option<Time> {
        match &self.stage {
            Stage::Unknown { look_at, .. }
            | Stage::Down { look_at }
            | Stage::Finished { look_at } => Some(*look_at),
            Stage::BackingOff { until } => Some(*until),
            Stage::Succession { launched_at, look_at, .. } => {
                Some(launched_at.after(process.recovery.start_timeout).min(*look_at))
            }
            Stage::Up { since, ready: false, .. } => Some(since.after(process.ready_after)),
            Stage::Up { ready: true, .. }
            | Stage::Judged
            | Stage::Refused { .. }
            | Stage::Preparing
            | Stage::Queued
            | Stage::Launching => None,
        }
    }

    /// Whether a running instance, found by whomever, would be taken as the process now.
    #[must_use]
    pub fn seeks(&self) -> bool {
        !matches!(self.stage, Stage::Up { .. } | Stage::Launching | Stage::Judged)
    }

    /// The instance that is guarded.
    #[must_use]
    pub fn instance(&self) -> Option<Instance> {
        match self.stage {
            Stage::Up { instance, .. } => Some(instance),
            _ => None,
        }
    }

    /// Whether a launch is under way, so that an instance may appear at any moment.
    #[must_use]
    pub fn is_launching(&self) -> bool {
        self.stage == Stage::Launching
    }

    fn step(&mut self, process: &Process, input: Input, now: Time) -> Vec<Action> {
        match (&self.stage, input) {
            (Stage::Succession { launched_at, .. }, Input::Found { instance, .. }) => {
                let launched_at = *launched_at;
                self.replaced(instance, launched_at, now)
            }
            (_, Input::Found { instance, started }) if self.seeks() => {
                self.adopted(process, instance, started, now)
            }

            (Stage::Unknown { wanted, .. }, Input::Missing) => {
                if *wanted || process.autostart {
                    self.prepare(false)
                } else {
                    self.stage = Stage::Down { look_at: now.after(RELOOK_DOWN) };
                    vec![]
                }
            }
            (Stage::Unknown { wanted, looks, look_at, .. }, Input::Unclear { reason }) => {
                let (wanted, looks, look_at) = (*wanted, *looks, *look_at);
                self.stage = Stage::Unknown { reason, wanted, looks, look_at };
                vec![]
            }
            (Stage::Preparing, Input::Unclear { reason }) => {
                let look_at = now.after(RELOOK_UNCLEAR.delay(0));
                self.stage = Stage::Unknown { reason, wanted: true, looks: 0, look_at };
                vec![]
            }
            // What the preparation found is gone again.
            (Stage::Preparing, Input::Missing) => self.prepare(false),

            (Stage::Up { instance, .. }, Input::Ended { instance: ended, exit })
                if *instance == ended =>
            {
                self.ended(process, exit, now)
            }

            (Stage::Judged, Input::Permitted) => self.permitted(process, now),
            (Stage::Judged, Input::Refused { until }) => {
                self.trial = false;
                self.stage = Stage::Refused { until };
                vec![]
            }

            (Stage::Refused { .. }, Input::TrialDue) => {
                self.trial = true;
                self.prepare(true)
            }
            // Adopted while the breaker was Open: it proves itself without a start.
            (Stage::Up { ready, .. }, Input::TrialDue) => {
                self.trial = true;
                if *ready { vec![Action::Running, Action::Ready] } else { vec![Action::Running] }
            }
            (_, Input::Proved) => {
                self.trial = false;
                self.row = 0;
                vec![]
            }

            (Stage::Preparing, Input::Prepared) | (Stage::Launching, Input::NodeFault) => {
                self.stage = Stage::Queued;
                vec![Action::Enqueue]
            }
            (Stage::Queued, Input::Go) => {
                self.stage = Stage::Launching;
                vec![Action::Launch]
            }
            (Stage::Launching, Input::Launched { instance }) => self.launched(instance, now),
            (Stage::Launching, Input::LaunchFailed { reason }) => {
                self.failed_launch(process, reason, &Exit::default(), now)
            }

            (Stage::Succession { exit, .. }, Input::NoSuccessor) => {
                let exit = exit.clone();
                self.failed_launch(process, NO_DAEMON.to_owned(), &exit, now)
            }

            (_, Input::Tick) => self.tick(process, now),
            // Old news.
            _ => vec![],
        }
    }

    fn tick(&mut self, process: &Process, now: Time) -> Vec<Action> {
        if self.next_deadline(process).is_none_or(|deadline| deadline > now) {
            return vec![];
        }
        match &mut self.stage {
            Stage::Unknown { looks, look_at, .. } => {
                *looks = looks.saturating_add(1);
                *look_at = now.after(RELOOK_UNCLEAR.delay(*looks));
                vec![Action::Look]
            }
            Stage::Down { look_at } | Stage::Finished { look_at } => {
                *look_at = now.after(RELOOK_DOWN);
                vec![Action::Look]
            }
            Stage::BackingOff { .. } => self.prepare(true),
            Stage::Succession { launched, launched_at, exit, look_at } => {
                if launched_at.after(process.recovery.start_timeout) > now {
                    *look_at = now.after(RELOOK_SUCCESSOR);
                    return vec![Action::FindSuccessor { launched: *launched }];
                }
                let exit = exit.clone();
                self.failed_launch(process, NO_DAEMON.to_owned(), &exit, now)
            }
            Stage::Up { ready, .. } => {
                *ready = true;
                self.row = 0;
                vec![Action::Ready]
            }
            _ => vec![],
        }
    }

    fn adopted(
        &mut self,
        process: &Process,
        instance: Instance,
        started: Time,
        now: Time,
    ) -> Vec<Action> {
        let ready = now.since(started) >= process.ready_after;
        self.stage = Stage::Up { instance, since: started, ready, launched: None };
        self.row = 0;
        let mut actions = vec![Action::Tell(Change::Adopted(instance)), Action::Running];
        if ready {
            actions.push(Action::Ready);
        }
        actions
    }

    fn launched(&mut self, instance: Instance, now: Time) -> Vec<Action> {
        let outage = self.last.map(|(_, ended)| now.since(ended));
        self.stage = Stage::Up { instance, since: now, ready: false, launched: Some(now) };
        vec![Action::Tell(Change::Started { instance, outage }), Action::Running]
    }

    fn ended(&mut self, process: &Process, exit: Exit, now: Time) -> Vec<Action> {
        let Stage::Up { instance, ready, launched, .. } = self.stage else { return vec![] };
        self.last = Some((instance, now));
        let tell = Action::Tell(Change::Ended { instance, exit: Box::new(exit.clone()) });
        if let Some(launched_at) = launched
            && !ready
            && exit.end == Some(End::Code(0))
            && now < launched_at.after(process.recovery.start_timeout)
        {
            // Not at once: a double fork may be half done.
            let look_at = now.after(RELOOK_SUCCESSOR);
            self.stage = Stage::Succession { launched: instance, launched_at, exit, look_at };
            return vec![tell];
        }
        if ready {
            self.row = 0;
        }
        self.delayable = !ready && ended_by_itself(&exit);
        let mut actions = vec![tell];
        actions.extend(self.judge(process, &exit, now));
        actions
    }

    /// The daemon that came out of a launch takes the place of the command that exited. It has
    /// what is left of that launch's time.
    fn replaced(&mut self, instance: Instance, launched_at: Time, now: Time) -> Vec<Action> {
        self.stage = Stage::Up { instance, since: now, ready: false, launched: Some(launched_at) };
        vec![Action::Tell(Change::Started { instance, outage: None }), Action::Running]
    }

    fn failed_launch(
        &mut self,
        process: &Process,
        reason: String,
        exit: &Exit,
        now: Time,
    ) -> Vec<Action> {
        self.delayable = true;
        let mut actions = self.judge(process, exit, now);
        if self.stage == Stage::Judged {
            actions.insert(0, Action::Tell(Change::LaunchFailed { reason }));
        }
        actions
    }

    /// After an end: restart, or leave it so.
    fn judge(&mut self, process: &Process, exit: &Exit, now: Time) -> Vec<Action> {
        if is_failure(process.recovery.restart, exit) {
            self.stage = Stage::Judged;
            vec![Action::Judge]
        } else {
            self.trial = false;
            self.stage = Stage::Finished { look_at: now.after(RELOOK_DOWN) };
            vec![]
        }
    }

    fn permitted(&mut self, process: &Process, now: Time) -> Vec<Action> {
        self.row = self.row.saturating_add(1);
        if self.delayable && self.row >= 2 {
            let delay = delay(&process.recovery.backoff, self.row, now);
            self.stage = Stage::BackingOff { until: now.after(delay) };
            vec![]
        } else {
            self.prepare(false)
        }
    }

    fn prepare(&mut self, look: bool) -> Vec<Action> {
        self.stage = Stage::Preparing;
        vec![Action::Prepare { last: self.last.map(|(instance, _)| instance), look }]
    }
}

#[cfg(test)]
mod tests;
