//! What people are shown, word for word.

use rstest::rstest;

use super::*;
use crate::control::protocol::{
    Breaker, Ebpf, Failures, HostFault, Instance, LaunchFailure, Paused, Sent, Wait,
};

fn up(name: &str) -> Process {
    Process {
        name: name.to_owned(),
        enabled: true,
        ok: true,
        state: "up".to_owned(),
        ready: Some(true),
        since: Some("2026-01-02T03:04:05.000Z".to_owned()),
        since_secs: Some(275_000.0),
        instance: Some(Instance {
            pid: 4_194_303,
            started_at: "2026-01-02T03:04:04.000Z".to_owned(),
            uptime_secs: 275_001.0,
            adopted: true,
        }),
        failures: Failures { count: 0, retries: 3, window_secs: 60.0 },
        breaker: Breaker { phase: "closed".to_owned(), ..Breaker::default() },
        ..Process::default()
    }
}

fn in_state(name: &str, state: &str, secs: f64) -> Process {
    Process {
        ok: false,
        state: state.to_owned(),
        ready: None,
        since_secs: Some(secs),
        instance: None,
        ..up(name)
    }
}

fn killed_by(comm: &str) -> Exit {
    Exit {
        pid: 811,
        at: "2026-01-02T03:04:05.000Z".to_owned(),
        ago_secs: 5.0,
        cause: format!("SIGKILL by {comm} (PID 812, root)"),
        signal: Some("SIGKILL".to_owned()),
        killer: Some(Killer {
            kind: "process".to_owned(),
            pid: Some(812),
            comm: Some(comm.to_owned()),
            uid: Some(0),
        }),
        runtime_secs: Some(3_725.0),
        peak_rss_bytes: Some(5 << 20),
        ..Exit::default()
    }
}

fn healer(processes: Vec<Process>) -> Status {
    Status {
        version: "1.2.3".to_owned(),
        pid: 77,
        uptime_secs: 90_061.0,
        config: "/etc/healer/config.yaml".to_owned(),
        capabilities: ["CAP_KILL", "CAP_SETUID", "CAP_PERFMON", "CAP_BPF"]
            .map(ToOwned::to_owned)
            .to_vec(),
        ebpf: Ebpf { loaded: true, ..Ebpf::default() },
        processes,
        ..Status::default()
    }
}

/// The lines of the table alone.
fn rows(processes: Vec<Process>) -> String {
    let text = status(&healer(processes), Colours::None);
    text.split_once("\n\n").unwrap().1.to_owned()
}

fn many() -> Vec<Process> {
    let held = Process {
        waiting_for: vec![Wait {
            process: "db".to_owned(),
            reason: "breaker-open".to_owned(),
            changes: Some("2026-01-02T03:07:00.000Z".to_owned()),
            until: Some("2026-01-02T03:04:30.000Z".to_owned()),
            ..Wait::default()
        }],
        ..in_state("api", "held", 12.0)
    };
    let open = Process {
        failures: Failures { count: 4, retries: 3, window_secs: 60.0 },
        breaker: Breaker {
            phase: "open".to_owned(),
            until: Some("2026-01-02T03:07:00.000Z".to_owned()),
            until_secs: Some(171.5),
        },
        last_exit: Some(Exit { code: Some(1), ago_secs: 9.0, ..Exit::default() }),
        until_secs: Some(171.5),
        ..in_state("db", "breaker_open", 8.5)
    };
    let paused = Process {
        ok: true,
        paused: Some(Paused { by: "root".to_owned(), ..Paused::default() }),
        last_exit: Some(Exit {
            code: Some(0),
            ago_secs: 4.0,
            last_signal: Some(Sent {
                signal: "SIGTERM".to_owned(),
                by: killed_by("healer").killer.unwrap(),
            }),
            ..Exit::default()
        }),
        ..in_state("batch", "paused", 4.2)
    };
    let killed = Process {
        ready: Some(false),
        since_secs: Some(0.25),
        failures: Failures { count: 1, retries: 3, window_secs: 60.0 },
        last_exit: Some(killed_by("bash")),
        ..up("web")
    };
    let unknown = Process {
        reason: Some("812 may be it: say match.cmdline".to_owned()),
        ..in_state("cache", "unknown", 3_700.0)
    };
    let disabled = Process {
        enabled: false,
        ok: true,
        state: "disabled".to_owned(),
        since_secs: None,
        ..in_state("old", "disabled", 0.0)
    };
    vec![killed, held, open, paused, unknown, disabled]
}

