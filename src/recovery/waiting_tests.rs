//! Dependencies through the whole plan: who is held, released, restarted, and how fast.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use rstest::rstest;

use super::plan::{Plan, What};
use crate::config::{Config, Dependency, DependencyKind, OnFailure, Process, fixture};
use crate::event::{
    Change, End, Exit, Instance, Pid, ProcessName, Request, Signal, State, Time, Wait,
};
use crate::lifecycle::Input;

fn at(millis: u64) -> Time {
    Time(millis * 1_000_000)
}

fn name(name: &str) -> ProcessName {
    ProcessName::new(name)
}

fn on(target: &str) -> Dependency {
    Dependency {
        target: name(target),
        kind: DependencyKind::Requires,
        on_failure: OnFailure::Abort,
        max_wait: Duration::from_secs(30),
        restart: false,
    }
}

fn process(name: &str, dependencies: Vec<Dependency>) -> Process {
    Process { dependencies, ..fixture::process(name) }
}

/// A plan, and a machine on which everything that it orders is done, launches only when asked for.
struct Machine {
    plan: Plan,
    now: Time,
    running: BTreeMap<ProcessName, Instance>,
    /// Launches that were ordered and not confirmed, oldest first.
    launches: VecDeque<ProcessName>,
    /// Everything that was told.
    told: Vec<(ProcessName, Change)>,
    next_pid: i32,
}

impl Machine {
    fn new(processes: Vec<Process>) -> Self {
        Self::with_slots(processes, 16)
    }

    fn with_slots(processes: Vec<Process>, slots: usize) -> Self {
        let mut machine = Self {
            plan: Plan::new(),
            now: at(1),
            running: BTreeMap::new(),
            launches: VecDeque::new(),
            told: Vec::new(),
            next_pid: 1,
        };
        let mut config = fixture::config(processes);
        config.max_parallel_launches = slots;
        machine.reload(&config);
        machine
    }

    fn reload(&mut self, config: &Config) {
        let orders = self.plan.reload(config, self.now);
        self.perform(orders);
    }

    fn on(&mut self, who: &ProcessName, input: Input) {
        let orders = self.plan.on(who, input, self.now);
        self.perform(orders);
    }

    fn perform(&mut self, orders: Vec<super::plan::Order>) {
        for super::plan::Order { process, what } in orders {
            match what {
                What::Tell(change) => self.told.push((process, change)),
                What::Look => self.on(&process, Input::Missing),
                What::Prepare { .. } => self.on(&process, Input::Prepared),
                What::Launch => self.launches.push_back(process),
                What::Stop { .. } => self.die(&process, Exit::default()),
                What::FindSuccessor { .. } | What::Release => {}
            }
        }
    }

    /// Confirms the oldest launch, and says whose it is.
    fn launched(&mut self) -> Option<String> {
        let who = self.launches.pop_front()?;
        self.next_pid += 1;
        let instance = Instance { pid: Pid(self.next_pid), start_ticks: 1 };
        self.running.insert(who.clone(), instance);
        self.on(&who, Input::Launched { instance });
        Some(who.to_string())
    }

    fn die(&mut self, who: &ProcessName, exit: Exit) {
        let instance = self.running.remove(who).expect("it runs");
        self.on(who, Input::Ended { instance, exit });
    }

    fn kill(&mut self, who: &str) {
        let end = Some(End::Signal { signal: Signal(9), core_dumped: false });
        self.die(&name(who), Exit { end, ..Exit::default() });
    }

    fn pass(&mut self, millis: u64) {
        let end = self.now.after(Duration::from_millis(millis));
        while let Some(due) = self.plan.next_deadline().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            let orders = self.plan.on_time(self.now);
            self.perform(orders);
            assert!(self.plan.next_deadline().is_none_or(|next| next > self.now), "it spins");
        }
        self.now = end;
    }

    /// Confirms launches and lets time pass until everything is ready; who was launched, in turn.
    fn come_up(&mut self) -> Vec<String> {
        let mut launched = Vec::new();
        for _ in 0..300 {
            launched.extend(std::iter::from_fn(|| self.launched()));
            self.pass(1_000);
        }
        launched
    }

    fn waiting(&self, who: &str) -> Vec<Wait> {
        match self.plan.state(&name(who)) {
            Some(State::Held { waiting }) => waiting,
            other => panic!("{who} is not held: {other:?}"),
        }
    }

    fn ask(&mut self, who: &str, request: Request) {
        let asked = self.plan.ask(&name(who), request, "root".into(), self.now);
        self.perform(asked.expect("it is configured"));
    }
}

fn is_held(machine: &Machine, who: &str) -> bool {
    matches!(machine.plan.state(&name(who)), Some(State::Held { .. }))
}

