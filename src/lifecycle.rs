//! One process's life: where it stands, and what to do next.
//!
//! A pure machine. `recovery::plan` feeds it what was seen and done, and performs or passes on its
//! actions; whether a failure may be tried again is the breaker's answer, carried by the plan. It
//! never starts anything beside a living instance, because only [`Lifecycle::seeks`]-ing stages
//! lead to a launch, and every launch is preceded by a preparation that looks again.

use std::time::Duration;

use crate::config::{Backoff, Process, Restart};
use crate::event::{Change, End, Exit, Instance, State, Time};

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

/// What a lifecycle is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// This running instance is the process; it is held. Only for a lifecycle that seeks.
    Found {
        /// Which one.
        instance: Instance,
        /// When it started.
        started: Time,
    },
    /// A look found no running instance.
    Missing,
    /// A look could not tell.
    Unclear {
        /// What would decide.
        reason: String,
    },
    /// An instance ended.
    Ended {
        /// Which one; anything but the present one is old news.
        instance: Instance,
        /// How.
        exit: Exit,
    },
    /// The breaker permits a restart.
    Permitted,
    /// The breaker is Open.
    Refused {
        /// Until then.
        until: Time,
    },
    /// Open ended: make the one trial.
    TrialDue,
    /// The trial proved itself.
    Proved,
    /// No instance runs, and nothing is left of the last one.
    Prepared,
    /// A launch slot is granted.
    Go,
    /// The launch is confirmed; the instance is held.
    Launched {
        /// Which one.
        instance: Instance,
    },
    /// The launch failed.
    LaunchFailed {
        /// The step and what the system said.
        reason: String,
    },
    /// The machine, not the process, was at fault: to be queued again.
    NodeFault,
    /// Nothing came out of a command that exited 0.
    NoSuccessor,
    /// Time went by.
    Tick,
}

/// What a lifecycle wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Action {
    /// Find out whether it runs; answer with Found, Missing or Unclear.
    Look,
    /// A failure: ask the breaker; answer with Permitted or Refused.
    Judge,
    /// Make sure that none runs and that nothing is left of the last instance; answer with
    /// Prepared, or as to Look.
    Prepare {
        /// Which instance ended last.
        last: Option<Instance>,
        /// Whether that was so long ago that somebody else may have started one since.
        look: bool,
    },
    /// Ask for a launch slot; answer with Go.
    Enqueue,
    /// Launch it; answer with Launched, LaunchFailed or NodeFault.
    Launch,
    /// See what came out of this launch; answer with Found or NoSuccessor, or wait while there is
    /// something that may become it.
    FindSuccessor {
        /// What was launched.
        launched: Instance,
    },
    /// It runs.
    Running,
    /// It is ready.
    Ready,
    /// Tell the world.
    Tell(Change),
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
                let exit = *exit;
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
                let exit = *exit;
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
        let tell = Action::Tell(Change::Ended { instance, exit });
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

/// Whether an end calls for a restart. An unknown cause does, unless the answer is "never".
fn is_failure(restart: Restart, exit: &Exit) -> bool {
    match restart {
        Restart::Always => true,
        Restart::Never => false,
        Restart::OnFailure => match exit.end {
            Some(End::Code(code)) => code != 0,
            Some(End::Signal { signal, .. }) => !signal.asks_to_end(),
            None => true,
        },
    }
}

/// An exit, a fault of the program, or unknown; not a signal from outside.
fn ended_by_itself(exit: &Exit) -> bool {
    match exit.end {
        Some(End::Signal { signal, .. }) => signal.is_fault(),
        Some(End::Code(_)) | None => true,
    }
}

/// The delay before the `row`-th restart in a row, `row` ≥ 2.
fn delay(policy: &Backoff, row: u32, now: Time) -> Duration {
    let delay = policy.delay(row.saturating_sub(2));
    // -1 to 1, spread by the clock's nanoseconds: no two processes fail at the same one.
    let spread = f64::from(scramble(now.0 ^ u64::from(row))) / f64::from(u32::MAX) * 2.0 - 1.0;
    delay.mul_f64(1.0 + policy.jitter * spread)
}