#[test]
fn every_process_has_its_line() {
    let expected = "\
NAME   STATE            PID      UPTIME  FAILED  BREAKER     LAST EXIT                 WHY
web    up 250ms         4194303  3d04h   1/3                 SIGKILL by bash (812), …
api    held 12s                          0/3                                           db is breake…
db     breaker-open 8s                   4/3     open 2m51s  exit 1, 9s ago
batch  paused 4s                         0/3                 exit 0 after SIGTERM by…  by root
cache  unknown 1h01m                     0/3                                           812 may be i…
old    disabled
";
    assert_eq!(rows(many()), expected);
}

#[test]
fn healer_tells_of_itself_first() {
    let reload = Reload {
        ago_secs: 3_600.0,
        faults: vec!["processes[2].name (line 31, column 5): missing".to_owned(), "x".to_owned()],
        ..Reload::default()
    };
    let fault = HostFault {
        key: "pid_file_directory".to_owned(),
        message: "/run/healer is writable by everyone".to_owned(),
    };
    let status = Status {
        ebpf: Ebpf {
            loaded: false,
            reason: Some("this kernel has no BTF (/sys/kernel/btf/vmlinux is missing)".to_owned()),
            lost: Some("who killed it, and what others start".to_owned()),
        },
        last_reload: Some(reload),
        host_faults: vec![fault],
        ..healer(vec![])
    };
    let expected = "\
healer 1.2.3, PID 77, up 1d01h, /etc/healer/config.yaml
capabilities  CAP_KILL, CAP_SETUID, CAP_PERFMON, CAP_BPF
eBPF          not loaded: this kernel has no BTF (/sys/kernel/btf/vmlinux is missing); lost: who
              killed it, and what others start
last reload   1h00m ago, refused: processes[2].name (line 31, column 5): missing (and 1 more)
host fault    pid_file_directory: /run/healer is writable by everyone

no processes are configured
";
    assert_eq!(super::status(&status, Colours::None), expected);
}

#[rstest]
#[case(0, "none")]
#[case(2, "CAP_0, CAP_1")]
#[case(40, "40, listed by status --json")]
fn few_capabilities_are_named(#[case] count: usize, #[case] expected: &str) {
    let names: Vec<_> = (0..count).map(|number| format!("CAP_{number}")).collect();
    assert_eq!(capabilities(&names), expected);
}

#[test]
fn nothing_is_wider_than_100_columns_and_names_keep_their_beginning() {
    let mut worst = Process {
        failures: Failures { count: 100_000, retries: 100_000, window_secs: 1.0 },
        last_exit: Some(killed_by("abcdefghijklmno")),
        host_faults: vec![HostFault { key: "command".to_owned(), message: "x".repeat(200) }],
        breaker: Breaker {
            phase: "open".to_owned(),
            until_secs: Some(315_360_000.0),
            ..Breaker::default()
        },
        ..in_state(&"n".repeat(64), "breaker_open", 400_000_000.0)
    };
    worst.instance = up("x").instance;
    worst.instance.as_mut().unwrap().uptime_secs = 400_000_000.0;
    let text = status(&healer(vec![worst.clone(), up("web")]), Colours::None);
    for line in text.lines() {
        assert!(line.width() <= 100, "{} columns: {line}", line.width());
    }
    assert!(text.contains("nnnnnnnnnnn…  "), "{text}");
    // In full elsewhere.
    let text = process(&worst, Colours::None);
    assert!(text.contains(&"n".repeat(64)) && text.contains(&"x".repeat(200)), "{text}");
    assert!(text.contains("SIGKILL by abcdefghijklmno (PID 812, root)"), "{text}");
}

#[test]
fn what_others_chose_reaches_no_terminal_raw_and_wide_letters_keep_the_columns() {
    let evil = Process { last_exit: Some(killed_by("\x1b[2J\u{202e}\n日本")), ..up("a") };
    let paused = Process {
        paused: Some(Paused { by: "root".to_owned(), ..Paused::default() }),
        ..evil.clone()
    };
    let shown = rows(vec![paused]);
    assert_eq!(shown.lines().count(), 2);
    let column = |line: &str, word: &str| line[..line.find(word).unwrap()].width();
    let (heading, row) = shown.split_once('\n').unwrap();
    assert_eq!(column(heading, "WHY"), column(row, "by root"), "{shown}");
    for text in [shown, process(&evil, Colours::None)] {
        assert!(text.contains("?[2J??日本"), "{text}");
        assert!(!text.contains('\x1b') && !text.contains('\u{202e}'), "{text}");
    }
}

