//! What healer tells the service manager, sd_notify(3).

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::{Site, eventually, throughout};

#[test]
fn reload_and_stop_are_told_in_order() {
    let site = Site::new();
    let service = site.service("web");
    let mut healer = site.guard([&service]);
    healer.reload([&service]);
    healer.stop();
    eventually("the end is told", || site.notify.heard().iter().any(|said| said == "STOPPING=1"));
    let heard = site.notify.heard();
    let states: Vec<&str> = heard
        .iter()
        .map(String::as_str)
        .filter(|said| ["READY=1", "RELOADING=1", "STOPPING=1"].contains(said))
        .collect();
    assert_eq!(states, ["READY=1", "RELOADING=1", "READY=1", "STOPPING=1"]);
    // Type=notify-reload wants the moment of the reload.
    assert!(heard.iter().any(|said| said.starts_with("MONOTONIC_USEC=")), "{heard:?}");
}

#[test]
fn refused_reload_ends_ready_too() {
    let site = Site::new();
    let mut healer = site.guard([&site.service("web")]);
    site.write_config("processes: 3\n");
    healer.reload_file();
    healer.assert_running();
}

#[test]
fn watchdog_is_fed_as_often_as_the_environment_asks() {
    let site = Site::new();
    let service = site.service("web");
    site.configure([&service]);
    let barks = || site.notify.heard().iter().filter(|said| *said == "WATCHDOG=1").count();
    let _healer = site.spawn(site.healer(&["--foreground"]).env("WATCHDOG_USEC", "400000"));
    eventually("the watchdog is fed", || barks() >= 5);
}

#[test]
fn watchdog_is_not_fed_unasked() {
    let site = Site::new();
    let _healer = site.guard([&site.service("web")]);
    throughout(Duration::from_millis(500), "no word of a watchdog", || {
        !site.notify.heard().iter().any(|said| said == "WATCHDOG=1")
    });
}

#[test]
fn missing_service_manager_is_no_fault() {
    let site = Site::new();
    let service = site.service("web");
    site.configure([&service]);
    let gone = site.file("nobody-listens");
    let mut healer = site.spawn(site.healer(&["--foreground"]).env("NOTIFY_SOCKET", gone));
    service.running(1);
    service.kill(Signal::KILL);
    service.running(2);
    healer.assert_running();
}

#[test]
fn service_manager_that_does_not_read_holds_nothing_up() {
    let site = Site::new();
    let service = site.service("web");
    site.configure([&service]);
    let path = site.file("deaf");
    let _deaf = UnixDatagram::bind(&path).unwrap();
    let full = UnixDatagram::unbound().unwrap();
    full.set_nonblocking(true).unwrap();
    while full.send_to(b"x", &path).is_ok() {}
    let healer = site.spawn(site.healer(&["--foreground"]).env("NOTIFY_SOCKET", &path));
    for count in 1..=3 {
        service.running(count);
        service.kill(Signal::KILL);
    }
    service.running(4);
    let status = healer.end_by(Signal::TERM);
    assert_eq!(status.code(), Some(0), "{status}");
}
