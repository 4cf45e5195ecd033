//! What a lifecycle is told, and what it wants done.

use crate::event::{Change, Exit, Instance, Request, Time, Wait};

/// What a lifecycle is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// This running instance is the process; it is held. Only for a lifecycle that seeks.
    Found {
        /// Which one.
        instance: Instance,
        /// When it started.
        started: Time,
    },
    /// A look found no running instance.
    Missing,
    /// A look could not tell.
    Unclear {
        /// What would decide.
        reason: String,
    },
    /// An instance ended.
    Ended {
        /// Which one; anything but the present one is old news.
        instance: Instance,
        /// How.
        exit: Exit,
    },
    /// The breaker permits a restart.
    Permitted,
    /// The breaker is Open.
    Refused {
        /// Until then.
        until: Time,
    },
    /// Open ended: make the one trial.
    TrialDue,
    /// The trial proved itself.
    Proved,
    /// Its dependencies do not allow a start now.
    Held {
        /// What it waits for; not empty.
        waiting: Vec<Wait>,
    },
    /// Its dependencies allow a start.
    Released,
    /// No instance runs, and nothing is left of the last one.
    Prepared,
    /// A launch slot is granted.
    Go,
    /// The launch is confirmed; the instance is held.
    Launched {
        /// Which one.
        instance: Instance,
    },
    /// The launch failed.
    LaunchFailed {
        /// The step and what the system said.
        reason: String,
    },
    /// The machine, not the process, was at fault: to be queued again.
    NodeFault,
    /// Nothing was launched, as what it depends on has just ended: to be queued again.
    Postponed,
    /// Nothing came out of a command that exited 0.
    NoSuccessor,
    /// The probe succeeds.
    Healthy {
        /// That of this instance; `None` for what is only watched.
        instance: Option<Instance>,
    },
    /// So many probes failed in a row that the instance counts as hung.
    Unhealthy {
        /// Which one; `None` for what is only watched.
        instance: Option<Instance>,
        /// Why the last one failed.
        reason: String,
    },
    /// The instance that was to be ended cannot be.
    Stuck {
        /// Which one.
        instance: Instance,
        /// What keeps it.
        reason: String,
    },
    /// A dependency was restarted, and this process is to be as well.
    Restart {
        /// Because of whom, in words.
        reason: String,
    },
    /// An operator's request.
    Asked {
        /// What for.
        request: Request,
        /// By whom, in words.
        by: String,
    },
    /// Time went by.
    Tick,
}

/// What a lifecycle wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Action {
    /// Find out whether it runs; answer with Found, Missing or Unclear.
    Look,
    /// A failure: ask the breaker; answer with Permitted or Refused.
    Judge,
    /// May it be started, as far as its dependencies are concerned? Answer with Released, or with
    /// Held and later Released.
    Await,
    /// Make sure that none runs and that nothing is left of the last instance; answer with
    /// Prepared, or as to Look.
    Prepare {
        /// Which instance ended last.
        last: Option<Instance>,
        /// Whether that was so long ago that somebody else may have started one since.
        look: bool,
    },
    /// Ask for a launch slot; answer with Go.
    Enqueue,
    /// Launch it; answer with Launched, LaunchFailed, NodeFault or Postponed.
    Launch,
    /// See what came out of this launch; answer with Found or NoSuccessor, or wait while there is
    /// something that may become it.
    FindSuccessor {
        /// What was launched.
        launched: Instance,
    },
    /// End this instance and what belongs to it; its end is told as any other. Answer with Stuck
    /// where it cannot be ended.
    Stop {
        /// Which one.
        instance: Instance,
    },
    /// It runs.
    Running,
    /// It is ready.
    Ready,
    /// It is ready no longer, though it lives.
    Unready,
    /// It ended, and is to stay so.
    Finished,
    /// It ended, which says nothing about it, because somebody wanted it so; answer with Refused
    /// where the breaker is Open.
    Stopped,
    /// Tell the world.
    Tell(Change),
}
