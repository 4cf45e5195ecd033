//! Real processes for tests: started on private directories, awaited to a deadline, ended on drop.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant as Clock};

use healer::config::check::{Environment, check};
use healer::config::{InheritEnv, Process, Reader, RunAs, Stop};
use healer::event::{Instance, Pid, ProcessName, Signal};
use healer::instance::Held;
use healer::instance::table::Table;

pub const DEADLINE: Duration = Duration::from_secs(20);

/// An entry as `config` would make it, run as the tests' own user.
pub fn entry(name: &str, command: &str, args: &[&str]) -> Process {
    let text = b"processes: [{name: it, command: /it, monitor: {type: ebpf}, output: 'null'}]";
    let checked = check(text, &Environment::new(), &Reader::default()).unwrap();
    let defaults = Process::clone(&checked.config.processes[0]);
    Process {
        name: ProcessName::new(name),
        command: Some(command.into()),
        args: args.iter().map(ToString::to_string).collect(),
        run_as: RunAs::Healer,
        inherit_env: InheritEnv::Nothing,
        stop: quick_stop(),
        ..defaults
    }
}

pub fn quick_stop() -> Stop {
    Stop { signal: Signal(libc::SIGTERM), timeout: Duration::from_secs(5), leftovers: true }
}

/// A started process. Ended on drop, with everything in its session.
pub struct Started {
    child: Child,
    instance: Instance,
}

impl Started {
    pub fn pid(&self) -> Pid {
        Pid(self.child.id().cast_signed())
    }

    /// Who it was when it was started, dead or alive by now.
    pub fn instance(&self) -> Instance {
        self.instance
    }

    /// Waits for its end, as a parent does.
    pub fn reap(&mut self) {
        self.child.wait().unwrap();
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        end_session(self.pid());
    }
}

/// Ends every member of a session.
pub fn end_session(session: Pid) {
    let table = Table::snapshot().unwrap();
    for row in table.rows().iter().filter(|row| row.session == session) {
        end(row.instance);
    }
}

/// Ends one process.
pub fn end(instance: Instance) {
    if let Ok(Some(held)) = Held::open_exactly(instance) {
        let _ = held.signal(Signal(libc::SIGKILL));
    }
}

/// Starts a command in a session of its own, as healer does.
pub fn start(command: &[&str]) -> Started {
    start_in(Path::new("/"), command)
}

#[expect(clippy::disallowed_methods, reason = "no reaper runs in these tests")]
pub fn start_in(dir: &Path, command: &[&str]) -> Started {
    use std::os::unix::process::CommandExt;
    let mut command_line = std::process::Command::new("setsid");
    command_line.arg("--").args(command).current_dir(dir).arg0("setsid");
    command_line.stdin(Stdio::null()).stdout(Stdio::null());
    if std::env::var_os("HEALER_TESTS_STDERR").is_none() {
        command_line.stderr(Stdio::null());
    }
    // setsid(1) forks only where it leads a process group already: here it never does.
    let child = command_line.spawn().unwrap();
    // Not reaped yet, so its PID is its own, even if it ended already.
    let stat = procfs::process::Process::new(child.id().cast_signed()).unwrap().stat().unwrap();
    let instance = Instance { pid: Pid(stat.pid), start_ticks: stat.starttime };
    Started { child, instance }
}

/// Polls until `condition` holds; says `what` it waited for if it never does.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    until_some(what, || condition().then_some(()));
}

/// Polls until there is an answer.
pub fn until_some<T>(what: &str, mut poll: impl FnMut() -> Option<T>) -> T {
    let deadline = Clock::now() + DEADLINE;
    loop {
        if let Some(answer) = poll() {
            return answer;
        }
        assert!(Clock::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The living children of a process.
pub fn children_of(pid: Pid) -> Vec<Instance> {
    let table = Table::snapshot().unwrap();
    table.rows().iter().filter(|row| row.parent == pid).map(|row| row.instance).collect()
}

/// Writes a program file.
pub fn script(path: &Path, text: &str) -> PathBuf {
    let mut file = std::fs::File::create(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.set_permissions(PermissionsExt::from_mode(0o755)).unwrap();
    drop(file);
    path.to_owned()
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// Whether something accepts connections there.
pub fn answers(port: u16) -> bool {
    std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
}

/// nginx's configuration: two workers, everything private to `dir`.
pub fn nginx_conf(dir: &Path, port: u16) -> PathBuf {
    let dir_text = dir.display();
    let file = dir.join("nginx.conf");
    std::fs::write(
        &file,
        format!(
            "pid {dir_text}/nginx.pid; error_log {dir_text}/error.log; worker_processes 2;\n\
             events {{ worker_connections 16; }}\n\
             http {{ access_log off; client_body_temp_path {dir_text}/b;\n\
             proxy_temp_path {dir_text}/p; fastcgi_temp_path {dir_text}/f;\n\
             uwsgi_temp_path {dir_text}/u; scgi_temp_path {dir_text}/s;\n\
             server {{ listen 127.0.0.1:{port}; }} }}\n"
        ),
    )
    .unwrap();
    file
}

/// Starts nginx in the foreground and waits for its workers, which carry on the listening.
pub fn nginx(arguments: &[&str], port: u16) -> Started {
    let nginx = start(&[&["/usr/sbin/nginx"], arguments].concat());
    until("nginx has its workers", || {
        let titled = |one: &Instance| {
            let line = std::fs::read(format!("/proc/{one}/cmdline")).unwrap_or_default();
            line.starts_with(b"nginx: worker")
        };
        answers(port) && children_of(nginx.pid()).iter().filter(|one| titled(one)).count() == 2
    });
    nginx
}

/// Says why a test was skipped, or fails where skipping is not allowed.
pub fn skip(why: &str) {
    assert!(std::env::var_os("HEALER_TESTS_MUST_RUN").is_none(), "must run, but: {why}");
    eprintln!("skipped: {why}");
}

pub fn is_root() -> bool {
    nix::unistd::getuid().is_root()
}

/// A process gone from among the living, zombie or not.
pub fn is_dead(instance: Instance) -> bool {
    Held::open_exactly(instance).unwrap().is_none()
}
