//! One healer ends, the next goes on: what becomes of a process between the two.

use std::time::Duration;

use proptest::prelude::*;
use rstest::rstest;

use super::super::words::Input;
use super::*;
use crate::config::fixture;
use crate::event::{Change, Pid, Request, State};

const NOW: Time = Time(100_000_000_000);

fn instance(pid: i32) -> Instance {
    Instance { pid: Pid(pid), start_ticks: 1 }
}

fn running(pid: i32) -> Memory {
    let running = Running { instance: instance(pid), launched: None, ending: None };
    Memory { running: Some(running), ..Memory::default() }
}

fn ending(pid: i32, why: Why) -> Memory {
    let running = Running { instance: instance(pid), launched: None, ending: Some(why) };
    Memory { running: Some(running), ..Memory::default() }
}

/// What the lifecycle does, but for what it tells.
fn on(life: &mut Lifecycle, process: &Process, input: Input) -> Vec<Action> {
    let actions = life.on(process, input, NOW);
    actions.into_iter().filter(|action| !matches!(action, Action::Tell(_))).collect()
}

/// A lifecycle that goes on from this, with a breaker that is HalfOpen or Open.
fn with_breaker(memory: Memory, trial: bool, refused: bool) -> Lifecycle {
    let (life, actions) = Lifecycle::new(&fixture::process("web"), NOW);
    assert_eq!(actions, [Action::Look]);
    life.recalling(memory, trial, refused)
}

/// A lifecycle that goes on from this, with a Closed breaker.
fn recalled(memory: Memory) -> Lifecycle {
    with_breaker(memory, false, false)
}

fn found(pid: i32) -> Input {
    Input::Found { instance: instance(pid), started: Time(0) }
}

fn stop(reason: &str) -> Why {
    Why::Stop { by: reason.to_owned() }
}

#[test]
fn whoever_lives_is_adopted_and_ready_at_once() {
    let mut life = recalled(running(7));
    let actions = on(&mut life, &fixture::process("web"), found(7));
    assert_eq!(actions, [Action::Running, Action::Ready]);
    assert_eq!(life.state(), State::Up { instance: instance(7), ready: true });
}

#[test]
fn whoever_died_meanwhile_is_told_judged_and_what_is_left_of_it_ended() {
    let process = fixture::process("web");
    let mut life = recalled(running(7));
    let actions = life.on(&process, Input::Missing, NOW);
    let exit = Box::new(Exit::default());
    let told = Action::Tell(Change::Ended { instance: instance(7), exit });
    assert_eq!(actions, [told, Action::Judge]);
    assert_eq!(on(&mut life, &process, Input::Permitted), [Action::Await]);
    let prepare = Action::Prepare { last: Some(instance(7)), look: false };
    assert_eq!(on(&mut life, &process, Input::Released), [prepare]);
    let _ = life.on(&process, Input::Prepared, NOW);
    let _ = life.on(&process, Input::Go, NOW);
    let actions = life.on(&process, Input::Launched { instance: instance(8) }, NOW);
    // Nobody knows when the outage began.
    let started = Change::Started { instance: instance(8), outage: None };
    assert!(actions.contains(&Action::Tell(started)), "{actions:?}");
}

#[rstest]
#[case::always(Restart::Always, true)]
#[case::on_failure(Restart::OnFailure, true)]
#[case::never(Restart::Never, false)]
fn an_end_that_nobody_saw_is_of_unknown_cause(#[case] restart: Restart, #[case] failure: bool) {
    let mut process = fixture::process("web");
    process.recovery.restart = restart;
    process.autostart = false;
    let mut life = recalled(running(7));
    let expected = if failure { Action::Judge } else { Action::Finished };
    assert_eq!(on(&mut life, &process, Input::Missing), [expected]);
}

#[test]
fn what_came_to_its_end_is_not_run_again_because_healer_was_restarted() {
    let mut process = fixture::process("job");
    process.recovery.restart = Restart::OnFailure;
    let memory = Memory { finished: true, ..Memory::default() };
    let mut life = recalled(memory.clone());
    assert_eq!(on(&mut life, &process, Input::Missing), [Action::Finished]);
    assert_eq!(life.memory(), memory);
    process.recovery.restart = Restart::Always;
    assert_eq!(on(&mut recalled(memory), &process, Input::Missing), [Action::Await]);
}

