//! The guarded instances: each held by its pidfd, watched for its end, and reaped if it is a child.
//!
//! Every wait for a pidfd and every wait for a child goes through here, so that no end is missed,
//! told twice, or taken for another's. What an end means is `plan`'s. Owned by `recovery`.

use std::collections::{HashMap, HashSet};
use std::io;
use std::time::Duration;

use tracing::{error, warn};

use crate::clock;
use crate::event::{Exit, Instance, Pid, ProcessName, Time};
use crate::instance::reaper::Reaper;
use crate::instance::table::Row;
use crate::instance::{Held, own_pid};
use crate::monitor::ebpf::{Causes, merge};
use crate::wake::{Wake, Woken};

/// When to try again to watch what the kernel had no room for.
const REWATCH: Duration = Duration::from_secs(1);

/// The guarded instances.
#[derive(Debug)]
pub struct Guards {
    wake: Wake,
    reaper: Reaper,
    /// Why instances end, where eBPF can tell.
    causes: Option<Causes>,
    held: HashMap<ProcessName, Guarded>,
    owners: HashMap<Instance, ProcessName>,
    /// Whose pidfd is watched under this token.
    tokens: HashMap<u64, ProcessName>,
    next_token: u64,
    /// Held, but not watched yet.
    unwatched: Vec<ProcessName>,
    rewatch_at: Option<Time>,
}

#[derive(Debug)]
struct Guarded {
    held: Held,
    token: u64,
}

/// The end of a guarded instance.
#[derive(Debug)]
pub struct Ended {
    /// Whose instance it was.
    pub process: ProcessName,
    /// Which one.
    pub instance: Instance,
    /// How it ended, as far as can be told.
    pub exit: Exit,
    /// Its pidfd, which is to be closed last: the kernel takes its time, and a launch may wait.
    pub held: Held,
}

impl Guards {
    /// Guards nothing yet. To be called within a runtime.
    ///
    /// # Errors
    ///
    /// No descriptor or memory is left.
    pub fn new(causes: Option<Causes>) -> io::Result<Self> {
        Ok(Self {
            wake: Wake::new()?,
            reaper: Reaper::new(),
            causes,
            held: HashMap::new(),
            owners: HashMap::new(),
            tokens: HashMap::new(),
            next_token: 0,
            unwatched: Vec::new(),
            rewatch_at: None,
        })
    }

    /// Waits for ends and for the alarm. Cancel-safe.
    ///
    /// # Errors
    ///
    /// As [`Wake::next`].
    pub async fn next(&mut self) -> io::Result<Vec<Woken>> {
        self.wake.next().await
    }

    /// Sets the alarm; sooner, where some instances are still to be watched.
    ///
    /// # Errors
    ///
    /// As [`Wake::set_alarm`].
    pub fn set_alarm(&mut self, alarm: Option<Time>) -> io::Result<()> {
        self.wake.set_alarm(alarm.into_iter().chain(self.rewatch_at).min())
    }

    /// Tries again to watch what could not be watched, if it is time; to be called at each alarm.
    pub fn rewatch(&mut self) {
        if self.rewatch_at.is_none_or(|at| at > clock::now()) {
            return;
        }
        self.rewatch_at = None;
        for process in std::mem::take(&mut self.unwatched) {
            self.watch(process);
        }
    }

    /// Reaps every child that ended; to be called at each SIGCHLD.
    ///
    /// # Errors
    ///
    /// As [`Reaper::reap`].
    pub fn reap(&mut self) -> io::Result<()> {
        self.reaper.reap()
    }

    /// Expects a child that is no instance yet: a stage.
    pub fn expect(&mut self, child: Instance) {
        self.reaper.expect(child);
        self.ask_for_cause(child);
    }

    /// No longer expects a child that will be no instance.
    pub fn forget(&mut self, child: Instance) {
        self.reaper.forget(child);
        if let Some(causes) = &mut self.causes {
            causes.forget(child);
        }
    }

    /// Whether this is a child that healer started or guards.
    pub fn knows_child(&self, pid: Pid) -> bool {
        self.reaper.expects(pid)
    }

    /// Whose instance this is.
    pub fn owner(&self, instance: Instance) -> Option<&ProcessName> {
        self.owners.get(&instance)
    }

    /// All guarded instances.
    pub fn instances(&self) -> HashSet<Instance> {
        self.owners.keys().copied().collect()
    }

    /// Guards this instance as the process. Says whether it is healer's own child.
    pub fn take(&mut self, process: &ProcessName, held: Held) -> bool {
        let instance = held.instance();
        let expected = self.reaper.expects(instance.pid);
        let child = expected || is_own_child(instance);
        if child && !expected {
            self.reaper.expect(instance);
        }
        if !expected {
            self.ask_for_cause(instance);
        }
        let token = self.next_token;
        self.next_token += 1;
        self.owners.insert(instance, process.clone());
        self.tokens.insert(token, process.clone());
        self.held.insert(process.clone(), Guarded { held, token });
        self.watch(process.clone());
        child
    }

    /// What ended under this token; `None` for an instance that is guarded no longer.
    ///
    /// # Errors
    ///
    /// As [`Reaper::reap`].
    pub fn ended(&mut self, token: u64) -> io::Result<Option<Ended>> {
        self.reaper.reap()?;
        let Some(process) = self.tokens.remove(&token) else { return Ok(None) };
        let Some(Guarded { held, .. }) = self.held.remove(&process) else { return Ok(None) };
        let instance = held.instance();
        self.owners.remove(&instance);
        let cause = self.causes.as_mut().and_then(|causes| causes.take(instance));
        let mut exit = merge(self.reaper.take(instance), cause);
        exit.runtime = exit.runtime.or_else(|| Some(clock::now().since(clock::started(instance))));
        Ok(Some(Ended { process, instance, exit, held }))
    }

    /// The end of a process's instance, if that has ended and nobody was woken by it yet.
    ///
    /// # Errors
    ///
    /// As [`Reaper::reap`]; its end will be told all the same.
    pub fn ended_unnoticed(&mut self, process: &ProcessName) -> io::Result<Option<Ended>> {
        match self.held.get(process) {
            Some(Guarded { held, token }) if !held.is_running()? => self.ended(*token),
            _ => Ok(None),
        }
    }

    /// Lets go of a process's instance, which lives on unguarded.
    pub fn release(&mut self, process: &ProcessName) {
        if let Some(Guarded { held, token }) = self.held.remove(process) {
            self.tokens.remove(&token);
            self.owners.remove(&held.instance());
            self.forget(held.instance());
        }
    }

    /// Has the kernel note why this instance ends.
    fn ask_for_cause(&mut self, instance: Instance) {
        let Some(causes) = &mut self.causes else { return };
        if let Err(error) = causes.watch(instance) {
            warn!(pid = instance.pid.0, %error, "eBPF has no room; why it ends will not be known");
        }
    }

    fn watch(&mut self, process: ProcessName) {
        let Some(Guarded { held, token }) = self.held.get(&process) else { return };
        if let Err(error) = self.wake.watch(held, *token) {
            error!(%process, %error, "cannot watch a pidfd; raise fs.epoll.max_user_watches");
            self.unwatched.push(process);
            self.rewatch_at.get_or_insert_with(|| clock::now().after(REWATCH));
        }
    }
}

fn is_own_child(instance: Instance) -> bool {
    Row::read(instance.pid).is_ok_and(|row| row.is_some_and(|row| row.parent == own_pid()))
}
