//! Who waits for whom: whether a process may be started as far as its dependencies are concerned,
//! and whether it is to be restarted because one of them was.
//!
//! A pure machine for all processes together. `recovery::plan` tells it where each process stands
//! and asks before each start; what it answers, at once or later, the plan carries to the
//! lifecycles. It knows neither breakers nor launches: how many starts go on at a time is the
//! plan's.
//!
//! A process that waits is itself *coming* as long as everything it waits for is. So whoever is to
//! start `after` it waits with it, but not where it is held for someone who will not come.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::config::{Config, Dependency, OnFailure};
use crate::event::{Instance, ProcessName, Time, Wait};

use self::hold::{Blocked, Hold};
pub use self::words::{Action, Answer, Reason, Standing, What};

mod hold;
mod restart;
mod words;

/// All processes that depend on others, or that others depend on.
#[derive(Debug, Default)]
pub struct Coordinator {
    nodes: BTreeMap<ProcessName, Node>,
    /// Whose hold changes by time alone, soonest first.
    deadlines: BTreeSet<(Time, ProcessName)>,
    /// How many processes have asked so far: whoever asked first is released first.
    asked: u64,
}

/// One process.
#[derive(Debug)]
struct Node {
    enabled: bool,
    /// Whom it depends on.
    dependencies: Vec<Dependency>,
    /// Who depends on it.
    dependents: Vec<ProcessName>,
    standing: Standing,
    /// What others see of it.
    view: View,
    /// Its wish to be started.
    hold: Option<Hold>,
    /// For whom it waited in vain, and who has not been ready since.
    without: BTreeSet<ProcessName>,
    /// The last instance that was ready.
    ready: Option<Instance>,
    /// This one was restarted: it is to be as well, once no other target is about to be.
    due: Option<ProcessName>,
    /// Its restart was ordered, and it has not moved yet.
    restarting: bool,
    deadline: Option<Time>,
}

/// What those who depend on a process see of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct View {
    place: Place,
    /// It is, or may soon be, on the way to a new instance.
    moves: bool,
}

impl Default for Node {
    fn default() -> Self {
        Self {
            enabled: true,
            dependencies: Vec::new(),
            dependents: Vec::new(),
            standing: UNSEEN,
            view: View { place: Place::Coming, moves: true },
            hold: None,
            without: BTreeSet::new(),
            ready: None,
            due: None,
            restarting: false,
            deadline: None,
        }
    }
}

/// [`Standing`] in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Ready,
    Unready,
    Coming,
    Away,
    /// Away, and nobody but a reload brings it.
    Disabled,
}

/// An entry with `enabled: false`.
const DISABLED: Reason = Reason::new("disabled");
/// A process of which nobody has told where it stands.
pub const UNSEEN: Standing = Standing::Coming(Reason::new("not looked at yet"));

impl Coordinator {
    /// Takes a configuration. `standing` says where an enabled process stands now. Who is asking
    /// goes on asking; what it waits for may have changed.
    pub fn reload(
        &mut self,
        config: &Config,
        standing: impl Fn(&ProcessName) -> Standing,
        now: Time,
    ) -> Vec<Action> {
        let mut before = std::mem::take(&mut self.nodes);
        let mut dependents: BTreeMap<&ProcessName, Vec<ProcessName>> = BTreeMap::new();
        let enabled = || config.processes.iter().filter(|process| process.enabled);
        for process in enabled() {
            for dependency in &process.dependencies {
                dependents.entry(&dependency.target).or_default().push(process.name.clone());
            }
        }
        for process in enabled() {
            let its_dependents = dependents.remove(&process.name).unwrap_or_default();
            let node = before.remove(&process.name);
            // Whoever was held has to be released, even if nothing concerns it any more.
            let is_held = node.as_ref().is_some_and(|node| node.hold.is_some());
            if process.dependencies.is_empty() && its_dependents.is_empty() && !is_held {
                continue;
            }
            let mut node = node.unwrap_or_default();
            node.enabled = true;
            node.dependencies.clone_from(&process.dependencies);
            node.dependents = its_dependents;
            node.take(standing(&process.name));
            self.nodes.insert(process.name.clone(), node);
        }
        // What is left of the targets are entries that are disabled.
        for (target, its_dependents) in dependents {
            let mut node = before.remove(target).unwrap_or_default();
            node.enabled = false;
            node.dependencies.clear();
            node.dependents = its_dependents;
            node.take(Standing::Away(DISABLED));
            self.nodes.insert(target.clone(), node);
        }
        self.deadlines.clear();
        for node in self.nodes.values_mut() {
            node.deadline = None;
            node.insist();
        }
        let order = self.order();
        let mut actions = Vec::new();
        for name in &order {
            self.reconsider(name, now, &mut actions);
            self.look_at(name);
        }
        for name in &order {
            self.settle(name, &mut actions);
        }
        actions
    }

    /// Takes where a process stands. To be called whenever that may have changed.
    pub fn stands(&mut self, name: &ProcessName, standing: Standing, now: Time) -> Vec<Action> {
        let Some(node) = self.nodes.get_mut(name) else { return vec![] };
        let is_news = node.standing != standing || node.restarting;
        if !is_news || !node.enabled {
            return vec![];
        }
        let was_replaced = node.take(standing);
        self.arm(name);
        let mut changed = vec![name.clone()];
        if was_replaced {
            changed.extend(self.mark_dependents(name));
        }
        let mut actions = Vec::new();
        self.spread(changed, now, &mut actions);
        actions
    }

