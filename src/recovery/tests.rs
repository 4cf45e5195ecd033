//! A simulated machine drives the plan: processes die, appear and refuse in any order; answers
//! come late; the promises hold all the same.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::plan::{Order, Plan, What};
use crate::config::{Config, Dependency, DependencyKind, OnFailure, Process, fixture};
use crate::event::{Change, End, Exit, Instance, Pid, ProcessName, Request, Signal, State, Time};
use crate::lifecycle::Input;
use crate::state::memory::Memory;

/// Something that befalls the simulated machine.
#[derive(Clone, Debug)]
enum Fate {
    /// An instance of the n-th process ends, if one runs.
    Ends(usize, Exit),
    /// Somebody starts the n-th process by hand, if none runs, and a monitor sees it.
    StartedByHand(usize),
    /// So many milliseconds go by.
    Passes(u64),
    /// The oldest open question is answered: with luck as it should be.
    Answers(Luck),
    /// The n-th process is taken out of the configuration, or put back.
    Toggled(usize),
    /// An end is reported a second time.
    ReportedTwice(usize),
    /// Somebody asks for something.
    Asked(usize, Request),
    /// Probes of the n-th process fail, or succeed again.
    Probed(usize, bool),
    /// A dependency of the n-th process was restarted.
    DependencyRestarted(usize),
    /// The configuration has these dependencies from now on.
    Rewired(Graph),
    /// healer is killed, and started again so many milliseconds later. Launches under way come to
    /// their exec or not, and some instances end meanwhile.
    HealerKilled { launches_exec: bool, ended: Vec<usize>, away: u64 },
}

/// Of `cache` on `db`, of `web` on `db`, of `web` on `cache`.
type Graph = [Option<Dependency>; 3];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Luck {
    Good,
    Unclear,
    LaunchFails,
    NodeFault,
}

/// A question that the shell owes an answer to.
#[derive(Clone, Debug)]
struct Question {
    process: ProcessName,
    what: What,
    /// Of a launch: the stage that becomes the instance.
    stage: Option<Instance>,
}

/// What a process did, for judging by the promises afterwards.
#[derive(Default)]
struct Record {
    running: Option<Instance>,
    /// What ran when healer was killed.
    recalled: Option<Instance>,
    /// It came to its exec while healer was being killed, and no healer has seen it since. If it ends
    /// before one does, that start goes uncounted: nobody can tell it from one that never was.
    unseen: Option<Instance>,
    last_dead: Option<Instance>,
    /// Launches because of a failure in the present Closed period.
    restarts: Vec<Time>,
    breaker: Phase,
    /// A failure has been told since the last launch.
    failed: bool,
    /// Why the last launch was made.
    last_launch: Because,
    /// An operator or a dependency asked for the next start: it is counted apart.
    asked: bool,
    paused: bool,
    /// Who is not waited for any longer, and was not ready since.
    waived: BTreeSet<ProcessName>,
}

impl Record {
    fn ends(&mut self) -> Option<Instance> {
        let ended = self.running.take()?;
        self.last_dead = Some(ended);
        if self.unseen.take() == Some(ended) {
            self.take_back_launch();
        }
        Some(ended)
    }

    /// The node did not let the launch happen: it will be ordered again.
    fn take_back_launch(&mut self) {
        match &mut self.breaker {
            Phase::HalfOpen { started } => *started = false,
            _ => match self.last_launch {
                Because::Failed => {
                    self.restarts.pop();
                    self.failed = true;
                }
                Because::Asked => self.asked = true,
                Because::First => {}
            },
        }
    }
}

/// Why a launch was made.
#[derive(Clone, Copy, Default)]
enum Because {
    #[default]
    First,
    Failed,
    Asked,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Closed,
    Open(Time),
    HalfOpen {
        started: bool,
    },
}

struct World {
    plan: Plan,
    config: Config,
    configured: Vec<bool>,
    records: BTreeMap<ProcessName, Record>,
    questions: Vec<Question>,
    /// What is remembered, as it is written.
    files: BTreeMap<ProcessName, Vec<u8>>,
    now: Time,
    next_pid: i32,
}

