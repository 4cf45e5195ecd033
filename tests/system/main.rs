//! The real daemon against real processes: what healer promises, shown from outside.
//!
//! Each test has a directory and a healer of its own, so they run side by side. `harness` holds
//! what they stand on, `tests/service` the program they guard.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod adoption;
mod breaker;
mod causes;
mod control;
mod dependencies;
mod environment;
mod harness;
mod heal;
mod leftovers;
mod life;
mod namespace;
mod network;
mod notification;
mod pid_files;
mod reload;
mod restart;
mod storms;
mod strangers;
mod stuck;
mod without_ebpf;
