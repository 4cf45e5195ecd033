//! How long from a kill to the new instance's first instruction: the daemon, watching by `pid` and
//! by `ebpf`, beside the floor, a bare loop of posix_spawn(3) and waitpid(2) in a process of its
//! own. Each kills a copy of the same static program; all take turns in one run, so that they meet the
//! same machine.
//!
//! `cargo bench --bench recovery [-- ROUNDS]`. Needs a C compiler.

#![expect(clippy::unwrap_used, reason = "a measurement that fails has nothing to tell")]
#![expect(clippy::disallowed_methods, reason = "nothing else waits for children here")]

use std::ffi::CString;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use healer::clock;
use healer::event::{Pid, Signal, Time};
use healer::instance::Held;
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, posix_spawn};
use nix::sys::wait::waitpid;

const WARM_UP: usize = 20;
/// How long an instance is left alone before it is killed: all that its start set off is over.
const REST: Duration = Duration::from_millis(5);

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [mode, program, fifo] = words.as_slice()
        && mode == "floor"
    {
        floor(program, fifo);
    }
    let rounds = words.iter().find_map(|word| word.parse().ok()).unwrap_or(300);
    let site = tempfile::tempdir_in(".").unwrap();
    let victim = compile(site.path());
    let mut rivals = [
        Rival::floor(site.path(), &victim),
        Rival::healer(site.path(), &victim, "ebpf"),
        Rival::healer(site.path(), &victim, "pid"),
    ];
    for round in 0..rounds + WARM_UP {
        for rival in &mut rivals {
            rival.kill_once(round >= WARM_UP);
        }
    }
    println!("kill to first instruction, {rounds} rounds");
    let floor = rivals[0].percentiles();
    for rival in &mut rivals {
        let name = rival.name;
        let [p50, p90, p99] = rival.percentiles();
        let times = p50 / floor[0];
        println!(
            "  {name:12} p50 {p50:7.0} µs ({times:4.2} x floor)   p90 {p90:7.0}   p99 {p99:7.0}"
        );
    }
}

/// A supervisor of the simplest kind, for ever.
fn floor(program: &str, fifo: &str) -> ! {
    let path = Path::new(program);
    let arguments = [CString::new(program).unwrap(), CString::new(fifo).unwrap()];
    let actions = PosixSpawnFileActions::init().unwrap();
    let attributes = PosixSpawnAttr::init().unwrap();
    loop {
        let none: [CString; 0] = [];
        let child = posix_spawn(path, &actions, &attributes, &arguments, &none).unwrap();
        waitpid(child, None).unwrap();
    }
}

fn compile(site: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/victim.c");
    let victim = fs::canonicalize(site).unwrap().join("victim");
    let status =
        Command::new("cc").args(["-O2", "-static", "-o"]).arg(&victim).arg(source).status();
    assert!(status.unwrap().success(), "cc cannot compile the victim");
    victim
}

/// A supervisor with its victim.
struct Rival {
    name: &'static str,
    supervisor: Child,
    fifo: File,
    victim: Held,
    times: Vec<f64>,
}

impl Rival {
    fn floor(site: &Path, victim: &Path) -> Self {
        let (fifo, victim) = (fifo(site, "floor"), copy(site, victim, "floor"));
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg("floor").arg(victim).arg(&fifo);
        Self::start("floor", command, &fifo)
    }

    fn healer(site: &Path, victim: &Path, monitor: &'static str) -> Self {
        let (fifo, victim) = (fifo(site, monitor), copy(site, victim, monitor));
        let home = fs::canonicalize(site).unwrap().join(format!("{monitor}.d"));
        fs::create_dir(&home).unwrap();
        let config = home.join("config.yaml");
        let (home, root) = (home.display(), rustix::process::geteuid().is_root());
        let monitor_of = match monitor {
            "pid" => format!("{{type: pid, pid_file_path: {home}/victim.pid}}"),
            kind => format!("{{type: {kind}}}"),
        };
        let pid_file =
            if monitor == "pid" { format!(", {home}/victim.pid") } else { String::new() };
        let text = format!(
            "log_level: error\nlog_directory: {home}\npid_file_directory: {home}\nprocesses:\n  - \
             name: victim\n    command: {}\n    args: [{}{pid_file}]\n    run_as_root: {root}\n    \
             output: \"null\"\n    monitor: {monitor_of}\n    recovery: {{retries: 100000}}\n",
            victim.display(),
            fifo.display(),
        );
        fs::write(&config, text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_healer"));
        command.arg("--foreground").arg("-c").arg(config);
        Self::start(monitor, command, &fifo)
    }

    fn start(name: &'static str, mut command: Command, fifo: &Path) -> Self {
        let supervisor = command.stdin(Stdio::null()).spawn().unwrap();
        // Both ends, so that it never comes to its end between two victims.
        let mut fifo = File::options().read(true).write(true).open(fifo).unwrap();
        let (pid, _) = hear(&mut fifo);
        let victim = Held::open(pid).unwrap().unwrap();
        Self { name, supervisor, fifo, victim, times: Vec::new() }
    }

    fn kill_once(&mut self, counts: bool) {
        std::thread::sleep(REST);
        let killed = clock::now();
        self.victim.signal(Signal(libc::SIGKILL)).unwrap();
        let (pid, began) = hear(&mut self.fifo);
        if counts {
            self.times.push(began.since(killed).as_secs_f64() * 1e6);
        }
        self.victim = Held::open(pid).unwrap().unwrap();
    }

    fn percentiles(&mut self) -> [f64; 3] {
        self.times.sort_by(f64::total_cmp);
        [50, 90, 99].map(|percent| self.times[(self.times.len() - 1) * percent / 100])
    }
}

impl Drop for Rival {
    fn drop(&mut self) {
        // The supervisor first: it would bring its victim back.
        let _ = self.supervisor.kill();
        let _ = self.supervisor.wait();
        let _ = self.victim.signal(Signal(libc::SIGKILL));
    }
}

fn fifo(site: &Path, name: &str) -> PathBuf {
    let path = fs::canonicalize(site).unwrap().join(format!("{name}.fifo"));
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_retain(0o600)).unwrap();
    path
}

/// A file of each rival's own: every start of the file that it guards wakes the ebpf monitor, which
/// else would disturb the others.
fn copy(site: &Path, victim: &Path, name: &str) -> PathBuf {
    let path = fs::canonicalize(site).unwrap().join(format!("{name}-victim"));
    fs::copy(victim, &path).unwrap();
    path
}

/// A victim's first word: who it is, and when it began.
fn hear(fifo: &mut File) -> (Pid, Time) {
    let mut word = [0; 16];
    fifo.read_exact(&mut word).unwrap();
    let [pid, began] = [0, 8].map(|at| i64::from_ne_bytes(word[at..at + 8].try_into().unwrap()));
    (Pid(i32::try_from(pid).unwrap()), Time(u64::try_from(began).unwrap()))
}