impl World {
    fn new(processes: Vec<Process>) -> Self {
        let records =
            processes.iter().map(|process| (process.name.clone(), Record::default())).collect();
        let configured = vec![true; processes.len()];
        let mut config = fixture::config(processes);
        config.max_parallel_launches = 2;
        let mut world = Self {
            plan: Plan::new(),
            config,
            configured,
            records,
            questions: vec![],
            files: BTreeMap::new(),
            now: Time(1),
            next_pid: 100,
        };
        world.reload();
        world
    }

    fn rewire(&mut self, graph: Graph) {
        let mut processes: Vec<Process> =
            self.config.processes.iter().map(|process| Process::clone(process)).collect();
        for process in &mut processes {
            process.dependencies.clear();
        }
        for ((from, on), dependency) in [(1, 0), (2, 0), (2, 1)].into_iter().zip(graph) {
            let target = processes[on].name.clone();
            let dependency = dependency.map(|dependency| Dependency { target, ..dependency });
            processes[from].dependencies.extend(dependency);
        }
        self.config.processes = processes.into_iter().map(Arc::new).collect();
    }

    fn reload(&mut self) {
        let mut config = self.config.clone();
        config.processes = config
            .processes
            .iter()
            .zip(&self.configured)
            .map(|(process, enabled)| {
                Arc::new(Process { enabled: *enabled, ..Process::clone(process) })
            })
            .collect();
        let orders = self.plan.reload(&config, self.now);
        self.take(orders);
    }

    fn name(&self, n: usize) -> ProcessName {
        self.config.processes[n % self.config.processes.len()].name.clone()
    }

    fn record(&mut self, name: &ProcessName) -> &mut Record {
        self.records.get_mut(name).expect("every process has a record")
    }

    fn policy(&self, name: &ProcessName) -> crate::config::Breaker {
        let process = self.config.processes.iter().find(|process| process.name == *name);
        process.expect("orders name configured processes").recovery.breaker
    }

    fn instance(&mut self) -> Instance {
        self.next_pid += 1;
        Instance { pid: Pid(self.next_pid), start_ticks: self.now.0 / 10_000_000 }
    }

    fn feed(&mut self, name: &ProcessName, input: Input) {
        let orders = self.plan.on(name, input, self.now);
        self.take(orders);
    }

    fn take(&mut self, orders: Vec<Order>) {
        for Order { process, what } in orders {
            self.check(&process, &what);
            match what {
                What::Tell(_) => {}
                What::Release => self.questions.retain(|question| question.process != process),
                What::Look
                | What::Prepare { .. }
                | What::Launch
                | What::FindSuccessor { .. }
                | What::Stop { .. } => {
                    // As in the shell: a new question makes the last one of this process void.
                    self.questions.retain(|question| question.process != process);
                    let stage = (what == What::Launch).then(|| self.instance());
                    self.plan.staged(&process, stage);
                    self.questions.push(Question { process, what, stage });
                }
            }
        }
        for name in self.plan.take_touched() {
            match self.plan.memory(&name) {
                Some(memory) => self.files.insert(name, memory.encode(self.now)),
                None => self.files.remove(&name),
            };
        }
    }

    /// Another healer takes over, by what the one before has written.
    fn restart(&mut self, launches_exec: bool) {
        for Question { process, stage, .. } in std::mem::take(&mut self.questions) {
            let Some(stage) = stage else { continue };
            if launches_exec {
                let record = self.record(&process);
                (record.running, record.unseen) = (Some(stage), Some(stage));
            } else {
                self.record(&process).take_back_launch();
            }
        }
        for record in self.records.values_mut() {
            record.recalled = record.running;
        }
        let read = |(name, text): (&ProcessName, &Vec<u8>)| {
            let (memory, _) = Memory::decode(text).expect("it is what was written");
            (name.clone(), memory)
        };
        self.plan = Plan::recalling(self.files.iter().map(read));
        self.reload();
    }

