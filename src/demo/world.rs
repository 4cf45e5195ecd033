//! What the demo sets up and takes down: a directory, the recovery task, what it hears of both
//! recovery and the service, and whatever was started.
//!
//! Recovery is told what to guard, by a configuration as an operator would write it, and is
//! otherwise let alone. Used by `story`.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixDatagram;
use tokio::task::JoinHandle;
use tokio::time::{Instant as Moment, sleep_until, timeout};

use crate::bus::{Bus, Received, Receiver};
use crate::clock::WallClock;
use crate::config::check::{Environment, check};
use crate::config::{Config, Reader, Stop};
use crate::event::{Change, Event, Instance, Pid, ProcessName, Signal, Time, What};
use crate::instance::table::{Row, Table};
use crate::instance::{Held, left, own_pid};
use crate::launch::{Baseline, Launcher};
use crate::monitor::{ebpf, pid};
use crate::recovery::{Handle, Recovery, Senses};
use crate::signals::Signals;

use super::service::{Hello, hello_socket, needed_file};
use super::{DemoError, STEP};

/// More events than the whole demo has.
const BUS_CAPACITY: usize = 1024;
/// How long recovery is given to end.
const PATIENCE: Duration = Duration::from_secs(1);
/// How the demo ends what it started.
const STOP: Stop =
    Stop { signal: Signal(libc::SIGTERM), timeout: Duration::from_secs(2), leftovers: true };

/// Everything that the demo has to do with.
#[derive(Debug)]
pub struct World {
    directory: Directory,
    launcher: Launcher,
    handle: Handle,
    recovery: JoinHandle<io::Result<()>>,
    changes: Receiver,
    hellos: UnixDatagram,
    signals: Signals,
    /// The newest instance of each service, held by the demo too.
    running: HashMap<ProcessName, Held>,
    /// How many instances of each service said that they run.
    greeted: HashMap<ProcessName, usize>,
    /// Session leaders among the children that this process had already: a shell's that exec'ed it.
    inherited: HashSet<Instance>,
}

/// One thing the demo hears.
#[derive(Debug)]
pub enum News {
    /// Recovery did something.
    Did(ProcessName, Time, Change),
    /// An instance said that it runs.
    Hello(ProcessName, Pid, Time),
}

impl World {
    /// Sets everything up; nothing is guarded yet.
    ///
    /// # Errors
    ///
    /// What the system refuses.
    pub fn set_up(baseline: Baseline) -> Result<Self, DemoError> {
        // First of all: from here on, no signal ends the demo before it has cleared up.
        let signals = Signals::open().map_err(DemoError::system("take over signals"))?;
        let inherited = leading_children()?;
        let directory = Directory::create()?;
        let hellos = UnixDatagram::bind(hello_socket(&directory.0))
            .map_err(DemoError::system("listen in the temporary directory; is TMPDIR too long?"))?;
        let bus = Bus::new(BUS_CAPACITY);
        let changes = bus.subscribe();
        let launcher = Launcher::new(baseline, &directory.0);
        let wall = WallClock::now();
        let monitors = vec![pid::spawn(bus.clone(), wall).orders()];
        // Where it is permitted, the kernel tells who killed a service.
        let causes = ebpf::Kernel::load(ebpf::Options::default()).ok().map(|kernel| kernel.causes);
        let senses = Senses { monitors, causes, wall };
        let (recovery, handle) = Recovery::new(launcher.clone(), bus, senses)
            .map_err(DemoError::system("set up recovery"))?;
        Ok(Self {
            directory,
            launcher,
            handle,
            recovery: tokio::spawn(recovery.run()),
            changes,
            hellos,
            signals,
            running: HashMap::new(),
            greeted: HashMap::new(),
            inherited,
        })
    }

    /// The argument that makes this binary the service of this name.
    pub fn home(&self, name: &str) -> PathBuf {
        self.directory.0.join(name)
    }

