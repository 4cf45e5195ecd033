//! Why real processes ended, as the kernel side tells it. Needs root and a kernel with BTF.

#![cfg(feature = "ebpf")]
#![expect(clippy::unwrap_used, reason = "a test fails where it is surprised")]

mod stand_in;

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use healer::event::{End, Exit, Instance, Killer, Pid, Signal};
use healer::instance::{Held, readable};
use healer::monitor::ebpf::{Causes, Execs, Kernel, Options, Unavailable, merge};
use rstest::rstest;
use stand_in::*;

/// The kernel side; `None` where it cannot work, which is said.
fn load() -> Option<(Causes, Execs)> {
    match Kernel::load(Options::default()) {
        Ok(Kernel { causes, execs }) => Some((causes, execs)),
        Err(Unavailable::Refused { step, source }) if is_root() => panic!("{step}: {source:?}"),
        Err(missing) => {
            skip(&missing.to_string());
            None
        }
    }
}

/// A child that waits for a line on its standard input before it execs, as a stage waits for `go`.
struct Victim {
    child: Child,
    held: Held,
}

impl Victim {
    /// Watched before it execs `command`, which runs with `go`.
    fn start(causes: &mut Causes, command: &[&str]) -> Self {
        let victim = Self::park(command);
        causes.watch(victim.instance()).unwrap();
        victim.go()
    }

    #[expect(clippy::disallowed_methods, reason = "no reaper runs in these tests")]
    fn park(command: &[&str]) -> Self {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", "read go; exec \"$@\"", "sh"]).args(command);
        shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
        let child = shell.spawn().unwrap();
        let held = Held::open(Pid(child.id().cast_signed())).unwrap().unwrap();
        Self { child, held }
    }

    fn go(mut self) -> Self {
        self.child.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
        self
    }

    fn instance(&self) -> Instance {
        self.held.instance()
    }

    fn pid(&self) -> String {
        self.instance().to_string()
    }

    /// Waits until it has become this program.
    fn runs(&self, comm: &str) {
        let path = format!("/proc/{}/comm", self.pid());
        until("it execs", || std::fs::read_to_string(&path).unwrap().trim_end() == comm);
    }

    /// Waits for a line of its output.
    fn says(&mut self, line: &str) {
        let out = BufReader::new(self.child.stdout.as_mut().unwrap());
        let told = out.lines().map_while(Result::ok).find(|said| said == line);
        assert!(told.is_some(), "it ended without saying {line}");
    }

    /// Waits for its pidfd, and tells how it ended: as a parent with the kernel's help, and by the
    /// kernel's help alone.
    fn end(mut self, causes: &mut Causes) -> (Exit, Exit) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let ended = readable::ended(&self.held);
        runtime.block_on(async { tokio::time::timeout(DEADLINE, ended).await }).unwrap().unwrap();
        let cause = causes.take(self.instance());
        assert!(cause.is_some(), "it is watched until it is taken");
        assert_eq!(causes.take(self.instance()), None, "a cause is told once");
        let status = std::os::unix::process::ExitStatusExt::into_raw(self.child.wait().unwrap());
        let waited = Exit { end: healer::instance::reaper::end_of(status), ..Exit::default() };
        (merge(Some(waited), cause.clone()), merge(None, cause))
    }

    /// As [`Victim::end`], where both must agree: one line.
    fn told(self, causes: &mut Causes) -> String {
        let (parent, alone) = self.end(causes);
        assert_eq!(parent, alone, "the kernel side sees what the parent sees");
        alone.to_string()
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.held.signal(Signal(libc::SIGKILL));
        let _ = self.child.wait();
    }
}

/// Runs a shell script to its end, and gives its PID.
#[expect(clippy::disallowed_methods, reason = "no reaper runs in these tests")]
fn sh(script: &str) -> u32 {
    let mut shell = Command::new("/bin/sh").args(["-c", script]).spawn().unwrap();
    shell.wait().unwrap();
    shell.id()
}

#[rstest]
#[case::success("exit 0", "exit code 0")]
#[case::failure("exit 1", "exit code 1")]
#[case::last_code("exit 255", "exit code 255")]
#[case::itself("kill -9 $$", "SIGKILL by itself")]
#[case::another_program("exec /bin/false", "exit code 1")]
#[case::other_programs(
    "exec /bin/sh -c 'exec /bin/sh -c \"kill -15 \\$\\$\"'",
    "SIGTERM by itself"
)]
fn an_end_by_itself_is_told(#[case] script: &str, #[case] told: &str) {
    let Some((mut causes, _execs)) = load() else { return };
    let victim = Victim::start(&mut causes, &["/bin/sh", "-c", script]);
    assert_eq!(victim.told(&mut causes), told);
}

