//! The bus: every observation and every change, to every subscriber. Bounded, and it may lag.
//!
//! Lag is a value that each receiver has to match, so that no one can overlook a loss: whoever
//! lagged asks the monitors to republish. Commands never travel here; they are `mpsc` messages with
//! an acknowledgement. Monitors and `recovery` publish; `recovery`, `control` and `demo` subscribe.

use tokio::sync::broadcast;

use crate::event::Event;

/// The sending side, cheap to clone.
#[derive(Clone, Debug)]
pub struct Bus {
    sender: broadcast::Sender<Event>,
}

impl Bus {
    /// A bus that keeps `capacity` events (≥ 1) for its slowest subscriber.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { sender: broadcast::Sender::new(capacity.max(1)) }
    }

    /// Tells every subscriber; without any, the event is dropped.
    pub fn publish(&self, event: Event) {
        // The only error is "no subscriber", which is no fault of the publisher's.
        let _ = self.sender.send(event);
    }

    /// Receives what is published from now on.
    #[must_use]
    pub fn subscribe(&self) -> Receiver {
        Receiver { receiver: self.sender.subscribe() }
    }
}

/// One subscriber's side.
#[derive(Debug)]
pub struct Receiver {
    receiver: broadcast::Receiver<Event>,
}

/// What a subscriber gets.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Received {
    /// The next event.
    Event(Event),
    /// So many events were lost, because this subscriber was too slow.
    Lagged(u64),
    /// Every publisher is gone; nothing will follow.
    Closed,
}

impl Receiver {
    /// Waits for the next event, a loss, or the end. Cancel safe.
    pub async fn recv(&mut self) -> Received {
        match self.receiver.recv().await {
            Ok(event) => Received::Event(event),
            Err(broadcast::error::RecvError::Lagged(lost)) => Received::Lagged(lost),
            Err(broadcast::error::RecvError::Closed) => Received::Closed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Observation, ProcessName, Time, What};

    fn event(at: u64) -> Event {
        Event {
            process: ProcessName::new("web"),
            at: Time(at),
            what: What::Saw(Observation::Missing),
        }
    }

    #[tokio::test]
    async fn loss_is_a_value_between_the_events() {
        let bus = Bus::new(1);
        let mut receiver = bus.subscribe();
        for at in 0..5 {
            bus.publish(event(at));
        }
        assert_eq!(receiver.recv().await, Received::Lagged(4));
        assert_eq!(receiver.recv().await, Received::Event(event(4)));
        drop(bus);
        assert_eq!(receiver.recv().await, Received::Closed);
    }

    #[tokio::test]
    async fn publishing_to_nobody_is_no_fault() {
        let bus = Bus::new(1);
        bus.publish(event(1));
        let mut late = bus.subscribe();
        bus.publish(event(2));
        assert_eq!(late.recv().await, Received::Event(event(2)));
    }
}
