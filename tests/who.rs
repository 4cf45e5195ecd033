//! Who is the process: the rules on real programs, each started on private ports and directories.

#![expect(clippy::unwrap_used, reason = "a test fails where it is surprised")]

mod stand_in;

use std::path::Path;
use std::sync::Arc;

use healer::config::{Pattern, Process, RunAs};
use healer::event::{Instance, Pid};
use healer::instance::table::{Row, Table};
use healer::instance::who::{self, Verdict};
use healer::instance::{Held, own_pid, program};
use stand_in::*;

fn resolve(process: &Process) -> Verdict {
    resolve_unclaimed(process, &|_| false)
}

fn resolve_unclaimed(process: &Process, claimed: &dyn Fn(Instance) -> bool) -> Verdict {
    let table = Table::snapshot().unwrap();
    who::resolve_all(&[Arc::new(process.clone())], &table, claimed).remove(0)
}

fn until_found(process: &Process, expected: Instance) {
    until(&format!("{} is found", process.name), || resolve(process) == Verdict::One(expected));
}

fn reason(verdict: Verdict) -> Option<String> {
    match verdict {
        Verdict::Unclear { reason, .. } => Some(reason),
        Verdict::One(_) | Verdict::None => None,
    }
}

#[test]
fn nginx_master_is_found_by_its_title_and_its_workers_are_not_it() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let conf = nginx_conf(dir.path(), port);
    let args = ["-c", conf.to_str().unwrap(), "-g", "daemon off;"];
    let nginx = nginx(&args, port);
    let mut web = entry("web", "/usr/sbin/nginx", &args);
    assert_eq!(resolve(&web), Verdict::One(nginx.instance()));
    // As root, its workers of another user are candidates too.
    web.run_as = RunAs::Root;
    if is_root() {
        assert_eq!(resolve(&web), Verdict::One(nginx.instance()));
    }
    // Claimed by another entry, neither it nor its workers are this one's.
    let claimed = nginx.instance();
    assert_eq!(resolve_unclaimed(&web, &|one| one == claimed), Verdict::None);
}

#[test]
fn nginx_workers_without_their_master_are_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let conf = nginx_conf(dir.path(), port);
    let args = ["-c", conf.to_str().unwrap(), "-g", "daemon off;"];
    let mut nginx = nginx(&args, port);
    end(nginx.instance());
    nginx.reap();
    assert!(answers(port), "its workers hold the port");
    let web = Process { run_as: RunAs::Root, ..entry("web", "/usr/sbin/nginx", &args) };
    assert_eq!(resolve(&web), Verdict::None);
}

#[test]
fn php_fpm_is_unclear_until_match_decides() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().display();
    let conf = dir.path().join("fpm.conf");
    let text = format!(
        "[global]\nerror_log = {at}/log\ndaemonize = no\n[www]\nlisten = {at}/sock\n\
         user = www-data\ngroup = www-data\npm = static\npm.max_children = 2\n"
    );
    std::fs::write(&conf, text).unwrap();
    let args = ["--fpm-config", conf.to_str().unwrap(), "--nodaemonize"];
    let program = private_copy(dir.path(), "/usr/sbin/php-fpm8.2");
    let fpm = start(&[&[program.as_str()], &args[..]].concat());
    until("php-fpm has its pool", || children_of(fpm.pid()).len() == 2);
    let mut php = entry("php", &program, &args);
    let doubt = reason(resolve(&php)).unwrap();
    assert!(doubt.contains(&format!("{} ", fpm.pid())), "{doubt}");
    assert!(doubt.ends_with("say match.cmdline"), "{doubt}");
    php.matching.cmdline = Some(pattern(&format!("master process \\({}\\)", conf.display())));
    assert_eq!(resolve(&php), Verdict::One(fpm.instance()));
}

/// A program file of its own, so that the same program of another test raises no doubt.
fn private_copy(dir: &Path, program: &str) -> String {
    let copy = dir.join(Path::new(program).file_name().unwrap());
    std::fs::copy(program, &copy).unwrap();
    copy.to_str().unwrap().to_owned()
}

fn pattern(text: &str) -> Pattern {
    Pattern(regex::bytes::Regex::new(text).unwrap())
}

