//! What a launched program finds: exactly what its entry asks for, and nothing of healer's.

use std::collections::BTreeMap;
use std::ffi::{CStr, OsString};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

use healer::config::{InheritEnv, Limit, Process, Resource, RunAs};
use healer::event::Pid;
use healer::instance::Held;
use healer::launch::Baseline;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, posix_spawn};
use rstest::rstest;
use rustix::process::{Resource as Kernel, Rlimit};

use crate::{PATIENCE, Rig, Running, as_user, is_root, own, process, sleeper};

const NO_SIGNALS: &str = "0000000000000000";
const NO_CAPABILITIES: &str = "0000000000000000";

fn as_root(process: Process) -> Process {
    Process { run_as: RunAs::Root, ..process }
}

#[tokio::test]
async fn program_gets_its_words_directory_and_umask() {
    let rig = Rig::new();
    let args = vec!["1000".to_owned(), "0".to_owned()];
    let asked =
        Process { args, working_dir: "/usr/bin".into(), umask: Some(0o037), ..sleeper("web") };
    let running = rig.launch(&asked).await.unwrap();
    assert_eq!(running.proc("cmdline"), "/bin/sleep\x001000\x000\0");
    assert_eq!(running.path("cwd").read_link().unwrap(), Path::new("/usr/bin"));
    assert_eq!(running.status("Umask"), "0037");
}

#[tokio::test]
async fn program_gets_as_many_words_as_an_exec_takes() {
    let rig = Rig::new();
    for length in [10, 100_000] {
        let words = ["a", "b", "c", "d", "e", "f", "g", "h"].map(|word| word.repeat(length));
        let mut command = vec!["/bin/sh", "-c", "printf '%s.' \"$@\"", "sh"];
        command.extend(words.iter().map(String::as_str));
        let running = rig.launch(&process("words", &command)).await.unwrap();
        assert_eq!(running.end().exit_status(), Some(0));
        assert_eq!(rig.logged("words"), words.map(|word| word + ".").concat());
        std::fs::remove_file(rig.log("words")).unwrap();
    }
}

#[tokio::test]
async fn program_leads_a_session_of_its_own() {
    let rig = Rig::new();
    let spawned = rig.spawn(&sleeper("web")).unwrap();
    assert_eq!(spawned.staged.held().session().0, spawned.child.pid(), "before go, too");
    let running = spawned.go().await.unwrap();
    let stat = running.proc("stat");
    let fields: Vec<_> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let pid = running.pid().to_string();
    assert_eq!(fields[2..4], [&pid, &pid], "process group and session");
    assert_eq!(fields[4], "0", "no controlling terminal");
}

/// The start time is mostly concluded, not read: here it is compared with what `/proc` shows.
#[tokio::test]
async fn stage_is_held_by_its_true_start_time() {
    let rig = Rig::new();
    for _ in 0..100 {
        let staged = rig.launcher.spawn(&sleeper("web")).unwrap();
        let read = Held::open(staged.held().instance().pid).unwrap().unwrap();
        let (instance, session) = (staged.held().instance(), staged.held().session());
        assert_eq!((instance, session), (read.instance(), read.session()));
        drop(staged);
        drop(Running(read));
    }
}

#[tokio::test]
async fn program_has_only_three_descriptors() {
    let rig = Rig::new();
    let leak = tempfile::tempfile().unwrap();
    rustix::io::fcntl_setfd(&leak, rustix::io::FdFlags::empty()).unwrap();
    let running = rig.launch(&sleeper("web")).await.unwrap();
    assert!(leak.as_raw_fd() > 2);
    let log = rig.log("web");
    let expected = [("0", Path::new("/dev/null")), ("1", &log), ("2", &log)];
    let expected = expected.map(|(fd, path)| (fd.into(), path.to_owned()));
    // The program's own loader opens files, too, and closes them again.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let open = descriptors(&running);
        if open == expected {
            break;
        }
        assert!(Instant::now() < deadline, "{open:?}");
        std::thread::yield_now();
    }
}

fn descriptors(running: &Running) -> Vec<(OsString, PathBuf)> {
    let entries = std::fs::read_dir(running.path("fd")).unwrap();
    let mut open: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .filter_map(|path| Some((path.file_name()?.to_owned(), path.read_link().ok()?)))
        .collect();
    open.sort();
    open
}

#[tokio::test]
async fn signals_are_at_their_defaults_and_not_blocked() {
    let rig = Rig::new();
    // Rust ignores SIGPIPE; the mask is this thread's, which spawns.
    let mut set = nix::sys::signal::SigSet::all();
    set.remove(nix::sys::signal::Signal::SIGSEGV);
    let before = set.thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_BLOCK).unwrap();
    let spawned = rig.spawn(&sleeper("web")).unwrap();
    before.thread_set_mask().unwrap();
    let running = spawned.go().await.unwrap();
    for field in ["SigBlk", "SigIgn", "SigCgt", "SigPnd"] {
        assert_eq!(running.status(field), NO_SIGNALS, "{field}");
    }
}

