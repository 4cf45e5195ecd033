//! What the coordinator is told, and what it wants done.

use std::borrow::Cow;

use crate::event::{Change, Instance, ProcessName, Time, Wait};

/// Where a process stands, as far as others depend on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is ready: this instance, or what is only watched and answers.
    Ready(Option<Instance>),
    /// It runs, and is not ready.
    Unready(Reason),
    /// It does not run, and is on its way: nobody and nothing else needs to act.
    Coming(Reason),
    /// It is not on its way: somebody has to act, or its breaker to close.
    Away(Reason),
}

/// Why a process is not ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// In words: `breaker open`.
    pub text: Cow<'static, str>,
    /// When that changes by itself; `None`: nobody knows.
    pub until: Option<Time>,
}

impl Reason {
    /// A reason that lasts for nobody knows how long.
    pub const fn new(text: &'static str) -> Self {
        Self { text: Cow::Borrowed(text), until: None }
    }
}

/// The answer to a process that is to be started.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Answer {
    /// There is nothing to wait for.
    Free,
    /// It is held; [`What::Release`] comes later.
    Held(Vec<Wait>),
}

/// What follows for whom.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Action {
    /// For which process.
    pub process: ProcessName,
    /// What.
    pub what: What,
}

/// What follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// It was held, and may be started now.
    Release,
    /// It is held on, for these.
    Hold(Vec<Wait>),
    /// It runs, and is to be restarted. [`super::Coordinator::stands`] is to follow at once: `Coming`,
    /// or it is taken as refused.
    Restart {
        /// Because this one was.
        because: ProcessName,
    },
    /// Tell the world: [`Change::Waived`], [`Change::Overdue`] or [`Change::Complete`].
    Tell(Change),
}
