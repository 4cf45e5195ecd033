//! The demo's three chapters: a service dies in several ways, dies again and again, cannot live.
//!
//! Each step is done, waited for and told; `world` does and hears, `narrator` writes.

use std::time::Duration;

use tokio::time::Instant as Moment;

use crate::clock;
use crate::event::{Change, Instance, ProcessName, Signal, Time};

use super::narrator::{Narrator, Paint, ms, tenths};
use super::service::EXIT_BY_ITSELF;
use super::world::{News, World, own_path, quoted};
use super::{DemoError, STEP};

/// The service that is killed.
const WEB: &str = "web";
/// The service that cannot live for want of a file.
const REPORT: &str = "report";
/// How many times `web` is killed in a row, each as soon as it is back.
const ROUNDS: usize = 25;
/// The policy of `report`.
const RETRIES: usize = 2;
/// The policy of `report`.
const COOLDOWN_SECS: u32 = 2;
/// Time to read, and for `web` to be ready again.
const BREATH: Duration = Duration::from_millis(600);

/// What is done to `web`.
const BLOWS: [(&str, Signal); 4] = [
    ("kill -KILL", Signal(libc::SIGKILL)),
    ("kill -TERM", Signal(libc::SIGTERM)),
    ("kill -SEGV", Signal(libc::SIGSEGV)),
    ("exits by itself", EXIT_BY_ITSELF),
];

/// Tells the story of one world.
pub struct Story<'w> {
    world: &'w mut World,
    narrator: Narrator,
    web: ProcessName,
    report: ProcessName,
}

/// One death of `web` and what followed.
struct Healed {
    /// How healer says it ended.
    cause: String,
    /// The new instance.
    instance: Instance,
    /// From the kill until the new one said that it runs, as the demo and the service measured it.
    back: Duration,
}

impl<'w> Story<'w> {
    /// A story that is told on stdout.
    pub fn of(world: &'w mut World) -> Self {
        let (web, report) = (ProcessName::new(WEB), ProcessName::new(REPORT));
        Self { world, narrator: Narrator::stdout(), web, report }
    }

    /// Tells it.
    ///
    /// # Errors
    ///
    /// [`DemoError`].
    pub async fn tell(mut self) -> Result<(), DemoError> {
        let began = clock::now();
        let web = self.entry(WEB, "0.2", &["retries: 1000".to_owned()])?;
        let policy = [
            format!("retries: {RETRIES}"),
            format!("cooldown_secs: {COOLDOWN_SECS}"),
            "half_open_secs: 1".to_owned(),
            "backoff: { initial_secs: 0.2 }".to_owned(),
        ];
        let report = self.entry(REPORT, "0.5", &policy)?;

        self.narrator.say(&[
            (Paint::Bold, "healer demo"),
            (Paint::Plain, ": a small service is killed in several ways, and brought back by the"),
        ])?;
        self.narrator
            .line("same code as the daemon's. Takes 9 seconds, needs no rights, leaves nothing.")?;

        self.world.provide(WEB)?;
        let alone = format!("processes:\n{web}");
        self.heading("1  A service dies, and is back")?;
        self.show(&alone)?;
        self.world.guard(&alone).await?;
        let mut healed = self.kill_it_in_several_ways().await?;
        healed.extend(self.kill_it_again_and_again().await?);
        self.world.pause(BREATH).await?;

        self.heading("2  A service cannot live: the breaker")?;
        self.show(&report)?;
        let starts = self.trip_the_breaker(&format!("{alone}{report}")).await?;

        self.heading("Summary")?;
        self.sum_up(&healed, starts, clock::now().since(began))
    }

    /// An entry of `processes`, as an operator would write it.
    fn entry(&self, name: &str, ready: &str, recovery: &[String]) -> Result<String, DemoError> {
        let (command, home) = (own_path()?, quoted(&self.world.home(name))?);
        let mut keys = vec![
            format!("name: {name}"),
            format!("command: {command}"),
            format!("args: [demo-service, {home}]"),
        ];
        if rustix::process::geteuid().is_root() {
            keys.push("run_as_root: true".to_owned());
        }
        keys.extend(["monitor: { type: ebpf }", "output: \"null\""].map(str::to_owned));
        keys.extend([format!("ready_after_secs: {ready}"), "recovery:".to_owned()]);
        keys.extend(recovery.iter().map(|key| format!("  {key}")));
        Ok(format!("  - {}\n", keys.join("\n    ")))
    }

    fn heading(&self, text: &str) -> Result<(), DemoError> {
        self.narrator.heading(text)
    }

