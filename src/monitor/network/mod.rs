//! The network monitor: asks processes whether they work.
//!
//! `health` counts one process's probes, `rounds` says whose turn it is and which do not count; both
//! are pure. `probe` makes one: `connect`, with `names` for their addresses, then `tls`, then
//! `exchange`, all within a `limit`.

mod connect;
mod exchange;
pub mod health;
mod limit;
pub mod names;
pub mod probe;
pub mod rounds;
mod tls;
