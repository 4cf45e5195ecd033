//! What runs already is taken over, not doubled; what healer leaves, it leaves alive.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Stdio;
use std::time::Duration;

use rstest::rstest;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{
    Service, Site, command, eventually, has_ebpf, is_root, kill, program, skip, throughout, wait,
};

#[test]
fn running_instance_is_adopted_and_left_alive_when_healer_stops() {
    let site = Site::new();
    let service = site.service("found");
    let found = site.start_by_hand(&service);
    let healer = site.guard([&service]);
    throughout(Duration::from_millis(500), "it was not doubled", || service.starts().len() == 1);
    healer.stop();
    throughout(Duration::from_millis(300), "it lives on", || service.living() == [found.clone()]);
    let _healer = site.start();
    service.kill(Signal::KILL);
    service.running(2);
}

#[test]
fn same_program_with_other_arguments_is_not_adopted() {
    let site = Site::new();
    let other = site.service("other").args(["--tag", "other"]);
    let twin = site.start_by_hand(&other);
    let service = site.service("own").args(["--tag", "own"]);
    let _healer = site.guard([&service]);
    service.running(1);
    service.kill(Signal::KILL);
    service.running(2);
    assert_eq!(other.living(), [twin]);
}

#[test]
fn killed_healer_is_succeeded_by_one_that_adopts_the_living_and_heals_the_dead() {
    let site = Site::new();
    let services = ["a", "b", "c"].map(|name| site.service(name));
    let [a, b, c] = &services;
    let c = c.clone().with_pid_file();
    let healer = site.guard([a, b, &c]);
    let (first_a, first_c) = (a.running(1), c.running(1));
    b.running(1);
    healer.end_by(Signal::KILL);
    b.kill(Signal::KILL);
    eventually("b is dead", || b.living().is_empty());
    let _healer = site.start();
    b.running(2);
    assert_eq!((a.running(1), c.running(1)), (first_a, first_c));
    // Adopted is guarded.
    a.kill(Signal::KILL);
    c.kill(Signal::KILL);
    a.running(2);
    c.running(2);
}

#[test]
fn healers_killed_again_and_again_double_nothing() {
    let site = Site::new();
    let services: Vec<_> = (0..10).map(|number| site.service(&format!("s{number}"))).collect();
    site.configure(&services);
    for _ in 0..5 {
        // In the middle of the launches, the first time.
        site.start().end_by(Signal::KILL);
    }
    let _healer = site.start();
    for service in &services {
        eventually("it runs", || service.living().len() == 1);
        service.assert_never_two();
    }
}

#[test]
fn what_a_young_leader_left_when_it_died_with_healer_is_told_and_not_doubled() {
    let site = Site::new();
    let service = site.service("server").args(["--workers", "1"]);
    let healer = site.guard([&service]);
    service.running(1);
    eventually("its worker runs", || service.living().len() == 2);
    healer.end_by(Signal::KILL);
    service.kill(Signal::KILL);
    eventually("the worker is left", || service.living().len() == 1);
    // It may as well be the daemon of a command that forked once.
    let _healer = site.start();
    eventually("it is said why nothing is done", || site.log_text().contains("leader is gone"));
    assert_eq!(service.starts().len(), 1);
    // Nothing is left to doubt: it is started.
    for process in service.living() {
        kill(&process, Signal::KILL);
    }
    service.running(2);
}

#[test]
fn script_whose_interpreter_only_healers_path_leads_to_is_adopted() {
    let site = Site::new();
    let bin = site.file("bin");
    fs::create_dir(&bin).unwrap();
    symlink("/bin/sh", bin.join("private-sh")).unwrap();
    let script = site.file("web");
    let text = "#!/usr/bin/env private-sh\n\
                echo \"$$ 0 alone\" >> \"$2\"; while :; do sleep 0.1; done\n";
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let service = site.service("web").set("command", script.to_str().unwrap());
    site.configure([&service]);
    let path = format!("{}:/usr/bin:/bin", bin.display());
    let start = || {
        let before = site.notify.heard().len();
        let mut healer = site.spawn(site.healer(&["--foreground"]).env("PATH", &path));
        healer.until_heard(before, "READY=1");
        healer
    };
    let healer = start();
    service.running(1);
    healer.stop();
    let _healer = start();
    throughout(Duration::from_millis(500), "it was not doubled", || service.starts().len() == 1);
}

