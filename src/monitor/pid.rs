//! The PID monitor: one task for all PID files, woken by inotify.
//!
//! `file` reads, `verdict` judges whom a file names, `look` puts both together with what is held
//! and with matching, `watch` is inotify. When an instance ends is seen by whoever holds it; this
//! monitor tells who the process is. Its safety net is one `stat` per file on one shared timer.
//! Spawned by `daemon`, told by `recovery`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant as Clock, sleep_until};

use crate::bus::Bus;
use crate::clock::{self, WallClock};
use crate::config::{Config, Process};
use crate::event::{Event, Instance, Observation, ProcessName, What};

use super::{Command, Handle, Order};
use file::Contents;
use look::{Known, look_by_matching, without_matching};
use watch::{Touched, Watcher};

pub mod file;
pub mod look;
pub mod verdict;
mod watch;

/// A file that names nobody may be half written, and who it names may be about to exec: so long a
/// new file is given to say something clear. What stays in doubt is looked at again after that
/// time, then at growing intervals.
const SETTLE: Duration = Duration::from_millis(200);
/// Where inotify works, the safety net looks no more often.
const SAFETY_NET: Duration = Duration::from_secs(30);

/// Starts the monitor, watching nothing yet: tell it [`Command::Reload`].
#[must_use]
pub fn spawn(bus: Bus, wall: WallClock) -> Handle {
    Handle::spawn(|orders| run(PidFiles::new(bus, wall), orders))
}

async fn run(mut files: PidFiles, mut orders: mpsc::UnboundedReceiver<Order>) {
    loop {
        let due = files.next_due();
        tokio::select! {
            biased;
            order = orders.recv() => match order {
                Some((command, answer)) if answer.is_closed() => files.note(command),
                Some((command, answer)) => {
                    // Whoever no longer waits for the answer does not need it.
                    let _ = answer.send(files.obey(command));
                }
                None => return,
            },
            touched = touched(&mut files.watcher) => {
                files.on_touched(touched);
            }
            () = sleep_until(due.unwrap_or_else(Clock::now)), if due.is_some() => files.on_due(),
        }
    }
}

/// What inotify says; for ever nothing where there is none.
async fn touched(watcher: &mut Option<Watcher>) -> std::io::Result<Touched> {
    match watcher {
        Some(watcher) => watcher.next().await,
        None => std::future::pending().await,
    }
}

/// One entry with a PID file.
#[derive(Debug)]
struct Entry {
    process: Arc<Process>,
    path: PathBuf,
    interval: Duration,
    /// What was published last.
    last: Option<Observation>,
    /// What `stat` said when the file was read last.
    stamp: Option<Stamp>,
    /// When a file that says nothing clear is taken at its word.
    settles: Option<Clock>,
    /// When a look is made that was put off.
    put_off: Option<Clock>,
    /// How long the next look at what is in doubt may wait.
    doubt: Duration,
    /// How often the safety net looks: `interval` where inotify cannot work.
    period: Duration,
    /// When it looks next.
    check: Clock,
}

/// Device, inode, size, and time of the last change: a file that agrees in all is unchanged.
type Stamp = (u64, u64, u64, i64, i64);

/// The task's state: entries, and what recovery told of all processes.
#[derive(Debug)]
struct PidFiles {
    bus: Bus,
    wall: WallClock,
    watcher: Option<Watcher>,
    entries: BTreeMap<ProcessName, Entry>,
    held: HashMap<ProcessName, Instance>,
    owners: HashMap<Instance, ProcessName>,
    launched: HashMap<ProcessName, Instance>,
}

impl PidFiles {
    fn new(bus: Bus, wall: WallClock) -> Self {
        let watcher = Watcher::new()
            .inspect_err(|error| {
                tracing::warn!(%error, "no inotify: PID files are looked at by interval_secs");
            })
            .ok();
        let (entries, held) = (BTreeMap::new(), HashMap::new());
        Self { bus, wall, watcher, entries, held, owners: HashMap::new(), launched: HashMap::new() }
    }

