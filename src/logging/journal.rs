//! systemd's journal as the place of healer's log: one datagram an event, its fields kept apart.
//!
//! Sending waits while journald does not read, so it is done by a thread; what that cannot take is
//! dropped, and so is an event that is too large for a datagram. Called by `logging`. The format is
//! that of systemd.io/JOURNAL_NATIVE_PROTOCOL.

use std::fmt::Debug;
use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_appender::non_blocking::{NonBlocking, WorkerGuard};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Where journald listens, systemd-journald.service(8).
pub const SOCKET: &str = "/run/systemd/journal/socket";

/// Sends events to the journal.
#[derive(Debug)]
pub struct Journal(NonBlocking);

impl Journal {
    /// A journal that listens there. What is still on its way is sent when the guard is dropped.
    ///
    /// # Errors
    ///
    /// Nothing listens.
    pub fn at(path: &Path) -> io::Result<(Self, WorkerGuard)> {
        let socket = UnixDatagram::unbound()?;
        // An empty datagram says nothing, but whether somebody is there.
        socket.set_nonblocking(true)?;
        match socket.send_to(&[], path) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            _ => socket.set_nonblocking(false)?,
        }
        let (events, guard) =
            tracing_appender::non_blocking(Datagrams { socket, path: path.to_owned() });
        Ok((Self(events), guard))
    }
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let mut entry = Entry(Vec::with_capacity(512));
        entry.put("SYSLOG_IDENTIFIER", "healer");
        entry.put("PRIORITY", priority(*metadata.level()));
        entry.put("TARGET", metadata.target());
        event.record(&mut entry);
        // It never fails: what does not fit is dropped, and counted.
        let _ = self.0.clone().write_all(&entry.0);
    }
}

/// After syslog(3): an info of healer's is worth a notice.
fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "5",
        Level::DEBUG => "6",
        Level::TRACE => "7",
    }
}

/// One event as journald reads it.
struct Entry(Vec<u8>);

impl Entry {
    /// With its length, so that the value may hold anything.
    fn put(&mut self, name: &str, value: &str) {
        self.0.extend_from_slice(name.as_bytes());
        self.0.push(b'\n');
        self.0.extend_from_slice(&(value.len() as u64).to_le_bytes());
        self.0.extend_from_slice(value.as_bytes());
        self.0.push(b'\n');
    }
}

impl Visit for Entry {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.put("MESSAGE", value),
            // Clear of the names that journald gives a meaning.
            name => self.put(&format!("F_{}", name.to_ascii_uppercase()), value),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

/// Each write is a datagram.
struct Datagrams {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Write for Datagrams {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        // By path each time: journald may have been started anew. A part is never sent.
        self.socket.send_to(event, &self.path)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn event_is_a_datagram_of_fields() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let journald = UnixDatagram::bind(&path).unwrap();
        let (journal, _guard) = Journal::at(&path).unwrap();
        let mut datagram = [0; 4096];
        assert_eq!(journald.recv(&mut datagram).unwrap(), 0);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(journal), || {
            tracing::warn!(process = "web", pid = 7, reason = %"one\ntwo", "ended");
        });
        let length = journald.recv(&mut datagram).unwrap();
        let mut expected = Entry(Vec::new());
        for (name, value) in [
            ("SYSLOG_IDENTIFIER", "healer"),
            ("PRIORITY", "4"),
            ("TARGET", module_path!()),
            ("MESSAGE", "ended"),
            ("F_PROCESS", "web"),
            ("F_PID", "7"),
            ("F_REASON", "one\ntwo"),
        ] {
            expected.put(name, value);
        }
        let (told, expected) = (&datagram[..length], expected.0);
        assert_eq!(String::from_utf8_lossy(told), String::from_utf8_lossy(&expected));
        assert!(told.starts_with(b"SYSLOG_IDENTIFIER\n\x06\0\0\0\0\0\0\0healer\n"));
    }

    #[test]
    fn journal_that_does_not_read_holds_nobody_up() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let _deaf = UnixDatagram::bind(&path).unwrap();
        let (journal, guard) = Journal::at(&path).unwrap();
        let began = Instant::now();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(journal), || {
            for number in 0..2_000 {
                tracing::info!(number, "more than a socket holds");
            }
        });
        drop(guard);
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    }

    #[test]
    fn journal_that_is_not_there_is_an_error() {
        assert!(Journal::at(Path::new("/no/journal")).is_err());
    }
}
