//! Why an instance ended, in the daemon's log; and what follows from it. Needs root and eBPF.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rstest::rstest;
use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{
    Healer, Living, Service, Site, eventually, has_ebpf, program, sh, skip, throughout,
};

/// Whose child the instance is.
#[derive(Clone, Copy, Debug)]
enum Origin {
    Launched,
    /// Somebody else's, and waited for by that: healer learns of its end only what the kernel tells.
    Adopted,
}

/// Without the program that notes ends, as if the kernel had skipped it (Linux 7 may).
const ENDS_MISSED: (&str, &str) = ("HEALER_EBPF_EXITS", "0");

impl Origin {
    /// A healer that guards this service, and the service's instance.
    fn guard<'site>(
        self,
        site: &'site Site,
        service: &Service,
        env: Option<(&str, &str)>,
    ) -> (Healer<'site>, Living) {
        if matches!(self, Self::Adopted) {
            site.start_by_hand(service);
        }
        site.configure([service]);
        let mut command = site.healer(&["--foreground"]);
        let healer = site.spawn(command.envs(env));
        let guarded = ["adopted a running instance", "started"];
        eventually("it is guarded", || {
            guarded.iter().any(|message| !healer.said(&[("message", message)]).is_empty())
        });
        (healer, service.running(1))
    }
}

/// The one line about the end of this instance.
fn end_of(healer: &Healer, instance: &Living) -> Value {
    let ends = || {
        let mut lines = healer.said(&[("message", "ended")]);
        lines.retain(|line| line["pid"] == instance.pid);
        lines
    };
    eventually("its end is told", || !ends().is_empty());
    throughout(Duration::from_millis(200), "once", || ends().len() == 1);
    ends().remove(0)
}

/// What that says of the cause, whether or not the machine writes core dumps.
fn reason_of(end: &Value) -> String {
    end["reason"].as_str().unwrap().replace(", core dumped", "")
}

#[rstest]
// The killer is gone before healer can look.
#[case::killed(&[], "kill -KILL PID", "SIGKILL by sh (PID KILLER, root)")]
#[case::asked_to_end(&[], "kill PID", "SIGTERM by sh (PID KILLER, root)")]
#[case::handled(
    &["--exit-on-term"],
    "kill PID",
    "exit code 0 after SIGTERM by sh (PID KILLER, root)"
)]
#[case::leader_gone(&["--leader-exits"], "kill -9 PID", "SIGKILL by sh (PID KILLER, root)")]
#[case::workers_left(&["--workers", "3"], "kill -9 PID", "SIGKILL by sh (PID KILLER, root)")]
#[case::exits(&["--until", "go", "--exit", "7"], "touch DIR/go", "exit code 7")]
#[case::fault(&["--until", "go", "--raise", "SIGSEGV"], "touch DIR/go", "SIGSEGV by itself")]
fn what_ended_an_instance_is_told_once(
    #[case] args: &[&str],
    #[case] end_it: &str,
    #[case] expected: &str,
    #[values(Origin::Launched, Origin::Adopted)] origin: Origin,
) {
    if !has_ebpf() {
        return;
    }
    let site = Site::new();
    let service = args.iter().fold(site.service("web"), |service, word| service.args([word]));
    let (healer, first) = origin.guard(&site, &service, None);
    let end_it = end_it.replace("DIR", site.path().to_str().unwrap());
    let killer = sh(&end_it.replace("PID", &first.pid.to_string()));
    let told = end_of(&healer, &first);
    assert_eq!(reason_of(&told), expected.replace("KILLER", &killer.to_string()));
    for number in ["runtime_ms", "user_ms", "system_ms"] {
        assert!(told[number].is_u64(), "{number}: {told}");
    }
    eventually("it is back", || service.starts().len() >= 2);
    service.assert_never_two();
}

#[rstest]
#[case::launched(Origin::Launched, 100)]
#[case::adopted(Origin::Adopted, 100)]
// No more than healer itself may take: what Linux counts may then be healer's.
#[case::launched_and_small(Origin::Launched, 0)]
#[case::adopted_and_small(Origin::Adopted, 0)]
fn memory_is_told_of_the_instance_and_not_of_healer(#[case] origin: Origin, #[case] mib: u64) {
    if !has_ebpf() {
        return;
    }
    let site = Site::new();
    let service = site.service("web").args(["--take", &mib.to_string()]);
    let (healer, first) = origin.guard(&site, &service, None);
    service.kill(Signal::KILL);
    let told = &end_of(&healer, &first)["peak_rss_kib"];
    if mib > 0 || matches!(origin, Origin::Adopted) {
        let told = told.as_u64().unwrap() / 1024;
        assert!((mib..mib + 20).contains(&told), "{told} MiB");
    } else {
        assert!(told.is_null(), "{told}");
    }
}

