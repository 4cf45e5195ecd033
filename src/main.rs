//! Exit codes and the printed error chain.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Before anything else: the stage is this binary too, and has to be quick.
    if let Some(code) = healer::launch::stage::run_if_asked() {
        return ExitCode::from(code);
    }
    ExitCode::SUCCESS
}
