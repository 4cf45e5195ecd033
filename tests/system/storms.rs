//! Many deaths at a time, many unrelated ones, and a bus that holds one event.

use std::thread;
use std::time::Duration;

use rstest::rstest;
use rustix::process::Signal;

use crate::harness::{
    Service, Site, command, eventually, is_root, kill, living, program, skip, throughout, wait,
};
use crate::life::zombies_of;

/// Kills 200 services at a time and watches that 200 come back, none twice.
fn kill_200(site: &Site, services: &[Service]) {
    all_run(services, 1);
    let doomed: Vec<_> = site
        .living()
        .into_iter()
        .filter(|process| services.iter().any(|service| service.is(process)))
        .collect();
    assert_eq!(doomed.len(), 200);
    for process in &doomed {
        assert!(kill(process, Signal::KILL));
    }
    all_run(services, 2);
    throughout(Duration::from_millis(500), "each was started once more", || {
        services.iter().all(|service| service.starts().len() == 2)
    });
    for service in services {
        service.assert_never_two();
    }
}

/// Waits until each has started `count` times, and lives.
fn all_run(services: &[Service], count: usize) {
    eventually(&format!("all run for the {count}. time"), || {
        services.iter().all(|service| service.starts().len() == count)
    });
    eventually("all live", || {
        let living: Vec<i32> = living().map(|process| process.pid).collect();
        services.iter().all(|service| living.contains(&service.starts()[count - 1].pid))
    });
}

#[rstest]
#[case::by_pid_file(true, None)]
#[case::by_pidfd(false, None)]
#[case::by_pid_file_over_a_bus_of_one(true, Some("1"))]
fn two_hundred_killed_at_once_are_back_none_twice(#[case] files: bool, #[case] bus: Option<&str>) {
    let site = Site::new();
    let services: Vec<Service> = (0..200)
        .map(|number| site.service(&format!("s{number}")))
        .map(|service| if files { service.with_pid_file() } else { service })
        .collect();
    site.configure(&services);
    let mut daemon = site.healer(&["--foreground"]);
    if let Some(capacity) = bus {
        daemon.env("HEALER_BUS_CAPACITY", capacity);
    }
    let _healer = site.spawn(&mut daemon);
    kill_200(&site, &services);
}

#[test]
fn flood_of_orphans_hides_no_death_and_leaves_no_zombie() {
    let site = Site::new();
    let victim = site.service("victim");
    // Healthy, and the parent of two thousand grandchildren that healer inherits and must reap.
    let flood = site.service("flood").args(["--orphans", "2000"]);
    let healer = site.guard([&victim, &flood]);
    for count in 1..=10 {
        victim.running(count);
        victim.kill(Signal::KILL);
        thread::yield_now();
    }
    victim.running(11);
    flood.running(1);
    let pid = healer.pid();
    eventually("no zombie is left", || zombies_of(pid).is_empty());
}

/// Unrelated programs, and the very program of the service with other words, come and go by the
/// thousand while the service is killed again and again.
#[test]
fn flood_of_unrelated_programs_hides_no_death_and_no_cause() {
    if !is_root() {
        return skip("eBPF needs root");
    }
    let site = Site::new();
    let victim = site.service("victim");
    let healer = site.guard([&victim]);
    let line = format!("while :; do /bin/true; {} --exit 0; done", program().display());
    let mut floods: Vec<_> = (0..2)
        .map(|_| {
            let mut flood = command("/bin/sh");
            flood.args(["-c", &line]).current_dir(site.path()).spawn().unwrap()
        })
        .collect();
    for count in 1..=30 {
        victim.running(count);
        victim.kill(Signal::KILL);
    }
    victim.running(31);
    for flood in &mut floods {
        flood.kill().unwrap();
        wait(flood);
    }
    victim.assert_never_two();
    let named = |line: &serde_json::Value| {
        line["reason"].as_str().is_some_and(|reason| reason.starts_with("SIGKILL by "))
    };
    let ends = || healer.said(&[("process", "victim"), ("message", "ended")]);
    eventually("all ends are told", || ends().len() == 30);
    assert!(ends().iter().all(named), "{:?}", ends());
}
