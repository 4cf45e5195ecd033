//! healer's own life: signals, one at a time, daemonising, exit codes, the command line.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rstest::rstest;
use rustix::process::Signal;
use serde_json::json;

use crate::harness::{
    Living, Site, eventually, eventually_some, is_root, kill, run, throughout, wait,
};

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[rstest]
#[case::term(Signal::TERM)]
#[case::int(Signal::INT)]
fn polite_signals_end_healer_within_a_second_and_leave_processes_alive(#[case] signal: Signal) {
    let site = Site::new();
    let services = ["a", "b"].map(|name| site.service(name));
    let healer = site.guard(&services);
    let before: Vec<Living> = services.iter().map(|service| service.running(1)).collect();
    let asked = Instant::now();
    let status = healer.end_by(signal);
    assert!(asked.elapsed() < Duration::from_secs(1), "took {:?}", asked.elapsed());
    assert_eq!(status.code(), Some(0), "{status}");
    throughout(Duration::from_millis(300), "all live on", || {
        services.iter().zip(&before).all(|(service, first)| service.living() == [first.clone()])
    });
}

#[test]
fn stop_during_launches_leaves_whole_processes_and_starts_no_more() {
    let site = Site::new();
    let services: Vec<_> = (0..50).map(|number| site.service(&format!("s{number}"))).collect();
    site.configure(&services);
    let healer = site.spawn(&mut site.healer(&["--foreground"]));
    eventually("the first launches are done", || !services[0].starts().is_empty());
    let asked = Instant::now();
    let status = healer.end_by(Signal::TERM);
    assert!(asked.elapsed() < Duration::from_secs(1), "took {:?}", asked.elapsed());
    assert_eq!(status.code(), Some(0), "{status}");
    // A launch that had its `go` may still reach its exec.
    eventually("stages are gone", || {
        site.living().iter().all(|process| services.iter().any(|service| service.is(process)))
    });
    let started = || services.iter().map(|service| service.starts().len()).sum::<usize>();
    let count = started();
    throughout(Duration::from_millis(300), "none is started", || started() == count);
    // The next healer starts exactly the missing ones.
    let _healer = site.start();
    for service in &services {
        service.running(1);
    }
}

#[test]
fn hangup_as_early_as_it_is_caught_does_no_harm() {
    let site = Site::new();
    let service = site.service("web");
    site.configure([&service]);
    let mut healer = site.spawn(&mut site.healer(&["--foreground"]));
    let pid = healer.pid();
    eventually("SIGHUP is caught", || catches(pid, 1));
    for _ in 0..5 {
        healer.signal(Signal::HUP);
    }
    service.running(1);
    throughout(Duration::from_millis(300), "once", || service.starts().len() == 1);
    healer.assert_running();
}

/// Whether the process has a handler for a signal number.
fn catches(pid: i32, signal: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap_or("0");
    u64::from_str_radix(mask.trim(), 16).unwrap() >> (signal - 1) & 1 == 1
}

#[test]
fn second_healer_refuses_to_start_and_names_the_first() {
    let site = Site::new();
    let service = site.service("web");
    let mut healer = site.guard([&service]);
    let first = service.running(1);
    for arguments in [&["--foreground"][..], &[]] {
        let second = run(&mut site.healer(arguments));
        assert!(!second.status.success());
        let said = stderr(&second);
        assert!(said.contains(&healer.pid().to_string()), "{said}");
    }
    healer.assert_running();
    assert_eq!(service.living(), [first]);
}

#[test]
fn pid_file_of_a_killed_healer_stops_nobody() {
    let site = Site::new();
    let service = site.service("web");
    let healer = site.guard([&service]);
    service.running(1);
    healer.end_by(Signal::KILL);
    let healer = site.start();
    let named = fs::read_to_string(site.file("run/healer.pid")).unwrap();
    assert_eq!(named.trim(), healer.pid().to_string());
}