    /// P2 and P4, at the moment of each order.
    fn check(&mut self, name: &ProcessName, what: &What) {
        let policy = self.policy(name);
        let now = self.now;
        self.check_dependencies(name, what);
        let record = self.record(name);
        if let What::Tell(Change::Moved { to, .. }) = what {
            if let State::Stopping { reason, .. } = to {
                record.asked |= reason.starts_with("to be restarted");
            }
            record.paused = matches!(to, State::Paused { .. });
            // What is ended on purpose and started again is, too.
            record.asked |=
                matches!(to, State::Stopping { reason, .. } if !reason.starts_with("hung"));
            if record.paused {
                // What ends now ends on purpose, and a trial is to be made anew.
                (record.failed, record.asked) = (false, false);
                if let Phase::HalfOpen { started } = &mut record.breaker {
                    *started = false;
                }
            }
        }
        match what {
            What::Launch => {
                assert_eq!(record.running, None, "{name}: launched beside a living instance");
                if std::mem::take(&mut record.asked) {
                    record.last_launch = Because::Asked;
                    record.failed = false;
                    return;
                }
                assert!(!record.paused, "{name}: launched while it is paused");
                match &mut record.breaker {
                    Phase::Open(until) => panic!("{name}: launched while Open until {until:?}"),
                    Phase::HalfOpen { started } => {
                        assert!(!*started, "{name}: a second start in one trial");
                        *started = true;
                    }
                    Phase::Closed if record.failed => {
                        record.restarts.push(now);
                        let recent = record
                            .restarts
                            .iter()
                            .filter(|start| now.since(**start) < policy.window)
                            .count();
                        assert!(recent <= policy.retries as usize, "{name}: {recent} restarts");
                    }
                    Phase::Closed => {}
                }
                let failed = std::mem::take(&mut record.failed);
                record.last_launch = if failed { Because::Failed } else { Because::First };
            }
            What::Stop { instance } => {
                assert_eq!(record.running, Some(*instance), "{name}: a stranger is to be ended");
            }
            What::Tell(Change::Ended { .. } | Change::LaunchFailed { .. }) => {
                record.failed = !record.paused;
            }
            What::Tell(Change::Started { .. }) => record.asked = false,
            // What was asked of an instance holds on with the next healer.
            What::Tell(Change::Adopted(instance)) => {
                record.asked &= record.recalled.take() == Some(*instance);
                record.unseen = None;
            }
            What::Tell(Change::BreakerOpened { until, .. } | Change::BreakerReopened { until }) => {
                assert!(until.since(now) >= policy.cooldown, "{name}: Open for too short a time");
                record.breaker = Phase::Open(*until);
                record.restarts.clear();
            }
            What::Tell(Change::Moved { to: State::Trial { .. }, .. }) => {
                if let Phase::Open(until) = record.breaker {
                    assert!(until <= now, "{name}: tried before the cooldown ended");
                    record.breaker = Phase::HalfOpen { started: false };
                }
            }
            What::Tell(Change::BreakerClosed) => record.breaker = Phase::Closed,
            // Forgotten with its breaker.
            What::Release => *record = Record { running: record.running, ..Record::default() },

            _ => {}
        }
    }

    /// Nothing is launched before what it cannot do without.
    fn check_dependencies(&mut self, name: &ProcessName, what: &What) {
        match what {
            What::Tell(Change::Waived { on, .. }) => {
                self.record(name).waived.insert(on.clone());
            }
            What::Tell(Change::Moved { to: State::Up { ready: true, .. }, .. }) => {
                for record in self.records.values_mut() {
                    record.waived.remove(name);
                }
            }
            What::Launch => {
                let mut processes = self.config.processes.iter();
                let process = processes.find(|process| process.name == *name);
                for dependency in &process.expect("it is configured").dependencies {
                    let Dependency { target, kind, on_failure, .. } = dependency;
                    let status = self.plan.status_of(target, self.now);
                    let is_ready = status
                        .is_some_and(|status| status.running.is_some_and(|running| running.ready));
                    let is_waived = *on_failure != OnFailure::Abort
                        && self.records[name].waived.contains(target);
                    assert!(
                        is_ready || is_waived || *kind == DependencyKind::After,
                        "{name} is launched before {target}"
                    );
                }
            }
            _ => {}
        }
    }

