//! What goes wrong is told by step and errno; nothing is left behind, and nothing runs with
//! other rights than asked.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use healer::config::Process;
use healer::event::Signal;
use healer::launch::LaunchError;
use rstest::rstest;
use tokio::time::{Instant, timeout};

use crate::{Rig, alone, as_user, is_root, process, sleeper};

#[rstest]
#[case::missing("/no/such/web", "exec of /no/such/web: no such file or directory (os error 2)")]
#[case::not_executable("/etc/passwd", "exec of /etc/passwd: permission denied (os error 13)")]
#[case::directory("/usr", "exec of /usr: permission denied (os error 13)")]
#[case::bare("no-such-web", "command no-such-web is not in PATH")]
#[tokio::test]
async fn command_that_cannot_run_is_named_with_its_errno(#[case] path: &str, #[case] said: &str) {
    let refusal = Rig::new().refusal(&process("web", &[path])).await;
    assert_eq!(refusal, format!("cannot start web: {said}"));
}

#[rstest]
#[case::no_program("plain text\n", "", "exec format error (os error 8)")]
#[case::no_interpreter(
    "#!/no/such/shell\n",
    ", which is there: its interpreter",
    "no such file or directory (os error 2)"
)]
#[tokio::test]
async fn file_that_is_no_program_is_named(
    #[case] text: &str,
    #[case] more: &str,
    #[case] said: &str,
) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("web");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    let path = path.to_str().unwrap();
    let refusal = Rig::new().refusal(&process("web", &[path])).await;
    assert_eq!(refusal, format!("cannot start web: exec of {path}{more}: {said}"));
}

#[tokio::test]
async fn missing_directory_is_named() {
    let asked = Process { working_dir: "/no/such/place".into(), ..sleeper("web") };
    let said = "chdir to /no/such/place: no such file or directory (os error 2)";
    assert_eq!(Rig::new().refusal(&asked).await, format!("cannot start web: {said}"));
}

#[rstest]
#[case::user("no-such-user", None, "user \"no-such-user\" is not in the user database")]
#[case::empty("", None, "user \"\" is not in the user database")]
#[case::group("nobody", Some("no-such"), "group \"no-such\" is not in the group database")]
#[case::number(
    "54321",
    None,
    "user 54321 is not in the user database: run_as_group must say its group"
)]
#[case::no_uid("4294967295", Some("1"), "4294967295 is no number of a user or group")]
#[case::no_gid("nobody", Some("4294967295"), "4294967295 is no number of a user or group")]
#[tokio::test]
async fn unknown_user_or_group_refuses_and_never_runs_as_root(
    #[case] user: &str,
    #[case] group: Option<&str>,
    #[case] said: &str,
) {
    if !is_root() {
        return;
    }
    let rig = Rig::new();
    let asked = as_user(process("web", &["/bin/sh", "-c", "id"]), user, group);
    assert_eq!(rig.refusal(&asked).await, format!("cannot start web: {said}"));
    assert_eq!(rig.logged("web"), "", "nothing ran");
}

#[tokio::test]
async fn directory_and_program_must_be_open_to_the_user() {
    if !is_root() {
        return;
    }
    let rig = Rig::new();
    let closed = tempfile::tempdir().unwrap();
    let program = closed.path().join("sleep");
    std::fs::copy("/bin/sleep", &program).unwrap();
    std::fs::set_permissions(closed.path(), Permissions::from_mode(0o700)).unwrap();
    let there = Process { working_dir: closed.path().to_owned(), ..sleeper("web") };
    let refusal = rig.refusal(&as_user(there, "nobody", None)).await;
    let denied = "permission denied (os error 13)";
    assert_eq!(
        refusal,
        format!("cannot start web: chdir to {}: {denied}", closed.path().display())
    );
    let asked = as_user(process("web", &[program.to_str().unwrap()]), "nobody", None);
    let said = format!("exec of {}: {denied}", program.display());
    assert_eq!(rig.refusal(&asked).await, format!("cannot start web: {said}"));
}

#[tokio::test]
async fn failure_is_the_processes_own_and_its_stage_ends() {
    let rig = Rig::new();
    let spawned = rig.spawn(&process("web", &["/no/such/web"])).unwrap();
    let going = spawned.staged.go().unwrap();
    let error = going.executed(Instant::now() + crate::PATIENCE).await.unwrap_err();
    assert!(!error.is_node_fault(), "{error}");
    assert_eq!(spawned.child.end().exit_status(), Some(1));
}

