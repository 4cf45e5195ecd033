//! What the system tests stand on: a [`Site`] (a temporary directory and all that runs in it), the
//! [`Service`]s it guards, and [`Healer`], the real daemon.
//!
//! Tests assert what processes do: their journals of starts, and who is alive. Waiting is polling
//! to a deadline that a slow, shared machine keeps.

mod healer;
mod living;
mod notify;
mod service;
mod site;

use std::thread;
use std::time::{Duration, Instant};

pub use healer::{Healer, wait};
pub use living::{Living, kill, living};
pub use service::Service;
pub use site::{Site, command, has_ebpf, is_root, program, run, sh, skip, within};

/// How long [`eventually`] waits.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Waits until `holds`.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    eventually_some(what, || holds().then_some(()));
}

/// Waits until `find` finds something, and returns that.
pub fn eventually_some<T>(what: &str, mut find: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = find() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {DEADLINE:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Watches that `holds` all the time, for so long.
pub fn throughout(time: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        assert!(holds(), "not throughout {time:?}: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}
