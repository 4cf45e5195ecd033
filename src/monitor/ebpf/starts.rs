//! The eBPF monitor's task: whose instance it is that somebody started.
//!
//! The kernel tells of each start of a wanted file, and watches what was started. Who it is, is
//! decided by the rules of matching; what turns out to be nobody's is watched no longer. Starts by
//! healer itself are not told, as healer watches those before. What is up when an entry comes is
//! recovery's to find. Told by `recovery` as all monitors are.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::bus::Bus;
use crate::clock;
use crate::config::{Config, Monitor, Process};
use crate::event::{Event, Instance, Observation, ProcessName, What};
use crate::instance::program;
use crate::instance::readable::Readable;
use crate::instance::table::{Row, Table};
use crate::instance::who::{self, Fit, Verdict, Wanted};
use crate::monitor::{Command, Handle, Order};

use super::kernel::Execs;
use super::replaced::Replaced;

/// Starts the monitor, watching for nothing yet: tell it [`Command::Reload`]. To be called within a
/// runtime.
///
/// # Errors
///
/// No descriptor is left.
pub fn spawn(bus: Bus, execs: Execs) -> io::Result<Handle> {
    let ring = Readable::new(&execs)?;
    let replaced = Replaced::new()
        .inspect_err(|error| tracing::warn!(%error, "no inotify: replaced programs go unnoticed"))
        .ok();
    Ok(Handle::spawn(|orders| run(Starts::new(bus, execs, replaced), ring, orders)))
}

async fn run(mut starts: Starts, ring: Readable, mut orders: mpsc::UnboundedReceiver<Order>) {
    loop {
        tokio::select! {
            biased;
            order = orders.recv() => match order {
                Some((command, answer)) => {
                    // Who does not wait for the answer does not need it.
                    let _ = answer.send(starts.obey(command));
                }
                None => return,
            },
            started = ring.read(|| drained(&mut starts.execs)) => match started {
                Ok(started) => starts.on_started(&started),
                Err(error) => {
                    // Polling a descriptor that is open cannot fail; never spin if it does.
                    tracing::error!(%error, "the eBPF ring cannot be read");
                    return;
                }
            },
            () = files_replaced(&mut starts.replaced) => starts.refresh(),
        }
    }
}

/// Takes all there is. None may be left: a ring wakes its reader only once it has read all.
fn drained(execs: &mut Execs) -> io::Result<Vec<Instance>> {
    let started: Vec<_> = std::iter::from_fn(|| execs.next()).collect();
    if started.is_empty() { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(started) }
}

/// Waits until a program may be another file than before; for ever where there is no inotify.
async fn files_replaced(replaced: &mut Option<Replaced>) {
    let told = match replaced {
        Some(replaced) => replaced.next().await,
        None => std::future::pending().await,
    };
    if let Err(error) = told {
        tracing::warn!(%error, "inotify failed: replaced programs go unnoticed");
        *replaced = None;
    }
}

/// One entry that is watched by eBPF.
#[derive(Debug)]
struct Entry {
    process: Arc<Process>,
    /// `None` where its user does not exist.
    wanted: Option<Wanted>,
}

impl Entry {
    fn new(process: &Arc<Process>) -> Self {
        Self { process: Arc::clone(process), wanted: program::wanted(process).ok() }
    }
}

/// The task's state.
#[derive(Debug)]
struct Starts {
    bus: Bus,
    execs: Execs,
    replaced: Option<Replaced>,
    entries: BTreeMap<ProcessName, Entry>,
    /// What recovery holds.
    held: HashMap<ProcessName, Instance>,
    /// What somebody started last, unless recovery holds it: watched, and at most one an entry.
    seen: HashMap<ProcessName, Instance>,
    /// Starts that the ring had no room for, as told before.
    dropped: u64,
    /// Started instances that could not be watched, as told before.
    unwatched: u64,
}

impl Starts {
    fn new(bus: Bus, execs: Execs, replaced: Option<Replaced>) -> Self {
        let (entries, held, seen) = (BTreeMap::new(), HashMap::new(), HashMap::new());
        let (dropped, unwatched) = (execs.dropped(), execs.unwatched());
        Self { bus, execs, replaced, entries, held, seen, dropped, unwatched }
    }

    fn obey(&mut self, command: Command) -> Vec<Event> {
        match command {
            Command::Reload(config) => {
                self.reload(&config);
                // What runs by now is recovery's to find.
                vec![]
            }
            Command::Republish => self.present(self.entries.keys().cloned().collect()),
            // It is held next; and after an end the next start tells itself.
            Command::Launched(..) | Command::Ended(..) => vec![],
            Command::Held(process, instance) => {
                // Recovery has to take it from now on.
                if self.seen.get(&process) == Some(&instance) {
                    self.seen.remove(&process);
                }
                self.held.insert(process, instance);
                vec![]
            }
        }
    }

    fn reload(&mut self, config: &Config) {
        let mut before = std::mem::take(&mut self.entries);
        let enabled = config.processes.iter().filter(|process| process.enabled);
        for process in enabled.filter(|process| process.monitors.contains(&Monitor::Ebpf)) {
            let name = process.name.clone();
            let entry = match before.remove(&name) {
                Some(entry) if entry.process == *process => entry,
                _ => {
                    self.unsee(&name);
                    Entry::new(process)
                }
            };
            self.entries.insert(name, entry);
        }
        for removed in before.into_keys() {
            self.unsee(&removed);
        }
        let named: BTreeSet<_> = config.processes.iter().map(|process| &process.name).collect();
        self.held.retain(|process, _| named.contains(process));
        self.filter();
    }

