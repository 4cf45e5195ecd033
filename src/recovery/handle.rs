//! How others speak with recovery: commands with an acknowledgement, never over the bus.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::config::Config;
use crate::event::{ProcessName, Request};
use crate::launch::Launcher;

use super::status::ProcessStatus;

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
    Reload {
        config: Arc<Config>,
        launcher: Box<Launcher>,
        done: oneshot::Sender<()>,
    },
    Ping {
        done: oneshot::Sender<()>,
    },
    Status {
        done: oneshot::Sender<Vec<ProcessStatus>>,
    },
    StatusOf {
        name: ProcessName,
        done: oneshot::Sender<Option<ProcessStatus>>,
    },
    Ask {
        name: ProcessName,
        request: Request,
        by: String,
        done: oneshot::Sender<Option<ProcessStatus>>,
    },
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

    /// How each process stands, all of one moment.
    ///
    /// # Errors
    ///
    /// [`Gone`].
    pub async fn status(&self) -> Result<Vec<ProcessStatus>, Gone> {
        self.send(|done| Command::Status { done }).await
    }

    /// How one process stands; `None` for one that is not configured or not enabled.
    ///
    /// # Errors
    ///
    /// [`Gone`].
    pub async fn status_of(&self, name: ProcessName) -> Result<Option<ProcessStatus>, Gone> {
        self.send(|done| Command::StatusOf { name, done }).await
    }

    /// Asks something of a process, for whom `by` names, and tells how it stands right after that;
    /// `None` for one that is not configured or not enabled.
    ///
    /// # Errors
    ///
    /// [`Gone`].
    pub async fn ask(
        &self,
        name: ProcessName,
        request: Request,
        by: String,
    ) -> Result<Option<ProcessStatus>, Gone> {
        self.send(|done| Command::Ask { name, request, by, done }).await
    }

    async fn send<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, Gone> {
        let (done, acknowledged) = oneshot::channel();
        self.commands.send(command(done)).await.map_err(|_| Gone)?;
        acknowledged.await.map_err(|_| Gone)
    }
}
