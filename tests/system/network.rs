//! A process that lives but does not answer is replaced; one that answers is left alone.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use rstest::rstest;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Service, Site, eventually, throughout};

/// A guarded web server, and what it answers.
struct Web {
    service: Service,
    says: PathBuf,
    port: u16,
}

impl Web {
    fn new(site: &Site) -> Self {
        let port = free_port();
        let says = site.file("says");
        let service = site.service("web").args([
            "--web",
            &port.to_string(),
            "--web-says",
            says.to_str().unwrap(),
        ]);
        let web = Self { service, says, port };
        web.probed(&json!({}))
    }

    /// Watched by eBPF and by a probe with these keys beside the tests' own.
    fn probed(mut self, keys: &Value) -> Self {
        let mut probe = json!({
            "type": "network",
            "target_url": format!("http://127.0.0.1:{}/health", self.port),
            "interval_secs": 0.2,
            "timeout_secs": 0.5,
            "failure_threshold": 2,
            "start_period_secs": 20,
        });
        probe.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        self.service = self.service.set("monitor", json!([{ "type": "ebpf" }, probe]));
        self
    }

    fn args<const N: usize>(mut self, words: [&str; N]) -> Self {
        self.service = self.service.args(words);
        self
    }

    /// From now on it answers with this status, or hangs.
    fn says(&self, what: &str) {
        let beside = self.says.with_extension("new");
        fs::write(&beside, what).unwrap();
        fs::rename(beside, &self.says).unwrap();
    }

    fn is_well_again(&self) {
        fs::remove_file(&self.says).unwrap();
    }
}

fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

const READY: &[(&str, &str)] = &[("process", "web"), ("to", "ready")];

#[test]
fn stopped_server_is_replaced_by_exactly_one() {
    let site = Site::new();
    let web = Web::new(&site);
    let healer = site.guard([&web.service]);
    let first = web.service.running(1);
    healer.until_said(READY);
    web.service.kill(Signal::STOP);
    let second = web.service.running(2);
    eventually("it is ready again", || healer.said(READY).len() == 2);
    // It was replaced once: it is not taken for hung because the one before was.
    throughout(Duration::from_secs(2), "the new one lives alone", || {
        web.service.starts().len() == 2 && web.service.living() == [second.clone()]
    });
    assert_ne!(first.pid, second.pid);
    web.service.assert_never_two();
    let reason = "timed out after 0.5 s while waiting for the response";
    healer.until_said(&[("process", "web"), ("message", "hung"), ("reason", reason)]);
}

#[test]
fn stopped_server_that_ignores_sigterm_is_killed_with_its_workers() {
    let site = Site::new();
    let mut web = Web::new(&site).args(["--ignore-term", "--workers", "2"]);
    web.service = web.service.set("stop.timeout_secs", 0.3);
    let healer = site.guard([&web.service]);
    web.service.running(1);
    healer.until_said(READY);
    eventually("its workers run", || web.service.living().len() == 3);
    let first: Vec<i32> = web.service.living().iter().map(|process| process.pid).collect();
    web.service.kill(Signal::STOP);
    web.service.running(2);
    assert!(web.service.living().iter().all(|process| !first.contains(&process.pid)));
}

#[rstest]
#[case::status("500", "HTTP status 500")]
#[case::silence("hang", "timed out after 0.5 s while waiting for the response")]
fn server_that_answers_wrongly_is_replaced(#[case] answer: &str, #[case] reason: &str) {
    let site = Site::new();
    let web = Web::new(&site);
    let healer = site.guard([&web.service]);
    web.service.running(1);
    healer.until_said(READY);
    web.says(answer);
    healer.until_said(&[("process", "web"), ("message", "hung"), ("reason", reason)]);
    web.is_well_again();
    web.service.running(2);
    eventually("it is ready again", || healer.said(READY).len() == 2);
    throughout(Duration::from_secs(1), "it is left alone", || web.service.starts().len() == 2);
}

#[test]
fn healthy_server_is_left_alone() {
    let site = Site::new();
    let web = Web::new(&site).probed(&json!({ "failure_threshold": 3 }));
    let healer = site.guard([&web.service]);
    let first = web.service.running(1);
    healer.until_said(READY);
    throughout(Duration::from_secs(3), "it is left alone", || {
        web.service.living() == [first.clone()]
    });
    assert_eq!(healer.said(READY).len(), 1);
}

