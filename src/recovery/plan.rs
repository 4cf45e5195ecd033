//! All processes' machines as one: (what happened, now) -> orders for the shell.
//!
//! Pure. Each process has a lifecycle and a breaker, which never see each other, nor the coordinator
//! that they all have in common: the plan carries a failure to the breaker, the wish to be started
//! to the coordinator, and their answers back. What concerns the whole node is decided here too:
//! how many launches go on at a time, and that all wait when the node itself is at fault. The
//! simulation in `tests.rs` drives exactly this.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use crate::breaker::{Answer, Breaker, Turn};
use crate::config::{Config, Process};
use crate::coordinator::{self, Coordinator};
use crate::event::{Change, Instance, ProcessName, Request, Time};
use crate::lifecycle::{Action, Input, Lifecycle};
use crate::state::memory::Memory;

use super::status::Record;

pub use self::orders::{Order, What};
use self::pace::Pace;

mod answers;
mod memory;
mod orders;
mod pace;
mod waiting;

/// The machines of all enabled processes.
#[derive(Debug)]
pub struct Plan {
    entries: BTreeMap<ProcessName, Entry>,
    /// Which entries wait for time to pass, soonest first.
    deadlines: BTreeSet<(Time, ProcessName)>,
    coordinator: Coordinator,
    /// What the coordinator wants, not carried out yet.
    inputs: VecDeque<(ProcessName, Input)>,
    pace: Pace,
    /// What an earlier healer knew, of entries that are still to come.
    recalled: HashMap<ProcessName, Memory>,
    /// Entries whose machines moved, or that left, since somebody asked.
    touched: BTreeSet<ProcessName>,
}

#[derive(Debug)]
struct Entry {
    process: Arc<Process>,
    life: Lifecycle,
    breaker: Breaker,
    record: Record,
    deadline: Option<Time>,
    /// Its next start is one of many that one dependency allowed.
    in_crowd: bool,
    /// The process that is to become its next instance.
    stage: Option<Instance>,
    /// No longer configured, but its launch is under way; gone when that ends.
    leaving: bool,
    /// What takes its place then: an entry of the same name and of another kind.
    successor: Option<Arc<Process>>,
}

impl Plan {
    /// A plan without processes; [`Plan::reload`] brings them.
    #[must_use]
    pub fn new() -> Self {
        Self {
            entries: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            coordinator: Coordinator::default(),
            inputs: VecDeque::new(),
            pace: Pace::new(),
            recalled: HashMap::new(),
            touched: BTreeSet::new(),
        }
    }

    /// Takes a configuration, by difference: what is unchanged is not touched, what changed keeps
    /// its instance and its breaker, what is gone or disabled is let go and left running.
    pub fn reload(&mut self, config: &Config, now: Time) -> Vec<Order> {
        self.pace.set_slots(config.max_parallel_launches);
        let wanted: BTreeMap<&ProcessName, &Arc<Process>> = config
            .processes
            .iter()
            .filter(|process| process.enabled)
            .map(|process| (&process.name, process))
            .collect();
        let mut orders = Vec::new();
        let gone: Vec<_> =
            self.entries.keys().filter(|name| !wanted.contains_key(name)).cloned().collect();
        for name in gone {
            orders.extend(self.leave(&name));
        }
        for (name, process) in wanted {
            match self.entries.get_mut(name) {
                Some(entry) if entry.process.is_watch_only() == process.is_watch_only() => {
                    entry.process = Arc::clone(process);
                    (entry.leaving, entry.successor) = (false, None);
                    self.arm(name);
                    continue;
                }
                Some(_) => orders.extend(self.leave(name)),
                None => {}
            }
            match self.entries.get_mut(name) {
                Some(leaving) => leaving.successor = Some(Arc::clone(process)),
                None => self.enter(process, now, &mut orders),
            }
        }
        let entries = &self.entries;
        let standing = |name: &ProcessName| {
            entries.get(name).map_or(coordinator::UNSEEN, |entry| waiting::standing(&entry.life))
        };
        let words = self.coordinator.reload(config, standing, now);
        self.recalled.clear();
        self.listen(words, &mut orders);
        self.conclude(now, &mut orders);
        orders
    }

    /// Takes an operator's request; `by` says in words whose it is. `None` where there is no such
    /// process, or it is not enabled.
    pub fn ask(
        &mut self,
        name: &ProcessName,
        request: Request,
        by: String,
        now: Time,
    ) -> Option<Vec<Order>> {
        let entry = self.entries.get_mut(name).filter(|entry| !entry.leaving)?;
        let mut orders = Vec::new();
        if request == Request::Reset && entry.breaker.reset() {
            let what = What::Tell(Change::BreakerClosed);
            orders.push(Order { process: name.clone(), what });
        }
        self.feed(name, Input::Asked { request, by }, now, &mut orders);
        self.conclude(now, &mut orders);
        Some(orders)
    }

