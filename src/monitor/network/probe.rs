//! One probe: a connection, perhaps TLS, perhaps a request, all within its time.

use crate::config::probe::{Probe, Trust};

use super::connect::connect;
use super::exchange::exchange;
use super::health::Outcome;
use super::limit::{Fault, Limit};
use super::names::Names;
use super::tls::{self, Known};

/// What came of a probe.
#[derive(Debug)]
pub struct Report {
    /// Whether it passed.
    pub outcome: Outcome,
    /// What was read for its TLS, for the next probe that trusts the same.
    pub known: Option<(Trust, Known)>,
}

/// Makes one probe; `known` is what the last report had for its trust.
pub async fn make(probe: &Probe, names: &Names, known: Option<Known>) -> Report {
    let limit = Limit::new(probe.timeout);
    let mut renewed = None;
    let outcome = match ask(probe, names, known, &mut renewed, &limit).await {
        Ok(()) => Outcome::Passed,
        Err(fault) => fault.into(),
    };
    Report { outcome, known: probe.trust().cloned().zip(renewed) }
}

async fn ask(
    probe: &Probe,
    names: &Names,
    known: Option<Known>,
    renewed: &mut Option<Known>,
    limit: &Limit,
) -> Result<(), Fault> {
    let mut stream = connect(&probe.address, names, limit).await?;
    let Some(request) = &probe.request else { return Ok(()) };
    if let Some(tls) = &request.tls {
        let known = tls::known(&tls.trust, known, limit).await?;
        *renewed = Some(known.clone());
        stream = tls::agree(stream, tls, known, limit).await?;
    }
    exchange(stream, request, limit).await
}