#[test]
fn program_that_becomes_another_one_stays_the_instance() {
    if !has_ebpf() {
        return;
    }
    let site = Site::new();
    let script = site.script(&format!("exec {} \"$@\"\n", program().display()));
    let service = site.service("web").set("command", script.to_str().unwrap());
    let healer = site.guard([&service]);
    for count in 1..=3 {
        let instance = service.running(count);
        let killer = sh(&format!("kill -9 {}", instance.pid));
        let told = end_of(&healer, &instance);
        assert_eq!(reason_of(&told), format!("SIGKILL by sh (PID {killer}, root)"));
    }
    service.running(4);
}

/// A memory cgroup of a test's own, removed once it is empty.
struct Cgroup(PathBuf);

impl Cgroup {
    /// One with room for a program that does not hog memory.
    fn new() -> Option<Self> {
        let roots = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"].map(Path::new);
        roots.into_iter().find_map(|root| {
            let path = root.join(format!("healer-test-{}", std::process::id()));
            fs::create_dir(&path).ok()?;
            let cgroup = Self(path);
            let set = |file: &str, value: &str| fs::write(cgroup.0.join(file), value).is_ok();
            let limited = set("memory.limit_in_bytes", "67108864") || set("memory.max", "67108864");
            // With swap, the limit alone would not do.
            let _ = set("memory.memsw.limit_in_bytes", "67108864") || set("memory.swap.max", "0");
            limited.then_some(cgroup)
        })
    }

    fn take(&self, process: &Living) {
        fs::write(self.0.join("cgroup.procs"), process.pid.to_string()).unwrap();
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        eventually("the cgroup is empty", || fs::remove_dir(&self.0).is_ok());
    }
}

#[rstest]
fn lack_of_memory_is_told_with_its_cgroup_and_is_a_failure(
    #[values(Origin::Launched, Origin::Adopted)] origin: Origin,
) {
    if !has_ebpf() {
        return;
    }
    let Some(cgroup) = Cgroup::new() else { return skip("no memory cgroup to write") };
    let site = Site::new();
    let service =
        site.service("web").args(["--until", "go", "--hog"]).set("recovery.restart", "on-failure");
    let (healer, first) = origin.guard(&site, &service, None);
    cgroup.take(&first);
    fs::write(site.file("go"), "").unwrap();
    let name = cgroup.0.file_name().unwrap().to_str().unwrap();
    let told = reason_of(&end_of(&healer, &first));
    // Not to be run where there is no limit.
    fs::remove_file(site.file("go")).unwrap();
    assert_eq!(told, format!("OOM-killed (in cgroup /{name})"));
    service.running(2);
}

#[rstest]
#[case::term(Origin::Launched, None, &[], "kill PID", "SIGTERM by sh", false)]
#[case::int(Origin::Launched, None, &[], "kill -INT PID", "SIGINT by sh", false)]
#[case::hup(Origin::Adopted, None, &[], "kill -HUP PID", "SIGHUP by sh", false)]
#[case::handled_term(
    Origin::Adopted, None, &["--exit-on-term"], "kill PID", "exit code 0 after SIGTERM by sh", false
)]
#[case::exit(Origin::Adopted, None, &["--until", "go", "--exit", "0"], "touch DIR/go", "exit code 0", false)]
#[case::failure(
    Origin::Adopted, None, &["--until", "go", "--exit", "3"], "touch DIR/go", "exit code 3", true
)]
#[case::kill(Origin::Adopted, None, &[], "kill -KILL PID", "SIGKILL by sh", true)]
#[case::segv(Origin::Launched, None, &[], "kill -SEGV PID", "SIGSEGV by sh", true)]
#[case::own_term(
    Origin::Launched, None, &["--until", "go", "--raise", "SIGTERM"], "touch DIR/go", "SIGTERM by itself", true
)]
#[case::missed_term(Origin::Adopted, Some(ENDS_MISSED), &[], "kill PID", "SIGTERM by sh", false)]
#[case::unknown(
    Origin::Adopted,
    Some(ENDS_MISSED),
    &["--exit-on-term"],
    "kill PID",
    "cause unknown after SIGTERM by sh",
    true
)]
fn on_failure_restarts_by_cause(
    #[case] origin: Origin,
    #[case] env: Option<(&str, &str)>,
    #[case] args: &[&str],
    #[case] end_it: &str,
    #[case] expected: &str,
    #[case] again: bool,
) {
    if !has_ebpf() {
        return;
    }
    let site = Site::new();
    let service = args.iter().fold(site.service("web"), |service, word| service.args([word]));
    let service = service.set("recovery.restart", "on-failure");
    let (healer, first) = origin.guard(&site, &service, env);
    let end_it = end_it.replace("DIR", site.path().to_str().unwrap());
    let killer = sh(&end_it.replace("PID", &first.pid.to_string()));
    let told = reason_of(&end_of(&healer, &first));
    assert_eq!(told.replace(&format!(" (PID {killer}, root)"), ""), expected);
    if again {
        eventually("it is back", || service.starts().len() >= 2);
    } else {
        healer.until_said(&[("process", "web"), ("to", "finished")]);
        throughout(Duration::from_millis(300), "it stays down", || service.starts().len() == 1);
    }
}
