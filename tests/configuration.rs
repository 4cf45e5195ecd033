//! Configurations as operators meet them: the program, its exit code and what it prints.

#![expect(clippy::disallowed_methods, reason = "tests run beside the daemon, not in it")]
#![expect(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use rstest::rstest;
use tempfile::TempDir;

const GOOD: &str = "processes:\n  - name: web\n    command: sh\n    run_as_root: true\n    \
                    monitor: { type: pid, pid_file_path: /run/healer-test/web.pid }\n";

/// `healer` with these arguments and nothing of this process's environment but PATH.
fn healer(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_healer"));
    command.args(arguments).env_clear().env("PATH", "/usr/bin:/bin");
    command
}

/// What it printed on both streams, and its exit code.
fn ran(command: &mut Command) -> (String, i32) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = String::from_utf8(stderr).unwrap() + &String::from_utf8(stdout).unwrap();
    (text, status.code().expect("it exits"))
}

fn check(file: &Path) -> (String, i32) {
    ran(healer(&["check", "-c"]).arg(file))
}

fn check_text(file: &Path) -> (String, i32) {
    ran(healer(&["check", "--file-only", "-c"]).arg(file))
}

/// A directory, and the path of a configuration with this text in it.
fn site(text: &str) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.yaml");
    fs::write(&file, text).unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    (directory, file)
}

/// Whether the test may go on; it changes owners or needs root to be refused something.
fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    let must_run = std::env::var_os("HEALER_TESTS_MUST_RUN").is_some_and(|value| value == "1");
    assert!(root || !must_run, "cannot run: it needs root");
    if !root {
        eprintln!("skipped: it needs root");
    }
    root
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

#[test]
fn the_example_has_no_faults() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("config.yaml");
    let (text, code) = check_text(&example);
    assert_eq!(code, 0, "{text}");
    assert!(text.ends_with(&format!("{}: 3 processes, no faults\n", example.display())), "{text}");
}

#[rstest]
#[case::pid("process-healer-pid.yaml")]
#[case::ebpf("process-healer-ebpf.yaml")]
fn a_configuration_of_process_healer_is_accepted(#[case] name: &str) {
    let (text, code) = check_text(&fixture(name));
    assert_eq!(code, 0, "{text}");
    assert!(text.ends_with(": 1 process, no faults\n"), "{text}");
}

#[test]
fn a_configuration_of_process_healer_with_dependencies_is_accepted() {
    let file = fixture("process-healer-network.yaml");
    let (text, code) = check_text(&file);
    assert_eq!(code, 0, "{text}");
    assert_eq!(
        text,
        format!(
            "warning: site requires worker2, which is disabled: \
             it will not be started until worker2 is enabled\n\
             {}: 3 processes, no faults\n",
            file.display()
        )
    );
}

#[test]
fn the_quick_start_of_process_healer_is_for_an_ordinary_user() {
    if !is_root() {
        return;
    }
    // The file and the program may lie where nobody else can reach them.
    let text = fs::read_to_string(fixture("process-healer-quickstart.yaml")).unwrap();
    let (_site, file) = site(&text);
    let (text, code) = check(&file);
    assert_eq!(code, 65);
    assert!(text.contains("say run_as_user: NAME, or run_as_root: true"), "{text}");
    // The text alone is judged alike by everyone: images are built by root as well.
    let by_nobody = as_nobody(&file, &["check", "--file-only"]);
    assert_eq!(by_nobody, check_text(&file));
    let (text, code) = by_nobody;
    assert_eq!(code, 0, "{text}");
    assert!(text.starts_with("warning: counter: neither run_as_user"), "{text}");
}

/// Runs a copy of the program beside `file` as the user nobody.
fn as_nobody(file: &Path, arguments: &[&str]) -> (String, i32) {
    let directory = file.parent().unwrap();
    fs::set_permissions(directory, Permissions::from_mode(0o755)).unwrap();
    let program = directory.join("healer");
    fs::copy(env!("CARGO_BIN_EXE_healer"), &program).unwrap();
    let mut command = Command::new(program);
    ran(command.args(arguments).arg("-c").arg(file).env_clear().uid(65534).gid(65534))
}

