//! Who waits for whom: rule by rule, and then whatever befalls a random graph.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use rstest::rstest;

use super::*;
use crate::config::{DependencyKind, Process, fixture};
use crate::event::{Change, Pid};

fn at(secs: u64) -> Time {
    Time(secs * 1_000_000_000)
}

fn name(name: &str) -> ProcessName {
    ProcessName::new(name)
}

/// A hard dependency.
fn hard(target: &str) -> Dependency {
    Dependency {
        target: name(target),
        kind: DependencyKind::Requires,
        on_failure: OnFailure::Abort,
        max_wait: Duration::from_secs(30),
        restart: false,
    }
}

fn after(target: &str) -> Dependency {
    Dependency { kind: DependencyKind::After, ..hard(target) }
}

fn skipped(target: &str, secs: u64) -> Dependency {
    let max_wait = Duration::from_secs(secs);
    Dependency { on_failure: OnFailure::Skip, max_wait, ..hard(target) }
}

fn degraded(target: &str, secs: u64) -> Dependency {
    Dependency { on_failure: OnFailure::Degrade, ..skipped(target, secs) }
}

/// A hard one that is restarted with its target.
fn follows(target: &str) -> Dependency {
    Dependency { restart: true, ..hard(target) }
}

fn config(graph: &[(&str, Vec<Dependency>)]) -> Config {
    let process = |(name, dependencies): &(&str, Vec<Dependency>)| Process {
        dependencies: dependencies.clone(),
        ..fixture::process(name)
    };
    fixture::config(graph.iter().map(process).collect())
}

fn ready(pid: i32) -> Standing {
    Standing::Ready(Some(Instance { pid: Pid(pid), start_ticks: 1 }))
}

const UNREADY: Standing = Standing::Unready(Reason::new("not ready yet"));
const COMING: Standing = Standing::Coming(Reason::new("starting"));
const FINISHED: Standing = Standing::Away(Reason::new("finished"));

fn open(until: Time) -> Standing {
    Standing::Away(Reason { text: Cow::Borrowed("breaker open"), until: Some(until) })
}

/// A coordinator, and what is told to it, with its answers as text.
struct Scene {
    inner: Coordinator,
    standings: BTreeMap<ProcessName, Standing>,
    now: Time,
}

impl Scene {
    /// Everybody is on the way.
    fn new(graph: &[(&str, Vec<Dependency>)]) -> Self {
        let inner = Coordinator::default();
        let mut scene = Self { inner, standings: BTreeMap::new(), now: at(0) };
        assert_eq!(scene.reload(graph), [""; 0]);
        scene
    }

    fn reload(&mut self, graph: &[(&str, Vec<Dependency>)]) -> Vec<String> {
        self.reload_config(&config(graph))
    }

    fn reload_config(&mut self, config: &Config) -> Vec<String> {
        let standings = &self.standings;
        let standing = |name: &ProcessName| standings.get(name).cloned().unwrap_or(COMING);
        told(self.inner.reload(config, standing, self.now))
    }

    fn stands(&mut self, who: &str, standing: Standing) -> Vec<String> {
        self.standings.insert(name(who), standing.clone());
        told(self.inner.stands(&name(who), standing, self.now))
    }

    /// Asks, and says for whom the process is held.
    fn ask(&mut self, who: &str) -> Vec<String> {
        let (answer, actions) = self.inner.ask(&name(who), self.now);
        let answer = match answer {
            Answer::Free => vec![],
            Answer::Held(waiting) => waiting.iter().map(|wait| wait.on.to_string()).collect(),
        };
        told(actions).into_iter().chain(answer).collect()
    }

    fn pass(&mut self, secs: u64) -> Vec<String> {
        let end = self.now.after(Duration::from_secs(secs));
        let mut said = Vec::new();
        while let Some(deadline) = self.inner.next_deadline().filter(|due| *due <= end) {
            assert!(deadline > self.now || said.is_empty(), "it spins");
            self.now = deadline;
            said.extend(told(self.inner.on_time(deadline)));
        }
        self.now = end;
        said
    }

    fn waiting(&self, who: &str) -> Vec<Wait> {
        self.inner.waiting_for(&name(who))
    }

    fn without(&self, who: &str) -> Vec<String> {
        self.inner.degraded_without(&name(who)).iter().map(ToString::to_string).collect()
    }
}

