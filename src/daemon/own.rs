//! healer's own place on the machine: what it may use, and that it is not the first to go.
//!
//! Changed once, at the start, after what healer was given was recorded: what it launches gets that
//! back. Nothing here stops a start. Called by the daemon.

use std::fs;
use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{debug, warn};

/// As unlikely a victim as may be, when memory runs out, that the kernel can still choose.
const OOM_SCORE_ADJ: i32 = -900;

/// Uses all descriptors that healer may: each guarded instance is held by one.
pub fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        warn!(%error, "cannot raise the limit of open files");
    }
}

/// Makes healer the last but one that is killed for want of memory: with it, nobody would bring
/// back the others. Whom the operator gave an even lower score keeps that.
pub fn lower_oom_score() {
    const FILE: &str = "/proc/self/oom_score_adj";
    let lower = || -> io::Result<()> {
        let now = fs::read_to_string(FILE)?;
        if now.trim().parse().is_ok_and(|now: i32| now <= OOM_SCORE_ADJ) {
            return Ok(());
        }
        fs::write(FILE, OOM_SCORE_ADJ.to_string())
    };
    if let Err(error) = lower() {
        // An ordinary user may not.
        debug!(%error, "cannot lower healer's own oom_score_adj");
    }
}
