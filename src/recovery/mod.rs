//! Bringing processes back: the one task that owns the machines and runs their orders.
//!
//! It decides nothing itself: `plan` does. It holds every guarded instance by its pidfd, so that
//! no death depends on the bus; it looks for instances, has what is left of one ended, has new
//! ones launched, reaps every child, and publishes what it did. Called by `daemon` and `demo`,
//! through [`Handle`].

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tracing::{debug, error};

use crate::bus::{Bus, Received, Receiver};
use crate::clock::{self, WallClock};
use crate::config::Process;
use crate::event::{Change, Event, Instance, Observation, ProcessName, What as Said};
use crate::instance::Held;
use crate::instance::left::{self, Stuck};
use crate::instance::reaper;
use crate::launch::{LaunchError, Launcher, Staged};
use crate::lifecycle::Input;
use crate::monitor::ebpf::Causes;
use crate::monitor::{self, Orders};
use crate::state::Keeper;
use crate::wake::Woken;

use self::guards::{Ended, Guards};
use self::handle::Command;
use self::plan::{Order, Plan, What};

mod guards;
mod handle;
mod journal;
mod memory;
pub mod plan;
mod sight;
pub mod status;
#[cfg(test)]
mod status_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod waiting_tests;

pub use self::handle::{Gone, Handle};

/// What recovery learns of processes by, beside holding them.
#[derive(Debug)]
pub struct Senses {
    /// The monitors that publish on the bus.
    pub monitors: Vec<Orders>,
    /// Why instances end, where eBPF can tell.
    pub causes: Option<Causes>,
    /// How file times compare with boot time.
    pub wall: WallClock,
}

/// What the one task owns.
#[derive(Debug)]
pub struct Recovery {
    plan: Plan,
    launcher: Launcher,
    bus: Bus,
    observations: Receiver,
    monitors: Vec<Orders>,
    wall: WallClock,
    commands: mpsc::Receiver<Command>,
    child_ended: Signal,
    guards: Guards,
    slots: HashMap<ProcessName, Slot>,
    tasks: JoinSet<(ProcessName, Ticket, Outcome)>,
    next_ticket: Ticket,
    /// The answer to come from the monitor after the bus lagged.
    truth: JoinSet<Vec<Event>>,
    /// The bus lagged since that was asked for.
    lagged_again: bool,
    /// The order that is being carried out, and those that came after it.
    orders: VecDeque<Order>,
    /// Looks that are asked for and not yet done: one pass over `/proc` serves them all.
    looks: Vec<ProcessName>,
    /// Takes what is to be remembered, where something is.
    keeper: Option<Keeper>,
}

/// What the shell keeps of one process.
#[derive(Debug, Default)]
struct Slot {
    /// The last instance that was guarded, and whether it was healer's own child.
    last: Option<(Instance, bool)>,
    /// The last instance that was launched.
    launched: Option<Instance>,
    /// The last instance was guarded by an earlier healer, and nobody saw its end.
    unseen: bool,
    /// This one may have exited 0 soon after its launch: what is left of it may be its daemon.
    may_be_parent: Option<Instance>,
    /// A snapshot has shown that nothing is left of this one.
    nothing_left_of: Option<Instance>,
    /// The stage that an earlier healer told to go, as far as is known.
    recalled_stage: Option<Instance>,
    /// The clearing or launch under way.
    task: Option<(Ticket, AbortHandle)>,
}

/// Tells a task's outcome from that of one it replaced.
type Ticket = u64;

/// What came of a task.
#[derive(Debug)]
enum Outcome {
    Cleared(Result<(), Stuck>),
    Stopped {
        instance: Instance,
        result: Result<(), Stuck>,
    },
    /// That the stage may become an instance is written down.
    Staged {
        staged: Staged,
        deadline: Instant,
    },
    Launched {
        stage: Instance,
        result: Result<Held, LaunchError>,
    },
}

impl Recovery {
    /// Prepares the task, and makes this process the one that orphans come to. To be called within
    /// a runtime, before anything is launched; nothing else may wait for children.
    ///
    /// # Errors
    ///
    /// What setting up signals, descriptors and prctl(2) reports.
    pub fn new(launcher: Launcher, bus: Bus, senses: Senses) -> io::Result<(Self, Handle)> {
        reaper::become_subreaper()?;
        let (handle, commands) = Handle::new();
        let recovery = Self {
            plan: Plan::new(),
            launcher,
            observations: bus.subscribe(),
            bus,
            monitors: senses.monitors,
            wall: senses.wall,
            commands,
            child_ended: signal(SignalKind::child())?,
            guards: Guards::new(senses.causes)?,
            slots: HashMap::new(),
            tasks: JoinSet::new(),
            next_ticket: 0,
            truth: JoinSet::new(),
            lagged_again: false,
            orders: VecDeque::new(),
            looks: Vec::new(),
            keeper: None,
        };
        Ok((recovery, handle))
    }

