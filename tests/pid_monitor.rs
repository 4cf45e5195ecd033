//! The PID monitor on real files and processes: what each PID file says, and when that changes.

#![expect(clippy::unwrap_used, reason = "a test fails where it is surprised")]

mod stand_in;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use healer::bus::{Bus, Received, Receiver};
use healer::clock::WallClock;
use healer::config::{Config, Log, LogFormat, LogLevel, Monitor, Process, RunAs};
use healer::event::{Event, Instance, Observation, ProcessName, What};
use healer::instance::own_pid;
use healer::instance::reaper::become_subreaper;
use healer::instance::table::Row;
use healer::monitor::pid::look::{Known, look_by_matching, without_matching};
use healer::monitor::{Command, Handle, pid};
use nix::sys::stat::Mode;
use rstest::rstest;
use stand_in::*;
use tempfile::TempDir;

fn config(processes: Vec<Process>) -> Arc<Config> {
    Arc::new(Config {
        log: Log { level: LogLevel::Info, format: LogFormat::Text, directory: "/tmp".into() },
        pid_file_directory: "/tmp".into(),
        working_directory: "/".into(),
        max_parallel_launches: 16,
        processes: processes.into_iter().map(Arc::new).collect(),
    })
}

/// An entry for `sleep MARK`, watched by its PID file.
fn sleeper(name: &str, mark: &str, path: &Path) -> Process {
    let monitors = vec![Monitor::Pid { path: path.into(), interval: Duration::from_secs(3600) }];
    Process { monitors, ..entry(name, "/usr/bin/sleep", &[mark]) }
}

/// A number of seconds that no other test sleeps for.
fn mark() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{}.{}", 10_000 + std::process::id(), 100 + NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A directory that only root, or whoever runs the tests, can write.
fn directory() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("it.pid");
    (dir, file)
}

fn write(path: &Path, text: impl std::fmt::Display) {
    std::fs::write(path, format!("{text}\n")).unwrap();
}

/// Gives a file another time of writing, in seconds before now.
fn age(path: &Path, seconds: u64) {
    let then = std::time::SystemTime::now() - Duration::from_secs(seconds);
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_modified(then).unwrap();
}

fn known(held: Option<Instance>, launched: Option<Instance>) -> Known<impl Fn(Instance) -> bool> {
    Known { held, launched, taken: |_| false, wall: WallClock::now() }
}

/// Looks at one process as the monitor does.
fn look(process: &Process, known: &Known<impl Fn(Instance) -> bool>) -> Observation {
    let matched = || look_by_matching(&[Arc::new(process.clone())], [], &known.taken).remove(0);
    without_matching(process, known).unwrap_or_else(matched)
}

fn first_look(process: &Process) -> Observation {
    look(process, &known(None, None))
}

fn is_unclear(seen: &Observation, part: &str) -> bool {
    matches!(seen, Observation::Unclear { reason } if reason.contains(part))
}

#[test]
fn a_file_naming_its_process_is_believed() {
    let ((_dir, file), mark) = (directory(), mark());
    let one = start(&["/usr/bin/sleep", &mark]);
    write(&file, one.pid());
    until("it runs sleep", || {
        first_look(&sleeper("it", &mark, &file)) == Observation::Up(one.instance())
    });
    end(one.instance());
    until("it is dead", || is_dead(one.instance()));
    assert_eq!(first_look(&sleeper("it", &mark, &file)), Observation::Missing);
}

#[rstest]
#[case::missing(None)]
#[case::empty(Some(""))]
#[case::garbage(Some("not a number"))]
#[case::of_nobody(Some("4194300"))]
#[case::zero(Some("0"))]
#[case::pid_1(Some("1"))]
fn a_file_naming_nobody_leaves_it_to_matching(#[case] text: Option<&str>) {
    let ((_dir, file), mark) = (directory(), mark());
    if let Some(text) = text {
        write(&file, text);
    }
    let process = sleeper("it", &mark, &file);
    assert_eq!(first_look(&process), Observation::Missing);
    let one = start(&["/usr/bin/sleep", &mark]);
    until("it is matched", || first_look(&process) == Observation::Up(one.instance()));
    // Only the first time: later, whom healer does not hold is not there.
    let before = Instance { start_ticks: 1, ..one.instance() };
    assert_eq!(look(&process, &known(Some(before), None)), Observation::Missing);
    assert_eq!(look(&process, &known(None, Some(before))), Observation::Missing);
}

