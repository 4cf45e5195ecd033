//! The guarded program of the system tests: behaves as its options say, and leaves witnesses.
//!
//! Each start appends one line `PID BOOTTIME_NS alone|beside` to its `--journal`; `beside` says
//! that another instance still held the journal's lock, so two were alive at one time. Started by
//! `tests/system`, through healer or by hand.

#![expect(unsafe_code, reason = "forks, and ends single threads, as only a test program should")]
#![expect(clippy::unwrap_used, reason = "a test program fails by panicking")]

mod dump;
mod web;

use std::fs::{self, File};
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use std::{env, thread};

use nix::sys::signal::{SigHandler, Signal, raise, signal};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork, getpid, setsid};
use rustix::fs::{FlockOperation, flock};
use rustix::time::{ClockId, clock_gettime};

/// What it does; options that are not given do nothing.
#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "one for each switch of the command line")]
struct Options {
    /// `--journal FILE`: the witness of every start.
    journal: Option<PathBuf>,
    /// `--start-after MS`: is slow to start.
    start_after: Duration,
    /// `--exit CODE`: ends by itself.
    exit: Option<u8>,
    /// `--raise SIGNAL`: sends that to itself.
    raise: Option<Signal>,
    /// `--take MIB`: takes so much memory as it starts.
    take: usize,
    /// `--hog`: takes memory until there is none.
    hog: bool,
    /// `--after MS`: how long it lives before `--exit`, `--raise` or `--hog`.
    after: Duration,
    /// `--until FILE`: it lives so long before these.
    until: Option<PathBuf>,
    /// `--exit-unless FILE`: exits 1 at once where there is no such file.
    exit_unless: Option<PathBuf>,
    /// `--exit-on-term`: exits 0 when it is sent SIGTERM.
    exit_on_term: bool,
    /// `--pid-file PATH`: written beside and renamed.
    pid_file: Option<PathBuf>,
    /// `--pid-file-in-place`: written into the file itself.
    pid_file_in_place: bool,
    /// `--pid-file-after MS`: written so late.
    pid_file_after: Duration,
    /// `--daemonize`: fork, setsid, fork; both parents exit 0.
    daemonize: bool,
    /// `--fork`: fork once; the parent exits 0, the child stays in the session.
    fork: bool,
    /// `--setsid`: leads a session of its own, as a daemon that someone started by hand does.
    setsid: bool,
    /// `--listen PORT`: on 127.0.0.1, without SO_REUSEADDR's cousins; exits 98 where it is taken.
    listen: Option<u16>,
    /// `--web PORT`: answers HTTP on 127.0.0.1, as the file of `--web-says` tells; exits 98 where
    /// the port is taken.
    web: Option<u16>,
    /// `--web-says FILE`: a status instead of 200, `slow` or `hang`.
    web_says: Option<PathBuf>,
    /// `--web-after MS`: the port is opened so late.
    web_after: Duration,
    /// `--needs PORT`: exits 97 where nothing answers there.
    needs: Vec<u16>,
    /// `--workers N`: forked children that hold whatever it holds, and live until killed.
    workers: u32,
    /// `--ignore-term`: SIGTERM does nothing to it and its workers.
    ignore_term: bool,
    /// `--leader-exits`: the main thread ends, another lives on.
    leader_exits: bool,
    /// `--orphans N`: leaves so many short-lived orphans behind, as fast as it can.
    orphans: u32,
    /// `--dump FILE`: what it was given, as JSON.
    dump: Option<PathBuf>,
}

