//! What operators ask of a process: stop, pause, resume, restart, reset.
//!
//! A pause lies over wherever the process stands: it is watched on, and whatever happens, nothing is
//! started. What was under way is broken off where that is possible.

use crate::config::Process;
use crate::event::{Pause, Request, Time};

use super::Lifecycle;
use super::standing::{Standing, Why};
use super::words::Action;

impl Lifecycle {
    pub(super) fn asked(
        &mut self,
        process: &Process,
        request: Request,
        by: String,
        now: Time,
    ) -> Vec<Action> {
        // There is nothing to start, end or leave alone.
        if matches!(self.standing, Standing::Remote { .. }) {
            return vec![];
        }
        match request {
            Request::Stop => {
                self.paused = Some(Pause { by: by.clone(), until: None });
                self.stop_wanted = true;
                let mut actions = self.stand_down(now);
                actions.extend(self.stop(Why::Stop { by }));
                actions
            }
            Request::Pause { lasting } => {
                let until = lasting.map(|lasting| now.after(lasting));
                self.paused = Some(Pause { by, until });
                self.stop_wanted = false;
                self.stand_down(now)
            }
            Request::Resume => self.resume(process),
            Request::Restart => {
                self.permit_recalled();
                let mut actions = self.resume(process);
                actions.extend(self.restart(format!("asked for by {by}")));
                actions
            }
            Request::Reset => {
                self.row = 0;
                self.trial = false;
                self.permit_recalled();
                match self.standing {
                    Standing::Refused { .. } if self.paused.is_some() => self.down(now),
                    Standing::Refused { .. } | Standing::BackingOff { .. } => self.want_start(true),
                    _ => vec![],
                }
            }
        }
    }

    /// Ends the living instance to start another, or starts one where none runs.
    pub(super) fn restart(&mut self, reason: String) -> Vec<Action> {
        match &mut self.standing {
            Standing::Up { .. } => self.stop(Why::Restart { reason }),
            Standing::Down { .. }
            | Standing::Finished { .. }
            | Standing::BackingOff { .. }
            | Standing::Refused { .. } => self.want_start(true),
            Standing::Unknown { wanted, .. } => {
                *wanted = true;
                vec![Action::Look]
            }
            // It is on its way already.
            Standing::Stopping { why, .. } => {
                *why = Why::Restart { reason };
                vec![]
            }
            _ => vec![],
        }
    }

    /// Ends the living instance, where there is one.
    pub(super) fn stop(&mut self, why: Why) -> Vec<Action> {
        match self.standing {
            Standing::Up { instance, .. } => {
                self.standing = Standing::Stopping { instance, why, stuck: None };
                vec![Action::Stop { instance }]
            }
            // It is ending; only what follows is another.
            Standing::Stopping { why: ref mut old, .. } => {
                *old = why;
                vec![]
            }
            _ => vec![],
        }
    }

    /// Undoes a pause or a stop, and brings the process back where it is down.
    pub(super) fn resume(&mut self, process: &Process) -> Vec<Action> {
        if self.paused.take().is_none() {
            return vec![];
        }
        self.stop_wanted = false;
        self.resume_recalled();
        match &mut self.standing {
            Standing::Down { .. } => self.want_start(true),
            Standing::Stopping { why, .. } => {
                why.resume();
                vec![]
            }
            // What its probes said meanwhile was only noted.
            Standing::Up { hung, .. } => match hung.take() {
                Some(reason) => self.hung(process, reason),
                None => vec![],
            },
            _ => vec![],
        }
    }

    /// Breaks off what would lead to a start. A launch under way cannot be broken off, nor can the
    /// breaker's Open period.
    fn stand_down(&mut self, now: Time) -> Vec<Action> {
        match self.standing {
            Standing::Unknown { wanted: true, .. }
            | Standing::BackingOff { .. }
            | Standing::Awaiting { .. }
            | Standing::Preparing
            | Standing::Queued { .. } => self.down(now),
            _ => vec![],
        }
    }
}
