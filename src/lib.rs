//! healer keeps the critical processes of a Linux machine alive.
//!
//! The modules in reading order; `docs/architecture.md` tells the story.

// Words everyone uses.
/// The validated configuration, and how it is read and checked.
pub mod config;
/// Who a process is, what was seen of it, how it ended, where it stands.
pub mod event;

// The data path, top to bottom.
/// Identity: who is the process, what is left of one, how a child ended.
pub mod instance;
/// May it be tried again?
pub mod breaker;
/// One process's life: what to do next.
pub mod lifecycle;
/// The one task that owns the machines and runs their actions.
pub mod recovery;
/// Starting instances: chain loading through the stage, and their output.
pub mod launch;

// Around it.
/// The one place that reads a clock.
pub mod clock;
/// What wakes recovery: an instance's end, and an alarm in boot time.
pub mod wake;
/// The operating system's signals as words of the domain.
pub mod signals;
