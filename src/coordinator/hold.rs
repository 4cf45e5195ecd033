//! One process's wish to be started: for whom it is held, since when, and until when.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::{Dependency, DependencyKind, OnFailure};
use crate::event::{Change, ProcessName, Time};

use super::words::{Action, Reason, Standing, What};
use super::{Coordinator, DISABLED, Node, Place};

/// A process's wish to be started.
#[derive(Debug)]
pub(super) struct Hold {
    /// Its turn among all that asked.
    number: u64,
    /// Since when each target has held it. A target that is ready for a while and then no longer
    /// gains no time by that.
    since: BTreeMap<ProcessName, Time>,
    /// For whom it waits too long already, which has been told.
    overdue: BTreeSet<ProcessName>,
    /// For whom it waits; empty once it is released.
    blocked: Vec<Blocked>,
}

/// One target that a process is held for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Blocked {
    pub on: ProcessName,
    /// When `max_wait` is over; `None`: it is.
    pub until: Option<Time>,
    /// The target is not on its way, and without it nothing is started: who waits for this process
    /// waits in vain as well.
    in_vain: bool,
}

impl Hold {
    pub(super) fn new(number: u64) -> Self {
        let (since, overdue) = (BTreeMap::new(), BTreeSet::new());
        Self { number, since, overdue, blocked: Vec::new() }
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn is_released(&self) -> bool {
        self.blocked.is_empty()
    }

    pub(super) fn blocked(&self) -> &[Blocked] {
        &self.blocked
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        self.blocked.iter().filter_map(|blocked| blocked.until).min()
    }
}

impl Node {
    /// What others see of where it stands.
    pub(super) fn place(&self) -> Place {
        let held = self.hold.iter().flat_map(Hold::blocked).any(|blocked| blocked.in_vain);
        match self.standing {
            _ if !self.enabled => Place::Disabled,
            Standing::Ready(_) => Place::Ready,
            Standing::Unready(_) => Place::Unready,
            Standing::Coming(_) if held => Place::Away,
            Standing::Coming(_) => Place::Coming,
            Standing::Away(_) => Place::Away,
        }
    }

    /// Waits again for those whom a reload made indispensable.
    pub(super) fn insist(&mut self) {
        let optional = |target: &ProcessName| {
            let mut targets = self.dependencies.iter();
            targets.any(|one| one.target == *target && one.on_failure != OnFailure::Abort)
        };
        self.without.retain(optional);
    }
}

impl Coordinator {
    /// The dependencies that do not allow a start of `node` now, and where their targets stand.
    pub(super) fn blocking<'a>(
        &'a self,
        node: &'a Node,
    ) -> impl Iterator<Item = (&'a Dependency, Place)> {
        let place = |target| self.nodes.get(target).map_or(Place::Disabled, |one| one.view.place);
        let targets = node.dependencies.iter().map(move |one| (one, place(&one.target)));
        targets.filter(|(one, place)| {
            let blocks = match one.kind {
                DependencyKind::Requires => *place != Place::Ready,
                DependencyKind::After => matches!(place, Place::Coming | Place::Unready),
            };
            blocks && !node.without.contains(&one.target)
        })
    }

    /// Finds anew for whom a process that asked waits.
    pub(super) fn evaluate(&mut self, name: &ProcessName, now: Time, actions: &mut Vec<Action>) {
        let Some(node) = self.nodes.get(name) else { return };
        let blocking: Vec<(Dependency, Place)> =
            self.blocking(node).map(|(one, place)| (one.clone(), place)).collect();
        let Some(Node { hold: Some(hold), without, .. }) = self.nodes.get_mut(name) else { return };
        hold.blocked.clear();
        for (Dependency { target: on, on_failure, max_wait, .. }, place) in blocking {
            let is_hard = on_failure == OnFailure::Abort;
            let since = *hold.since.entry(on.clone()).or_insert(now);
            let is_pointless = place == Place::Disabled && !is_hard;
            let deadline = if is_pointless { since } else { since.after(max_wait) };
            let (until, waited) = ((deadline > now).then_some(deadline), now.since(since));
            let change = if until.is_none() && !is_hard {
                without.insert(on.clone());
                let degraded = on_failure == OnFailure::Degrade;
                Some(Change::Waived { on, waited, degraded })
            } else {
                let in_vain = is_hard && matches!(place, Place::Away | Place::Disabled);
                hold.blocked.push(Blocked { on: on.clone(), until, in_vain });
                let is_overdue = until.is_none() && hold.overdue.insert(on.clone());
                is_overdue.then_some(Change::Overdue { on, waited })
            };
            let tell = |change| Action { process: name.clone(), what: What::Tell(change) };
            actions.extend(change.map(tell));
        }
        self.arm(name);
    }

    /// Finds anew whether a process is still held, and tells what has changed.
    pub(super) fn reconsider(&mut self, name: &ProcessName, now: Time, actions: &mut Vec<Action>) {
        let hold = self.nodes.get(name).and_then(|node| node.hold.as_ref());
        let Some(hold) = hold.filter(|hold| !hold.is_released()) else { return };
        let before = hold.blocked.clone();
        self.evaluate(name, now, actions);
        let hold = self.nodes.get(name).and_then(|node| node.hold.as_ref());
        let what = match hold.map(Hold::blocked) {
            None | Some([]) => What::Release,
            Some(blocked) if *blocked == before => return,
            Some(_) => What::Hold(self.waiting_for(name)),
        };
        actions.push(Action { process: name.clone(), what });
    }

    /// A process that goes without `target` does so no longer, where that is ready.
    pub(super) fn complete(
        &mut self,
        name: &ProcessName,
        target: &ProcessName,
        actions: &mut Vec<Action>,
    ) {
        if self.nodes.get(target).is_none_or(|node| node.view.place != Place::Ready) {
            return;
        }
        let Some(node) = self.nodes.get_mut(name) else { return };
        let mut dependencies = node.dependencies.iter();
        let degraded =
            dependencies.any(|one| one.target == *target && one.on_failure == OnFailure::Degrade);
        if node.without.remove(target) && degraded {
            let what = What::Tell(Change::Complete { on: target.clone() });
            actions.push(Action { process: name.clone(), what });
        }
    }

    /// Why a process is not ready, in words.
    pub(super) fn why_not_ready(&self, name: &ProcessName) -> Reason {
        let Some(node) = self.nodes.get(name) else { return DISABLED };
        match &node.standing {
            Standing::Ready(_) => Reason::new("ready"),
            Standing::Coming(_) if node.hold.as_ref().is_some_and(|hold| !hold.is_released()) => {
                Reason::new("held")
            }
            Standing::Unready(reason) | Standing::Coming(reason) | Standing::Away(reason) => {
                reason.clone()
            }
        }
    }
}
