//! One life after another, step by step.

use std::time::Duration;

use super::policy::delay;
use super::*;
use crate::config::Backoff;
use crate::config::fixture;
use crate::event::{End, Exit, Killer, Pid, ProcessName, Request, Signal, Wait};
use proptest::prelude::*;
use rstest::rstest;

fn at(millis: u64) -> Time {
    Time(millis * 1_000_000)
}

fn instance(pid: i32) -> Instance {
    Instance { pid: Pid(pid), start_ticks: 1 }
}

fn code(code: i32) -> Exit {
    Exit { end: Some(End::Code(code)), ..Exit::default() }
}

fn signal(number: i32) -> Exit {
    let end = End::Signal { signal: Signal(number), core_dumped: false };
    Exit { end: Some(end), ..Exit::default() }
}

fn sent(number: i32, killer: Killer) -> Exit {
    Exit { killer: Some(killer), ..signal(number) }
}

fn other() -> Killer {
    Killer::Process { pid: Some(Pid(812)), comm: "sh".into(), uid: 0 }
}

/// A lifecycle, its process, and the moment it has come to.
struct Life {
    inner: Lifecycle,
    process: Process,
    now: Time,
    /// Whether its dependencies hold it; else they release it at once.
    held: bool,
}

impl Life {
    fn new(process: Process) -> Self {
        let (life, look) = Lifecycle::new(&process, at(0));
        assert_eq!(look, [Action::Look]);
        Self { inner: life, process, now: at(0), held: false }
    }

    fn on(&mut self, input: Input) -> Vec<Action> {
        let actions = self.inner.on(&self.process, input, self.now);
        let mut wanted = Vec::new();
        for action in actions {
            match action {
                Action::Tell(_) => {}
                Action::Await if !self.held => wanted.extend(self.on(Input::Released)),
                action => wanted.push(action),
            }
        }
        wanted
    }

    fn at(&mut self, millis: u64, input: Input) -> Vec<Action> {
        self.now = at(millis);
        self.on(input)
    }

    /// Brings it up as this PID, from wherever a launch is being prepared.
    fn launch(&mut self, pid: i32) {
        assert_eq!(self.on(Input::Prepared), [Action::Enqueue]);
        assert_eq!(self.on(Input::Go), [Action::Launch]);
        assert_eq!(self.on(Input::Launched { instance: instance(pid) }), [Action::Running]);
    }

    fn end(&mut self, pid: i32, exit: Exit) -> Vec<Action> {
        self.on(Input::Ended { instance: instance(pid), exit })
    }
}

fn prepare(pid: i32) -> Action {
    Action::Prepare { last: Some(instance(pid)), look: false }
}

fn started(process: Process) -> Life {
    let mut life = Life::new(process);
    let first = Action::Prepare { last: None, look: false };
    assert_eq!(life.on(Input::Missing), [first]);
    life.launch(1);
    life
}

#[test]
fn a_dead_instance_is_prepared_queued_and_launched_at_once() {
    let mut life = started(fixture::process("web"));
    assert_eq!(life.end(1, signal(9)), [Action::Judge]);
    assert_eq!(life.on(Input::Permitted), [prepare(1)]);
    life.launch(2);
    assert_eq!(life.inner.state(), State::Up { instance: instance(2), ready: false });
}

#[test]
fn news_of_another_instance_is_old_news() {
    let mut life = started(fixture::process("web"));
    assert_eq!(life.end(7, signal(9)), []);
    assert_eq!(life.inner.state(), State::Up { instance: instance(1), ready: false });
}

#[test]
fn one_death_counts_once_however_often_it_is_reported() {
    let mut life = started(fixture::process("web"));
    assert_eq!(life.end(1, signal(9)), [Action::Judge]);
    assert_eq!(life.end(1, signal(9)), []);
    assert_eq!(life.on(Input::Permitted), [prepare(1)]);
    assert_eq!(life.end(1, signal(9)), []);
}

#[test]
fn without_autostart_a_missing_process_stays_down_until_somebody_starts_it() {
    let process = Process { autostart: false, ..fixture::process("web") };
    let mut life = Life::new(process);
    assert_eq!(life.on(Input::Missing), [Action::Stopped]);
    assert_eq!(life.inner.state(), State::Down);
    assert_eq!(life.at(30_000, Input::Tick), [Action::Look]);
    let found = Input::Found { instance: instance(5), started: at(29_000) };
    assert_eq!(life.on(found), [Action::Running, Action::Ready]);
    assert_eq!(life.end(5, Exit::default()), [Action::Judge]);
}

