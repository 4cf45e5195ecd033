use rstest::rstest;

use super::*;
use crate::config::Pattern;

const ROOT: u32 = 0;
const WEB: u32 = 33;
const NGINX: FileId = FileId { dev: 1, ino: 10 };
const PYTHON: FileId = FileId { dev: 1, ino: 20 };
const NEW_NGINX: FileId = FileId { dev: 1, ino: 11 };

fn program(file: FileId, path: &str, script: Option<&str>) -> Program {
    let script = script.map(|name| name.as_bytes().to_vec());
    Program { file: Some(file), path: path.into(), script }
}

fn wanted(program: Program, args: &[&str]) -> Wanted {
    Wanted {
        uid: ROOT,
        any_uid: false,
        files: Files { program, matched: None },
        args: args.iter().flat_map(|arg| words(arg.as_bytes())).map(<[u8]>::to_vec).collect(),
        matching: Matching::default(),
    }
}

fn nginx(args: &[&str]) -> Wanted {
    wanted(program(NGINX, "/usr/sbin/nginx", None), args)
}

fn script(args: &[&str]) -> Wanted {
    wanted(program(PYTHON, "/usr/bin/python3.11", Some("web.py")), args)
}

fn exe(file: FileId, path: &str) -> Exe {
    Exe::File(file, path.into())
}

fn details(uid: u32, cmdline: &str) -> Details {
    Details { uid, depth: 1, cmdline: cmdline.as_bytes().to_vec() }
}

fn instance(pid: i32) -> Instance {
    Instance { pid: Pid(pid), start_ticks: 1 }
}

fn one<'a>(pid: i32, parent: i32, exe: &'a Exe, details: &'a Details) -> Candidate<'a> {
    Candidate {
        instance: instance(pid),
        parent: Pid(parent),
        comm: "nginx",
        exe,
        details,
        leaderless: false,
    }
}

#[rstest]
// A binary: its arguments in a row, whole words, anywhere after the first word.
#[case::no_arguments(nginx(&[]), "nginx\0", Fit::Full)]
#[case::arguments(nginx(&["-c", "/a"]), "nginx\0-c\0/a\0", Fit::Full)]
#[case::arguments_among_others(nginx(&["-c", "/a"]), "nginx\0-q\0-c\0/a\0-x\0", Fit::Full)]
#[case::title_shows_them(
    nginx(&["-g", "daemon off;"]),
    "nginx: master process /usr/sbin/nginx -g daemon off;",
    Fit::Full
)]
#[case::other_arguments(nginx(&["-c", "/a"]), "nginx\0-c\0/b\0", Fit::No)]
#[case::half_a_word(nginx(&["-c", "/a"]), "nginx\0-c\0/ab\0", Fit::No)]
#[case::not_in_a_row(nginx(&["-c", "/a"]), "nginx\0-c\0-q\0/a\0", Fit::No)]
#[case::too_few(nginx(&["-c", "/a"]), "nginx\0-c\0", Fit::No)]
#[case::first_word_is_no_argument(nginx(&["nginx"]), "nginx\0", Fit::No)]
#[case::rewritten(nginx(&["-c", "/a"]), "nginx: worker process", Fit::Rewritten)]
#[case::title_shows_others(
    nginx(&["-c", "/a"]),
    "nginx: master process /usr/sbin/nginx -c /b",
    Fit::No
)]
#[case::erased(nginx(&["-c", "/a"]), "\0\0\0", Fit::Rewritten)]
// A script: the word before them ends in its name.
#[case::script(script(&["-p", "1"]), "python3\0./web.py\0-p\x001\0", Fit::Full)]
#[case::script_by_its_name(script(&[]), "/usr/bin/python3\0web.py\0", Fit::Full)]
#[case::script_with_interpreter_options(script(&[]), "python3\0-u\0/srv/web.py\0", Fit::Full)]
#[case::script_in_a_directory_with_blanks(script(&["1"]), "python3\0/my srv/web.py\x001\0", Fit::Full)]
#[case::script_with_a_title(script(&["1"]), "web: python3 /srv/web.py 1", Fit::Full)]
#[case::program_that_names_the_script(script(&[]), "python3\0-c\0exec /srv/web.py\0", Fit::No)]
#[case::other_script(script(&[]), "python3\0/srv/db.py\0", Fit::No)]
#[case::script_of_a_longer_name(script(&[]), "python3\0/srv/myweb.py\0", Fit::No)]
#[case::script_not_before_arguments(script(&["-p"]), "python3\0web.py\0-q\0-p\0", Fit::No)]
fn arguments_decide_within_the_same_program(
    #[case] wanted: Wanted,
    #[case] cmdline: &str,
    #[case] expected: Fit,
) {
    let file = wanted.files.program.file.unwrap();
    let (exe, details) = (exe(file, "/elsewhere"), details(ROOT, cmdline));
    assert_eq!(fit(&wanted, &one(812, 1, &exe, &details), 1), expected);
}