    /// Gives a service the file that it needs to live.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn provide(&self, name: &str) -> Result<(), DemoError> {
        fs::write(needed_file(&self.home(name)), "")
            .map_err(DemoError::system("write into the temporary directory"))
    }

    /// Has recovery guard what this text configures, and nothing else.
    ///
    /// # Errors
    ///
    /// The text has faults, or recovery has ended.
    pub async fn guard(&self, yaml: &str) -> Result<(), DemoError> {
        let config = read(yaml)?;
        let under_way = self.handle.reload(Arc::new(config), self.launcher.clone());
        under_way.await.map_err(|_gone| DemoError::Deaf)
    }

    /// The newest instance of a service.
    pub fn running(&self, name: &ProcessName) -> Option<&Held> {
        self.running.get(name)
    }

    /// How many instances of a service have said that they run.
    pub fn greeted(&self, name: &ProcessName) -> usize {
        self.greeted.get(name).copied().unwrap_or(0)
    }

    /// Waits for the next news, and makes sure that there are never two.
    ///
    /// # Errors
    ///
    /// None came by `deadline`; somebody asked the demo to stop; a service could not be started.
    pub async fn next(
        &mut self,
        deadline: Moment,
        awaited: &'static str,
    ) -> Result<News, DemoError> {
        let mut message = [0; 256];
        loop {
            tokio::select! {
                biased;
                _ = self.signals.next() => return Err(DemoError::Stopped),
                _ = &mut self.recovery => return Err(DemoError::Deaf),
                received = self.changes.recv() => match received {
                    Received::Event(Event { process, at, what: What::Did(change) }) => {
                        self.check(&process, &change)?;
                        return Ok(News::Did(process, at, change));
                    }
                    Received::Event(_) => {}
                    Received::Lagged(_) | Received::Closed => return Err(DemoError::Deaf),
                },
                received = self.hellos.recv(&mut message) => {
                    let length = received.map_err(DemoError::system("hear the demo's service"))?;
                    if let Some(hello) = Hello::decode(&message[..length]) {
                        let name = ProcessName::new(&hello.name);
                        *self.greeted.entry(name.clone()).or_default() += 1;
                        return Ok(News::Hello(name, hello.pid, hello.at));
                    }
                }
                () = sleep_until(deadline) => return Err(DemoError::Late { awaited }),
            }
        }
    }

    /// Lets time pass for the reader, and hears what happens meanwhile.
    ///
    /// # Errors
    ///
    /// As [`World::next`], but for lateness.
    pub async fn pause(&mut self, duration: Duration) -> Result<(), DemoError> {
        let until = Moment::now() + duration;
        loop {
            match self.next(until, "").await {
                Ok(_) => {}
                Err(DemoError::Late { .. }) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    fn check(&mut self, process: &ProcessName, change: &Change) -> Result<(), DemoError> {
        match change {
            Change::Started { instance, .. } | Change::Adopted(instance) => {
                let seen = DemoError::system("take hold of the demo's service");
                let Some(held) = Held::open_exactly(*instance).map_err(&seen)? else {
                    return Ok(());
                };
                if let Some(before) = self.running.insert(process.clone(), held)
                    && before.is_running().map_err(seen)?
                {
                    let (one, other) = (before.instance(), instance);
                    return Err(DemoError::Broken(format!("{one} and {other} ran at once")));
                }
                Ok(())
            }
            Change::LaunchFailed { reason } | Change::NodeFault { reason } => {
                Err(DemoError::NotStarted(reason.clone()))
            }
            _ => Ok(()),
        }
    }

    /// Ends whatever was started, and removes the directory.
    ///
    /// # Errors
    ///
    /// Something resists.
    pub async fn take_down(self) -> Result<(), DemoError> {
        let Self { directory, handle, mut recovery, inherited, .. } = self;
        // Nothing is started from here on: recovery ends with its last handle.
        drop(handle);
        if !recovery.is_finished() && timeout(PATIENCE, &mut recovery).await.is_err() {
            recovery.abort();
        }
        // A launch that was under way shows up late, but as a child of this process.
        let deadline = Moment::now() + STEP;
        while Moment::now() < deadline {
            let started: Vec<_> = leading_children()?.difference(&inherited).copied().collect();
            if started.is_empty() {
                break;
            }
            for instance in started {
                let seen = DemoError::system("take hold of the demo's service");
                if let Some(held) = Held::open_exactly(instance).map_err(seen)? {
                    left::stop(&held, STOP, |_| false).await?;
                }
            }
        }
        directory.remove().map_err(DemoError::system("remove the temporary directory"))
    }
}

/// This process's children that lead a session, as all that recovery starts do.
fn leading_children() -> Result<HashSet<Instance>, DemoError> {
    let own = own_pid();
    let table = Table::snapshot().map_err(DemoError::system("read /proc"))?;
    let leads = |row: &&Row| row.parent == own && row.session == row.instance.pid;
    Ok(table.rows().iter().filter(leads).map(|row| row.instance).collect())
}

fn read(yaml: &str) -> Result<Config, DemoError> {
    let reader = Reader::this_process(true);
    match check(yaml.as_bytes(), &Environment::new(), &reader) {
        Ok(checked) => Ok(checked.config),
        Err(refused) => {
            let faults = refused.faults.iter().map(ToString::to_string);
            Err(DemoError::Refused(faults.collect::<Vec<_>>().join("; ")))
        }
    }
}

/// A temporary directory for this user alone; removed when dropped.
#[derive(Debug)]
struct Directory(PathBuf);

impl Directory {
    fn create() -> Result<Self, DemoError> {
        let created = std::path::absolute(std::env::temp_dir())
            .and_then(|above| Ok(nix::unistd::mkdtemp(&above.join("healer-demo-XXXXXX"))?));
        created.map(Self).map_err(DemoError::system("create a temporary directory"))
    }

    fn remove(self) -> io::Result<()> {
        let removed = fs::remove_dir_all(&self.0);
        std::mem::forget(self);
        removed
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // The way out of an error that is told already.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The path of this program, as configurations name it.
///
/// # Errors
///
/// It cannot be told, or is not UTF-8.
pub fn own_path() -> Result<String, DemoError> {
    let found = std::env::current_exe().map_err(DemoError::system("tell this program's path"))?;
    quoted(&found)
}

/// A path as YAML text.
///
/// # Errors
///
/// It is not UTF-8.
pub fn quoted(path: &Path) -> Result<String, DemoError> {
    let text = path
        .to_str()
        .ok_or_else(|| DemoError::Refused(format!("the path {} is not UTF-8", path.display())))?;
    // A JSON string is a YAML string.
    Ok(serde_json::Value::from(text).to_string())
}