fn told(actions: Vec<Action>) -> Vec<String> {
    let told = |Action { process, what }| match what {
        What::Release => format!("release {process}"),
        What::Hold(waiting) => {
            let on: Vec<&str> = waiting.iter().map(|wait| wait.on.as_str()).collect();
            format!("hold {process} for {}", on.join(" "))
        }
        What::Restart { because } => format!("restart {process} because of {because}"),
        What::Tell(Change::Waived { on, waited, degraded }) => {
            let how = if degraded { "degraded" } else { "skipped" };
            format!("{process} without {on} after {} s: {how}", waited.as_secs())
        }
        What::Tell(Change::Overdue { on, waited }) => {
            format!("{process} overdue for {on} after {} s", waited.as_secs())
        }
        What::Tell(Change::Complete { on }) => format!("{process} complete with {on}"),
        What::Tell(change) => panic!("not the coordinator's: {change:?}"),
    };
    actions.into_iter().map(told).collect()
}

#[rstest]
fn a_start_waits_for_what_it_requires_and_after_what_is_on_its_way(
    #[values(ready(1), UNREADY, COMING, FINISHED, open(at(9)))] standing: Standing,
    #[values(hard("db"), after("db"))] dependency: Dependency,
) {
    let is_ready = matches!(standing, Standing::Ready(_));
    let is_on_its_way = matches!(standing, Standing::Unready(_) | Standing::Coming(_));
    let held = if dependency.kind == DependencyKind::After { is_on_its_way } else { !is_ready };
    let mut scene = Scene::new(&[("web", vec![dependency]), ("db", vec![])]);
    scene.stands("db", standing);
    assert_eq!(scene.ask("web"), ["db"; 1][..usize::from(held)]);
}

#[test]
fn a_process_without_dependencies_is_free() {
    let mut scene = Scene::new(&[("web", vec![hard("db")]), ("db", vec![]), ("other", vec![])]);
    assert_eq!(scene.ask("db"), [""; 0]);
    assert_eq!(scene.ask("other"), [""; 0]);
    assert_eq!((scene.inner.knows(&name("db")), scene.inner.knows(&name("other"))), (true, false));
}

#[test]
fn the_dependent_is_released_the_moment_the_dependency_is_ready() {
    let mut scene = Scene::new(&[("web", vec![hard("db")]), ("db", vec![])]);
    assert_eq!(scene.ask("web"), ["db"]);
    assert_eq!(scene.stands("db", UNREADY), [""; 0]);
    assert_eq!(scene.stands("db", ready(1)), ["release web"]);
}

#[test]
fn a_start_waits_for_all_that_it_requires() {
    let mut scene =
        Scene::new(&[("web", vec![hard("db"), hard("cache")]), ("db", vec![]), ("cache", vec![])]);
    assert_eq!(scene.ask("web"), ["db", "cache"]);
    assert_eq!(scene.stands("db", ready(1)), ["hold web for cache"]);
    assert_eq!(scene.stands("db", COMING), ["hold web for db cache"]);
    assert_eq!(scene.stands("cache", ready(2)), ["hold web for db"]);
    assert_eq!(scene.stands("db", ready(3)), ["release web"]);
}

#[test]
fn whoever_asked_first_is_released_first() {
    let graph: Vec<_> = ["a", "b", "c"].map(|name| (name, vec![hard("db")])).into();
    let mut scene = Scene::new(&[&graph[..], &[("db", vec![])]].concat());
    for who in ["c", "a", "b"] {
        scene.ask(who);
    }
    assert_eq!(scene.stands("db", ready(1)), ["release c", "release a", "release b"]);
}

#[test]
fn a_hard_dependency_is_overdue_once_and_waited_for_all_the_same() {
    let mut scene = Scene::new(&[("web", vec![hard("db")]), ("db", vec![])]);
    scene.ask("web");
    assert_eq!(scene.inner.next_deadline(), Some(at(30)));
    assert_eq!(scene.pass(29), [""; 0]);
    assert_eq!(scene.pass(1), ["web overdue for db after 30 s", "hold web for db"]);
    assert_eq!(scene.inner.next_deadline(), None, "no timer any more");
    assert_eq!(scene.pass(1_000_000), [""; 0]);
    assert_eq!(scene.stands("db", ready(1)), ["release web"]);
}

