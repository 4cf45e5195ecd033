//! The daemon's part of eBPF: loading it, why it is missing, and what it could not do.
//!
//! What it tells goes straight to recovery and to the bus. Called by the daemon's loop.

use anyhow::Context as _;
use tracing::warn;

use crate::bus::Bus;
use crate::config::Config;
use crate::monitor::ebpf::{self, Causes, Meter, Options};
use crate::monitor::{self};

/// eBPF as the daemon knows it.
#[derive(Debug)]
pub struct KernelSide {
    /// Its counters; else why there is none.
    loaded: Result<Meter, String>,
    /// Which processes were told to do without it.
    warned_of: Option<String>,
    /// How many skipped runs were told.
    missed: u64,
}

/// What is running, where the kernel let it.
#[derive(Debug)]
pub struct Running {
    pub monitor: monitor::Handle,
    pub causes: Causes,
}

impl KernelSide {
    /// Loads it, whichever monitors are configured now: a reload may ask for it. To be called
    /// within a runtime.
    ///
    /// # Errors
    ///
    /// No descriptor is left.
    pub fn load(bus: &Bus, config: &Config) -> anyhow::Result<(Self, Option<Running>)> {
        let (loaded, running) = match ebpf::Kernel::load(options(config)) {
            Ok(ebpf::Kernel { causes, execs, meter }) => {
                let monitor = ebpf::spawn(bus.clone(), execs);
                let monitor = monitor.context("cannot set up the eBPF monitor")?;
                (Ok(meter), Some(Running { monitor, causes }))
            }
            // With what the kernel said, if it refused.
            Err(missing) => (Err(format!("{:#}", anyhow::Error::from(missing))), None),
        };
        Ok((Self { loaded, warned_of: None, missed: 0 }, running))
    }

    /// Why there is none.
    pub fn missing(&self) -> Option<&str> {
        self.loaded.as_ref().err().map(String::as_str)
    }

    /// Warns, once, of processes that are watched without it.
    pub fn warn_of_missing(&mut self, config: &Config) {
        let processes = config.watched_by_ebpf();
        if let (Err(reason), Some(processes)) = (&self.loaded, &processes)
            && self.warned_of.as_ref() != Some(processes)
        {
            warn!(%processes, %reason, lost = ebpf::LOST, "watched by pidfd alone, without eBPF");
        }
        self.warned_of = processes;
    }

    /// Warns of ends that the kernel may not have noted. To be called now and then; what concerns
    /// starts is told by the monitor, which a lost start wakes.
    pub fn warn_of_missed(&mut self) {
        let Ok(meter) = &self.loaded else { return };
        let runs_missed = meter.read().runs_missed;
        if is_worth_telling(self.missed, runs_missed) {
            warn!(
                runs_missed,
                "the kernel skipped eBPF programs: some ends are told without cause"
            );
            self.missed = runs_missed;
        }
    }
}

/// Linux 7 skips some all the time: that is told at first, and whenever it has doubled.
fn is_worth_telling(told: u64, now: u64) -> bool {
    now > told && now >= told.saturating_mul(2)
}

/// Room for each process that is guarded and for one that somebody else starts meanwhile, beside
/// all starts that the ring may hold.
fn options(config: &Config) -> Options {
    let processes = u32::try_from(config.processes.len()).unwrap_or(u32::MAX);
    let defaults = Options::default();
    let watched_max = defaults.watched_max.saturating_add(processes.saturating_mul(2));
    Options { watched_max, ..for_tests(defaults) }
}

/// Overridden only by the tests of what is lost where the kernel side is short of something.
fn for_tests(defaults: Options) -> Options {
    let asked = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    Options {
        ring_bytes: asked("HEALER_EBPF_RING_BYTES").unwrap_or(defaults.ring_bytes),
        exits: asked("HEALER_EBPF_EXITS").map_or(defaults.exits, |exits: u32| exits != 0),
        ..defaults
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(&[0, 0], &[])]
    #[case(&[1, 1, 2, 3, 4, 4, 9], &[1, 2, 4, 9])]
    #[case(&[100, 150, 199, 200, 399, 401], &[100, 200, 401])]
    fn what_grows_all_the_time_is_told_ever_less_often(
        #[case] counts: &[u64],
        #[case] told: &[u64],
    ) {
        let mut last = 0;
        let worth_telling = |count: &&u64| {
            let is = is_worth_telling(last, **count);
            last = if is { **count } else { last };
            is
        };
        assert_eq!(counts.iter().filter(worth_telling).copied().collect::<Vec<_>>(), told);
    }
}
