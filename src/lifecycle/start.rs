//! From the wish to start it to the running instance: dependencies, preparation, slot, launch,
//! successor.

use std::time::Duration;

use crate::config::Process;
use crate::event::{Change, Exit, Instance, Time};

use super::Lifecycle;
use super::policy::{RELOOK_UNCLEAR, STALE_PREPARATION, delay};
use super::standing::{Standing, Why};
use super::words::{Action, Input};

impl Lifecycle {
    /// A start comes a step further.
    pub(super) fn start_goes_on(
        &mut self,
        process: &Process,
        input: Input,
        now: Time,
    ) -> Vec<Action> {
        match (&self.standing, input) {
            (Standing::Awaiting { look, waiting }, Input::Held { waiting: now_waiting }) => {
                // Whoever waits gives others the time to start one.
                let look = *look || !waiting.is_empty();
                self.standing = Standing::Awaiting { waiting: now_waiting, look };
                vec![]
            }
            // What it depends on died while it waited for a slot.
            (Standing::Queued { .. }, Input::Held { waiting }) => {
                self.standing = Standing::Awaiting { waiting, look: true };
                vec![]
            }
            // Or is not waited for at all.
            (Standing::Queued { .. }, Input::Released) => {
                self.start_goes_on(process, Input::Go, now)
            }
            (Standing::Awaiting { look, waiting }, Input::Released) => {
                let look = *look || !waiting.is_empty();
                self.prepare(look)
            }

            (Standing::Preparing, Input::Prepared) => {
                self.standing = Standing::Queued { prepared: now };
                vec![Action::Enqueue]
            }
            (Standing::Launching { .. }, Input::NodeFault | Input::Postponed)
                if self.paused.is_some() =>
            {
                self.down(now)
            }
            (Standing::Launching { prepared }, Input::NodeFault | Input::Postponed) => {
                self.standing = Standing::Queued { prepared: *prepared };
                vec![Action::Enqueue]
            }
            (Standing::Queued { prepared }, Input::Go) => {
                if now.since(*prepared) > STALE_PREPARATION {
                    return self.prepare(true);
                }
                self.standing = Standing::Launching { prepared: *prepared };
                vec![Action::Launch]
            }
            (Standing::Launching { .. }, Input::Launched { instance }) => {
                self.launched(instance, now)
            }
            (Standing::Launching { .. }, Input::LaunchFailed { reason }) => {
                let mut actions = vec![Action::Tell(Change::LaunchFailed { reason })];
                self.delayable = true;
                actions.extend(self.judge(process, &Exit::default(), now));
                actions
            }

            (Standing::Succession { exit, .. }, Input::NoSuccessor) => {
                let exit = exit.clone();
                self.without_daemon(process, &exit, now)
            }
            // Old news.
            _ => vec![],
        }
    }

    pub(super) fn launched(&mut self, instance: Instance, now: Time) -> Vec<Action> {
        let outage = self.last.and_then(|(_, ended)| ended).map(|ended| now.since(ended));
        self.doubts = 0;
        self.up(instance, now, now, outage)
    }

    /// An instance of healer's own making runs; if it was stopped meanwhile, not for long.
    pub(super) fn up(
        &mut self,
        instance: Instance,
        launched: Time,
        now: Time,
        outage: Option<Duration>,
    ) -> Vec<Action> {
        let (since, held, launched) = (now, now, Some(launched));
        let (ready, hung, found) = (false, None, false);
        self.standing = Standing::Up { instance, since, held, ready, hung, launched, found };
        let mut actions = vec![Action::Tell(Change::Started { instance, outage }), Action::Running];
        if let Some(pause) = self.paused.as_ref().filter(|_| self.stop_wanted) {
            let by = pause.by.clone();
            actions.extend(self.stop(Why::Stop { by }));
        }
        actions
    }

    /// A command exited 0 and left no daemon. That is an end as any other of one that had been
    /// ready, and no failure where `restart` takes it for a wanted one.
    pub(super) fn without_daemon(
        &mut self,
        process: &Process,
        exit: &Exit,
        now: Time,
    ) -> Vec<Action> {
        let mut actions = self.judge(process, exit, now);
        if self.delayable && exit.end.is_some() && self.standing == Standing::Judged {
            let reason = "exited 0 without leaving a daemon".to_owned();
            actions.insert(0, Action::Tell(Change::LaunchFailed { reason }));
        }
        actions
    }

    pub(super) fn doubt(&mut self, reason: String, wanted: bool, now: Time) -> Vec<Action> {
        let look_at = now.after(RELOOK_UNCLEAR.delay(self.doubts));
        self.doubts = self.doubts.saturating_add(1);
        self.standing = Standing::Unknown { reason, wanted, look_at };
        vec![]
    }

    pub(super) fn permitted(&mut self, process: &Process, now: Time) -> Vec<Action> {
        self.row = self.row.saturating_add(1);
        if self.delayable && self.row >= 2 {
            let delay = delay(&process.recovery.backoff, self.row, now);
            self.standing = Standing::BackingOff { until: now.after(delay) };
            vec![]
        } else {
            // One that ended before it was ready may have left what could not be told yet.
            self.want_start(self.delayable)
        }
    }

    /// To be started as soon as its dependencies allow it; `look`: others had time to start one.
    pub(super) fn want_start(&mut self, look: bool) -> Vec<Action> {
        self.standing = Standing::Awaiting { waiting: Vec::new(), look };
        vec![Action::Await]
    }

    pub(super) fn prepare(&mut self, look: bool) -> Vec<Action> {
        self.standing = Standing::Preparing;
        vec![Action::Prepare { last: self.last.map(|(instance, _)| instance), look }]
    }
}
