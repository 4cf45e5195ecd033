//! Loads the kernel side, attaches it, and talks to its maps.
//!
//! [`Kernel::load`] and [`Meter`] are `daemon`'s, [`Causes`] recovery's; [`Execs`] goes to `starts`.

use std::error::Error;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;

use aya::maps::{Array, HashMap, Map, MapData, MapError, RingBuf};
use aya::programs::BtfTracePoint;
use aya::{Btf, Ebpf, EbpfLoader};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};

use crate::event::Instance;

use super::filter::Filter;
use super::namespaces::Namespaces;
use super::record::{CgroupPath, InstanceKey, Watched};
use super::{Cause, Counters, Options, Unavailable, available};

/// What `build.rs` made of `ebpf/healer.bpf.c`.
const OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/healer.bpf.o"));

/// Programs in `ebpf/healer.bpf.c` and their tracepoints.
const PROGRAMS: [(&str, &str); 4] = [
    ("on_exec", "sched_process_exec"),
    ("on_signal", "signal_generate"),
    ("on_oom", "mark_victim"),
    (ON_EXIT, "sched_process_exit"),
];
const ON_EXIT: &str = "on_exit";

/// `enum counter`.
const COUNTER_RING_FULL: u32 = 0;
const COUNTER_WATCHED_FULL: u32 = 1;

/// `BPF_NOEXIST` of bpf(2).
const NO_EXIST: u64 = 1;

/// The loaded kernel side. It works until all parts are dropped.
#[derive(Debug)]
pub struct Kernel {
    /// Why instances ended.
    pub causes: Causes,
    /// Starts by others.
    pub execs: Execs,
    /// What it could not do.
    pub meter: Meter,
}

impl Kernel {
    /// Loads and attaches. Raises `RLIMIT_MEMLOCK`, which Linux before 5.11 counts maps against.
    ///
    /// # Errors
    ///
    /// [`Unavailable`]: what is missing, as far as it can be told.
    pub fn load(options: Options) -> Result<Self, Unavailable> {
        available()?;
        // Without the right to, the limit may still do.
        let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
        let loaded = load(options);
        give_memory_back();
        let mut ebpf = loaded?;
        let mut take = |name: &str| take(&mut ebpf, name);
        let map_fault = |error| refused("use the maps", error);
        let watched = take("watched");
        let again = duplicate(&watched).map_err(|error| refused("use the maps", error))?;
        let counters = Array::try_from(take("counters")).map_err(map_fault)?;
        let paths = HashMap::try_from(take("oom_cgroups")).map_err(map_fault)?;
        let wanted = HashMap::try_from(take("wanted")).map_err(map_fault)?;
        let ring = RingBuf::try_from(take("execs")).map_err(map_fault)?;
        let meter = Meter(Arc::new(Attached { ebpf, counters }));
        let watched = Instances(HashMap::try_from(watched).map_err(map_fault)?);
        let again = Instances(HashMap::try_from(again).map_err(map_fault)?);
        Ok(Self {
            causes: Causes { watched, paths, _attached: meter.clone() },
            execs: Execs {
                ring,
                filter: Filter::new(wanted),
                watched: again,
                meter: meter.clone(),
            },
            meter,
        })
    }
}

fn load(options: Options) -> Result<Ebpf, Unavailable> {
    let own = Namespaces::own().map_err(|error| refused("look at /proc", error))?;
    let boottime_offset = own.boottime_offset.cast_unsigned();
    let btf = Btf::from_sys_fs().map_err(|error| refused("read the kernel's BTF", error))?;
    let mut ebpf = EbpfLoader::new()
        .btf(Some(&btf))
        .override_global("own_pid_namespace", &own.pid, true)
        .override_global("boottime_offset", &boottime_offset, true)
        .override_global("own_cgroup_root", &own.cgroup_root, true)
        .map_max_entries("execs", options.ring_bytes)
        .map_max_entries("watched", options.watched_max)
        // Each process has at most a program of its own.
        .map_max_entries("wanted", options.watched_max)
        .load(OBJECT)
        .map_err(|error| refused("create the eBPF maps", error))?;
    for (name, tracepoint) in PROGRAMS {
        if name == ON_EXIT && !options.exits {
            continue;
        }
        let program = ebpf.program_mut(name).expect("the object that was built has it");
        let program: &mut BtfTracePoint =
            program.try_into().map_err(|error| refused("load the eBPF programs", error))?;
        program.load(tracepoint, &btf).map_err(|error| refused("load the eBPF programs", error))?;
        program.attach().map_err(|error| refused("attach the eBPF programs", error))?;
    }
    Ok(ebpf)
}

fn take(ebpf: &mut Ebpf, name: &str) -> Map {
    ebpf.take_map(name).expect("the object that was built has it")
}

fn refused(step: &'static str, source: impl Error + Send + Sync + 'static) -> Unavailable {
    Unavailable::Refused { step, source: Box::new(source) }
}

/// The kernel's types take 39 MB while they are read.
fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "no safe wrapper of malloc_trim(3)")]
    // SAFETY: it may be called at any time from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
    // And forget that peak, proc_pid_clear_refs(5): children would be taken to have had it.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

fn duplicate(map: &Map) -> io::Result<Map> {
    let Map::HashMap(data) = map else { return Err(io::ErrorKind::InvalidInput.into()) };
    let fd = data.fd().as_fd().try_clone_to_owned()?;
    Ok(Map::HashMap(MapData::from_fd(fd).map_err(io_error)?))
}

