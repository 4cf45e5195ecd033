//! Whether this machine lets eBPF work, and if not, what is missing.
//!
//! Looks only; `kernel` finds out for certain by loading. Called by `kernel` and by `healer check`.

use std::error::Error;
use std::fs;
use std::path::Path;

use caps::{CapSet, Capability};
use procfs::sys::kernel::Version;

/// What healer does without, where eBPF is unavailable.
pub const LOST: &str = "causes of death by others; instances that others start go unnoticed";

/// Why eBPF does not work here.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// Built with `--no-default-features`.
    #[error("eBPF is not in this build (cargo feature `ebpf`)")]
    NotBuilt,
    /// No ring buffer before Linux 5.8.
    #[error("Linux {0} is too old: eBPF needs 5.8")]
    OldKernel(String),
    /// The kernel does not describe its types.
    #[error("no {BTF}: eBPF needs a kernel built with CONFIG_DEBUG_INFO_BTF")]
    NoBtf,
    /// Lockdown forbids to read kernel memory.
    #[error("the kernel is locked down (confidentiality), which forbids eBPF to read its memory")]
    Lockdown,
    /// A capability is missing.
    #[error("no {0}: eBPF needs CAP_BPF and CAP_PERFMON")]
    Capability(Capability),
    /// Capabilities there are, but they count only within a user namespace.
    #[error("healer is in a user namespace, where the kernel permits no eBPF")]
    UserNamespace,
    /// All seemed well, but the kernel refused.
    #[error("cannot {step}")]
    Refused {
        /// What was tried.
        step: &'static str,
        /// What it said.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}

/// The kernel's description of its types.
const BTF: &str = "/sys/kernel/btf/vmlinux";
/// The whole map of the initial user namespace, user_namespaces(7).
const ALL_USERS: [&str; 3] = ["0", "0", "4294967295"];

/// Says what is missing, without loading anything.
///
/// # Errors
///
/// The first thing that is missing.
pub fn available() -> Result<(), Unavailable> {
    if cfg!(not(feature = "ebpf")) {
        return Err(Unavailable::NotBuilt);
    }
    Machine::look().judge()
}

/// What decides.
#[derive(Clone, Debug)]
struct Machine {
    /// `None` where it cannot be told.
    kernel: Option<Version>,
    has_btf: bool,
    /// What the lockdown file says.
    lockdown: String,
    /// What the map of users says.
    users: String,
    /// Of those that are needed.
    missing: Option<Capability>,
}

impl Machine {
    fn look() -> Self {
        // What is unreadable or absent here, loading will tell.
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        Self {
            kernel: Version::current().ok(),
            has_btf: Path::new(BTF).exists(),
            lockdown: read("/sys/kernel/security/lockdown"),
            users: read("/proc/self/uid_map"),
            missing: missing_capability(),
        }
    }

    fn judge(&self) -> Result<(), Unavailable> {
        if let Some(Version { major, minor, .. }) = self.kernel
            && (major, minor) < (5, 8)
        {
            return Err(Unavailable::OldKernel(format!("{major}.{minor}")));
        }
        if !self.has_btf {
            return Err(Unavailable::NoBtf);
        }
        if self.lockdown.contains("[confidentiality]") {
            return Err(Unavailable::Lockdown);
        }
        if let Some(capability) = self.missing {
            return Err(Unavailable::Capability(capability));
        }
        // A kernel without user namespaces has no map.
        if !self.users.is_empty() && !self.users.split_whitespace().eq(ALL_USERS) {
            return Err(Unavailable::UserNamespace);
        }
        Ok(())
    }
}

fn missing_capability() -> Option<Capability> {
    use Capability::{CAP_BPF, CAP_PERFMON, CAP_SYS_ADMIN};
    let has = |one| caps::has_cap(None, CapSet::Effective, one).is_ok_and(|has| has);
    // CAP_SYS_ADMIN stands for both, capabilities(7).
    [CAP_BPF, CAP_PERFMON].into_iter().find(|one| !has(*one) && !has(CAP_SYS_ADMIN))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn good() -> Machine {
        Machine {
            kernel: Some(Version::new(6, 18, 44)),
            has_btf: true,
            lockdown: "[none] integrity confidentiality\n".into(),
            users: "         0          0 4294967295\n".into(),
            missing: None,
        }
    }

    fn kernel(major: u8, minor: u8) -> Machine {
        Machine { kernel: Some(Version::new(major, minor, 0)), ..good() }
    }

    fn lockdown(says: &str) -> Machine {
        Machine { lockdown: says.into(), ..good() }
    }

    fn users(map: &str) -> Machine {
        Machine { users: map.into(), ..good() }
    }

    const OLD: &str = "Linux 4.19 is too old: eBPF needs 5.8";
    const NO_BTF: &str =
        "no /sys/kernel/btf/vmlinux: eBPF needs a kernel built with CONFIG_DEBUG_INFO_BTF";
    const LOCKED: &str =
        "the kernel is locked down (confidentiality), which forbids eBPF to read its memory";
    const NO_BPF: &str = "no CAP_BPF: eBPF needs CAP_BPF and CAP_PERFMON";
    const NAMESPACE: &str = "healer is in a user namespace, where the kernel permits no eBPF";

    #[rstest]
    #[case::all_there(good(), None)]
    #[case::first_kernel(kernel(5, 8), None)]
    #[case::newer_kernel(kernel(7, 0), None)]
    #[case::unknown_kernel(Machine { kernel: None, ..good() }, None)]
    #[case::old_kernel(kernel(4, 19), Some(OLD))]
    #[case::almost(kernel(5, 7), Some("Linux 5.7 is too old: eBPF needs 5.8"))]
    #[case::no_btf(Machine { has_btf: false, ..good() }, Some(NO_BTF))]
    #[case::no_lockdown_file(lockdown(""), None)]
    #[case::integrity(lockdown("none [integrity] confidentiality\n"), None)]
    #[case::confidentiality(lockdown("none integrity [confidentiality]\n"), Some(LOCKED))]
    #[case::capability(Machine { missing: Some(Capability::CAP_BPF), ..good() }, Some(NO_BPF))]
    #[case::no_user_namespaces(users(""), None)]
    #[case::rootless(users("0 1000 1\n1 100000 65536\n"), Some(NAMESPACE))]
    #[case::shifted(users("0 100000 4294867295\n"), Some(NAMESPACE))]
    // What no right would help with comes first.
    #[case::all_missing(
        Machine { has_btf: false, missing: Some(Capability::CAP_BPF), ..kernel(4, 19) },
        Some(OLD)
    )]
    fn what_is_missing_is_told(#[case] machine: Machine, #[case] told: Option<&str>) {
        let missing = machine.judge().err().map(|missing| missing.to_string());
        assert_eq!(missing.as_deref(), told);
    }
}
