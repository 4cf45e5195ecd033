//! Bringing processes back: the one task that owns the machines and runs their orders.
//!
//! It decides nothing itself: `plan` does. It holds every guarded instance by its pidfd, so that
//! no death depends on the bus; it looks for instances, has what is left of one ended, has new
//! ones launched, reaps every child, and publishes what it did. Called by `daemon` and `demo`,
//! through [`Handle`].

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};
use tracing::{debug, error};

use crate::bus::{Bus, Received, Receiver};
use crate::clock;
use crate::config::{Config, Process};
use crate::event::{Change, Event, Exit, Instance, Observation, ProcessName, State, What as Said};
use crate::instance::Held;
use crate::instance::clock::WallClock;
use crate::instance::left::{self, Stuck};
use crate::instance::reaper::{self, Reaper};
use crate::instance::table::{Row, Table};
use crate::launch::{LaunchError, Launcher};
use crate::lifecycle::Input;
use crate::monitor::pid::look::{Known, directly, look_by_matching};
use crate::monitor::{self, Orders};
use crate::wake::{Wake, Woken};

use self::plan::{Order, Plan, What};

mod journal;
pub mod plan;
#[cfg(test)]
mod tests;

/// When to try again to watch what could not be watched.
const REWATCH: Duration = Duration::from_secs(1);
/// How many commands may wait; more than ever do.
const COMMANDS: usize = 16;

/// Gives recovery its orders. Each is acknowledged.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
}

#[derive(Debug)]
enum Command {
    Reload { config: Arc<Config>, launcher: Box<Launcher>, done: oneshot::Sender<()> },
    Ping { done: oneshot::Sender<()> },
}

/// Recovery has ended; only its own failure makes it do so.
#[derive(Debug, thiserror::Error)]
#[error("the recovery task has ended")]
pub struct Gone;

impl Handle {
    /// Swaps the configuration, and starts what it adds. Returns once that is under way.
    ///
    /// # Errors
    ///
    /// [`Gone`].
    pub async fn reload(&self, config: Arc<Config>, launcher: Launcher) -> Result<(), Gone> {
        let launcher = Box::new(launcher);
        self.send(|done| Command::Reload { config, launcher, done }).await
    }

    /// Returns once recovery has come round to it: proof that it is not stuck.
    ///
    /// # Errors
    ///
    /// [`Gone`].
    pub async fn ping(&self) -> Result<(), Gone> {
        self.send(|done| Command::Ping { done }).await
    }

    async fn send(&self, command: impl FnOnce(oneshot::Sender<()>) -> Command) -> Result<(), Gone> {
        let (done, acknowledged) = oneshot::channel();
        self.commands.send(command(done)).await.map_err(|_| Gone)?;
        acknowledged.await.map_err(|_| Gone)
    }
}

/// What the one task owns.
#[derive(Debug)]
pub struct Recovery {
    plan: Plan,
    launcher: Launcher,
    bus: Bus,
    observations: Receiver,
    monitor: Orders,
    wall: WallClock,
    commands: mpsc::Receiver<Command>,
    child_ended: Signal,
    wake: Wake,
    reaper: Reaper,
    slots: HashMap<ProcessName, Slot>,
    /// Which process each guarded instance is.
    owners: HashMap<Instance, ProcessName>,
    /// Which instance each watched pidfd belongs to.
    tokens: HashMap<u64, Instance>,
    next_token: u64,
    /// Guarded, but the kernel had no room to watch their pidfds yet.
    unwatched: Vec<ProcessName>,
    tasks: JoinSet<(ProcessName, u64, Outcome)>,
    /// Answers to come from the monitor.
    truths: JoinSet<Vec<Event>>,
    /// Looks that are asked for and not yet done: one pass over `/proc` serves them all.
    looks: Vec<ProcessName>,
}

/// What the shell keeps of one process.
#[derive(Debug, Default)]
struct Slot {
    guarded: Option<Guarded>,
    /// The last instance that was launched or guarded, and whether it was healer's own child.
    last: Option<(Instance, bool)>,
    /// The last instance that was launched.
    launched: Option<Instance>,
    /// The clearing or launch under way.
    task: Option<(u64, AbortHandle)>,
}

#[derive(Debug)]
struct Guarded {
    held: Held,
    token: u64,
}

/// What came of a task.
#[derive(Debug)]
enum Outcome {
    Cleared(Result<(), Stuck>),
    Launched { stage: Instance, result: Result<Held, LaunchError> },
}