    /// A process is to be started. The actions concern others, or tell what led to the answer.
    pub fn ask(&mut self, name: &ProcessName, now: Time) -> (Answer, Vec<Action>) {
        self.asked += 1;
        let Some(node) = self.nodes.get_mut(name) else { return (Answer::Free, vec![]) };
        if node.hold.as_ref().is_none_or(|hold| !hold.is_released()) {
            node.hold = Some(Hold::new(self.asked));
        }
        let mut actions = Vec::new();
        self.evaluate(name, now, &mut actions);
        self.spread(vec![name.clone()], now, &mut actions);
        let waits = self.waiting_for(name);
        (if waits.is_empty() { Answer::Free } else { Answer::Held(waits) }, actions)
    }

    /// A process that asked is being launched.
    pub fn launching(&mut self, name: &ProcessName) {
        if let Some(node) = self.nodes.get_mut(name) {
            node.hold = None;
            self.arm(name);
        }
    }

    /// Moves on with time.
    pub fn on_time(&mut self, now: Time) -> Vec<Action> {
        let mut actions = Vec::new();
        let mut changed = Vec::new();
        while let Some((deadline, name)) = self.deadlines.first().cloned()
            && deadline <= now
        {
            self.deadlines.pop_first();
            if let Some(node) = self.nodes.get_mut(&name) {
                node.deadline = None;
            }
            self.reconsider(&name, now, &mut actions);
            changed.push(name);
        }
        self.spread(changed, now, &mut actions);
        actions
    }

    /// When [`Coordinator::on_time`] is due.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Whether anything here concerns this process.
    #[must_use]
    pub fn knows(&self, name: &ProcessName) -> bool {
        self.nodes.contains_key(name)
    }

    /// Whether others depend on this process.
    #[must_use]
    pub fn is_depended_on(&self, name: &ProcessName) -> bool {
        self.nodes.get(name).is_some_and(|node| !node.dependents.is_empty())
    }

    /// Whether a process that was released may still be started.
    #[must_use]
    pub fn is_free(&self, name: &ProcessName) -> bool {
        self.nodes.get(name).is_none_or(|node| self.blocking(node).next().is_none())
    }

    /// For whom a held process waits at this moment, and why that one is not ready.
    #[must_use]
    pub fn waiting_for(&self, name: &ProcessName) -> Vec<Wait> {
        let hold = self.nodes.get(name).and_then(|node| node.hold.as_ref());
        let blocked = hold.into_iter().flat_map(Hold::blocked);
        blocked
            .map(|Blocked { on, until, .. }| {
                let Reason { text, until: changes } = self.why_not_ready(on);
                Wait { on: on.clone(), reason: text.into_owned(), changes, until: *until }
            })
            .collect()
    }

    /// Without whom this process runs, or would, and counts as degraded.
    #[must_use]
    pub fn degraded_without(&self, name: &ProcessName) -> Vec<ProcessName> {
        let Some(node) = self.nodes.get(name) else { return vec![] };
        let degrades = |one: &&Dependency| one.on_failure == OnFailure::Degrade;
        let targets = node.dependencies.iter().filter(degrades).map(|one| &one.target);
        targets.filter(|target| node.without.contains(*target)).cloned().collect()
    }

    /// Tells those who depend on these processes what they see of them now, and so on.
    fn spread(&mut self, changed: Vec<ProcessName>, now: Time, actions: &mut Vec<Action>) {
        let mut changed = VecDeque::from(changed);
        let mut settling = changed.clone();
        while let Some(name) = changed.pop_front() {
            let mut dependents = self.look_at(&name);
            dependents.sort_by_key(|name| self.number(name));
            for dependent in dependents {
                self.complete(&dependent, &name, actions);
                self.reconsider(&dependent, now, actions);
                settling.push_back(dependent.clone());
                changed.push_back(dependent);
            }
        }
        for name in settling {
            self.settle(&name, actions);
        }
    }

    /// Renews what others see of a process, and says who they are if that is something new.
    fn look_at(&mut self, name: &ProcessName) -> Vec<ProcessName> {
        let Some(view) = self.nodes.get(name).map(|node| self.view(node)) else { return vec![] };
        match self.nodes.get_mut(name) {
            Some(node) if node.view != view => {
                node.view = view;
                node.dependents.clone()
            }
            _ => vec![],
        }
    }

    /// All processes, each behind those on which it depends.
    fn order(&self) -> Vec<ProcessName> {
        let mut open: BTreeMap<&ProcessName, usize> =
            self.nodes.iter().map(|(name, node)| (name, node.dependencies.len())).collect();
        let free = open.iter().filter(|(_, open)| **open == 0);
        let mut order: Vec<ProcessName> = free.map(|(name, _)| (*name).clone()).collect();
        let mut next = 0;
        while let Some(node) = order.get(next).and_then(|name| self.nodes.get(name)) {
            next += 1;
            for dependent in &node.dependents {
                let Some(open) = open.get_mut(dependent) else { continue };
                *open -= 1;
                if *open == 0 {
                    order.push(dependent.clone());
                }
            }
        }
        order
    }

    /// The turn of a process among all that asked.
    fn number(&self, name: &ProcessName) -> Option<u64> {
        self.nodes.get(name)?.hold.as_ref().map(Hold::number)
    }

    /// Notes when time alone changes something for this process.
    fn arm(&mut self, name: &ProcessName) {
        let Some(node) = self.nodes.get_mut(name) else { return };
        let deadline = node.hold.as_ref().and_then(Hold::deadline);
        if deadline == node.deadline {
            return;
        }
        if let Some(old) = std::mem::replace(&mut node.deadline, deadline) {
            self.deadlines.remove(&(old, name.clone()));
        }
        if let Some(new) = deadline {
            self.deadlines.insert((new, name.clone()));
        }
    }
}

#[cfg(test)]
mod tests;
