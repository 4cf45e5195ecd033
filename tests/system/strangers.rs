//! Processes that look like the guarded one and are not. Needs root and eBPF.
