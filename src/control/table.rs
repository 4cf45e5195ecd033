//! The documents as people are shown them: a table that fits 100 columns, or one process in full.
//!
//! Pure: text in, text out; `protocol` has the documents. What others chose (a comm, a reason) is
//! cleaned of control characters before it reaches a terminal. Called by `operator`.

use std::fmt::Write as _;
use std::time::Duration;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::protocol::{Exit, Killer, Line, Outcome, Process, Reload, Status};

/// The widest that the table gets.
const WIDTH: usize = 100;
/// Between two columns.
const GAP: usize = 2;
/// The names of the columns.
const HEADINGS: [&str; 8] =
    ["NAME", "STATE", "PID", "UPTIME", "FAILED", "BREAKER", "LAST EXIT", "WHY"];
/// Which column is cut how far where not all fits, one after the other: who killed it is the last to
/// go. At the end all are, with the gaps, [`WIDTH`] together.
const CUTS: [(usize, usize); 10] =
    [(7, 16), (0, 20), (6, 24), (7, 11), (0, 12), (6, 14), (1, 19), (5, 10), (4, 7), (3, 6)];

/// Whether to colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colours {
    /// For a terminal.
    Ansi,
    /// For everything else.
    None,
}

/// How much a state calls for attention.
#[derive(Clone, Copy)]
enum Tone {
    Calm,
    Passing,
    Alarm,
}

/// The daemon's own lines, and a line for each process.
#[must_use]
pub fn status(status: &Status, colours: Colours) -> String {
    let mut text = String::new();
    let up = span(status.uptime_secs);
    line(
        &mut text,
        &format!("healer {}, PID {}, up {up}, {}", status.version, status.pid, status.config),
    );
    let width = WIDTH - "capabilities  ".len();
    let mut own = |label: &str, value: &str| {
        for (number, part) in wrapped(&clean(value), width).iter().enumerate() {
            let label = if number == 0 { label } else { "" };
            line(&mut text, &format!("{label:<14}{part}"));
        }
    };
    own("capabilities", &capabilities(&status.capabilities));
    own("eBPF", &ebpf(status));
    own("last reload", &last_reload(status.last_reload.as_ref()));
    for fault in &status.host_faults {
        own("host fault", &format!("{}: {}", fault.key, fault.message));
    }
    text.push('\n');
    if status.processes.is_empty() {
        text.push_str("no processes are configured\n");
    } else {
        table(&mut text, &status.processes, colours);
    }
    text
}

/// Everything about one process.
#[must_use]
pub fn process(process: &Process, colours: Colours) -> String {
    let mut text = String::new();
    let mut row = |label: &str, value: &str| {
        line(&mut text, &format!("{label:<14}{}", clean(value)));
    };
    row("name", &process.name);
    let state = match &process.since {
        Some(since) => format!("{}, since {since}", state_in_full(process)),
        None => state_in_full(process),
    };
    row("state", &state);
    if let Some(reason) = &process.reason {
        row("reason", reason);
    }
    if let Some(paused) = &process.paused {
        let until = paused.until.as_ref().map(|until| format!(", until {until}"));
        row("paused", &format!("by {}{}", paused.by, until.unwrap_or_default()));
    }
    if let Some(instance) = &process.instance {
        let found = if instance.adopted { "adopted, " } else { "" };
        let (up, at) = (span(instance.uptime_secs), &instance.started_at);
        row("instance", &format!("PID {}, {found}up {up}, since {at}", instance.pid));
    }
    if process.enabled {
        let failures = &process.failures;
        row(
            "failures",
            &format!(
                "{} of {} in {}",
                failures.count,
                failures.retries,
                span(failures.window_secs)
            ),
        );
        let until = process.breaker.until.as_ref().map(|until| format!(" until {until}"));
        let phase = process.breaker.phase.replace('_', "-");
        row("breaker", &format!("{phase}{}", until.unwrap_or_default()));
    }
    if let Some(exit) = &process.last_exit {
        row("last exit", &last_exit_in_full(exit));
    }
    if let Some(failure) = &process.launch_failure {
        let ago = span(failure.ago_secs);
        row("launch failed", &format!("{} ({ago} ago, {})", failure.reason, failure.at));
    }
    for wait in &process.waiting_for {
        let changes = wait.changes.as_ref().map(|at| format!(" until {at}"));
        let limit = wait.until.as_ref().map(|at| format!(" (max_wait_secs: until {at})"));
        let (changes, limit) = (changes.unwrap_or_default(), limit.unwrap_or_default());
        row("waiting for", &format!("{}: {}{changes}{limit}", wait.process, wait.reason));
    }
    if let Some(degraded) = degraded(process) {
        row("degraded", &degraded);
    }
    for fault in &process.host_faults {
        row("host fault", &format!("{}: {}", fault.key, fault.message));
    }
    coloured_state(&text, process, colours)
}