#[rstest]
#[case::same_inode(exe(NGINX, "/usr/sbin/renamed"), Fit::Full)]
#[case::same_path_after_an_upgrade(exe(NEW_NGINX, "/usr/sbin/nginx"), Fit::Full)]
#[case::other_file(exe(PYTHON, "/usr/bin/python3.11"), Fit::No)]
#[case::unreadable_of_this_name(Exe::Unreadable, Fit::Unreadable)]
#[case::gone(Exe::Gone, Fit::No)]
fn the_program_file_decides(#[case] exe: Exe, #[case] expected: Fit) {
    let details = details(ROOT, "nginx\0");
    assert_eq!(fit(&nginx(&[]), &one(812, 1, &exe, &details), 1), expected);
}

#[test]
fn an_unreadable_program_of_another_name_raises_no_doubt() {
    let details = details(ROOT, "nginx\0");
    let other = Candidate { comm: "redis", ..one(812, 1, &Exe::Unreadable, &details) };
    assert_eq!(fit(&nginx(&[]), &other, 1), Fit::No);
}

#[rstest]
#[case::the_users(WEB, false, WEB, NGINX, Fit::Full)]
#[case::another_users(WEB, false, ROOT, NGINX, Fit::No)]
#[case::any_user_for_root_by_inode(ROOT, true, WEB, NGINX, Fit::Full)]
#[case::not_by_path(ROOT, true, WEB, NEW_NGINX, Fit::No)]
fn the_user_decides(
    #[case] uid: u32,
    #[case] any_uid: bool,
    #[case] runs_as: u32,
    #[case] file: FileId,
    #[case] expected: Fit,
) {
    let wanted = Wanted { uid, any_uid, ..nginx(&[]) };
    let (exe, details) = (exe(file, "/usr/sbin/nginx"), details(runs_as, "nginx\0"));
    assert_eq!(fit(&wanted, &one(812, 1, &exe, &details), 1), expected);
}

#[test]
fn no_other_user_can_pose_as_roots_script() {
    let wanted = Wanted { uid: ROOT, any_uid: true, ..script(&[]) };
    let exe = exe(PYTHON, "/usr/bin/python3.11");
    for (uid, expected) in [(ROOT, Fit::Full), (WEB, Fit::No)] {
        let details = details(uid, "python3\0/srv/web.py\0");
        assert_eq!(fit(&wanted, &one(812, 1, &exe, &details), 1), expected);
    }
}

#[test]
fn a_containers_twin_is_another_process() {
    let exe = exe(NGINX, "/usr/sbin/nginx");
    let twin = Details { depth: 2, ..details(ROOT, "nginx\0") };
    assert_eq!(fit(&nginx(&[]), &one(812, 1, &exe, &twin), 1), Fit::No);
}

fn matching(exe: Option<&str>, comm: Option<&str>, cmdline: Option<&str>) -> Wanted {
    let matched = exe.map(|path| program(PYTHON, path, None));
    let plain = nginx(&["-c", "/a"]);
    Wanted {
        files: Files { matched, ..plain.files },
        matching: Matching {
            exe: exe.map(Into::into),
            comm: comm.map(Into::into),
            cmdline: cmdline.map(|text| Pattern(regex::bytes::Regex::new(text).unwrap())),
        },
        ..plain
    }
}

#[rstest]
#[case::exe_replaces_command_and_arguments(
    Some("/usr/bin/python3.11"),
    None,
    None,
    PYTHON,
    Fit::Full
)]
#[case::exe_of_another(Some("/usr/bin/python3.11"), None, None, NGINX, Fit::No)]
#[case::cmdline(None, None, Some("^redis-server .*:6379"), PYTHON, Fit::Full)]
#[case::other_cmdline(None, None, Some(":6380"), PYTHON, Fit::No)]
#[case::comm_alone_needs_the_command(None, Some("nginx"), None, PYTHON, Fit::No)]
#[case::comm_with_the_command(None, Some("nginx"), None, NGINX, Fit::Full)]
#[case::other_comm(None, Some("redis"), None, NGINX, Fit::No)]
#[case::all_must_hold(Some("/usr/bin/python3.11"), Some("redis"), Some("redis"), PYTHON, Fit::No)]
fn match_replaces_command_and_arguments(
    #[case] exe_path: Option<&str>,
    #[case] comm: Option<&str>,
    #[case] cmdline: Option<&str>,
    #[case] file: FileId,
    #[case] expected: Fit,
) {
    let wanted = matching(exe_path, comm, cmdline);
    let (exe, details) = (exe(file, "/x"), details(ROOT, "redis-server\x00127.0.0.1:6379\0"));
    assert_eq!(fit(&wanted, &one(812, 1, &exe, &details), 1), expected);
}

