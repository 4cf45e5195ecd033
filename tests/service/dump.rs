//! What a process was given, as JSON: identity, rights, limits, environment, descriptors, signals.

use std::collections::BTreeMap;
use std::path::Path;
use std::{env, fs};

use serde_json::{Value, json};

/// Writes the dump beside `path` and renames it, so that a reader sees all or nothing.
pub fn write(path: &Path) {
    let beside = path.with_extension("new");
    fs::write(&beside, dump().to_string()).unwrap();
    fs::rename(&beside, path).unwrap();
}

fn dump() -> Value {
    // First, before this function's own descriptors count.
    let descriptors = descriptors();
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    // After the command name, which may hold anything: state is the third field of proc(5).
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let environment: BTreeMap<String, String> = env::vars().collect();
    json!({
        "pid": std::process::id(),
        "process_group": fields[2],
        "session": fields[3],
        "nice": fields[16],
        "status": status(),
        "limits": fs::read_to_string("/proc/self/limits").unwrap(),
        "oom_score_adj": fs::read_to_string("/proc/self/oom_score_adj").unwrap().trim(),
        "env": environment,
        "cwd": env::current_dir().unwrap(),
        "descriptors": descriptors,
    })
}

/// The lines of `/proc/self/status` that tell rights and signals.
fn status() -> BTreeMap<String, String> {
    let wanted = ["Uid", "Gid", "Groups", "Umask", "NoNewPrivs", "SigBlk", "SigIgn", "SigCgt"];
    let text = fs::read_to_string("/proc/self/status").unwrap();
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(key, _)| wanted.contains(key) || key.starts_with("Cap"))
        .map(|(key, value)| {
            (key.to_owned(), value.split_whitespace().collect::<Vec<_>>().join(" "))
        })
        .collect()
}

/// The open descriptors above the standard ones, each with what it refers to; the witness's
/// journal, which this program opened itself, is left out.
fn descriptors() -> BTreeMap<String, String> {
    fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let target = fs::read_link(entry.path()).ok()?.to_string_lossy().into_owned();
            let number = entry.file_name().to_string_lossy().into_owned();
            Some((number, target))
        })
        .filter(|(number, target)| {
            number.parse::<u32>().unwrap() > 2
                && !target.ends_with(".journal")
                && !target.contains("/proc/")
        })
        .collect()
}
