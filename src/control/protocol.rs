//! What travels over the control socket: the JSON documents of `/v1`.
//!
//! Pure data; server and client share it. Names are stable: within `/v1` members are added, never
//! renamed or taken away. Moments are wall-clock times (RFC 3339, UTC); beside each stands how many
//! seconds lie between it and the moment of the answer, which no set clock falsifies. What is
//! unknown is `null`. `report` fills the documents in, `table` shows them to people.

use serde::{Deserialize, Serialize};

/// `GET /v1/status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// healer's version.
    pub version: String,
    /// healer's own PID.
    pub pid: u32,
    /// When healer started.
    pub started_at: String,
    /// For how long it runs.
    pub uptime_secs: f64,
    /// The path of the configuration.
    pub config: String,
    /// healer's own effective capabilities, by name.
    pub capabilities: Vec<String>,
    /// Whether the kernel tells why instances end.
    pub ebpf: Ebpf,
    /// The last reload; `null` before the first.
    pub last_reload: Option<Reload>,
    /// What this machine lacks for healer itself.
    pub host_faults: Vec<HostFault>,
    /// Every entry of the configuration, in its order.
    pub processes: Vec<Process>,
}

/// Whether the kernel tells why instances end.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ebpf {
    /// It does.
    pub loaded: bool,
    /// Why it does not.
    pub reason: Option<String>,
    /// What is lost without.
    pub lost: Option<String>,
}

/// `GET /v1/processes/NAME`, and each of `GET /v1/status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Process {
    /// Its name.
    pub name: String,
    /// `enabled` in the configuration.
    pub enabled: bool,
    /// Whether nothing about it needs an operator's attention.
    pub ok: bool,
    /// `unknown`, `down`, `held`, `backing_off`, `starting`, `up`, `stopping`, `breaker_open`,
    /// `trial`, `paused`, `finished`, `disabled`, or, where it is only watched, `reachable` or
    /// `unreachable`.
    pub state: String,
    /// Whether the living instance is ready; `null` without one.
    pub ready: Option<bool>,
    /// What else there is to say of the state: what would decide, why it is ended, why it hangs.
    pub reason: Option<String>,
    /// Since when it is in this state.
    pub since: Option<String>,
    /// For how long.
    pub since_secs: Option<f64>,
    /// When the state ends by itself.
    pub until: Option<String>,
    /// In how long.
    pub until_secs: Option<f64>,
    /// The living instance.
    pub instance: Option<Instance>,
    /// Failures in the breaker's window.
    pub failures: Failures,
    /// The breaker.
    pub breaker: Breaker,
    /// How the last instance ended.
    pub last_exit: Option<Exit>,
    /// Why the last launch failed, unless a later one succeeded.
    pub launch_failure: Option<LaunchFailure>,
    /// What it waits for.
    pub waiting_for: Vec<Wait>,
    /// Without which of its dependencies it runs, or would, as its configuration permits.
    pub degraded_without: Vec<String>,
    /// Who wants it left as it is.
    pub paused: Option<Paused>,
    /// What this machine lacks for it.
    pub host_faults: Vec<HostFault>,
}

/// The living instance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    /// Its PID.
    pub pid: i32,
    /// When its program began to run.
    pub started_at: String,
    /// For how long it runs.
    pub uptime_secs: f64,
    /// Whether it was found running, not launched by this healer.
    pub adopted: bool,
}

/// Failures in the breaker's window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Failures {
    /// How many.
    pub count: usize,
    /// How many are permitted.
    pub retries: u32,
    /// How long the window is.
    pub window_secs: f64,
}

/// The breaker.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Breaker {
    /// `closed`, `open` or `half_open`.
    pub phase: String,
    /// Where it is open: when the one trial is due.
    pub until: Option<String>,
    /// In how long.
    pub until_secs: Option<f64>,
}

/// How an instance ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Exit {
    /// Its PID.
    pub pid: i32,
    /// When healer saw it.
    pub at: String,
    /// How long ago that was.
    pub ago_secs: f64,
    /// All that is known of the cause, in words.
    pub cause: String,
    /// The exit code.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<String>,
    /// Whether the kernel wrote a core dump.
    pub core_dumped: bool,
    /// Who sent that signal.
    pub killer: Option<Killer>,
    /// Whether it was killed for want of memory.
    pub oom: bool,
    /// The last part of the name of the cgroup whose memory ran out.
    pub oom_cgroup: Option<String>,
    /// The signal that came shortly before it exited by itself.
    pub last_signal: Option<Sent>,
    /// How long it ran.
    pub runtime_secs: Option<f64>,
    /// CPU time in the program.
    pub cpu_user_secs: Option<f64>,
    /// CPU time in the kernel.
    pub cpu_system_secs: Option<f64>,
    /// Peak resident set size.
    pub peak_rss_bytes: Option<u64>,
}

