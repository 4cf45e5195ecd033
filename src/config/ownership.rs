//! Who may change the configuration of a root healer: root alone, for it names what root will run.
//!
//! [`judge`] is the rule for one file or directory, [`examine`] follows a path from the root and
//! applies it to everything on the way, symbolic links included. Called by `load`; `preflight` and
//! `daemon` apply the same rule to the directory of healer's own PID file.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// As many as the kernel follows in one path.
const MOST_LINKS: usize = 40;
const STICKY: u32 = 0o1000;

/// What decides who may change a file or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rights {
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Permission bits, the sticky one included.
    pub mode: u32,
    /// A directory, not a file.
    pub directory: bool,
}

impl From<&Metadata> for Rights {
    fn from(found: &Metadata) -> Self {
        Self { uid: found.uid(), gid: found.gid(), mode: found.mode(), directory: found.is_dir() }
    }
}

/// Why a file or directory cannot be trusted, with the cure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Distrust {
    /// What is wrong, such as `is writable by everyone`.
    pub what: String,
    /// The command that ends it, before the path.
    pub cure: &'static str,
}

/// Whether root alone may change it. `sudo_uid` counts as root; the group of root too. In a sticky
/// directory others cannot touch what belongs to someone else, so `next`, the owner of the next
/// element of the path, decides.
///
/// # Errors
/// Who else may change it.
pub fn judge(rights: Rights, next: Option<u32>, sudo_uid: Option<u32>) -> Result<(), Distrust> {
    let trusted = |uid: u32| uid == 0 || Some(uid) == sudo_uid;
    if !trusted(rights.uid) {
        let what = format!("is owned by uid {}", rights.uid);
        return Err(Distrust { what, cure: "chown root" });
    }
    let by_everyone = rights.mode & 0o002 != 0;
    let by_group = rights.mode & 0o020 != 0 && rights.gid != 0;
    let sticky = rights.directory && rights.mode & STICKY != 0 && next.is_some_and(trusted);
    if sticky || !(by_everyone || by_group) {
        return Ok(());
    }
    let what = if by_everyone {
        "is writable by everyone".to_owned()
    } else {
        format!("is writable by the group {}", rights.gid)
    };
    Err(Distrust { what, cure: "chmod go-w" })
}

/// What a look at every element of a path found.
#[derive(Debug)]
pub enum Examined {
    /// Root alone may change what the path leads to: this file, without links on the way.
    Trusted {
        /// The file.
        resolved: PathBuf,
        /// Whether `sudo_uid` owns some of it.
        by_sudo: bool,
    },
    /// Someone else may change it.
    Distrusted {
        /// The element at fault.
        element: PathBuf,
        /// Why.
        distrust: Distrust,
    },
}

/// Looks at every element of the absolute `path`.
///
/// # Errors
/// An element that is missing or cannot be looked at.
pub fn examine(path: &Path, sudo_uid: Option<u32>) -> io::Result<Examined> {
    let mut current = PathBuf::from("/");
    let mut here = fs::symlink_metadata(&current)?;
    let mut ahead = VecDeque::new();
    queue(&mut ahead, path);
    let mut links = 0;
    let mut by_sudo = false;
    while let Some(step) = ahead.pop_front() {
        if step == ".." {
            current.pop();
            here = fs::symlink_metadata(&current)?;
            continue;
        }
        let next = current.join(&step);
        let found = fs::symlink_metadata(&next)?;
        if let Err(distrust) = judge(Rights::from(&here), Some(found.uid()), sudo_uid) {
            return Ok(Examined::Distrusted { element: current, distrust });
        }
        by_sudo |= here.uid() != 0;
        if found.is_symlink() {
            links += 1;
            if links > MOST_LINKS {
                return Err(rustix::io::Errno::LOOP.into());
            }
            let target = fs::read_link(&next)?;
            if target.is_absolute() {
                current = PathBuf::from("/");
                here = fs::symlink_metadata(&current)?;
            }
            queue(&mut ahead, &target);
        } else {
            current = next;
            here = found;
        }
    }
    by_sudo |= here.uid() != 0;
    Ok(match judge(Rights::from(&here), None, sudo_uid) {
        Ok(()) => Examined::Trusted { resolved: current, by_sudo },
        Err(distrust) => Examined::Distrusted { element: current, distrust },
    })
}

/// Puts the steps of `path` before those that are ahead.
fn queue(ahead: &mut VecDeque<OsString>, path: &Path) {
    for component in path.components().rev() {
        if let Component::Normal(_) | Component::ParentDir = component {
            ahead.push_front(component.as_os_str().to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const ME: Option<u32> = Some(1000);

    #[rstest]
    #[case::plain((0, 0, 0o644), None, None, "")]
    #[case::private((0, 0, 0o600), None, None, "")]
    #[case::group_of_root((0, 0, 0o664), None, None, "")]
    #[case::other_group((0, 100, 0o664), None, None, "is writable by the group 100")]
    #[case::everyone((0, 0, 0o646), None, None, "is writable by everyone")]
    #[case::stranger((1000, 1000, 0o600), None, None, "is owned by uid 1000")]
    #[case::sudo((1000, 1000, 0o600), None, ME, "")]
    #[case::another_than_sudo((1001, 1000, 0o600), None, ME, "is owned by uid 1001")]
    #[case::sudo_s_group((1000, 1000, 0o664), None, ME, "is writable by the group 1000")]
    #[case::sticky_file_is_nothing((0, 0, 0o1666), None, None, "is writable by everyone")]
    fn a_file(
        #[case] (uid, gid, mode): (u32, u32, u32),
        #[case] next: Option<u32>,
        #[case] sudo: Option<u32>,
        #[case] expected: &str,
    ) {
        let verdict = judge(Rights { uid, gid, mode, directory: false }, next, sudo);
        assert_eq!(verdict.err().map_or(String::new(), |distrust| distrust.what), expected);
    }

    #[rstest]
    #[case::plain((0, 0, 0o755), 0, None, "")]
    #[case::sticky((0, 0, 0o1777), 0, None, "")]
    #[case::sticky_before_a_stranger_s((0, 0, 0o1777), 1000, None, "is writable by everyone")]
    #[case::sticky_before_sudo_s((0, 0, 0o1777), 1000, ME, "")]
    #[case::nix_store((0, 30000, 0o1775), 0, None, "")]
    #[case::open((0, 0, 0o777), 0, None, "is writable by everyone")]
    #[case::stranger((1000, 0, 0o755), 0, None, "is owned by uid 1000")]
    #[case::sticky_of_a_stranger((1000, 0, 0o1777), 0, None, "is owned by uid 1000")]
    fn a_directory(
        #[case] (uid, gid, mode): (u32, u32, u32),
        #[case] next: u32,
        #[case] sudo: Option<u32>,
        #[case] expected: &str,
    ) {
        let verdict = judge(Rights { uid, gid, mode, directory: true }, Some(next), sudo);
        assert_eq!(verdict.err().map_or(String::new(), |distrust| distrust.what), expected);
    }
}