#[test]
fn redis_rewrites_its_command_line_and_is_unclear_until_match_decides() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port().to_string();
    let args = ["--port", &port, "--bind", "127.0.0.1", "--save", ""];
    let program = private_copy(dir.path(), "/usr/bin/redis-server");
    let redis = start_in(dir.path(), &[&[program.as_str()], &args[..], &["--dir", "."]].concat());
    until("redis serves", || answers(port.parse().unwrap()));
    let mut cache = entry("cache", &program, &args);
    let doubt = until_some("it has its title", || reason(resolve(&cache)));
    assert!(doubt.contains("redis-server 127.0.0.1:") || doubt.contains('…'), "{doubt}");
    cache.matching.cmdline = Some(pattern(&format!("redis-server .*:{port}$")));
    assert_eq!(resolve(&cache), Verdict::One(redis.instance()));
}

#[test]
fn an_env_script_is_found_by_its_interpreter_name_and_arguments() {
    let dir = tempfile::tempdir().unwrap();
    let text = "#!/usr/bin/env python3\nimport time\ntime.sleep(600)\n";
    let web = script(&dir.path().join("web.py"), text);
    let other = script(&dir.path().join("other.py"), text);
    let path = "PATH=/usr/bin:/bin";
    let one = start(&["env", path, web.to_str().unwrap(), "--port", "1"]);
    let _two = start(&["env", path, other.to_str().unwrap(), "--port", "1"]);
    let _three = start(&["env", path, web.to_str().unwrap(), "--port", "2"]);
    let mut process = entry("web", web.to_str().unwrap(), &["--port", "1"]);
    process.env.insert("PATH".into(), "/usr/bin:/bin".into());
    until_found(&process, one.instance());
}

#[test]
fn a_symlinked_interpreter_is_the_file_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("snake");
    std::os::unix::fs::symlink("/usr/bin/python3", &link).unwrap();
    let text = format!("#!{}\nimport time\ntime.sleep(600)\n", link.display());
    let web = script(&dir.path().join("web.py"), &text);
    let one = start(&[web.to_str().unwrap()]);
    until_found(&entry("web", web.to_str().unwrap(), &[]), one.instance());
}

#[test]
fn what_an_exec_wrapper_became_is_found_by_match_exe() {
    let dir = tempfile::tempdir().unwrap();
    let mark = "612.25";
    let wrapper = script(&dir.path().join("run"), &format!("#!/bin/sh\nexec sleep {mark}\n"));
    let one = start(&[wrapper.to_str().unwrap()]);
    let mut process = entry("wrapped", wrapper.to_str().unwrap(), &[]);
    process.matching.exe = Some("/usr/bin/sleep".into());
    process.matching.cmdline = Some(pattern(&format!("^sleep {mark}$")));
    until_found(&process, one.instance());
    process.matching = healer::config::Matching::default();
    assert_eq!(resolve(&process), Verdict::None);
}

#[test]
fn an_upgraded_binary_is_the_same_program() {
    let dir = tempfile::tempdir().unwrap();
    let binary = dir.path().join("daemon");
    let copy = || {
        let next = dir.path().join("daemon.new");
        std::fs::copy("/usr/bin/sleep", &next).unwrap();
        std::fs::rename(&next, &binary).unwrap();
    };
    copy();
    let one = start(&[binary.to_str().unwrap(), "600"]);
    let process = entry("upgraded", binary.to_str().unwrap(), &["600"]);
    until_found(&process, one.instance());
    copy();
    let link = std::fs::read_link(format!("/proc/{}/exe", one.pid())).unwrap();
    assert!(link.to_str().unwrap().ends_with(" (deleted)"));
    assert_eq!(resolve(&process), Verdict::One(one.instance()));
}

#[test]
fn a_containers_twin_is_not_it() {
    if !is_root() {
        return skip("a PID namespace needs root");
    }
    let mark = "613.5";
    let _outer = start(&["unshare", "-pf", "--mount-proc", "/usr/bin/sleep", mark]);
    let process = entry("twin", "/usr/bin/sleep", &[mark]);
    let shows = |row: &Row| {
        row.details()
            .unwrap()
            .is_some_and(|d| d.depth > 1 && d.cmdline.starts_with(b"/usr/bin/sleep\x00613"))
    };
    until("the twin runs", || Table::snapshot().unwrap().rows().iter().any(shows));
    assert_eq!(resolve(&process), Verdict::None);
    let real = start(&["/usr/bin/sleep", mark]);
    until_found(&process, real.instance());
}

