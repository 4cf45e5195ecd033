//! What survives a restart of healer: what it knew of each process, in a small file each.
//!
//! `memory` is what is remembered of a process and how it is written, `directory` the files and
//! whether they can be believed, `writer` the thread that writes them. Here is what ties them
//! together: [`open`] reads what an earlier healer left, a [`Keeper`] takes what is to be remembered
//! from now on. What follows from a memory is the machines' to say, and what has changed recovery's
//! to tell.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashMap};
use std::hash::{Hash, Hasher};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;
use std::{io, thread};

use tokio::sync::{oneshot, watch};
use tokio::time::timeout;
use tracing::warn;

use self::directory::{Directory, Found, Header, Unusable};
use self::memory::Memory;
use self::writer::{Job, Writer};
use crate::clock;
use crate::event::{Instance, ProcessName};
use crate::instance::own_pid;

mod directory;
pub mod memory;
mod writer;

/// How long a launch, or healer's end, waits for a disk that does not answer.
const PATIENCE: Duration = Duration::from_millis(200);
/// The writer's; it needs a fraction of it.
const STACK: usize = 256 * 1024;

/// Takes what is to be remembered.
#[derive(Debug)]
pub struct Keeper {
    jobs: Sender<Job>,
    /// A digest of what is kept of each process: by far most changes of a process are none of what
    /// is remembered, and to keep all memories a second time would cost as much as the processes.
    kept: HashMap<ProcessName, u64>,
    lost: Arc<AtomicBool>,
    health: Health,
}

/// Tells whether what is to be remembered can be written.
#[derive(Clone, Debug)]
pub struct Health(watch::Receiver<Option<String>>);

impl Health {
    /// Why it cannot be written at present; `None`: it can.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        self.0.borrow().clone()
    }
}

/// Reads what an earlier healer remembered of these processes, forgets all others, and begins to
/// keep what this one remembers. Files that cannot be believed are set aside and told; nothing here
/// stops a start.
///
/// # Errors
///
/// The system has no thread left.
pub fn open<'a>(
    pid_file_directory: &Path,
    processes: impl IntoIterator<Item = &'a ProcessName> + Clone,
) -> io::Result<(Keeper, BTreeMap<ProcessName, Memory>)> {
    let (jobs, receiver) = channel();
    let (fault, heard) = watch::channel(None);
    let lost = Arc::new(AtomicBool::new(false));
    let (directory, read) = match read(pid_file_directory, processes) {
        Ok((directory, read)) => (Some(directory), read),
        // The writer meets the same again, and tells it.
        Err(_) => (None, Read::default()),
    };
    let Read { memories, moving } = read;
    let kept = memories.iter().map(|(name, memory)| (name.clone(), digest(memory))).collect();
    let writer =
        Writer::new(pid_file_directory.to_owned(), directory, moving, fault, Arc::clone(&lost));
    thread::Builder::new()
        .name("healer-state".to_owned())
        .stack_size(STACK)
        .spawn(move || writer.run(&receiver))?;
    Ok((Keeper { jobs, kept, lost, health: Health(heard) }, memories))
}

/// What was read.
#[derive(Default)]
struct Read {
    memories: BTreeMap<ProcessName, Memory>,
    moving: Option<(Header, BTreeMap<ProcessName, Memory>)>,
}

