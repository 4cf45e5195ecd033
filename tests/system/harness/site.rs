//! A test's own corner of the machine: a directory, the configuration in it, and everything that
//! was started there, ended when the test is over, however it ends.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;
use std::{iter, thread};

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::notify::Notify;
use super::{DEADLINE, Living, Service, eventually_some, kill, living};

/// The daemon that is tested: this build's, or the one that `HEALER_UNDER_TEST` names.
fn daemon() -> PathBuf {
    std::env::var_os("HEALER_UNDER_TEST")
        .map_or_else(|| env!("CARGO_BIN_EXE_healer").into(), PathBuf::from)
}

/// The guarded program, `tests/service`.
pub fn program() -> PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_healer")).with_file_name("examples/service");
    assert!(program.exists(), "{} is missing: cargo build --examples", program.display());
    program
}

/// A command, with nothing of healer's in its environment.
#[expect(clippy::disallowed_methods, reason = "tests run beside the daemon and wait for their own")]
pub fn command(program: impl AsRef<Path>) -> Command {
    let mut command = Command::new(program.as_ref());
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("HEALER_") || ["NOTIFY_SOCKET", "RUST_LOG"].contains(&&*name) {
            command.env_remove(&*name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// The same command as the last words of another one, as of unshare(1).
pub fn within(outer: &[&str], inner: &Command) -> Command {
    let mut command = command(outer[0]);
    command.args(&outer[1..]).arg(inner.get_program()).args(inner.get_args());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    if let Some(dir) = inner.get_current_dir() {
        command.current_dir(dir);
    }
    command
}

/// Runs a line of shell to its end, and tells which PID the shell had.
pub fn sh(line: &str) -> u32 {
    let mut shell = command("/bin/sh").args(["-c", line]).spawn().unwrap();
    assert!(super::wait(&mut shell).success(), "{line}");
    shell.id()
}

/// Runs a command that is to end by itself.
pub fn run(command: &mut Command) -> Output {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (sender, output) = mpsc::channel();
    thread::spawn(move || sender.send(child.wait_with_output().unwrap()));
    output.recv_timeout(DEADLINE).expect("it ends, and nobody keeps its output open")
}

/// Whether the tests, and so healer, run as root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether eBPF is in this build and works; if not, says that a test of it is skipped.
pub fn has_ebpf() -> bool {
    if cfg!(not(feature = "ebpf")) {
        eprintln!("skipped: eBPF is not in this build");
        return false;
    }
    if !is_root() {
        skip("eBPF needs root");
        return false;
    }
    true
}

/// Says why a test is skipped; with `HEALER_TESTS_MUST_RUN=1` that is a failure.
pub fn skip(why: &str) {
    let must_run = std::env::var_os("HEALER_TESTS_MUST_RUN").is_some_and(|value| value == "1");
    assert!(!must_run, "cannot run: {why}");
    eprintln!("skipped: {why}");
}

/// A directory whose path no other process names, so that it tells the test's processes apart.
pub struct Site {
    dir: TempDir,
    pub notify: Notify,
}

impl Site {
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("healer-").tempdir().unwrap();
        // Services that run as somebody else come here too.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let notify = Notify::bind(dir.path().join("notify"));
        Self { dir, notify }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// An executable shell script with these lines.
    pub fn script(&self, lines: &str) -> PathBuf {
        let script = self.file("start.sh");
        fs::write(&script, format!("#!/bin/sh\n{lines}")).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        script
    }

    pub fn service(&self, name: &str) -> Service {
        Service::new(self, name)
    }

    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        self.file("config.yaml")
    }

    /// Replaces the configuration by one of these services. (JSON is YAML.)
    pub fn configure<'a>(&self, services: impl IntoIterator<Item = &'a Service>) {
        let entries: Vec<Value> = services.into_iter().map(Service::entry).collect();
        let config = json!({
            "log_level": "debug",
            "log_format": "json",
            "log_directory": self.file("log"),
            "pid_file_directory": self.file("run"),
            "working_directory": self.path(),
            "processes": entries,
        });
        self.write_config(&serde_json::to_string_pretty(&config).unwrap());
    }

    /// Replaces the configuration by this text, as editors do: beside, then renamed.
    pub fn write_config(&self, text: &str) {
        let beside = self.file("config.new");
        fs::write(&beside, text).unwrap();
        fs::rename(beside, self.config()).unwrap();
    }

    /// healer with these arguments and this site's configuration, to which the caller adds.
    pub fn healer(&self, arguments: &[&str]) -> Command {
        self.healer_from(&daemon(), arguments)
    }

    /// The same, run from this file.
    pub fn healer_from(&self, daemon: &Path, arguments: &[&str]) -> Command {
        let mut command = command(daemon);
        command
            .args(arguments)
            .arg("-c")
            .arg(self.config())
            .env("NOTIFY_SOCKET", self.notify.path());
        command.current_dir(self.path());
        command
    }

    /// Starts the service's program as an administrator would, and waits for its journal.
    pub fn start_by_hand(&self, service: &Service) -> Living {
        let before = service.starts().len();
        let mut child = command(program())
            .args(service.words())
            .arg("--setsid")
            .current_dir(self.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // Whoever dies is reaped at once, as a shell does.
        thread::spawn(move || child.wait());
        eventually_some("the service started by hand runs", || {
            Living::read(service.starts().get(before)?.pid)
        })
    }

    /// Everything alive that belongs here.
    pub fn living(&self) -> Vec<Living> {
        let own = i32::try_from(std::process::id()).unwrap();
        living().filter(|process| process.pid != own && process.is_of(self.path())).collect()
    }

    /// The daemons of this site that run now, stages not counted.
    pub fn daemons(&self) -> Vec<Living> {
        self.living().into_iter().filter(|process| process.has(self.config())).collect()
    }

    /// What every daemon of this site has said, daemonised or not.
    pub fn log_text(&self) -> String {
        let daily = fs::read_dir(self.file("log")).into_iter().flatten();
        let daily = daily.filter_map(|entry| entry.ok().map(|entry| entry.path()));
        iter::once(self.file("healer.stderr"))
            .chain(daily)
            .filter_map(|path| fs::read(path).ok())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .collect()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- healer said:\n{}", self.log_text());
        }
        // First those who would start others. A launch may be under way: look until all is quiet.
        let mut quiet = 0;
        for _ in 0..2000 {
            let (daemons, all) = (self.daemons(), self.living());
            let doomed = if daemons.is_empty() { all } else { daemons };
            quiet = if doomed.is_empty() { quiet + 1 } else { 0 };
            if quiet == 3 {
                return;
            }
            for process in doomed {
                kill(&process, Signal::KILL);
            }
            thread::sleep(Duration::from_millis(5));
        }
        eprintln!("still alive: {:?}", self.living());
    }
}