/// Who sent a signal.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Killer {
    /// `process`, `itself` or `kernel`.
    pub kind: String,
    /// Of a process: its PID, if it has one in healer's PID namespace.
    pub pid: Option<i32>,
    /// Of a process: its name, which it chose itself.
    pub comm: Option<String>,
    /// Of a process: its real user.
    pub uid: Option<u32>,
}

/// A signal and who sent it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sent {
    /// Which one.
    pub signal: String,
    /// By whom.
    pub by: Killer,
}

/// A launch that failed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LaunchFailure {
    /// The step and what the system said.
    pub reason: String,
    /// When.
    pub at: String,
    /// How long ago that was.
    pub ago_secs: f64,
}

/// What keeps a process from being started.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Wait {
    /// Which process is waited for.
    pub process: String,
    /// Where that one stands.
    pub reason: String,
    /// When that changes by itself, as far as is known.
    pub changes: Option<String>,
    /// In how long.
    pub changes_secs: Option<f64>,
    /// When `max_wait_secs` is over; `null`: it is, or there is no such limit.
    pub until: Option<String>,
    /// In how long.
    pub until_secs: Option<f64>,
}

/// Somebody's wish that a process be left as it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Paused {
    /// Whose.
    pub by: String,
    /// When it ends by itself; `null`: never.
    pub until: Option<String>,
    /// In how long.
    pub until_secs: Option<f64>,
}

/// Something that this machine lacks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HostFault {
    /// The key of the configuration that asks for it.
    pub key: String,
    /// What is missing, and where.
    pub message: String,
}

/// `POST /v1/reload`, and the last reload of `GET /v1/status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reload {
    /// Whether the file was taken; if not, the configuration is as before.
    pub taken: bool,
    /// When that was done.
    pub at: String,
    /// How long ago that was.
    pub ago_secs: f64,
    /// How many entries the configuration has now.
    pub processes: usize,
    /// Why the file was refused: each fault with its place.
    pub faults: Vec<String>,
    /// What the file's author should know all the same.
    pub warnings: Vec<String>,
    /// What this machine lacks for the new configuration, as `healer check` tells it.
    pub host_faults: Vec<String>,
    /// Keys whose change takes effect when healer is restarted.
    pub needs_restart: Vec<String>,
}

/// The body of `POST /v1/processes/NAME/pause`; no body is one without members.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Pause {
    /// For how long; `null`: until it is resumed.
    pub for_secs: Option<f64>,
}

/// The answer to `POST /v1/processes/NAME/REQUEST`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// What was asked.
    pub request: String,
    /// Whether it has come to its end. Without `?wait_secs=N` that is not waited for.
    pub done: bool,
    /// How the process stands now.
    pub process: Process,
}

/// The body of every answer that is not a success.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Refusal {
    /// Why.
    pub error: String,
}

/// One line of `GET /v1/events`. Which members it has beside these depends on `event`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Event {
    /// Counts the events of this run of healer, from 1; 0 for one of this connection alone.
    pub seq: u64,
    /// When it was seen or done.
    pub at: String,
    /// Which process it concerns; `null`: all of them.
    pub process: Option<String>,
    /// What happened, in words.
    pub text: String,
    /// What happened.
    #[serde(flatten)]
    pub what: Happened,
}

/// What happened to a process.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[expect(missing_docs, reason = "each member is what event::Change says of it")]
pub enum Happened {
    /// A running instance was found and is guarded from now on.
    Adopted { pid: i32 },
    /// The guarded instance ended.
    Ended { exit: Box<Exit> },
    /// Its probes failed, so it is replaced.
    Hung { pid: i32, reason: String },
    /// The instance cannot be ended.
    Stuck { pid: i32, reason: String },
    /// The program runs.
    Started { pid: i32, outage_secs: Option<f64> },
    /// A launch failed.
    LaunchFailed { reason: String },
    /// This machine cannot start anything now.
    NodeFault { reason: String },
    /// It waited for this one long enough, and is started without.
    Waived { dependency: String, waited_secs: f64, degraded: bool },
    /// It waited for this one longer than it should, and waits on.
    Overdue { dependency: String, waited_secs: f64 },
    /// A dependency without which it was degraded is ready.
    Complete { dependency: String },
    /// From one state to another, or within `up` to ready.
    Moved { from: String, to: String, ready: Option<bool>, reason: Option<String> },
    /// Too many failures.
    BreakerOpened { until: String, failures: usize },
    /// The trial failed.
    BreakerReopened { until: String },
    /// The trial proved itself, or an operator reset it.
    BreakerClosed,
    /// So many events were lost before this one, because somebody was too slow.
    Lagged { lost: u64 },
}

/// As much of an [`Event`] as people are shown.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// When.
    pub at: String,
    /// Which process.
    pub process: Option<String>,
    /// What, in words.
    pub text: String,
}

