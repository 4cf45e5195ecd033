//! `healer demo` as a user runs it: in a pipe, without rights, interrupted at any moment.
//!
//! Each test gives it a temporary directory of its own. The services' arguments name that
//! directory, so that a process left behind is found by its command line.

#![expect(clippy::disallowed_methods, reason = "no reaper is at work in this process")]
#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use healer::event::{Pid, Signal};
use healer::instance::Held;
use tempfile::TempDir;

const HEALER: &str = env!("CARGO_BIN_EXE_healer");
const NOBODY: u32 = 65534;

/// A demo under way.
struct Demo {
    directory: TempDir,
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Demo {
    fn command(binary: &Path, directory: &TempDir) -> Command {
        let mut command = Command::new(binary);
        command.arg("demo").env("TMPDIR", directory.path()).env("TERM", "xterm");
        command.env_remove("NO_COLOR").stdin(Stdio::null());
        command
    }

    fn start(binary: &Path, directory: TempDir, change: impl FnOnce(&mut Command)) -> Self {
        let mut command = Self::command(binary, &directory);
        command.stdout(Stdio::piped());
        change(&mut command);
        let mut child = command.spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { directory, child, output }
    }

    fn started() -> Self {
        Self::start(Path::new(HEALER), tempfile::tempdir().unwrap(), |_| ())
    }

    /// Reads on until a line has this in it.
    fn told(&mut self, text: &str) {
        let mut line = String::new();
        while !line.contains(text) {
            line.clear();
            assert_ne!(self.output.read_line(&mut line).unwrap(), 0, "the demo ended too early");
        }
    }

    fn signal(&self, signal: i32) {
        let pid = Pid(self.child.id().cast_signed());
        assert!(Held::open(pid).unwrap().unwrap().signal(Signal(signal)).unwrap());
    }

    fn ended_within(&mut self, limit: Duration) -> ExitStatus {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            if Instant::now() >= deadline {
                let _ = self.child.kill();
                panic!("the demo still runs after {limit:?}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The services that its directory is named by.
    fn services(&self) -> Vec<String> {
        let token = self.directory.path().as_os_str().as_encoded_bytes();
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let lines = processes.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
        let named = lines.filter(|line| line.windows(token.len()).any(|part| part == token));
        named.map(|line| String::from_utf8_lossy(&line).replace('\0', " ")).collect()
    }

    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.directory.path()).unwrap().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| name.starts_with("healer-demo-")).collect()
    }

    fn left_nothing(&self) {
        assert_eq!(self.services(), [""; 0]);
        assert_eq!(self.files(), [""; 0]);
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn tells_its_story(mut demo: Demo) {
    let mut text = String::new();
    demo.output.read_to_string(&mut text).unwrap();
    let status = demo.ended_within(Duration::from_secs(1));
    assert!(status.success(), "{status}\n{text}");
    assert!(!text.contains('\x1b'), "escape codes in a pipe:\n{text}");
    // The length of a path is not the demo's.
    let untidy = |line: &str| line.ends_with(' ') || !line.contains('/') && line.len() > 80;
    assert!(!text.lines().any(untidy), "{text}");
    for part in [
        "SIGKILL",
        "SIGTERM",
        "SIGSEGV",
        "exit code 3",
        "breaker Open after 3 failures",
        "the trial failed: breaker Open",
        "the trial lives and is ready: breaker Closed",
        "29 deaths, 29 restarts, none started twice",
        "median",
    ] {
        assert!(text.contains(part), "no \"{part}\" in:\n{text}");
    }
    demo.left_nothing();
}

#[test]
fn the_demo_tells_its_story_within_20_s_and_leaves_nothing() {
    let began = Instant::now();
    tells_its_story(Demo::started());
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[test]
fn the_demo_is_coloured_on_a_terminal() {
    let terminal = nix::pty::openpty(None, None).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let mut command = Demo::command(Path::new(HEALER), &directory);
    let child = command.stdout(terminal.slave).spawn().unwrap();
    let mut demo = Demo { directory, child, output: BufReader::new(terminal.master.into()) };
    demo.told("\x1b[32m");
    demo.signal(libc::SIGTERM);
    demo.ended_within(Duration::from_secs(3));
    demo.left_nothing();
}

#[test]
fn the_demo_needs_no_rights() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: not root, so that every other test runs the demo without rights");
        assert_ne!(std::env::var_os("HEALER_TESTS_MUST_RUN"), Some("1".into()), "not root");
        return;
    }
    // Neither the build's directory nor root's temporary one need be open to others.
    let directory = tempfile::Builder::new()
        .permissions(fs::Permissions::from_mode(0o700))
        .tempdir_in("/tmp")
        .unwrap();
    chown(directory.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    let binary = directory.path().join("healer");
    fs::copy(HEALER, &binary).unwrap();
    tells_its_story(Demo::start(&binary.clone(), directory, |command| {
        command.uid(NOBODY).gid(NOBODY).current_dir("/");
    }));
}

#[test]
fn a_stopped_demo_says_so_and_leaves_nothing() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        let mut demo = Demo::started();
        demo.told("runs as PID");
        assert_ne!(demo.services(), [""; 0], "what would be left is not recognised");
        demo.signal(signal);
        assert_eq!(demo.ended_within(Duration::from_secs(3)).code(), Some(71));
        demo.left_nothing();
    }
}

#[test]
fn a_demo_that_nobody_reads_ends_and_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut demo = Demo::start(Path::new(HEALER), directory, |command| {
        command.stderr(Stdio::null());
    });
    demo.told("runs as PID");
    let (_, closed) = std::io::pipe().map(|(read, write)| (write, read)).unwrap();
    demo.output = BufReader::new(std::os::fd::OwnedFd::from(closed).into());
    assert_eq!(demo.ended_within(Duration::from_secs(3)).code(), Some(71));
    demo.left_nothing();
}

#[test]
fn a_killed_demo_takes_its_services_along() {
    let mut demo = Demo::started();
    demo.told("kill -TERM");
    demo.signal(libc::SIGKILL);
    demo.ended_within(Duration::from_secs(1));
    let deadline = Instant::now() + Duration::from_secs(2);
    while !demo.services().is_empty() {
        assert!(Instant::now() < deadline, "left behind: {:?}", demo.services());
        std::thread::sleep(Duration::from_millis(5));
    }
}
