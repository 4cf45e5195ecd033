//! The daemon's side of the control socket: what it tells of the daemon, and who waits for a reload.
//!
//! Owned by the daemon's loop, which says what happened; `control::server` reads.

use std::mem;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::{oneshot, watch};
use tracing::error;

use crate::bus::Bus;
use crate::clock;
use crate::config::Config;
use crate::config::load::LoadError;
use crate::control::report::{Facts, ReloadAsked, Reloaded};
use crate::control::server;
use crate::control::socket::Bound;
use crate::monitor::ebpf;
use crate::preflight::HostFault;
use crate::recovery;

/// Puts the control socket into this directory. healer does without it rather than leave processes
/// unguarded, and tries again.
pub fn open(directory: &Path) -> Option<Bound> {
    let bound = Bound::in_directory(directory);
    bound
        .inspect_err(|error| {
            let cause = std::error::Error::source(error).map(ToString::to_string);
            error!(%error, cause, "there is no control socket; processes are guarded all the same");
        })
        .ok()
}

/// The control socket, served.
#[derive(Debug)]
pub struct Control {
    server: server::Handle,
    told: Told,
}

/// What it tells of the daemon.
#[derive(Debug)]
struct Told {
    facts: watch::Sender<Arc<Facts>>,
    /// Who waits for the reload that is under way.
    waiting: Vec<oneshot::Sender<Reloaded>>,
    /// Who asked during that one, and waits for the next.
    waiting_next: Vec<oneshot::Sender<Reloaded>>,
}

impl Control {
    /// Serves `bound`, for a daemon that starts now with the configuration at this path.
    pub fn serve(
        bound: Option<Bound>,
        recovery: recovery::Handle,
        bus: &Bus,
        path: &Path,
        config: Arc<Config>,
        without_ebpf: Option<&str>,
    ) -> Self {
        let directory = config.pid_file_directory.clone();
        let (told, facts) = Told::new(path, config, without_ebpf);
        Self { server: server::Handle::spawn(directory, bound, recovery, bus, facts), told }
    }

    /// Waits for somebody to ask for a reload. Cancel-safe.
    pub async fn reload_asked(&mut self) -> ReloadAsked {
        self.server.reload_asked().await
    }

    /// Somebody waits for the file as it is now.
    pub fn await_reload(&mut self, done: oneshot::Sender<Reloaded>, is_reading: bool) {
        self.told.await_reload(done, is_reading);
    }

    /// The next reload is under way.
    pub fn reload_begins(&mut self) {
        self.told.reload_begins();
    }

    /// A reload has come to its end.
    pub fn reloaded(&mut self, reloaded: &Reloaded) {
        self.told.reloaded(reloaded);
    }

    /// A configuration is in force, and the machine lacks this for it.
    pub fn taken(&self, config: Arc<Config>, lacks: Vec<HostFault>) {
        self.told.taken(config, lacks);
    }

    /// Puts the socket back where it was removed. To be called only while the lock is held.
    pub fn look(&self) {
        self.server.look();
    }

    /// Takes the socket away and ends all connections.
    pub async fn stop(self) {
        self.server.stop().await;
    }
}

impl Told {
    fn new(
        path: &Path,
        config: Arc<Config>,
        without_ebpf: Option<&str>,
    ) -> (Self, watch::Receiver<Arc<Facts>>) {
        let facts = Facts {
            started: clock::now(),
            path: path.to_path_buf(),
            capabilities: capabilities(),
            without_ebpf: without_ebpf.map(|reason| (reason.to_owned(), ebpf::LOST)),
            config,
            lacks: Vec::new(),
            last_reload: None,
        };
        let (facts, told) = watch::channel(Arc::new(facts));
        (Self { facts, waiting: Vec::new(), waiting_next: Vec::new() }, told)
    }

    fn taken(&self, config: Arc<Config>, lacks: Vec<HostFault>) {
        self.change(|facts| (facts.config, facts.lacks) = (config, lacks));
    }

    fn await_reload(&mut self, done: oneshot::Sender<Reloaded>, is_reading: bool) {
        let waiting = if is_reading { &mut self.waiting_next } else { &mut self.waiting };
        waiting.push(done);
    }

    fn reload_begins(&mut self) {
        self.waiting.append(&mut self.waiting_next);
    }

    fn reloaded(&mut self, reloaded: &Reloaded) {
        self.change(|facts| facts.last_reload = Some(reloaded.clone()));
        for waiting in mem::take(&mut self.waiting) {
            // Whoever left meanwhile need not know.
            let _ = waiting.send(reloaded.clone());
        }
    }

    fn change(&self, change: impl FnOnce(&mut Facts)) {
        self.facts.send_modify(|facts| change(Arc::make_mut(facts)));
    }
}

/// What came of a file that is not taken.
pub fn refused(error: &LoadError, config: &Config) -> Reloaded {
    let faults = match error {
        LoadError::Faults(found) => {
            let mut faults: Vec<_> = found.faults.iter().map(ToString::to_string).collect();
            faults.extend(found.more.then(|| "and more".to_owned()));
            faults
        }
        error => {
            let cause = std::error::Error::source(error);
            vec![cause.map_or(error.to_string(), |cause| format!("{error}: {cause}"))]
        }
    };
    Reloaded { processes: config.processes.len(), faults, ..Reloaded::now() }
}

/// healer's own effective capabilities, by name; none where the kernel does not tell.
fn capabilities() -> Vec<String> {
    let effective = caps::read(None, caps::CapSet::Effective).unwrap_or_default();
    let mut effective: Vec<_> = effective.into_iter().collect();
    effective.sort_by_key(caps::Capability::index);
    effective.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::fixture;

    fn told() -> (Told, watch::Receiver<Arc<Facts>>) {
        Told::new(Path::new("/etc/healer/config.yaml"), Arc::new(fixture::config(vec![])), None)
    }

    #[test]
    fn who_asks_while_the_file_is_read_waits_for_the_next_reading() {
        let (mut told, facts) = told();
        let (first, mut heard_first) = oneshot::channel();
        let (second, mut heard_second) = oneshot::channel();
        told.await_reload(first, false);
        told.await_reload(second, true);
        told.reloaded(&Reloaded { processes: 1, ..Reloaded::now() });
        assert_eq!(heard_first.try_recv().unwrap().processes, 1);
        assert!(heard_second.try_recv().is_err(), "what was read may be older");
        told.reload_begins();
        told.reloaded(&Reloaded { processes: 2, ..Reloaded::now() });
        assert_eq!(heard_second.try_recv().unwrap().processes, 2);
        assert_eq!(facts.borrow().last_reload.as_ref().unwrap().processes, 2);
    }

    #[test]
    fn own_capabilities_are_those_that_proc_tells() {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
        let bits = u64::from_str_radix(line.trim(), 16).unwrap();
        assert_eq!(capabilities().len(), bits.count_ones() as usize);
    }
}
