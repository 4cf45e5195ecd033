//! PID files: late, missing, stale, hostile, and daemons that only their PID file tells of.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant, SystemTime};

use rstest::rstest;
use rustix::process::Signal;
use serde_json::json;

use crate::harness::{Living, Service, Site, command, eventually, program, throughout, wait};

/// Somebody else's process.
struct Stranger(Child);

impl Stranger {
    fn new() -> Self {
        Self(command("/bin/sleep").arg("600").stdout(Stdio::null()).spawn().unwrap())
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }

    fn is_alive(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = wait(&mut self.0);
    }
}

/// Writes the service's PID file as if it had been written so long ago.
fn write_old(service: &Service, text: &str, age: Duration) {
    fs::write(service.pid_file(), text).unwrap();
    let file = File::options().write(true).open(service.pid_file()).unwrap();
    file.set_modified(SystemTime::now() - age).unwrap();
}

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn stale_pid_file_naming_a_stranger_costs_the_stranger_nothing_and_one_start() {
    let site = Site::new();
    let mut stranger = Stranger::new();
    let service = site.service("web").with_pid_file();
    write_old(&service, &stranger.pid().to_string(), HOUR);
    let _healer = site.guard([&service]);
    let first = service.running(1);
    eventually("the PID file names the service", || service.pid_in_file() == Some(first.pid));
    service.kill(Signal::KILL);
    service.running(2);
    assert!(stranger.is_alive());
}

#[test]
fn death_with_the_pid_file_taken_over_by_a_stranger_is_one_death() {
    let site = Site::new();
    let mut stranger = Stranger::new();
    // Never writes the file again: what the stranger's number says stays there.
    let service = site.service("web").watched_by_pid_file();
    let _healer = site.guard([&service]);
    service.running(1);
    write_old(&service, &stranger.pid().to_string(), HOUR);
    service.kill(Signal::KILL);
    service.running(2);
    // Longer than the safety net's interval, so that a poll would count it again.
    throughout(Duration::from_millis(2500), "no second restart", || service.starts().len() == 2);
    assert!(stranger.is_alive());
}

#[rstest]
#[case::empty("")]
#[case::garbage("not a number\n")]
#[case::first_process("1\n")]
#[case::negative("-1\n")]
#[case::huge_number("99999999999999999999\n")]
#[case::no_such_process("4194303\n")]
fn pid_file_that_names_nobody_is_no_obstacle(#[case] text: &str) {
    let site = Site::new();
    let service = site.service("web").with_pid_file();
    write_old(&service, text, HOUR);
    let _healer = site.guard([&service]);
    service.running(1);
    service.kill(Signal::KILL);
    service.running(2);
}

#[test]
fn huge_and_looping_pid_files_do_not_hinder_the_rest() {
    let site = Site::new();
    let huge = site.service("huge").with_pid_file();
    fs::write(huge.pid_file(), vec![b'1'; 10 << 20]).unwrap();
    let looping = site.service("looping").with_pid_file();
    symlink(looping.pid_file(), looping.pid_file()).unwrap();
    let other = site.service("other").with_pid_file();
    let mut healer = site.guard([&huge, &looping, &other]);
    other.running(1);
    other.kill(Signal::KILL);
    other.running(2);
    healer.assert_running();
    for service in [&huge, &looping] {
        assert!(service.starts().len() <= 1, "{:?}", service.starts());
    }
}

#[test]
fn healer_named_by_a_pid_file_is_not_the_service() {
    let site = Site::new();
    let service = site.service("web").with_pid_file().args(["--pid-file-after", "300"]);
    let mut healer = site.guard([&service]);
    service.running(1);
    fs::write(service.pid_file(), healer.pid().to_string()).unwrap();
    service.kill(Signal::KILL);
    service.running(2);
    healer.assert_running();
}

#[rstest]
#[case::renamed(&[])]
#[case::in_place(&["--pid-file-in-place"])]
fn late_pid_file_brings_no_second_start(#[case] how: &[&'static str]) {
    let site = Site::new();
    let mut service = site.service("late").with_pid_file().args(["--pid-file-after", "1500"]);
    if let [how] = how {
        service = service.args([how]);
    }
    let _healer = site.guard([&service]);
    let first = service.running(1);
    eventually("the PID file is there", || service.pid_in_file() == Some(first.pid));
    throughout(Duration::from_millis(500), "it was started once", || service.starts().len() == 1);
    service.kill(Signal::KILL);
    service.running(2);
}