/// The attached programs: they run until this is dropped.
struct Attached {
    ebpf: Ebpf,
    counters: Array<MapData, u64>,
}

impl fmt::Debug for Attached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attached").finish_non_exhaustive()
    }
}

impl Attached {
    fn counter(&self, at: u32) -> u64 {
        // The array has it, and nothing else can fail once it could be opened.
        self.counters.get(&at, 0).unwrap_or(0)
    }

    fn runs_missed(&self) -> u64 {
        self.ebpf
            .programs()
            .map(|(_, program)| program.fd().map_or(0, |fd| misses(fd.as_fd())))
            .sum()
    }
}

/// Tells what the kernel side could not do. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Meter(Arc<Attached>);

impl Meter {
    /// All counters as they stand.
    #[must_use]
    pub fn read(&self) -> Counters {
        Counters {
            starts_dropped: self.0.counter(COUNTER_RING_FULL),
            starts_unwatched: self.0.counter(COUNTER_WATCHED_FULL),
            runs_missed: self.0.runs_missed(),
        }
    }
}

/// `recursion_misses` of a program; none where the kernel does not count them (before 5.12).
fn misses(program: BorrowedFd<'_>) -> u64 {
    let path = format!("/proc/self/fdinfo/{}", program.as_raw_fd());
    let info = std::fs::read_to_string(path).unwrap_or_default();
    let count = info.lines().find_map(|line| line.strip_prefix("recursion_misses:"));
    count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

/// The map of watched instances.
#[derive(Debug)]
struct Instances(HashMap<MapData, InstanceKey, Watched>);

impl Instances {
    fn forget(&mut self, instance: Instance) {
        // It is there or not; nothing else can fail.
        let _ = self.0.remove(&instance.into());
    }
}

/// Why instances ended. Nothing waits: each call is one or two system calls.
#[derive(Debug)]
pub struct Causes {
    watched: Instances,
    /// Of cgroups that OOM victims were in.
    paths: HashMap<MapData, u64, CgroupPath>,
    _attached: Meter,
}

impl Causes {
    /// Watches an instance from now on, or goes on watching it. Each is to be taken or forgotten.
    ///
    /// # Errors
    ///
    /// `watched_max` instances are watched already.
    pub fn watch(&mut self, instance: Instance) -> io::Result<()> {
        match self.watched.0.insert(InstanceKey::from(instance), Watched::nothing(), NO_EXIST) {
            Err(error) => match io_error(error) {
                error if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
                error => Err(error),
            },
            Ok(()) => Ok(()),
        }
    }

    /// What is known of an instance's end, once; `None` where it was not watched. Complete once its
    /// pidfd is readable.
    pub fn take(&mut self, instance: Instance) -> Option<Cause> {
        let watched = self.watched.0.get(&instance.into(), 0).ok()?;
        self.watched.forget(instance);
        let path = watched.oom_cgroup().and_then(|id| self.paths.get(&id, 0).ok());
        Some(watched.cause(instance, path.and_then(|path| path.shown())))
    }

    /// No longer watches an instance.
    pub fn forget(&mut self, instance: Instance) {
        self.watched.forget(instance);
    }

    /// Who is watched, for tests.
    #[must_use]
    pub fn watched(&self) -> Vec<Instance> {
        self.watched.0.keys().filter_map(Result::ok).map(InstanceKey::instance).collect()
    }
}

/// Starts of wanted programs by others, as the kernel tells them.
pub struct Execs {
    ring: RingBuf<MapData>,
    pub(super) filter: Filter,
    watched: Instances,
    meter: Meter,
}

impl fmt::Debug for Execs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Execs").field("filter", &self.filter).finish_non_exhaustive()
    }
}

impl Execs {
    /// The next start: this instance is watched already. `None` where none is left.
    pub(super) fn next(&mut self) -> Option<Instance> {
        // One that cannot be read would be a record of another size: there is none.
        self.ring.next().and_then(|record| InstanceKey::parse(&record)).map(InstanceKey::instance)
    }

    /// No longer watches an instance.
    pub(super) fn forget(&mut self, instance: Instance) {
        self.watched.forget(instance);
    }

    /// Starts that the ring had no room for.
    pub(super) fn dropped(&self) -> u64 {
        self.meter.0.counter(COUNTER_RING_FULL)
    }

    /// Started instances that `watched` had no room for.
    pub(super) fn unwatched(&self) -> u64 {
        self.meter.0.counter(COUNTER_WATCHED_FULL)
    }
}

impl AsFd for Execs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

/// What the kernel said to a map operation.
pub(super) fn io_error(error: MapError) -> io::Error {
    match error {
        MapError::SyscallError(error) => error.io_error,
        error => io::Error::other(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_object_asks_the_kernel_for_no_symbol_and_no_option() {
        let names = |name: &[u8]| OBJECT.windows(name.len()).any(|at| at == name);
        assert!(names(b".maps"));
        // aya loads nothing that has either.
        assert!(!names(b".ksyms") && !names(b".kconfig"));
    }

    #[test]
    fn both_halves_may_go_to_other_threads() {
        fn check<T: Send>() {}
        check::<Causes>();
        check::<Execs>();
    }
}
