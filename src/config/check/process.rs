//! One entry of `processes`: everything but its monitors, its recovery and its dependencies.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use figment::value::Value;
use regex::bytes::RegexBuilder;

use super::super::fault::quoted;
use super::super::section::{Item, Section};
use super::super::{
    InheritEnv, Limit, Matching, Output, OutputFile, Pattern, Process, Reader, Resource, RunAs,
};
use super::{Entry, dependencies, monitor, recovery};
use crate::event::ProcessName;

/// The longest of the short waits: a day.
pub(super) const DAY: f64 = 86_400.0;
/// What a compiled `match.cmdline` may take.
const LARGEST_PATTERN: usize = 1 << 20;
/// Keys that concern the start or the end of something on this machine.
const OF_A_COMMAND: [&str; 21] = [
    "args",
    "env",
    "inherit_env",
    "working_dir",
    "run_as_root",
    "run_as_user",
    "run_as_group",
    "umask",
    "limits",
    "nice",
    "oom_score_adj",
    "output",
    "output_max_bytes",
    "output_keep",
    "autostart",
    "standby",
    "match",
    "ready_after_secs",
    "stop",
    "recovery",
    "dependencies",
];

/// Reads the entry at `path`; `working_directory` is the default of `working_dir`.
pub(super) fn read(
    mut entry: Section<'_>,
    path: String,
    working_directory: &Path,
    reader: &Reader,
) -> Entry {
    let name = entry.required("name").and_then(|item| name(&item));
    let enabled = entry.flag("enabled").unwrap_or(true);
    let monitors = entry.required("monitor").and_then(|item| monitor::read(&item));
    let monitors = monitors.unwrap_or_default();
    let command = optional(entry.item("command"), || None, |item| command(&item).map(Some));
    let watch_only = !entry.has("command") && monitors.is_probe_only();
    if watch_only {
        for key in OF_A_COMMAND.into_iter().filter(|key| entry.has(key)) {
            entry.fault_at(key, "has no meaning without `command`: such an entry is only watched");
        }
    } else if !entry.has("command") {
        entry.fault("the key `command` is missing (only what is watched by `type: network` alone needs none)");
    }
    let args = optional(entry.item("args"), Vec::new, |args| args.texts());
    let env = optional(entry.item("env"), BTreeMap::new, |env| env.map_of_texts(wrong_variable));
    // PID 1 of a container and an ordinary user expect their variables to reach what they start.
    let inherit = || {
        let everything = reader.as_pid1 || !reader.as_root;
        if everything { InheritEnv::Everything } else { InheritEnv::Nothing }
    };
    let inherit_env = optional(entry.item("inherit_env"), inherit, |item| inherit_env(&item));
    let working_dir = optional(
        entry.item("working_dir"),
        || working_directory.to_path_buf(),
        |dir| dir.absolute_path(),
    );
    let (run_as, lacks_user) = run_as(&mut entry, reader, watch_only);
    let umask = entry.item("umask").and_then(|item| umask(&item));
    let limits = optional(entry.section("limits"), BTreeMap::new, limits);
    let nice = entry.integer("nice", -20..=19).and_then(|nice| i32::try_from(nice).ok());
    let oom_score_adj =
        entry.integer("oom_score_adj", -1000..=1000).and_then(|adj| i32::try_from(adj).ok());
    let output = output(&mut entry);
    let autostart = entry.flag("autostart").unwrap_or(true);
    if entry.flag("standby") == Some(true) {
        entry.fault_at("standby", "`standby: true` is not supported by this build");
    }
    let matching = entry.section("match").map(matching).unwrap_or_default();
    let ready_after = entry.seconds("ready_after_secs", 0.0..=DAY);
    let stop = recovery::stop(entry.section("stop"));
    let recovery = recovery::read(entry.section("recovery"));
    let depends_on = dependencies::read(&mut entry);
    entry.finish();

    let process = || {
        Some(Process {
            name: name.clone()?,
            enabled,
            command: command?,
            args: args?,
            env: env?,
            inherit_env: inherit_env?,
            working_dir: working_dir?,
            run_as: run_as?,
            umask,
            limits: limits?,
            nice,
            oom_score_adj,
            output: output?,
            autostart,
            matching,
            monitors: monitors.all,
            ready_after: ready_after.unwrap_or(Duration::from_secs(1)),
            stop: stop?,
            recovery,
            dependencies: depends_on.iter().map(|written| written.dependency.clone()).collect(),
        })
    };
    Entry {
        path,
        process: process(),
        name,
        depends_on,
        pid_file_at: monitors.pid_file_at,
        lacks_user: lacks_user && reader.file_only,
    }
}

