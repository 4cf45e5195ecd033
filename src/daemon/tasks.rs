//! The tasks that go on as long as healer does: recovery and the PID monitor.
//!
//! If one ends by itself, healer cannot keep its promises, and ends with the cause. Called by the
//! daemon's loop.

use std::io;

use anyhow::{Context as _, anyhow};
use tokio::task::{JoinError, JoinHandle};

use crate::monitor::{self, Orders};

/// The tasks, running.
#[derive(Debug)]
pub struct Tasks {
    /// `None` once its end was told.
    recovery: Option<JoinHandle<io::Result<()>>>,
    monitor: monitor::Handle,
}

impl Tasks {
    /// Those that were started.
    pub fn new(recovery: JoinHandle<io::Result<()>>, monitor: monitor::Handle) -> Self {
        Self { recovery: Some(recovery), monitor }
    }

    /// The means to tell the monitor.
    pub fn monitor_orders(&self) -> Orders {
        self.monitor.orders()
    }

    /// Waits for one to end while all should go on, and says why it did.
    pub async fn ended(&mut self) -> anyhow::Error {
        let ended = tokio::select! {
            biased;
            ended = outcome(&mut self.recovery) => match ended.context("the recovery task has failed") {
                Ok(ended) => ended.context("recovery cannot go on"),
                Err(failed) => Err(failed),
            },
            ended = self.monitor.ended() => ended.context("the PID monitor has failed"),
        };
        ended.err().unwrap_or_else(|| anyhow!("a task that should go on has ended"))
    }

    /// Waits for the end of all. To be called when nobody can give recovery orders any more.
    pub async fn stop(self) {
        if let Some(recovery) = self.recovery {
            // Why healer ends was told, or is that it was asked to.
            drop(recovery.await);
        }
        drop(self.monitor.stop().await);
    }
}

/// Waits for a task that was started, and tells once what came of it.
pub async fn outcome<T>(started: &mut Option<JoinHandle<T>>) -> Result<T, JoinError> {
    let Some(task) = started else { return std::future::pending().await };
    let outcome = task.await;
    *started = None;
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    fn monitor() -> monitor::Handle {
        monitor::Handle::spawn(|mut orders| async move { while orders.recv().await.is_some() {} })
    }

    #[tokio::test]
    async fn what_ended_recovery_is_told() {
        let refused = async { Err(io::Error::other("no descriptor is left")) };
        let mut tasks = Tasks::new(tokio::spawn(refused), monitor());
        let told = format!("{:#}", tasks.ended().await);
        assert_eq!(told, "recovery cannot go on: no descriptor is left");
        tasks.stop().await;
    }

    #[tokio::test]
    async fn monitor_that_panics_is_noticed() {
        let monitor = monitor::Handle::spawn(|_| async { panic!("a watch too many") });
        let mut tasks = Tasks::new(tokio::spawn(std::future::pending()), monitor);
        let told = format!("{:#}", tasks.ended().await);
        assert!(told.starts_with("the PID monitor has failed: "), "{told}");
        assert!(told.contains("a watch too many"), "{told}");
    }
}
