//! What healer costs programs that are none of its business: how long a start, an exec and an exit of
//! one take, without healer and beside one that guards a process by eBPF, in turns; how often that
//! healer was woken meanwhile; and how long the kernel side took of it, by the kernel's own count.
//!
//! `cargo bench --bench unrelated [-- ROUNDS]`. Needs a C compiler, and root for eBPF.

#![expect(clippy::unwrap_used, reason = "a measurement that fails has nothing to tell")]
#![expect(clippy::disallowed_methods, reason = "nothing else waits for children here")]

use std::ffi::CString;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, posix_spawn};
use nix::sys::wait::waitpid;

/// How many programs one turn starts.
const TURN: usize = 500;
/// The kernel side's, by what they are run at.
const PROGRAMS: [&str; 4] = ["exec", "signal", "OOM", "exit"];
/// Switched on for the time of the measurement, where that is permitted.
const STATISTICS: &str = "/proc/sys/kernel/bpf_stats_enabled";

fn main() {
    let rounds = std::env::args().skip(1).find_map(|word| word.parse().ok()).unwrap_or(20);
    let site = tempfile::tempdir_in(".").unwrap();
    let dir = fs::canonicalize(site.path()).unwrap();
    let program = compile(&dir);
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    let (mut woken, mut ticks) = (0, 0);
    let mut runs = PROGRAMS.map(|_| Runs::default());
    spawn(&program, TURN);
    for _ in 0..rounds {
        alone.extend(spawn(&program, TURN));
        let healer = Healer::start(&dir);
        let before = healer.activity();
        beside.extend(spawn(&program, TURN));
        let after = healer.activity();
        woken += after.0 - before.0;
        ticks += after.1 - before.1;
        // Apart, as counting takes its time too.
        for (sum, run) in runs.iter_mut().zip(healer.kernel_side(|| drop(spawn(&program, TURN)))) {
            (sum.count, sum.nanos) = (sum.count + run.count, sum.nanos + run.nanos);
        }
    }
    let programs = rounds * TURN;
    println!("start, exec and exit of a static program, {programs} of each");
    report("without", &mut alone);
    report("with healer", &mut beside);
    println!("  healer was woken {woken} times, and took {ticks} clock ticks of CPU");
    for (name, Runs { count, nanos }) in PROGRAMS.iter().zip(&runs) {
        if let Some(each) = nanos.checked_div(*count) {
            println!("  the kernel side: {count} runs at {name}, {each} ns each");
        }
    }
    if runs.iter().all(|run| run.count == 0) {
        println!("  the kernel does not tell how long its side took: not root, or no eBPF");
    }
}

fn report(what: &str, times: &mut [Duration]) {
    times.sort_unstable();
    let micros = |percent: usize| times[(times.len() - 1) * percent / 100].as_secs_f64() * 1e6;
    println!(
        "  {what:12} p10 {:6.1} µs   p50 {:6.1} µs   p90 {:6.1} µs",
        micros(10),
        micros(50),
        micros(90)
    );
}

fn compile(dir: &Path) -> PathBuf {
    let program = dir.join("unrelated");
    let mut cc = Command::new("cc");
    cc.args(["-O2", "-static", "-x", "c", "-", "-o"]).arg(&program).stdin(Stdio::piped());
    let mut cc = cc.spawn().unwrap();
    cc.stdin.take().unwrap().write_all(b"int main(void) { return 0; }\n").unwrap();
    assert!(cc.wait().unwrap().success(), "cc cannot compile the program");
    program
}

/// Starts the program so many times, and tells how long each took until it was reaped.
fn spawn(program: &Path, count: usize) -> Vec<Duration> {
    let actions = PosixSpawnFileActions::init().unwrap();
    let attributes = PosixSpawnAttr::init().unwrap();
    let arguments = [CString::new(program.as_os_str().as_bytes()).unwrap()];
    let none: [CString; 0] = [];
    let one = || {
        let began = Instant::now();
        let child = posix_spawn(program, &actions, &attributes, &arguments, &none).unwrap();
        waitpid(child, None).unwrap();
        began.elapsed()
    };
    std::iter::repeat_with(one).take(count).collect()
}

/// What one program of the kernel side did.
#[derive(Default)]
struct Runs {
    count: u64,
    nanos: u64,
}

/// A healer that guards one `sleep`.
struct Healer(Child);

impl Healer {
    fn start(dir: &Path) -> Self {
        let (config, shown) = (dir.join("config.yaml"), dir.display());
        let root = rustix::process::geteuid().is_root();
        let text = format!(
            "log_level: error\nlog_directory: {shown}\npid_file_directory: {shown}/run\nprocesses:\n  \
             - name: guarded\n    command: /bin/sleep\n    args: [\"86399\"]\n    \
             run_as_root: {root}\n    output: \"null\"\n    monitor: {{type: ebpf}}\n"
        );
        fs::write(&config, text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_healer"));
        let healer = Self(command.arg("--foreground").arg("-c").arg(config).spawn().unwrap());
        // All that its start set off is over once it has slept for a while.
        let mut last = healer.activity();
        loop {
            sleep(Duration::from_millis(300));
            let now = healer.activity();
            if now == last && last.0 > 0 {
                return healer;
            }
            last = now;
        }
    }

    /// How often its threads were put to sleep, and its CPU time in clock ticks.
    fn activity(&self) -> (u64, u64) {
        let process = procfs::process::Process::new(self.0.id().cast_signed()).unwrap();
        let threads = process.tasks().unwrap().filter_map(|thread| thread.unwrap().status().ok());
        let sleeps = threads.filter_map(|status| status.voluntary_ctxt_switches).sum();
        let stat = process.stat().unwrap();
        (sleeps, stat.utime + stat.stime)
    }

    /// What its programs in the kernel did during `work`; nothing where that is not counted.
    fn kernel_side(&self, work: impl FnOnce()) -> Vec<Runs> {
        if fs::write(STATISTICS, "1").is_err() {
            return vec![];
        }
        let before = self.runs();
        work();
        let mut after = self.runs();
        fs::write(STATISTICS, "0").unwrap();
        for (run, before) in after.iter_mut().zip(before) {
            (run.count, run.nanos) = (run.count - before.count, run.nanos - before.nanos);
        }
        after
    }

    /// In the order of [`PROGRAMS`], in which healer loads them.
    fn runs(&self) -> Vec<Runs> {
        let dir = PathBuf::from(format!("/proc/{}/fdinfo", self.0.id()));
        let descriptors = fs::read_dir(&dir).unwrap();
        let mut descriptors: Vec<u32> = descriptors
            .map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap())
            .collect();
        descriptors.sort_unstable();
        let run = |descriptor: u32| {
            let info = fs::read_to_string(dir.join(descriptor.to_string())).ok()?;
            let number = |name| {
                let value = info.lines().find_map(|line| line.strip_prefix(name));
                value.and_then(|value| value.trim().parse().ok())
            };
            Some(Runs { count: number("run_cnt:")?, nanos: number("run_time_ns:")? })
        };
        descriptors.into_iter().filter_map(run).collect()
    }
}

impl Drop for Healer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
