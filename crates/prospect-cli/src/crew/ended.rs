//! A worker that ended, and what follows from how it ended.

use std::path::PathBuf;
use std::process::ExitStatus;

use prospect_core::ExitCode;

use crate::error::CliError;
use crate::worker_pipe::{ending, exit_code};

/// A worker that ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Its name.
    pub name: String,
    /// How.
    pub status: ExitStatus,
    /// What it said last.
    pub message: String,
    /// Its log file.
    pub log: PathBuf,
}

/// What an end means for the worker's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The run is complete.
    Done,
    /// It left in good order.
    Left,
    /// It died; another process can do its work.
    Died,
    /// Another process would end in the same way.
    Lasting,
}

impl Ended {
    /// What its end means.
    pub fn verdict(&self) -> Verdict {
        let Some(_) = self.status.code() else { return Verdict::Died };
        match exit_code(self.status) {
            ExitCode::Complete => Verdict::Done,
            ExitCode::Preempted => Verdict::Left,
            // Codes that are no worker's own, a panic's for instance, count as internal.
            ExitCode::Internal | ExitCode::PeerLost => Verdict::Died,
            ExitCode::Usage
            | ExitCode::Corrupt
            | ExitCode::Storage
            | ExitCode::Credentials
            | ExitCode::NoProgress => Verdict::Lasting,
        }
    }

    /// Whether it says itself that another one's end is the reason for its own.
    pub fn lost_its_peers(&self) -> bool {
        self.status.code() == Some(i32::from(ExitCode::PeerLost.code()))
    }

    /// How it ended, in words: "signal 9".
    pub fn ending(&self) -> String {
        ending(self.status)
    }

    /// Its end as the reason why the run failed.
    pub fn to_error(&self) -> CliError {
        CliError::WorkerFailed {
            worker: self.name.clone(),
            ending: self.ending(),
            message: self.message.clone(),
            log: self.log.clone(),
            exit: exit_code(self.status),
        }
    }
}

#[cfg(test)]
mod tests;
