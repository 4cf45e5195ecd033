use std::collections::BTreeMap;
use std::path::PathBuf;

use rstest::rstest;

use super::*;
use crate::config::fixture;

fn baseline() -> Baseline {
    let environment = [
        ("PATH", "/opt/bin"),
        ("HOME", "/home/op"),
        ("USER", "op"),
        ("TZ", "UTC"),
        ("NOTIFY_SOCKET", "/run/n"),
        ("WATCHDOG_USEC", "1"),
        ("LISTEN_FDS", "1"),
        ("INVOCATION_ID", "1"),
        ("JOURNAL_STREAM", "1:2"),
        ("HEALER_CONFIG", "c"),
    ];
    Baseline {
        limits: [(Some(10), Some(20)); 16],
        scheduling: Scheduling { policy: 0, priority: 0, nice: 0, cpus: Some(vec![0, 3]) },
        oom_score_adj: 0,
        umask: 0o022,
        environment: environment
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect(),
    }
}

fn process() -> Process {
    Process {
        args: vec!["-x".to_owned(), String::new(), "a b".to_owned()],
        working_dir: PathBuf::from("/srv"),
        ..fixture::process("web")
    }
}

fn names(process: &Process) -> Vec<String> {
    let environment = environment(process, &baseline());
    environment.keys().map(|name| name.to_str().unwrap().to_owned()).collect()
}

fn value(process: &Process, name: &str) -> Option<String> {
    let environment = environment(process, &baseline());
    environment.get(OsStr::new(name)).map(|value| value.to_str().unwrap().to_owned())
}

#[test]
fn stage_reads_what_was_written() {
    let bytes = encode(&process(), &baseline()).unwrap();
    let spec = decode(&bytes).unwrap();
    assert_eq!(spec.directory, c"/srv");
    assert_eq!(spec.arguments, [c"/usr/bin/web", c"-x", c"", c"a b"]);
    let account =
        [c"HOME=/root", c"LOGNAME=root", c"PATH=/opt/bin", c"SHELL=/bin/sh", c"USER=root"];
    assert_eq!(spec.environment, account);
    assert_eq!(spec.run_as, As::Root);
}

#[rstest]
#[case::nothing(b"")]
#[case::no_head(b"\0")]
#[case::text(b"GET / HTTP/1.1\r\n\r\n")]
fn anything_else_is_no_specification(#[case] bytes: &[u8]) {
    assert_eq!(decode(bytes), None);
}

#[test]
fn specification_cut_short_is_none() {
    let bytes = encode(&process(), &baseline()).unwrap();
    let spec = decode(&bytes).unwrap();
    let environment: usize = spec.environment.iter().map(|text| text.count_bytes() + 1).sum();
    for end in (0..bytes.len() - environment).chain([bytes.len() - 1]) {
        assert_eq!(decode(&bytes[..end]), None, "{end} bytes");
    }
}

#[rstest]
#[case::user("www", None)]
#[case::number("33", None)]
#[case::in_another_group("www", Some("adm"))]
#[case::empty("", Some(""))]
fn account_travels_by_name(#[case] user: &str, #[case] group: Option<&str>) {
    let run_as = RunAs::User { user: user.to_owned(), group: group.map(ToOwned::to_owned) };
    let bytes = encode(&Process { run_as, ..process() }, &baseline()).unwrap();
    let spec = decode(&bytes).unwrap();
    assert_eq!(spec.run_as, As::User { user, group });
    assert_eq!(spec.directory, c"/srv");
}

#[test]
fn entry_overrides_what_healer_was_given() {
    let limits = BTreeMap::from([(Resource::Nofile, Limit { soft: Some(1), hard: None })]);
    let asked = Process {
        nice: Some(-5),
        oom_score_adj: Some(300),
        umask: Some(0o77),
        limits,
        ..process()
    };
    let bytes = encode(&asked, &baseline()).unwrap();
    let head = decode(&bytes).unwrap().head;
    assert_eq!((head.scheduling.nice, head.oom_score_adj, head.umask), (-5, 300, 0o77));
    for ((resource, _), limit) in Resource::ALL.iter().zip(head.limits) {
        let own = *resource == Resource::Nofile;
        assert_eq!(limit, if own { (Some(1), None) } else { (Some(10), Some(20)) });
    }
}

#[rstest]
#[case::that_protects_healer(-900, 0)]
#[case::none(0, 0)]
#[case::that_offers_it_first(300, 300)]
fn oom_score_is_handed_on_unless_negative(#[case] own: i32, #[case] given: i32) {
    let baseline = Baseline { oom_score_adj: own, ..baseline() };
    let bytes = encode(&process(), &baseline).unwrap();
    assert_eq!(decode(&bytes).unwrap().head.oom_score_adj, given);
}

#[test]
fn bare_command_is_not_in_path() {
    let bare = Process { command: Some(PathBuf::from("web")), ..process() };
    assert_eq!(encode(&bare, &baseline()), Err(SpecError::NotInPath("web".to_owned())));
}

#[test]
fn nul_byte_in_an_argument_is_refused() {
    let bad = Process { args: vec!["a\0b".to_owned()], ..process() };
    assert_eq!(encode(&bad, &baseline()), Err(SpecError::Nul("args")));
}

#[rstest]
#[case::nothing(InheritEnv::Nothing, &[])]
#[case::everything(InheritEnv::Everything, &["TZ"])]
#[case::listed(InheritEnv::Only(vec!["TZ".to_owned(), "NONE".to_owned()]), &["TZ"])]
#[case::healers_own(InheritEnv::Only(vec!["NOTIFY_SOCKET".to_owned()]), &[])]
#[case::healers_own_by_prefix(InheritEnv::Only(vec!["HEALER_CONFIG".to_owned()]), &[])]
fn inherits_what_is_asked_and_never_healers_own(
    #[case] inherit_env: InheritEnv,
    #[case] expected: &[&str],
) {
    let asked = Process { inherit_env, run_as: RunAs::Root, ..process() };
    let mut found = names(&asked);
    found.retain(|name| name != "PATH" && !ACCOUNT_VARIABLES.contains(&name.as_str()));
    assert_eq!(found, expected);
}

#[rstest]
#[case::healer(RunAs::Healer, Some("op"))]
#[case::root(RunAs::Root, Some("root"))]
#[case::looked_up_by_the_stage(RunAs::User { user: "www".to_owned(), group: None }, None)]
fn account_is_not_inherited(#[case] run_as: RunAs, #[case] user: Option<&str>) {
    let asked = Process { inherit_env: InheritEnv::Everything, run_as, ..process() };
    assert_eq!(value(&asked, "USER").as_deref(), user);
}

#[test]
fn env_has_the_last_word() {
    let env = [("PATH", "/mine"), ("HOME", "/data"), ("NOTIFY_SOCKET", "/run/its-own")];
    let env = env.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let asked = Process { env, inherit_env: InheritEnv::Everything, ..process() };
    assert_eq!(value(&asked, "PATH").as_deref(), Some("/mine"));
    assert_eq!(value(&asked, "HOME").as_deref(), Some("/data"));
    assert_eq!(value(&asked, "NOTIFY_SOCKET").as_deref(), Some("/run/its-own"));
}
