//! What can go wrong in a worker, with the exit code and the kind of failure
//! that others are told.

use std::io;
use std::path::PathBuf;

use prospect_core::{ConfigError, ExitCode, RunId, Step};
use prospect_proto::{FailureKind, MessageError, Phase};
use prospect_train::TrainError;

use crate::options::OptionError;
use crate::torch::LibtorchError;
use crate::torch::libtorch_kind;

/// A worker that cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// An option or an environment variable is not understood.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// The coordinator's URL is none.
    #[error("{url:?} is no coordinator's address: {reason}; give one such as http://10.0.0.5:7000")]
    CoordinatorUrl {
        /// The URL as typed.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Nobody answered in time.
    #[error(
        "no coordinator answered at {url} within {waited_seconds} s: {reason}; start it, or correct --coordinator"
    )]
    CoordinatorUnreachable {
        /// The URL as typed.
        url: String,
        /// How long was waited.
        waited_seconds: f64,
        /// The last attempt's failure.
        reason: String,
    },
    /// The coordinator does not take this worker.
    #[error("the coordinator at {url} refused this worker: {reason}")]
    JoinRefused {
        /// The URL as typed.
        url: String,
        /// The refusal's code.
        code: tonic::Code,
        /// Why.
        reason: String,
    },
    /// The coordinator does not take this worker as things are.
    #[error("the coordinator at {url} put this worker off: {reason}")]
    PutOff {
        /// The URL as typed.
        url: String,
        /// Why.
        reason: String,
        /// The phase that the run has ended in, if that is why.
        ended: Option<Phase>,
    },
    /// This process had a place in the run and has lost it for good.
    #[error(
        "the coordinator at {url} let go of this worker at step {step}: {reason}; what it had done since counts for nothing"
    )]
    Fenced {
        /// The URL as typed.
        url: String,
        /// Step that was being worked on.
        step: Step,
        /// Why.
        reason: String,
    },
    /// The coordinator went away and did not come back.
    #[error(
        "the coordinator at {url} was lost at step {step} and not found again within {waited_seconds} s: {reason}; start it and the workers again to go on from the newest checkpoint"
    )]
    CoordinatorLost {
        /// The URL as typed.
        url: String,
        /// Step that was being worked on.
        step: Step,
        /// How long was waited.
        waited_seconds: f64,
        /// What the connection said last.
        reason: String,
    },
    /// Another run answers at the coordinator's address.
    #[error(
        "the coordinator at {url} leads run {found}, but this worker belongs to run {expected}; start a worker for that run"
    )]
    OtherRun {
        /// The URL as typed.
        url: String,
        /// The run that answers.
        found: RunId,
        /// The run that this worker was in.
        expected: RunId,
    },
    /// The coordinator ended the session in a way that says nothing about the run.
    #[error("the coordinator at {url} left this worker alone at step {step}: {reason}")]
    LeftAlone {
        /// The URL as typed.
        url: String,
        /// Step that was being worked on.
        step: Step,
        /// What is known.
        reason: String,
    },
    /// The coordinator ended the run for this worker.
    #[error("the coordinator ended the run: {reason}")]
    Aborted {
        /// Why, in the coordinator's words.
        reason: String,
        /// Kind of failure.
        kind: FailureKind,
    },
    /// This process was asked to end.
    #[error("ended by {reason} at step {step}")]
    Interrupted {
        /// What asked.
        reason: String,
        /// Step that was being worked on.
        step: Step,
    },
    /// The coordinator's configuration is not one.
    #[error("the coordinator's configuration cannot be used: {source}")]
    Configuration {
        /// What is wrong.
        source: ConfigError,
    },
    /// The coordinator said something that does not fit.
    #[error("{reason}; coordinator and worker may be of different versions")]
    Protocol {
        /// What it said.
        reason: String,
    },
    /// The coordinator said something that means nothing.
    #[error(
        "the coordinator sent a malformed message: {0}; coordinator and worker may be of different versions"
    )]
    Malformed(#[from] MessageError),
    /// A file of the model cannot be read.
    #[error(
        "the model file {} cannot be read: {source}; the model directory must be there on every worker under the same path",
        path.display()
    )]
    ModelFile {
        /// The file or directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The model is another one than the coordinator's.
    #[error(
        "the {role} in {} differs from the coordinator's: digest {found}, but {expected} is expected; give every worker the same config.json and weights",
        path.display()
    )]
    ModelDiffers {
        /// Which model: "model" or "reference model".
        role: &'static str,
        /// Its directory.
        path: PathBuf,
        /// Its digest here.
        found: String,
        /// Its digest at the coordinator.
        expected: String,
    },
    /// A GPU that is not there.
    #[error(
        "device cuda:{device_idx} is not there: {count} CUDA device(s) can be used; choose another --device, or auto"
    )]
    Device {
        /// The index asked for.
        device_idx: usize,
        /// How many there are.
        count: usize,
    },
    /// Store or process group failed.
    #[error("the workers cannot meet: {0}")]
    Rendezvous(#[from] LibtorchError),
    /// Training failed.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// The device thread could not be started.
    #[error("no thread can be started for the device: {source}")]
    Thread {
        /// Why not.
        source: io::Error,
    },
    /// The device thread ended without a word.
    #[error("the device thread died at step {step}; its last words are in the log above")]
    ThreadDied {
        /// Step that was being worked on.
        step: Step,
    },
    /// The thread that writes checkpoints died.
    #[error(
        "the thread that writes the checkpoint of step {step} died; its last words are in the log above"
    )]
    WriterDied {
        /// The step.
        step: Step,
    },
    /// A place at which the system failed.
    #[error("cannot pass {place}: {source}")]
    Place {
        /// The place.
        place: &'static str,
        /// The system's answer.
        source: io::Error,
    },
}

