//! What a thousand probed processes cost: the daemon, which guards them and probes each by HTTP every
//! ten seconds, beside the floor, a process that makes as many bare requests and does nothing else.
//! Both ask the same server, in one run, so that they meet the same machine. And whether the daemon's
//! probes come in bursts, as the server sees it.
//!
//! `cargo bench --bench probes [-- SECONDS]`.

#![expect(clippy::unwrap_used, reason = "a measurement that fails has nothing to tell")]
#![expect(clippy::disallowed_methods, reason = "nothing else waits for children here")]

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use procfs::process::Process;
use rustix::fs::{CWD, Mode, mkfifoat};

const PROCESSES: u32 = 1000;
const INTERVAL: Duration = Duration::from_secs(10);
/// Bursts are looked for in windows of this length.
const WINDOW: Duration = Duration::from_millis(100);

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [mode, address] = words.as_slice()
        && mode == "floor"
    {
        floor(address.parse().unwrap());
    }
    let seconds = words.iter().find_map(|word| word.parse().ok()).unwrap_or(60);
    let measured = Duration::from_secs(seconds);
    let site = tempfile::tempdir_in(".").unwrap();
    let site = fs::canonicalize(site.path()).unwrap();
    let (address, asked) = serve();
    let mut healer = Rival::start("healer", guard(&site, address));
    let begun = Instant::now();
    // Until each has been probed, the first time soon after its start.
    thread::sleep(INTERVAL * 2);
    let probed = asked.try_iter().filter(|(by, _)| *by == By::Healer).count();
    assert!(probed >= PROCESSES as usize, "{probed} probes in {:?}", begun.elapsed());
    let mut bare = Command::new(std::env::current_exe().unwrap());
    bare.arg("floor").arg(address.to_string());
    let mut floor = Rival::start("floor", bare);
    let (of_floor, of_healer) = (floor.cpu(), healer.cpu());
    asked.try_iter().count();
    thread::sleep(measured);
    let asked: Vec<(By, Instant)> = asked.try_iter().collect();
    let spent = [floor.cpu().saturating_sub(of_floor), healer.cpu().saturating_sub(of_healer)];
    println!("{PROCESSES} processes, each probed every {INTERVAL:?}; {seconds} s");
    for (rival, by, spent) in [(&floor, By::Floor, spent[0]), (&healer, By::Healer, spent[1])] {
        let requests = asked.iter().filter(|(one, _)| *one == by).count();
        let share = 100.0 * spent.as_secs_f64() / measured.as_secs_f64();
        let each = spent / u32::try_from(requests).unwrap().max(1);
        let (now, most) = rival.memory();
        println!(
            "  {:7} {requests:6} requests   {share:5.2} % of one core, {each:8.1?} each   \
             {now:4.1} MiB resident, at most {most:4.1}",
            rival.name
        );
    }
    let times: Vec<Instant> =
        asked.iter().filter(|(by, _)| *by == By::Healer).map(|(_, at)| *at).collect();
    let (most, mean) = bursts(&times, measured);
    println!("  healer in {WINDOW:?}: {mean:.1} probes on average, at most {most}");
    // First, or it would start again what ends.
    healer.end();
    floor.end();
}

/// Who asked the server.
#[derive(Clone, Copy, PartialEq)]
enum By {
    Floor,
    Healer,
}

/// A server that answers every request with 200, and tells who asked when.
fn serve() -> (SocketAddr, Receiver<(By, Instant)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (asked, receiver) = channel();
    thread::spawn(move || {
        let mut request = [0; 4096];
        for mut stream in listener.incoming().flatten() {
            let at = Instant::now();
            let length = stream.read(&mut request).unwrap_or(0);
            let is_floor = request[..length].starts_with(b"GET /floor");
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            // The main thread is gone at the end.
            let _ = asked.send((if is_floor { By::Floor } else { By::Healer }, at));
        }
    });
    (address, receiver)
}

/// As many requests as the probes are, evenly, for ever.
fn floor(address: SocketAddr) -> ! {
    let pause = INTERVAL / PROCESSES;
    let mut due = Instant::now();
    let mut answer = [0; 4096];
    loop {
        due += pause;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let mut stream = TcpStream::connect(address).unwrap();
        let request =
            format!("GET /floor HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let _ = stream.read(&mut answer).unwrap();
    }
}

/// The daemon, with a thousand processes that wait for the end of this one.
fn guard(site: &Path, address: SocketAddr) -> Command {
    let fifo = site.join("fifo");
    mkfifoat(CWD, &fifo, Mode::RWXU).unwrap();
    // Kept open, to the end of this process.
    std::mem::forget(File::options().read(true).write(true).open(&fifo).unwrap());
    let (home, root) = (site.display(), rustix::process::geteuid().is_root());
    let mut text = format!(
        "log_level: error\nlog_directory: {home}\npid_file_directory: {home}\nprocesses:\n"
    );
    for number in 0..PROCESSES {
        let own = site.join(format!("{number}"));
        symlink(&fifo, &own).unwrap();
        writeln!(
            text,
            "  - {{name: service-{number}, command: /bin/cat, args: ['{}'], run_as_root: {root}, \
             output: 'null', monitor: {{type: network, interval_secs: {}, \
             target_url: 'http://{address}/{number}'}}}}",
            own.display(),
            INTERVAL.as_secs()
        )
        .unwrap();
    }
    let config = site.join("config.yaml");
    fs::write(&config, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_healer"));
    command.arg("--foreground").arg("-c").arg(config);
    command
}

/// A process that is measured.
struct Rival {
    name: &'static str,
    child: Child,
}

impl Rival {
    fn start(name: &'static str, mut command: Command) -> Self {
        let child = command.stdout(Stdio::null()).stdin(Stdio::null()).spawn().unwrap();
        Self { name, child }
    }

    fn process(&self) -> Process {
        Process::new(self.child.id().cast_signed()).unwrap()
    }

    /// What it has used so far, all threads together.
    fn cpu(&self) -> Duration {
        let stat = self.process().stat().unwrap();
        healer::clock::TICK * u32::try_from(stat.utime + stat.stime).unwrap()
    }

    /// MiB: now, and at most.
    fn memory(&self) -> (f64, f64) {
        let status = self.process().status().unwrap();
        let mib = |kib: Option<u64>| f64::from(u32::try_from(kib.unwrap()).unwrap()) / 1024.0;
        (mib(status.vmrss), mib(status.vmhwm))
    }

    fn end(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// How many came in a window: at most, and on average.
fn bursts(times: &[Instant], measured: Duration) -> (usize, f64) {
    let most = times
        .iter()
        .enumerate()
        .map(|(index, first)| {
            times[index..].iter().take_while(|at| at.duration_since(*first) < WINDOW).count()
        })
        .max()
        .unwrap_or(0);
    let count = f64::from(u32::try_from(times.len()).unwrap());
    (most, count * WINDOW.as_secs_f64() / measured.as_secs_f64())
}