    /// Looks up all program files anew.
    fn refresh(&mut self) {
        for entry in self.entries.values_mut() {
            *entry = Entry::new(&entry.process);
        }
        self.filter();
    }

    fn filter(&mut self) {
        // First the watch: what is replaced after the look wakes us again.
        if let Some(replaced) = &mut self.replaced {
            let paths = self.entries.values().flat_map(|entry| program::paths(&entry.process));
            // Many entries may have one interpreter.
            paths.collect::<BTreeSet<_>>().iter().for_each(|path| replaced.watch(path));
        }
        let wanted = || self.entries.values().filter_map(|entry| entry.wanted.as_ref());
        if let Err(error) = self.execs.filter.set(wanted().map(Wanted::started_from)) {
            tracing::warn!(%error, "too many programs: some instances that others start go unnoticed");
        }
    }

    fn on_started(&mut self, started: &[Instance]) {
        let mut likely = BTreeSet::new();
        for instance in started {
            let mut names = self.fitting(*instance);
            if names.is_empty() && !self.is_known(*instance) {
                // An exec is not told while the instance is watched: there may have been one since.
                self.execs.forget(*instance);
                names = self.fitting(*instance);
            }
            likely.extend(names);
        }
        if self.were_dropped() {
            likely = self.entries.keys().cloned().collect();
        }
        self.match_all(likely);
        for instance in started {
            if !self.is_known(*instance) {
                self.execs.forget(*instance);
            }
        }
    }

    /// Whether starts were lost since this was asked last. A loss wakes the task, as the ring is
    /// full then.
    fn were_dropped(&mut self) -> bool {
        let (dropped, unwatched) = (self.execs.dropped(), self.execs.unwatched());
        let (lost, without_cause) = (dropped - self.dropped, unwatched - self.unwatched);
        (self.dropped, self.unwatched) = (dropped, unwatched);
        if lost > 0 {
            tracing::warn!(
                lost,
                "starts came faster than they were read: looking at all processes"
            );
        }
        if without_cause > 0 {
            tracing::warn!(
                lost = without_cause,
                "eBPF has no room for more instances: why these end will not be known"
            );
        }
        lost > 0
    }

    /// The entries that it may be an instance of, judged by itself.
    fn fitting(&self, instance: Instance) -> Vec<ProcessName> {
        let row = Row::read(instance.pid).ok().flatten().filter(|row| row.instance == instance);
        let Some(row) = row else { return vec![] };
        let fits = |entry: &&Entry| {
            entry.wanted.as_ref().is_some_and(|wanted| who::fits(wanted, &row) != Fit::No)
        };
        let entries = self.entries.values().filter(fits);
        entries.map(|entry| entry.process.name.clone()).collect()
    }

    /// Looks among all that run for instances of these entries, and publishes what is found.
    fn match_all(&mut self, names: BTreeSet<ProcessName>) {
        if names.is_empty() {
            return;
        }
        let processes: Vec<_> =
            names.iter().filter_map(|name| Some(self.entries.get(name)?.process.clone())).collect();
        let table = match Table::snapshot() {
            Ok(table) => table,
            Err(error) => {
                let reason = format!("cannot read /proc: {error}");
                return names.into_iter().for_each(|name| {
                    self.publish(name, Observation::Unclear { reason: reason.clone() });
                });
            }
        };
        let verdicts = who::resolve_all(&processes, &table, &|one| self.is_held(one));
        for (name, verdict) in names.into_iter().zip(verdicts) {
            match verdict {
                Verdict::One(instance) => {
                    if self.seen.get(&name) != Some(&instance) {
                        self.unsee(&name);
                    }
                    self.seen.insert(name.clone(), instance);
                    self.publish(name, Observation::Up(instance));
                }
                Verdict::Unclear { reason, .. } => {
                    self.publish(name, Observation::Unclear { reason });
                }
                Verdict::None => {}
            }
        }
    }

    /// What was seen started of these, still runs, and is not held.
    fn present(&self, names: BTreeSet<ProcessName>) -> Vec<Event> {
        let seen = names.into_iter().filter_map(|name| {
            let instance = *self.seen.get(&name)?;
            let row = Row::read(instance.pid).ok().flatten();
            row.is_some_and(|row| row.instance == instance).then_some((name, instance))
        });
        seen.map(|(name, instance)| event(name, Observation::Up(instance))).collect()
    }

    /// Whether it is somebody's, so that it stays watched.
    fn is_known(&self, instance: Instance) -> bool {
        self.is_held(instance) || self.seen.values().any(|seen| *seen == instance)
    }

    fn is_held(&self, instance: Instance) -> bool {
        self.held.values().any(|held| *held == instance)
    }

    /// What was seen started of this entry is not it any more.
    fn unsee(&mut self, name: &ProcessName) {
        if let Some(instance) = self.seen.remove(name)
            && !self.is_held(instance)
        {
            self.execs.forget(instance);
        }
    }

    fn publish(&self, process: ProcessName, seen: Observation) {
        self.bus.publish(event(process, seen));
    }
}

fn event(process: ProcessName, seen: Observation) -> Event {
    Event { process, at: clock::now(), what: What::Saw(seen) }
}