#[test]
fn daemonised_start_returns_when_ready_and_the_pid_file_names_the_daemon() {
    let site = Site::new();
    let service = site.service("web");
    site.configure([&service]);
    // Its output ends only when the daemon has closed the descriptors it was given.
    let output = run(&mut site.healer(&[]));
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let pid = fs::read_to_string(site.file("run/healer.pid")).unwrap().trim().parse().unwrap();
    let daemon = Living::read(pid).expect("healer.pid names a living process");
    assert!(daemon.has(site.config()), "{daemon:?}");
    service.running(1);
    service.kill(Signal::KILL);
    service.running(2);
    assert!(kill(&daemon, Signal::TERM));
    eventually("the daemon ended", || Living::read(pid).as_ref() != Some(&daemon));
    service.running(2);
}

/// Starts the daemon in the background, and returns it once it is ready. `change` adds to the
/// command, whose output goes to a file.
fn daemonised(site: &Site, change: impl FnOnce(&mut Command, &File)) -> Living {
    let output = File::create(site.file("output")).unwrap();
    let mut command = site.healer(&[]);
    command.stdout(output.try_clone().unwrap()).stderr(Stdio::null());
    change(&mut command, &output);
    let status = wait(&mut command.spawn().unwrap());
    assert!(status.success(), "{status}");
    let pid = fs::read_to_string(site.file("run/healer.pid")).unwrap();
    Living::read(pid.trim().parse().unwrap()).expect("healer.pid names a living process")
}

#[test]
fn what_a_daemon_hands_on_is_the_same_before_and_after_it_is_ready() {
    let site = Site::new();
    let service = site.service("web").set("output", "inherit");
    site.configure([&service]);
    daemonised(&site, |_, _| ());
    for count in 1..=2 {
        let output = fs::read_link(format!("/proc/{}/fd/1", service.running(count).pid)).unwrap();
        assert_eq!(output, Path::new("/dev/null"), "start {count}");
        service.kill(Signal::KILL);
    }
}

#[test]
fn output_auto_of_a_daemon_means_the_same_after_a_reload() {
    let site = Site::new();
    let service = site
        .service("web")
        .set("output", "auto")
        .set("recovery.backoff", json!({ "initial_secs": 0.05, "max_secs": 0.05 }));
    site.configure([&service]);
    // Where a journal listens, the service runs; where none does, its launches fail.
    let daemon = daemonised(&site, |command, output| {
        let output = output.metadata().unwrap();
        command.env("JOURNAL_STREAM", format!("{}:{}", output.dev(), output.ino()));
    });
    site.configure([&service.clone().set("nice", 1)]);
    assert!(kill(&daemon, Signal::HUP));
    eventually("it is reloaded", || site.log_text().contains("configuration reloaded"));
    let attempts = || site.log_text().matches("launch failed").count() + service.starts().len();
    let before = attempts();
    for process in service.living() {
        kill(&process, Signal::KILL);
    }
    eventually("it is launched again", || attempts() > before + 1 || service.starts().len() > 1);
    assert!(!site.file("log/processes/web.log").exists(), "auto was the journal");
}

#[test]
fn what_a_daemon_cannot_change_by_a_reload_is_told() {
    let site = Site::new();
    let service = site.service("web").set("output", "file");
    site.configure([&service]);
    let daemon = daemonised(&site, |_, _| ());
    service.running(1);
    let text = fs::read_to_string(site.config()).unwrap();
    fs::create_dir(site.file("elsewhere")).unwrap();
    let (dir, elsewhere) = (site.path().display(), site.file("elsewhere"));
    let elsewhere = elsewhere.display();
    let text = text
        .replace(&format!("\"{dir}/log\""), &format!("\"{elsewhere}\""))
        .replace(&format!("\"{dir}\""), &format!("\"{elsewhere}\""));
    site.write_config(&text);
    assert!(kill(&daemon, Signal::HUP));
    eventually("both are told", || {
        let log = site.log_text();
        ["log_directory", "working_directory"]
            .iter()
            .all(|key| log.contains(&format!("\"key\":\"{key}\"")))
    });
    // The service's own output goes there from its next start on.
    service.kill(Signal::KILL);
    service.running(2);
    eventually("its words are there", || site.file("elsewhere/processes/web.log").exists());
}