#[test]
fn pid_file_in_a_directory_that_is_made_later_is_seen() {
    let site = Site::new();
    let dir = site.file("later");
    let service = site.service("web").set(
        "monitor",
        json!({ "type": "pid", "pid_file_path": dir.join("web.pid"), "interval_secs": 1 }),
    );
    let _healer = site.guard([&service]);
    let first = service.running(1);
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("web.pid"), first.pid.to_string()).unwrap();
    throughout(Duration::from_millis(500), "it was started once", || service.starts().len() == 1);
    service.kill(Signal::KILL);
    service.running(2);
}

#[test]
fn daemon_started_by_hand_is_adopted_by_its_pid_file_and_healed() {
    let site = Site::new();
    let service = site.service("byhand").with_pid_file();
    let first = site.start_by_hand(&service);
    eventually("the PID file names it", || service.pid_in_file() == Some(first.pid));
    let _healer = site.guard([&service]);
    throughout(Duration::from_millis(500), "it was not doubled", || service.starts().len() == 1);
    service.kill(Signal::KILL);
    service.running(2);
}

#[test]
fn successor_that_an_administrator_started_is_adopted_by_its_pid_file() {
    let site = Site::new();
    let service = site.service("byhand").with_pid_file().set("autostart", false);
    let _healer = site.guard([&service]);
    let first = site.start_by_hand(&service);
    eventually("the PID file names it", || service.pid_in_file() == Some(first.pid));
    let asked = Instant::now();
    // Nothing but the file has told healer of it.
    eventually("healer adopted it", || site.log_text().contains(&first.pid.to_string()));
    // By the event, not by the safety net.
    assert!(asked.elapsed() < Duration::from_secs(15), "took {:?}", asked.elapsed());
    service.kill(Signal::KILL);
    service.running(2);
}

#[test]
fn late_pid_file_of_what_an_administrator_started_is_not_lost_to_a_bus_of_one() {
    let site = Site::new();
    let service = site
        .service("byhand")
        .with_pid_file()
        .args(["--pid-file-after", "400"])
        .set("autostart", false);
    // They fill the bus meanwhile.
    let noise: Vec<Service> = (0..10)
        .map(|number| site.service(&format!("noise-{number}")).with_pid_file())
        .map(|noise| noise.args(["--after", "20", "--exit", "1"]))
        .map(|noise| noise.set("recovery.backoff", json!({ "initial_secs": 0, "max_secs": 0.01 })))
        .collect();
    site.configure(noise.iter().chain([&service]));
    let mut daemon = site.healer(&["--foreground"]);
    let healer = site.spawn(daemon.env("HEALER_BUS_CAPACITY", "1"));
    eventually("noise is made", || noise.iter().all(|noise| noise.starts().len() > 2));
    let first = site.start_by_hand(&service);
    let asked = Instant::now();
    let pid = first.pid.to_string();
    healer.until_said(&[("process", "byhand"), ("message", "adopted"), ("pid", &pid)]);
    // By the event, not by the safety net.
    assert!(asked.elapsed() < Duration::from_secs(15), "took {:?}", asked.elapsed());
    service.kill(Signal::KILL);
    service.running(2);
}

/// The one process of a service whose launcher may still be about.
fn the_daemon(service: &Service, count: usize) -> Living {
    let daemon = service.running(count);
    eventually("its launcher is gone", || service.living() == [daemon.clone()]);
    daemon
}

#[test]
fn daemonising_command_with_a_pid_file_is_held_by_its_daemon() {
    let site = Site::new();
    let service = site.service("forker").with_pid_file().args(["--daemonize"]);
    let _healer = site.guard([&service]);
    for count in 1..=3 {
        let daemon = the_daemon(&service, count);
        eventually("the PID file names the daemon", || service.pid_in_file() == Some(daemon.pid));
        throughout(Duration::from_millis(300), "once", || service.starts().len() == count);
        service.kill(Signal::KILL);
    }
    the_daemon(&service, 4);
}