#[rstest]
#[case::skip(skipped("cache", 10), "web without cache after 10 s: skipped", &[])]
#[case::degrade(degraded("cache", 10), "web without cache after 10 s: degraded", &["cache"])]
fn a_soft_dependency_is_waited_for_until_max_wait_and_no_longer(
    #[case] dependency: Dependency,
    #[case] waived: &str,
    #[case] without: &[&str],
) {
    let mut scene = Scene::new(&[("web", vec![dependency]), ("cache", vec![])]);
    scene.ask("web");
    assert_eq!(scene.pass(9), [""; 0]);
    assert_eq!(scene.pass(1), [waived, "release web"]);
    scene.inner.launching(&name("web"));
    scene.stands("web", ready(1));
    assert_eq!(scene.without("web"), without);
    // As long as it is not there, it is not waited for again, nor warned of.
    scene.stands("web", COMING);
    assert_eq!(scene.ask("web"), [""; 0]);
    scene.inner.launching(&name("web"));
    scene.stands("web", ready(2));
    // Once it was there, it is.
    let expected = ["web complete with cache"; 1][..without.len()].to_vec();
    assert_eq!(scene.stands("cache", ready(3)), expected);
    assert_eq!(scene.without("web"), [""; 0]);
    scene.stands("cache", COMING);
    scene.stands("web", COMING);
    assert_eq!(scene.ask("web"), ["cache"]);
}

#[test]
fn a_soft_dependency_that_is_not_to_be_waited_for_at_all_is_waived_at_once() {
    let mut scene = Scene::new(&[("web", vec![skipped("cache", 0)]), ("cache", vec![])]);
    assert_eq!(scene.ask("web"), ["web without cache after 0 s: skipped"]);
}

#[test]
fn a_target_that_is_ready_for_a_while_does_not_buy_itself_time() {
    let graph =
        [("web", vec![skipped("cache", 10), hard("db")]), ("cache", vec![]), ("db", vec![])];
    let mut scene = Scene::new(&graph);
    scene.ask("web");
    for pid in 1..=2 {
        scene.pass(3);
        scene.stands("cache", ready(pid));
        scene.stands("cache", COMING);
    }
    assert_eq!(scene.pass(4), ["web without cache after 10 s: skipped", "hold web for db"]);
}

#[test]
fn a_target_that_dies_again_is_waited_for_again_as_long_as_the_dependent_is_not_launched() {
    let mut scene = Scene::new(&[("web", vec![hard("db")]), ("db", vec![])]);
    scene.ask("web");
    assert_eq!(scene.stands("db", ready(1)), ["release web"]);
    assert!(scene.inner.is_free(&name("web")));
    // It waits for a launch slot meanwhile.
    scene.stands("db", COMING);
    assert!(!scene.inner.is_free(&name("web")));
    assert_eq!(scene.ask("web"), ["db"]);
    assert_eq!(scene.inner.next_deadline(), Some(at(30)), "the wait goes on");
    assert_eq!(scene.stands("db", ready(2)), ["release web"]);
    // Launched, it is left alone.
    scene.inner.launching(&name("web"));
    assert_eq!(scene.stands("db", COMING), [""; 0]);
}

#[test]
fn a_wait_says_why_and_until_when() {
    let mut scene = Scene::new(&[("web", vec![hard("db")]), ("db", vec![])]);
    scene.ask("web");
    let wait = |reason: &str, changes, until| {
        vec![Wait { on: name("db"), reason: reason.to_owned(), changes, until }]
    };
    assert_eq!(scene.waiting("web"), wait("starting", None, Some(at(30))));
    scene.stands("db", UNREADY);
    assert_eq!(scene.waiting("web"), wait("not ready yet", None, Some(at(30))));
    assert_eq!(scene.stands("db", open(at(180))), ["hold web for db"]);
    assert_eq!(scene.waiting("web"), wait("breaker open", Some(at(180)), Some(at(30))));
    scene.pass(30);
    assert_eq!(scene.waiting("web"), wait("breaker open", Some(at(180)), None));
    scene.stands("db", ready(1));
    assert_eq!(scene.waiting("web"), []);
}

#[rstest]
#[case::found_running(ready(7))]
#[case::found_starting(UNREADY)]
#[case::paused(Standing::Away(Reason::new("paused by root")))]
fn a_held_process_that_is_no_longer_to_be_started_is_not_released(#[case] standing: Standing) {
    let mut scene = Scene::new(&[("web", vec![skipped("db", 5)]), ("db", vec![])]);
    scene.ask("web");
    scene.stands("web", standing);
    assert_eq!(scene.inner.next_deadline(), None);
    assert_eq!(scene.stands("db", ready(1)), [""; 0]);
}

