//! Waiting for a descriptor to become readable: a pidfd at its process's end, an inotify queue.
//!
//! For one descriptor and one task; recovery's many pidfds are in `wake`'s one set. Called by `left`,
//! `monitor/pid` and `launch`.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::Held;

/// A descriptor registered with the runtime, for reading alone: no room for writing wakes anybody.
#[derive(Debug)]
pub struct Readable(AsyncFd<OwnedFd>);

impl Readable {
    /// Registers a duplicate of `fd` with the current runtime. So several tasks may wait for the
    /// same process, and the caller may close its own at any time.
    ///
    /// # Errors
    ///
    /// No descriptor or no watch is left.
    pub fn new(fd: impl AsFd) -> io::Result<Self> {
        Self::of(fd.as_fd().try_clone_to_owned()?)
    }

    /// Registers `fd` itself.
    ///
    /// # Errors
    ///
    /// No watch is left.
    pub fn of(fd: OwnedFd) -> io::Result<Self> {
        #[expect(unsafe_code, reason = "tokio offers no safe registration of an owned descriptor")]
        // SAFETY: `AsyncFd` takes ownership of the `OwnedFd`, which stays open and the same
        // description until `AsyncFd` drops it; it is never replaced, as it is only lent out.
        let registered = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
        Ok(Self(registered?))
    }

    /// Waits until it is readable, then runs `read`; again, where `read` would block. Cancel safe.
    ///
    /// # Errors
    ///
    /// What `read` reports.
    pub async fn read<T>(&self, mut read: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        self.0.async_io(Interest::READABLE, |_| read()).await
    }
}

impl AsFd for Readable {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}

/// Waits for the end of a process: its last thread's, whether or not its parent has reaped it.
///
/// # Errors
///
/// No descriptor is left.
pub async fn ended(held: &Held) -> io::Result<()> {
    // A pidfd that is readable once stays so, and reading it is neither needed nor possible.
    Readable::new(held)?.read(|| Ok(())).await
}