/// What came of a request.
#[must_use]
pub fn outcome(outcome: &Outcome) -> String {
    let process = &outcome.process;
    let mut text = format!("{}: {}", process.name, state_in_full(process));
    if let Some(instance) = &process.instance {
        let _ = write!(text, ", PID {}", instance.pid);
    }
    for reason in process.reason.iter().filter(|_| !outcome.done) {
        let _ = write!(text, " ({reason})");
    }
    clean(&text) + "\n"
}

/// What came of a reload; its faults each on a line.
#[must_use]
pub fn reload(reload: &Reload) -> String {
    let mut text = String::new();
    if reload.taken {
        line(&mut text, &format!("reloaded, {}", processes(reload.processes)));
    } else {
        line(&mut text, "refused; the configuration is as before");
    }
    let told = [("fault", &reload.faults), ("warning", &reload.warnings)];
    let told = told.into_iter().chain([("host fault", &reload.host_faults)]);
    for (kind, texts) in told {
        for told in texts {
            line(&mut text, &format!("{kind}: {}", clean(told)));
        }
    }
    for key in &reload.needs_restart {
        line(
            &mut text,
            &format!(
                "warning: {key}: for healer itself, this change takes effect when it is restarted"
            ),
        );
    }
    text
}

/// One event.
#[must_use]
pub fn event(event: &Line) -> String {
    let process = event.process.as_deref().unwrap_or("healer");
    clean(&format!("{} {process}: {}", event.at, event.text)) + "\n"
}

fn line(text: &mut String, whole: &str) {
    text.push_str(whole.trim_end());
    text.push('\n');
}

fn capabilities(names: &[String]) -> String {
    match names.len() {
        0 => "none".to_owned(),
        // All of root's would fill eight lines.
        count @ 9.. => format!("{count}, listed by status --json"),
        _ => names.join(", "),
    }
}

fn ebpf(status: &Status) -> String {
    match (&status.ebpf.reason, &status.ebpf.lost) {
        _ if status.ebpf.loaded => "loaded".to_owned(),
        (Some(reason), Some(lost)) => format!("not loaded: {reason}; lost: {lost}"),
        (reason, _) => format!("not loaded: {}", reason.as_deref().unwrap_or("unknown")),
    }
}

fn last_reload(reload: Option<&Reload>) -> String {
    let Some(reload) = reload else { return "none".to_owned() };
    let ago = span(reload.ago_secs);
    if reload.taken {
        return format!("{ago} ago, taken, {}", processes(reload.processes));
    }
    let more = match reload.faults.len() {
        0 | 1 => String::new(),
        count => format!(" (and {} more)", count - 1),
    };
    let fault = reload.faults.first().map_or("", String::as_str);
    format!("{ago} ago, refused: {fault}{more}")
}

fn processes(count: usize) -> String {
    format!("{count} {}", if count == 1 { "process" } else { "processes" })
}

