//! One process's life: where it stands, and what to do next.
//!
//! A pure machine. `recovery::plan` feeds it what was seen and done, and performs or passes on its
//! actions; whether a failure may be tried again is the breaker's answer, carried by the plan. It
//! never starts anything beside a living instance: a launch is ordered only while none is held, and
//! right after a preparation, which looks again if others had time to start one.

use crate::config::{Process, Restart};
use crate::event::{Change, End, Exit, Instance, State, Time};

use self::policy::{
    RELOOK_DOWN, RELOOK_SUCCESSOR, RELOOK_UNCLEAR, STALE_PREPARATION, delay, ended_by_itself,
    is_failure,
};
pub use self::words::{Action, Input};

mod policy;
mod words;

/// One process's life.
#[derive(Clone, Debug)]
pub struct Lifecycle {
    standing: Standing,
    /// The breaker is HalfOpen.
    trial: bool,
    /// Restarts in a row, none of them ready.
    row: u32,
    /// Whether the last failure is one that backoff delays.
    delayable: bool,
    /// The instance that ended last, and when: what is left of it goes before the next launch.
    last: Option<(Instance, Time)>,
    /// How often in a row it was looked at in vain.
    doubts: u32,
    /// The state that the world was told last.
    told: State,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Standing {
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
        since: Time,
        ready: bool,
        /// When healer launched it; `None` for an adopted one.
        launched: Option<Time>,
    },
}

impl Lifecycle {
    /// A process that was not looked at yet, and the look it needs.
    pub fn new(now: Time) -> (Self, Action) {
        let standing = Standing::Unknown {
            reason: String::new(),
            wanted: false,
            look_at: now.after(RELOOK_UNCLEAR.delay(0)),
        };
        let told = State::Unknown { reason: String::new() };
        (
            Self { standing, trial: false, row: 0, delayable: false, last: None, doubts: 0, told },
            Action::Look,
        )
    }

    /// Takes one input, moves on, and says what to do.
    pub fn on(&mut self, process: &Process, input: Input, now: Time) -> Vec<Action> {
        let mut actions = self.step(process, input, now);
        let to = self.state();
        // A judged failure is on its way elsewhere: the breaker's answer tells the move.
        if to != self.told && self.standing != Standing::Judged {
            let from = std::mem::replace(&mut self.told, to.clone());
            actions.push(Action::Tell(Change::Moved { from, to }));
        }
        actions
    }

    /// Where it stands, as operators see it.
    #[must_use]
    pub fn state(&self) -> State {
        match &self.standing {
            Standing::Unknown { reason, .. } => State::Unknown { reason: reason.clone() },
            Standing::Up { instance, .. } if self.trial => {
                State::Trial { instance: Some(*instance) }
            }
            Standing::Up { instance, ready, .. } => {
                State::Up { instance: *instance, ready: *ready }
            }
            Standing::Refused { until } => State::BreakerOpen { until: *until },
            Standing::Down { .. } => State::Down,
            Standing::Finished { .. } => State::Finished,
            _ if self.trial => State::Trial { instance: None },
            Standing::BackingOff { until } => State::BackingOff { until: *until },
            Standing::Judged
            | Standing::Preparing
            | Standing::Queued { .. }
            | Standing::Launching { .. }
            | Standing::Succession { .. } => State::Starting,
        }
    }

    /// When a [`Input::Tick`] will change something.
    #[must_use]
    pub fn next_deadline(&self, process: &Process) -> Option<Time> {
        match &self.standing {
            Standing::Unknown { look_at, .. }
            | Standing::Down { look_at }
            | Standing::Finished { look_at } => Some(*look_at),
            Standing::BackingOff { until } => Some(*until),
            Standing::Succession { launched_at, look_at, .. } => {
                Some(launched_at.after(process.recovery.start_timeout).min(*look_at))
            }
            Standing::Up { since, ready: false, .. } => Some(since.after(process.ready_after)),
            Standing::Up { ready: true, .. }
            | Standing::Judged
            | Standing::Refused { .. }
            | Standing::Preparing
            | Standing::Queued { .. }
            | Standing::Launching { .. } => None,
        }
    }