#[test]
fn environment_can_keep_healer_in_the_foreground() {
    let site = Site::new();
    let service = site.service("web");
    site.configure([&service]);
    let mut healer = site.spawn(site.healer(&[]).env("HEALER_NO_DAEMON", "1"));
    service.running(1);
    healer.assert_running();
    assert_eq!(site.daemons().len(), 1);
}

#[rstest]
#[case::bad(Some("processes: 3\n"), 65)]
#[case::not_yaml(Some("processes: [\n"), 65)]
#[case::missing(None, 66)]
fn fault_of_the_file_is_the_exit_status(#[case] text: Option<&str>, #[case] code: i32) {
    let site = Site::new();
    if let Some(text) = text {
        site.write_config(text);
    }
    for arguments in [&["--foreground"][..], &[], &["check"], &["check", "--file-only"]] {
        let output = run(&mut site.healer(arguments));
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(site.config().to_str().unwrap()), "{arguments:?}: {said}");
        assert!(!said.contains("panicked"), "{said}");
    }
}

#[test]
fn config_path_is_printed_and_the_environment_can_name_it() {
    let site = Site::new();
    site.configure([&site.service("web")]);
    let output = run(&mut site.healer(&["--print-config-path"]));
    assert_eq!(
        (output.status.code(), stdout(&output).trim()),
        (Some(0), site.config().to_str().unwrap())
    );

    let mut command = crate::harness::command(site.healer(&[]).get_program());
    let named = site.file("config.yaml");
    let output = run(command.arg("--print-config-path").env("HEALER_CONFIG", &named));
    assert_eq!((output.status.code(), stdout(&output).trim()), (Some(0), named.to_str().unwrap()));
}

#[test]
fn version_and_help_tell_what_this_is() {
    let site = Site::new();
    let program = site.healer(&[]).get_program().to_owned();
    let version = run(crate::harness::command(&program).arg("--version"));
    assert_eq!(version.status.code(), Some(0));
    assert_eq!(stdout(&version).trim(), concat!("healer ", env!("CARGO_PKG_VERSION")));
    let help = run(crate::harness::command(&program).arg("--help"));
    assert_eq!(help.status.code(), Some(0));
    for word in ["--foreground", "check", "--print-config-path"] {
        assert!(stdout(&help).contains(word), "{word}: {}", stdout(&help));
    }
}

#[test]
fn check_accepts_what_healer_starts_with() {
    let site = Site::new();
    site.configure([&site.service("web"), &site.service("db").with_pid_file()]);
    for arguments in [&["check"][..], &["check", "--file-only"]] {
        let output = run(&mut site.healer(arguments));
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", stderr(&output));
    }
}

#[test]
fn directory_that_others_may_write_is_refused_by_a_root_healer() {
    use std::os::unix::fs::PermissionsExt;
    if !is_root() {
        return crate::harness::skip("the rule is for healers that run as root");
    }
    let site = Site::new();
    site.configure([&site.service("web")]);
    fs::create_dir(site.file("run")).unwrap();
    fs::set_permissions(site.file("run"), fs::Permissions::from_mode(0o777)).unwrap();
    let output = run(&mut site.healer(&["--foreground"]));
    assert!(!output.status.success());
    assert!(stderr(&output).contains(site.file("run").to_str().unwrap()), "{}", stderr(&output));
}

#[test]
fn healer_reaps_what_it_did_not_start() {
    let site = Site::new();
    let service = site.service("litter").args(["--orphans", "50"]);
    let healer = site.guard([&service]);
    service.running(1);
    let pid = healer.pid();
    eventually_some("no zombie is left", || zombies_of(pid).is_empty().then_some(()));
    healer.stop();
}

/// The zombies whose parent is `parent`.
pub fn zombies_of(parent: i32) -> Vec<i32> {
    let stat = |pid: i32| {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let mut fields = text.rsplit_once(") ")?.1.split(' ');
        Some((fields.next()? == "Z", fields.next()?.parse::<i32>().ok()?))
    };
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| stat(*pid) == Some((true, parent)))
        .collect()
}