#[test]
fn one_process_is_told_in_full() {
    let [killed, held, ..] = &many()[..] else { panic!("there are many") };
    let killed = Process {
        launch_failure: Some(LaunchFailure {
            reason: "exec: no such file".to_owned(),
            at: "2026-01-02T03:04:06.000Z".to_owned(),
            ago_secs: 4.0,
        }),
        host_faults: vec![HostFault {
            key: "working_dir".to_owned(),
            message: "/srv does not exist".to_owned(),
        }],
        ..killed.clone()
    };
    let expected = "\
name          web
state         up, since 2026-01-02T03:04:05.000Z
instance      PID 4194303, adopted, up 3d04h, since 2026-01-02T03:04:04.000Z
failures      1 of 3 in 1m00s
breaker       closed
last exit     SIGKILL by bash (PID 812, root) (PID 811, 5s ago, 2026-01-02T03:04:05.000Z, ran 1h02m, peak memory 5120 KiB)
launch failed exec: no such file (4s ago, 2026-01-02T03:04:06.000Z)
host fault    working_dir: /srv does not exist
";
    assert_eq!(process(&killed, Colours::None), expected);
    let text = process(held, Colours::None);
    let waiting = "\nwaiting for   db: breaker-open until 2026-01-02T03:07:00.000Z \
        (max_wait_secs: until 2026-01-02T03:04:30.000Z)\n";
    assert!(text.contains(waiting), "{text}");
    let degraded =
        Process { degraded_without: vec!["cache".to_owned(), "log".to_owned()], ..up("web") };
    assert!(process(&degraded, Colours::None).contains("\ndegraded      without cache, log\n"));
    assert!(rows(vec![degraded]).ends_with("  degraded: without cache, log\n"));
}

#[test]
fn only_a_terminal_gets_colours() {
    let plain = status(&healer(many()), Colours::None);
    assert!(!plain.contains('\x1b'));
    let coloured = status(&healer(many()), Colours::Ansi);
    assert!(coloured.contains("\x1b[31mheld 12s\x1b[0m"), "{coloured}");
    assert!(coloured.contains("\x1b[33mpaused 4s\x1b[0m"), "{coloured}");
    let stripped = ["31", "32", "33", "0"]
        .iter()
        .fold(coloured, |text, code| text.replace(&format!("\x1b[{code}m"), ""));
    assert_eq!(stripped, plain);
    assert!(process(&up("web"), Colours::Ansi).contains("state         \x1b[32mready\x1b[0m,"));
}

#[test]
fn an_outcome_says_how_it_stands_and_why_it_is_not_done() {
    let mut told = Outcome { request: "stop".to_owned(), done: true, process: up("web") };
    assert_eq!(outcome(&told), "web: ready, PID 4194303\n");
    told.done = false;
    told.process.state = "stopping".to_owned();
    told.process.ready = None;
    told.process.reason = Some("stopped by root; still there after SIGKILL".to_owned());
    let expected = "web: stopping, PID 4194303 (stopped by root; still there after SIGKILL)\n";
    assert_eq!(outcome(&told), expected);
}

#[test]
fn a_reload_tells_its_outcome_and_each_fault() {
    let taken = Reload {
        taken: true,
        processes: 1,
        warnings: vec!["odd".to_owned()],
        host_faults: vec!["process web: command: none".to_owned()],
        needs_restart: vec!["log_level".to_owned()],
        ..Reload::default()
    };
    let expected = "\
reloaded, 1 process
warning: odd
host fault: process web: command: none
warning: log_level: for healer itself, this change takes effect when it is restarted
";
    assert_eq!(reload(&taken), expected);
    let refused = Reload { faults: vec!["a".to_owned(), "b".to_owned()], ..Reload::default() };
    let expected = "refused; the configuration is as before\nfault: a\nfault: b\n";
    assert_eq!(reload(&refused), expected);
}

#[rstest]
#[case(0.0, "0ms")]
#[case(0.999, "999ms")]
#[case(59.9, "59s")]
#[case(60.0, "1m00s")]
#[case(3_599.0, "59m59s")]
#[case(86_399.0, "23h59m")]
#[case(400_000.0, "4d15h")]
#[case(-1.0, "0ms")]
#[case(f64::NAN, "0ms")]
fn spans_have_their_two_largest_units(#[case] secs: f64, #[case] expected: &str) {
    assert_eq!(span(secs), expected);
}

#[rstest]
#[case("abc", 3, "abc")]
#[case("abcd", 3, "ab…")]
#[case("日本", 3, "日…")]
#[case("日本", 4, "日本")]
#[case("abc", 1, "…")]
fn what_does_not_fit_is_cut_with_a_mark(
    #[case] text: &str,
    #[case] width: usize,
    #[case] expected: &str,
) {
    assert_eq!(cut(text, width), expected);
}
