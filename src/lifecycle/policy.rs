//! Which ends call for a restart, how long the next start is delayed, when to look again.

use std::time::Duration;

use crate::config::{Backoff, Restart};
use crate::event::{End, Exit, Killer, Time};

/// How soon to look again where it could not be told which process is meant: it may have been seen
/// in the middle of an exec or of its end.
pub(super) const RELOOK_UNCLEAR: Backoff = Backoff {
    initial: Duration::from_millis(200),
    factor: 2.0,
    max: Duration::from_secs(5),
    jitter: 0.0,
};
/// How soon to look again whether somebody started a process that healer does not start itself.
pub(super) const RELOOK_DOWN: Duration = Duration::from_secs(30);
/// How soon to look again for the successor of a daemonising command.
pub(super) const RELOOK_SUCCESSOR: Backoff = Backoff {
    initial: Duration::from_millis(50),
    factor: 2.0,
    max: Duration::from_secs(1),
    jitter: 0.0,
};
/// How soon to try again to end what cannot be ended.
pub(super) const RESTOP: Duration = Duration::from_secs(30);
/// A launch that could not be made for so long is prepared anew: others had time to start an
/// instance. No shorter, for with a thousand in the queue each such look takes its time.
pub(super) const STALE_PREPARATION: Duration = Duration::from_secs(60);

/// Whether an end calls for a restart. An unknown cause does, unless the answer is "never".
pub(super) fn is_failure(restart: Restart, exit: &Exit) -> bool {
    match restart {
        Restart::Always => true,
        Restart::Never => false,
        Restart::OnFailure => match exit.end {
            Some(End::Code(code)) => code != 0,
            Some(End::Signal { signal, .. }) => {
                !signal.asks_to_end() || exit.killer == Some(Killer::Itself)
            }
            None => true,
        },
    }
}

/// An exit, a fault of the program, or unknown; not a signal from outside. Who sent it decides where
/// that is known, else which signal it is.
pub(super) fn ended_by_itself(exit: &Exit) -> bool {
    let Some(End::Signal { signal, .. }) = exit.end else { return true };
    match exit.killer {
        Some(Killer::Itself) => true,
        Some(Killer::Process { .. }) => false,
        Some(Killer::Kernel) | None => signal.is_fault(),
    }
}

/// The delay before the `row`-th restart in a row, `row` ≥ 2.
pub(super) fn delay(policy: &Backoff, row: u32, now: Time) -> Duration {
    let delay = policy.delay(row.saturating_sub(2));
    // -1 to 1, spread by the clock's nanoseconds: no two processes fail at the same one.
    let spread = f64::from(scramble(now.0 ^ u64::from(row))) / f64::from(u32::MAX) * 2.0 - 1.0;
    delay.mul_f64(1.0 + policy.jitter * spread).min(policy.max)
}

/// The upper half of one round of SplitMix64 (Steele, Lea, Flood 2014).
fn scramble(seed: u64) -> u32 {
    let z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 32) as u32
}
