//! What is left of an instance, and ending it: real sessions, real signals.

#![expect(clippy::unwrap_used, reason = "a test fails where it is surprised")]

mod stand_in;

use std::time::Duration;

use healer::config::Stop;
use healer::event::{Instance, Pid, Signal};
use healer::instance::table::Table;
use healer::instance::{Held, left, readable};
use stand_in::*;

fn held(instance: Instance) -> Held {
    Held::open_exactly(instance).unwrap().unwrap()
}

fn members(session: Pid) -> Vec<Instance> {
    let table = Table::snapshot().unwrap();
    table.rows().iter().filter(|row| row.session == session).map(|row| row.instance).collect()
}

/// A shell with members in its session, once they are there.
fn shell(script: &str, members_wanted: usize) -> Started {
    let shell = start(&["/bin/sh", "-c", script]);
    until("the session is complete", || members(shell.pid()).len() >= members_wanted);
    shell
}

#[tokio::test]
async fn workers_of_a_killed_nginx_master_are_found_and_ended_and_the_port_is_free() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let conf = nginx_conf(dir.path(), port);
    let args = ["-c", conf.to_str().unwrap(), "-g", "daemon off;"];
    let mut nginx = nginx(&args, port);
    let (master, workers) = (nginx.instance(), children_of(nginx.pid()));
    end(master);
    nginx.reap();
    assert!(answers(port));
    let left = left::left_of(master, None, &|_| false).unwrap();
    let mut found: Vec<_> = left.iter().map(Held::instance).collect();
    found.sort();
    assert_eq!(found, workers);
    left::clear(master, quick_stop(), |_| false).await.unwrap();
    std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
}

#[tokio::test]
async fn those_who_ignore_sigterm_are_killed_after_the_time_out() {
    let script = "trap '' TERM; (trap '' TERM; while :; do sleep 600; done) & wait";
    let mut shell = shell(script, 3);
    let instance = shell.instance();
    end(instance);
    shell.reap();
    let stop = Stop { timeout: Duration::from_millis(100), ..quick_stop() };
    left::clear(instance, stop, |_| false).await.unwrap();
    assert_eq!(members(shell.pid()), []);
}

#[tokio::test]
async fn stopped_processes_are_ended_politely_too() {
    let dir = tempfile::tempdir().unwrap();
    let mark = dir.path().join("asked");
    let script =
        format!("trap 'touch {}; exit' TERM; while :; do sleep 0.05; done", mark.display());
    let shell = start(&["/bin/sh", "-c", &script]);
    until("the shell loops", || !children_of(shell.pid()).is_empty());
    let held = held(shell.instance());
    held.signal(Signal(libc::SIGSTOP)).unwrap();
    left::stop(&held, quick_stop(), |_| false).await.unwrap();
    assert!(mark.exists(), "it could act upon SIGTERM");
    assert!(is_dead(shell.instance()));
}

#[tokio::test]
async fn a_real_time_signal_ends_an_instance_too() {
    let shell = shell("sleep 600 & wait", 2);
    let held = held(shell.instance());
    let stop = Stop { signal: Signal(37), ..quick_stop() };
    left::stop(&held, stop, |_| false).await.unwrap();
    assert_eq!(members(shell.pid()), []);
}

#[test]
fn what_is_no_signal_is_sent_to_nobody() {
    let sleep = start(&["sleep", "600"]);
    let held = held(sleep.instance());
    for number in [-1, 65] {
        let error = held.signal(Signal(number)).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput, "{number}");
    }
    assert!(held.is_running().unwrap());
}

#[tokio::test]
async fn a_fork_bomb_is_ended_pass_by_pass() {
    let script = "trap '' TERM; \
                  bomb() { [ $1 -lt 200 ] || return; sleep 0.02; bomb $(($1 + 1)) & wait; }; \
                  bomb 0 & wait";
    let mut shell = shell(script, 3);
    let instance = shell.instance();
    end(instance);
    shell.reap();
    let stop = Stop { timeout: Duration::from_millis(50), ..quick_stop() };
    left::clear(instance, stop, |_| false).await.unwrap();
    assert_eq!(members(shell.pid()), []);
}

#[tokio::test]
async fn a_living_instance_is_stopped_with_its_session_unless_leftovers_are_kept() {
    for leftovers in [true, false] {
        let shell = shell("trap '' HUP; sleep 600 & exec sleep 600", 2);
        let held = held(shell.instance());
        left::stop(&held, Stop { leftovers, ..quick_stop() }, |_| false).await.unwrap();
        assert_eq!(members(shell.pid()).len(), usize::from(!leftovers));
        end_session(shell.pid());
    }
}

#[test]
fn children_with_a_session_of_their_own_are_kept() {
    let mut shell = start(&["/bin/sh", "-c", "setsid sleep 600 & wait"]);
    until("the daemon is apart", || {
        children_of(shell.pid()).first().is_some_and(|child| members(child.pid) == [*child])
    });
    let (instance, daemon) = (shell.instance(), children_of(shell.pid())[0]);
    end(instance);
    shell.reap();
    assert!(left::left_of(instance, None, &|_| false).unwrap().is_empty());
    assert!(!is_dead(daemon));
    end(daemon);
}

#[test]
fn a_session_of_a_new_process_with_the_same_pid_is_not_left() {
    let shell = shell("sleep 600 & wait", 2);
    let now = shell.instance();
    let before = Instance { start_ticks: now.start_ticks - 100, ..now };
    assert!(left::left_of(before, None, &|_| false).unwrap().is_empty());
    assert_eq!(left::left_of(now, None, &|_| false).unwrap().len(), 1);
}

#[tokio::test]
async fn several_tasks_may_wait_for_the_same_end() {
    let sleep = start(&["sleep", "600"]);
    let held = held(sleep.instance());
    let both = async { tokio::try_join!(readable::ended(&held), readable::ended(&held)) };
    let kill = async { end(held.instance()) };
    let (ends, ()) = tokio::join!(both, kill);
    ends.unwrap();
    // After the end, too.
    readable::ended(&held).await.unwrap();
}