#[test]
fn whoever_starts_after_a_held_process_waits_with_it_but_not_in_vain() {
    let graph = [("web", vec![after("app")]), ("app", vec![hard("db")]), ("db", vec![])];
    let mut scene = Scene::new(&graph);
    assert_eq!(scene.ask("app"), ["db"]);
    assert_eq!(scene.ask("web"), ["app"]);
    assert_eq!(scene.waiting("web")[0].reason, "held");
    // The application will not come before somebody has mended the database.
    assert_eq!(scene.stands("db", FINISHED), ["hold app for db", "release web"]);
}

#[test]
fn a_chain_of_fifty_starts_one_after_the_other() {
    let names: Vec<String> = (0..50).map(|n| format!("p{n:02}")).collect();
    let graph: Vec<_> = names
        .iter()
        .enumerate()
        .map(|(n, name)| {
            (name.as_str(), (n > 0).then(|| hard(&names[n - 1])).into_iter().collect())
        })
        .collect();
    let mut scene = Scene::new(&graph);
    for who in names.iter().rev() {
        scene.ask(who);
    }
    for (n, who) in names.iter().enumerate() {
        scene.inner.launching(&name(who));
        assert_eq!(scene.stands(who, UNREADY), [""; 0]);
        let next = names.get(n + 1).map(|next| format!("release {next}"));
        assert_eq!(scene.stands(who, ready(1)), Vec::from_iter(next));
    }
}

#[rstest]
#[case::edge_dropped(config(&[("web", vec![]), ("db", vec![])]), &["release web"])]
#[case::other_edge(config(&[("web", vec![hard("cache")]), ("db", vec![]), ("cache", vec![])]), &["hold web for cache"])]
#[case::target_and_edge_removed(config(&[("web", vec![])]), &["release web"])]
#[case::dependent_removed(config(&[("db", vec![])]), &[])]
#[case::made_soft_too_late(config(&[("web", vec![degraded("db", 5)]), ("db", vec![])]), &["web without db after 7 s: degraded", "release web"])]
#[case::made_shorter(config(&[("web", vec![skipped("db", 9)]), ("db", vec![])]), &["hold web for db"])]
#[case::unchanged(config(&[("web", vec![hard("db")]), ("db", vec![])]), &[])]
fn a_reload_holds_and_releases_by_what_it_says(#[case] new: Config, #[case] expected: &[&str]) {
    let mut scene = Scene::new(&[("web", vec![hard("db")]), ("db", vec![])]);
    scene.ask("web");
    scene.pass(7);
    let said = scene.reload_config(&new);
    // One that is not known any more depends on nobody.
    let known = scene.inner.knows(&name("web")) || expected.is_empty();
    assert_eq!(said, if known { expected } else { &[] });
}

#[test]
fn a_disabled_target_holds_where_it_is_indispensable_and_nowhere_else() {
    let graph = [
        ("a", vec![hard("db")]),
        ("b", vec![skipped("db", 60)]),
        ("c", vec![degraded("db", 60)]),
        ("d", vec![after("db")]),
        ("db", vec![]),
    ];
    let mut config = config(&graph);
    let db = Process { enabled: false, ..Process::clone(&config.processes[4]) };
    let enabled = std::mem::replace(&mut config.processes[4], Arc::new(db));
    let mut scene = Scene::new(&[]);
    scene.reload_config(&config);
    assert_eq!(scene.ask("a"), ["db"]);
    assert_eq!(scene.waiting("a")[0].reason, "disabled");
    assert_eq!(scene.ask("b"), ["b without db after 0 s: skipped"]);
    assert_eq!(scene.ask("c"), ["c without db after 0 s: degraded"]);
    assert_eq!(scene.ask("d"), [""; 0]);
    config.processes[4] = enabled;
    assert_eq!(scene.reload_config(&config), ["hold a for db"]);
    assert_eq!(scene.stands("db", ready(1)), ["release a", "c complete with db"]);
}

