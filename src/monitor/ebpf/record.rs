//! The layouts of `ebpf/healer.h` in Rust, and what they mean.
//!
//! Called by `kernel`, which reads them out of maps and the ring.

use std::time::Duration;

use aya::Pod;

use crate::event::{Cpu, Instance, Killer, Oom, Pid, Signal, Time};
use crate::instance::reaper::end_of;

use super::cause::{Cause, Ended, Timed};

/// `struct instance`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct InstanceKey {
    start_ticks: u64,
    pid: u32,
    unused: u32,
}

/// `struct file_key`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub(super) struct FileKey {
    ino: u64,
    dev: u32,
    unused: u32,
}

/// `struct sent`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct RawSent {
    at: u64,
    signal: i32,
    code: i32,
    origin: u32,
    pid: u32,
    uid: u32,
    unused: u32,
    comm: [u8; 16],
}

/// `struct watched`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Watched {
    asked: RawSent,
    other: RawSent,
    ended_at: u64,
    started_at: u64,
    run_ns: u64,
    user_ns: u64,
    system_ns: u64,
    peak_rss_pages: u64,
    status: i32,
    fatal: u32,
    oom_cgroup: u64,
    oom: u32,
    unused: u32,
}

/// `struct cgroup_path`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct CgroupPath {
    length: u32,
    whole: u32,
    names: [u8; 512],
}

#[expect(unsafe_code, reason = "maps and the ring carry plain bytes")]
mod pod {
    use super::{CgroupPath, FileKey, InstanceKey, Pod, Watched};
    // SAFETY: all four are `repr(C)` of integers and byte arrays without padding: every pattern of
    // bytes is a value of theirs, and every byte of theirs is set.
    unsafe impl Pod for InstanceKey {}
    // SAFETY: as above.
    unsafe impl Pod for FileKey {}
    // SAFETY: as above.
    unsafe impl Pod for Watched {}
    // SAFETY: as above.
    unsafe impl Pod for CgroupPath {}
}

/// `enum origin`.
const ORIGIN_INFO: u32 = 0;
const ORIGIN_PRIV: u32 = 2;
/// Sent for a timer, for I/O that is done, for a descriptor that is ready (asm-generic/siginfo.h):
/// whoever ran at that moment has nothing to do with it.
const SENDER_UNKNOWN: [i32; 3] = [-2, -4, -5];

impl From<Instance> for InstanceKey {
    fn from(instance: Instance) -> Self {
        let pid = instance.pid.0.cast_unsigned();
        Self { start_ticks: instance.start_ticks, pid, unused: 0 }
    }
}

impl InstanceKey {
    pub(super) fn instance(self) -> Instance {
        Instance { pid: Pid(self.pid.cast_signed()), start_ticks: self.start_ticks }
    }

    /// Reads a record of the ring.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let (start_ticks, rest) = bytes.split_first_chunk()?;
        let (pid, _) = rest.split_first_chunk()?;
        let start_ticks = u64::from_ne_bytes(*start_ticks);
        Some(Self { start_ticks, pid: u32::from_ne_bytes(*pid), unused: 0 })
    }
}

impl FileKey {
    pub(super) fn new(dev: u32, ino: u64) -> Self {
        Self { ino, dev, unused: 0 }
    }
}

impl Watched {
    /// Of what nothing is known yet.
    pub(super) fn nothing() -> Self {
        Self {
            asked: RawSent::default(),
            other: RawSent::default(),
            ended_at: 0,
            started_at: 0,
            run_ns: 0,
            user_ns: 0,
            system_ns: 0,
            peak_rss_pages: 0,
            status: 0,
            fatal: 0,
            oom_cgroup: 0,
            oom: 0,
            unused: 0,
        }
    }

    /// Which cgroup it was in, if it was an OOM victim.
    pub(super) fn oom_cgroup(&self) -> Option<u64> {
        (self.oom != 0 && self.oom_cgroup != 0).then_some(self.oom_cgroup)
    }

    /// What it says of `instance`; `cgroup` is the path of [`Watched::oom_cgroup`].
    pub(super) fn cause(&self, instance: Instance, cgroup: Option<String>) -> Cause {
        Cause {
            ended: self.ended(),
            fatal: i32::try_from(self.fatal).ok().filter(|signal| *signal != 0).map(Signal),
            oom: (self.oom != 0).then_some(Oom { cgroup }),
            asked: self.asked.timed(instance),
            other: self.other.timed(instance),
        }
    }

    fn ended(&self) -> Option<Ended> {
        let end = end_of(self.status).filter(|_| self.ended_at != 0)?;
        Some(Ended {
            end,
            at: Time(self.ended_at),
            runtime: Time(self.ended_at).since(Time(self.started_at)),
            cpu: self.cpu(),
            peak_rss: self.peak_rss_pages * procfs::page_size(),
        })
    }

    /// Divides the exact time as the ticks saw it, as the kernel does for getrusage(2).
    fn cpu(&self) -> Cpu {
        let ticks = u128::from(self.user_ns) + u128::from(self.system_ns);
        let system = (u128::from(self.run_ns) * u128::from(self.system_ns)).checked_div(ticks);
        let system = u64::try_from(system.unwrap_or(0)).unwrap_or(self.run_ns);
        let user = self.run_ns.saturating_sub(system);
        Cpu { user: Duration::from_nanos(user), system: Duration::from_nanos(system) }
    }
}

impl RawSent {
    fn timed(&self, target: Instance) -> Option<Timed> {
        let signal = Signal(self.signal);
        let timed = || Timed { at: Time(self.at), signal, by: self.killer(target) };
        (self.at != 0).then(timed)
    }

    fn killer(&self, target: Instance) -> Option<Killer> {
        // Only the kernel gives a positive code.
        if self.origin == ORIGIN_PRIV || (self.origin == ORIGIN_INFO && self.code > 0) {
            return Some(Killer::Kernel);
        }
        // These are the kernel's too, but any process may give them.
        if self.origin == ORIGIN_INFO && SENDER_UNKNOWN.contains(&self.code) {
            return None;
        }
        let pid = Pid(self.pid.cast_signed());
        if pid == target.pid {
            return Some(Killer::Itself);
        }
        let pid = Some(pid).filter(|pid| pid.0 > 0);
        Some(Killer::Process { pid, comm: text(&self.comm), uid: self.uid })
    }
}

impl CgroupPath {
    /// As /proc/PID/cgroup shows it to healer; after `…` where not all of it is known. `None` for
    /// the root.
    pub(super) fn shown(&self) -> Option<String> {
        let used = usize::try_from(self.length).ok().and_then(|used| self.names.get(..used))?;
        let names = used.split(|byte| *byte == 0).filter(|name| !name.is_empty());
        let mut names: Vec<_> = names.map(String::from_utf8_lossy).collect();
        names.reverse();
        let from = if self.whole == 0 { "…/" } else { "/" };
        (!names.is_empty()).then(|| format!("{from}{}", names.join("/")))
    }
}

/// A C string in a field of its own.
fn text(bytes: &[u8]) -> String {
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}