    /// Takes one input for one process. An unknown name is old news.
    pub fn on(&mut self, name: &ProcessName, input: Input, now: Time) -> Vec<Order> {
        let mut orders = Vec::new();
        self.feed(name, input, now, &mut orders);
        self.conclude(now, &mut orders);
        orders
    }

    /// The node could not launch this process: all launches wait.
    pub fn on_node_fault(&mut self, name: &ProcessName, reason: String, now: Time) -> Vec<Order> {
        let mut orders = Vec::new();
        if self.pace.node_failed(now) {
            let what = What::Tell(Change::NodeFault { reason });
            orders.push(Order { process: name.clone(), what });
        }
        self.feed(name, Input::NodeFault, now, &mut orders);
        self.conclude(now, &mut orders);
        orders
    }

    /// Moves on with time.
    pub fn on_time(&mut self, now: Time) -> Vec<Order> {
        let mut orders = Vec::new();
        while let Some((deadline, name)) = self.deadlines.first().cloned()
            && deadline <= now
        {
            self.deadlines.pop_first();
            let Some(entry) = self.entries.get_mut(&name) else { continue };
            entry.deadline = None;
            let turn = entry.breaker.on_time(&entry.process.recovery.breaker, now);
            match turn {
                Some(Turn::TrialDue) => self.feed(&name, Input::TrialDue, now, &mut orders),
                Some(Turn::Closed) => {
                    let what = What::Tell(Change::BreakerClosed);
                    orders.push(Order { process: name.clone(), what });
                    self.feed(&name, Input::Proved, now, &mut orders);
                }
                None => {}
            }
            self.feed(&name, Input::Tick, now, &mut orders);
        }
        let words = self.coordinator.on_time(now);
        self.listen(words, &mut orders);
        self.conclude(now, &mut orders);
        orders
    }

