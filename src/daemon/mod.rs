//! The daemon's life: what is set up in which order, what it listens to, how it ends.
//!
//! Everything that can refuse (configuration, lock, log) refuses before anything is started.
//! Called by `main`.

use std::io;
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use sd_notify::NotifyState;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, timeout};
use tracing::{error, info, warn};

use crate::bus::Bus;
use crate::clock::WallClock;
use crate::config::load::{LoadError, Loaded, load};
use crate::config::{Config, Reader};
use crate::control::report::{ReloadAsked, Reloaded};
use crate::control::socket::Bound;
use crate::launch::{self, Baseline, Launcher};
use crate::logging::{self, Target};
use crate::monitor::network::names::Names;
use crate::monitor::{self, network, pid};
use crate::preflight::{self, HostFault};
use crate::recovery::{self, Recovery, Senses};
use crate::signals::{Asked, Signals};
use crate::state;

use self::control::Control;
use self::kernel_side::{KernelSide, Running};
use self::lock::Lock;
use self::readiness::{Readiness, Side};
use self::tasks::{Tasks, outcome};

mod control;
mod kernel_side;
mod lock;
mod own;
mod readiness;
mod tasks;

/// How many events the bus keeps for its slowest subscriber.
const BUS_CAPACITY: usize = 1024;
/// How often files are looked at, the lock's and output files for rotation, and eBPF's counters.
const FILES_PERIOD: Duration = Duration::from_secs(30);
/// How long a service manager that does not read is waited for.
const NOTIFY_PATIENCE: Duration = Duration::from_millis(500);
/// How long a stop waits for tasks that should have ended at once.
const STOP_PATIENCE: Duration = Duration::from_millis(500);

/// Runs the daemon with the configuration at this absolute path until it is asked to stop. In the
/// background (not `foreground`), the calling process returns once the daemon is ready.
///
/// # Errors
///
/// The configuration is refused, another healer holds the lock, or the system lacks something.
pub fn run(path: &Path, reader: &Reader, foreground: bool) -> anyhow::Result<()> {
    // Before healer changes anything of its own: what it starts is given these.
    let baseline = Baseline::record().context("cannot read this process's own limits")?;
    let loaded = load(path, reader)?;
    // Before its own output leads elsewhere.
    let launcher = Launcher::new(baseline, &loaded.config.log.directory);
    let target = Target::choose(launch::is_journal(io::stderr()), !foreground);
    let readiness = if foreground {
        Readiness::nobody_waits()
    } else {
        match readiness::daemonise(&loaded.config.working_directory)? {
            Side::Parent(outcome) => return outcome,
            Side::Child(readiness) => readiness,
        }
    };
    readiness.tell_failure(|readiness| {
        let lock = Lock::take(&loaded.config.pid_file_directory, reader.as_root)?;
        let flush = logging::start(&loaded.config.log, target)?;
        readiness.let_terminal_go();
        for warning in &loaded.warnings {
            warn!("{warning}");
        }
        own::raise_descriptor_limit();
        own::lower_oom_score();
        let control = control::open(&loaded.config.pid_file_directory);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot set up the runtime")?;
        let daemon = Daemon {
            path: path.to_path_buf(),
            reader: *reader,
            foreground,
            target,
            launcher,
            config: loaded.config.into(),
            lock,
        };
        let ended = runtime.block_on(daemon.run(readiness, control));
        if let Err(error) = &ended {
            error!(reason = format!("{error:#}"), "healer ends; what it guards is left running");
        }
        // A look-up or a rotation on a hung disk must not hold up the end.
        runtime.shutdown_timeout(STOP_PATIENCE);
        drop(flush);
        ended
    })
}

struct Daemon {
    path: PathBuf,
    reader: Reader,
    foreground: bool,
    target: Target,
    launcher: Launcher,
    config: Arc<Config>,
    lock: Lock,
}

/// A configuration that may be used, and what this machine lacks for it.
struct Found {
    config: Config,
    warnings: Vec<String>,
    lacks: Vec<HostFault>,
}

/// What the daemon's loop answers to.
enum Woken {
    Asked(Asked),
    ReloadAsked(ReloadAsked),
    TaskEnded(anyhow::Error),
    Read(Result<Found, LoadError>),
    WatchdogDue,
    FilesDue,
}

