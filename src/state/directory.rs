//! The files: `state/` in the directory of healer's PID file, one for each process, and a header.
//!
//! They are written beside and renamed, so that each is whole at any moment, and not forced to the
//! disk: what counts is the end of healer, not that of the machine. A file is believed only where
//! nobody but healer's own user can have written it. What is not to be believed is set aside. What
//! the files say is `memory`'s, when they are written `writer`'s.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, Stat, fchmod, fstat, mkdirat, openat, renameat, unlinkat,
};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::memory::{FORMAT, Memory, json};
use crate::event::{ProcessName, Time};

/// The directory's name.
const NAME: &str = "state";
/// The header's. A process of that name has its file elsewhere.
const HEADER: &str = "header.json";
/// Many times what the largest file has.
const LARGEST: u64 = 64 * 1024;

/// The directory, open: whatever its path leads to later, files are read and written here.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    fd: OwnedFd,
}

/// What the files are about: in another boot, or another PID namespace, a PID means nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    format: u32,
    boot_id: String,
    pid_namespace: u64,
}

/// What a file was found to be.
#[derive(Debug)]
pub enum Found<T> {
    /// There is none.
    Nothing,
    /// One that can be believed.
    Good(T),
    /// One that cannot, and why. It was set aside.
    Bad(String),
}

