//! One guarded service of a test: its entry in the configuration, and what it really does.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Map, Value, json};

use super::{Living, Site, eventually_some, is_root, kill, living, program};

/// An entry of `processes:` that runs `tests/service`, and the witness of its starts.
#[derive(Clone)]
pub struct Service {
    pub name: String,
    pub journal: PathBuf,
    dir: PathBuf,
    args: Vec<String>,
    keys: Value,
}

/// One line of a journal.
#[derive(Clone, Debug)]
pub struct Start {
    pub pid: i32,
    /// Nanoseconds of `CLOCK_BOOTTIME`.
    pub at: u64,
    /// Whether no other instance was alive.
    pub alone: bool,
}

impl Service {
    /// Watched without a PID file, output to a file, a budget that no test uses up by accident.
    pub fn new(site: &Site, name: &str) -> Self {
        let journal = site.file(&format!("{name}.journal"));
        let mut keys = json!({
            "name": name,
            "command": program(),
            "output": "file",
            "monitor": { "type": "ebpf" },
            "recovery": { "type": "regular", "retries": 1000, "retry_window_secs": 600 },
        });
        if is_root() {
            keys["run_as_root"] = json!(true);
        }
        let args = vec!["--journal".to_owned(), journal.to_str().unwrap().to_owned()];
        Self { name: name.to_owned(), journal, dir: site.path().to_owned(), args, keys }
    }

    /// More words for the command line.
    pub fn args<const N: usize>(mut self, words: [&str; N]) -> Self {
        self.args.extend(words.map(ToOwned::to_owned));
        self
    }

    /// Writes a PID file, and is watched by it.
    pub fn with_pid_file(self) -> Self {
        let path = self.pid_file();
        self.args(["--pid-file", path.to_str().unwrap()]).watched_by_pid_file()
    }

    /// Is watched by its PID file, whoever writes it.
    pub fn watched_by_pid_file(self) -> Self {
        let path = self.pid_file();
        self.set("monitor", json!({ "type": "pid", "pid_file_path": path, "interval_secs": 1 }))
    }

    /// Sets a key of its entry, by its dotted path.
    pub fn set(mut self, path: &str, value: impl Into<Value>) -> Self {
        let mut at = &mut self.keys;
        for key in path.split('.') {
            at = at.as_object_mut().unwrap().entry(key).or_insert(Value::Object(Map::new()));
        }
        *at = value.into();
        self
    }

    /// Takes a key out of its entry.
    pub fn unset(mut self, key: &str) -> Self {
        self.keys.as_object_mut().unwrap().remove(key);
        self
    }

    pub fn entry(&self) -> Value {
        let mut entry = self.keys.clone();
        entry.as_object_mut().unwrap().entry("args").or_insert(json!(self.args));
        entry
    }

    /// The command line after the program.
    pub fn words(&self) -> &[String] {
        &self.args
    }

    pub fn pid_file(&self) -> PathBuf {
        self.dir.join(format!("{}.pid", self.name))
    }

    /// What the PID file says, if that is a number.
    pub fn pid_in_file(&self) -> Option<i32> {
        fs::read_to_string(self.pid_file()).ok()?.trim().parse().ok()
    }

    /// The log of its output.
    pub fn output(&self) -> String {
        let path = self.dir.join(format!("log/processes/{}.log", self.name));
        fs::read_to_string(path).unwrap_or_default()
    }

    /// Every start so far.
    pub fn starts(&self) -> Vec<Start> {
        read_journal(&self.journal)
    }

    /// From each start to the next.
    pub fn gaps(&self) -> Vec<Duration> {
        let starts = self.starts();
        starts.windows(2).map(|pair| Duration::from_nanos(pair[1].at - pair[0].at)).collect()
    }

    /// Its processes that live, workers included.
    pub fn living(&self) -> Vec<Living> {
        living().filter(|process| self.is(process)).collect()
    }

    /// Whether this is one of its processes.
    pub fn is(&self, process: &Living) -> bool {
        process.has(&self.journal)
    }

    /// Waits for start number `count`, which must be the last one, and for it to be alive.
    pub fn running(&self, count: usize) -> Living {
        let running = eventually_some(&format!("{} runs for the {count}. time", self.name), || {
            let starts = self.starts();
            assert!(starts.len() <= count, "{} was started too often: {starts:?}", self.name);
            let last = starts.get(count - 1)?;
            Living::read(last.pid).filter(|process| self.is(process))
        });
        self.assert_never_two();
        running
    }

    /// Sends `signal` to the instance that started last.
    pub fn kill(&self, signal: Signal) {
        let last = self.starts().pop().expect("the service was started");
        let process = Living::read(last.pid).filter(|process| self.is(process));
        assert!(kill(&process.expect("the last instance lives"), signal));
    }

    /// Each start found the previous instance gone.
    pub fn assert_never_two(&self) {
        let starts = self.starts();
        assert!(starts.iter().all(|start| start.alone), "{}: two at a time: {starts:?}", self.name);
    }
}

fn read_journal(path: &Path) -> Vec<Start> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .map(|line| {
            let mut words = line.split(' ');
            let mut word = || words.next().unwrap();
            let (pid, at) = (word().parse().unwrap(), word().parse().unwrap());
            Start { pid, at, alone: word() == "alone" }
        })
        .collect()
}