impl Daemon {
    async fn run(mut self, readiness: Readiness, control: Option<Bound>) -> anyhow::Result<()> {
        // Opened first: no signal falls between two waits.
        let mut signals = Signals::open().context("cannot take over signals")?;
        let bus = Bus::new(bus_capacity());
        let wall = WallClock::now();
        let mut monitors = vec![pid::spawn(bus.clone(), wall)];
        let (mut kernel_side, running) = KernelSide::load(&bus, &self.config)?;
        let causes = running.map(|Running { monitor, causes }| {
            monitors.push(monitor);
            causes
        });
        // Last: recovery is told of a configuration right after it, and knows all entries before one
        // that is only watched can have been probed.
        monitors.push(network::spawn(bus.clone(), Names::default()));
        let orders = monitors.iter().map(monitor::Handle::orders).collect();
        let senses = Senses { monitors: orders, causes, wall };
        let (recovery, handle) = Recovery::new(self.launcher.clone(), bus.clone(), senses)
            .context("cannot set up recovery")?;
        // Before any monitor looks, who is whose by the record is known.
        let enabled = self.config.processes.iter().filter(|process| process.enabled);
        let (keeper, memories) =
            state::open(&self.config.pid_file_directory, enabled.map(|process| &process.name))
                .context("cannot start the thread that writes healer's state")?;
        let recovery = recovery.remembering(keeper, memories);
        let mut tasks = Tasks::new(tokio::spawn(recovery.run()), monitors);
        let mut control = Control::serve(
            control,
            handle.clone(),
            &bus,
            &self.path,
            Arc::clone(&self.config),
            kernel_side.missing(),
        );
        let ended = self
            .serve(&mut signals, &handle, &mut tasks, &mut kernel_side, &mut control, readiness)
            .await;
        info!("healer stops; what it guards is left running");
        notify([NotifyState::Stopping]).await;
        control.stop().await;
        drop(handle);
        tokio::select! {
            _ = timeout(STOP_PATIENCE, tasks.stop()) => {}
            // Asked a second time: at once.
            () = asked_again(&mut signals) => {}
        }
        ended
    }

    /// Answers to whatever comes, until it is asked to stop.
    async fn serve(
        &mut self,
        signals: &mut Signals,
        recovery: &recovery::Handle,
        tasks: &mut Tasks,
        kernel_side: &mut KernelSide,
        control: &mut Control,
        readiness: Readiness,
    ) -> anyhow::Result<()> {
        let mut readiness = Some(readiness);
        let mut watchdog = watchdog_period().map(every);
        let mut files = every(FILES_PERIOD);
        let mut rotating: Option<JoinHandle<()>> = None;
        // A directory on a dead server may hold up a look for ever: not this thread's.
        let first = Config::clone(&self.config);
        let mut reading = Some(spawn_blocking(|| Ok(look(first, vec![]))));
        let mut read_again = false;
        loop {
            let woken = tokio::select! {
                biased;
                asked = signals.next() => Woken::Asked(asked),
                ended = tasks.ended() => Woken::TaskEnded(ended),
                read = outcome(&mut reading) => {
                    Woken::Read(read.context("reading the configuration has failed")?)
                }
                asked = control.reload_asked() => Woken::ReloadAsked(asked),
                () = tick(&mut watchdog) => Woken::WatchdogDue,
                _ = files.tick() => Woken::FilesDue,
            };
            match woken {
                Woken::Asked(Asked::Stop) => return Ok(()),
                Woken::Asked(Asked::Reload) if reading.is_some() => read_again = true,
                Woken::Asked(Asked::Reload) => reading = Some(self.read().await),
                Woken::ReloadAsked(ReloadAsked { by, done }) => {
                    info!(by, "asked for a reload");
                    control.await_reload(done, reading.is_some());
                    if reading.is_some() {
                        // What is being read may be older than what is asked for.
                        read_again = true;
                    } else {
                        reading = Some(self.read().await);
                    }
                }
                Woken::TaskEnded(error) => return Err(error),
                Woken::Read(read) => {
                    let reloaded = match read {
                        Ok(found) => {
                            let lacks = found.lacks.clone();
                            let Ok(reloaded) = self.take(found, recovery, tasks).await else {
                                // A task has ended: the next turn hears why.
                                continue;
                            };
                            kernel_side.warn_of_missing(&self.config);
                            control.taken(Arc::clone(&self.config), lacks);
                            self.report_taken(readiness.is_none());
                            reloaded
                        }
                        Err(error) => {
                            report_refusal(&error);
                            control::refused(&error, &self.config)
                        }
                    };
                    if readiness.is_none() {
                        control.reloaded(&reloaded);
                    }
                    notify([NotifyState::Ready]).await;
                    if let Some(readiness) = readiness.take() {
                        readiness.ready();
                    }
                    if mem::take(&mut read_again) {
                        control.reload_begins();
                        reading = Some(self.read().await);
                    }
                }
                // An answer proves that recovery is not stuck; systemd restarts healer otherwise.
                // None means that it has ended: the next turn hears why.
                Woken::WatchdogDue => {
                    if recovery.ping().await.is_ok() {
                        notify([NotifyState::Watchdog]).await;
                    }
                }
                Woken::FilesDue => {
                    if let Err(error) = self.lock.keep() {
                        error!(
                            reason = format!("{:#}", anyhow::Error::from(error)),
                            "the lock is lost"
                        );
                    } else {
                        control.look();
                    }
                    kernel_side.warn_of_missed();
                    if rotating.as_ref().is_none_or(JoinHandle::is_finished) {
                        rotating = self.rotate();
                    }
                }
            }
        }
    }

