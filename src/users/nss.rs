//! The C library's look-up, whatever it asks: this may take its time.
//!
//! Not in a static build. Called by `users` where the files do not decide.

use std::ffi::CString;

use nix::errno::Errno;
use nix::unistd::{Gid, Group, Uid, User as Found, getgrouplist};

use super::{Unanswered, User};

fn failed(what: String) -> impl FnOnce(Errno) -> Unanswered {
    move |errno| Unanswered::Failed { what, error: errno.into() }
}

pub(super) fn user(wanted: &str) -> Result<Option<User>, Unanswered> {
    let number = wanted.parse().ok().map(Uid::from_raw);
    let found = number.map_or_else(|| Found::from_name(wanted), Found::from_uid);
    let found =
        found.map_err(failed(format!("looking up user \"{wanted}\" in the user database")))?;
    Ok(found.map(|found| User {
        name: found.name,
        uid: found.uid.as_raw(),
        gid: found.gid.as_raw(),
        home: found.dir.into(),
        shell: found.shell.into(),
    }))
}

pub(super) fn group(wanted: &str) -> Result<Option<u32>, Unanswered> {
    let found = Group::from_name(wanted)
        .map_err(failed(format!("looking up group \"{wanted}\" in the group database")))?;
    Ok(found.map(|found| found.gid.as_raw()))
}

pub(super) fn groups(user: &User, primary: u32) -> Result<Vec<u32>, Unanswered> {
    let name = &user.name;
    let found = CString::new(name.as_bytes())
        .map_err(|_| Errno::EINVAL)
        .and_then(|name| getgrouplist(&name, Gid::from_raw(primary)))
        .map_err(failed(format!("looking up the groups of user \"{name}\"")))?;
    Ok(found.into_iter().map(Gid::as_raw).collect())
}
