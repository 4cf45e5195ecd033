//! The one place that reads a clock. Deciding code is passed a [`Time`] instead.

use std::sync::OnceLock;

use rustix::time::{ClockId, clock_gettime};

use crate::event::{Instance, Time};

/// Now, by `CLOCK_BOOTTIME`.
#[must_use]
pub fn now() -> Time {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(now.tv_nsec).unwrap_or(0);
    Time(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}

/// When an instance started, to the clock tick (10 ms on every common machine).
#[must_use]
pub fn started(instance: Instance) -> Time {
    static TICKS_PER_SECOND: OnceLock<u64> = OnceLock::new();
    let ticks = *TICKS_PER_SECOND.get_or_init(procfs::ticks_per_second);
    Time(instance.start_ticks.saturating_mul(1_000_000_000 / ticks.max(1)))
}
