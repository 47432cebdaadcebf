//! Where a run stands, where a worker stands, and how a run can fail.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{ExitCode, Rank, Step};

/// Phases of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Reading and tokenising data.
    #[default]
    Preparing,
    /// Waiting for workers to join.
    Waiting,
    /// Workers find each other and agree on the weights.
    Forming,
    /// A worker was lost, or one came: the others stand by until the world forms again.
    Recovering,
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
    /// Known; it loads the model.
    #[default]
    Joined,
    /// It has a model in memory and waits for its place.
    Loaded,
    /// Meeting its peers.
    Forming,
    /// Taking part in steps.
    Ready,
    /// Its session is gone; it may come back.
    Away,
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
    /// The world was formed again and again without a step in between.
    NoProgress,
}

/// What a worker is doing in a step, as its heartbeats tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepPhase {
    /// Waiting for something to do.
    #[default]
    Idle,
    /// Loading the model.
    Loading,
    /// Meeting its peers and taking over weights.
    Forming,
    /// Passes without gradient.
    Scoring,
    /// Waiting for the reference point.
    ReferencePoint,
    /// Policy forward and backward passes.
    ForwardBackward,
    /// Waiting for gradients to be summed over ranks.
    AllReduce,
    /// Waiting for the step to be committed.
    Commit,
    /// Moving the weights.
    Optimizer,
    /// Writing files.
    Saving,
}

/// Trained weights in a worker's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Weights {
    /// Step that they are the result of, 0 for the model as it was loaded.
    pub done: Step,
    /// Step whose gradient is ready and whose commit is awaited.
    pub pending: Option<Step>,
}

/// Where a worker's weights come from when a world forms.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "snake_case")]
pub enum Restore {
    /// The model directory.
    #[default]
    Initial,
    /// A checkpoint.
    Checkpoint {
        /// Its directory, relative to the run directory.
        path: String,
    },
    /// The rank that has them sends them to all.
    Peer {
        /// That rank.
        rank: Rank,
    },
    /// Every worker has them.
    Kept,
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
    pub const ALL: [Self; 10] = [
        Self::Preparing,
        Self::Waiting,
        Self::Forming,
        Self::Recovering,
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
            Self::Recovering => "recovering",
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
    pub const ALL: [Self; 7] = [
        Self::Joined,
        Self::Loaded,
        Self::Forming,
        Self::Ready,
        Self::Away,
        Self::Left,
        Self::Lost,
    ];

    /// The state as one lower-case word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Joined => "joined",
            Self::Loaded => "loaded",
            Self::Forming => "forming",
            Self::Ready => "ready",
            Self::Away => "away",
            Self::Left => "left",
            Self::Lost => "lost",
        }
    }
}

impl StepPhase {
    /// All phases.
    pub const ALL: [Self; 10] = [
        Self::Idle,
        Self::Loading,
        Self::Forming,
        Self::Scoring,
        Self::ReferencePoint,
        Self::ForwardBackward,
        Self::AllReduce,
        Self::Commit,
        Self::Optimizer,
        Self::Saving,
    ];

    /// The phase in lower-case words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Loading => "loading the model",
            Self::Forming => "meeting its peers",
            Self::Scoring => "scoring",
            Self::ReferencePoint => "waiting for the reference point",
            Self::ForwardBackward => "forward and backward",
            Self::AllReduce => "all-reduce",
            Self::Commit => "waiting for the commit",
            Self::Optimizer => "optimizer",
            Self::Saving => "saving",
        }
    }
}

impl fmt::Display for StepPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl fmt::Display for WorkerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FailureKind {
    /// All kinds.
    pub const ALL: [Self; 7] = [
        Self::Configuration,
        Self::Corrupt,
        Self::Storage,
        Self::PeerLost,
        Self::NotFinite,
        Self::Internal,
        Self::NoProgress,
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
            Self::NoProgress => "no progress",
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
            Self::NotFinite | Self::NoProgress => ExitCode::NoProgress,
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
