//! What is remembered of one process, and how that is written in its file.
//!
//! Pure. The machines say what they remember; here it is put together, and becomes the text of one
//! small file. The form on disk is its own, so that the machines may change without it. Whether a
//! file is to be trusted is `directory`'s.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::breaker;
use crate::event::{Instance, Pause, Pid, Time};
use crate::lifecycle::{self, Running, Why};

/// The form that is written. A change that this build could misread gets another number.
pub const FORMAT: u32 = 1;

/// What is remembered of one process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Memory {
    /// Where it stands.
    pub life: lifecycle::Memory,
    /// Its breaker.
    pub breaker: breaker::Memory,
}

/// Why a text is no memory.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// It is not the JSON that is written here.
    #[error("it is not what healer writes")]
    Foreign(#[source] serde_json::Error),
    /// Another build wrote it.
    #[error("it has format {0}, and this build knows {FORMAT}")]
    Format(u32),
    /// It names a process that none of healer's can be.
    #[error("PID {0} is no instance's")]
    Pid(i32),
}

impl Memory {
    /// Whether there is nothing that would be missed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// As the text of a file, written at this moment.
    #[must_use]
    pub fn encode(&self, written: Time) -> Vec<u8> {
        json(&File::new(self, written))
    }

    /// Reads what [`Memory::encode`] wrote, and when that was.
    ///
    /// # Errors
    ///
    /// [`Unreadable`].
    pub fn decode(text: &[u8]) -> Result<(Self, Time), Unreadable> {
        // The number first: what follows may look otherwise.
        let Format { format } = serde_json::from_slice(text).map_err(Unreadable::Foreign)?;
        if format != FORMAT {
            return Err(Unreadable::Format(format));
        }
        let file: File = serde_json::from_slice(text).map_err(Unreadable::Foreign)?;
        file.memory()
    }

    /// What holds of it among other processes: in a PID namespace of its own, nothing of what ran
    /// then is what it was. Whether a process is started is then up to `autostart`, as at first.
    #[must_use]
    pub fn elsewhere(self) -> Self {
        let lifecycle::Memory { pause, stop_wanted, .. } = self.life;
        let life = lifecycle::Memory { pause, stop_wanted, ..lifecycle::Memory::default() };
        Self { life, ..self }
    }

    /// What holds of it after a boot, or where boot time is another's. Nobody can tell how long the
    /// machine was down; so time is taken to have stood still between the writing and now. No Open
    /// period, budget or pause ends too early by that.
    #[must_use]
    pub fn after_boot(self, written: Time, now: Time) -> Self {
        let mut memory = self.elsewhere();
        let moved = |moment: Time| {
            if moment > written {
                now.after(moment.since(written))
            } else {
                Time(now.0.saturating_sub(nanos(written.since(moment))))
            }
        };
        if let Some(until) = memory.life.pause.as_mut().and_then(|pause| pause.until.as_mut()) {
            *until = moved(*until);
        }
        if let breaker::Remembered::Open { until } = &mut memory.breaker.phase {
            *until = moved(*until);
        }
        for (moment, _) in &mut memory.breaker.window {
            *moment = moved(*moment);
        }
        memory
    }
}

