//! Every rule of the format with the exact words of its fault, and every default.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::*;
use rstest::rstest;

use super::super::marks::locate;
use super::super::{
    Backoff, Breaker, InheritEnv, Limit, Matching, Monitor, Output, OutputFile, Recovery, Resource,
    Restart, RunAs, Stop,
};
use super::*;
use crate::event::Signal;

const ROOT: Reader = Reader { as_root: true, as_pid1: false, sudo_uid: None, file_only: false };
const USER: Reader = Reader { as_root: false, ..ROOT };
const USER_FILE_ONLY: Reader = Reader { file_only: true, ..USER };

fn checked(text: &str, reader: &Reader) -> Checked {
    check(text.as_bytes(), &Environment::new(), reader)
        .unwrap_or_else(|refused| panic!("{:#?}", refused.faults))
}

/// The faults as they are printed.
fn faults_of(text: &str, environment: &Environment, reader: &Reader) -> Vec<String> {
    let Err(mut refused) = check(text.as_bytes(), environment, reader) else { return Vec::new() };
    locate(&mut refused.faults, text);
    refused.faults.iter().map(ToString::to_string).collect()
}

fn faults(text: &str) -> Vec<String> {
    faults_of(text, &Environment::new(), &ROOT)
}

/// A file whose one process has `line` as its line 6, column 5 on.
fn with(line: &str) -> String {
    format!(
        "processes:\n  - name: web\n    command: /bin/web\n    run_as_user: web\n    \
         monitor: {{ type: pid, pid_file_path: /run/web.pid }}\n    {line}\n"
    )
}

/// A file with one process, whose line 2 is all there is.
fn only(line: &str) -> String {
    format!("processes:\n  - {{ {line} }}\n")
}

/// Entries that are told apart by their names and PID files only.
fn entries(lines: &[&str]) -> String {
    lines.iter().fold("processes:\n".to_owned(), |text, line| {
        text + "  - { command: /bin/web, run_as_user: web, " + line + " }\n"
    })
}

#[rstest]
#[case::nothing("", "is empty: a map with the key `processes` is expected")]
#[case::comments("# nothing\n", "is empty: a map with the key `processes` is expected")]
#[case::text("hello", "a map with the key `processes` is expected, not the text \"hello\"")]
#[case::list("- a", "a map with the key `processes` is expected, not a list")]
#[case::no_processes(
    "log_level: info",
    "the key `processes` is missing (`processes: []` guards nothing)"
)]
#[case::null("processes:", "the key `processes` is missing (`processes: []` guards nothing)")]
#[case::map("processes: {}", "processes (line 1, column 12): a list is expected, not a map")]
#[case::element(
    "processes: [1]",
    "processes[0] (line 1, column 13): a map is expected, not the number 1"
)]
#[case::not_yaml(
    "a: [1\nb: 2",
    "line 2, column 2: is not YAML: illegal placement of ':' indicator"
)]
#[case::tab(
    "a:\n\t- b",
    "line 2, column 2: is not YAML: tabs disallowed within this context (block indentation)"
)]
#[case::two_documents(
    "processes: []\n---\nprocesses: []",
    "line 2, column 1: a second document begins: one is expected"
)]
#[case::unknown_anchor(
    "processes: *x",
    "line 1, column 12: is not YAML: while parsing node, found unknown anchor"
)]
#[case::unknown_key(
    "processes: []\nlog_levle: info",
    "log_levle (line 2, column 1): unknown key \"log_levle\", did you mean \"log_level\"?"
)]
#[case::strange_key(
    "processes: []\n\"a\\e.b\": 1",
    "[\"a\\u{1b}.b\"] (line 2, column 1): unknown key \"a\\u{1b}.b\""
)]
#[case::twice(
    "log_level: info\nprocesses: []\nlog_level: warn",
    "log_level (line 3, column 1): given twice: remove one of the two"
)]
#[case::merge_key(
    "processes: []\n<<: {}",
    "merge keys (`<<`) are not supported: write the keys out"
)]
#[case::number_as_key("processes: []\n1: a", "the number 1 as a key must be in quotes")]
#[case::map_as_key("processes: []\n? {a: b}\n: c", "a map as a key must be in quotes")]
#[case::tag(
    "processes: []\nlog_level: !secret info",
    "log_level (line 2, column 12): the tag \"secret\" is not supported: remove it"
)]
#[case::level(
    "processes: []\nlog_level: inof",
    "log_level (line 2, column 12): \"inof\" is not one of error, warn, info, debug, trace, did you mean \"info\"?"
)]
#[case::format(
    "processes: []\nlog_format: xml",
    "log_format (line 2, column 13): \"xml\" is not one of text, json"
)]
#[case::log_directory(
    "processes: []\nlog_directory: log",
    "log_directory (line 2, column 16): must be an absolute path, \"log\" is not"
)]
#[case::own_directory(
    "processes: []\npid_file_directory: ''",
    "pid_file_directory (line 2, column 21): must not be empty"
)]
#[case::launches(
    "processes: []\nmax_parallel_launches: 0",
    "max_parallel_launches (line 2, column 24): must be from 1 to 1024, not 0"
)]
#[case::fraction(
    "processes: []\nmax_parallel_launches: 1.5",
    "max_parallel_launches (line 2, column 24): a whole number is expected, not the number 1.5"
)]
#[case::deep(&format!("processes: {}{}", "[".repeat(20), "]".repeat(20)), "line 1, column 27: nested more than 16 levels deep")]
#[case::deeper(&format!("processes: {}", "[".repeat(100_000)), "line 1, column 267: is not YAML: recursion limit exceeded")]
#[case::long_key(&format!("processes: []\n{}: 1", "k".repeat(300)), "a key is longer than 256 bytes")]
fn a_file_is_refused(#[case] text: &str, #[case] fault: &str) {
    assert_eq!(faults(text), [fault]);
}