fn table(text: &mut String, processes: &[Process], colours: Colours) {
    let rows: Vec<[String; 8]> = processes.iter().map(cells).collect();
    let widest = |column: usize| {
        let cells = rows.iter().map(|row| row[column].width());
        // A column that nothing is in has no width, and is left out.
        let cells = cells.max().filter(|width| *width > 0);
        cells.map_or(0, |width| width.max(HEADINGS[column].width()))
    };
    let mut widths: [usize; 8] = std::array::from_fn(widest);
    let total = |widths: &[usize; 8]| {
        widths.iter().filter(|width| **width > 0).map(|width| width + GAP).sum::<usize>() - GAP
    };
    for (column, least) in CUTS {
        let over = total(&widths).saturating_sub(WIDTH);
        let width = widths[column];
        widths[column] = width.saturating_sub(over).max(least.min(width));
    }
    let mut row = |cells: [&str; 8], tone: Option<Tone>| {
        let mut whole = String::new();
        for (column, width) in widths.into_iter().enumerate().filter(|(_, width)| *width > 0) {
            let cell = cut(cells[column], width);
            let padding = width - cell.width() + GAP;
            let cell = if column == 1 { painted(&cell, tone, colours) } else { cell };
            let _ = write!(whole, "{cell}{:padding$}", "");
        }
        line(text, &whole);
    };
    row(HEADINGS, None);
    for (cells, process) in rows.iter().zip(processes) {
        row(cells.each_ref().map(String::as_str), Some(tone(process)));
    }
}

fn cells(process: &Process) -> [String; 8] {
    let instance = process.instance.as_ref();
    let failures = &process.failures;
    let until = |secs: Option<f64>| secs.map(|secs| format!(" {}", span(secs)));
    let breaker = match process.breaker.phase.as_str() {
        "closed" => String::new(),
        phase => phase.replace('_', "-") + &until(process.breaker.until_secs).unwrap_or_default(),
    };
    let since = process.since_secs.map(|secs| format!(" {}", span(secs)));
    [
        process.name.clone(),
        state(process) + &since.unwrap_or_default(),
        instance.map(|instance| instance.pid.to_string()).unwrap_or_default(),
        instance.map(|instance| span(instance.uptime_secs)).unwrap_or_default(),
        if process.enabled {
            format!("{}/{}", failures.count, failures.retries)
        } else {
            String::new()
        },
        breaker,
        process.last_exit.as_ref().map(last_exit).unwrap_or_default(),
        why(process),
    ]
    .map(|cell| clean(&cell))
}

/// What it waits for, or why else it is not as it should be.
fn why(process: &Process) -> String {
    let waits =
        process.waiting_for.iter().map(|wait| format!("{} is {}", wait.process, wait.reason));
    let faults =
        process.host_faults.iter().map(|fault| format!("{}: {}", fault.key, fault.message));
    let pause = process.paused.iter().map(|paused| format!("by {}", paused.by));
    let degraded = degraded(process).map(|without| format!("degraded: {without}"));
    // Of one that runs again, it is told in full only.
    let failure = process.launch_failure.iter().filter(|_| process.instance.is_none());
    let all = waits
        .chain(process.reason.iter().cloned())
        .chain(pause)
        .chain(degraded)
        .chain(faults)
        .chain(failure.map(|failure| failure.reason.clone()));
    all.collect::<Vec<_>>().join("; ")
}

fn degraded(process: &Process) -> Option<String> {
    let without = &process.degraded_without;
    (!without.is_empty()).then(|| format!("without {}", without.join(", ")))
}

/// The state in a word, as the log has it.
fn state(process: &Process) -> String {
    match (process.state.as_str(), process.ready) {
        ("up", Some(true)) => "ready".to_owned(),
        (state, _) => state.replace('_', "-"),
    }
}

fn state_in_full(process: &Process) -> String {
    match process.until_secs {
        Some(secs) => format!("{} for {} more", state(process), span(secs)),
        None => state(process),
    }
}

