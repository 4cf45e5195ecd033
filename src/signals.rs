//! The operating system's signals become words of the domain at this one border.
//!
//! The streams are opened once, before anything is started, so that no signal can slip through
//! between two waits. Called by `daemon`.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What an operator or a service manager asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// SIGHUP.
    Reload,
    /// SIGTERM or SIGINT; a second one means at once.
    Stop,
}

/// The streams behind [`Asked`].
#[derive(Debug)]
pub struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Takes over SIGHUP, SIGTERM and SIGINT.
    ///
    /// # Errors
    ///
    /// What sigaction(2) or the runtime reports.
    pub fn open() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next one. Signals of a kind that arrive before the last was taken are one,
    /// so that a burst of SIGHUPs is a reload or two.
    pub async fn next(&mut self) -> Asked {
        tokio::select! {
            biased;
            _ = self.terminate.recv() => Asked::Stop,
            _ = self.interrupt.recv() => Asked::Stop,
            _ = self.hangup.recv() => Asked::Reload,
        }
    }
}