#[test]
fn an_unclear_process_is_neither_adopted_nor_started_and_looked_at_again() {
    let mut life = Life::new(fixture::process("web"));
    assert_eq!(life.on(Input::Unclear { reason: "812 may be it".into() }), []);
    assert_eq!(life.inner.state(), State::Unknown { reason: "812 may be it".into() });
    let mut looks = Vec::new();
    while looks.len() < 7 {
        let due = life.inner.next_deadline(&life.process).expect("it is looked at again");
        looks.push(due.since(life.now).as_millis());
        life.now = due;
        assert_eq!(life.on(Input::Tick), [Action::Look]);
        assert_eq!(life.on(Input::Unclear { reason: "812 may be it".into() }), []);
    }
    assert_eq!(looks, [200, 400, 800, 1600, 3200, 5000, 5000]);
    assert_eq!(life.on(Input::Missing), [Action::Prepare { last: None, look: false }]);
}

#[test]
fn an_instance_that_somebody_else_starts_during_backoff_is_adopted() {
    let mut life = started(fixture::process("web"));
    for pid in 1..=2 {
        assert_eq!(life.end(pid, code(1)), [Action::Judge]);
        let _ = life.on(Input::Permitted);
        if pid == 1 {
            life.launch(2);
        }
    }
    assert_eq!(life.inner.state(), State::BackingOff { until: at(1_000) });
    let found = Input::Found { instance: instance(9), started: at(0) };
    assert_eq!(life.on(found), [Action::Running]);
    assert_eq!(life.on(Input::Prepared), [], "an answer to an old question");
}

#[test]
fn alive_for_ready_after_is_ready() {
    let mut life = started(fixture::process("web"));
    assert_eq!(life.at(999, Input::Tick), []);
    assert_eq!(life.at(1_000, Input::Tick), [Action::Ready]);
    assert_eq!(life.inner.state(), State::Up { instance: instance(1), ready: true });
    // Until then, a daemon may come out of it.
    assert_eq!(life.inner.next_deadline(&life.process), Some(at(10_000)));
    assert_eq!(life.at(10_000, Input::Tick), []);
    assert_eq!(life.inner.next_deadline(&life.process), None);
}

#[rstest]
#[case::exit(code(1), &[0, 1, 2, 4, 8, 16, 30, 30])]
#[case::exit_zero(code(0), &[0, 1, 2, 4])]
#[case::fault(signal(11), &[0, 1, 2, 4])]
#[case::unknown(Exit::default(), &[0, 1, 2, 4])]
#[case::killed_from_outside(signal(9), &[0, 0, 0, 0])]
#[case::killed_by_itself(sent(9, Killer::Itself), &[0, 1, 2, 4])]
#[case::fault_that_the_kernel_told(sent(11, Killer::Kernel), &[0, 1, 2, 4])]
#[case::fault_signal_from_outside(sent(11, other()), &[0, 0, 0, 0])]
fn restarts_in_a_row_before_ready_are_delayed(#[case] exit: Exit, #[case] delays: &[u64]) {
    let mut process = fixture::process("web");
    process.recovery.start_timeout = Duration::ZERO;
    let mut life = started(process);
    for (pid, delay) in (1..).zip(delays) {
        let died = life.now;
        assert_eq!(life.end(pid, exit.clone()), [Action::Judge]);
        let mut actions = life.on(Input::Permitted);
        if *delay > 0 {
            assert_eq!(actions, []);
            life.now = died.after(Duration::from_secs(*delay));
            assert_eq!(life.inner.next_deadline(&life.process), Some(life.now));
            actions = life.on(Input::Tick);
        }
        assert!(matches!(actions[..], [Action::Prepare { .. }]), "{actions:?}");
        life.launch(pid + 1);
    }
}