#[rstest]
#[case::abort("import os; os.abort()", "SIGABRT by itself")]
#[case::fault("import ctypes; ctypes.string_at(0)", "SIGSEGV")]
#[case::alarm(
    "import signal, time; signal.setitimer(signal.ITIMER_REAL, 0.01); time.sleep(60)",
    "SIGALRM by the kernel"
)]
#[case::cpu_limit(
    "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (1, 1))\nwhile True: pass",
    "SIGKILL by the kernel"
)]
#[case::broken_pipe(
    "import os, signal\nsignal.signal(signal.SIGPIPE, signal.SIG_DFL)\nr, w = os.pipe(); os.close(r); os.write(w, b'x')",
    "SIGPIPE by itself"
)]
#[case::threads(
    "import threading, time, os\nthreading.Thread(target=lambda: (time.sleep(0.05), os._exit(7))).start()\ntime.sleep(60)",
    "exit code 7"
)]
#[case::leader_first(
    "import ctypes, threading, time, os\nthreading.Thread(target=lambda: (time.sleep(0.1), os._exit(5))).start()\nctypes.CDLL(None).pthread_exit(None)",
    "exit code 5"
)]
#[case::exec_of_another_thread(
    "import threading, time, os\nthreading.Thread(target=lambda: os.execv('/bin/sh', ['sh', '-c', 'exit 9'])).start()\ntime.sleep(60)",
    "exit code 9"
)]
fn a_program_that_ends_itself_is_told(#[case] program: &str, #[case] told: &str) {
    let Some((mut causes, _execs)) = load() else { return };
    let victim = Victim::start(&mut causes, &["/usr/bin/python3", "-c", program]);
    let line = victim.told(&mut causes);
    assert_eq!(line.replace(", core dumped", ""), told);
}

#[test]
fn a_leader_that_was_not_the_last_ends_as_its_parent_sees_it() {
    let Some((mut causes, _execs)) = load() else { return };
    let program = "import ctypes, threading, time\n\
                   exit = lambda code: ctypes.CDLL(None).syscall(60, code)\n\
                   threading.Thread(target=lambda: (time.sleep(0.1), exit(5))).start()\n\
                   exit(3)";
    let victim = Victim::start(&mut causes, &["/usr/bin/python3", "-c", program]);
    // Whose code counts differs between kernels: the leader's once, the last thread's now.
    let told = victim.told(&mut causes);
    assert!(["exit code 3", "exit code 5"].contains(&told.as_str()), "{told}");
}

#[rstest]
fn a_killer_is_named_even_when_it_is_gone(
    #[values("HUP", "INT", "QUIT", "KILL", "USR1", "TERM", "SEGV", "RTMAX")] signal: &str,
) {
    let Some((mut causes, _execs)) = load() else { return };
    let victim = Victim::start(&mut causes, &["prlimit", "--core=0", "cat"]);
    victim.runs("cat");
    // RTMAX is 64, which dash's kill knows by its number only.
    let number = if signal == "RTMAX" { "64" } else { signal };
    let killer = sh(&format!("kill -{number} {}", victim.pid()));
    let (parent, alone) = victim.end(&mut causes);
    assert_eq!(parent, alone);
    let pid = Some(Pid(killer.cast_signed()));
    assert_eq!(alone.killer, Some(Killer::Process { pid, comm: "sh".into(), uid: 0 }));
    let Some(End::Signal { signal: ended_by, .. }) = alone.end else { panic!("{alone}") };
    assert_eq!(alone.to_string(), format!("{ended_by} by sh (PID {killer}, root)"));
}

#[test]
fn a_killer_of_another_user_is_named() {
    let Some((mut causes, _execs)) = load() else { return };
    let victim = Victim::start(&mut causes, &["setpriv", "--reuid=65534", "--clear-groups", "cat"]);
    victim.runs("cat");
    let kill = format!("exec setpriv --reuid=65534 --clear-groups kill -9 {}", victim.pid());
    let killer = sh(&kill);
    let told = victim.told(&mut causes);
    assert_eq!(told, format!("SIGKILL by kill (PID {killer}, uid 65534)"));
}

