//! A process with the documented defaults, for tests within this crate.

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use super::check::{Environment, check};
use super::{Config, Log, LogFormat, LogLevel, Process, Reader};
use crate::event::ProcessName;

const TEXT: &[u8] = b"processes: [{name: it, command: /usr/bin/it, run_as_root: true, \
    output: 'null', monitor: {type: ebpf}}]";

/// `/usr/bin/NAME`, watched by `ebpf`, everything else as by default but without jitter.
pub fn process(name: &str) -> Process {
    static DEFAULTS: LazyLock<Arc<Process>> = LazyLock::new(|| {
        let reader = Reader { as_root: true, ..Reader::default() };
        let checked = check(TEXT, &Environment::new(), &reader).expect("the text has no fault");
        Arc::clone(&checked.config.processes[0])
    });
    let mut process = Process::clone(&DEFAULTS);
    process.name = ProcessName::new(name);
    process.command = Some(PathBuf::from("/usr/bin").join(name));
    process.recovery.backoff.jitter = 0.0;
    process
}

/// The same, watched by a probe with a time-out of 2 s too.
pub fn probed(name: &str) -> Process {
    let mut process = process(name);
    process.monitors.extend(remote(name).monitors);
    process
}

/// What is only watched, by a probe with a time-out of 2 s.
pub fn remote(name: &str) -> Process {
    let text = format!(
        "processes: [{{name: {name}, monitor: {{type: network, target_url: 'tcp://127.0.0.1:1', \
         timeout_secs: 2}}}}]"
    );
    let checked = check(text.as_bytes(), &Environment::new(), &Reader::default());
    Process::clone(&checked.expect("the text has no fault").config.processes[0])
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
