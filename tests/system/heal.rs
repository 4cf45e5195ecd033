//! A process that died is brought back, whatever ended it; one that lives is left alone.

use std::fs;
use std::time::Duration;

use rstest::rstest;
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use serde_json::json;

use crate::harness::{Service, Site, eventually, program, throughout};

/// How an entry is watched.
#[derive(Clone, Copy)]
enum By {
    PidFile,
    Ebpf,
}

impl By {
    fn watch(self, service: Service) -> Service {
        match self {
            Self::PidFile => service.with_pid_file(),
            Self::Ebpf => service,
        }
    }
}

#[rstest]
fn every_signal_is_healed_once(#[values(By::PidFile, By::Ebpf)] by: By) {
    let site = Site::new();
    let signals = [Signal::KILL, Signal::TERM, Signal::SEGV, Signal::HUP];
    let services: Vec<Service> =
        (0..4).map(|number| by.watch(site.service(&format!("s{number}")))).collect();
    let _healer = site.guard(&services);
    for (service, signal) in services.iter().zip(signals) {
        service.running(1);
        service.kill(signal);
    }
    for service in &services {
        service.running(2);
    }
    throughout(Duration::from_millis(300), "each was started once more", || {
        services.iter().all(|service| service.starts().len() == 2)
    });
}

#[rstest]
fn every_exit_code_is_healed(#[values(By::PidFile, By::Ebpf)] by: By) {
    let site = Site::new();
    // Ready well before the end, so that no restart has to wait.
    let services = ["0", "1", "7"].map(|code| {
        by.watch(site.service(&format!("exit-{code}")))
            .args(["--after", "400", "--exit", code])
            .set("ready_after_secs", 0.1)
    });
    let _healer = site.guard(&services);
    for service in &services {
        eventually("started three times", || service.starts().len() >= 3);
        service.assert_never_two();
    }
}

#[test]
fn fault_of_its_own_is_healed() {
    let site = Site::new();
    let service = site
        .service("faulty")
        .args(["--after", "400", "--raise", "SIGSEGV"])
        .set("ready_after_secs", 0.1);
    let _healer = site.guard([&service]);
    eventually("started three times", || service.starts().len() >= 3);
    service.assert_never_two();
}

#[test]
fn restart_keeps_the_output_of_the_last_instance() {
    let site = Site::new();
    let service = site.service("talker");
    let _healer = site.guard([&service]);
    let first = service.running(1).pid;
    eventually("the first instance's words are there", || {
        service.output().contains(&format!("started {first}\n"))
    });
    service.kill(Signal::KILL);
    let second = service.running(2).pid;
    eventually("both instances' words are there", || {
        let output = service.output();
        output.contains(&format!("started {first}\n"))
            && output.contains(&format!("started {second}\n"))
    });
}

#[rstest]
fn leader_thread_that_ends_is_no_death(#[values(By::PidFile, By::Ebpf)] by: By) {
    let site = Site::new();
    let service = by.watch(site.service("headless")).args(["--leader-exits"]);
    let _healer = site.guard([&service]);
    service.running(1);
    throughout(Duration::from_millis(1200), "it was started once", || service.starts().len() == 1);
    service.kill(Signal::KILL);
    service.running(2);
}

#[test]
fn command_that_is_missing_is_counted_and_healed_once_it_is_there() {
    let site = Site::new();
    let command = site.file("late");
    let service = site
        .service("late")
        .set("command", command.to_str().unwrap())
        .set("recovery.retries", 1)
        .set("recovery.cooldown_secs", 1)
        .set("recovery.half_open_secs", 0.2)
        .set("recovery.backoff", json!({ "initial_secs": 0.1 }));
    let other = site.service("other");
    let healer = site.guard([&service, &other]);
    other.running(1);
    healer.until_warned_of("late");
    fs::copy(program(), &command).unwrap();
    service.running(1);
}

#[test]
fn machine_that_lacks_descriptors_is_told_once_and_costs_no_budget() {
    let site = Site::new();
    // One failure, the kill, is all that it may have.
    let service = site.service("web").set("recovery.retries", 1);
    let healer = site.guard([&service]);
    service.running(1);
    let pid = Pid::from_raw(healer.pid()).unwrap();
    let open = fs::read_dir(format!("/proc/{}/fd", healer.pid())).unwrap().count();
    let open = u64::try_from(open).unwrap();
    let before = getrlimit_of(pid);
    // Enough to look around, not enough to launch.
    prlimit(Some(pid), Resource::Nofile, Rlimit { current: Some(open + 2), ..before }).unwrap();
    service.kill(Signal::KILL);
    let told = || healer.said(&[("level", "ERROR"), ("message", "cannot start processes now")]);
    eventually("it is told", || !told().is_empty());
    throughout(Duration::from_secs(1), "once, and nothing starts", || {
        told().len() == 1 && service.starts().len() == 1
    });
    prlimit(Some(pid), Resource::Nofile, before).unwrap();
    service.running(2);
    assert_eq!(healer.said(&[("message", "breaker opened")]).len(), 0);
}

/// The limit of open descriptors that another process has.
fn getrlimit_of(pid: Pid) -> Rlimit {
    let text = fs::read_to_string(format!("/proc/{}/limits", pid.as_raw_pid())).unwrap();
    let line = text.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let mut numbers = line.split_whitespace().skip(3).map(|number| number.parse().ok());
    Rlimit { current: numbers.next().unwrap(), maximum: numbers.next().unwrap() }
}

#[test]
fn fifty_kills_in_a_row_are_each_healed_once() {
    let site = Site::new();
    let service = site.service("victim");
    let _healer = site.guard([&service]);
    for count in 1..=50 {
        service.running(count);
        service.kill(Signal::KILL);
    }
    service.running(51);
}

#[test]
fn disabled_and_unstarted_entries_stay_down() {
    let site = Site::new();
    let disabled = site.service("disabled").set("enabled", false);
    let manual = site.service("manual").set("autostart", false);
    let guarded = site.service("guarded");
    let _healer = site.guard([&disabled, &manual, &guarded]);
    guarded.running(1);
    throughout(Duration::from_millis(500), "neither was started", || {
        disabled.starts().is_empty() && manual.starts().is_empty()
    });
}

#[rstest]
#[case::never("never", &["--after", "300", "--exit", "1"])]
#[case::on_failure("on-failure", &["--after", "300", "--exit", "0"])]
fn process_that_may_end_stays_down(#[case] restart: &str, #[case] args: &[&str; 4]) {
    let site = Site::new();
    let service = site
        .service("job")
        .args(*args)
        .set("recovery.restart", restart)
        .set("ready_after_secs", 0.1);
    let _healer = site.guard([&service]);
    service.running(1);
    eventually("it ended", || service.living().is_empty());
    throughout(Duration::from_millis(500), "it stays down", || service.starts().len() == 1);
}