#[tokio::test]
async fn stage_that_is_dropped_ends_and_starts_nothing() {
    let rig = Rig::new();
    let spawned = rig.spawn(&process("web", &["/bin/echo", "started"])).unwrap();
    drop(spawned.staged);
    assert_eq!(spawned.child.end().exit_status(), Some(0));
    assert_eq!(rig.logged("web"), "");
}

/// The word was said, but by the time it is read there is nobody to look after the program.
#[test]
fn stage_whose_healer_ends_after_go_starts_nothing() {
    let logged = alone(async || {
        let rig = Rig::new();
        let spawned = rig.spawn(&process("web", &["/bin/echo", "started"])).unwrap();
        stop(&spawned.child);
        let going = spawned.staged.go().unwrap();
        let executed = going.executed(Instant::now() + crate::PATIENCE);
        assert!(
            timeout(Duration::from_millis(50), executed).await.is_err(),
            "it is dropped unfinished"
        );
        spawned.child.0.signal(Signal(libc::SIGCONT)).unwrap();
        assert_eq!(spawned.child.end().exit_status(), Some(0));
        rig.logged("web")
    });
    assert_eq!(logged, "");
}

#[tokio::test]
async fn stage_that_hangs_is_killed_at_the_deadline() {
    let rig = Rig::new();
    let spawned = rig.spawn(&sleeper("web")).unwrap();
    stop(&spawned.child);
    let deadline = Instant::now() + Duration::from_millis(50);
    let error = spawned.staged.go().unwrap().executed(deadline).await.unwrap_err();
    assert!(matches!(error, LaunchError::TimedOut { .. }), "{error}");
    assert_eq!(error.to_string(), "cannot start web: timed out in step \"setting up\"");
    assert_eq!(spawned.child.end().terminating_signal(), Some(libc::SIGKILL));
}

#[tokio::test]
async fn stage_that_is_killed_is_no_confirmed_launch() {
    let rig = Rig::new();
    let before = rig.spawn(&sleeper("web")).unwrap();
    before.child.0.signal(Signal(libc::SIGKILL)).unwrap();
    before.child.end();
    let error = before.staged.go().unwrap_err();
    assert_eq!(error.to_string(), "cannot start web: it was ended before its exec");

    let during = rig.spawn(&sleeper("web")).unwrap();
    stop(&during.child);
    let going = during.staged.go().unwrap();
    let go = tokio::spawn(going.executed(Instant::now() + crate::PATIENCE));
    tokio::task::yield_now().await;
    during.child.0.signal(Signal(libc::SIGKILL)).unwrap();
    let error = go.await.unwrap().unwrap_err();
    assert!(matches!(error, LaunchError::Died { .. }), "{error}");
}

/// Stops a stage where it is, and waits until it is: somewhere before its exec, as it has not
/// been told to go.
fn stop(stage: &crate::Running) {
    stage.0.signal(Signal(libc::SIGSTOP)).unwrap();
    let deadline = std::time::Instant::now() + crate::PATIENCE;
    while !stage.status("State").starts_with('T') {
        assert!(std::time::Instant::now() < deadline, "the stage stops in time");
        std::thread::yield_now();
    }
}

#[test]
fn running_out_of_descriptors_is_the_machines_fault() {
    let refusals = alone(async || {
        let rig = Rig::new();
        let null = std::fs::File::open("/dev/null").unwrap();
        let mut fillers = Vec::new();
        while let Ok(filler) = null.try_clone() {
            fillers.push(filler);
        }
        let mut refusals = Vec::new();
        let staged = loop {
            match rig.launcher.spawn(&sleeper("web")) {
                Ok(staged) => break staged,
                Err(error) => {
                    assert!(error.is_node_fault(), "{error}");
                    refusals.push(error.to_string());
                }
            }
            fillers.pop().expect("it needs fewer descriptors than a process may have");
        };
        let going = staged.go().unwrap();
        let launched = going.executed(Instant::now() + crate::PATIENCE).await;
        drop(fillers);
        drop(crate::Running(launched.unwrap()));
        refusals
    });
    // The pidfd then takes the place of the stage's end of the socket.
    for step in ["output to", "the stage's specification", "the stage's socket"] {
        assert!(refusals.iter().any(|refusal| refusal.contains(step)), "{step}: {refusals:?}");
    }
}
