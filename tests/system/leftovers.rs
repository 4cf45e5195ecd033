//! What a dead process left behind is gone before the next one starts.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use rstest::rstest;
use rustix::process::Signal;
use serde_json::json;

use crate::harness::{
    Living, Service, Site, eventually, eventually_some, is_root, kill, program, skip,
};

const NGINX: &str = "/usr/sbin/nginx";

/// A port that was free a moment ago.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// All that whoever listens there says to `request`.
fn ask(port: u16, request: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// The entry of an nginx of the test's own, in the foreground or as a daemon.
fn nginx(site: &Site, port: u16, daemon: &str) -> Service {
    let dir = site.path().display();
    let user = if is_root() { "user root;" } else { "" };
    let config = format!(
        "{user} daemon {daemon}; worker_processes 2; pid {dir}/nginx.pid; error_log {dir}/error.log;
        events {{ worker_connections 64; }}
        http {{
            access_log off;
            client_body_temp_path {dir}/t1; proxy_temp_path {dir}/t2; fastcgi_temp_path {dir}/t3;
            uwsgi_temp_path {dir}/t4; scgi_temp_path {dir}/t5;
            server {{ listen 127.0.0.1:{port}; return 200 'here'; }}
        }}"
    );
    let path = site.file("nginx.conf");
    fs::write(&path, config).unwrap();
    site.service("nginx").set("command", NGINX).set("args", json!(["-p", site.path(), "-c", path]))
}

#[rstest]
#[case::in_the_foreground("off")]
#[case::as_a_daemon("on")]
fn nginx_whose_master_was_killed_comes_back_on_its_port(#[case] daemon: &str) {
    if !Path::new(NGINX).exists() {
        return skip("nginx is not installed");
    }
    let site = Site::new();
    let port = free_port();
    let mut service = nginx(&site, port, daemon);
    if daemon == "on" {
        service = service.watched_by_pid_file();
    }
    let _healer = site.guard([&service]);
    let here = || ask(port, "GET / HTTP/1.0\r\n\r\n").is_some_and(|text| text.ends_with("here"));
    // Workers work in the directory, and have the master as their parent until it dies.
    let workers =
        || site.living().into_iter().filter(|process| process.has("nginx: worker process"));
    for _ in 0..2 {
        eventually("nginx answers", here);
        let master = eventually_some("nginx has a master", || {
            Living::read(service.pid_in_file()?).filter(|master| workers_of(master, workers()) == 2)
        });
        let old: Vec<Living> = workers().collect();
        assert!(kill(&master, Signal::KILL));
        eventually("another master is there", || {
            service
                .pid_in_file()
                .is_some_and(|pid| pid != master.pid && Living::read(pid).is_some())
        });
        eventually("nginx answers again", here);
        assert!(!workers().any(|worker| old.contains(&worker)), "old workers live");
    }
}

fn workers_of(master: &Living, workers: impl Iterator<Item = Living>) -> usize {
    let parent = |pid: i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse::<i32>().ok()
    };
    workers.filter(|worker| parent(worker.pid) == Some(master.pid)).count()
}

#[rstest]
#[case::polite(&[])]
#[case::deaf_to_term(&["--ignore-term"])]
fn workers_that_hold_the_port_are_ended_before_the_next_start(#[case] more: &[&'static str]) {
    let site = Site::new();
    let port = free_port();
    let mut service = site
        .service("server")
        .args(["--workers", "2", "--listen", &port.to_string()])
        .set("stop", json!({ "timeout_secs": 0.5 }));
    if let [more] = more {
        service = service.args([more]);
    }
    let _healer = site.guard([&service]);
    for count in 1..=3 {
        let leader = service.running(count);
        eventually("it answers", || ask(port, "").as_deref() == Some(&format!("{}\n", leader.pid)));
        eventually("its workers run", || service.living().len() == 3);
        service.kill(Signal::KILL);
    }
    service.running(4);
}

#[test]
fn guarded_instance_in_the_session_of_a_dead_one_is_not_ended_with_it() {
    let site = Site::new();
    let worker = site.service("worker").with_pid_file().set("autostart", false);
    let master = site.service("master");
    let script = site.script(&format!(
        "{program} {} &\nexec {program} {}\n",
        worker.words().join(" "),
        master.words().join(" "),
        program = program().display(),
    ));
    let master = master.set("command", script.to_str().unwrap()).set("args", json!([]));
    let healer = site.guard([&worker, &master]);
    let first = worker.running(1);
    master.running(1);
    healer.until_said(&[("process", "worker"), ("message", "adopted a running instance")]);
    master.kill(Signal::KILL);
    master.running(2);
    assert!(worker.living().contains(&first), "healer ended what it guards");
}

#[test]
fn leftovers_may_be_left() {
    let site = Site::new();
    let service =
        site.service("workers").args(["--workers", "1"]).set("stop", json!({ "leftovers": false }));
    let _healer = site.guard([&service]);
    eventually("leader and worker run", || service.living().len() == 2);
    service.kill(Signal::KILL);
    eventually("the old worker and a new pair run", || service.living().len() == 3);
    assert_eq!(service.starts().len(), 2);
}

/// Its memory takes longer to give back than the news of its end: started at the news, the next
/// one would find the port taken.
#[test]
fn server_of_a_gibibyte_comes_back_on_its_port_at_the_first_try() {
    let site = Site::new();
    let (port, starts) = (free_port(), site.file("starts"));
    let text = format!(
        "import socket, sys, time\n\
         open({starts:?}, 'a').write('start\\n')\n\
         server = socket.socket()\n\
         server.bind(('127.0.0.1', {port}))\n\
         server.listen()\n\
         ballast = bytearray(b'x') * (1 << 30)\n\
         open({starts:?} + '.full', 'a').write('full\\n')\n\
         time.sleep(600)\n",
    );
    let file = site.file("server.py");
    fs::write(&file, text).unwrap();
    let server =
        site.service("server").set("command", "/usr/bin/python3").set("args", json!([file]));
    let lines = |path: &Path| fs::read_to_string(path).unwrap_or_default().lines().count();
    let full = site.file("starts.full");
    let _healer = site.guard([&server]);
    for count in 1..=3 {
        eventually("it fills its memory", || lines(&full) == count);
        assert_eq!(lines(&starts), count, "more than one try");
        let found = site.living().into_iter().find(|one| one.has(&file));
        assert!(kill(&found.unwrap(), Signal::KILL));
    }
    eventually("it fills its memory", || lines(&full) == 4);
    assert_eq!(lines(&starts), 4, "more than one try");
}