    fn obey(&mut self, command: Command) -> Vec<Event> {
        match command {
            Command::Reload(config) => self.reload(&config),
            Command::Republish => {
                let seen = self.look_at(self.entries.keys().cloned().collect());
                // Whoever asks may have lost what was published of those not answered for.
                for entry in self.entries.values_mut().filter(|entry| entry.settles.is_some()) {
                    entry.last = None;
                }
                seen
            }
            Command::Launched(process, instance) => {
                self.launched.insert(process.clone(), instance);
                self.look_at(BTreeSet::from([process]))
            }
            Command::Held(process, instance) => {
                self.hold(process.clone(), instance);
                self.look_at(BTreeSet::from([process]))
            }
            // The PID file tells what comes next.
            Command::Ended(..) => vec![],
        }
    }

    /// As [`PidFiles::obey`], where nobody waits to hear what is seen. A launch is told so: the new
    /// instance may have to share a processor with healer, and starts before its file is looked at.
    fn note(&mut self, command: Command) {
        let process = match command {
            Command::Launched(process, instance) => {
                self.launched.insert(process.clone(), instance);
                process
            }
            Command::Held(process, instance) => {
                self.hold(process.clone(), instance);
                process
            }
            Command::Reload(_) | Command::Republish | Command::Ended(..) => {
                self.obey(command);
                return;
            }
        };
        if let Some(entry) = self.entries.get_mut(&process) {
            entry.put_off = Some(Clock::now() + SETTLE);
        }
    }

    fn hold(&mut self, process: ProcessName, instance: Instance) {
        if let Some(before) = self.held.insert(process.clone(), instance) {
            self.owners.remove(&before);
        }
        self.owners.insert(instance, process);
    }

    fn reload(&mut self, config: &Config) -> Vec<Event> {
        let mut before = std::mem::take(&mut self.entries);
        let mut changed = BTreeSet::new();
        for process in config.processes.iter().filter(|process| process.enabled) {
            let Some((path, interval)) = process.pid_monitor() else { continue };
            let entry = match before.remove(&process.name) {
                Some(entry) if entry.process == *process => entry,
                replaced => {
                    changed.insert(process.name.clone());
                    let last = replaced.and_then(|entry| entry.last);
                    Entry {
                        process: Arc::clone(process),
                        path: path.to_owned(),
                        interval,
                        last,
                        stamp: None,
                        settles: None,
                        put_off: None,
                        doubt: SETTLE,
                        period: interval,
                        check: Clock::now(),
                    }
                }
            };
            self.entries.insert(process.name.clone(), entry);
        }
        for removed in before.keys() {
            if let Some(watcher) = &mut self.watcher {
                watcher.forget(removed);
            }
        }
        let named: BTreeSet<_> = config.processes.iter().map(|process| &process.name).collect();
        self.held.retain(|process, _| named.contains(process));
        self.owners.retain(|_, process| named.contains(process));
        self.launched.retain(|process, _| named.contains(process));
        self.look_at(changed)
    }

    fn on_touched(&mut self, touched: std::io::Result<Touched>) {
        let processes = match touched {
            Ok(Touched::These(processes)) => processes,
            Ok(Touched::All) => self.entries.keys().cloned().collect(),
            Err(error) => {
                tracing::warn!(%error, "inotify failed: PID files are looked at by interval_secs");
                self.watcher = None;
                self.entries.keys().cloned().collect()
            }
        };
        self.look_at(processes);
    }

    fn next_due(&self) -> Option<Clock> {
        self.entries
            .values()
            .flat_map(|entry| [Some(entry.check), entry.settles, entry.put_off])
            .flatten()
            .min()
    }