#[test]
fn what_is_no_pid_file_is_refused_and_says_why() {
    let (dir, file) = directory();
    let process = sleeper("it", &mark(), &file);
    let check = |part: &str| {
        let seen = first_look(&process);
        assert!(is_unclear(&seen, part), "{seen:?} does not say {part}");
    };
    std::fs::write(&file, vec![b'1'; 1024 * 1024]).unwrap();
    check("is too large");
    std::fs::remove_file(&file).unwrap();
    std::os::unix::fs::symlink(&file, &file).unwrap();
    check("is a symbolic link");
    std::fs::remove_file(&file).unwrap();
    nix::unistd::mkfifo(&file, Mode::S_IRWXU).unwrap();
    check("is no regular file");
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    check("is no regular file");
    let in_loop = dir.path().join("loop");
    std::os::unix::fs::symlink(&in_loop, &in_loop).unwrap();
    let process = sleeper("it", &mark(), &in_loop.join("it.pid"));
    let seen = first_look(&process);
    assert!(is_unclear(&seen, "cannot read"), "{seen:?}");
}

#[test]
fn a_reused_pid_in_an_old_file_is_a_stranger_and_in_a_new_one_unclear() {
    let ((_dir, file), mark) = (directory(), mark());
    let stranger = start(&["/usr/bin/tail", "-f", "/dev/null"]);
    until("it runs tail", || {
        !first_look(&entry("x", "/usr/bin/tail", &["-f", "/dev/null"])).eq(&Observation::Missing)
    });
    write(&file, stranger.pid());
    let process = sleeper("it", &mark, &file);
    let seen = first_look(&process);
    assert!(is_unclear(&seen, "tail -f /dev/null"), "{seen:?}");
    age(&file, 3600);
    assert_eq!(first_look(&process), Observation::Missing);
    assert!(!is_dead(stranger.instance()));
}

#[test]
fn a_file_of_another_user_cannot_name_roots_process() {
    if !is_root() {
        return skip("a file of another user needs root");
    }
    let ((dir, file), mark) = (directory(), mark());
    let one = start(&["/usr/bin/sleep", &mark]);
    write(&file, one.pid());
    // By matching alone it is found; so look at an entry that only the file could lead to it.
    let mut process = sleeper("it", &mark, &file);
    process.run_as = RunAs::Root;
    let before = Instance { start_ticks: 1, ..one.instance() };
    let by_file = || look(&process, &known(Some(before), None));
    until("it runs sleep", || by_file() == Observation::Up(one.instance()));
    std::os::unix::fs::chown(&file, Some(65534), None).unwrap();
    assert_eq!(by_file(), Observation::Missing);
    std::os::unix::fs::chown(&file, Some(0), None).unwrap();
    // A directory that another user can write: the file's owner still has to be the process's.
    std::os::unix::fs::chown(dir.path(), Some(65534), None).unwrap();
    assert_eq!(by_file(), Observation::Up(one.instance()));
}

#[test]
fn a_start_scripts_daemon_of_another_name_is_known_by_its_launch() {
    let ((dir, file), mark) = (directory(), mark());
    let text = format!("#!/bin/sh\n/usr/bin/sleep {mark} & echo $! > {}\n", file.display());
    let begin = script(&dir.path().join("begin"), &text);
    let mut process = sleeper("it", &mark, &file);
    process.command = Some(begin.clone());
    process.args = Vec::new();
    let mut launched = start(&[begin.to_str().unwrap()]);
    launched.reap();
    let daemon = until_some("the file names the daemon", || {
        let pid = std::fs::read_to_string(&file).ok()?.trim().parse().ok()?;
        Some(Row::read(healer::event::Pid(pid)).unwrap()?.instance)
    });
    let exe = format!("/proc/{daemon}/exe");
    until("it runs sleep", || std::fs::read_link(&exe).unwrap() == Path::new("/usr/bin/sleep"));
    let by_itself = look(&process, &known(None, None));
    assert!(is_unclear(&by_itself, "does not look like it"), "{by_itself:?}");
    let by_launch = look(&process, &known(None, Some(launched.instance())));
    assert_eq!(by_launch, Observation::Up(daemon));
    assert_eq!(look(&process, &known(Some(daemon), None)), Observation::Up(daemon));
    let taken = Known {
        held: None,
        launched: Some(launched.instance()),
        taken: |one| one == daemon,
        wall: WallClock::now(),
    };
    assert_eq!(look(&process, &taken), Observation::Missing, "another entry's");
}

