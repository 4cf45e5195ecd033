//! Instances that others start, as the eBPF monitor tells them. Needs root and a kernel with BTF.

#![cfg(feature = "ebpf")]
#![expect(clippy::unwrap_used, reason = "a test fails where it is surprised")]

mod stand_in;

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use healer::bus::{Bus, Received, Receiver};
use healer::config::{Config, Log, LogFormat, LogLevel, Monitor, Process};
use healer::event::{Instance, Observation, ProcessName, What};
use healer::monitor::ebpf::{self, Causes, Kernel, Meter, Options, Unavailable, merge};
use healer::monitor::{Command, Orders};
use rstest::rstest;
use stand_in::*;

/// The monitor on a runtime that runs only while the test waits for something.
struct World {
    runtime: tokio::runtime::Runtime,
    orders: Orders,
    causes: Causes,
    meter: Meter,
    events: Receiver,
    ring: OwnedFd,
    dir: tempfile::TempDir,
}

impl World {
    /// `None` where eBPF cannot work, which is said.
    fn new(options: Options) -> Option<Self> {
        let Kernel { causes, execs, meter } = match Kernel::load(options) {
            Ok(kernel) => kernel,
            Err(Unavailable::Refused { step, source }) if is_root() => panic!("{step}: {source:?}"),
            Err(missing) => {
                skip(&missing.to_string());
                return None;
            }
        };
        let ring = execs.as_fd().try_clone_to_owned().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let bus = Bus::new(1000);
        let events = bus.subscribe();
        let handle = {
            let _inside = runtime.enter();
            ebpf::spawn(bus, execs).unwrap()
        };
        let orders = handle.orders();
        let dir = tempfile::tempdir().unwrap();
        Some(Self { runtime, orders, causes, meter, events, ring, dir })
    }

    /// A program of the test's own: a copy of `/bin/NAME`.
    fn program(&self, name: &str) -> PathBuf {
        let copy = self.dir.path().join(name);
        std::fs::copy(Path::new("/bin").join(name), &copy).unwrap();
        copy
    }

    fn tell(&self, command: Command) -> Vec<Observation> {
        let answer = self.runtime.block_on(self.orders.tell(command)).unwrap();
        answer
            .into_iter()
            .map(|event| match event.what {
                What::Saw(seen) => seen,
                What::Did(change) => panic!("{change:?}"),
            })
            .collect()
    }

    fn watch(&self, processes: Vec<Process>) {
        assert_eq!(self.tell(Command::Reload(config(processes))), []);
    }

    /// The next observation.
    fn next(&mut self) -> (ProcessName, Observation) {
        let event = async { tokio::time::timeout(DEADLINE, self.events.recv()).await };
        let Received::Event(event) = self.runtime.block_on(event).expect("an event") else {
            panic!("lagged")
        };
        let What::Saw(seen) = event.what else { panic!("{event:?}") };
        (event.process, seen)
    }

    /// Lets the monitor do what it has to, and tells what it published.
    fn rest(&mut self) -> Vec<(ProcessName, Observation)> {
        // A runtime that waits looks at all that is readable, and runs whom that concerns.
        let turn = || async { tokio::time::sleep(Duration::from_millis(5)).await };
        self.runtime.block_on(turn());
        until("the ring is read", || {
            self.runtime.block_on(turn());
            !self.is_woken()
        });
        let mut seen = Vec::new();
        let Self { runtime, events, .. } = self;
        let mut recv = || {
            let brief = Duration::from_millis(1);
            runtime.block_on(async { tokio::time::timeout(brief, events.recv()).await.ok() })
        };
        while let Some(Received::Event(event)) = recv() {
            let What::Saw(one) = event.what else { panic!("{event:?}") };
            seen.push((event.process, one));
        }
        seen
    }

    fn is_woken(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut [PollFd::new(&self.ring, PollFlags::IN)], Some(&now)).unwrap() > 0
    }
}

