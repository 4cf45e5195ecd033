//! The daemon's life: what is set up in which order, what it listens to, how it ends.
//!
//! Everything that can refuse (configuration, lock, log) refuses before anything is started.
//! Called by `main`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use sd_notify::NotifyState;
use tokio::task::JoinHandle;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use tracing::{error, info, warn};

use crate::bus::Bus;
use crate::clock::WallClock;
use crate::config::load::{LoadError, load};
use crate::config::{Config, Reader};
use crate::launch::{self, Baseline, Launcher};
use crate::logging::{self, Target};
use crate::monitor::{self, Orders, pid};
use crate::preflight;
use crate::recovery::{Handle, Recovery};
use crate::signals::{Asked, Signals};

use self::lock::Lock;
use self::readiness::{Readiness, Side};

mod lock;
mod readiness;

/// How many events the bus keeps for its slowest subscriber.
const BUS_CAPACITY: usize = 1024;
/// How often output files are looked at for rotation.
const ROTATION_PERIOD: Duration = Duration::from_secs(30);
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
        let flush = logging::start(&loaded.config.log, Target::choose(!foreground))?;
        for warning in &loaded.warnings {
            warn!("{warning}");
        }
        raise_descriptor_limit();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot set up the runtime")?;
        let daemon = Daemon::new(path, reader, baseline, loaded.config);
        let ended = runtime.block_on(daemon.run(readiness));
        if let Err(error) = &ended {
            error!(reason = format!("{error:#}"), "healer ends; what it guards is left running");
        }
        // A look-up or a rotation on a hung disk must not hold up the end.
        runtime.shutdown_timeout(STOP_PATIENCE);
        drop(lock);
        drop(flush);
        ended
    })
}

struct Daemon {
    path: PathBuf,
    reader: Reader,
    baseline: Baseline,
    config: Arc<Config>,
}

/// What the daemon's loop answers to.
enum Woken {
    Asked(Asked),
    WatchdogDue,
    RotationDue,
    RecoveryEnded(anyhow::Result<()>),
}

impl Daemon {
    fn new(path: &Path, reader: &Reader, baseline: Baseline, config: Config) -> Self {
        Self { path: path.to_path_buf(), reader: *reader, baseline, config: config.into() }
    }

    async fn run(mut self, readiness: Readiness) -> anyhow::Result<()> {
        // Opened first: no signal falls between two waits.
        let mut signals = Signals::open().context("cannot take over signals")?;
        let bus = Bus::new(bus_capacity());
        let wall = WallClock::now();
        let monitor = pid::spawn(bus.clone(), wall);
        let (recovery, handle) = Recovery::new(self.launcher(), bus, monitor.orders(), wall)
            .context("cannot set up recovery")?;
        let mut recovery = tokio::spawn(recovery.run());

        let mut config = Config::clone(&self.config);
        report_host_faults(&mut config);
        self.config = Arc::new(config);
        self.apply(&handle, &monitor.orders()).await?;
        let processes = self.config.processes.iter().filter(|process| process.enabled).count();
        info!(version = env!("CARGO_PKG_VERSION"), processes, "healer is ready");
        notify(&[NotifyState::Ready]);
        readiness.ready();

        let mut watchdog = watchdog_period().map(every);
        let mut rotation = every(ROTATION_PERIOD);
        let mut rotating: Option<JoinHandle<()>> = None;
        let ended = loop {
            let woken = tokio::select! {
                biased;
                asked = signals.next() => Woken::Asked(asked),
                ended = &mut recovery => Woken::RecoveryEnded(flatten(ended)),
                () = tick(&mut watchdog) => Woken::WatchdogDue,
                _ = rotation.tick() => Woken::RotationDue,
            };
            match woken {
                Woken::Asked(Asked::Stop) => break Ok(()),
                Woken::Asked(Asked::Reload) => self.reload(&handle, &monitor.orders()).await?,
                // Its answer proves that recovery is not stuck; systemd restarts healer otherwise.
                Woken::WatchdogDue => {
                    handle.ping().await?;
                    notify(&[NotifyState::Watchdog]);
                }
                Woken::RotationDue => {
                    if rotating.as_ref().is_none_or(JoinHandle::is_finished) {
                        rotating = self.rotate();
                    }
                }
                Woken::RecoveryEnded(ended) => break ended,
            }
        };
        info!("healer stops; what it guards is left running");
        notify(&[NotifyState::Stopping]);
        drop(handle);
        let stopped = async {
            if !recovery.is_finished() {
                drop(recovery.await);
            }
            drop(monitor.stop().await);
        };
        tokio::select! {
            _ = tokio::time::timeout(STOP_PATIENCE, stopped) => {}
            // Asked a second time: at once.
            () = asked_again(&mut signals) => {}
        }
        ended
    }

    fn launcher(&self) -> Launcher {
        Launcher::new(self.baseline.clone(), &self.config.log.directory)
    }

    async fn apply(&self, handle: &Handle, monitor: &Orders) -> anyhow::Result<()> {
        // The monitor first: what changes while recovery looks is seen by one of the two.
        monitor.tell(monitor::Command::Reload(Arc::clone(&self.config))).await?;
        handle.reload(Arc::clone(&self.config), self.launcher()).await?;
        Ok(())
    }

    /// Takes the file as it is now, or leaves everything as it was.
    async fn reload(&mut self, handle: &Handle, monitor: &Orders) -> anyhow::Result<()> {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => notify(&[NotifyState::Reloading, now]),
            Err(_) => notify(&[NotifyState::Reloading]),
        }
        match load(&self.path, &self.reader) {
            Ok(loaded) => {
                for warning in &loaded.warnings {
                    warn!("{warning}");
                }
                let mut config = loaded.config;
                report_host_faults(&mut config);
                self.report_needs_restart(&config);
                self.config = Arc::new(config);
                self.apply(handle, monitor).await?;
                info!(processes = self.config.processes.len(), "configuration reloaded");
            }
            Err(error) => report_refusal(&error),
        }
        notify(&[NotifyState::Ready]);
        Ok(())
    }

    fn report_needs_restart(&self, new: &Config) {
        let old = &self.config;
        let changed = [
            ("log_level", old.log.level != new.log.level),
            ("log_format", old.log.format != new.log.format),
            ("pid_file_directory", old.pid_file_directory != new.pid_file_directory),
        ];
        for (key, _) in changed.into_iter().filter(|(_, changed)| *changed) {
            warn!(key, "this change takes effect when healer is restarted");
        }
    }

    fn rotate(&self) -> Option<JoinHandle<()>> {
        let files = self.launcher().output_files(&self.config);
        if files.is_empty() {
            return None;
        }
        Some(tokio::task::spawn_blocking(move || {
            for (path, limits) in files {
                if let Err(error) = launch::rotate(&path, limits) {
                    warn!(path = %path.display(), %error, "cannot rotate an output file");
                }
            }
        }))
    }
}

fn report_host_faults(config: &mut Config) {
    for fault in preflight::look(config) {
        warn!(reason = %fault, "this machine lacks something; launches that need it will fail");
    }
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

/// Each guarded instance is held by a descriptor; launched programs get the recorded limit back.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        warn!(%error, "cannot raise the limit of open files");
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

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!(%error, "cannot notify the service manager");
    }
}

fn flatten(ended: Result<std::io::Result<()>, tokio::task::JoinError>) -> anyhow::Result<()> {
    ended.context("the recovery task has failed")?.context("recovery cannot go on")
}
