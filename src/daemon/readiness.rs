//! Going to the background, daemon(7): the parent waits until the daemon is ready or has failed,
//! and its exit status says which.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::{Context as _, anyhow};
use nix::unistd::{ForkResult, fork, setsid};
use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};

/// No error text begins so.
const READY: u8 = 0;

/// The daemon's side of the parent's waiting.
#[derive(Debug)]
pub struct Readiness {
    parent: Option<OwnedFd>,
}

/// Which side of the fork this is.
pub enum Side {
    /// The caller's process; the daemon is ready, or has failed.
    Parent(anyhow::Result<()>),
    /// The daemon.
    Child(Readiness),
}

/// Goes on as a daemon: a session of its own, no controlling terminal, this working directory.
/// Descriptors 0 to 2 are left until [`Readiness::let_terminal_go`]. To be called while there is one thread.
///
/// # Errors
///
/// What pipe(2), fork(2) or chdir(2) report, on the parent's side.
pub fn daemonise(working_directory: &Path) -> anyhow::Result<Side> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).context("cannot open a pipe")?;
    if fork_once()? {
        drop(write);
        return Ok(Side::Parent(wait(read)));
    }
    drop(read);
    let readiness = Readiness { parent: Some(write) };
    let gone_on = || -> anyhow::Result<bool> {
        setsid().context("cannot open a session")?;
        // The second fork: no session leader, so no terminal can become the controlling one.
        if fork_once()? {
            return Ok(false);
        }
        std::env::set_current_dir(working_directory).with_context(|| {
            format!("cannot go to working_directory {}", working_directory.display())
        })?;
        Ok(true)
    };
    match gone_on() {
        Ok(true) => Ok(Side::Child(readiness)),
        // The one in between has done its part.
        Ok(false) => Ok(Side::Parent(Ok(()))),
        Err(error) => {
            readiness.fail(&error);
            Ok(Side::Parent(Ok(())))
        }
    }
}

/// `true` in the parent.
fn fork_once() -> anyhow::Result<bool> {
    #[expect(unsafe_code, reason = "fork(2) is unsafe where other threads may hold locks")]
    // SAFETY: called before logging and runtime start their threads: this is the only one.
    let forked = unsafe { fork() }.context("cannot fork")?;
    Ok(matches!(forked, ForkResult::Parent { .. }))
}

/// The daemon says it is ready, or why it is not; silence means that it was killed.
fn wait(read: OwnedFd) -> anyhow::Result<()> {
    let mut pipe = File::from(read);
    let mut told = [0; 1];
    let length = pipe.read(&mut told).context("cannot hear of the daemon")?;
    match &told[..length] {
        [READY] => Ok(()),
        [] => Err(anyhow!("the daemon ended before it was ready")),
        first => {
            let mut why = first.to_vec();
            pipe.read_to_end(&mut why).context("cannot hear of the daemon")?;
            Err(anyhow!("{}", String::from_utf8_lossy(&why)))
        }
    }
}

impl Readiness {
    /// In the foreground.
    pub fn nobody_waits() -> Self {
        Self { parent: None }
    }

    /// In the background, lets the terminal go: descriptors 0 to 2 become `/dev/null`. Before
    /// anything is launched, as `output: inherit` hands them on.
    pub fn let_terminal_go(&self) {
        if self.parent.is_none() {
            return;
        }
        match rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
            Ok(null) => {
                let replaced = rustix::stdio::dup2_stdin(&null)
                    .and_then(|()| rustix::stdio::dup2_stdout(&null))
                    .and_then(|()| rustix::stdio::dup2_stderr(&null));
                if let Err(error) = replaced {
                    tracing::warn!(%error, "cannot let go of the terminal");
                }
            }
            Err(error) => tracing::warn!(%error, "cannot open /dev/null"),
        }
    }

    /// Lets the parent go.
    pub fn ready(self) {
        let Some(parent) = self.parent else { return };
        // A parent that was killed meanwhile needs no word.
        let _ = File::from(parent).write_all(&[READY]);
    }

    /// Runs the daemon. What fails before it is ready, the parent tells.
    ///
    /// # Errors
    ///
    /// What `daemon` reports, where no parent can tell it.
    pub fn tell_failure(
        self,
        daemon: impl FnOnce(Self) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let Some(parent) = &self.parent else { return daemon(self) };
        let parent = parent.try_clone().context("cannot duplicate a descriptor")?;
        if let Err(error) = daemon(self) {
            // If it was ready before, nobody reads this any more, and the log has it.
            Self { parent: Some(parent) }.fail(&error);
        }
        Ok(())
    }

    fn fail(self, error: &anyhow::Error) {
        let Some(parent) = self.parent else { return };
        let causes: Vec<_> = error.chain().map(ToString::to_string).collect();
        let _ = File::from(parent).write_all(causes.join("\ncaused by: ").as_bytes());
    }
}