/// The upper half of one round of SplitMix64 (Steele, Lea, Flood 2014).
fn scramble(seed: u64) -> u32 {
    let z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::fixture;
    use crate::event::{Pid, Signal};
    use rstest::rstest;

    fn at(millis: u64) -> Time {
        Time(millis * 1_000_000)
    }

    fn instance(pid: i32) -> Instance {
        Instance { pid: Pid(pid), start_ticks: 1 }
    }

    fn code(code: i32) -> Exit {
        Exit { end: Some(End::Code(code)), ..Exit::default() }
    }

    fn signal(number: i32) -> Exit {
        let end = End::Signal { signal: Signal(number), core_dumped: false };
        Exit { end: Some(end), ..Exit::default() }
    }

    /// A lifecycle, its process, and the moment it has come to.
    struct Life {
        inner: Lifecycle,
        process: Process,
        now: Time,
    }

    impl Life {
        fn new(process: Process) -> Self {
            let (life, look) = Lifecycle::new(at(0));
            assert_eq!(look, Action::Look);
            Self { inner: life, process, now: at(0) }
        }

        fn on(&mut self, input: Input) -> Vec<Action> {
            let actions = self.inner.on(&self.process, input, self.now);
            actions.into_iter().filter(|action| !matches!(action, Action::Tell(_))).collect()
        }

        fn at(&mut self, millis: u64, input: Input) -> Vec<Action> {
            self.now = at(millis);
            self.on(input)
        }

        /// Brings it up as this PID, from wherever a launch is being prepared.
        fn launch(&mut self, pid: i32) {
            assert_eq!(self.on(Input::Prepared), [Action::Enqueue]);
            assert_eq!(self.on(Input::Go), [Action::Launch]);
            assert_eq!(self.on(Input::Launched { instance: instance(pid) }), [Action::Running]);
        }

        fn end(&mut self, pid: i32, exit: Exit) -> Vec<Action> {
            self.on(Input::Ended { instance: instance(pid), exit })
        }
    }

    fn prepare(pid: i32) -> Action {
        Action::Prepare { last: Some(instance(pid)), look: false }
    }

    fn started(process: Process) -> Life {
        let mut life = Life::new(process);
        let first = Action::Prepare { last: None, look: false };
        assert_eq!(life.on(Input::Missing), [first]);
        life.launch(1);
        life
    }

    #[test]
    fn a_dead_instance_is_prepared_queued_and_launched_at_once() {
        let mut life = started(fixture::process("web"));
        assert_eq!(life.end(1, signal(9)), [Action::Judge]);
        assert_eq!(life.on(Input::Permitted), [prepare(1)]);
        life.launch(2);
        assert_eq!(life.inner.state(), State::Up { instance: instance(2), ready: false });
    }

    #[test]
    fn news_of_another_instance_is_old_news() {
        let mut life = started(fixture::process("web"));
        assert_eq!(life.end(7, signal(9)), []);
        assert_eq!(life.inner.instance(), Some(instance(1)));
    }

    #[test]
    fn one_death_counts_once_however_often_it_is_reported() {
        let mut life = started(fixture::process("web"));
        assert_eq!(life.end(1, signal(9)), [Action::Judge]);
        assert_eq!(life.end(1, signal(9)), []);
        assert_eq!(life.on(Input::Permitted), [prepare(1)]);
        assert_eq!(life.end(1, signal(9)), []);
    }

    #[test]
    fn without_autostart_a_missing_process_stays_down_until_somebody_starts_it() {
        let process = Process { autostart: false, ..fixture::process("web") };
        let mut life = Life::new(process);
        assert_eq!(life.on(Input::Missing), []);
        assert_eq!(life.inner.state(), State::Down);
        assert_eq!(life.at(30_000, Input::Tick), [Action::Look]);
        let found = Input::Found { instance: instance(5), started: at(29_000) };
        assert_eq!(life.on(found), [Action::Running, Action::Ready]);
        assert_eq!(life.end(5, Exit::default()), [Action::Judge]);
    }

    #[test]
    fn an_unclear_process_is_neither_adopted_nor_started_and_looked_at_again() {
        let mut life = Life::new(fixture::process("web"));
        assert_eq!(life.on(Input::Unclear { reason: "812 may be it".into() }), []);
        assert_eq!(life.inner.state(), State::Unknown { reason: "812 may be it".into() });
        let mut looks = Vec::new();
        while looks.len() < 7 {
            let due = life.inner.next_deadline(&life.process).expect("it is looked at again");
            looks.push(due.since(life.now).as_millis());
            life.now = due;
            assert_eq!(life.on(Input::Tick), [Action::Look]);
            assert_eq!(life.on(Input::Unclear { reason: "812 may be it".into() }), []);
        }
        assert_eq!(looks, [200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(life.on(Input::Missing), [Action::Prepare { last: None, look: false }]);
    }

    #[test]
    fn an_instance_that_somebody_else_starts_during_backoff_is_adopted() {
        let mut life = started(fixture::process("web"));
        for pid in 1..=2 {
            assert_eq!(life.end(pid, code(1)), [Action::Judge]);
            let _ = life.on(Input::Permitted);
            if pid == 1 {
                life.launch(2);
            }
        }
        assert_eq!(life.inner.state(), State::BackingOff { until: at(1_000) });
        let found = Input::Found { instance: instance(9), started: at(0) };
        assert_eq!(life.on(found), [Action::Running]);
        assert_eq!(life.on(Input::Prepared), [], "an answer to an old question");
    }

    #[test]
    fn alive_for_ready_after_is_ready() {
        let mut life = started(fixture::process("web"));
        assert_eq!(life.at(999, Input::Tick), []);
        assert_eq!(life.at(1_000, Input::Tick), [Action::Ready]);
        assert_eq!(life.inner.state(), State::Up { instance: instance(1), ready: true });
        assert_eq!(life.inner.next_deadline(&life.process), None);
    }

    #[rstest]
    #[case::exit(code(1), &[0, 1, 2, 4, 8, 16, 30, 30])]
    #[case::exit_zero(code(0), &[0, 1, 2, 4])]
    #[case::fault(signal(11), &[0, 1, 2, 4])]
    #[case::unknown(Exit::default(), &[0, 1, 2, 4])]
    #[case::killed_from_outside(signal(9), &[0, 0, 0, 0])]
    fn restarts_in_a_row_before_ready_are_delayed(#[case] exit: Exit, #[case] delays: &[u64]) {
        let mut process = fixture::process("web");
        process.recovery.start_timeout = Duration::ZERO;
        let mut life = started(process);
        for (pid, delay) in (1..).zip(delays) {
            let died = life.now;
            assert_eq!(life.end(pid, exit), [Action::Judge]);
            let mut actions = life.on(Input::Permitted);
            if *delay > 0 {
                assert_eq!(actions, []);
                life.now = died.after(Duration::from_secs(*delay));
                assert_eq!(life.inner.next_deadline(&life.process), Some(life.now));
                actions = life.on(Input::Tick);
            }
            assert!(matches!(actions[..], [Action::Prepare { .. }]), "{actions:?}");
            life.launch(pid + 1);
        }
    }

    #[test]
    fn a_ready_instance_ends_the_row() {
        let mut life = started(fixture::process("web"));
        for pid in 1..=5 {
            life.now = life.now.after(Duration::from_secs(1));
            assert_eq!(life.on(Input::Tick), [Action::Ready]);
            assert_eq!(life.end(pid, code(1)), [Action::Judge]);
            assert_eq!(life.on(Input::Permitted), [prepare(pid)]);
            life.launch(pid + 1);
        }
    }

    #[rstest]
    #[case(0.0, 0.0)]
    #[case(0.1, 0.1)]
    #[case(1.0, 1.0)]
    fn jitter_varies_a_delay_by_its_share_at_most(#[case] jitter: f64, #[case] share: f64) {
        let policy = Backoff { jitter, ..fixture::process("web").recovery.backoff };
        let delays: Vec<_> =
            (0..1_000).map(|n| delay(&policy, 5, Time(n * 7_919)).as_secs_f64()).collect();
        let (low, high) = (8.0 * (1.0 - share), 8.0 * (1.0 + share));
        assert!(delays.iter().all(|delay| (low - 1e-6..=high + 1e-6).contains(delay)));
        let (least, most) = delays.iter().fold((f64::MAX, 0.0_f64), |(least, most), delay| {
            (least.min(*delay), most.max(*delay))
        });
        assert!(most - least >= (high - low) * 0.9, "{least}..{most} hardly varies");
    }

    #[rstest]
    #[case(Restart::Always, code(0), true)]
    #[case(Restart::Always, signal(15), true)]
    #[case(Restart::Always, Exit::default(), true)]
    #[case(Restart::OnFailure, code(0), false)]
    #[case(Restart::OnFailure, code(1), true)]
    #[case(Restart::OnFailure, signal(1), false)]
    #[case(Restart::OnFailure, signal(2), false)]
    #[case(Restart::OnFailure, signal(15), false)]
    #[case(Restart::OnFailure, signal(9), true)]
    #[case(Restart::OnFailure, signal(11), true)]
    #[case(Restart::OnFailure, Exit::default(), true)]
    #[case(Restart::Never, signal(11), false)]
    #[case(Restart::Never, Exit::default(), false)]
    fn restart_decides_by_cause(#[case] restart: Restart, #[case] exit: Exit, #[case] again: bool) {
        let mut process = fixture::process("web");
        process.recovery.restart = restart;
        let mut life = started(process);
        let _ = life.at(1_000, Input::Tick);
        let actions = life.end(1, exit);
        if again {
            assert_eq!(actions, [Action::Judge]);
        } else {
            assert_eq!(actions, []);
            assert_eq!(life.inner.state(), State::Finished);
        }
    }

    #[test]
    fn exit_0_before_ready_may_leave_a_daemon_which_is_then_the_instance() {
        let mut life = started(fixture::process("web"));
        assert_eq!(life.end(1, code(0)), []);
        for millis in [50, 100] {
            let find = Action::FindSuccessor { launched: instance(1) };
            assert_eq!(life.at(millis, Input::Tick), [find]);
        }
        let found = Input::Found { instance: instance(3), started: at(20) };
        assert_eq!(life.on(found), [Action::Running]);
        assert_eq!(life.inner.state(), State::Up { instance: instance(3), ready: false });
    }

    #[test]
    fn exit_0_without_a_daemon_is_a_failed_launch() {
        let mut life = started(fixture::process("web"));
        let _ = life.end(1, code(0));
        let actions = life.inner.on(&life.process, Input::NoSuccessor, at(1));
        let reason = "exited 0 without leaving a daemon".to_owned();
        assert_eq!(actions, [Action::Tell(Change::LaunchFailed { reason }), Action::Judge]);
    }

    #[test]
    fn waiting_for_a_daemon_ends_with_the_launchs_time() {
        let mut life = started(fixture::process("web"));
        let _ = life.end(1, code(0));
        assert_eq!(life.at(10_000, Input::Tick), [Action::Judge]);
    }

    #[test]
    fn daemons_that_keep_exiting_0_have_no_more_than_the_launchs_time_together() {
        let mut life = started(fixture::process("web"));
        let mut pid = 1;
        for millis in (0..10_000).step_by(500) {
            life.now = at(millis);
            assert_eq!(life.end(pid, code(0)), []);
            pid += 1;
            let found = Input::Found { instance: instance(pid), started: life.now };
            assert_eq!(life.on(found), [Action::Running]);
        }
        life.now = at(10_000);
        assert_eq!(life.end(pid, code(0)), [Action::Judge]);
    }

    #[test]
    fn on_failure_takes_exit_0_without_a_daemon_as_wanted() {
        let mut process = fixture::process("job");
        process.recovery.restart = Restart::OnFailure;
        let mut life = started(process);
        let _ = life.end(1, code(0));
        assert_eq!(life.on(Input::NoSuccessor), []);
        assert_eq!(life.inner.state(), State::Finished);
    }

    #[test]
    fn a_failed_launch_is_a_failure_and_a_node_fault_is_none() {
        let mut life = Life::new(fixture::process("web"));
        let _ = life.on(Input::Missing);
        let _ = life.on(Input::Prepared);
        assert_eq!(life.on(Input::Go), [Action::Launch]);
        assert_eq!(life.on(Input::NodeFault), [Action::Enqueue]);
        assert_eq!(life.on(Input::Go), [Action::Launch]);
        let failed = Input::LaunchFailed { reason: "no such file".into() };
        assert_eq!(life.on(failed), [Action::Judge]);
    }

    #[test]
    fn an_open_breaker_leads_to_one_trial_that_proves_itself() {
        let mut life = started(fixture::process("web"));
        assert_eq!(life.end(1, signal(9)), [Action::Judge]);
        assert_eq!(life.on(Input::Refused { until: at(180_000) }), []);
        assert_eq!(life.inner.state(), State::BreakerOpen { until: at(180_000) });
        assert_eq!(life.inner.next_deadline(&life.process), None, "the breaker has the timer");
        let prepare = Action::Prepare { last: Some(instance(1)), look: true };
        assert_eq!(life.at(180_000, Input::TrialDue), [prepare]);
        life.launch(2);
        assert_eq!(life.inner.state(), State::Trial { instance: Some(instance(2)) });
        assert_eq!(life.at(181_000, Input::Tick), [Action::Ready]);
        assert_eq!(life.at(182_000, Input::Proved), []);
        assert_eq!(life.inner.state(), State::Up { instance: instance(2), ready: true });
    }

    #[test]
    fn every_move_is_told_once_with_where_it_came_from() {
        let mut life = started(fixture::process("web"));
        let ended = Input::Ended { instance: instance(1), exit: signal(9) };
        let mut told = Vec::new();
        for input in [ended, Input::Permitted, Input::Prepared, Input::Go] {
            told.extend(life.inner.on(&life.process, input, at(5)).into_iter().filter_map(
                |action| match action {
                    Action::Tell(Change::Moved { from, to }) => Some((from, to)),
                    _ => None,
                },
            ));
        }
        let up = State::Up { instance: instance(1), ready: false };
        assert_eq!(told, [(up, State::Starting)]);
    }
}
