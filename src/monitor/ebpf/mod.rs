//! The eBPF monitor: why an instance ended, and that somebody started one.
//!
//! The kernel side, `ebpf/healer.bpf.c`, keeps an entry for each watched instance and writes into it
//! who sent which signal, and at its end all about that. A pidfd becomes readable only after that:
//! whoever waits for it then [takes](Causes::take) the entry. No queue lies between, so that no
//! overflow, no lag and no slow reader can lose or delay a cause, and where the kernel skips the
//! program at the end (Linux 7 may), the entry still tells the last signal. An event per exit would
//! come a little earlier, but nothing could be started any sooner: files and ports are released
//! after it. What does travel on a ring are starts of wanted programs by others; the monitor's task,
//! [`spawn`], tells whose instances those are. Starts that the ring has no room for are counted, and
//! then all processes are looked at.
//!
//! `kernel` loads and attaches, `namespaces` says where healer lives, `record` reads what the kernel
//! wrote, `filter` is which files are wanted, `replaced` when those are others, `starts` the task,
//! `cause` joins causes with what the parent learned, `available` says what this machine lacks.
//! Loaded by `daemon`; [`Causes`] is `recovery`'s.
//!
//! Where the files of a program are compared: by inode and by the device of the file system that is
//! mounted there (which btrfs and overlayfs do not show in `stat`). A file system that numbers inodes
//! otherwise than it shows them (some FUSE ones) hides starts. A script is started from its
//! interpreter's file, so that every start of that interpreter is looked at.

mod available;
mod cause;
#[cfg(feature = "ebpf")]
mod filter;
#[cfg(feature = "ebpf")]
mod kernel;
#[cfg(feature = "ebpf")]
mod namespaces;
#[cfg(feature = "ebpf")]
mod record;
#[cfg(feature = "ebpf")]
mod replaced;
#[cfg(feature = "ebpf")]
mod starts;

#[cfg(not(feature = "ebpf"))]
#[path = "absent.rs"]
mod kernel;

pub use available::{LOST, Unavailable, available};
pub use cause::{Cause, Ended, Timed, merge};
pub use kernel::{Causes, Execs, Kernel, Meter};

#[cfg(not(feature = "ebpf"))]
pub use kernel::spawn;
#[cfg(feature = "ebpf")]
pub use starts::spawn;

/// How much room the kernel side gets, and what it does.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// For starts of wanted programs that the monitor has not looked at yet, 24 bytes each: a power
    /// of two, at least a page.
    pub ring_bytes: u32,
    /// The most instances watched at once. Each takes some 250 bytes of the kernel's memory.
    pub watched_max: u32,
    /// Whether ends are noted. Linux 7 may skip the program that does; tests of what is known then
    /// do without it.
    pub exits: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { ring_bytes: 64 * 1024, watched_max: 4096, exits: true }
    }
}

/// What the kernel side could not do, since it was loaded. All of it is made good: dropped starts by
/// looking at all processes, the rest by what a pidfd and the parent tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Starts that the ring had no room for.
    pub starts_dropped: u64,
    /// Started instances that `watched` had no room for.
    pub starts_unwatched: u64,
    /// Runs of programs that the kernel skipped (`recursion_misses`).
    pub runs_missed: u64,
}
