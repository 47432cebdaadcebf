//! Where a run stands, where a worker stands, and how a run can fail.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ExitCode;

/// Phases of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Reading and tokenising data.
    #[default]
    Preparing,
    /// Waiting for workers to join.
    Waiting,
    /// Workers load the model and find each other.
    Forming,
    /// Steps are being done.
    Training,
    /// A pass over the evaluation data is being done.
    Evaluating,
    /// The trained model is being saved.
    Finishing,
    /// All is done.
    Complete,
    /// Stopped on request; nothing that was done is lost.
    Stopped,
    /// Ended by a failure.
    Failed,
}

/// States of a worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerState {
    /// Known; it has no rank yet.
    #[default]
    Joined,
    /// Loading the model or meeting its peers.
    Forming,
    /// Taking part in steps.
    Ready,
    /// Gone in good order.
    Left,
    /// Gone without a word.
    Lost,
}

/// Kinds of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// Configuration, model and world do not fit together.
    Configuration,
    /// Data, weights or a checkpoint are damaged.
    Corrupt,
    /// A file could not be written or read.
    Storage,
    /// A worker went away or did not come.
    PeerLost,
    /// A loss, log-ratio or gradient is not finite.
    NotFinite,
    /// A defect of the program.
    Internal,
}

/// Whether a worker that is refused may try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// It stands until someone changes the run or the worker.
    Lasting,
    /// It has to do with what the run does now; joining again may succeed.
    ForNow,
}

impl Phase {
    /// All phases.
    pub const ALL: [Self; 9] = [
        Self::Preparing,
        Self::Waiting,
        Self::Forming,
        Self::Training,
        Self::Evaluating,
        Self::Finishing,
        Self::Complete,
        Self::Stopped,
        Self::Failed,
    ];

    /// The phase as one lower-case word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Preparing => "preparing",
            Self::Waiting => "waiting",
            Self::Forming => "forming",
            Self::Training => "training",
            Self::Evaluating => "evaluating",
            Self::Finishing => "finishing",
            Self::Complete => "complete",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }

    /// Whether the run has ended.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Complete | Self::Stopped | Self::Failed)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl WorkerState {
    /// All states.
    pub const ALL: [Self; 5] = [Self::Joined, Self::Forming, Self::Ready, Self::Left, Self::Lost];

    /// The state as one lower-case word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Joined => "joined",
            Self::Forming => "forming",
            Self::Ready => "ready",
            Self::Left => "left",
            Self::Lost => "lost",
        }
    }
}

impl fmt::Display for WorkerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FailureKind {
    /// All kinds.
    pub const ALL: [Self; 6] = [
        Self::Configuration,
        Self::Corrupt,
        Self::Storage,
        Self::PeerLost,
        Self::NotFinite,
        Self::Internal,
    ];

    /// The kind in lower-case words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::Corrupt => "corrupt",
            Self::Storage => "storage",
            Self::PeerLost => "peer lost",
            Self::NotFinite => "not finite",
            Self::Internal => "internal",
        }
    }

    /// How a process that ends for this reason exits. What is not finite would
    /// not be after a resume either, so such a run is not to be queued again.
    pub fn exit_code(self) -> ExitCode {
        match self {
            Self::Configuration => ExitCode::Usage,
            Self::Corrupt => ExitCode::Corrupt,
            Self::Storage => ExitCode::Storage,
            Self::PeerLost => ExitCode::PeerLost,
            Self::NotFinite => ExitCode::NoProgress,
            Self::Internal => ExitCode::Internal,
        }
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What is added to a refusal in words.
impl fmt::Display for RefusalKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lasting => "",
            Self::ForNow => " for now",
        })
    }
}