fn config(processes: Vec<Process>) -> Arc<Config> {
    Arc::new(Config {
        log: Log { level: LogLevel::Info, format: LogFormat::Text, directory: "/".into() },
        pid_file_directory: "/".into(),
        working_directory: "/".into(),
        max_parallel_launches: 16,
        processes: processes.into_iter().map(Arc::new).collect(),
    })
}

fn wanted(name: &str, program: &Path, args: &[&str]) -> Process {
    let mut process = entry(name, program.to_str().unwrap(), args);
    process.monitors = vec![Monitor::Ebpf];
    process
}

fn name(name: &str) -> ProcessName {
    ProcessName::new(name)
}

fn run(command: &[&str]) -> Instance {
    let mut started = start(command);
    started.reap();
    started.instance()
}

#[test]
fn an_instance_that_others_start_is_told_and_watched() {
    let Some(mut world) = World::new(Options::default()) else { return };
    let sleep = world.program("sleep");
    world.watch(vec![wanted("web", &sleep, &["600"]), wanted("db", &sleep, &["601"])]);
    let started = start(&[sleep.to_str().unwrap(), "601"]);
    assert_eq!(world.next(), (name("db"), Observation::Up(started.instance())));
    assert_eq!(world.causes.watched(), [started.instance()]);
    assert_eq!(world.tell(Command::Republish), [Observation::Up(started.instance())]);
    world.tell(Command::Held(name("db"), started.instance()));
    assert_eq!(world.tell(Command::Republish), [], "what is held is not news");
}

#[test]
fn an_instance_is_watched_before_it_can_end() {
    let Some(mut world) = World::new(Options::default()) else { return };
    let program = world.program("false");
    world.watch(vec![wanted("web", &program, &[])]);
    assert!(!world.is_woken());
    let started = run(&[program.to_str().unwrap()]);
    assert!(world.is_woken());
    // The monitor did not run yet.
    let cause = world.causes.take(started);
    assert_eq!(merge(None, cause).to_string(), "exit code 1");
}

#[test]
fn one_that_ended_before_it_was_looked_at_leaves_nothing() {
    let Some(mut world) = World::new(Options::default()) else { return };
    let program = world.program("false");
    world.watch(vec![wanted("web", &program, &[])]);
    let started = run(&[program.to_str().unwrap()]);
    assert_eq!(world.causes.watched(), [started]);
    assert_eq!(world.rest(), []);
    assert_eq!(world.causes.watched(), []);
}

#[test]
fn strangers_are_not_told_and_leave_nothing() {
    let Some(mut world) = World::new(Options::default()) else { return };
    let (sleep, elsewhere) = (world.program("sleep"), world.dir.path().join("elsewhere"));
    std::fs::create_dir(&elsewhere).unwrap();
    std::fs::copy(&sleep, elsewhere.join("sleep")).unwrap();
    world.watch(vec![wanted("web", &sleep, &["600"])]);
    let sleep = sleep.to_str().unwrap();
    let twin = elsewhere.join("sleep");
    let _same_name = start(&[twin.to_str().unwrap(), "600"]);
    let _other_arguments = start(&[sleep, "601"]);
    let _other_user = start(&["setpriv", "--reuid=65534", "--clear-groups", sleep, "600"]);
    let contained = start(&["unshare", "-pf", sleep, "600"]);
    until("the contained one runs", || {
        children_of(contained.pid()).iter().any(|one| {
            std::fs::read_to_string(format!("/proc/{one}/comm")).unwrap_or_default() == "sleep\n"
        })
    });
    // A directory only its owner may search keeps the other user out: then it never ran.
    assert_eq!(world.rest(), []);
    assert_eq!(world.causes.watched(), []);
    children_of(contained.pid()).into_iter().for_each(end);
}

