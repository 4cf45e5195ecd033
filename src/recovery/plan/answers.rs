//! What a plan says of a process when it is asked.

use std::sync::Arc;

use crate::config::Process;
use crate::event::{ProcessName, State, Time};
use crate::recovery::status::ProcessStatus;

use super::{Entry, Plan};

impl Plan {
    /// Whether a running instance of this process would be taken for it now.
    #[must_use]
    pub fn seeks(&self, name: &ProcessName) -> bool {
        self.entries.get(name).is_some_and(|entry| entry.life.seeks())
    }

    /// Whether what this process depends on allows a start of it now.
    #[must_use]
    pub fn may_start(&self, name: &ProcessName) -> bool {
        self.coordinator.is_free(name)
    }

    /// Whether it cannot be told which process is meant by this name.
    #[must_use]
    pub fn is_unknown(&self, name: &ProcessName) -> bool {
        self.state(name).is_some_and(|state| matches!(state, State::Unknown { .. }))
    }

    /// Where a process stands; `None` for one that is not configured or not enabled.
    #[must_use]
    pub fn state(&self, name: &ProcessName) -> Option<State> {
        let mut state = self.entries.get(name).map(|entry| entry.life.state())?;
        if let State::Held { waiting } = &mut state {
            // Since it was told, the reasons may have changed.
            *waiting = self.coordinator.waiting_for(name);
        }
        Some(state)
    }

    /// How each process stands, by name.
    #[must_use]
    pub fn status(&self, now: Time) -> Vec<ProcessStatus> {
        let stays = |entry: &&Entry| !entry.leaving;
        self.entries.values().filter(stays).map(|entry| self.status_now(entry, now)).collect()
    }

    /// How one process stands; `None` for one that is not configured or not enabled.
    #[must_use]
    pub fn status_of(&self, name: &ProcessName, now: Time) -> Option<ProcessStatus> {
        let entry = self.entries.get(name).filter(|entry| !entry.leaving)?;
        Some(self.status_now(entry, now))
    }

    fn status_now(&self, entry: &Entry, now: Time) -> ProcessStatus {
        let mut status = entry.record.status(&entry.process, &entry.life, &entry.breaker, now);
        status.degraded_without = self.coordinator.degraded_without(&status.name);
        if let Some(state) = self.state(&status.name) {
            status.state = state;
        }
        status
    }

    /// The present policy of a process.
    #[must_use]
    pub fn process(&self, name: &ProcessName) -> Option<&Arc<Process>> {
        self.entries.get(name).map(|entry| &entry.process)
    }
}