#[rstest]
#[case::nothing(InheritEnv::Nothing, &["HOME", "LOGNAME", "OWN", "PATH", "SHELL", "USER"])]
#[case::listed(
    InheritEnv::Only(vec!["CARGO_MANIFEST_DIR".to_owned()]),
    &["CARGO_MANIFEST_DIR", "HOME", "LOGNAME", "OWN", "PATH", "SHELL", "USER"]
)]
#[tokio::test]
async fn environment_holds_what_is_asked(#[case] inherit_env: InheritEnv, #[case] names: &[&str]) {
    let rig = Rig::new();
    let env = BTreeMap::from([own(("OWN", "a=b c")), own(("SHELL", "/bin/mine"))]);
    let asked = as_root(Process { inherit_env, env, ..sleeper("web") });
    if !is_root() {
        return;
    }
    let found = rig.launch(&asked).await.unwrap().environment();
    assert_eq!(found.keys().collect::<Vec<_>>(), names);
    assert_eq!(found["PATH"], std::env::var("PATH").unwrap());
    assert_eq!((found["HOME"].as_str(), found["USER"].as_str()), ("/root", "root"));
    assert_eq!((found["OWN"].as_str(), found["SHELL"].as_str()), ("a=b c", "/bin/mine"));
}

#[tokio::test]
async fn user_gets_its_ids_groups_and_account() {
    if !is_root() {
        return;
    }
    let rig = Rig::new();
    let env = BTreeMap::from([own(("SHELL", "/bin/mine"))]);
    let asked = Process { env, ..as_user(sleeper("web"), "www-data", None) };
    let running = rig.launch(&asked).await.unwrap();
    let user = nix::unistd::User::from_name("www-data").unwrap().unwrap();
    assert_eq!(running.status("Uid"), [user.uid.to_string().as_str(); 4].join(" "));
    assert_eq!(running.status("Gid"), [user.gid.to_string().as_str(); 4].join(" "));
    assert_eq!(running.status("Groups"), groups_of(c"www-data", user.gid));
    for field in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(running.status(field), NO_CAPABILITIES, "{field}");
    }
    let environment = running.environment();
    assert_eq!(environment["HOME"], user.dir.to_str().unwrap());
    assert_eq!((environment["USER"].as_str(), &*environment["LOGNAME"]), ("www-data", "www-data"));
    assert_eq!(environment["SHELL"], "/bin/mine", "env has the last word");
}

fn groups_of(user: &CStr, gid: nix::unistd::Gid) -> String {
    let groups = nix::unistd::getgrouplist(user, gid).unwrap();
    groups.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

#[rstest]
#[case::named_group("nobody", Some("daemon"), "65534", "1", "1 65534")]
#[case::numbers("65534", Some("1"), "65534", "1", "1 65534")]
#[case::number_of_nobody("65534", None, "65534", "65534", "65534")]
#[case::number_unknown("54321", Some("54322"), "54321", "54322", "")]
#[tokio::test]
async fn user_and_group_are_names_or_numbers(
    #[case] user: &str,
    #[case] group: Option<&str>,
    #[case] uid: &str,
    #[case] gid: &str,
    #[case] may_have: &str,
) {
    if !is_root() {
        return;
    }
    let rig = Rig::new();
    let running = rig.launch(&as_user(sleeper("web"), user, group)).await.unwrap();
    assert_eq!(running.status("Uid"), [uid; 4].join(" "));
    assert_eq!(running.status("Gid"), [gid; 4].join(" "));
    let groups = running.status("Groups");
    let surplus = groups.split_whitespace().find(|one| !may_have.split(' ').any(|may| may == *one));
    assert_eq!(surplus, None, "groups: {groups}");
}

#[tokio::test]
async fn root_gets_its_full_set_and_no_capability_is_passed_on() {
    if !is_root() {
        return;
    }
    let rig = Rig::new();
    // As a healer would be that was given ambient capabilities. They are this thread's.
    caps::raise(None, caps::CapSet::Inheritable, caps::Capability::CAP_KILL).unwrap();
    caps::raise(None, caps::CapSet::Ambient, caps::Capability::CAP_KILL).unwrap();
    let root = rig.spawn(&as_root(sleeper("root"))).unwrap();
    let user = rig.spawn(&as_user(sleeper("user"), "nobody", None)).unwrap();
    caps::clear(None, caps::CapSet::Ambient).unwrap();
    caps::clear(None, caps::CapSet::Inheritable).unwrap();
    let (root, user) = (root.go().await.unwrap(), user.go().await.unwrap());
    let full = root.status("CapBnd");
    assert_eq!((root.status("CapPrm"), root.status("CapEff")), (full.clone(), full));
    for field in ["CapInh", "CapAmb"] {
        assert_eq!(root.status(field), NO_CAPABILITIES, "root's {field}");
    }
    for field in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(user.status(field), NO_CAPABILITIES, "the user's {field}");
    }
}

