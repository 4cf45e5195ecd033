//! The stage: healer's own binary, started in place of the program, which becomes the program.
//!
//! A fresh process with one thread: it may look up users however long that takes, and it regains
//! root's capabilities that healer gave up. It waits for `go`, sets itself up as it was told
//! and execs. It tells healer of each failure; healer ends it where it takes too long. `main`
//! calls [`run_if_asked`] before anything else, `launch` starts it and listens.

use std::convert::Infallible;
use std::ffi::CStr;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::fs::{Mode, OFlags, open};
use rustix::net::{SendFlags, send};
use rustix::process::{Rlimit, getpriority_process, getrlimit, setpriority_process, setrlimit};

use super::head::Scheduling;
use super::identity::Identity;
use super::report::{Fault, Report, fault, refused};
use super::spec::{Spec, decode, kernel};
use super::word::{Heard, Word};
use crate::config::Resource;

/// The first word of the stage's command line, which says that it is one.
pub(super) const NAME: &CStr = c"healer-stage";
/// The stage's end of the socket pair.
pub(super) const SOCKET: RawFd = 3;

/// The slow steps set the thread's name, so that healer, and `ps`, can tell where a stage hangs.
pub(super) const STEP: &str = "stage: ";
const LOOKUP: &CStr = c"stage: user";
const CHDIR: &CStr = c"stage: chdir";
const EXEC: &CStr = c"stage: exec";