#[rstest]
#[case::nobody(&[], Verdict::None)]
#[case::one(&[(812, 1, Fit::Full)], Verdict::One(instance(812)))]
#[case::workers_drop_out(
    &[(812, 1, Fit::Full), (813, 812, Fit::Rewritten), (814, 812, Fit::Full)],
    Verdict::One(instance(812))
)]
#[case::a_full_one_beats_a_doubtful_one(
    &[(812, 1, Fit::Rewritten), (900, 1, Fit::Full)],
    Verdict::One(instance(900))
)]
fn those_who_fit_are_weighed(#[case] all: &[(i32, i32, Fit)], #[case] expected: Verdict) {
    assert_eq!(decided(all), expected);
}

#[rstest]
#[case::rewritten(
    &[(812, 1, Fit::Rewritten)],
    r#"812 may be it ("redis-server 127.0.0.1:6379"); say match.cmdline"#
)]
#[case::two(
    &[(812, 1, Fit::Full), (900, 1, Fit::Full)],
    r#"812 or 900 may be it ("redis-server 127.0.0.1:6379"); say match.cmdline"#
)]
#[case::three(
    &[(812, 1, Fit::Full), (900, 1, Fit::Full), (901, 1, Fit::Rewritten)],
    r#"812 or one of 2 others may be it ("redis-server 127.0.0.1:6379"); say match.cmdline"#
)]
#[case::unreadable(
    &[(812, 1, Fit::Unreadable)],
    r#"812 may be it ("redis-server 127.0.0.1:6379"); its program file may not be read; say match.cmdline"#
)]
fn doubt_names_whom_and_the_way_out(#[case] all: &[(i32, i32, Fit)], #[case] expected: &str) {
    let Verdict::Unclear { reason, among } = decided(all) else { panic!("no doubt") };
    assert_eq!(reason, expected);
    assert_eq!(among.len(), all.len());
}

#[test]
fn a_full_one_without_a_session_leader_is_in_doubt_and_the_way_out_is_told() {
    let exe = exe(NGINX, "/usr/sbin/nginx");
    let details = details(ROOT, "nginx\0");
    let orphan = Candidate { leaderless: true, ..one(812, 1, &exe, &details) };
    let Verdict::Unclear { reason, among } = decide(&[(orphan, Fit::Full)]) else {
        panic!("no doubt")
    };
    assert_eq!(
        reason,
        "812 may be it (\"nginx\"); its session's leader is gone: it may be a daemon or what is \
         left of one; give it a PID file, or end it"
    );
    assert_eq!(among, [instance(812)]);
    let sound = one(900, 1, &exe, &details);
    let both = [(orphan, Fit::Full), (sound, Fit::Full)];
    assert_eq!(decide(&both), Verdict::One(instance(900)));
    // Its workers are not meant, as those of any other.
    let worker = one(813, 812, &exe, &details);
    let Verdict::Unclear { among, .. } = decide(&[(orphan, Fit::Full), (worker, Fit::Full)]) else {
        panic!("no doubt")
    };
    assert_eq!(among, [instance(812)]);
}

fn decided(all: &[(i32, i32, Fit)]) -> Verdict {
    let exe = exe(NGINX, "/usr/sbin/nginx");
    let details = details(ROOT, "redis-server 127.0.0.1:6379\0\0\0");
    let fits: Vec<_> =
        all.iter().map(|(pid, parent, fit)| (one(*pid, *parent, &exe, &details), *fit)).collect();
    decide(&fits)
}

#[test]
fn a_command_line_is_shown_short_and_without_control_characters() {
    assert_eq!(shown(b"a\0b\x1b[2Jc\0"), "a b\u{fffd}[2Jc");
    assert_eq!(shown(&[b'x'; 200]), format!("{}…", "x".repeat(SHOWN_MAX)));
}

#[test]
fn the_most_specific_entry_comes_first() {
    let by_match = matching(Some("/x"), None, None).specificity();
    assert!(nginx(&["-c", "/a"]).specificity() > nginx(&["-q"]).specificity());
    assert!(by_match > nginx(&["-c", "/a"]).specificity());
}
