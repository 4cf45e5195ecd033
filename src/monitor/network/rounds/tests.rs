//! Tables and random histories for `health` and `rounds`, in a world whose clock is a number.

use std::collections::BTreeMap;

use proptest::prelude::*;
use rstest::rstest;

use super::*;
use crate::config::fixture::{config, process};
use crate::config::probe::Address;
use crate::config::{Monitor, Process};
use crate::event::Pid;

const SECOND: Duration = Duration::from_secs(1);
const INTERVAL: Duration = Duration::from_secs(10);
const START: Time = Time(10_000_000_000_000);

fn probe() -> Probe {
    Probe {
        address: Address::Socket("/run/it.sock".into()),
        request: None,
        interval: INTERVAL,
        timeout: Duration::from_secs(2),
        failure_threshold: 3,
        success_threshold: 1,
        start_period: Duration::ZERO,
    }
}

fn entry(name: &str, probe: Probe) -> Process {
    let mut process = process(name);
    process.monitors = vec![Monitor::Network(Arc::new(probe))];
    process
}

fn watched(name: &str, probe: Probe) -> Process {
    Process { command: None, ..entry(name, probe) }
}

fn instance(number: u64) -> Instance {
    Instance { pid: Pid(i32::try_from(number).unwrap()), start_ticks: number }
}

/// The task's part, and what it saw.
struct World {
    rounds: Rounds,
    now: Time,
    running: BTreeMap<ProcessName, Ticket>,
    begun: Vec<(Time, ProcessName)>,
    told: Vec<Observation>,
}

impl World {
    fn new(processes: Vec<Process>) -> Self {
        let mut world = Self {
            rounds: Rounds::new(),
            now: START,
            running: BTreeMap::new(),
            begun: Vec::new(),
            told: Vec::new(),
        };
        world.reload(processes);
        world
    }

    fn on(&mut self, input: Input<'_>) {
        let actions = self.rounds.on(input, self.now);
        for action in actions {
            match action {
                Action::Begin { ticket, process, .. } => {
                    self.begun.push((self.now, process.clone()));
                    let before = self.running.insert(process, ticket);
                    assert_eq!(before, None, "one probe of a process at a time");
                }
                Action::Abandon(ticket) => self.running.retain(|_, running| *running != ticket),
                Action::Tell(_, observation) => self.told.push(observation),
                Action::Starved(lasting) => assert!(lasting >= SECOND),
            }
        }
        assert!(self.running.len() <= PARALLEL_MAX);
        let timer = self.rounds.next_deadline();
        assert!(timer.is_none_or(|timer| timer > self.now), "the task would spin");
    }

    fn reload(&mut self, processes: Vec<Process>) {
        self.on(Input::Reload(&config(processes)));
    }

    fn hold(&mut self, name: &str, number: u64) {
        let process = ProcessName::new(name);
        self.on(Input::Held { process, instance: instance(number), started: self.now });
    }

    fn end(&mut self, name: &str, number: u64) {
        let process = ProcessName::new(name);
        self.on(Input::Ended { process, instance: instance(number) });
    }

    /// Time passes, and healer runs all the while.
    fn pass(&mut self, time: Duration) {
        self.on(Input::Tick);
        let end = self.now.after(time);
        while let Some(timer) = self.rounds.next_deadline().filter(|timer| *timer <= end) {
            self.now = timer;
            self.on(Input::Tick);
        }
        self.now = end;
        self.on(Input::Tick);
    }

    /// Time passes, and healer does not run.
    fn freeze(&mut self, time: Duration) {
        self.now = self.now.after(time);
    }

    /// Time passes until a probe of the process is under way.
    fn until_probed(&mut self, name: &str) {
        for _ in 0..100_000 {
            if self.running.contains_key(name) {
                return;
            }
            let timer = self.rounds.next_deadline().expect("a probe is to come");
            self.now = timer;
            self.on(Input::Tick);
        }
        panic!("{name} is never probed");
    }

    fn answer(&mut self, name: &str, outcome: Outcome) {
        let ticket = self.running.remove(name).expect("a probe is under way");
        self.on(Input::Probed { ticket, outcome });
    }

