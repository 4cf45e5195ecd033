//! What every monitor promises, and how recovery talks to one.
//!
//! A monitor watches processes of its kind and publishes on the bus what it sees: once when an entry
//! comes, then on change. The bus may lose events, and a burst of all truths would make it lose them
//! again; so whoever lagged gets the present truth as the answer to [`Command::Republish`], on a
//! channel that loses nothing. Monitors never wait for anyone who receives. Called by `recovery`;
//! `pid` watches PID files, `ebpf` has the kernel tell, `network` asks the processes themselves.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinError, JoinHandle};

use crate::config::Config;
use crate::event::{Event, Instance, ProcessName};

pub mod ebpf;
pub mod network;
pub mod pid;

/// What recovery tells a monitor. Each is answered by what the monitor now sees of the entries that
/// it made it look at; what is new in that travels on the bus as well.
#[derive(Clone, Debug)]
pub enum Command {
    /// Watch the entries of this configuration and no others.
    Reload(Arc<Config>),
    /// Look at every entry anew. One whose file is being written is missing in the answer; it
    /// follows on the bus.
    Republish,
    /// healer launched this instance: what comes out of it is this process too.
    Launched(ProcessName, Instance),
    /// Recovery holds this instance, launched or adopted: it is this process, no other test.
    Held(ProcessName, Instance),
    /// The instance that recovery held has ended, or is let go.
    Ended(ProcessName, Instance),
}

/// A command and where its answer goes.
pub type Order = (Command, oneshot::Sender<Vec<Event>>);

/// Tells a monitor. Cheap to clone; the monitor ends when the last one is dropped.
#[derive(Clone, Debug)]
pub struct Orders(mpsc::UnboundedSender<Order>);

/// The monitor's task has ended, which it only does when it is told to or panics.
#[derive(Debug, thiserror::Error)]
#[error("the monitor has stopped")]
pub struct Stopped;

impl Orders {
    /// Tells the monitor and waits for its answer.
    ///
    /// # Errors
    ///
    /// [`Stopped`].
    pub async fn tell(&self, command: Command) -> Result<Vec<Event>, Stopped> {
        let (answer, answered) = oneshot::channel();
        self.0.send((command, answer)).map_err(|_| Stopped)?;
        answered.await.map_err(|_| Stopped)
    }

    /// Tells the monitor and does not wait. What is new to it comes on the bus.
    ///
    /// # Errors
    ///
    /// [`Stopped`].
    pub fn note(&self, command: Command) -> Result<(), Stopped> {
        let (answer, _) = oneshot::channel();
        self.0.send((command, answer)).map_err(|_| Stopped)
    }
}

/// A running monitor.
#[derive(Debug)]
pub struct Handle {
    orders: Orders,
    /// `None` once its end was told.
    task: Option<JoinHandle<()>>,
}

impl Handle {
    /// Runs a monitor: `task` gets its orders and ends when they end.
    pub fn spawn<F>(task: impl FnOnce(mpsc::UnboundedReceiver<Order>) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        // Unbounded, as whoever tells must not wait; no more can queue than recovery launches and
        // adopts in one of its turns.
        let (orders, receiver) = mpsc::unbounded_channel();
        Self { orders: Orders(orders), task: Some(tokio::spawn(task(receiver))) }
    }

    /// The means to tell it.
    #[must_use]
    pub fn orders(&self) -> Orders {
        self.orders.clone()
    }

    /// Waits for an end that should not come: a panic. Told once.
    ///
    /// # Errors
    ///
    /// The monitor panicked.
    pub async fn ended(&mut self) -> Result<(), JoinError> {
        let Some(task) = &mut self.task else { return std::future::pending().await };
        let ended = task.await;
        self.task = None;
        ended
    }

    /// Waits for the monitor's end, which comes once all its [`Orders`] are dropped.
    ///
    /// # Errors
    ///
    /// The monitor panicked, and [`Handle::ended`] has not told it.
    pub async fn stop(self) -> Result<(), JoinError> {
        drop(self.orders);
        match self.task {
            Some(task) => task.await,
            None => Ok(()),
        }
    }
}
