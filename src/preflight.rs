//! Host faults: what this machine lacks for a configuration whose text is in order.
//!
//! They never stop healer: a launch or a probe that cannot work fails with its own reason, and every
//! other process is guarded. Called by `healer check`, by `daemon` at start and at each reload. Bare
//! command names become paths here. Whether the text is right is `config::check`'s.

use std::env;
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::unistd::Uid;
use rustix::fs::{Access, AtFlags, CWD};

use crate::config::ownership::{Examined, examine};
use crate::config::probe::Trust;
use crate::config::{Config, Process, RunAs};
use crate::event::ProcessName;
use crate::trust::{self, TrustError};
use crate::users::{Databases, GROUP_DATABASE, USER_DATABASE};

/// One thing this machine lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFault {
    /// The entry whose launches or probes will fail; `None`: healer itself.
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
    let mut identities = Vec::new();
    let mut trusts = Vec::new();
    for process in config.processes.iter_mut().filter(|process| process.enabled) {
        let identity =
            remembered(&mut identities, &process.run_as, |run_as| identity(run_as, healer));
        let trust = process.probe().and_then(|probe| probe.trust());
        let trust = trust.map(|trust| remembered(&mut trusts, trust, trusted));
        let command = process.command.as_deref().map(|command| self::command(command, search));
        let lacks = [
            identity.err(),
            lack("command", command.as_ref().and_then(|command| command.as_ref().err())),
            lack("working_dir", directory(&process.working_dir).err().as_ref()),
            lack("pid_file_path", pid_file(process).err().as_ref()),
            trust.and_then(Result::err),
        ];
        if let Some(Ok(found)) = command
            && process.command.as_ref() != Some(&found)
        {
            Arc::make_mut(process).command = Some(found);
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

/// What `look` says of this, asked once.
fn remembered<T: Clone + PartialEq>(
    known: &mut Vec<(T, Result<(), Lack>)>,
    asked: &T,
    look: impl FnOnce(&T) -> Result<(), Lack>,
) -> Result<(), Lack> {
    if let Some((_, found)) = known.iter().find(|(one, _)| one == asked) {
        return found.clone();
    }
    let found = look(asked);
    known.push((asked.clone(), found.clone()));
    found
}

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

/// Who vouches for the certificates that a probe gets to see.
fn trusted(trust: &Trust) -> Result<(), Lack> {
    let found = match trust {
        Trust::Machine => trust::of_machine(),
        Trust::File(path) => trust::of_file(path),
        Trust::Anyone => return Ok(()),
    };
    found.map(|_| ()).map_err(|error| match error {
        TrustError::Unreadable { path, source } => ("ca_file", unseen(&path, &source)),
        TrustError::NoneHere => ("target_url", error.to_string()),
        other => ("ca_file", other.to_string()),
    })
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
    let databases =
        Databases::read().map_err(|unanswered| ("run_as_user", unanswered.to_string()))?;
    if let Some(group) = group {
        group_exists(&databases, group).map_err(|message| ("run_as_group", message))?;
    }
    user_id(&databases, user, group.is_some())
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
fn user_id(databases: &Databases, user: &str, has_group: bool) -> Result<Uid, String> {
    let entry = databases.user(user).map_err(|unanswered| unanswered.to_string())?;
    match (entry, user.parse().ok().map(Uid::from_raw)) {
        (Some(entry), _) => Ok(Uid::from_raw(entry.uid)),
        (None, Some(uid)) if has_group => Ok(uid),
        (None, Some(_)) => {
            Err(format!("user {user} is not in {USER_DATABASE}: run_as_group must say its group"))
        }
        (None, None) => Err(format!("user \"{user}\" is not in {USER_DATABASE}")),
    }
}

fn group_exists(databases: &Databases, group: &str) -> Result<(), String> {
    match databases.group(group).map_err(|unanswered| unanswered.to_string())? {
        Some(_) => Ok(()),
        None => Err(format!("group \"{group}\" is not in {GROUP_DATABASE}")),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use rstest::rstest;
    use tempfile::TempDir;

    use super::*;
    use crate::config::Reader;
    use crate::config::check::{Environment, check};

    const ROOT: Uid = Uid::from_raw(0);

    /// What `look_with` says of one process with `keys`, as root, and its command then. `DIR` in
    /// `keys` is `directory`, which is also all of PATH.
    fn looked(directory: &TempDir, keys: &str, healer: Uid) -> (Vec<String>, PathBuf) {
        let text = format!(
            "pid_file_directory: DIR/run\nprocesses:\n  \
             - {{ name: web, {keys}, monitor: {{ type: pid, pid_file_path: DIR/later/web.pid }} }}\n"
        )
        .replace("DIR", directory.path().to_str().unwrap());
        let reader = Reader { as_root: healer.is_root(), ..Reader::default() };
        let mut config = check(text.as_bytes(), &Environment::new(), &reader).unwrap().config;
        let faults = look_with(&mut config, directory.path().as_os_str(), healer);
        let shown = directory.path().to_str().unwrap();
        let faults = faults.iter().map(|fault| fault.to_string().replace(shown, "DIR")).collect();
        (faults, config.processes[0].command.clone().unwrap_or_default())
    }

    fn directory() -> TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (name, mode) in [("program", 0o755), ("text", 0o644)] {
            let path = directory.path().join(name);
            fs::write(&path, "").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        directory
    }

    #[rstest]
    #[case::in_order("command: DIR/program, run_as_root: true", &[])]
    #[case::by_name("command: program, run_as_root: true", &[])]
    #[case::not_in_path("command: none, run_as_root: true", &["command: \"none\" is in no directory of PATH (DIR)"])]
    #[case::not_executable_in_path("command: text, run_as_root: true", &["command: \"text\" is in no directory of PATH (DIR)"])]
    #[case::missing("command: DIR/none, run_as_root: true", &["command: DIR/none does not exist"])]
    #[case::not_executable("command: DIR/text, run_as_root: true", &["command: DIR/text is not executable"])]
    #[case::not_a_file("command: DIR, run_as_root: true", &["command: DIR is not a file"])]
    #[case::through_a_file("command: DIR/text/x, run_as_root: true", &["command: DIR/text/x: not a directory on the way"])]
    #[case::working_dir("command: program, run_as_root: true, working_dir: DIR/none", &["working_dir: DIR/none does not exist"])]
    #[case::working_file("command: program, run_as_root: true, working_dir: DIR/text", &["working_dir: DIR/text is not a directory"])]
    #[case::user("command: program, run_as_user: no-such-user", &["run_as_user: user \"no-such-user\" is not in the user database"])]
    #[case::number("command: program, run_as_user: 3999999999", &["run_as_user: user 3999999999 is not in the user database: run_as_group must say its group"])]
    #[case::number_with_group("command: program, run_as_user: 3999999999, run_as_group: 7", &[])]
    #[case::group("command: program, run_as_user: root, run_as_group: no-such-group", &["run_as_group: group \"no-such-group\" is not in the group database"])]
    #[case::disabled("command: none, run_as_user: no-such-user, enabled: false", &[])]
    #[case::all("command: none, run_as_user: no-such-user, working_dir: DIR/none", &[
        "run_as_user: user \"no-such-user\" is not in the user database",
        "command: \"none\" is in no directory of PATH (DIR)",
        "working_dir: DIR/none does not exist",
    ])]
    fn what_the_machine_lacks_is_told(#[case] keys: &str, #[case] expected: &[&str]) {
        let (faults, _) = looked(&directory(), keys, ROOT);
        let expected: Vec<String> = expected.iter().map(|f| format!("process web: {f}")).collect();
        assert_eq!(own_aside(faults), expected);
    }

    /// Whether the directory of the test itself can be trusted depends on who runs the test.
    fn own_aside(faults: Vec<String>) -> Vec<String> {
        faults.into_iter().filter(|fault| !fault.starts_with("pid_file_directory")).collect()
    }

    #[test]
    fn a_bare_command_becomes_a_path() {
        let directory = directory();
        let (_, command) = looked(&directory, "command: program, run_as_root: true", ROOT);
        assert_eq!(command, directory.path().join("program"));
    }

    #[rstest]
    #[case::root("run_as_root: true", &["process web: run_as_root: healer runs as uid 7 and can start processes as itself only, not as 0"])]
    #[case::another("run_as_user: root", &["process web: run_as_user: healer runs as uid 7 and can start processes as itself only, not as 0"])]
    #[case::itself("run_as_user: 7, run_as_group: 7", &[])]
    #[case::unsaid("args: []", &[])]
    fn an_ordinary_user_starts_processes_as_itself_only(
        #[case] keys: &str,
        #[case] expected: &[&str],
    ) {
        let keys = format!("command: program, {keys}");
        let (faults, _) = looked(&directory(), &keys, Uid::from_raw(7));
        assert_eq!(faults, expected);
    }

    /// What is said of a probe whose `ca_file` is DIR/ca.pem.
    fn looked_at_ca_file(contents: Option<&str>) -> Vec<String> {
        let directory = directory();
        let path = directory.path().join("ca.pem");
        if let Some(contents) = contents {
            fs::write(&path, contents).unwrap();
        }
        let shown = directory.path().to_str().unwrap();
        let text = format!(
            "processes: [{{ name: web, monitor: {{ type: network, target_url: 'https://a', \
             tls: {{ ca_file: {} }} }} }}]",
            path.display()
        );
        let reader = Reader { as_root: true, ..Reader::default() };
        let mut config = check(text.as_bytes(), &Environment::new(), &reader).unwrap().config;
        let faults = look_with(&mut config, directory.path().as_os_str(), ROOT);
        own_aside(faults.iter().map(|fault| fault.to_string().replace(shown, "DIR")).collect())
    }

    #[rstest]
    #[case::missing(None, "DIR/ca.pem does not exist")]
    #[case::empty(
        Some(""),
        "DIR/ca.pem holds no certificate in PEM format (-----BEGIN CERTIFICATE-----)"
    )]
    #[case::no_pem(
        Some("ca"),
        "DIR/ca.pem holds no certificate in PEM format (-----BEGIN CERTIFICATE-----)"
    )]
    #[case::damaged(
        Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        "DIR/ca.pem holds a certificate that is damaged: invalid peer certificate: BadEncoding"
    )]
    fn a_file_of_certificates_that_is_no_use_is_told(
        #[case] contents: Option<&str>,
        #[case] expected: &str,
    ) {
        assert_eq!(looked_at_ca_file(contents), [format!("process web: ca_file: {expected}")]);
    }

    #[test]
    fn a_file_of_certificates_is_no_fault() {
        let names = ["web.example".to_owned()];
        let own = rcgen::generate_simple_self_signed(names).unwrap().cert.pem();
        assert_eq!(looked_at_ca_file(Some(&own)), [""; 0]);
        assert_eq!(looked_at_ca_file(Some(&format!("# mine\n{own}\n{own}"))), [""; 0]);
    }

    #[test]
    fn a_directory_that_others_may_write_is_no_place_for_a_root_healers_pid_file() {
        let directory = directory();
        fs::create_dir(directory.path().join("run")).unwrap();
        let open = fs::Permissions::from_mode(0o777);
        fs::set_permissions(directory.path().join("run"), open).unwrap();
        let (faults, _) = looked(&directory, "command: program, run_as_root: true", ROOT);
        assert_eq!(faults.len(), 1);
        assert!(faults[0].starts_with("pid_file_directory: DIR"), "{faults:?}");
        let (faults, _) = looked(&directory, "command: program", Uid::from_raw(7));
        assert_eq!(faults, [""; 0]);
    }
}
