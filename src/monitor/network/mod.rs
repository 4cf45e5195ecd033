//! The network monitor: asks processes whether they work.
//!
//! `health` counts one process's probes, `rounds` says whose turn it is and which do not count.

pub mod health;
pub mod rounds;