#[rstest]
#[case::bytes(b"processes: []\n# \xff", "line 2 is not UTF-8 text")]
#[case::utf16(b"\xff\xfea\0:\0", "line 1 is not UTF-8 text")]
fn bytes_that_are_no_text_are_refused(#[case] bytes: &[u8], #[case] fault: &str) {
    let refused = check(bytes, &Environment::new(), &ROOT).unwrap_err();
    assert_eq!(refused.faults[0].to_string(), fault);
}

#[rstest]
#[case::name_missing(
    "command: /x, run_as_root: true, monitor: {type: ebpf}",
    "processes[0] (line 2, column 5): the key `name` is missing"
)]
#[case::command_missing(
    "name: a, run_as_root: true, monitor: {type: ebpf}",
    "processes[0] (line 2, column 5): the key `command` is missing (only what is watched by `type: network` alone needs none)"
)]
#[case::monitor_missing(
    "name: a, command: /x, run_as_root: true",
    "processes[0] (line 2, column 5): the key `monitor` is missing"
)]
#[case::name_empty(
    "name: '', command: /x, run_as_root: true, monitor: {type: ebpf}",
    "processes[0].name (line 2, column 13): \"\" is no name: 1 to 64 of A-Z a-z 0-9 _ . @ - are, beginning with a letter or digit"
)]
#[case::name_is_a_path(
    "name: ../a, command: /x, run_as_root: true, monitor: {type: ebpf}",
    "processes[0].name (line 2, column 13): \"../a\" is no name: 1 to 64 of A-Z a-z 0-9 _ . @ - are, beginning with a letter or digit"
)]
#[case::name_is_a_number(
    "name: 12, command: /x, run_as_root: true, monitor: {type: ebpf}",
    "processes[0].name (line 2, column 13): a text is expected, not the number 12: put it in quotes"
)]
#[case::name_is_healer(
    "name: healer, command: /x, run_as_root: true, monitor: {type: ebpf}",
    "processes[0].name (line 2, column 13): \"healer\" is healer's own name: choose another"
)]
#[case::command_empty(
    "name: a, command: '', run_as_root: true, monitor: {type: ebpf}",
    "processes[0].command (line 2, column 25): must not be empty"
)]
#[case::command_relative(
    "name: a, command: bin/x, run_as_root: true, monitor: {type: ebpf}",
    "processes[0].command (line 2, column 25): must be an absolute path, or a bare name that PATH holds; \"bin/x\" is neither"
)]
#[case::command_nul(
    "name: a, command: \"/x\\0\", run_as_root: true, monitor: {type: ebpf}",
    "processes[0].command (line 2, column 25): must not contain a NUL character"
)]
#[case::no_user(
    "name: a, command: /x, monitor: {type: ebpf}",
    "processes[0] (line 2, column 5): healer runs as root, so it must know whose rights this gets: say run_as_user: NAME, or run_as_root: true for all of root's rights"
)]
#[case::not_as_root_is_no_user(
    "name: a, command: /x, run_as_root: false, monitor: {type: ebpf}",
    "processes[0] (line 2, column 5): healer runs as root, so it must know whose rights this gets: say run_as_user: NAME, or run_as_root: true for all of root's rights"
)]
#[case::both(
    "name: a, command: /x, run_as_root: true, run_as_user: b, monitor: {type: ebpf}",
    "processes[0].run_as_user (line 2, column 61): run_as_user and run_as_root: true exclude each other: remove one"
)]
#[case::group_of_root(
    "name: a, command: /x, run_as_root: true, run_as_group: b, monitor: {type: ebpf}",
    "processes[0].run_as_group (line 2, column 62): has no meaning without run_as_user"
)]
#[case::flag(
    "name: a, command: /x, run_as_root: 'yes', monitor: {type: ebpf}",
    "processes[0].run_as_root (line 2, column 42): true or false is expected, not the text \"yes\""
)]
#[case::user(
    "name: a, command: /x, run_as_user: 4294967295, monitor: {type: ebpf}",
    "processes[0].run_as_user (line 2, column 42): must be from 0 to 4294967294, not 4294967295"
)]
#[case::user_empty(
    "name: a, command: /x, run_as_user: '', monitor: {type: ebpf}",
    "processes[0].run_as_user (line 2, column 42): must not be empty"
)]
#[case::monitor_kind(
    "name: a, command: /x, run_as_root: true, monitor: pid",
    "processes[0].monitor (line 2, column 57): a map or a list of maps is expected, not the text \"pid\""
)]
#[case::no_monitor(
    "name: a, command: /x, run_as_root: true, monitor: []",
    "processes[0].monitor (line 2, column 57): must not be empty: say how the process is watched"
)]
#[case::no_type(
    "name: a, command: /x, run_as_root: true, monitor: {}",
    "processes[0].monitor (line 2, column 57): the key `type` is missing"
)]
#[case::monitor_type(
    "name: a, command: /x, run_as_root: true, monitor: {type: PID}",
    "processes[0].monitor.type (line 2, column 64): \"PID\" is not one of pid, network, ebpf, did you mean \"pid\"?"
)]
#[case::no_pid_file(
    "name: a, command: /x, run_as_root: true, monitor: {type: pid}",
    "processes[0].monitor (line 2, column 57): the key `pid_file_path` is missing"
)]
#[case::relative_pid_file(
    "name: a, command: /x, run_as_root: true, monitor: {type: pid, pid_file_path: a.pid}",
    "processes[0].monitor.pid_file_path (line 2, column 84): must be an absolute path, \"a.pid\" is not"
)]
#[case::interval(
    "name: a, command: /x, run_as_root: true, monitor: {type: pid, pid_file_path: /a, interval_secs: 0}",
    "processes[0].monitor.interval_secs (line 2, column 103): must be greater than 0: from 0.1 to 86400, not the number 0"
)]
#[case::typo(
    "name: a, command: /x, run_as_root: true, monitor: {type: pid, pid_file_path: /a, intervall_secs: 1}",
    "processes[0].monitor.intervall_secs (line 2, column 88): unknown key \"intervall_secs\", did you mean \"interval_secs\"?"
)]
#[case::pid_and_pid(
    "name: a, command: /x, run_as_root: true, monitor: [{type: pid, pid_file_path: /a}, {type: pid, pid_file_path: /b}]",
    "processes[0].monitor[1].type (line 2, column 97): a process has one PID file: remove the second `pid`"
)]
#[case::network_and_network(
    "name: a, command: /x, run_as_root: true, monitor: [{type: network, target_url: 'tcp://a:1'}, {type: network, target_url: 'tcp://b:1'}]",
    "processes[0].monitor[1].type (line 2, column 107): a process has one probe: remove the second `network`"
)]
#[case::ebpf_and_ebpf(
    "name: a, command: /x, run_as_root: true, monitor: [{type: ebpf}, {type: ebpf}]",
    "processes[0].monitor[1].type (line 2, column 79): `ebpf` is given twice: remove one"
)]
fn an_entry_is_refused(#[case] line: &str, #[case] fault: &str) {
    assert_eq!(faults(&only(line)), [fault]);
}

