//! What a plan has its shell do.

use crate::event::{Change, Instance, ProcessName};

/// What the shell is to do, for which process.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Order {
    /// For which process.
    pub process: ProcessName,
    /// What.
    pub what: What,
}

/// What the shell is to do. See [`crate::lifecycle::Action`] for the answers that it owes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Find out whether it runs.
    Look,
    /// Make sure that none runs and that nothing is left of the last instance.
    Prepare {
        /// Which instance ended last.
        last: Option<Instance>,
        /// Whether somebody else may have started one since.
        look: bool,
    },
    /// Launch it.
    Launch,
    /// See what came out of this launch.
    FindSuccessor {
        /// What was launched.
        launched: Instance,
    },
    /// End this instance and what belongs to it.
    Stop {
        /// Which one.
        instance: Instance,
    },
    /// Let go of its instance: it is no longer watched.
    Release,
    /// Publish this.
    Tell(Change),
}