    fn answer(&mut self, luck: Luck) {
        if self.questions.is_empty() {
            return;
        }
        let Question { process: name, what, stage } = self.questions.remove(0);
        let running = self.records[&name].running;
        let found = |instance| Input::Found { instance, started: Time(0) };
        let input = match (what, luck) {
            (What::Launch, Luck::NodeFault) => {
                self.record(&name).take_back_launch();
                let orders = self.plan.on_node_fault(&name, "fork: EAGAIN".into(), self.now);
                return self.take(orders);
            }
            (What::Launch, Luck::Unclear) if self.dependencies_end(&name) => {
                self.record(&name).take_back_launch();
                Input::Postponed
            }
            (What::Launch, Luck::LaunchFails) => Input::LaunchFailed { reason: "ENOENT".into() },
            (What::Launch, _) => {
                let instance = stage.expect("a launch has a stage");
                self.record(&name).running = Some(instance);
                Input::Launched { instance }
            }
            (What::Stop { instance }, Luck::Unclear) => {
                Input::Stuck { instance, reason: "state D".into() }
            }
            (What::Stop { instance }, _) => {
                if running != Some(instance) {
                    return;
                }
                self.record(&name).running = None;
                self.record(&name).last_dead = Some(instance);
                Input::Ended { instance, exit: Exit::default() }
            }
            (What::Look | What::Prepare { .. }, Luck::Unclear) => {
                Input::Unclear { reason: "two of them".into() }
            }
            (What::Look, _) => running.map_or(Input::Missing, found),
            (What::Prepare { .. }, _) => running.map_or(Input::Prepared, found),
            (What::FindSuccessor { .. }, luck) if luck != Luck::Unclear => {
                running.map_or(Input::NoSuccessor, found)
            }
            // Still possible, asked again soon; or no question at all.
            (What::FindSuccessor { .. } | What::Release | What::Tell(_), _) => return,
        };
        self.feed(&name, input);
    }

    /// What a process depends on ends unnoticed; says whether that forbids a start.
    fn dependencies_end(&mut self, name: &ProcessName) -> bool {
        let process = self.plan.process(name).map(Arc::clone);
        for dependency in process.iter().flat_map(|process| &process.dependencies) {
            let target = &dependency.target;
            if let Some(instance) = self.record(target).running.take() {
                self.feed(target, Input::Ended { instance, exit: Exit::default() });
            }
        }
        !self.plan.may_start(name)
    }

    fn pass(&mut self, by: Duration) {
        let end = self.now.after(by);
        while let Some(deadline) = self.plan.next_deadline().filter(|deadline| *deadline <= end) {
            self.now = self.now.max(deadline);
            let orders = self.plan.on_time(self.now);
            self.take(orders);
            assert!(self.plan.next_deadline().is_none_or(|next| next > self.now), "it spins");
        }
        self.now = end;
    }

