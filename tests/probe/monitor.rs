//! The monitor as recovery sees it: what it publishes, and what it answers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use healer::bus::{Bus, Received, Receiver};
use healer::clock;
use healer::config::check::{Environment, check};
use healer::config::{Config, Reader};
use healer::event::{Event, Instance, Observation, Pid, ProcessName, What};
use healer::monitor::network::names::Names;
use healer::monitor::network::spawn;
use healer::monitor::{Command, Handle};
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::server::{answering, response};

/// How long something may take on a loaded machine.
const DEADLINE: Duration = Duration::from_secs(20);

struct Monitor {
    handle: Handle,
    seen: Receiver,
}

impl Monitor {
    async fn new(entries: &str) -> Self {
        let bus = Bus::new(100);
        let seen = bus.subscribe();
        let handle = spawn(bus, Names::default());
        let monitor = Self { handle, seen };
        assert_eq!(monitor.tell(Command::Reload(config(entries))).await, []);
        monitor
    }

    async fn tell(&self, command: Command) -> Vec<Event> {
        self.handle.orders().tell(command).await.unwrap()
    }

    async fn truth(&self) -> BTreeMap<String, Observation> {
        let truth = self.tell(Command::Republish).await;
        truth.into_iter().map(of).collect()
    }

    /// What it publishes next.
    async fn next(&mut self) -> (String, Observation) {
        match timeout(DEADLINE, self.seen.recv()).await.unwrap() {
            Received::Event(event) => of(event),
            other => panic!("{other:?}"),
        }
    }

    async fn is_silent_for(&mut self, time: Duration) {
        assert!(timeout(time, self.seen.recv()).await.is_err());
    }
}

fn of(event: Event) -> (String, Observation) {
    match event.what {
        What::Saw(seen) => (event.process.as_str().to_owned(), seen),
        other @ What::Did(_) => panic!("{other:?}"),
    }
}

fn config(entries: &str) -> Arc<Config> {
    let text = format!("processes: [{entries}]");
    let checked = check(text.as_bytes(), &Environment::new(), &Reader::default());
    Arc::new(checked.unwrap_or_else(|refused| panic!("{:#?}", refused.faults)).config)
}

/// An entry that is probed there, ten times a second.
fn entry(name: &str, command: &str, url: &str) -> String {
    format!(
        "{{name: {name}, {command} monitor: {{type: network, target_url: '{url}', \
         interval_secs: 0.1, timeout_secs: 5, failure_threshold: 2, start_period_secs: 0}}}}"
    )
}

#[tokio::test]
async fn news_is_published_once_and_told_again_to_whoever_asks() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut monitor = Monitor::new(&entry("db", "", &format!("tcp://{address}"))).await;
    let healthy = ("db".to_owned(), Observation::Healthy { instance: None });
    assert_eq!(monitor.next().await, healthy);
    monitor.is_silent_for(Duration::from_millis(500)).await;
    assert_eq!(monitor.truth().await, BTreeMap::from([healthy.clone()]));
    drop(listener);
    let reason = "connection refused".to_owned();
    let unhealthy = ("db".to_owned(), Observation::Unhealthy { instance: None, reason });
    assert_eq!(monitor.next().await, unhealthy);
    monitor.is_silent_for(Duration::from_millis(500)).await;
    assert_eq!(monitor.truth().await, BTreeMap::from([unhealthy]));
    let _listener = TcpListener::bind(address).await.unwrap();
    assert_eq!(monitor.next().await, healthy);
}

#[tokio::test]
async fn an_instance_is_probed_while_it_is_held() {
    let address = answering(response("500 Internal Server Error", "")).await;
    let entry = entry("web", "command: /bin/web,", &format!("http://{address}/"));
    let mut monitor = Monitor::new(&entry).await;
    monitor.is_silent_for(Duration::from_millis(500)).await;
    let web = ProcessName::new("web");
    for number in [7, 8] {
        let start_ticks = clock::tick_of(clock::now());
        let instance = Instance { pid: Pid(number), start_ticks };
        assert_eq!(monitor.tell(Command::Held(web.clone(), instance)).await, []);
        let reason = "HTTP status 500".to_owned();
        let unhealthy = Observation::Unhealthy { instance: Some(instance), reason };
        assert_eq!(monitor.next().await, ("web".to_owned(), unhealthy));
        assert_eq!(monitor.tell(Command::Ended(web.clone(), instance)).await, []);
        assert_eq!(monitor.truth().await, BTreeMap::new());
        monitor.is_silent_for(Duration::from_millis(300)).await;
    }
}

#[tokio::test]
async fn what_a_reload_removes_is_forgotten() {
    let address = answering(response("200 OK", "")).await;
    let url = format!("http://{address}/");
    let mut monitor = Monitor::new(&entry("db", "", &url)).await;
    assert_eq!(monitor.next().await.0, "db");
    assert_eq!(monitor.tell(Command::Reload(config(""))).await, []);
    assert_eq!(monitor.truth().await, BTreeMap::new());
    assert_eq!(monitor.tell(Command::Reload(config(&entry("db", "", &url)))).await, []);
    assert_eq!(monitor.next().await.0, "db");
}

#[tokio::test]
async fn the_monitor_ends_when_nobody_can_tell_it_anything() {
    let monitor = Monitor::new(&entry("db", "", "tcp://127.0.0.1:1")).await;
    timeout(DEADLINE, monitor.handle.stop()).await.unwrap().unwrap();
}