    /// Whether a running instance, found by whomever, would be taken as the process now.
    #[must_use]
    pub fn seeks(&self) -> bool {
        !matches!(
            self.standing,
            Standing::Up { .. } | Standing::Launching { .. } | Standing::Judged
        )
    }

    /// Whether a launch is under way, so that an instance may appear at any moment.
    #[must_use]
    pub fn is_launching(&self) -> bool {
        matches!(self.standing, Standing::Launching { .. })
    }

    fn step(&mut self, process: &Process, input: Input, now: Time) -> Vec<Action> {
        match (&self.standing, input) {
            (Standing::Succession { launched_at, .. }, Input::Found { instance, .. }) => {
                let launched_at = *launched_at;
                self.replaced(instance, launched_at, now)
            }
            (_, Input::Found { instance, started }) if self.seeks() => {
                self.adopted(process, instance, started, now)
            }

            (Standing::Unknown { wanted, .. }, Input::Missing) => {
                if *wanted || process.autostart {
                    self.prepare(false)
                } else {
                    self.standing = Standing::Down { look_at: now.after(RELOOK_DOWN) };
                    vec![]
                }
            }
            (Standing::Unknown { wanted, .. }, Input::Unclear { reason }) => {
                let wanted = *wanted;
                self.doubt(reason, wanted, now)
            }
            (Standing::Preparing, Input::Unclear { reason }) => self.doubt(reason, true, now),
            // What the preparation found is gone again.
            (Standing::Preparing, Input::Missing) => self.prepare(false),

            (Standing::Up { instance, .. }, Input::Ended { instance: ended, exit })
                if *instance == ended =>
            {
                self.ended(process, exit, now)
            }

            (Standing::Judged, Input::Permitted) => self.permitted(process, now),
            (Standing::Judged, Input::Refused { until }) => {
                self.trial = false;
                self.standing = Standing::Refused { until };
                vec![]
            }

            (Standing::Refused { .. }, Input::TrialDue) => {
                // The policy may have changed meanwhile.
                if process.recovery.restart == Restart::Never {
                    return self.finished(now);
                }
                self.trial = true;
                self.prepare(true)
            }
            // Adopted while the breaker was Open: it proves itself without a start.
            (Standing::Up { ready, .. }, Input::TrialDue) => {
                self.trial = true;
                if *ready { vec![Action::Running, Action::Ready] } else { vec![Action::Running] }
            }
            (_, Input::Proved) => {
                self.trial = false;
                self.row = 0;
                vec![]
            }

            (Standing::Preparing, Input::Prepared) => {
                self.standing = Standing::Queued { prepared: now };
                vec![Action::Enqueue]
            }
            (Standing::Launching { prepared }, Input::NodeFault) => {
                self.standing = Standing::Queued { prepared: *prepared };
                vec![Action::Enqueue]
            }
            (Standing::Queued { prepared }, Input::Go) => {
                if now.since(*prepared) > STALE_PREPARATION {
                    return self.prepare(true);
                }
                self.standing = Standing::Launching { prepared: *prepared };
                vec![Action::Launch]
            }
            (Standing::Launching { .. }, Input::Launched { instance }) => {
                self.launched(instance, now)
            }
            (Standing::Launching { .. }, Input::LaunchFailed { reason }) => {
                let mut actions = vec![Action::Tell(Change::LaunchFailed { reason })];
                self.delayable = true;
                actions.extend(self.judge(process, &Exit::default(), now));
                actions
            }

            (Standing::Succession { exit, .. }, Input::NoSuccessor) => {
                let exit = exit.clone();
                self.without_daemon(process, &exit, now)
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
        match &mut self.standing {
            Standing::Unknown { look_at, .. } => {
                *look_at = now.after(RELOOK_UNCLEAR.max);
                vec![Action::Look]
            }
            Standing::Down { look_at } | Standing::Finished { look_at } => {
                *look_at = now.after(RELOOK_DOWN);
                vec![Action::Look]
            }
            Standing::BackingOff { .. } => self.prepare(true),
            Standing::Succession { launched, launched_at, exit, looks, look_at } => {
                if launched_at.after(process.recovery.start_timeout) > now {
                    *looks = looks.saturating_add(1);
                    *look_at = now.after(RELOOK_SUCCESSOR.delay(*looks));
                    return vec![Action::FindSuccessor { launched: *launched }];
                }
                let exit = exit.clone();
                self.without_daemon(process, &exit, now)
            }
            Standing::Up { ready, .. } => {
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
        self.standing = Standing::Up { instance, since: started, ready, launched: None };
        (self.row, self.doubts) = (0, 0);
        let mut actions = vec![Action::Tell(Change::Adopted(instance)), Action::Running];
        if ready {
            actions.push(Action::Ready);
        }
        actions
    }

    fn launched(&mut self, instance: Instance, now: Time) -> Vec<Action> {
        let outage = self.last.map(|(_, ended)| now.since(ended));
        self.doubts = 0;
        self.standing = Standing::Up { instance, since: now, ready: false, launched: Some(now) };
        vec![Action::Tell(Change::Started { instance, outage }), Action::Running]
    }

    fn ended(&mut self, process: &Process, exit: Exit, now: Time) -> Vec<Action> {
        let Standing::Up { instance, ready, launched, .. } = self.standing else { return vec![] };
        self.last = Some((instance, now));
        let tell = Action::Tell(Change::Ended { instance, exit: Box::new(exit.clone()) });
        if let Some(launched_at) = launched
            && exit.end == Some(End::Code(0))
            && now < launched_at.after(process.recovery.start_timeout)
        {
            // Not at once: a double fork may be half done.
            let look_at = now.after(RELOOK_SUCCESSOR.initial);
            self.delayable = !ready;
            let (launched, looks) = (instance, 0);
            self.standing = Standing::Succession { launched, launched_at, exit, looks, look_at };
            return vec![tell];
        }
        self.delayable = !ready && ended_by_itself(&exit);
        let mut actions = vec![tell];
        actions.extend(self.judge(process, &exit, now));
        actions
    }

    /// The daemon that came out of a launch takes the place of the command that exited. It has
    /// what is left of that launch's time.
    fn replaced(&mut self, instance: Instance, launched_at: Time, now: Time) -> Vec<Action> {
        self.standing =
            Standing::Up { instance, since: now, ready: false, launched: Some(launched_at) };
        vec![Action::Tell(Change::Started { instance, outage: None }), Action::Running]
    }

    /// A command exited 0 and left no daemon. That is an end as any other of one that had been
    /// ready, and no failure where `restart` takes it for a wanted one.
    fn without_daemon(&mut self, process: &Process, exit: &Exit, now: Time) -> Vec<Action> {
        let mut actions = self.judge(process, exit, now);
        if self.delayable && self.standing == Standing::Judged {
            let reason = "exited 0 without leaving a daemon".to_owned();
            actions.insert(0, Action::Tell(Change::LaunchFailed { reason }));
        }
        actions
    }

    /// After an end: restart, or leave it so.
    fn judge(&mut self, process: &Process, exit: &Exit, now: Time) -> Vec<Action> {
        if is_failure(process.recovery.restart, exit) {
            self.standing = Standing::Judged;
            vec![Action::Judge]
        } else {
            self.finished(now)
        }
    }

    fn finished(&mut self, now: Time) -> Vec<Action> {
        self.trial = false;
        self.standing = Standing::Finished { look_at: now.after(RELOOK_DOWN) };
        vec![Action::Finished]
    }

    fn doubt(&mut self, reason: String, wanted: bool, now: Time) -> Vec<Action> {
        let look_at = now.after(RELOOK_UNCLEAR.delay(self.doubts));
        self.doubts = self.doubts.saturating_add(1);
        self.standing = Standing::Unknown { reason, wanted, look_at };
        vec![]
    }

    fn permitted(&mut self, process: &Process, now: Time) -> Vec<Action> {
        self.row = self.row.saturating_add(1);
        if self.delayable && self.row >= 2 {
            let delay = delay(&process.recovery.backoff, self.row, now);
            self.standing = Standing::BackingOff { until: now.after(delay) };
            vec![]
        } else {
            // One that ended before it was ready may have left what could not be told yet.
            self.prepare(self.delayable)
        }
    }

    fn prepare(&mut self, look: bool) -> Vec<Action> {
        self.standing = Standing::Preparing;
        vec![Action::Prepare { last: self.last.map(|(instance, _)| instance), look }]
    }
}

#[cfg(test)]
mod tests;