#[rstest]
#[case::arg(
    "args: [8080]",
    "args[0] (line 6, column 12): a text is expected, not the number 8080: put it in quotes"
)]
#[case::args("args: -v", "args (line 6, column 11): a list is expected, not the text \"-v\"")]
#[case::env(
    "env: { A: 1 }",
    "env.A (line 6, column 15): a text is expected, not the number 1: put it in quotes"
)]
#[case::env_name(
    "env: { 'A=B': c }",
    "env[\"A=B\"] (line 6, column 12): is no variable's name: it must not be empty nor contain = or NUL"
)]
#[case::inherit(
    "inherit_env: PATH",
    "inherit_env (line 6, column 18): true, false or a list of variables is expected, not the text \"PATH\""
)]
#[case::inherit_name(
    "inherit_env: ['']",
    "inherit_env[0] (line 6, column 19): is no variable's name: it must not be empty nor contain = or NUL"
)]
#[case::working_dir(
    "working_dir: srv",
    "working_dir (line 6, column 18): must be an absolute path, \"srv\" is not"
)]
#[case::umask(
    "umask: 22",
    "umask (line 6, column 12): an octal number in quotes from \"000\" to \"777\" is expected, not the number 22"
)]
#[case::umask_high(
    "umask: '1777'",
    "umask (line 6, column 12): an octal number in quotes from \"000\" to \"777\" is expected, not the text \"1777\""
)]
#[case::umask_not_octal(
    "umask: '028'",
    "umask (line 6, column 12): an octal number in quotes from \"000\" to \"777\" is expected, not the text \"028\""
)]
#[case::limit_name(
    "limits: { nofiles: 1 }",
    "limits.nofiles (line 6, column 15): unknown key \"nofiles\", did you mean \"nofile\"?"
)]
#[case::limit_negative(
    "limits: { nofile: -1 }",
    "limits.nofile (line 6, column 23): must be from 0 to 9223372036854775807, not -1"
)]
#[case::limit_kind(
    "limits: { nofile: many }",
    "limits.nofile (line 6, column 23): a whole number, unlimited, or a map with soft and hard is expected, not the text \"many\""
)]
#[case::limit_order(
    "limits: { nofile: { soft: unlimited, hard: 9 } }",
    "limits.nofile (line 6, column 23): the soft limit must not be above the hard one"
)]
#[case::nice("nice: 20", "nice (line 6, column 11): must be from -20 to 19, not 20")]
#[case::oom(
    "oom_score_adj: -1001",
    "oom_score_adj (line 6, column 20): must be from -1000 to 1000, not -1001"
)]
#[case::output(
    "output: syslog",
    "output (line 6, column 13): \"syslog\" is not one of auto, journal, file, inherit, null"
)]
#[case::standby(
    "standby: true",
    "standby (line 6, column 14): `standby: true` is not supported by this build"
)]
#[case::exe(
    "match: { exe: x }",
    "match.exe (line 6, column 19): must be an absolute path, \"x\" is not"
)]
#[case::comm(
    "match: { comm: a-very-long-name }",
    "match.comm (line 6, column 20): is 16 bytes long, the kernel keeps 15 of a name"
)]
#[case::cmdline(
    "match: { cmdline: 'a(' }",
    "match.cmdline (line 6, column 23): \"a(\" is no regular expression: unclosed group"
)]
#[case::cmdline_bomb(
    "match: { cmdline: '(a{1000}){1000}' }",
    "match.cmdline (line 6, column 23): \"(a{1000}){1000}\" is no regular expression: Compiled regex exceeds size limit of 1048576 bytes."
)]
#[case::ready(
    "ready_after_secs: .nan",
    "ready_after_secs (line 6, column 23): must be from 0 to 86400, not the number NaN"
)]
#[case::ready_infinite(
    "ready_after_secs: .inf",
    "ready_after_secs (line 6, column 23): must be from 0 to 86400, not the number inf"
)]
#[case::ready_text(
    "ready_after_secs: 1s",
    "ready_after_secs (line 6, column 23): a number is expected, not the text \"1s\""
)]
#[case::signal(
    "stop: { signal: TERMM }",
    "stop.signal (line 6, column 21): \"TERMM\" is no signal: TERM, INT, HUP, QUIT, USR1, RTMIN+1 and so on are, did you mean \"TERM\"?"
)]
#[case::signal_number(
    "stop: { signal: 65 }",
    "stop.signal (line 6, column 21): must be from 1 to 64, not 65"
)]
#[case::signal_of_the_c_library(
    "stop: { signal: 33 }",
    "stop.signal (line 6, column 21): 33 is the C library's own: real-time signals begin with 34, RTMIN"
)]
#[case::signal_realtime(
    "stop: { signal: RTMIN+31 }",
    "stop.signal (line 6, column 21): \"RTMIN+31\" is no signal: TERM, INT, HUP, QUIT, USR1, RTMIN+1 and so on are"
)]
#[case::stop_timeout(
    "stop: { timeout_secs: -1 }",
    "stop.timeout_secs (line 6, column 27): must be from 0 to 86400, not the number -1"
)]
#[case::not_regular(
    "recovery: { type: notregular }",
    "recovery.type (line 6, column 23): `notregular` never healed anything: say `regular`, with `restart: never` for that"
)]
#[case::recovery_type(
    "recovery: { type: other }",
    "recovery.type (line 6, column 23): \"other\" is not one of regular"
)]
#[case::restart(
    "recovery: { restart: on_failure }",
    "recovery.restart (line 6, column 26): \"on_failure\" is not one of always, on-failure, never, did you mean \"on-failure\"?"
)]
#[case::via(
    "recovery: { via: systemd }",
    "recovery.via (line 6, column 22): `via: systemd` is not supported by this build"
)]
#[case::unit(
    "recovery: { unit: a.service }",
    "recovery.unit (line 6, column 23): `unit` is not supported by this build"
)]
#[case::unit_name(
    "recovery: { unit: nginx }",
    "recovery.unit (line 6, column 23): \"nginx\" is no unit's name, such as nginx.service is"
)]
#[case::retries(
    "recovery: { retries: -1 }",
    "recovery.retries (line 6, column 26): must be from 0 to 100000, not -1"
)]
#[case::retries_huge(
    "recovery: { retries: 99999999999999999999999999 }",
    "recovery.retries (line 6, column 26): must be from 0 to 100000, not 99999999999999999999999999"
)]
#[case::retries_fraction(
    "recovery: { retries: 3.0 }",
    "recovery.retries (line 6, column 26): a whole number is expected, not the number 3.0"
)]
#[case::window(
    "recovery: { retry_window_secs: 0 }",
    "recovery.retry_window_secs (line 6, column 36): must be greater than 0: from 0.01 to 315360000, not the number 0"
)]
#[case::cooldown(
    "recovery: { cooldown_secs: 1e99 }",
    "recovery.cooldown_secs (line 6, column 32): must be from 0.01 to 315360000, not the number 1e99"
)]
#[case::cooldown_factor(
    "recovery: { cooldown_factor: 0.5 }",
    "recovery.cooldown_factor (line 6, column 34): must be from 1 to 100, not the number 0.5"
)]
#[case::cooldown_max(
    "recovery: { cooldown_secs: 60, cooldown_max_secs: 30 }",
    "recovery.cooldown_max_secs (line 6, column 55): must not be below cooldown_secs, 60"
)]
#[case::jitter(
    "recovery: { backoff: { jitter: 1.5 } }",
    "recovery.backoff.jitter (line 6, column 36): must be from 0 to 1, not the number 1.5"
)]
#[case::backoff_max(
    "recovery: { backoff: { initial_secs: 9, max_secs: 3 } }",
    "recovery.backoff.max_secs (line 6, column 55): must not be below initial_secs, 9"
)]
#[case::backoff_typo(
    "recovery: { backoff: { initial_sec: 9 } }",
    "recovery.backoff.initial_sec (line 6, column 28): unknown key \"initial_sec\", did you mean \"initial_secs\"?"
)]
#[case::start_timeout(
    "recovery: { start_timeout_secs: 0 }",
    "recovery.start_timeout_secs (line 6, column 37): must be greater than 0: from 0.01 to 86400, not the number 0"
)]
fn a_key_is_refused(#[case] line: &str, #[case] fault: &str) {
    assert_eq!(faults(&with(line)), [format!("processes[0].{fault}")]);
}

