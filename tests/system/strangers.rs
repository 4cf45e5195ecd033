//! Processes that look like the guarded one and are not: never taken for it, neither alive nor dead.
//! Needs root and eBPF.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use rstest::rstest;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{
    Healer, Living, Service, Site, command, eventually, eventually_some, has_ebpf, kill, living,
    throughout, wait,
};

/// More than the 15 bytes that `comm` has room for.
const NAME: &str = "web-server-of-the-shop";
const SAME_15_BYTES: &str = "web-server-of-the-office";

/// What runs beside the process that is meant, in which it differs.
#[derive(Clone, Copy, Debug)]
enum Stranger {
    /// The same file name and arguments, in another directory.
    Elsewhere,
    /// The same program with other arguments.
    OtherArguments,
    /// Another program with the same first 15 bytes of its name, and the same arguments.
    SameFifteenBytes,
    /// The same program and arguments, as another user.
    OtherUser,
    /// The same in everything, in a PID namespace of its own.
    InAContainer,
}

/// A started command, ended with all that is in its session.
struct Started(Child);

impl Started {
    /// In a session of its own, as an administrator's daemon is.
    fn new(words: &[&str]) -> Self {
        let mut setsid = command("/usr/bin/setsid");
        setsid.arg("--").args(words).stdout(Stdio::null());
        Self(setsid.spawn().unwrap())
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        wait(&mut self.0);
    }
}

/// The program that is meant: a copy of sleep(1), run as nobody.
struct Meant<'site> {
    site: &'site Site,
    program: PathBuf,
}

impl<'site> Meant<'site> {
    fn new(site: &'site Site) -> Self {
        Self { site, program: copy(&site.file(NAME)) }
    }

    fn entry(&self) -> Service {
        self.site
            .service("web")
            .unset("run_as_root")
            .set("run_as_user", "nobody")
            .set("command", self.program.to_str().unwrap())
            .set("args", json!(["600"]))
            .set("output", "null")
            .set("autostart", false)
    }

    fn start(&self) -> Started {
        Started::new(&[&AS_NOBODY[..], &[self.program.to_str().unwrap(), "600"]].concat())
    }

    fn stranger(&self, kind: Stranger) -> Started {
        let program = self.program.to_str().unwrap();
        let other = match kind {
            Stranger::Elsewhere => {
                fs::create_dir(self.site.file("elsewhere")).unwrap();
                copy(&self.site.file("elsewhere").join(NAME))
            }
            Stranger::SameFifteenBytes => copy(&self.site.file(SAME_15_BYTES)),
            _ => self.program.clone(),
        };
        let other = other.to_str().unwrap();
        let words = match kind {
            Stranger::Elsewhere | Stranger::SameFifteenBytes => vec![other, "600"],
            Stranger::OtherArguments => vec![program, "601"],
            Stranger::OtherUser => return Started::new(&[program, "600"]),
            Stranger::InAContainer => vec![program, "600"],
        };
        let container = ["/usr/bin/unshare", "--pid", "--fork", "--kill-child"];
        let outer = if matches!(kind, Stranger::InAContainer) { &container[..] } else { &[] };
        Started::new(&[outer, &AS_NOBODY, &words].concat())
    }

    /// All that run a copy of the program, whoever they are.
    fn sleepers(&self) -> Vec<Living> {
        let of_here = |one: &Living| one.words[0].starts_with(path(self.site.path()));
        living().filter(of_here).collect()
    }
}

const AS_NOBODY: [&str; 4] =
    ["/usr/bin/setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"];

fn copy(to: &Path) -> PathBuf {
    fs::copy("/bin/sleep", to).unwrap();
    fs::set_permissions(to, fs::Permissions::from_mode(0o755)).unwrap();
    to.to_owned()
}

fn path(path: &Path) -> &[u8] {
    use std::os::unix::ffi::OsStrExt;
    path.as_os_str().as_bytes()
}

/// The PIDs in the lines with this message, in order.
fn told(healer: &Healer, message: &str) -> Vec<i64> {
    let lines = healer.said(&[("process", "web"), ("message", message)]);
    lines.iter().filter_map(|line: &Value| line["pid"].as_i64()).collect()
}

#[rstest]
fn stranger_is_taken_neither_for_alive_nor_for_dead(
    #[values(
        Stranger::Elsewhere,
        Stranger::OtherArguments,
        Stranger::SameFifteenBytes,
        Stranger::OtherUser,
        Stranger::InAContainer
    )]
    kind: Stranger,
) {
    if !has_ebpf() {
        return;
    }
    let site = Site::new();
    let meant = Meant::new(&site);
    let healer = site.guard([&meant.entry()]);
    healer.until_said(&[("process", "web"), ("to", "down")]);
    let _stranger = meant.stranger(kind);
    let stranger = eventually_some("the stranger runs", || meant.sleepers().pop());
    // Starts are told in order: whoever is told of later was looked at later.
    let real = meant.start();
    eventually("the real one is adopted", || !told(&healer, "adopted").is_empty());
    assert_eq!(told(&healer, "adopted"), [i64::from(real.pid())]);
    // It is missed though the stranger lives.
    assert!(kill(&Living::read(real.pid()).unwrap(), Signal::KILL));
    eventually("it is brought back", || !told(&healer, "started").is_empty());
    // And the stranger is not missed.
    assert!(kill(&stranger, Signal::KILL), "nobody ended the stranger");
    eventually("it is gone", || meant.sleepers().len() == 1);
    throughout(Duration::from_millis(500), "nothing follows", || {
        told(&healer, "ended") == [i64::from(real.pid())]
            && told(&healer, "started").len() == 1
            && meant.sleepers().len() == 1
    });
}

#[test]
fn script_of_the_same_interpreter_is_a_stranger() {
    if !has_ebpf() {
        return;
    }
    let site = Site::new();
    let shell = site.file("shell");
    fs::copy("/bin/sh", &shell).unwrap();
    let [meant, other] = ["meant", "other"].map(|name| {
        let script = site.file(name);
        let text = format!("#!{}\nwhile :; do sleep 0.1; done\n", shell.display());
        fs::write(&script, text).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        script.to_str().unwrap().to_owned()
    });
    let service = site.service("web").set("command", meant.as_str()).set("args", json!([]));
    let healer = site.guard([&service.set("autostart", false)]);
    healer.until_said(&[("process", "web"), ("to", "down")]);
    let _stranger = Started::new(&[&other]);
    let real = Started::new(&[&meant]);
    eventually("the real one is adopted", || !told(&healer, "adopted").is_empty());
    throughout(Duration::from_millis(300), "it alone", || {
        told(&healer, "adopted") == [i64::from(real.pid())]
    });
}

#[test]
fn end_of_a_worker_is_none_of_its_process() {
    if !has_ebpf() {
        return;
    }
    let site = Site::new();
    let service = site.service("web").args(["--workers", "2"]);
    let healer = site.guard([&service]);
    let first = service.running(1);
    eventually("its workers run", || service.living().len() == 3);
    for worker in service.living().iter().filter(|one| one.pid != first.pid) {
        assert!(kill(worker, Signal::KILL));
    }
    eventually("they are gone", || service.living() == [first.clone()]);
    throughout(Duration::from_millis(300), "nothing follows", || {
        told(&healer, "ended").is_empty() && service.starts().len() == 1
    });
}
