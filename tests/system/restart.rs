//! healer ends and another takes over: what is remembered, what is found again, what is not trusted.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rstest::rstest;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{
    Healer, Living, Service, Site, command, eventually, eventually_some, is_root, kill, program,
    skip, throughout, wait,
};

impl Site {
    /// Where healer remembers a process.
    fn memory_file(&self, service: &Service) -> PathBuf {
        self.file(&format!("run/state/{}.json", service.name))
    }

    /// What healer remembers of a process.
    fn remembered(&self, service: &Service) -> Option<Value> {
        serde_json::from_slice(&fs::read(self.memory_file(service)).ok()?).ok()
    }

    /// Waits until healer remembers this instance as the one that runs.
    fn until_remembered(&self, service: &Service, instance: &Living) {
        eventually(&format!("{} is remembered", service.name), || {
            self.remembered(service).is_some_and(|memory| memory["running"]["pid"] == instance.pid)
        });
    }

    /// Changes what healer remembers of a process; to be called while none runs.
    fn rewrite(&self, service: &Service, change: impl FnOnce(&mut Value)) {
        let mut memory = self.remembered(service).unwrap_or_else(
            || json!({ "format": 1, "written": 1, "wanted": false, "finished": false }),
        );
        change(&mut memory);
        let file = self.memory_file(service);
        fs::write(&file, memory.to_string()).unwrap();
        fs::set_permissions(file, Permissions::from_mode(0o600)).unwrap();
    }
}

#[test]
fn hundred_processes_outlive_a_killed_healer_and_the_dead_among_them_are_healed() {
    let site = Site::new();
    let services: Vec<_> = (0..100).map(|number| site.service(&format!("s{number}"))).collect();
    let healer = site.guard(&services);
    let before: Vec<Living> = services.iter().map(|service| service.running(1)).collect();
    for (service, instance) in services.iter().zip(&before) {
        site.until_remembered(service, instance);
    }
    healer.end_by(Signal::KILL);
    let (dead, living) = services.split_at(30);
    for service in dead {
        service.kill(Signal::KILL);
    }
    eventually("they are dead", || dead.iter().all(|service| service.living().is_empty()));
    // An upgrade: the same program by another path.
    let upgraded = site.file("healer-upgraded");
    fs::copy(site.healer(&[]).get_program(), &upgraded).unwrap();
    let before_start = site.notify.heard().len();
    let mut start = command(&upgraded);
    start.arg("--foreground").arg("-c").arg(site.config()).env("NOTIFY_SOCKET", site.notify.path());
    let mut healer = site.spawn(start.current_dir(site.path()));
    healer.until_heard(before_start, "READY=1");
    for service in dead {
        service.running(2);
    }
    for (service, instance) in living.iter().zip(&before[30..]) {
        assert_eq!(&service.running(1), instance, "{}", service.name);
    }
    // Adopted is guarded.
    living[0].kill(Signal::KILL);
    living[0].running(2);
}

#[rstest]
#[case::in_its_session("--fork")]
#[case::in_a_new_session("--daemonize")]
fn daemon_that_only_the_record_names_is_found_again(#[case] how: &'static str) {
    let site = Site::new();
    let service = site.service("forker").args([how]);
    let healer = site.guard([&service]);
    let daemon = service.running(1);
    site.until_remembered(&service, &daemon);
    healer.end_by(Signal::KILL);
    let healer = site.start();
    healer.until_said(&[("message", "adopted"), ("pid", &daemon.pid.to_string())]);
    service.kill(Signal::KILL);
    service.running(2);
}

#[test]
fn changed_command_keeps_the_instance_that_is_remembered() {
    let site = Site::new();
    let service = site.service("web");
    let healer = site.guard([&service]);
    let first = service.running(1);
    site.until_remembered(&service, &first);
    healer.end_by(Signal::KILL);
    let changed = service.clone().args(["--tag", "new"]);
    let _healer = site.guard([&changed]);
    throughout(Duration::from_millis(500), "it is as it was", || {
        service.living() == [first.clone()]
    });
    service.kill(Signal::KILL);
    assert!(changed.running(2).has("new"), "the new command comes with the next launch");
}

