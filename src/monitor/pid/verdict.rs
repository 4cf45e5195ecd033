//! What a PID file is worth: the living process it names is mine, a stranger, or that is unclear.
//! Pure; `pid` gathers the facts.

use crate::event::{Instance, Time};
use crate::instance::who::Fit;

use super::file::PidFile;

/// What is known of the living process that a PID file names.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Named {
    /// Who.
    pub instance: Instance,
    /// Recovery holds it as this process.
    pub recorded: bool,
    /// Recovery holds it as another process.
    pub taken: bool,
    /// It is PID 1, healer, a kernel thread, or lives in another PID namespace.
    pub never: bool,
    /// It came out of healer's launch of this process.
    pub launched: bool,
    /// How it fits the entry.
    pub fit: Fit,
    /// Its real user.
    pub uid: u32,
    /// When it started.
    pub started: Time,
    /// Its command line, fit for a message.
    pub shown: String,
}

/// The three answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is the process.
    Mine,
    /// It is another process, and the file is stale or hostile.
    Stranger,
    /// It may be either; `reason` says what would decide.
    Unclear {
        /// For the operator.
        reason: String,
    },
}

/// A file counts as older than a boot or a process only by more than this: clocks tick coarsely.
const SLACK: i128 = 1_000_000_000;

/// Judges. `written` is when the file was, in nanoseconds since boot; `None` where the wall clock
/// was set since, and nothing follows from it.
#[must_use]
pub fn judge(file: &PidFile, named: &Named, written: Option<i128>) -> Verdict {
    // What healer knows by itself comes before what a file says or who could write it.
    if named.recorded {
        return Verdict::Mine;
    }
    if named.never || named.taken {
        return Verdict::Stranger;
    }
    // Whoever can write the file could name any process, of any user: only of their own, then.
    // Also of those that came out of a launch: more than one entry's come to healer.
    if file.open_to_others && named.uid != file.owner {
        return Verdict::Stranger;
    }
    if named.launched {
        return Verdict::Mine;
    }
    // A start lies after the boot, so that a file older than the boot is older than any process.
    let is_older = written.is_some_and(|at| at + SLACK < i128::from(named.started.0));
    match named.fit {
        Fit::Full => Verdict::Mine,
        // It was written of a process before this one.
        Fit::No if is_older => Verdict::Stranger,
        Fit::No => unclear(named, "which does not look like it"),
        Fit::Rewritten => unclear(named, "which may be it"),
        Fit::Unreadable => unclear(named, "whose program file may not be read"),
    }
}

fn unclear(named: &Named, why: &str) -> Verdict {
    let Named { instance, shown, .. } = named;
    let reason = format!("its PID file names {instance} (\"{shown}\"), {why}; say match.cmdline");
    Verdict::Unclear { reason }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::event::Pid;

    const SECOND: i128 = 1_000_000_000;
    const STARTED: i128 = 100 * SECOND;
    const ROOT: u32 = 0;
    const WEB: u32 = 33;

    fn named() -> Named {
        Named {
            instance: Instance { pid: Pid(812), start_ticks: 10_000 },
            recorded: false,
            taken: false,
            never: false,
            launched: false,
            fit: Fit::No,
            uid: ROOT,
            started: Time(100 * 1_000_000_000),
            shown: "sshd: web [priv]".into(),
        }
    }

    fn roots(file_owner: u32, open_to_others: bool) -> PidFile {
        PidFile { pid: Pid(812), owner: file_owner, open_to_others, modified: 0 }
    }

    #[derive(Debug, PartialEq, Eq)]
    enum Answer {
        Mine,
        Stranger,
        Unclear,
    }

    #[rstest]
    #[case::recorded_comes_first(Named { recorded: true, never: true, ..named() }, Answer::Mine)]
    #[case::launched(Named { launched: true, ..named() }, Answer::Mine)]
    #[case::matched(Named { fit: Fit::Full, ..named() }, Answer::Mine)]
    #[case::never(Named { never: true, fit: Fit::Full, ..named() }, Answer::Stranger)]
    #[case::never_launched(Named { never: true, launched: true, ..named() }, Answer::Stranger)]
    #[case::another_entrys(Named { taken: true, fit: Fit::Full, ..named() }, Answer::Stranger)]
    #[case::nothing_identifies_it(named(), Answer::Unclear)]
    #[case::rewritten(Named { fit: Fit::Rewritten, ..named() }, Answer::Unclear)]
    #[case::unreadable(Named { fit: Fit::Unreadable, ..named() }, Answer::Unclear)]
    fn what_is_known_of_the_process_decides(#[case] named: Named, #[case] expected: Answer) {
        assert_eq!(answer(&roots(ROOT, false), &named, Some(STARTED + SECOND)), expected);
    }

    #[rstest]
    #[case::written_after_the_start(Fit::No, Some(STARTED + SECOND), Answer::Unclear)]
    #[case::written_within_a_tick_of_it(Fit::No, Some(STARTED - SECOND / 2), Answer::Unclear)]
    #[case::written_before_it(Fit::No, Some(STARTED - 2 * SECOND), Answer::Stranger)]
    #[case::written_before_the_boot(Fit::No, Some(-5 * SECOND), Answer::Stranger)]
    #[case::the_clock_was_set(Fit::No, None, Answer::Unclear)]
    #[case::its_own_program_is_no_stranger(Fit::Rewritten, Some(-5 * SECOND), Answer::Unclear)]
    #[case::a_match_is_stronger(Fit::Full, Some(-5 * SECOND), Answer::Mine)]
    fn an_old_file_makes_an_unidentified_process_a_stranger(
        #[case] fit: Fit,
        #[case] written: Option<i128>,
        #[case] expected: Answer,
    ) {
        assert_eq!(answer(&roots(ROOT, false), &Named { fit, ..named() }, written), expected);
    }

    #[rstest]
    #[case::roots_process(roots(WEB, true), ROOT, false, Answer::Stranger)]
    #[case::the_owners_process(roots(WEB, true), WEB, false, Answer::Mine)]
    #[case::roots_file_in_a_writable_directory(roots(ROOT, true), WEB, false, Answer::Stranger)]
    #[case::safe_file(roots(ROOT, false), WEB, false, Answer::Mine)]
    #[case::also_of_a_launch(roots(ROOT, true), WEB, true, Answer::Stranger)]
    #[case::the_owners_of_a_launch(roots(WEB, true), WEB, true, Answer::Mine)]
    #[case::safe_file_of_a_launch(roots(ROOT, false), WEB, true, Answer::Mine)]
    fn a_file_that_others_can_write_names_only_its_owners_processes(
        #[case] file: PidFile,
        #[case] uid: u32,
        #[case] launched: bool,
        #[case] expected: Answer,
    ) {
        let named = Named { fit: Fit::Full, uid, launched, ..named() };
        assert_eq!(answer(&file, &named, Some(STARTED + SECOND)), expected);
    }

    #[test]
    fn doubt_names_whom_and_the_way_out() {
        let Verdict::Unclear { reason } = judge(&roots(ROOT, false), &named(), None) else {
            panic!("no doubt")
        };
        assert_eq!(
            reason,
            "its PID file names 812 (\"sshd: web [priv]\"), which does not look like it; say match.cmdline"
        );
    }

    fn answer(file: &PidFile, named: &Named, written: Option<i128>) -> Answer {
        match judge(file, named, written) {
            Verdict::Mine => Answer::Mine,
            Verdict::Stranger => Answer::Stranger,
            Verdict::Unclear { .. } => Answer::Unclear,
        }
    }
}
