//! Looking for running instances: the PID file's word, else what runs.

use std::sync::Arc;

use crate::config::Process;
use crate::event::{Instance, Pid, ProcessName};
use crate::instance::table::Table;
use crate::instance::who::{self, Verdict};

/// What a look found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sight {
    /// This running instance.
    Up(Instance),
    /// None.
    Missing,
    /// It cannot be told.
    Unclear {
        /// What would decide.
        reason: String,
    },
}

/// Looks for all of these at once.
pub fn see(
    processes: &[Arc<Process>],
    claimed: &dyn Fn(Instance) -> bool,
    _launched: &dyn Fn(&ProcessName) -> Option<Instance>,
) -> Vec<Sight> {
    let table = match Table::snapshot() {
        Ok(table) => table,
        Err(error) => {
            let reason = format!("cannot read /proc: {error}");
            return vec![Sight::Unclear { reason }; processes.len()];
        }
    };
    who::resolve_all(processes, &table, claimed)
        .into_iter()
        .map(|verdict| match verdict {
            Verdict::One(instance) => Sight::Up(instance),
            Verdict::None => Sight::Missing,
            Verdict::Unclear { reason, .. } => Sight::Unclear { reason },
        })
        .collect()
}

/// Whether orphans of healer live that started no earlier than `launched` and are unknown.
pub fn orphans_since(launched: Instance, table: &Table, known: &dyn Fn(Instance) -> bool) -> bool {
    let own = Pid(std::process::id().cast_signed());
    table.rows().iter().any(|row| {
        row.parent == own
            && row.instance != launched
            && row.instance.start_ticks >= launched.start_ticks
            && !known(row.instance)
    })
}