impl WorkerError {
    /// What kind of failure this is for the others in the run.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Option(_)
            | Self::CoordinatorUrl { .. }
            | Self::Configuration { .. }
            | Self::ModelDiffers { .. }
            | Self::Device { .. } => FailureKind::Configuration,
            Self::JoinRefused { code, .. } => match code {
                tonic::Code::Internal | tonic::Code::Unimplemented => FailureKind::Internal,
                tonic::Code::ResourceExhausted => FailureKind::PeerLost,
                _ => FailureKind::Configuration,
            },
            Self::CoordinatorUnreachable { .. }
            | Self::PutOff { .. }
            | Self::Fenced { .. }
            | Self::CoordinatorLost { .. }
            | Self::OtherRun { .. }
            | Self::LeftAlone { .. }
            | Self::Interrupted { .. } => FailureKind::PeerLost,
            Self::Place { .. } => FailureKind::Storage,
            Self::Aborted { kind, .. } => *kind,
            Self::ModelFile { source, .. } => match source.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                    FailureKind::Configuration
                }
                _ => FailureKind::Storage,
            },
            Self::Rendezvous(error) => match error {
                // Gloo has no closer word for a peer that dies while all connect.
                LibtorchError::Torch { .. } => FailureKind::PeerLost,
                error => libtorch_kind(error),
            },
            Self::Train(error) => error.kind(),
            Self::Protocol { .. }
            | Self::Malformed(_)
            | Self::Thread { .. }
            | Self::WriterDied { .. }
            | Self::ThreadDied { .. } => FailureKind::Internal,
        }
    }

    /// Whether joining again may help.
    pub(crate) fn may_join_again(&self) -> bool {
        matches!(self, Self::CoordinatorUnreachable { .. } | Self::PutOff { .. })
    }

    /// How the process ends because of it.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Interrupted { step: Step(0), .. } => ExitCode::Preempted,
            Self::JoinRefused {
                code: tonic::Code::Unauthenticated | tonic::Code::PermissionDenied,
                ..
            } => ExitCode::Credentials,
            _ => self.kind().exit_code(),
        }
    }
}
