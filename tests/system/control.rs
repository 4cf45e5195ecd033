//! The control socket of the real daemon: what is told is true, each request does what it says to
//! real processes, and nobody else may ask.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rstest::rstest;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{
    DEADLINE, Site, eventually_some, has_ebpf, is_root, run, skip, throughout, within,
};

const OK: i32 = 0;
const NOT_WELL: i32 = 1;
const USAGE: i32 = 64;
const FAULTS: i32 = 65;
const NOT_RUNNING: i32 = 69;
const DENIED: i32 = 77;

impl Site {
    /// Runs an operator's command, which ends with this exit code, and tells what it printed.
    fn operate(&self, arguments: &[&str], code: i32) -> (String, String) {
        let output = run(&mut self.healer(arguments));
        let (said, complained) = texts(&output);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}{complained}");
        (said, complained)
    }

    /// The JSON that a command prints.
    fn told(&self, arguments: &[&str]) -> Value {
        let (said, _) = self.operate(arguments, OK);
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
    }

    /// How one process stands.
    fn process(&self, name: &str) -> Value {
        self.told(&["status", name, "--json"])
    }

    /// Waits until a member of a process's status has this value.
    fn until(&self, name: &str, member: &str, value: &Value) -> Value {
        eventually_some(&format!("{name} has {member} = {value}"), || {
            let process = self.process(name);
            (process.pointer(member) == Some(value)).then_some(process)
        })
    }

    fn socket(&self) -> std::path::PathBuf {
        self.file("run/healer.sock")
    }
}

fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

