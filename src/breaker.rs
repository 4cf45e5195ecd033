//! May a process be tried again? Closed permits, Open refuses until its deadline, HalfOpen has one trial.
//!
//! A pure machine per process: it is told of failures and starts, it answers with the phase it is
//! in, and [`Breaker::next_deadline`] says when to call [`Breaker::on_time`]. What a failure is,
//! and what to do while Open, is `lifecycle`'s; `recovery::plan` carries word between the two.
//!
//! The window holds one moment per failure: that of the failure until the restart it led to, then
//! that of the restart. Counting starts, not failures, is what makes "at most `retries` starts in
//! any window" hold even when a backoff moves a start far behind its failure.

use std::collections::VecDeque;

use crate::config::Breaker as Policy;
use crate::event::Time;

pub use self::memory::{Memory, Remembered};

mod memory;

/// One process's breaker.
#[derive(Clone, Debug, Default)]
pub struct Breaker {
    phase: Phase,
    window: VecDeque<Time>,
    /// Whether the newest moment in `window` still waits for the restart that it led to.
    restart_pending: bool,
    /// Failed trials since the breaker was last Closed.
    failed_trials: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Closed,
    Open {
        until: Time,
    },
    HalfOpen {
        /// Since when the instance on trial runs.
        running: Option<Time>,
        ready: bool,
    },
}

/// What the breaker says to a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Answer {
    /// Closed: a restart is permitted.
    Permit,
    /// This failure opened it.
    Opened {
        /// When the one trial is due.
        until: Time,
        /// Failures in the window, this one included.
        failures: usize,
    },
    /// This failure was the trial's.
    Reopened {
        /// When the next trial is due.
        until: Time,
    },
    /// It was Open already: nothing changed.
    Refuse {
        /// When the one trial is due.
        until: Time,
    },
}

/// What the passing of time brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Turn {
    /// Open to HalfOpen: make the one trial.
    TrialDue,
    /// HalfOpen to Closed: the trial proved itself.
    Closed,
}

impl Breaker {
    /// Counts a failure, and says whether a restart is permitted.
    pub fn failed(&mut self, policy: &Policy, now: Time) -> Answer {
        match self.phase {
            Phase::Closed => {
                self.forget_before_window(policy, now);
                self.window.push_back(now);
                self.restart_pending = true;
                let failures = self.window.len();
                if failures <= policy.retries as usize {
                    return Answer::Permit;
                }
                let until = self.open(policy, now);
                Answer::Opened { until, failures }
            }
            Phase::HalfOpen { .. } => {
                self.failed_trials = self.failed_trials.saturating_add(1);
                Answer::Reopened { until: self.open(policy, now) }
            }
            Phase::Open { until } => Answer::Refuse { until },
        }
    }

    /// A launch begins: from now on the failure that led to it counts by this moment.
    pub fn launching(&mut self, now: Time) {
        if self.restart_pending
            && let Some(newest) = self.window.back_mut()
        {
            *newest = now;
        }
    }

    /// The process runs (again): a launch was confirmed, or an instance was adopted.
    pub fn running(&mut self, now: Time) {
        self.launching(now);
        self.restart_pending = false;
        if let Phase::HalfOpen { running, ready } = &mut self.phase {
            (*running, *ready) = (Some(now), false);
        }
    }

    /// Whether the running instance is ready.
    pub fn ready(&mut self, is_ready: bool) {
        if let Phase::HalfOpen { ready, .. } = &mut self.phase {
            *ready = is_ready;
        }
    }

    /// The process ended, and that says nothing about it: somebody wanted it so. Of a trial, it
    /// proves neither. Where the breaker is Open, says until when.
    #[must_use]
    pub fn stopped(&mut self) -> Option<Time> {
        match &mut self.phase {
            Phase::Closed => None,
            Phase::Open { until } => Some(*until),
            Phase::HalfOpen { running, ready } => {
                (*running, *ready) = (None, false);
                None
            }
        }
    }

    /// Closes it and forgets all failures, as an operator wants. Says whether it was not Closed.
    pub fn reset(&mut self) -> bool {
        !matches!(std::mem::take(self).phase, Phase::Closed)
    }

    /// The process ended and is to stay so. A trial that came to a wanted end has succeeded: says
    /// whether that closed the breaker.
    #[must_use]
    pub fn finished(&mut self) -> bool {
        let is_trial = matches!(self.phase, Phase::HalfOpen { .. });
        if is_trial {
            *self = Self::default();
        }
        is_trial
    }

    /// Until when it is Open, if it is.
    #[must_use]
    pub fn open_until(&self) -> Option<Time> {
        match self.phase {
            Phase::Open { until } => Some(until),
            Phase::Closed | Phase::HalfOpen { .. } => None,
        }
    }

    /// Whether it has its one trial.
    #[must_use]
    pub fn is_half_open(&self) -> bool {
        matches!(self.phase, Phase::HalfOpen { .. })
    }

