//! No storm: a process that keeps failing is tried `1 + retries` times, then once a cooldown.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::harness::{Service, Site, eventually, has_ebpf, throughout};

const COOLDOWN: Duration = Duration::from_secs(2);

/// Opens after two failures, closes after half a second of life.
fn touchy(service: Service) -> Service {
    service
        .set("ready_after_secs", 0.1)
        .set("recovery.retries", 2)
        .set("recovery.cooldown_secs", COOLDOWN.as_secs_f64())
        .set("recovery.half_open_secs", 0.5)
        .set("recovery.backoff", json!({ "initial_secs": 0.05, "factor": 1, "jitter": 0 }))
}

#[test]
fn process_that_ends_at_once_is_tried_retries_times_then_once_each_cooldown() {
    let site = Site::new();
    let service = touchy(site.service("broken").args(["--exit", "1"]));
    let _healer = site.guard([&service]);
    // The first start, two retries, and two trials that nothing but time brings about.
    eventually("two trials were made", || service.starts().len() >= 5);
    let gaps = service.gaps();
    assert!(gaps[..2].iter().all(|gap| *gap < COOLDOWN), "the breaker opened early: {gaps:?}");
    assert!(gaps[2..].iter().all(|gap| *gap >= COOLDOWN), "started while Open: {gaps:?}");
    service.assert_never_two();
}

#[test]
fn good_trial_closes_the_breaker_and_empties_its_window() {
    let site = Site::new();
    let service = touchy(site.service("shaky"));
    let healer = site.guard([&service]);
    for count in 1..=3 {
        service.running(count);
        service.kill(Signal::KILL);
    }
    // The third failure opened the breaker: the fourth start is the trial.
    service.running(4);
    assert!(service.gaps()[2] >= COOLDOWN, "started while Open: {:?}", service.gaps());
    healer.until_said(&[("process", "shaky"), ("message", "breaker closed")]);
    throughout(Duration::from_millis(800), "the trial lives", || service.starts().len() == 4);
    // The whole budget is there again.
    for count in 4..=5 {
        service.kill(Signal::KILL);
        service.running(count + 1);
    }
    assert!(service.gaps()[3..].iter().all(|gap| *gap < COOLDOWN), "{:?}", service.gaps());
}

/// Somebody starts it during the cooldown, and it dies again before that is over.
#[test]
fn process_that_dies_while_the_breaker_is_open_gets_its_trial() {
    let site = Site::new();
    let service = site
        .service("web")
        .set("recovery.retries", 0)
        .set("recovery.cooldown_secs", 4)
        .set("recovery.half_open_secs", 0.5);
    let healer = site.guard([&service]);
    service.running(1);
    service.kill(Signal::KILL);
    healer.until_said(&[("process", "web"), ("message", "breaker opened")]);
    site.start_by_hand(&service);
    if has_ebpf() {
        healer.until_said(&[("process", "web"), ("message", "adopted a running instance")]);
    }
    service.kill(Signal::KILL);
    service.running(3);
    let gap = service.gaps()[0] + service.gaps()[1];
    assert!(gap >= Duration::from_secs(4), "started while Open: {gap:?}");
    healer.until_said(&[("process", "web"), ("message", "breaker closed")]);
}

#[test]
fn failed_launches_open_the_breaker_too() {
    let site = Site::new();
    // Each launch leaves a line before it fails: the interpreter is there, its program is not.
    let script = site.file("broken.sh");
    std::fs::write(
        &script,
        format!("#!/bin/sh\necho x >> {}/tries\nexit 3\n", site.path().display()),
    )
    .unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let service = touchy(site.service("script"))
        .set("command", script.to_str().unwrap())
        .set("args", json!([]))
        .set("recovery.cooldown_secs", 60);
    let _healer = site.guard([&service]);
    let tries = || std::fs::read_to_string(site.file("tries")).unwrap_or_default().lines().count();
    eventually("it was tried three times", || tries() == 3);
    throughout(Duration::from_secs(1), "no start while Open", || tries() == 3);
}

#[test]
fn restarts_of_a_process_that_ends_before_it_is_ready_are_spread() {
    let site = Site::new();
    let service = site.service("hasty").args(["--exit", "1"]).set(
        "recovery.backoff",
        json!({ "initial_secs": 0.4, "factor": 2, "max_secs": 1, "jitter": 0 }),
    );
    let _healer = site.guard([&service]);
    eventually("started five times", || service.starts().len() >= 5);
    let gaps = service.gaps();
    for (gap, least) in gaps[1..].iter().zip([0.4, 0.8, 1.0]) {
        assert!(*gap >= Duration::from_secs_f64(least), "{gaps:?}");
    }
}

#[test]
fn first_restart_and_restarts_after_a_signal_are_at_once() {
    let site = Site::new();
    let backoff = json!({ "initial_secs": 300, "max_secs": 300 });
    let hasty =
        site.service("hasty").args(["--exit", "1"]).set("recovery.backoff", backoff.clone());
    let killed = site.service("killed").set("recovery.backoff", backoff);
    let _healer = site.guard([&hasty, &killed]);
    for count in 1..=4 {
        killed.running(count);
        killed.kill(Signal::KILL);
    }
    killed.running(5);
    eventually("the first restart was at once", || hasty.starts().len() == 2);
    throughout(Duration::from_millis(500), "the second waits", || hasty.starts().len() == 2);
}