/// A line of JSON.
pub(super) fn json(file: &impl Serialize) -> Vec<u8> {
    let mut text = serde_json::to_vec(file).expect("numbers and texts are valid JSON");
    text.push(b'\n');
    text
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[derive(Deserialize)]
struct Format {
    format: u32,
}

/// A file. Moments are nanoseconds of boot time.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: u32,
    written: u64,
    running: Option<FileRunning>,
    last: Option<FileInstance>,
    launching: Option<FileInstance>,
    wanted: bool,
    finished: bool,
    pause: Option<FilePause>,
    breaker: Option<FileBreaker>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileInstance {
    pid: i32,
    start_ticks: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileRunning {
    pid: i32,
    start_ticks: u64,
    /// Of an adopted instance there is none.
    launched: Option<u64>,
    ending: Option<FileEnding>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
enum FileEnding {
    Hung(String),
    Restart(String),
    Stop(String),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FilePause {
    by: String,
    until: Option<u64>,
    stop: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileBreaker {
    open_until: Option<u64>,
    half_open: bool,
    /// Moments, and how many failures each stands for.
    window: Vec<(u64, u32)>,
    restart_pending: bool,
    failed_trials: u32,
}

impl File {
    fn new(memory: &Memory, written: Time) -> Self {
        let Memory { life, breaker } = memory;
        Self {
            format: FORMAT,
            written: written.0,
            running: life.running.as_ref().map(FileRunning::new),
            last: life.last.map(FileInstance::new),
            launching: life.stage.map(FileInstance::new),
            wanted: life.wanted,
            finished: life.finished,
            pause: life.pause.as_ref().map(|pause| FilePause {
                by: pause.by.clone(),
                until: pause.until.map(|until| until.0),
                stop: life.stop_wanted,
            }),
            breaker: (*breaker != breaker::Memory::default()).then(|| FileBreaker::new(breaker)),
        }
    }

    fn memory(self) -> Result<(Memory, Time), Unreadable> {
        let stop_wanted = self.pause.as_ref().is_some_and(|pause| pause.stop);
        let life = lifecycle::Memory {
            running: self.running.map(FileRunning::running).transpose()?,
            last: self.last.map(FileInstance::instance).transpose()?,
            stage: self.launching.map(FileInstance::instance).transpose()?,
            wanted: self.wanted,
            finished: self.finished,
            pause: self
                .pause
                .map(|FilePause { by, until, .. }| Pause { by, until: until.map(Time) }),
            stop_wanted,
        };
        let breaker = self.breaker.map(FileBreaker::breaker).unwrap_or_default();
        Ok((Memory { life, breaker }, Time(self.written)))
    }
}

impl FileInstance {
    fn new(instance: Instance) -> Self {
        Self { pid: instance.pid.0, start_ticks: instance.start_ticks }
    }

    /// The first process and what is no process are never healer's to guard.
    fn instance(self) -> Result<Instance, Unreadable> {
        let Self { pid, start_ticks } = self;
        if pid > 1 {
            Ok(Instance { pid: Pid(pid), start_ticks })
        } else {
            Err(Unreadable::Pid(pid))
        }
    }
}

impl FileRunning {
    fn new(running: &Running) -> Self {
        let FileInstance { pid, start_ticks } = FileInstance::new(running.instance);
        let ending = running.ending.clone().map(|why| match why {
            Why::Hung { reason } => FileEnding::Hung(reason),
            Why::Restart { reason } => FileEnding::Restart(reason),
            Why::Stop { by } => FileEnding::Stop(by),
        });
        Self { pid, start_ticks, launched: running.launched.map(|at| at.0), ending }
    }

    fn running(self) -> Result<Running, Unreadable> {
        let Self { pid, start_ticks, launched, ending } = self;
        let ending = ending.map(|ending| match ending {
            FileEnding::Hung(reason) => Why::Hung { reason },
            FileEnding::Restart(reason) => Why::Restart { reason },
            FileEnding::Stop(by) => Why::Stop { by },
        });
        let instance = FileInstance { pid, start_ticks }.instance()?;
        Ok(Running { instance, launched: launched.map(Time), ending })
    }
}

impl FileBreaker {
    fn new(breaker: &breaker::Memory) -> Self {
        Self {
            open_until: match breaker.phase {
                breaker::Remembered::Open { until } => Some(until.0),
                breaker::Remembered::Closed | breaker::Remembered::HalfOpen => None,
            },
            half_open: breaker.phase == breaker::Remembered::HalfOpen,
            window: breaker.window.iter().map(|(moment, failures)| (moment.0, *failures)).collect(),
            restart_pending: breaker.restart_pending,
            failed_trials: breaker.failed_trials,
        }
    }

    fn breaker(self) -> breaker::Memory {
        breaker::Memory {
            phase: match (self.open_until, self.half_open) {
                (Some(until), _) => breaker::Remembered::Open { until: Time(until) },
                (None, true) => breaker::Remembered::HalfOpen,
                (None, false) => breaker::Remembered::Closed,
            },
            window: self.window.into_iter().map(|(at, failures)| (Time(at), failures)).collect(),
            restart_pending: self.restart_pending,
            failed_trials: self.failed_trials,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn instance() -> impl Strategy<Value = Instance> {
        (2..i32::MAX, any::<u64>())
            .prop_map(|(pid, start_ticks)| Instance { pid: Pid(pid), start_ticks })
    }

    fn ending() -> impl Strategy<Value = Why> {
        let text = ".{0,20}";
        prop_oneof![
            text.prop_map(|reason| Why::Hung { reason }),
            text.prop_map(|reason| Why::Restart { reason }),
            text.prop_map(|by| Why::Stop { by }),
        ]
    }

    fn moment() -> impl Strategy<Value = Time> {
        (0..u64::MAX / 4).prop_map(Time)
    }

    prop_compose! {
        fn running()(
            instance in instance(),
            launched in prop::option::of(moment()),
            ending in prop::option::of(ending()),
        ) -> Running {
            Running { instance, launched, ending }
        }
    }

    prop_compose! {
        fn life()(
            running in prop::option::of(running()),
            last in prop::option::of(instance()),
            stage in prop::option::of(instance()),
            wanted in any::<bool>(),
            finished in any::<bool>(),
            pause in prop::option::of((".{0,20}", prop::option::of(moment()))),
            stop in any::<bool>(),
        ) -> lifecycle::Memory {
            let stop_wanted = pause.is_some() && stop;
            let pause = pause.map(|(by, until)| Pause { by, until });
            lifecycle::Memory { running, last, stage, wanted, finished, pause, stop_wanted }
        }
    }

    prop_compose! {
        fn memory()(
            life in life(),
            phase in prop_oneof![
                Just(breaker::Remembered::Closed),
                moment().prop_map(|until| breaker::Remembered::Open { until }),
                Just(breaker::Remembered::HalfOpen),
            ],
            window in prop::collection::vec((moment(), 1..1_000_u32), 0..20),
            restart_pending in any::<bool>(),
            failed_trials in any::<u32>(),
        ) -> Memory {
            let breaker = breaker::Memory { phase, window, restart_pending, failed_trials };
            Memory { life, breaker }
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_as_it_was(memory in memory(), written in moment()) {
            let (read, when) = Memory::decode(&memory.encode(written)).unwrap();
            prop_assert_eq!(read, memory);
            prop_assert_eq!(when, written);
        }

        #[test]
        fn any_other_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Memory::decode(&bytes).is_err());
        }

        /// Of any single byte that is lost or changed, nothing worse comes than a refusal.
        #[test]
        fn a_damaged_file_is_read_or_refused(memory in memory(), at in any::<usize>(), byte in any::<u8>()) {
            let mut text = memory.encode(Time(7));
            let at = at % (text.len() - 1);
            text[at] = byte;
            let _ = Memory::decode(&text);
            text.truncate(at);
            prop_assert!(Memory::decode(&text).is_err());
        }

        /// After a boot no period is over sooner, and no failure forgotten sooner, than if the clock
        /// had stood still.
        #[test]
        fn after_a_boot_what_was_left_of_a_period_is_left(memory in memory(), written in moment(), now in moment()) {
            let after = memory.clone().after_boot(written, now);
            prop_assert!(after.life.running.is_none() && after.life.stage.is_none());
            let pauses = memory.life.pause.iter().zip(&after.life.pause);
            let pauses = pauses.filter_map(|(before, after)| before.until.zip(after.until));
            let open = |memory: &Memory| match memory.breaker.phase {
                breaker::Remembered::Open { until } => Some(until),
                _ => None,
            };
            for (before, after) in pauses.chain(open(&memory).zip(open(&after))) {
                prop_assert_eq!(before.since(written), after.since(now));
            }
            for (before, after) in memory.breaker.window.iter().zip(&after.breaker.window) {
                prop_assert_eq!(before.1, after.1);
                prop_assert!(now.since(after.0) <= written.since(before.0));
            }
        }
    }

    /// What the builds of today write, those of tomorrow read, or refuse by its number.
    #[test]
    fn the_form_on_disk_is_this_one() {
        let instance = Instance { pid: Pid(812), start_ticks: 4_711 };
        let life = lifecycle::Memory {
            running: Some(Running {
                instance,
                launched: Some(Time(5)),
                ending: Some(Why::Stop { by: "root".to_owned() }),
            }),
            pause: Some(Pause { by: "root".to_owned(), until: None }),
            stop_wanted: true,
            ..lifecycle::Memory::default()
        };
        let breaker = breaker::Memory {
            phase: breaker::Remembered::Open { until: Time(9) },
            window: vec![(Time(3), 1), (Time(4), 2)],
            ..breaker::Memory::default()
        };
        let text = Memory { life, breaker }.encode(Time(7));
        let expected = r#"{"format":1,"written":7,"running":{"pid":812,"start_ticks":4711,"launched":5,"ending":{"stop":"root"}},"last":null,"launching":null,"wanted":false,"finished":false,"pause":{"by":"root","until":null,"stop":true},"breaker":{"open_until":9,"half_open":false,"window":[[3,1],[4,2]],"restart_pending":false,"failed_trials":0}}"#;
        assert_eq!(String::from_utf8(text).unwrap(), format!("{expected}\n"));
    }

    #[rstest]
    #[case::nothing("", "it is not what healer writes")]
    #[case::no_json("running", "it is not what healer writes")]
    #[case::another_program("{\"pid\": 1}", "it is not what healer writes")]
    #[case::newer("{\"format\": 2, \"boots\": []}", "it has format 2, and this build knows 1")]
    #[case::unknown_key(
        r#"{"format":1,"written":7,"wanted":false,"finished":false,"x":1}"#,
        "it is not what healer writes"
    )]
    #[case::init(
        r#"{"format":1,"written":7,"wanted":false,"finished":false,"last":{"pid":1,"start_ticks":2}}"#,
        "PID 1 is no instance's"
    )]
    fn what_is_not_healers_is_refused(#[case] text: &str, #[case] said: &str) {
        assert_eq!(Memory::decode(text.as_bytes()).unwrap_err().to_string(), said);
    }
}