#[test]
fn a_ready_instance_ends_the_row() {
    let mut life = started(fixture::process("web"));
    for pid in 1..=5 {
        life.now = life.now.after(Duration::from_secs(1));
        assert_eq!(life.on(Input::Tick), [Action::Ready]);
        assert_eq!(life.end(pid, code(1)), [Action::Judge]);
        assert_eq!(life.on(Input::Permitted), [prepare(pid)]);
        life.launch(pid + 1);
    }
}

#[rstest]
#[case(0.0, 0.0)]
#[case(0.1, 0.1)]
#[case(1.0, 1.0)]
fn jitter_varies_a_delay_by_its_share_at_most(#[case] jitter: f64, #[case] share: f64) {
    let policy = Backoff { jitter, ..fixture::process("web").recovery.backoff };
    let delays: Vec<_> =
        (0..1_000).map(|n| delay(&policy, 5, Time(n * 7_919)).as_secs_f64()).collect();
    let (low, high) = (8.0 * (1.0 - share), 8.0 * (1.0 + share));
    assert!(delays.iter().all(|delay| (low - 1e-6..=high + 1e-6).contains(delay)));
    let (least, most) = delays
        .iter()
        .fold((f64::MAX, 0.0_f64), |(least, most), delay| (least.min(*delay), most.max(*delay)));
    assert!(most - least >= (high - low) * 0.9, "{least}..{most} hardly varies");
}

#[test]
fn jitter_never_exceeds_the_longest_delay() {
    let policy = Backoff { jitter: 1.0, ..fixture::process("web").recovery.backoff };
    let delays = (0..1_000).map(|n| delay(&policy, 50, Time(n * 7_919)));
    assert!(delays.clone().all(|delay| delay <= policy.max));
    assert!(delays.min() < Some(policy.max / 2), "it varies downwards");
}

#[rstest]
#[case(Restart::Always, code(0), true)]
#[case(Restart::Always, signal(15), true)]
#[case(Restart::Always, Exit::default(), true)]
#[case(Restart::OnFailure, code(0), false)]
#[case(Restart::OnFailure, code(1), true)]
#[case(Restart::OnFailure, signal(1), false)]
#[case(Restart::OnFailure, signal(2), false)]
#[case(Restart::OnFailure, signal(15), false)]
#[case(Restart::OnFailure, sent(15, other()), false)]
#[case(Restart::OnFailure, sent(15, Killer::Itself), true)]
#[case(Restart::OnFailure, sent(1, Killer::Kernel), false)]
#[case(Restart::OnFailure, signal(9), true)]
#[case(Restart::OnFailure, signal(11), true)]
#[case(Restart::OnFailure, Exit::default(), true)]
#[case(Restart::Never, signal(11), false)]
#[case(Restart::Never, Exit::default(), false)]
fn restart_decides_by_cause(#[case] restart: Restart, #[case] exit: Exit, #[case] again: bool) {
    let mut process = fixture::process("web");
    process.recovery.restart = restart;
    let mut life = started(process);
    let _ = life.at(1_000, Input::Tick);
    // Long after its launch: no daemon comes of it any more.
    life.now = at(10_000);
    let actions = life.end(1, exit);
    if again {
        assert_eq!(actions, [Action::Judge]);
    } else {
        assert_eq!(actions, [Action::Finished]);
        assert_eq!(life.inner.state(), State::Finished);
    }
}

#[test]
fn exit_0_before_ready_may_leave_a_daemon_which_is_then_the_instance() {
    let mut life = started(fixture::process("web"));
    assert_eq!(life.end(1, code(0)), []);
    for millis in [50, 150, 350] {
        let find = Action::FindSuccessor { launched: instance(1) };
        assert_eq!(life.at(millis, Input::Tick), [find]);
    }
    let found = Input::Found { instance: instance(3), started: at(20) };
    assert_eq!(life.on(found), [Action::Running]);
    assert_eq!(life.inner.state(), State::Up { instance: instance(3), ready: false });
}

#[test]
fn exit_0_without_a_daemon_is_a_failed_launch() {
    let mut life = started(fixture::process("web"));
    let _ = life.end(1, code(0));
    let actions = life.inner.on(&life.process, Input::NoSuccessor, at(1));
    let reason = "exited 0 without leaving a daemon".to_owned();
    assert_eq!(actions, [Action::Tell(Change::LaunchFailed { reason }), Action::Judge]);
}