    /// How many failures count now.
    #[must_use]
    pub fn failures(&self, policy: &Policy, now: Time) -> usize {
        self.window.iter().filter(|moment| now.since(**moment) < policy.window).count()
    }

    /// Moves on with time. Call it at [`Breaker::next_deadline`]; calling it early does nothing.
    pub fn on_time(&mut self, policy: &Policy, now: Time) -> Option<Turn> {
        if self.next_deadline(policy)? > now {
            return None;
        }
        match self.phase {
            Phase::Closed => None,
            Phase::Open { .. } => {
                self.phase = Phase::HalfOpen { running: None, ready: false };
                Some(Turn::TrialDue)
            }
            Phase::HalfOpen { .. } => {
                *self = Self::default();
                Some(Turn::Closed)
            }
        }
    }

    /// When time alone will change something; `None`: never.
    #[must_use]
    pub fn next_deadline(&self, policy: &Policy) -> Option<Time> {
        match self.phase {
            Phase::Open { until } => Some(until),
            Phase::HalfOpen { running: Some(since), ready: true } => {
                Some(since.after(policy.half_open))
            }
            Phase::Closed | Phase::HalfOpen { .. } => None,
        }
    }

    fn open(&mut self, policy: &Policy, now: Time) -> Time {
        let until = now.after(policy.open_period(self.failed_trials));
        self.phase = Phase::Open { until };
        self.restart_pending = false;
        until
    }