#[test]
fn rotation_without_a_file_is_refused() {
    let text = with("output: journal\n    output_keep: 3\n    output_max_bytes: 4096");
    let meaning = "has a meaning with output: file or auto only";
    assert_eq!(
        faults(&text),
        [
            format!("processes[0].output_keep (line 7, column 18): {meaning}"),
            format!("processes[0].output_max_bytes (line 8, column 23): {meaning}"),
        ]
    );
}

#[rstest]
#[case::names(&["name: a, monitor: {type: pid, pid_file_path: /a}", "name: a, monitor: {type: pid, pid_file_path: /b}"], "processes[1].name (line 3, column 50): \"a\" is the name of processes[0] already: names are unique")]
#[case::pid_files(&["name: a, monitor: {type: pid, pid_file_path: /run/a}", "name: b, monitor: {type: pid, pid_file_path: /run//a}"], "processes[1].monitor.pid_file_path (line 3, column 89): /run//a is the PID file of \"a\" already")]
#[case::own_pid_file(&["name: a, monitor: {type: pid, pid_file_path: /run/healer/healer.pid}"], "processes[0].monitor.pid_file_path (line 2, column 89): /run/healer/healer.pid is healer's own PID file")]
#[case::alike(&["name: a, monitor: {type: ebpf}", "name: b, monitor: {type: ebpf}"], "processes[1] (line 3, column 5): nothing tells it from \"a\": command, args, user and match are the same; give one a `match`, or each a `monitor` with a pid_file_path")]
#[case::alike_with_one_pid_file(&["name: a, monitor: {type: pid, pid_file_path: /run/a.pid}", "name: b, monitor: {type: ebpf}"], "processes[1] (line 3, column 5): nothing tells it from \"a\": command, args, user and match are the same; give one a `match`, or each a `monitor` with a pid_file_path")]
#[case::alike_with_the_other_pid_file(&["name: a, monitor: {type: ebpf}", "name: b, monitor: {type: pid, pid_file_path: /run/b.pid}"], "processes[1] (line 3, column 5): nothing tells it from \"a\": command, args, user and match are the same; give one a `match`, or each a `monitor` with a pid_file_path")]
#[case::alike_matches(&["name: a, match: {cmdline: x}, monitor: {type: ebpf}", "name: b, match: {cmdline: x}, monitor: {type: ebpf}"], "processes[1] (line 3, column 5): nothing tells it from \"a\": command, args, user and match are the same; give one a `match`, or each a `monitor` with a pid_file_path")]
#[case::disabled(&["name: a, monitor: {type: ebpf}", "name: b, enabled: false, monitor: {type: ebpf}"], "")]
#[case::told_by_args(&["name: a, monitor: {type: ebpf}", "name: b, args: [x], monitor: {type: ebpf}"], "")]
#[case::told_by_match(&["name: a, match: {cmdline: x}, monitor: {type: ebpf}", "name: b, match: {cmdline: y}, monitor: {type: ebpf}"], "")]
#[case::told_by_pid_files(&["name: a, monitor: {type: pid, pid_file_path: /a}", "name: b, monitor: {type: pid, pid_file_path: /b}"], "")]
fn entries_beside_each_other(#[case] lines: &[&str], #[case] fault: &str) {
    let expected: Vec<&str> = Some(fault).into_iter().filter(|fault| !fault.is_empty()).collect();
    assert_eq!(faults(&entries(lines)), expected);
}

