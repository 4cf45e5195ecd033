//! The small service that the demo guards: it does nothing but live, and say so once.
//!
//! It needs a file of its own to live, as services do. Everything it is told is one path,
//! `DIRECTORY/NAME`: its file is `NAME.conf` there, and the demo listens at `hello`. Started by
//! recovery as the hidden command `demo-service`; a demo that ends takes it along.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal as Named, raise};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::clock;
use crate::event::{Pid, Signal, Time};
use crate::instance::own_pid;

/// Makes it exit by itself, with the code 3.
pub const EXIT_BY_ITSELF: Signal = Signal(libc::SIGUSR1);

/// What an instance says of itself once it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Which service.
    pub name: String,
    /// Who it is.
    pub pid: Pid,
    /// When it said so.
    pub at: Time,
}

impl Hello {
    fn encode(&self) -> String {
        format!("{} {} {}", self.pid, self.at.0, self.name)
    }

    /// The inverse of what the service sends.
    pub fn decode(message: &[u8]) -> Option<Self> {
        let mut words = std::str::from_utf8(message).ok()?.splitn(3, ' ');
        let pid = Pid(words.next()?.parse().ok()?);
        let at = Time(words.next()?.parse().ok()?);
        Some(Self { name: words.next()?.to_owned(), pid, at })
    }
}

/// Where the demo listens.
pub fn hello_socket(directory: &Path) -> PathBuf {
    directory.join("hello")
}

/// The file without which the service at this path does not live.
pub fn needed_file(home: &Path) -> PathBuf {
    home.with_extension("conf")
}

/// Runs the service until it is killed or asked to exit by itself.
///
/// # Errors
///
/// There is no demo that it belongs to.
pub fn serve(home: &Path) -> io::Result<ExitCode> {
    prctl::set_pdeathsig(Named::SIGKILL)?;
    leave_no_core_dump()?;
    // Rust's runtime catches the first SIGSEGV to tell a stack's overflow, and on any other takes its
    // handler out and lets the fault happen again. One that was sent does not: this is the first.
    raise(Named::SIGSEGV)?;
    let mut asked = SigSet::empty();
    asked.add(Named::SIGUSR1);
    asked.thread_block()?;
    if !needed_file(home).exists() {
        return Ok(ExitCode::FAILURE);
    }
    let no_demo = || io::Error::new(io::ErrorKind::NotFound, "this is no part of a demo");
    let (directory, name) = home.parent().zip(home.file_name()).ok_or_else(no_demo)?;
    let hello =
        Hello { name: name.to_string_lossy().into_owned(), pid: own_pid(), at: clock::now() };
    UnixDatagram::unbound()?.send_to(hello.encode().as_bytes(), hello_socket(directory))?;
    asked.wait()?;
    Ok(ExitCode::from(3))
}

/// A limit of 1 forbids core files, and programs that core dumps are piped to as well (core(5));
/// 0 does only the former.
fn leave_no_core_dump() -> io::Result<()> {
    let given = getrlimit(Resource::Core);
    let least = given.maximum.map_or(1, |maximum| maximum.min(1));
    Ok(setrlimit(Resource::Core, Rlimit { current: Some(least), ..given })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hello_arrives_as_it_was_sent() {
        let hello = Hello { name: "two words".to_owned(), pid: Pid(7), at: Time(u64::MAX) };
        assert_eq!(Hello::decode(hello.encode().as_bytes()), Some(hello));
        assert_eq!(Hello::decode(b"7 x web"), None);
    }
}