/// What is there, and what healer does not start for the time being.
fn down_for_a_while(site: &Site, how: &str) -> Service {
    let forever = json!({ "initial_secs": 300, "max_secs": 300, "jitter": 0 });
    let service = site.service("web").args(["--exit-unless", "ok"]);
    match how {
        "backoff" => service.set("recovery.backoff", forever),
        "cooldown" => service.set("recovery.retries", 1).set("recovery.cooldown_secs", 600),
        _ => service.set("autostart", false),
    }
}

#[rstest]
#[case::backoff("backoff", "backing-off")]
#[case::cooldown("cooldown", "breaker-open")]
#[case::never_started("autostart", "down")]
fn what_an_administrator_starts_meanwhile_is_the_one_instance(
    #[case] how: &str,
    #[case] state: &str,
) {
    if !has_ebpf() {
        return;
    }
    let site = Site::new();
    let service = down_for_a_while(&site, how);
    let healer = site.guard([&service]);
    healer.until_said(&[("process", "web"), ("to", state)]);
    let failed = service.starts().len();
    fs::write(site.file("ok"), "").unwrap();
    let by_hand = site.start_by_hand(&service);
    healer.until_said(&[("process", "web"), ("message", "adopted a running instance")]);
    throughout(Duration::from_millis(500), "it is one", || service.living() == [by_hand.clone()]);
    assert_eq!(service.starts().len(), failed + 1);
    service.assert_never_two();
}

#[rstest]
#[case::cooldown("recovery.cooldown_secs", json!(600))]
#[case::left_to_the_other("recovery.restart", json!("never"))]
fn what_another_supervisor_restarts_is_adopted_each_time(#[case] key: &str, #[case] value: Value) {
    if !has_ebpf() {
        return;
    }
    let site = Site::new();
    // healer does not start it, the other one does.
    let service = site.service("web").set("recovery.retries", 0).set(key, value);
    let words: Vec<_> = service.words().iter().map(|word| format!("'{word}'")).collect();
    let line = format!("while :; do '{}' {}; done", program().display(), words.join(" "));
    let mut supervisor = command("/bin/sh");
    let mut supervisor = supervisor
        .args(["-c", &line])
        .current_dir(site.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    service.running(1);
    let healer = site.guard([&service]);
    let adopted = || healer.said(&[("process", "web"), ("message", "adopted")]).len();
    for count in 1..=10 {
        eventually("it is adopted", || adopted() == count);
        service.running(count);
        service.kill(Signal::KILL);
    }
    service.running(11);
    supervisor.kill().unwrap();
    wait(&mut supervisor);
    assert!(healer.said(&[("message", "started")]).is_empty());
}

#[test]
fn twin_in_a_container_is_not_adopted() {
    if !is_root() {
        return skip("a PID namespace of its own needs root");
    }
    let site = Site::new();
    let service = site.service("twin");
    let mut container = command("/usr/bin/unshare")
        .args(["--pid", "--fork", "--mount-proc", "--kill-child"])
        .arg(program())
        .args(service.words())
        .current_dir(site.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    eventually("the twin runs", || service.starts().len() == 1);
    // By its names, the twin is the service; unshare's own command line says the same words.
    let twins = service.living().len();
    let healer = site.guard([&service]);
    eventually("one of healer's own runs", || service.living().len() == twins + 1);
    eventually("it and its twin started", || service.starts().len() == 2);
    healer.stop();
    container.kill().unwrap();
    wait(&mut container);
}
