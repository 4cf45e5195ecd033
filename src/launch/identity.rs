//! Who a program runs as: looked up in the user and group databases, then assumed for good.
//!
//! Fails where the answer is not certain; never falls back to another identity. Called by `stage`,
//! in a process of its own, so that a slow directory service holds up nobody else.

use std::ffi::CString;
use std::path::Path;

use nix::unistd::{Gid, Group, Uid, User, getgrouplist, setgroups, setresgid, setresuid};

use super::report::{Fault, fault, refused};
use super::spec::As;

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
    pub(super) fn look_up(run_as: &As) -> Result<Option<Self>, Fault> {
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
        let number = user.parse().ok().map(Uid::from_raw);
        let entry =
            number.map_or_else(|| User::from_name(user), User::from_uid).map_err(|errno| {
                refused(format!("looking up user \"{user}\" in the user database"), errno)
            })?;
        let gid = match (group, &entry) {
            (Some(group), _) => group_id(group)?,
            (None, Some(entry)) => entry.gid,
            (None, None) if number.is_some() => {
                let reason = "is not in the user database: run_as_group must say its group";
                return Err(fault(format!("user {user} {reason}")));
            }
            (None, None) => return Err(unknown("user", user)),
        };
        let Some(entry) = entry else {
            let uid = number.ok_or_else(|| unknown("user", user))?;
            return Ok(Some(Self {
                uid,
                gid,
                supplementary: Some(Vec::new()),
                variables: variables(user.as_bytes(), b"/", b"/bin/sh"),
            }));
        };
        let name = CString::new(entry.name.as_bytes()).map_err(|_| unknown("user", user))?;
        let supplementary = getgrouplist(&name, gid)
            .map_err(|errno| refused(format!("looking up the groups of user \"{user}\""), errno))?;
        let shell =
            if entry.shell.as_os_str().is_empty() { Path::new("/bin/sh") } else { &entry.shell };
        let variables = variables(
            entry.name.as_bytes(),
            entry.dir.as_os_str().as_encoded_bytes(),
            shell.as_os_str().as_encoded_bytes(),
        );
        Ok(Some(Self { uid: entry.uid, gid, supplementary: Some(supplementary), variables }))
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

fn group_id(group: &str) -> Result<Gid, Fault> {
    if let Ok(number) = group.parse() {
        return Ok(Gid::from_raw(number));
    }
    let entry = Group::from_name(group).map_err(|errno| {
        refused(format!("looking up group \"{group}\" in the group database"), errno)
    })?;
    Ok(entry.ok_or_else(|| unknown("group", group))?.gid)
}

fn unknown(what: &str, name: &str) -> Fault {
    fault(format!("{what} \"{name}\" is not in the {what} database"))
}

fn variables(user: &[u8], home: &[u8], shell: &[u8]) -> Vec<CString> {
    [(b"HOME=".as_slice(), home), (b"USER=", user), (b"LOGNAME=", user), (b"SHELL=", shell)]
        .into_iter()
        .filter_map(|(name, value)| CString::new([name, value].concat()).ok())
        .collect()
}