#[test]
fn what_a_reload_no_longer_wants_is_watched_no_longer() {
    let Some(mut world) = World::new(Options::default()) else { return };
    let sleep = world.program("sleep");
    let path = sleep.to_str().unwrap();
    world.watch(vec![wanted("web", &sleep, &["600"])]);
    let first = start(&[path, "600"]);
    assert_eq!(world.next(), (name("web"), Observation::Up(first.instance())));
    world.watch(vec![wanted("web", &world.program("true"), &[])]);
    assert_eq!(world.causes.watched(), []);
    let _second = start(&[path, "600"]);
    assert!(!world.is_woken());
    assert_eq!(world.rest(), []);
}

#[test]
fn what_recovery_watches_is_not_told() {
    let Some(mut world) = World::new(Options::default()) else { return };
    let sleep = world.program("sleep");
    world.watch(vec![wanted("web", &sleep, &["600"])]);
    let parked =
        start(&["/bin/sh", "-c", "sleep 0.2; exec \"$@\"", "sh", sleep.to_str().unwrap(), "600"]);
    world.causes.watch(parked.instance()).unwrap();
    until("it execs", || {
        std::fs::read_to_string(format!("/proc/{}/comm", parked.pid())).unwrap() == "sleep\n"
    });
    assert!(!world.is_woken());
    assert_eq!(world.rest(), []);
    assert_eq!(world.causes.watched(), [parked.instance()]);
}

/// A way in which another file comes to stand where a program's path leads.
#[derive(Clone, Copy, Debug)]
enum Replaced {
    /// Renamed over it.
    Renamed,
    /// Created where it was removed.
    Created,
    /// As `Created`, together with the directory.
    CreatedWithItsDirectory,
    /// A symbolic link on the way leads elsewhere.
    Linked,
}

impl Replaced {
    /// Does it for the `count`. time; `bin/sleep` below `dir` is the path of the program.
    fn by_one(self, dir: &Path, count: usize, mut meanwhile: impl FnMut()) {
        let (bin, program, new) = (dir.join("bin"), dir.join("bin/sleep"), dir.join("new"));
        match self {
            Self::Renamed => {
                std::fs::copy("/bin/sleep", &new).unwrap();
                std::fs::rename(&new, &program).unwrap();
            }
            Self::Created => {
                std::fs::remove_file(&program).unwrap();
                meanwhile();
                std::fs::copy("/bin/sleep", &program).unwrap();
            }
            Self::CreatedWithItsDirectory => {
                std::fs::remove_dir_all(&bin).unwrap();
                meanwhile();
                std::fs::create_dir(&bin).unwrap();
                meanwhile();
                std::fs::copy("/bin/sleep", &program).unwrap();
            }
            Self::Linked => {
                let version = dir.join(format!("version-{count}"));
                std::fs::create_dir(&version).unwrap();
                std::fs::copy("/bin/sleep", version.join("sleep")).unwrap();
                std::os::unix::fs::symlink(&version, &new).unwrap();
                std::fs::rename(&new, &bin).unwrap();
            }
        }
    }
}

#[rstest]
fn a_replaced_program_is_wanted_again(
    #[values(
        Replaced::Renamed,
        Replaced::Created,
        Replaced::CreatedWithItsDirectory,
        Replaced::Linked
    )]
    how: Replaced,
) {
    let Some(mut world) = World::new(Options::default()) else { return };
    let dir = world.dir.path().to_owned();
    let sleep = dir.join("bin/sleep");
    if matches!(how, Replaced::Linked) {
        how.by_one(&dir, 0, || ());
    } else {
        std::fs::create_dir(dir.join("bin")).unwrap();
        std::fs::copy("/bin/sleep", &sleep).unwrap();
    }
    world.watch(vec![wanted("web", &sleep, &["600"])]);
    for count in 1..=3 {
        how.by_one(&dir, count, || assert_eq!(world.rest(), []));
        assert_eq!(world.rest(), []);
        let started = start(&[sleep.to_str().unwrap(), "600"]);
        assert_eq!(world.next(), (name("web"), Observation::Up(started.instance())));
    }
}

