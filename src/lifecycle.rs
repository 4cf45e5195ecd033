//! One process's life: where it stands, and what to do next.
//!
//! A pure machine. `recovery::plan` feeds it what was seen and done, and performs or passes on its
//! actions; whether a failure may be tried again is the breaker's answer, carried by the plan. It
//! never starts anything beside a living instance: a launch is ordered only while none is held, and
//! right after a preparation, which looks again if others had time to start one.

use crate::config::{Process, Restart};
use crate::event::{Change, Instance, Pause, State, Time};

use self::memory::Recalled;
pub use self::memory::{Memory, Running};
use self::policy::{RELOOK_DOWN, RELOOK_SUCCESSOR, RELOOK_UNCLEAR, RESTOP};
use self::standing::Standing;
pub use self::standing::Why;
pub use self::words::{Action, Input};

mod end;
mod memory;
mod policy;
mod requests;
mod standing;
mod start;
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
    /// The instance that ended last, and when, where that was seen: what is left of it goes before
    /// the next launch.
    last: Option<(Instance, Option<Time>)>,
    /// How often in a row it was looked at in vain.
    doubts: u32,
    /// Somebody wants it left as it is.
    paused: Option<Pause>,
    /// And, if something of it comes up, ended.
    stop_wanted: bool,
    /// What an earlier healer knew of it, until a look tells what became of that.
    recalled: Option<Recalled>,
    /// The state that the world was told last.
    told: State,
}

impl Lifecycle {
    /// A process that was not looked at yet, and the look it needs; what is only watched needs none.
    pub fn new(process: &Process, now: Time) -> (Self, Vec<Action>) {
        let (standing, actions) = if process.is_watch_only() {
            (Standing::Remote { health: None }, vec![])
        } else {
            let look_at = now.after(RELOOK_UNCLEAR.delay(0));
            let unknown = Standing::Unknown { reason: String::new(), wanted: false, look_at };
            (unknown, vec![Action::Look])
        };
        let told = State::Unknown { reason: String::new() };
        (
            Self {
                standing,
                trial: false,
                row: 0,
                delayable: false,
                last: None,
                doubts: 0,
                paused: None,
                stop_wanted: false,
                recalled: None,
                told,
            },
            actions,
        )
    }

    /// Takes one input, moves on, and says what to do.
    pub fn on(&mut self, process: &Process, input: Input, now: Time) -> Vec<Action> {
        let mut actions = self.step(process, input, now);
        let to = self.state();
        // Where an answer is due at once, that answer tells the move.
        if to != self.told && !self.standing.is_passing() {
            let from = std::mem::replace(&mut self.told, to.clone());
            // The answer to Stopped may be another move.
            let stopped = actions.iter().position(|action| *action == Action::Stopped);
            let at = stopped.unwrap_or(actions.len());
            actions.insert(at, Action::Tell(Change::Moved { from, to }));
        }
        actions
    }

    /// Where it stands, as operators see it.
    #[must_use]
    pub fn state(&self) -> State {
        match &self.paused {
            Some(pause) if !matches!(self.standing, Standing::Stopping { .. }) => {
                State::Paused { pause: pause.clone(), instance: self.standing.instance() }
            }
            _ => self.standing.state(self.trial),
        }
    }

    /// The living instance, and since when it runs.
    #[must_use]
    pub fn running(&self) -> Option<(Instance, Option<Time>)> {
        let since = match self.standing {
            Standing::Up { since, .. } => Some(since),
            _ => None,
        };
        self.standing.instance().map(|instance| (instance, since))
    }

