//! What the kernel side knows of an end, and how it joins what waiting for a child told. Pure.
//!
//! `record` makes a [`Cause`] of what the kernel wrote; `recovery` calls [`merge`].

use std::time::Duration;

use crate::event::{Cpu, End, Exit, Killer, Oom, Sent, Signal, Time};

/// A process that is asked to end gets so long before it is killed where nothing else is said. An
/// exit later than that has another reason.
const STOP_WINDOW: Duration = Duration::from_secs(90);

/// What the kernel side saw of one instance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cause {
    /// Its end; `None` where the kernel skipped the program that writes it (Linux 7 may).
    pub ended: Option<Ended>,
    /// The signal that ended it for certain, as it was acted upon when it was sent. One that may
    /// be handled, or that dumps core, is acted upon later.
    pub fatal: Option<Signal>,
    /// It was an OOM victim.
    pub oom: Option<Oom>,
    /// The last signal that asked it to end: TERM, INT, HUP or QUIT.
    pub asked: Option<Timed>,
    /// The last of the other signals that may end a process.
    pub other: Option<Timed>,
}

/// An end, complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Code or signal.
    pub end: End,
    /// When.
    pub at: Time,
    /// From its start to its end.
    pub runtime: Duration,
    /// Its own CPU time, its children's not included.
    pub cpu: Cpu,
    /// Peak resident set size in bytes.
    pub peak_rss: u64,
}

/// A signal, by whom, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timed {
    /// When it was sent.
    pub at: Time,
    /// Which one.
    pub signal: Signal,
    /// By whom; `None` where that cannot be told.
    pub by: Option<Killer>,
}

impl Timed {
    fn sent(&self) -> Option<Sent> {
        Some(Sent { signal: self.signal, by: self.by.clone()? })
    }
}

impl Cause {
    fn end(&self) -> Option<End> {
        let by_signal = |signal| End::Signal { signal, core_dumped: false };
        self.ended.as_ref().map(|ended| ended.end).or(self.fatal.map(by_signal))
    }

    fn killer(&self, signal: Signal) -> Option<Killer> {
        let sent = [&self.asked, &self.other].into_iter().flatten();
        sent.filter(|sent| sent.signal == signal).find_map(|sent| sent.by.clone())
    }

    /// The signal that asked for an exit at `end`.
    fn request(&self, end: Time) -> Option<Sent> {
        let asked = self.asked.as_ref()?;
        (end.since(asked.at) <= STOP_WINDOW).then(|| asked.sent())?
    }

    /// The last signal of all.
    fn last(&self) -> Option<Sent> {
        let all = [&self.asked, &self.other];
        all.into_iter().flatten().max_by_key(|timed| timed.at)?.sent()
    }
}

/// Joins what the parent learned by waiting, where healer is the parent, with what the kernel side
/// saw. The parent is right about how it ended; the kernel side adds why.
#[must_use]
pub fn merge(reaped: Option<Exit>, cause: Option<Cause>) -> Exit {
    let is_child = reaped.is_some();
    let reaped = reaped.unwrap_or_default();
    let Some(cause) = cause else { return reaped };
    let ended = cause.ended.as_ref();
    let end = reaped.end.or(cause.end());
    let (killer, last_signal) = match end {
        Some(End::Signal { signal, .. }) => (cause.killer(signal), None),
        Some(End::Code(_)) => (None, ended.and_then(|ended| cause.request(ended.at))),
        None => (None, cause.last()),
    };
    let by_kill = matches!(end, Some(End::Signal { signal: Signal(libc::SIGKILL), .. }));
    Exit {
        end,
        killer,
        oom: cause.oom.filter(|_| by_kill),
        last_signal,
        runtime: ended.map(|ended| ended.runtime).or(reaped.runtime),
        cpu: reaped.cpu.or(ended.map(|ended| ended.cpu)),
        // Of a child, the kernel side sees the same number, and cannot tell whose it is either.
        peak_rss: reaped.peak_rss.or(ended.filter(|_| !is_child).map(|ended| ended.peak_rss)),
    }
}

