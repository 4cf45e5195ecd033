//! `recovery` and `stop`: when, how often and how a process is brought back.

use std::ops::RangeInclusive;
use std::time::Duration;

use nix::sys::signal::Signal as Named;

use super::super::fault::{quoted, suggestion};
use super::super::section::{Item, Section, TEN_YEARS};
use super::super::{Backoff, Breaker, Recovery, Restart, Stop};
use super::process::DAY;
use crate::event::Signal;

/// The shortest period that is one.
const SHORTEST: f64 = 0.01;
/// SIGRTMIN and SIGRTMAX as C programs see them.
const REALTIME: RangeInclusive<i32> = 34..=64;

/// Reads `stop`.
pub(super) fn stop(section: Option<Section<'_>>) -> Option<Stop> {
    let mut stop = Stop {
        signal: Signal(Named::SIGTERM as i32),
        timeout: Duration::from_secs(10),
        leftovers: true,
    };
    let Some(mut section) = section else { return Some(stop) };
    let written = section.item("signal").map(|item| signal(&item));
    stop.timeout = section.seconds("timeout_secs", 0.0..=DAY).unwrap_or(stop.timeout);
    stop.leftovers = section.flag("leftovers").unwrap_or(stop.leftovers);
    section.finish();
    stop.signal = written.unwrap_or(Some(stop.signal))?;
    Some(stop)
}

/// A signal by its name, with or without SIG, or by its number.
fn signal(item: &Item<'_>) -> Option<Signal> {
    if matches!(item.value, figment::value::Value::Num(..)) {
        let number = item.integer(1..=i64::from(*REALTIME.end()))?;
        let number = i32::try_from(number).ok()?;
        // The receiver's C library keeps these for itself.
        if (32..*REALTIME.start()).contains(&number) {
            item.fault(format!(
                "{number} is the C library's own: real-time signals begin with {}, RTMIN",
                REALTIME.start()
            ));
            return None;
        }
        return Some(Signal(number));
    }
    let text = item.word()?;
    let upper = text.to_ascii_uppercase();
    let short = upper.strip_prefix("SIG").unwrap_or(&upper);
    let realtime = || {
        let offset: u8 = short.strip_prefix("RTMIN+")?.parse().ok()?;
        Some(REALTIME.start() + i32::from(offset)).filter(|number| REALTIME.contains(number))
    };
    let known = || Named::iterator().map(|known| known.as_str().trim_start_matches("SIG"));
    Named::iterator()
        .find(|known| known.as_str().trim_start_matches("SIG") == short)
        .map(|known| known as i32)
        .or_else(realtime)
        .map(Signal)
        .or_else(|| {
            let close = suggestion(short, known());
            item.fault(format!(
                "{} is no signal: TERM, INT, HUP, QUIT, USR1, RTMIN+1 and so on are{close}",
                quoted(&text)
            ));
            None
        })
}

/// Reads `recovery`.
pub(super) fn read(section: Option<Section<'_>>) -> Recovery {
    let mut recovery = Recovery {
        restart: Restart::Always,
        breaker: Breaker {
            retries: 3,
            window: Duration::from_secs(60),
            cooldown: Duration::from_secs(180),
            cooldown_factor: 1.0,
            cooldown_max: Duration::from_secs(3600),
            half_open: Duration::from_secs(2),
        },
        backoff: Backoff {
            initial: Duration::from_secs(1),
            factor: 2.0,
            max: Duration::from_secs(30),
            jitter: 0.1,
        },
        start_timeout: Duration::from_secs(10),
    };
    let Some(mut section) = section else { return recovery };
    kind(&mut section);
    if let Some(restart) = section.choice(
        "restart",
        &[
            ("always", Restart::Always),
            ("on-failure", Restart::OnFailure),
            ("never", Restart::Never),
        ],
    ) {
        recovery.restart = restart;
    }
    via(&mut section);
    recovery.breaker = breaker(&mut section, recovery.breaker);
    if let Some(backoff) = section.section("backoff") {
        recovery.backoff = self::backoff(backoff, recovery.backoff);
    }
    recovery.start_timeout =
        section.seconds("start_timeout_secs", SHORTEST..=DAY).unwrap_or(recovery.start_timeout);
    section.finish();
    recovery
}

/// `type` has one value left. A placeholder of openEuler's process-healer gets its own answer.
fn kind(section: &mut Section<'_>) {
    let Some(item) = section.item("type") else { return };
    if item.value.as_str() == Some("notregular") {
        item.fault(
            "`notregular` never healed anything: say `regular`, with `restart: never` for that",
        );
    } else {
        item.choice(&[("regular", ())]);
    }
}

/// `via` and `unit`: this build launches by itself only.
fn via(section: &mut Section<'_>) {
    if section.choice("via", &[("auto", false), ("exec", false), ("systemd", true)]) == Some(true) {
        section.fault_at("via", "`via: systemd` is not supported by this build");
    }
    let Some(unit) = section.item("unit") else { return };
    let Some(name) = unit.word() else { return };
    let letters = name.bytes().all(|b| b.is_ascii_alphanumeric() || b":-_.\\@".contains(&b));
    if letters && name.len() <= 255 && name.strip_suffix(".service").is_some_and(|n| !n.is_empty())
    {
        unit.fault("`unit` is not supported by this build");
    } else {
        unit.fault(format!("{} is no unit's name, such as nginx.service is", quoted(&name)));
    }
}

fn breaker(section: &mut Section<'_>, default: Breaker) -> Breaker {
    let retries = section.integer("retries", 0..=100_000).and_then(|n| u32::try_from(n).ok());
    let window = section.seconds("retry_window_secs", SHORTEST..=TEN_YEARS);
    let cooldown =
        section.seconds("cooldown_secs", SHORTEST..=TEN_YEARS).unwrap_or(default.cooldown);
    let factor = section.number("cooldown_factor", 1.0..=100.0);
    let max = section.seconds("cooldown_max_secs", SHORTEST..=TEN_YEARS);
    if max.is_some_and(|max| max < cooldown) {
        let least = cooldown.as_secs_f64();
        section.fault_at("cooldown_max_secs", format!("must not be below cooldown_secs, {least}"));
    }
    Breaker {
        retries: retries.unwrap_or(default.retries),
        window: window.unwrap_or(default.window),
        cooldown,
        cooldown_factor: factor.unwrap_or(default.cooldown_factor),
        cooldown_max: max.unwrap_or(default.cooldown_max.max(cooldown)),
        half_open: section.seconds("half_open_secs", 0.0..=TEN_YEARS).unwrap_or(default.half_open),
    }
}

fn backoff(mut section: Section<'_>, default: Backoff) -> Backoff {
    let initial = section.seconds("initial_secs", 0.0..=DAY).unwrap_or(default.initial);
    let factor = section.number("factor", 1.0..=100.0);
    let max = section.seconds("max_secs", 0.0..=DAY);
    if max.is_some_and(|max| max < initial) {
        let least = initial.as_secs_f64();
        section.fault_at("max_secs", format!("must not be below initial_secs, {least}"));
    }
    let jitter = section.number("jitter", 0.0..=1.0);
    section.finish();
    Backoff {
        initial,
        factor: factor.unwrap_or(default.factor),
        max: max.unwrap_or(default.max.max(initial)),
        jitter: jitter.unwrap_or(default.jitter),
    }
}
