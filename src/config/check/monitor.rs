//! `monitor`, which may be written in more than one shape.
//!
//! What a probe has to say is `network`'s.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use figment::value::Value;

use super::super::Monitor;
use super::super::fault::under;
use super::super::section::{Item, Section};
use super::network;
use super::process::DAY;

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