#[cfg(test)]
#[expect(clippy::unnecessary_wraps, reason = "tables read better without a Some in each line")]
mod tests {
    use super::*;
    use crate::event::Pid;
    use rstest::rstest;

    const END: Time = Time(500_000_000_000);

    fn code(code: i32) -> End {
        End::Code(code)
    }

    fn killed(signal: i32) -> End {
        End::Signal { signal: Signal(signal), core_dumped: false }
    }

    fn by(comm: &str) -> Killer {
        Killer::Process { pid: Some(Pid(812)), comm: comm.into(), uid: 0 }
    }

    fn sent(signal: i32, secs_before: u64, by: Killer) -> Option<Timed> {
        let at = Time(END.0 - secs_before * 1_000_000_000);
        Some(Timed { at, signal: Signal(signal), by: Some(by) })
    }

    fn unsaid(signal: i32) -> Option<Timed> {
        Some(Timed { at: END, signal: Signal(signal), by: None })
    }

    fn ended(end: End) -> Option<Ended> {
        let cpu = Cpu { user: Duration::from_millis(2), system: Duration::from_millis(1) };
        Some(Ended { end, at: END, runtime: Duration::from_secs(7), cpu, peak_rss: 4096 })
    }

    fn oom(cgroup: Option<&str>) -> Option<Oom> {
        Some(Oom { cgroup: cgroup.map(str::to_owned) })
    }

    fn reaped(end: End) -> Option<Exit> {
        Some(Exit { end: Some(end), ..Exit::default() })
    }

