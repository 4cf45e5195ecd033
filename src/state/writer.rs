//! When the files are written: by a thread of its own, so that no slow disk holds recovery up.
//!
//! Of what changes again before it is written, only the newest is written. What cannot be written
//! stays due, and is tried again with the next change and after a while; that this is so is told
//! once, and so is its end. `directory` writes, `state` hands over what recovery tells.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tracing::{error, info};

use super::directory::{Directory, Header, Unusable};
use super::memory::Memory;
use crate::clock;
use crate::event::ProcessName;

/// How soon to try again what could not be written.
const RETRY: Duration = Duration::from_secs(10);

/// What the writer is told.
#[derive(Debug)]
pub enum Job {
    /// This is to be remembered of a process from now on; `None`: nothing, it is configured no more.
    Keep(ProcessName, Option<Memory>),
    /// The same, before everything else that is due. Answered once it was tried.
    KeepFirst(ProcessName, Memory, oneshot::Sender<()>),
    /// All that is due is to be written. Answered once it was tried.
    Finish(oneshot::Sender<()>),
}

/// What the writer's thread owns.
#[derive(Debug)]
pub struct Writer {
    /// healer's PID file directory.
    parent: PathBuf,
    /// `None` where it cannot be used.
    directory: Option<Directory>,
    /// To be written before anything else: what holds now of files of another boot or PID
    /// namespace, and then the header, which says that they are about this one.
    moving: Option<(Header, BTreeMap<ProcessName, Memory>)>,
    due: BTreeMap<ProcessName, Option<Memory>>,
    /// What was due and could not be written.
    failed: BTreeMap<ProcessName, Option<Memory>>,
    finishing: Vec<oneshot::Sender<()>>,
    /// The first failure of this round.
    failure: Option<Unusable>,
    fault: watch::Sender<Option<String>>,
    lost: Arc<AtomicBool>,
}

impl Writer {
    /// A writer for the files below `parent`; `directory` is those that were read at the start,
    /// where they could be, and `moving` those of them that are about another boot or namespace.
    /// `fault` is told why nothing can be written, `lost` that all is to be told again.
    #[must_use]
    pub fn new(
        parent: PathBuf,
        directory: Option<Directory>,
        moving: Option<(Header, BTreeMap<ProcessName, Memory>)>,
        fault: watch::Sender<Option<String>>,
        lost: Arc<AtomicBool>,
    ) -> Self {
        Self {
            parent,
            directory,
            moving,
            due: BTreeMap::new(),
            failed: BTreeMap::new(),
            finishing: Vec::new(),
            failure: None,
            fault,
            lost,
        }
    }