/// Why nothing can be remembered.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// The system refuses.
    #[error("cannot {what} {}: {error}", path.display())]
    System {
        /// What it refuses.
        what: &'static str,
        /// Of what.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
    /// Others could write there.
    #[error("{} {why}: remove it, healer makes its own", path.display())]
    Unsafe {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

impl Unusable {
    fn of<E: Into<io::Error>>(what: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
        let path = path.to_owned();
        move |error| Self::System { what, path, error: error.into() }
    }

    /// Whether the directory is no longer where it was.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::System { error, .. } if error.kind() == io::ErrorKind::NotFound)
    }
}

impl Header {
    /// This boot's and this namespace's.
    ///
    /// # Errors
    ///
    /// `/proc` does not tell.
    pub fn present() -> Result<Self, Unusable> {
        const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
        const NAMESPACE: &str = "/proc/self/ns/pid";
        let boot_id =
            fs::read_to_string(BOOT_ID).map_err(Unusable::of("read", BOOT_ID.as_ref()))?;
        let namespace = fs::metadata(NAMESPACE).map_err(Unusable::of("see", NAMESPACE.as_ref()))?;
        Ok(Self {
            format: FORMAT,
            boot_id: boot_id.trim_end().to_owned(),
            pid_namespace: namespace.ino(),
        })
    }

    /// Whether boot time is the same.
    #[must_use]
    pub fn is_of_this_boot(&self, present: &Self) -> bool {
        (self.format, &self.boot_id) == (present.format, &present.boot_id)
    }

    fn decode(text: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(text)
    }
}

impl Directory {
    /// Opens the one in `parent`, which is there; makes it where it is missing.
    ///
    /// # Errors
    ///
    /// [`Unusable`].
    pub fn open(parent: &Path) -> Result<Self, Unusable> {
        let path = parent.join(NAME);
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let above =
            rustix::fs::open(parent, flags, Mode::empty()).map_err(Unusable::of("open", parent))?;
        match mkdirat(&above, NAME, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(Unusable::of("create", &path)(errno)),
        }
        let fd = openat(&above, NAME, flags | OFlags::NOFOLLOW, Mode::empty())
            .map_err(Unusable::of("open", &path))?;
        let found = fstat(&fd).map_err(Unusable::of("see", &path))?;
        if let Some(why) = distrust(&found) {
            return Err(Unusable::Unsafe { path, why });
        }
        if found.st_mode & 0o077 != 0 {
            fchmod(&fd, Mode::RWXU).map_err(Unusable::of("chmod", &path))?;
        }
        Ok(Self { path, fd })
    }

    /// Where a process's file is, for words to the operator.
    #[must_use]
    pub fn path_of(&self, process: &ProcessName) -> PathBuf {
        self.path.join(file_of(process))
    }

    /// What is remembered of a process, and when that was written.
    pub fn read(&self, process: &ProcessName) -> Found<(Memory, Time)> {
        self.examine(&file_of(process), Memory::decode)
    }

    /// What the files are about.
    pub fn header(&self) -> Found<Header> {
        self.examine(HEADER, Header::decode)
    }

    /// Writes what is remembered of a process; nothing, where that is nothing.
    ///
    /// # Errors
    ///
    /// [`Unusable`]; then the file is as it was.
    pub fn write(&self, process: &ProcessName, memory: &Memory, now: Time) -> Result<(), Unusable> {
        if memory.is_empty() {
            return self.remove(process);
        }
        self.replace(&file_of(process), &memory.encode(now))
    }

    /// Says from now on that the files are about this.
    ///
    /// # Errors
    ///
    /// As [`Directory::write`].
    pub fn write_header(&self, header: &Header) -> Result<(), Unusable> {
        self.replace(HEADER, &json(header))
    }

    /// Forgets a process.
    ///
    /// # Errors
    ///
    /// [`Unusable`].
    pub fn remove(&self, process: &ProcessName) -> Result<(), Unusable> {
        let file = file_of(process);
        match unlinkat(&self.fd, file.as_str(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(Unusable::of("remove", &self.path.join(file))(errno)),
        }
    }

    /// Forgets whoever is not among these, and what a healer that was killed had not finished.
    ///
    /// # Errors
    ///
    /// [`Unusable`].
    pub fn keep_only<'a>(
        &self,
        processes: impl IntoIterator<Item = &'a ProcessName>,
    ) -> Result<(), Unusable> {
        let mut wanted = std::collections::HashSet::from([HEADER.to_owned(), bad(HEADER)]);
        for file in processes.into_iter().map(file_of) {
            wanted.insert(bad(&file));
            wanted.insert(file);
        }
        let entries = Dir::read_from(&self.fd).map_err(Unusable::of("list", &self.path))?;
        for entry in entries {
            let entry = entry.map_err(Unusable::of("list", &self.path))?;
            let file = entry.file_name().to_str().unwrap_or_default();
            if [".", ".."].contains(&file) || wanted.contains(file) {
                continue;
            }
            match unlinkat(&self.fd, entry.file_name(), AtFlags::empty()) {
                // What is no file is not healer's either.
                Ok(()) | Err(Errno::NOENT | Errno::ISDIR) => {}
                Err(errno) => {
                    let path = self.path.join(OsStr::from_bytes(entry.file_name().to_bytes()));
                    return Err(Unusable::of("remove", &path)(errno));
                }
            }
        }
        Ok(())
    }

    fn examine<T, E: std::error::Error>(
        &self,
        file: &str,
        decode: impl FnOnce(&[u8]) -> Result<T, E>,
    ) -> Found<T> {
        let why = match self.believed(file) {
            Ok(None) => return Found::Nothing,
            Ok(Some(text)) => match decode(&text) {
                Ok(read) => return Found::Good(read),
                Err(error) => match error.source() {
                    Some(cause) => format!("{error}: {cause}"),
                    None => error.to_string(),
                },
            },
            Err(why) => why,
        };
        // Where even that is refused, the next one written takes its place.
        let aside = renameat(&self.fd, file, &self.fd, bad(file));
        let aside = aside.or_else(|_| unlinkat(&self.fd, file, AtFlags::empty()));
        match aside {
            Ok(()) => Found::Bad(why),
            Err(errno) => Found::Bad(format!("{why}; it cannot be set aside: {errno}")),
        }
    }

    /// The text of a file that nobody else can have written.
    fn believed(&self, file: &str) -> Result<Option<Vec<u8>>, String> {
        let said = |errno: Errno| io::Error::from(errno).to_string();
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = match openat(&self.fd, file, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP) => return Err("it is a symbolic link".to_owned()),
            Err(errno) => return Err(said(errno)),
        };
        let found = fstat(&fd).map_err(said)?;
        if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
            return Err("it is not a regular file".to_owned());
        }
        if let Some(why) = distrust(&found) {
            return Err(format!("it {why}"));
        }
        let mut text = Vec::new();
        let read = File::from(fd).take(LARGEST + 1).read_to_end(&mut text);
        read.map_err(|error| error.to_string())?;
        if text.len() as u64 > LARGEST {
            return Err(format!("it is larger than {} KiB", LARGEST / 1024));
        }
        Ok(Some(text))
    }

    fn replace(&self, file: &str, text: &[u8]) -> Result<(), Unusable> {
        let beside = format!("{file}.new");
        let write = || -> io::Result<()> {
            let flags = OFlags::WRONLY
                | OFlags::CREATE
                | OFlags::TRUNC
                | OFlags::NOFOLLOW
                | OFlags::CLOEXEC;
            let fd = openat(&self.fd, beside.as_str(), flags, Mode::RUSR | Mode::WUSR)?;
            File::from(fd).write_all(text)?;
            Ok(renameat(&self.fd, beside.as_str(), &self.fd, file)?)
        };
        write().map_err(|error| {
            // A full disk is not to be filled with halves.
            let _ = unlinkat(&self.fd, beside.as_str(), AtFlags::empty());
            Unusable::of("write", &self.path.join(file))(error)
        })
    }
}

/// Why somebody else may have written this.
fn distrust(found: &Stat) -> Option<String> {
    if found.st_uid != rustix::process::geteuid().as_raw() {
        return Some(format!("belongs to uid {}", found.st_uid));
    }
    (found.st_mode & 0o022 != 0).then(|| "may be written by others".to_owned())
}

/// Names of processes begin with a letter or digit, so that none has this file for its own.
fn file_of(process: &ProcessName) -> String {
    let file = format!("{process}.json");
    if file == HEADER { format!("_{file}") } else { file }
}

fn bad(file: &str) -> String {
    format!("{file}.bad")
}
