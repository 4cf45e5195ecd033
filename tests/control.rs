//! The control socket, served in this process to clients of every kind: what is answered, and what
//! slow, malformed and many ones get.
//!
//! Recovery is the real one; its processes are down and stay so, as nothing here is to be launched.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use healer::bus::Bus;
use healer::clock::{self, WallClock};
use healer::config::check::{Environment, check};
use healer::config::{Config, Reader};
use healer::control::report::{Facts, Reloaded};
use healer::control::server::Handle;
use healer::control::socket::Bound;
use healer::event::{Change, Event, Instance, Pid, ProcessName, What};
use healer::launch::{Baseline, Launcher};
use healer::preflight::HostFault;
use healer::recovery::{self, Recovery, Senses};
use rstest::rstest;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::timeout;

/// Longer than anything takes on the slowest machine, and than the server is patient.
const PATIENCE: Duration = Duration::from_secs(150);

const CONFIG: &str = "
processes:
  - { name: web, command: /nonexistent/web, run_as_root: true, autostart: false, output: 'null', monitor: { type: ebpf } }
  - { name: db, command: /nonexistent/db, run_as_root: true, autostart: false, output: 'null', monitor: { type: ebpf } }
  - { name: off, command: /nonexistent/off, run_as_root: true, enabled: false, output: 'null', monitor: { type: ebpf } }
";

/// A served socket.
struct Served {
    directory: TempDir,
    server: Handle,
    recovery: recovery::Handle,
    bus: Bus,
    #[expect(dead_code, reason = "its receivers would see its end")]
    facts: watch::Sender<Arc<Facts>>,
}

impl Served {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let reader = Reader { as_root: true, ..Reader::default() };
        let config = check(CONFIG.as_bytes(), &Environment::new(), &reader).unwrap().config;
        let config = Arc::new(config);
        let bus = Bus::new(64);
        let senses = Senses { monitors: vec![], causes: None, wall: WallClock::now() };
        let launcher = Launcher::new(Baseline::record().unwrap(), directory.path());
        let (task, recovery) = Recovery::new(launcher.clone(), bus.clone(), senses).unwrap();
        tokio::spawn(task.run());
        recovery.reload(Arc::clone(&config), launcher).await.unwrap();
        let (facts, told) = watch::channel(Arc::new(facts(config)));
        let bound = Bound::in_directory(directory.path()).unwrap();
        let path = directory.path().to_owned();
        let server = Handle::spawn(path, Some(bound), recovery.clone(), &bus, told);
        Self { directory, server, recovery, bus, facts }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("healer.sock")
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(self.path()).await.unwrap()
    }

    /// The status and the body of the answer to a request without more headers than it needs.
    async fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let mut stream = self.connect().await;
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        answer(&read_all(stream).await)
    }

    async fn get(&self, path: &str) -> Value {
        let (status, body) = self.ask("GET", path, "").await;
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    /// Publishes that `web` was adopted, with this PID.
    fn publish(&self, pid: i32) {
        let instance = Instance { pid: Pid(pid), start_ticks: 1 };
        let what = What::Did(Change::Adopted(instance));
        self.bus.publish(Event { process: ProcessName::new("web"), at: clock::now(), what });
    }

    /// Waits until the record of events has one with this PID.
    async fn until_recorded(&self, pid: i32) {
        let wanted = format!("\"pid\":{pid},");
        let wanted = [wanted.as_str(), &format!("\"pid\":{pid}}}")].map(ToOwned::to_owned);
        timeout(PATIENCE, async {
            loop {
                let (_, lines) = self.ask("GET", "/v1/events", "").await;
                if wanted.iter().any(|wanted| lines.contains(wanted)) {
                    return;
                }
            }
        })
        .await
        .expect("the event is recorded");
    }
}

fn facts(config: Arc<Config>) -> Facts {
    let lacks = |process: Option<&str>, key, message: &str| HostFault {
        process: process.map(ProcessName::new),
        key,
        message: message.to_owned(),
    };
    Facts {
        started: clock::now(),
        path: "/etc/healer/config.yaml".into(),
        capabilities: vec!["CAP_KILL".to_owned()],
        without_ebpf: Some(("no BTF".to_owned(), "causes")),
        config,
        lacks: vec![
            lacks(Some("db"), "command", "/nonexistent/db does not exist"),
            lacks(None, "pid_file_directory", "odd"),
        ],
        last_reload: None,
    }
}

async fn read_all(mut stream: UnixStream) -> String {
    let mut bytes = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("it ends").unwrap();
    String::from_utf8(bytes).unwrap()
}

/// Status and body of an answer as it came.
fn answer(text: &str) -> (u16, String) {
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    if !head.contains("transfer-encoding: chunked") {
        return (status, body.to_owned());
    }
    let (mut rest, mut whole) = (body, String::new());
    while let Some((length, more)) = rest.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).unwrap();
        whole.push_str(&more[..length]);
        rest = more[length..].strip_prefix("\r\n").unwrap_or_default();
    }
    (status, whole)
}

