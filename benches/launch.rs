//! How long a launch takes, beside the floor: a bare posix_spawn(3) and waitpid(2) of the same
//! program, the two by turns in one run, so that both meet the same machine.
//!
//! `cargo bench --bench launch [-- ROUNDS]`. "exec" ends with the confirmed exec, "end" with the
//! program reaped, as the floor does. "stage alone" is the floor of the stage's own binary: what
//! chain loading costs whatever the stage does. "at once" is for so many launches together, until
//! the last exec, and for the floor so many spawns in a row.

#![expect(clippy::unwrap_used, reason = "a measurement that fails has nothing to tell")]

use std::ffi::CStr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use healer::config::check::{Environment, check};
use healer::config::{InheritEnv, Output, OutputFile, Process, Reader, RunAs};
use healer::event::ProcessName;
use healer::launch::{Baseline, Launcher};
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, posix_spawn};
use rustix::process::{WaitId, WaitIdOptions, waitid};
use tokio::task::JoinSet;

const PROGRAM: &str = "/bin/true";
const STAGE: &str = env!("CARGO_BIN_EXE_healer");
const WARM_UP: usize = 50;
const AT_ONCE: usize = 200;
const ROUNDS_AT_ONCE: usize = 10;

fn main() {
    let rounds = std::env::args().skip(1).find_map(|word| word.parse().ok()).unwrap_or(1000);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let logs = tempfile::tempdir().unwrap();
    let launcher =
        Launcher::new(Baseline::record().unwrap(), logs.path()).with_stage(PathBuf::from(STAGE));
    let root = rustix::process::geteuid().is_root();
    let user = RunAs::User { user: "nobody".to_owned(), group: None };
    let kinds =
        [("as itself", RunAs::Healer, true), ("root", RunAs::Root, root), ("user", user, root)];
    for (name, run_as, _) in kinds.into_iter().filter(|(_, _, possible)| *possible) {
        let process = entry(run_as);
        let [mut floor, mut alone, mut exec, mut end] = [const { Vec::new() }; 4];
        for round in 0..rounds + WARM_UP {
            let spawned = floor_of(Path::new(PROGRAM), c"true");
            let stage = floor_of(Path::new(STAGE), c"healer-stage");
            let (confirmed, reaped) = runtime.block_on(launch(&launcher, &process));
            if round >= WARM_UP {
                floor.push(spawned);
                alone.push(stage);
                exec.push(confirmed);
                end.push(reaped);
            }
        }
        println!("{PROGRAM} {name}, {rounds} rounds");
        for (what, times) in
            [("floor", &floor), ("stage alone", &alone), ("exec", &exec), ("end", &end)]
        {
            report(what, times, &floor);
        }
    }

    let process = entry(RunAs::Healer);
    let [mut floor, mut exec] = [const { Vec::new() }; 2];
    for _ in 0..ROUNDS_AT_ONCE {
        let began = Instant::now();
        for _ in 0..AT_ONCE {
            floor_of(Path::new(PROGRAM), c"true");
        }
        floor.push(began.elapsed());
        exec.push(runtime.block_on(launch_at_once(&launcher, &process)));
    }
    println!("{PROGRAM} as itself, {AT_ONCE} at once");
    report("floor", &floor, &floor);
    report("exec", &exec, &floor);
}

async fn launch_at_once(launcher: &Launcher, process: &Process) -> Duration {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    let began = Instant::now();
    let mut going = JoinSet::new();
    for _ in 0..AT_ONCE {
        going.spawn(launcher.spawn(process).unwrap().go().unwrap().executed(deadline));
        // As between two inputs of a busy daemon: what was spawned may go.
        tokio::task::yield_now().await;
    }
    let instances = going.join_all().await;
    let confirmed = began.elapsed();
    for held in instances {
        waitid(WaitId::PidFd(held.unwrap().as_fd()), WaitIdOptions::EXITED).unwrap();
    }
    confirmed
}

fn report(what: &str, times: &[Duration], floor: &[Duration]) {
    let [p50, p99] = [50, 99].map(|percent| percentile(times, percent));
    let [floor50, floor99] = [50, 99].map(|percent| percentile(floor, percent));
    println!(
        "  {what:12} p50 {:6.0} µs ({:.2} × floor)   p99 {:6.0} µs ({:.2} × floor)",
        p50 * 1e6,
        p50 / floor50,
        p99 * 1e6,
        p99 / floor99,
    );
}

fn percentile(times: &[Duration], percent: usize) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    sorted[(sorted.len() - 1) * percent / 100].as_secs_f64()
}

fn floor_of(program: &Path, name: &CStr) -> Duration {
    let (actions, attributes) =
        (PosixSpawnFileActions::init().unwrap(), PosixSpawnAttr::init().unwrap());
    let none: [&CStr; 0] = [];
    let began = Instant::now();
    let pid = posix_spawn(program, &actions, &attributes, &[name], &none).unwrap();
    nix::sys::wait::waitpid(pid, None).unwrap();
    began.elapsed()
}

async fn launch(launcher: &Launcher, process: &Process) -> (Duration, Duration) {
    let began = Instant::now();
    let staged = launcher.spawn(process).unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    let held = staged.go().unwrap().executed(deadline).await.unwrap();
    let confirmed = began.elapsed();
    waitid(WaitId::PidFd(held.as_fd()), WaitIdOptions::EXITED).unwrap();
    (confirmed, began.elapsed())
}

fn entry(run_as: RunAs) -> Process {
    let text = b"processes: [{name: it, command: /it, monitor: {type: ebpf}, output: 'null'}]";
    let checked = check(text, &Environment::new(), &Reader::default()).unwrap();
    let defaults = Process::clone(&checked.config.processes[0]);
    Process {
        name: ProcessName::new("true"),
        command: Some(PathBuf::from(PROGRAM)),
        run_as,
        inherit_env: InheritEnv::Nothing,
        output: Output::File(OutputFile { max_bytes: u64::MAX, keep: 1 }),
        ..defaults
    }
}