#[test]
fn all_faults_are_told_at_once_in_the_order_of_the_text() {
    let text = "log_level: loud\nprocesses:\n  - name: a\n    command: x/y\n  - nam: b\ncolor: 1\n";
    let said = faults_of(text, &Environment::new(), &USER);
    let lines: Vec<&str> =
        said.iter().map(|fault| fault.split(", column").next().unwrap()).collect();
    assert_eq!(
        lines,
        [
            "log_level (line 1",
            "processes[0] (line 3",
            "processes[0].command (line 4",
            "processes[1] (line 5",
            "processes[1] (line 5",
            "processes[1] (line 5",
            "processes[1].nam (line 5",
            "color (line 6",
        ]
    );
}

#[test]
fn an_entry_gets_the_defaults() {
    let config = checked(&with(""), &ROOT).config;
    assert_eq!(config.log.level, LogLevel::Info);
    assert_eq!(config.log.format, LogFormat::Text);
    assert_eq!(config.log.directory, PathBuf::from("/var/log/healer"));
    assert_eq!(config.pid_file_directory, PathBuf::from("/run/healer"));
    assert_eq!(config.working_directory, PathBuf::from("/"));
    assert_eq!(config.max_parallel_launches, 16);
    let expected = Process {
        name: ProcessName::new("web"),
        enabled: true,
        command: Some("/bin/web".into()),
        args: Vec::new(),
        env: BTreeMap::new(),
        inherit_env: InheritEnv::Nothing,
        working_dir: "/".into(),
        run_as: RunAs::User { user: "web".into(), group: None },
        umask: None,
        limits: BTreeMap::new(),
        nice: None,
        oom_score_adj: None,
        output: Output::Auto(OutputFile { max_bytes: 50 << 20, keep: 3 }),
        autostart: true,
        matching: Matching::default(),
        monitors: vec![Monitor::Pid {
            path: "/run/web.pid".into(),
            interval: Duration::from_secs(5),
        }],
        ready_after: Duration::from_secs(1),
        stop: Stop { signal: Signal(15), timeout: Duration::from_secs(10), leftovers: true },
        recovery: Recovery {
            restart: Restart::Always,
            breaker: Breaker {
                retries: 3,
                window: Duration::from_secs(60),
                cooldown: Duration::from_secs(180),
                cooldown_factor: 1.0,
                cooldown_max: Duration::from_secs(3600),
                half_open: Duration::from_secs(2),
            },
            backoff: Backoff {
                initial: Duration::from_secs(1),
                factor: 2.0,
                max: Duration::from_secs(30),
                jitter: 0.1,
            },
            start_timeout: Duration::from_secs(10),
        },
        dependencies: Vec::new(),
    };
    assert_eq!(config.processes, [Arc::new(expected)]);
}

