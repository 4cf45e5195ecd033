//! Many deaths at a time, many unrelated ones, and a bus and a ring that hold next to nothing.

use std::fs;
use std::thread;
use std::time::Duration;

use rstest::rstest;
use rustix::process::Signal;

use crate::harness::{
    Service, Site, command, eventually, has_ebpf, kill, living, program, sh, throughout, wait,
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

/// What others started is told on the bus, and nobody is held by whom a loss would show later.
#[test]
fn instances_that_others_start_at_once_are_all_adopted_over_a_bus_of_one() {
    if !has_ebpf() {
        return;
    }
    let site = Site::new();
    let services: Vec<Service> =
        (0..50).map(|number| site.service(&format!("s{number}")).set("autostart", false)).collect();
    site.configure(&services);
    let healer = site.spawn(site.healer(&["--foreground"]).env("HEALER_BUS_CAPACITY", "1"));
    eventually("all are down", || healer.said(&[("to", "down")]).len() == 50);
    healer.signal(Signal::STOP);
    for service in &services {
        site.start_by_hand(service);
    }
    healer.signal(Signal::CONT);
    eventually("all are adopted", || {
        healer.said(&[("message", "adopted a running instance")]).len() == 50
    });
    assert!(!healer.said(&[("message", "the bus lagged")]).is_empty());
    for service in &services {
        service.kill(Signal::KILL);
    }
    all_run(&services, 2);
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
    if !has_ebpf() {
        return;
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

/// How often the threads of a process were put to sleep, and its CPU time in clock ticks.
fn activity(pid: i32) -> (u64, u64) {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ticks = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    let sleeps = fs::read_dir(format!("/proc/{pid}/task")).unwrap().map(|thread| {
        let status = fs::read_to_string(thread.unwrap().path().join("status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        line.map_or(0, |count| count.trim().parse().unwrap())
    });
    (sleeps.sum(), ticks)
}

#[test]
fn unrelated_programs_never_wake_healer() {
    if !has_ebpf() {
        return;
    }
    let site = Site::new();
    let service = site.service("web");
    let healer = site.guard([&service]);
    healer.until_said(&[("process", "web"), ("message", "ready")]);
    let mut last = activity(healer.pid());
    eventually("it sleeps", || {
        thread::sleep(Duration::from_millis(300));
        let before = std::mem::replace(&mut last, activity(healer.pid()));
        before == last
    });
    sh("i=0; while [ $i -lt 2000 ]; do /bin/true; i=$((i+1)); done");
    let (sleeps, ticks) = activity(healer.pid());
    // Its one slow timer may fall into that time.
    let (woken, ticks) = (sleeps - last.0, ticks - last.1);
    assert!(woken < 20, "woken {woken} times by 2000 programs");
    assert!(ticks <= 1, "{ticks} clock ticks of work");
    // It is awake when it has to be.
    service.kill(Signal::KILL);
    service.running(2);
}

/// While healer does not run, more programs of an entry start than the ring has room for.
#[test]
fn ring_that_overflows_hides_no_death_and_no_start_of_an_instance() {
    if !has_ebpf() {
        return;
    }
    let site = Site::new();
    let victim = site.service("victim");
    let other = site.service("other").set("autostart", false);
    site.configure([&victim, &other]);
    let mut daemon = site.healer(&["--foreground"]);
    let healer = site.spawn(daemon.env("HEALER_EBPF_RING_BYTES", "4096"));
    healer.until_said(&[("process", "other"), ("to", "down")]);
    victim.running(1);
    let line = |times| {
        let program = program();
        format!(
            "i=0; while [ $i -lt {times} ]; do {} --exit 0; i=$((i+1)); done",
            program.display()
        )
    };
    healer.signal(Signal::STOP);
    victim.kill(Signal::KILL);
    sh(&line(400));
    let by_hand = site.start_by_hand(&other);
    healer.signal(Signal::CONT);
    victim.running(2);
    healer.until_said(&[("process", "other"), ("message", "adopted a running instance")]);
    throughout(Duration::from_millis(300), "it is one", || other.living() == [by_hand.clone()]);
    let dropped = healer.said(&[("level", "WARN"), ("message", "starts came faster")]);
    assert_eq!(dropped.len(), 1, "{dropped:?}");
    // A page holds 170 records.
    assert!((200..=401).contains(&dropped[0]["lost"].as_u64().unwrap()), "{dropped:?}");
    // Adopted is guarded, in the midst of more.
    let mut flood = command("/bin/sh").args(["-c", &line(100_000)]).spawn().unwrap();
    other.kill(Signal::KILL);
    for count in 2..=10 {
        victim.running(count);
        victim.kill(Signal::KILL);
    }
    victim.running(11);
    other.running(2);
    flood.kill().unwrap();
    wait(&mut flood);
}