/// A command that goes on to print lines.
struct Following {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Following {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let output = child.stdout.take().unwrap();
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            BufReader::new(output)
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| sender.send(line))
        });
        Self { child, lines }
    }

    /// The next line that has this in it; those before it are passed over.
    fn next(&self, part: &str) -> String {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).unwrap_or_else(|_| panic!("no line: {part}"));
            if line.contains(part) {
                return line;
            }
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn status_tells_the_instance_who_killed_the_last_one_and_how_the_breaker_stands() {
    let site = Site::new();
    let web = site.service("web").set("ready_after_secs", 0.1);
    let broken = site
        .service("broken")
        .args(["--exit", "3"])
        .set("recovery.retries", 1)
        .set("recovery.backoff", json!({ "initial_secs": 0.1 }));
    let off = site.service("off").set("enabled", false);
    let healer = site.guard([&web, &broken, &off]);
    let first = web.running(1);
    web.kill(Signal::KILL);
    let second = web.running(2);
    let told = site.until("web", "/ready", &json!(true));
    assert_eq!((&told["state"], &told["ok"]), (&json!("up"), &json!(true)));
    assert_eq!(told["instance"]["pid"], second.pid);
    assert_eq!(told["failures"]["count"], 1);
    let exit = &told["last_exit"];
    assert_eq!((&exit["pid"], &exit["signal"]), (&json!(first.pid), &json!("SIGKILL")));
    if has_ebpf() {
        let own = json!(std::process::id());
        assert_eq!((&exit["killer"]["kind"], &exit["killer"]["pid"]), (&json!("process"), &own));
    }
    let told = site.until("broken", "/state", &json!("breaker_open"));
    assert_eq!((&told["breaker"]["phase"], &told["ok"]), (&json!("open"), &json!(false)));
    assert_eq!(told["last_exit"]["code"], 3);
    let left = told["breaker"]["until_secs"].as_f64().unwrap();
    assert!((100.0..=180.0).contains(&left), "{left}");

    let all = site.told(&["status", "--json"]);
    let names: Vec<_> =
        all["processes"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
    assert_eq!(names, ["web", "broken", "off"]);
    assert_eq!(all["processes"][2]["state"], "disabled");
    assert_eq!((&all["pid"], &all["last_reload"]), (&json!(healer.pid()), &Value::Null));
    assert_eq!(all["config"], site.config().to_str().unwrap());
    assert_eq!(all["ebpf"]["loaded"], has_ebpf());

    let (table, _) = site.operate(&["status"], OK);
    let row = table.lines().find(|line| line.starts_with("web")).unwrap();
    assert!(row.contains("ready") && row.contains(&second.pid.to_string()), "{table}");
    assert!(row.contains("SIGKILL"), "{table}");
    assert!(table.lines().all(|line| line.chars().count() <= 100), "{table}");
    assert!(!table.contains('\x1b'), "nothing is coloured that is no terminal");
    let (quiet, _) = site.operate(&["status", "--quiet"], NOT_WELL);
    assert_eq!(quiet, "");
    site.operate(&["status", "web", "--quiet"], OK);
    site.operate(&["status", "nobody"], USAGE);
}

#[test]
fn a_host_fault_is_in_the_state_of_its_entry_until_it_is_cured() {
    let site = Site::new();
    let later = site.file("later");
    let web = site.service("web").set("working_dir", later.to_str().unwrap());
    site.guard([&web]);
    // Dropped at once: the next one finds the directory still missing.
    let _healer = site.start();
    let told = site.process("web");
    assert_eq!(told["ok"], false);
    assert_eq!(told["host_faults"][0]["key"], "working_dir");
    assert!(told["launch_failure"]["reason"].as_str().unwrap().contains("later"), "{told}");
    fs::create_dir(&later).unwrap();
    let (said, _) = site.operate(&["reload"], OK);
    assert_eq!(said, "reloaded, 1 process\n");
    assert_eq!(site.process("web")["host_faults"], json!([]));
}

#[test]
fn stop_ends_a_process_and_keeps_it_down_until_it_is_resumed() {
    let site = Site::new();
    let service = site.service("web");
    let mut healer = site.guard([&service]);
    service.running(1);
    let (said, _) = site.operate(&["stop", "web"], OK);
    assert_eq!(service.living(), [], "it has ended when the command has");
    assert!(said.starts_with("web: paused"), "{said}");
    healer.reload_file();
    throughout(Duration::from_millis(500), "it stays down", || service.starts().len() == 1);
    let told = site.process("web");
    assert_eq!((&told["state"], &told["ok"]), (&json!("paused"), &json!(true)));
    assert_eq!(told["failures"]["count"], 0);
    let (said, _) = site.operate(&["resume", "web"], OK);
    let second = service.running(2);
    assert_eq!(said, format!("web: up, PID {}\n", second.pid));
}

#[test]
fn pause_leaves_a_dead_process_dead_until_its_time_is_over() {
    let site = Site::new();
    let service = site.service("web");
    let _healer = site.guard([&service]);
    let first = service.running(1);
    site.operate(&["pause", "web", "--for", "3s"], OK);
    assert_eq!(service.living(), [first], "a pause ends nothing");
    service.kill(Signal::KILL);
    throughout(Duration::from_millis(500), "it stays down", || service.starts().len() == 1);
    assert_eq!(site.process("web")["state"], "paused");
    service.running(2);
    site.operate(&["pause", "web", "--for", "10"], USAGE);
}

#[test]
fn restart_replaces_an_instance_free_of_budget_and_starts_what_is_down() {
    let site = Site::new();
    let web = site.service("web").set("recovery.retries", 0);
    let idle = site.service("idle").set("autostart", false);
    let _healer = site.guard([&web, &idle]);
    let first = web.running(1);
    for count in 2..5 {
        let (said, _) = site.operate(&["restart", "web"], OK);
        let running = web.running(count);
        assert_ne!(running.pid, first.pid);
        assert_eq!(said, format!("web: up, PID {}\n", running.pid));
    }
    assert_eq!(site.process("web")["failures"]["count"], 0);
    site.operate(&["restart", "idle"], OK);
    idle.running(1);
}

#[test]
fn reset_closes_the_breaker_and_tries_again() {
    let site = Site::new();
    let good = site.file("good");
    let script = site.script(&format!("test -e {0} || exit 1\nexec sleep 1000\n", good.display()));
    let service = site
        .service("web")
        .set("command", script.to_str().unwrap())
        .set("recovery.retries", 0)
        .set("ready_after_secs", 0.1)
        .set("recovery.cooldown_secs", 600);
    let _healer = site.guard([&service]);
    site.until("web", "/state", &json!("breaker_open"));
    fs::write(good, "").unwrap();
    site.operate(&["reset", "web"], OK);
    let told = site.until("web", "/state", &json!("up"));
    assert_eq!(told["breaker"]["phase"], "closed");
    assert_eq!(told["failures"]["count"], 0);
}

#[test]
fn several_processes_are_asked_in_one_command_and_a_wrong_name_keeps_no_other_back() {
    let site = Site::new();
    let services = ["a", "b"].map(|name| site.service(name));
    let off = site.service("off").set("enabled", false);
    let _healer = site.guard(services.iter().chain([&off]));
    for service in &services {
        service.running(1);
    }
    let (said, complained) =
        site.operate(&["stop", "a", "nobody", "off", "x/y", "b", "--json"], USAGE);
    let states: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(states.len(), 2);
    assert!(states.iter().all(|told| told["done"] == true && told["request"] == "stop"), "{said}");
    for told in
        ["no process is called \"nobody\"; there are a, b, off", "process off is disabled", "x/y"]
    {
        assert!(complained.contains(told), "{complained}");
    }
    assert!(services.iter().all(|service| service.living().is_empty()));
}

#[test]
fn events_follow_a_death_and_the_restart_in_order() {
    let site = Site::new();
    let service = site.service("web");
    let _healer = site.guard([&service]);
    let first = service.running(1);
    let json = Following::start(site.healer(&["events", "--follow", "--json"]));
    let text = Following::start(site.healer(&["events", "--follow"]));
    // Both have the past.
    json.next(&format!("\"event\":\"started\",\"pid\":{}", first.pid));
    text.next(&format!("web: started, PID {}", first.pid));
    service.kill(Signal::KILL);
    let second = service.running(2);
    let parse = |line: String| serde_json::from_str::<Value>(&line).unwrap();
    let ended = parse(json.next("\"event\":\"ended\""));
    let started = parse(json.next("\"event\":\"started\""));
    assert_eq!((&ended["process"], &ended["exit"]["pid"]), (&json!("web"), &json!(first.pid)));
    assert_eq!((&started["pid"], &started["process"]), (&json!(second.pid), &json!("web")));
    assert!(ended["seq"].as_u64() < started["seq"].as_u64());
    assert!(ended["at"].as_str() <= started["at"].as_str());
    text.next("web: ended: SIGKILL");
    text.next(&format!("web: restarted, PID {}", second.pid));
    // Without --follow the command ends, with the same.
    let (past, _) = site.operate(&["events"], OK);
    assert!(past.contains(&format!("restarted, PID {}", second.pid)), "{past}");
}

#[test]
fn the_log_tells_whoever_finds_a_process_back_how_to_keep_it_down() {
    let site = Site::new();
    let service = site.service("web");
    let healer = site.guard([&service]);
    service.running(1);
    service.kill(Signal::KILL);
    service.running(2);
    healer.until_said(&[("message", "restarted"), ("to_keep_it_down", "healer stop web")]);
    assert_eq!(healer.said(&[("to_keep_it_down", "healer")]).len(), 1, "not at the first start");
}

#[test]
fn reload_by_the_socket_tells_what_came_of_it_and_a_bad_file_changes_nothing() {
    let site = Site::new();
    let [web, added] = ["web", "added"].map(|name| site.service(name));
    let _healer = site.guard([&web]);
    let first = web.running(1);
    site.configure([&web, &added]);
    let told = site.told(&["reload", "--json"]);
    assert_eq!((&told["taken"], &told["processes"]), (&json!(true), &json!(2)));
    added.running(1);
    // The socket is found by a file with faults as well.
    let run = site.file("run");
    let bad = format!("pid_file_directory: {}\nprocesses: 3\nlog_levle: info\n", run.display());
    site.write_config(&bad);
    let (said, _) = site.operate(&["reload"], FAULTS);
    assert!(said.starts_with("refused; the configuration is as before\n"), "{said}");
    assert_eq!(said.matches("fault: ").count(), 2, "{said}");
    assert!(said.contains("line 3"), "{said}");
    fs::remove_file(site.config()).unwrap();
    site.operate(&["status"], 66);
    let told = site.told(&["status", "--json", "--socket", site.socket().to_str().unwrap()]);
    assert_eq!(told["last_reload"]["taken"], false);
    assert_eq!(told["processes"].as_array().unwrap().len(), 2);
    assert_eq!(web.living(), [first]);
}

#[test]
fn reloads_at_one_time_each_get_an_outcome_and_end_in_the_newest_file() {
    let site = Site::new();
    let web = site.service("web");
    let healer = site.guard([&web]);
    web.running(1);
    let last = site.service("last");
    thread::scope(|scope| {
        for round in 0..10 {
            let passing = site.service(&format!("passing-{round}")).set("enabled", false);
            site.configure([&web, &passing]);
            scope.spawn(|| site.operate(&["reload"], OK));
        }
    });
    site.configure([&web, &last]);
    site.operate(&["reload"], OK);
    last.running(1);
    assert_eq!(web.starts().len(), 1);
    healer.stop();
}

#[test]
fn curl_needs_no_more_than_the_socket() {
    let site = Site::new();
    let service = site.service("web");
    let _healer = site.guard([&service]);
    let running = service.running(1);
    let answer = ask(&site.socket(), "GET /v1/processes/web HTTP/1.0\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{answer}");
    assert!(answer.contains(&format!("\"pid\":{}", running.pid)), "{answer}");
    let answer = ask(
        &site.socket(),
        "POST /v1/processes/web/pause HTTP/1.1\r\nHost: localhost\r\nUser-Agent: curl/8.0\r\n\
         Accept: */*\r\nContent-Length: 17\r\nContent-Type: application/x-www-form-urlencoded\r\n\r\n\
         {\"for_secs\": 600}",
    );
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert_eq!(site.process("web")["state"], "paused");
}

/// The answer to these bytes.
fn ask(socket: &Path, request: &str) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn without_a_healer_commands_say_where_it_was_looked_for() {
    let site = Site::new();
    site.configure([]);
    for arguments in [&["status", "-q"][..], &["reload"], &["events", "-f"], &["stop", "web"]] {
        let (said, complained) = site.operate(arguments, NOT_RUNNING);
        assert_eq!(said, "");
        assert!(complained.contains("healer does not run"), "{complained}");
        assert!(complained.contains(site.socket().to_str().unwrap()), "{complained}");
    }
    // Of one that was killed, the socket is left.
    let healer = site.start();
    healer.end_by(Signal::KILL);
    assert!(site.socket().exists());
    let (_, complained) = site.operate(&["status"], NOT_RUNNING);
    assert!(complained.contains("healer does not run"), "{complained}");
    // The next one takes its place.
    let healer = site.start();
    site.operate(&["status", "--quiet"], OK);
    healer.stop();
    assert!(!site.socket().exists(), "a healer that stops takes it away");
}

#[test]
fn second_healer_does_not_take_the_socket() {
    let site = Site::new();
    let service = site.service("web");
    let healer = site.guard([&service]);
    let before = fs::symlink_metadata(site.socket()).unwrap().ino();
    assert!(!run(&mut site.healer(&["--foreground"])).status.success());
    assert_eq!(fs::symlink_metadata(site.socket()).unwrap().ino(), before);
    assert_eq!(site.told(&["status", "--json"])["pid"], healer.pid());
}

#[test]
fn a_healer_whose_directory_is_removed_heals_on_and_stops() {
    let site = Site::new();
    let service = site.service("web");
    let mut healer = site.guard([&service]);
    service.running(1);
    fs::remove_dir_all(site.file("run")).unwrap();
    site.operate(&["status"], NOT_RUNNING);
    service.kill(Signal::KILL);
    service.running(2);
    healer.assert_running();
    healer.stop();
}

#[test]
fn no_place_for_a_socket_keeps_nobody_unguarded() {
    let site = Site::new();
    let service = site.service("web");
    // A directory with something in it cannot be replaced by a socket.
    fs::create_dir_all(site.socket().join("x")).unwrap();
    let healer = site.guard([&service]);
    service.running(1);
    healer.until_said(&[("level", "ERROR"), ("message", "there is no control socket")]);
    service.kill(Signal::KILL);
    service.running(2);
}

#[rstest]
#[case::nobody_else(&["--reuid=65534", "--regid=65534", "--clear-groups"])]
#[case::member_of_other_groups(&["--reuid=65534", "--regid=65534", "--groups=1,2,3"])]
fn another_user_is_kept_out_by_the_file_and_by_the_daemon(#[case] identity: &[&str]) {
    if !is_root() {
        return skip("becoming another user needs root");
    }
    let site = Site::new();
    let service = site.service("web");
    let _healer = site.guard([&service]);
    let first = service.running(1);
    let found = fs::symlink_metadata(site.socket()).unwrap();
    assert!(found.file_type().is_socket());
    assert_eq!(found.permissions().mode() & 0o117, 0, "{:o}", found.permissions().mode());
    let socket = site.socket();
    let socket = socket.to_str().unwrap();
    let setpriv: Vec<&str> = ["setpriv"].iter().chain(identity).copied().collect();
    for arguments in
        [["status", "--socket", socket].as_slice(), &["stop", "web", "--socket", socket]]
    {
        let output = run(&mut within(&setpriv, &site.healer(arguments)));
        let (said, complained) = texts(&output);
        assert_eq!(output.status.code(), Some(DENIED), "{said}{complained}");
        assert!(complained.contains("permission denied") && complained.contains("group healer"));
    }
    // Somebody opened the file to all: the daemon itself still refuses.
    fs::set_permissions(socket, fs::Permissions::from_mode(0o666)).unwrap();
    for arguments in
        [["status", "--socket", socket].as_slice(), &["stop", "web", "--socket", socket]]
    {
        let output = run(&mut within(&setpriv, &site.healer(arguments)));
        let (said, complained) = texts(&output);
        assert_eq!(output.status.code(), Some(DENIED), "{said}{complained}");
        assert!(complained.contains("may not use this socket"), "{complained}");
    }
    assert_eq!(service.living(), [first]);
}

#[test]
fn healer_of_an_ordinary_user_is_operated_by_that_user_and_by_root() {
    if !is_root() {
        return skip("becoming another user needs root");
    }
    let site = Site::new();
    chown(site.path(), Some(65534), Some(65534)).unwrap();
    let service = site.service("web").unset("run_as_root");
    site.configure([&service]);
    fs::set_permissions(site.config(), fs::Permissions::from_mode(0o644)).unwrap();
    let setpriv = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let _healer = site.spawn(&mut within(&setpriv, &site.healer(&["--foreground"])));
    let running = service.running(1);
    for as_whom in [&setpriv[..], &[]] {
        let command =
            site.healer(&["status", "web", "--json", "--socket", site.socket().to_str().unwrap()]);
        let mut command = if as_whom.is_empty() { command } else { within(as_whom, &command) };
        let output = run(&mut command);
        let (said, complained) = texts(&output);
        assert!(output.status.success(), "{complained}");
        assert!(said.contains(&format!("\"pid\":{}", running.pid)), "{said}");
    }
    let _ = run(&mut within(&setpriv, &site.healer(&["stop", "web"])));
    assert_eq!(service.living(), []);
    let told =
        run(&mut site.healer(&["status", "web", "--socket", site.socket().to_str().unwrap()]));
    assert!(!texts(&told).0.contains("by root"), "it was its own user");
}

#[test]
fn processes_are_healed_while_thousands_of_clients_and_garbage_arrive() {
    let site = Site::new();
    let service = site.service("web").set("ready_after_secs", 0);
    let mut healer = site.guard([&service]);
    service.running(1);
    let before = resident_kib(healer.pid());
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        // Some who say nothing, some who say nonsense, some who ask and do not read.
        for kind in 0..4_u32 {
            let (site, over) = (&site, &over);
            scope.spawn(move || {
                let mut open = Vec::new();
                for number in 0..500_u32 {
                    if over.load(Ordering::Relaxed) {
                        return;
                    }
                    // A full backlog makes connect(2) wait: then that is what this client does.
                    let Some(mut stream) = try_connect(&site.socket()) else { continue };
                    let said: &[u8] = match kind {
                        0 => b"",
                        1 => &[0xff; 3_000],
                        2 => b"GET /v1/status HTTP/1.1\r\n",
                        _ => b"GET /v1/events?follow=1 HTTP/1.1\r\nhost: x\r\n\r\n",
                    };
                    let _ = stream.write_all(said);
                    if number % 2 == 0 {
                        open.push(stream);
                    }
                }
                while !over.load(Ordering::Relaxed) {
                    thread::sleep(Duration::from_millis(10));
                }
            });
        }
        for count in 2..22 {
            service.kill(Signal::KILL);
            service.running(count);
        }
        over.store(true, Ordering::Relaxed);
    });
    healer.assert_running();
    let grown = resident_kib(healer.pid()).saturating_sub(before);
    assert!(grown < 8 << 10, "{grown} KiB more");
    let gaps = service.gaps();
    assert!(gaps.iter().max() < Some(&Duration::from_secs(5)), "{gaps:?}");
    // And it answers again, once those who said nothing are let go.
    site.operate(&["status", "--quiet"], OK);
}

/// A connection, unless that takes long.
fn try_connect(socket: &Path) -> Option<UnixStream> {
    use rustix::net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let stream = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
    for _ in 0..10 {
        match connect(&stream, &SocketAddrUnix::new(socket).unwrap()) {
            Ok(()) => return Some(stream.into()),
            Err(_) => thread::sleep(Duration::from_millis(1)),
        }
    }
    None
}

fn resident_kib(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