#[rstest]
#[case::exit(
    "trap 'exit 0' TERM; echo up; while :; do read x; done",
    "exit code 0 after SIGTERM by sh (PID"
)]
#[case::failure(
    "trap 'exit 4' TERM; echo up; while :; do read x; done",
    "exit code 4 after SIGTERM by sh (PID"
)]
fn a_request_that_is_handled_is_no_kill(#[case] script: &str, #[case] told: &str) {
    let Some((mut causes, _execs)) = load() else { return };
    let mut victim = Victim::start(&mut causes, &["/bin/sh", "-c", script]);
    victim.says("up");
    sh(&format!("kill {}", victim.pid()));
    let line = victim.told(&mut causes);
    assert!(line.starts_with(told), "{line}");
}

#[test]
fn the_last_word_has_the_kill_not_the_request_before() {
    let Some((mut causes, _execs)) = load() else { return };
    let script = "trap '' TERM; trap 'echo alarm' ALRM; echo up; while :; do read x; done";
    let mut victim = Victim::start(&mut causes, &["/bin/sh", "-c", script]);
    victim.says("up");
    let killer =
        sh(&format!("kill {0}; kill -ALRM {0}; kill -CHLD {0}; kill -9 {0}", victim.pid()));
    assert_eq!(victim.told(&mut causes), format!("SIGKILL by sh (PID {killer}, root)"));
}

#[test]
fn numbers_of_an_end_are_told() {
    let Some((mut causes, _execs)) = load() else { return };
    let program = "import time\nx = bytearray(64 << 20)\nend = time.process_time() + 0.2\n\
                   while time.process_time() < end: pass";
    let victim = Victim::start(&mut causes, &["/usr/bin/python3", "-c", program]);
    let (_, exit) = victim.end(&mut causes);
    let cpu = exit.cpu.unwrap();
    assert!(cpu.user + cpu.system >= Duration::from_millis(200), "{cpu:?}");
    assert!(exit.runtime.unwrap() >= cpu.user + cpu.system);
    assert!(exit.runtime.unwrap() < DEADLINE);
    assert!((64 << 20..512 << 20).contains(&exit.peak_rss.unwrap()), "{:?}", exit.peak_rss);
}

#[test]
fn a_core_dump_is_told() {
    let Some((mut causes, _execs)) = load() else { return };
    let dir = tempfile::tempdir().unwrap();
    let go = format!("cd {}; ulimit -c unlimited; kill -QUIT $$", dir.path().display());
    let victim = Victim::start(&mut causes, &["/bin/sh", "-c", &go]);
    let (parent, alone) = victim.end(&mut causes);
    // Whether the kernel dumps is core_pattern's matter; that both see the same is ours.
    assert_eq!(parent, alone);
    assert!(alone.to_string().starts_with("SIGQUIT by itself"), "{alone}");
}

/// A cgroup of a test's own, removed when it is empty.
struct Cgroup(std::path::PathBuf);

impl Cgroup {
    fn new(parent: &str, name: &str) -> Option<Self> {
        let path = Path::new(parent).join(format!("{name}-{}", std::process::id()));
        std::fs::create_dir(&path).ok().map(|()| Self(path))
    }

    fn write(&self, file: &str, text: &str) -> bool {
        std::fs::write(self.0.join(file), text).is_ok()
    }

    fn name(&self) -> &str {
        self.0.file_name().unwrap().to_str().unwrap()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        until("the cgroup is empty", || std::fs::remove_dir(&self.0).is_ok());
    }
}

#[test]
fn a_kill_through_the_cgroup_names_its_writer() {
    let Some((mut causes, _execs)) = load() else { return };
    let roots = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
    let made = roots.iter().find_map(|root| Cgroup::new(root, "healer-test-kill"));
    let Some(cgroup) = made.filter(|cgroup| cgroup.0.join("cgroup.kill").exists()) else {
        return skip("no cgroup v2 to write");
    };
    let victim = Victim::start(&mut causes, &["cat"]);
    assert!(cgroup.write("cgroup.procs", &victim.pid()));
    let killer = sh(&format!("echo 1 > {}/cgroup.kill", cgroup.0.display()));
    assert_eq!(victim.told(&mut causes), format!("SIGKILL by sh (PID {killer}, root)"));
}

#[test]
fn an_oom_kill_is_told_with_its_cgroup() {
    let Some((mut causes, _execs)) = load() else { return };
    let limits = ["memory.limit_in_bytes", "memory.max"];
    let made = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"].iter().find_map(|root| {
        let cgroup = Cgroup::new(root, "healer-test-oom")?;
        limits.iter().any(|limit| cgroup.write(limit, "33554432")).then_some(cgroup)
    });
    let Some(cgroup) = made else { return skip("no memory cgroup to write") };
    // With swap, the limit alone would not do.
    for limit in ["memory.memsw.limit_in_bytes", "memory.swap.max"] {
        cgroup.write(limit, if limit.contains("memsw") { "33554432" } else { "0" });
    }
    let victim = Victim::park(&["/usr/bin/python3", "-c", "bytearray(256 << 20)"]);
    causes.watch(victim.instance()).unwrap();
    assert!(cgroup.write("cgroup.procs", &victim.pid()));
    let told = victim.go().told(&mut causes);
    assert_eq!(told, format!("OOM-killed (in cgroup {})", cgroup.name()));
}

