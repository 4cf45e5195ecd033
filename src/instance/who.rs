//! Who is the process: which of the living is meant by an entry that healer holds no instance of.
//!
//! [`fit`] and [`decide`] are the rules, pure: same user, same depth of PID namespaces, same program
//! file, and the arguments in the command line. `search` feeds them from a `Table`: [`resolve_all`].
//! What an entry's command resolves to is `program`'s; what a PID file says is `monitor/pid`'s.
//! Called by `monitor/pid` and `reaper`.

use std::path::{Path, PathBuf};

use crate::config::{Matching, Process};
use crate::event::{Instance, Pid};

use super::table::{Details, Exe, FileId};

pub(crate) use search::own_depth;
pub use search::{fits, resolve_all};

mod search;

/// A program file as it is on disk now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Its identity; `None` where there is no such file.
    pub file: Option<FileId>,
    /// Its resolved path.
    pub path: PathBuf,
    /// For a script (then `file` is its interpreter): the script's file name.
    pub script: Option<Vec<u8>>,
}

/// The files an entry names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// Of `command`.
    pub program: Program,
    /// Of `match.exe`.
    pub matched: Option<Program>,
}

/// Whom to look for: one entry, resolved on this machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    uid: u32,
    any_uid: bool,
    files: Files,
    args: Vec<Vec<u8>>,
    matching: Matching,
}

impl Wanted {
    /// `uid` is the entry's user; with `any_uid` any other will do where the program file is the
    /// same by its identity.
    #[must_use]
    pub fn new(process: &Process, uid: u32, any_uid: bool, files: Files) -> Self {
        let args = process.args.iter().flat_map(|arg| words(arg.as_bytes()));
        Self {
            uid,
            any_uid,
            files,
            args: args.map(<[u8]>::to_vec).collect(),
            matching: process.matching.clone(),
        }
    }

    /// More of it decides first: what `match` says, then the number of words, then a script's name.
    pub(super) fn specificity(&self) -> impl Ord + use<> {
        let Matching { exe, comm, cmdline } = &self.matching;
        let keys = [exe.is_some(), comm.is_some(), cmdline.is_some()];
        let script = self.files.program.script.is_some();
        (keys.iter().filter(|key| **key).count(), self.args.len(), script)
    }

    /// The file that its process is started from.
    #[must_use]
    pub fn started_from(&self) -> &Path {
        &self.files.matched.as_ref().unwrap_or(&self.files.program).path
    }

    /// The file that decides: `match.exe`, or `command`'s unless `match.cmdline` stands for it.
    /// `comm` alone never decides.
    fn program(&self) -> Option<&Program> {
        match (&self.files.matched, &self.matching.cmdline) {
            (Some(matched), _) => Some(matched),
            (None, Some(_)) => None,
            (None, None) => Some(&self.files.program),
        }
    }
}

/// A living process as the rules see it.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// Who.
    pub instance: Instance,
    /// Its parent.
    pub parent: Pid,
    /// `comm`.
    pub comm: &'a str,
    /// Its program.
    pub exe: &'a Exe,
    /// Its user, depth and command line.
    pub details: &'a Details,
    /// Its session's leader is gone: a daemon that forked on, or what is left of a dead instance.
    pub leaderless: bool,
}

/// How well one process fits an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// It is another process.
    No,
    /// User and program agree, but it rewrote its command line.
    Rewritten,
    /// User and name agree, but healer may not look at its program.
    Unreadable,
    /// Everything agrees.
    Full,
}

/// Which process is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// This one.
    One(Instance),
    /// None of the living.
    None,
    /// It cannot be told: neither adopt nor start.
    Unclear {
        /// What would decide, for the operator.
        reason: String,
        /// Those who may be it.
        among: Vec<Instance>,
    },
}

/// Judges one process. `depth` is the number of healer's own PID namespaces.
#[must_use]
pub fn fit(wanted: &Wanted, candidate: &Candidate<'_>, depth: usize) -> Fit {
    let details = candidate.details;
    if details.depth != depth {
        return Fit::No;
    }
    let program = wanted.program();
    let same = program.map_or(Same::Unknown, |program| same_file(program, candidate.exe));
    // Of a script, the inode is only its interpreter's, which any user may run with any words.
    let is_script = program.is_some_and(|program| program.script.is_some());
    let any_will_do = wanted.any_uid && same == Same::Inode && !is_script;
    let uid_agrees = details.uid == wanted.uid || any_will_do;
    if !uid_agrees {
        return Fit::No;
    }
    match same {
        Same::No => return Fit::No,
        Same::Unknown if program.is_some() && !same_name(wanted, candidate) => return Fit::No,
        Same::Unknown if program.is_some() => return Fit::Unreadable,
        Same::Unknown | Same::Inode | Same::Path => {}
    }
    if !wanted.matching.is_empty() {
        return if matches(&wanted.matching, candidate) { Fit::Full } else { Fit::No };
    }
    if shows_arguments(wanted, &details.cmdline) {
        Fit::Full
    } else if is_rewritten(&details.cmdline) && !shows_command(wanted, &details.cmdline) {
        Fit::Rewritten
    } else {
        Fit::No
    }
}

