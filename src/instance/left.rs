//! What is left of an instance that ended, and ending it; ending a living instance with all of it.
//!
//! Left are the members of the session that the instance led: nginx's workers survive their killed
//! master and hold its port. Children that made sessions of their own are daemons and are kept.
//! Every signal goes through a pidfd, to a process verified after it was taken hold of; SIGTERM is
//! always followed by SIGCONT, as a stopped process cannot act upon it. Called by `recovery`.

use std::io;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::config::Stop;
use crate::event::{Instance, Pid, Signal};

use super::readable::ended;
use super::reaper::own_children;
use super::table::{Row, Table};
use super::{Held, own_pid};

/// How long SIGKILL may take: longer than any process needs that is not stuck in the kernel.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// Why an instance, or what is left of it, could not be ended.
#[derive(Debug, thiserror::Error)]
pub enum Stuck {
    /// They live on after SIGKILL: in uninterruptible sleep (state D), or forking ever new ones.
    #[error("{} survived SIGKILL for 10 s: a device or file system does not answer", listed(.0))]
    Survivors(Vec<(Instance, char)>),
    /// A signal could not be sent.
    #[error("cannot signal {instance}")]
    Signal {
        /// To whom.
        instance: Instance,
        /// What the system said.
        source: io::Error,
    },
    /// It could not be seen who is left, or whether they ended.
    #[error("cannot see what is left of {instance}")]
    Unseen {
        /// Of whom.
        instance: Instance,
        /// What the system said.
        source: io::Error,
    },
}

fn listed(survivors: &[(Instance, char)]) -> String {
    let each = survivors.iter().map(|(instance, state)| format!("{instance} (state {state})"));
    each.collect::<Vec<_>>().join(", ")
}

/// Takes hold of everything that is left of an instance that ended.
///
/// A session's number is the PID of the process that made it, and the kernel gives that PID to no
/// other process while the session has members. So whoever is in a session of that number was left
/// by this instance, unless a living process has the PID: then the instance's own session is empty.
///
/// `known_child` (for an instance that was healer's own child, where healer is sub-reaper and has
/// reaped what it can) tells healer's other children. It spares the pass over `/proc`, for if
/// nothing but known children is there, nothing can be left. An instance's descendants stay below
/// healer: when a process ends, the kernel gives its children to the nearest sub-reaper above it.
/// Follow a descendant's parents upwards: they end at a child of healer which is not the instance,
/// as that is dead, and was not started by healer, as it descends from the instance: an unknown
/// child. The kernel does this before it makes the instance's pidfd readable.
///
/// Nothing is left that is another entry's: those that `guarded` tells, and what descends from them.
///
/// # Errors
///
/// `/proc` cannot be read, or no descriptor is left.
pub fn left_of(
    instance: Instance,
    known_child: Option<&dyn Fn(Pid) -> bool>,
    guarded: &dyn Fn(Instance) -> bool,
) -> io::Result<Vec<Held>> {
    if known_child.is_some_and(|known| own_children().is_some_and(|all| all.into_iter().all(known)))
    {
        return Ok(Vec::new());
    }
    let table = Table::snapshot()?;
    let mut left = Vec::new();
    for row in shown_left(&table, instance, guarded) {
        let held = Held::open_exactly(row.instance)?;
        left.extend(held.filter(|held| held.session() == instance.pid));
    }
    Ok(left)
}

/// Who is left of an instance that ended, as a snapshot shows it; nobody that `guarded` tells, nor
/// what descends from them.
pub fn shown_left<'a>(
    table: &'a Table,
    instance: Instance,
    guarded: &dyn Fn(Instance) -> bool,
) -> impl Iterator<Item = &'a Row> {
    rows_left(table, instance).filter(move |row| !belongs_to(row, table, guarded))
}

/// Whether a process, or one that it descends from, is told by `guarded`.
fn belongs_to(row: &Row, table: &Table, guarded: &dyn Fn(Instance) -> bool) -> bool {
    // A snapshot may show a circle, where a PID was used again: no line is longer than the table.
    let line = std::iter::successors(Some(row), |row| table.row(row.parent));
    line.take(table.rows().len()).any(|row| guarded(row.instance))
}

