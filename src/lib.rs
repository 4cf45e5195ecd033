//! healer keeps the critical processes of a Linux machine alive.
//!
//! The modules in reading order; `docs/architecture.md` tells the story.

pub mod cli;
// Words everyone uses.
pub mod config;
pub mod event;
pub mod graph;
pub mod preflight;
// The data path, top to bottom.
pub mod instance;