impl Options {
    fn parse() -> Self {
        let mut options = Self::default();
        let mut words = env::args().skip(1);
        while let Some(word) = words.next() {
            let mut value = || words.next().unwrap();
            let millis = |text: String| Duration::from_millis(text.parse().unwrap());
            match word.as_str() {
                "--journal" => options.journal = Some(value().into()),
                "--start-after" => options.start_after = millis(value()),
                "--exit" => options.exit = Some(value().parse().unwrap()),
                "--raise" => options.raise = Some(value().parse().unwrap()),
                "--take" => options.take = value().parse().unwrap(),
                "--hog" => options.hog = true,
                "--until" => options.until = Some(value().into()),
                "--exit-unless" => options.exit_unless = Some(value().into()),
                "--exit-on-term" => options.exit_on_term = true,
                "--after" => options.after = millis(value()),
                "--pid-file" => options.pid_file = Some(value().into()),
                "--pid-file-in-place" => options.pid_file_in_place = true,
                "--pid-file-after" => options.pid_file_after = millis(value()),
                "--daemonize" => options.daemonize = true,
                "--fork" => options.fork = true,
                "--setsid" => options.setsid = true,
                "--listen" => options.listen = Some(value().parse().unwrap()),
                "--web" => options.web = Some(value().parse().unwrap()),
                "--web-says" => options.web_says = Some(value().into()),
                "--web-after" => options.web_after = millis(value()),
                "--needs" => options.needs.push(value().parse().unwrap()),
                "--workers" => options.workers = value().parse().unwrap(),
                "--ignore-term" => options.ignore_term = true,
                "--leader-exits" => options.leader_exits = true,
                "--orphans" => options.orphans = value().parse().unwrap(),
                "--dump" => options.dump = Some(value().into()),
                // Tells instances of one command apart in /proc.
                "--tag" => drop(value()),
                other => panic!("unknown option {other}"),
            }
        }
        options
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    thread::sleep(options.start_after);
    // The runtime's handler looks for a stack overflow first, and survives one `kill -SEGV`.
    // SAFETY: SIG_DFL runs no handler.
    unsafe { signal(Signal::SIGSEGV, SigHandler::SigDfl) }.unwrap();
    if options.daemonize {
        leave_parent();
        setsid().unwrap();
        leave_parent();
    }
    if options.fork {
        leave_parent();
    }
    if options.setsid {
        setsid().unwrap();
    }
    for _ in 0..options.take {
        take();
    }
    // Held until the last process that inherited it is gone.
    let _lock = options.journal.as_deref().map(witness);
    // Nobody may be reading any more.
    let _ = writeln!(std::io::stdout(), "started {}", getpid());
    if options.exit_unless.is_some_and(|file| !file.exists()) {
        return ExitCode::FAILURE;
    }
    if options.exit_on_term {
        // SAFETY: the handler only calls _exit(2), which a handler may.
        unsafe { signal(Signal::SIGTERM, SigHandler::Handler(exit_0)) }.unwrap();
    }
    if options.ignore_term {
        // SAFETY: SIG_IGN runs no handler.
        unsafe { signal(Signal::SIGTERM, SigHandler::SigIgn) }.unwrap();
    }
    if options.needs.iter().any(|port| TcpStream::connect(("127.0.0.1", *port)).is_err()) {
        return ExitCode::from(97);
    }
    let listener = match options.listen.map(|port| TcpListener::bind(("127.0.0.1", port))) {
        Some(Err(_)) => return ExitCode::from(98),
        Some(Ok(listener)) => Some(listener),
        None => None,
    };
    for _ in 0..options.workers {
        if fork_child() {
            sleep_forever();
        }
    }
    if let Some(path) = &options.pid_file {
        thread::sleep(options.pid_file_after);
        write_pid_file(path, options.pid_file_in_place);
    }
    if let Some(path) = &options.dump {
        dump::write(path);
    }
    for _ in 0..options.orphans {
        leave_orphan();
    }
    if let Some(listener) = listener {
        thread::spawn(move || answer(&listener));
    }
    if let Some(port) = options.web {
        thread::sleep(options.web_after);
        let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) else {
            return ExitCode::from(98);
        };
        let says = options.web_says.clone();
        thread::spawn(move || web::answer(&listener, says.as_deref()));
    }
    if options.leader_exits {
        thread::spawn(sleep_forever);
        // As pthread_exit(3), without its unwinding, which Rust's frames refuse.
        // SAFETY: nothing on this stack is used by another thread, and nothing needs dropping.
        unsafe { libc::syscall(libc::SYS_exit, 0) };
    }
    if options.raise.is_some() || options.hog || options.exit.is_some() {
        thread::sleep(options.after);
        while options.until.as_ref().is_some_and(|file| !file.exists()) {
            thread::sleep(Duration::from_millis(5));
        }
    }
    if let Some(signal) = options.raise {
        raise(signal).unwrap();
    }
    if options.hog {
        loop {
            take();
        }
    }
    if let Some(code) = options.exit {
        return ExitCode::from(code);
    }
    sleep_forever()
}

extern "C" fn exit_0(_: libc::c_int) {
    // SAFETY: _exit(2) has no conditions.
    unsafe { libc::_exit(0) };
}

/// Takes a mebibyte for good, and uses it.
fn take() {
    std::mem::forget(std::hint::black_box(vec![1_u8; 1 << 20]));
}

/// Appends this start's line, and takes the journal's lock if no other instance has it.
fn witness(path: &Path) -> File {
    let mut journal = File::options().append(true).create(true).open(path).unwrap();
    let alone = flock(&journal, FlockOperation::NonBlockingLockExclusive).is_ok();
    let now = clock_gettime(ClockId::Boottime);
    let nanos = now.tv_sec * 1_000_000_000 + now.tv_nsec;
    let line = format!("{} {nanos} {}\n", getpid(), if alone { "alone" } else { "beside" });
    assert_eq!(journal.write(line.as_bytes()).unwrap(), line.len(), "one write is one line");
    journal
}

fn write_pid_file(path: &Path, in_place: bool) {
    let text = format!("{}\n", getpid());
    if in_place {
        fs::write(path, text).unwrap();
    } else {
        let beside = path.with_extension("tmp");
        fs::write(&beside, text).unwrap();
        fs::rename(&beside, path).unwrap();
    }
}

/// Goes on in a child, while the parent exits 0.
fn leave_parent() {
    if !fork_child() {
        // SAFETY: _exit(2) has no conditions; nothing is to be flushed.
        unsafe { libc::_exit(0) };
    }
}

/// Whether this is the child.
fn fork_child() -> bool {
    // SAFETY: called while there is one thread only, so the child may do what it likes.
    matches!(unsafe { fork() }.unwrap(), ForkResult::Child)
}

/// Leaves a grandchild that ends at once, its parent already gone or about to be.
fn leave_orphan() {
    // SAFETY: called while there is one thread only; the children only fork and exit.
    if let ForkResult::Parent { child } = unsafe { fork() }.unwrap() {
        waitpid(child, None).unwrap();
        return;
    }
    // SAFETY: as above.
    let _ = unsafe { fork() };
    // SAFETY: _exit(2) has no conditions; both children end here.
    unsafe { libc::_exit(0) };
}

/// Sends each caller this process's PID.
fn answer(listener: &TcpListener) {
    assert!(listener.as_raw_fd() > 2, "the standard streams must be open");
    for mut caller in listener.incoming().flatten() {
        let _ = writeln!(caller, "{}", getpid());
    }
}

fn sleep_forever() -> ! {
    loop {
        thread::park();
    }
}