#[test]
fn waiting_for_a_daemon_ends_with_the_launchs_time() {
    let mut life = started(fixture::process("web"));
    let _ = life.end(1, code(0));
    assert_eq!(life.at(10_000, Input::Tick), [Action::Judge]);
}

#[test]
fn daemons_that_keep_exiting_0_have_no_more_than_the_launchs_time_together() {
    let mut life = started(fixture::process("web"));
    let mut pid = 1;
    for millis in (0..10_000).step_by(500) {
        life.now = at(millis);
        assert_eq!(life.end(pid, code(0)), []);
        pid += 1;
        let found = Input::Found { instance: instance(pid), started: life.now };
        assert_eq!(life.on(found), [Action::Running]);
    }
    life.now = at(10_000);
    assert_eq!(life.end(pid, code(0)), [Action::Judge]);
}

#[test]
fn on_failure_takes_exit_0_without_a_daemon_as_wanted() {
    let mut process = fixture::process("job");
    process.recovery.restart = Restart::OnFailure;
    let mut life = started(process);
    let _ = life.end(1, code(0));
    assert_eq!(life.on(Input::NoSuccessor), [Action::Finished]);
    assert_eq!(life.inner.state(), State::Finished);
}

#[test]
fn a_failed_launch_is_a_failure_and_a_node_fault_is_none() {
    let mut life = Life::new(fixture::process("web"));
    let _ = life.on(Input::Missing);
    let _ = life.on(Input::Prepared);
    assert_eq!(life.on(Input::Go), [Action::Launch]);
    assert_eq!(life.on(Input::NodeFault), [Action::Enqueue]);
    assert_eq!(life.on(Input::Go), [Action::Launch]);
    let failed = Input::LaunchFailed { reason: "no such file".into() };
    assert_eq!(life.on(failed), [Action::Judge]);
}

#[test]
fn doubt_between_two_preparations_does_not_begin_anew() {
    let mut life = Life::new(fixture::process("web"));
    let mut waits = Vec::new();
    for _ in 0..5 {
        assert_eq!(life.on(Input::Missing), [Action::Prepare { last: None, look: false }]);
        assert_eq!(life.on(Input::Unclear { reason: "a leftover survives".into() }), []);
        let due = life.inner.next_deadline(&life.process).expect("it is looked at again");
        waits.push(due.since(life.now).as_millis());
        life.now = due;
        assert_eq!(life.on(Input::Tick), [Action::Look]);
    }
    assert_eq!(waits, [200, 400, 800, 1600, 3200]);
}

#[test]
fn what_could_not_be_launched_for_long_is_prepared_anew() {
    let mut life = Life::new(fixture::process("web"));
    let _ = life.on(Input::Missing);
    assert_eq!(life.on(Input::Prepared), [Action::Enqueue]);
    for seconds in (0..=60).step_by(5) {
        assert_eq!(life.at(seconds * 1_000, Input::Go), [Action::Launch]);
        assert_eq!(life.on(Input::NodeFault), [Action::Enqueue]);
    }
    assert_eq!(life.at(65_000, Input::Go), [Action::Prepare { last: None, look: true }]);
    assert_eq!(life.on(Input::Prepared), [Action::Enqueue]);
    assert_eq!(life.at(70_000, Input::Go), [Action::Launch]);
}

#[test]
fn a_launch_that_fails_tells_its_reason_even_where_nothing_follows() {
    let mut process = fixture::process("job");
    process.recovery.restart = Restart::Never;
    let mut life = Life::new(process);
    let _ = life.on(Input::Missing);
    let _ = life.on(Input::Prepared);
    let _ = life.on(Input::Go);
    let failed = Input::LaunchFailed { reason: "no such file".into() };
    let actions = life.inner.on(&life.process, failed, at(1));
    let told = Action::Tell(Change::LaunchFailed { reason: "no such file".into() });
    assert_eq!(actions[0], told);
    assert_eq!(life.inner.state(), State::Finished);
}

#[test]
fn a_policy_of_never_that_comes_while_the_breaker_is_open_ends_without_a_trial() {
    let mut life = started(fixture::process("web"));
    let _ = life.end(1, signal(9));
    let _ = life.on(Input::Refused { until: at(180_000) });
    life.process.recovery.restart = Restart::Never;
    assert_eq!(life.at(180_000, Input::TrialDue), [Action::Finished]);
    assert_eq!(life.inner.state(), State::Finished);
}