    fn befall(&mut self, fate: &Fate) {
        match fate.clone() {
            Fate::Ends(n, exit) => {
                let name = self.name(n);
                let Some(instance) = self.record(&name).ends() else { return };
                self.feed(&name, Input::Ended { instance, exit });
            }
            Fate::StartedByHand(n) => {
                let name = self.name(n);
                // Not while a launch is under way: then the race is lost whatever healer does.
                if self.records[&name].running.is_some() || !self.plan.seeks(&name) {
                    return;
                }
                let instance = self.instance();
                self.record(&name).running = Some(instance);
                self.feed(&name, Input::Found { instance, started: self.now });
            }
            Fate::Passes(millis) => self.pass(Duration::from_millis(millis)),
            Fate::Answers(luck) => self.answer(luck),
            Fate::Toggled(n) => {
                let n = n % self.configured.len();
                self.configured[n] = !self.configured[n];
                self.reload();
            }
            Fate::ReportedTwice(n) => {
                let name = self.name(n);
                if let Some(instance) = self.records[&name].last_dead {
                    self.feed(&name, Input::Ended { instance, exit: Exit::default() });
                }
            }
            Fate::Asked(n, request) => {
                let name = self.name(n);
                self.ask(&name, request);
            }
            Fate::Probed(n, healthy) => {
                let name = self.name(n);
                let instance = self.records[&name].running;
                let reason = "timed out".to_owned();
                self.feed(
                    &name,
                    if healthy {
                        Input::Healthy { instance }
                    } else {
                        Input::Unhealthy { instance, reason }
                    },
                );
            }
            Fate::Rewired(graph) => {
                self.rewire(graph);
                self.reload();
            }
            Fate::DependencyRestarted(n) => {
                let name = self.name(n);
                self.feed(&name, Input::Restart { reason: "db was restarted".into() });
            }
            Fate::HealerKilled { launches_exec, ended, away } => {
                for n in ended {
                    let name = self.name(n);
                    self.record(&name).ends();
                }
                self.now = self.now.after(Duration::from_millis(away));
                self.restart(launches_exec);
            }
        }
    }

    fn ask(&mut self, name: &ProcessName, request: Request) {
        self.record(name).asked |= !matches!(request, Request::Stop | Request::Pause { .. });
        if request == Request::Reset {
            self.record(name).restarts.clear();
        }
        let asked = self.plan.ask(name, request, "root".into(), self.now);
        self.take(asked.unwrap_or_default());
    }

    /// No more bad luck: everything must come up by itself.
    fn settle(&mut self) {
        for n in 0..self.configured.len() {
            self.configured[n] = true;
        }
        self.reload();
        for name in self.records.keys().cloned().collect::<Vec<_>>() {
            self.ask(&name, Request::Resume);
        }
        for _ in 0..10_000 {
            if !self.questions.is_empty() {
                self.answer(Luck::Good);
            } else if let Some(deadline) = self.plan.next_deadline() {
                let wait = deadline.since(self.now);
                self.pass(wait);
            } else {
                break;
            }
        }
        for (name, record) in &self.records {
            let state = self.plan.state(name);
            assert!(record.running.is_some(), "{name} was forgotten: {state:?}");
            assert!(
                matches!(state, Some(State::Up { ready: true, .. })),
                "{name} never came to rest: {state:?}"
            );
        }
    }
}

fn exits() -> impl Strategy<Value = Exit> {
    let end = prop_oneof![
        Just(None),
        (0..3).prop_map(|code| Some(End::Code(code))),
        prop::sample::select(vec![9, 11, 15])
            .prop_map(|n| Some(End::Signal { signal: Signal(n), core_dumped: false })),
    ];
    end.prop_map(|end| Exit { end, ..Exit::default() })
}

fn graphs() -> impl Strategy<Value = Graph> {
    let kinds = prop_oneof![4 => Just(DependencyKind::Requires), 1 => Just(DependencyKind::After)];
    let outcomes =
        prop::sample::select(vec![OnFailure::Abort, OnFailure::Skip, OnFailure::Degrade]);
    let dependency = (kinds, outcomes, 0..20_u64, any::<bool>()).prop_map(
        |(kind, on_failure, secs, restart)| {
            let (target, max_wait) = (ProcessName::new(""), Duration::from_secs(secs));
            Dependency { target, kind, on_failure, max_wait, restart }
        },
    );
    prop::array::uniform3(prop::option::weighted(0.8, dependency))
}

fn requests() -> impl Strategy<Value = Request> {
    prop_oneof![
        Just(Request::Stop),
        Just(Request::Pause { lasting: None }),
        (0..100_u64).prop_map(|secs| Request::Pause { lasting: Some(Duration::from_secs(secs)) }),
        Just(Request::Resume),
        Just(Request::Restart),
        Just(Request::Reset),
    ]
}