    /// Runs until every [`Handle`] is dropped. What it guards is left running; a launch before its
    /// `go` ends without a trace.
    ///
    /// # Errors
    ///
    /// The kernel refuses what recovery cannot do without; it never should.
    pub async fn run(mut self) -> io::Result<()> {
        loop {
            tokio::select! {
                biased;
                command = self.commands.recv() => match command {
                    Some(command) => self.obey(command),
                    None => break,
                },
                woken = self.guards.next() => {
                    for woken in woken? {
                        self.woken(woken)?;
                    }
                }
                Some(done) = self.tasks.join_next() => match done {
                    Ok((name, ticket, outcome)) => self.finished(&name, ticket, outcome),
                    // An aborted task would have answered an old question.
                    Err(error) if error.is_cancelled() => {}
                    Err(error) => return Err(io::Error::other(error)),
                },
                _ = self.child_ended.recv() => self.guards.reap()?,
                Some(truth) = self.truth.join_next() => {
                    for event in truth.map_err(io::Error::other)? {
                        self.observe(event);
                    }
                    if std::mem::take(&mut self.lagged_again) {
                        self.ask_for_truth();
                    }
                }
                received = self.observations.recv() => self.received(received),
            }
            self.look_around();
            self.remember();
            // What came up while looking is looked at in the next turn, after what else happened.
            let soon = (!self.looks.is_empty()).then(clock::now);
            self.guards.set_alarm(soon.or_else(|| self.plan.next_deadline()))?;
        }
        self.end().await;
        Ok(())
    }

    /// Writes down what is to be remembered. A launch that had no `go` yet ends with its task.
    async fn end(mut self) {
        self.tasks.shutdown().await;
        self.remember();
        if let Some(keeper) = self.keeper.take() {
            keeper.finish().await;
        }
    }

    fn obey(&mut self, command: Command) {
        // Whoever no longer waits for an answer need not have it.
        match command {
            Command::Ping { done } => drop(done.send(())),
            Command::Reload { config, launcher, done } => {
                self.launcher = *launcher;
                let orders = self.plan.reload(&config, clock::now());
                self.perform(orders);
                self.look_around();
                let _ = done.send(());
            }
            Command::Status { done } => drop(done.send(self.plan.status(clock::now()))),
            Command::StatusOf { name, done } => {
                let _ = done.send(self.plan.status_of(&name, clock::now()));
            }
            Command::Ask { name, request, by, done } => {
                if let Some(orders) = self.plan.ask(&name, request, by, clock::now()) {
                    self.perform(orders);
                    self.look_around();
                }
                let _ = done.send(self.plan.status_of(&name, clock::now()));
            }
        }
    }

    fn woken(&mut self, woken: Woken) -> io::Result<()> {
        match woken {
            Woken::Alarm => {
                self.guards.rewatch();
                let orders = self.plan.on_time(clock::now());
                self.perform(orders);
            }
            Woken::Ended(token) => {
                if let Some(ended) = self.guards.ended(token)? {
                    self.ended(ended);
                }
            }
        }
        Ok(())
    }

    fn ended(&mut self, Ended { process, instance, exit, held }: Ended) {
        self.note_end(&process, instance, &exit);
        self.feed(&process, Input::Ended { instance, exit });
        // Only now: closing it takes its time, and what follows from the end does not wait for that.
        drop(held);
    }

    fn received(&mut self, received: Received) {
        match received {
            Received::Event(event) => self.observe(event),
            Received::Lagged(lost) => {
                debug!(lost, "the bus lagged; asking for the present truth");
                if self.truth.is_empty() {
                    self.ask_for_truth();
                } else {
                    self.lagged_again = true;
                }
            }
            Received::Closed => {}
        }
    }

    /// What was lost can only concern processes without an instance: the others are held. The
    /// answer tells the present truth of all, and cannot be lost.
    fn ask_for_truth(&mut self) {
        let monitors = self.monitors.clone();
        self.truth.spawn(async move {
            let mut truth = Vec::new();
            for monitor in monitors {
                // A monitor ends only with the daemon.
                truth.extend(monitor.tell(monitor::Command::Republish).await.unwrap_or_default());
            }
            truth
        });
    }

