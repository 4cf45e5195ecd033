//! All processes' machines as one: (what happened, now) -> orders for the shell.
//!
//! Pure. Each process has a lifecycle and a breaker, which never see each other: the plan carries
//! a failure to the breaker and its answer back. What concerns the whole node is decided here too:
//! how many launches go on at a time, and that all wait when the node itself is at fault. The
//! simulation in `tests.rs` drives exactly this.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::breaker::{Answer, Breaker, Turn};
use crate::config::{Backoff, Config, Process};
use crate::event::{Change, Instance, ProcessName, Request, State, Time};
use crate::lifecycle::{Action, Input, Lifecycle};

use super::status::{ProcessStatus, Record};

/// How long all launches wait after the n-th fault of the node in a row.
const NODE_BACKOFF: Backoff = Backoff {
    initial: Duration::from_millis(100),
    factor: 2.0,
    max: Duration::from_secs(5),
    jitter: 0.0,
};

/// The machines of all enabled processes.
#[derive(Debug)]
pub struct Plan {
    entries: BTreeMap<ProcessName, Entry>,
    /// Which entries wait for time to pass, soonest first.
    deadlines: BTreeSet<(Time, ProcessName)>,
    /// Which entries wait for a launch slot, longest first.
    queue: VecDeque<ProcessName>,
    launching: usize,
    max_parallel_launches: usize,
    node_faults: u32,
    node_wait_until: Time,
}

#[derive(Debug)]
struct Entry {
    process: Arc<Process>,
    life: Lifecycle,
    breaker: Breaker,
    record: Record,
    deadline: Option<Time>,
    /// No longer configured, but its launch is under way; gone when that ends.
    leaving: bool,
    /// What takes its place then: an entry of the same name and of another kind.
    successor: Option<Arc<Process>>,
}

/// What the shell is to do, for which process.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Order {
    /// For which process.
    pub process: ProcessName,
    /// What.
    pub what: What,
}

/// What the shell is to do. See [`Action`] for the answers that it owes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Find out whether it runs.
    Look,
    /// Make sure that none runs and that nothing is left of the last instance.
    Prepare {
        /// Which instance ended last.
        last: Option<Instance>,
        /// Whether somebody else may have started one since.
        look: bool,
    },
    /// Launch it.
    Launch,
    /// See what came out of this launch.
    FindSuccessor {
        /// What was launched.
        launched: Instance,
    },
    /// End this instance and what belongs to it.
    Stop {
        /// Which one.
        instance: Instance,
    },
    /// Let go of its instance: it is no longer watched.
    Release,
    /// Publish this.
    Tell(Change),
}

impl Plan {
    /// A plan without processes; [`Plan::reload`] brings them.
    #[must_use]
    pub fn new() -> Self {
        Self {
            entries: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            queue: VecDeque::new(),
            launching: 0,
            max_parallel_launches: 1,
            node_faults: 0,
            node_wait_until: Time(0),
        }
    }

    /// Takes a configuration, by difference: what is unchanged is not touched, what changed keeps
    /// its instance and its breaker, what is gone or disabled is let go and left running.
    pub fn reload(&mut self, config: &Config, now: Time) -> Vec<Order> {
        self.max_parallel_launches = config.max_parallel_launches;
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
        self.grant_slots(now, &mut orders);
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
        self.grant_slots(now, &mut orders);
        Some(orders)
    }

    /// Takes one input for one process. An unknown name is old news.
    pub fn on(&mut self, name: &ProcessName, input: Input, now: Time) -> Vec<Order> {
        let mut orders = Vec::new();
        self.feed(name, input, now, &mut orders);
        self.grant_slots(now, &mut orders);
        orders
    }

    /// The node could not launch this process: all launches wait.
    pub fn on_node_fault(&mut self, name: &ProcessName, reason: String, now: Time) -> Vec<Order> {
        let mut orders = Vec::new();
        self.node_wait_until = now.after(NODE_BACKOFF.delay(self.node_faults));
        self.node_faults = self.node_faults.saturating_add(1);
        if self.node_faults == 1 {
            let what = What::Tell(Change::NodeFault { reason });
            orders.push(Order { process: name.clone(), what });
        }
        self.feed(name, Input::NodeFault, now, &mut orders);
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
        self.grant_slots(now, &mut orders);
        orders
    }