fn fates() -> impl Strategy<Value = Fate> {
    let luck = prop_oneof![
        8 => Just(Luck::Good),
        1 => Just(Luck::Unclear),
        1 => Just(Luck::LaunchFails),
        1 => Just(Luck::NodeFault),
    ];
    prop_oneof![
        4 => (0..3_usize, exits()).prop_map(|(n, exit)| Fate::Ends(n, exit)),
        1 => (0..3_usize).prop_map(Fate::StartedByHand),
        2 => (0..5_000_u64).prop_map(Fate::Passes),
        1 => (0..100_000_u64).prop_map(Fate::Passes),
        10 => luck.prop_map(Fate::Answers),
        1 => (0..3_usize).prop_map(Fate::Toggled),
        1 => (0..3_usize).prop_map(Fate::ReportedTwice),
        2 => (0..3_usize, requests()).prop_map(|(n, request)| Fate::Asked(n, request)),
        1 => (0..3_usize, any::<bool>()).prop_map(|(n, healthy)| Fate::Probed(n, healthy)),
        1 => (0..3_usize).prop_map(Fate::DependencyRestarted),
        1 => graphs().prop_map(Fate::Rewired),
        2 => (any::<bool>(), prop::collection::vec(0..3_usize, 0..3), 0..100_000_u64)
            .prop_map(|(launches_exec, ended, away)| {
                Fate::HealerKilled { launches_exec, ended, away }
            }),
    ]
}

fn processes(retries: u32, window: u64, half_open: u64) -> Vec<Process> {
    ["db", "cache", "web"]
        .map(|name| {
            let mut process = fixture::process(name);
            process.recovery.breaker.retries = retries;
            process.recovery.breaker.window = Duration::from_secs(window);
            process.recovery.breaker.half_open = Duration::from_secs(half_open);
            process.recovery.breaker.cooldown_factor = 2.0;
            process.recovery.backoff.jitter = 0.5;
            process
        })
        .into()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// P1, P2 and P4 whatever befalls the machine, in whatever order.
    #[test]
    fn nothing_is_lost_doubled_or_stormed(
        retries in 0_u32..4,
        window in 1_u64..90,
        half_open in 0_u64..5,
        graph in graphs(),
        fates in prop::collection::vec(fates(), 0..300),
    ) {
        let mut world = World::new(processes(retries, window, half_open));
        world.befall(&Fate::Rewired(graph));
        for fate in fates {
            world.befall(&fate);
        }
        world.settle();
    }
}

fn tells(orders: &[Order]) -> Vec<&Change> {
    let tell = |order: &'_ Order| matches!(order.what, What::Tell(_));
    orders
        .iter()
        .filter(|order| tell(order))
        .filter_map(|order| match &order.what {
            What::Tell(change) => Some(change),
            _ => None,
        })
        .collect()
}

/// A plan in which these processes' launches have been ordered as far as slots go.
fn queued(names: &[&str], slots: usize) -> (Plan, Vec<Order>) {
    let mut plan = Plan::new();
    let mut config = fixture::config(names.iter().map(|name| fixture::process(name)).collect());
    config.max_parallel_launches = slots;
    let _ = plan.reload(&config, Time(1));
    let mut orders = Vec::new();
    for name in names.iter().map(|name| ProcessName::new(name)) {
        let _ = plan.on(&name, Input::Missing, Time(1));
        orders.extend(plan.on(&name, Input::Prepared, Time(1)));
    }
    orders.retain(|order| order.what == What::Launch);
    (plan, orders)
}

#[test]
fn no_more_launches_than_slots_and_the_longest_waiting_goes_next() {
    let (mut plan, launches) = queued(&["a", "b", "c", "d"], 2);
    let first: Vec<_> = launches.iter().map(|order| order.process.as_str()).collect();
    assert_eq!(first, ["a", "b"]);
    let instance = Instance { pid: Pid(1), start_ticks: 1 };
    let orders = plan.on(&ProcessName::new("b"), Input::Launched { instance }, Time(2));
    let next: Vec<_> = orders.iter().filter(|order| order.what == What::Launch).collect();
    assert_eq!(next.len(), 1);
    assert_eq!(next[0].process.as_str(), "c");
}

