//! The one place that reads clocks: boot time, process start times in it, wall-clock file times.
//!
//! Deciding code is passed a [`Time`]; the shells around it read it here.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::event::{Instance, Time};

/// How long a clock tick of `/proc/PID/stat` is: a hundredth of a second on every architecture that
/// healer runs on (`USER_HZ`), whatever the kernel's own rate.
pub const TICK: Duration = Duration::from_nanos(TICK_NANOS);
const TICK_NANOS: u64 = 10_000_000;

/// A wall clock that moved against boot time by more than this was set, not slewed.
const STEP: i128 = 1_000_000_000;

/// Now, in boot time.
#[must_use]
pub fn now() -> Time {
    Time(u64::try_from(nanos(ClockId::Boottime)).unwrap_or(0))
}

/// When an instance started, to the clock tick.
#[must_use]
pub fn started(instance: Instance) -> Time {
    Time(instance.start_ticks.saturating_mul(TICK_NANOS))
}

/// The clock tick of `/proc/PID/stat` in which a moment lies.
#[must_use]
pub fn tick_of(moment: Time) -> u64 {
    moment.0 / TICK_NANOS
}

/// How the wall clock stood to boot time when healer started. File times are wall-clock times: they
/// compare with boot times only as long as nobody sets the wall clock.
#[derive(Clone, Copy, Debug)]
pub struct WallClock {
    offset: i128,
}

impl WallClock {
    /// As it stands now; taken once, when healer starts.
    #[must_use]
    pub fn now() -> Self {
        Self { offset: offset() }
    }

    /// A file time (nanoseconds since 1970) as nanoseconds since boot, negative for earlier boots;
    /// `None` once the wall clock was set.
    #[must_use]
    pub fn since_boot(&self, file_time: i128) -> Option<i128> {
        let offset = offset();
        ((offset - self.offset).abs() < STEP).then_some(file_time - offset)
    }
}

/// How old a file time (nanoseconds since 1970) is; `None` for one in the future.
#[must_use]
pub fn age(file_time: i128) -> Option<Duration> {
    u64::try_from(nanos(ClockId::Realtime) - file_time).ok().map(Duration::from_nanos)
}

fn offset() -> i128 {
    nanos(ClockId::Realtime) - nanos(ClockId::Boottime)
}

fn nanos(clock: ClockId) -> i128 {
    let time = clock_gettime(clock);
    i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Pid;

    #[test]
    fn the_tick_is_the_kernels() {
        let a_second = u32::try_from(procfs::ticks_per_second()).unwrap();
        assert_eq!(Duration::from_secs(1) / a_second, TICK);
    }

    #[test]
    fn own_start_lies_between_boot_and_now() {
        let stat = procfs::process::Process::myself().unwrap().stat().unwrap();
        let own = Instance { pid: Pid(stat.pid), start_ticks: stat.starttime };
        assert!(started(own) > Time(0));
        assert!(started(own) <= now());
        assert_eq!(tick_of(started(own)), own.start_ticks);
        assert!(now().since(started(own)) < Duration::from_secs(600));
    }

    #[test]
    fn a_set_wall_clock_makes_file_times_incomparable() {
        let wall = WallClock::now();
        assert!(wall.since_boot(0).is_some_and(|time| time < 0));
        assert_eq!(WallClock { offset: wall.offset - 2 * STEP }.since_boot(0), None);
    }
}
