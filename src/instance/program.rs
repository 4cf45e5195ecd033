//! What an entry's `command` and user come to on this machine: the file that its process runs.
//!
//! A script runs its interpreter, so `#!` lines are followed as the kernel does, and `env NAME` as
//! env(1) does. Deciding who is the process is left to `who`. Called by `who`, `reaper` and the
//! monitors; by `launch` for the PATH.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::config::{Process, RunAs};
use crate::users::{Databases, USER_DATABASE};

use super::table::FileId;
use super::who::{Files, Program, Wanted};

/// How many interpreters deep the kernel follows `#!` lines (`fs/exec.c`).
const INTERPRETERS_MAX: usize = 4;
/// How much of the first line the kernel looks at (`BINPRM_BUF_SIZE`).
const SHEBANG_MAX: u64 = 256;
/// Where programs are looked up when neither the entry nor healer has a PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Looks up everything about an entry that matching needs.
///
/// # Errors
///
/// Its user does not exist, or the user database cannot be read: a fragment for the operator.
pub fn wanted(process: &Process) -> Result<Wanted, String> {
    let uid = match &process.run_as {
        RunAs::Root => 0,
        RunAs::Healer => nix::unistd::getuid().as_raw(),
        RunAs::User { user, .. } => uid_of(user)?,
    };
    let any_uid = process.run_as == RunAs::Root;
    let files = Files {
        program: program(process),
        matched: process.matching.exe.as_deref().map(|path| Program::binary(path.to_owned())),
    };
    Ok(Wanted::new(process, uid, any_uid, files))
}

/// The PATH of an entry's instance: its own, else healer's, whatever else it inherits.
#[must_use]
pub fn search_path(process: &Process, healers: Option<OsString>) -> OsString {
    let own = process.env.get("PATH").map(OsString::from);
    own.or(healers).unwrap_or_else(|| DEFAULT_PATH.into())
}

impl Program {
    /// The file at `path` as it is now, symbolic links followed.
    fn binary(path: PathBuf) -> Self {
        let file = std::fs::metadata(&path).ok().as_ref().map(FileId::of);
        Self { file, path: std::fs::canonicalize(&path).unwrap_or(path), script: None }
    }
}

/// The paths that decide which file an entry's process is started from, as they are written: where
/// each leads, that file is one of [`Files`] or names one.
#[must_use]
pub fn paths(process: &Process) -> Vec<PathBuf> {
    let mut paths = interpreters(process);
    paths.extend(process.matching.exe.clone());
    paths
}

fn program(process: &Process) -> Program {
    let file = interpreters(process).pop();
    let command = process.command.as_deref();
    let script = (file.as_deref() != command).then(|| command?.file_name()).flatten();
    // Without a command there is no file either, and nothing that runs is it.
    let file = file.unwrap_or_default();
    let script = script.map(|name| name.as_bytes().to_vec());
    Program { script, ..Program::binary(file) }
}

/// `command`, if it is a script its interpreter, and so on.
fn interpreters(process: &Process) -> Vec<PathBuf> {
    let command = process.command.clone();
    let chain = std::iter::successors(command, |file| interpreter(file, process));
    chain.take(1 + INTERPRETERS_MAX).collect()
}

/// The interpreter that the first line of `file` names; `None` for anything but a script.
fn interpreter(file: &Path, process: &Process) -> Option<PathBuf> {
    // Not a FIFO or a device: opening those may wait for ever.
    if !std::fs::metadata(file).ok()?.is_file() {
        return None;
    }
    let mut start = Vec::new();
    File::open(file).ok()?.take(SHEBANG_MAX).read_to_end(&mut start).ok()?;
    let line = start.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let mut words =
        line.split(|byte| matches!(byte, b' ' | b'\t' | b'\r')).filter(|w| !w.is_empty());
    let interpreter = Path::new(OsStr::from_bytes(words.next()?));
    if interpreter.file_name() != Some(OsStr::new("env")) {
        return Some(interpreter.to_owned());
    }
    // env [-iS] [VAR=VALUE]… NAME: options and assignments come before the program.
    let name = words.find(|word| !word.starts_with(b"-") && !word.contains(&b'='))?;
    look_up(OsStr::from_bytes(name), process)
}

/// Finds a program as env(1) does in the environment that the entry's instance gets.
fn look_up(name: &OsStr, process: &Process) -> Option<PathBuf> {
    if name.as_bytes().contains(&b'/') {
        return Some(PathBuf::from(name));
    }
    let path = search_path(process, std::env::var_os("PATH"));
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(file)
        .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

fn uid_of(user: &str) -> Result<u32, String> {
    // A number is a user even where no database names it.
    if let Ok(uid) = user.parse() {
        return Ok(uid);
    }
    let found = Databases::read().and_then(|databases| databases.user(user));
    match found.map_err(|unanswered| format!("user \"{user}\": {unanswered}"))? {
        Some(found) => Ok(found.uid),
        None => Err(format!("user \"{user}\" is not in {USER_DATABASE}")),
    }
}