#[test]
fn workers_of_a_leader_that_died_unseen_are_ended_before_the_next_start() {
    let site = Site::new();
    let service = site
        .service("server")
        .args(["--workers", "2"])
        .set("recovery.start_timeout_secs", json!(0.5));
    let healer = site.guard([&service]);
    let leader = service.running(1);
    eventually("its workers run, and no daemon can come of it any more", || {
        service.living().len() == 3
            && site.remembered(&service).is_some_and(|memory| {
                memory["running"]["pid"] == leader.pid && memory["running"]["launched"].is_null()
            })
    });
    healer.end_by(Signal::KILL);
    service.kill(Signal::KILL);
    eventually("the workers are left", || service.living().len() == 2);
    let _healer = site.start();
    // The journal's lock is held by whoever is left: alone means that they are gone.
    service.running(2);
    eventually("it has new workers", || service.living().len() == 3);
}

#[test]
fn strangers_in_the_session_of_a_reused_pid_are_not_ended() {
    let site = Site::new();
    let service = site.service("web");
    let healer = site.guard([&service]);
    service.running(1);
    healer.stop();
    service.kill(Signal::KILL);
    eventually("it is dead", || service.living().is_empty());
    // Its PID was given to a shell, which left something and ended.
    let file = site.file("stranger.pid");
    let script = format!("echo $$ > {0}.new; mv {0}.new {0}; sleep 600 & exit 0", file.display());
    let mut shell = command("/usr/bin/setsid");
    shell.args(["/bin/sh", "-c", &script]).current_dir(site.path());
    assert!(wait(&mut shell.spawn().unwrap()).success());
    let leader: i32 =
        eventually_some("the shell ran", || fs::read_to_string(&file).ok()?.trim().parse().ok());
    let stranger = eventually_some("it left something", || {
        site.living().into_iter().find(|process| process.has("600"))
    });
    site.rewrite(&service, |memory| memory["running"] = json!({ "pid": leader, "start_ticks": 1 }));
    let healer = site.start();
    healer
        .until_said(&[("process", "web"), ("reason", &format!("{} may be left of", stranger.pid))]);
    assert_eq!(Living::read(stranger.pid), Some(stranger.clone()));
    assert_eq!(service.starts().len(), 1);
    assert!(kill(&stranger, Signal::KILL));
    service.running(2);
}

#[test]
fn open_breaker_holds_on_and_what_died_unseen_counts() {
    let site = Site::new();
    let service = site.service("web").set(
        "recovery",
        json!({ "type": "regular", "retries": 1, "retry_window_secs": 600, "cooldown_secs": 600 }),
    );
    let healer = site.guard([&service]);
    service.running(1);
    service.kill(Signal::KILL);
    let second = service.running(2);
    site.until_remembered(&service, &second);
    healer.end_by(Signal::KILL);
    service.kill(Signal::KILL);
    eventually("it is dead", || service.living().is_empty());
    let healer = site.start();
    healer.until_said(&[("process", "web"), ("message", "breaker opened"), ("failures", "2")]);
    eventually("that is remembered", || {
        site.remembered(&service).is_some_and(|memory| memory["breaker"]["open_until"].is_u64())
    });
    healer.end_by(Signal::KILL);
    let mut healer = site.start();
    throughout(Duration::from_secs(1), "it stays down", || service.starts().len() == 2);
    healer.assert_running();
}

#[test]
fn pause_holds_on_and_is_forgotten_with_its_entry() {
    let site = Site::new();
    let service = site.service("web");
    let healer = site.guard([&service]);
    let first = service.running(1);
    site.until_remembered(&service, &first);
    healer.end_by(Signal::KILL);
    site.rewrite(&service, |memory| {
        memory["pause"] = json!({ "by": "root", "until": null, "stop": false });
    });
    let mut healer = site.start();
    service.kill(Signal::KILL);
    throughout(Duration::from_secs(1), "it stays down", || service.starts().len() == 1);
    healer.reload([]);
    eventually("its file is gone", || !site.memory_file(&service).exists());
    healer.reload([&service]);
    service.running(2);
}