    /// Looks at those whose file had its time to settle or whose look was put off, and at those that
    /// the safety net finds changed, or in a doubt that the end of the doubtful process may have
    /// resolved.
    fn on_due(&mut self) {
        let now = Clock::now();
        let mut due = BTreeSet::new();
        // Who is woken for one checks all whose time is near: their times fall together.
        let checks = self.entries.values().any(|entry| entry.check <= now);
        for (name, entry) in &mut self.entries {
            let settled = entry.settles.is_some_and(|at| at <= now);
            let put_off = entry.put_off.is_some_and(|at| at <= now);
            let checked = checks && entry.check <= now + entry.period / 2 && {
                entry.check = now + entry.period;
                let in_doubt = matches!(entry.last, Some(Observation::Unclear { .. }));
                in_doubt || stamp(&entry.path) != entry.stamp
            };
            if settled || put_off || checked {
                due.insert(name.clone());
            }
        }
        self.look_at(due);
    }

    /// Looks at these entries, publishes what is new, and returns all that it saw.
    fn look_at(&mut self, processes: BTreeSet<ProcessName>) -> Vec<Event> {
        let mut all_seen = Vec::new();
        let mut unmatched = Vec::new();
        for name in processes {
            let Some(entry) = self.entries.get_mut(&name) else { continue };
            entry.put_off = None;
            // The watch first: what changes after the reading wakes us again.
            let watched = self.watcher.as_mut().map(|watcher| watcher.watch(&name, &entry.path));
            entry.period = match watched {
                Some(Ok(())) => entry.interval.max(SAFETY_NET),
                Some(Err(_)) | None => entry.interval,
            };
            entry.check = Clock::now() + entry.period;
            entry.stamp = stamp(&entry.path);
            let process = Arc::clone(&entry.process);
            let seen = without_matching(&process, &self.known(&name));
            if self.is_unsettled(&name, seen.as_ref()) {
                continue;
            }
            match seen {
                Some(seen) => all_seen.push((name, seen)),
                None => unmatched.push(process),
            }
        }
        // None of these was ever held, so whatever is held belongs to another.
        let named = all_seen.iter().map(|(_, seen)| seen);
        let matched = look_by_matching(&unmatched, named, |one| self.owners.contains_key(&one));
        all_seen.extend(unmatched.iter().map(|process| process.name.clone()).zip(matched));
        all_seen.into_iter().map(|(process, seen)| self.publish(process, seen)).collect()
    }

    fn known<'a>(&'a self, process: &'a ProcessName) -> Known<impl Fn(Instance) -> bool + use<'a>> {
        Known {
            held: self.held.get(process).copied(),
            launched: self.launched.get(process).copied(),
            taken: move |one| self.owners.get(&one).is_some_and(|owner| owner != process),
            wall: self.wall,
        }
    }

    /// Whether to wait for something clear, and when to look again.
    fn is_unsettled(&mut self, process: &ProcessName, seen: Option<&Observation>) -> bool {
        let Some(entry) = self.entries.get_mut(process) else { return false };
        let now = Clock::now();
        let in_doubt = matches!(seen, Some(Observation::Unclear { .. }));
        let modified = match file::read(&entry.path) {
            Contents::Nothing { modified } => Some(modified),
            Contents::Names(file) if in_doubt => Some(file.modified),
            Contents::Names(_) | Contents::Missing | Contents::Refused { .. } => None,
        };
        let is_new = modified.is_some_and(|at| clock::age(at).is_none_or(|age| age < SETTLE));
        if is_new && entry.settles.is_none_or(|at| at > now) {
            entry.settles.get_or_insert(now + SETTLE);
            return true;
        }
        entry.settles = None;
        if in_doubt {
            entry.check = entry.check.min(now + entry.doubt);
            entry.doubt = (entry.doubt * 2).min(entry.period);
        } else {
            entry.doubt = SETTLE;
        }
        false
    }

    fn publish(&mut self, process: ProcessName, seen: Observation) -> Event {
        let entry = self.entries.get_mut(&process);
        let is_new =
            entry.is_some_and(|entry| entry.last.replace(seen.clone()) != Some(seen.clone()));
        let event = Event { process, at: clock::now(), what: What::Saw(seen) };
        if is_new {
            self.bus.publish(event.clone());
        }
        event
    }
}

fn stamp(path: &std::path::Path) -> Option<Stamp> {
    let found = std::fs::symlink_metadata(path).ok()?;
    Some((found.dev(), found.ino(), found.size(), found.ctime(), found.ctime_nsec()))
}