impl Recovery {
    /// Prepares the task, and makes this process the one that orphans come to. To be called within
    /// a runtime, before anything is launched; nothing else may wait for children.
    ///
    /// # Errors
    ///
    /// What setting up signals, descriptors and prctl(2) reports.
    pub fn new(
        launcher: Launcher,
        bus: Bus,
        monitor: Orders,
        wall: WallClock,
    ) -> io::Result<(Self, Handle)> {
        reaper::become_subreaper()?;
        let (sender, commands) = mpsc::channel(COMMANDS);
        let recovery = Self {
            plan: Plan::new(),
            launcher,
            observations: bus.subscribe(),
            bus,
            monitor,
            wall,
            commands,
            child_ended: signal(SignalKind::child())?,
            wake: Wake::new()?,
            reaper: Reaper::new(),
            slots: HashMap::new(),
            owners: HashMap::new(),
            tokens: HashMap::new(),
            next_token: 0,
            unwatched: Vec::new(),
            tasks: JoinSet::new(),
            truths: JoinSet::new(),
            looks: Vec::new(),
        };
        Ok((recovery, Handle { commands: sender }))
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
                    None => return Ok(()),
                },
                woken = self.wake.next() => {
                    for woken in woken? {
                        self.woken(woken)?;
                    }
                }
                Some(done) = self.tasks.join_next() => {
                    // An aborted task answers an old question.
                    if let Ok((name, ticket, outcome)) = done {
                        self.finished(&name, ticket, outcome);
                    }
                }
                _ = self.child_ended.recv() => self.reaper.reap()?,
                Some(Ok(truth)) = self.truths.join_next() => {
                    truth.into_iter().for_each(|event| self.observe(event));
                }
                received = self.observations.recv() => self.received(received),
            }
            self.look_around();
            let again = (!self.unwatched.is_empty()).then(|| clock::now().after(REWATCH));
            self.wake.set_alarm(self.plan.next_deadline().into_iter().chain(again).min())?;
        }
    }

    fn obey(&mut self, command: Command) {
        let done = match command {
            Command::Ping { done } => done,
            Command::Reload { config, launcher, done } => {
                self.launcher = *launcher;
                let orders = self.plan.reload(&config, clock::now());
                self.perform(orders);
                self.look_around();
                done
            }
        };
        // Whoever no longer waits for it need not know.
        let _ = done.send(());
    }

    fn woken(&mut self, woken: Woken) -> io::Result<()> {
        match woken {
            Woken::Alarm => {
                for name in std::mem::take(&mut self.unwatched) {
                    self.watch(&name);
                }
                let orders = self.plan.on_time(clock::now());
                self.perform(orders);
            }
            Woken::Ended(token) => {
                let Some(instance) = self.tokens.remove(&token) else { return Ok(()) };
                let Some(name) = self.owners.remove(&instance) else { return Ok(()) };
                let Some(slot) = self.slots.get_mut(&name) else { return Ok(()) };
                drop(slot.guarded.take());
                self.reaper.reap()?;
                let exit = self.reaper.take(instance).unwrap_or_else(|| exit_of_other(instance));
                self.feed(&name, Input::Ended { instance, exit });
            }
        }
        Ok(())
    }

    fn received(&mut self, received: Received) {
        match received {
            Received::Event(event) => self.observe(event),
            // What was lost can only concern those without an instance: the others are held. The
            // answer tells the present truth of all, and cannot be lost.
            Received::Lagged(lost) => {
                debug!(lost, "the bus lagged; asking for the present truth");
                let monitor = self.monitor.clone();
                self.truths.spawn(async move {
                    // A monitor ends only with the daemon.
                    monitor.tell(monitor::Command::Republish).await.unwrap_or_default()
                });
            }
            Received::Closed => {}
        }
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
        }
    }

    fn finished(&mut self, name: &ProcessName, ticket: u64, outcome: Outcome) {
        let asked = |slot: &mut Slot| slot.task.take_if(|(asked, _)| *asked == ticket).is_some();
        let current = self.slots.get_mut(name).is_some_and(asked);
        match outcome {
            Outcome::Cleared(_) if !current => {}
            Outcome::Cleared(Ok(())) => self.feed(name, Input::Prepared),
            Outcome::Cleared(Err(stuck)) => {
                let reason = format!("what is left of it cannot be ended: {}", chain(&stuck));
                self.feed(name, Input::Unclear { reason });
            }
            Outcome::Launched { result: Ok(held), .. } => {
                let instance = held.instance();
                self.slots.entry(name.clone()).or_default().launched = Some(instance);
                self.tell_monitor(monitor::Command::Launched(name.clone(), instance));
                self.take_hold(name, held, true);
                self.feed(name, Input::Launched { instance });
            }
            Outcome::Launched { stage, result: Err(error) } => {
                self.reaper.take(stage);
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

    fn perform(&mut self, orders: Vec<Order>) {
        for Order { process: name, what } in orders {
            match what {
                What::Tell(change) => self.tell(name, change),
                What::Look => self.looks.push(name),
                What::Prepare { last, look } => self.prepare(&name, last, look),
                What::Launch => self.launch(&name),
                What::FindSuccessor { launched } => self.find_successor(&name, launched),
                What::Release => self.release(&name),
            }
        }
    }

    fn tell(&self, process: ProcessName, change: Change) {
        journal::write(&process, &change);
        self.bus.publish(Event { process, at: clock::now(), what: Said::Did(change) });
    }

    /// Does all looks that are asked for, with one snapshot of `/proc`.
    fn look_around(&mut self) {
        while !self.looks.is_empty() {
            let names: HashSet<ProcessName> = self.looks.drain(..).collect();
            let processes: Vec<Arc<Process>> =
                names.iter().filter_map(|name| self.plan.process(name).cloned()).collect();
            for (process, seen) in processes.iter().zip(self.see(&processes)) {
                self.feed_sight(&process.name, seen);
            }
        }
    }

    /// Looks at all of these: what their PID files say, else what runs.
    fn see(&self, processes: &[Arc<Process>]) -> Vec<Observation> {
        let by_file: Vec<_> = processes.iter().map(|process| self.glance(process)).collect();
        let unseen: Vec<_> = processes
            .iter()
            .zip(&by_file)
            .filter(|(_, seen)| seen.is_none())
            .map(|(process, _)| Arc::clone(process))
            .collect();
        let mut matched = if unseen.is_empty() {
            vec![]
        } else {
            look_by_matching(&unseen, &|instance| self.owners.contains_key(&instance))
        }
        .into_iter();
        let or_matched = |seen: Option<_>| seen.or_else(|| matched.next());
        by_file.into_iter().filter_map(or_matched).collect()
    }

    /// What a PID file says of a living process; no pass over `/proc`.
    fn glance(&self, process: &Process) -> Option<Observation> {
        let slot = self.slots.get(&process.name);
        let known = Known {
            held: slot.and_then(|slot| slot.last).map(|(instance, _)| instance),
            launched: slot.and_then(|slot| slot.launched),
            taken: |one| self.owners.get(&one).is_some_and(|owner| *owner != process.name),
            wall: self.wall,
        };
        directly(process, &known)
    }

    fn feed_sight(&mut self, name: &ProcessName, seen: Observation) {
        match seen {
            Observation::Up(instance) => self.guard(name, instance),
            Observation::Missing => self.feed(name, Input::Missing),
            Observation::Unclear { reason } => self.feed(name, Input::Unclear { reason }),
        }
    }

    /// Takes hold of a running instance that was found, if it still runs and is still sought.
    fn guard(&mut self, name: &ProcessName, instance: Instance) {
        if !self.plan.seeks(name) {
            return;
        }
        if let Some(owner) = self.owners.get(&instance) {
            let reason = format!("{instance} is guarded as {owner} already");
            return self.feed(name, Input::Unclear { reason });
        }
        match Held::open_exactly(instance) {
            Ok(Some(held)) => {
                let own = i32::try_from(std::process::id()).ok();
                let row = Row::read(instance.pid).ok().flatten();
                let child = row.is_some_and(|row| Some(row.parent.0) == own);
                if child {
                    self.reaper.expect(instance);
                }
                self.take_hold(name, held, child);
                let started = clock::started(instance);
                self.feed(name, Input::Found { instance, started });
            }
            // It ended meanwhile: look again.
            Ok(None) => self.looks.push(name.clone()),
            Err(error) => {
                let reason = format!("cannot take hold of {instance}: {error}");
                self.feed(name, Input::Unclear { reason });
            }
        }
    }

    fn take_hold(&mut self, name: &ProcessName, held: Held, child: bool) {
        let token = self.next_token;
        self.next_token += 1;
        self.tokens.insert(token, held.instance());
        self.owners.insert(held.instance(), name.clone());
        let slot = self.slots.entry(name.clone()).or_default();
        slot.last = Some((held.instance(), child));
        let instance = held.instance();
        slot.guarded = Some(Guarded { held, token });
        self.watch(name);
        self.tell_monitor(monitor::Command::Held(name.clone(), instance));
    }

    fn tell_monitor(&self, command: monitor::Command) {
        if self.monitor.note(command).is_err() {
            error!("the PID monitor has ended; PID files are looked at only before a launch");
        }
    }

    fn watch(&mut self, name: &ProcessName) {
        let slot = self.slots.get(name).and_then(|slot| slot.guarded.as_ref());
        let Some(Guarded { held, token }) = slot else { return };
        if let Err(error) = self.wake.watch(held, *token) {
            error!(process = %name, %error, "cannot watch a pidfd; raise fs.epoll.max_user_watches");
            self.unwatched.push(name.clone());
        }
    }

    /// Makes sure that no instance runs and that nothing is left of the last one.
    fn prepare(&mut self, name: &ProcessName, last: Option<Instance>, look: bool) {
        let Some(process) = self.plan.process(name).map(Arc::clone) else { return };
        let child = self.slots.get(name).and_then(|slot| slot.last).is_some_and(|(_, child)| child);
        let left = match last.filter(|_| process.stop.leftovers) {
            Some(last) => {
                let known = |pid| self.reaper.expects(pid);
                match left::left_of(last, child.then_some(&known)) {
                    Ok(left) => left,
                    Err(error) => {
                        let reason = format!("cannot see what is left of {last}: {error}");
                        return self.feed(name, Input::Unclear { reason });
                    }
                }
            }
            None => vec![],
        };
        // What looks like a leftover may be the successor (nginx's upgraded master); and what was
        // not looked at for a while may have been started by somebody else.
        let seen = if look || !left.is_empty() {
            self.see(std::slice::from_ref(&process)).pop()
        } else {
            self.glance(&process)
        };
        match seen {
            None | Some(Observation::Missing) => {}
            Some(found) => return self.feed_sight(name, found),
        }
        match last {
            Some(last) if !left.is_empty() => {
                let stop = process.stop;
                self.start_task(
                    name,
                    async move { Outcome::Cleared(left::clear(last, stop).await) },
                );
            }
            _ => self.feed(name, Input::Prepared),
        }
    }

    fn launch(&mut self, name: &ProcessName) {
        let Some(process) = self.plan.process(name) else { return };
        let deadline = tokio::time::Instant::now() + process.recovery.start_timeout;
        match self.launcher.spawn(process) {
            Ok(staged) => {
                let stage = staged.held().instance();
                self.reaper.expect(stage);
                self.start_task(name, async move {
                    Outcome::Launched { stage, result: staged.go(deadline).await }
                });
            }
            Err(error) => self.launch_failed(name, &error),
        }
    }

    /// Starts a task for a process, in the place of the one under way.
    fn start_task(
        &mut self,
        name: &ProcessName,
        task: impl Future<Output = Outcome> + Send + 'static,
    ) {
        let ticket = self.next_token;
        self.next_token += 1;
        let named = name.clone();
        let handle = self.tasks.spawn(async move { (named, ticket, task.await) });
        let slot = self.slots.entry(name.clone()).or_default();
        if let Some((_, old)) = slot.task.replace((ticket, handle)) {
            old.abort();
        }
    }

    fn find_successor(&mut self, name: &ProcessName, launched: Instance) {
        let Some(process) = self.plan.process(name).map(Arc::clone) else { return };
        if let Some(Observation::Up(instance)) = self.glance(&process) {
            return self.guard(name, instance);
        }
        let Ok(table) = Table::snapshot() else { return };
        let known = |instance: Instance| self.owners.contains_key(&instance);
        match reaper::successor(launched, &process, &known, &table) {
            Some(instance) => self.guard(name, instance),
            None if reaper::left_orphans(launched, &known, &table) => {}
            None => self.feed(name, Input::NoSuccessor),
        }
    }

    fn release(&mut self, name: &ProcessName) {
        let Some(slot) = self.slots.remove(name) else { return };
        if let Some(Guarded { token, held }) = slot.guarded {
            self.tokens.remove(&token);
            self.owners.remove(&held.instance());
            self.reaper.take(held.instance());
        }
        if let Some((_, task)) = slot.task {
            task.abort();
        }
    }

    /// Where every process stands.
    pub fn states(&self) -> impl Iterator<Item = (&ProcessName, State)> {
        self.slots.keys().filter_map(|name| Some((name, self.plan.state(name)?)))
    }
}

/// What can be told of the end of a process that is not healer's child.
fn exit_of_other(instance: Instance) -> Exit {
    let runtime: Duration = clock::now().since(clock::started(instance));
    Exit { runtime: Some(runtime), ..Exit::default() }
}

/// An error and what caused it, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
