//! How an instance that runs comes to be ready, hung, ended; and what follows from its end.

use crate::config::{Process, Restart};
use crate::event::{Change, End, Exit, Time};

use super::Lifecycle;
use super::policy::{RELOOK_DOWN, RELOOK_SUCCESSOR, RESTOP, ended_by_itself, is_failure};
use super::standing::{Standing, Why, ready_at};
use super::words::{Action, Input};

impl Lifecycle {
    /// News of the instance that is held.
    pub(super) fn of_the_living(
        &mut self,
        process: &Process,
        input: Input,
        now: Time,
    ) -> Vec<Action> {
        match (&self.standing, input) {
            (Standing::Up { instance, .. }, Input::Ended { instance: ended, exit })
                if *instance == ended =>
            {
                self.ended(process, exit, now)
            }
            (Standing::Stopping { instance, .. }, Input::Ended { instance: ended, exit })
                if *instance == ended =>
            {
                self.stopped(process, exit, now)
            }
            (Standing::Stopping { instance, .. }, Input::Stuck { instance: stuck, reason })
                if *instance == stuck =>
            {
                self.stuck(reason, now)
            }

            (Standing::Remote { .. }, Input::Healthy { instance: None }) => {
                self.standing = Standing::Remote { health: Some(Ok(())) };
                vec![]
            }
            (Standing::Remote { .. }, Input::Unhealthy { instance: None, reason }) => {
                self.standing = Standing::Remote { health: Some(Err(reason)) };
                vec![]
            }
            (Standing::Up { instance, .. }, Input::Healthy { instance: probed })
                if Some(*instance) == probed =>
            {
                self.healthy()
            }
            (Standing::Up { instance, .. }, Input::Unhealthy { instance: probed, reason })
                if Some(*instance) == probed =>
            {
                self.hung(process, reason)
            }
            // Old news.
            _ => vec![],
        }
    }

    /// It has lived for so long that it is ready, or that no daemon will come out of it.
    pub(super) fn aged(&mut self, process: &Process, now: Time) -> Vec<Action> {
        let Standing::Up { since, held, ready, hung, launched, found, .. } = &mut self.standing
        else {
            return vec![];
        };
        *launched = launched.filter(|at| now < at.after(process.recovery.start_timeout));
        let is_ready = ready_at(process, *since, *held, *found).is_some_and(|at| at <= now);
        if !*ready && hung.is_none() && is_ready { self.healthy() } else { vec![] }
    }

    /// It is ready: it lived, or answered, as it should.
    pub(super) fn healthy(&mut self) -> Vec<Action> {
        let Standing::Up { ready, hung, .. } = &mut self.standing else { return vec![] };
        *hung = None;
        if std::mem::replace(ready, true) {
            return vec![];
        }
        self.row = 0;
        vec![Action::Ready]
    }

    /// It lives, but does not answer: it is ended, and replaced as if it had died. Where nothing
    /// may be started, nothing is ended either.
    pub(super) fn hung(&mut self, process: &Process, why: String) -> Vec<Action> {
        let may_act = self.paused.is_none() && process.recovery.restart != Restart::Never;
        let Standing::Up { instance, ready, hung, .. } = &mut self.standing else { return vec![] };
        if may_act {
            let tell = Change::Hung { instance: *instance, reason: why.clone() };
            let mut actions = vec![Action::Tell(tell)];
            actions.extend(self.stop(Why::Hung { reason: why }));
            return actions;
        }
        *hung = Some(why);
        if std::mem::take(ready) { vec![Action::Unready] } else { vec![] }
    }

    /// What was to be ended cannot be: nothing is started beside it.
    pub(super) fn stuck(&mut self, reason: String, now: Time) -> Vec<Action> {
        let Standing::Stopping { instance, stuck, .. } = &mut self.standing else { return vec![] };
        let again = now.after(RESTOP);
        let is_new = stuck.replace((reason.clone(), again)).is_none();
        let tell = Action::Tell(Change::Stuck { instance: *instance, reason });
        if is_new { vec![tell] } else { vec![] }
    }

    /// What was to be ended has ended.
    pub(super) fn stopped(&mut self, process: &Process, exit: Exit, now: Time) -> Vec<Action> {
        let Standing::Stopping { instance, why, .. } = &self.standing else { return vec![] };
        self.last = Some((*instance, Some(now)));
        self.delayable = false;
        let is_hung = matches!(why, Why::Hung { .. });
        let stays_down = matches!(why, Why::Stop { .. });
        let tell = Change::Ended { instance: *instance, exit: Box::new(exit) };
        let mut actions = vec![Action::Tell(tell)];
        if stays_down || self.paused.is_some() {
            actions.extend(self.down(now));
        } else if is_hung && process.recovery.restart == Restart::Never {
            actions.extend(self.finished(now));
        } else if is_hung {
            self.standing = Standing::Judged;
            actions.push(Action::Judge);
        } else {
            actions.push(Action::Stopped);
            actions.extend(self.want_start(false));
        }
        actions
    }

    pub(super) fn ended(&mut self, process: &Process, exit: Exit, now: Time) -> Vec<Action> {
        let Standing::Up { instance, ready, launched, found, .. } = self.standing else {
            return vec![];
        };
        self.last = Some((instance, Some(now)));
        let tell = Action::Tell(Change::Ended { instance, exit: Box::new(exit.clone()) });
        // Of one that an earlier healer launched, an unknown end may be an exit 0.
        let may_be_zero = exit.end.map_or(found, |end| end == End::Code(0));
        if let Some(launched_at) = launched
            && may_be_zero
            && now < launched_at.after(process.recovery.start_timeout)
        {
            // Not at once: a double fork may be half done.
            let look_at = now.after(RELOOK_SUCCESSOR.initial);
            // Of a daemon that did not come to this healer, only a look in full can tell.
            self.delayable = !ready || found;
            let (launched, looks) = (instance, 0);
            self.standing = Standing::Succession { launched, launched_at, exit, looks, look_at };
            return vec![tell];
        }
        self.delayable = !ready && ended_by_itself(&exit);
        let mut actions = vec![tell];
        actions.extend(self.judge(process, &exit, now));
        actions
    }

    /// After an end: restart, or leave it so.
    pub(super) fn judge(&mut self, process: &Process, exit: &Exit, now: Time) -> Vec<Action> {
        if self.paused.is_some() {
            return self.down(now);
        }
        if is_failure(process.recovery.restart, exit) {
            self.standing = Standing::Judged;
            vec![Action::Judge]
        } else {
            self.finished(now)
        }
    }

    pub(super) fn finished(&mut self, now: Time) -> Vec<Action> {
        self.trial = false;
        self.standing = Standing::Finished { look_at: now.after(RELOOK_DOWN) };
        vec![Action::Finished]
    }
}
