//! Without eBPF: what is missing is said once, `check` says the same, and nothing is lost but causes.

use std::fs;
use std::os::unix::fs::chown;
use std::process::Command;
use std::time::Duration;

use rstest::rstest;
use rustix::process::Signal;

use crate::harness::{Healer, Service, Site, eventually, has_ebpf, is_root, throughout, within};

/// Kills and heals, and watches that the log has one warning with this reason.
fn heals_with_one_warning(healer: &mut Healer, service: &Service, reason: &str) {
    let warnings = || healer.said(&[("level", "WARN"), ("reason", reason)]);
    eventually("what is missing is told", || !warnings().is_empty());
    let first = service.running(1);
    service.kill(Signal::KILL);
    service.running(2);
    // The parent learns what, not by whom.
    healer.until_said(&[
        ("message", "ended"),
        ("pid", &first.pid.to_string()),
        ("reason", "SIGKILL"),
    ]);
    healer.reload_file();
    let [warning] = &healer.said(&[("message", "without eBPF")])[..] else {
        panic!("{:?}", healer.said(&[("level", "WARN")]))
    };
    assert_eq!(warning["processes"], service.name);
    assert!(warning["lost"].as_str().unwrap().contains("causes of death"), "{warning}");
    assert!(healer.said(&[("level", "ERROR")]).is_empty());
    healer.assert_running();
}

/// Runs `healer check` by this command, and tells its one warning.
fn warned(mut check: Command) -> String {
    let output = check.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    assert_eq!(said.matches("warning").count(), 1, "{said}");
    said
}

#[rstest]
#[case::no_btf("mount -t tmpfs none /sys/kernel/btf", "no /sys/kernel/btf/vmlinux")]
#[case::old_kernel(
    "echo 5.4.0-generic > old && mount --bind old /proc/sys/kernel/osrelease",
    "Linux 5.4 is too old: eBPF needs 5.8"
)]
#[case::lockdown(
    "mount -t tmpfs none /sys/kernel/security &&
     echo 'none integrity [confidentiality]' > /sys/kernel/security/lockdown",
    "the kernel is locked down (confidentiality)"
)]
fn machine_without_ebpf_is_told_and_heals(#[case] prepare: &str, #[case] reason: &str) {
    if !has_ebpf() {
        return;
    }
    let site = Site::new();
    let service = site.service("web");
    site.configure([&service]);
    let script = format!("{prepare} && exec \"$@\"");
    let outer = ["/usr/bin/unshare", "--mount", "/bin/sh", "-c", &script, "sh"];
    let said = warned(within(&outer, &site.healer(&["check"])));
    assert!(said.contains(reason), "{said}");
    let mut healer = site.spawn(&mut within(&outer, &site.healer(&["--foreground"])));
    heals_with_one_warning(&mut healer, &service, reason);
}

#[test]
fn root_without_the_capability_is_told_and_heals() {
    if !has_ebpf() {
        return;
    }
    let site = Site::new();
    let service = site.service("web");
    site.configure([&service]);
    // As in a container that is not privileged.
    let outer = ["/usr/bin/setpriv", "--bounding-set=-sys_admin,-perfmon"];
    let reason = "no CAP_PERFMON: eBPF needs CAP_BPF and CAP_PERFMON";
    let said = warned(within(&outer, &site.healer(&["check"])));
    assert!(said.contains(reason), "{said}");
    let mut healer = site.spawn(&mut within(&outer, &site.healer(&["--foreground"])));
    heals_with_one_warning(&mut healer, &service, reason);
}

#[test]
fn root_of_a_user_namespace_is_told_that_it_is_none() {
    if !has_ebpf() {
        return;
    }
    let site = Site::new();
    site.configure([&site.service("web")]);
    let outer = ["/usr/bin/unshare", "--user", "--map-root-user"];
    let said = warned(within(&outer, &site.healer(&["check"])));
    assert!(said.contains("healer is in a user namespace"), "{said}");
}

#[test]
fn ordinary_user_is_told_what_is_missing_and_heals() {
    let site = Site::new();
    // Where programs are built may be closed to others.
    let [daemon, program] = ["healer", "service"].map(|name| site.file(name));
    fs::copy(site.healer(&[]).get_program(), &daemon).unwrap();
    fs::copy(crate::harness::program(), &program).unwrap();
    let service =
        site.service("web").unset("run_as_root").set("command", program.to_str().unwrap());
    site.configure([&service]);
    let as_nobody = |arguments: &[&str]| {
        let healer = site.healer_from(&daemon, arguments);
        let nobody = ["/usr/bin/setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
        if is_root() { within(&nobody, &healer) } else { healer }
    };
    if is_root() {
        chown(site.path(), Some(65534), Some(65534)).unwrap();
        chown(site.notify.path(), Some(65534), Some(65534)).unwrap();
    }
    let reason = if cfg!(feature = "ebpf") { "no CAP_BPF" } else { "eBPF is not in this build" };
    let said = warned(as_nobody(&["check"]));
    assert!(said.contains(reason), "{said}");
    let mut healer = site.spawn(&mut as_nobody(&["--foreground"]));
    heals_with_one_warning(&mut healer, &service, reason);
}

#[cfg(not(feature = "ebpf"))]
#[test]
fn build_without_ebpf_says_so_and_heals() {
    let site = Site::new();
    let service = site.service("web");
    let reason = "eBPF is not in this build (cargo feature `ebpf`)";
    let mut healer = site.guard([&service]);
    assert!(warned(site.healer(&["check"])).contains(reason));
    heals_with_one_warning(&mut healer, &service, reason);
}

#[test]
fn nothing_is_missed_where_nothing_is_watched_by_ebpf() {
    let site = Site::new();
    let service = site.service("web").with_pid_file();
    let healer = site.guard([&service]);
    service.running(1);
    throughout(Duration::from_millis(100), "no word of eBPF", || {
        healer.said(&[("message", "without eBPF")]).is_empty()
    });
}
