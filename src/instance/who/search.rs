//! Feeds the rules of `who` from what `/proc` shows, for one entry or for all over one snapshot.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock};

use crate::config::Process;
use crate::event::{Instance, Pid};
use crate::instance::own_pid;
use crate::instance::program;
use crate::instance::table::{Details, Exe, Row, Table};

use super::{Candidate, Fit, Verdict, Wanted, decide, fit};

/// Looks for the processes of many entries over one snapshot, the most specific entry first, so
/// that each instance belongs to one of them. Verdicts come in the order of `processes`.
#[must_use]
pub fn resolve_all(
    processes: &[Arc<Process>],
    table: &Table,
    claimed: &dyn Fn(Instance) -> bool,
) -> Vec<Verdict> {
    let wanted: Vec<_> = processes.iter().map(|process| program::wanted(process)).collect();
    let mut order: Vec<usize> = (0..processes.len()).collect();
    order.sort_by_key(|at| Reverse(wanted[*at].as_ref().ok().map(Wanted::specificity)));
    let mut taken: HashSet<Instance> = HashSet::new();
    // Whom a more specific entry could not make up its mind about is not the next one's either.
    let mut doubted: HashMap<Instance, String> = HashMap::new();
    let mut verdicts = vec![Verdict::None; processes.len()];
    for at in order {
        let found = match &wanted[at] {
            Ok(wanted) => search(wanted, table, &|one| claimed(one) || taken.contains(&one)),
            Err(reason) => Verdict::Unclear { reason: reason.clone(), among: Vec::new() },
        };
        let verdict = match found {
            Verdict::One(one) if doubted.contains_key(&one) => {
                Verdict::Unclear { reason: doubted[&one].clone(), among: vec![one] }
            }
            found => found,
        };
        match &verdict {
            Verdict::One(one) => {
                taken.insert(*one);
            }
            Verdict::Unclear { reason, among } => {
                for one in among {
                    doubted.entry(*one).or_insert_with(|| reason.clone());
                }
            }
            Verdict::None => {}
        }
        verdicts[at] = verdict;
    }
    verdicts
}

/// Judges one living process by itself, for a PID file that names it or a daemon that came out of
/// a launch. That its session's leader is gone says nothing here: double-forking daemons are so.
#[must_use]
pub fn fits(wanted: &Wanted, row: &Row) -> Fit {
    match row.details() {
        Ok(Some(details)) => fit(wanted, &candidate(row, details), own_depth()),
        Ok(None) => Fit::No,
        Err(_) => Fit::Unreadable,
    }
}

fn search(wanted: &Wanted, table: &Table, claimed: &dyn Fn(Instance) -> bool) -> Verdict {
    let depth = own_depth();
    let judge = |candidate: &Candidate<'_>, row: &Row| match fit(wanted, candidate, depth) {
        Fit::No => Fit::No,
        _ if !is_eligible(row, table) || is_claimed(row, table, claimed) => Fit::No,
        // Only what agrees in everything raises doubt about what may well be left of the dead.
        Fit::Rewritten | Fit::Unreadable if candidate.leaderless => Fit::No,
        // Another instance's worker shows nothing of its master's arguments.
        Fit::Rewritten if is_worker(row, table) => Fit::No,
        fit => fit,
    };
    let rows: Vec<&Row> = match wanted.program() {
        Some(program) => table.running(program.file, &program.path).collect(),
        None => table.rows().iter().collect(),
    };
    let mut fits = Vec::new();
    for row in rows {
        match row.details() {
            Ok(Some(details)) => {
                let leaderless = is_leaderless(row, table);
                let candidate = Candidate { leaderless, ..candidate(row, details) };
                let fit = judge(&candidate, row);
                fits.extend((fit != Fit::No).then_some((candidate, fit)));
            }
            Ok(None) => {}
            Err(error) => {
                let reason = format!("cannot read /proc/{}: {error}", row.instance);
                return Verdict::Unclear { reason, among: Vec::new() };
            }
        }
    }
    match decide(&fits) {
        // It may have ended since the snapshot.
        Verdict::One(one) if !table.row(one.pid).is_some_and(Row::is_current) => Verdict::None,
        verdict => verdict,
    }
}

/// Never meant, whatever they look like: PID 1, healer and its stages, and kernel threads.
fn is_eligible(row: &Row, table: &Table) -> bool {
    let own = own_pid();
    let runs_healer = || table.row(own).is_some_and(|healer| healer.exe() == row.exe());
    let stage = row.parent == own && runs_healer();
    row.instance.pid.0 > 1 && row.instance.pid != own && !row.kernel_thread && !stage
}

/// Whether its session's leader is gone. A leader may have ended since the snapshot. A session of
/// another PID namespace shows as 0: it cannot be told whether its leader lives.
fn is_leaderless(row: &Row, table: &Table) -> bool {
    let leader = table.row(row.session).filter(|leader| *leader.exe() != Exe::Gone);
    row.session != Pid(0) && leader.is_none()
}

/// Whether it runs the same program as its parent: a worker.
fn is_worker(row: &Row, table: &Table) -> bool {
    table.row(row.parent).is_some_and(|parent| parent.exe() == row.exe())
}

/// Whether it is another entry's instance, or a worker of one.
fn is_claimed(row: &Row, table: &Table, claimed: &dyn Fn(Instance) -> bool) -> bool {
    let by_master = || table.row(row.parent).is_some_and(|parent| claimed(parent.instance));
    claimed(row.instance) || (by_master() && is_worker(row, table))
}

fn candidate<'a>(row: &'a Row, details: &'a Details) -> Candidate<'a> {
    Candidate {
        instance: row.instance,
        parent: row.parent,
        comm: &row.comm,
        exe: row.exe(),
        details,
        leaderless: false,
    }
}

/// How many PID namespaces deep healer itself lives; no process ever changes its own.
pub(crate) fn own_depth() -> usize {
    static DEPTH: OnceLock<usize> = OnceLock::new();
    *DEPTH.get_or_init(|| {
        let own = Row::read(own_pid()).ok().flatten();
        own.and_then(|row| Some(row.details().ok()??.depth)).unwrap_or(1)
    })
}
