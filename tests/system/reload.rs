//! SIGHUP: the newest good file holds, and what it does not change is not disturbed.

use std::fs;
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::{Living, Site, command, eventually, has_ebpf, program, throughout, wait};

#[test]
fn reload_adds_removes_and_leaves_the_rest_alone() {
    let site = Site::new();
    let [kept, removed, added] = ["kept", "removed", "added"].map(|name| site.service(name));
    let mut healer = site.guard([&kept, &removed]);
    let (first_kept, first_removed) = (kept.running(1), removed.running(1));
    healer.reload([&kept, &added]);
    added.running(1);
    assert_eq!((kept.running(1), removed.running(1)), (first_kept, first_removed));
    // Removed is unwatched; kept and added are guarded.
    for service in [&kept, &removed, &added] {
        service.kill(Signal::KILL);
    }
    kept.running(2);
    added.running(2);
    throughout(Duration::from_millis(300), "the removed one stays down", || {
        removed.living().is_empty() && removed.starts().len() == 1
    });
}

#[test]
fn changed_command_waits_for_the_next_launch() {
    let site = Site::new();
    let old = site.service("web").args(["--tag", "old"]);
    let new = site.service("web").args(["--tag", "new"]);
    let mut healer = site.guard([&old]);
    let first = old.running(1);
    healer.reload([&new]);
    throughout(Duration::from_millis(300), "the old one lives", || old.living() == [first.clone()]);
    old.kill(Signal::KILL);
    let second = new.running(2);
    assert!(second.has("new") && !second.has("old"));
}

#[test]
fn instance_of_a_changed_command_that_somebody_starts_is_guarded() {
    if !has_ebpf() {
        return;
    }
    let site = Site::new();
    let copy = site.file("other-program");
    fs::copy(program(), &copy).unwrap();
    let old = site.service("web").set("autostart", false);
    let new = old.clone().set("command", copy.to_str().unwrap());
    let mut healer = site.guard([&old]);
    healer.until_said(&[("process", "web"), ("to", "down")]);
    healer.reload([&new]);
    let stranger = site.start_by_hand(&old);
    let mut real = command(&copy);
    let mut real = real.args(new.words()).args(["--tag", "new", "--setsid"]).spawn().unwrap();
    healer.until_said(&[("message", "adopted"), ("pid", &real.id().to_string())]);
    assert_eq!(healer.said(&[("message", "adopted")]).len(), 1);
    real.kill().unwrap();
    wait(&mut real);
    healer.until_said(&[("process", "web"), ("message", "started")]);
    assert!(Living::read(stranger.pid) == Some(stranger));
}

#[test]
fn changed_policy_holds_at_once() {
    let site = Site::new();
    let service = site.service("job");
    let mut healer = site.guard([&service]);
    service.running(1);
    healer.reload([&service.clone().set("recovery.restart", "never")]);
    service.kill(Signal::KILL);
    eventually("it ended", || service.living().is_empty());
    throughout(Duration::from_millis(500), "it stays down", || service.starts().len() == 1);
}

#[test]
fn disabled_entry_is_unwatched_and_left_running_until_it_is_enabled_again() {
    let site = Site::new();
    let service = site.service("web");
    let disabled = service.clone().set("enabled", false);
    let mut healer = site.guard([&service]);
    let first = service.running(1);
    healer.reload([&disabled]);
    throughout(Duration::from_millis(300), "it lives", || service.living() == [first.clone()]);
    service.kill(Signal::KILL);
    throughout(Duration::from_millis(300), "it stays down", || service.starts().len() == 1);
    healer.reload([&service]);
    service.running(2);
}

#[test]
fn entry_that_is_enabled_or_added_again_is_not_started_beside_its_running_instance() {
    let site = Site::new();
    let service = site.service("web");
    let disabled = service.clone().set("enabled", false);
    let mut healer = site.guard([&service]);
    let first = service.running(1);
    healer.reload([&disabled]);
    healer.reload([&service]);
    healer.reload([]);
    healer.reload([&service]);
    throughout(Duration::from_millis(500), "it is one", || service.living() == [first.clone()]);
    service.kill(Signal::KILL);
    service.running(2);
    service.assert_never_two();
}

#[test]
fn bad_file_changes_nothing() {
    let site = Site::new();
    let service = site.service("web");
    let mut healer = site.guard([&service]);
    let first = service.running(1);
    for (count, bad) in ["not: [yaml", "processes: 3\n", "", "procesess: []\n"].iter().enumerate() {
        site.write_config(bad);
        healer.reload_file();
        eventually("the fault is logged", || healer.said(&[("level", "ERROR")]).len() > count);
    }
    fs::remove_file(site.config()).unwrap();
    healer.reload_file();
    assert_eq!(service.living(), [first]);
    service.kill(Signal::KILL);
    service.running(2);
    // And the next good one is taken.
    let added = site.service("added");
    healer.reload([&service, &added]);
    added.running(1);
}

#[test]
fn burst_of_hangups_ends_in_the_newest_file() {
    let site = Site::new();
    let service = site.service("web");
    let last = site.service("last");
    let healer = site.guard([&service]);
    let first = service.running(1);
    for round in 0..300 {
        // Every file differs: another entry, disabled, comes and goes.
        let passing = site.service(&format!("passing-{round}")).set("enabled", false);
        site.configure([&service, &passing]);
        healer.signal(Signal::HUP);
    }
    site.configure([&service, &last]);
    healer.signal(Signal::HUP);
    last.running(1);
    assert_eq!(service.living(), [first]);
    service.kill(Signal::KILL);
    service.running(2);
    healer.stop();
}

#[test]
fn reload_during_launches_starts_each_process_once() {
    let site = Site::new();
    let services: Vec<_> = (0..30).map(|number| site.service(&format!("s{number}"))).collect();
    let healer = site.guard(&services);
    for round in 0..10 {
        // Each reload changes every entry's policy while they start.
        let changed = services.iter().map(|service| service.clone().set("nice", round));
        site.configure(&changed.collect::<Vec<_>>());
        healer.signal(Signal::HUP);
        eventually("launches go on", || services[round * 3].starts().len() == 1);
    }
    let first: Vec<Living> = services.iter().map(|service| service.running(1)).collect();
    for (service, first) in services.iter().zip(first) {
        service.kill(Signal::KILL);
        assert_ne!(service.running(2), first);
    }
}

#[test]
fn reload_keeps_the_breaker_open() {
    let site = Site::new();
    let service = site
        .service("broken")
        .args(["--exit", "1"])
        .set("recovery.retries", 0)
        .set("recovery.cooldown_secs", 60);
    let mut healer = site.guard([&service]);
    healer.until_said(&[("process", "broken"), ("message", "breaker opened")]);
    healer.reload([&service.clone().set("recovery.retries", 5)]);
    healer.reload([&service.clone().set("recovery.retries", 6)]);
    throughout(Duration::from_millis(800), "no start while Open", || service.starts().len() == 1);
}
