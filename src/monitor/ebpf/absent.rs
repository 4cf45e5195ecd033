//! The eBPF monitor of a build without it: nothing here can ever exist.
//!
//! Stands in for `kernel` and `starts`, so that callers need no conditions.

use std::io;

use crate::bus::Bus;
use crate::event::Instance;
use crate::monitor::Handle;

use super::{Cause, Counters, Options, Unavailable, available};

/// The loaded kernel side.
#[derive(Debug)]
pub struct Kernel {
    /// Why instances ended.
    pub causes: Causes,
    /// Starts by others.
    pub execs: Execs,
    /// What could not be done.
    pub meter: Meter,
}

impl Kernel {
    /// Never loads.
    ///
    /// # Errors
    ///
    /// [`Unavailable::NotBuilt`].
    pub fn load(_: Options) -> Result<Self, Unavailable> {
        Err(available().err().unwrap_or(Unavailable::NotBuilt))
    }
}

/// Why instances ended.
#[derive(Debug)]
pub enum Causes {}

impl Causes {
    /// Watches an instance.
    ///
    /// # Errors
    ///
    /// None.
    pub fn watch(&mut self, _: Instance) -> io::Result<()> {
        match *self {}
    }

    /// What is known of an instance's end.
    pub fn take(&mut self, _: Instance) -> Option<Cause> {
        match *self {}
    }

    /// No longer watches an instance.
    pub fn forget(&mut self, _: Instance) {
        match *self {}
    }
}

/// What could not be done.
#[derive(Clone, Debug)]
pub enum Meter {}

impl Meter {
    /// All counters.
    #[must_use]
    pub fn read(&self) -> Counters {
        match *self {}
    }
}

/// Starts by others.
#[derive(Debug)]
pub enum Execs {}

/// Starts the monitor.
///
/// # Errors
///
/// None.
#[expect(clippy::needless_pass_by_value, reason = "the monitor that exists takes it")]
pub fn spawn(_: Bus, execs: Execs) -> io::Result<Handle> {
    match execs {}
}