    /// When [`Plan::on_time`] is due.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        let slots = (!self.queue.is_empty() && self.launching < self.max_parallel_launches)
            .then_some(self.node_wait_until);
        let machines = self.deadlines.first().map(|(deadline, _)| *deadline);
        slots.into_iter().chain(machines).min()
    }

    /// Whether a running instance of this process would be taken for it now.
    #[must_use]
    pub fn seeks(&self, name: &ProcessName) -> bool {
        self.entries.get(name).is_some_and(|entry| entry.life.seeks())
    }

    /// Whether it cannot be told which process is meant by this name.
    #[must_use]
    pub fn is_unknown(&self, name: &ProcessName) -> bool {
        self.state(name).is_some_and(|state| matches!(state, State::Unknown { .. }))
    }

    /// Where a process stands; `None` for one that is not configured or not enabled.
    #[must_use]
    pub fn state(&self, name: &ProcessName) -> Option<State> {
        self.entries.get(name).map(|entry| entry.life.state())
    }

    /// How each process stands, by name.
    #[must_use]
    pub fn status(&self, now: Time) -> Vec<ProcessStatus> {
        let stays = |entry: &&Entry| !entry.leaving;
        self.entries.values().filter(stays).map(|entry| entry.status(now)).collect()
    }

    /// How one process stands; `None` for one that is not configured or not enabled.
    #[must_use]
    pub fn status_of(&self, name: &ProcessName, now: Time) -> Option<ProcessStatus> {
        self.entries.get(name).filter(|entry| !entry.leaving).map(|entry| entry.status(now))
    }

    /// The present policy of a process.
    #[must_use]
    pub fn process(&self, name: &ProcessName) -> Option<&Arc<Process>> {
        self.entries.get(name).map(|entry| &entry.process)
    }

    fn feed(&mut self, name: &ProcessName, input: Input, now: Time, orders: &mut Vec<Order>) {
        let Some(entry) = self.entries.get_mut(name) else { return };
        let was_launching = entry.life.is_launching();
        let spawned = matches!(input, Input::Launched { .. } | Input::LaunchFailed { .. });
        let actions = entry.life.on(&entry.process, input, now);
        if was_launching && !entry.life.is_launching() {
            self.launching -= 1;
            if spawned {
                self.node_faults = 0;
            }
            if entry.leaving {
                let successor = entry.successor.take();
                orders.extend(self.remove(name));
                if let Some(process) = successor {
                    self.enter(&process, now, orders);
                }
                return;
            }
        }
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
                    self.queue.push_back(name.clone());
                    continue;
                }
                Action::Running => {
                    entry.breaker.running(now);
                    continue;
                }
                Action::Ready | Action::Unready => {
                    entry.breaker.ready(action == Action::Ready);
                    continue;
                }
                Action::Stopped => {
                    if let Some(until) = entry.breaker.stopped() {
                        self.feed(name, Input::Refused { until }, now, orders);
                    }
                    continue;
                }
                Action::Await => {
                    self.feed(name, Input::Released, now, orders);
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
        self.feed(name, input, now, orders);
    }

    /// Grants free slots to those that wait, in turn. An entry that was found running, or left,
    /// while it waited loses its place.
    fn grant_slots(&mut self, now: Time, orders: &mut Vec<Order>) {
        while self.launching < self.max_parallel_launches && self.node_wait_until <= now {
            let Some(name) = self.queue.pop_front() else { return };
            let Some(entry) = self.entries.get_mut(&name) else { continue };
            let actions = entry.life.on(&entry.process, Input::Go, now);
            if entry.life.is_launching() {
                self.launching += 1;
            }
            self.carry_out(&name, actions, now, orders);
            self.arm(&name);
        }
    }

    fn enter(&mut self, process: &Arc<Process>, now: Time, orders: &mut Vec<Order>) {
        let (life, actions) = Lifecycle::new(process, now);
        let entry = Entry {
            process: Arc::clone(process),
            life,
            breaker: Breaker::default(),
            record: Record::new(now),
            deadline: None,
            leaving: false,
            successor: None,
        };
        self.entries.insert(process.name.clone(), entry);
        self.arm(&process.name);
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
        self.queue.retain(|waiting| waiting != name);
        vec![Order { process: name.clone(), what: What::Release }]
    }

    /// Notes when this entry's machines next need to be told the time.
    fn arm(&mut self, name: &ProcessName) {
        let Some(entry) = self.entries.get_mut(name) else { return };
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

impl Entry {
    fn status(&self, now: Time) -> ProcessStatus {
        self.record.status(&self.process, &self.life, &self.breaker, now)
    }
}

impl Default for Plan {
    fn default() -> Self {
        Self::new()
    }
}
