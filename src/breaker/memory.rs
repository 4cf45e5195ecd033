//! What is remembered of a breaker while healer itself does not run.
//!
//! Pure. The budget and the Open period hold on: a crash or an upgrade of healer gives no process
//! more starts. A trial whose instance still runs goes on proving itself, from the moment at which
//! it is taken hold of anew. Composed into a file by `state`, called by `recovery::plan`.

use super::{Breaker, Phase};
use crate::event::Time;

/// The most moments that are remembered one by one.
const MOMENTS: usize = 128;
/// The most failures that a window can hold: `retries` is at most a hundred thousand.
const FAILURES: usize = 100_001;

/// What is remembered of one breaker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Memory {
    /// Its phase.
    pub phase: Remembered,
    /// Moments of the window, oldest first, and how many failures each stands for.
    pub window: Vec<(Time, u32)>,
    /// Whether the newest failure still waits for the restart that it led to.
    pub restart_pending: bool,
    /// Failed trials since it was last Closed.
    pub failed_trials: u32,
}

/// The phase, without what a trial has proved so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Remembered {
    /// Permits.
    #[default]
    Closed,
    /// Refuses.
    Open {
        /// Until its one trial is due.
        until: Time,
    },
    /// Has its one trial.
    HalfOpen,
}

impl Breaker {
    /// What is to be remembered. Of a long window, neighbours become one, at the moment of the
    /// youngest of them: so none leaves the window too early.
    #[must_use]
    pub fn memory(&self) -> Memory {
        let together = self.window.len().div_ceil(MOMENTS).max(1);
        let moments: Vec<Time> = self.window.iter().copied().collect();
        let merged = |moments: &[Time]| {
            let youngest = moments.last()?;
            Some((*youngest, u32::try_from(moments.len()).unwrap_or(u32::MAX)))
        };
        Memory {
            phase: match self.phase {
                Phase::Closed => Remembered::Closed,
                Phase::Open { until } => Remembered::Open { until },
                Phase::HalfOpen { .. } => Remembered::HalfOpen,
            },
            window: moments.chunks(together).filter_map(merged).collect(),
            restart_pending: self.restart_pending,
            failed_trials: self.failed_trials,
        }
    }

    /// As it was. Moments that lie ahead cannot be right, and count as of now.
    #[must_use]
    pub fn recall(memory: &Memory, now: Time) -> Self {
        let moments = memory.window.iter().flat_map(|(moment, failures)| {
            std::iter::repeat_n((*moment).min(now), *failures as usize)
        });
        let mut moments: Vec<Time> = moments.take(FAILURES).collect();
        moments.sort_unstable();
        Self {
            phase: match memory.phase {
                Remembered::Closed => Phase::Closed,
                Remembered::Open { until } => Phase::Open { until },
                Remembered::HalfOpen => Phase::HalfOpen { running: None, ready: false },
            },
            restart_pending: memory.restart_pending && !moments.is_empty(),
            window: moments.into(),
            failed_trials: memory.failed_trials,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::super::{Answer, Turn};
    use super::*;
    use crate::config::Breaker as Policy;

    const POLICY: Policy = Policy {
        retries: 3,
        window: Duration::from_secs(60),
        cooldown: Duration::from_secs(180),
        cooldown_factor: 2.0,
        cooldown_max: Duration::from_secs(3600),
        half_open: Duration::from_secs(2),
    };

    fn at(seconds: u64) -> Time {
        Time(seconds * 1_000_000_000)
    }

    fn restarted(breaker: &Breaker, now: Time) -> Breaker {
        Breaker::recall(&breaker.memory(), now)
    }

    #[test]
    fn failures_before_a_restart_of_healer_count_after_it() {
        let mut breaker = Breaker::default();
        for second in 0..3 {
            assert_eq!(breaker.failed(&POLICY, at(second)), Answer::Permit);
            breaker = restarted(&breaker, at(second));
            breaker.running(at(second));
        }
        let mut breaker = restarted(&breaker, at(3));
        assert_eq!(breaker.failed(&POLICY, at(4)), Answer::Opened { until: at(184), failures: 4 });
    }

    #[test]
    fn open_lasts_as_long_as_if_healer_had_run_on() {
        let mut breaker = Breaker::default();
        while breaker.failed(&POLICY, at(0)) == Answer::Permit {}
        let mut breaker = restarted(&breaker, at(100));
        assert_eq!(breaker.failed(&POLICY, at(100)), Answer::Refuse { until: at(180) });
        assert_eq!(breaker.on_time(&POLICY, at(179)), None);
        assert_eq!(breaker.on_time(&POLICY, at(180)), Some(Turn::TrialDue));
    }

    #[test]
    fn trial_goes_on_and_its_failure_grows_the_cooldown_as_before() {
        let mut breaker = Breaker::default();
        while breaker.failed(&POLICY, at(0)) == Answer::Permit {}
        assert_eq!(breaker.on_time(&POLICY, at(180)), Some(Turn::TrialDue));
        let mut proven = restarted(&breaker, at(181));
        proven.running(at(190));
        proven.ready(true);
        assert_eq!(proven.on_time(&POLICY, at(192)), Some(Turn::Closed));
        let mut failed = restarted(&breaker, at(181));
        assert_eq!(failed.failed(&POLICY, at(200)), Answer::Reopened { until: at(560) });
        let failed = restarted(&failed, at(300)).failed(&POLICY, at(300));
        assert_eq!(failed, Answer::Refuse { until: at(560) });
    }

    proptest! {
        /// However long the window: no failure is forgotten, and none leaves it earlier.
        #[test]
        fn a_long_window_is_remembered_with_all_its_failures(
            gaps in prop::collection::vec(0_u64..1_000, 0..1_000),
        ) {
            let mut now = Time(0);
            let mut breaker = Breaker::default();
            let policy = Policy { retries: 2_000, ..POLICY };
            for gap in gaps {
                now = now.after(Duration::from_millis(gap));
                let _ = breaker.failed(&policy, now);
            }
            let memory = breaker.memory();
            prop_assert!(memory.window.len() <= MOMENTS);
            let recalled = Breaker::recall(&memory, now);
            prop_assert_eq!(recalled.window.len(), breaker.window.len());
            for (recalled, original) in recalled.window.iter().zip(&breaker.window) {
                prop_assert!(recalled >= original);
            }
        }

        /// Whatever a file says, it makes a breaker.
        #[test]
        fn any_memory_makes_a_breaker(
            window in prop::collection::vec((any::<u64>(), any::<u32>()), 0..20),
            phase in 0..3,
            until in any::<u64>(),
            restart_pending in any::<bool>(),
            failed_trials in any::<u32>(),
        ) {
            let memory = Memory {
                phase: match phase {
                    0 => Remembered::Closed,
                    1 => Remembered::Open { until: Time(until) },
                    _ => Remembered::HalfOpen,
                },
                window: window.into_iter().map(|(at, failures)| (Time(at), failures)).collect(),
                restart_pending,
                failed_trials,
            };
            let mut breaker = Breaker::recall(&memory, at(1));
            prop_assert!(breaker.window.len() <= FAILURES);
            breaker.launching(at(2));
            breaker.running(at(2));
            let _ = breaker.failed(&POLICY, at(3));
            let _ = breaker.on_time(&POLICY, at(1_000_000));
        }
    }
}
