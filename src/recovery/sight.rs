//! Recovery's eyes: which running instance is a process, and taking hold of it.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::clock::{self, WallClock};
use crate::config::Process;
use crate::event::{Exit, Instance, Observation, Pid, ProcessName, Time};
use crate::instance::table::{Row, Table};
use crate::instance::{Held, left, reaper};
use crate::lifecycle::Input;
use crate::monitor;
use crate::monitor::pid::file::{self, Contents};
use crate::monitor::pid::look::{Known, directly, look_by_matching};

use super::Recovery;

impl Recovery {
    /// Does all looks that are asked for, with one snapshot of `/proc`.
    pub(super) fn look_around(&mut self) {
        if self.looks.is_empty() {
            return;
        }
        let names: BTreeSet<ProcessName> = self.looks.drain(..).collect();
        let processes: Vec<Arc<Process>> =
            names.iter().filter_map(|name| self.plan.process(name).cloned()).collect();
        let mut seen = self.see(&processes);
        self.consider_unseen(&processes, &mut seen);
        for (process, seen) in processes.iter().zip(seen) {
            self.feed_sight(&process.name, seen);
        }
    }

    /// Looks at all of these: what their PID files say, else what runs.
    pub(super) fn see(&self, processes: &[Arc<Process>]) -> Vec<Observation> {
        let by_file: Vec<_> = processes.iter().map(|process| self.glance(process)).collect();
        let unseen: Vec<_> = processes
            .iter()
            .zip(&by_file)
            .filter(|(_, seen)| seen.is_none())
            .map(|(process, _)| Arc::clone(process))
            .collect();
        // Somebody's already: guarded, a stage, or what became of it a moment ago; or a leftover.
        let taken = |one: Instance| {
            self.guards.owner(one).is_some()
                || self.guards.knows_child(one.pid)
                || self.is_left(one)
        };
        let mut matched = look_by_matching(&unseen, by_file.iter().flatten(), taken).into_iter();
        let or_matched = |seen: Option<_>| seen.or_else(|| matched.next());
        by_file.into_iter().filter_map(or_matched).collect()
    }

    /// Whether this is left of an instance that healer guarded until it ended.
    fn is_left(&self, one: Instance) -> bool {
        let Ok(Some(row)) = Row::read(one.pid) else { return false };
        self.slots.values().filter(|slot| slot.may_be_parent.is_none()).any(|slot| {
            let Some((last, _)) = slot.last else { return false };
            last.pid == row.session
                && last != one
                && last.start_ticks <= one.start_ticks
                && self.guards.owner(last).is_none()
        })
    }

    /// What a PID file says of a living process; no pass over `/proc`.
    pub(super) fn glance(&self, process: &Process) -> Option<Observation> {
        if let Some(stage) = self.still_a_stage(&process.name) {
            return Some(stage);
        }
        let slot = self.slots.get(&process.name);
        let known = Known {
            held: slot.and_then(|slot| slot.last).map(|(instance, _)| instance),
            launched: slot.and_then(|slot| slot.launched),
            taken: |one| self.is_of_another(&process.name, one),
            wall: self.wall,
        };
        directly(process, &known)
    }

    /// Whether this is another process's instance, or its stage, or what became of that just now.
    fn is_of_another(&self, name: &ProcessName, one: Instance) -> bool {
        if let Some(owner) = self.guards.owner(one) {
            return owner != name;
        }
        let launched = self.slots.get(name).and_then(|slot| slot.launched);
        launched != Some(one) && self.guards.knows_child(one.pid)
    }

    pub(super) fn feed_sight(&mut self, name: &ProcessName, seen: Observation) {
        match seen {
            Observation::Up(instance) => self.guard(name, instance),
            Observation::Missing => self.feed(name, Input::Missing),
            Observation::Unclear { reason } => self.feed(name, Input::Unclear { reason }),
            // No look sees those.
            Observation::Healthy { .. } | Observation::Unhealthy { .. } => {}
        }
    }