    /// The next probes of the process come to these: `+` passed, `-` failed, `?` impossible.
    fn answers(&mut self, name: &str, outcomes: &str) {
        for outcome in outcomes.chars() {
            self.until_probed(name);
            self.answer(name, outcome_of(outcome));
        }
    }

    /// What was told since this was asked last: `H` healthy, `U` unhealthy.
    fn told(&mut self) -> String {
        let letter = |seen: &Observation| match seen {
            Observation::Healthy { .. } => 'H',
            Observation::Unhealthy { .. } => 'U',
            other => panic!("{other:?}"),
        };
        let told = self.told.iter().map(letter).collect();
        self.told.clear();
        told
    }
}

impl std::borrow::Borrow<str> for ProcessName {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

fn outcome_of(letter: char) -> Outcome {
    match letter {
        '+' => Outcome::Passed,
        '-' => Outcome::Failed("HTTP status 500".into()),
        _ => Outcome::Impossible("no descriptor is left".into()),
    }
}

#[rstest]
#[case::healthy_at_once("+", 3, 1, "H")]
#[case::told_once("+++", 3, 1, "H")]
#[case::two_failures("+--", 3, 1, "H")]
#[case::three_failures("+---", 3, 1, "HU")]
#[case::hung_is_told_once("+------", 3, 1, "HU")]
#[case::never_healthy("---", 3, 1, "U")]
#[case::a_success_between("+--+--+", 3, 1, "H")]
#[case::recovers("---+", 3, 1, "UH")]
#[case::hung_again("---+---", 3, 1, "UHU")]
#[case::one_is_enough("+-+-", 1, 1, "HUHU")]
#[case::two_successes("+-++", 3, 2, "H")]
#[case::successes_are_in_a_row("+-+-+-", 9, 2, "")]
#[case::back_after_two("---+-++", 3, 2, "UH")]
#[case::impossible_says_nothing("+-?-?-?", 3, 1, "HU")]
#[case::impossible_alone("?????", 1, 1, "")]
fn so_many_in_a_row_are_told(
    #[case] outcomes: &str,
    #[case] failure_threshold: u32,
    #[case] success_threshold: u32,
    #[case] told: &str,
) {
    let probe = Probe { failure_threshold, success_threshold, ..probe() };
    let mut world = World::new(vec![entry("web", probe)]);
    world.hold("web", 7);
    world.answers("web", outcomes);
    assert_eq!(world.told(), told);
}

#[test]
fn what_is_told_names_the_instance_and_the_last_reason() {
    let mut world = World::new(vec![entry("web", Probe { failure_threshold: 2, ..probe() })]);
    world.hold("web", 7);
    world.answers("web", "-");
    world.until_probed("web");
    world.answer("web", Outcome::Failed("connection refused".into()));
    let reason = "connection refused".to_owned();
    let seen = Observation::Unhealthy { instance: Some(instance(7)), reason };
    assert_eq!(world.told, std::slice::from_ref(&seen));
    assert_eq!(world.rounds.truth(), [(ProcessName::new("web"), seen)]);
    world.answers("web", "+");
    let seen = Observation::Healthy { instance: Some(instance(7)) };
    assert_eq!(world.rounds.truth(), [(ProcessName::new("web"), seen)]);
}

#[test]
fn a_young_instances_failures_do_not_count() {
    let start_period = 3 * INTERVAL;
    let mut world = World::new(vec![entry("web", Probe { start_period, ..probe() })]);
    world.hold("web", 7);
    world.until_probed("web");
    while world.now < START.after(start_period) {
        world.answer("web", outcome_of('-'));
        world.until_probed("web");
    }
    world.answers("web", "--");
    assert_eq!(world.told(), "");
    world.answers("web", "-");
    assert_eq!(world.told(), "U");
}

#[test]
fn a_probe_that_began_while_it_was_young_does_not_count() {
    let start_period = Duration::from_millis(200);
    let probe = Probe { start_period, failure_threshold: 1, ..probe() };
    let mut world = World::new(vec![entry("web", probe)]);
    world.hold("web", 7);
    world.until_probed("web");
    world.pass(SECOND);
    world.answer("web", outcome_of('-'));
    assert_eq!(world.told(), "");
    world.answers("web", "-");
    assert_eq!(world.told(), "U");
}

#[test]
fn the_first_success_ends_the_start_period() {
    let start_period = 100 * INTERVAL;
    let mut world = World::new(vec![entry("web", Probe { start_period, ..probe() })]);
    world.hold("web", 7);
    world.answers("web", "----+---");
    assert_eq!(world.told(), "HU");
    assert!(world.now < START.after(start_period));
}

#[test]
fn a_young_instance_is_probed_soon_and_then_less_often() {
    let (interval, start_period) = (3600 * SECOND, 60 * SECOND);
    let mut world = World::new(vec![entry("web", Probe { interval, start_period, ..probe() })]);
    world.hold("web", 7);
    world.answers("web", "---------");
    let times = world.begun.iter().map(|(begun, _)| begun.since(START));
    let times: Vec<Duration> = times.collect();
    let first = times[0];
    assert!(first >= Duration::from_millis(20) && first < Duration::from_millis(40), "{first:?}");
    for (index, time) in times.iter().enumerate() {
        let pauses = 20 * ((1 << index) - 1);
        assert_eq!(*time, first + Duration::from_millis(pauses), "{times:?}");
    }
    // Nothing is probed so often once it is known to work.
    world.answers("web", "+");
    world.pass(start_period);
    assert_eq!(world.begun.len(), 10);
}

#[test]
fn an_old_instance_is_probed_in_its_own_time() {
    let start_period = 10 * SECOND;
    let mut world = World::new(vec![entry("web", Probe { start_period, ..probe() })]);
    let started = Time(START.0 - 3_600_000_000_000);
    let process = ProcessName::new("web");
    world.on(Input::Held { process, instance: instance(7), started });
    // It is as old as its failures count.
    world.answers("web", "---");
    assert_eq!(world.told(), "U");
    assert!(world.now.since(START) <= 3 * INTERVAL);
}

#[test]
fn probes_come_once_an_interval_however_long_they_take() {
    let mut world = World::new(vec![entry("web", probe())]);
    world.hold("web", 7);
    for time in [0, 1500, 200, 1999, 0] {
        world.until_probed("web");
        world.pass(Duration::from_millis(time));
        world.answer("web", outcome_of('+'));
    }
    let first = world.begun[0].0;
    for (index, (begun, _)) in world.begun.iter().enumerate() {
        assert_eq!(*begun, first.after(INTERVAL * u32::try_from(index).unwrap()));
    }
}

#[test]
fn a_probe_that_takes_longer_than_its_interval_is_not_overtaken() {
    let probe = Probe { interval: SECOND, timeout: 5 * SECOND, ..probe() };
    let mut world = World::new(vec![entry("web", probe)]);
    world.hold("web", 7);
    world.until_probed("web");
    world.pass(Duration::from_millis(4300));
    assert_eq!(world.begun.len(), 1);
    world.answer("web", outcome_of('+'));
    world.until_probed("web");
    assert_eq!(world.begun[1].0, world.begun[0].0.after(5 * SECOND));
}

#[test]
fn a_thousand_processes_are_never_in_step() {
    let names: Vec<String> = (0..1000).map(|number| format!("service-{number}")).collect();
    let mut world = World::new(names.iter().map(|name| entry(name, probe())).collect());
    for (number, name) in (1_u64..).zip(&names) {
        world.hold(name, number);
    }
    let end = START.after(3 * INTERVAL);
    while world.now < end {
        let timer = world.rounds.next_deadline().unwrap();
        world.now = timer;
        world.on(Input::Tick);
        while let Some(name) = world.running.keys().next().cloned() {
            world.answer(name.as_str(), outcome_of('+'));
        }
    }
    let window = Duration::from_millis(100);
    let mut begun = BTreeMap::<u128, usize>::new();
    for (at, _) in &world.begun {
        *begun.entry(at.since(START).as_nanos() / window.as_nanos()).or_default() += 1;
    }
    // 10 on average; of random numbers, more than 25 are once in ten thousand windows.
    let most = begun.values().max().unwrap();
    assert!(*most <= 25, "{most} of 1000 in {window:?}");
    assert_eq!(world.told().len(), 1000);
}

#[test]
fn without_an_instance_nothing_is_probed() {
    let mut world = World::new(vec![entry("web", probe())]);
    assert_eq!(world.rounds.next_deadline(), None);
    world.hold("web", 7);
    assert!(world.rounds.next_deadline().is_some());
    world.end("web", 7);
    assert_eq!(world.rounds.next_deadline(), None);
    assert_eq!(world.rounds.truth(), []);
}

#[test]
fn what_is_only_watched_needs_no_instance() {
    let mut world = World::new(vec![watched("db", probe())]);
    world.answers("db", "---+");
    assert_eq!(
        world.told[0],
        Observation::Unhealthy { instance: None, reason: "HTTP status 500".into() }
    );
    assert_eq!(world.told[1], Observation::Healthy { instance: None });
}

#[test]
fn an_answer_for_an_earlier_instance_is_dropped() {
    let mut world = World::new(vec![entry("web", Probe { failure_threshold: 1, ..probe() })]);
    world.hold("web", 7);
    world.until_probed("web");
    let late = world.running[&ProcessName::new("web")];
    world.end("web", 7);
    assert!(world.running.is_empty(), "its probe is abandoned");
    world.hold("web", 8);
    world.on(Input::Probed { ticket: late, outcome: outcome_of('-') });
    assert_eq!(world.told(), "");
    world.answers("web", "-");
    let instance = Some(instance(8));
    assert!(
        matches!(&world.told[0], Observation::Unhealthy { instance: of, .. } if *of == instance)
    );
}

#[test]
fn each_instance_counts_anew_and_is_told_anew() {
    let mut world = World::new(vec![entry("web", probe())]);
    world.hold("web", 7);
    world.answers("web", "+--");
    // It was replaced while nobody told of its end.
    world.hold("web", 8);
    world.answers("web", "--");
    assert_eq!(world.told(), "H");
    world.answers("web", "-");
    assert_eq!(world.told(), "U");
    world.end("web", 8);
    world.hold("web", 9);
    world.answers("web", "+");
    assert_eq!(world.told(), "H");
}

#[test]
fn news_of_the_instance_that_is_held_changes_nothing() {
    let mut world = World::new(vec![entry("web", probe())]);
    let started = world.now;
    world.hold("web", 7);
    world.answers("web", "--");
    let process = ProcessName::new("web");
    world.on(Input::Held { process, instance: instance(7), started });
    world.end("web", 6);
    world.answers("web", "-");
    assert_eq!(world.told(), "U");
}

#[test]
fn a_reload_leaves_an_unchanged_probe_alone() {
    let mut world = World::new(vec![entry("web", probe())]);
    world.hold("web", 7);
    world.answers("web", "--");
    world.until_probed("web");
    let mut changed = entry("web", probe());
    changed.args = vec!["-v".into()];
    world.reload(vec![changed, entry("db", probe())]);
    world.answer("web", outcome_of('-'));
    assert_eq!(world.told(), "U");
}

#[test]
fn a_changed_probe_counts_anew_for_the_instance_that_is_held() {
    let mut world = World::new(vec![entry("web", probe())]);
    world.hold("web", 7);
    world.answers("web", "--");
    world.until_probed("web");
    world.reload(vec![entry("web", Probe { failure_threshold: 2, ..probe() })]);
    assert!(world.running.is_empty(), "a probe of the old kind is abandoned");
    world.answers("web", "-");
    assert_eq!(world.told(), "");
    world.answers("web", "-");
    assert_eq!(world.told(), "U");
}

#[rstest]
#[case::removed(vec![])]
#[case::disabled(vec![Process { enabled: false, ..entry("web", probe()) }])]
#[case::without_a_probe(vec![process("web")])]
fn what_a_reload_takes_away_is_probed_no_longer(#[case] after: Vec<Process>) {
    let mut world = World::new(vec![entry("web", probe())]);
    world.hold("web", 7);
    world.until_probed("web");
    world.reload(after);
    assert!(world.running.is_empty());
    assert_eq!(world.rounds.next_deadline(), None);
}

#[test]
fn a_process_that_gets_a_probe_by_a_reload_is_probed() {
    let mut world = World::new(vec![process("web")]);
    world.hold("web", 7);
    world.reload(vec![entry("web", probe())]);
    world.answers("web", "+");
    assert_eq!(world.told, [Observation::Healthy { instance: Some(instance(7)) }]);
}

#[test]
fn failures_while_healer_did_not_run_do_not_count() {
    let mut world = World::new(vec![entry("web", Probe { failure_threshold: 1, ..probe() })]);
    world.hold("web", 7);
    for _ in 0..5 {
        world.until_probed("web");
        // Stopped, or starved: longer than the probe itself may take.
        world.freeze(Duration::from_secs(3));
        world.answer("web", outcome_of('-'));
    }
    assert_eq!(world.told(), "");
    world.until_probed("web");
    world.pass(Duration::from_secs(2));
    world.answer("web", outcome_of('-'));
    assert_eq!(world.told(), "U");
}

#[test]
fn success_while_healer_did_not_run_counts() {
    let mut world = World::new(vec![entry("web", probe())]);
    world.hold("web", 7);
    world.until_probed("web");
    world.freeze(Duration::from_secs(3));
    world.answer("web", outcome_of('+'));
    assert_eq!(world.told(), "H");
}

#[rstest]
#[case::for_a_moment(100, 1900, "U")]
#[case::for_half_of_it(900, 900, "U")]
#[case::for_most_of_it(1900, 100, "")]
fn a_failure_counts_if_healer_ran_for_most_of_it(
    #[case] frozen: u64,
    #[case] running: u64,
    #[case] told: &str,
) {
    let mut world = World::new(vec![entry("web", Probe { failure_threshold: 1, ..probe() })]);
    world.hold("web", 7);
    world.until_probed("web");
    // Until its timer, nobody can tell whether it ran.
    let timer = world.rounds.next_deadline().unwrap();
    world.now = timer;
    world.freeze(Duration::from_millis(frozen));
    world.pass(Duration::from_millis(running));
    world.answer("web", outcome_of('-'));
    assert_eq!(world.told(), told);
}

#[test]
fn a_long_probe_counts_unless_healer_did_not_run_for_an_interval() {
    let probe = Probe { interval: SECOND, timeout: 60 * SECOND, failure_threshold: 1, ..probe() };
    let mut world = World::new(vec![entry("web", probe)]);
    world.hold("web", 7);
    world.until_probed("web");
    world.pass(40 * SECOND);
    world.freeze(Duration::from_millis(1500));
    world.pass(18 * SECOND);
    world.answer("web", outcome_of('-'));
    assert_eq!(world.told(), "");
}

#[test]
fn after_a_suspend_the_probes_are_spread_as_before() {
    let names: Vec<String> = (0..200).map(|number| format!("service-{number}")).collect();
    let mut world = World::new(names.iter().map(|name| watched(name, probe())).collect());
    world.freeze(Duration::from_secs(3600));
    world.on(Input::Tick);
    assert!(world.begun.len() < 5, "{} at once", world.begun.len());
    world.pass(INTERVAL / 2);
    assert!((70..130).contains(&world.begun.len()), "{} in half the time", world.begun.len());
    world.pass(INTERVAL / 2);
    assert_eq!(world.begun.len(), 200);
}

#[test]
fn who_waits_for_room_is_probed_as_soon_as_there_is_some() {
    let names: Vec<String> = (0..300).map(|number| format!("service-{number}")).collect();
    let mut world = World::new(names.iter().map(|name| watched(name, probe())).collect());
    world.pass(3 * INTERVAL);
    assert_eq!(world.begun.len(), PARALLEL_MAX);
    let mut probed = 0;
    while let Some(name) = world.running.keys().next().cloned() {
        world.answer(name.as_str(), outcome_of('+'));
        probed += 1;
    }
    assert_eq!(probed, 300);
    assert_eq!(world.told().len(), 300);
}

/// One step of a random history.
#[derive(Clone, Debug)]
enum Step {
    Hold,
    End,
    Pass(u64),
    Freeze(u64),
    Answer(char),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => Just(Step::Hold),
        1 => Just(Step::End),
        6 => (0_u64..4000).prop_map(Step::Pass),
        1 => (0_u64..30_000).prop_map(Step::Freeze),
        8 => prop::sample::select(vec!['+', '-', '-', '-', '?']).prop_map(Step::Answer),
    ]
}