#[test]
fn an_open_breaker_leads_to_one_trial_that_proves_itself() {
    let mut life = started(fixture::process("web"));
    assert_eq!(life.end(1, signal(9)), [Action::Judge]);
    assert_eq!(life.on(Input::Refused { until: at(180_000) }), []);
    assert_eq!(life.inner.state(), State::BreakerOpen { until: at(180_000) });
    assert_eq!(life.inner.next_deadline(&life.process), None, "the breaker has the timer");
    let prepare = Action::Prepare { last: Some(instance(1)), look: true };
    assert_eq!(life.at(180_000, Input::TrialDue), [prepare]);
    life.launch(2);
    assert_eq!(life.inner.state(), State::Trial { instance: Some(instance(2)) });
    assert_eq!(life.at(181_000, Input::Tick), [Action::Ready]);
    assert_eq!(life.at(182_000, Input::Proved), []);
    assert_eq!(life.inner.state(), State::Up { instance: instance(2), ready: true });
}

#[test]
fn every_move_is_told_once_with_where_it_came_from() {
    let mut life = started(fixture::process("web"));
    let ended = Input::Ended { instance: instance(1), exit: signal(9) };
    let mut told = Vec::new();
    for input in [ended, Input::Permitted, Input::Released, Input::Prepared, Input::Go] {
        told.extend(life.inner.on(&life.process, input, at(5)).into_iter().filter_map(|action| {
            match action {
                Action::Tell(Change::Moved { from, to }) => Some((from, to)),
                _ => None,
            }
        }));
    }
    let up = State::Up { instance: instance(1), ready: false };
    assert_eq!(told, [(up, State::Starting)]);
}

fn asked(request: Request) -> Input {
    Input::Asked { request, by: "root".into() }
}

fn paused(instance: Option<Instance>, until: Option<Time>) -> State {
    State::Paused { pause: Pause { by: "root".into(), until }, instance }
}

fn unhealthy(pid: i32) -> Input {
    Input::Unhealthy { instance: Some(instance(pid)), reason: "timed out".into() }
}

fn stop(pid: i32) -> Action {
    Action::Stop { instance: instance(pid) }
}

fn wait_for(target: &str) -> Wait {
    Wait { on: ProcessName::new(target), reason: "starting".into(), changes: None, until: None }
}

#[test]
fn held_by_a_dependency_it_is_looked_for_anew_before_its_start() {
    let mut life = started(fixture::process("web"));
    life.held = true;
    assert_eq!(life.end(1, signal(9)), [Action::Judge]);
    assert_eq!(life.on(Input::Permitted), [Action::Await]);
    assert_eq!(life.inner.state(), State::Starting, "no answer yet");
    let waiting = vec![wait_for("db")];
    assert_eq!(life.on(Input::Held { waiting: waiting.clone() }), []);
    assert_eq!(life.inner.state(), State::Held { waiting });
    let look = Action::Prepare { last: Some(instance(1)), look: true };
    assert_eq!(life.on(Input::Released), [look]);
}

#[test]
fn held_by_a_dependency_it_is_adopted_where_somebody_starts_it() {
    let mut life = Life::new(fixture::process("web"));
    life.held = true;
    assert_eq!(life.on(Input::Missing), [Action::Await]);
    assert_eq!(life.on(Input::Held { waiting: vec![wait_for("db")] }), []);
    assert!(life.inner.seeks());
    let found = Input::Found { instance: instance(5), started: at(0) };
    assert_eq!(life.on(found), [Action::Running]);
    assert_eq!(life.on(Input::Released), [], "old news");
}

#[test]
fn a_start_that_waits_for_a_slot_is_held_again_where_a_dependency_ended_meanwhile() {
    let mut life = Life::new(fixture::process("web"));
    assert_eq!(life.on(Input::Missing), [Action::Prepare { last: None, look: false }]);
    assert_eq!(life.on(Input::Prepared), [Action::Enqueue]);
    let waiting = vec![wait_for("db")];
    assert_eq!(life.on(Input::Held { waiting: waiting.clone() }), []);
    assert_eq!(life.inner.state(), State::Held { waiting });
    assert_eq!(life.on(Input::Go), [], "the slot is another's");
    let look = Action::Prepare { last: None, look: true };
    assert_eq!(life.on(Input::Released), [look]);
    // Found out in the last moment, it waits for a slot again.
    assert_eq!(life.on(Input::Prepared), [Action::Enqueue]);
    assert_eq!(life.on(Input::Go), [Action::Launch]);
    assert_eq!(life.on(Input::Postponed), [Action::Enqueue]);
}

