//! Who depends on others starts when they are ready, and not before, whoever died in which order.
//!
//! A service of these tests exits with 97 where what it needs does not answer at its start. So each
//! start that came too early shows as one start too many.

use std::net::TcpListener;
use std::time::Duration;

use rstest::rstest;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Healer, Service, Site, eventually, throughout};

/// A service that answers on a port a while after its start, and is ready then.
struct Tier {
    service: Service,
    port: u16,
}

impl Tier {
    /// Needs all `others` to answer when it starts, and says so in its entry.
    fn new(site: &Site, name: &str, others: &[&Tier]) -> Self {
        let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let mut service =
            site.service(name).args(["--web", &port.to_string(), "--web-after", "50"]);
        for other in others {
            service = service.args(["--needs", &other.port.to_string()]);
        }
        let probe = json!({
            "type": "network",
            "target_url": format!("tcp://127.0.0.1:{port}"),
            "interval_secs": 0.1,
            "timeout_secs": 5,
            "start_period_secs": 60,
        });
        let service = service.set("monitor", json!([{ "type": "ebpf" }, probe]));
        let names: Vec<&str> = others.iter().map(|other| other.service.name.as_str()).collect();
        Self { service: service.set("dependencies", names), port }
    }
}

/// A service that is ready once it has lived for a moment.
fn quick(site: &Site, name: &str, dependencies: impl Into<Value>) -> Service {
    site.service(name).set("ready_after_secs", 0.05).set("dependencies", dependencies)
}

/// Ends these while healer cannot see it, one after the other.
fn kill_unseen(healer: &Healer<'_>, services: &[&Service]) {
    healer.signal(Signal::STOP);
    for service in services {
        service.kill(Signal::KILL);
    }
    eventually("all are dead", || services.iter().all(|service| service.living().is_empty()));
    healer.signal(Signal::CONT);
}

/// When the start number `count` was.
fn start(service: &Service, count: usize) -> u64 {
    service.running(count);
    service.starts()[count - 1].at
}

fn until_held(healer: &Healer<'_>, process: &str, dependency: &str) {
    healer.until_said(&[("process", process), ("message", "held"), ("dependency", dependency)]);
}

fn orders() -> Vec<[usize; 4]> {
    let mut orders = Vec::new();
    for code in 0..256 {
        let order = [code / 64, code / 16 % 4, code / 4 % 4, code % 4];
        if (0..4).all(|n| order.contains(&n)) {
            orders.push(order);
        }
    }
    orders
}

/// Database, cache, application and proxy, ended in each of the 24 orders.
#[rstest]
fn four_tiers_come_back_in_order_whoever_died_first(#[values(0, 1, 2, 3)] first: usize) {
    let site = Site::new();
    let db = Tier::new(&site, "database", &[]);
    let cache = Tier::new(&site, "cache", &[&db]);
    let app = Tier::new(&site, "application", &[&db, &cache]);
    let proxy = Tier::new(&site, "proxy", &[&app]);
    let tiers = [&proxy.service, &app.service, &cache.service, &db.service];
    let healer = site.guard(tiers);
    let all_up = |count| {
        let times: Vec<u64> = tiers.iter().rev().map(|tier| start(tier, count)).collect();
        assert!(times.is_sorted(), "start {count}: {times:?}");
    };
    all_up(1);
    let orders = orders().into_iter().filter(|order| order[0] == first);
    for (round, order) in orders.enumerate() {
        kill_unseen(&healer, &order.map(|n| tiers[n]));
        all_up(round + 2);
    }
    // Nobody was started too early, and had to be started again.
    throughout(Duration::from_millis(500), "all live", || {
        tiers.iter().all(|tier| tier.starts().len() == 7 && tier.living().len() == 1)
    });
}

#[test]
fn both_of_a_pair_come_back_even_where_healer_sees_one_death_long_before_the_other() {
    let site = Site::new();
    let db = Tier::new(&site, "database", &[]);
    let app = Tier::new(&site, "application", &[&db]);
    let healer = site.guard([&db.service, &app.service]);
    app.service.running(1);
    // The application may be on its way already when the database dies, and then ends by itself.
    app.service.kill(Signal::KILL);
    db.service.kill(Signal::KILL);
    db.service.running(2);
    healer.until_said(&[("process", "application"), ("to", "ready")]);
    eventually("the application lives", || app.service.living().len() == 1);
}

