//! From the text of a configuration to a [`Config`], or to every file fault at once.
//!
//! Pure: what the machine has or lacks is `preflight`'s. Called by `load`. Every default of the
//! format is in this file or in those below it, and nowhere else.
//!
//! figment lays file over defaults and the environment over both. It would stop at the first fault,
//! so it only merges; the merged values are read key by key (see `section`).

mod dependencies;
mod monitor;
mod network;
mod process;
mod recovery;
mod url;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};

use super::fault::{Fault, Faults, Spot, under};
use super::section::Section;
use super::{Config, Log, LogFormat, LogLevel, Process, Reader, file, listed};
use crate::event::ProcessName;

/// The environment variables that are keys of the configuration, each with its key. No other counts.
pub const VARIABLES: [(&str, &str); 6] = [
    ("HEALER_LOG_LEVEL", "log_level"),
    ("HEALER_LOG_FORMAT", "log_format"),
    ("HEALER_LOG_DIRECTORY", "log_directory"),
    ("HEALER_PID_FILE_DIRECTORY", "pid_file_directory"),
    ("HEALER_WORKING_DIRECTORY", "working_directory"),
    ("HEALER_MAX_PARALLEL_LAUNCHES", "max_parallel_launches"),
];

/// The default of `pid_file_directory`.
const PID_FILE_DIRECTORY: &str = "/run/healer";

/// The values of those of [`VARIABLES`] that are set, by their key.
pub type Environment = BTreeMap<&'static str, String>;

/// A configuration without faults, and what its author should know all the same.
#[derive(Debug)]
pub struct Checked {
    /// The configuration.
    pub config: Config,
    /// One sentence fragment each.
    pub warnings: Vec<String>,
}

/// Every file fault, without marks yet.
#[derive(Debug)]
pub struct Refused {
    /// At least one.
    pub faults: Vec<Fault>,
    /// Whether there are more, which nobody would read.
    pub more: bool,
}

/// Reads `bytes`, the whole of a `config.yaml`.
///
/// # Errors
/// Whatever is wrong in the text or in the environment's values.
pub fn check(bytes: &[u8], environment: &Environment, reader: &Reader) -> Result<Checked, Refused> {
    let faults = Faults::default();
    let checked = file::parse(bytes, &faults)
        .map(|dict| merged(dict, environment))
        .and_then(|dict| config(Section::new(&dict, String::new(), &faults), &faults, reader));
    match checked {
        Some(checked) if faults.is_empty() => Ok(checked),
        _ => {
            let (mut faults, more) = faults.into_parts();
            for fault in &mut faults {
                let key = |(_, key): &&(&str, &str)| *key == fault.path;
                let variable = VARIABLES.iter().find(key).filter(|_| fault.spot == Spot::Value);
                if let Some((variable, _)) =
                    variable.filter(|(_, key)| environment.contains_key(key))
                {
                    fault.spot = Spot::Variable((*variable).to_owned());
                }
            }
            Err(Refused { faults, more })
        }
    }
}

/// `pid_file_directory` alone, of a text that may have any fault; where it does not tell, the
/// default.
#[must_use]
pub fn pid_file_directory(bytes: &[u8], environment: &Environment) -> PathBuf {
    let faults = Faults::default();
    let file = file::parse(bytes, &faults).unwrap_or_default();
    let merged = merged(file, environment);
    let told = Section::new(&merged, String::new(), &faults).path("pid_file_directory");
    told.unwrap_or_else(|| PID_FILE_DIRECTORY.into())
}

/// One layer of figment's.
struct Layer {
    name: &'static str,
    values: Dict,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name)
    }

    fn data(&self) -> figment::Result<Map<Profile, Dict>> {
        Ok(Profile::Default.collect(self.values.clone()))
    }
}

fn defaults() -> Dict {
    let text = |key: &str, value: &str| (key.to_owned(), Value::from(value));
    Dict::from([
        text("log_level", "info"),
        text("log_format", "text"),
        text("log_directory", "/var/log/healer"),
        text("pid_file_directory", PID_FILE_DIRECTORY),
        text("working_directory", "/"),
        ("max_parallel_launches".to_owned(), Value::from(16_u32)),
    ])
}

/// Defaults, under the file, under the environment. `processes` has one layer only and stays out of
/// figment's hands, which would copy it several times.
fn merged(mut file: Dict, environment: &Environment) -> Dict {
    let processes = file.remove_entry("processes");
    // `key:` with nothing behind it is a key that is not given.
    file.retain(|_, value| !matches!(value, Value::Empty(..)));
    let variables = environment.iter().map(|(key, text)| {
        let number = text.parse::<i64>().ok().filter(|_| *key == "max_parallel_launches");
        ((*key).to_owned(), number.map_or_else(|| Value::from(text.as_str()), Value::from))
    });
    let figment = Figment::from(Layer { name: "defaults", values: defaults() })
        .merge(Layer { name: "file", values: file })
        .merge(Layer { name: "environment", values: variables.collect() });
    let mut merged = figment
        .data()
        .ok()
        .and_then(|mut profiles| profiles.remove(&Profile::Default))
        .expect("layers of values that are at hand cannot fail");
    merged.extend(processes);
    merged
}

