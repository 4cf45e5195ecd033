//! Whether this machine lets eBPF work, and if not, what is missing.
//!
//! Looks only; `kernel` finds out for certain by loading.

use std::error::Error;
use std::path::Path;

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
    #[error("no /sys/kernel/btf/vmlinux: eBPF needs a kernel built with CONFIG_DEBUG_INFO_BTF")]
    NoBtf,
    /// A capability is missing.
    #[error("no {0}: eBPF needs CAP_BPF and CAP_PERFMON")]
    Capability(caps::Capability),
    /// Lockdown forbids to read kernel memory.
    #[error("the kernel is locked down (confidentiality), which forbids eBPF to read its memory")]
    Lockdown,
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

/// Says what is missing, without loading anything.
///
/// # Errors
///
/// The first thing that is missing.
pub fn available() -> Result<(), Unavailable> {
    if cfg!(not(feature = "ebpf")) {
        return Err(Unavailable::NotBuilt);
    }
    if let Ok(version) = procfs::sys::kernel::Version::current()
        && (version.major, version.minor) < (5, 8)
    {
        return Err(Unavailable::OldKernel(format!("{}.{}", version.major, version.minor)));
    }
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Err(Unavailable::NoBtf);
    }
    // Unreadable or absent: then loading tells.
    let lockdown = std::fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
    if lockdown.contains("[confidentiality]") {
        return Err(Unavailable::Lockdown);
    }
    missing_capability().map_or(Ok(()), |capability| Err(Unavailable::Capability(capability)))
}

fn missing_capability() -> Option<caps::Capability> {
    use caps::Capability::{CAP_BPF, CAP_PERFMON, CAP_SYS_ADMIN};
    let has =
        |capability| caps::has_cap(None, caps::CapSet::Effective, capability).is_ok_and(|has| has);
    // CAP_SYS_ADMIN stands for both, capabilities(7).
    [CAP_BPF, CAP_PERFMON].into_iter().find(|one| !has(*one) && !has(CAP_SYS_ADMIN))
}