#[test]
fn a_look_alike_of_another_user_is_not_it() {
    if !is_root() {
        return skip("another user needs root");
    }
    let mark = "614.5";
    let as_nobody = ["setpriv", "--reuid=nobody", "--clear-groups", "/usr/bin/sleep", mark];
    let one = start(&as_nobody);
    let mut process = entry("own", "/usr/bin/sleep", &[mark]);
    process.run_as = RunAs::User { user: "nobody".into(), group: None };
    until_found(&process, one.instance());
    process.run_as = RunAs::User { user: "www-data".into(), group: None };
    assert_eq!(resolve(&process), Verdict::None);
    process.run_as = RunAs::Healer;
    assert_eq!(resolve(&process), Verdict::None);
}

#[test]
fn an_unknown_user_is_unclear_and_never_root() {
    let user = RunAs::User { user: "no-such-user".into(), group: None };
    let process = Process { run_as: user, ..entry("web", "/usr/bin/sleep", &["1"]) };
    let unknown = "user \"no-such-user\" is not in";
    assert!(program::wanted(&process).unwrap_err().starts_with(unknown));
    assert!(reason(resolve(&process)).unwrap().starts_with(unknown));
}

/// A program whose leader thread ends while another one lives on.
const LEADER_ENDS: &str = "
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(600,)).start()
ctypes.CDLL(None).pthread_exit(None)
";

#[test]
fn a_process_lives_on_in_other_threads_and_is_still_found() {
    let one = start(&["/usr/bin/python3", "-c", LEADER_ENDS]);
    let pid = one.pid();
    until("its leader thread has ended", || {
        Row::read(pid).unwrap().is_some_and(|r| r.state == 'Z')
    });
    assert!(Held::open(pid).unwrap().unwrap().is_running().unwrap());
    let process = entry("threads", "/usr/bin/python3", &["-c", LEADER_ENDS]);
    assert_eq!(resolve(&process), Verdict::One(one.instance()));
}

#[test]
fn a_zombie_behind_a_parent_that_does_not_reap_is_dead() {
    let one = start(&["/usr/bin/sleep", "600"]);
    let instance = one.instance();
    end(instance);
    until("it is a zombie", || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", one.pid())).unwrap();
        stat.contains(") Z ")
    });
    assert!(is_dead(instance));
    assert!(Row::read(one.pid()).unwrap().is_none());
    assert!(Table::snapshot().unwrap().row(one.pid()).is_none());
}

#[test]
fn a_recycled_pid_is_another_instance() {
    let one = start(&["/usr/bin/sleep", "600"]);
    let now = one.instance();
    let before = Instance { start_ticks: now.start_ticks - 1, ..now };
    assert!(Held::open_exactly(before).unwrap().is_none());
    assert!(Held::open_exactly(now).unwrap().is_some());
}

#[test]
fn each_instance_belongs_to_the_most_specific_entry() {
    let sleep = |arg: &str| start(&["/usr/bin/sleep", arg]);
    let (one, two) = (sleep("615.5"), sleep("616.5"));
    let dir = tempfile::tempdir().unwrap();
    let private = dir.path().join("sleeper");
    std::fs::copy("/usr/bin/sleep", &private).unwrap();
    let plain = start(&[private.to_str().unwrap(), "617.5"]);
    let precise = start(&[private.to_str().unwrap(), "618.5"]);
    let path = private.to_str().unwrap();
    let entries = [
        entry("plain", path, &[]),
        entry("one", "/usr/bin/sleep", &["615.5"]),
        entry("two", "/usr/bin/sleep", &["616.5"]),
        entry("precise", path, &["618.5"]),
        entry("absent", "/usr/bin/no-such-program", &[]),
    ]
    .map(Arc::new);
    let expected = [
        Verdict::One(plain.instance()),
        Verdict::One(one.instance()),
        Verdict::One(two.instance()),
        Verdict::One(precise.instance()),
        Verdict::None,
    ];
    until("each has its own", || {
        who::resolve_all(&entries, &Table::snapshot().unwrap(), &|_| false) == expected
    });
}

#[test]
fn healer_itself_and_pid_1_are_never_meant() {
    let own = std::env::current_exe().unwrap();
    let process = entry("self", own.to_str().unwrap(), &[]);
    let Verdict::One(other) = resolve(&process) else { return };
    assert_ne!(other.pid, own_pid());
    let init = std::fs::read_link("/proc/1/exe").unwrap_or_default();
    if Path::new(&init).is_absolute() {
        let process = entry("init", init.to_str().unwrap(), &[]);
        assert!(!matches!(resolve(&process), Verdict::One(Instance { pid: Pid(1), .. })));
    }
}
