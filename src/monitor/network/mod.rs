//! The network monitor: one task that asks processes whether they work.
//!
//! When an instance ends is seen by whoever holds it, at once; this monitor tells what living ones
//! do not tell by themselves: that they answer, or that they hang. `health` counts one process's
//! probes, `rounds` says whose turn it is and which do not count; both are pure. `probe` makes one:
//! `connect`, with `names` for their addresses, then `tls`, then `exchange`, all within a `limit`.
//! Spawned by `daemon`, told by `recovery`.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};

use crate::bus::Bus;
use crate::clock;
use crate::config::probe::Trust;
use crate::event::{Event, Observation, ProcessName, Time, What};

use self::health::Outcome;
use self::names::Names;
use self::probe::Report;
use self::rounds::{Action, Input, Rounds, Ticket};
use self::tls::Known;
use super::{Command, Handle, Order};

mod connect;
mod exchange;
pub mod health;
mod limit;
pub mod names;
pub mod probe;
pub mod rounds;
mod tls;

/// Starts the monitor, probing nothing yet: tell it [`Command::Reload`].
#[must_use]
pub fn spawn(bus: Bus, names: Names) -> Handle {
    Handle::spawn(|orders| run(Network::new(bus, names), orders))
}

async fn run(mut network: Network, mut orders: mpsc::UnboundedReceiver<Order>) {
    loop {
        let timer = network.rounds.next_deadline().map(instant);
        tokio::select! {
            biased;
            order = orders.recv() => match order {
                Some((command, answer)) => {
                    // Who does not wait for the answer does not need it.
                    let _ = answer.send(network.obey(command));
                }
                None => return,
            },
            Some(ended) = network.probes.join_next() => network.on_ended(ended),
            () = sleep_until(timer.unwrap_or_else(Instant::now)), if timer.is_some() => {
                network.tell(Input::Tick);
            }
        }
    }
}

/// A moment of boot time on the runtime's clock, which stands still during a suspend: a timer then
/// comes late, and `rounds` draws its conclusions.
fn instant(time: Time) -> Instant {
    Instant::now() + time.since(clock::now())
}

/// A probe that has come to its end.
type Ended = (Ticket, ProcessName, Report);

/// The task's state.
#[derive(Debug)]
struct Network {
    bus: Bus,
    names: Arc<Names>,
    rounds: Rounds,
    probes: JoinSet<Ended>,
    handles: HashMap<Ticket, AbortHandle>,
    /// What was read for TLS.
    known: HashMap<Trust, Known>,
    /// Who cannot be probed for a reason of healer's own, as told before.
    impossible: HashMap<ProcessName, String>,
}

impl Network {
    fn new(bus: Bus, names: Names) -> Self {
        Self {
            bus,
            names: Arc::new(names),
            rounds: Rounds::new(),
            probes: JoinSet::new(),
            handles: HashMap::new(),
            known: HashMap::new(),
            impossible: HashMap::new(),
        }
    }

    fn obey(&mut self, command: Command) -> Vec<Event> {
        match command {
            Command::Reload(config) => {
                self.known.clear();
                self.impossible.clear();
                self.tell(Input::Reload(&config));
            }
            Command::Republish => {
                let truth = self.rounds.truth();
                return truth.into_iter().map(|(process, seen)| event(process, seen)).collect();
            }
            // It is held next.
            Command::Launched(..) => {}
            Command::Held(process, instance) => {
                let started = clock::started(instance);
                self.tell(Input::Held { process, instance, started });
            }
            Command::Ended(process, instance) => self.tell(Input::Ended { process, instance }),
        }
        // Of what changed, nothing is known yet.
        vec![]
    }

    fn on_ended(&mut self, ended: Result<Ended, JoinError>) {
        let (ticket, process, report) = match ended {
            Ok(ended) => ended,
            Err(error) if error.is_cancelled() => return,
            // healer's own fault: the daemon ends with it, as with any other task's.
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        // One that was abandoned may have come to its end before it heard of that.
        if self.handles.remove(&ticket).is_none() {
            return;
        }
        self.known.extend(report.known);
        self.log(&process, &report.outcome);
        self.tell(Input::Probed { ticket, outcome: report.outcome });
    }

    fn log(&mut self, process: &ProcessName, outcome: &Outcome) {
        let before = match outcome {
            Outcome::Passed => {
                tracing::debug!(%process, "probe passed");
                self.impossible.remove(process)
            }
            Outcome::Failed(reason) => {
                tracing::debug!(%process, %reason, "probe failed");
                self.impossible.remove(process)
            }
            Outcome::Impossible(reason) => {
                let before = self.impossible.insert(process.clone(), reason.clone());
                if before.as_ref() != Some(reason) {
                    tracing::warn!(%process, %reason, "healer cannot probe; what it knows stands");
                }
                None
            }
        };
        if before.is_some() {
            tracing::info!(%process, "healer can probe again");
        }
    }

    fn tell(&mut self, input: Input<'_>) {
        for action in self.rounds.on(input, clock::now()) {
            match action {
                Action::Begin { ticket, process, probe } => {
                    let names = Arc::clone(&self.names);
                    let known = probe.trust().and_then(|trust| self.known.get(trust)).cloned();
                    let handle = self.probes.spawn(async move {
                        let report = probe::make(&probe, &names, known).await;
                        (ticket, process, report)
                    });
                    self.handles.insert(ticket, handle);
                }
                Action::Abandon(ticket) => {
                    if let Some(handle) = self.handles.remove(&ticket) {
                        handle.abort();
                    }
                }
                Action::Tell(process, seen) => self.bus.publish(event(process, seen)),
                Action::Starved(lasting) => tracing::warn!(
                    late_ms = lasting.as_millis(),
                    "healer did not run for a while; probes that failed meanwhile do not count"
                ),
            }
        }
    }
}

fn event(process: ProcessName, seen: Observation) -> Event {
    Event { process, at: clock::now(), what: What::Saw(seen) }
}
