//! Between the lifecycles and the coordinator: where each process stands for those who depend on it,
//! and what the coordinator says to whom.
//!
//! What the coordinator wants is carried out one by one, after the step that brought it about: so no
//! process is in the middle of one step when it is told of another.

use std::borrow::Cow;

use crate::coordinator::{Action, Answer, Reason, Standing, What as Word};
use crate::event::{ProcessName, State, Time};
use crate::lifecycle::{Input, Lifecycle};

use super::{Order, Plan, What};

impl Plan {
    /// Asks whether a process may be started, and tells it.
    pub(super) fn ask_coordinator(
        &mut self,
        name: &ProcessName,
        now: Time,
        orders: &mut Vec<Order>,
    ) {
        let (answer, words) = self.coordinator.ask(name, now);
        self.listen(words, orders);
        let input = match answer {
            Answer::Free => Input::Released,
            Answer::Held(waiting) => Input::Held { waiting },
        };
        self.step(name, input, now, orders);
    }

    /// Tells the coordinator where a process stands now.
    pub(super) fn tell_coordinator(
        &mut self,
        name: &ProcessName,
        now: Time,
        orders: &mut Vec<Order>,
    ) {
        if !self.coordinator.knows(name) {
            return;
        }
        let Some(entry) = self.entries.get(name) else { return };
        let words = self.coordinator.stands(name, standing(&entry.life), now);
        self.listen(words, orders);
    }

    /// Takes the coordinator's words: tells the world at once what is only to be told, and keeps the
    /// rest. More than one start that comes of one moment makes a crowd.
    pub(super) fn listen(&mut self, words: Vec<Action>, orders: &mut Vec<Order>) {
        let starts = |word: &&Action| matches!(word.what, Word::Release | Word::Restart { .. });
        let is_crowd = words.iter().filter(starts).count() > 1;
        for Action { process, what } in words {
            let (input, starts) = match what {
                Word::Release => (Input::Released, true),
                Word::Restart { because } => {
                    (Input::Restart { reason: format!("{because} was restarted") }, true)
                }
                Word::Hold(waiting) => (Input::Held { waiting }, false),
                Word::Tell(change) => {
                    orders.push(Order { process, what: What::Tell(change) });
                    continue;
                }
            };
            if let Some(entry) = self.entries.get_mut(&process) {
                entry.in_crowd |= starts && is_crowd;
            }
            self.inputs.push_back((process, input));
        }
    }

    /// Carries out what the coordinator wants.
    pub(super) fn coordinate(&mut self, now: Time, orders: &mut Vec<Order>) {
        while let Some((process, input)) = self.inputs.pop_front() {
            self.step(&process, input, now, orders);
        }
    }
}

/// Where a process stands for those who depend on it.
pub(super) fn standing(life: &Lifecycle) -> Standing {
    if let Some((instance, _)) = life.running().filter(|_| life.is_ready()) {
        return Standing::Ready(Some(instance));
    }
    let reason = |text: &'static str, until| Reason { text: Cow::Borrowed(text), until };
    match life.state() {
        State::Unknown { reason } if reason.is_empty() => {
            Standing::Coming(Reason::new("not looked at yet"))
        }
        State::Unknown { reason } => {
            Standing::Away(Reason { text: Cow::Owned(format!("unknown: {reason}")), until: None })
        }
        State::Reachable => Standing::Ready(None),
        State::Unreachable { reason } => {
            let text = Cow::Owned(format!("unreachable: {reason}"));
            Standing::Away(Reason { text, until: None })
        }
        State::Down => Standing::Away(Reason::new("down, and not started by itself")),
        State::Finished => Standing::Away(Reason::new("finished")),
        State::BreakerOpen { until } => Standing::Away(reason("breaker open", Some(until))),
        State::BackingOff { until } => Standing::Coming(reason("backing off", Some(until))),
        // For whom, the coordinator knows.
        State::Held { .. } => Standing::Coming(Reason::new("held")),
        State::Starting => Standing::Coming(Reason::new("starting")),
        State::Stopping { .. } => Standing::Coming(Reason::new("being ended")),
        State::Trial { instance: None } => Standing::Coming(Reason::new("starting, on trial")),
        State::Up { .. } | State::Trial { .. } if life.trouble().is_some() => {
            Standing::Away(Reason::new("hung"))
        }
        State::Up { .. } => Standing::Unready(Reason::new("not ready yet")),
        State::Trial { .. } => Standing::Unready(Reason::new("on trial, not ready yet")),
        State::Paused { pause, instance } => {
            let text = Cow::Owned(format!("paused by {}", pause.by));
            let reason = Reason { text, until: pause.until };
            if instance.is_some() { Standing::Unready(reason) } else { Standing::Away(reason) }
        }
    }
}
