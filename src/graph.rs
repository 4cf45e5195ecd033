//! Which process depends on which: targets that do not exist, and cycles, in which everyone would
//! wait for everyone.
//!
//! Pure. Called by `config::check`; what follows from a dependency at run time is the coordinator's.

use std::collections::{BTreeMap, BTreeSet};

use crate::event::ProcessName;

/// One dependency as the configuration has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edge {
    /// Who depends.
    pub from: ProcessName,
    /// On whom.
    pub on: ProcessName,
}

/// What is wrong with a graph. Edges are named by their index in the list that was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GraphFault {
    /// No process has the name that this edge's target says.
    UnknownTarget(usize),
    /// This edge leads from a process to itself.
    Itself(usize),
    /// These edges, each starting where the one before ends, lead back to where the first starts.
    Cycle(Vec<usize>),
}

/// Everything wrong with `edges` between `processes`. Of overlapping cycles at least one is told.
#[must_use]
pub fn faults(processes: &BTreeSet<ProcessName>, edges: &[Edge]) -> Vec<GraphFault> {
    let mut faults = Vec::new();
    let mut leaving: BTreeMap<&ProcessName, Vec<usize>> = BTreeMap::new();
    for (index, edge) in edges.iter().enumerate() {
        if edge.from == edge.on {
            faults.push(GraphFault::Itself(index));
        } else if processes.contains(&edge.on) {
            leaving.entry(&edge.from).or_default().push(index);
        } else {
            faults.push(GraphFault::UnknownTarget(index));
        }
    }

    // Depth first, without recursion: a chain may be as long as the file has processes.
    let mut done: BTreeSet<&ProcessName> = BTreeSet::new();
    for start in leaving.keys().copied() {
        let mut trail: Vec<usize> = Vec::new();
        // Where each process on the trail stands on it: the number of edges before it.
        let mut on_trail = BTreeMap::from([(start, 0)]);
        let mut next = vec![(start, 0)];
        while let Some((process, tried)) = next.last_mut() {
            let edge = leaving.get(*process).and_then(|edges| edges.get(*tried)).copied();
            *tried += 1;
            let Some(edge) = edge.filter(|_| !done.contains(*process)) else {
                done.insert(*process);
                on_trail.remove(*process);
                next.pop();
                trail.pop();
                continue;
            };
            let target = &edges[edge].on;
            if let Some(position) = on_trail.get(target) {
                let cycle = trail[*position..].iter().copied().chain([edge]).collect();
                faults.push(GraphFault::Cycle(cycle));
            } else if !done.contains(target) {
                trail.push(edge);
                on_trail.insert(target, trail.len());
                next.push((target, 0));
            }
        }
    }
    faults
}

/// A cycle spelled out: `a -> b -> a`.
#[must_use]
pub fn spelled(cycle: &[usize], edges: &[Edge]) -> String {
    let mut text = String::new();
    for edge in cycle {
        text.push_str(edges[*edge].from.as_str());
        text.push_str(" -> ");
    }
    text + cycle.first().map_or("", |first| edges[*first].from.as_str())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn graph(text: &str) -> (BTreeSet<ProcessName>, Vec<Edge>) {
        let edges: Vec<Edge> = text
            .split_whitespace()
            .map(|edge| {
                let (from, on) = edge.split_once('>').expect("from>on");
                Edge { from: ProcessName::new(from), on: ProcessName::new(on) }
            })
            .collect();
        let known = |edge: &Edge| [edge.from.clone(), edge.on.clone()];
        let processes = edges.iter().flat_map(known).filter(|name| name.as_str() != "ghost");
        (processes.collect(), edges)
    }

    #[rstest]
    #[case::none("", vec![])]
    #[case::chain("a>b b>c a>c", vec![])]
    #[case::diamond("a>b a>c b>d c>d", vec![])]
    #[case::itself("a>a", vec![GraphFault::Itself(0)])]
    #[case::unknown("a>b a>ghost", vec![GraphFault::UnknownTarget(1)])]
    #[case::pair("a>b b>a", vec![GraphFault::Cycle(vec![0, 1])])]
    #[case::tail_stays_out("a>b b>c c>d d>b", vec![GraphFault::Cycle(vec![1, 2, 3])])]
    #[case::two("a>b b>a c>d d>c", vec![GraphFault::Cycle(vec![0, 1]), GraphFault::Cycle(vec![2, 3])])]
    fn faults_are_found(#[case] text: &str, #[case] expected: Vec<GraphFault>) {
        let (processes, edges) = graph(text);
        assert_eq!(faults(&processes, &edges), expected);
    }

    #[test]
    fn a_cycle_is_spelled_out() {
        let (_, edges) = graph("a>b b>c c>b");
        assert_eq!(spelled(&[1, 2], &edges), "b -> c -> b");
    }

    #[test]
    fn a_chain_of_100_000_is_no_problem() {
        let text: Vec<String> = (0..100_000).map(|n| format!("p{n}>p{}", n + 1)).collect();
        let (processes, edges) = graph(&text.join(" "));
        assert_eq!(faults(&processes, &edges), []);
    }
}
