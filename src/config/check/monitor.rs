//! `monitor`, which may be written in more than one shape.
//!
//! `type: network` is read and checked whole, and then refused: this build cannot act on it, and
//! nothing of a configuration is silently ignored.

use std::path::PathBuf;
use std::time::Duration;

use figment::value::Value;

use super::super::Monitor;
use super::super::fault::{quoted, suggestion, under};
use super::super::section::{Item, Section};
use super::process::{DAY, pattern};

/// The shortest period of a look: more often would be a load by itself.
const SHORTEST_INTERVAL: f64 = 0.1;
/// The shortest time-out.
const SHORTEST_WAIT: f64 = 0.01;

/// The monitors of one entry.
#[derive(Default)]
pub(super) struct Monitors {
    pub all: Vec<Monitor>,
    /// Where `pid_file_path` is written.
    pub pid_file_at: Option<String>,
    wants_ebpf: bool,
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
    match kind {
        Some(Kind::Pid) => {
            if read.pid_file_at.is_some() {
                section.fault_at("type", "a process has one PID file: remove the second `pid`");
            }
            let path: Option<PathBuf> =
                section.required("pid_file_path").and_then(|path| path.absolute_path());
            let interval = section
                .seconds("interval_secs", SHORTEST_INTERVAL..=DAY)
                .unwrap_or(Duration::from_secs(5));
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
            network(&mut section);
            section.fault_at("type", "`network` is not supported by this build");
        }
        // Which keys belong to it cannot be known.
        None => return,
    }
    section.finish();
}

/// Checks the keys of a probe.
fn network(probe: &mut Section<'_>) {
    if let Some(url) = probe.required("target_url") {
        target(&url);
    }
    probe.seconds("interval_secs", SHORTEST_INTERVAL..=DAY);
    probe.seconds("timeout_secs", SHORTEST_WAIT..=DAY);
    probe.integer("failure_threshold", 1..=1000);
    probe.integer("success_threshold", 1..=1000);
    probe.seconds("start_period_secs", 0.0..=DAY);
    if let Some(status) = probe.item("expect_status") {
        let codes = match status.value {
            Value::Array(..) => status.list().unwrap_or_default(),
            _ => vec![status],
        };
        for code in codes {
            code.integer(100..=599);
        }
    }
    if let Some(body) = probe.item("expect_body") {
        pattern(&body);
    }
    probe.choice("method", &[("GET", ()), ("HEAD", ()), ("POST", ()), ("OPTIONS", ())]);
    if let Some(headers) = probe.item("headers") {
        headers.map_of_texts(|name| {
            let token = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            (name.is_empty() || !name.bytes().all(token)).then_some("is no header's name")
        });
    }
    // What `tls` may hold is decided when probes are built; until then nothing of it is refused
    // but the probe as a whole.
    probe.section("tls");
}

fn target(url: &Item<'_>) {
    const SCHEMES: [&str; 4] = ["http", "https", "tcp", "unix"];
    let Some(text) = url.word() else { return };
    let (scheme, rest) = text.split_once("://").unwrap_or(("", ""));
    if !SCHEMES.contains(&scheme) {
        let close = suggestion(scheme, SCHEMES);
        url.fault(format!(
            "{} must begin with http://, https://, tcp:// or unix://{close}",
            quoted(&text)
        ));
    } else if rest.is_empty() || (scheme == "unix") != rest.starts_with('/') {
        let example = match scheme {
            "unix" => "unix:///run/web.sock",
            "tcp" => "tcp://127.0.0.1:5432",
            _ => "http://127.0.0.1:8080/health",
        };
        url.fault(format!("{} names no target; such as {example} does", quoted(&text)));
    }
}