#[tokio::test]
async fn status_has_every_entry_in_the_order_of_the_file_and_what_the_machine_lacks() {
    let served = Served::new().await;
    let status = served.get("/v1/status").await;
    let names: Vec<_> = status["processes"].as_array().unwrap().iter().collect();
    let shown: Vec<_> = names.iter().map(|one| (&one["name"], &one["state"], &one["ok"])).collect();
    let expected = [
        (&json!("web"), &json!("down"), &json!(true)),
        (&json!("db"), &json!("down"), &json!(false)),
        (&json!("off"), &json!("disabled"), &json!(true)),
    ];
    assert_eq!(shown, expected);
    let fault = json!([{ "key": "command", "message": "/nonexistent/db does not exist" }]);
    assert_eq!(names[1]["host_faults"], fault);
    assert_eq!(status["host_faults"][0]["key"], "pid_file_directory");
    assert_eq!(status["ebpf"], json!({ "loaded": false, "reason": "no BTF", "lost": "causes" }));
    assert_eq!(status["capabilities"], json!(["CAP_KILL"]));
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["last_reload"], Value::Null);
    let db = served.get("/v1/processes/db").await;
    assert_eq!((&db["state"], &db["host_faults"]), (&json!("down"), &fault));
    assert_eq!(served.get("/v1/processes/off").await["state"], "disabled");
}

#[rstest]
#[case::no_such_path("GET", "/", "", 404, "there is no /; there are /v1/status")]
#[case::another_version("GET", "/v2/status", "", 404, "there is no /v2/status")]
#[case::no_such_process(
    "GET",
    "/v1/processes/x",
    "",
    404,
    "no process is called \\\"x\\\"; there are web, db, off"
)]
#[case::outside("GET", "/v1/processes/../status", "", 404, "")]
#[case::no_such_request(
    "POST",
    "/v1/processes/web/kill",
    "",
    404,
    "restart, stop, pause, resume, reset"
)]
#[case::wrong_method("POST", "/v1/status", "", 405, "this is for GET, not for POST")]
#[case::stop_by_get("GET", "/v1/processes/web/stop", "", 405, "this is for POST, not for GET")]
#[case::no_such_member("GET", "/v1/status?x=1", "", 400, "there is no ?x; this takes none")]
#[case::misspelt_member("GET", "/v1/events?folow=1", "", 400, "there is no ?folow, only follow")]
#[case::odd_value("GET", "/v1/events?follow=maybe", "", 400, "follow must be 0 or 1")]
#[case::disabled("POST", "/v1/processes/off/stop", "", 409, "process off is disabled")]
#[case::unknown("POST", "/v1/processes/x/stop", "", 404, "no process is called")]
#[case::no_json("POST", "/v1/processes/web/pause", "10m", 400, "")]
#[case::other_member(
    "POST",
    "/v1/processes/web/pause",
    r#"{"secs": 1}"#,
    400,
    "unknown field `secs`"
)]
#[case::no_time(
    "POST",
    "/v1/processes/web/pause",
    r#"{"for_secs": 0}"#,
    400,
    "for_secs must be a number of seconds above 0"
)]
#[case::endless(
    "POST",
    "/v1/processes/web/pause",
    r#"{"for_secs": 1e300}"#,
    400,
    "for_secs must be"
)]
#[case::negative("POST", "/v1/processes/web/stop?wait_secs=-1", "", 400, "wait_secs must be")]
#[case::not_a_number("POST", "/v1/processes/web/stop?wait_secs=nan", "", 400, "wait_secs must be")]
#[tokio::test]
async fn a_request_that_cannot_be_met_says_why_and_changes_nothing(
    #[case] method: &str,
    #[case] path: &str,
    #[case] body: &str,
    #[case] status: u16,
    #[case] why: &str,
) {
    let served = Served::new().await;
    let before = served.recovery.status().await.unwrap();
    let (answered, text) = served.ask(method, path, body).await;
    assert_eq!(answered, status, "{text}");
    assert!(text.contains("\"error\"") && text.contains(why), "{text}");
    let states = |all: Vec<recovery::status::ProcessStatus>| {
        all.into_iter().map(|one| one.state).collect::<Vec<_>>()
    };
    assert_eq!(states(served.recovery.status().await.unwrap()), states(before));
}

