//! How fast this node starts things: who gets a launch slot, in which turn, and for how long.
//!
//! Pure. A slot is taken from `go` to the confirmed exec. Some hold theirs until they are ready: those
//! whose probe tells, and those that come in a crowd, because one dependency of theirs came back.
//! Else two hundred processes that lost one database would all load their caches from it at once.
//! First come, first served; but whoever others depend on goes before those on whom nobody does.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::config::Backoff;
use crate::event::{ProcessName, Time};

/// How long all launches wait after the n-th fault of the node in a row.
const NODE_BACKOFF: Backoff = Backoff {
    initial: Duration::from_millis(100),
    factor: 2.0,
    max: Duration::from_secs(5),
    jitter: 0.0,
};
/// How long a slot is held for one that does not become ready.
const PATIENCE: Duration = Duration::from_secs(5);

/// The launch slots, and who waits for one.
#[derive(Debug)]
pub(super) struct Pace {
    slots: usize,
    /// Others depend on these; longest waiting first.
    ahead: VecDeque<ProcessName>,
    /// And on these nobody does.
    behind: VecDeque<ProcessName>,
    /// Launches between `go` and the confirmed exec.
    launching: usize,
    /// Who runs and holds a slot all the same, until when.
    settling: BTreeMap<ProcessName, Time>,
    node_faults: u32,
    node_wait_until: Time,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self {
            slots: 1,
            ahead: VecDeque::new(),
            behind: VecDeque::new(),
            launching: 0,
            settling: BTreeMap::new(),
            node_faults: 0,
            node_wait_until: Time(0),
        }
    }

    /// So many at a time.
    pub(super) fn set_slots(&mut self, slots: usize) {
        self.slots = slots;
    }

    /// This one waits for a slot.
    pub(super) fn enqueue(&mut self, name: &ProcessName, is_depended_on: bool) {
        let queue = if is_depended_on { &mut self.ahead } else { &mut self.behind };
        queue.push_back(name.clone());
    }

    /// Whose turn it is now. A slot is taken only once that one is [`Pace::launching`].
    pub(super) fn next(&mut self, now: Time) -> Option<ProcessName> {
        self.settling.retain(|_, until| *until > now);
        if self.launching + self.settling.len() >= self.slots || self.node_wait_until > now {
            return None;
        }
        self.ahead.pop_front().or_else(|| self.behind.pop_front())
    }

    /// A launch begins.
    pub(super) fn launching(&mut self) {
        self.launching += 1;
    }

    /// A launch has ended, well or not.
    pub(super) fn launched(&mut self) {
        self.launching -= 1;
    }

    /// This one runs, and keeps its slot until it is ready.
    pub(super) fn settling(&mut self, name: &ProcessName, now: Time) {
        self.settling.insert(name.clone(), now.after(PATIENCE));
    }

    /// This one is ready, or runs no longer.
    pub(super) fn settled(&mut self, name: &ProcessName) {
        self.settling.remove(name);
    }

    /// The node could not launch anything; says whether it could the last time.
    pub(super) fn node_failed(&mut self, now: Time) -> bool {
        self.node_wait_until = now.after(NODE_BACKOFF.delay(self.node_faults));
        self.node_faults = self.node_faults.saturating_add(1);
        self.node_faults == 1
    }

    /// The node can.
    pub(super) fn node_works(&mut self) {
        self.node_faults = 0;
    }

    /// Forgets a process whose launch is not under way.
    pub(super) fn forget(&mut self, name: &ProcessName) {
        self.ahead.retain(|waiting| waiting != name);
        self.behind.retain(|waiting| waiting != name);
        self.settled(name);
    }

    /// When [`Pace::next`] has another answer by time alone.
    pub(super) fn next_deadline(&self) -> Option<Time> {
        if self.ahead.is_empty() && self.behind.is_empty() {
            return None;
        }
        if self.launching + self.settling.len() < self.slots {
            return Some(self.node_wait_until);
        }
        self.settling.values().min().map(|until| (*until).max(self.node_wait_until))
    }
}
