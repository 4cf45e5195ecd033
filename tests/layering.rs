//! Imports run one way: which module may name which, and what the deciding ones may not touch.
//!
//! Reads every `crate::`, `super::` and `self::` path of `src/`, imports and full paths alike.
//! Comments, strings and test code do not count. The rules are [`ROOMS`]; `docs/architecture.md`
//! says why they are so.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

use rstest::rstest;

/// A module, with those below it that have no room of their own.
struct Room {
    name: &'static str,
    /// Decides only: time is passed in, and nothing outside is read or done.
    pure: bool,
    /// The rooms it may name, those below them included. Its own parents it always may.
    imports: &'static [&'static str],
}

const fn pure(name: &'static str, imports: &'static [&'static str]) -> Room {
    Room { name, pure: true, imports }
}

const fn shell(name: &'static str, imports: &'static [&'static str]) -> Room {
    Room { name, pure: false, imports }
}

/// What the outermost modules may name.
const ANYTHING: &[&str] = &["*"];

/// All a monitor needs; never a sibling.
const FOR_MONITORS: &[&str] = &["bus", "clock", "config", "event", "instance", "wake"];

/// The rules. A new module gets its line here, in the order of `src/lib.rs`.
const ROOMS: &[Room] = &[
    shell("cli", ANYTHING),
    pure("event", &[]),
    shell("clock", &["event"]),
    shell("users", &[]),
    shell("trust", &[]),
    pure("graph", &["event"]),
    shell("config", &["graph", "event"]),
    pure("config::file", &["config", "graph", "event"]),
    pure("config::check", &["config", "graph", "event"]),
    pure("config::probe", &[]),
    shell("preflight", &["config", "event", "instance", "trust", "users"]),
    shell("bus", &["event"]),
    shell("instance", &["clock", "config", "event", "users"]),
    shell("wake", &["event", "instance"]),
    shell("monitor", FOR_MONITORS),
    shell("monitor::pid", FOR_MONITORS),
    shell("monitor::network", &["bus", "clock", "config", "event", "instance", "trust", "wake"]),
    pure("monitor::network::health", &["config", "event"]),
    pure("monitor::network::rounds", &["config", "event", "monitor::network::health"]),
    shell("monitor::ebpf", FOR_MONITORS),
    pure("coordinator", &["config", "event"]),
    pure("breaker", &["config", "event"]),
    pure("lifecycle", &["config", "event"]),
    shell("state", &["breaker", "clock", "config", "event", "instance", "lifecycle"]),
    pure("state::memory", &["breaker", "event", "lifecycle"]),
    shell("launch", &["clock", "config", "event", "instance", "users"]),
    shell(
        "recovery",
        &[
            "breaker",
            "bus",
            "clock",
            "config",
            "coordinator",
            "event",
            "graph",
            "instance",
            "launch",
            "lifecycle",
            "monitor",
            "preflight",
            "state",
            "wake",
        ],
    ),
    pure(
        "recovery::plan",
        &[
            "breaker",
            "config",
            "coordinator",
            "event",
            "lifecycle",
            "recovery::status",
            "state::memory",
        ],
    ),
    pure("recovery::status", &["breaker", "config", "event", "lifecycle"]),
    shell("signals", &[]),
    shell("logging", &["config", "event"]),
    shell("control", &[]),
    pure("control::protocol", &[]),
    pure("control::table", &["control::protocol"]),
    shell("control::client", &["control::protocol", "control::socket"]),
    shell("control::socket", &["users"]),
    shell("control::history", &["bus", "clock", "event"]),
    shell(
        "control::report",
        &[
            "clock",
            "config",
            "control::history",
            "control::protocol",
            "event",
            "preflight",
            "recovery::status",
        ],
    ),
    shell(
        "control::routes",
        &[
            "clock",
            "config",
            "control::history",
            "control::protocol",
            "control::report",
            "control::socket",
            "event",
            "recovery",
        ],
    ),
    shell(
        "control::server",
        &[
            "bus",
            "control::history",
            "control::report",
            "control::routes",
            "control::socket",
            "recovery",
        ],
    ),
    shell("operator", ANYTHING),
    shell("demo", ANYTHING),
    shell("daemon", ANYTHING),
];

/// Modules whose every file needs a room of its own.
const SPLIT: &[&str] = &["control", "monitor"];

/// What pure modules may not name: the runtime, files, processes, networks, logs and clocks.
const IMPURE: &[&str] = &[
    "tokio",
    "tracing",
    "rustix",
    "procfs",
    "inotify",
    "nix::unistd",
    "nix::time",
    "nix::sys::time",
    "std::env",
    "std::fs",
    "std::net",
    "std::os::unix",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
];

/// Files whose single module is pure although its neighbours' room is not.
const PURE_FILES: &[&str] = &["config", "monitor::ebpf::cause"];

#[test]
fn imports_run_one_way() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut faults = Vec::new();
    let mut files = Vec::new();
    collect(&src, &mut files);
    assert!(!files.is_empty(), "{} holds the modules", src.display());
    for file in files {
        let path = file.strip_prefix(&src).unwrap().to_str().unwrap().to_owned();
        if let Some(module) = module_of(&path) {
            let text = fs::read_to_string(&file).unwrap();
            let found = faults_of(&module, &text);
            faults.extend(found.into_iter().map(|fault| format!("src/{path}: {fault}")));
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[rstest]
#[case::later_module("event", "use crate::config::Config;", "event may not import config")]
#[case::group("graph", "use crate::{event, config::{Config, Process}};", "may not import config")]
#[case::nested_group("breaker", "use crate::{config::{self}, lifecycle};", "import lifecycle")]
#[case::glob("bus", "use crate::recovery::*;", "bus may not import recovery")]
#[case::full_path("breaker", "fn f() -> crate::lifecycle::Input { }", "import lifecycle")]
#[case::sibling("monitor::pid", "use super::ebpf::Probe;", "may not import monitor::ebpf")]
#[case::upwards_by_super("breaker", "use super::lifecycle::Input;", "may not import lifecycle")]
#[case::below_a_pure_plan("recovery::plan", "use crate::launch::Launcher;", "import launch")]
#[case::runtime("breaker", "use tokio::sync::mpsc;", "breaker is pure, but names tokio")]
#[case::files("config", "fn f() { std::fs::read(path); }", "config is pure, but names std::fs")]
#[case::clock("lifecycle", "use std::{sync::Arc, time::{Duration, Instant}};", "time::Instant")]
#[case::log("recovery::plan", "fn f() { tracing::info!(\"x\"); }", "but names tracing")]
#[case::after_a_quote("breaker", "const C: char = '\"'; use crate::bus::Bus;", "import bus")]
#[case::after_a_lifetime("breaker", "fn f<'a>(x: &'a str) { crate::bus::f('x') }", "import bus")]
#[case::unknown("novelty", "", "novelty has no rule: add it to ROOMS in tests/layering.rs")]
#[case::unknown_monitor("monitor::psychic", "", "monitor::psychic has no rule")]
fn fault_is_found(#[case] module: &str, #[case] text: &str, #[case] fault: &str) {
    let faults = faults_of(module, text);
    assert!(faults.len() == 1 && faults[0].contains(fault), "{faults:?}");
}

#[rstest]
#[case::lower_module("breaker", "use crate::config::Breaker;\nuse crate::event::Time;")]
#[case::duration("breaker", "use std::time::Duration;")]
#[case::parent("monitor::pid", "use super::Monitor;\nuse crate::monitor::News;")]
#[case::itself("instance::who", "use super::table::Table; use crate::instance::left;")]
#[case::comment("event", "/* crate::bus /* nested */ */ //! tokio::sync\n/// crate::bus\n")]
#[case::string("event", r##"const S: &str = "crate::bus \" x"; const R: &str = r#"tokio::x"#;"##)]
#[case::test_module("event", "#[cfg(test)]\nmod tests { use crate::bus::Bus; fn f() {} }")]
#[case::test_item("event", "#[cfg(test)]\n#[expect(x)]\nuse crate::bus::Bus;")]
#[case::outermost("daemon", "use crate::recovery; use tokio::select;")]
fn allowed_source_has_no_fault(#[case] module: &str, #[case] text: &str) {
    assert_eq!(faults_of(module, text), Vec::<String>::new());
}

/// All Rust files below a directory.
fn collect(dir: &Path, files: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
}

/// The module in a file of `src/`; `None` for the crate's roots and for test code.
fn module_of(path: &str) -> Option<String> {
    let path = path.strip_suffix(".rs")?;
    let path = path.strip_suffix("/mod").unwrap_or(path);
    let stem = path.rsplit('/').next()?;
    let for_tests = ["tests", "fixture"].contains(&stem) || stem.ends_with("_tests");
    let root = ["lib", "main"].contains(&path);
    (!for_tests && !root).then(|| path.replace('/', "::"))
}

/// What a module's text breaks.
fn faults_of(module: &str, text: &str) -> Vec<String> {
    let Some(room) = room_of(module) else {
        return vec![format!("{module} has no rule: add it to ROOMS in tests/layering.rs")];
    };
    let is_pure = room.pure || PURE_FILES.contains(&module);
    let mut faults = Vec::new();
    for path in paths(&without_test_items(&tokens(text))) {
        if let Some(target) = target_of(module, &path) {
            if !may_import(room, &target) {
                let target = room_of(&target).map_or(target.as_str(), |target| target.name);
                faults.push(format!("{} may not import {target}", room.name));
            }
        } else if is_pure {
            let path = path.join("::");
            if let Some(what) = IMPURE.iter().find(|what| is_or_is_in(&path, what)) {
                faults.push(format!("{module} is pure, but names {what}"));
            }
        }
    }
    faults.sort();
    faults.dedup();
    faults
}

/// The room that holds a module.
fn room_of(module: &str) -> Option<&'static Room> {
    let rooms = ROOMS.iter().filter(|room| is_or_is_in(module, room.name));
    let room = rooms.max_by_key(|room| room.name.len())?;
    (room.name == module || !SPLIT.contains(&room.name)).then_some(room)
}

/// Whether a path is `outer`, or begins with it.
fn is_or_is_in(path: &str, outer: &str) -> bool {
    path.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn may_import(room: &Room, target: &str) -> bool {
    // What a split module itself holds has no room below it.
    let name = room_of(target).map_or_else(
        || target.split_once("::").map_or(target, |(first, _)| first),
        |target| target.name,
    );
    is_or_is_in(room.name, name)
        || is_or_is_in(name, room.name)
        || room.imports.iter().any(|allowed| *allowed == "*" || is_or_is_in(name, allowed))
}

/// The absolute path within the crate that a path in `module` names; `None` where it leads out.
fn target_of(module: &str, path: &[String]) -> Option<String> {
    let mut base: Vec<&str> = module.split("::").collect();
    let mut rest = path;
    match rest.first()?.as_str() {
        "crate" => base.clear(),
        "self" => {}
        "super" => {
            base.pop();
            while rest.get(1).is_some_and(|next| next == "super") {
                base.pop();
                rest = &rest[1..];
            }
        }
        _ => return None,
    }
    base.extend(rest[1..].iter().map(String::as_str));
    (!base.is_empty()).then(|| base.join("::"))
}

/// A token: a word, `::`, or a single other character.
type Token = String;

/// Rust's tokens, as far as paths need them; comments and literals are left out.
fn tokens(text: &str) -> Vec<Token> {
    let text: Vec<char> = text.chars().collect();
    let at = |index: usize| text.get(index).copied().unwrap_or('\0');
    let mut tokens = Vec::new();
    let mut i = 0;
    while i < text.len() {
        let c = text[i];
        if c == '/' && at(i + 1) == '/' {
            while i < text.len() && text[i] != '\n' {
                i += 1;
            }
        } else if c == '/' && at(i + 1) == '*' {
            i = after_block_comment(&text, i);
        } else if c == '"' {
            i = after_string(&text, i);
        } else if c == 'r' && (at(i + 1) == '"' || at(i + 1) == '#' && "\"#".contains(at(i + 2))) {
            i = after_raw_string(&text, i);
        } else if c == '\'' && (at(i + 1) == '\\' || at(i + 2) == '\'') {
            // A character, not a lifetime: an escape ends at the next quote after its first sign.
            i += if at(i + 1) == '\\' { 3 } else { 2 };
            while i < text.len() && text[i] != '\'' {
                i += 1;
            }
            i += 1;
        } else if c.is_alphanumeric() || c == '_' {
            let start = i;
            while at(i).is_alphanumeric() || at(i) == '_' {
                i += 1;
            }
            tokens.push(text[start..i].iter().collect());
        } else if c == ':' && at(i + 1) == ':' {
            tokens.push("::".to_owned());
            i += 2;
        } else {
            if !c.is_whitespace() {
                tokens.push(c.to_string());
            }
            i += 1;
        }
    }
    tokens
}

fn after_block_comment(text: &[char], start: usize) -> usize {
    let (mut depth, mut i) = (0, start);
    while i < text.len() {
        match &text[i..text.len().min(i + 2)] {
            ['/', '*'] => (depth, i) = (depth + 1, i + 2),
            ['*', '/'] => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
        if depth == 0 {
            break;
        }
    }
    i
}

fn after_string(text: &[char], start: usize) -> usize {
    let mut i = start + 1;
    while i < text.len() && text[i] != '"' {
        i += if text[i] == '\\' { 2 } else { 1 };
    }
    i + 1
}

fn after_raw_string(text: &[char], start: usize) -> usize {
    let hashes = text[start + 1..].iter().take_while(|c| **c == '#').count();
    let mut end = vec!['"'];
    end.extend(std::iter::repeat_n('#', hashes));
    let body = start + hashes + 2;
    let length = text[body..].windows(end.len()).position(|window| window == end);
    length.map_or(text.len(), |length| body + length + end.len())
}

/// Drops every item under `#[cfg(test)]`.
fn without_test_items(tokens: &[Token]) -> Vec<Token> {
    let mark = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut kept = Vec::new();
    let mut i = 0;
    while i < tokens.len() {
        if !tokens[i..].iter().map(String::as_str).take(mark.len()).eq(mark) {
            kept.push(tokens[i].clone());
            i += 1;
            continue;
        }
        // To the end of the item: its closing brace, or a semicolon outside of any.
        let mut depth = 0;
        while let Some(token) = tokens.get(i) {
            i += 1;
            match token.as_str() {
                "{" => depth += 1,
                "}" if depth == 1 => break,
                "}" => depth -= 1,
                ";" if depth == 0 => break,
                _ => {}
            }
        }
    }
    kept
}

/// Every path of two or more parts, groups spelled out.
fn paths(tokens: &[Token]) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    let mut i = 0;
    while i < tokens.len() {
        if is_word(&tokens[i]) && tokens.get(i + 1).is_some_and(|next| next == "::") {
            i = tree(tokens, i, &[], &mut paths);
        } else {
            i += 1;
        }
    }
    paths
}

/// Reads a path, or a tree of them, that begins at `i`; returns where it ends.
fn tree(tokens: &[Token], mut i: usize, prefix: &[String], paths: &mut Vec<Vec<String>>) -> usize {
    let mut path = prefix.to_vec();
    loop {
        match tokens.get(i).map(String::as_str) {
            Some("{") => {
                i += 1;
                while tokens.get(i).is_some_and(|token| token != "}") {
                    let after = tree(tokens, i, &path, paths);
                    // A comma, an `as NAME`, or the braces of an expression.
                    i = if after == i { i + 1 } else { after };
                }
                return i + 1;
            }
            Some(word) if is_word(word) => {
                // `{self}` names the prefix.
                if word != "self" || path.is_empty() {
                    path.push(word.to_owned());
                }
                i += 1;
                if tokens.get(i).is_some_and(|next| next == "::") {
                    i += 1;
                    continue;
                }
            }
            _ => {}
        }
        if path.len() > prefix.len() || tokens.get(i - 1).is_some_and(|last| last == "self") {
            paths.push(path);
        }
        return i;
    }
}

fn is_word(token: &str) -> bool {
    token.chars().all(|c| c.is_alphanumeric() || c == '_')
}