#[tokio::test]
async fn requests_reach_recovery_and_name_who_asked() {
    let served = Served::new().await;
    let (status, body) =
        served.ask("POST", "/v1/processes/web/pause", r#"{"for_secs": 600}"#).await;
    let outcome: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (status, &outcome["request"], &outcome["done"]),
        (200, &json!("pause"), &json!(true))
    );
    let process = &outcome["process"];
    assert_eq!(process["state"], "paused");
    let left = process["paused"]["until_secs"].as_f64().unwrap();
    assert!((500.0..=600.0).contains(&left), "{left}");
    let by = process["paused"]["by"].as_str().unwrap();
    if rustix::process::geteuid().is_root() {
        assert_eq!(by, "root");
    }
    let (status, body) = served.ask("POST", "/v1/processes/web/stop?wait_secs=20", "").await;
    let outcome: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &outcome["done"]), (200, &json!(true)), "nothing runs");
    assert_eq!(outcome["process"]["paused"]["until"], Value::Null);
}

#[tokio::test]
async fn reload_is_the_daemons_and_waits_for_its_outcome() {
    let mut served = Served::new().await;
    let path = served.path();
    let ask = async |path: PathBuf| {
        let mut stream = UnixStream::connect(path).await.unwrap();
        stream.write_all(b"POST /v1/reload HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        answer(&read_all(stream).await)
    };
    let taken = tokio::spawn(ask(path.clone()));
    let asked = timeout(PATIENCE, served.server.reload_asked()).await.unwrap();
    assert!(!taken.is_finished());
    asked.done.send(Reloaded { processes: 3, ..Reloaded::now() }).unwrap();
    let (status, body) = taken.await.unwrap();
    assert_eq!(status, 200, "{body}");
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&body["taken"], &body["processes"]), (&json!(true), &json!(3)));

    let refused = tokio::spawn(ask(path));
    let asked = timeout(PATIENCE, served.server.reload_asked()).await.unwrap();
    asked.done.send(Reloaded { faults: vec!["bad".to_owned()], ..Reloaded::now() }).unwrap();
    let (status, body) = refused.await.unwrap();
    assert_eq!(status, 422, "{body}");
    assert!(body.contains(r#""taken":false"#) && body.contains(r#""faults":["bad"]"#), "{body}");
}

#[tokio::test]
async fn events_are_told_from_the_past_on_and_followed_without_a_gap() {
    let served = Served::new().await;
    served.publish(1);
    served.until_recorded(1).await;
    let mut stream = served.connect().await;
    stream.write_all(b"GET /v1/events?follow=1 HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut text = String::new();
    for pid in 2..50 {
        served.publish(pid);
        let wanted = format!("\"pid\":{pid}}}");
        while !text.contains(&wanted) {
            let mut buffer = [0; 4096];
            let length = timeout(PATIENCE, stream.read(&mut buffer)).await.unwrap().unwrap();
            assert_ne!(length, 0, "it goes on: {text}");
            text.push_str(str::from_utf8(&buffer[..length]).unwrap());
        }
    }
    let adopted: Vec<u64> = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|event| event["event"] == "adopted")
        .map(|event| event["pid"].as_u64().unwrap())
        .collect();
    assert_eq!(adopted, (1..50).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_follower_that_falls_behind_is_told_how_much_it_lost_and_holds_nobody_up() {
    let served = Served::new().await;
    let mut slow = served.connect().await;
    slow.write_all(b"GET /v1/events?follow=1 HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut first = [0; 16];
    slow.read_exact(&mut first).await.unwrap();
    // Far more than fits into the socket, the pieces and the channel.
    for pid in 1..=20_000 {
        served.publish(pid);
        if pid % 32 == 0 {
            // The record is made as the bus goes on.
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
        }
    }
    served.until_recorded(20_000).await;
    let mut text = String::new();
    while !text.contains("\"pid\":20000}") {
        let mut buffer = vec![0; 65_536];
        let length = timeout(PATIENCE, slow.read(&mut buffer)).await.unwrap().unwrap();
        assert_ne!(length, 0, "it goes on");
        text.push_str(str::from_utf8(&buffer[..length]).unwrap());
    }
    assert!(text.contains("\"event\":\"lagged\""), "it read {} bytes", text.len());
}

#[tokio::test]
async fn so_many_followers_and_no_more() {
    let served = Served::new().await;
    let mut followers = Vec::new();
    for _ in 0..16 {
        let mut stream = served.connect().await;
        stream.write_all(b"GET /v1/events?follow=1 HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut head = [0; 12];
        timeout(PATIENCE, stream.read_exact(&mut head)).await.unwrap().unwrap();
        assert_eq!(&head, b"HTTP/1.1 200");
        followers.push(stream);
    }
    let (status, why) = served.ask("GET", "/v1/events?follow=1", "").await;
    assert_eq!(status, 503, "{why}");
    // Others are answered, and so is a follower in the place of one that left.
    served.get("/v1/status").await;
    drop(followers.pop());
    timeout(PATIENCE, async {
        loop {
            let mut stream = served.connect().await;
            stream.write_all(b"GET /v1/events?follow=1 HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
            let mut head = [0; 12];
            stream.read_exact(&mut head).await.unwrap();
            if &head == b"HTTP/1.1 200" {
                return;
            }
        }
    })
    .await
    .expect("a place is free again");
}

#[rstest]
#[case::binary(&[0, 159, 146, 150, 13, 10, 13, 10])]
#[case::no_http(b"hello\r\n\r\n")]
#[case::tls(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")]
#[case::http2(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")]
#[case::two_lengths(b"POST /v1/reload HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nx")]
#[case::nothing(b"")]
#[tokio::test]
async fn what_is_no_request_is_closed(#[case] bytes: &[u8]) {
    let served = Served::new().await;
    let mut stream = served.connect().await;
    stream.write_all(bytes).await.unwrap();
    stream.shutdown().await.unwrap();
    let text = read_all(stream).await;
    assert!(text.is_empty() || text.starts_with("HTTP/1.1 4"), "{text}");
    served.get("/v1/status").await;
}

#[rstest]
#[case::long_header("x", 1 << 20)]
#[case::many_headers("a: b\r\n", 100_000)]
#[tokio::test]
async fn a_head_without_end_is_not_read_to_its_end(#[case] part: &str, #[case] times: usize) {
    let served = Served::new().await;
    let mut stream = served.connect().await;
    let _ = stream.write_all(b"GET /v1/status HTTP/1.1\r\n").await;
    if !part.contains(':') {
        let _ = stream.write_all(b"x: ").await;
    }
    // The other side stops to read, and closes.
    let written = stream.write_all(part.repeat(times).as_bytes()).await;
    let mut bytes = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("it ends");
    let refused = String::from_utf8_lossy(&bytes).starts_with("HTTP/1.1 431");
    assert!(refused || written.is_err() || read.is_err(), "{bytes:?}");
    served.get("/v1/status").await;
}

#[tokio::test]
async fn a_large_body_is_refused() {
    let served = Served::new().await;
    let body = " ".repeat(5_000);
    let (status, why) = served.ask("POST", "/v1/processes/web/pause", &body).await;
    assert_eq!(status, 413, "{why}");
}

#[tokio::test]
async fn clients_that_say_nothing_are_let_go_and_those_that_wait_are_answered_then() {
    let served = Served::new().await;
    let mut silent = Vec::new();
    for _ in 0..64 {
        silent.push(served.connect().await);
    }
    // All places are taken: this one waits until the silent ones are let go.
    served.get("/v1/status").await;
    for stream in silent {
        read_all(stream).await;
    }
}

#[rstest]
#[case::past("/v1/events", 64)]
#[case::followed("/v1/events?follow=1", 16)]
#[tokio::test(start_paused = true)]
async fn clients_that_do_not_read_are_let_go(#[case] path: &str, #[case] most: usize) {
    let served = Served::new().await;
    // Far more than fits between the two.
    let reason = "x".repeat(2_000);
    for at in 1..1_000 {
        let what = What::Did(Change::LaunchFailed { reason: reason.clone() });
        let process = ProcessName::new("web");
        served.bus.publish(Event { process, at: healer::event::Time(at), what });
        tokio::task::yield_now().await;
    }
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
    let mut open = Vec::new();
    for _ in 0..most {
        let mut stream = served.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        open.push(stream);
    }
    timeout(PATIENCE, async {
        let mut head = [0; 12];
        while &head != b"HTTP/1.1 200" {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let mut stream = served.connect().await;
            stream.write_all(request.as_bytes()).await.unwrap();
            stream.read_exact(&mut head).await.unwrap();
        }
    })
    .await
    .expect("there is room again");
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let served = Served::new().await;
    let mut stream = served.connect().await;
    let head = b"POST /v1/processes/web/pause HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n";
    stream.write_all(head).await.unwrap();
    let (status, why) = answer(&read_all(stream).await);
    assert_eq!(status, 408, "{why}");
}

#[tokio::test]
async fn the_socket_goes_with_the_server() {
    let served = Served::new().await;
    let path = served.path();
    let mut open = served.connect().await;
    served.server.stop().await;
    assert!(!path.exists());
    let mut bytes = Vec::new();
    // Closed, or reset where it was not accepted yet.
    let _ = timeout(PATIENCE, open.read_to_end(&mut bytes)).await.expect("it ends");
    assert!(bytes.is_empty(), "{bytes:?}");
}

#[tokio::test]
async fn a_socket_that_was_removed_is_put_back_at_the_next_look() {
    let served = Served::new().await;
    std::fs::remove_file(served.path()).unwrap();
    served.server.look();
    timeout(PATIENCE, async {
        while !served.path().exists() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    served.get("/v1/status").await;
    // One that is in its place is left there.
    let open = served.connect().await;
    served.server.look();
    served.get("/v1/status").await;
    drop(open);
}