/// Chooses among all who fit somehow. A candidate's child is its worker and drops out. One without
/// its session's leader is never chosen, and alone it raises doubt.
pub fn decide(fits: &[(Candidate<'_>, Fit)]) -> Verdict {
    let is_candidate = |pid: Pid| fits.iter().any(|(other, _)| other.instance.pid == pid);
    let masters: Vec<_> = fits.iter().filter(|(one, _)| !is_candidate(one.parent)).collect();
    let full: Vec<_> =
        masters.iter().filter(|(one, fit)| *fit == Fit::Full && !one.leaderless).collect();
    match (full.as_slice(), masters.as_slice()) {
        ([(one, _)], _) => Verdict::One(one.instance),
        ([], []) => Verdict::None,
        _ => unclear(&masters),
    }
}

fn unclear(masters: &[&(Candidate<'_>, Fit)]) -> Verdict {
    let among: Vec<Instance> = masters.iter().map(|(one, _)| one.instance).collect();
    let (first, fit) = masters[0];
    let others = match among.len() - 1 {
        0 => String::new(),
        1 => format!(" or {}", among[1]),
        more => format!(" or one of {more} others"),
    };
    let shown = shown(&first.details.cmdline);
    let way_out = match fit {
        Fit::Full if first.leaderless => {
            "its session's leader is gone: it may be a daemon or what is left of one; \
             give it a PID file, or end it"
        }
        Fit::Unreadable => "its program file may not be read; say match.cmdline",
        _ => "say match.cmdline",
    };
    let reason = format!("{}{others} may be it (\"{shown}\"); {way_out}", first.instance);
    Verdict::Unclear { reason, among }
}

/// How many characters of a command line a message shows.
const SHOWN_MAX: usize = 80;

/// A command line fit for a message: one line, no control characters, not too long.
#[must_use]
pub fn shown(cmdline: &[u8]) -> String {
    let line = joined(cmdline);
    let mut shown: String = String::from_utf8_lossy(&line)
        .chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .take(SHOWN_MAX)
        .collect();
    if shown.len() < line.len() {
        shown.push('…');
    }
    shown
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Same {
    No,
    /// No file is asked for, or it may not be read.
    Unknown,
    Path,
    Inode,
}

fn same_file(program: &Program, exe: &Exe) -> Same {
    match exe {
        Exe::File(id, _) if program.file == Some(*id) => Same::Inode,
        Exe::File(_, path) if *path == program.path => Same::Path,
        Exe::File(..) | Exe::Gone => Same::No,
        Exe::Unreadable => Same::Unknown,
    }
}

/// A hint only, for raising doubt: `comm` is the first 15 bytes of the file's name, a script's own.
fn same_name(wanted: &Wanted, candidate: &Candidate<'_>) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let Some(program) = wanted.program() else { return false };
    let file = program.path.file_name().map(OsStrExt::as_bytes);
    let names = [program.script.as_deref(), file];
    names.iter().flatten().any(|name| name[..name.len().min(15)] == *candidate.comm.as_bytes())
}

fn matches(matching: &Matching, candidate: &Candidate<'_>) -> bool {
    let comm = matching.comm.as_ref().is_none_or(|comm| comm == candidate.comm);
    let line = || joined(&candidate.details.cmdline);
    comm && matching.cmdline.as_ref().is_none_or(|pattern| pattern.0.is_match(&line()))
}

/// Whether the arguments stand in the command line as whole words in a row: anywhere after the
/// first word, for a script right after its name.
fn shows_arguments(wanted: &Wanted, cmdline: &[u8]) -> bool {
    // Who is told in one argument to run the script (`sh -c "exec web"`) is not the script, but may
    // become it.
    let one_argument_each = wanted.files.program.script.is_some() && !is_rewritten(cmdline);
    let is_end = |byte: u8| byte == 0 || (byte == b' ' && !one_argument_each);
    let mut rest = cmdline;
    while !rest.is_empty() {
        let length = rest.iter().position(|byte| is_end(*byte)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(length);
        rest = after.get(1..).unwrap_or_default();
        let is_place = match &wanted.files.program.script {
            Some(name) => names_file(word, name) && (is_path(word) || !word.contains(&b' ')),
            None => !word.is_empty(),
        };
        let mut shown = words(rest);
        if is_place && wanted.args.iter().all(|arg| shown.next() == Some(arg)) {
            return true;
        }
    }
    false
}

fn names_file(word: &[u8], name: &[u8]) -> bool {
    word.strip_suffix(name).is_some_and(|front| front.is_empty() || front.ends_with(b"/"))
}

fn is_path(word: &[u8]) -> bool {
    word.starts_with(b"/") || word.starts_with(b".")
}

/// A program that writes a title over its command line leaves blanks where exec leaves NULs, or
/// nothing at all.
fn is_rewritten(cmdline: &[u8]) -> bool {
    let first = cmdline.split(|byte| *byte == 0).next().unwrap_or_default();
    first.is_empty() || first.contains(&b' ')
}

/// Whether a title goes on with the program and its arguments, as nginx's master's does: then what
/// it does not show was never there, and it is another instance of the same program.
fn shows_command(wanted: &Wanted, cmdline: &[u8]) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let program = wanted.files.program.path.file_name().map(OsStrExt::as_bytes);
    program.is_some_and(|name| words(cmdline).skip(1).any(|word| names_file(word, name)))
}

fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> + Clone {
    text.split(|byte| matches!(byte, 0 | b' ')).filter(|word| !word.is_empty())
}

fn joined(cmdline: &[u8]) -> Vec<u8> {
    words(cmdline).collect::<Vec<_>>().join(&b' ')
}

#[cfg(test)]
mod tests;