#[test]
fn a_script_that_gets_another_interpreter_is_wanted_again() {
    let Some(mut world) = World::new(Options::default()) else { return };
    let at = |name: &str| world.dir.path().join(name);
    let (web, new) = (at("web"), at("new"));
    let wait = |shell: &Path| format!("#!{}\nread x < {}\n", shell.display(), at("pipe").display());
    nix::unistd::mkfifo(&at("pipe"), nix::sys::stat::Mode::from_bits_retain(0o600)).unwrap();
    let [first, second] = ["first", "second"].map(|name| {
        std::fs::copy("/bin/sh", at(name)).unwrap();
        at(name)
    });
    world.watch(vec![wanted("web", &script(&web, &wait(&first)), &[])]);
    std::fs::rename(script(&new, &wait(&second)), &web).unwrap();
    assert_eq!(world.rest(), []);
    let started = start(&[web.to_str().unwrap()]);
    assert_eq!(world.next(), (name("web"), Observation::Up(started.instance())));
}

#[test]
fn an_instance_that_execs_the_program_again_is_told() {
    let Some(mut world) = World::new(Options::default()) else { return };
    let (sh, go) = (world.program("sh"), world.dir.path().join("go"));
    let meant =
        script(&world.dir.path().join("meant"), &format!("#!{}\nsleep 600\n", sh.display()));
    world.watch(vec![wanted("web", &meant, &[])]);
    let line =
        format!("while ! [ -e {} ]; do sleep 0.01; done; exec {}", go.display(), meant.display());
    let started = start(&[sh.to_str().unwrap(), "-c", &line]);
    until("its first exec is told", || world.is_woken());
    assert_eq!(world.rest(), [], "it is the shell's, not the script's");
    assert_eq!(world.causes.watched(), []);
    std::fs::write(go, "").unwrap();
    assert_eq!(world.next(), (name("web"), Observation::Up(started.instance())));
}

#[test]
fn a_script_is_known_by_its_name_behind_the_interpreter() {
    let Some(mut world) = World::new(Options::default()) else { return };
    let interpreter = world.program("sh");
    let text = format!("#!{}\nread x\n", interpreter.display());
    let [meant, other] = ["meant", "other"].map(|name| script(&world.dir.path().join(name), &text));
    world.watch(vec![wanted("web", &meant, &[])]);
    let pause = |script: &Path| {
        start(&["/bin/sh", "-c", "sleep 600 | \"$1\"", "sh", script.to_str().unwrap()])
    };
    let _other = pause(&other);
    let started = pause(&meant);
    let (process, Observation::Up(instance)) = world.next() else { panic!("not told") };
    assert_eq!(process, name("web"));
    assert!(children_of(started.pid()).contains(&instance));
    assert_eq!(world.rest(), []);
}

#[test]
fn a_flood_of_others_wakes_nobody() {
    let Some(mut world) = World::new(Options::default()) else { return };
    let sleep = world.program("sleep");
    world.watch(vec![wanted("web", &sleep, &["600"])]);
    run(&["/bin/sh", "-c", "i=0; while [ $i -lt 2000 ]; do /bin/true; i=$((i+1)); done"]);
    assert!(!world.is_woken());
    assert_eq!(world.causes.watched(), []);
    let counters = world.meter.read();
    assert_eq!((counters.starts_dropped, counters.starts_unwatched), (0, 0));
    let started = start(&[sleep.to_str().unwrap(), "600"]);
    assert_eq!(world.next(), (name("web"), Observation::Up(started.instance())));
}