/// The requests that a process can be sent, as they stand in paths and on command lines.
pub const REQUESTS: [&str; 5] = ["restart", "stop", "pause", "resume", "reset"];

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::{Value, json};

    /// The shape of a document: member names with the kind of their value.
    fn shape(value: &Value) -> Value {
        match value {
            Value::Object(members) => {
                members.iter().map(|(name, value)| (name.clone(), shape(value))).collect()
            }
            Value::Array(items) => Value::Array(items.iter().map(shape).take(1).collect()),
            Value::Null => json!(null),
            Value::Bool(_) => json!("bool"),
            Value::Number(_) => json!("number"),
            Value::String(_) => json!("string"),
        }
    }

    #[test]
    fn names_of_the_first_version_are_kept() {
        let status = Status {
            last_reload: Some(Reload::default()),
            host_faults: vec![HostFault::default()],
            processes: vec![Process {
                instance: Some(Instance::default()),
                last_exit: Some(Exit {
                    killer: Some(Killer::default()),
                    last_signal: Some(Sent::default()),
                    ..Exit::default()
                }),
                launch_failure: Some(LaunchFailure::default()),
                waiting_for: vec![Wait::default()],
                paused: Some(Paused::default()),
                host_faults: vec![HostFault::default()],
                ..Process::default()
            }],
            ..Status::default()
        };
        let killer = json!({ "kind": "string", "pid": null, "comm": null, "uid": null });
        let fault = json!({ "key": "string", "message": "string" });
        let expected = json!({
            "version": "string", "pid": "number", "started_at": "string", "uptime_secs": "number",
            "config": "string", "capabilities": [],
            "ebpf": { "loaded": "bool", "reason": null, "lost": null },
            "last_reload": {
                "taken": "bool", "at": "string", "ago_secs": "number", "processes": "number",
                "faults": [], "warnings": [], "host_faults": [], "needs_restart": [],
            },
            "host_faults": [fault],
            "processes": [{
                "name": "string", "enabled": "bool", "ok": "bool", "state": "string",
                "ready": null, "reason": null, "since": null, "since_secs": null,
                "until": null, "until_secs": null,
                "instance": {
                    "pid": "number", "started_at": "string", "uptime_secs": "number",
                    "adopted": "bool",
                },
                "failures": { "count": "number", "retries": "number", "window_secs": "number" },
                "breaker": { "phase": "string", "until": null, "until_secs": null },
                "last_exit": {
                    "pid": "number", "at": "string", "ago_secs": "number", "cause": "string",
                    "code": null, "signal": null, "core_dumped": "bool", "killer": killer,
                    "oom": "bool", "oom_cgroup": null,
                    "last_signal": { "signal": "string", "by": killer },
                    "runtime_secs": null, "cpu_user_secs": null, "cpu_system_secs": null,
                    "peak_rss_bytes": null,
                },
                "launch_failure": { "reason": "string", "at": "string", "ago_secs": "number" },
                "waiting_for": [
                    {
                        "process": "string", "reason": "string", "changes": null,
                        "changes_secs": null, "until": null, "until_secs": null,
                    },
                ],
                "degraded_without": [],
                "paused": { "by": "string", "until": null, "until_secs": null },
                "host_faults": [fault],
            }],
        });
        assert_eq!(shape(&serde_json::to_value(&status).unwrap()), expected);
    }

    #[test]
    fn a_newer_healers_members_are_passed_over_and_missing_ones_are_unknown() {
        let text = r#"{"version": "9.0.0", "pid": 1, "started_at": "", "uptime_secs": 1, "config": "",
            "capabilities": [], "ebpf": {"loaded": true, "since": 3}, "host_faults": [],
            "processes": [], "novelty": {"a": 1}}"#;
        let status: Status = serde_json::from_str(text).unwrap();
        assert_eq!((status.version.as_str(), status.last_reload), ("9.0.0", None));
    }

    #[rstest]
    #[case::empty("{}", Some(Pause { for_secs: None }))]
    #[case::null(r#"{"for_secs": null}"#, Some(Pause { for_secs: None }))]
    #[case::some(r#"{"for_secs": 0.5}"#, Some(Pause { for_secs: Some(0.5) }))]
    #[case::misspelt(r#"{"for": 10}"#, None)]
    #[case::text(r#"{"for_secs": "10m"}"#, None)]
    fn a_pause_says_how_long_or_nothing(#[case] text: &str, #[case] read: Option<Pause>) {
        assert_eq!(serde_json::from_str(text).ok(), read);
    }

    #[test]
    fn an_event_is_flat_and_names_itself() {
        let event = Event {
            seq: 3,
            at: "2026-01-01T00:00:00.000Z".to_owned(),
            process: Some("web".to_owned()),
            text: "started, PID 7".to_owned(),
            what: Happened::Started { pid: 7, outage_secs: None },
        };
        let expected = json!({
            "seq": 3, "at": "2026-01-01T00:00:00.000Z", "process": "web",
            "text": "started, PID 7", "event": "started", "pid": 7, "outage_secs": null,
        });
        let value = serde_json::to_value(&event).unwrap();
        assert_eq!(value, expected);
        let line: Line = serde_json::from_value(value).unwrap();
        assert_eq!((line.process.as_deref(), line.text.as_str()), (Some("web"), "started, PID 7"));
    }
}
