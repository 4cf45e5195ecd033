//! healer keeps the critical processes of a Linux machine alive.
//!
//! The modules in reading order; `docs/architecture.md` tells the story.

// Words everyone uses: what is configured; who a process is, what was seen of it, how it ended.
pub mod event;
pub mod graph;
pub mod config;

// The data path, top to bottom. Monitors publish to the bus, recovery feeds the pure machines
// (lifecycle, breaker, coordinator), keeps what they remember in files (state) and has instances
// launched.
pub mod instance;
pub mod monitor;
pub mod bus;
pub mod coordinator;
pub mod breaker;
pub mod lifecycle;
pub mod state;
pub mod recovery;
pub mod launch;

// Around it: what reads a clock, who is a user, whose certificates are trusted, what wakes recovery,
// what this machine lacks, what the operating system and the operator ask, and what they are shown.
pub mod clock;
pub mod users;
pub mod trust;
pub mod wake;
pub mod preflight;
pub mod signals;
pub mod logging;
pub mod control;
pub mod daemon;
pub mod demo;
pub mod operator;
pub mod cli;
