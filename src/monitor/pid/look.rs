//! Looking at entries once: which living process is each, by what is held, its PID file, or matching.
//!
//! No task and no memory: `pid` looks at each change, `recovery` right before each launch.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use crate::clock::{self, WallClock};
use crate::config::Process;
use crate::event::{Instance, Observation, Pid};
use crate::instance::own_pid;
use crate::instance::program;
use crate::instance::table::{Exe, Row, Table};
use crate::instance::who::{self, Fit};

use super::file::{self, Contents, PidFile};
use super::verdict::{Named, Verdict, judge};

/// What recovery knows of one process.
#[derive(Clone, Copy, Debug)]
pub struct Known<F: Fn(Instance) -> bool> {
    /// The last instance that was held, dead or alive.
    pub held: Option<Instance>,
    /// The last instance that healer launched, dead or alive.
    pub launched: Option<Instance>,
    /// Tells the instances of other processes, and what else is known to be theirs.
    pub taken: F,
    /// How file times compare with boot time.
    pub wall: WallClock,
}

/// Looks at many processes that only matching can tell, over one snapshot. `taken` tells the
/// instances that are held; nor are those meant that were `seen` of others in the same look.
#[must_use]
pub fn look_by_matching<'a>(
    processes: &[Arc<Process>],
    seen: impl IntoIterator<Item = &'a Observation>,
    taken: impl Fn(Instance) -> bool,
) -> Vec<Observation> {
    if processes.is_empty() {
        return vec![];
    }
    let up = seen.into_iter().filter_map(|seen| match seen {
        Observation::Up(instance) => Some(*instance),
        _ => None,
    });
    let seen: HashSet<Instance> = up.collect();
    let taken = |one| seen.contains(&one) || taken(one);
    match Table::snapshot() {
        Ok(table) => {
            who::resolve_all(processes, &table, &taken).into_iter().map(observation).collect()
        }
        Err(error) => vec![blind(&error); processes.len()],
    }
}

/// What needs no pass over `/proc`: held, named by its PID file, or known before and now gone;
/// `None` where matching has to tell.
#[must_use]
pub fn without_matching(
    process: &Process,
    known: &Known<impl Fn(Instance) -> bool>,
) -> Option<Observation> {
    // Matching is for first adoptions: afterwards healer knows its own by holding it, and a
    // restart does not wait for a pass over /proc.
    let adopted_before = known.held.is_some() || known.launched.is_some();
    directly(process, known).or(adopted_before.then_some(Observation::Missing))
}

/// What is held, and what the PID file says; `None` where neither tells of a living process.
#[must_use]
pub fn directly(
    process: &Process,
    known: &Known<impl Fn(Instance) -> bool>,
) -> Option<Observation> {
    let seen = match held(known) {
        Ok(None) => by_file(process, known),
        held => held,
    };
    seen.unwrap_or_else(|error| Some(blind(&error)))
}

fn held(known: &Known<impl Fn(Instance) -> bool>) -> io::Result<Option<Observation>> {
    let Some(held) = known.held else { return Ok(None) };
    let row = Row::read(held.pid)?.filter(|row| row.instance == held);
    Ok(row.map(|row| Observation::Up(row.instance)))
}

fn by_file(
    process: &Process,
    known: &Known<impl Fn(Instance) -> bool>,
) -> io::Result<Option<Observation>> {
    match process.pid_file().map(file::read) {
        None | Some(Contents::Missing | Contents::Nothing { .. }) => Ok(None),
        Some(Contents::Refused { reason }) => Ok(Some(Observation::Unclear { reason })),
        Some(Contents::Names(file)) => judged(process, &file, known),
    }
}

fn judged(
    process: &Process,
    file: &PidFile,
    known: &Known<impl Fn(Instance) -> bool>,
) -> io::Result<Option<Observation>> {
    let Some(row) = Row::read(file.pid)? else { return Ok(None) };
    let Some(details) = row.details()? else { return Ok(None) };
    // It gave back its memory, yet still has its files and ports: neither up nor down.
    if !row.kernel_thread && *row.exe() == Exe::Gone {
        let reason = format!("its PID file names {}, which is just ending", row.instance);
        return Ok(Some(Observation::Unclear { reason }));
    }
    let own = own_pid();
    let launched = match known.launched {
        Some(launched) => came_out_of(launched, &row, file, own)?,
        None => false,
    };
    let named = Named {
        instance: row.instance,
        recorded: known.held == Some(row.instance),
        taken: (known.taken)(row.instance),
        never: row.instance.pid.0 <= 1
            || row.instance.pid == own
            || row.kernel_thread
            || details.depth != who::own_depth(),
        launched,
        fit: program::wanted(process).map_or(Fit::No, |wanted| who::fits(&wanted, &row)),
        uid: details.uid,
        started: clock::started(row.instance),
        shown: who::shown(&details.cmdline),
    };
    Ok(match judge(file, &named, known.wall.since_boot(file.modified)) {
        Verdict::Mine => Some(Observation::Up(row.instance)),
        Verdict::Stranger => None,
        Verdict::Unclear { reason } => Some(Observation::Unclear { reason }),
    })
}

/// Whether a process is the launched one, of its session, or an orphan that came to healer since
/// and that a file written since names. By itself, an orphan may be of any launch.
fn came_out_of(launched: Instance, row: &Row, file: &PidFile, own: Pid) -> io::Result<bool> {
    if row.instance == launched {
        return Ok(true);
    }
    if row.instance.start_ticks < launched.start_ticks {
        return Ok(false);
    }
    // The session is the launch's unless another process has got the launched one's PID.
    let of_session = row.session == launched.pid
        && Row::read(launched.pid)?.is_none_or(|leader| leader.instance == launched);
    Ok(of_session || (row.parent == own && is_written_since(launched, file)))
}

/// Whether a file was written since the launch. Both are compared by their age now: a wall clock
/// that was set before the launch, as at many a boot, is no matter.
fn is_written_since(launched: Instance, file: &PidFile) -> bool {
    let since = clock::now().since(clock::started(launched));
    // File times, too, are as coarse as a tick.
    clock::age(file.modified).is_none_or(|age| age <= since + clock::TICK)
}

fn observation(verdict: who::Verdict) -> Observation {
    match verdict {
        who::Verdict::One(instance) => Observation::Up(instance),
        who::Verdict::None => Observation::Missing,
        who::Verdict::Unclear { reason, .. } => Observation::Unclear { reason },
    }
}

fn blind(error: &io::Error) -> Observation {
    Observation::Unclear { reason: format!("cannot read /proc: {error}") }
}
