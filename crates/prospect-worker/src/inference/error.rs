//! What can go wrong between the rows that come in and those that go out.

use std::io;

use prospect_core::ExitCode;
use prospect_train::TrainError;

use crate::WorkerError;
use crate::torch::ModelError;

/// Scoring or generation that cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum InferenceError {
    /// A row that cannot be used.
    #[error("line {line} of the input {problem}")]
    Row {
        /// Line, from 1.
        line: usize,
        /// What is wrong and what is expected.
        problem: String,
    },
    /// The model cannot be loaded or run.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Scoring failed.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// The device cannot be used.
    #[error(transparent)]
    Device(#[from] WorkerError),
    /// Input or output failed.
    #[error("cannot {action}: {source}")]
    Stream {
        /// What was being done.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
}

impl InferenceError {
    /// How the process ends because of it.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Row { .. } => ExitCode::Corrupt,
            Self::Model(error) => error.exit_code(),
            Self::Train(error) => error.kind().exit_code(),
            Self::Device(error) => error.exit_code(),
            Self::Stream { .. } => ExitCode::Storage,
        }
    }
}