#[test]
fn a_file_older_than_the_launch_cannot_name_what_came_out_of_it() {
    become_subreaper().unwrap();
    let ((_dir, file), mark) = (directory(), mark());
    let mut launched = start(&["/bin/true"]);
    launched.reap();
    // An orphan, in a session of its own, as a double fork leaves it.
    let script = format!("setsid /usr/bin/sleep {mark} & echo $! > {}", file.display());
    let mut other = start(&["/bin/sh", "-c", &script]);
    other.reap();
    let orphan = until_some("the orphan came to us", || {
        let pid = std::fs::read_to_string(&file).ok()?.trim().parse().ok()?;
        let row = Row::read(healer::event::Pid(pid)).unwrap()?;
        (row.parent == own_pid() && row.session == row.instance.pid).then_some(row.instance)
    });
    let mut process = sleeper("it", "another argument", &file);
    process.args = vec!["another".into()];
    let by_launch = || look(&process, &known(None, Some(launched.instance())));
    assert_eq!(by_launch(), Observation::Up(orphan));
    age(&file, 3600);
    assert_ne!(by_launch(), Observation::Up(orphan));
    end(orphan);
}

/// A monitor, what it published, and the latest truth of each process.
struct Watched {
    monitor: Handle,
    receiver: Receiver,
    truth: BTreeMap<ProcessName, Observation>,
    lagged: u64,
}

impl Watched {
    fn new(capacity: usize) -> Self {
        let bus = Bus::new(capacity);
        let receiver = bus.subscribe();
        let monitor = pid::spawn(bus, WallClock::now());
        Self { monitor, receiver, truth: BTreeMap::new(), lagged: 0 }
    }

    async fn watch(processes: Vec<Process>) -> Self {
        let watched = Self::new(1024);
        watched.monitor.orders().tell(Command::Reload(config(processes))).await.unwrap();
        watched
    }

    /// Receives until the process is seen so.
    async fn until(&mut self, process: &str, seen: impl Fn(&Observation) -> bool) {
        let name = ProcessName::new(process);
        let wait = async {
            while !self.truth.get(&name).is_some_and(&seen) {
                self.receive().await;
            }
        };
        let in_time = tokio::time::timeout(DEADLINE, wait).await.is_ok();
        assert!(in_time, "{process} stays {:?}", self.truth.get(&name));
    }

    async fn until_up(&mut self, instance: Instance) {
        self.until("it", |seen| *seen == Observation::Up(instance)).await;
    }

    async fn until_missing(&mut self) {
        self.until("it", |seen| *seen == Observation::Missing).await;
    }

    async fn receive(&mut self) {
        match self.receiver.recv().await {
            Received::Event(event) => {
                let What::Saw(seen) = event.what else { panic!("monitors only see") };
                self.truth.insert(event.process, seen);
            }
            Received::Lagged(lost) => self.lagged += lost,
            Received::Closed => panic!("the monitor is gone"),
        }
    }

    async fn tell(&self, command: Command) -> Vec<Event> {
        self.monitor.orders().tell(command).await.unwrap()
    }
}

/// A running `sleep MARK`, its exec behind it.
fn running(mark: &str) -> Started {
    let one = start(&["/usr/bin/sleep", mark]);
    let exe = format!("/proc/{}/exe", one.pid());
    until("it runs sleep", || std::fs::read_link(&exe).unwrap() == Path::new("/usr/bin/sleep"));
    one
}

/// A process that was adopted once, so that only its PID file tells where it is now.
async fn adopted(process: Process) -> Watched {
    let name = process.name.clone();
    let mut watched = Watched::watch(vec![process]).await;
    let gone = Instance { pid: healer::event::Pid(4_194_000), start_ticks: 1 };
    watched.tell(Command::Held(name, gone)).await;
    watched.until_missing().await;
    watched
}