#[test]
fn a_hung_instance_is_ended_and_its_end_is_a_failure_however_it_ended() {
    let mut process = fixture::process("web");
    process.recovery.restart = Restart::OnFailure;
    let mut life = started(process);
    assert_eq!(life.on(unhealthy(1)), [stop(1)]);
    let reason = "hung: timed out".into();
    assert_eq!(life.inner.state(), State::Stopping { instance: instance(1), reason });
    assert_eq!(life.on(unhealthy(1)), [], "told twice");
    assert_eq!(life.end(1, code(0)), [Action::Judge]);
    assert_eq!(life.on(Input::Permitted), [prepare(1)]);
}

#[test]
fn a_hung_instance_of_another_time_is_old_news() {
    let mut life = started(fixture::process("web"));
    assert_eq!(life.on(unhealthy(7)), []);
    assert_eq!(life.inner.state(), State::Up { instance: instance(1), ready: false });
}

#[test]
fn what_never_restarts_is_not_ended_for_being_hung_but_is_ready_no_longer() {
    let mut process = fixture::process("web");
    process.recovery.restart = Restart::Never;
    let mut life = started(process);
    assert_eq!(life.at(1_000, Input::Tick), [Action::Ready]);
    assert_eq!(life.on(unhealthy(1)), [Action::Unready]);
    assert_eq!(life.at(60_000, Input::Tick), [], "time alone heals no hang");
    assert_eq!(life.on(Input::Healthy { instance: Some(instance(1)) }), [Action::Ready]);
}

#[test]
fn a_probed_instance_is_ready_when_its_probe_says_so_and_not_before() {
    let mut life = started(fixture::probed("web"));
    assert_eq!(life.at(60_000, Input::Tick), [], "time alone makes it not ready");
    assert_eq!(life.inner.state(), State::Up { instance: instance(1), ready: false });
    assert_eq!(life.on(Input::Healthy { instance: Some(instance(1)) }), [Action::Ready]);
    assert_eq!(life.on(Input::Healthy { instance: Some(instance(1)) }), []);
    assert_eq!(life.inner.state(), State::Up { instance: instance(1), ready: true });
}

#[test]
fn a_probed_instance_that_was_found_running_is_believed_after_one_time_out() {
    let mut life = Life::new(fixture::probed("web"));
    life.now = at(60_000);
    let found = Input::Found { instance: instance(5), started: at(0) };
    assert_eq!(life.on(found), [Action::Running]);
    assert_eq!(life.inner.next_deadline(&life.process), Some(at(62_000)));
    assert_eq!(life.at(62_000, Input::Tick), [Action::Ready]);
}

#[test]
fn what_is_only_watched_is_never_looked_for_or_started() {
    let process = fixture::remote("db");
    let (mut life, actions) = Lifecycle::new(&process, at(0));
    assert_eq!(actions, []);
    let mut on = |input| {
        let actions = life.on(&process, input, at(1));
        assert!(actions.iter().all(|action| matches!(action, Action::Tell(_))), "{actions:?}");
        assert_eq!(life.next_deadline(&process), None);
        life.state()
    };
    let unhealthy = Input::Unhealthy { instance: None, reason: "refused".into() };
    assert_eq!(on(Input::Missing), State::Unknown { reason: String::new() });
    assert_eq!(on(Input::Healthy { instance: None }), State::Reachable);
    assert_eq!(on(unhealthy), State::Unreachable { reason: "refused".into() });
    assert_eq!(on(asked(Request::Restart)), State::Unreachable { reason: "refused".into() });
}

