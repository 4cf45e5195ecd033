//! The one reaper and the daemons that commands leave behind: real children, real orphans.

#![expect(clippy::unwrap_used, reason = "a test fails where it is surprised")]

mod stand_in;

use healer::event::{End, Exit, Instance, Pid, Signal};
use healer::instance::reaper::{self, Reaper};
use healer::instance::table::Table;
use healer::instance::{Held, left, own_pid};
use rstest::rstest;
use stand_in::*;
use std::sync::{Mutex, MutexGuard};

/// A reaper takes every child of the test process: one at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    let guard = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    reaper::become_subreaper().unwrap();
    let mut reaper = Reaper::new();
    until("no child of an earlier test is left", || {
        children_of(own_pid()).into_iter().for_each(end);
        reaper.reap().unwrap();
        children_of(own_pid()).is_empty()
    });
    guard
}

fn exit_of(reaper: &mut Reaper, instance: Instance) -> Exit {
    until_some("the child is reaped", || {
        reaper.reap().unwrap();
        reaper.take(instance)
    })
}

/// Starts a command and expects it, as `launch` does.
fn launch(reaper: &mut Reaper, command: &[&str]) -> Started {
    let started = start(command);
    reaper.expect(started.instance());
    started
}

#[rstest]
#[case::code("exit 3", End::Code(3))]
#[case::success("exit 0", End::Code(0))]
#[case::killed("kill -KILL $$", End::Signal { signal: Signal(9), core_dumped: false })]
#[case::asked("kill -TERM $$", End::Signal { signal: Signal(15), core_dumped: false })]
fn how_a_child_ended_is_told_once(#[case] script: &str, #[case] end: End) {
    let _alone = alone();
    let mut reaper = Reaper::new();
    let child = launch(&mut reaper, &["/bin/sh", "-c", script]);
    let exit = exit_of(&mut reaper, child.instance());
    assert_eq!(exit.end, Some(end));
    assert!(exit.runtime.unwrap() < DEADLINE);
    assert!(exit.cpu.unwrap().user < DEADLINE);
    assert_eq!(exit.peak_rss, None, "a shell takes less than this test does");
    assert_eq!(reaper.take(child.instance()), None);
}

#[test]
fn orphans_are_reaped_and_forgotten() {
    let _alone = alone();
    let mut reaper = Reaper::new();
    let child = launch(&mut reaper, &["/bin/sh", "-c", "sleep 600 & exit 0"]);
    exit_of(&mut reaper, child.instance());
    let orphan = until_some("the orphan is ours", || {
        children_of(own_pid()).into_iter().find(|one| *one != child.instance())
    });
    end(orphan);
    until("the orphan is reaped", || {
        reaper.reap().unwrap();
        !std::path::Path::new(&format!("/proc/{orphan}")).exists()
    });
    assert_eq!(reaper.take(orphan), None);
}

#[test]
fn without_an_unknown_child_nothing_is_left_and_with_one_it_is_found() {
    let _alone = alone();
    let mut reaper = Reaper::new();
    let bystander = launch(&mut reaper, &["sleep", "600"]);
    for (script, left) in
        [("exit 0", 0), ("sleep 600 & exit 0", 1), ("(sleep 600 & sleep 600) & exit 0", 2)]
    {
        let child = launch(&mut reaper, &["/bin/sh", "-c", script]);
        exit_of(&mut reaper, child.instance());
        until("what is left is complete", || {
            left::left_of(child.instance(), None, &|_| false).unwrap().len() == left
        });
        let known = |pid: Pid| reaper.expects(pid);
        let found = left::left_of(child.instance(), Some(&known), &|_| false).unwrap();
        assert_eq!(found.len(), left, "{script}");
        end_session(child.pid());
        until("all are reaped", || {
            reaper.reap().unwrap();
            children_of(own_pid()) == [bystander.instance()]
        });
    }
}

#[test]
fn what_is_left_of_an_unheld_daemon_descends_from_an_orphan_and_no_known_child() {
    let _alone = alone();
    let mut reaper = Reaper::new();
    let script = "setsid sh -c '(sleep 600; true) & exit 0' & exit 0";
    let child = launch(&mut reaper, &["/bin/sh", "-c", script]);
    exit_of(&mut reaper, child.instance());
    let (orphan, session) = until_some("an orphan and its child are left", || {
        reaper.reap().unwrap();
        let orphan = *children_of(own_pid()).first()?;
        let held = Held::open_exactly(orphan).unwrap()?;
        let leader_is_gone = Held::open(held.session()).unwrap().is_none();
        (leader_is_gone && children_of(orphan.pid).len() == 1).then(|| (orphan, held.session()))
    });
    let daemon = Instance { pid: session, start_ticks: child.instance().start_ticks };
    assert_eq!(left::left_of(daemon, None, &|_| false).unwrap().len(), 2);
    assert!(left::is_of_orphans(daemon, &|pid| reaper.expects(pid)).unwrap());
    reaper.expect(orphan);
    assert!(!left::is_of_orphans(daemon, &|pid| reaper.expects(pid)).unwrap());
    end_session(session);
}

/// Waits for the launched command's exit, then for its daemon.
fn successor(
    launched: Instance,
    process: &healer::config::Process,
    reaper: &mut Reaper,
) -> Instance {
    exit_of(reaper, launched);
    until_some("the daemon is found", || {
        reaper.reap().unwrap();
        let table = Table::snapshot().unwrap();
        reaper::successor(launched, process, &|_| false, &table)
    })
}

