//! One process's health: when it is probed next, and what its probes come to.
//!
//! Pure. `rounds` tells it of instances, asks it when it is due and passes on what it says. Whose
//! turn it is among many, and whether healer itself ran meanwhile, is decided there.
//!
//! Probes stand on a grid: their times are the same part of each interval, whatever happened before.
//! The part is a hash of the process's name, so that many processes are spread evenly and never fall
//! into step, not even after a suspend or a mass restart. A young instance is looked at more often,
//! with growing pauses, until a probe succeeds: who waits for it to be ready waits no longer than it
//! has taken already.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use crate::config::probe::Probe;
use crate::event::{Instance, Observation, ProcessName, Time};

/// A young instance is first probed after so long, and up to twice that.
const FIRST_LOOK: Duration = Duration::from_millis(20);

/// What came of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It answered as it should.
    Passed,
    /// It did not: a fragment for the operator.
    Failed(String),
    /// healer could not ask: a fragment for the operator. This says nothing of the process.
    Impossible(String),
}

/// One process's health.
#[derive(Debug)]
pub struct Health {
    probe: Arc<Probe>,
    /// Which part of an interval is its own, in parts of 2³².
    share: u32,
    subject: Option<Subject>,
}

/// What is probed: an instance, or what is only watched.
#[derive(Debug)]
struct Subject {
    instance: Option<Instance>,
    /// Failures of probes that begin before this do not count, and probes are frequent.
    young_until: Time,
    /// Failed probes while it was young.
    young_failures: u32,
    failures: u32,
    successes: u32,
    said: Option<Observation>,
    /// When the next probe is due; `None` while one is under way.
    next: Option<Time>,
}

impl Health {
    /// The health of a process of which no instance is known.
    pub fn new(name: &ProcessName, probe: Arc<Probe>) -> Self {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        let share = u32::try_from(hasher.finish() >> 32).unwrap_or_default();
        Self { probe, share, subject: None }
    }

    /// What it is probed by.
    pub fn probe(&self) -> &Arc<Probe> {
        &self.probe
    }

    /// From now on this instance is probed, which started at `started`.
    pub fn held(&mut self, instance: Instance, started: Time, now: Time) {
        let young_until = started.after(self.probe.start_period);
        let first = if now < young_until {
            now.after(FIRST_LOOK + self.share_of(FIRST_LOOK)).min(self.slot_after(now))
        } else {
            self.slot_after(now)
        };
        self.subject = Some(Subject::new(Some(instance), young_until, first));
    }

    /// From now on it is probed though no instance is known, as it is only watched.
    pub fn watched(&mut self, now: Time) {
        let young_until = now.after(self.probe.start_period);
        self.subject = Some(Subject::new(None, young_until, self.slot_after(now)));
    }

    /// There is nothing to probe any more.
    pub fn ended(&mut self) {
        self.subject = None;
    }

    /// When a probe is due; `None` while one is under way, or there is nothing to probe.
    pub fn due(&self) -> Option<Time> {
        self.subject.as_ref()?.next
    }

    /// A probe that is due begins.
    pub fn begin(&mut self) {
        if let Some(subject) = &mut self.subject {
            subject.next = None;
        }
    }

    /// A probe that was due is left out: the next one comes in its time.
    pub fn skip(&mut self, now: Time) {
        let slot = self.slot_after(now);
        if let Some(next) = self.subject.as_mut().and_then(|subject| subject.next.as_mut()) {
            *next = slot;
        }
    }

    /// The probe that began at `began` has come to this. Answers what is new.
    #[must_use]
    pub fn probed(&mut self, outcome: &Outcome, began: Time, now: Time) -> Option<Observation> {
        let slot = self.slot_after(now);
        let subject = self.subject.as_mut()?;
        subject.next = Some(slot);
        let observation = match outcome {
            Outcome::Impossible(_) => return None,
            Outcome::Passed => {
                subject.young_until = subject.young_until.min(now);
                subject.failures = 0;
                subject.successes = subject.successes.saturating_add(1);
                if subject.successes < self.probe.success_threshold {
                    return None;
                }
                Observation::Healthy { instance: subject.instance }
            }
            Outcome::Failed(_) if began < subject.young_until => {
                let pause = FIRST_LOOK.saturating_mul(2_u32.saturating_pow(subject.young_failures));
                subject.young_failures += 1;
                subject.next = Some(now.after(pause).min(slot));
                return None;
            }
            Outcome::Failed(reason) => {
                subject.successes = 0;
                subject.failures = subject.failures.saturating_add(1);
                if subject.failures < self.probe.failure_threshold {
                    return None;
                }
                Observation::Unhealthy { instance: subject.instance, reason: reason.clone() }
            }
        };
        let is_new =
            subject.said.as_ref().is_none_or(|said| is_healthy(said) != is_healthy(&observation));
        // The reason of the last failure is the present truth, even where it is no news.
        subject.said = Some(observation.clone());
        is_new.then_some(observation)
    }

    /// The present truth; `None` where nothing is known yet.
    pub fn truth(&self) -> Option<&Observation> {
        self.subject.as_ref()?.said.as_ref()
    }

    /// The first moment after `now` that is its own in an interval.
    fn slot_after(&self, now: Time) -> Time {
        let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let interval = nanos(self.probe.interval).max(1);
        let begun = now.0 - now.0 % interval;
        let slot = begun.saturating_add(nanos(self.share_of(self.probe.interval)));
        Time(if slot > now.0 { slot } else { slot.saturating_add(interval) })
    }

    fn share_of(&self, whole: Duration) -> Duration {
        // A share is less than one, so this neither divides by nothing nor leaves the interval.
        whole.mul_f64(f64::from(self.share) / (f64::from(u32::MAX) + 1.0))
    }
}

impl Subject {
    fn new(instance: Option<Instance>, young_until: Time, first: Time) -> Self {
        Self {
            instance,
            young_until,
            young_failures: 0,
            failures: 0,
            successes: 0,
            said: None,
            next: Some(first),
        }
    }
}

fn is_healthy(observation: &Observation) -> bool {
    matches!(observation, Observation::Healthy { .. })
}
