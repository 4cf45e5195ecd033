//! Probes against real servers: small ones of the tests' own that misbehave in every way, and nginx.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use healer::config::Reader;
use healer::config::check::{Environment, check};
use healer::config::probe::Probe;
use healer::monitor::network::health::Outcome;
use healer::monitor::network::names::Names;
use healer::monitor::network::probe::make;

mod answers;
mod connections;
mod monitor;
mod names;
mod nginx;
mod server;
mod tls;

/// On a loaded machine, a probe's end may be noticed so late.
const SLACK: Duration = Duration::from_secs(5);

/// The probe that has these keys.
fn probe(keys: &str) -> Probe {
    let text = format!("processes: [{{name: it, monitor: {{type: network, {keys}}}}}]");
    let checked = check(text.as_bytes(), &Environment::new(), &Reader::default())
        .unwrap_or_else(|refused| panic!("{:#?}", refused.faults));
    Probe::clone(checked.config.processes[0].probe().unwrap())
}

/// What comes of a probe with these keys, which takes no longer than it may.
async fn outcome(keys: &str) -> Outcome {
    outcome_by(keys, &Names::default()).await
}

async fn outcome_by(keys: &str, names: &Names) -> Outcome {
    let probe = probe(keys);
    let begun = Instant::now();
    let report = make(&probe, names, None).await;
    assert!(begun.elapsed() < probe.timeout + SLACK, "{:?} took {:?}", probe, begun.elapsed());
    report.outcome
}

fn failed(reason: &str) -> Outcome {
    Outcome::Failed(reason.to_owned())
}
