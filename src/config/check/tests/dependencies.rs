//! Dependencies: each key's meaning, each fault, and what is only doubtful.

use std::time::Duration;

use rstest::rstest;

use super::super::super::{Dependency, DependencyKind, OnFailure};
use super::{ROOT, checked, faults};
use crate::event::ProcessName;

/// Entries that differ in their names and dependencies only, each from line 2 on a line of its own.
fn graph(nodes: &[&str]) -> String {
    nodes.iter().fold("processes:\n".to_owned(), |text, node| {
        let (name, rest) = node.split_once(": ").unwrap();
        format!(
            "{text}  - {{ name: {name}, command: /{name}, run_as_root: true, \
             monitor: {{type: ebpf}}, dependencies: {rest} }}\n"
        )
    })
}

#[rstest]
#[case::unknown(&["web: [wep]"], &["[0]: no process is named \"wep\", did you mean \"web\"?"])]
#[case::unknown_in_a_map(&["web: [{target: db}]"], &["[0].target: no process is named \"db\""])]
#[case::itself(&["a: [a]"], &["[0]: \"a\" cannot depend on itself"])]
#[case::pair(&["a: [b]", "b: [{target: a, kind: after}]"], &["[0]: a cycle: a -> b -> a"])]
#[case::cycle(&["a: [b]", "b: [c]", "c: [a]"], &["[0]: a cycle: a -> b -> c -> a"])]
#[case::two_cycles(&["a: [b]", "b: [a]", "c: [d]", "d: [c]"], &["[0]: a cycle: a -> b -> a", "[0]: a cycle: c -> d -> c"])]
#[case::cycle_of_the_disabled(&["a: [b]", "b: [a], enabled: false"], &["[0]: a cycle: a -> b -> a"])]
#[case::twice(&["a: [b, {target: b, kind: after}]", "b: []"], &["[1].target: \"b\" is the target of processes[0].dependencies[0] already: remove one"])]
#[case::kind(&["a: [{target: b, kind: wants}]", "b: []"], &["[0].kind: \"wants\" is not one of requires, after"])]
#[case::hard(&["a: [{target: b, hard: no}]", "b: []"], &["[0].hard: true or false is expected, not the text \"no\""])]
#[case::max_wait(&["a: [{target: b, max_wait_secs: -1}]", "b: []"], &["[0].max_wait_secs: must be from 0 to 315360000, not the number -1"])]
#[case::on_failure(&["a: [{target: b, on_failure: stop}]", "b: []"], &["[0].on_failure: \"stop\" is not one of abort, skip, degrade, did you mean \"skip\"?"])]
#[case::restart(&["a: [{target: b, restart: always}]", "b: []"], &["[0].restart: true or false is expected, not the text \"always\""])]
#[case::typo(&["a: [{target: b, max_wait: 1}]", "b: []"], &["[0].max_wait: unknown key \"max_wait\""])]
#[case::no_target(&["a: [{hard: true}]"], &["[0]: the key `target` is missing"])]
#[case::empty(&["a: ['']"], &["[0]: must not be empty"])]
#[case::number(&["a: [1]"], &["[0]: the name of a process or a map with `target` is expected, not the number 1"])]
#[case::all_at_once(&["a: [{target: b, kind: wants}, a, c]", "b: []"], &["[0].kind: \"wants\" is not one of requires, after", "[1]: \"a\" cannot depend on itself", "[2]: no process is named \"c\", did you mean \"a\"?"])]
fn dependencies_are_refused(#[case] nodes: &[&str], #[case] expected: &[&str]) {
    let said: Vec<String> = faults(&graph(nodes))
        .iter()
        .map(|fault| {
            let (path, rest) = fault.split_once(" (").unwrap();
            let (_, message) = rest.split_once("): ").unwrap();
            format!("{}: {message}", path.split_once(".dependencies").unwrap().1)
        })
        .collect();
    assert_eq!(said, expected);
}

/// On `b`, with every default.
fn hard() -> Dependency {
    Dependency {
        target: ProcessName::new("b"),
        kind: DependencyKind::Requires,
        on_failure: OnFailure::Abort,
        max_wait: Duration::from_secs(30),
        restart: false,
    }
}

#[rstest]
#[case::short("b", hard())]
#[case::long("{target: b}", hard())]
#[case::of_process_healer(
    "{target: b, kind: requires, hard: true, max_wait_secs: 25, on_failure: abort}",
    Dependency { max_wait: Duration::from_secs(25), ..hard() }
)]
#[case::after("{target: b, kind: after}", Dependency { kind: DependencyKind::After, ..hard() })]
#[case::soft("{target: b, hard: false}", Dependency { on_failure: OnFailure::Skip, ..hard() })]
#[case::soft_beats_abort(
    "{target: b, hard: false, on_failure: abort}",
    Dependency { on_failure: OnFailure::Skip, ..hard() }
)]
#[case::soft_and_degraded(
    "{target: b, hard: false, on_failure: degrade}",
    Dependency { on_failure: OnFailure::Degrade, ..hard() }
)]
#[case::hard_at_first(
    "{target: b, hard: true, on_failure: skip}",
    Dependency { on_failure: OnFailure::Skip, ..hard() }
)]
#[case::at_once(
    "{target: b, max_wait_secs: 0, on_failure: degrade, restart: true}",
    Dependency {
        on_failure: OnFailure::Degrade,
        max_wait: Duration::ZERO,
        restart: true,
        ..hard()
    }
)]
fn a_dependency_is_read(#[case] written: &str, #[case] expected: Dependency) {
    let config = checked(&graph(&[&format!("a: [{written}]"), "b: []"]), &ROOT).config;
    assert_eq!(config.processes[0].dependencies, [expected]);
}

#[rstest]
#[case::disabled(
    &["a: [b]", "b: [], enabled: false"],
    "a requires b, which is disabled: it will not be started until b is enabled"
)]
#[case::soft_and_disabled(
    &["a: [{target: b, on_failure: degrade}]", "b: [], enabled: false"],
    "a requires b, which is disabled: it is not waited for"
)]
#[case::contradiction(
    &["a: [{target: b, hard: false, on_failure: abort}]", "b: []"],
    "a depends on b: hard: false overrules on_failure: abort, which is taken as skip"
)]
#[case::after_a_disabled_one(&["a: [{target: b, kind: after}]", "b: [], enabled: false"], "")]
#[case::both_disabled(&["a: [b], enabled: false", "b: [], enabled: false"], "")]
fn a_doubtful_dependency_is_told(#[case] nodes: &[&str], #[case] warning: &str) {
    let expected: Vec<&str> = Some(warning).into_iter().filter(|text| !text.is_empty()).collect();
    assert_eq!(checked(&graph(nodes), &ROOT).warnings, expected);
}

#[test]
fn whoever_is_only_watched_tells_nobody_that_it_was_restarted() {
    let text = "processes: [{name: db, monitor: {type: network, target_url: 'tcp://db:5432'}}, \
                {name: web, command: /web, run_as_root: true, monitor: {type: ebpf}, \
                dependencies: [{target: db, restart: true}]}]";
    let said = faults(text);
    let expected =
        "\"db\" is only watched, so nothing tells that it was restarted: remove `restart: true`";
    assert!(said.len() == 1 && said[0].ends_with(expected), "{said:?}");
}
