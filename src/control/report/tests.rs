//! Every state, exit and event as the documents have it.

use rstest::rstest;
use serde_json::{Value, json};

use super::*;
use crate::config::fixture;
use crate::event::{Oom, Pid, Signal};
use crate::recovery::status::{Failure, Running};

const INSTANCE: Instance = Instance { pid: Pid(7), start_ticks: 1 };

fn at(secs: u64) -> Time {
    Time(secs * 1_000_000_000)
}

/// 100 s after boot, which was at the beginning of 2026.
fn calendar() -> Calendar {
    Calendar::at(at(100), 1_767_225_700_000_000_000)
}

fn in_state(state: State) -> ProcessStatus {
    ProcessStatus {
        name: ProcessName::new("web"),
        state,
        since: at(90),
        running: None,
        trouble: None,
        pause: None,
        degraded_without: vec![],
        expected: false,
        failures: 2,
        retries: 3,
        window: Duration::from_secs(60),
        breaker: Phase::Closed,
        last_exit: None,
        launch_failure: None,
    }
}

fn shown(status: &ProcessStatus) -> Value {
    serde_json::to_value(process(status, vec![], &calendar())).unwrap()
}

fn wait() -> Wait {
    let (on, reason) = (ProcessName::new("db"), "starting".to_owned());
    Wait { on, reason, changes: Some(at(110)), until: Some(at(130)) }
}

#[rstest]
#[case(State::Unknown { reason: String::new() }, "unknown", true, json!(null), json!(null))]
#[case(State::Unknown { reason: "two".into() }, "unknown", false, json!("two"), json!(null))]
#[case(State::Down, "down", true, json!(null), json!(null))]
#[case(State::BackingOff { until: at(103) }, "backing_off", false, json!(null), json!(3.0))]
#[case(State::Held { waiting: vec![wait()] }, "held", false, json!(null), json!(null))]
#[case(State::Starting, "starting", true, json!(null), json!(null))]
#[case(State::Up { instance: INSTANCE, ready: false }, "up", true, json!(null), json!(null))]
#[case(State::Stopping { instance: INSTANCE, reason: "r".into() }, "stopping", true, json!("r"), json!(null))]
#[case(State::BreakerOpen { until: at(150) }, "breaker_open", false, json!(null), json!(50.0))]
#[case(State::Trial { instance: Some(INSTANCE) }, "trial", false, json!(null), json!(null))]
#[case(State::Finished, "finished", true, json!(null), json!(null))]
#[case(State::Reachable, "reachable", true, json!(null), json!(null))]
#[case(State::Unreachable { reason: "refused".into() }, "unreachable", false, json!("refused"), json!(null))]
#[case(State::Paused { pause: Pause { by: "root".into(), until: Some(at(160)) }, instance: None }, "paused", true, json!(null), json!(60.0))]
fn a_state_has_its_word_and_says_whether_somebody_must_look(
    #[case] state: State,
    #[case] word: &str,
    #[case] ok: bool,
    #[case] reason: Value,
    #[case] until_secs: Value,
) {
    let shown = shown(&in_state(state));
    assert_eq!((&shown["state"], &shown["ok"]), (&json!(word), &json!(ok)));
    assert_eq!((&shown["reason"], &shown["until_secs"]), (&reason, &until_secs));
    assert_eq!(
        (&shown["since"], &shown["since_secs"]),
        (&json!("2026-01-01T00:01:30.000Z"), &json!(10.0))
    );
}

#[test]
fn what_is_wrong_with_a_living_instance_is_its_reason() {
    let running = Running { instance: INSTANCE, since: at(40), adopted: true, ready: false };
    let status = ProcessStatus {
        running: Some(running),
        trouble: Some("hung: timed out".to_owned()),
        ..in_state(State::Up { instance: INSTANCE, ready: false })
    };
    let shown = shown(&status);
    assert_eq!((&shown["ok"], &shown["reason"]), (&json!(false), &json!("hung: timed out")));
    assert_eq!(shown["ready"], false);
    let instance = json!({
        "pid": 7, "started_at": "2026-01-01T00:00:40.000Z", "uptime_secs": 60.0, "adopted": true,
    });
    assert_eq!(shown["instance"], instance);
}

#[test]
fn breaker_waits_and_failed_launches_are_told_with_their_moments() {
    let status = ProcessStatus {
        breaker: Phase::Open { until: at(150) },
        launch_failure: Some(Failure { reason: "exec: ENOENT".to_owned(), at: at(99) }),
        ..in_state(State::Held { waiting: vec![wait()] })
    };
    let shown = shown(&status);
    let breaker =
        json!({ "phase": "open", "until": "2026-01-01T00:02:30.000Z", "until_secs": 50.0 });
    assert_eq!(shown["breaker"], breaker);
    let waits = json!([{
        "process": "db", "reason": "starting", "changes": "2026-01-01T00:01:50.000Z",
        "changes_secs": 10.0, "until": "2026-01-01T00:02:10.000Z", "until_secs": 30.0,
    }]);
    assert_eq!(shown["waiting_for"], waits);
    assert_eq!(shown["launch_failure"]["ago_secs"], 1.0);
    assert_eq!(shown["failures"], json!({ "count": 2, "retries": 3, "window_secs": 60.0 }));
}