#[test]
fn every_fault_of_the_text_is_told_at_once_with_its_line() {
    let (_site, file) = site(
        "log_level: inof\nprocesses:\n  - name: web\n    command: bin/web\n    run_as_root: true\n    \
         monitor:\n      type: pid\n      pid_file_path: /run/web.pid\n      intervall_secs: 3\n",
    );
    let (text, code) = check_text(&file);
    assert_eq!(code, 65);
    assert_eq!(
        text,
        format!(
            "error: the configuration {} has 3 faults\n  \
             log_level (line 1, column 12): \"inof\" is not one of \
             error, warn, info, debug, trace, did you mean \"info\"?\n  \
             processes[0].command (line 4, column 14): \
             must be an absolute path, or a bare name that PATH holds; \"bin/web\" is neither\n  \
             processes[0].monitor.intervall_secs (line 9, column 7): \
             unknown key \"intervall_secs\", did you mean \"interval_secs\"?\n",
            file.display()
        )
    );
}

#[test]
fn a_good_configuration_on_a_good_machine_is_one_line() {
    if !is_root() {
        return;
    }
    let (site, file) = site(GOOD);
    let own = site.path().join("run");
    fs::write(&file, format!("pid_file_directory: {}\n{GOOD}", own.display())).unwrap();
    let (text, code) = check(&file);
    assert_eq!((text, code), (format!("{}: 1 process, no faults\n", file.display()), 0));
}

#[test]
fn what_the_machine_lacks_is_told_too() {
    if !is_root() {
        return;
    }
    let (site, file) = site("");
    let own = site.path().join("run");
    let text = GOOD.replace("run_as_root: true", "run_as_user: no-such-user");
    let text = text.replace("command: sh", "command: no-such-program");
    fs::write(&file, format!("pid_file_directory: {}\n{text}", own.display())).unwrap();
    let (text, code) = check(&file);
    assert_eq!(code, 65);
    assert_eq!(
        text,
        "error: 2 host faults\n  \
         process web: run_as_user: user \"no-such-user\" is not in the user database\n  \
         process web: command: \"no-such-program\" is in no directory of PATH (/usr/bin:/bin)\n"
    );
    let (text, code) = check_text(&file);
    assert_eq!(code, 0, "{text}");
}

#[test]
fn a_missing_file_is_named() {
    let (site, _) = site("");
    let missing = site.path().join("none.yaml");
    let (text, code) = check_text(&missing);
    assert_eq!(code, 66);
    assert_eq!(
        text,
        format!(
            "error: the configuration {} cannot be read\n\
             caused by: No such file or directory (os error 2)\n",
            missing.display()
        )
    );
}

#[test]
fn a_directory_is_no_configuration() {
    let (site, _) = site("");
    let (text, code) = check_text(site.path());
    assert_eq!(code, 66);
    let path = site.path().display();
    assert_eq!(
        text,
        format!("error: the configuration {path} is a directory: a regular file is expected\n")
    );
}