#[test]
fn a_node_fault_makes_all_wait_is_told_once_and_costs_nobody_budget() {
    let (mut plan, launches) = queued(&["a", "b", "c"], 1);
    let mut launching = launches[0].process.clone();
    let mut now = Time(1);
    let mut waits = Vec::new();
    let mut told = 0;
    for _ in 0..8 {
        let orders = plan.on_node_fault(&launching, "fork: EAGAIN".into(), now);
        told += tells(&orders).iter().filter(|c| matches!(c, Change::NodeFault { .. })).count();
        let due = plan.next_deadline().expect("something waits");
        assert!(plan.on_time(now).iter().all(|order| order.what != What::Launch));
        waits.push(due.since(now).as_millis());
        now = due;
        let orders = plan.on_time(now);
        let next: Vec<_> = orders.iter().filter(|order| order.what == What::Launch).collect();
        assert_eq!(next.len(), 1);
        launching = next[0].process.clone();
    }
    assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
    assert_eq!(told, 1);
    assert_eq!(plan.state(&launching), Some(State::Starting));
}

#[test]
fn a_reload_touches_only_what_changed_and_keeps_an_open_breaker() {
    let mut world = World::new(processes(0, 60, 2));
    world.answer(Luck::Good);
    while !world.questions.is_empty() {
        world.answer(Luck::Good);
    }
    let db = ProcessName::new("db");
    world.befall(&Fate::Ends(0, Exit::default()));
    let open = world.plan.state(&db);
    assert!(matches!(open, Some(State::BreakerOpen { .. })), "{open:?}");
    let mut config = world.config.clone();
    let mut changed = Process::clone(&config.processes[0]);
    changed.recovery.breaker.retries = 100;
    config.processes[0] = Arc::new(changed);
    assert_eq!(world.plan.reload(&config, world.now), [], "nothing to look at, nothing to stop");
    assert_eq!(world.plan.state(&db), open);
}

#[test]
fn removed_while_its_launch_is_under_way_it_is_let_go_when_that_ends() {
    let (mut plan, _) = queued(&["a"], 1);
    let a = ProcessName::new("a");
    assert_eq!(plan.reload(&fixture::config(vec![]), Time(2)), []);
    let instance = Instance { pid: Pid(1), start_ticks: 1 };
    let orders = plan.on(&a, Input::Launched { instance }, Time(3));
    assert_eq!(orders, [Order { process: a.clone(), what: What::Release }]);
    assert_eq!(plan.state(&a), None);
}

#[test]
fn removed_and_put_back_while_its_launch_is_under_way_it_is_not_started_twice() {
    let (mut plan, _) = queued(&["a"], 1);
    let a = ProcessName::new("a");
    let _ = plan.reload(&fixture::config(vec![]), Time(2));
    assert_eq!(plan.reload(&fixture::config(vec![fixture::process("a")]), Time(2)), []);
    let instance = Instance { pid: Pid(1), start_ticks: 1 };
    let _ = plan.on(&a, Input::Launched { instance }, Time(3));
    assert_eq!(plan.state(&a), Some(State::Up { instance, ready: false }));
}

#[test]
fn an_entry_that_becomes_one_that_is_only_watched_begins_anew_when_its_launch_has_ended() {
    let (mut plan, _) = queued(&["a"], 1);
    let a = ProcessName::new("a");
    assert_eq!(plan.reload(&fixture::config(vec![fixture::remote("a")]), Time(2)), []);
    let instance = Instance { pid: Pid(1), start_ticks: 1 };
    let orders = plan.on(&a, Input::Launched { instance }, Time(3));
    assert_eq!(orders, [Order { process: a.clone(), what: What::Release }]);
    let _ = plan.on(&a, Input::Healthy { instance: None }, Time(4));
    assert_eq!(plan.state(&a), Some(State::Reachable));
    let orders = plan.reload(&fixture::config(vec![fixture::process("a")]), Time(5));
    let what: Vec<_> = orders.into_iter().map(|order| order.what).collect();
    assert_eq!(what, [What::Release, What::Look]);
}