#[test]
fn every_key_has_its_meaning() {
    let text = r#"
log_level: debug
log_format: json
working_directory: /srv
processes:
  - name: web@1.a_b-c
    enabled: false
    command: web
    args: ["-v", "8080"]
    env: { A: "1" }
    inherit_env: [PATH, LANG]
    run_as_root: false
    run_as_user: 1000
    run_as_group: www
    umask: "027"
    limits: { nofile: 65536, core: unlimited, as: { soft: 1, hard: unlimited } }
    nice: -5
    oom_score_adj: 100
    output: file
    output_max_bytes: 4096
    output_keep: 0
    autostart: false
    standby: false
    match: { exe: /bin/x, comm: x, cmdline: "x y" }
    monitor:
      - type: ebpf
      - { type: pid, pid_file_path: /run/x.pid, interval_secs: 0.5 }
    ready_after_secs: 0.2
    stop: { signal: sigquit, timeout_secs: 0, leftovers: false }
    recovery:
      type: regular
      restart: on-failure
      via: exec
      retries: 0
      retry_window_secs: 0.5
      cooldown_secs: 7200
      half_open_secs: 0
      backoff: { initial_secs: 60 }
    dependencies: []
"#;
    let config = checked(text, &ROOT).config;
    let web = &config.processes[0];
    assert!(!web.enabled && !web.autostart && !web.stop.leftovers);
    assert_eq!(web.command, Some(PathBuf::from("web")));
    assert_eq!(web.args, ["-v", "8080"]);
    assert_eq!(web.env["A"], "1");
    assert_eq!(web.inherit_env, InheritEnv::Only(vec!["PATH".into(), "LANG".into()]));
    assert_eq!(web.working_dir, PathBuf::from("/srv"));
    assert_eq!(web.run_as, RunAs::User { user: "1000".into(), group: Some("www".into()) });
    assert_eq!(web.umask, Some(0o027));
    assert_eq!(web.limits[&Resource::Nofile], Limit { soft: Some(65536), hard: Some(65536) });
    assert_eq!(web.limits[&Resource::Core], Limit { soft: None, hard: None });
    assert_eq!(web.limits[&Resource::As], Limit { soft: Some(1), hard: None });
    assert_eq!((web.nice, web.oom_score_adj), (Some(-5), Some(100)));
    assert_eq!(web.output, Output::File(OutputFile { max_bytes: 4096, keep: 0 }));
    assert_eq!(web.matching.cmdline.as_ref().map(|cmdline| cmdline.0.as_str()), Some("x y"));
    assert_eq!(web.monitors.len(), 2);
    assert_eq!(web.pid_file(), Some("/run/x.pid".as_ref()));
    assert_eq!(web.ready_after, Duration::from_millis(200));
    assert_eq!(web.stop.signal, Signal(3));
    assert_eq!(web.recovery.restart, Restart::OnFailure);
    // What grows never ends below where it begins.
    assert_eq!(web.recovery.breaker.cooldown_max, Duration::from_secs(7200));
    assert_eq!(web.recovery.backoff.max, Duration::from_secs(60));
}

