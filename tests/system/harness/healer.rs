//! The real daemon in the foreground: started, signalled, reloaded, ended.

use std::fs::File;
use std::process::{Child, Command, ExitStatus};

use rustix::process::Signal;
use serde_json::Value;

use super::{Living, Service, Site, eventually, eventually_some, kill};

/// A running `healer --foreground`; killed, not stopped, when dropped.
pub struct Healer<'site> {
    site: &'site Site,
    child: Child,
}

impl Site {
    /// Starts healer with an entry for each service, and waits until it says it is ready.
    pub fn guard<'a>(&self, services: impl IntoIterator<Item = &'a Service>) -> Healer<'_> {
        self.configure(services);
        self.start()
    }

    /// Starts healer with the configuration as it is, and waits until it says it is ready.
    pub fn start(&self) -> Healer<'_> {
        let before = self.notify.heard().len();
        let mut healer = self.spawn(&mut self.healer(&["--foreground"]));
        healer.until_heard(before, "READY=1");
        healer
    }

    /// Starts healer by this command, and waits for nothing.
    pub fn spawn(&self, command: &mut Command) -> Healer<'_> {
        let said =
            File::options().append(true).create(true).open(self.file("healer.stderr")).unwrap();
        let child = command.stdout(said.try_clone().unwrap()).stderr(said).spawn().unwrap();
        Healer { site: self, child }
    }
}

impl Healer<'_> {
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    pub fn signal(&self, signal: Signal) {
        // Not yet waited for, so the number is still its own.
        let process = Living::read(self.pid()).expect("healer lives");
        assert!(kill(&process, signal));
    }

    /// Replaces the configuration, asks for a reload and waits for its end.
    pub fn reload<'a>(&mut self, services: impl IntoIterator<Item = &'a Service>) {
        self.site.configure(services);
        self.reload_file();
    }

    /// Asks for a reload of the file as it is, and waits for its end.
    pub fn reload_file(&mut self) {
        let before = self.site.notify.heard().len();
        self.signal(Signal::HUP);
        let reloading = self.until_heard(before, "RELOADING=1");
        self.until_heard(reloading, "READY=1");
    }

    /// Waits until healer tells the service manager this, after its first `before` words;
    /// returns how many it has said then.
    pub fn until_heard(&mut self, before: usize, what: &str) -> usize {
        eventually_some(&format!("healer says {what}"), || {
            self.assert_running();
            let heard = self.site.notify.heard();
            Some(before + heard[before..].iter().position(|said| said == what)? + 1)
        })
    }

    /// Whether it ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    pub fn assert_running(&mut self) {
        let ended = self.child.try_wait().unwrap();
        assert!(ended.is_none(), "healer ended: {}\n{}", ended.unwrap(), self.site.log_text());
    }

    /// Stops it politely.
    pub fn stop(self) {
        let status = self.end_by(Signal::TERM);
        assert!(status.success(), "{status}");
    }

    /// Ends it by `signal`, and tells how it ended.
    pub fn end_by(mut self, signal: Signal) -> ExitStatus {
        self.signal(signal);
        wait(&mut self.child)
    }

    /// The lines of its log that have these fields, each field given as a name and a part of its
    /// text.
    pub fn said(&self, fields: &[(&str, &str)]) -> Vec<Value> {
        let text = self.site.log_text();
        text.lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter(|line| fields.iter().all(|(name, part)| field(line, name).contains(part)))
            .collect()
    }

    /// Waits for a line that warns of a process.
    pub fn until_warned_of(&self, process: &str) {
        eventually(&format!("healer warns of {process}"), || {
            ["WARN", "ERROR"]
                .iter()
                .any(|level| !self.said(&[("level", level), ("process", process)]).is_empty())
        });
    }

    /// Waits for such a line.
    pub fn until_said(&self, fields: &[(&str, &str)]) {
        eventually(&format!("healer's log has {fields:?}"), || !self.said(fields).is_empty());
    }
}

impl Drop for Healer<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits for a child of the test to end.
pub fn wait(child: &mut Child) -> ExitStatus {
    eventually_some("the program ends", || child.try_wait().unwrap())
}

/// A field of a log line as text, whether the line keeps its fields apart or not; empty where it
/// has none.
fn field(line: &Value, name: &str) -> String {
    match line["fields"].get(name).or_else(|| line.get(name)) {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    }
}