#[test]
fn dependent_that_is_starting_when_its_dependency_dies_is_left_alone() {
    let site = Site::new();
    let db = Tier::new(&site, "database", &[]);
    let mut app = Tier::new(&site, "application", &[&db]);
    app.service = app.service.args(["--web-after", "3000"]);
    let _healer = site.guard([&db.service, &app.service]);
    let first = app.service.running(1);
    db.service.kill(Signal::KILL);
    db.service.running(2);
    throughout(Duration::from_millis(500), "it is the first one", || {
        app.service.living() == [first.clone()]
    });
}

#[test]
fn dependent_waits_while_the_breaker_of_its_dependency_is_open() {
    let site = Site::new();
    let db = quick(&site, "database", json!([]))
        .set("recovery.retries", 0)
        .set("recovery.cooldown_secs", 3)
        .set("recovery.half_open_secs", 0.1);
    let web = quick(&site, "web", json!(["database"]));
    let healer = site.guard([&db, &web]);
    web.running(1);
    kill_unseen(&healer, &[&web, &db]);
    healer.until_said(&[("process", "database"), ("message", "breaker opened")]);
    until_held(&healer, "web", "database");
    throughout(Duration::from_secs(1), "neither is started", || {
        db.starts().len() == 1 && web.starts().len() == 1
    });
    assert!(start(&db, 2) < start(&web, 2));
    healer.until_said(&[("process", "database"), ("message", "breaker closed")]);
}

#[test]
fn overdue_dependent_is_told_of_and_starts_by_itself_when_its_dependency_is_ready() {
    let site = Site::new();
    let db = quick(&site, "database", json!([])).set("autostart", false);
    let dependency = json!({ "target": "database", "max_wait_secs": 0.2 });
    let web = quick(&site, "web", json!([dependency]));
    let healer = site.guard([&db, &web]);
    until_held(&healer, "web", "database");
    let overdue = [("process", "web"), ("level", "ERROR"), ("dependency", "database")];
    healer.until_said(&overdue);
    throughout(Duration::from_millis(500), "it waits", || web.starts().is_empty());
    assert_eq!(healer.said(&overdue).len(), 1);
    site.start_by_hand(&db);
    web.running(1);
}

#[rstest]
#[case::skip("skip", "false")]
#[case::degrade("degrade", "true")]
fn dependent_that_can_do_without_starts_after_max_wait_with_one_warning(
    #[case] on_failure: &str,
    #[case] degraded: &str,
) {
    let site = Site::new();
    let cache = quick(&site, "cache", json!([])).set("autostart", false);
    let dependency = json!({ "target": "cache", "max_wait_secs": 1, "on_failure": on_failure });
    let web = quick(&site, "web", json!([dependency]));
    let healer = site.guard([&cache, &web]);
    until_held(&healer, "web", "cache");
    throughout(Duration::from_millis(500), "it waits", || web.starts().is_empty());
    for count in 1..=3 {
        web.running(count);
        web.kill(Signal::KILL);
    }
    web.running(4);
    let warning = [("process", "web"), ("dependency", "cache"), ("level", "WARN")];
    healer.until_said(&warning);
    let warnings = healer.said(&warning);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert_eq!(warnings[0]["degraded"].to_string(), degraded, "{warnings:?}");
}

#[test]
fn reload_that_removes_a_dependency_starts_whoever_waits_for_it() {
    let site = Site::new();
    let db = quick(&site, "database", json!([])).set("autostart", false);
    let web = quick(&site, "web", json!(["database"]));
    let mut healer = site.guard([&db, &web]);
    until_held(&healer, "web", "database");
    healer.reload([&web.clone().set("dependencies", json!([]))]);
    web.running(1);
}

#[test]
fn disabled_dependency_holds_its_dependent_until_it_is_enabled() {
    let site = Site::new();
    let db = quick(&site, "database", json!([]));
    let web = quick(&site, "web", json!(["database"]));
    let mut healer = site.guard([&db, &web]);
    let first = web.running(1);
    // For a while somebody works on the database.
    healer.reload([&db.clone().set("enabled", false), &web]);
    db.kill(Signal::KILL);
    throughout(Duration::from_millis(300), "the web server lives", || {
        web.living() == [first.clone()]
    });
    web.kill(Signal::KILL);
    until_held(&healer, "web", "database");
    healer
        .until_said(&[("level", "WARN"), ("message", "web requires database, which is disabled")]);
    throughout(Duration::from_millis(500), "neither is started", || {
        db.starts().len() == 1 && web.starts().len() == 1
    });
    healer.reload([&db, &web]);
    assert!(start(&db, 2) < start(&web, 2));
}