#[test]
fn what_cannot_be_ended_is_tried_again_and_nothing_is_started_beside_it() {
    let mut life = started(fixture::process("web"));
    assert_eq!(life.on(unhealthy(1)), [stop(1)]);
    let stuck = Input::Stuck { instance: instance(1), reason: "state D".into() };
    assert_eq!(life.on(stuck), []);
    let reason = "hung: timed out; state D".into();
    assert_eq!(life.inner.state(), State::Stopping { instance: instance(1), reason });
    assert_eq!(life.at(30_000, Input::Tick), [stop(1)]);
    assert_eq!(life.at(60_000, Input::Tick), [stop(1)]);
    assert_eq!(life.end(1, signal(9)), [Action::Judge]);
}

#[test]
fn stopped_by_an_operator_it_stays_down_until_it_is_resumed() {
    let mut life = started(fixture::process("web"));
    assert_eq!(life.on(asked(Request::Stop)), [stop(1)]);
    assert_eq!(life.end(1, signal(15)), [Action::Stopped]);
    assert_eq!(life.inner.state(), paused(None, None));
    assert_eq!(life.at(30_000, Input::Tick), [Action::Look]);
    assert_eq!(life.on(Input::Missing), []);
    let again = Action::Prepare { last: Some(instance(1)), look: true };
    assert_eq!(life.on(asked(Request::Resume)), [again]);
    life.launch(2);
}

#[test]
fn resumed_while_it_is_being_stopped_it_is_started_again() {
    let mut life = started(fixture::process("web"));
    assert_eq!(life.on(asked(Request::Stop)), [stop(1)]);
    assert_eq!(life.on(asked(Request::Resume)), []);
    assert_eq!(life.end(1, signal(15)), [Action::Stopped, prepare(1)]);
}

#[rstest]
#[case::preparing(vec![])]
#[case::queued(vec![Input::Prepared])]
fn stopped_before_its_launch_it_is_not_launched(#[case] way: Vec<Input>) {
    let mut life = Life::new(fixture::process("web"));
    let _ = life.on(Input::Missing);
    for input in way {
        let _ = life.on(input);
    }
    assert_eq!(life.on(asked(Request::Stop)), [Action::Stopped]);
    assert_eq!(life.on(Input::Prepared), []);
    assert_eq!(life.on(Input::Go), []);
    assert_eq!(life.inner.state(), paused(None, None));
}

#[test]
fn stopped_while_its_launch_is_under_way_it_is_ended_once_it_runs() {
    let mut life = Life::new(fixture::process("web"));
    let _ = life.on(Input::Missing);
    let _ = life.on(Input::Prepared);
    assert_eq!(life.on(Input::Go), [Action::Launch]);
    assert_eq!(life.on(asked(Request::Stop)), []);
    assert_eq!(life.on(Input::Launched { instance: instance(1) }), [Action::Running, stop(1)]);
}

#[test]
fn a_pause_leaves_the_living_alone_and_the_dead_dead_until_its_time_is_over() {
    let mut life = started(fixture::process("web"));
    let pause = Request::Pause { lasting: Some(Duration::from_secs(10)) };
    assert_eq!(life.on(asked(pause)), []);
    assert_eq!(life.inner.state(), paused(Some(instance(1)), Some(at(10_000))));
    assert_eq!(life.on(unhealthy(1)), [], "noted");
    assert_eq!(life.end(1, signal(9)), [Action::Stopped]);
    assert_eq!(life.inner.next_deadline(&life.process), Some(at(10_000)));
    let again = Action::Prepare { last: Some(instance(1)), look: true };
    assert_eq!(life.at(10_000, Input::Tick), [again]);
}

#[test]
fn a_hang_during_a_pause_is_acted_upon_after_it() {
    let mut life = started(fixture::process("web"));
    assert_eq!(life.on(asked(Request::Pause { lasting: None })), []);
    assert_eq!(life.on(unhealthy(1)), []);
    assert_eq!(life.on(asked(Request::Resume)), [stop(1)]);
}

#[test]
fn a_pause_does_not_shorten_the_breakers_open_period() {
    let mut life = started(fixture::process("web"));
    assert_eq!(life.end(1, code(1)), [Action::Judge]);
    assert_eq!(life.on(Input::Refused { until: at(180_000) }), []);
    assert_eq!(life.on(asked(Request::Pause { lasting: None })), []);
    assert_eq!(life.on(asked(Request::Resume)), []);
    assert_eq!(life.inner.state(), State::BreakerOpen { until: at(180_000) });
}