    /// When [`Plan::on_time`] is due.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        let machines = self.deadlines.first().map(|(deadline, _)| *deadline);
        let others = [self.coordinator.next_deadline(), self.pace.next_deadline()];
        machines.into_iter().chain(others.into_iter().flatten()).min()
    }

    fn feed(&mut self, name: &ProcessName, input: Input, now: Time, orders: &mut Vec<Order>) {
        self.step(name, input, now, orders);
        self.coordinate(now, orders);
    }

    /// One process takes one step; what the coordinator wants because of it waits in `inputs`.
    fn step(&mut self, name: &ProcessName, input: Input, now: Time, orders: &mut Vec<Order>) {
        let Some(entry) = self.entries.get_mut(name) else { return };
        let was_launching = entry.life.is_launching();
        let spawned = matches!(input, Input::Launched { .. } | Input::LaunchFailed { .. });
        let actions = entry.life.on(&entry.process, input, now);
        if entry.life.running().is_none() {
            self.pace.settled(name);
        }
        if was_launching && !entry.life.is_launching() {
            self.pace.launched();
            entry.stage = None;
            if spawned {
                self.pace.node_works();
            }
            if entry.leaving {
                let successor = entry.successor.take();
                orders.extend(self.remove(name));
                if let Some(process) = successor {
                    self.enter(&process, now, orders);
                }
                return;
            }
            let is_slow = entry.process.probe_timeout().is_some();
            if entry.life.running().is_some() && (std::mem::take(&mut entry.in_crowd) || is_slow) {
                self.pace.settling(name, now);
            }
        }
        self.tell_coordinator(name, now, orders);
        self.carry_out(name, actions, now, orders);
        self.arm(name);
    }

    fn carry_out(
        &mut self,
        name: &ProcessName,
        actions: Vec<Action>,
        now: Time,
        orders: &mut Vec<Order>,
    ) {
        for action in actions {
            let Some(entry) = self.entries.get_mut(name) else { return };
            let what = match action {
                Action::Judge => {
                    self.judge(name, now, orders);
                    continue;
                }
                Action::Enqueue => {
                    self.pace.enqueue(name, self.coordinator.is_depended_on(name));
                    continue;
                }
                Action::Running => {
                    entry.breaker.running(now);
                    continue;
                }
                Action::Ready | Action::Unready => {
                    entry.breaker.ready(action == Action::Ready);
                    self.pace.settled(name);
                    continue;
                }
                Action::Stopped => {
                    if let Some(until) = entry.breaker.stopped() {
                        self.step(name, Input::Refused { until }, now, orders);
                    }
                    continue;
                }
                Action::Await => {
                    self.ask_coordinator(name, now, orders);
                    continue;
                }
                Action::Finished => {
                    if !entry.breaker.finished() {
                        continue;
                    }
                    What::Tell(Change::BreakerClosed)
                }
                Action::Launch => {
                    entry.breaker.launching(now);
                    self.coordinator.launching(name);
                    What::Launch
                }
                Action::Look => What::Look,
                Action::Stop { instance } => What::Stop { instance },
                Action::Prepare { last, look } => What::Prepare { last, look },
                Action::FindSuccessor { launched } => What::FindSuccessor { launched },
                Action::Tell(change) => {
                    entry.record.note(&change, &entry.life, now);
                    What::Tell(change)
                }
            };
            orders.push(Order { process: name.clone(), what });
        }
    }

    fn judge(&mut self, name: &ProcessName, now: Time, orders: &mut Vec<Order>) {
        let Some(entry) = self.entries.get_mut(name) else { return };
        let answer = entry.breaker.failed(&entry.process.recovery.breaker, now);
        let (change, input) = match answer {
            Answer::Permit => (None, Input::Permitted),
            Answer::Opened { until, failures } => {
                (Some(Change::BreakerOpened { until, failures }), Input::Refused { until })
            }
            Answer::Reopened { until } => {
                (Some(Change::BreakerReopened { until }), Input::Refused { until })
            }
            Answer::Refuse { until } => (None, Input::Refused { until }),
        };
        if let Some(change) = change {
            orders.push(Order { process: name.clone(), what: What::Tell(change) });
        }
        self.step(name, input, now, orders);
    }

    /// Carries out what the coordinator wants, and grants free slots to those that wait, until
    /// there is nothing more of either.
    fn conclude(&mut self, now: Time, orders: &mut Vec<Order>) {
        loop {
            self.coordinate(now, orders);
            let Some(name) = self.pace.next(now) else { return };
            // One that was found running, or left, while it waited loses its place.
            let waits = self.entries.get(&name).is_some_and(|entry| entry.life.is_queued());
            if !waits {
                continue;
            }
            // While it waited, what it depends on may have died again.
            if self.may_start(&name) {
                self.step(&name, Input::Go, now, orders);
            } else {
                self.ask_coordinator(&name, now, orders);
            }
            if self.entries.get(&name).is_some_and(|entry| entry.life.is_launching()) {
                self.pace.launching();
            }
        }
    }

    fn enter(&mut self, process: &Arc<Process>, now: Time, orders: &mut Vec<Order>) {
        let (life, breaker, actions) = self.begin(process, now);
        let entry = Entry {
            process: Arc::clone(process),
            life,
            breaker,
            record: Record::new(now),
            deadline: None,
            in_crowd: false,
            stage: None,
            leaving: false,
            successor: None,
        };
        self.entries.insert(process.name.clone(), entry);
        self.arm(&process.name);
        self.tell_coordinator(&process.name, now, orders);
        self.carry_out(&process.name, actions, now, orders);
    }

    fn leave(&mut self, name: &ProcessName) -> Vec<Order> {
        match self.entries.get_mut(name) {
            Some(entry) if entry.life.is_launching() => {
                (entry.leaving, entry.successor) = (true, None);
                vec![]
            }
            _ => self.remove(name),
        }
    }

    fn remove(&mut self, name: &ProcessName) -> Vec<Order> {
        let Some(entry) = self.entries.remove(name) else { return vec![] };
        if let Some(deadline) = entry.deadline {
            self.deadlines.remove(&(deadline, name.clone()));
        }
        self.pace.forget(name);
        self.touched.insert(name.clone());
        vec![Order { process: name.clone(), what: What::Release }]
    }

    /// Notes when this entry's machines next need to be told the time.
    fn arm(&mut self, name: &ProcessName) {
        let Some(entry) = self.entries.get_mut(name) else { return };
        self.touched.insert(name.clone());
        let life = entry.life.next_deadline(&entry.process);
        let breaker = entry.breaker.next_deadline(&entry.process.recovery.breaker);
        let deadline = life.into_iter().chain(breaker).min();
        if deadline == entry.deadline {
            return;
        }
        if let Some(old) = std::mem::replace(&mut entry.deadline, deadline) {
            self.deadlines.remove(&(old, name.clone()));
        }
        if let Some(new) = deadline {
            self.deadlines.insert((new, name.clone()));
        }
    }
}

impl Default for Plan {
    fn default() -> Self {
        Self::new()
    }
}
