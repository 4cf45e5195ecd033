//! healer as the first process of a PID namespace, as in a container that does not share the
//! host's: PIDs are the namespace's own, and what is outside is nobody's business. Needs root.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::harness::{
    Healer, Living, Site, command, eventually, eventually_some, has_ebpf, kill, living, sh,
    throughout, wait, within,
};

/// healer in a namespace of its own, guarding one `sleep` that it does not start first.
struct Container<'site> {
    site: &'site Site,
    healer: Healer<'site>,
    program: PathBuf,
    /// healer's PID here, by which its namespaces are entered.
    first: i32,
}

impl<'site> Container<'site> {
    fn start(site: &'site Site) -> Self {
        let program = site.file("sleep");
        fs::copy("/bin/sleep", &program).unwrap();
        let service = site
            .service("web")
            .set("command", program.to_str().unwrap())
            .set("args", json!(["600"]))
            .set("output", "null")
            .set("autostart", false);
        site.configure([&service]);
        let unshare = ["/usr/bin/unshare", "--pid", "--fork", "--mount-proc", "--kill-child"];
        let before = site.notify.heard().len();
        // As PID 1 it stays in the foreground by itself.
        let mut healer = site.spawn(&mut within(&unshare, &site.healer(&[])));
        healer.until_heard(before, "READY=1");
        let outer = healer.pid();
        let first = site.daemons().into_iter().find(|one| one.pid != outer).unwrap().pid;
        Self { site, healer, program, first }
    }

    /// Runs this line inside, and tells which PID its shell has there.
    fn sh(&self, line: &str) -> i32 {
        let told = self.site.file("inside");
        let line = format!("echo $$ > {}; {line}", told.display());
        sh(&format!("exec nsenter --target {} --pid --mount sh -c '{line}'", self.first));
        fs::read_to_string(told).unwrap().trim().parse().unwrap()
    }

    /// All sleepers, by their PIDs here.
    fn sleepers(&self) -> Vec<Living> {
        living().filter(|one| one.words[0] == self.program.as_os_str().as_encoded_bytes()).collect()
    }

    /// The PIDs, as they are inside, in the lines with this message.
    fn told(&self, message: &str) -> Vec<i64> {
        let lines = self.healer.said(&[("process", "web"), ("message", message)]);
        lines.iter().filter_map(|line| line["pid"].as_i64()).collect()
    }

    fn until_told(&self, message: &str, count: usize) -> i64 {
        eventually_some(&format!("{message} is told {count} times"), || {
            let told = self.told(message);
            assert!(told.len() <= count, "{message} is told too often: {told:?}");
            told.get(count - 1).copied()
        })
    }
}

/// The number that a process has in its innermost PID namespace.
fn inside(process: &Living) -> i64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid)).unwrap();
    let line = status.lines().find(|line| line.starts_with("NSpid:")).unwrap();
    line.split_whitespace().last().unwrap().parse().unwrap()
}

#[test]
fn in_a_pid_namespace_only_its_processes_are_meant_and_pids_are_its_own() {
    if !has_ebpf() {
        return;
    }
    let site = Site::new();
    let container = Container::start(&site);
    let program = container.program.display();
    container.healer.until_said(&[("process", "web"), ("to", "down")]);
    // Outside, and in a namespace below.
    let mut outside = command(&container.program).arg("600").stdout(Stdio::null()).spawn().unwrap();
    container.sh(&format!("unshare --pid --fork --kill-child {program} 600 > /dev/null 2>&1 &"));
    eventually("both strangers run", || container.sleepers().len() == 2);
    let strangers = container.sleepers();

    // Somebody inside starts the one that is meant.
    container.sh(&format!("setsid {program} 600 > /dev/null 2>&1 &"));
    let adopted = container.until_told("adopted a running instance", 1);
    let own = |one: &Living| !strangers.contains(one);
    let real = container.sleepers().into_iter().find(own).unwrap();
    assert_eq!(inside(&real), adopted);

    // A killer inside has its number there.
    let killer = container.sh(&format!("kill -9 {adopted}"));
    container.until_told("ended", 1);
    let by = format!("SIGKILL by sh (PID {killer}, root)");
    container.healer.until_said(&[("message", "ended"), ("reason", &by)]);
    assert!(killer < 1000, "{killer} is no number of a new namespace");

    // One from outside has none.
    let healed = container.until_told("started", 1);
    let real = eventually_some("it is back", || container.sleepers().into_iter().find(own));
    assert_eq!(inside(&real), healed);
    sh(&format!("kill -9 {}", real.pid));
    container.until_told("ended", 2);
    let by = "SIGKILL by sh (outside of this PID namespace, root)";
    container.healer.until_said(&[("message", "ended"), ("reason", by)]);
    container.until_told("started", 2);

    // The strangers were left alone, and nobody misses them.
    assert!(strangers.iter().all(|one| Living::read(one.pid).as_ref() == Some(one)));
    for stranger in &strangers {
        assert!(kill(stranger, Signal::KILL));
    }
    wait(&mut outside);
    eventually("they are gone", || container.sleepers().len() == 1);
    throughout(Duration::from_millis(300), "nothing follows", || {
        container.told("ended").len() == 2 && container.sleepers().len() == 1
    });
}