    #[rstest]
    #[case::nothing_known(None, None, "cause unknown")]
    #[case::reaped_only(reaped(killed(9)), None, "SIGKILL")]
    #[case::killed(
        reaped(killed(9)),
        Some(Cause { ended: ended(killed(9)), other: sent(9, 0, by("kill")), ..Cause::default() }),
        "SIGKILL by kill (PID 812, root)"
    )]
    #[case::not_a_child(
        None,
        Some(Cause { ended: ended(killed(9)), other: sent(9, 0, by("kill")), ..Cause::default() }),
        "SIGKILL by kill (PID 812, root)"
    )]
    #[case::child_whose_exit_was_missed(
        reaped(killed(15)),
        Some(Cause { asked: sent(15, 0, by("sh")), ..Cause::default() }),
        "SIGTERM by sh (PID 812, root)"
    )]
    #[case::other_whose_exit_was_missed(
        None,
        Some(Cause { asked: sent(15, 2, by("sh")), other: sent(9, 0, by("x")), ..Cause::default() }),
        "cause unknown after SIGKILL by x (PID 812, root)"
    )]
    #[case::other_that_was_killed_for_certain(
        None,
        Some(Cause { fatal: Some(Signal(15)), asked: sent(15, 2, by("sh")), ..Cause::default() }),
        "SIGTERM by sh (PID 812, root)"
    )]
    #[case::killed_by_what_cannot_be_told(
        None,
        Some(Cause { ended: ended(killed(14)), other: unsaid(14), ..Cause::default() }),
        "SIGALRM"
    )]
    #[case::last_signal_by_what_cannot_be_told(
        None,
        Some(Cause { other: unsaid(14), ..Cause::default() }),
        "cause unknown"
    )]
    #[case::the_parent_is_right_about_the_end(
        reaped(code(3)),
        Some(Cause { ended: ended(code(0)), ..Cause::default() }),
        "exit code 3"
    )]
    #[case::request_that_was_handled(
        reaped(code(0)),
        Some(Cause { ended: ended(code(0)), asked: sent(15, 89, by("a")), ..Cause::default() }),
        "exit code 0 after SIGTERM by a (PID 812, root)"
    )]
    #[case::reload_of_long_ago(
        reaped(code(1)),
        Some(Cause { ended: ended(code(1)), asked: sent(1, 91, by("a")), ..Cause::default() }),
        "exit code 1"
    )]
    #[case::handled_alarm_is_no_request(
        None,
        Some(Cause { ended: ended(code(1)), other: sent(14, 0, by("a")), ..Cause::default() }),
        "exit code 1"
    )]
    #[case::killed_after_a_request(
        None,
        Some(Cause {
            ended: ended(killed(9)),
            asked: sent(15, 10, by("a")),
            other: sent(9, 0, by("b")),
            ..Cause::default()
        }),
        "SIGKILL by b (PID 812, root)"
    )]
    #[case::signal_that_no_one_sent(
        None,
        Some(Cause { ended: ended(killed(9)), asked: sent(15, 0, by("a")), ..Cause::default() }),
        "SIGKILL"
    )]
    #[case::fault(
        reaped(End::Signal { signal: Signal(11), core_dumped: true }),
        Some(Cause { other: sent(11, 0, Killer::Kernel), ..Cause::default() }),
        "SIGSEGV, core dumped"
    )]
    #[case::fault_signal_from_outside(
        reaped(End::Signal { signal: Signal(11), core_dumped: true }),
        Some(Cause { other: sent(11, 0, by("kill")), ..Cause::default() }),
        "SIGSEGV by kill (PID 812, root), core dumped"
    )]
    #[case::abort(
        None,
        Some(Cause { ended: ended(killed(6)), other: sent(6, 0, Killer::Itself), ..Cause::default() }),
        "SIGABRT by itself"
    )]
    #[case::limit(
        None,
        Some(Cause { ended: ended(killed(24)), other: sent(24, 0, Killer::Kernel), ..Cause::default() }),
        "SIGXCPU by the kernel"
    )]
    #[case::oom(
        reaped(killed(9)),
        Some(Cause { oom: oom(Some("/a/web.service")), other: sent(9, 0, Killer::Kernel), ..Cause::default() }),
        "OOM-killed (in cgroup /a/web.service)"
    )]
    #[case::oom_of_the_machine(
        None,
        Some(Cause { ended: ended(killed(9)), oom: oom(None), ..Cause::default() }),
        "OOM-killed"
    )]
    #[case::chosen_but_exited_first(
        None,
        Some(Cause { ended: ended(code(0)), oom: oom(None), ..Cause::default() }),
        "exit code 0"
    )]
    fn an_exit_says_why(
        #[case] reaped: Option<Exit>,
        #[case] cause: Option<Cause>,
        #[case] told: &str,
    ) {
        assert_eq!(merge(reaped, cause).to_string(), told);
    }

    #[test]
    fn numbers_come_from_the_parent_first() {
        let cause = || Some(Cause { ended: ended(code(0)), ..Cause::default() });
        let alone = merge(None, cause());
        assert_eq!(alone.runtime, Some(Duration::from_secs(7)));
        assert_eq!(alone.cpu.map(|cpu| cpu.user), Some(Duration::from_millis(2)));
        assert_eq!(alone.peak_rss, Some(4096));
        let reaped = Exit { cpu: Some(Cpu::default()), peak_rss: Some(1), ..Exit::default() };
        let both = merge(Some(reaped), cause());
        assert_eq!((both.cpu, both.peak_rss), (Some(Cpu::default()), Some(1)));
        let unsure = merge(Some(Exit::default()), cause());
        assert_eq!(unsure.peak_rss, None, "a peak that may be healer's");
    }

    #[test]
    fn others_cannot_forge_log_lines() {
        let killer = Killer::Process { pid: None, comm: "x\nerror".into(), uid: 7 };
        assert_eq!(killer.to_string(), "x?error (outside of this PID namespace, uid 7)");
        let exit = Exit { oom: oom(Some("/a\u{1b}[2J")), ..Exit::default() };
        assert_eq!(exit.to_string(), "OOM-killed (in cgroup /a?[2J)");
    }
}
