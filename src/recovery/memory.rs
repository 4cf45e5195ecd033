//! What recovery remembers for a healer to come, and what it takes up of one before.
//!
//! What is to be remembered the plan says; here is who is asked for it when, and what the shell
//! itself needs of it: which instance is a process's by the record, and no other test; and care with
//! what is left of one whose end nobody saw. The files are `state`'s.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;

use crate::clock;
use crate::config::Process;
use crate::event::{Exit, Instance, Observation, Pid, ProcessName};
use crate::instance::table::{Row, Table};
use crate::instance::who::{self, Fit};
use crate::instance::{Held, left, program};
use crate::launch;
use crate::lifecycle::Running;
use crate::monitor;
use crate::state::Keeper;
use crate::state::memory::Memory;

use super::plan::Plan;
use super::{Recovery, Slot};

impl Recovery {
    /// Goes on from what an earlier healer remembered, and has this one's memory kept. To be called
    /// before the first configuration, and before any monitor looks.
    #[must_use]
    pub fn remembering(mut self, keeper: Keeper, memories: BTreeMap<ProcessName, Memory>) -> Self {
        for (name, memory) in &memories {
            let slot = recalled_slot(memory);
            // A monitor that knows who is whose looks for nobody else.
            if let Some(launched) = slot.launched {
                self.tell_monitors(&monitor::Command::Launched(name.clone(), launched));
            }
            if let Some((last, _)) = slot.last {
                self.tell_monitors(&monitor::Command::Held(name.clone(), last));
            }
            self.slots.insert(name.clone(), slot);
        }
        self.plan = Plan::recalling(memories);
        self.keeper = Some(keeper);
        self
    }

    /// Has kept what changed of what is to be remembered; to be called after each turn.
    pub(super) fn remember(&mut self) {
        let touched = self.plan.take_touched();
        let Some(keeper) = &mut self.keeper else { return };
        if keeper.has_lost() {
            for name in self.plan.names() {
                keeper.keep(name, self.plan.memory(name));
            }
        }
        for name in touched {
            let memory = self.plan.memory(&name);
            keeper.keep(&name, memory);
        }
    }

    /// Has kept that the stage may become the next instance, which is to be written before it is told
    /// to go: else a healer that is killed after that word would be succeeded by one that starts a
    /// second. `None` where nothing is kept.
    pub(super) fn remember_stage(
        &mut self,
        name: &ProcessName,
        stage: Instance,
    ) -> Option<impl Future<Output = ()> + Send + use<>> {
        self.plan.staged(name, Some(stage));
        let memory = self.plan.memory(name)?;
        Some(self.keeper.as_mut()?.keep_first(name, memory))
    }

    /// A stage of the healer before: it ends by itself, or becomes the instance in a moment.
    pub(super) fn still_a_stage(&self, name: &ProcessName) -> Option<Observation> {
        let stage = self.slots.get(name)?.recalled_stage?;
        launch::is_stage(stage).then(|| {
            let reason =
                format!("{stage} is being launched as it, by a healer that has ended since");
            Observation::Unclear { reason }
        })
    }

    /// Notes how a remembered instance has ended: known, or so late that it is no matter, it left no
    /// daemon that could be taken for what is left of it.
    pub(super) fn note_end(&mut self, name: &ProcessName, instance: Instance, exit: &Exit) {
        let Some(process) = self.plan.process(name) else { return };
        let lived = clock::now().since(clock::started(instance));
        let is_clear = exit.end.is_some() || lived > process.recovery.start_timeout;
        if is_clear && let Some(slot) = self.slots.get_mut(name) {
            slot.may_be_parent = None;
        }
    }

    /// Of processes that were not found and whose last instance nobody saw end: notes of whom
    /// nothing is left, which spares a pass over `/proc` for each; of whom it is not clear what is
    /// left, that is the answer. One snapshot serves all.
    pub(super) fn consider_unseen(&mut self, processes: &[Arc<Process>], seen: &mut [Observation]) {
        let missing = processes.iter().zip(seen).filter_map(|(process, seen)| {
            let slot = self.slots.get(&process.name).filter(|slot| slot.unseen)?;
            let (last, _) = slot.last.filter(|_| process.stop.leftovers)?;
            (*seen == Observation::Missing).then_some((process, last, seen))
        });
        let missing: Vec<_> = missing.collect();
        if missing.is_empty() {
            return;
        }
        // Without one, each is looked at by itself before its launch.
        let Ok(table) = Table::snapshot() else { return };
        let mut gone = Vec::new();
        for (process, last, seen) in missing {
            let guarded = |one: Instance| self.guards.owner(one).is_some();
            let left: Vec<&Row> = left::shown_left(&table, last, &guarded).collect();
            if left.is_empty() {
                gone.push((process.name.clone(), last));
            } else if let Some(reason) = self.doubt(process, last, &left) {
                *seen = Observation::Unclear { reason };
            }
        }
        for (name, last) in gone {
            self.slots.entry(name).or_default().nothing_left_of = Some(last);
        }
    }

    /// Why those that are left of an instance, by its session, are not to be ended; `None`: they are.
    pub(super) fn doubt_held(
        &self,
        process: &Process,
        last: Instance,
        left: &[Held],
    ) -> Option<String> {
        let rows = left.iter().map(|held| Row::read(held.instance().pid));
        match rows.collect::<io::Result<Vec<_>>>() {
            Ok(rows) => self.doubt(process, last, &rows.iter().flatten().collect::<Vec<_>>()),
            Err(error) => Some(format!("cannot see who is left of {last}: {error}")),
        }
    }

    /// The same, of rows: they may be daemons of a command that exited unseen; and while healer did
    /// not run, a dead leader's PID may have been given to another.
    fn doubt(&self, process: &Process, last: Instance, left: &[&Row]) -> Option<String> {
        let slot = self.slots.get(&process.name)?;
        let doubtful = if slot.may_be_parent == Some(last) {
            left.first().copied()
        } else if slot.unseen && !left.is_empty() {
            let by_pid: HashMap<Pid, &Row> =
                left.iter().map(|row| (row.instance.pid, *row)).collect();
            let wanted = program::wanted(process).ok();
            let fits = |row: &&&Row| {
                wanted.as_ref().is_some_and(|wanted| who::fits(wanted, row) != Fit::No)
            };
            // What descends from it is its own too. No line is longer than this, not even one that
            // a PID used again closes to a ring.
            let line = |row| {
                std::iter::successors(Some(row), |row: &&Row| by_pid.get(&row.parent).copied())
            };
            left.iter().copied().find(|row| !line(row).take(left.len()).any(|row| fits(&&row)))
        } else {
            None
        };
        let one = doubtful?.instance;
        Some(format!("{one} may be left of {last}, whose end nobody saw; end it if it is"))
    }
}

/// What the shell makes of a memory: which instance is the process by the record.
fn recalled_slot(memory: &Memory) -> Slot {
    let life = &memory.life;
    let is_living = |one: &Instance| matches!(Held::open_exactly(*one), Ok(Some(_)));
    let running = life.running.as_ref();
    // A stage may be ready before the running instance has ended.
    let stage = life.stage.filter(|stage| {
        !running.is_some_and(|running| is_living(&running.instance)) && is_living(stage)
    });
    let launched = |running: &Running| running.launched.map(|_| running.instance);
    let launched = stage.or(running.and_then(launched));
    Slot {
        last: stage
            .or(running.map(|running| running.instance))
            .or(life.last)
            .map(|last| (last, false)),
        launched,
        unseen: true,
        may_be_parent: launched,
        nothing_left_of: None,
        recalled_stage: stage,
        task: None,
    }
}