#[test]
fn whoever_follows_is_restarted_when_its_target_was() {
    let mut scene = Scene::new(&[("web", vec![follows("db")]), ("db", vec![]), ("cache", vec![])]);
    // Neither at the first start, nor when it was found running.
    scene.ask("web");
    assert_eq!(scene.stands("db", ready(1)), ["release web"]);
    scene.inner.launching(&name("web"));
    scene.stands("web", ready(2));
    assert_eq!(scene.stands("db", UNREADY), [""; 0]);
    assert_eq!(scene.stands("db", ready(1)), [""; 0], "it is the same instance");
    assert_eq!(scene.stands("db", COMING), [""; 0]);
    assert_eq!(scene.stands("db", UNREADY), [""; 0], "not before it is ready");
    assert_eq!(scene.stands("db", ready(3)), ["restart web because of db"]);
    assert_eq!(scene.stands("web", COMING), [""; 0]);
    assert_eq!(scene.ask("web"), [""; 0]);
}

#[rstest]
#[case::down(COMING)]
#[case::away(FINISHED)]
fn whoever_does_not_run_is_not_restarted(#[case] standing: Standing) {
    let mut scene = Scene::new(&[("web", vec![follows("db")]), ("db", vec![])]);
    scene.stands("db", ready(1));
    scene.stands("web", standing);
    scene.stands("db", COMING);
    assert_eq!(scene.stands("db", ready(2)), [""; 0]);
    assert_eq!(scene.stands("web", ready(3)), [""; 0]);
}

/// Moves a process that is to be restarted to where it asks again.
fn down_and_asking(scene: &mut Scene, who: &str) -> Vec<String> {
    let mut said = scene.stands(who, COMING);
    said.extend(scene.ask(who));
    said
}

#[test]
fn the_end_of_a_diamond_is_restarted_once_and_last() {
    let graph = [
        ("proxy", vec![follows("web"), follows("app")]),
        ("app", vec![follows("lib")]),
        ("lib", vec![follows("db")]),
        ("web", vec![follows("db")]),
        ("db", vec![]),
    ];
    let mut scene = Scene::new(&graph);
    for (pid, who) in ["db", "web", "lib", "app", "proxy"].iter().enumerate() {
        scene.stands(who, ready(i32::try_from(pid).expect("few")));
    }
    scene.stands("db", COMING);
    let because = ["restart lib because of db", "restart web because of db"];
    assert_eq!(scene.stands("db", ready(11)), because);
    assert_eq!(down_and_asking(&mut scene, "web"), [""; 0]);
    assert_eq!(down_and_asking(&mut scene, "lib"), [""; 0]);
    // The proxy waits for the longer side, which has not begun yet.
    assert_eq!(scene.stands("web", ready(12)), [""; 0]);
    assert_eq!(scene.stands("lib", ready(13)), ["restart app because of lib"]);
    assert_eq!(down_and_asking(&mut scene, "app"), [""; 0]);
    assert_eq!(scene.stands("app", ready(14)), ["restart proxy because of app"]);
    assert_eq!(down_and_asking(&mut scene, "proxy"), [""; 0]);
    assert_eq!(scene.stands("proxy", ready(15)), [""; 0]);
}

#[rstest]
#[case::it_stays_up(ready(2))]
#[case::it_goes_away(FINISHED)]
fn a_side_of_a_diamond_that_is_not_restarted_holds_nobody_back(#[case] standing: Standing) {
    let graph = [
        ("proxy", vec![follows("web"), follows("app")]),
        ("app", vec![follows("db")]),
        ("web", vec![follows("db")]),
        ("db", vec![]),
    ];
    let mut scene = Scene::new(&graph);
    for (pid, who) in ["db", "app", "web", "proxy"].iter().enumerate() {
        scene.stands(who, ready(i32::try_from(pid).expect("few")));
    }
    scene.stands("db", COMING);
    scene.stands("db", ready(11));
    // The web server is paused: the plan leaves it as it is.
    assert_eq!(scene.stands("web", standing), [""; 0]);
    assert_eq!(down_and_asking(&mut scene, "app"), [""; 0]);
    assert_eq!(scene.stands("app", ready(12)), ["restart proxy because of app"]);
}

#[test]
fn whoever_dies_before_its_turn_is_not_restarted_again() {
    let graph = [("proxy", vec![follows("web"), follows("app")]), ("app", vec![]), ("web", vec![])];
    let mut scene = Scene::new(&graph);
    for who in ["app", "web", "proxy"] {
        scene.stands(who, ready(1));
    }
    scene.stands("app", COMING);
    scene.stands("web", COMING);
    assert_eq!(scene.stands("web", ready(2)), [""; 0], "app is on its way as well");
    scene.stands("proxy", COMING);
    assert_eq!(scene.ask("proxy"), ["app"]);
    assert_eq!(scene.stands("app", ready(2)), ["release proxy"]);
    assert_eq!(scene.stands("proxy", ready(2)), [""; 0]);
}

