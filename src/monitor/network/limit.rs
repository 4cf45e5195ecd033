//! How long a probe may take in all, and the two ways in which it fails.
//!
//! Each step of a probe waits through [`Limit::within`] and in no other way. What is no fault of the
//! target is told apart here: where healer lacks a descriptor, a port or a right, it cannot ask, and
//! does not know.

use std::io;
use std::time::Duration;

use nix::errno::Errno;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout_at};

use super::health::Outcome;

/// Why a probe did not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The target did not answer as it should.
    Target(String),
    /// healer could not ask.
    Healer(String),
}

impl From<Fault> for Outcome {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Target(reason) => Self::Failed(reason),
            Fault::Healer(reason) => Self::Impossible(reason),
        }
    }
}

impl Fault {
    /// A system call on the way to the target failed.
    pub fn of(error: &io::Error) -> Self {
        use Errno::{
            EACCES, EADDRNOTAVAIL, EAGAIN, EMFILE, ENFILE, ENOBUFS, ENOENT, ENOMEM, EPERM,
        };
        let reason = said(error);
        match error.raw_os_error().map(Errno::from_raw) {
            // No descriptor, memory or port is left; or the firewall or the socket's mode forbid it.
            Some(EMFILE | ENFILE | ENOMEM | ENOBUFS | EADDRNOTAVAIL | EACCES | EPERM) => {
                Self::Healer(format!("cannot connect: {reason}"))
            }
            Some(ENOENT) => Self::Target("the socket does not exist".to_owned()),
            // Of a Unix socket; TCP would wait.
            Some(EAGAIN) => Self::Target("the socket's queue is full".to_owned()),
            _ => Self::Target(reason),
        }
    }
}

/// What the system says, as a fragment: `connection refused`.
pub fn said(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => Errno::from_raw(number).desc().to_lowercase(),
        None => error.to_string(),
    }
}

/// The end of a probe's time.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    end: Instant,
    whole: Duration,
}

impl Limit {
    /// So long from now on.
    pub fn new(whole: Duration) -> Self {
        Self { end: Instant::now() + whole, whole }
    }

    /// What is left.
    pub fn left(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    /// Waits for one step of the probe; `doing` follows "while".
    pub async fn within<T>(&self, doing: &str, step: impl Future<Output = T>) -> Result<T, Fault> {
        timeout_at(self.end, step).await.map_err(|_| {
            Fault::Target(format!("timed out after {} s while {doing}", self.whole.as_secs_f64()))
        })
    }

    /// Reads files, on another thread: a disk or a file server may take its time. If it takes too
    /// long, that is not the target's fault.
    pub async fn reading<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Fault> {
        match timeout_at(self.end, spawn_blocking(read)).await {
            Ok(Ok(read)) => Ok(read),
            Ok(Err(panicked)) => Err(Fault::Healer(panicked.to_string())),
            Err(_) => {
                Err(Fault::Healer("the files that a probe needs could not be read in time".into()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::refused(Errno::ECONNREFUSED, Fault::Target("connection refused".into()))]
    #[case::unreachable(Errno::ENETUNREACH, Fault::Target("network is unreachable".into()))]
    #[case::no_socket(Errno::ENOENT, Fault::Target("the socket does not exist".into()))]
    #[case::full(Errno::EAGAIN, Fault::Target("the socket's queue is full".into()))]
    #[case::descriptors(Errno::EMFILE, Fault::Healer("cannot connect: too many open files".into()))]
    #[case::ports(
        Errno::EADDRNOTAVAIL,
        Fault::Healer("cannot connect: cannot assign requested address".into())
    )]
    #[case::forbidden(Errno::EACCES, Fault::Healer("cannot connect: permission denied".into()))]
    #[case::firewall(Errno::EPERM, Fault::Healer("cannot connect: operation not permitted".into()))]
    fn what_healer_lacks_is_not_the_targets_fault(#[case] errno: Errno, #[case] fault: Fault) {
        assert_eq!(Fault::of(&errno.into()), fault);
    }
}