    fn observe(&mut self, event: Event) {
        let Event { process, what: Said::Saw(seen), .. } = event else { return };
        match seen {
            Observation::Up(instance) => self.guard(&process, instance),
            // A hint: what holds at this moment is seen by looking.
            Observation::Missing | Observation::Unclear { .. } => {
                if self.plan.is_unknown(&process) {
                    self.looks.push(process);
                }
            }
            Observation::Healthy { instance } => self.feed(&process, Input::Healthy { instance }),
            Observation::Unhealthy { instance, reason } => {
                self.feed(&process, Input::Unhealthy { instance, reason });
            }
        }
    }

    fn finished(&mut self, name: &ProcessName, ticket: Ticket, outcome: Outcome) {
        let asked = |slot: &mut Slot| slot.task.take_if(|(asked, _)| *asked == ticket).is_some();
        let current = self.slots.get_mut(name).is_some_and(asked);
        match outcome {
            Outcome::Cleared(_) if !current => {}
            Outcome::Cleared(Ok(())) => self.feed(name, Input::Prepared),
            Outcome::Cleared(Err(stuck)) => {
                let reason = format!("what is left of it cannot be ended: {}", chain(&stuck));
                self.feed(name, Input::Unclear { reason });
            }
            // Whether it ended is told by its pidfd; what is left of it is cleared before a launch.
            Outcome::Stopped { result: Ok(()), .. } => {}
            Outcome::Stopped { instance, result: Err(stuck) } => {
                self.feed(name, Input::Stuck { instance, reason: chain(&stuck) });
            }
            Outcome::Staged { staged, .. } if !current => {
                self.guards.forget(staged.held().instance());
            }
            Outcome::Staged { staged, deadline } => self.go(name, staged, deadline),
            Outcome::Launched { result: Ok(held), .. } => {
                let instance = held.instance();
                self.slots.entry(name.clone()).or_default().launched = Some(instance);
                self.tell_monitors(&monitor::Command::Launched(name.clone(), instance));
                self.take_hold(name, held);
                self.feed(name, Input::Launched { instance });
            }
            Outcome::Launched { stage, result: Err(error) } => {
                self.guards.forget(stage);
                self.launch_failed(name, &error);
            }
        }
    }

    fn launch_failed(&mut self, name: &ProcessName, error: &LaunchError) {
        let reason = chain(error);
        if error.is_node_fault() {
            let orders = self.plan.on_node_fault(name, reason, clock::now());
            self.perform(orders);
        } else {
            self.feed(name, Input::LaunchFailed { reason });
        }
    }

    fn feed(&mut self, name: &ProcessName, input: Input) {
        let orders = self.plan.on(name, input, clock::now());
        self.perform(orders);
    }

    /// Carries out orders, and those that come of them, one after the other: what is told comes in
    /// the order in which it was decided.
    fn perform(&mut self, orders: Vec<Order>) {
        let is_first = self.orders.is_empty();
        self.orders.extend(orders);
        if !is_first {
            return;
        }
        while let Some(Order { process: name, what }) = self.orders.front().cloned() {
            match what {
                What::Tell(change) => self.tell(name, change),
                What::Look => self.looks.push(name),
                What::Prepare { last, look } => self.prepare(&name, last, look),
                What::Launch => self.launch(&name),
                What::FindSuccessor { launched } => self.find_successor(&name, launched),
                What::Stop { instance } => self.stop(&name, instance),
                What::Release => self.release(&name),
            }
            self.orders.pop_front();
        }
    }

    fn tell(&self, process: ProcessName, change: Change) {
        journal::write(&process, &change);
        self.bus.publish(Event { process, at: clock::now(), what: Said::Did(change) });
    }

    fn tell_monitors(&self, command: &monitor::Command) {
        for monitor in &self.monitors {
            if monitor.note(command.clone()).is_err() {
                error!("a monitor has ended; what it watches is looked at only before a launch");
            }
        }
    }