#[test]
fn processes_that_a_reload_adds_start_in_order() {
    let site = Site::new();
    let other = quick(&site, "other", json!([]));
    let mut healer = site.guard([&other]);
    other.running(1);
    let db = Tier::new(&site, "database", &[]);
    let app = Tier::new(&site, "application", &[&db]);
    healer.reload([&app.service, &db.service, &other]);
    assert!(start(&db.service, 1) < start(&app.service, 1));
    app.service.running(1);
    throughout(Duration::from_millis(300), "once", || app.service.starts().len() == 1);
}

#[test]
fn those_who_follow_a_restarted_process_are_restarted_in_order_the_end_of_a_diamond_once() {
    let site = Site::new();
    let follow = |targets: &[&str]| -> Value {
        targets.iter().map(|target| json!({ "target": target, "restart": true })).collect()
    };
    let db = quick(&site, "database", json!([]));
    let left = quick(&site, "left", follow(&["database"]));
    let middle = quick(&site, "middle", follow(&["left"]));
    let right = quick(&site, "right", follow(&["database"]));
    let bottom = quick(&site, "bottom", follow(&["middle", "right"]));
    let stays = quick(&site, "stays", json!(["database"]));
    // Restarts that a dependency asks for are no failures.
    let all = [&bottom, &middle, &right, &left, &db, &stays]
        .map(|service| service.clone().set("recovery.retries", 1));
    let healer = site.guard(&all);
    for service in &all {
        service.running(1);
        healer.until_said(&[("process", &service.name), ("to", "ready")]);
    }
    db.kill(Signal::KILL);
    let times: Vec<u64> =
        [&db, &left, &middle, &bottom].iter().map(|service| start(service, 2)).collect();
    assert!(times.is_sorted(), "{times:?}");
    assert!(start(&right, 2) < start(&bottom, 2));
    throughout(Duration::from_secs(1), "each was restarted once", || {
        all.iter().all(|service| {
            let expected = if service.name == "stays" { 1 } else { 2 };
            service.starts().len() == expected && service.living().len() == 1
        })
    });
}

#[test]
fn chain_of_fifty_starts_and_comes_back_one_after_the_other() {
    let site = Site::new();
    let chain: Vec<Service> = (0..50)
        .map(|n: usize| {
            let before: Vec<String> =
                n.checked_sub(1).map(|n| format!("s{n}")).into_iter().collect();
            quick(&site, &format!("s{n}"), before)
        })
        .collect();
    let healer = site.guard(&chain);
    for count in 1..=2 {
        let times: Vec<u64> = chain.iter().map(|service| start(service, count)).collect();
        assert!(times.is_sorted(), "{times:?}");
        if count == 1 {
            kill_unseen(&healer, &chain.iter().rev().collect::<Vec<_>>());
        }
    }
}

#[test]
fn two_hundred_that_lose_one_dependency_come_back_after_it_few_at_a_time() {
    const READY_AFTER: Duration = Duration::from_millis(300);
    let site = Site::new();
    let db = quick(&site, "database", json!([]));
    let workers: Vec<Service> = (0..200)
        .map(|n| {
            quick(&site, &format!("w{n}"), json!(["database"]))
                .set("ready_after_secs", READY_AFTER.as_secs_f64())
        })
        .collect();
    let all: Vec<&Service> = workers.iter().chain([&db]).collect();
    let healer = site.guard(all.iter().copied());
    for count in 1..=2 {
        let mut times: Vec<u64> = workers.iter().map(|worker| start(worker, count)).collect();
        let of_db = start(&db, count);
        times.sort_unstable();
        assert!(times[0] > of_db, "a worker was first");
        // Each of the 16 slots is kept until its process is ready. What is written down is when a
        // process came to its first lines, which may be a while after its exec.
        for window in times.windows(17) {
            let apart = Duration::from_nanos(window[16] - window[0]);
            assert!(apart > READY_AFTER / 2, "17 started within {apart:?}");
        }
        if count == 1 {
            kill_unseen(&healer, &all);
        }
    }
}
