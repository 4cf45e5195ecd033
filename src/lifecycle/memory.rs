//! What is remembered of a process's life while healer itself does not run, and how it goes on.
//!
//! Pure. An instance that ended meanwhile is taken for one that has ended just now, of a cause that
//! is not known: it is judged, and what is left of it goes, as if healer had seen it. A launch that
//! was broken off by healer's own end is nobody's failure, and is made again. A delay of backoff is
//! not remembered. Composed into a file by `state`, called by `recovery::plan`.

use crate::config::{Process, Restart};
use crate::event::{Exit, Instance, Pause, Time};

use super::Lifecycle;
use super::standing::{Standing, Why};
use super::words::Action;

/// What is remembered of one process's life.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Memory {
    /// The instance that runs, as far as is known.
    pub running: Option<Running>,
    /// Where none runs: the one that ended last, for what is left of it goes before the next
    /// launch.
    pub last: Option<Instance>,
    /// The stage that is to become the next instance. Recovery alone knows of stages, so that it is
    /// filled in by the plan.
    pub stage: Option<Instance>,
    /// It was to be started.
    pub wanted: bool,
    /// It came to its end, and was to be left so.
    pub finished: bool,
    /// Somebody wants it left as it is.
    pub pause: Option<Pause>,
    /// And, if something of it comes up, ended.
    pub stop_wanted: bool,
}

/// A running instance that is remembered.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Running {
    /// Which one.
    pub instance: Instance,
    /// When healer launched it; `None` for an adopted one.
    pub launched: Option<Time>,
    /// Why it was being ended.
    pub ending: Option<Why>,
}

/// What is remembered, until it is known what became of it.
#[derive(Clone, Debug)]
pub(super) struct Recalled {
    pub(super) running: Option<Running>,
    stage: Option<Instance>,
    /// The breaker was Open.
    refused: bool,
    finished: bool,
}

impl Lifecycle {
    /// This one, not looked at yet, with what an earlier healer knew. Of its breaker: `trial`, it is
    /// HalfOpen; `refused`, it is Open.
    #[must_use]
    pub fn recalling(mut self, memory: Memory, trial: bool, refused: bool) -> Self {
        let Memory { running, last, stage, wanted: was_wanted, finished, pause, stop_wanted } =
            memory;
        if let Standing::Unknown { wanted, .. } = &mut self.standing {
            *wanted = was_wanted;
        }
        self.trial = trial;
        self.last = last.map(|instance| (instance, None));
        self.stop_wanted = stop_wanted && pause.is_some();
        self.paused = pause;
        self.recalled = Some(Recalled { running, stage, refused, finished });
        self
    }

    /// What is to be remembered.
    #[must_use]
    pub fn memory(&self) -> Memory {
        let mut memory = Memory {
            pause: self.paused.clone(),
            stop_wanted: self.stop_wanted,
            last: self.last.map(|(instance, _)| instance),
            ..Memory::default()
        };
        let running = |instance, launched, ending| Some(Running { instance, launched, ending });
        match &self.standing {
            Standing::Unknown { wanted, .. } => {
                memory.wanted = *wanted;
                if let Some(recalled) = &self.recalled {
                    memory.running.clone_from(&recalled.running);
                    memory.stage = recalled.stage;
                    memory.finished = recalled.finished;
                }
            }
            Standing::Up { instance, launched, .. } => {
                memory.running = running(*instance, *launched, None);
            }
            Standing::Stopping { instance, why, .. } => {
                memory.running = running(*instance, None, Some(why.clone()));
            }
            Standing::Succession { launched, launched_at, .. } => {
                memory.running = running(*launched, Some(*launched_at), None);
            }
            Standing::Finished { .. } => memory.finished = true,
            Standing::Down { .. } | Standing::Remote { .. } => {}
            Standing::Judged
            | Standing::BackingOff { .. }
            | Standing::Refused { .. }
            | Standing::Awaiting { .. }
            | Standing::Preparing
            | Standing::Queued { .. }
            | Standing::Launching { .. } => memory.wanted = true,
        }
        memory.last = memory.last.filter(|_| memory.running.is_none());
        memory
    }

    /// The Open period that is remembered has ended, or is not to hold up the next start.
    pub(super) fn permit_recalled(&mut self) {
        if let Some(recalled) = &mut self.recalled {
            recalled.refused = false;
        }
    }

    /// Whoever was being stopped is no longer to stay down.
    pub(super) fn resume_recalled(&mut self) {
        let running = self.recalled.as_mut().and_then(|recalled| recalled.running.as_mut());
        if let Some(why) = running.and_then(|running| running.ending.as_mut()) {
            why.resume();
        }
    }

    /// Nothing of it runs.
    pub(super) fn recalled_missing(
        &mut self,
        process: &Process,
        recalled: Recalled,
        now: Time,
    ) -> Vec<Action> {
        let Recalled { running, stage, refused, finished } = recalled;
        if let Some(running) = running {
            return self.ended_unseen(process, running, now);
        }
        let Standing::Unknown { wanted, .. } = &mut self.standing else { return vec![] };
        *wanted |= stage.is_some();
        let wanted = *wanted;
        if refused && stage.is_none() {
            // The breaker says until when.
            self.down(now)
        } else if finished && !wanted && process.recovery.restart != Restart::Always {
            self.finished(now)
        } else {
            self.none_runs(process, wanted, now)
        }
    }

    /// An instance that is remembered runs: what was under way with it goes on.
    pub(super) fn go_on_ending(&mut self, recalled: &Recalled, instance: Instance) -> Vec<Action> {
        let stopped_by = self.paused.as_ref().filter(|_| self.stop_wanted).map(|pause| &pause.by);
        let why = match stopped_by {
            Some(by) if recalled.stage == Some(instance) => Some(Why::Stop { by: by.clone() }),
            _ => recalled.of(instance).and_then(|running| running.ending.clone()),
        };
        why.map_or_else(Vec::new, |why| self.stop(why))
    }

    /// It ended while healer did not run.
    fn ended_unseen(&mut self, process: &Process, running: Running, now: Time) -> Vec<Action> {
        let Running { instance, launched, ending } = running;
        let exit = Exit::default();
        let actions = if let Some(why) = ending {
            self.standing = Standing::Stopping { instance, why, stuck: None };
            self.stopped(process, exit, now)
        } else {
            let (since, held, ready, hung, found) = (now, now, true, None, true);
            self.standing = Standing::Up { instance, since, held, ready, hung, launched, found };
            self.ended(process, exit, now)
        };
        self.last = Some((instance, None));
        actions
    }
}

impl Recalled {
    /// When healer launched this running instance, which started then at the latest.
    pub(super) fn launched(&self, instance: Instance, started: Time) -> Option<Time> {
        if self.stage == Some(instance) { Some(started) } else { self.of(instance)?.launched }
    }

    fn of(&self, instance: Instance) -> Option<&Running> {
        self.running.as_ref().filter(|running| running.instance == instance)
    }
}

#[cfg(test)]
mod tests;