/// What should have been told, counted by hand.
#[derive(Default)]
struct Expected {
    held: Option<(u64, Time)>,
    began: Option<Time>,
    succeeded: bool,
    failures: u32,
    successes: u32,
    said: Option<char>,
    told: String,
}

impl Expected {
    fn answered(&mut self, outcome: char, probe: &Probe, now: Time) {
        let (Some((_, started)), Some(began)) = (self.held, self.began.take()) else { return };
        let young = !self.succeeded && began < started.after(probe.start_period);
        let letter = match outcome {
            '+' => {
                self.succeeded = true;
                (self.failures, self.successes) = (0, self.successes + 1);
                (self.successes >= probe.success_threshold).then_some('H')
            }
            '-' if young => None,
            '-' => {
                (self.failures, self.successes) = (self.failures + 1, 0);
                (self.failures >= probe.failure_threshold).then_some('U')
            }
            _ => None,
        };
        if let Some(letter) = letter.filter(|letter| self.said != Some(*letter)) {
            self.said = Some(letter);
            self.told.push(letter);
            let age = now.since(started);
            assert!(letter == 'H' || self.succeeded || age >= probe.start_period);
        }
    }
}

proptest! {
    /// No probe overtakes another of its process, thresholds are exact, a young instance is never
    /// told hung, and what came while healer did not run does not count. The world asserts the
    /// first, and that the task never spins.
    #[test]
    fn a_random_history_tells_what_counting_by_hand_tells(
        steps in prop::collection::vec(step(), 0..300),
        failure_threshold in 1_u32..4,
        success_threshold in 1_u32..3,
        start_secs in 0_u64..20,
        interval_secs in 1_u64..12,
    ) {
        let probe = Probe {
            interval: Duration::from_secs(interval_secs),
            failure_threshold,
            success_threshold,
            start_period: Duration::from_secs(start_secs),
            ..probe()
        };
        let mut world = World::new(vec![entry("web", probe.clone())]);
        let mut expected = Expected::default();
        for (number, step) in (1_u64..).zip(steps) {
            match step {
                Step::Hold => {
                    world.hold("web", number);
                    let told = std::mem::take(&mut expected.told);
                    let held = Some((number, world.now));
                    expected = Expected { held, told, ..Expected::default() };
                }
                Step::End => {
                    if let Some((number, _)) = expected.held.take() {
                        world.end("web", number);
                    }
                    expected.began = None;
                }
                Step::Pass(millis) => world.pass(Duration::from_millis(millis)),
                Step::Freeze(millis) => {
                    world.freeze(Duration::from_millis(millis));
                    // Whether it counts is for the tables: here, what was frozen is not answered.
                    if let Some(ticket) = world.running.remove("web") {
                        world.on(Input::Probed { ticket, outcome: outcome_of('?') });
                        expected.began = None;
                    }
                }
                Step::Answer(outcome) => {
                    if world.running.contains_key("web") {
                        world.answer("web", outcome_of(outcome));
                        expected.answered(outcome, &probe, world.now);
                    }
                }
            }
            if world.running.contains_key("web") && expected.began.is_none() {
                expected.began = world.begun.last().map(|(begun, _)| *begun);
            }
        }
        prop_assert_eq!(world.told(), expected.told);
    }

    /// However processes are held and ended, each that is held is probed within an interval.
    #[test]
    fn whoever_is_held_is_probed_within_an_interval(
        count in 1_u64..50,
        pauses in prop::collection::vec(0_u64..3000, 50),
    ) {
        let names: Vec<String> = (0..count).map(|number| format!("p{number}")).collect();
        let mut world = World::new(names.iter().map(|name| entry(name, probe())).collect());
        let mut held = BTreeMap::new();
        for ((number, name), pause) in (1_u64..).zip(&names).zip(pauses) {
            world.pass(Duration::from_millis(pause));
            world.hold(name, number);
            held.insert(ProcessName::new(name), world.now);
        }
        world.pass(INTERVAL);
        for (name, since) in held {
            let begun = world.begun.iter().find(|(_, begun)| *begun == name);
            prop_assert!(begun.is_some_and(|(begun, _)| begun.since(since) <= INTERVAL));
        }
    }
}
