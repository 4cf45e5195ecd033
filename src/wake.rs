//! What wakes recovery: the end of an instance, and an alarm in boot time.
//!
//! One epoll set holds the pidfds of all guarded instances and one timer, and is itself one entry
//! in the runtime's own set. So ten thousand idle instances cost the daemon no memory but a file
//! descriptor each, and no task. (tokio's timers run on `CLOCK_MONOTONIC`, which stands still
//! during suspend; a cooldown that ended meanwhile is to be over at resume.)

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::event::Time;

/// The token of the alarm. Whoever watches counts tokens up from 0 and never comes so far.
const ALARM: u64 = u64::MAX;

/// The epoll set.
#[derive(Debug)]
pub struct Wake {
    set: AsyncFd<OwnedFd>,
    timer: OwnedFd,
    alarm: Option<Time>,
}

/// Why recovery was woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// The process watched under this token ended; it is watched no longer.
    Ended(u64),
    /// The alarm's time has come; it is off now.
    Alarm,
}

impl Wake {
    /// An empty set. Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// What epoll_create1(2) or timerfd_create(2) report: no descriptors or memory left.
    pub fn new() -> io::Result<Self> {
        let set = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Boottime, flags)?;
        // Edge-triggered: an expiry that is not read away wakes once.
        let once = EventFlags::IN | EventFlags::ET;
        epoll::add(&set, &timer, EventData::new_u64(ALARM), once)?;
        Ok(Self { set: register(set)?, timer, alarm: None })
    }

    /// Watches a pidfd. `token` comes back in [`Woken::Ended`]. Dropping the pidfd ends the watch.
    ///
    /// # Errors
    ///
    /// What epoll_ctl(2) reports: no memory, or `max_user_watches` reached.
    pub fn watch(&self, pidfd: impl AsFd, token: u64) -> io::Result<()> {
        let once = EventFlags::IN | EventFlags::ONESHOT;
        Ok(epoll::add(self.set.get_ref(), pidfd, EventData::new_u64(token), once)?)
    }

    /// Sets the alarm, or turns it off.
    ///
    /// # Errors
    ///
    /// What timerfd_settime(2) reports.
    pub fn set_alarm(&mut self, alarm: Option<Time>) -> io::Result<()> {
        if alarm == self.alarm {
            return Ok(());
        }
        // An all-zero value turns the timer off, so time zero becomes the first nanosecond.
        let nanos = alarm.map_or(0, |time| time.0.max(1));
        let it_value = Timespec {
            tv_sec: i64::try_from(nanos / 1_000_000_000).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(nanos % 1_000_000_000).unwrap_or(0),
        };
        let never = Timespec { tv_sec: 0, tv_nsec: 0 };
        let value = Itimerspec { it_interval: never, it_value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &value)?;
        self.alarm = alarm;
        Ok(())
    }

    /// Waits until there is news. Cancel-safe: news not returned is still there.
    ///
    /// # Errors
    ///
    /// What epoll_wait(2) reports; the set is unusable then.
    pub async fn next(&mut self) -> io::Result<Vec<Woken>> {
        loop {
            let mut guard = self.set.readable().await?;
            let mut events = [MaybeUninit::uninit(); 64];
            let now = Timespec { tv_sec: 0, tv_nsec: 0 };
            let (ready, _) = epoll::wait(guard.get_inner(), &mut events, Some(&now))?;
            if ready.is_empty() {
                guard.clear_ready();
                continue;
            }
            let woken = ready
                .iter()
                .map(|event| match event.data.u64() {
                    ALARM => Woken::Alarm,
                    token => Woken::Ended(token),
                })
                .collect::<Vec<_>>();
            if woken.contains(&Woken::Alarm) {
                self.alarm = None;
            }
            return Ok(woken);
        }
    }
}

#[expect(unsafe_code, reason = "AsyncFd cannot know that the descriptor stays the same")]
fn register(set: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the AsyncFd owns the descriptor, and nothing here takes it out or replaces it.
    Ok(unsafe { AsyncFd::register_with_interest(set, Interest::READABLE) }?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use std::time::Duration;

    #[tokio::test]
    async fn the_alarm_wakes_once_and_not_before_its_time() {
        let mut wake = Wake::new().unwrap();
        let due = clock::now().after(Duration::from_millis(30));
        wake.set_alarm(Some(due)).unwrap();
        assert_eq!(wake.next().await.unwrap(), [Woken::Alarm]);
        assert!(clock::now() >= due);
        let again = tokio::time::timeout(Duration::from_millis(30), wake.next()).await;
        assert!(again.is_err(), "woken again: {again:?}");
    }

    #[tokio::test]
    async fn an_alarm_in_the_past_wakes_at_once_and_one_turned_off_never() {
        let mut wake = Wake::new().unwrap();
        wake.set_alarm(Some(Time(0))).unwrap();
        assert_eq!(wake.next().await.unwrap(), [Woken::Alarm]);
        wake.set_alarm(Some(clock::now().after(Duration::from_millis(10)))).unwrap();
        wake.set_alarm(None).unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(50), wake.next()).await.is_err());
    }

    #[tokio::test]
    async fn each_watched_end_wakes_once_with_its_token() {
        let mut wake = Wake::new().unwrap();
        let pipes: Vec<_> = (0..100).map(|_| rustix::pipe::pipe().unwrap()).collect();
        for (token, (read, _)) in pipes.iter().enumerate() {
            wake.watch(read, token as u64).unwrap();
        }
        for (_, write) in &pipes {
            rustix::io::write(write, b"x").unwrap();
        }
        let mut tokens = Vec::new();
        while tokens.len() < 100 {
            for woken in wake.next().await.unwrap() {
                let Woken::Ended(token) = woken else { panic!("no alarm was set") };
                tokens.push(token);
            }
        }
        tokens.sort_unstable();
        assert_eq!(tokens, (0..100).collect::<Vec<_>>());
        assert!(tokio::time::timeout(Duration::from_millis(30), wake.next()).await.is_err());
    }
}