    /// Takes hold of a running instance that was found, if it still runs and is still sought.
    pub(super) fn guard(&mut self, name: &ProcessName, instance: Instance) {
        if !self.plan.seeks(name) {
            return;
        }
        if let Some(owner) = self.guards.owner(instance) {
            let reason = format!("{instance} is guarded as {owner} already");
            return self.feed(name, Input::Unclear { reason });
        }
        // A monitor knows no stages.
        if self.is_of_another(name, instance) {
            let reason = format!("{instance} is being launched as another process");
            return self.feed(name, Input::Unclear { reason });
        }
        match Held::open_exactly(instance) {
            Ok(Some(held)) => {
                // It may be in the very session that is being cleared.
                let slot = self.slots.get_mut(name);
                if let Some((_, clearing)) = slot.and_then(|slot| slot.task.take()) {
                    clearing.abort();
                }
                self.take_hold(name, held);
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

    pub(super) fn take_hold(&mut self, name: &ProcessName, held: Held) {
        let instance = held.instance();
        let child = self.guards.take(name, held);
        let slot = self.slots.entry(name.clone()).or_default();
        slot.may_be_parent = slot.may_be_parent.filter(|recalled| *recalled == instance);
        (slot.last, slot.unseen, slot.recalled_stage) = (Some((instance, child)), false, None);
        self.tell_monitors(&monitor::Command::Held(name.clone(), instance));
    }

    /// Looks for the daemon that a command which exited 0 left behind.
    pub(super) fn find_successor(&mut self, name: &ProcessName, launched: Instance) {
        let Some(process) = self.plan.process(name).map(Arc::clone) else { return };
        if let Some(Observation::Up(instance)) = self.glance(&process) {
            return self.guard(name, instance);
        }
        let Ok(table) = Table::snapshot() else { return };
        let known_child = |pid| self.guards.knows_child(pid);
        let known = |one: Instance| self.guards.owner(one).is_some() || known_child(one.pid);
        if let Some(instance) = reaper::successor(launched, &process, &known, &table) {
            self.guard(name, instance);
        } else if let Some(instance) = self.heir(&process, launched) {
            self.guard(name, instance);
        } else if let Some(daemon) = dead_by_pid_file(&process, launched, self.wall, &known_child) {
            // What it left is left of the session that it led.
            self.slots.entry(name.clone()).or_default().last = Some((daemon, false));
            self.feed(name, Input::Found { instance: daemon, started: clock::now() });
            self.feed(name, Input::Ended { instance: daemon, exit: Exit::default() });
        } else if !reaper::may_have_left(launched, &known_child) {
            self.feed(name, Input::NoSuccessor);
        }
    }

    /// The daemon that came out of a launch of an earlier healer, whose orphans do not come to this
    /// one: of its session, whoever descends from none of the others; of several, the oldest.
    fn heir(&self, process: &Process, launched: Instance) -> Option<Instance> {
        let slot = self.slots.get(&process.name)?;
        if slot.last != Some((launched, false)) || slot.may_be_parent.is_some() {
            return None;
        }
        let guarded = |one| self.guards.owner(one).is_some();
        let left = left::left_of(launched, None, &guarded).ok()?;
        let rows: Vec<Row> =
            left.iter().filter_map(|held| Row::read(held.instance().pid).ok().flatten()).collect();
        let descends = |row: &Row| rows.iter().any(|above| above.instance.pid == row.parent);
        let tops = rows.iter().filter(|row| !descends(row)).map(|row| row.instance);
        tops.min_by_key(|one| (one.start_ticks, one.pid))
    }
}

/// The daemon that came out of this launch, wrote its PID file, and was dead before it was seen.
///
/// What is left of it will be ended, so the file's word is not enough for that: only root can have
/// written it, and whoever is left came to healer as an orphan.
fn dead_by_pid_file(
    process: &Process,
    launched: Instance,
    wall: WallClock,
    known_child: &dyn Fn(Pid) -> bool,
) -> Option<Instance> {
    let Contents::Names(file) = file::read(process.pid_file()?) else { return None };
    if file.pid.0 <= 1 || file.open_to_others {
        return None;
    }
    let written = Time(u64::try_from(wall.since_boot(file.modified)?).ok()?);
    let is_new = written >= clock::started(launched);
    let is_dead = file.pid != launched.pid && Row::read(file.pid).ok()?.is_none();
    // When it started is not known any more, but that it was no earlier than its launch.
    let daemon = Instance { pid: file.pid, start_ticks: launched.start_ticks };
    (is_new && is_dead && left::is_of_orphans(daemon, known_child).ok()?).then_some(daemon)
}