#[rstest]
#[case::wanted(Memory { wanted: true, ..Memory::default() })]
#[case::in_the_middle_of_a_launch(Memory { stage: Some(instance(9)), ..Memory::default() })]
fn a_start_that_was_under_way_is_made_whatever_autostart_says(#[case] memory: Memory) {
    let process = Process { autostart: false, ..fixture::process("web") };
    assert_eq!(on(&mut recalled(memory), &process, Input::Missing), [Action::Await]);
}

#[test]
fn a_stage_that_became_the_instance_is_it() {
    let mut life = recalled(Memory { stage: Some(instance(9)), ..Memory::default() });
    let _ = on(&mut life, &fixture::process("web"), found(9));
    let launched = life.memory().running.and_then(|running| running.launched);
    assert_eq!(launched, Some(Time(0)), "when it started");
}

#[test]
fn a_stage_of_what_was_stopped_meanwhile_is_ended() {
    let pause = Some(Pause { by: "root".to_owned(), until: None });
    let stage = Some(instance(9));
    let mut life = recalled(Memory { stage, pause, stop_wanted: true, ..Memory::default() });
    let actions = on(&mut life, &fixture::process("web"), found(9));
    assert!(actions.contains(&Action::Stop { instance: instance(9) }), "{actions:?}");
}

#[test]
fn open_is_refused_until_the_trial_and_a_launch_that_an_operator_wanted_is_made() {
    let process = fixture::process("web");
    let memory = Memory { wanted: true, ..Memory::default() };
    let mut life = with_breaker(memory.clone(), false, true);
    assert_eq!(on(&mut life, &process, Input::Missing), [Action::Stopped]);
    let until = NOW.after(Duration::from_secs(60));
    assert_eq!(on(&mut life, &process, Input::Refused { until }), []);
    assert_eq!(life.state(), State::BreakerOpen { until });
    assert_eq!(on(&mut life, &process, Input::TrialDue), [Action::Await]);
    // The end of the Open period may come before the answer of the first look.
    let mut life = with_breaker(memory.clone(), false, true);
    assert_eq!(on(&mut life, &process, Input::TrialDue), []);
    assert_eq!(on(&mut life, &process, Input::Missing), [Action::Await]);
    let asked = Memory { stage: Some(instance(9)), ..memory };
    let mut life = with_breaker(asked, false, true);
    assert_eq!(on(&mut life, &process, Input::Missing), [Action::Await]);
}

#[test]
fn a_pause_holds_on_and_ends_in_time() {
    let process = fixture::process("web");
    let until = NOW.after(Duration::from_secs(60));
    let pause = Pause { by: "root".to_owned(), until: Some(until) };
    let memory = Memory { pause: Some(pause.clone()), ..running(7) };
    let mut life = recalled(memory);
    assert_eq!(on(&mut life, &process, Input::Missing), [Action::Stopped]);
    assert_eq!(life.state(), State::Paused { pause, instance: None });
    assert_eq!(life.next_deadline(&process).map(|at| at.min(until)), life.next_deadline(&process));
    let actions = life.on(&process, Input::Tick, until);
    assert!(actions.contains(&Action::Await), "{actions:?}");
}

#[rstest]
#[case::stopped(stop("root"))]
#[case::restarted(Why::Restart { reason: "asked for by root".to_owned() })]
#[case::hung(Why::Hung { reason: "timed out".to_owned() })]
fn what_was_being_ended_is_ended(#[case] why: Why) {
    let mut life = recalled(ending(7, why.clone()));
    let actions = on(&mut life, &fixture::process("web"), found(7));
    assert!(actions.contains(&Action::Stop { instance: instance(7) }), "{actions:?}");
    assert_eq!(life.memory(), ending(7, why));
}

#[rstest]
#[case::stopped(stop("root"), Action::Stopped)]
#[case::restarted(Why::Restart { reason: String::new() }, Action::Stopped)]
#[case::hung(Why::Hung { reason: String::new() }, Action::Judge)]
fn what_was_being_ended_and_has_ended_is_no_more_than_that(
    #[case] why: Why,
    #[case] expected: Action,
) {
    let again = !matches!(why, Why::Stop { .. });
    let mut life = recalled(ending(7, why));
    let actions = on(&mut life, &fixture::process("web"), Input::Missing);
    assert_eq!(actions.first(), Some(&expected));
    assert_eq!(life.memory().wanted, again);
}

