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

/// Both halves of the kernel side; `None` where it cannot work, which is said.
fn load() -> Option<(Causes, Execs)> {
    load_with(Options::default()).map(|kernel| (kernel.causes, kernel.execs))
}

fn load_with(options: Options) -> Option<Kernel> {
    match Kernel::load(options) {
        Ok(kernel) => Some(kernel),
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
        let alone = merge(None, cause.clone());
        let end = healer::instance::reaper::end_of(status);
        // Of memory, this parent did not ask.
        let waited = Exit { end, peak_rss: alone.peak_rss, ..Exit::default() };
        (merge(Some(waited), cause), alone)
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

/// As [`sh`], in Python, with all modules that a killer needs.
#[expect(clippy::disallowed_methods, reason = "no reaper runs in these tests")]
fn python(program: &str) -> u32 {
    let modules = "import ctypes, os, signal, struct, threading\nc = ctypes.CDLL(None)";
    let program = format!("{modules}\n{program}");
    let mut python = Command::new("/usr/bin/python3").args(["-c", &program]).spawn().unwrap();
    assert!(python.wait().unwrap().success());
    python.id()
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
#[case::timer(
    "import ctypes, time\nc = ctypes.CDLL(None)\nt = ctypes.c_void_p()\n\
     c.timer_create(0, None, ctypes.byref(t))\n\
     c.timer_settime(t, 0, (ctypes.c_long * 4)(0, 0, 0, 10000000), None)\ntime.sleep(60)",
    "SIGALRM"
)]
#[case::cpu_limit(
    "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (1, 1))\nwhile True: pass",
    "SIGKILL by the kernel"
)]
#[case::soft_cpu_limit(
    "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (1, 9))\nwhile True: pass",
    "SIGXCPU by the kernel"
)]
#[case::file_size_limit(
    "import resource, signal, tempfile\nsignal.signal(signal.SIGXFSZ, signal.SIG_DFL)\n\
     resource.setrlimit(resource.RLIMIT_FSIZE, (9, 9))\n\
     f = tempfile.TemporaryFile(buffering=0)\nf.write(b'nine bytes')\nf.write(b'more')",
    "SIGXFSZ by itself"
)]
// No signal at all: the kernel ends it as it stands.
#[case::strict_seccomp("import ctypes, os\nctypes.CDLL(None).prctl(22, 1)\nos.getuid()", "SIGKILL")]
#[case::seccomp_kills_the_process(&seccomp(0x8000_0000), "SIGSYS")]
#[case::seccomp_kills_the_thread(&seccomp(0), "SIGSYS")]
#[case::seccomp_traps(&seccomp(0x0003_0000), "SIGSYS")]
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

/// A program that does this with its next system call.
fn seccomp(action: u32) -> String {
    format!(
        "import ctypes, struct\nc = ctypes.CDLL(None)\n\
         filter = ctypes.create_string_buffer(struct.pack('HBBI', 6, 0, 0, {action}))\n\
         program = struct.pack('HxxxxxxP', 1, ctypes.addressof(filter))\n\
         c.prctl(38, 1, 0, 0, 0)\nc.prctl(22, 2, program)"
    )
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

/// Linux 7 may skip the program at the end: here it never runs.
#[rstest]
#[case::killed("echo up; read x", "kill -9", "SIGKILL by sh", "SIGKILL by sh")]
#[case::asked("echo up; read x", "kill", "SIGTERM by sh", "SIGTERM by sh")]
#[case::dumps_core(
    "echo up; read x",
    "kill -QUIT",
    "SIGQUIT by sh",
    "cause unknown after SIGQUIT by sh"
)]
#[case::handled(
    "trap 'exit 4' TERM; echo up; while :; do read x; done",
    "kill",
    "exit code 4",
    "cause unknown after SIGTERM by sh"
)]
#[case::exits("echo up; exit 3", "true", "exit code 3", "cause unknown")]
fn a_missed_end_is_told_by_the_signal_before(
    #[case] script: &str,
    #[case] kill: &str,
    #[case] to_the_parent: &str,
    #[case] to_others: &str,
) {
    let options = Options { exits: false, ..Options::default() };
    let Some(Kernel { mut causes, .. }) = load_with(options) else { return };
    let script = format!("ulimit -c 0; {script}");
    let mut victim = Victim::start(&mut causes, &["/bin/sh", "-c", &script]);
    victim.says("up");
    let killer = sh(&format!("{kill} {}", victim.pid()));
    let (parent, alone) = victim.end(&mut causes);
    let by = format!(" (PID {killer}, root)");
    assert_eq!(parent.to_string().replace(&by, ""), to_the_parent);
    assert_eq!(alone.to_string().replace(&by, ""), to_others);
    assert_eq!(alone.runtime, None);
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
fn a_signal_to_the_dead_is_no_cause() {
    let Some((mut causes, _execs)) = load() else { return };
    let victim = Victim::start(&mut causes, &["/bin/sh", "-c", "exit 0"]);
    until("it is a zombie", || is_dead(victim.instance()));
    sh(&format!("kill {}", victim.pid()));
    assert_eq!(victim.told(&mut causes), "exit code 0");
}

#[test]
fn the_first_of_two_killers_is_the_killer() {
    let Some((mut causes, _execs)) = load() else { return };
    let victim = Victim::start(&mut causes, &["cat"]);
    victim.runs("cat");
    // To a thread, so that the kernel takes the second one, to the process, for a new signal.
    let killer = python(&format!("c.syscall(234, {0}, {0}, 9)", victim.pid()));
    until("it is a zombie", || is_dead(victim.instance()));
    sh(&format!("kill -9 {}", victim.pid()));
    let told = victim.told(&mut causes);
    assert_eq!(told, format!("SIGKILL by python3 (PID {killer}, root)"));
}

#[rstest]
#[case::to_a_thread("c.syscall(234, PID, PID, 15)", "SIGTERM by python3 (PID KILLER, root)")]
#[case::queued("c.sigqueue(PID, 15, None)", "SIGTERM by python3 (PID KILLER, root)")]
#[case::pidfd(
    "signal.pidfd_send_signal(os.pidfd_open(PID), 15)",
    "SIGTERM by python3 (PID KILLER, root)"
)]
#[case::to_the_group("os.killpg(PID, 15)", "SIGTERM by python3 (PID KILLER, root)")]
// As a timer's signal; but whoever sends it may say so. Who it was is not told, and nobody blamed.
#[case::in_disguise(
    "c.syscall(129, PID, 15, struct.pack('iii', 15, 0, -2) + bytes(116))",
    "SIGTERM"
)]
fn whoever_sends_a_signal_is_named(#[case] kill: &str, #[case] expected: &str) {
    let Some((mut causes, _execs)) = load() else { return };
    let victim = Victim::start(&mut causes, &["cat"]);
    victim.runs("cat");
    let killer = python(&kill.replace("PID", &victim.pid()));
    let told = victim.told(&mut causes);
    assert_eq!(told, expected.replace("KILLER", &killer.to_string()));
}