#[test]
fn after_a_boot_pauses_and_breakers_hold_on_and_no_instance_is_believed() {
    let site = Site::new();
    let paused = site.service("paused");
    let web = site.service("web");
    let healer = site.guard([&paused, &web]);
    for service in [&paused, &web] {
        site.until_remembered(service, &service.running(1));
    }
    healer.end_by(Signal::KILL);
    site.rewrite(&paused, |memory| {
        memory["pause"] = json!({ "by": "root", "until": null, "stop": true });
    });
    // As it names nobody of this boot, it is not even asked whether the stranger lives.
    let stranger = site.start_by_hand(&site.service("stranger"));
    let start_ticks = start_ticks(&stranger);
    site.rewrite(&web, |memory| {
        memory["running"] = json!({ "pid": stranger.pid, "start_ticks": start_ticks });
    });
    let about = site.file("run/state/header.json");
    let mut text: Value = serde_json::from_slice(&fs::read(&about).unwrap()).unwrap();
    text["boot_id"] = json!("00000000-0000-0000-0000-000000000000");
    fs::write(&about, text.to_string()).unwrap();
    paused.kill(Signal::KILL);
    web.kill(Signal::KILL);
    let _healer = site.start();
    web.running(2);
    throughout(Duration::from_millis(500), "it stays down", || paused.starts().len() == 1);
    assert_eq!(Living::read(stranger.pid), Some(stranger));
}

fn start_ticks(process: &Living) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.pid)).unwrap();
    let after_name = stat.rsplit_once(") ").unwrap().1;
    after_name.split(' ').nth(19).unwrap().parse().unwrap()
}

fn empty(file: &Path) {
    fs::write(file, "").unwrap();
}

fn garbage(file: &Path) {
    fs::write(file, [0xff; 300]).unwrap();
}

fn cut(file: &Path) {
    let text = fs::read(file).unwrap();
    fs::write(file, &text[..text.len() / 2]).unwrap();
}