#[test]
fn a_pipe_is_refused_without_waiting_for_a_writer() {
    let (site, _) = site("");
    let pipe = site.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let started = Instant::now();
    let (text, code) = check_text(&pipe);
    assert_eq!(code, 66);
    assert!(text.contains("is a pipe: a regular file is expected"), "{text}");
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_device_is_no_configuration() {
    let (text, code) = check_text(Path::new("/dev/zero"));
    assert_eq!(code, 66);
    assert!(text.contains("is a device: a regular file is expected"), "{text}");
}

#[test]
fn a_file_of_100_megabytes_is_not_read() {
    let (_site, file) = site("");
    File::options().write(true).open(&file).unwrap().set_len(100 << 20).unwrap();
    let (text, code) = check_text(&file);
    assert_eq!(code, 66);
    let path = file.display();
    assert_eq!(text, format!("error: the configuration {path} is larger than 16 MiB\n"));
}

#[test]
fn a_file_that_may_not_be_read_is_named() {
    if !is_root() {
        return;
    }
    let (_site, file) = site(GOOD);
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    let (text, code) = as_nobody(&file, &["check"]);
    assert_eq!(code, 66);
    assert_eq!(
        text,
        format!(
            "error: the configuration {} cannot be read\n\
             caused by: Permission denied (os error 13)\n",
            file.display()
        )
    );
}

#[rstest]
#[case::by_everyone(0o646, "is writable by everyone (cure: chmod go-w")]
#[case::by_everyone_and_sticky(0o1646, "is writable by everyone (cure: chmod go-w")]
fn root_refuses_a_file_that_others_may_write(#[case] mode: u32, #[case] why: &str) {
    if !is_root() {
        return;
    }
    let (_site, file) = site(GOOD);
    fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
    let (text, code) = check(&file);
    assert_eq!(code, 66);
    let path = file.display();
    assert_eq!(
        text,
        format!(
            "error: the configuration {path} cannot be trusted by root: {path} {why} {path})\n"
        )
    );
    // Where nothing but the text counts, it is nothing but a text.
    assert_eq!(check_text(&file).1, 0);
}

#[test]
fn root_refuses_a_directory_of_another_even_behind_a_link() {
    if !is_root() {
        return;
    }
    let (site, file) = site(GOOD);
    let theirs = site.path().join("theirs");
    fs::create_dir(&theirs).unwrap();
    fs::rename(&file, theirs.join("config.yaml")).unwrap();
    chown(&theirs, Some(65534), None).unwrap();
    symlink(theirs.join("config.yaml"), &file).unwrap();
    let (text, code) = check(&file);
    assert_eq!(code, 66);
    let (path, theirs) = (file.display(), theirs.display());
    assert_eq!(
        text,
        format!(
            "error: the configuration {path} cannot be trusted by root: \
             {theirs} is owned by uid 65534 (cure: chown root {theirs})\n"
        )
    );
}

#[test]
fn links_that_lead_nowhere_end() {
    if !is_root() {
        return;
    }
    let (site, _) = site("");
    let (here, there) = (site.path().join("here"), site.path().join("there"));
    symlink(&here, &there).unwrap();
    symlink(&there, &here).unwrap();
    let (text, code) = check(&here);
    assert_eq!(code, 66);
    assert!(text.contains("Too many levels of symbolic links"), "{text}");
}

#[test]
fn the_file_of_who_called_sudo_is_accepted_with_a_warning() {
    if !is_root() {
        return;
    }
    let (_site, file) = site(GOOD);
    chown(&file, Some(65534), None).unwrap();
    let (text, code) = check(&file);
    assert_eq!(code, 66, "{text}");
    let (text, _) = ran(healer(&["check", "-c"]).arg(&file).env("SUDO_UID", "65534"));
    let warning = "is not root's alone but of the user who called sudo";
    assert!(text.contains(&format!("warning: {} {warning}", file.display())), "{text}");
    assert!(!text.contains("cannot be trusted"), "{text}");
}

#[rstest]
#[case::values("[x,x,x,x,x,x,x,x,x,x]", 10, 12)]
#[case::texts(&format!("[\"{}\"]", "x".repeat(1 << 20)), 20, 4)]
fn an_alias_bomb_ends_within_its_bounds(
    #[case] seed: &str,
    #[case] width: usize,
    #[case] levels: usize,
) {
    let mut bomb = format!("a0: &a0 {seed}\n");
    for level in 1..=levels {
        let below = vec![format!("*a{}", level - 1); width].join(",");
        bomb = format!("{bomb}a{level}: &a{level} [{below}]\n");
    }
    let (_site, file) = site(&format!("{bomb}processes: *a{levels}\n"));
    let started = Instant::now();
    // 1 GiB of addresses.
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -v 1048576; exec \"$0\" check --file-only -c \"$1\""]);
    let (text, code) = ran(command.arg(env!("CARGO_BIN_EXE_healer")).arg(&file));
    assert_eq!(code, 65, "{text}");
    assert!(text.contains("aliases expand to too much: write the values out"), "{text}");
    assert!(started.elapsed() < Duration::from_secs(30));
}