    fn show(&self, yaml: &str) -> Result<(), DemoError> {
        for line in yaml.lines() {
            self.narrator.say(&[(Paint::Dim, &format!("   | {line}"))])?;
        }
        self.narrator.line("")
    }

    async fn kill_it_in_several_ways(&mut self) -> Result<Vec<Healed>, DemoError> {
        let late = Moment::now() + STEP;
        let pid = loop {
            match self.world.next(late, "the first start").await? {
                News::Hello(name, pid, _) if name == self.web => break pid,
                _ => {}
            }
        };
        self.narrator.line(&format!("   {WEB} runs as PID {pid}."))?;
        self.narrator.line("")?;
        self.narrator
            .say(&[(Paint::Dim, "   what happens     new PID  to running  healer saw")])?;
        let mut all = Vec::new();
        for (blow, signal) in BLOWS {
            self.world.pause(BREATH).await?;
            let healed = self.strike(signal).await?;
            self.narrator.say(&[
                (Paint::Plain, &format!("   {blow:<15}")),
                (Paint::Plain, &format!("{:>9}", healed.instance.pid.0)),
                (Paint::Green, &format!("{:>12}", ms(healed.back))),
                (Paint::Red, &format!("  {}", healed.cause)),
            ])?;
            all.push(healed);
        }
        self.world.pause(BREATH).await?;
        Ok(all)
    }

    async fn kill_it_again_and_again(&mut self) -> Result<Vec<Healed>, DemoError> {
        let mut all = Vec::new();
        for _ in 0..ROUNDS {
            all.push(self.strike(Signal(libc::SIGKILL)).await?);
        }
        let Spread { fastest, slowest, .. } = spread(&all);
        self.narrator.line("")?;
        self.narrator.say(&[
            (Paint::Plain, &format!("   {ROUNDS} more kill -KILL, each as soon as it is back: ")),
            (Paint::Green, "all healed"),
            (Paint::Plain, &format!(" in {} to {}.", tenths(fastest), ms(slowest))),
        ])?;
        Ok(all)
    }

    /// Has `web` end by this signal, and waits until its successor says that it runs.
    async fn strike(&mut self, signal: Signal) -> Result<Healed, DemoError> {
        let awaited = "the restart of the service";
        let late = Moment::now() + STEP;
        let held = self.world.running(&self.web).ok_or(DemoError::Late { awaited })?;
        let old = held.instance();
        let struck = clock::now();
        held.signal(signal).map_err(DemoError::system("signal the demo's service"))?;
        let (mut cause, mut started, mut hello) = (None, None, None);
        loop {
            match self.world.next(late, awaited).await? {
                News::Did(_, _, Change::Ended { instance, exit }) if instance == old => {
                    cause = Some(exit.to_string());
                }
                News::Did(name, _, Change::Started { instance, .. }) if name == self.web => {
                    started = Some(instance);
                }
                News::Hello(name, pid, at) if name == self.web => hello = Some((pid, at)),
                _ => {}
            }
            // The service may have said that it runs before healer told of its end.
            if let (Some(cause), Some(instance), Some((pid, at))) = (&cause, started, hello) {
                if instance.pid != pid {
                    return Err(DemoError::Broken(format!("{pid} runs beside {instance}")));
                }
                let cause = cause.clone();
                return Ok(Healed { cause, instance, back: at.since(struck) });
            }
        }
    }

    /// Adds `report`, which cannot live, and later gives it what it lacks. How often it was started.
    async fn trip_the_breaker(&mut self, both: &str) -> Result<usize, DemoError> {
        self.narrator
            .line(&format!("   {REPORT} lacks a file: each start ends at once, with code 1."))?;
        self.narrator.line("")?;
        let mut act = Act { since: clock::now(), starts: 0, refused_until: Time(0) };
        self.world.guard(both).await?;

        let awaited = "the opening of the breaker";
        while !matches!(self.follow(&mut act, awaited).await?, Change::BreakerOpened { .. }) {}
        act.expect("starts before the breaker opened", 1 + RETRIES)?;

        let awaited = "the failure of the trial";
        while !matches!(self.follow(&mut act, awaited).await?, Change::BreakerReopened { .. }) {}
        act.expect("starts until the trial failed", 1 + RETRIES + 1)?;

        self.world.provide(REPORT)?;
        self.told(act.since, clock::now(), Paint::Plain, "The missing file is put in its place.")?;
        let awaited = "the closing of the breaker";
        while !matches!(self.follow(&mut act, awaited).await?, Change::BreakerClosed) {}
        act.expect("starts until the breaker closed", 1 + RETRIES + 2)?;
        Ok(act.starts)
    }

