//! The last events, for those who ask what happened, and the next ones, for those who follow.
//!
//! One task listens to the bus and keeps them; whoever asks is sent the past and a channel for what
//! comes. All is bounded: what is too much for a listener is lost to it, and it is told how much.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::{broadcast, mpsc, oneshot};

use crate::bus::{Received, Receiver};
use crate::clock;
use crate::event::{Change, Event, ProcessName, Time, What};

/// How many events are kept: a mass kill of a few hundred.
const KEPT: usize = 1_000;
/// How many events a follower may be behind.
const BEHIND: usize = 256;
/// How many may ask at one time.
const ASKED: usize = 16;

/// One event of recovery's.
#[derive(Debug)]
pub struct Recorded {
    /// Counts from 1.
    pub seq: u64,
    /// When it was done.
    pub at: Time,
    /// Of which process; `None`: of the record itself.
    pub process: Option<ProcessName>,
    /// What.
    pub what: Noted,
}

/// What is recorded.
#[derive(Debug)]
pub enum Noted {
    /// What recovery did.
    Did(Change),
    /// So many events are missing here.
    Lagged(u64),
}

/// What happened and what will.
#[derive(Debug)]
pub struct Told {
    /// The last events, oldest first.
    pub past: Vec<Arc<Recorded>>,
    /// What comes after them, without a gap.
    pub news: broadcast::Receiver<Arc<Recorded>>,
}

/// Asks the task.
#[derive(Clone, Debug)]
pub struct History {
    asks: mpsc::Sender<oneshot::Sender<Told>>,
}

impl History {
    /// The task, and the means to ask it. It ends when nobody can ask any more.
    pub fn new(bus: Receiver) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (asks, asked) = mpsc::channel(ASKED);
        (Self { asks }, record(bus, asked))
    }

    /// Everything so far, and what comes; `None` once the task has ended.
    pub async fn told(&self) -> Option<Told> {
        let (answer, told) = oneshot::channel();
        self.asks.send(answer).await.ok()?;
        told.await.ok()
    }
}

async fn record(mut bus: Receiver, mut asked: mpsc::Receiver<oneshot::Sender<Told>>) {
    let news = broadcast::Sender::new(BEHIND);
    let mut past = VecDeque::new();
    let mut seq = 0;
    let mut bus_is_open = true;
    loop {
        let (at, process, what) = tokio::select! {
            ask = asked.recv() => {
                let Some(ask) = ask else { return };
                let past = past.iter().map(Arc::clone).collect();
                // Whoever left meanwhile needs no answer.
                let _ = ask.send(Told { past, news: news.subscribe() });
                continue;
            }
            received = bus.recv(), if bus_is_open => match received {
                Received::Event(Event { process, at, what: What::Did(change) }) => {
                    (at, Some(process), Noted::Did(change))
                }
                // What monitors saw is news for recovery only.
                Received::Event(_) => continue,
                Received::Lagged(lost) => (clock::now(), None, Noted::Lagged(lost)),
                Received::Closed => {
                    bus_is_open = false;
                    continue;
                }
            },
        };
        seq += 1;
        let recorded = Arc::new(Recorded { seq, at, process, what });
        if past.len() == KEPT {
            past.pop_front();
        }
        past.push_back(Arc::clone(&recorded));
        // Without followers there is nobody to tell.
        let _ = news.send(recorded);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::Bus;
    use crate::event::Observation;

    fn did(at: u64) -> Event {
        let what = What::Did(Change::BreakerClosed);
        Event { process: ProcessName::new("web"), at: Time(at), what }
    }

    async fn until_recorded(history: &History, count: u64) -> Vec<Arc<Recorded>> {
        loop {
            let past = history.told().await.unwrap().past;
            if past.last().is_some_and(|last| last.seq == count) {
                return past;
            }
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn the_last_events_are_kept_and_what_monitors_saw_is_not() {
        let bus = Bus::new(4096);
        let (history, task) = History::new(bus.subscribe());
        tokio::spawn(task);
        for at in 1..=1_500 {
            bus.publish(did(at));
            let what = What::Saw(Observation::Missing);
            bus.publish(Event { what, ..did(at) });
        }
        let past = until_recorded(&history, 1_500).await;
        assert_eq!(past.len(), KEPT);
        assert_eq!((past[0].seq, past[0].at), (501, Time(501)));
    }

    #[tokio::test]
    async fn past_and_news_join_without_gap() {
        let bus = Bus::new(16);
        let (history, task) = History::new(bus.subscribe());
        tokio::spawn(task);
        bus.publish(did(1));
        until_recorded(&history, 1).await;
        let mut told = history.told().await.unwrap();
        bus.publish(did(2));
        assert_eq!(told.past.len(), 1);
        assert_eq!(told.news.recv().await.unwrap().seq, 2);
    }

    #[tokio::test]
    async fn what_the_bus_lost_is_recorded_as_lost() {
        let bus = Bus::new(1);
        let (history, task) = History::new(bus.subscribe());
        for at in 1..=5 {
            bus.publish(did(at));
        }
        tokio::spawn(task);
        let past = until_recorded(&history, 2).await;
        assert!(matches!(past[0].what, Noted::Lagged(4)), "{past:?}");
        assert_eq!(past[1].at, Time(5));
    }

    #[tokio::test]
    async fn the_record_outlives_its_bus_and_ends_with_the_last_who_can_ask() {
        let bus = Bus::new(16);
        let (history, task) = History::new(bus.subscribe());
        let task = tokio::spawn(task);
        bus.publish(did(1));
        drop(bus);
        assert_eq!(until_recorded(&history, 1).await.len(), 1);
        drop(history);
        task.await.unwrap();
    }
}
