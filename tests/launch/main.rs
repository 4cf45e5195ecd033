//! Launches real processes through the library, with the real binary as their stage.
//!
//! The test process is their parent and waits for none of them by itself: a [`Running`] ends and
//! reaps its own when it is dropped.

#![expect(clippy::unwrap_used, reason = "the helpers of tests panic as tests do")]

mod faults;
mod many;
mod output;
mod setup;

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use healer::config::check::{Environment, check};
use healer::config::{InheritEnv, Output, OutputFile, Process, Reader, RunAs};
use healer::event::{ProcessName, Signal};
use healer::instance::Held;
use healer::launch::{Baseline, LaunchError, Launcher, Staged};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{WaitId, WaitIdOptions, WaitIdStatus, waitid};
use tempfile::TempDir;
use tokio::time::Instant;

/// Longer than anything takes on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(20);
const KEEP_ALL: OutputFile = OutputFile { max_bytes: u64::MAX, keep: 3 };

/// A launcher and the directory it writes to.
struct Rig {
    launcher: Launcher,
    logs: TempDir,
}

impl Rig {
    fn new() -> Self {
        Self::given(Baseline::record().unwrap())
    }

    fn given(baseline: Baseline) -> Self {
        let logs = tempfile::tempdir().unwrap();
        let launcher = Launcher::new(baseline, logs.path()).with_stage(stage());
        Self { launcher, logs }
    }

    fn spawn(&self, process: &Process) -> Result<Spawned, LaunchError> {
        let staged = self.launcher.spawn(process)?;
        let child = Running(reopen(staged.held()));
        Ok(Spawned { staged, child })
    }

    async fn launch(&self, process: &Process) -> Result<Running, LaunchError> {
        self.spawn(process)?.go().await
    }

    /// Why it cannot be launched.
    async fn refusal(&self, process: &Process) -> String {
        self.launch(process).await.map(|_| ()).unwrap_err().to_string()
    }

    fn log(&self, name: &str) -> PathBuf {
        self.logs.path().join(format!("processes/{name}.log"))
    }

    fn logged(&self, name: &str) -> String {
        std::fs::read_to_string(self.log(name)).unwrap()
    }
}

/// A stage and the grip by which the test ends what becomes of it.
struct Spawned {
    staged: Staged,
    child: Running,
}

impl Spawned {
    async fn go(self) -> Result<Running, LaunchError> {
        let held = self.staged.go()?.executed(Instant::now() + PATIENCE).await?;
        assert_eq!(held.instance(), self.child.0.instance(), "the PID stays the same");
        Ok(self.child)
    }
}

fn stage() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_healer"))
}

fn reopen(held: &Held) -> Held {
    Held::open_exactly(held.instance()).unwrap().expect("nobody has reaped it")
}

/// A child of this test, ended and reaped when dropped.
struct Running(Held);

impl Running {
    fn pid(&self) -> i32 {
        self.0.instance().pid.0
    }

    fn proc(&self, file: &str) -> String {
        String::from_utf8_lossy(&std::fs::read(self.path(file)).unwrap()).into_owned()
    }

    fn path(&self, file: &str) -> PathBuf {
        Path::new("/proc").join(self.pid().to_string()).join(file)
    }

    /// A field of `/proc/PID/status`.
    fn status(&self, field: &str) -> String {
        field_of(&self.proc("status"), field)
    }

    fn environment(&self) -> BTreeMap<String, String> {
        let environment = self.proc("environ");
        let variables = environment.split_terminator('\0');
        variables.map(|variable| variable.split_once('=').unwrap()).map(own).collect()
    }

    /// Waits for its end and says how it came.
    fn end(&self) -> WaitIdStatus {
        let patience = Timespec { tv_sec: 20, tv_nsec: 0 };
        let ended = poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&patience)).unwrap();
        assert_eq!(ended, 1, "PID {} ends in time", self.pid());
        waitid(WaitId::PidFd(self.0.as_fd()), WaitIdOptions::EXITED).unwrap().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.signal(Signal(libc::SIGKILL));
        let _ = waitid(WaitId::PidFd(self.0.as_fd()), WaitIdOptions::EXITED);
    }
}

fn own((name, value): (&str, &str)) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

fn field_of(text: &str, field: &str) -> String {
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.expect("the field is there").split_whitespace().collect::<Vec<_>>().join(" ")
}

/// An entry that runs this command line as healer itself, its output in a file.
fn process(name: &str, command: &[&str]) -> Process {
    let text = b"processes: [{name: it, command: /it, monitor: {type: ebpf}, output: 'null'}]";
    let checked = check(text, &Environment::new(), &Reader::default()).unwrap();
    let defaults = Process::clone(&checked.config.processes[0]);
    Process {
        name: ProcessName::new(name),
        command: Some(PathBuf::from(command[0])),
        args: command[1..].iter().map(ToString::to_string).collect(),
        run_as: RunAs::Healer,
        inherit_env: InheritEnv::Nothing,
        output: Output::File(KEEP_ALL),
        ..defaults
    }
}

fn sleeper(name: &str) -> Process {
    process(name, &["/bin/sleep", "1000"])
}

fn as_user(process: Process, user: &str, group: Option<&str>) -> Process {
    let group = group.map(ToOwned::to_owned);
    Process { run_as: RunAs::User { user: user.to_owned(), group }, ..process }
}

/// Runs in a thread with a descriptor table of its own, which no other test's child is given a
/// copy of, and which can be filled without harm to others.
fn alone<T: Send + 'static>(test: impl AsyncFnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_FILES).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test())
    });
    thread.join().unwrap()
}

/// Whether the test may go on: it needs root.
fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        assert!(std::env::var_os("HEALER_TESTS_MUST_RUN").is_none(), "this test needs root");
        eprintln!("skipped: this test needs root");
    }
    root
}