#[test]
fn a_stop_that_was_undone_before_the_look_is_a_restart() {
    let pause = Some(Pause { by: "root".to_owned(), until: None });
    let memory = Memory { pause, stop_wanted: true, ..ending(7, stop("root")) };
    let process = fixture::process("web");
    let mut life = recalled(memory);
    let resume = Input::Asked { request: Request::Resume, by: "root".to_owned() };
    assert_eq!(on(&mut life, &process, resume), []);
    assert_eq!(on(&mut life, &process, Input::Missing), [Action::Stopped, Action::Await]);
}

/// Its launcher exited while healer did not run: that may have been exit code 0.
#[test]
fn the_daemon_of_a_young_launch_is_looked_for_and_then_in_full() {
    let process = fixture::process("web");
    let launched = Some(Time(NOW.0 - 1_000_000_000));
    let young = Running { instance: instance(7), launched, ending: None };
    let mut life = recalled(Memory { running: Some(young.clone()), ..Memory::default() });
    assert_eq!(on(&mut life, &process, Input::Missing), []);
    assert_eq!(life.memory().running, Some(young), "to be looked for by a third healer too");
    let look_at = life.next_deadline(&process).expect("it is looked for");
    let actions = life.on(&process, Input::Tick, look_at);
    assert_eq!(actions, [Action::FindSuccessor { launched: instance(7) }]);
    assert_eq!(on(&mut life, &process, Input::NoSuccessor), [Action::Judge]);
    assert_eq!(on(&mut life, &process, Input::Permitted), [Action::Await]);
    let prepare = Action::Prepare { last: Some(instance(7)), look: true };
    assert_eq!(on(&mut life, &process, Input::Released), [prepare]);
}

#[test]
fn doubt_forgets_nothing() {
    let memory = Memory { stage: Some(instance(9)), wanted: true, ..running(7) };
    let process = fixture::process("web");
    let mut life = recalled(memory.clone());
    assert_eq!(on(&mut life, &process, Input::Unclear { reason: "a stage".to_owned() }), []);
    assert_eq!(life.memory(), memory);
    assert_eq!(on(&mut life, &process, found(9)), [Action::Running, Action::Ready]);
}

fn any_memory() -> impl Strategy<Value = Memory> {
    let why = prop_oneof![
        Just(stop("root")),
        Just(Why::Restart { reason: String::new() }),
        Just(Why::Hung { reason: String::new() }),
    ];
    let running = (1..4, prop::option::of(any::<u64>()), prop::option::of(why)).prop_map(
        |(pid, launched, ending)| Running {
            instance: instance(pid),
            launched: launched.map(Time),
            ending,
        },
    );
    let pause = prop::option::of(any::<u64>())
        .prop_map(|until| Pause { by: String::new(), until: until.map(Time) });
    (
        prop::option::of(running),
        prop::option::of((1..4).prop_map(instance)),
        prop::option::of((1..4).prop_map(instance)),
        any::<(bool, bool, bool)>(),
        prop::option::of(pause),
    )
        .prop_map(|(running, last, stage, (wanted, finished, stop_wanted), pause)| Memory {
            running,
            last,
            stage,
            wanted,
            finished,
            pause,
            stop_wanted,
        })
}

proptest! {
    /// Whatever is remembered, the first answer leads somewhere, and nothing spins.
    #[test]
    fn any_memory_makes_a_life_that_goes_on(
        memory in any_memory(),
        trial in any::<bool>(),
        refused in any::<bool>(),
        autostart in any::<bool>(),
        restart in prop::sample::select(vec![Restart::Always, Restart::OnFailure, Restart::Never]),
        input in prop_oneof![
            (1..4).prop_map(found),
            Just(Input::Missing),
            Just(Input::TrialDue),
            Just(Input::Unclear { reason: "two of them".to_owned() }),
        ],
    ) {
        let mut process = Process { autostart, ..fixture::process("web") };
        process.recovery.restart = restart;
        let mut life = with_breaker(memory, trial, refused);
        let _ = life.on(&process, input, NOW);
        for _ in 0..3 {
            if life.next_deadline(&process).is_some_and(|deadline| deadline <= NOW) {
                let _ = life.on(&process, Input::Tick, NOW);
            }
        }
        prop_assert!(life.next_deadline(&process).is_none_or(|deadline| deadline > NOW));
        let again = with_breaker(life.memory(), trial, refused);
        let (first, second) = (life.memory(), again.memory());
        prop_assert_eq!((first.running, first.pause), (second.running, second.pause));
    }
}
