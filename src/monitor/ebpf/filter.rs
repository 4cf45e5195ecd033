//! Which files are wanted: their exec is told, any other's is not.
//!
//! Called by `starts`.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::Path;

use aya::maps::MapData;
use procfs::process::Process;
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

use super::kernel::io_error;
use super::record::FileKey;

type Wanted = aya::maps::HashMap<MapData, FileKey, u32>;

/// The kernel's filter, and what is in it.
#[derive(Debug)]
pub(super) struct Filter {
    wanted: Wanted,
    files: HashSet<FileKey>,
}

impl Filter {
    pub(super) fn new(wanted: Wanted) -> Self {
        Self { wanted, files: HashSet::new() }
    }

    /// Wants the files that these paths lead to now, and no others. A path that leads nowhere is
    /// passed over.
    pub(super) fn set<'a>(&mut self, paths: impl Iterator<Item = &'a Path>) -> io::Result<()> {
        let devices = devices();
        let files: HashSet<_> = paths.filter_map(|path| key(path, &devices)).collect();
        for gone in self.files.difference(&files) {
            // It is there.
            let _ = self.wanted.remove(gone);
        }
        let mut full = Ok(());
        self.files.retain(|file| files.contains(file));
        for new in files {
            if self.files.contains(&new) {
                continue;
            }
            match self.wanted.insert(new, 1, 0) {
                Ok(()) => drop(self.files.insert(new)),
                Err(error) => full = Err(io_error(error)),
            }
        }
        full
    }
}

/// The devices of the mounted file systems by the IDs of their mounts. `stat` may show another one
/// (btrfs: per subvolume, overlayfs: per layer) than the kernel compares.
fn devices() -> HashMap<u64, u32> {
    let mounts = Process::myself().and_then(|own| own.mountinfo()).map(|mounts| mounts.0);
    let device = |text: &str| {
        let (major, minor) = text.split_once(':')?;
        Some(kernel_dev(major.parse().ok()?, minor.parse().ok()?))
    };
    let mounts = mounts.unwrap_or_default().into_iter();
    mounts.filter_map(|m| Some((u64::try_from(m.mnt_id).ok()?, device(&m.majmin)?))).collect()
}

fn key(path: &Path, devices: &HashMap<u64, u32>) -> Option<FileKey> {
    let asked = StatxFlags::INO | StatxFlags::MNT_ID;
    let found = statx(CWD, path, AtFlags::empty(), asked).ok()?;
    let shown = kernel_dev(found.stx_dev_major, found.stx_dev_minor);
    let device = devices.get(&found.stx_mnt_id).copied().unwrap_or(shown);
    Some(FileKey::new(device, found.stx_ino))
}

/// A device as the kernel keeps it (`MKDEV`), other than what it shows.
fn kernel_dev(major: u32, minor: u32) -> u32 {
    major << 20 | minor
}
