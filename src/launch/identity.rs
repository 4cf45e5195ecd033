//! Who a program runs as: looked up in the user and group databases, then assumed for good.
//!
//! Fails where the answer is not certain; never falls back to another identity. Called by `stage`,
//! in a process of its own, so that a slow directory service holds up nobody else.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;

use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

use super::report::{Fault, fault, refused};
use super::spec::As;
use crate::users::{Databases, GROUP_DATABASE, USER_DATABASE, Unanswered};

/// Who the program is to run as.
pub(super) struct Identity {
    uid: Uid,
    gid: Gid,
    /// `None`: as healer has them.
    supplementary: Option<Vec<Gid>>,
    /// What the user database says, as variables of the environment.
    pub(super) variables: Vec<CString>,
}

impl Identity {
    /// Asks the user and the group database, whatever they are made of: this may take its time.
    pub(super) fn look_up(run_as: As<'_>) -> Result<Option<Self>, Fault> {
        let (user, group) = match run_as {
            As::Healer => return Ok(None),
            As::Root => {
                return Ok(Some(Self {
                    uid: Uid::from_raw(0),
                    gid: Gid::from_raw(0),
                    supplementary: None,
                    variables: Vec::new(),
                }));
            }
            As::User { user, group } => (user, group),
        };
        let databases = Databases::read()?;
        let entry = databases.user(user)?;
        let number = user.parse().ok().map(Uid::from_raw);
        let gid = match (group, &entry) {
            (Some(group), _) => databases
                .group(group)?
                .ok_or_else(|| fault(format!("group \"{group}\" is not in {GROUP_DATABASE}")))?,
            (None, Some(entry)) => entry.gid,
            (None, None) if number.is_some() => {
                let reason = format!("is not in {USER_DATABASE}: run_as_group must say its group");
                return Err(fault(format!("user {user} {reason}")));
            }
            (None, None) => return Err(unknown(user)),
        };
        let Some(entry) = entry else {
            let uid = number.ok_or_else(|| unknown(user))?;
            return Ok(Some(Self {
                uid,
                gid: Gid::from_raw(gid),
                supplementary: Some(Vec::new()),
                variables: variables(user.as_ref(), "/".as_ref(), "/bin/sh".as_ref()),
            }));
        };
        let supplementary = databases.groups(&entry, gid)?.into_iter().map(Gid::from_raw);
        let shell = if entry.shell.is_empty() { OsStr::new("/bin/sh") } else { &entry.shell };
        Ok(Some(Self {
            uid: Uid::from_raw(entry.uid),
            gid: Gid::from_raw(gid),
            supplementary: Some(supplementary.collect()),
            variables: variables(entry.name.as_ref(), &entry.home, shell),
        }))
    }

    /// Gives up healer's identity for this one, for good: real, effective and saved.
    pub(super) fn assume(&self) -> Result<(), Fault> {
        let &Self { uid, gid, .. } = self;
        // To setresuid(2) and setresgid(2) this number means "as it is": the program would be root.
        if uid.as_raw() == u32::MAX || gid.as_raw() == u32::MAX {
            return Err(fault(format!("{} is no number of a user or group", u32::MAX)));
        }
        if !Uid::effective().is_root() && uid == Uid::effective() && gid == Gid::effective() {
            // An ordinary user's healer: there is nothing to change, nor the right to change it.
            return Ok(());
        }
        let failed = |step: String| move |errno: nix::Error| refused(step, errno);
        if let Some(groups) = &self.supplementary {
            setgroups(groups).map_err(failed("setting the supplementary groups".to_owned()))?;
        }
        setresgid(gid, gid, gid).map_err(failed(format!("becoming group {gid}")))?;
        setresuid(uid, uid, uid).map_err(failed(format!("becoming user {uid}")))
    }
}

impl From<Unanswered> for Fault {
    fn from(unanswered: Unanswered) -> Self {
        match unanswered {
            Unanswered::Failed { what, error } => refused(what, error),
            Unanswered::OutOfReach(_) => fault(unanswered.to_string()),
        }
    }
}

fn unknown(user: &str) -> Fault {
    fault(format!("user \"{user}\" is not in {USER_DATABASE}"))
}

fn variables(user: &OsStr, home: &OsStr, shell: &OsStr) -> Vec<CString> {
    [("HOME=", home), ("USER=", user), ("LOGNAME=", user), ("SHELL=", shell)]
        .into_iter()
        .filter_map(|(name, value)| CString::new([name.as_bytes(), value.as_bytes()].concat()).ok())
        .collect()
}
