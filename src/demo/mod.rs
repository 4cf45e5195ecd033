//! `healer demo`: shows on a small service of its own what healer does. No configuration, no rights.
//!
//! `story` is what is done to the service, what has to follow and what is told of it; `world` sets
//! up the real recovery task and takes everything down again; `service` is the service; `narrator`
//! writes. Nothing is staged: every number comes from recovery's own events or from the service
//! itself, and what does not happen in time is an error. Called by `main`.

use std::io;
use std::time::Duration;

use crate::instance::left::Stuck;
use crate::launch::Baseline;

use self::story::Story;
use self::world::World;

mod narrator;
pub mod service;
mod story;
mod world;

/// How long any one step may take; a healthy machine needs a hundredth of it.
const STEP: Duration = Duration::from_secs(8);

/// Why the demo did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// Ctrl-C and its like.
    #[error("the demo was stopped before its end; nothing of it is left")]
    Stopped,
    /// A step took too long.
    #[error("{awaited} did not happen within {} s", STEP.as_secs())]
    Late {
        /// What should have happened.
        awaited: &'static str,
    },
    /// healer did what it promises never to do.
    #[error("healer broke its word: {0}")]
    Broken(String),
    /// The service could not be started at all.
    #[error("the demo's service was not started: {0}")]
    NotStarted(String),
    /// The demo's own configuration has faults.
    #[error("the demo's own configuration is refused: {0}")]
    Refused(String),
    /// Recovery has ended, or the demo lost some of its news.
    #[error("the recovery task does not answer")]
    Deaf,
    /// The system refuses.
    #[error("cannot {what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A service lives on.
    #[error("cannot end what the demo started")]
    Stuck(#[from] Stuck),
}

impl DemoError {
    /// For `map_err`.
    fn system<E: Into<io::Error>>(what: &'static str) -> impl Fn(E) -> Self {
        move |error| Self::System { what, source: error.into() }
    }
}

/// Runs the demo.
///
/// # Errors
///
/// [`DemoError`]; then, too, nothing is left behind.
pub fn run() -> Result<(), DemoError> {
    let baseline =
        Baseline::record().map_err(DemoError::system("read this process's own limits"))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(DemoError::system("set up the runtime"))?;
    runtime.block_on(async {
        let mut world = World::set_up(baseline)?;
        let told = Story::of(&mut world).tell().await;
        let cleared = world.take_down().await;
        told.and(cleared)
    })
}
