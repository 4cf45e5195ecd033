//! A stage that was spawned: saying `go` to it, and hearing what came of it.
//!
//! `stage` is the other end of the socket. Made by `launch`, used by `recovery`.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recv, sendmsg};
use tokio::time::{Instant, timeout_at};

use super::report::{Fault, Report};
use super::{LaunchError, stage};
use crate::event::{ProcessName, Signal};
use crate::instance::Held;
use crate::instance::readable::Readable;

/// Longer than any step's description: paths are at most 4096 bytes long.
const LONGEST_REPORT: usize = 16 * 1024;

/// A stage that waits for `go`. Dropped instead, it ends without a trace.
#[derive(Debug)]
pub struct Staged {
    pub(super) process: ProcessName,
    pub(super) held: Held,
    /// healer's end, which never blocks.
    pub(super) socket: OwnedFd,
    pub(super) output: [OwnedFd; 2],
}

/// A stage that was told to go. Dropped, it ends, unless it has become the program by then.
#[derive(Debug)]
#[must_use]
pub struct Going {
    process: ProcessName,
    held: Held,
    socket: Readable,
}

impl Staged {
    /// The process that will become the instance, under the same PID.
    #[must_use]
    pub fn held(&self) -> &Held {
        &self.held
    }

    /// Lets the stage become the program. To be called within a runtime.
    ///
    /// # Errors
    ///
    /// It has ended, or the machine has no room for the word; then it ends by itself.
    pub fn go(self) -> Result<Going, LaunchError> {
        let Self { process, held, socket, output } = self;
        // The watch first: once the word is out, an instance may run.
        let socket = Readable::of(socket).map_err(|error| unheard(&process, error))?;
        match send_go(&socket, &output) {
            Ok(()) => Ok(Going { process, held, socket }),
            Err(Errno::PIPE | Errno::CONNRESET) => Err(LaunchError::Died { process }),
            Err(errno) => Err(unheard(&process, errno.into())),
        }
    }
}

impl Going {
    /// Returns once the stage has become the program: the exec is confirmed.
    ///
    /// # Errors
    ///
    /// The step that failed. A stage that is not done by `deadline` is killed.
    pub async fn executed(self, deadline: Instant) -> Result<Held, LaunchError> {
        let Self { process, held, socket } = self;
        match timeout_at(deadline, listen(&socket)).await {
            Ok(Ok(Heard::Exec)) => Ok(held),
            Ok(Ok(Heard::Fault(Fault { step, errno }))) => {
                let error = errno.map(io::Error::from_raw_os_error);
                Err(LaunchError::Failed { process, step, error })
            }
            Ok(Ok(Heard::End)) => Err(LaunchError::Died { process }),
            Ok(Err(error)) => Err(unheard(&process, error)),
            Err(_) => {
                let step = step_of(&held);
                let killed = held.signal(Signal(libc::SIGKILL));
                killed.map_err(|error| {
                    LaunchError::new(&process, "killing a stage that hangs", error)
                })?;
                Err(LaunchError::TimedOut { process, step })
            }
        }
    }
}

fn unheard(process: &ProcessName, error: io::Error) -> LaunchError {
    LaunchError::new(process, "speaking with the stage", error)
}

fn send_go(socket: &Readable, output: &[OwnedFd; 2]) -> Result<(), Errno> {
    let output = [output[0].as_fd(), output[1].as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fits = control.push(SendAncillaryMessage::ScmRights(&output));
    debug_assert!(fits, "the space was made for two descriptors");
    sendmsg(socket, &[io::IoSlice::new(b"g")], &mut control, SendFlags::NOSIGNAL).map(drop)
}

/// What became of a stage that was told to go.
enum Heard {
    Exec,
    Fault(Fault),
    End,
}

/// Hears the stage out, to the end of file: the exec has closed its socket, or its end has.
async fn listen(socket: &Readable) -> io::Result<Heard> {
    let mut heard = Heard::End;
    loop {
        let message = match socket.read(|| receive(socket)).await {
            // It ended before it had read the word.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => vec![],
            message => message?,
        };
        match Report::decode(&message) {
            None if message.is_empty() => return Ok(heard),
            None => return Err(io::Error::from(io::ErrorKind::InvalidData)),
            Some(Report::Executing) => heard = Heard::Exec,
            Some(Report::Fault(fault)) => heard = Heard::Fault(fault),
        }
    }
}

fn receive(socket: &Readable) -> io::Result<Vec<u8>> {
    let mut message = Vec::with_capacity(LONGEST_REPORT);
    recv(socket, spare_capacity(&mut message), RecvFlags::DONTWAIT)?;
    Ok(message)
}

/// Where a stage hangs: its slow steps name themselves.
fn step_of(held: &Held) -> String {
    let path = format!("/proc/{}/comm", held.instance().pid);
    let name = std::fs::read_to_string(path).unwrap_or_default();
    name.trim_end().strip_prefix(stage::STEP).unwrap_or("setting up").to_owned()
}
