//! What a process's status says along its life.

use std::time::Duration;

use super::plan::Plan;
use super::status::{Ended, Failure, Phase, ProcessStatus, Running};
use crate::config::fixture;
use crate::event::{End, Exit, Instance, Pid, ProcessName, Request, Signal, State, Time};
use crate::lifecycle::Input;

fn at(millis: u64) -> Time {
    Time(millis * 1_000_000)
}

fn instance(pid: i32) -> Instance {
    Instance { pid: Pid(pid), start_ticks: 1 }
}

fn killed() -> Exit {
    let end = End::Signal { signal: Signal(9), core_dumped: false };
    Exit { end: Some(end), ..Exit::default() }
}

/// The process `web`, with one retry, and what happens to it.
struct Life(Plan);

impl Life {
    fn new() -> Self {
        let mut process = fixture::process("web");
        process.recovery.breaker.retries = 1;
        let mut plan = Plan::new();
        let _ = plan.reload(&fixture::config(vec![process]), at(0));
        Self(plan)
    }

    fn on(&mut self, millis: u64, input: Input) -> ProcessStatus {
        let _ = self.0.on(&ProcessName::new("web"), input, at(millis));
        self.status(millis)
    }

    fn launch(&mut self, millis: u64, pid: i32) -> ProcessStatus {
        let _ = self.on(millis, Input::Prepared);
        self.on(millis, Input::Launched { instance: instance(pid) })
    }

    fn status(&self, millis: u64) -> ProcessStatus {
        self.0.status_of(&ProcessName::new("web"), at(millis)).unwrap()
    }
}

#[test]
fn an_instance_runs_since_its_launch_and_its_end_is_remembered_when_another_runs() {
    let mut life = Life::new();
    let _ = life.on(1_000, Input::Missing);
    let status = life.launch(2_000, 7);
    let running = Running { instance: instance(7), since: at(2_000), adopted: false, ready: false };
    assert_eq!((status.running, status.since, status.failures), (Some(running), at(2_000), 0));
    let ended = life.on(5_000, Input::Ended { instance: instance(7), exit: killed() });
    assert_eq!((ended.state, ended.running, ended.failures), (State::Starting, None, 1));
    let status = life.launch(5_100, 8);
    assert_eq!(status.running.map(|running| running.since), Some(at(5_100)));
    let last = Ended { instance: instance(7), at: at(5_000), exit: killed() };
    assert_eq!(status.last_exit, Some(last));
    assert_eq!(life.status(65_100).failures, 0, "it left the window");
}

#[test]
fn an_adopted_instance_runs_since_its_own_start_also_while_it_is_ended() {
    let mut life = Life::new();
    let found = Input::Found { instance: instance(7), started: at(500) };
    let running = life.on(9_000, found).running.unwrap();
    assert_eq!((running.since, running.adopted, running.ready), (at(500), true, true));
    let _ = life.0.ask(&ProcessName::new("web"), Request::Stop, "root".into(), at(9_500)).unwrap();
    let status = life.status(9_600);
    assert!(matches!(status.state, State::Stopping { .. }), "{status:?}");
    assert_eq!(status.running.map(|running| running.since), Some(at(500)));
    assert_eq!(status.pause.map(|pause| pause.by), Some("root".to_owned()));
}

#[test]
fn a_state_counts_from_the_move_into_it_and_not_from_a_change_within_it() {
    let mut life = Life::new();
    let _ = life.on(1_000, Input::Missing);
    let _ = life.launch(2_000, 7);
    let pause = Request::Pause { lasting: None };
    let _ = life.0.ask(&ProcessName::new("web"), pause, "root".into(), at(3_000)).unwrap();
    let ended = life.on(8_000, Input::Ended { instance: instance(7), exit: killed() });
    assert!(matches!(ended.state, State::Paused { instance: None, .. }), "{ended:?}");
    assert_eq!(ended.since, at(3_000));
}

#[test]
fn breaker_and_its_phases_are_told() {
    let mut life = Life::new();
    let _ = life.on(0, Input::Missing);
    assert_eq!(life.launch(0, 7).breaker, Phase::Closed);
    let _ = life.on(1_000, Input::Ended { instance: instance(7), exit: killed() });
    let _ = life.launch(1_000, 8);
    let open = life.on(2_000, Input::Ended { instance: instance(8), exit: killed() });
    assert_eq!(open.breaker, Phase::Open { until: at(182_000) });
    assert_eq!((open.failures, open.retries, open.window), (2, 1, Duration::from_secs(60)));
    let _ = life.0.on_time(at(182_000));
    assert_eq!(life.status(182_000).breaker, Phase::HalfOpen);
}

#[test]
fn a_failed_launch_is_told_until_one_succeeds() {
    let mut life = Life::new();
    let _ = life.on(0, Input::Missing);
    let _ = life.on(0, Input::Prepared);
    let failed = life.on(10, Input::LaunchFailed { reason: "exec: ENOENT".into() });
    let failure = Failure { reason: "exec: ENOENT".into(), at: at(10) };
    assert_eq!(failed.launch_failure, Some(failure));
    assert_eq!(life.launch(20, 7).launch_failure, None);
}

#[test]
fn all_are_told_by_name_and_those_that_leave_are_not() {
    let mut plan = Plan::new();
    let config =
        |names: &[&str]| fixture::config(names.iter().map(|name| fixture::process(name)).collect());
    let _ = plan.reload(&config(&["web", "db"]), at(0));
    let names = |plan: &Plan| {
        let all = plan.status(at(1));
        all.iter().map(|status| status.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names(&plan), ["db", "web"]);
    let web = ProcessName::new("web");
    let _ = plan.on(&web, Input::Missing, at(1));
    let _ = plan.on(&web, Input::Prepared, at(1));
    let _ = plan.reload(&config(&["db"]), at(2));
    assert_eq!(names(&plan), ["db"], "web's launch is under way, but it is configured no longer");
    assert_eq!(plan.status_of(&web, at(2)), None);
}
