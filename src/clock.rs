//! The one place that reads clocks: boot time, process start times in it, wall-clock file times.
//!
//! Deciding code is passed a [`Time`]; the shells around it read it here.

use std::time::{Duration, UNIX_EPOCH};

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

/// Boot times as dates, by the wall clock as it stands at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Calendar {
    now: Time,
    offset: i128,
}

impl Calendar {
    /// As the clocks stand now.
    #[must_use]
    pub fn now() -> Self {
        Self { now: now(), offset: offset() }
    }

    /// Of a moment so many nanoseconds after 1970.
    #[must_use]
    pub fn at(now: Time, since_1970: u64) -> Self {
        Self { now, offset: i128::from(since_1970) - i128::from(now.0) }
    }

    /// The date of a boot time, as RFC 3339 has it, in UTC.
    #[must_use]
    pub fn date(&self, moment: Time) -> String {
        // No clock stands before 1970, and none at the end of all dates.
        let nanos = u64::try_from(i128::from(moment.0) + self.offset).unwrap_or(0);
        humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_nanos(nanos)).to_string()
    }

    /// How long ago a moment was.
    #[must_use]
    pub fn ago(&self, moment: Time) -> Duration {
        self.now.since(moment)
    }

    /// In how long a moment comes.
    #[must_use]
    pub fn ahead(&self, moment: Time) -> Duration {
        moment.since(self.now)
    }
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
    fn dates_are_those_of_the_wall_clock_whatever_the_boot_time() {
        let calendar = Calendar::at(Time(5_000_000_000), 1_700_000_000_250_000_000);
        assert_eq!(calendar.date(Time(5_000_000_000)), "2023-11-14T22:13:20.250Z");
        assert_eq!(calendar.date(Time(0)), "2023-11-14T22:13:15.250Z");
        assert_eq!(calendar.date(Time(u64::MAX)), "1970-01-01T00:00:00.000Z", "no such date");
        assert_eq!(calendar.ago(Time(3_000_000_000)), Duration::from_secs(2));
        assert_eq!(calendar.ahead(Time(3_000_000_000)), Duration::ZERO);
        let now = Calendar::now();
        assert!(now.date(super::now()).as_str() > "2020");
    }

    #[test]
    fn a_set_wall_clock_makes_file_times_incomparable() {
        let wall = WallClock::now();
        assert!(wall.since_boot(0).is_some_and(|time| time < 0));
        assert_eq!(WallClock { offset: wall.offset - 2 * STEP }.since_boot(0), None);
    }
}