/// What the simulated plan knows of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    Away,
    Held,
    Released,
    Unready(i32),
    Ready(i32),
}

impl Phase {
    fn standing(&self) -> Standing {
        match self {
            Self::Away => FINISHED,
            Self::Held | Self::Released => COMING,
            Self::Unready(_) => UNREADY,
            Self::Ready(pid) => ready(*pid),
        }
    }

    fn is_up(&self) -> bool {
        matches!(self, Self::Unready(_) | Self::Ready(_))
    }
}

/// Something that befalls the simulated processes.
#[derive(Clone, Debug)]
enum Fate {
    /// It dies, if it runs, and is to be started again.
    Dies(usize),
    /// It will not come any more, until it returns.
    GoesAway(usize),
    Returns(usize),
    /// It gets a launch slot, if it was released.
    Launches(usize),
    TurnsReady(usize),
    TurnsUnready(usize),
    Passes(u64),
    /// Another graph, and who is enabled in it.
    Reloads(Vec<(usize, usize, Dependency)>, [bool; COUNT]),
}

const COUNT: usize = 6;

/// The processes of a machine, their coordinator, and what it has promised.
struct World {
    coordinator: Coordinator,
    config: Config,
    phases: Vec<Phase>,
    /// Who was told to go without whom, and the target has not been ready since.
    waived: BTreeSet<(usize, usize)>,
    /// Whether the next process to be restarted is left as it is.
    declines: bool,
    restarts: [usize; COUNT],
    now: Time,
    next_pid: i32,
}

impl World {
    fn new(edges: &[(usize, usize, Dependency)]) -> Self {
        let mut world = Self {
            coordinator: Coordinator::default(),
            config: graph(edges, [true; COUNT]),
            phases: vec![Phase::Away; COUNT],
            waived: BTreeSet::new(),
            declines: false,
            restarts: [0; COUNT],
            now: at(0),
            next_pid: 0,
        };
        world.reload();
        world
    }

    fn reload(&mut self) {
        let phases = self.phases.clone();
        let standing = |name: &ProcessName| phases[number(name)].standing();
        let actions = self.coordinator.reload(&self.config, standing, self.now);
        let config = self.config.clone();
        self.waived.retain(|(who, target)| {
            let mut dependencies = config.processes[*who].dependencies.iter();
            let is_soft = |one: &Dependency| {
                number(&one.target) == *target && one.on_failure != OnFailure::Abort
            };
            config.processes[*who].enabled && dependencies.any(is_soft)
        });
        self.perform(actions);
    }

    fn is_enabled(&self, n: usize) -> bool {
        self.config.processes[n].enabled
    }

    fn moves(&mut self, n: usize, to: Phase) {
        self.phases[n] = to;
        if let Phase::Ready(_) = self.phases[n] {
            self.waived.retain(|(_, target)| *target != n);
        }
        let standing = self.phases[n].standing();
        let actions = self.coordinator.stands(&process(n), standing, self.now);
        self.perform(actions);
    }

    fn ask(&mut self, n: usize) {
        self.moves(n, Phase::Held);
        let (answer, actions) = self.coordinator.ask(&process(n), self.now);
        // What led to the answer comes before it; what it leads to, after.
        if answer == Answer::Free {
            self.phases[n] = Phase::Released;
        }
        self.perform(actions);
    }

    fn perform(&mut self, actions: Vec<Action>) {
        for Action { process: name, what } in actions {
            let n = number(&name);
            match what {
                What::Release => {
                    assert_eq!(self.phases[n], Phase::Held, "{name} was not held");
                    self.phases[n] = Phase::Released;
                }
                What::Hold(waiting) => {
                    assert_eq!(self.phases[n], Phase::Held, "{name} was not held");
                    assert!(!waiting.is_empty());
                }
                What::Tell(Change::Waived { on, waited, .. }) => {
                    let target = number(&on);
                    let dependency = self.dependency(n, target);
                    assert_ne!(dependency.on_failure, OnFailure::Abort);
                    assert!(waited >= dependency.max_wait || !self.is_enabled(target));
                    self.waived.insert((n, target));
                }
                What::Tell(Change::Overdue { on, waited }) => {
                    assert!(waited >= self.dependency(n, number(&on)).max_wait);
                }
                What::Tell(_) => {}
                What::Restart { because } => {
                    assert!(self.dependency(n, number(&because)).restart);
                    assert!(self.phases[n].is_up(), "{name} does not run");
                    if self.declines {
                        self.moves(n, self.phases[n].clone());
                    } else {
                        self.restarts[n] += 1;
                        self.ask(n);
                    }
                }
            }
        }
    }

