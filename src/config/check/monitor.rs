//! `monitor` and `dependencies`, which each may be written in more than one shape.
//!
//! Dependencies are read and checked whole, and then refused: this build cannot act on them, and
//! nothing of a configuration is silently ignored. What a probe has to say is `network`'s.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use figment::value::Value;

use super::super::Monitor;
use super::super::fault::under;
use super::super::section::{Item, Section, TEN_YEARS};
use super::network;
use super::process::DAY;
use crate::event::ProcessName;

/// The shortest period of a look: more often would be a load by itself.
pub(super) const SHORTEST_INTERVAL: f64 = 0.1;
/// The default period of looks and probes.
pub(super) const INTERVAL: Duration = Duration::from_secs(5);

/// The monitors of one entry.
#[derive(Default)]
pub(super) struct Monitors {
    pub all: Vec<Monitor>,
    /// Where `pid_file_path` is written.
    pub pid_file_at: Option<String>,
    wants_ebpf: bool,
    wants_network: bool,
    /// One is not a probe, or nobody knows what it is.
    wants_other: bool,
}

impl Monitors {
    /// Whether a probe is all there is.
    pub fn is_probe_only(&self) -> bool {
        self.wants_network && !self.wants_other
    }
}

/// Reads `monitor`: a map, or a list of them.
pub(super) fn read(item: &Item<'_>) -> Option<Monitors> {
    let mut read = Monitors::default();
    match item.value {
        Value::Dict(..) => one(item.section()?, item, &mut read),
        Value::Array(..) => {
            let items = item.list()?;
            if items.is_empty() {
                item.fault("must not be empty: say how the process is watched");
            }
            for item in items {
                if let Some(section) = item.section() {
                    one(section, &item, &mut read);
                }
            }
        }
        _ => return item.expected("a map or a list of maps"),
    }
    Some(read)
}

fn one(mut section: Section<'_>, item: &Item<'_>, read: &mut Monitors) {
    #[derive(Clone, Copy, PartialEq)]
    enum Kind {
        Pid,
        Network,
        Ebpf,
    }
    let words = [("pid", Kind::Pid), ("network", Kind::Network), ("ebpf", Kind::Ebpf)];
    let kind = section.required("type").and_then(|kind| kind.choice(&words));
    read.wants_other |= kind != Some(Kind::Network);
    match kind {
        Some(Kind::Pid) => {
            if read.pid_file_at.is_some() {
                section.fault_at("type", "a process has one PID file: remove the second `pid`");
            }
            let path: Option<PathBuf> =
                section.required("pid_file_path").and_then(|path| path.absolute_path());
            let interval =
                section.seconds("interval_secs", SHORTEST_INTERVAL..=DAY).unwrap_or(INTERVAL);
            if let Some(path) = path {
                read.pid_file_at = Some(under(&item.path, "pid_file_path"));
                read.all.push(Monitor::Pid { path, interval });
            }
        }
        Some(Kind::Ebpf) => {
            if read.wants_ebpf {
                section.fault_at("type", "`ebpf` is given twice: remove one");
            }
            read.wants_ebpf = true;
            read.all.push(Monitor::Ebpf);
        }
        Some(Kind::Network) => {
            if read.wants_network {
                section.fault_at("type", "a process has one probe: remove the second `network`");
            }
            read.wants_network = true;
            let probe = network::read(&mut section);
            read.all.extend(probe.map(|probe| Monitor::Network(Arc::new(probe))));
        }
        // Which keys belong to it cannot be known.
        None => return,
    }
    section.finish();
}

/// Reads `dependencies`: a list of names or maps. Answers each target and where it is written.
pub(super) fn dependencies(entry: &mut Section<'_>) -> Vec<(ProcessName, String)> {
    let items = entry.list("dependencies").unwrap_or_default();
    if !items.is_empty() {
        entry.fault_at("dependencies", "`dependencies` are not supported by this build");
    }
    items.iter().filter_map(dependency).collect()
}

fn dependency(item: &Item<'_>) -> Option<(ProcessName, String)> {
    let target = match item.value {
        Value::String(..) => item.clone(),
        Value::Dict(..) => {
            let mut section = item.section()?;
            let target = section.required("target");
            section.choice("kind", &[("requires", ()), ("after", ())]);
            section.flag("hard");
            section.seconds("max_wait_secs", 0.0..=TEN_YEARS);
            section.choice("on_failure", &[("abort", ()), ("skip", ()), ("degrade", ())]);
            section.flag("restart");
            section.finish();
            target?
        }
        _ => return item.expected("the name of a process or a map with `target`"),
    };
    Some((ProcessName::new(&target.word()?), target.path.clone()))
}