    fn forget_before_window(&mut self, policy: &Policy, now: Time) {
        while self.window.front().is_some_and(|moment| now.since(*moment) >= policy.window) {
            self.window.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;
    use std::time::Duration;

    const POLICY: Policy = Policy {
        retries: 3,
        window: Duration::from_secs(60),
        cooldown: Duration::from_secs(180),
        cooldown_factor: 1.0,
        cooldown_max: Duration::from_secs(3600),
        half_open: Duration::from_secs(2),
    };

    fn at(seconds: u64) -> Time {
        Time(seconds * 1_000_000_000)
    }

    fn opened_at_zero(policy: &Policy) -> Breaker {
        let mut breaker = Breaker::default();
        for _ in 0..policy.retries {
            assert_eq!(breaker.failed(policy, at(0)), Answer::Permit);
            breaker.running(at(0));
        }
        assert!(matches!(breaker.failed(policy, at(0)), Answer::Opened { .. }));
        breaker
    }

    #[test]
    fn permits_retries_and_opens_on_one_more() {
        let mut breaker = Breaker::default();
        for second in 0..3 {
            assert_eq!(breaker.failed(&POLICY, at(second)), Answer::Permit);
            breaker.running(at(second));
        }
        assert_eq!(breaker.failed(&POLICY, at(3)), Answer::Opened { until: at(183), failures: 4 });
    }

    #[test]
    fn no_retries_means_the_first_failure_opens() {
        let mut breaker = Breaker::default();
        let policy = Policy { retries: 0, ..POLICY };
        assert_eq!(breaker.failed(&policy, at(0)), Answer::Opened { until: at(180), failures: 1 });
    }

    #[test]
    fn failures_that_left_the_window_do_not_count() {
        let mut breaker = Breaker::default();
        for second in [0, 1, 2, 60, 61, 62, 120] {
            assert_eq!(breaker.failed(&POLICY, at(second)), Answer::Permit, "second {second}");
            breaker.running(at(second));
        }
    }

    #[test]
    fn a_restart_moves_its_failure_to_the_moment_of_the_restart() {
        let policy = Policy { retries: 1, ..POLICY };
        let mut breaker = Breaker::default();
        assert_eq!(breaker.failed(&policy, at(0)), Answer::Permit);
        breaker.running(at(30));
        assert_eq!(breaker.failed(&policy, at(61)), Answer::Opened { until: at(241), failures: 2 });
    }

    #[test]
    fn open_refuses_until_cooldown_ends_and_then_has_one_trial_due() {
        let mut breaker = opened_at_zero(&POLICY);
        assert_eq!(breaker.failed(&POLICY, at(100)), Answer::Refuse { until: at(180) });
        assert_eq!(breaker.on_time(&POLICY, at(179)), None);
        assert_eq!(breaker.next_deadline(&POLICY), Some(at(180)));
        assert_eq!(breaker.on_time(&POLICY, at(180)), Some(Turn::TrialDue));
        assert_eq!(breaker.on_time(&POLICY, at(100_000)), None, "no second trial by time alone");
    }

    #[test]
    fn a_trial_closes_only_when_it_is_ready_and_has_lived_long_enough() {
        let mut breaker = opened_at_zero(&POLICY);
        assert_eq!(breaker.on_time(&POLICY, at(180)), Some(Turn::TrialDue));
        breaker.running(at(181));
        assert_eq!(breaker.on_time(&POLICY, at(300)), None, "never ready");
        breaker.ready(true);
        assert_eq!(breaker.next_deadline(&POLICY), Some(at(183)));
        assert_eq!(breaker.on_time(&POLICY, at(183)), Some(Turn::Closed));
        assert_eq!(breaker.failed(&POLICY, at(184)), Answer::Permit, "closing empties the window");
    }

    #[test]
    fn a_trial_that_comes_to_a_wanted_end_closes() {
        let mut breaker = opened_at_zero(&POLICY);
        assert!(!breaker.finished(), "Open stays Open");
        assert_eq!(breaker.on_time(&POLICY, at(180)), Some(Turn::TrialDue));
        breaker.running(at(180));
        assert!(breaker.finished());
        assert_eq!(breaker.failed(&POLICY, at(181)), Answer::Permit);
    }

    #[rstest]
    #[case::constant(1.0, [180, 180, 180])]
    #[case::doubling(2.0, [360, 720, 1440])]
    #[case::bounded(10.0, [1800, 3600, 3600])]
    fn each_failed_trial_reopens_once_and_grows_the_cooldown(
        #[case] cooldown_factor: f64,
        #[case] cooldowns: [u64; 3],
    ) {
        let policy = Policy { cooldown_factor, ..POLICY };
        let mut breaker = opened_at_zero(&policy);
        let mut now = at(180);
        for cooldown in cooldowns {
            assert_eq!(breaker.on_time(&policy, now), Some(Turn::TrialDue));
            breaker.running(now);
            let until = now.after(Duration::from_secs(cooldown));
            assert_eq!(breaker.failed(&policy, now), Answer::Reopened { until });
            assert_eq!(breaker.failed(&policy, now), Answer::Refuse { until }, "reported twice");
            now = until;
        }
    }

    #[test]
    fn an_instance_adopted_while_open_proves_itself_after_the_cooldown() {
        let mut breaker = opened_at_zero(&POLICY);
        breaker.running(at(10));
        assert_eq!(breaker.next_deadline(&POLICY), Some(at(180)), "still Open");
        assert_eq!(breaker.on_time(&POLICY, at(180)), Some(Turn::TrialDue));
        breaker.running(at(180));
        breaker.ready(true);
        assert_eq!(breaker.on_time(&POLICY, at(182)), Some(Turn::Closed));
    }

    proptest! {
        /// P4: while Closed, at most `retries` starts because of a failure in any window.
        #[test]
        fn starts_in_any_window_never_exceed_retries(
            retries in 0_u32..5,
            window in 1_u64..50,
            steps in prop::collection::vec((0_u64..30, 0_u64..30, any::<bool>()), 1..60),
        ) {
            let policy = Policy { retries, window: Duration::from_secs(window), ..POLICY };
            let mut breaker = Breaker::default();
            let mut now = 0;
            let mut starts: Vec<u64> = Vec::new();
            for (lived, delayed, executed) in steps {
                now += lived;
                if breaker.failed(&policy, at(now)) != Answer::Permit {
                    break;
                }
                now += delayed;
                breaker.launching(at(now));
                if executed {
                    breaker.running(at(now));
                }
                starts.push(now);
                let in_window = starts.iter().filter(|start| now - **start < window).count();
                prop_assert!(in_window <= retries as usize, "{starts:?}");
            }
        }

        /// However its calls are ordered, it never panics, what is due is done at once, and it is
        /// never Open for longer than it may be.
        #[test]
        fn any_order_of_calls_leaves_it_with_a_deadline_that_makes_sense(
            retries in 0_u32..3,
            cooldown_factor in 1.0_f64..100.0,
            calls in prop::collection::vec((0_u8..7, 0_u64..500), 1..100),
        ) {
            let policy = Policy { retries, cooldown_factor, ..POLICY };
            let mut breaker = Breaker::default();
            let mut now = at(0);
            for (call, elapsed) in calls {
                now = now.after(Duration::from_secs(elapsed));
                match call {
                    0 => drop(breaker.failed(&policy, now)),
                    1 => breaker.launching(now),
                    2 => breaker.running(now),
                    3 => breaker.ready(elapsed % 2 == 0),
                    5 => drop(breaker.stopped()),
                    6 => drop(breaker.reset()),
                    _ => drop(breaker.on_time(&policy, now)),
                }
                // Open, its trial, and then nothing.
                for _ in 0..2 {
                    let _ = breaker.on_time(&policy, now);
                }
                if let Some(deadline) = breaker.next_deadline(&policy) {
                    prop_assert!(deadline > now, "spins in {breaker:?}");
                    prop_assert!(deadline.since(now) <= policy.cooldown_max, "{breaker:?}");
                }
                prop_assert!(breaker.window.len() <= retries as usize + 1, "{breaker:?}");
            }
        }
    }
}
