//! `dependencies`: each as it is written, and whether all of them together make sense.
//!
//! What follows from a dependency at run time is the coordinator's.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use figment::value::Value;

use super::super::fault::{Faults, Spot, suggestion};
use super::super::section::{Item, Section, TEN_YEARS};
use super::super::{Dependency, DependencyKind, OnFailure, Process};
use super::{Entry, enabled};
use crate::event::ProcessName;
use crate::graph::{self, Edge, GraphFault};

/// A dependency, and the path where its target is written.
pub(super) struct Written {
    pub dependency: Dependency,
    pub at: String,
    /// `hard: false` beside `on_failure: abort`, which it overrules.
    overruled: bool,
}

/// Reads a list of names or maps.
pub(super) fn read(entry: &mut Section<'_>) -> Vec<Written> {
    entry.list("dependencies").unwrap_or_default().iter().filter_map(one).collect()
}

fn one(item: &Item<'_>) -> Option<Written> {
    let mut dependency = Dependency {
        target: ProcessName::new(""),
        kind: DependencyKind::Requires,
        on_failure: OnFailure::Abort,
        max_wait: Duration::from_secs(30),
        restart: false,
    };
    let mut overruled = false;
    let target = match item.value {
        Value::String(..) => item.clone(),
        Value::Dict(..) => {
            let mut section = item.section()?;
            let target = section.required("target");
            let kinds = [("requires", DependencyKind::Requires), ("after", DependencyKind::After)];
            if let Some(kind) = section.choice("kind", &kinds) {
                dependency.kind = kind;
            }
            let hard = section.flag("hard").unwrap_or(true);
            if let Some(max_wait) = section.seconds("max_wait_secs", 0.0..=TEN_YEARS) {
                dependency.max_wait = max_wait;
            }
            let outcomes = [
                ("abort", OnFailure::Abort),
                ("skip", OnFailure::Skip),
                ("degrade", OnFailure::Degrade),
            ];
            let on_failure = section.choice("on_failure", &outcomes);
            overruled = !hard && on_failure == Some(OnFailure::Abort);
            dependency.on_failure = match on_failure {
                Some(on_failure) if !overruled => on_failure,
                _ if hard => OnFailure::Abort,
                _ => OnFailure::Skip,
            };
            dependency.restart = section.flag("restart").unwrap_or(false);
            section.finish();
            target?
        }
        _ => return item.expected("the name of a process or a map with `target`"),
    };
    dependency.target = ProcessName::new(&target.word()?);
    Some(Written { dependency, at: target.path, overruled })
}

/// Targets that are given twice, do not exist or tell nothing, and cycles.
pub(super) fn check(entries: &[Entry], faults: &Faults) {
    let by_name: BTreeMap<&ProcessName, &Entry> =
        entries.iter().filter_map(|entry| Some((entry.name.as_ref()?, entry))).collect();
    let names: BTreeSet<ProcessName> = by_name.keys().map(|name| (*name).clone()).collect();
    let mut edges = Vec::new();
    let mut paths = Vec::new();
    for entry in entries {
        let mut seen = BTreeMap::new();
        for Written { dependency: Dependency { target, .. }, at, .. } in &entry.depends_on {
            if let Some(first) = seen.insert(target, at) {
                let message = format!("\"{target}\" is the target of {first} already: remove one");
                faults.add(at, Spot::Value, message);
            }
        }
        let Some(from) = &entry.name else { continue };
        for Written { dependency, at, .. } in &entry.depends_on {
            let target = by_name.get(&dependency.target).and_then(|entry| entry.process.as_ref());
            if dependency.restart && target.is_some_and(Process::is_watch_only) {
                let message = format!(
                    "\"{}\" is only watched, so nothing tells that it was restarted: \
                     remove `restart: true`",
                    dependency.target
                );
                faults.add(at, Spot::Value, message);
            }
            edges.push(Edge { from: from.clone(), on: dependency.target.clone() });
            paths.push(at.as_str());
        }
    }
    for fault in graph::faults(&names, &edges) {
        if faults.overflow() {
            return;
        }
        let (edge, message) = match fault {
            GraphFault::UnknownTarget(edge) => {
                let target = edges[edge].on.as_str();
                let known = names.iter().map(ProcessName::as_str);
                let close = suggestion(target, known);
                (edge, format!("no process is named \"{target}\"{close}"))
            }
            GraphFault::Itself(edge) => {
                (edge, format!("\"{}\" cannot depend on itself", edges[edge].on))
            }
            GraphFault::Cycle(cycle) => {
                let message = format!("a cycle: {}", graph::spelled(&cycle, &edges));
                (cycle[0], message)
            }
        };
        faults.add(paths[edge], Spot::Value, message);
    }
}

/// What an author may not have meant.
pub(super) fn warnings(entries: &[Entry]) -> Vec<String> {
    let disabled: BTreeSet<&ProcessName> = entries
        .iter()
        .filter_map(|entry| entry.process.as_ref())
        .filter(|process| !process.enabled)
        .map(|process| &process.name)
        .collect();
    let mut warnings = Vec::new();
    for (entry, process) in enabled(entries) {
        let name = &process.name;
        for Written { dependency, overruled, .. } in &entry.depends_on {
            let target = &dependency.target;
            if *overruled {
                warnings.push(format!(
                    "{name} depends on {target}: hard: false overrules on_failure: abort, \
                     which is taken as skip"
                ));
            }
            if dependency.kind != DependencyKind::Requires || !disabled.contains(target) {
                continue;
            }
            warnings.push(match dependency.on_failure {
                OnFailure::Abort => format!(
                    "{name} requires {target}, which is disabled: \
                     it will not be started until {target} is enabled"
                ),
                OnFailure::Skip | OnFailure::Degrade => {
                    format!("{name} requires {target}, which is disabled: it is not waited for")
                }
            });
        }
    }
    warnings
}
