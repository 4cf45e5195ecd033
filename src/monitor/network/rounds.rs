//! Whose turn it is: the probes of all processes, so many at a time, and those that do not count.
//!
//! Pure: (what happened, now) -> actions for the task. Each process's own count is `health`'s.
//!
//! A probe that fails while healer itself was not running says nothing: of what was answered in time
//! healer did not read it in time. A suspended or starved machine would look like a dead fleet. So the
//! task's own timer is watched: what it comes too late by, healer did not run. While probes are under
//! way it is set often enough to tell.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::config::Config;
use crate::config::probe::Probe;
use crate::event::{Instance, Observation, ProcessName, Time};

use super::health::{Health, Outcome};

/// How many probes are under way at one time: more than ever are, unless many targets are silent.
/// The others wait, which does not count as theirs.
pub const PARALLEL_MAX: usize = 256;
/// A timer may be so late without telling anything.
const TIMER_SLACK: Duration = Duration::from_millis(10);
/// What is told of.
const WORTH_TELLING: Duration = Duration::from_secs(1);
/// While probes are under way, healer notices at least so often that it runs: a part of the time that
/// the shortest of them may take.
const BEATS_PER_TIMEOUT: u32 = 4;
const LONGEST_BEAT: Duration = Duration::from_millis(250);
const SHORTEST_BEAT: Duration = Duration::from_millis(10);

/// Tells a probe from those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

/// What happened.
#[derive(Debug)]
pub enum Input<'a> {
    /// These entries count from now on, and no others.
    Reload(&'a Config),
    /// This instance is held, and started then.
    Held {
        /// Of which process.
        process: ProcessName,
        /// Which one.
        instance: Instance,
        /// When it started.
        started: Time,
    },
    /// This instance has ended or is let go.
    Ended {
        /// Of which process.
        process: ProcessName,
        /// Which one.
        instance: Instance,
    },
    /// A probe has come to an end.
    Probed {
        /// Which one.
        ticket: Ticket,
        /// What came of it.
        outcome: Outcome,
    },
    /// Time has passed.
    Tick,
}

/// What the task is to do.
#[derive(Debug)]
#[must_use]
pub enum Action {
    /// Begin this probe; its outcome is owed.
    Begin {
        /// Which one.
        ticket: Ticket,
        /// Of which process.
        process: ProcessName,
        /// What to do.
        probe: Arc<Probe>,
    },
    /// End this probe: nobody waits for its outcome.
    Abandon(Ticket),
    /// Publish this.
    Tell(ProcessName, Observation),
    /// Log that healer did not run for so long while probes were under way.
    Starved(Duration),
}

/// All probes.
#[derive(Debug, Default)]
pub struct Rounds {
    entries: BTreeMap<ProcessName, Entry>,
    /// What recovery holds and when it started, of processes without a probe too: a reload may give
    /// them one.
    held: HashMap<ProcessName, (Instance, Time)>,
    /// When each entry is due that has no probe under way, soonest first.
    due: BTreeSet<(Time, ProcessName)>,
    running: BTreeMap<Ticket, Running>,
    next_ticket: u64,
    /// When the task wakes at the latest.
    timer: Option<Time>,
}

/// One entry with a probe.
#[derive(Debug)]
struct Entry {
    health: Health,
    watch_only: bool,
    /// The probe under way.
    ticket: Option<Ticket>,
    /// As it stands among all that are due.
    due: Option<Time>,
}

/// A probe under way.
#[derive(Debug)]
struct Running {
    process: ProcessName,
    began: Time,
    timeout: Duration,
    /// For how long healer did not run since it began: on end, and in all.
    longest_gap: Duration,
    gaps: Duration,
}

impl Running {
    /// Whether healer did not run for most of its time, or for more than an interval on end.
    fn is_starved(&self, now: Time, interval: Duration) -> bool {
        self.longest_gap > interval || self.gaps * 2 > now.since(self.began)
    }
}

impl Rounds {
    /// Without any process; [`Input::Reload`] brings them.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes one input.
    pub fn on(&mut self, input: Input<'_>, now: Time) -> Vec<Action> {
        let mut actions = Vec::new();
        self.note_gap(now, &mut actions);
        match input {
            Input::Reload(config) => self.reload(config, now, &mut actions),
            Input::Held { process, instance, started } => {
                let before = self.held.insert(process.clone(), (instance, started));
                if before != Some((instance, started)) {
                    let held = |health: &mut Health| health.held(instance, started, now);
                    self.change(&process, &mut actions, held);
                }
            }
            Input::Ended { process, instance } => {
                if self.held.get(&process).is_some_and(|(held, _)| *held == instance) {
                    self.held.remove(&process);
                    self.change(&process, &mut actions, Health::ended);
                }
            }
            Input::Probed { ticket, outcome } => self.probed(ticket, outcome, now, &mut actions),
            Input::Tick => {}
        }
        self.begin_due(now, &mut actions);
        self.set_timer(now);
        actions
    }