    /// Makes sure that no instance runs and that nothing is left of the last one.
    fn prepare(&mut self, name: &ProcessName, last: Option<Instance>, look: bool) {
        let Some(process) = self.plan.process(name).map(Arc::clone) else { return };
        let child = self.slots.get(name).and_then(|slot| slot.last).is_some_and(|(_, child)| child);
        let nothing_left =
            last.is_some() && last == self.slots.get(name).and_then(|slot| slot.nothing_left_of);
        let left = match last.filter(|_| process.stop.leftovers && !nothing_left) {
            Some(last) => {
                let known = |pid| self.guards.knows_child(pid);
                let guarded = |one| self.guards.owner(one).is_some();
                match left::left_of(last, child.then_some(&known), &guarded) {
                    Ok(left) => left,
                    Err(error) => {
                        let reason = format!("cannot see what is left of {last}: {error}");
                        return self.feed(name, Input::Unclear { reason });
                    }
                }
            }
            None => vec![],
        };
        if let Some(reason) = last.and_then(|last| self.doubt_held(&process, last, &left)) {
            return self.feed(name, Input::Unclear { reason });
        }
        // What looks like a leftover may be the successor (nginx's upgraded master); and what was
        // not looked at for a while may have been started by somebody else.
        let seen = if look || !left.is_empty() {
            self.see(std::slice::from_ref(&process)).pop()
        } else {
            // Whom healer held is known to have ended: without a file there is nothing to ask.
            process.pid_file().and_then(|_| self.glance(&process))
        };
        match seen {
            None | Some(Observation::Missing) => {}
            Some(found) => return self.feed_sight(name, found),
        }
        match last {
            Some(last) if !left.is_empty() => {
                let (stop, guarded) = (process.stop, self.guards.instances());
                self.start_task(name, async move {
                    let guarded = |one| guarded.contains(&one);
                    Outcome::Cleared(left::clear(last, stop, guarded).await)
                });
            }
            _ => self.feed(name, Input::Prepared),
        }
    }

    /// Ends a living instance. That it has ended is told by its pidfd, as always.
    fn stop(&mut self, name: &ProcessName, instance: Instance) {
        let Some(process) = self.plan.process(name) else { return };
        let stop = process.stop;
        match Held::open_exactly(instance) {
            Ok(Some(held)) => {
                let guarded = self.guards.instances();
                self.start_task(name, async move {
                    let guarded = |one| one != instance && guarded.contains(&one);
                    Outcome::Stopped { instance, result: left::stop(&held, stop, guarded).await }
                });
            }
            Ok(None) => {}
            Err(error) => {
                let reason = format!("cannot take hold of it to end it: {error}");
                self.feed(name, Input::Stuck { instance, reason });
            }
        }
    }

    fn launch(&mut self, name: &ProcessName) {
        let Some(process) = self.plan.process(name).map(Arc::clone) else { return };
        if !self.is_free(&process) {
            return self.feed(name, Input::Postponed);
        }
        let deadline = Instant::now() + process.recovery.start_timeout;
        match self.launcher.spawn(&process) {
            Ok(staged) => {
                let stage = staged.held().instance();
                self.guards.expect(stage);
                match self.remember_stage(name, stage) {
                    // It is written while the stage comes up, which takes longer.
                    Some(written) => self.start_task(name, async move {
                        written.await;
                        Outcome::Staged { staged, deadline }
                    }),
                    None => self.go(name, staged, deadline),
                }
            }
            Err(error) => self.launch_failed(name, &error),
        }
    }

    /// Lets the stage become the next instance.
    fn go(&mut self, name: &ProcessName, staged: Staged, deadline: Instant) {
        let stage = staged.held().instance();
        let Some(process) = self.plan.process(name).map(Arc::clone) else { return };
        if !self.is_free(&process) {
            self.guards.forget(stage);
            return self.feed(name, Input::Postponed);
        }
        match staged.go() {
            Ok(going) => self.start_task(name, async move {
                Outcome::Launched { stage, result: going.executed(deadline).await }
            }),
            Err(error) => {
                self.guards.forget(stage);
                self.launch_failed(name, &error);
            }
        }
    }

    /// Whether what a process depends on allows its start at this moment.
    fn is_free(&mut self, process: &Process) -> bool {
        // One of those may have ended a moment ago, and nobody was woken by that yet.
        for dependency in &process.dependencies {
            if let Ok(Some(ended)) = self.guards.ended_unnoticed(&dependency.target) {
                self.ended(ended);
            }
        }
        self.plan.may_start(&process.name)
    }

    /// Starts a task for a process, in the place of the one under way.
    fn start_task(
        &mut self,
        name: &ProcessName,
        task: impl Future<Output = Outcome> + Send + 'static,
    ) {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let named = name.clone();
        let handle = self.tasks.spawn(async move { (named, ticket, task.await) });
        let slot = self.slots.entry(name.clone()).or_default();
        if let Some((_, old)) = slot.task.replace((ticket, handle)) {
            old.abort();
        }
    }

    fn release(&mut self, name: &ProcessName) {
        self.guards.release(name);
        if let Some((_, task)) = self.slots.remove(name).and_then(|slot| slot.task) {
            task.abort();
        }
    }
}

/// An error and what caused it, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