#[tokio::test]
async fn a_file_that_appears_late_or_is_replaced_or_removed_is_seen() {
    let ((dir, file), mark) = (directory(), mark());
    let mut watched = adopted(sleeper("it", &mark, &file)).await;
    let (one, two) = (running(&mark), running(&mark));
    write(&file, one.pid());
    watched.until_up(one.instance()).await;
    let next = dir.path().join("next");
    write(&next, two.pid());
    std::fs::rename(&next, &file).unwrap();
    watched.until_up(two.instance()).await;
    std::fs::remove_file(&file).unwrap();
    watched.until_missing().await;
    watched.monitor.stop().await.unwrap();
}

#[tokio::test]
async fn a_directory_that_is_created_later_or_anew_is_watched() {
    let ((dir, _), mark) = (directory(), mark());
    let deep = dir.path().join("a/b/c");
    let file = deep.join("it.pid");
    let mut watched = adopted(sleeper("it", &mark, &file)).await;
    let one = running(&mark);
    for _ in 0..2 {
        std::fs::create_dir_all(&deep).unwrap();
        write(&file, one.pid());
        watched.until_up(one.instance()).await;
        std::fs::remove_dir_all(dir.path().join("a")).unwrap();
        watched.until_missing().await;
    }
    // Slowly, so that each directory is watched before the next one comes.
    for each in ["a", "a/b", "a/b/c"] {
        std::fs::create_dir(dir.path().join(each)).unwrap();
        watched.tell(Command::Launched(ProcessName::new("other"), one.instance())).await;
    }
    write(&file, one.pid());
    watched.until_up(one.instance()).await;
    watched.monitor.stop().await.unwrap();
}

#[tokio::test]
async fn a_file_that_is_kept_open_and_written_in_pieces_is_read_when_complete() {
    use std::io::Write;
    let ((_dir, file), mark) = (directory(), mark());
    let mut watched = adopted(sleeper("it", &mark, &file)).await;
    let one = running(&mark);
    let mut open = std::fs::File::create(&file).unwrap();
    open.write_all(format!("{}\n", one.pid()).as_bytes()).unwrap();
    watched.until_up(one.instance()).await;
    // Emptied and not written: after a moment it names nobody.
    open.set_len(0).unwrap();
    watched.until_missing().await;
    watched.monitor.stop().await.unwrap();
}

#[tokio::test]
async fn a_shell_that_writes_its_pid_and_becomes_the_daemon_is_seen() {
    let ((_dir, file), mark) = (directory(), mark());
    let mut watched = adopted(sleeper("it", &mark, &file)).await;
    for pause in ["0", "0.5"] {
        let script = format!("echo $$ > {}; sleep {pause}; exec sleep {mark}", file.display());
        let one = start(&["/bin/sh", "-c", &script]);
        watched.until_up(one.instance()).await;
    }
    watched.monitor.stop().await.unwrap();
}

/// Time is paused: it jumps to the next timer whenever nothing else is to be done.
#[tokio::test(start_paused = true)]
async fn the_safety_net_finds_what_inotify_cannot_see() {
    let ((dir, _), mark) = (directory(), mark());
    let file = dir.path().join("a/b/it.pid");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    let mut watched = adopted(sleeper("it", &mark, &file)).await;
    let one = running(&mark);
    // The watched directory itself does not change when the one above it is moved.
    std::fs::rename(dir.path().join("a"), dir.path().join("old")).unwrap();
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    write(&file, one.pid());
    let before = tokio::time::Instant::now();
    watched.receive().await;
    assert_eq!(watched.truth[&ProcessName::new("it")], Observation::Up(one.instance()));
    assert!(before.elapsed() >= Duration::from_secs(25), "not by the safety net");
    // From now on, the new directory is watched.
    std::fs::remove_file(&file).unwrap();
    watched.until_missing().await;
    watched.monitor.stop().await.unwrap();
}

#[tokio::test]
async fn doubt_ends_with_the_process_that_raised_it() {
    let ((_dir, file), mark) = (directory(), mark());
    let stranger = running(&mark);
    write(&file, stranger.pid());
    let mut watched = adopted_in_doubt(sleeper("it", "1", &file)).await;
    end(stranger.instance());
    watched.until_missing().await;
    watched.monitor.stop().await.unwrap();
}