    /// When the next [`Input::Tick`] is due, unless another input comes first. A later one tells that
    /// healer did not run.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        self.timer
    }

    fn set_timer(&mut self, now: Time) {
        let is_free = self.running.len() < PARALLEL_MAX;
        let due = self.due.first().filter(|_| is_free).map(|(due, _)| *due);
        let shortest = self.running.values().map(|running| running.timeout).min();
        let beat = shortest.map(|timeout| {
            now.after((timeout / BEATS_PER_TIMEOUT).clamp(SHORTEST_BEAT, LONGEST_BEAT))
        });
        self.timer = due.into_iter().chain(beat).min();
    }

    /// The present truth of all of which something is known.
    #[must_use]
    pub fn truth(&self) -> Vec<(ProcessName, Observation)> {
        let known = |(name, entry): (&ProcessName, &Entry)| {
            Some((name.clone(), entry.health.truth()?.clone()))
        };
        self.entries.iter().filter_map(known).collect()
    }

    /// Takes a configuration by difference: an unchanged probe goes on as it stands.
    fn reload(&mut self, config: &Config, now: Time, actions: &mut Vec<Action>) {
        let named: BTreeSet<_> = config.processes.iter().map(|process| &process.name).collect();
        self.held.retain(|process, _| named.contains(process));
        let wanted: BTreeMap<_, _> = config
            .processes
            .iter()
            .filter(|process| process.enabled)
            .filter_map(|process| {
                Some((&process.name, (process.probe()?, process.is_watch_only())))
            })
            .collect();
        let stays = |name: &ProcessName, entry: &Entry| {
            wanted.get(name) == Some(&(entry.health.probe(), entry.watch_only))
        };
        let changed = self.entries.iter().filter(|(name, entry)| !stays(name, entry));
        let changed: Vec<_> = changed.map(|(name, _)| name.clone()).collect();
        for name in changed {
            self.change(&name, actions, Health::ended);
            self.entries.remove(&name);
        }
        for (name, (probe, watch_only)) in wanted {
            if self.entries.contains_key(name) {
                continue;
            }
            let mut health = Health::new(name, Arc::clone(probe));
            match self.held.get(name) {
                _ if watch_only => health.watched(now),
                Some((instance, started)) => health.held(*instance, *started, now),
                None => {}
            }
            let entry = Entry { health, watch_only, ticket: None, due: None };
            self.entries.insert(name.clone(), entry);
            self.arm(name);
        }
    }

    /// What is probed changes: the probe under way is of what was.
    fn change(
        &mut self,
        name: &ProcessName,
        actions: &mut Vec<Action>,
        change: impl FnOnce(&mut Health),
    ) {
        let Some(entry) = self.entries.get_mut(name) else { return };
        if let Some(ticket) = entry.ticket.take() {
            self.running.remove(&ticket);
            actions.push(Action::Abandon(ticket));
        }
        change(&mut entry.health);
        self.arm(name);
    }

    fn probed(&mut self, ticket: Ticket, outcome: Outcome, now: Time, actions: &mut Vec<Action>) {
        // One that was abandoned is none of those that are under way.
        let Some(running) = self.running.remove(&ticket) else { return };
        let Some(entry) = self.entries.get_mut(&running.process) else { return };
        entry.ticket = None;
        let interval = entry.health.probe().interval;
        let outcome = match outcome {
            Outcome::Failed(_) if running.is_starved(now, interval) => {
                Outcome::Impossible("healer itself did not run meanwhile".to_owned())
            }
            told => told,
        };
        if let Some(news) = entry.health.probed(&outcome, running.began, now) {
            actions.push(Action::Tell(running.process.clone(), news));
        }
        self.arm(&running.process);
    }

    /// Begins what is due, longest overdue first, as far as there is room.
    fn begin_due(&mut self, now: Time, actions: &mut Vec<Action>) {
        while self.running.len() < PARALLEL_MAX
            && self.due.first().is_some_and(|(due, _)| *due <= now)
            && let Some((_, process)) = self.due.pop_first()
        {
            let Some(entry) = self.entries.get_mut(&process) else { continue };
            let ticket = Ticket(self.next_ticket);
            self.next_ticket += 1;
            entry.due = None;
            entry.ticket = Some(ticket);
            entry.health.begin();
            let probe = Arc::clone(entry.health.probe());
            let running = Running {
                process: process.clone(),
                began: now,
                timeout: probe.timeout,
                longest_gap: Duration::ZERO,
                gaps: Duration::ZERO,
            };
            self.running.insert(ticket, running);
            actions.push(Action::Begin { ticket, process, probe });
        }
    }

    /// Notes when healer did not run. Who missed a whole interval meanwhile waits for the next:
    /// after a long suspend everybody has, and they shall not all be probed at once.
    fn note_gap(&mut self, now: Time, actions: &mut Vec<Action>) {
        let Some(timer) = self.timer.take() else { return };
        let late = now.since(timer);
        if late <= TIMER_SLACK {
            return;
        }
        for running in self.running.values_mut() {
            let gap = now.since(timer.max(running.began));
            running.longest_gap = running.longest_gap.max(gap);
            running.gaps += gap;
        }
        if late >= WORTH_TELLING && !self.running.is_empty() {
            actions.push(Action::Starved(late));
        }
        let overdue = self.due.iter().take_while(|(due, _)| *due < now);
        let overdue: Vec<_> = overdue.map(|(_, name)| name.clone()).collect();
        for name in overdue {
            if let Some(entry) = self.entries.get_mut(&name)
                && entry.health.probe().interval < late
            {
                entry.health.skip(now);
                self.arm(&name);
            }
        }
    }

    /// Notes when an entry is due.
    fn arm(&mut self, name: &ProcessName) {
        let Some(entry) = self.entries.get_mut(name) else { return };
        let due = entry.health.due();
        if let Some(old) = std::mem::replace(&mut entry.due, due) {
            self.due.remove(&(old, name.clone()));
        }
        if let Some(new) = due {
            self.due.insert((new, name.clone()));
        }
    }
}

#[cfg(test)]
mod tests;