/// healer runs with few capabilities; what a launch needs, its stage has as a program of root's.
#[test]
fn stage_regains_what_healer_gave_up() {
    if !is_root() {
        return;
    }
    // Capabilities are a thread's, and once given up they are gone.
    let thread = std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let rig = Rig::new();
        let few = [caps::Capability::CAP_KILL, caps::Capability::CAP_SETUID].into();
        for set in [caps::CapSet::Effective, caps::CapSet::Permitted] {
            caps::set(None, set, &few).unwrap();
        }
        let user = as_user(Process { nice: Some(-3), ..sleeper("user") }, "www-data", None);
        let user = runtime.block_on(rig.launch(&user)).unwrap();
        let root = runtime.block_on(rig.launch(&as_root(sleeper("root")))).unwrap();
        let user_id = nix::unistd::User::from_name("www-data").unwrap().unwrap().uid.to_string();
        assert_eq!(user.status("Uid"), [user_id.as_str(); 4].join(" "));
        assert_eq!(user.status("CapPrm"), NO_CAPABILITIES);
        assert_eq!(nice(&user), -3);
        assert_eq!(root.status("CapEff"), root.status("CapBnd"));
    });
    thread.join().unwrap();
}

#[tokio::test]
async fn entry_sets_limits_nice_and_oom_score_adj() {
    let limits = [
        (Resource::Nofile, Limit { soft: Some(100), hard: Some(200) }),
        (Resource::Core, Limit { soft: Some(0), hard: Some(0) }),
    ];
    let asked = Process {
        limits: limits.into_iter().collect(),
        nice: Some(7),
        oom_score_adj: Some(500),
        ..sleeper("web")
    };
    let running = Rig::new().launch(&asked).await.unwrap();
    let limits = running.proc("limits");
    assert_eq!(limit(&limits, "Max open files"), ["100", "200"]);
    assert_eq!(limit(&limits, "Max core file size"), ["0", "0"]);
    assert_eq!(running.proc("oom_score_adj"), "500\n");
    assert_eq!(nice(&running), 7);
}

fn limit<'a>(limits: &'a str, name: &str) -> [&'a str; 2] {
    let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    let mut words = line.split_whitespace();
    [words.next().unwrap(), words.next().unwrap()]
}

fn nice(running: &Running) -> i32 {
    let pid = rustix::process::Pid::from_raw(running.pid());
    rustix::process::getpriority_process(pid).unwrap()
}

#[tokio::test]
async fn limit_below_what_the_stage_itself_has_open_can_be_set() {
    let limits = BTreeMap::from([(Resource::Nofile, Limit { soft: Some(4), hard: Some(4) })]);
    let asked = Process {
        limits,
        args: vec!["-c".to_owned(), "ulimit -n".to_owned()],
        command: Some("/bin/sh".into()),
        ..sleeper("web")
    };
    let rig = Rig::new();
    rig.launch(&asked).await.unwrap().end();
    assert_eq!(rig.logged("web"), "4\n");
}

/// The test process does what healer does to itself, after it recorded what it was given.
#[tokio::test]
async fn program_gets_what_healer_was_given_as_a_plain_shell_gives_it() {
    if !is_root() {
        return;
    }
    std::fs::write("/proc/self/oom_score_adj", "300").unwrap();
    let plain = plain_shell();
    let rig = Rig::given(Baseline::record().unwrap());
    let nofile = rustix::process::getrlimit(Kernel::Nofile);
    let half = nofile.current.unwrap_or(4096) / 2;
    let mine = Rlimit { current: Some(half), maximum: nofile.maximum };
    rustix::process::setrlimit(Kernel::Nofile, mine).unwrap();
    std::fs::write("/proc/self/oom_score_adj", "200").unwrap();
    rustix::process::setpriority_process(None, 3).unwrap();
    let mut one_cpu = CpuSet::new();
    let first = nix::sched::sched_getcpu().unwrap();
    one_cpu.set(first).unwrap();
    sched_setaffinity(nix::unistd::Pid::from_raw(0), &one_cpu).unwrap();

    let asked = Process { umask: None, ..sleeper("web") };
    let healed = rig.launch(&asked).await;
    rustix::process::setrlimit(Kernel::Nofile, nofile).unwrap();
    let healed = healed.unwrap();
    assert_eq!(healed.proc("limits"), plain.proc("limits"));
    assert_eq!(healed.proc("oom_score_adj"), plain.proc("oom_score_adj"));
    assert_eq!(nice(&healed), nice(&plain));
    for field in ["Umask", "Cpus_allowed", "NoNewPrivs", "Groups", "Uid", "Gid", "CapEff"] {
        assert_eq!(healed.status(field), plain.status(field), "{field}");
    }
}

fn plain_shell() -> Running {
    let (actions, attributes) =
        (PosixSpawnFileActions::init().unwrap(), PosixSpawnAttr::init().unwrap());
    let words = [c"sh", c"-c", c"exec sleep 1000"];
    let none: [&CStr; 0] = [];
    let pid = posix_spawn("/bin/sh", &actions, &attributes, &words, &none).unwrap();
    Running(Held::open(Pid(pid.as_raw())).unwrap().unwrap())
}