#[test]
fn restarted_on_request_it_costs_no_budget() {
    let mut life = started(fixture::process("web"));
    assert_eq!(life.on(asked(Request::Restart)), [stop(1)]);
    assert_eq!(life.end(1, signal(15)), [Action::Stopped, prepare(1)]);
    life.launch(2);
    assert_eq!(life.on(Input::Restart { reason: "db was restarted".into() }), [stop(2)]);
    assert_eq!(life.end(2, signal(15)), [Action::Stopped, prepare(2)]);
}

#[rstest]
#[case::reset(Request::Reset)]
#[case::restart(Request::Restart)]
fn an_operator_may_start_what_the_breaker_refuses(#[case] request: Request) {
    let mut life = started(fixture::process("web"));
    assert_eq!(life.end(1, code(1)), [Action::Judge]);
    assert_eq!(life.on(Input::Refused { until: at(180_000) }), []);
    let look = Action::Prepare { last: Some(instance(1)), look: true };
    assert_eq!(life.on(asked(request)), [look]);
}

fn any_exit() -> impl Strategy<Value = Exit> {
    prop_oneof![(0..3).prop_map(code), (1..16).prop_map(signal), Just(Exit::default())]
}

/// Anything that a lifecycle can be told, whether or not it asked for it.
fn any_input() -> impl Strategy<Value = Input> {
    let reason = String::new;
    prop_oneof![
        (1..4, 0_u64..20_000).prop_map(|(pid, started)| {
            Input::Found { instance: instance(pid), started: at(started) }
        }),
        (1..4, any_exit()).prop_map(|(pid, exit)| Input::Ended { instance: instance(pid), exit }),
        (1..4).prop_map(|pid| Input::Launched { instance: instance(pid) }),
        (0_u64..200_000).prop_map(|until| Input::Refused { until: at(until) }),
        (1..4).prop_map(|pid| Input::Healthy { instance: Some(instance(pid)) }),
        (1..4).prop_map(unhealthy),
        (1..4).prop_map(|pid| Input::Stuck { instance: instance(pid), reason: String::new() }),
        (0_u64..20).prop_map(|secs| {
            asked(Request::Pause { lasting: Some(Duration::from_secs(secs)) })
        }),
        prop::sample::select(vec![
            Input::Missing,
            Input::Unclear { reason: reason() },
            Input::Permitted,
            Input::TrialDue,
            Input::Proved,
            Input::Prepared,
            Input::Go,
            Input::LaunchFailed { reason: reason() },
            Input::NodeFault,
            Input::NoSuccessor,
            Input::Held { waiting: vec![wait_for("db")] },
            Input::Released,
            Input::Postponed,
            Input::Restart { reason: reason() },
            asked(Request::Stop),
            asked(Request::Resume),
            asked(Request::Restart),
            asked(Request::Reset),
            Input::Tick,
        ]),
    ]
}

proptest! {
    /// However wrong what it is told, it neither panics nor spins: a tick at its deadline moves
    /// that into the future, and no deadline is further away than the longest delay.
    #[test]
    fn any_order_of_inputs_leaves_it_with_a_deadline_that_makes_sense(
        restart in prop::sample::select(vec![Restart::Always, Restart::OnFailure, Restart::Never]),
        autostart in any::<bool>(),
        inputs in prop::collection::vec((any_input(), 0_u64..40_000), 1..80),
    ) {
        let mut process = Process { autostart, ..fixture::process("web") };
        process.recovery.restart = restart;
        process.recovery.backoff.jitter = 1.0;
        let (mut life, _) = Lifecycle::new(&process, at(0));
        let mut now = at(0);
        for (input, elapsed) in inputs {
            now = now.after(Duration::from_millis(elapsed));
            let _ = life.on(&process, input, now);
            // A deadline that has passed leads to another that has too, but not for ever.
            for _ in 0..3 {
                if life.next_deadline(&process).is_some_and(|deadline| deadline <= now) {
                    let _ = life.on(&process, Input::Tick, now);
                }
            }
            if let Some(deadline) = life.next_deadline(&process) {
                prop_assert!(deadline > now, "spins in {:?}", life.state());
                prop_assert!(deadline.since(now) <= Duration::from_secs(30), "{:?}", life.state());
            }
        }
    }
}