/// `default` where nothing is written, else what `read` makes of it.
pub(super) fn optional<T, V>(
    written: Option<V>,
    default: impl FnOnce() -> T,
    read: impl FnOnce(V) -> Option<T>,
) -> Option<T> {
    match written {
        Some(written) => read(written),
        None => Some(default()),
    }
}

fn name(item: &Item<'_>) -> Option<ProcessName> {
    let text = item.text()?;
    let mut bytes = text.bytes();
    let wellformed = bytes.next().is_some_and(|first| first.is_ascii_alphanumeric())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_.@-".contains(&byte))
        && text.len() <= 64;
    if !wellformed {
        item.fault(format!(
            "{} is no name: 1 to 64 of A-Z a-z 0-9 _ . @ - are, beginning with a letter or digit",
            quoted(&text)
        ));
        return None;
    }
    if text == "healer" {
        item.fault("\"healer\" is healer's own name: choose another");
        return None;
    }
    Some(ProcessName::new(&text))
}

fn command(item: &Item<'_>) -> Option<PathBuf> {
    let text = item.word()?;
    if text.starts_with('/') {
        return item.absolute_path();
    }
    if text.contains('/') || text == "." || text == ".." {
        item.fault(format!(
            "must be an absolute path, or a bare name that PATH holds; {} is neither",
            quoted(&text)
        ));
        return None;
    }
    Some(text.into())
}

fn wrong_variable(name: &str) -> Option<&str> {
    (name.is_empty() || name.contains(['=', '\0']))
        .then_some("is no variable's name: it must not be empty nor contain = or NUL")
}

fn inherit_env(item: &Item<'_>) -> Option<InheritEnv> {
    match item.value {
        Value::Bool(_, true) => Some(InheritEnv::Everything),
        Value::Bool(_, false) => Some(InheritEnv::Nothing),
        Value::Array(..) => {
            let mut wellformed = true;
            for name in item.list()? {
                if let Some(wrong) = name.text().as_deref().and_then(wrong_variable) {
                    name.fault(wrong);
                    wellformed = false;
                }
            }
            item.texts().filter(|_| wellformed).map(InheritEnv::Only)
        }
        _ => item.expected("true, false or a list of variables"),
    }
}

/// Whose rights it gets, and whether a root healer would refuse for want of a word about that.
fn run_as(entry: &mut Section<'_>, reader: &Reader, watch_only: bool) -> (Option<RunAs>, bool) {
    let as_root = entry.flag("run_as_root");
    let user = entry.item("run_as_user");
    let group = entry.item("run_as_group");
    let user_written = user.is_some();
    let group_written = group.is_some();
    if watch_only {
        return (Some(RunAs::Healer), false);
    }
    let user = user.and_then(|item| account(&item));
    let group = group.and_then(|item| account(&item));
    if entry.has("run_as_root") && as_root.is_none() {
        return (None, false);
    }
    let run_as = match (as_root == Some(true), user_written) {
        (true, true) => {
            entry.fault_at(
                "run_as_user",
                "run_as_user and run_as_root: true exclude each other: remove one",
            );
            None
        }
        (false, true) if group_written && group.is_none() => None,
        (false, true) => user.map(|user| RunAs::User { user, group: group.clone() }),
        (true, false) => Some(RunAs::Root),
        (false, false) if reader.as_root => {
            entry.fault(
                "healer runs as root, so it must know whose rights this gets: say \
                 run_as_user: NAME, or run_as_root: true for all of root's rights",
            );
            None
        }
        (false, false) => Some(RunAs::Healer),
    };
    if group_written && !user_written {
        entry.fault_at("run_as_group", "has no meaning without run_as_user");
    }
    (run_as, as_root != Some(true) && !user_written)
}

/// A user or group: a name, or a number with or without quotes.
fn account(item: &Item<'_>) -> Option<String> {
    // The highest number means "no one" to the kernel.
    const HIGHEST: i64 = u32::MAX as i64 - 1;
    match item.value {
        Value::Num(..) => item.integer(0..=HIGHEST).map(|id| id.to_string()),
        _ => item.word(),
    }
}