#[test]
fn a_parent_that_took_its_child_along_is_named() {
    let Some((mut causes, _execs)) = load() else { return };
    let mut parent = Victim::start(
        &mut causes,
        &["/bin/sh", "-c", "setpriv --pdeathsig KILL sleep 600 & echo up; read x"],
    );
    parent.says("up");
    let child = until_some("the child sleeps", || {
        let child = *children_of(parent.instance().pid).first()?;
        let comm = std::fs::read_to_string(format!("/proc/{child}/comm")).unwrap_or_default();
        (comm == "sleep\n").then_some(child)
    });
    causes.watch(child).unwrap();
    let pid = parent.pid();
    sh(&format!("kill -9 {pid}"));
    parent.told(&mut causes);
    until("the child is gone", || is_dead(child));
    let told = merge(None, causes.take(child)).to_string();
    assert_eq!(told, format!("SIGKILL by sh (PID {pid}, root)"));
}

#[test]
fn a_readable_pidfd_means_a_complete_cause() {
    let Some((mut causes, _execs)) = load() else { return };
    for _ in 0..500 {
        let victim = Victim::park(&["cat"]);
        causes.watch(victim.instance()).unwrap();
        assert!(victim.held.signal(Signal(libc::SIGKILL)).unwrap());
        let own = std::process::id().cast_signed();
        let (parent, alone) = victim.end(&mut causes);
        assert_eq!(parent, alone);
        let Some(Killer::Process { pid: Some(Pid(killer)), .. }) = alone.killer else {
            panic!("{alone}")
        };
        assert_eq!(killer, own);
    }
    assert_eq!(causes.watched(), []);
    assert_eq!(causes.counters().runs_missed, 0);
}

#[test]
fn many_that_die_at_once_are_each_told() {
    let Some((mut causes, _execs)) = load() else { return };
    let victims: Vec<_> = (0..200).map(|_| Victim::start(&mut causes, &["cat"])).collect();
    let all: HashSet<_> = victims.iter().map(Victim::instance).collect();
    assert_eq!(causes.watched().into_iter().collect::<HashSet<_>>(), all);
    let pids: Vec<_> = victims.iter().map(Victim::pid).collect();
    let killer = sh(&format!("kill -9 {}", pids.join(" ")));
    for victim in victims {
        assert_eq!(victim.told(&mut causes), format!("SIGKILL by sh (PID {killer}, root)"));
    }
    assert_eq!(causes.watched(), []);
}

#[test]
fn nobody_else_is_told_of() {
    let Some((mut causes, _execs)) = load() else { return };
    let victim = Victim::start(&mut causes, &["cat"]);
    let other = Victim::park(&["cat"]);
    let stale = Instance { start_ticks: victim.instance().start_ticks - 1, ..victim.instance() };
    assert_eq!(causes.take(other.instance()), None);
    assert_eq!(causes.take(stale), None, "an earlier owner of the PID is another instance");
    causes.forget(stale);
    assert_eq!(causes.watched(), [victim.instance()]);
    causes.watch(victim.instance()).unwrap();
    causes.forget(victim.instance());
    causes.forget(victim.instance());
    assert_eq!(causes.watched(), []);
}

#[test]
fn watching_again_forgets_nothing() {
    let Some((mut causes, _execs)) = load() else { return };
    let mut victim = Victim::start(
        &mut causes,
        &["/bin/sh", "-c", "trap 'exit 0' TERM; echo up; while :; do read x; done"],
    );
    victim.says("up");
    let killer = sh(&format!("kill {}", victim.pid()));
    causes.watch(victim.instance()).unwrap();
    let told = victim.told(&mut causes);
    assert_eq!(told, format!("exit code 0 after SIGTERM by sh (PID {killer}, root)"));
}

#[test]
fn more_than_there_is_room_for_is_an_error() {
    if load().is_none() {
        return;
    }
    let options = Options { watched_max: 2, ..Options::default() };
    let mut causes = Kernel::load(options).unwrap().causes;
    let instance = |pid| Instance { pid: Pid(pid), start_ticks: 1 };
    let results: Vec<_> = (1..100).map(|pid| causes.watch(instance(pid))).collect();
    let error = results.into_iter().find_map(Result::err).unwrap();
    assert_eq!(error.raw_os_error(), Some(libc::E2BIG));
}