/// A process whose PID file names one that nothing shows to be it.
async fn adopted_in_doubt(process: Process) -> Watched {
    let mut watched = Watched::watch(vec![process]).await;
    watched.until("it", |seen| is_unclear(seen, "does not look like it")).await;
    watched
}

#[tokio::test]
async fn doubt_ends_when_recovery_tells_what_it_launched_or_holds() {
    let ((_dir, file), mark) = (directory(), mark());
    let one = running(&mark);
    write(&file, one.pid());
    let mut process = sleeper("it", "another argument", &file);
    process.args = vec!["another".into()];
    for command in [Command::Launched, Command::Held] {
        for waits_for_the_answer in [true, false] {
            let mut watched = adopted_in_doubt(process.clone()).await;
            let command = command(ProcessName::new("it"), one.instance());
            if waits_for_the_answer {
                watched.tell(command).await;
            } else {
                watched.monitor.orders().note(command).unwrap();
            }
            watched.until_up(one.instance()).await;
            watched.monitor.stop().await.unwrap();
        }
    }
}

#[tokio::test]
async fn who_lost_events_gets_every_truth_by_republish() {
    const ENTRIES: usize = 200;
    let (dir, mark) = (tempfile::tempdir().unwrap(), mark());
    let one = running(&mark);
    let files: Vec<_> = (0..ENTRIES).map(|n| dir.path().join(format!("{n}.pid"))).collect();
    let entries = files.iter().enumerate();
    let processes = entries.map(|(n, file)| sleeper(&format!("p{n}"), "1", file)).collect();
    let mut watched = Watched::new(1);
    let first = watched.tell(Command::Reload(config(processes))).await;
    assert_eq!(first.len(), ENTRIES);
    for file in &files {
        write(file, one.pid());
    }
    // The answer to a loss, until the last truth is the one of every file.
    let doubtful = |seen: &Observation| is_unclear(seen, "does not look like it");
    let deadline = tokio::time::Instant::now() + DEADLINE;
    loop {
        let lost = watched.lagged;
        watched.receive().await;
        if watched.lagged == lost {
            continue;
        }
        let truth = watched.tell(Command::Republish).await;
        for event in truth {
            let What::Saw(seen) = event.what else { panic!("monitors only see") };
            watched.truth.insert(event.process, seen);
        }
        if watched.truth.len() == ENTRIES && watched.truth.values().all(doubtful) {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "some truth is never told");
    }
    watched.monitor.stop().await.unwrap();
}

#[tokio::test]
async fn an_up_of_who_died_meanwhile_is_missing_after_republish() {
    let ((_dir, file), mark) = (directory(), mark());
    let one = running(&mark);
    write(&file, one.pid());
    let mut watched = Watched::watch(vec![sleeper("it", &mark, &file)]).await;
    watched.until_up(one.instance()).await;
    end(one.instance());
    until("it is dead", || is_dead(one.instance()));
    let truth = watched.tell(Command::Republish).await;
    assert_eq!(truth[0].what, What::Saw(Observation::Missing));
    watched.until_missing().await;
    watched.monitor.stop().await.unwrap();
}

#[tokio::test]
async fn a_reload_looks_at_what_is_new_and_forgets_what_is_gone() {
    let ((dir, file), mark) = (directory(), mark());
    let one = running(&mark);
    write(&file, one.pid());
    let mut watched = Watched::watch(vec![sleeper("it", &mark, &file)]).await;
    watched.until_up(one.instance()).await;
    let other = dir.path().join("other.pid");
    let (it, more) = (sleeper("it", &mark, &file), sleeper("more", "1", &other));
    watched.tell(Command::Reload(config(vec![it, more]))).await;
    watched.until("more", |seen| *seen == Observation::Missing).await;
    let mut disabled = sleeper("more", "1", &other);
    disabled.enabled = false;
    watched.tell(Command::Reload(config(vec![disabled]))).await;
    assert_eq!(watched.tell(Command::Republish).await, []);
    watched.monitor.stop().await.unwrap();
}
