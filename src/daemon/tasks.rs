//! The tasks that go on as long as healer does: recovery and the monitors.
//!
//! If one ends by itself, healer cannot keep its promises, and ends with the cause. Called by the
//! daemon's loop.

use std::io;
use std::task::Poll;

use anyhow::{Context as _, anyhow};
use tokio::task::{JoinError, JoinHandle};

use crate::monitor::{self, Orders};

/// The tasks, running.
#[derive(Debug)]
pub struct Tasks {
    /// `None` once its end was told.
    recovery: Option<JoinHandle<io::Result<()>>>,
    monitors: Vec<monitor::Handle>,
}

impl Tasks {
    /// Those that were started.
    pub fn new(recovery: JoinHandle<io::Result<()>>, monitors: Vec<monitor::Handle>) -> Self {
        Self { recovery: Some(recovery), monitors }
    }

    /// The means to tell the monitors.
    pub fn monitor_orders(&self) -> Vec<Orders> {
        self.monitors.iter().map(monitor::Handle::orders).collect()
    }

    /// Waits for one to end while all should go on, and says why it did.
    pub async fn ended(&mut self) -> anyhow::Error {
        let ended = tokio::select! {
            biased;
            ended = outcome(&mut self.recovery) => match ended.context("the recovery task has failed") {
                Ok(ended) => ended.context("recovery cannot go on"),
                Err(failed) => Err(failed),
            },
            ended = any_ended(&mut self.monitors) => ended.context("a monitor has failed"),
        };
        ended.err().unwrap_or_else(|| anyhow!("a task that should go on has ended"))
    }

    /// Waits for the end of all. To be called when nobody can give recovery orders any more.
    pub async fn stop(self) {
        if let Some(recovery) = self.recovery {
            // Why healer ends was told, or is that it was asked to.
            drop(recovery.await);
        }
        for monitor in self.monitors {
            drop(monitor.stop().await);
        }
    }
}

/// Waits for the first of these to end.
async fn any_ended(monitors: &mut [monitor::Handle]) -> Result<(), JoinError> {
    let mut ends: Vec<_> = monitors.iter_mut().map(|monitor| Box::pin(monitor.ended())).collect();
    std::future::poll_fn(|context| {
        let ended = ends.iter_mut().find_map(|end| match end.as_mut().poll(context) {
            Poll::Ready(ended) => Some(ended),
            Poll::Pending => None,
        });
        ended.map_or(Poll::Pending, Poll::Ready)
    })
    .await
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
        let mut tasks = Tasks::new(tokio::spawn(refused), vec![monitor()]);
        let told = format!("{:#}", tasks.ended().await);
        assert_eq!(told, "recovery cannot go on: no descriptor is left");
        tasks.stop().await;
    }

    #[tokio::test]
    async fn monitor_that_panics_is_noticed() {
        let monitor = monitor::Handle::spawn(|_| async { panic!("a watch too many") });
        let mut tasks = Tasks::new(tokio::spawn(std::future::pending()), vec![monitor]);
        let told = format!("{:#}", tasks.ended().await);
        assert!(told.starts_with("a monitor has failed: "), "{told}");
        assert!(told.contains("a watch too many"), "{told}");
    }
}
