//! Where healer lives: what the kernel side has to be told of healer's namespaces.
//!
//! The kernel knows processes, times and cgroups by what they are in the initial namespaces; healer
//! speaks of them as its own show them. Called by `kernel`, once.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use procfs::process::{MountInfo, Process};

/// The initial cgroup namespace's inode number, include/linux/proc_ns.h.
const PROC_CGROUP_INIT_INO: u64 = 0xEFFF_FFFB;
/// A cgroup that does not exist: nothing leads up to it.
const NOWHERE: u64 = u64::MAX;

/// What the kernel side is told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Namespaces {
    /// The PID namespace's inode number.
    pub pid: u32,
    /// By how many nanoseconds this time namespace shifts boot time, and so the start times in
    /// `/proc`.
    pub boottime_offset: i64,
    /// The ID of the memory cgroup that is the root here, 0 where that is the root of all.
    pub cgroup_root: u64,
}

impl Namespaces {
    /// healer's own.
    ///
    /// # Errors
    ///
    /// `/proc` does not show this process's PID namespace.
    pub fn own() -> io::Result<Self> {
        let pid = fs::metadata("/proc/self/ns/pid")?.ino();
        Ok(Self {
            pid: u32::try_from(pid).map_err(io::Error::other)?,
            boottime_offset: boottime_offset(),
            cgroup_root: cgroup_root(),
        })
    }
}

fn boottime_offset() -> i64 {
    // Where there is no such file, there are no time namespaces.
    let offsets = fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
    let line = offsets.lines().find_map(|line| line.strip_prefix("boottime")).unwrap_or_default();
    let mut parts = line.split_ascii_whitespace().filter_map(|part| part.parse::<i64>().ok());
    parts.next().unwrap_or(0) * 1_000_000_000 + parts.next().unwrap_or(0)
}

fn cgroup_root() -> u64 {
    // A kernel without cgroups has no such file, and nothing to tell.
    let namespace =
        fs::metadata("/proc/self/ns/cgroup").map_or(PROC_CGROUP_INIT_INO, |it| it.ino());
    if namespace == PROC_CGROUP_INIT_INO {
        return 0;
    }
    // The root of the namespace has no path to open it by, unless it is mounted somewhere.
    let mounts = Process::myself().and_then(|own| own.mountinfo());
    let mounted = mounts.ok().and_then(|mounts| mounted_root(&mounts.0));
    // In cgroup file systems the inode number is the cgroup's ID.
    mounted.and_then(|path| fs::metadata(path).ok()).map_or(NOWHERE, |root| root.ino())
}

/// Where the root of the hierarchy that has the memory controller is mounted, seen from this
/// namespace: version 1 has one for it, else it is version 2's.
fn mounted_root(mounts: &[MountInfo]) -> Option<PathBuf> {
    let roots = || mounts.iter().filter(|mount| mount.root == "/");
    let v1 = |mount: &&MountInfo| {
        mount.fs_type == "cgroup" && mount.super_options.contains_key("memory")
    };
    let has_v1 = mounts.iter().any(|mount| v1(&mount));
    let found = roots().find(|mount| if has_v1 { v1(mount) } else { mount.fs_type == "cgroup2" });
    found.map(|mount| mount.mount_point.clone())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const V1: &str = "35 31 0:32 / /cg/memory rw - cgroup cgroup rw,memory";
    const OTHER_V1: &str = "36 31 0:33 / /cg/devices rw - cgroup cgroup rw,devices";
    const V2: &str = "41 31 0:38 / /cg/unified rw - cgroup2 cgroup2 rw";
    const ABOVE: &str = "41 31 0:38 /.. /cg/host rw - cgroup2 cgroup2 rw";
    const V1_ABOVE: &str = "35 31 0:32 /.. /cg/host rw - cgroup cgroup rw,memory";

    #[rstest]
    #[case::version_2(&[V2], Some("/cg/unified"))]
    #[case::version_1(&[OTHER_V1, V1], Some("/cg/memory"))]
    #[case::both(&[V2, OTHER_V1, V1], Some("/cg/memory"))]
    #[case::not_the_root_here(&[ABOVE], None)]
    #[case::one_of_two(&[ABOVE, V2], Some("/cg/unified"))]
    #[case::the_wrong_hierarchy(&[V2, V1_ABOVE], None)]
    #[case::none(&[], None)]
    fn the_root_of_memory_cgroups_is_found(#[case] lines: &[&str], #[case] at: Option<&str>) {
        let mounts: Vec<_> = lines.iter().map(|line| MountInfo::from_line(line).unwrap()).collect();
        assert_eq!(mounted_root(&mounts), at.map(PathBuf::from));
    }

    #[test]
    fn boot_time_is_not_shifted_outside_of_time_namespaces() {
        assert_eq!(boottime_offset(), 0);
    }
}
