//! What a guarded process is given: what its entry says, and otherwise what healer was given.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{
    Service, Site, command, eventually_some, is_root, program, skip, throughout, wait,
};

/// The dump of the instance that was started as number `count`.
fn dump(site: &Site, service: &Service, count: usize) -> Value {
    let pid = service.running(count).pid;
    eventually_some("the instance tells what it was given", || {
        let text = fs::read_to_string(site.file("dump")).ok()?;
        serde_json::from_str::<Value>(&text).ok().filter(|dump| dump["pid"] == pid)
    })
}

fn dumping(site: &Site, name: &str) -> Service {
    site.service(name).args(["--dump", site.file("dump").to_str().unwrap()])
}

#[test]
fn healed_process_has_what_a_plain_shell_gives() {
    let site = Site::new();
    let by_shell = site.file("by-shell");
    let mut shell = command("/bin/sh")
        .args(["-c", "exec \"$0\" --dump \"$1\" --exit 0"])
        .arg(program())
        .arg(&by_shell)
        .current_dir(site.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    assert!(wait(&mut shell).success());
    let plain: Value = serde_json::from_slice(&fs::read(&by_shell).unwrap()).unwrap();

    let service = dumping(&site, "web");
    let _healer = site.guard([&service]);
    service.running(1);
    service.kill(Signal::KILL);
    let healed = dump(&site, &service, 2);
    for key in ["limits", "oom_score_adj", "nice", "cwd"] {
        assert_eq!(healed[key], plain[key], "{key}");
    }
    let mut rights = plain["status"].clone();
    // A shell hands on what was ignored when it started. Rust's runtime ignores SIGPIPE by itself.
    rights["SigIgn"] = json!("0000000000001000");
    assert_eq!(healed["status"], rights);
    assert_eq!(healed["descriptors"], json!({}), "none above the standard ones");
    assert_eq!(healed["session"], healed["pid"].to_string(), "it leads a session of its own");
}

#[test]
fn what_is_healers_own_is_not_inherited() {
    let site = Site::new();
    let service =
        dumping(&site, "web").set("inherit_env", true).set("env", json!({ "OWN": "set" }));
    site.configure([&service]);
    let own =
        ["NOTIFY_SOCKET", "WATCHDOG_USEC", "HEALER_LOG_LEVEL", "INVOCATION_ID", "JOURNAL_STREAM"];
    let mut daemon = site.healer(&["--foreground"]);
    daemon.env("GIVEN", "to all").env("LISTEN_FDS", "0");
    daemon.env("WATCHDOG_USEC", "60000000").env("HEALER_LOG_LEVEL", "info");
    daemon.env("INVOCATION_ID", "0").env("JOURNAL_STREAM", "0:0");
    let _healer = site.spawn(&mut daemon);
    let env = &dump(&site, &service, 1)["env"];
    assert_eq!((&env["GIVEN"], &env["OWN"]), (&json!("to all"), &json!("set")));
    for name in own.iter().chain(&["LISTEN_FDS"]) {
        assert_eq!(env.get(name), None, "{name}");
    }
}

#[test]
fn entry_sets_limits_niceness_and_masks() {
    let site = Site::new();
    let service = dumping(&site, "web")
        .set("limits", json!({ "nofile": 99, "core": 0 }))
        .set("nice", 7)
        .set("oom_score_adj", 321)
        .set("umask", "027")
        .set("working_dir", "/");
    let _healer = site.guard([&service]);
    let given = dump(&site, &service, 1);
    let limits = given["limits"].as_str().unwrap();
    let nofile = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(nofile.split_whitespace().collect::<Vec<_>>()[3..5], ["99", "99"]);
    assert_eq!(given["nice"], "7");
    assert_eq!(given["oom_score_adj"], "321");
    assert_eq!(given["status"]["Umask"], "0027");
    assert_eq!(given["cwd"], "/");
}

/// A copy of the program and an open journal, for a service that runs as somebody else.
fn as_user(site: &Site, service: Service, user: &str) -> Service {
    let copy = site.file("service");
    if !copy.exists() {
        fs::copy(program(), &copy).unwrap();
    }
    let out = site.file("out");
    for path in [&service.journal, &site.file("own")] {
        fs::write(path, "").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o666)).unwrap();
    }
    fs::create_dir_all(&out).unwrap();
    fs::set_permissions(&out, fs::Permissions::from_mode(0o777)).unwrap();
    service.unset("run_as_root").set("run_as_user", user).set("command", copy.to_str().unwrap())
}

/// What `id` says, as numbers.
fn id(option: &str, user: &str) -> String {
    let output = command("/usr/bin/id").args([option, user]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn user_has_its_groups_and_nothing_of_roots() {
    if !is_root() {
        return skip("only root can be somebody else");
    }
    let site = Site::new();
    let path = site.file("out/dump");
    let service = as_user(&site, site.service("web"), "nobody")
        .args(["--dump", path.to_str().unwrap()])
        .set("env", json!({ "OWN": "set" }));
    let _healer = site.guard([&service]);
    service.running(1);
    let given = eventually_some("the instance tells what it was given", || {
        serde_json::from_slice::<Value>(&fs::read(&path).ok()?).ok()
    });
    let (user, group) = (id("-u", "nobody"), id("-g", "nobody"));
    let status = &given["status"];
    assert_eq!(status["Uid"], vec![user; 4].join(" "));
    assert_eq!(status["Gid"], vec![group; 4].join(" "));
    assert_eq!(sorted(status["Groups"].as_str().unwrap()), sorted(&id("-G", "nobody")));
    for set in ["CapPrm", "CapEff", "CapInh", "CapAmb"] {
        assert_eq!(status[set], "0000000000000000", "{set}");
    }
    let env = given["env"].as_object().unwrap();
    let mut names: Vec<&str> = env.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["HOME", "LOGNAME", "OWN", "PATH", "SHELL", "USER"]);
    assert_eq!((&env["USER"], &env["LOGNAME"]), (&json!("nobody"), &json!("nobody")));
    service.kill(Signal::KILL);
    service.running(2);
}

fn sorted(words: &str) -> Vec<u32> {
    let mut numbers: Vec<u32> =
        words.split_whitespace().map(|word| word.parse().unwrap()).collect();
    numbers.sort_unstable();
    numbers
}

#[test]
fn unknown_user_and_group_are_never_started() {
    if !is_root() {
        return skip("only root can be somebody else");
    }
    let site = Site::new();
    let user = as_user(&site, site.service("user"), "no-such-user");
    let group =
        as_user(&site, site.service("group"), "nobody").set("run_as_group", "no-such-group");
    let guarded = site.service("guarded");
    let healer = site.guard([&user, &group, &guarded]);
    guarded.running(1);
    healer.until_warned_of("user");
    healer.until_warned_of("group");
    throughout(Duration::from_millis(500), "neither was started", || {
        user.starts().is_empty() && group.starts().is_empty()
    });
}