    fn dependency(&self, n: usize, target: usize) -> &Dependency {
        let mut dependencies = self.config.processes[n].dependencies.iter();
        dependencies.find(|one| number(&one.target) == target).expect("it depends on it")
    }

    /// Whether somebody who starts after this one waits for it, by the words of the documentation.
    fn is_on_its_way(&self, n: usize) -> bool {
        let is_in_vain = |target: usize| {
            self.dependency(n, target).on_failure == OnFailure::Abort
                && !matches!(self.phases[target], Phase::Ready(_))
                && !self.is_on_its_way(target)
        };
        self.is_enabled(n)
            && match self.phases[n] {
                Phase::Away | Phase::Ready(_) => false,
                Phase::Released | Phase::Unready(_) => true,
                Phase::Held => !self.blocking(n).into_iter().any(is_in_vain),
            }
    }

    fn blocking(&self, n: usize) -> Vec<usize> {
        let dependencies = self.config.processes[n].dependencies.iter();
        let blocks = |dependency: &&Dependency| {
            let target = number(&dependency.target);
            let is_ready =
                self.is_enabled(target) && matches!(self.phases[target], Phase::Ready(_));
            let waits = match dependency.kind {
                DependencyKind::Requires => !is_ready,
                DependencyKind::After => self.is_on_its_way(target),
            };
            waits && !self.waived.contains(&(n, target))
        };
        dependencies.filter(blocks).map(|dependency| number(&dependency.target)).collect()
    }

    fn befall(&mut self, fate: Fate) {
        match fate {
            Fate::Dies(n) if self.phases[n].is_up() && self.is_enabled(n) => self.ask(n),
            Fate::GoesAway(n) if self.is_enabled(n) => self.moves(n, Phase::Away),
            Fate::Returns(n) if self.phases[n] == Phase::Away && self.is_enabled(n) => self.ask(n),
            Fate::Launches(n) if self.phases[n] == Phase::Released && self.is_enabled(n) => {
                if !self.coordinator.is_free(&process(n)) {
                    return self.ask(n);
                }
                assert_eq!(self.blocking(n), [0; 0], "p{n} is launched too early");
                self.coordinator.launching(&process(n));
                self.next_pid += 1;
                self.moves(n, Phase::Unready(self.next_pid));
            }
            Fate::TurnsReady(n) if self.is_enabled(n) => {
                if let Phase::Unready(pid) = self.phases[n] {
                    self.moves(n, Phase::Ready(pid));
                }
            }
            Fate::TurnsUnready(n) if self.is_enabled(n) => {
                if let Phase::Ready(pid) = self.phases[n] {
                    self.moves(n, Phase::Unready(pid));
                }
            }
            Fate::Passes(millis) => {
                let end = self.now.after(Duration::from_millis(millis));
                while let Some(due) = self.coordinator.next_deadline().filter(|due| *due <= end) {
                    self.now = due;
                    let actions = self.coordinator.on_time(due);
                    self.perform(actions);
                    assert!(self.coordinator.next_deadline().is_none_or(|next| next > due));
                }
                self.now = end;
            }
            Fate::Reloads(edges, enabled) => {
                self.config = graph(&edges, enabled);
                for (n, enabled) in enabled.into_iter().enumerate() {
                    if !enabled {
                        self.phases[n] = Phase::Away;
                    }
                }
                self.reload();
            }
            _ => {}
        }
        for n in 0..COUNT {
            if self.phases[n] == Phase::Held {
                assert_ne!(self.blocking(n), [0; 0], "p{n} is held for nobody");
                let waits = self.coordinator.waiting_for(&process(n));
                let waits: Vec<usize> = waits.iter().map(|wait| number(&wait.on)).collect();
                assert_eq!(waits, self.blocking(n), "p{n} is held for others");
            }
        }
    }

