//! Where output goes, that none of it is lost, and what refuses a launch.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use healer::config::{Config, Log, LogFormat, LogLevel, Output, OutputFile, Process};
use healer::launch::rotate;
use rstest::rstest;

use crate::{KEEP_ALL, Rig, process, sleeper};

const TALK: [&str; 3] = ["/bin/sh", "-c", "echo out; echo err >&2"];

fn to(output: Output, process: Process) -> Process {
    Process { output, ..process }
}

#[tokio::test]
async fn file_holds_the_output_of_every_run() {
    let rig = Rig::new();
    for _ in 0..2 {
        rig.launch(&process("web", &TALK)).await.unwrap().end();
    }
    assert_eq!(rig.logged("web"), "out\nerr\nout\nerr\n");
    let mode = |path: &Path| path.metadata().unwrap().mode() & 0o777;
    // The umask of the test process may take more away.
    assert_eq!(mode(&rig.log("web")) & !0o640, 0);
    assert_eq!(mode(rig.log("web").parent().unwrap()) & !0o750, 0);
}

#[rstest]
#[case::file(Output::File(KEEP_ALL), libc::O_APPEND)]
#[case::null(Output::Null, 0)]
#[tokio::test]
async fn program_may_block_on_its_output(#[case] output: Output, #[case] append: i32) {
    let running = Rig::new().launch(&to(output, sleeper("web"))).await.unwrap();
    for fd in ["fdinfo/1", "fdinfo/2"] {
        let flags = i32::from_str_radix(&crate::field_of(&running.proc(fd), "flags"), 8).unwrap();
        assert_eq!(flags & (libc::O_APPEND | libc::O_NONBLOCK), append, "{fd}");
        assert_eq!(flags & libc::O_ACCMODE, libc::O_WRONLY, "{fd}");
    }
}

#[tokio::test]
async fn inherited_and_null_output_go_where_they_should() {
    let rig = Rig::new();
    let inherited = rig.launch(&to(Output::Inherit, sleeper("web"))).await.unwrap();
    let null = rig.launch(&to(Output::Null, sleeper("db"))).await.unwrap();
    for fd in ["fd/1", "fd/2"] {
        let mine = Path::new("/proc/self").join(fd).read_link().unwrap();
        assert_eq!(inherited.path(fd).read_link().unwrap(), mine);
        assert_eq!(null.path(fd).read_link().unwrap(), Path::new("/dev/null"));
    }
    assert!(!rig.log("web").exists() && !rig.log("db").exists());
}

#[tokio::test]
async fn auto_is_a_file_where_healer_does_not_write_to_the_journal() {
    let rig = Rig::new();
    rig.launch(&to(Output::Auto(KEEP_ALL), process("web", &TALK))).await.unwrap().end();
    assert_eq!(rig.logged("web"), "out\nerr\n");
}

#[tokio::test]
async fn journal_gets_a_described_stream() {
    let mut rig = Rig::new();
    let socket = rig.logs.path().join("journal");
    let journal = UnixListener::bind(&socket).unwrap();
    rig.launcher = rig.launcher.clone().with_journal(socket);
    let running = rig.launch(&to(Output::Journal, process("web", &TALK))).await.unwrap();
    let (mut stream, _) = journal.accept().unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text, "healer-web\n\n6\n1\n0\n0\n0\nout\nerr\n");
    running.end();
}

#[tokio::test]
async fn journal_that_is_not_there_refuses() {
    let mut rig = Rig::new();
    rig.launcher = rig.launcher.clone().with_journal(PathBuf::from("/no/journal"));
    let refusal = rig.refusal(&to(Output::Journal, process("web", &TALK))).await;
    let said = "output to the journal at /no/journal: no such file or directory (os error 2)";
    assert_eq!(refusal, format!("cannot start web: {said}"));
}

#[rstest]
#[case::link(|path: &Path| symlink("/dev/null", path).unwrap(), "too many levels of symbolic links (os error 40)")]
#[case::fifo(fifo, "no such device or address (os error 6)")]
#[case::directory(|path: &Path| std::fs::create_dir(path).unwrap(), "is a directory (os error 21)")]
#[tokio::test]
async fn anything_but_a_file_in_the_logs_place_refuses(
    #[case] make: fn(&Path),
    #[case] said: &str,
) {
    let rig = Rig::new();
    let log = rig.log("web");
    std::fs::create_dir(log.parent().unwrap()).unwrap();
    make(&log);
    let refusal = rig.refusal(&process("web", &TALK)).await;
    assert_eq!(refusal, format!("cannot start web: output to {}: {said}", log.display()));
}

fn fifo(path: &Path) {
    nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
}

#[tokio::test]
async fn log_directory_that_cannot_be_made_refuses() {
    let rig = Rig::new();
    std::fs::write(rig.logs.path().join("processes"), "in the way").unwrap();
    let refusal = rig.refusal(&process("web", &TALK)).await;
    let said = "not a directory (os error 20)";
    assert_eq!(
        refusal,
        format!("cannot start web: output to {}: {said}", rig.log("web").display())
    );
}