#[rstest]
#[case::unknown(Exit::default(), json!({ "cause": "cause unknown", "code": null, "signal": null, "oom": false }))]
#[case::code(Exit { end: Some(End::Code(3)), ..Exit::default() }, json!({ "cause": "exit code 3", "code": 3, "signal": null }))]
#[case::oom(
    Exit { oom: Some(Oom { cgroup: Some("web".into()) }), ..Exit::default() },
    json!({ "oom": true, "oom_cgroup": "web" })
)]
#[case::killed(
    Exit {
        end: Some(End::Signal { signal: Signal(9), core_dumped: false }),
        killer: Some(Killer::Process { pid: Some(Pid(8)), comm: "a\nb".into(), uid: 5 }),
        runtime: Some(Duration::from_millis(1_500)),
        ..Exit::default()
    },
    json!({
        "cause": "SIGKILL by a?b (PID 8, uid 5)", "signal": "SIGKILL", "runtime_secs": 1.5,
        "killer": { "kind": "process", "pid": 8, "comm": "a\nb", "uid": 5 },
    })
)]
#[case::by_itself(
    Exit {
        end: Some(End::Signal { signal: Signal(6), core_dumped: true }),
        killer: Some(Killer::Itself),
        ..Exit::default()
    },
    json!({ "core_dumped": true, "killer": { "kind": "itself", "pid": null, "comm": null, "uid": null } })
)]
fn an_exit_has_all_that_is_known_and_null_for_the_rest(#[case] how: Exit, #[case] members: Value) {
    let status = ProcessStatus {
        last_exit: Some(Ended { instance: INSTANCE, at: at(95), exit: how }),
        ..in_state(State::Starting)
    };
    let told = &shown(&status)["last_exit"];
    assert_eq!((&told["pid"], &told["ago_secs"]), (&json!(7), &json!(5.0)));
    for (name, value) in members.as_object().unwrap() {
        assert_eq!(&told[name], value, "{name} of {told}");
    }
}

fn paused(by: &str) -> State {
    State::Paused { pause: Pause { by: by.to_owned(), until: None }, instance: None }
}

#[rstest]
#[case(Change::Started { instance: INSTANCE, outage: None }, "started, PID 7", json!({ "event": "started", "pid": 7, "outage_secs": null }))]
#[case(
    Change::Started { instance: INSTANCE, outage: Some(Duration::from_millis(2)) },
    "restarted, PID 7, after 2.0 ms",
    json!({ "event": "started", "outage_secs": 0.002 })
)]
#[case(
    Change::Ended { instance: INSTANCE, exit: Box::new(Exit { end: Some(End::Code(1)), ..Exit::default() }) },
    "ended: exit code 1 (PID 7)",
    json!({ "event": "ended" })
)]
#[case(
    Change::Moved { from: State::Starting, to: State::Held { waiting: vec![wait()] } },
    "from starting to held: db is starting",
    json!({ "event": "moved", "from": "starting", "to": "held", "ready": null })
)]
#[case(
    Change::Moved { from: State::Starting, to: State::Up { instance: INSTANCE, ready: true } },
    "from starting to ready",
    json!({ "event": "moved", "from": "starting", "to": "up", "ready": true })
)]
#[case(
    Change::Moved { from: State::Down, to: paused("joe") },
    "from down to paused: by joe",
    json!({ "event": "moved", "to": "paused", "reason": "by joe" })
)]
#[case(
    Change::BreakerOpened { until: at(160), failures: 4 },
    "breaker opened after 4 failures: no start until 2026-01-01T00:02:40.000Z, then one trial",
    json!({ "event": "breaker_opened", "failures": 4, "until": "2026-01-01T00:02:40.000Z" })
)]
#[case(
    Change::Waived { on: ProcessName::new("db"), waited: Duration::from_secs(30), degraded: true },
    "starts without db, degraded: waited 30.0 s",
    json!({ "event": "waived", "dependency": "db", "waited_secs": 30.0, "degraded": true })
)]
#[case(Change::BreakerClosed, "breaker closed", json!({ "event": "breaker_closed" }))]
fn an_event_is_told_in_words_and_in_members(
    #[case] change: Change,
    #[case] text: &str,
    #[case] members: Value,
) {
    let process = Some(ProcessName::new("web"));
    let recorded = Recorded { seq: 3, at: at(99), process, what: Noted::Did(change) };
    let told = serde_json::to_value(event(&recorded, &calendar())).unwrap();
    assert_eq!(told["text"], text);
    assert_eq!((&told["seq"], &told["process"]), (&json!(3), &json!("web")));
    assert_eq!(told["at"], "2026-01-01T00:01:39.000Z");
    for (name, value) in members.as_object().unwrap() {
        assert_eq!(&told[name], value, "{name} of {told}");
    }
}

#[test]
fn a_process_that_only_recovery_knows_yet_or_no_longer_is_not_left_out() {
    let facts = Facts {
        started: at(1),
        path: "/etc/healer/config.yaml".into(),
        capabilities: vec![],
        without_ebpf: None,
        config: Arc::new(fixture::config(vec![fixture::process("new")])),
        lacks: vec![],
        last_reload: None,
    };
    let shown = status(&facts, &[in_state(State::Starting)], &calendar());
    let names: Vec<_> =
        shown.processes.iter().map(|one| (one.name.as_str(), one.state.as_str())).collect();
    assert_eq!(names, [("new", "unknown"), ("web", "starting")]);
    assert!((shown.uptime_secs - 99.0).abs() < 0.001, "{}", shown.uptime_secs);
}