    /// Nothing bad happens any more: everything must come up.
    fn settle(&mut self) {
        self.declines = false;
        for n in 0..COUNT {
            self.befall(Fate::Returns(n));
        }
        for _ in 0..10 * COUNT {
            for n in 0..COUNT {
                self.befall(Fate::Launches(n));
                self.befall(Fate::TurnsReady(n));
            }
        }
        let up = |phase: &Phase| matches!(phase, Phase::Ready(_));
        assert!(self.phases.iter().all(up), "forgotten: {:?}", self.phases);
        assert_eq!(self.coordinator.next_deadline(), None);
    }
}

fn process(n: usize) -> ProcessName {
    name(&format!("p{n}"))
}

fn number(name: &ProcessName) -> usize {
    name.as_str()[1..].parse().expect("p and a number")
}

/// Each depends on those with lower numbers only.
fn graph(edges: &[(usize, usize, Dependency)], enabled: [bool; COUNT]) -> Config {
    let processes = (0..COUNT).map(|n| {
        let mut dependencies: Vec<Dependency> = Vec::new();
        for (from, on, dependency) in edges.iter().filter(|(from, on, _)| from.max(on) == &n) {
            let target = process(*from.min(on));
            if from != on && dependencies.iter().all(|one| one.target != target) {
                dependencies.push(Dependency { target, ..dependency.clone() });
            }
        }
        let enabled = enabled[n];
        Process { enabled, dependencies, ..fixture::process(process(n).as_str()) }
    });
    fixture::config(processes.collect())
}

fn edges() -> impl Strategy<Value = Vec<(usize, usize, Dependency)>> {
    let kinds = prop_oneof![3 => Just(DependencyKind::Requires), 1 => Just(DependencyKind::After)];
    let outcomes =
        prop::sample::select(vec![OnFailure::Abort, OnFailure::Skip, OnFailure::Degrade]);
    let dependency = (kinds, outcomes, 0..20_u64, any::<bool>()).prop_map(
        |(kind, on_failure, secs, restart)| {
            let max_wait = Duration::from_secs(secs);
            Dependency { target: name("any"), kind, on_failure, max_wait, restart }
        },
    );
    prop::collection::vec((0..COUNT, 0..COUNT, dependency), 0..12)
}

fn fates() -> impl Strategy<Value = Fate> {
    prop_oneof![
        6 => (0..COUNT).prop_map(Fate::Dies),
        2 => (0..COUNT).prop_map(Fate::GoesAway),
        4 => (0..COUNT).prop_map(Fate::Returns),
        10 => (0..COUNT).prop_map(Fate::Launches),
        8 => (0..COUNT).prop_map(Fate::TurnsReady),
        1 => (0..COUNT).prop_map(Fate::TurnsUnready),
        3 => (0..10_000_u64).prop_map(Fate::Passes),
        1 => (edges(), any::<[bool; COUNT]>()).prop_map(|(edges, on)| Fate::Reloads(edges, on)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// Nobody is launched before what it depends on, nobody is held for nobody or for longer than
    /// it says, and in the end everybody runs.
    #[test]
    fn whatever_happens_the_order_holds_and_every_hold_ends(
        first in edges(),
        fates in prop::collection::vec((fates(), any::<bool>()), 0..1_000),
        last in edges(),
    ) {
        let mut world = World::new(&first);
        for (fate, declines) in fates {
            world.declines = declines;
            world.befall(fate);
        }
        world.befall(Fate::Reloads(last, [true; COUNT]));
        world.settle();
    }

    /// When one process was restarted, all that follow it directly or through others are as well,
    /// each once, in whatever order they come up; nobody else is.
    #[test]
    fn a_restart_goes_through_a_graph_once(
        edges in edges(),
        root in 0..COUNT,
        order in prop::collection::vec(0..COUNT, 0..200),
    ) {
        let mut world = World::new(&edges);
        world.settle();
        let mut followers = BTreeSet::from([root]);
        for n in 0..COUNT {
            let follows = |one: &Dependency| one.restart && followers.contains(&number(&one.target));
            if world.config.processes[n].dependencies.iter().any(follows) {
                followers.insert(n);
            }
        }
        world.restarts = [0; COUNT];
        world.befall(Fate::Dies(root));
        for n in order {
            world.befall(Fate::Launches(n));
            world.befall(Fate::TurnsReady(n));
        }
        world.settle();
        for n in 0..COUNT {
            let expected = usize::from(n != root && followers.contains(&n));
            prop_assert_eq!(world.restarts[n], expected, "p{}", n);
        }
    }
}