#[test]
fn files_to_rotate_are_those_that_are_written() {
    let rig = Rig::new();
    let processes = [
        to(Output::File(KEEP_ALL), sleeper("file")),
        to(Output::Auto(KEEP_ALL), sleeper("auto")),
        to(Output::Journal, sleeper("journal")),
        to(Output::Inherit, sleeper("inherit")),
        to(Output::Null, sleeper("null")),
    ];
    let config = Config {
        log: Log {
            level: LogLevel::Info,
            format: LogFormat::Text,
            directory: rig.logs.path().to_owned(),
        },
        pid_file_directory: "/run".into(),
        working_directory: "/".into(),
        max_parallel_launches: 16,
        processes: processes.into_iter().map(Arc::new).collect(),
    };
    let expected = [(rig.log("file"), KEEP_ALL), (rig.log("auto"), KEEP_ALL)];
    assert_eq!(rig.launcher.output_files(&config), expected);
}

/// A log file in a directory of its own.
struct LogFile {
    directory: tempfile::TempDir,
}

impl LogFile {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("web.log")
    }

    fn append(&self, text: &str) {
        let mut file = OpenOptions::new().append(true).create(true).open(self.path()).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    /// All files' names and contents.
    fn files(&self) -> Vec<(String, String)> {
        let mut files: Vec<_> = std::fs::read_dir(self.directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .map(|path| {
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                (name, std::fs::read_to_string(path).unwrap())
            })
            .collect();
        files.sort();
        files
    }

    /// One rotation of `runs`, each of which wrote a line with its number.
    fn rotated(runs: u32, keep: u32) -> Vec<(String, String)> {
        let log = Self::new();
        for run in 0..runs {
            log.append(&format!("{run}\n"));
            assert!(rotate(&log.path(), OutputFile { max_bytes: 1, keep }).unwrap());
        }
        log.files()
    }
}

#[rstest]
#[case::keeps_all(2, 3, &[("web.log", ""), ("web.log.1", "1\n"), ("web.log.2", "0\n")])]
#[case::drops_the_oldest(4, 2, &[("web.log", ""), ("web.log.1", "3\n"), ("web.log.2", "2\n")])]
#[case::keeps_one(3, 1, &[("web.log", ""), ("web.log.1", "2\n")])]
#[case::keeps_none(3, 0, &[("web.log", "")])]
fn rotation_keeps_the_newest_files(
    #[case] runs: u32,
    #[case] keep: u32,
    #[case] files: &[(&str, &str)],
) {
    let expected: Vec<_> = files.iter().copied().map(crate::own).collect();
    assert_eq!(LogFile::rotated(runs, keep), expected);
}

#[test]
fn rotation_forgets_what_an_earlier_configuration_kept() {
    let log = LogFile::new();
    for (run, keep) in [(0, 3), (1, 3), (2, 3), (3, 1)] {
        log.append(&format!("{run}\n"));
        rotate(&log.path(), OutputFile { max_bytes: 0, keep }).unwrap();
    }
    let expected = [("web.log", ""), ("web.log.1", "3\n")];
    assert_eq!(log.files(), expected.map(crate::own));
}

#[test]
fn file_is_left_alone_until_it_is_larger_than_allowed() {
    let log = LogFile::new();
    assert!(!rotate(&log.path(), OutputFile { max_bytes: 0, keep: 1 }).unwrap(), "none yet");
    log.append("12345");
    assert!(!rotate(&log.path(), OutputFile { max_bytes: 5, keep: 1 }).unwrap());
    assert_eq!(log.files(), [crate::own(("web.log", "12345"))]);
}

#[test]
fn rotation_follows_no_link() {
    let (log, other) = (LogFile::new(), LogFile::new());
    other.append("precious");
    symlink(other.path(), log.path()).unwrap();
    rotate(&log.path(), OutputFile { max_bytes: 0, keep: 1 }).unwrap_err();
    assert_eq!(other.files(), [crate::own(("web.log", "precious"))]);
}

#[test]
fn leftover_of_an_interrupted_rotation_is_replaced() {
    let log = LogFile::new();
    log.append("new");
    symlink("/no/where", log.directory.path().join("web.log.new")).unwrap();
    rotate(&log.path(), OutputFile { max_bytes: 0, keep: 1 }).unwrap();
    assert_eq!(log.files(), [("web.log", ""), ("web.log.1", "new")].map(crate::own));
}

#[tokio::test]
async fn running_program_goes_on_in_the_emptied_file() {
    let rig = Rig::new();
    let script = "echo one; read go <\"$FIFO\"; echo two";
    let fifo_path = rig.logs.path().join("fifo");
    fifo(&fifo_path);
    let mut asked = process("web", &["/bin/sh", "-c", script]);
    asked.env.insert("FIFO".to_owned(), fifo_path.to_str().unwrap().to_owned());
    let running = rig.launch(&asked).await.unwrap();
    // The program opens the FIFO after its first line: opening it here waits for that.
    let mut go = OpenOptions::new().write(true).open(&fifo_path).unwrap();
    assert!(rotate(&rig.log("web"), OutputFile { max_bytes: 1, keep: 1 }).unwrap());
    go.write_all(b"go\n").unwrap();
    running.end();
    assert_eq!(rig.logged("web"), "two\n");
    let rotated = rig.log("web").with_extension("log.1");
    assert_eq!(std::fs::read_to_string(rotated).unwrap(), "one\n");
}