fn umask(item: &Item<'_>) -> Option<u32> {
    let octal = match item.value {
        Value::String(_, text) if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => {
            u32::from_str_radix(text, 8).ok().filter(|umask| *umask <= 0o777)
        }
        _ => None,
    };
    octal.or_else(|| item.expected("an octal number in quotes from \"000\" to \"777\""))
}

fn limits(mut limits: Section<'_>) -> Option<BTreeMap<Resource, Limit>> {
    let mut read = BTreeMap::new();
    let mut whole = true;
    for (resource, key) in Resource::ALL {
        let Some(item) = limits.item(key) else { continue };
        match limit(&item) {
            Some(limit) => {
                read.insert(resource, limit);
            }
            None => whole = false,
        }
    }
    limits.finish();
    whole.then_some(read)
}

fn limit(item: &Item<'_>) -> Option<Limit> {
    let Value::Dict(..) = item.value else {
        let both = bound(item)?.number();
        return Some(Limit { soft: both, hard: both });
    };
    let mut section = item.section()?;
    let soft = section.required("soft").and_then(|item| bound(&item));
    let hard = section.required("hard").and_then(|item| bound(&item));
    section.finish();
    let (soft, hard) = (soft?, hard?);
    if soft > hard {
        item.fault("the soft limit must not be above the hard one");
        return None;
    }
    Some(Limit { soft: soft.number(), hard: hard.number() })
}

/// Ordered as the kernel orders them: unlimited is above every number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Bound {
    Number(u64),
    Unlimited,
}

impl Bound {
    fn number(self) -> Option<u64> {
        match self {
            Self::Number(number) => Some(number),
            Self::Unlimited => None,
        }
    }
}

fn bound(item: &Item<'_>) -> Option<Bound> {
    match item.value {
        Value::String(_, text) if text == "unlimited" => Some(Bound::Unlimited),
        Value::Num(..) => {
            let number = item.integer(0..=i64::MAX)?;
            u64::try_from(number).ok().map(Bound::Number)
        }
        _ => item.expected("a whole number, unlimited, or a map with soft and hard"),
    }
}

fn output(entry: &mut Section<'_>) -> Option<Output> {
    let max_bytes = entry.integer("output_max_bytes", 4096..=1 << 40);
    let keep = entry.integer("output_keep", 0..=100);
    let file = OutputFile {
        max_bytes: max_bytes.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(50 << 20),
        keep: keep.and_then(|keep| u32::try_from(keep).ok()).unwrap_or(3),
    };
    let Some(item) = entry.item("output") else { return Some(Output::Auto(file)) };
    let output = item.choice(&[
        ("auto", Output::Auto(file)),
        ("journal", Output::Journal),
        ("file", Output::File(file)),
        ("inherit", Output::Inherit),
        ("null", Output::Null),
    ])?;
    for key in ["output_max_bytes", "output_keep"] {
        let rotates = matches!(output, Output::Auto(_) | Output::File(_));
        if !rotates && entry.has(key) {
            entry.fault_at(key, "has a meaning with output: file or auto only");
        }
    }
    Some(output)
}

fn matching(mut section: Section<'_>) -> Matching {
    let exe = section.path("exe");
    let comm = section.item("comm").and_then(|item| comm(&item));
    let cmdline = section.item("cmdline").and_then(|item| pattern(&item));
    section.finish();
    Matching { exe, comm, cmdline }
}

fn comm(item: &Item<'_>) -> Option<String> {
    let comm = item.word()?;
    if comm.len() > 15 {
        item.fault(format!("is {} bytes long, the kernel keeps 15 of a name", comm.len()));
        return None;
    }
    Some(comm)
}

/// A regular expression.
pub(super) fn pattern(item: &Item<'_>) -> Option<Pattern> {
    let text = item.word()?;
    match RegexBuilder::new(&text).size_limit(LARGEST_PATTERN).build() {
        Ok(regex) => Some(Pattern(regex)),
        Err(error) => {
            // Its first lines draw the expression and point into it; the last one says what is wrong.
            let error = error.to_string();
            let reason = error.lines().last().unwrap_or_default();
            let reason = reason.strip_prefix("error: ").unwrap_or(reason);
            item.fault(format!("{} is no regular expression: {reason}", quoted(&text)));
            None
        }
    }
}