#[test]
fn death_is_noticed_by_the_pidfd_and_not_by_the_probe() {
    let site = Site::new();
    let web = Web::new(&site).probed(&json!({ "interval_secs": 3600, "timeout_secs": 60 }));
    let _healer = site.guard([&web.service]);
    web.service.running(1);
    let killed = Instant::now();
    web.service.kill(Signal::KILL);
    web.service.running(2);
    assert!(killed.elapsed() < Duration::from_secs(10), "{:?}", killed.elapsed());
}

#[test]
fn slow_start_is_within_the_start_period() {
    let site = Site::new();
    let web =
        Web::new(&site).args(["--web-after", "2500"]).probed(&json!({ "failure_threshold": 1 }));
    let healer = site.guard([&web.service]);
    web.service.running(1);
    healer.until_said(READY);
    assert_eq!(web.service.starts().len(), 1);
}

#[test]
fn start_that_is_too_slow_is_a_failure_like_any_other() {
    let site = Site::new();
    let mut web = Web::new(&site)
        .args(["--web-after", "600000"])
        .probed(&json!({ "start_period_secs": 0.5, "failure_threshold": 1 }));
    web.service = web.service.set("recovery.retries", 1).set("recovery.cooldown_secs", 3600);
    let healer = site.guard([&web.service]);
    healer.until_said(&[("process", "web"), ("to", "breaker-open")]);
    assert_eq!(web.service.starts().len(), 2);
    throughout(Duration::from_secs(1), "the breaker holds", || web.service.starts().len() == 2);
    assert!(web.service.living().is_empty());
}

#[test]
fn ready_is_what_the_probe_says() {
    let site = Site::new();
    let web = Web::new(&site);
    web.says("503");
    let healer = site.guard([&web.service]);
    web.service.running(1);
    throughout(Duration::from_secs(2), "it is up and not ready", || healer.said(READY).is_empty());
    web.is_well_again();
    healer.until_said(READY);
    assert_eq!(web.service.starts().len(), 1);
}

/// As a virtual machine is paused, or starved: nobody answers, and nobody asks.
#[test]
fn machine_that_did_not_run_is_no_dead_fleet() {
    let site = Site::new();
    let web = Web::new(&site).probed(&json!({ "interval_secs": 0.1, "failure_threshold": 1 }));
    web.says("slow");
    let healer = site.guard([&web.service]);
    let first = web.service.running(1);
    healer.until_said(READY);
    for _ in 0..10 {
        web.service.kill(Signal::STOP);
        healer.signal(Signal::STOP);
        thread::sleep(Duration::from_millis(700));
        healer.signal(Signal::CONT);
        web.service.kill(Signal::CONT);
        thread::sleep(Duration::from_millis(450));
    }
    assert_eq!(web.service.living(), [first]);
    assert_eq!(web.service.starts().len(), 1);
}

#[test]
fn probe_that_a_reload_brings_is_made() {
    let site = Site::new();
    let web = Web::new(&site);
    let without = web.service.clone().set("monitor", json!({ "type": "ebpf" }));
    let mut healer = site.guard([&without]);
    web.service.running(1);
    web.says("500");
    healer.reload([&web.service]);
    web.service.running(2);
    web.is_well_again();
}

#[test]
fn restart_of_healer_leaves_a_healthy_server_alone() {
    let site = Site::new();
    let web = Web::new(&site);
    let healer = site.guard([&web.service]);
    let first = web.service.running(1);
    healer.until_said(READY);
    healer.stop();
    let healer = site.start();
    eventually("it is ready again", || healer.said(READY).len() == 2);
    throughout(Duration::from_secs(1), "it is left alone", || {
        web.service.living() == [first.clone()]
    });
}

#[test]
fn what_is_only_watched_is_never_started() {
    let site = Site::new();
    let remote = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("tcp://{}", remote.local_addr().unwrap());
    let web = Web::new(&site);
    let mut config = json!({
        "log_level": "debug",
        "log_format": "json",
        "log_directory": site.file("log"),
        "pid_file_directory": site.file("run"),
        "processes": [
            web.service.entry(),
            { "name": "db", "monitor": { "type": "network", "target_url": url, "interval_secs": 0.2 } },
        ],
    });
    site.write_config(&config.to_string());
    let mut healer = site.start();
    web.service.running(1);
    healer.until_said(&[("process", "db"), ("to", "reachable")]);
    drop(remote);
    healer.until_said(&[("process", "db"), ("to", "unreachable")]);
    assert!(!healer.said(&[("process", "db"), ("reason", "connection refused")]).is_empty());
    config["processes"].as_array_mut().unwrap().pop();
    site.write_config(&config.to_string());
    healer.reload_file();
    assert_eq!(web.service.starts().len(), 1);
}