    /// Reads the file as it is now.
    async fn read(&self) -> JoinHandle<Result<Found, LoadError>> {
        let now = NotifyState::monotonic_usec_now().ok();
        notify([NotifyState::Reloading].into_iter().chain(now)).await;
        let (path, reader) = (self.path.clone(), self.reader);
        spawn_blocking(move || {
            let Loaded { config, warnings } = load(&path, &reader)?;
            Ok(look(config, warnings))
        })
    }

    /// Puts a configuration into the place of the one before.
    async fn take(
        &mut self,
        found: Found,
        recovery: &recovery::Handle,
        tasks: &Tasks,
    ) -> anyhow::Result<Reloaded> {
        for warning in &found.warnings {
            warn!("{warning}");
        }
        for fault in &found.lacks {
            warn!(reason = %fault, "this machine lacks something; what needs it will fail");
        }
        let needs_restart = self.needs_restart(&found.config);
        for key in &needs_restart {
            warn!(key, "for healer itself, this change takes effect when it is restarted");
        }
        self.config = Arc::new(found.config);
        self.launcher = self.launcher.clone().with_log_directory(&self.config.log.directory);
        // The monitor first: what changes while recovery looks is seen by one of the two.
        let reload = monitor::Command::Reload(Arc::clone(&self.config));
        for monitor in tasks.monitor_orders() {
            monitor.tell(reload.clone()).await?;
        }
        recovery.reload(Arc::clone(&self.config), self.launcher.clone()).await?;
        Ok(Reloaded {
            processes: self.config.processes.len(),
            warnings: found.warnings,
            lacks: found.lacks.iter().map(ToString::to_string).collect(),
            needs_restart: needs_restart.into_iter().map(ToOwned::to_owned).collect(),
            ..Reloaded::now()
        })
    }

    fn report_taken(&self, reloaded: bool) {
        if reloaded {
            info!(processes = self.config.processes.len(), "configuration reloaded");
        } else {
            let processes = self.config.processes.iter().filter(|process| process.enabled).count();
            info!(version = env!("CARGO_PKG_VERSION"), processes, "healer is ready");
        }
    }

    /// Keys whose change waits for a restart of healer.
    fn needs_restart(&self, new: &Config) -> Vec<&'static str> {
        let old = &self.config;
        let changed = [
            ("log_level", old.log.level != new.log.level),
            ("log_format", old.log.format != new.log.format),
            // Its own log stays; what processes print goes to the new place.
            (
                "log_directory",
                self.target == Target::File && old.log.directory != new.log.directory,
            ),
            ("pid_file_directory", old.pid_file_directory != new.pid_file_directory),
            // In the foreground healer stays where it was started.
            (
                "working_directory",
                !self.foreground && old.working_directory != new.working_directory,
            ),
        ];
        changed.into_iter().filter(|(_, changed)| *changed).map(|(key, _)| key).collect()
    }

    fn rotate(&self) -> Option<JoinHandle<()>> {
        let files = self.launcher.output_files(&self.config);
        if files.is_empty() {
            return None;
        }
        Some(spawn_blocking(move || {
            for (path, limits) in files {
                if let Err(error) = launch::rotate(&path, limits) {
                    warn!(path = %path.display(), %error, "cannot rotate an output file");
                }
            }
        }))
    }
}

fn look(mut config: Config, warnings: Vec<String>) -> Found {
    let lacks = preflight::look(&mut config);
    Found { config, warnings, lacks }
}

fn report_refusal(error: &LoadError) {
    match error {
        LoadError::Faults(found) => {
            for fault in &found.faults {
                error!(reason = %fault, "configuration fault");
            }
            error!(
                path = %found.path.display(),
                faults = found.faults.len(),
                "reload refused; the configuration is as before"
            );
        }
        error => {
            let cause = std::error::Error::source(error).map(ToString::to_string);
            error!(%error, cause, "reload refused; the configuration is as before");
        }
    }
}

/// Overridden only by the tests of what a subscriber loses.
fn bus_capacity() -> usize {
    let asked = std::env::var("HEALER_BUS_CAPACITY").ok().and_then(|text| text.parse().ok());
    asked.unwrap_or(BUS_CAPACITY)
}

/// Half of what systemd allows, sd_watchdog_enabled(3).
fn watchdog_period() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2).filter(|period| !period.is_zero())
}

fn every(period: Duration) -> Interval {
    let mut interval = interval_at(Instant::now() + period, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

async fn tick(interval: &mut Option<Interval>) {
    match interval {
        Some(interval) => drop(interval.tick().await),
        None => std::future::pending().await,
    }
}

async fn asked_again(signals: &mut Signals) {
    while signals.next().await != Asked::Stop {}
}

/// sd_notify(3), on another thread: it waits while the service manager does not read.
async fn notify(states: impl IntoIterator<Item = NotifyState<'static>>) {
    let states: Vec<_> = states.into_iter().collect();
    let notified =
        match timeout(NOTIFY_PATIENCE, spawn_blocking(move || sd_notify::notify(&states))).await {
            Ok(notified) => notified.unwrap_or_else(|panicked| Err(io::Error::other(panicked))),
            Err(late) => Err(late.into()),
        };
    if let Err(error) = notified {
        warn!(%error, "cannot notify the service manager");
    }
}