#[rstest]
#[case::name("TERM", 15)]
#[case::long_name("SIGTERM", 15)]
#[case::number("15", 15)]
#[case::realtime("RTMIN+3", 37)]
#[case::realtime_number("34", 34)]
#[case::winch("WINCH", 28)]
fn a_signal_is_known_by(#[case] written: &str, #[case] number: i32) {
    let config = checked(&with(&format!("stop: {{ signal: {written} }}")), &ROOT).config;
    assert_eq!(config.processes[0].stop.signal, Signal(number));
}

#[rstest]
#[case::root(ROOT, InheritEnv::Nothing)]
#[case::user(USER, InheritEnv::Everything)]
#[case::pid1(Reader { as_pid1: true, ..ROOT }, InheritEnv::Everything)]
fn what_is_inherited_depends_on_who_healer_is(
    #[case] reader: Reader,
    #[case] expected: InheritEnv,
) {
    assert_eq!(checked(&with(""), &reader).config.processes[0].inherit_env, expected);
}

#[test]
fn without_a_user_an_ordinary_healer_starts_processes_as_itself() {
    let text = only("name: a, command: /x, monitor: {type: pid, pid_file_path: /a}");
    let Checked { config, warnings } = checked(&text, &USER);
    assert_eq!(config.processes[0].run_as, RunAs::Healer);
    assert_eq!(warnings, [""; 0]);
    assert_eq!(
        checked(&text, &USER_FILE_ONLY).warnings,
        [
            "a: neither run_as_user nor run_as_root: true is given; a healer that runs as root refuses that"
        ]
    );
}

