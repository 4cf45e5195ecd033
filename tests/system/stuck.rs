//! What not even SIGKILL ends: a process that waits in the kernel for a device that does not answer.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;
use serde_json::json;

use crate::harness::{Healer, Site, command, eventually, program, skip};

/// A file system that greets the kernel and then answers nothing, until it is dropped: whoever opens
/// a file there is in uninterruptible sleep (fuse(4), and `request_wait_answer` in the kernel).
struct Deaf {
    device: File,
    /// Somebody waits.
    asked: Arc<AtomicBool>,
    over: Arc<AtomicBool>,
    server: Option<JoinHandle<()>>,
}

impl Deaf {
    fn open() -> std::io::Result<Self> {
        let device = File::options().read(true).write(true).open("/dev/fuse")?;
        let [asked, over] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
        let server = thread::spawn({
            let (device, asked, over) =
                (device.try_clone()?, Arc::clone(&asked), Arc::clone(&over));
            move || serve(device, &asked, &over)
        });
        Ok(Self { device, asked, over, server: Some(server) })
    }
}

impl Drop for Deaf {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(server) = self.server.take() {
            server.join().unwrap();
        }
        // The last descriptor goes with this one: the kernel lets all go that wait.
    }
}

/// Only FUSE_INIT has an answer.
fn serve(mut device: File, asked: &AtomicBool, over: &AtomicBool) {
    const LOOKUP: u32 = 1;
    const INIT: u32 = 26;
    let mut request = vec![0; 1 << 16];
    while !over.load(Ordering::Relaxed) {
        let moment = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
        if poll(&mut [PollFd::new(&device, PollFlags::IN)], Some(&moment)).unwrap() == 0 {
            continue;
        }
        // Not mounted yet, or no more.
        let Ok(length) = device.read(&mut request) else {
            thread::sleep(Duration::from_millis(20));
            continue;
        };
        // The header: length, opcode, unique.
        let opcode = |known: u32| length >= 16 && request[4..8] == known.to_ne_bytes();
        if opcode(LOOKUP) {
            asked.store(true, Ordering::Relaxed);
        }
        if opcode(INIT) {
            let mut answer = Vec::from(80_u32.to_ne_bytes());
            answer.extend(0_i32.to_ne_bytes());
            answer.extend(&request[8..16]);
            // Version 7.31, and defaults for all else.
            answer.extend([7_u32, 31].map(u32::to_ne_bytes).concat());
            answer.resize(80, 0);
            device.write_all(&answer).unwrap();
        }
    }
}

/// healer in a mount namespace of its own, where this directory is that file system.
fn guard_with<'site>(site: &'site Site, deaf: &Deaf, directory: &Path) -> Option<Healer<'site>> {
    let plain = site.healer(&["--foreground"]);
    let script = "mount -i -t fuse -o fd=0,rootmode=40000,user_id=0,group_id=0 healer-test \"$0\" \
                  || exit; exec \"$@\" < /dev/null";
    let mut start = command("/usr/bin/unshare");
    start.args(["--mount", "/bin/sh", "-c", script]).arg(directory).arg(plain.get_program());
    start.args(plain.get_args()).env("NOTIFY_SOCKET", site.notify.path());
    start.current_dir(site.path()).stdin(Stdio::from(deaf.device.try_clone().unwrap()));
    let mut healer = site.spawn(&mut start);
    eventually("healer is ready, or cannot be", || {
        site.notify.heard().iter().any(|said| said == "READY=1") || healer.has_ended()
    });
    (!healer.has_ended()).then_some(healer)
}

#[test]
fn what_sigkill_does_not_end_is_told_and_nothing_is_started_beside_it() {
    let site = Site::new();
    let directory = site.file("deaf");
    fs::create_dir(&directory).unwrap();
    let deaf = match Deaf::open() {
        Ok(deaf) => deaf,
        Err(error) => return skip(&format!("/dev/fuse cannot be used: {error}")),
    };
    let file = directory.join("file");
    let lines = format!("cat {} & exec {} \"$@\"\n", file.display(), program().display());
    let script = site.script(&lines);
    let service = site
        .service("web")
        .set("command", script.to_str().unwrap())
        .set("stop", json!({ "timeout_secs": 0.2 }));
    site.configure([&service]);
    let Some(healer) = guard_with(&site, &deaf, &directory) else {
        return skip("a file system of its own cannot be mounted");
    };
    service.running(1);
    eventually("one waits in the kernel", || deaf.asked.load(Ordering::Relaxed));
    let stuck = site.living().into_iter().find(|process| process.has("cat")).unwrap();
    service.kill(Signal::KILL);
    healer.until_said(&[
        ("process", "web"),
        ("to", "unknown"),
        ("reason", &format!("{} (state D) survived SIGKILL", stuck.pid)),
    ]);
    assert_eq!(service.starts().len(), 1, "nothing is started beside it");
    drop(deaf);
    service.running(2);
}