    /// Waits for the next thing that recovery did for `report`, and tells it.
    async fn follow(&mut self, act: &mut Act, awaited: &'static str) -> Result<Change, DemoError> {
        let late = Moment::now() + STEP;
        let (at, change) = loop {
            match self.world.next(late, awaited).await? {
                News::Did(name, at, change) if name == self.report => break (at, change),
                _ => {}
            }
        };
        let seconds = |until: Time| until.since(at).as_secs_f64();
        let (paint, text) = match &change {
            Change::Started { instance, .. } => {
                act.started(at)?;
                let what = match act.starts.saturating_sub(1) {
                    0 => "started".to_owned(),
                    retry if retry <= RETRIES => format!("started again ({retry} of {RETRIES})"),
                    _ => "trial: started once".to_owned(),
                };
                let on_trial = act.starts > 1 + RETRIES;
                let paint = if on_trial { Paint::Yellow } else { Paint::Plain };
                (paint, format!("{what}, PID {instance}"))
            }
            Change::Ended { exit, .. } => (Paint::Red, format!("ended: {exit}")),
            Change::BreakerOpened { until, failures } => {
                act.refused_until = *until;
                let wait = seconds(*until);
                let text =
                    format!("breaker Open after {failures} failures: no start for {wait:.1} s");
                (Paint::Red, text)
            }
            Change::BreakerReopened { until } => {
                act.refused_until = *until;
                let wait = seconds(*until);
                (Paint::Red, format!("the trial failed: breaker Open for {wait:.1} s more"))
            }
            Change::BreakerClosed => {
                (Paint::Green, "the trial lives and is ready: breaker Closed".to_owned())
            }
            _ => return Ok(change),
        };
        self.told(act.since, at, paint, &text)?;
        Ok(change)
    }

    fn told(&self, since: Time, at: Time, paint: Paint, text: &str) -> Result<(), DemoError> {
        let seconds = at.since(since).as_secs_f64();
        self.narrator.say(&[(Paint::Dim, &format!("   {seconds:5.2} s  ")), (paint, text)])
    }

    fn sum_up(&self, healed: &[Healed], starts: usize, took: Duration) -> Result<(), DemoError> {
        let deaths = healed.len();
        // Counted by the instances themselves, not by healer.
        let lived = self.world.greeted(&self.web);
        if lived != 1 + deaths {
            let counted = format!("{deaths} deaths, but {} restarts", lived.saturating_sub(1));
            return Err(DemoError::Broken(counted));
        }
        let Spread { fastest, median, slowest } = spread(healed);
        let row = |label: &str, paint: Paint, text: &str| {
            self.narrator.say(&[(Paint::Plain, &format!("   {label:<18}")), (paint, text)])
        };
        let counted = format!("{deaths} deaths, {} restarts, none started twice", lived - 1);
        row(WEB, Paint::Green, &counted)?;
        let times =
            format!("fastest {}, median {}, slowest {}", ms(fastest), ms(median), ms(slowest));
        row("kill to running", Paint::Green, &times)?;
        let counted =
            format!("{starts} starts: 1 and {RETRIES} retries, then one trial per Open period");
        row(REPORT, Paint::Green, &counted)?;
        row("all in all", Paint::Plain, &format!("{:.1} s", took.as_secs_f64()))
    }
}

/// The second chapter's book-keeping.
struct Act {
    since: Time,
    starts: usize,
    refused_until: Time,
}

impl Act {
    fn started(&mut self, at: Time) -> Result<(), DemoError> {
        self.starts += 1;
        if at < self.refused_until {
            return Err(DemoError::Broken("a start while the breaker was Open".to_owned()));
        }
        Ok(())
    }

    fn expect(&self, what: &str, count: usize) -> Result<(), DemoError> {
        if self.starts == count {
            return Ok(());
        }
        Err(DemoError::Broken(format!("{} {what}, where the policy says {count}", self.starts)))
    }
}

struct Spread {
    fastest: Duration,
    median: Duration,
    slowest: Duration,
}

/// Of the times until it was back; zero where there are none.
fn spread(healed: &[Healed]) -> Spread {
    let mut times: Vec<Duration> = healed.iter().map(|healed| healed.back).collect();
    times.sort_unstable();
    let at = |index: usize| times.get(index).copied().unwrap_or_default();
    Spread {
        fastest: at(0),
        median: at(times.len() / 2),
        slowest: at(times.len().saturating_sub(1)),
    }
}
