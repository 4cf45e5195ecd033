//! What the stage tells healer, as messages on their socket.
//!
//! Written by `stage` and `identity`, read by `launch`.

use std::io;

/// What the stage tells healer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Report {
    /// Everything is set up; what follows is the end of file that execve(2) brings, or a fault.
    Executing,
    /// A step failed.
    Fault(Fault),
}

/// The step that failed, in words, and the system's error where it was the system that refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) step: String,
    pub(super) errno: Option<i32>,
}

impl Report {
    const EXECUTING: u8 = b'x';
    const FAULT: u8 = b'f';

    pub(super) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Executing => vec![Self::EXECUTING],
            Self::Fault(Fault { step, errno }) => {
                let errno = errno.unwrap_or(0).to_ne_bytes();
                [&[Self::FAULT], errno.as_slice(), step.as_bytes()].concat()
            }
        }
    }

    /// Reads one message of the stage; `None` where it is none.
    pub(super) fn decode(message: &[u8]) -> Option<Self> {
        match message.split_first()? {
            (&Self::EXECUTING, []) => Some(Self::Executing),
            (&Self::FAULT, fault) => {
                let (errno, step) = fault.split_first_chunk()?;
                let errno = Some(i32::from_ne_bytes(*errno)).filter(|errno| *errno != 0);
                let step = String::from_utf8_lossy(step).into_owned();
                Some(Self::Fault(Fault { step, errno }))
            }
            _ => None,
        }
    }
}

/// A step that failed by our own finding.
pub(super) fn fault(step: impl Into<String>) -> Fault {
    Fault { step: step.into(), errno: None }
}

/// A step that the system refused.
pub(super) fn refused(step: impl Into<String>, error: impl Into<io::Error>) -> Fault {
    Fault { step: step.into(), errno: error.into().raw_os_error() }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::executing(Report::Executing)]
    #[case::refused(Report::Fault(refused("chdir to /srv", nix::Error::EACCES)))]
    #[case::own_finding(Report::Fault(fault("user \"w\u{e9}b\" is not in the user database")))]
    fn report_survives_its_way(#[case] report: Report) {
        assert_eq!(Report::decode(&report.encode()), Some(report));
    }

    #[rstest]
    #[case::nothing(b"")]
    #[case::unknown(b"?")]
    #[case::more_than_executing(b"xx")]
    #[case::fault_cut_short(b"f\0\0")]
    fn anything_else_is_no_report(#[case] message: &[u8]) {
        assert_eq!(Report::decode(message), None);
    }
}