    /// Whether the living instance is ready.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        matches!(self.standing, Standing::Up { ready: true, .. })
    }

    /// What is wrong with the living instance: its probes fail and nothing may be done about it, or
    /// it cannot be ended.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        match &self.standing {
            Standing::Up { hung: Some(reason), .. } => Some(format!("hung: {reason}")),
            Standing::Stopping { stuck: Some((reason, _)), .. } => Some(reason.clone()),
            _ => None,
        }
    }

    /// Whether something that healer started may turn up at any moment.
    #[must_use]
    pub fn expects(&self) -> bool {
        matches!(self.standing, Standing::Launching { .. } | Standing::Succession { .. })
    }

    /// Who wants it left as it is.
    #[must_use]
    pub fn pause(&self) -> Option<&Pause> {
        self.paused.as_ref()
    }

    /// When a [`Input::Tick`] will change something.
    #[must_use]
    pub fn next_deadline(&self, process: &Process) -> Option<Time> {
        let pause = self.paused.as_ref().and_then(|pause| pause.until);
        self.standing.deadline(process).into_iter().chain(pause).min()
    }

    /// Whether a running instance, found by whomever, would be taken as the process now.
    #[must_use]
    pub fn seeks(&self) -> bool {
        !matches!(
            self.standing,
            Standing::Up { .. }
                | Standing::Remote { .. }
                | Standing::Stopping { .. }
                | Standing::Launching { .. }
                | Standing::Judged
        )
    }

    /// Whether a launch is under way, so that an instance may appear at any moment.
    #[must_use]
    pub fn is_launching(&self) -> bool {
        matches!(self.standing, Standing::Launching { .. })
    }

    /// Whether it waits for a launch slot.
    #[must_use]
    pub fn is_queued(&self) -> bool {
        matches!(self.standing, Standing::Queued { .. })
    }

    fn step(&mut self, process: &Process, input: Input, now: Time) -> Vec<Action> {
        match input {
            Input::Found { .. } | Input::Missing | Input::Unclear { .. } => {
                self.seen(process, input, now)
            }
            Input::Ended { .. }
            | Input::Stuck { .. }
            | Input::Healthy { .. }
            | Input::Unhealthy { .. } => self.of_the_living(process, input, now),
            Input::Permitted | Input::Refused { .. } | Input::TrialDue | Input::Proved => {
                self.breaker_says(process, input, now)
            }
            Input::Held { .. }
            | Input::Released
            | Input::Prepared
            | Input::Go
            | Input::Launched { .. }
            | Input::LaunchFailed { .. }
            | Input::NodeFault
            | Input::Postponed
            | Input::NoSuccessor => self.start_goes_on(process, input, now),
            Input::Restart { reason } => {
                let may = matches!(self.standing, Standing::Up { .. }) && self.paused.is_none();
                if may { self.restart(reason) } else { vec![] }
            }
            Input::Asked { request, by } => self.asked(process, request, by, now),
            Input::Tick => self.tick(process, now),
        }
    }

    /// A look has an answer, or a monitor saw something.
    fn seen(&mut self, process: &Process, input: Input, now: Time) -> Vec<Action> {
        match (&self.standing, input) {
            (Standing::Succession { launched_at, .. }, Input::Found { instance, .. }) => {
                // The daemon that came out of a launch takes the place of the command that exited.
                // It has what is left of that launch's time.
                let launched_at = *launched_at;
                self.up(instance, launched_at, now, None)
            }
            (_, Input::Found { instance, started }) if self.seeks() => {
                self.adopted(process, instance, started, now)
            }

            (Standing::Unknown { wanted, .. }, Input::Missing) => {
                let wanted = *wanted;
                match self.recalled.take() {
                    Some(recalled) => self.recalled_missing(process, recalled, now),
                    None => self.none_runs(process, wanted, now),
                }
            }
            (Standing::Unknown { wanted, .. }, Input::Unclear { reason }) => {
                let wanted = *wanted;
                self.doubt(reason, wanted, now)
            }
            (Standing::Preparing, Input::Unclear { reason }) => self.doubt(reason, true, now),
            // What the preparation found is gone again.
            (Standing::Preparing, Input::Missing) => self.prepare(false),
            // Old news.
            _ => vec![],
        }
    }

    fn breaker_says(&mut self, process: &Process, input: Input, now: Time) -> Vec<Action> {
        match (&self.standing, input) {
            (Standing::Judged, Input::Permitted) => self.permitted(process, now),
            (Standing::Judged, Input::Refused { until }) => {
                self.trial = false;
                self.standing = Standing::Refused { until };
                vec![]
            }

            (Standing::Down { .. }, Input::Refused { until }) => {
                self.standing = Standing::Refused { until };
                vec![]
            }

            (Standing::Refused { .. }, Input::TrialDue) => {
                // The policy may have changed meanwhile.
                if process.recovery.restart == Restart::Never {
                    return self.finished(now);
                }
                self.trial = true;
                if self.paused.is_some() {
                    return self.down(now);
                }
                self.want_start(true)
            }
            // Adopted while the breaker was Open: it proves itself without a start.
            (Standing::Up { ready, .. }, Input::TrialDue) => {
                self.trial = true;
                if *ready { vec![Action::Running, Action::Ready] } else { vec![Action::Running] }
            }
            // It is on its way by an operator's wish, or will be: that will be its trial.
            (_, Input::TrialDue) => {
                self.trial = true;
                self.permit_recalled();
                vec![]
            }
            (_, Input::Proved) => {
                self.trial = false;
                self.row = 0;
                vec![]
            }
            // Old news.
            _ => vec![],
        }
    }

    fn tick(&mut self, process: &Process, now: Time) -> Vec<Action> {
        if self.paused.as_ref().is_some_and(|pause| pause.until.is_some_and(|until| until <= now)) {
            return self.resume(process);
        }
        if self.standing.deadline(process).is_none_or(|deadline| deadline > now) {
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
            Standing::BackingOff { .. } => self.want_start(true),
            Standing::Stopping { instance, stuck: Some((_, again)), .. } => {
                *again = now.after(RESTOP);
                vec![Action::Stop { instance: *instance }]
            }
            Standing::Succession { launched, launched_at, exit, looks, look_at } => {
                if launched_at.after(process.recovery.start_timeout) > now {
                    *looks = looks.saturating_add(1);
                    *look_at = now.after(RELOOK_SUCCESSOR.delay(*looks));
                    return vec![Action::FindSuccessor { launched: *launched }];
                }
                let exit = exit.clone();
                self.without_daemon(process, &exit, now)
            }
            Standing::Up { .. } => self.aged(process, now),
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
        let recalled = self.recalled.take();
        let launched = recalled.as_ref().and_then(|recalled| recalled.launched(instance, started));
        let (since, held, hung, found) = (started, now, None, true);
        let ready = standing::ready_at(process, since, held, found).is_some_and(|at| at <= now);
        self.standing = Standing::Up { instance, since, held, ready, hung, launched, found };
        (self.row, self.doubts) = (0, 0);
        let mut actions = vec![Action::Tell(Change::Adopted(instance)), Action::Running];
        if ready {
            actions.push(Action::Ready);
        }
        if let Some(recalled) = recalled {
            actions.extend(self.go_on_ending(&recalled, instance));
        }
        actions
    }

    /// A look found that none runs.
    fn none_runs(&mut self, process: &Process, wanted: bool, now: Time) -> Vec<Action> {
        if self.paused.is_none() && (wanted || process.autostart) {
            self.want_start(false)
        } else {
            self.down(now)
        }
    }

    /// It is down, and nothing is under way; only the breaker may have another word.
    fn down(&mut self, now: Time) -> Vec<Action> {
        self.standing = Standing::Down { look_at: now.after(RELOOK_DOWN) };
        vec![Action::Stopped]
    }
}

#[cfg(test)]
mod tests;