fn of_a_later_build(file: &Path) {
    let text = fs::read_to_string(file).unwrap();
    fs::write(file, text.replace(r#""format":1"#, r#""format":99"#)).unwrap();
}

fn huge(file: &Path) {
    fs::write(file, " ".repeat(1 << 20)).unwrap();
}

fn writable_by_others(file: &Path) {
    fs::set_permissions(file, Permissions::from_mode(0o666)).unwrap();
}

fn of_somebody_else(file: &Path) {
    if is_root() {
        chown(file, Some(65534), None).unwrap();
    } else {
        skip("only root can give a file to somebody else; it is emptied instead");
        empty(file);
    }
}

fn a_link(file: &Path) {
    let elsewhere = file.with_extension("elsewhere");
    fs::rename(file, &elsewhere).unwrap();
    symlink(elsewhere, file).unwrap();
}

fn a_fifo(file: &Path) {
    fs::remove_file(file).unwrap();
    nix::unistd::mkfifo(file, nix::sys::stat::Mode::S_IRWXU).unwrap();
}

fn a_directory(file: &Path) {
    fs::remove_file(file).unwrap();
    fs::create_dir(file).unwrap();
}

#[rstest]
#[case(empty)]
#[case(garbage)]
#[case(cut)]
#[case(of_a_later_build)]
#[case(huge)]
#[case(writable_by_others)]
#[case(of_somebody_else)]
#[case(a_link)]
#[case(a_fifo)]
#[case(a_directory)]
fn file_that_is_not_to_be_believed_is_set_aside_and_told(#[case] spoil: fn(&Path)) {
    let site = Site::new();
    let (web, other) = (site.service("web"), site.service("other"));
    let healer = site.guard([&web, &other]);
    let firsts = [&web, &other].map(|service| {
        let first = service.running(1);
        site.until_remembered(service, &first);
        first
    });
    healer.end_by(Signal::KILL);
    spoil(&site.memory_file(&web));
    let mut healer = site.start();
    healer.until_warned_of("web");
    assert!(fs::symlink_metadata(site.file("run/state/web.json.bad")).is_ok(), "it is kept aside");
    // It is found by its program and arguments, as at first.
    for (service, first) in [&web, &other].into_iter().zip(&firsts) {
        site.until_remembered(service, first);
        service.kill(Signal::KILL);
        service.running(2);
    }
    healer.assert_running();
}

#[test]
fn state_of_two_processes_that_name_one_instance_is_not_believed() {
    let site = Site::new();
    let (web, twin) = (site.service("web"), site.service("twin"));
    let healer = site.guard([&web, &twin]);
    let first = web.running(1);
    let of_twin = twin.running(1);
    site.until_remembered(&web, &first);
    site.until_remembered(&twin, &of_twin);
    healer.end_by(Signal::KILL);
    fs::copy(site.memory_file(&web), site.memory_file(&twin)).unwrap();
    let _healer = site.start();
    site.until_remembered(&twin, &of_twin);
    site.until_remembered(&web, &first);
}

/// healer where the directory of its PID file is a file system of 64 KiB.
fn on_a_small_disk(site: &Site) -> Healer<'_> {
    let run = site.file("run");
    fs::create_dir(&run).unwrap();
    let plain = site.healer(&["--foreground"]);
    let mut start = command("/usr/bin/unshare");
    let script = "mount -t tmpfs -o size=64k,mode=755 healer-test \"$0\" && exec \"$@\"";
    start.args(["--mount", "/bin/sh", "-c", script]).arg(run).arg(plain.get_program());
    start.args(plain.get_args()).env("NOTIFY_SOCKET", site.notify.path());
    let before = site.notify.heard().len();
    let mut healer = site.spawn(start.current_dir(site.path()));
    healer.until_heard(before, "READY=1");
    healer
}

#[test]
fn full_disk_is_told_once_and_keeps_nobody_from_being_healed() {
    let probe = command("/usr/bin/unshare")
        .args(["--mount", "/bin/sh", "-c", "mount -t tmpfs healer-test /mnt"])
        .spawn();
    if !probe.is_ok_and(|mut probe| wait(&mut probe).success()) {
        return skip("a mount namespace of its own needs root");
    }
    let site = Site::new();
    let service = site.service("web");
    site.configure([&service]);
    let healer = on_a_small_disk(&site);
    service.running(1);
    let root = PathBuf::from(format!("/proc/{}/root", healer.pid()));
    let there = root.join(site.file("run").strip_prefix("/").unwrap());
    let memory = there.join("state/web.json");
    eventually("it is remembered", || memory.exists());
    // To the last byte.
    let filler = there.join("filler");
    assert!(fs::write(&filler, vec![0; 1 << 20]).is_err());
    for count in 2..5 {
        service.kill(Signal::KILL);
        service.running(count);
    }
    healer.until_said(&[("level", "ERROR"), ("message", "cannot write down")]);
    service.kill(Signal::KILL);
    service.running(5);
    let told = healer.said(&[("level", "ERROR"), ("message", "cannot write down")]);
    assert_eq!(told.len(), 1, "{told:?}");
    fs::remove_file(&filler).unwrap();
    service.kill(Signal::KILL);
    let last = service.running(6);
    healer.until_said(&[("message", "written down again")]);
    eventually("it is remembered again", || {
        let text = fs::read(&memory).unwrap_or_default();
        let memory: Value = serde_json::from_slice(&text).unwrap_or_default();
        memory["running"]["pid"] == last.pid
    });
}

/// healer as fast as it starts: without eBPF, which takes most of its start.
fn quickly(site: &Site) -> Command {
    let plain = site.healer(&["--foreground"]);
    if !is_root() || !Path::new("/usr/bin/setpriv").exists() {
        return plain;
    }
    let mut start = command("/usr/bin/setpriv");
    start.arg("--bounding-set=-bpf,-perfmon,-sys_admin").arg(plain.get_program());
    start.args(plain.get_args()).env("NOTIFY_SOCKET", site.notify.path());
    start.current_dir(site.path());
    start
}

/// Whether a launch is under way, or done.
fn launching(memory: Option<&Value>) -> bool {
    let under_way = |memory: &Value| !memory["launching"].is_null() || !memory["running"].is_null();
    memory.is_some_and(under_way)
}

/// Services that are slow to say that they run, and that nobody would find by their command: it
/// becomes another program.
fn slow(site: &Site, count: usize) -> Vec<Service> {
    let script = site.script(&format!("exec {} \"$@\"\n", program().display()));
    let service = |number| {
        let service = site.service(&format!("s{number}")).args(["--start-after", "20"]);
        service.set("command", script.to_str().unwrap())
    };
    (0..count).map(service).collect()
}

#[rstest]
#[case::sooner(0)]
#[case::later(1)]
fn healer_killed_in_the_middle_of_launches_comes_back_to_one_instance_of_each(#[case] half: u32) {
    const ROUNDS: u32 = 60;
    let site = Site::new();
    let services = slow(&site, 8);
    site.configure(&services);
    let start = || {
        let before = site.notify.heard().len();
        let mut healer = site.spawn(&mut quickly(&site));
        healer.until_heard(before, "READY=1");
        healer
    };
    let one_of_each = |round| {
        eventually(&format!("one of each runs in round {round}"), || {
            services.iter().all(|service| {
                let last = service.starts().pop();
                last.is_some_and(|last| {
                    let living = service.living();
                    living.len() == 1 && living[0].pid == last.pid
                })
            })
        });
        for service in &services {
            service.assert_never_two();
        }
    };
    let mut healer = start();
    one_of_each(0);
    for round in (1..=ROUNDS).filter(|round| round % 2 == half) {
        let before: Vec<_> = services.iter().map(|service| site.remembered(service)).collect();
        for service in &services {
            service.kill(Signal::KILL);
        }
        // When so many launches have come so far that they are remembered, and then a little later.
        let begun = || {
            let now = services.iter().map(|service| site.remembered(service));
            now.zip(&before)
                .filter(|(now, before)| launching(now.as_ref()) && now != *before)
                .count()
        };
        let wanted = round as usize % (services.len() + 1);
        let deadline = Instant::now() + Duration::from_millis(300);
        while begun() < wanted && Instant::now() < deadline {
            thread::sleep(Duration::from_micros(100));
        }
        thread::sleep(Duration::from_micros(u64::from(round * 7_919 % ROUNDS) * 50));
        healer.end_by(Signal::KILL);
        healer = start();
        one_of_each(round);
    }
}

#[test]
fn stage_of_a_killed_healer_that_lingers_is_waited_for() {
    let site = Site::new();
    let services = slow(&site, 1);
    let service = &services[0];
    let healer = site.guard([service]);
    let mut count = 1;
    let stage = loop {
        service.running(count);
        service.kill(Signal::KILL);
        // It lives for a moment only: looked for without a pause and, if it was missed, once more.
        let remembered = || {
            let pid = site.remembered(service)?["launching"]["pid"].as_i64()?;
            i32::try_from(pid).ok()
        };
        let stage = std::iter::repeat_with(remembered)
            .take_while(|_| service.starts().len() == count)
            .find_map(|stage| stage);
        if let Some(stage) = stage.and_then(Living::read).filter(|stage| stage.has("healer-stage"))
            && kill(&stage, Signal::STOP)
            && Living::read(stage.pid).is_some_and(|stage| stage.has("healer-stage"))
        {
            break stage;
        }
        count += 1;
        assert!(count < 300, "no stage was caught");
    };
    healer.end_by(Signal::KILL);
    let healer = site.start();
    healer.until_said(&[("process", "s0"), ("reason", "is being launched as it")]);
    throughout(Duration::from_millis(300), "nothing is started", || {
        service.starts().len() == count && service.living().is_empty()
    });
    // healer is gone, and so it ends.
    assert!(kill(&stage, Signal::CONT));
    service.running(count + 1);
}