#[test]
fn the_first_start_and_a_recovery_have_the_same_order() {
    // In the file, and by their names, they stand the other way round.
    let mut machine = Machine::new(vec![
        process("app", vec![on("cache")]),
        process("cache", vec![on("db")]),
        process("db", vec![]),
    ]);
    assert_eq!(machine.come_up(), ["db", "cache", "app"]);
    for who in ["db", "cache", "app"] {
        machine.kill(who);
    }
    assert_eq!(machine.come_up(), ["db", "cache", "app"]);
}

#[test]
fn a_held_process_says_for_whom_why_and_how_long() {
    let mut db = process("db", vec![]);
    db.recovery.breaker.retries = 0;
    let cooldown = db.recovery.breaker.cooldown;
    let mut machine = Machine::new(vec![process("web", vec![on("db")]), db]);
    let until = Some(machine.now.after(Duration::from_secs(30)));
    let wait = |reason: &str, changes, until| {
        vec![Wait { on: name("db"), reason: reason.into(), changes, until }]
    };
    assert_eq!(machine.waiting("web"), wait("starting", None, until));
    machine.launched();
    assert_eq!(machine.waiting("web"), wait("not ready yet", None, until));
    machine.kill("db");
    let open = machine.now.after(cooldown);
    assert_eq!(machine.waiting("web"), wait("breaker open", Some(open), until));
    // Beyond max_wait it waits without a timer, and goes on by itself.
    machine.pass(31_000);
    assert_eq!(machine.waiting("web"), wait("breaker open", Some(open), None));
    assert!(matches!(machine.told.last(), Some((_, Change::Moved { .. }))), "{:?}", machine.told);
    let overdue = |(who, change): &&(ProcessName, Change)| {
        *who == name("web") && matches!(change, Change::Overdue { .. })
    };
    assert_eq!(machine.told.iter().filter(overdue).count(), 1);
    assert_eq!(machine.come_up(), ["db", "web"]);
}

#[test]
fn a_degraded_process_is_called_so_until_the_dependency_is_ready() {
    let degrade = Dependency { on_failure: OnFailure::Degrade, ..on("cache") };
    let mut cache = process("cache", vec![]);
    cache.autostart = false;
    let mut machine = Machine::new(vec![process("web", vec![degrade]), cache]);
    let without = |machine: &Machine| {
        let status = machine.plan.status_of(&name("web"), machine.now).expect("it is configured");
        status.degraded_without
    };
    assert!(is_held(&machine, "web"));
    machine.pass(30_000);
    assert_eq!(machine.launched().as_deref(), Some("web"));
    assert_eq!(without(&machine), [name("cache")]);
    // It dies: whoever is known to be missing is not waited for again.
    machine.kill("web");
    assert_eq!(machine.launched().as_deref(), Some("web"));
    let waived = |(_, change): &&(ProcessName, Change)| matches!(change, Change::Waived { .. });
    assert_eq!(machine.told.iter().filter(waived).count(), 1, "one warning");
    machine.ask("cache", Request::Restart);
    machine.come_up();
    assert_eq!(without(&machine), []);
}

#[test]
fn whoever_lost_its_dependency_while_it_waited_for_a_slot_is_held_again() {
    let mut machine = Machine::with_slots(
        vec![process("db", vec![]), process("other", vec![]), process("web", vec![on("db")])],
        1,
    );
    assert_eq!(machine.come_up(), ["db", "other", "web"]);
    machine.kill("other");
    machine.kill("web");
    assert_eq!(machine.launches, [name("other")], "web waits for the slot");
    machine.kill("db");
    // Whoever others depend on goes first.
    assert_eq!(machine.launched().as_deref(), Some("other"));
    assert_eq!(machine.launches, [name("db")]);
    machine.launched();
    assert_eq!(machine.launches.len(), 0);
    assert!(is_held(&machine, "web"));
    assert_eq!(machine.come_up(), ["web"]);
}

#[test]
fn a_launch_under_way_is_not_broken_off_when_the_dependency_dies() {
    let mut machine = Machine::new(vec![process("db", vec![]), process("web", vec![on("db")])]);
    machine.launched();
    machine.pass(1_000);
    assert_eq!(machine.launches, [name("web")]);
    machine.kill("db");
    assert_eq!(machine.launched().as_deref(), Some("web"), "it was ordered before");
    assert!(matches!(machine.plan.state(&name("web")), Some(State::Up { .. })));
    assert_eq!(machine.come_up(), ["db"]);
}

#[rstest]
#[case::by_hand(false)]
#[case::ready_at_last(true)]
fn a_held_process_that_somebody_starts_is_guarded_and_held_no_longer(#[case] then_ready: bool) {
    let mut machine = Machine::new(vec![process("db", vec![]), process("web", vec![on("db")])]);
    let instance = Instance { pid: Pid(77), start_ticks: 1 };
    machine.running.insert(name("web"), instance);
    machine.on(&name("web"), Input::Found { instance, started: machine.now });
    if then_ready {
        assert_eq!(machine.come_up(), ["db"]);
    }
    assert!(matches!(
        machine.plan.state(&name("web")),
        Some(State::Up { instance: found, .. }) if found == instance
    ));
}