/// How the last instance ended, in short: `SIGKILL by bash (812), 3s ago`.
fn last_exit(exit: &Exit) -> String {
    let end = match (&exit.signal, exit.code) {
        _ if exit.oom => "OOM-killed".to_owned(),
        (Some(signal), _) => signal.clone(),
        (None, Some(code)) => format!("exit {code}"),
        (None, None) => "cause unknown".to_owned(),
    };
    let sent = exit.last_signal.as_ref().map(|sent| (&sent.signal, &sent.by));
    let by = match (&exit.killer, sent) {
        (Some(killer), _) => by(killer),
        (None, Some((signal, killer))) => format!(" after {signal}{}", by(killer)),
        (None, None) => String::new(),
    };
    format!("{end}{by}, {} ago", span(exit.ago_secs))
}

fn by(killer: &Killer) -> String {
    match (&killer.comm, killer.pid) {
        (Some(comm), Some(pid)) => format!(" by {comm} ({pid})"),
        (Some(comm), None) => format!(" by {comm}"),
        (None, _) if killer.kind == "itself" => " by itself".to_owned(),
        (None, _) => String::new(),
    }
}

fn last_exit_in_full(exit: &Exit) -> String {
    let mut text =
        format!("{} (PID {}, {} ago, {}", exit.cause, exit.pid, span(exit.ago_secs), exit.at);
    if let Some(runtime) = exit.runtime_secs {
        let _ = write!(text, ", ran {}", span(runtime));
    }
    if let Some(peak) = exit.peak_rss_bytes {
        let _ = write!(text, ", peak memory {} KiB", peak >> 10);
    }
    text + ")"
}

fn tone(process: &Process) -> Tone {
    match process.state.as_str() {
        _ if !process.ok => Tone::Alarm,
        "up" if process.ready == Some(true) => Tone::Calm,
        "finished" | "disabled" => Tone::Calm,
        _ => Tone::Passing,
    }
}

fn painted(text: &str, tone: Option<Tone>, colours: Colours) -> String {
    let colour = match tone {
        _ if colours == Colours::None => return text.to_owned(),
        None => return text.to_owned(),
        Some(Tone::Calm) => 32,
        Some(Tone::Passing) => 33,
        Some(Tone::Alarm) => 31,
    };
    format!("\x1b[{colour}m{text}\x1b[0m")
}

/// Colours the state where it stands first in a text.
fn coloured_state(text: &str, process: &Process, colours: Colours) -> String {
    let plain = format!("state         {}", state(process));
    let state = painted(&state(process), Some(tone(process)), colours);
    text.replacen(&plain, &format!("state         {state}"), 1)
}

/// A span of time in its two largest units, short.
#[must_use]
pub fn span(secs: f64) -> String {
    let span = Duration::try_from_secs_f64(secs).unwrap_or_default();
    let whole = span.as_secs();
    match whole {
        0 => format!("{}ms", span.as_millis()),
        1..60 => format!("{whole}s"),
        60..3_600 => format!("{}m{:02}s", whole / 60, whole % 60),
        3_600..86_400 => format!("{}h{:02}m", whole / 3_600, whole / 60 % 60),
        _ => format!("{}d{:02}h", whole / 86_400, whole / 3_600 % 24),
    }
}

/// Without what would move a terminal's cursor, or worse.
fn clean(text: &str) -> String {
    // The last two change the order in which a terminal shows what follows.
    let is_safe = |c: &char| {
        !c.is_control()
            && !('\u{202a}'..='\u{202e}').contains(c)
            && !('\u{2066}'..='\u{2069}').contains(c)
    };
    text.chars().map(|c| if is_safe(&c) { c } else { '?' }).collect()
}

/// At most so many columns, the last one `…` where something is left out.
fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut kept = String::new();
    let mut left = width.saturating_sub(1);
    for c in text.chars() {
        let Some(rest) = left.checked_sub(c.width().unwrap_or(0)) else { break };
        left = rest;
        kept.push(c);
    }
    kept + "…"
}

/// Broken at blanks into lines of at most so many columns, where words are not longer.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let last = lines.last_mut().expect("there is one line from the beginning");
        if last.is_empty() {
            last.push_str(word);
        } else if last.width() + 1 + word.width() <= width {
            *last += " ";
            last.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

#[cfg(test)]
mod tests;