/// fork, setsid, fork, as daemon(7) describes.
const DOUBLE_FORK: &str = "\
import os, sys, time
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
open(sys.argv[1], 'w').write(f'{os.getpid()}\\n')
time.sleep(600)
";

/// fork, setsid.
const SINGLE_FORK: &str = "\
import os, sys, time
if os.fork(): os._exit(0)
os.setsid()
open(sys.argv[1], 'w').write(f'{os.getpid()}\\n')
time.sleep(600)
";

#[rstest]
#[case::double_fork(DOUBLE_FORK, false)]
#[case::single_fork(SINGLE_FORK, true)]
fn a_daemonising_program_is_followed(#[case] program: &str, #[case] leads_session: bool) {
    let _alone = alone();
    let mut reaper = Reaper::new();
    let dir = tempfile::tempdir().unwrap();
    let file = script(&dir.path().join("daemon.py"), &format!("#!/usr/bin/python3\n{program}"));
    let mark = dir.path().join("serving");
    let command = [file.to_str().unwrap(), mark.to_str().unwrap()];
    let process = entry("daemon", command[0], &command[1..]);
    let launched = launch(&mut reaper, &command);
    // An orphan of another launch, which runs another program.
    let other = launch(&mut reaper, &["/bin/sh", "-c", "setsid sleep 600 & exit 0"]);
    let mut daemon = successor(launched.instance(), &process, &mut reaper);
    let serving = until_some("the daemon serves", || {
        let text = std::fs::read_to_string(&mark).ok()?;
        text.strip_suffix('\n')?.parse().ok().map(Pid)
    });
    // Seen between its forks, it is followed once more.
    while daemon.pid != serving {
        reaper.expect(daemon);
        daemon = successor(daemon, &process, &mut reaper);
    }
    let held = Held::open_exactly(daemon).unwrap().unwrap();
    assert_eq!(held.session() == daemon.pid, leads_session);
    let cmdline = std::fs::read_to_string(format!("/proc/{daemon}/cmdline")).unwrap();
    assert!(cmdline.contains("daemon.py"), "{cmdline}");
    // Its exit comes to healer, once it is expected.
    reaper.expect(daemon);
    end(daemon);
    let killed = End::Signal { signal: Signal(9), core_dumped: false };
    assert_eq!(exit_of(&mut reaper, daemon).end, Some(killed));
    drop(other);
    children_of(own_pid()).into_iter().for_each(end);
}

#[test]
fn a_start_scripts_daemon_is_found_whatever_its_name() {
    let _alone = alone();
    let mut reaper = Reaper::new();
    let dir = tempfile::tempdir().unwrap();
    let file = script(&dir.path().join("start"), "#!/bin/sh\nsleep 619.5 &\n");
    let process = entry("scripted", file.to_str().unwrap(), &[]);
    let launched = launch(&mut reaper, &[file.to_str().unwrap()]);
    let daemon = successor(launched.instance(), &process, &mut reaper);
    until("it runs sleep", || {
        std::fs::read(format!("/proc/{daemon}/cmdline")).unwrap().starts_with(b"sleep\x00619.5")
    });
    end(daemon);
}

#[test]
fn of_daemons_that_show_no_arguments_none_is_taken_until_one_is_left() {
    let _alone = alone();
    let mut reaper = Reaper::new();
    // A program file of its own, so that it raises no doubt in another test.
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("fpm");
    std::fs::copy("/usr/bin/sleep", &program).unwrap();
    let program = program.to_str().unwrap();
    let mut daemon = |title: &str| {
        let script =
            format!("setsid bash -c 'exec -a \"fpm: master ({title})\" {program} 600' & exit 0");
        let before = children_of(own_pid());
        let launched = launch(&mut reaper, &["/bin/sh", "-c", &script]);
        exit_of(&mut reaper, launched.instance());
        let daemon = until_some("the daemon has its title", || {
            let mut orphans = children_of(own_pid()).into_iter();
            let orphan = orphans.find(|one| !before.contains(one))?;
            let line = std::fs::read(format!("/proc/{orphan}/cmdline")).ok()?;
            line.starts_with(b"fpm: master").then_some(orphan)
        });
        (launched.instance(), daemon)
    };
    let ((one, ones), (_, others)) = (daemon("one"), daemon("other"));
    let process = entry("one", program, &["-c", "one"]);
    let table = Table::snapshot().unwrap();
    assert_eq!(reaper::successor(one, &process, &|_| false, &table), None);
    let known = |daemon: Instance| daemon == others;
    assert_eq!(reaper::successor(one, &process, &known, &table), Some(ones));
    [ones, others].into_iter().for_each(end);
}

#[test]
fn a_command_that_leaves_nothing_has_no_successor() {
    let _alone = alone();
    let mut reaper = Reaper::new();
    let bystander = launch(&mut reaper, &["sleep", "600"]);
    let process = entry("true", "/bin/true", &[]);
    let launched = launch(&mut reaper, &["/bin/true"]);
    exit_of(&mut reaper, launched.instance());
    let table = Table::snapshot().unwrap();
    let known = |one: Instance| one == bystander.instance();
    assert_eq!(reaper::successor(launched.instance(), &process, &known, &table), None);
}