fn read<'a>(
    parent: &Path,
    processes: impl IntoIterator<Item = &'a ProcessName> + Clone,
) -> Result<(Directory, Read), Unusable> {
    let directory = Directory::open(parent)?;
    let present = Header::present()?;
    let header = match directory.header() {
        Found::Good(header) => Some(header),
        Found::Nothing => None,
        Found::Bad(reason) => {
            warn!(%reason, "the header of healer's state is set aside; which processes ran is forgotten");
            None
        }
    };
    let is_of_this_boot = header.as_ref().is_some_and(|header| header.is_of_this_boot(&present));
    let now = clock::now();
    let mut memories = BTreeMap::new();
    for process in processes.clone() {
        let (memory, written) = match directory.read(process) {
            Found::Good(read) => read,
            Found::Nothing => continue,
            Found::Bad(reason) => {
                let path = directory.path_of(process);
                warn!(%process, path = %path.display(), %reason, "what was remembered of it is set aside");
                continue;
            }
        };
        let memory = if !is_of_this_boot || written > now {
            memory.after_boot(written, now)
        } else if header.as_ref() != Some(&present) {
            memory.elsewhere()
        } else {
            memory
        };
        if !memory.is_empty() {
            memories.insert(process.clone(), memory);
        }
    }
    forget_doubtful(&mut memories);
    directory.keep_only(processes)?;
    let moving = (header.as_ref() != Some(&present)).then(|| (present, memories.clone()));
    Ok((directory, Read { memories, moving }))
}

/// Instances that no files of healer's making would name: healer itself, and one that two name.
fn forget_doubtful(memories: &mut BTreeMap<ProcessName, Memory>) {
    let named = |memory: &Memory| {
        let life = &memory.life;
        let running = life.running.as_ref().map(|running| running.instance);
        [running, life.last, life.stage].into_iter().flatten().collect::<Vec<_>>()
    };
    let mut claims: HashMap<Instance, usize> = HashMap::new();
    for instance in memories.values().flat_map(named) {
        *claims.entry(instance).or_default() += 1;
    }
    for (process, memory) in memories {
        let is_doubtful = |one: &Instance| one.pid == own_pid() || claims[one] > 1;
        if let Some(instance) = named(memory).into_iter().find(is_doubtful) {
            warn!(%process, pid = instance.pid.0, "what ran as it is forgotten: its file cannot be right");
            *memory = std::mem::take(memory).elsewhere();
        }
    }
}

fn digest(memory: &Memory) -> u64 {
    let mut hasher = DefaultHasher::new();
    memory.hash(&mut hasher);
    hasher.finish()
}

impl Keeper {
    /// Tells whether it can be written.
    #[must_use]
    pub fn health(&self) -> Health {
        self.health.clone()
    }

    /// Whether the files were lost, so that all is to be kept anew; told once.
    pub fn has_lost(&mut self) -> bool {
        let lost = self.lost.swap(false, Ordering::Relaxed);
        if lost {
            self.kept.clear();
        }
        lost
    }

    /// From now on, this is to be remembered of a process; `None`: it is configured no more.
    pub fn keep(&mut self, process: &ProcessName, memory: Option<Memory>) {
        if self.is_new(process, memory.as_ref()) {
            self.tell(Job::Keep(process.clone(), memory));
        }
    }

    /// The same, before anything else. What is returned ends once it is written, or cannot be, or
    /// takes too long.
    pub fn keep_first(
        &mut self,
        process: &ProcessName,
        memory: Memory,
    ) -> impl Future<Output = ()> + Send + use<> {
        let (done, written) = oneshot::channel();
        self.is_new(process, Some(&memory));
        self.tell(Job::KeepFirst(process.clone(), memory, done));
        let process = process.clone();
        async move {
            if timeout(PATIENCE, written).await.is_err() {
                warn!(%process, "its launch did not wait any longer for healer's state to be written");
            }
        }
    }

    /// Waits until all is written, but not for ever.
    pub async fn finish(self) {
        let (done, finished) = oneshot::channel();
        self.tell(Job::Finish(done));
        if timeout(PATIENCE, finished).await.is_err() {
            warn!("healer's state could not be written to its end");
        }
    }

    fn is_new(&mut self, process: &ProcessName, memory: Option<&Memory>) -> bool {
        let Some(memory) = memory else { return self.kept.remove(process).is_some() };
        let digest = digest(memory);
        if memory.is_empty() {
            return self.kept.remove(process).is_some();
        }
        self.kept.insert(process.clone(), digest) != Some(digest)
    }

    fn tell(&self, job: Job) {
        if self.jobs.send(job).is_err() {
            // It ends with this sender only, or by a bug of its own, which its panic tells.
            warn!("the thread that writes healer's state has ended");
        }
    }
}