#[test]
fn a_thread_that_kills_has_the_name_of_its_process() {
    let Some((mut causes, _execs)) = load() else { return };
    let victim = Victim::start(&mut causes, &["cat"]);
    victim.runs("cat");
    let kill = format!(
        "t = threading.Thread(target=lambda: (c.prctl(15, b'other'), \
         os.kill({}, 9))); t.start(); t.join()",
        victim.pid()
    );
    let killer = python(&kill);
    let told = victim.told(&mut causes);
    assert_eq!(told, format!("SIGKILL by python3 (PID {killer}, root)"));
}

#[test]
fn time_of_all_threads_counts() {
    let Some((mut causes, _execs)) = load() else { return };
    // Hashing much at a time lets other threads run.
    let program = "import hashlib, threading\nblock = bytes(1 << 20)\ndef work():\n  \
                   while True: hashlib.sha256(block)\n\
                   for _ in range(32): threading.Thread(target=work, daemon=True).start()\n\
                   print('up', flush=True)\nwork()";
    let mut victim = Victim::start(&mut causes, &["/usr/bin/python3", "-c", program]);
    victim.says("up");
    let so_far = || {
        let process = procfs::process::Process::new(victim.instance().pid.0).unwrap();
        let stat = process.stat().unwrap();
        Duration::from_millis((stat.utime + stat.stime) * 10)
    };
    until("it has worked a while", || so_far() >= Duration::from_secs(1));
    let least = so_far();
    assert!(victim.held.signal(Signal(libc::SIGKILL)).unwrap());
    let (_, exit) = victim.end(&mut causes);
    let cpu = exit.cpu.unwrap();
    assert!(cpu.user + cpu.system + Duration::from_millis(20) >= least, "{cpu:?} of {least:?}");
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

/// Where memory cgroups are, and the kind of that file system; `None` where they cannot be made,
/// which is said.
fn memory_cgroups() -> Option<(&'static str, &'static str)> {
    let places = [("/sys/fs/cgroup/memory", "cgroup"), ("/sys/fs/cgroup", "cgroup2")];
    let found = places.into_iter().find(|(root, _)| {
        give_memory_below(Path::new(root));
        let probe = Cgroup::new(root, "healer-test-probe");
        probe.is_some_and(|probe| MEMORY_LIMITS.iter().any(|file| probe.0.join(file).exists()))
    });
    if found.is_none() {
        skip("no memory cgroup to write");
    }
    found
}

/// Version 2 gives the controller to children only where it is told to.
fn give_memory_below(cgroup: &Path) {
    let _ = std::fs::write(cgroup.join("cgroup.subtree_control"), "+memory");
}

const MEMORY_LIMITS: [&str; 2] = ["memory.limit_in_bytes", "memory.max"];

/// Lets a victim run out of memory in this cgroup, and tells what is said of its end.
fn out_of_memory(causes: &mut Causes, cgroup: &Cgroup) -> String {
    let above: Vec<_> = cgroup.0.ancestors().skip(1).collect();
    above.into_iter().rev().for_each(give_memory_below);
    // And it wants processes in the leaves only.
    cgroup.write("cgroup.subtree_control", "-memory");
    assert!(MEMORY_LIMITS.iter().any(|limit| cgroup.write(limit, "33554432")));
    // With swap, the limit alone would not do.
    for (limit, value) in [("memory.memsw.limit_in_bytes", "33554432"), ("memory.swap.max", "0")] {
        cgroup.write(limit, value);
    }
    let victim = Victim::park(&["/usr/bin/python3", "-c", "bytearray(256 << 20)"]);
    causes.watch(victim.instance()).unwrap();
    assert!(cgroup.write("cgroup.procs", &victim.pid()));
    victim.go().told(causes)
}

#[test]
fn an_oom_kill_is_told_with_its_cgroup() {
    let Some((mut causes, _execs)) = load() else { return };
    let Some((root, _)) = memory_cgroups() else { return };
    let outer = Cgroup::new(root, "healer-test-oom").unwrap();
    let inner = Cgroup::new(outer.0.to_str().unwrap(), "inner").unwrap();
    let told = out_of_memory(&mut causes, &inner);
    assert_eq!(told, format!("OOM-killed (in cgroup /{}/{})", outer.name(), inner.name()));
    // Each is told with its own, and the same one again.
    let path = format!("OOM-killed (in cgroup /{})", outer.name());
    drop(inner);
    assert_eq!(out_of_memory(&mut causes, &outer), path);
    assert_eq!(out_of_memory(&mut causes, &outer), path);
}

#[rstest]
#[case::deep("x", 20)]
#[case::long(&"long".repeat(20), 6)]
fn of_a_long_path_of_a_cgroup_the_end_is_told(#[case] name: &str, #[case] depth: usize) {
    let Some((mut causes, _execs)) = load() else { return };
    let Some((root, _)) = memory_cgroups() else { return };
    let mut nest = Nest(vec![Cgroup::new(root, "healer-test-long").unwrap()]);
    for _ in 0..depth {
        let child = Cgroup::new(nest.innermost().0.to_str().unwrap(), name).unwrap();
        nest.0.push(child);
    }
    let told = out_of_memory(&mut causes, nest.innermost());
    let path = nest.innermost().0.strip_prefix(root).unwrap().to_str().unwrap();
    let shown = told.strip_prefix("OOM-killed (in cgroup …/").and_then(|t| t.strip_suffix(')'));
    let shown = shown.unwrap_or_else(|| panic!("{told}"));
    assert!(path.ends_with(&format!("/{shown}")), "{shown} of {path}");
    assert!(shown.len() > 30, "{shown}");
}

/// Cgroups in each other, removed from within.
struct Nest(Vec<Cgroup>);

impl Nest {
    fn innermost(&self) -> &Cgroup {
        self.0.last().unwrap()
    }
}

impl Drop for Nest {
    fn drop(&mut self) {
        while self.0.pop().is_some() {}
    }
}

/// Set for the run of a test within a cgroup namespace of its own: where memory cgroups are there.
const CGROUPS_INSIDE: &str = "HEALER_TEST_CGROUPS";

#[test]
fn cgroups_have_their_paths_in_healers_cgroup_namespace() {
    if let Ok(root) = std::env::var(CGROUPS_INSIDE) {
        let (mut causes, _execs) = load().unwrap();
        let inner = Cgroup::new(&root, "inner").unwrap();
        return println!("\n{}", out_of_memory(&mut causes, &inner));
    }
    if load().is_none() {
        return;
    }
    let Some((root, kind)) = memory_cgroups() else { return };
    let outer = Cgroup::new(root, "healer-test-outer").unwrap();
    // To be moved to, before there is another one beside it.
    let own = Cgroup::new(outer.0.to_str().unwrap(), "own").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (outside, mounted) = (outer.0.to_str().unwrap(), dir.path().to_str().unwrap());
    let mount = match kind {
        "cgroup" => format!("mount -t cgroup -o memory none {mounted} &&"),
        _ => format!("mount -t cgroup2 none {mounted} &&"),
    };
    // What is nowhere mounted has no path from there.
    let beginnings =
        [("true &&", outside, format!("…/{}/", outer.name())), (&mount, mounted, "/".to_owned())];
    for (prepare, root, beginning) in beginnings {
        outer.write("cgroup.subtree_control", "-memory");
        let script = format!(
            "echo $$ > {outside}/cgroup.procs; exec unshare -Cm sh -c '\
             echo $$ > {}/cgroup.procs; {prepare} {CGROUPS_INSIDE}={root} exec {} --exact \
             cgroups_have_their_paths_in_healers_cgroup_namespace --nocapture'",
            own.0.display(),
            std::env::current_exe().unwrap().display(),
        );
        let mut inside = Victim::park(&["/bin/sh", "-c", &script]).go();
        inside.says(&format!("OOM-killed (in cgroup {beginning}inner-{})", inside.child.id()));
        assert!(inside.child.wait().unwrap().success());
    }
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
    let Some(Kernel { mut causes, meter, .. }) = load_with(Options::default()) else { return };
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
    assert_eq!(meter.read().runs_missed, 0);
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
    let options = Options { watched_max: 2, ..Options::default() };
    let Some(Kernel { mut causes, .. }) = load_with(options) else { return };
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