/// Deep nesting costs the square of its depth where nothing bounds it.
#[rstest]
#[case::lists("[", 1_000_000)]
#[case::pairs("[a: ", 1_000_000)]
#[case::maps("{", 1_000_000)]
#[case::entries("- ", 1_000_000)]
#[case::keys("? ", 1_000_000)]
fn deep_nesting_ends_soon(#[case] step: &str, #[case] depth: usize) {
    let (_site, file) = site(&step.repeat(depth));
    let started = Instant::now();
    let (text, code) = check_text(&file);
    assert_eq!(code, 65, "{text}");
    assert!(text.contains("line 1, column"), "{text}");
    assert!(started.elapsed() < Duration::from_secs(30));
}

#[test]
fn the_environment_counts_where_it_is_a_key_and_only_there() {
    let (_site, file) = site("processes: []\n");
    let mut command = healer(&["check", "--file-only", "-c"]);
    command.arg(&file).env("HEALER_LOG_LEVEL", "loud").env("HEALER_PROCESSES", "x");
    let (text, code) = ran(&mut command);
    assert_eq!(code, 65);
    assert_eq!(
        text,
        format!(
            "error: the configuration {} has 1 fault\n  log_level (set by HEALER_LOG_LEVEL): \
             \"loud\" is not one of error, warn, info, debug, trace\n",
            file.display()
        )
    );
    let mut command = healer(&["check", "--file-only", "-c"]);
    let (text, code) = ran(command.arg(&file).env("HEALER_LOG_LEVEL", ""));
    assert_eq!(code, 0, "{text}");
}

#[test]
fn the_path_is_the_argument_then_the_variable_then_the_working_directory() {
    let (site, file) = site(GOOD);
    let print = |arguments: &[&str], variable: Option<&str>| {
        let mut command = healer(arguments);
        command.arg("--print-config-path").current_dir(site.path());
        ran(command.envs(variable.map(|value| ("HEALER_CONFIG", value))))
    };
    let line = |path: &str| (format!("{path}\n"), 0);
    assert_eq!(print(&["-c", "/a.yaml"], Some("/b.yaml")), line("/a.yaml"));
    assert_eq!(print(&[], Some("/b.yaml")), line("/b.yaml"));
    let relative = site.path().join("c.yaml");
    assert_eq!(print(&["-c", "c.yaml"], None), line(relative.to_str().unwrap()));
    if !Path::new("/etc/healer/config.yaml").exists() {
        assert_eq!(print(&[], None), line(file.to_str().unwrap()));
        fs::remove_file(&file).unwrap();
        let (text, code) = print(&[], None);
        assert_eq!(code, 66);
        assert!(text.contains("say -c FILE or set HEALER_CONFIG"), "{text}");
    }
}

#[rstest]
#[case::version(&["--version"], 0, env!("CARGO_PKG_VERSION"))]
#[case::help(&["--help"], 0, "--print-config-path")]
#[case::help_of_check(&["check", "--help"], 0, "--file-only")]
#[case::unknown(&["--colour"], 64, "--colour")]
#[case::unknown_command(&["chekc"], 64, "check")]
fn the_command_line(#[case] arguments: &[&str], #[case] expected: i32, #[case] says: &str) {
    let (text, code) = ran(&mut healer(arguments));
    assert_eq!(code, expected, "{text}");
    assert!(text.contains(says), "{text}");
}
