//! What the plan remembers of each process, for a healer to come, and how it takes that up again.
//!
//! Pure. The machines say what they remember and how they go on from it; this puts both together,
//! and notes whose memory may have changed. `state` writes it down.

use super::Plan;
use crate::breaker::{Breaker, Remembered};
use crate::config::Process;
use crate::event::{Instance, ProcessName, Time};
use crate::lifecycle::{Action, Lifecycle};
use crate::state::memory::Memory;

impl Plan {
    /// A plan that goes on from what an earlier healer knew. It holds for the entries that the first
    /// [`Plan::reload`] brings; of others, all is forgotten.
    #[must_use]
    pub fn recalling(memories: impl IntoIterator<Item = (ProcessName, Memory)>) -> Self {
        Self { recalled: memories.into_iter().collect(), ..Self::new() }
    }

    /// Notes the stage that is to become a process's next instance; `None`: there is none any more.
    pub fn staged(&mut self, name: &ProcessName, stage: Option<Instance>) {
        if let Some(entry) = self.entries.get_mut(name) {
            entry.stage = stage;
            self.touched.insert(name.clone());
        }
    }

    /// All processes that are configured and enabled.
    pub fn names(&self) -> impl Iterator<Item = &ProcessName> {
        self.entries.keys()
    }

    /// What is to be remembered of a process; `None` for one that is not configured or not enabled.
    #[must_use]
    pub fn memory(&self, name: &ProcessName) -> Option<Memory> {
        let entry = self.entries.get(name)?;
        let mut life = entry.life.memory();
        life.stage = entry.stage.or(life.stage);
        Some(Memory { life, breaker: entry.breaker.memory() })
    }

    /// Of whom the memory may have changed since this was asked last.
    pub fn take_touched(&mut self) -> impl Iterator<Item = ProcessName> + use<> {
        std::mem::take(&mut self.touched).into_iter()
    }

    /// The machines of an entry that is new to this plan.
    pub(super) fn begin(
        &mut self,
        process: &Process,
        now: Time,
    ) -> (Lifecycle, Breaker, Vec<Action>) {
        let (fresh, actions) = Lifecycle::new(process, now);
        // What is only watched has no instance and no breaker.
        let recalled = self.recalled.remove(&process.name).filter(|_| !process.is_watch_only());
        let Some(Memory { life, breaker }) = recalled else {
            return (fresh, Breaker::default(), actions);
        };
        let trial = breaker.phase == Remembered::HalfOpen;
        let refused = matches!(breaker.phase, Remembered::Open { .. });
        let life = fresh.recalling(life, trial, refused);
        (life, Breaker::recall(&breaker, now), actions)
    }
}
