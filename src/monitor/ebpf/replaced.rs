//! Tells when the path of a program leads to another file than before.
//!
//! A file is replaced by a rename over it, by another one put in the place of the removed one, or by
//! a symbolic link on its way that leads elsewhere (NixOS, alternatives). Which file it leads to is
//! looked up by `filter`. Called by `starts`.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use inotify::{Inotify, WatchMask};

use crate::instance::readable::Readable;

/// A file or link that was replaced, renamed or removed.
const CHANGED: WatchMask =
    WatchMask::ATTRIB.union(WatchMask::DELETE_SELF).union(WatchMask::MOVE_SELF);
/// A directory in which what is missing may have come. Told once: then it is looked for.
const COMING: WatchMask = WatchMask::CREATE.union(WatchMask::MOVED_TO).union(WatchMask::ONESHOT);
/// As many links as the kernel follows on one way.
const LINKS_MAX: usize = 40;

/// What is watched.
#[derive(Debug)]
pub(super) struct Replaced {
    inotify: Inotify,
    readable: Readable,
}

impl Replaced {
    /// Watches nothing yet. To be called within a runtime.
    ///
    /// # Errors
    ///
    /// No descriptor is left.
    pub fn new() -> io::Result<Self> {
        let inotify = Inotify::init()?;
        let readable = Readable::new(&inotify)?;
        Ok(Self { inotify, readable })
    }

    /// Watches the way to this file. Never again until [`Replaced::next`] told: watches are kept
    /// for as long as what they are on exists.
    pub fn watch(&mut self, file: &Path) {
        let Way { links, end } = Way::to(file);
        // What was removed since the look is looked for when something else changes.
        for link in links {
            let _ = self.inotify.watches().add(link, CHANGED | WatchMask::DONT_FOLLOW);
        }
        let _ = match end {
            End::File(file) => self.inotify.watches().add(file, CHANGED),
            End::MissingIn(dir) => self.inotify.watches().add(dir, COMING),
        };
    }

    /// Waits until a watched way may lead elsewhere.
    ///
    /// # Errors
    ///
    /// inotify failed.
    pub async fn next(&mut self) -> io::Result<()> {
        let Self { inotify, readable } = self;
        // One event or many, a known file or one that events were lost of: all are looked at.
        readable.read(|| inotify.read_events(&mut [0; 4096]).map(|_| ())).await
    }
}

/// How a path is resolved.
#[derive(Debug, PartialEq, Eq)]
struct Way {
    /// The symbolic links on it.
    links: Vec<PathBuf>,
    end: End,
}

#[derive(Debug, PartialEq, Eq)]
enum End {
    File(PathBuf),
    /// The way breaks off in this directory.
    MissingIn(PathBuf),
}

impl Way {
    /// The way to an absolute path, as the kernel goes it.
    fn to(path: &Path) -> Self {
        let mut links = Vec::new();
        let mut at = PathBuf::from("/");
        let mut ahead = steps(path);
        while let Some(step) = ahead.pop_front() {
            if step == ".." {
                at.pop();
                continue;
            }
            let next = at.join(&step);
            match fs::read_link(&next) {
                Ok(target) if links.len() < LINKS_MAX => {
                    links.push(next);
                    if target.is_absolute() {
                        at = PathBuf::from("/");
                    }
                    let mut instead = steps(&target);
                    instead.append(&mut ahead);
                    ahead = instead;
                }
                // No link.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => at = next,
                Ok(_) | Err(_) => return Self { links, end: End::MissingIn(at) },
            }
        }
        Self { links, end: End::File(at) }
    }
}

fn steps(path: &Path) -> VecDeque<OsString> {
    let step = |part: Component<'_>| match part {
        Component::Normal(_) | Component::ParentDir => Some(part.as_os_str().to_owned()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().filter_map(step).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use rstest::rstest;

    use super::*;

    /// A tree of links; the path of its root is shown as ROOT.
    fn way_to(path: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("store/1/bin")).unwrap();
        fs::write(root.join("store/1/bin/web"), "").unwrap();
        for (link, target) in [
            ("now", "store/1"),
            ("bin", "now/bin"),
            ("far", root.join("bin/web").to_str().unwrap()),
            ("round", "round"),
            ("store/1/bin/up", "../../../far"),
            ("broken", "store/2/bin"),
        ] {
            symlink(target, root.join(link)).unwrap();
        }
        let Way { links, end } = Way::to(&root.join(path));
        let shown = |path: PathBuf| path.strip_prefix(&root).unwrap().display().to_string();
        let links: Vec<_> = links.into_iter().map(shown).collect();
        let end = match end {
            End::File(file) => shown(file),
            End::MissingIn(dir) => format!("missing in {}", shown(dir)),
        };
        format!("{} -> {end}", links.join(" "))
    }

    #[rstest]
    #[case::plain("store/1/bin/web", " -> store/1/bin/web")]
    #[case::links("bin/web", "bin now -> store/1/bin/web")]
    #[case::absolute("far", "far bin now -> store/1/bin/web")]
    #[case::upwards("now/bin/up", "now store/1/bin/up far bin now -> store/1/bin/web")]
    #[case::dots("./now/../../1/bin/web", "now -> missing in ")]
    #[case::missing("bin/db", "bin now -> missing in store/1/bin")]
    #[case::missing_directory("broken/db", "broken -> missing in store")]
    #[case::through_a_file("bin/web/x", "bin now -> missing in store/1/bin/web")]
    fn links_on_the_way_are_found(#[case] path: &str, #[case] way: &str) {
        assert_eq!(way_to(path), way);
    }

    #[test]
    fn links_that_lead_nowhere_come_to_an_end() {
        let round = ["round"; LINKS_MAX].join(" ");
        assert_eq!(way_to("round"), format!("{round} -> missing in "));
    }
}