/// How the stage ends without becoming the program.
enum Stop {
    /// Nobody waits for the program any more.
    HealerGone,
    /// A step failed.
    Fault(Fault),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// Runs the stage if this process was started as one, and says with which code it ends: it comes
/// back only where the program could not be started.
#[must_use]
pub fn run_if_asked() -> Option<u8> {
    let name = std::env::args_os().next()?;
    (name.as_encoded_bytes() == NAME.to_bytes()).then(run)
}

/// Runs the stage before Rust's runtime sets itself up, which takes a fifth of the time that a
/// bare spawn takes and is of no use to a process that soon becomes another. With another C library
/// the stage is found by `main` instead.
#[cfg(any(target_env = "gnu", target_env = "musl"))]
#[expect(unsafe_code, reason = "a constructor is named to the linker by its section")]
#[used]
// SAFETY: the section holds pointers to such functions. The standard library works without its
// runtime's set-up, as it does in a program whose `main` is C.
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = {
    extern "C" fn before_main() {
        if is_stage() {
            let code = run();
            // SAFETY: it does not return, and nothing here waits to be flushed or dropped.
            unsafe { libc::_exit(code.into()) }
        }
    }
    before_main
};

/// The standard library notes the arguments in a constructor of a lower number, which has run.
#[cfg(target_env = "gnu")]
fn is_stage() -> bool {
    std::env::args_os().next().is_some_and(|name| name.as_encoded_bytes() == NAME.to_bytes())
}

/// musl tells no constructor the arguments. They lie below the environment, where the kernel put
/// them: their number, each of them, NULL, then each variable. The stage's is the only one.
#[cfg(target_env = "musl")]
#[expect(unsafe_code, reason = "nothing else leads to the arguments before `main`")]
fn is_stage() -> bool {
    unsafe extern "C" {
        static environ: *const *const std::ffi::c_char;
    }
    // SAFETY: before `main` nobody has moved the environment. Below it lie NULL, the last argument
    // if there is one, and the argument before that or their number; where there is none, their
    // number, 0, and the stack in use.
    unsafe {
        let (last, number) = (*environ.sub(2), *environ.sub(3) as usize);
        !last.is_null() && number == 1 && CStr::from_ptr(last) == NAME
    }
}

fn run() -> u8 {
    const DONE: u8 = 0;
    const FAILED: u8 = 1;
    let _ = nix::sys::prctl::set_name(NAME);
    let healer = inherited(SOCKET);
    let end = match Word::hear(healer) {
        Ok(None) => return DONE,
        Err(errno) => Err(refused("reading the specification", errno).into()),
        Ok(Some(Heard { spec, output })) => match decode(&spec) {
            Some(spec) => become_program(&spec, healer, output),
            None => Err(fault("reading the specification").into()),
        },
    };
    match end {
        Ok(never) => match never {},
        Err(Stop::HealerGone) => DONE,
        Err(Stop::Fault(fault)) => {
            let _ = tell(healer, &Report::Fault(fault));
            FAILED
        }
    }
}

#[expect(unsafe_code, reason = "the number of an inherited descriptor is all there is to go by")]
fn inherited(fd: RawFd) -> BorrowedFd<'static> {
    // SAFETY: nothing in the stage closes it before the exec, which ends every borrow. If someone
    // else than healer started this, it may not be open: then its use fails by EBADF.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

fn tell(healer: BorrowedFd<'_>, report: &Report) -> rustix::io::Result<usize> {
    rustix::io::retry_on_intr(|| send(healer, &report.encode(), SendFlags::NOSIGNAL))
}

/// All steps in order. What needs root comes before the rights are given up; what should fail
/// for the user, the directory and the program, comes after.
fn become_program(
    spec: &Spec<'_>,
    healer: BorrowedFd<'_>,
    output: [OwnedFd; 2],
) -> Result<Infallible, Stop> {
    // Only speaks to whoever looks at `ps`, as below.
    let _ = nix::sys::prctl::set_name(LOOKUP);
    let identity = Identity::look_up(spec.run_as)?;
    // The entry's limits may leave no room for another descriptor: these come first.
    set_up_descriptors(output)?;
    set_scheduling(&spec.head.scheduling)?;
    set_oom_score_adj(spec.head.oom_score_adj)?;
    set_limits(spec)?;
    rustix::process::umask(Mode::from_raw_mode(spec.head.umask));
    reset_signals()?;
    drop_capabilities()?;
    let mut environment = spec.environment.clone();
    if let Some(identity) = &identity {
        identity.assume()?;
        environment.extend(identity.variables.iter().filter_map(|variable| {
            let name = variable.to_bytes().split_inclusive(|byte| *byte == b'=').next()?;
            let told = spec.environment.iter().any(|told| told.to_bytes().starts_with(name));
            (!told).then_some(variable.as_c_str())
        }));
    }

    let _ = nix::sys::prctl::set_name(CHDIR);
    rustix::process::chdir(spec.directory)
        .map_err(|errno| refused(format!("chdir to {}", text(spec.directory)), errno))?;
    let _ = nix::sys::prctl::set_name(EXEC);
    // Closing its end of the socket is how execve(2) tells healer that it succeeded.
    tell(healer, &Report::Executing).map_err(|_| Stop::HealerGone)?;
    close_the_rest(healer)?;
    let program = spec.arguments[0];
    let Err(errno) = nix::unistd::execve(program, &spec.arguments, &environment);
    Err(exec_fault(program, errno).into())
}

/// What an exec would pass on although the identity has changed. A root process gets root's full
/// set by the exec itself.
fn drop_capabilities() -> Result<(), Fault> {
    for set in [caps::CapSet::Ambient, caps::CapSet::Inheritable] {
        caps::clear(None, set)
            .map_err(|error| fault(format!("clearing the {set:?} capabilities: {error}")))?;
    }
    Ok(())
}

fn set_up_descriptors([stdout, stderr]: [OwnedFd; 2]) -> Result<(), Fault> {
    let failed = |step: &str| {
        let step = step.to_owned();
        move |errno| refused(step, errno)
    };
    let null = open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(failed("opening /dev/null as stdin"))?;
    rustix::stdio::dup2_stdin(null).map_err(failed("setting stdin"))?;
    rustix::stdio::dup2_stdout(stdout).map_err(failed("setting stdout"))?;
    rustix::stdio::dup2_stderr(stderr).map_err(failed("setting stderr"))
}

fn set_scheduling(asked: &Scheduling) -> Result<(), Fault> {
    set_policy(asked).map_err(|errno| refused("setting the scheduling policy", errno))?;
    let nice = || match getpriority_process(None)? {
        same if same == asked.nice => Ok(()),
        _ => setpriority_process(None, asked.nice),
    };
    nice().map_err(|errno| refused(format!("setting nice to {}", asked.nice), errno))?;
    let Some(cpus) = &asked.cpus else { return Ok(()) };
    let affinity = || {
        let myself = nix::unistd::Pid::from_raw(0);
        let mut set = CpuSet::new();
        cpus.iter().try_for_each(|cpu| set.set(*cpu))?;
        if sched_getaffinity(myself)? == set { Ok(()) } else { sched_setaffinity(myself, &set) }
    };
    match affinity() {
        // None of them is left: healer's cpuset was changed, and what is inherited is right.
        Err(nix::Error::EINVAL) => Ok(()),
        set => set.map_err(|errno| refused("setting the CPU affinity", errno)),
    }
}

#[expect(unsafe_code, reason = "no wrapper of sched_setscheduler(2) among the dependencies")]
fn set_policy(asked: &Scheduling) -> io::Result<()> {
    // What is recorded has no such flag, which says how children are to be scheduled.
    const RESET_ON_FORK: libc::c_long = 0x4000_0000;
    // SAFETY: an all-zero sched_param is a valid one, some C libraries pad it.
    let mut parameters: libc::sched_param = unsafe { std::mem::zeroed() };
    // SAFETY: 0 is the calling process; `parameters` outlives the call that fills it.
    // musl has these functions, but lets them fail: the calls are made directly.
    let (policy, read) = unsafe {
        let policy = libc::syscall(libc::SYS_sched_getscheduler, 0);
        (policy, libc::syscall(libc::SYS_sched_getparam, 0, &raw mut parameters))
    };
    let same_policy = policy & !RESET_ON_FORK == libc::c_long::from(asked.policy);
    if read == 0 && same_policy && parameters.sched_priority == asked.priority {
        return Ok(());
    }
    parameters.sched_priority = asked.priority;
    // SAFETY: as above; the call only reads `parameters`.
    let set = unsafe {
        libc::syscall(libc::SYS_sched_setscheduler, 0, asked.policy, &raw const parameters)
    };
    match set {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn set_oom_score_adj(asked: i32) -> Result<(), Fault> {
    const FILE: &str = "/proc/self/oom_score_adj";
    let asked = asked.to_string();
    let set = || {
        let mut now = [0; 8];
        // Read first: where nothing is to change, it need not be writable.
        let file = open(FILE, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let length = rustix::io::read(&file, &mut now)?;
        if now[..length].trim_ascii() == asked.as_bytes() {
            return Ok(());
        }
        let file = open(FILE, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::io::write(&file, asked.as_bytes()).map(drop)
    };
    set().map_err(|errno| refused(format!("setting oom_score_adj to {asked}"), errno))
}

fn set_limits(spec: &Spec<'_>) -> Result<(), Fault> {
    for ((resource, name), (soft, hard)) in Resource::ALL.into_iter().zip(spec.head.limits) {
        let resource = kernel(resource);
        let asked = Rlimit { current: soft, maximum: hard };
        if getrlimit(resource) != asked {
            setrlimit(resource, asked)
                .map_err(|errno| refused(format!("setting limit {name}"), errno))?;
        }
    }
    Ok(())
}

/// Every signal at its default and none blocked; those included that the C library keeps for
/// itself, which posix_spawn(3) may leave ignored.
#[expect(unsafe_code, reason = "the C library refuses to touch its own two signals")]
fn reset_signals() -> Result<(), Fault> {
    const SIGNALS: libc::c_long = 64;
    // The kernel's own structure (handler, flags, restorer, mask): all zero is SIG_DFL.
    let default = [0_u64; 4];
    let mask_size = size_of::<u64>();
    let fixed = [libc::SIGKILL, libc::SIGSTOP].map(libc::c_long::from);
    for signal in (1..=SIGNALS).filter(|signal| !fixed.contains(signal)) {
        // SAFETY: `default` is as large as the structure on every 64-bit Linux, and outlives the
        // call, which only reads it. No handler of this process is needed any more.
        let result = unsafe {
            let nowhere = std::ptr::null_mut::<u64>();
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), nowhere, mask_size)
        };
        if result == -1 {
            return Err(refused(format!("resetting signal {signal}"), io::Error::last_os_error()));
        }
    }
    nix::sys::signal::SigSet::empty()
        .thread_set_mask()
        .map_err(|errno| refused("resetting the signal mask", errno))
}

/// Leaves nothing open above stderr but the socket, and that only until the exec.
#[expect(unsafe_code, reason = "no wrapper of close_range(2) among the dependencies")]
fn close_the_rest(healer: BorrowedFd<'_>) -> Result<(), Fault> {
    rustix::io::fcntl_setfd(healer, rustix::io::FdFlags::CLOEXEC)
        .map_err(|errno| refused("closing the socket", errno))?;
    let first = libc::c_long::from(SOCKET) + 1;
    // SAFETY: whatever is open there is used no more: the specification was read, the output
    // descriptors were duplicated, and the user database was asked.
    match unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) } {
        -1 => Err(refused("closing inherited descriptors", io::Error::last_os_error())),
        _ => Ok(()),
    }
}

/// "No such file" may mean the interpreter of a script, which nobody would guess.
fn exec_fault(program: &CStr, errno: nix::Error) -> Fault {
    let there = errno == nix::Error::ENOENT && rustix::fs::stat(program).is_ok();
    let which = if there { ", which is there: its interpreter" } else { "" };
    refused(format!("exec of {}{which}", text(program)), errno)
}

fn text(string: &CStr) -> std::borrow::Cow<'_, str> {
    string.to_string_lossy()
}
