//! Host faults: what this machine lacks for a configuration whose text is in order.
//!
//! They never stop healer: a launch that cannot work fails with its own reason, and every other
//! process is guarded. Called by `healer check`, by `daemon` at start and at each reload. Bare
//! command names become paths here. Whether the text is right is `config::check`'s.

use std::env;
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::unistd::{Gid, Group, Uid, User};
use rustix::fs::{Access, AtFlags, CWD};

use crate::config::ownership::{Examined, examine};
use crate::config::{Config, Process, RunAs};
use crate::event::ProcessName;

/// One thing this machine lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFault {
    /// The entry whose launches will fail; `None`: healer itself.
    pub process: Option<ProcessName>,
    /// The key that asks for it.
    pub key: &'static str,
    /// What is missing, and where.
    pub message: String,
}

impl fmt::Display for HostFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(process) = &self.process {
            write!(f, "process {process}: ")?;
        }
        write!(f, "{}: {}", self.key, self.message)
    }
}

/// Host faults where they are an error: in `healer check`.
#[derive(Debug, thiserror::Error)]
pub struct HostFaults(Vec<HostFault>);

impl HostFaults {
    /// # Errors
    /// There are some.
    pub fn none_of(faults: Vec<HostFault>) -> Result<(), Self> {
        if faults.is_empty() { Ok(()) } else { Err(Self(faults)) }
    }
}

impl fmt::Display for HostFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults = if self.0.len() == 1 { "host fault" } else { "host faults" };
        write!(f, "{} {faults}", self.0.len())?;
        self.0.iter().try_for_each(|fault| write!(f, "\n  {fault}"))
    }
}

/// Looks for everything that the enabled entries of `config` need, and replaces each bare command
/// by the path that `PATH` gives it.
#[must_use]
pub fn look(config: &mut Config) -> Vec<HostFault> {
    look_with(config, &env::var_os("PATH").unwrap_or_default(), Uid::effective())
}

fn look_with(config: &mut Config, search: &OsStr, healer: Uid) -> Vec<HostFault> {
    let mut faults = Vec::new();
    if let Err(message) = own_directory(&config.pid_file_directory, healer) {
        faults.push(HostFault { process: None, key: "pid_file_directory", message });
    }
    // Thousands of entries name few users, and a user database may be across the network.
    let mut identities: Vec<(RunAs, Result<(), Lack>)> = Vec::new();
    for process in config.processes.iter_mut().filter(|process| process.enabled) {
        let known = identities.iter().find(|(run_as, _)| *run_as == process.run_as);
        let identity = known.map_or_else(|| identity(&process.run_as, healer), |(_, k)| k.clone());
        if known.is_none() {
            identities.push((process.run_as.clone(), identity.clone()));
        }
        let command = command(&process.command, search);
        let lacks = [
            identity.err(),
            lack("command", command.as_ref().err()),
            lack("working_dir", directory(&process.working_dir).err().as_ref()),
            lack("pid_file_path", pid_file(process).err().as_ref()),
        ];
        if let Ok(found) = command
            && found != process.command
        {
            Arc::make_mut(process).command = found;
        }
        faults.extend(lacks.into_iter().flatten().map(|(key, message)| HostFault {
            process: Some(process.name.clone()),
            key,
            message,
        }));
    }
    faults
}

/// The key that asks for something, and what is missing.
type Lack = (&'static str, String);

fn lack(key: &'static str, message: Option<&String>) -> Option<Lack> {
    message.map(|message| (key, message.clone()))
}

/// The file that `command` names: itself, or what the directories of `search` hold.
fn command(command: &Path, search: &OsStr) -> Result<PathBuf, String> {
    if command.is_absolute() {
        return executable(command).map(|()| command.to_path_buf());
    }
    env::split_paths(search)
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(command))
        .find(|path| executable(path).is_ok())
        .ok_or_else(|| {
            format!("\"{}\" is in no directory of PATH ({})", command.display(), search.display())
        })
}

fn executable(path: &Path) -> Result<(), String> {
    let found = fs::metadata(path).map_err(|error| unseen(path, &error))?;
    if !found.is_file() {
        return Err(format!("{} is not a file", path.display()));
    }
    rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS)
        .map_err(|_| format!("{} is not executable", path.display()))
}

fn directory(path: &Path) -> Result<(), String> {
    let found = fs::metadata(path).map_err(|error| unseen(path, &error))?;
    if found.is_dir() { Ok(()) } else { Err(format!("{} is not a directory", path.display())) }
}

/// The directory of a PID file may come later; one that is there must be readable.
fn pid_file(process: &Process) -> Result<(), String> {
    let Some(path) = process.pid_file().and_then(Path::parent) else { return Ok(()) };
    match fs::read_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(unseen(path, &error)),
        _ => Ok(()),
    }
}

fn unseen(path: &Path, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => format!("{} does not exist", path.display()),
        io::ErrorKind::NotADirectory => format!("{}: not a directory on the way", path.display()),
        io::ErrorKind::PermissionDenied => format!("{}: permission denied", path.display()),
        _ => format!("{}: {error}", path.display()),
    }
}

/// Who may write here can make healer take any process for its own.
fn own_directory(path: &Path, healer: Uid) -> Result<(), String> {
    match examine(path, None) {
        // healer creates it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(unseen(path, &error)),
        Ok(Examined::Distrusted { element, distrust }) if healer.is_root() => Err(format!(
            "{element} {} (cure: {} {element})",
            distrust.what,
            distrust.cure,
            element = element.display()
        )),
        Ok(_) => Ok(()),
    }
}

fn identity(run_as: &RunAs, healer: Uid) -> Result<(), Lack> {
    let (user, group) = match run_as {
        RunAs::Healer => return Ok(()),
        RunAs::Root => return may_become(Uid::from_raw(0), healer).map_err(|m| ("run_as_root", m)),
        RunAs::User { user, group } => (user, group.as_deref()),
    };
    if let Some(group) = group {
        group_exists(group).map_err(|message| ("run_as_group", message))?;
    }
    user_id(user, group.is_some())
        .and_then(|uid| may_become(uid, healer))
        .map_err(|message| ("run_as_user", message))
}

fn may_become(uid: Uid, healer: Uid) -> Result<(), String> {
    if healer.is_root() || uid == healer {
        return Ok(());
    }
    Err(format!("healer runs as uid {healer} and can start processes as itself only, not as {uid}"))
}

/// A number needs no entry in the user database if it is told the group.
fn user_id(user: &str, has_group: bool) -> Result<Uid, String> {
    let number = user.parse().ok().map(Uid::from_raw);
    let entry = number
        .map_or_else(|| User::from_name(user), User::from_uid)
        .map_err(|errno| format!("looking up user \"{user}\" in the user database: {errno}"))?;
    match (entry, number) {
        (Some(entry), _) => Ok(entry.uid),
        (None, Some(uid)) if has_group => Ok(uid),
        (None, Some(_)) => {
            Err(format!("user {user} is not in the user database: run_as_group must say its group"))
        }
        (None, None) => Err(format!("user \"{user}\" is not in the user database")),
    }
}

fn group_exists(group: &str) -> Result<(), String> {
    if group.parse().map(Gid::from_raw).is_ok() {
        return Ok(());
    }
    match Group::from_name(group) {
        Ok(Some(_)) => Ok(()),
        Ok(None) => Err(format!("group \"{group}\" is not in the group database")),
        Err(errno) => Err(format!("looking up group \"{group}\" in the group database: {errno}")),
    }
}
