//! How others speak with recovery: commands with an acknowledgement, never over the bus.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::config::Config;
use crate::launch::Launcher;

/// How many commands may wait; more than ever do.
const COMMANDS: usize = 16;

/// Gives recovery its orders. Each is acknowledged.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
}

/// What a [`Handle`] sends.
#[derive(Debug)]
pub(super) enum Command {
    Reload { config: Arc<Config>, launcher: Box<Launcher>, done: oneshot::Sender<()> },
    Ping { done: oneshot::Sender<()> },
}

/// Recovery has ended; only its own failure makes it do so.
#[derive(Debug, thiserror::Error)]
#[error("the recovery task has ended")]
pub struct Gone;

impl Handle {
    pub(super) fn new() -> (Self, mpsc::Receiver<Command>) {
        let (commands, receiver) = mpsc::channel(COMMANDS);
        (Self { commands }, receiver)
    }

    /// Swaps the configuration, and starts what it adds. Returns once that is under way.
    ///
    /// # Errors
    ///
    /// [`Gone`].
    pub async fn reload(&self, config: Arc<Config>, launcher: Launcher) -> Result<(), Gone> {
        let launcher = Box::new(launcher);
        self.send(|done| Command::Reload { config, launcher, done }).await
    }

    /// Returns once recovery has come round to it: proof that it is not stuck.
    ///
    /// # Errors
    ///
    /// [`Gone`].
    pub async fn ping(&self) -> Result<(), Gone> {
        self.send(|done| Command::Ping { done }).await
    }

    async fn send(&self, command: impl FnOnce(oneshot::Sender<()>) -> Command) -> Result<(), Gone> {
        let (done, acknowledged) = oneshot::channel();
        self.commands.send(command(done)).await.map_err(|_| Gone)?;
        acknowledged.await.map_err(|_| Gone)
    }
}