#[test]
fn the_environment_overrides_the_file() {
    let environment = Environment::from([
        ("log_level", "trace".to_owned()),
        ("max_parallel_launches", "3".to_owned()),
    ]);
    let text = "log_level: error\nprocesses: []";
    let config = check(text.as_bytes(), &environment, &ROOT).unwrap().config;
    assert_eq!(config.log.level, LogLevel::Trace);
    assert_eq!(config.max_parallel_launches, 3);
}

#[test]
fn a_fault_of_the_environment_names_the_variable() {
    let environment = Environment::from([
        ("log_level", "loud".to_owned()),
        ("max_parallel_launches", "many".to_owned()),
    ]);
    assert_eq!(
        faults_of("log_level: info\nprocesses: []", &environment, &ROOT),
        [
            "log_level (set by HEALER_LOG_LEVEL): \"loud\" is not one of error, warn, info, debug, trace",
            "max_parallel_launches (set by HEALER_MAX_PARALLEL_LAUNCHES): a whole number is expected, not the text \"many\"",
        ]
    );
}

#[test]
fn a_list_of_ten_thousand_is_no_problem() {
    let lines: Vec<String> = (0..10_000)
        .map(|n| format!("name: p{n}, monitor: {{type: pid, pid_file_path: /run/{n}}}"))
        .collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    assert_eq!(checked(&entries(&lines), &ROOT).config.processes.len(), 10_000);
}

#[test]
fn a_hundred_faults_are_enough() {
    let refused = check(
        format!("processes: [{}]", "{},".repeat(50_000)).as_bytes(),
        &Environment::new(),
        &ROOT,
    )
    .unwrap_err();
    assert_eq!((refused.faults.len(), refused.more), (100, true));
}

/// Aliases that would be a billion values, and a long text many times over.
#[rstest]
#[case::values(9, "x", 10)]
#[case::text(4, &"x".repeat(100_000), 20)]
fn an_alias_bomb_is_refused(#[case] levels: usize, #[case] text: &str, #[case] width: usize) {
    let list = |item: &str| format!("[{}]", vec![item; width].join(","));
    let mut bomb = format!("a0: &a0 {}\n", list(text));
    for level in 1..=levels {
        let below = list(&format!("*a{}", level - 1));
        bomb = format!("{bomb}a{level}: &a{level} {below}\n");
    }
    bomb = format!("{bomb}processes: *a{levels}\n");
    let said = faults(&bomb);
    assert!(said[0].contains("aliases expand to too much: write the values out"), "{said:?}");
}

mod dependencies;
mod network;

const LIVELY: &str = include_str!("../../../config.yaml");

proptest! {
    /// Neither check nor the search for marks panics, whatever the bytes.
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        survives(&bytes);
    }

    /// Nor does text that looks like YAML.
    #[test]
    fn no_text_makes_it_panic(
        text in "((processes|monitor|name|type|- |: |\\{|\\}|\\[|\\]|,|&a|\\*a|!t|'|\"|\n|\n  |\n    |1|\\.nan|~|\\? |<<|\\||>|#|%|---|\t)){0,60}"
    ) {
        survives(text.as_bytes());
    }

    /// Nor does a good file with a part cut out and another put in.
    #[test]
    fn no_damage_makes_it_panic(
        at in 0..LIVELY.len(),
        cut in 0_usize..200,
        with in "[ -~\n]{0,12}",
    ) {
        let mut bytes = LIVELY.as_bytes().to_vec();
        let end = bytes.len().min(at + cut);
        bytes.splice(at..end, with.bytes());
        survives(&bytes);
    }
}

fn survives(bytes: &[u8]) {
    for reader in [ROOT, USER_FILE_ONLY] {
        if let Err(mut refused) = check(bytes, &Environment::new(), &reader) {
            assert!(!refused.faults.is_empty());
            if let Ok(text) = str::from_utf8(bytes) {
                locate(&mut refused.faults, text);
            }
        }
    }
}

#[rstest]
#[case::given("pid_file_directory: /x", "/x")]
#[case::beside_faults("pid_file_directory: /x\nprocesses: 3\nbogus: 1", "/x")]
#[case::not_given("processes: []", "/run/healer")]
#[case::wrong("pid_file_directory: x", "/run/healer")]
#[case::no_yaml("a: [", "/run/healer")]
#[case::empty("", "/run/healer")]
fn directory_of_the_socket_is_read_from_any_text(#[case] text: &str, #[case] directory: &str) {
    let none = Environment::new();
    assert_eq!(pid_file_directory(text.as_bytes(), &none), PathBuf::from(directory));
    let variable = Environment::from([("pid_file_directory", "/y".to_owned())]);
    assert_eq!(pid_file_directory(text.as_bytes(), &variable), PathBuf::from("/y"));
}