/// Set for the run of a test within a PID namespace of its own: what its last victim is told by.
const INSIDE: &str = "HEALER_TEST_INSIDE";

#[test]
fn killers_have_the_numbers_of_healers_pid_namespace() {
    if let Ok(seconds) = std::env::var(INSIDE) {
        return inside_a_pid_namespace(&seconds);
    }
    if load().is_none() {
        return;
    }
    let this = std::env::current_exe().unwrap();
    let unique = 70_000 + std::process::id();
    let inside = format!("{INSIDE}={unique}");
    let command = ["unshare", "-pf", "--mount-proc", "env", &inside];
    let test = ["--exact", "killers_have_the_numbers_of_healers_pid_namespace", "--nocapture"];
    let mut inside = Victim::park(&[&command[..], &[this.to_str().unwrap()], &test].concat()).go();
    inside.says("now from outside");
    // The one that is to be killed from here, by its number here.
    let target = until_some("the target runs", || {
        let table = healer::instance::table::Table::snapshot().unwrap();
        let line =
            |one: Instance| std::fs::read(format!("/proc/{one}/cmdline")).unwrap_or_default();
        let asked = format!("sleep\0{unique}\0");
        let found = table.rows().iter().find(|row| line(row.instance) == asked.as_bytes());
        found.map(|row| row.instance)
    });
    sh(&format!("kill -9 {target}"));
    let status = inside.child.wait().unwrap();
    assert!(status.success(), "{status}");
}

fn inside_a_pid_namespace(seconds: &str) {
    let (mut causes, _execs) = load().unwrap();
    let victim = Victim::start(&mut causes, &["cat"]);
    let killer = sh(&format!("kill -9 {}", victim.pid()));
    assert!(killer < 100, "a number of this namespace");
    assert_eq!(victim.told(&mut causes), format!("SIGKILL by sh (PID {killer}, root)"));
    let victim = Victim::start(&mut causes, &["/bin/sh", "-c", "kill -15 $$"]);
    assert_eq!(victim.told(&mut causes), "SIGTERM by itself");
    // A process of a namespace below has a number here too, and may be watched by it.
    let outer = Victim::park(&["unshare", "-pf", "sleep", "600"]).go();
    let below = until_some("the one below runs", || {
        let child = *children_of(outer.instance().pid).first()?;
        let comm = std::fs::read_to_string(format!("/proc/{child}/comm")).ok()?;
        (comm == "sleep\n").then_some(child)
    });
    causes.watch(below).unwrap();
    let killer = sh(&format!("kill -9 {below}"));
    until("it is gone", || is_dead(below));
    let told = merge(None, causes.take(below)).to_string();
    assert_eq!(told, format!("SIGKILL by sh (PID {killer}, root)"));
    println!("\nnow from outside");
    let victim = Victim::start(&mut causes, &["sleep", seconds]);
    let (parent, alone) = victim.end(&mut causes);
    assert_eq!(parent, alone);
    assert_eq!(alone.to_string(), "SIGKILL by sh (outside of this PID namespace, root)");
}

#[test]
fn without_a_capability_it_says_which() {
    use caps::{CapSet, Capability};
    if load().is_none() {
        return;
    }
    // Capabilities belong to threads.
    let thread = std::thread::spawn(|| {
        for capability in [Capability::CAP_SYS_ADMIN, Capability::CAP_PERFMON] {
            caps::drop(None, CapSet::Effective, capability).unwrap();
        }
        Kernel::load(Options::default()).unwrap_err().to_string()
    });
    assert_eq!(thread.join().unwrap(), "no CAP_PERFMON: eBPF needs CAP_BPF and CAP_PERFMON");
}

#[test]
fn four_capabilities_are_enough() {
    use caps::{CapSet, Capability, CapsHashSet};
    if load().is_none() {
        return;
    }
    let thread = std::thread::spawn(|| {
        use Capability::{CAP_BPF, CAP_KILL, CAP_PERFMON, CAP_SETUID};
        let kept = CapsHashSet::from([CAP_BPF, CAP_PERFMON, CAP_KILL, CAP_SETUID]);
        caps::set(None, CapSet::Effective, &kept).unwrap();
        let mut causes = Kernel::load(Options::default()).unwrap().causes;
        let victim = Victim::start(&mut causes, &["/bin/sh", "-c", "exit 3"]);
        victim.told(&mut causes)
    });
    assert_eq!(thread.join().unwrap(), "exit code 3");
}