#[test]
fn an_operator_who_wants_a_restart_has_to_wait_for_the_dependency_as_well() {
    let mut machine = Machine::new(vec![process("db", vec![]), process("web", vec![on("db")])]);
    machine.come_up();
    machine.ask("db", Request::Stop);
    machine.ask("web", Request::Restart);
    assert_eq!(machine.waiting("web")[0].reason, "paused by root");
    machine.ask("db", Request::Resume);
    assert_eq!(machine.come_up(), ["db", "web"]);
}

#[test]
fn a_reload_that_removes_the_dependency_releases_whoever_waits_for_it() {
    let mut db = process("db", vec![]);
    db.autostart = false;
    let mut machine = Machine::new(vec![db, process("web", vec![on("db")])]);
    assert!(is_held(&machine, "web"));
    machine.reload(&fixture::config(vec![process("web", vec![])]));
    assert_eq!(machine.launched().as_deref(), Some("web"));
}

#[test]
fn those_who_follow_are_restarted_with_their_target_and_it_costs_no_budget() {
    let follows = Dependency { restart: true, ..on("db") };
    let mut machine = Machine::new(vec![
        process("db", vec![]),
        process("paused", vec![follows.clone()]),
        process("stays", vec![on("db")]),
        process("web", vec![follows]),
    ]);
    machine.come_up();
    machine.ask("paused", Request::Pause { lasting: None });
    let before = machine.running.clone();
    machine.kill("db");
    assert_eq!(machine.come_up(), ["db", "web"]);
    let status = machine.plan.status_of(&name("web"), machine.now).expect("it is configured");
    assert_eq!(status.failures, 0);
    for who in ["paused", "stays"] {
        assert_eq!(machine.running[&name(who)], before[&name(who)]);
    }
}

/// Two hundred and the database that they all depend on.
fn two_hundred() -> Vec<Process> {
    let workers = (0..200).map(|n| process(&format!("w{n:03}"), vec![on("db")]));
    std::iter::once(process("db", vec![])).chain(workers).collect()
}

#[test]
fn two_hundred_that_one_dependency_releases_come_back_in_order_each_slot_kept_until_ready() {
    let mut machine = Machine::new(two_hundred());
    machine.come_up();
    machine.kill("db");
    let doomed: Vec<String> = machine.running.keys().rev().map(ToString::to_string).collect();
    for who in &doomed {
        machine.kill(who);
    }
    assert_eq!(machine.launched().as_deref(), Some("db"));
    assert_eq!(machine.launches.len(), 0);
    machine.pass(999);
    assert_eq!(machine.launches.len(), 0, "the database is not ready yet");
    let mut order = Vec::new();
    for wave in [16; 12].into_iter().chain([8]) {
        machine.pass(1);
        assert_eq!(machine.launches.len(), wave);
        order.extend(std::iter::from_fn(|| machine.launched()));
        // Those that run are not ready yet, and keep their slots.
        machine.pass(999);
        assert_eq!(machine.launches.len(), 0);
    }
    assert_eq!(order, doomed, "whoever died first goes first");
}

#[test]
fn whoever_is_not_ready_within_five_seconds_gives_its_slot_up() {
    let mut processes = two_hundred();
    for process in &mut processes[1..] {
        process.ready_after = Duration::from_secs(60);
    }
    let mut machine = Machine::new(processes);
    machine.launched();
    machine.pass(1_000);
    for _ in 0..3 {
        assert_eq!(machine.launches.len(), 16);
        while machine.launched().is_some() {}
        machine.pass(4_999);
        assert_eq!(machine.launches.len(), 0);
        machine.pass(1);
    }
}

#[test]
fn whoever_is_probed_keeps_its_slot_until_the_probe_succeeds() {
    let mut machine = Machine::with_slots(
        vec![fixture::probed("a"), fixture::process("b"), fixture::process("c")],
        1,
    );
    assert_eq!(machine.launched().as_deref(), Some("a"));
    assert_eq!(machine.launches.len(), 0);
    let instance = machine.running[&name("a")];
    machine.on(&name("a"), Input::Healthy { instance: Some(instance) });
    // These hold theirs until the exec only.
    assert_eq!(machine.launched().as_deref(), Some("b"));
    assert_eq!(machine.launched().as_deref(), Some("c"));
}

#[test]
fn whoever_is_released_alone_keeps_no_slot() {
    let mut processes = vec![process("a", vec![]), process("b", vec![on("a")])];
    processes.extend(["x", "y"].map(fixture::process));
    processes[1].ready_after = Duration::from_secs(60);
    let mut machine = Machine::with_slots(processes, 1);
    assert_eq!(machine.launched().as_deref(), Some("a"));
    machine.launched();
    machine.launched();
    machine.pass(1_000);
    assert_eq!(machine.launched().as_deref(), Some("b"));
    machine.kill("x");
    assert_eq!(machine.launches, [name("x")], "b is not ready, and holds no slot");
}
