//! A process with the documented defaults, for the tests of the pure machines.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::{
    Backoff, Breaker, Config, InheritEnv, Log, LogFormat, LogLevel, Matching, Monitor, Output,
    Process, Recovery, Restart, RunAs, Stop,
};
use crate::event::{ProcessName, Signal};

/// `/usr/bin/NAME`, watched by `ebpf`, everything else as by default but without jitter.
pub fn process(name: &str) -> Process {
    Process {
        name: ProcessName::new(name),
        enabled: true,
        command: PathBuf::from("/usr/bin").join(name),
        args: vec![],
        env: BTreeMap::new(),
        inherit_env: InheritEnv::Nothing,
        working_dir: PathBuf::from("/"),
        run_as: RunAs::Root,
        umask: None,
        limits: BTreeMap::new(),
        nice: None,
        oom_score_adj: None,
        output: Output::Null,
        autostart: true,
        matching: Matching::default(),
        monitors: vec![Monitor::Ebpf],
        ready_after: Duration::from_secs(1),
        stop: Stop { signal: Signal(15), timeout: Duration::from_secs(10), leftovers: true },
        recovery: Recovery {
            restart: Restart::Always,
            breaker: Breaker {
                retries: 3,
                window: Duration::from_secs(60),
                cooldown: Duration::from_secs(180),
                cooldown_factor: 1.0,
                cooldown_max: Duration::from_secs(3600),
                half_open: Duration::from_secs(2),
            },
            backoff: Backoff {
                initial: Duration::from_secs(1),
                factor: 2.0,
                max: Duration::from_secs(30),
                jitter: 0.0,
            },
            start_timeout: Duration::from_secs(10),
        },
    }
}

/// A configuration of these processes.
pub fn config(processes: Vec<Process>) -> Config {
    Config {
        log: Log {
            level: LogLevel::Info,
            format: LogFormat::Text,
            directory: PathBuf::from("/var/log/healer"),
        },
        pid_file_directory: PathBuf::from("/run/healer"),
        working_directory: PathBuf::from("/"),
        max_parallel_launches: 16,
        processes: processes.into_iter().map(Into::into).collect(),
    }
}
