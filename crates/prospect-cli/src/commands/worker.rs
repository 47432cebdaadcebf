//! `prospect worker`: becomes the worker program, so that signals and exit
//! codes are the worker's own.

use std::os::unix::process::CommandExt;
use std::process::Command;

use prospect_core::ExitCode;
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

use crate::args::WorkerArgs;
use crate::error::CliError;
use crate::worker_binary;

/// Replaces this process; returns only when that fails.
pub fn run(args: &WorkerArgs) -> Result<ExitCode, CliError> {
    let program = worker_binary::find()?;
    let mut command = Command::new(&program);
    command.args(["run", "--coordinator", &args.coordinator, "--device", &args.device]);
    if let Some(threads) = args.threads {
        command.args(["--threads", &threads.to_string()]);
    }
    if let Some(worker_id) = &args.worker_id {
        command.args(["--worker-id", worker_id]);
    }
    if let Some(seconds) = args.join_timeout {
        command.args(["--join-timeout", &seconds.to_string()]);
    }
    if let Some(parent) = args.parent {
        die_with(parent)?;
    }
    let source = command.exec();
    Err(CliError::WorkerStart { program, source })
}

/// Asks the kernel to end this process, and what it becomes, with its parent:
/// a worker must not outlive a run whose process was killed.
fn die_with(parent: u32) -> Result<(), CliError> {
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|source| CliError::Runtime { source: source.into() })?;
    // The parent may have gone before the kernel was asked.
    let is_there = getppid().map(Pid::as_raw_nonzero).map(|pid| pid.get().unsigned_abs());
    if is_there == Some(parent) { Ok(()) } else { Err(CliError::ParentGone { parent }) }
}