fn config(mut top: Section<'_>, faults: &Faults, reader: &Reader) -> Option<Checked> {
    let level = top.choice(
        "log_level",
        &[
            ("error", LogLevel::Error),
            ("warn", LogLevel::Warn),
            ("info", LogLevel::Info),
            ("debug", LogLevel::Debug),
            ("trace", LogLevel::Trace),
        ],
    );
    let format = top.choice("log_format", &[("text", LogFormat::Text), ("json", LogFormat::Json)]);
    let log_directory = top.path("log_directory");
    let pid_file_directory = top.path("pid_file_directory");
    let working_directory = top.path("working_directory");
    let launches = top.integer("max_parallel_launches", 1..=1024);
    let items = top.item("processes").map(|item| item.list().unwrap_or_default());
    if items.is_none() {
        top.fault("the key `processes` is missing (`processes: []` guards nothing)");
    }
    top.finish();

    let place = working_directory.clone().unwrap_or_else(|| PathBuf::from("/"));
    let entries: Vec<Entry> = items
        .unwrap_or_default()
        .iter()
        .take_while(|_| !faults.overflow())
        .filter_map(|item| Some((item.section()?, item.path.clone())))
        .map(|(section, path)| process::read(section, path, &place, reader))
        .collect();
    check_names(&entries, faults);
    dependencies::check(&entries, faults);
    check_pid_files(&entries, pid_file_directory.as_ref(), faults);
    check_likeness(&entries, faults);

    let warnings = warnings(&entries);
    let config = Config {
        log: Log { level: level?, format: format?, directory: log_directory? },
        pid_file_directory: pid_file_directory?,
        working_directory: working_directory?,
        max_parallel_launches: usize::try_from(launches?).ok()?,
        processes: entries
            .into_iter()
            .map(|entry| entry.process.map(Arc::new))
            .collect::<Option<_>>()?,
    };
    Some(Checked { config, warnings })
}

/// One element of `processes`, as far as it could be read.
struct Entry {
    path: String,
    name: Option<ProcessName>,
    process: Option<Process>,
    depends_on: Vec<dependencies::Written>,
    /// Where `pid_file_path` is written.
    pid_file_at: Option<String>,
    lacks_user: bool,
}

/// Enabled entries that could be read whole.
fn enabled(entries: &[Entry]) -> impl Iterator<Item = (&Entry, &Process)> {
    entries
        .iter()
        .filter_map(|entry| Some((entry, entry.process.as_ref()?)))
        .filter(|(_, process)| process.enabled)
}

fn check_names(entries: &[Entry], faults: &Faults) {
    let mut seen: BTreeMap<&ProcessName, &str> = BTreeMap::new();
    for entry in entries {
        let Some(name) = &entry.name else { continue };
        if let Some(first) = seen.get(name) {
            let message = format!("\"{name}\" is the name of {first} already: names are unique");
            faults.add(under(&entry.path, "name"), Spot::Value, message);
        } else {
            seen.insert(name, &entry.path);
        }
    }
}

fn check_pid_files(entries: &[Entry], own_directory: Option<&PathBuf>, faults: &Faults) {
    let own = own_directory.map(|directory| directory.join("healer.pid"));
    let mut seen = BTreeMap::new();
    for (entry, process) in enabled(entries) {
        let (Some(path), Some(at)) = (process.pid_file(), &entry.pid_file_at) else { continue };
        if own.as_deref() == Some(path) {
            faults.add(at, Spot::Value, format!("{} is healer's own PID file", path.display()));
        } else if let Some(first) = seen.insert(path, &process.name) {
            let message = format!("{} is the PID file of \"{first}\" already", path.display());
            faults.add(at, Spot::Value, message);
        }
    }
}

/// Two entries that no rule could tell apart would each take the other's process for its own. PID
/// files tell them apart where both have one: whoever has none takes any process that looks right.
fn check_likeness(entries: &[Entry], faults: &Faults) {
    let mut seen: BTreeMap<_, Vec<&Process>> = BTreeMap::new();
    for (entry, process) in enabled(entries).filter(|(_, process)| !process.is_watch_only()) {
        let alike = seen.entry((&process.command, &process.args)).or_default();
        let twin = |other: &&&Process| {
            other.run_as == process.run_as
                && other.matching == process.matching
                && (other.pid_file().is_none() || process.pid_file().is_none())
        };
        if let Some(twin) = alike.iter().find(twin) {
            let message = format!(
                "nothing tells it from \"{}\": command, args, user and match are the same; \
                 give one a `match`, or each a `monitor` with a pid_file_path",
                twin.name
            );
            faults.add(entry.path.as_str(), Spot::Value, message);
        }
        alike.push(process);
    }
}

fn warnings(entries: &[Entry]) -> Vec<String> {
    let lacking: Vec<&str> = entries
        .iter()
        .filter(|entry| entry.lacks_user)
        .filter_map(|entry| entry.name.as_ref().map(ProcessName::as_str))
        .collect();
    let user = listed(&lacking).map(|names| {
        format!(
            "{names}: neither run_as_user nor run_as_root: true is given; \
             a healer that runs as root refuses that"
        )
    });
    let insecure = |process: &&Process| process.probe().is_some_and(|probe| probe.is_insecure());
    let believing: Vec<&str> = enabled(entries)
        .map(|(_, process)| process)
        .filter(insecure)
        .map(|process| process.name.as_str())
        .collect();
    let believing = listed(&believing).map(|names| {
        format!(
            "{names}: with tls.insecure: true nobody's certificate is checked, so that whoever answers \
             the probe is believed; ca_file is the way to trust one's own certificate"
        )
    });
    user.into_iter().chain(believing).chain(dependencies::warnings(entries)).collect()
}

#[cfg(test)]
mod tests;