#[test]
fn starts_that_the_ring_has_no_room_for_are_counted_and_found() {
    let Some(mut world) = World::new(Options { ring_bytes: 4096, ..Options::default() }) else {
        return;
    };
    let (sleep, program) = (world.program("sleep"), world.program("true"));
    world.watch(vec![wanted("web", &sleep, &["600"]), wanted("job", &program, &[])]);
    run(&[
        "/bin/sh",
        "-c",
        "i=0; while [ $i -lt 400 ]; do \"$1\"; i=$((i+1)); done",
        "sh",
        program.to_str().unwrap(),
    ]);
    let started = start(&[sleep.to_str().unwrap(), "600"]);
    until("it execs", || {
        std::fs::read_to_string(format!("/proc/{}/comm", started.pid())).unwrap() == "sleep\n"
    });
    let dropped = world.meter.read().starts_dropped;
    assert!((200..=401).contains(&dropped), "{dropped}");
    assert!(!world.causes.watched().contains(&started.instance()), "its record was lost");
    assert_eq!(world.next(), (name("web"), Observation::Up(started.instance())));
    assert_eq!(world.rest(), []);
    assert_eq!(world.causes.watched(), []);
}

#[test]
fn more_starts_than_can_be_watched_are_counted_and_told() {
    let Some(mut world) = World::new(Options { watched_max: 1, ..Options::default() }) else {
        return;
    };
    let sleep = world.program("sleep");
    let path = sleep.to_str().unwrap();
    let names: Vec<_> = (600..700).map(|n| n.to_string()).collect();
    world.watch(names.iter().map(|n| wanted(n, &sleep, &[n])).collect());
    let started: Vec<_> = names.iter().map(|n| start(&[path, n])).collect();
    until("all exec", || {
        let comm = |one: &Started| std::fs::read_to_string(format!("/proc/{}/comm", one.pid()));
        started.iter().all(|one| comm(one).unwrap() == "sleep\n")
    });
    assert!(world.meter.read().starts_unwatched > 0);
    for _ in &started {
        let (process, seen) = world.next();
        let at = names.iter().position(|name| *name == process.as_str()).unwrap();
        assert_eq!(seen, Observation::Up(started[at].instance()));
    }
}

/// Mounted file systems, unmounted on drop, the last one first.
struct Mounts(Vec<PathBuf>);

impl Mounts {
    fn add(&mut self, kind: &str, options: &str, at: &Path) -> bool {
        std::fs::create_dir_all(at).unwrap();
        let is_done = mount(&["mount", "-t", kind, "-o", options, "none", at.to_str().unwrap()]);
        self.0.extend(is_done.then(|| at.to_owned()));
        is_done
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        while let Some(at) = self.0.pop() {
            mount(&["umount", "--lazy", at.to_str().unwrap()]);
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "no reaper runs in these tests")]
fn mount(command: &[&str]) -> bool {
    std::process::Command::new(command[0]).args(&command[1..]).status().unwrap().success()
}

#[rstest]
#[case::layers_of_one_file_system(false, "xino=off")]
#[case::layers_of_two_file_systems(true, "xino=off")]
#[case::layers_numbered_apart(true, "xino=on")]
fn a_program_in_a_container_image_is_told(#[case] two: bool, #[case] option: &str) {
    let Some(mut world) = World::new(Options::default()) else { return };
    let at = |name: &str| world.dir.path().join(name);
    let (first, second, merged) = (at("first"), at("second"), at("merged"));
    let mut mounts = Mounts(vec![]);
    let is_mounted =
        mounts.add("tmpfs", "size=1m", &first) && (!two || mounts.add("tmpfs", "size=1m", &second));
    let upper = if two { &second } else { &first };
    for dir in [first.join("lower"), upper.join("upper"), upper.join("work")] {
        std::fs::create_dir_all(dir).unwrap();
    }
    std::fs::copy("/bin/sleep", first.join("lower/sleep")).unwrap();
    let layers = format!(
        "lowerdir={}/lower,upperdir={2}/upper,workdir={2}/work,{1}",
        first.display(),
        option,
        upper.display()
    );
    if !is_mounted || !mounts.add("overlay", &layers, &merged) {
        return skip("no overlay can be mounted");
    }
    let sleep = merged.join("sleep");
    world.watch(vec![wanted("web", &sleep, &["600"])]);
    let started = start(&[sleep.to_str().unwrap(), "600"]);
    assert_eq!(world.next(), (name("web"), Observation::Up(started.instance())));
}
