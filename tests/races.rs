//! Kill races: what happens between the decision to signal a process and the signal.

#![expect(clippy::unwrap_used, reason = "a test fails where it is surprised")]

mod stand_in;

use std::time::{Duration, Instant as Clock};

use healer::config::Stop;
use healer::event::{Instance, Pid, Signal};
use healer::instance::table::Row;
use healer::instance::{Held, left};
use stand_in::*;

/// A process that got a PID by wish, as the kernel gives one again after all others; killed and
/// reaped on drop.
struct Recycled(Pid);

impl Recycled {
    /// `None` where that is not permitted.
    #[expect(unsafe_code, reason = "no safe wrapper of clone3(2) picks a PID")]
    fn new(pid: Pid) -> Option<Self> {
        let wish = [pid.0];
        // SAFETY: all zero is a valid `clone_args`.
        let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
        arguments.exit_signal = u64::try_from(libc::SIGCHLD).unwrap();
        arguments.set_tid = wish.as_ptr() as u64;
        arguments.set_tid_size = 1;
        // SAFETY: without flags this is fork(2). The child only makes system calls.
        let child = unsafe {
            let size = size_of::<libc::clone_args>();
            libc::syscall(libc::SYS_clone3, &raw mut arguments, size)
        };
        if child == 0 {
            loop {
                // SAFETY: pause(2) has no conditions.
                unsafe { libc::pause() };
            }
        }
        (child > 0).then(|| Self(Pid(i32::try_from(child).unwrap())))
    }

    fn instance(&self) -> Instance {
        Row::read(self.0).unwrap().expect("it lives").instance
    }
}

impl Drop for Recycled {
    fn drop(&mut self) {
        end(self.instance());
        let pid = nix::unistd::Pid::from_raw(self.0.0);
        nix::sys::wait::waitpid(pid, None).unwrap();
    }
}

/// The held process of a PID that another has by now, and that other.
fn recycled() -> Option<(Held, Recycled)> {
    let mut first = start(&["sleep", "600"]);
    let held = Held::open_exactly(first.instance()).unwrap().unwrap();
    end(first.instance());
    first.reap();
    let stranger = Recycled::new(held.instance().pid)?;
    assert_eq!(stranger.0, held.instance().pid);
    Some((held, stranger))
}

#[tokio::test]
async fn signals_for_one_whose_pid_was_given_away_hit_nobody() {
    let Some((held, stranger)) = recycled() else {
        return skip("to pick a PID needs CAP_CHECKPOINT_RESTORE");
    };
    assert!(!held.signal(Signal(libc::SIGKILL)).unwrap(), "it has ended");
    left::stop(&held, quick_stop(), |_| false).await.unwrap();
    left::clear(held.instance(), quick_stop(), |_| false).await.unwrap();
    assert!(!is_dead(stranger.instance()));
    // Started in the same clock tick, the two would be one to whoever knows them by number only:
    // here the later one is told apart.
    assert!(held.instance() != stranger.instance() || !held.is_running().unwrap());
}

#[tokio::test]
async fn instance_that_dies_while_it_is_being_stopped_is_stopped() {
    let deaf = start(&["/bin/sh", "-c", "trap '' TERM; while :; do sleep 600; done"]);
    until("it is deaf", || !children_of(deaf.pid()).is_empty());
    let held = Held::open_exactly(deaf.instance()).unwrap().unwrap();
    let patient = Stop { timeout: Duration::from_secs(600), leftovers: false, ..quick_stop() };
    let began = Clock::now();
    let dies = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        end(deaf.instance());
    };
    let (stopped, ()) = tokio::join!(left::stop(&held, patient, |_| false), dies);
    stopped.unwrap();
    assert!(began.elapsed() < DEADLINE, "it waited on for one that had ended");
}