/// Whether all that is left of an instance descends from healer's orphans: from children of healer
/// that are not `known_child`ren. To be asked of an instance that healer never held.
///
/// # Errors
///
/// `/proc` cannot be read.
pub fn is_of_orphans(instance: Instance, known_child: &dyn Fn(Pid) -> bool) -> io::Result<bool> {
    let own = own_pid();
    let table = Table::snapshot()?;
    let above = |row: &&Row| table.row(row.parent).filter(|_| row.parent != own);
    Ok(rows_left(&table, instance).all(|row| {
        // No chain is longer than the table, not even one that PIDs used again close to a ring.
        let chain = std::iter::successors(Some(row), above).take(table.rows().len());
        chain.last().is_some_and(|top| top.parent == own && !known_child(top.instance.pid))
    }))
}

fn rows_left(table: &Table, instance: Instance) -> impl Iterator<Item = &Row> {
    let reused = table.row(instance.pid).is_some_and(|row| row.instance != instance);
    table.rows().iter().filter(move |row| {
        !reused
            && row.session == instance.pid
            && row.instance != instance
            && row.instance.start_ticks >= instance.start_ticks
    })
}

/// Ends everything that is left of an instance that ended: `stop.signal` and `stop.timeout` for
/// those found first, SIGKILL for them and all found later, until a pass finds none.
///
/// # Errors
///
/// [`Stuck`].
pub async fn clear(
    instance: Instance,
    stop: Stop,
    guarded: impl Fn(Instance) -> bool + Send + Sync,
) -> Result<(), Stuck> {
    let look =
        || left_of(instance, None, &guarded).map_err(|source| Stuck::Unseen { instance, source });
    let mut left = look()?;
    if left.is_empty() {
        return Ok(());
    }
    ask(&left, stop.signal)?;
    all_ended(instance, &left, Instant::now() + stop.timeout).await?;
    let patience = Instant::now() + KILL_PATIENCE;
    loop {
        left = look()?;
        if left.is_empty() {
            return Ok(());
        }
        for held in &left {
            send(held, Signal(libc::SIGKILL))?;
        }
        if !all_ended(instance, &left, patience).await? || Instant::now() >= patience {
            return survivors(&left);
        }
    }
}

/// Ends a living instance, then what is left of it where `stop.leftovers` says so; nothing of those
/// that `guarded` tells.
///
/// # Errors
///
/// [`Stuck`].
pub async fn stop(
    held: &Held,
    stop: Stop,
    guarded: impl Fn(Instance) -> bool + Send + Sync,
) -> Result<(), Stuck> {
    let one = std::slice::from_ref(held);
    ask(one, stop.signal)?;
    if !all_ended(held.instance(), one, Instant::now() + stop.timeout).await? {
        send(held, Signal(libc::SIGKILL))?;
        if !all_ended(held.instance(), one, Instant::now() + KILL_PATIENCE).await? {
            return survivors(one);
        }
    }
    if stop.leftovers { clear(held.instance(), stop, guarded).await } else { Ok(()) }
}

fn ask(all: &[Held], signal: Signal) -> Result<(), Stuck> {
    for held in all {
        send(held, signal)?;
    }
    for held in all {
        send(held, Signal(libc::SIGCONT))?;
    }
    Ok(())
}

fn send(held: &Held, signal: Signal) -> Result<(), Stuck> {
    match held.signal(signal) {
        Ok(_sent_or_ended) => Ok(()),
        Err(source) => Err(Stuck::Signal { instance: held.instance(), source }),
    }
}

/// Waits for all of them; `false` where one lives at the deadline.
async fn all_ended(instance: Instance, all: &[Held], deadline: Instant) -> Result<bool, Stuck> {
    for held in all {
        match timeout_at(deadline, ended(held)).await {
            Ok(Ok(())) => {}
            Ok(Err(source)) => return Err(Stuck::Unseen { instance, source }),
            Err(_elapsed) => return Ok(false),
        }
    }
    Ok(true)
}

fn survivors(all: &[Held]) -> Result<(), Stuck> {
    let state = |held: &Held| {
        let row = Row::read(held.instance().pid).ok().flatten();
        let row = row.filter(|row| row.instance == held.instance())?;
        Some((row.instance, row.state))
    };
    Err(Stuck::Survivors(all.iter().filter_map(state).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_survives_sigkill_is_named_with_its_state() {
        let survivor = |pid| (Instance { pid: Pid(pid), start_ticks: 1 }, 'D');
        assert_eq!(
            Stuck::Survivors(vec![survivor(812), survivor(813)]).to_string(),
            "812 (state D), 813 (state D) survived SIGKILL for 10 s: \
             a device or file system does not answer"
        );
    }
}