#[rstest]
#[case::in_its_session("--fork")]
#[case::in_a_new_session("--daemonize")]
fn daemonising_command_without_a_pid_file_is_held_by_its_daemon(#[case] how: &'static str) {
    let site = Site::new();
    let service = site.service("forker").args([how]);
    let _healer = site.guard([&service]);
    for count in 1..=3 {
        the_daemon(&service, count);
        throughout(Duration::from_millis(300), "once", || service.starts().len() == count);
        service.kill(Signal::KILL);
    }
    the_daemon(&service, 4);
}

#[test]
fn start_script_whose_daemon_has_another_name_is_held_by_its_pid_file() {
    let site = Site::new();
    let service = site.service("scripted").with_pid_file();
    let words = service.words().join(" ");
    let script = site.script(&format!("{} {words} &\nexit 0\n", program().display()));
    let service = service.set("command", script.to_str().unwrap()).set("args", json!([]));
    let _healer = site.guard([&service]);
    for count in 1..=3 {
        service.running(count);
        throughout(Duration::from_millis(300), "once", || service.starts().len() == count);
        service.kill(Signal::KILL);
    }
    service.running(4);
}

#[test]
fn launcher_that_is_ready_before_it_leaves_its_daemon_has_not_failed() {
    let site = Site::new();
    let service = site.service("waited");
    let words = service.words().join(" ");
    let script = site.script(&format!("{} {words} &\nsleep 0.6\n", program().display()));
    let service = service
        .set("command", script.to_str().unwrap())
        .set("args", json!([]))
        .set("ready_after_secs", 0.2);
    let _healer = site.guard([&service]);
    let first = service.running(1);
    throughout(Duration::from_millis(1500), "once", || service.living() == [first.clone()]);
    service.kill(Signal::KILL);
    service.running(2);
    service.assert_never_two();
}

#[test]
fn pid_file_with_a_pid_that_is_gone_hides_no_daemon() {
    let site = Site::new();
    let service = site.service("misnamed").watched_by_pid_file();
    let words = service.words().join(" ");
    let pid_file = service.pid_file();
    // As scripts do that note the PID of a shell in between.
    let script = site.script(&format!(
        "sh -c '{} {words} & exit' & echo $! > {}; wait; exit 0\n",
        program().display(),
        pid_file.display(),
    ));
    let service = service.set("command", script.to_str().unwrap()).set("args", json!([]));
    let _healer = site.guard([&service]);
    let first = service.running(1);
    throughout(Duration::from_millis(1500), "once", || service.living() == [first.clone()]);
    service.assert_never_two();
}

#[test]
fn pid_file_naming_the_dead_leader_of_strangers_costs_the_strangers_nothing() {
    let site = Site::new();
    let (go, started) = (site.file("go"), site.file("started"));
    let script = site.file("start.sh");
    let service = site.service("web").watched_by_pid_file();
    let text = format!(
        "#!/bin/sh\necho >> {started}; while [ ! -s {go} ]; do sleep 0.05; done\n\
         cat {go} > {file}\n",
        started = started.display(),
        go = go.display(),
        file = service.pid_file().display(),
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let service = service.set("command", script.to_str().unwrap()).set("args", json!([]));
    let _healer = site.guard([&service]);
    eventually("the script was started", || started.exists());
    // A session without its leader, younger than the launch.
    let strangers = site.file("strangers");
    let words =
        format!("sleep 600 & echo $! > {}; echo $$ > {}", strangers.display(), go.display());
    let mut leader = command("/usr/bin/setsid")
        .args(["/bin/sh", "-c", &words])
        .current_dir(site.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    assert!(wait(&mut leader).success());
    let stranger: i32 = fs::read_to_string(strangers).unwrap().trim().parse().unwrap();
    eventually("the script was started again", || {
        fs::read_to_string(&started).unwrap().lines().count() >= 2
    });
    assert!(Living::read(stranger).is_some(), "healer killed a stranger");
}

#[test]
fn command_that_leaves_no_daemon_has_failed() {
    let site = Site::new();
    let service = site
        .service("leaver")
        .args(["--exit", "0"])
        .set("recovery.start_timeout_secs", 0.5)
        .set("recovery.retries", 1)
        .set("recovery.cooldown_secs", 60)
        .set("recovery.backoff", json!({ "initial_secs": 0.1 }));
    let _healer = site.guard([&service]);
    eventually("the log says why", || site.log_text().contains("without leaving a daemon"));
    eventually("it was retried once", || service.starts().len() == 2);
    throughout(Duration::from_secs(1), "no start while Open", || service.starts().len() == 2);
}