    /// Writes until nobody can tell it anything more.
    pub fn run(mut self, jobs: &Receiver<Job>) {
        loop {
            self.round(jobs);
            let job = if self.failed.is_empty() && self.moving.is_none() {
                jobs.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                jobs.recv_timeout(RETRY)
            };
            self.failure = None;
            match job {
                Ok(job) => self.take(job),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Tries all that is due, and what comes meanwhile.
    fn round(&mut self, jobs: &Receiver<Job>) {
        for (process, memory) in std::mem::take(&mut self.failed) {
            // What came since is newer.
            self.due.entry(process).or_insert(memory);
        }
        if let Err(failure) = self.directory() {
            self.failure.get_or_insert(failure);
        }
        loop {
            while let Ok(job) = jobs.try_recv() {
                self.take(job);
            }
            let Some((process, memory)) = self.due.pop_first() else { break };
            self.write(process, memory);
        }
        self.report();
        for done in self.finishing.drain(..) {
            // Who no longer waits for it need not know.
            let _ = done.send(());
        }
    }

    fn take(&mut self, job: Job) {
        match job {
            Job::Keep(process, memory) => {
                self.failed.remove(&process);
                self.due.insert(process, memory);
            }
            Job::KeepFirst(process, memory, done) => {
                self.failed.remove(&process);
                self.due.remove(&process);
                self.write(process, Some(memory));
                let _ = done.send(());
            }
            Job::Finish(done) => self.finishing.push(done),
        }
    }

    fn write(&mut self, process: ProcessName, memory: Option<Memory>) {
        let written = self.directory().and_then(|directory| match &memory {
            Some(memory) => directory.write(&process, memory, clock::now()),
            None => directory.remove(&process),
        });
        if let Err(failure) = written {
            if failure.is_gone() {
                self.directory = None;
            }
            self.failure.get_or_insert(failure);
            self.failed.insert(process, memory);
        }
    }

    /// The directory, with all files in it about this boot and this PID namespace.
    fn directory(&mut self) -> Result<&Directory, Unusable> {
        if self.directory.is_none() {
            let directory = Directory::open(&self.parent)?;
            // Whatever is there, it is not what is remembered now.
            directory.keep_only([])?;
            self.moving = Some((Header::present()?, BTreeMap::new()));
            self.lost.store(true, Ordering::Relaxed);
            self.directory = Some(directory);
        }
        let directory = self.directory.as_ref().expect("it was opened");
        if let Some((header, memories)) = &self.moving {
            let now = clock::now();
            for (process, memory) in memories {
                directory.write(process, memory, now)?;
            }
            directory.write_header(header)?;
            self.moving = None;
        }
        Ok(directory)
    }

    fn report(&self) {
        let text = self.failure.as_ref().map(ToString::to_string);
        self.fault.send_if_modified(|fault| {
            match (&*fault, &text) {
                (None, Some(reason)) => {
                    error!(%reason, "cannot write down what healer is to remember; it would be forgotten if healer ended now");
                }
                (Some(_), None) => info!("what healer is to remember is written down again"),
                _ => {}
            }
            let is_new = *fault != text;
            *fault = text;
            is_new
        });
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::path::Path;
    use std::sync::mpsc::{Sender, channel};
    use std::thread::JoinHandle;

    use super::*;
    use crate::event::Pause;
    use crate::lifecycle;

    fn paused(by: &str) -> Memory {
        let pause = Some(Pause { by: by.to_owned(), until: None });
        Memory {
            life: lifecycle::Memory { pause, ..lifecycle::Memory::default() },
            ..Memory::default()
        }
    }

    struct Running {
        jobs: Sender<Job>,
        fault: watch::Receiver<Option<String>>,
        lost: Arc<AtomicBool>,
        thread: JoinHandle<()>,
    }

    impl Running {
        fn start(parent: &Path) -> Self {
            let (jobs, receiver) = channel();
            let (fault, heard) = watch::channel(None);
            let lost = Arc::new(AtomicBool::new(false));
            let writer = Writer::new(parent.to_owned(), None, None, fault, Arc::clone(&lost));
            let thread = std::thread::spawn(move || writer.run(&receiver));
            Self { jobs, fault: heard, lost, thread }
        }

        fn keep(&self, name: &str, memory: Option<Memory>) {
            self.jobs.send(Job::Keep(ProcessName::new(name), memory)).unwrap();
        }

        fn finish(&self) {
            let (done, finished) = oneshot::channel();
            self.jobs.send(Job::Finish(done)).unwrap();
            finished.blocking_recv().unwrap();
        }

        fn fault(&self) -> Option<String> {
            self.fault.borrow().clone()
        }

        fn end(self) {
            drop(self.jobs);
            self.thread.join().unwrap();
        }
    }

    fn files(parent: &Path) -> Vec<String> {
        let entries = fs::read_dir(parent.join("state")).unwrap();
        let mut files: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        files.sort();
        files
    }

    #[test]
    fn each_process_has_a_file_that_only_its_owner_reads_until_it_is_forgotten() {
        let parent = tempfile::tempdir().unwrap();
        let writer = Running::start(parent.path());
        writer.keep("web", Some(paused("root")));
        writer.keep("header", Some(paused("root")));
        writer.keep("nothing", Some(Memory::default()));
        writer.finish();
        assert_eq!(files(parent.path()), ["_header.json", "header.json", "web.json"]);
        for (path, mode) in [("state", 0o40700), ("state/web.json", 0o100_600)] {
            assert_eq!(fs::metadata(parent.path().join(path)).unwrap().mode(), mode, "{path}");
        }
        writer.keep("web", None);
        writer.finish();
        assert_eq!(files(parent.path()), ["_header.json", "header.json"]);
        writer.end();
    }

    #[test]
    fn what_could_not_be_written_is_written_once_it_can_be() {
        let parent = tempfile::tempdir().unwrap();
        fs::write(parent.path().join("state"), "in the way").unwrap();
        let writer = Running::start(parent.path());
        writer.keep("web", Some(paused("root")));
        writer.finish();
        let fault = writer.fault().expect("it is told");
        let said = format!("cannot open {}/state: ", parent.path().display());
        assert!(fault.starts_with(&said), "{fault}");
        fs::remove_file(parent.path().join("state")).unwrap();
        writer.keep("cache", Some(paused("root")));
        writer.finish();
        assert_eq!(writer.fault(), None);
        assert_eq!(files(parent.path()), ["cache.json", "header.json", "web.json"]);
        writer.end();
    }

    #[test]
    fn one_file_that_cannot_be_written_holds_up_no_other() {
        let parent = tempfile::tempdir().unwrap();
        let writer = Running::start(parent.path());
        writer.finish();
        fs::create_dir_all(parent.path().join("state/a.json/full")).unwrap();
        writer.keep("a", Some(paused("root")));
        writer.keep("b", Some(paused("root")));
        writer.finish();
        assert_eq!(files(parent.path()), ["a.json", "b.json", "header.json"]);
        let fault = writer.fault().expect("it is told");
        assert!(fault.contains("state/a.json: "), "{fault}");
        writer.end();
    }

    #[test]
    fn a_directory_that_was_removed_is_made_anew_and_all_is_asked_for() {
        let parent = tempfile::tempdir().unwrap();
        let writer = Running::start(parent.path());
        writer.keep("web", Some(paused("root")));
        writer.finish();
        writer.lost.store(false, Ordering::Relaxed);
        fs::remove_dir_all(parent.path().join("state")).unwrap();
        writer.keep("cache", Some(paused("root")));
        writer.finish();
        writer.keep("cache", Some(paused("uid 1000")));
        writer.finish();
        assert_eq!(files(parent.path()), ["cache.json", "header.json"]);
        assert!(writer.lost.load(Ordering::Relaxed));
        assert_eq!(writer.fault(), None);
        writer.end();
    }

    #[test]
    fn a_directory_that_others_may_write_is_not_used() {
        let parent = tempfile::tempdir().unwrap();
        let state = parent.path().join("state");
        fs::create_dir(&state).unwrap();
        fs::set_permissions(&state, fs::Permissions::from_mode(0o770)).unwrap();
        let writer = Running::start(parent.path());
        writer.keep("web", Some(paused("root")));
        writer.finish();
        let said = format!(
            "{} may be written by others: remove it, healer makes its own",
            state.display()
        );
        assert_eq!(writer.fault(), Some(said));
        assert_eq!(files(parent.path()), [""; 0]);
        writer.end();
    }

    #[test]
    fn a_directory_elsewhere_is_not_followed_to() {
        let parent = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        symlink(elsewhere.path(), parent.path().join("state")).unwrap();
        let writer = Running::start(parent.path());
        writer.keep("web", Some(paused("root")));
        writer.finish();
        assert!(writer.fault().is_some());
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
        writer.end();
    }
}
