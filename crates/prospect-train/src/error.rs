//! What can go wrong in a step, with the operands, and what each failure means for the run.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use prospect_core::{ExitCode, FailureKind, RowId, ShardKind, Step};
use prospect_libtorch::LibtorchError;
use prospect_model::{ErrorClass, ModelError};

use crate::{Drift, ExchangeError, NotFinite};

/// Why a trainer could not be made, a step not be done or its state not be kept.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The policy or the reference could not be loaded.
    #[error("cannot load the {role}: {source}")]
    Load {
        /// "policy" or "reference".
        role: &'static str,
        /// The model's own words.
        source: ModelError,
    },
    /// The policy and the reference do not share a vocabulary.
    #[error(
        "the reference has {reference} tokens in its vocabulary, but the policy has {policy}; give a reference of the same family"
    )]
    Vocabulary {
        /// Of the policy.
        policy: i64,
        /// Of the reference.
        reference: i64,
    },
    /// A pass through a model failed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A collective or an operation of the libtorch shim failed.
    #[error(transparent)]
    Libtorch(#[from] LibtorchError),
    /// A tensor operation failed.
    #[error("tensor operation failed: {0}")]
    Tensor(#[from] tch::TchError),
    /// The reference point did not come.
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
    /// A shard contradicts itself or the model.
    #[error("the shard of step {step} cannot be computed: {problem}")]
    Shard {
        /// The shard's step.
        step: Step,
        /// What is wrong with it.
        problem: ShardProblem,
    },
    /// A log-ratio, loss or gradient is not finite. The weights have not moved.
    #[error(transparent)]
    NotFinite(Box<NotFinite>),
    /// The weights themselves are not finite: nothing of them is saved.
    #[error(
        "{name} holds values that are not finite after step {step}, and is not saved; lower train.learning_rate"
    )]
    NotFiniteWeights {
        /// The step that they are the result of.
        step: Step,
        /// The first tensor with such a value.
        name: String,
    },
    /// Policy and reference are the same model and nothing has moved yet, but they disagree.
    #[error(transparent)]
    Drift(Box<Drift>),
    /// Something that needs ranks was asked of a trainer in no world.
    #[error("the trainer is in no world; enter one first")]
    NoWorld,
    /// A shard came out of turn.
    #[error("the {} shard of step {found} cannot be computed with the weights of step {done}", kind_name(*kind))]
    OutOfTurn {
        /// Of the shard.
        kind: ShardKind,
        /// The shard's step.
        found: Step,
        /// The step that the weights are the result of.
        done: Step,
    },
    /// A step was to move the weights whose gradient is not there.
    #[error("step {step} cannot move the weights: {}", pending_text(*pending))]
    NotPending {
        /// The step.
        step: Step,
        /// The step whose gradient is there.
        pending: Option<Step>,
    },
    /// The ranks of a world do not hold the same state.
    #[error("rank {rank} does not hold what rank 0 holds: rank 0 is at step {}, rank {rank} at step {}{}; resume from a checkpoint", steps[0], steps[1], if steps[0] == steps[1] { " with other bits" } else { "" })]
    Unequal {
        /// The first rank that differs from rank 0.
        rank: usize,
        /// The steps of rank 0 and of that rank.
        steps: [Step; 2],
    },
    /// A rank was to go on with a share of the weights that it does not hold.
    #[error("this is {place}, whose share of weights and optimizer state it does not hold: it holds {}; resume from a checkpoint", placed.as_deref().map_or_else(|| "none".to_owned(), |placed| format!("that of {placed}")))]
    Shared {
        /// The rank and the size of the world.
        place: String,
        /// Those of the share that it holds.
        placed: Option<String>,
    },
    /// A file or directory could not be written or read.
    #[error("cannot {action} {}: {source}", path.display())]
    Storage {
        /// What was being done, such as "write".
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// Another rank's part of a checkpoint could not be had.
    #[error("rank {rank} has not written its part: {problem}")]
    Part {
        /// The rank.
        rank: usize,
        /// Why, in that rank's words.
        problem: String,
    },
    /// A checkpoint's file is absent, cut off or altered.
    #[error("checkpoint file {} {problem}; resume from another checkpoint", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// An intact checkpoint belongs to another run.
    #[error("checkpoint {} has {key} {found}, but this run has {expected}; resume with the settings it was written with", path.display())]
    Incompatible {
        /// The checkpoint's directory or file.
        path: PathBuf,
        /// What differs.
        key: &'static str,
        /// What the checkpoint has.
        found: String,
        /// What this run has.
        expected: String,
    },
    /// Another rank failed at something that all ranks do together.
    #[error("rank {rank} could not {action}; its own log says why")]
    Peer {
        /// The rank that failed.
        rank: usize,
        /// What it was doing.
        action: &'static str,
    },
}

/// What is wrong with a shard.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ShardProblem {
    /// A microbatch names a sequence that is not there.
    #[error("a microbatch names sequence {index}, but there are {count}")]
    IndexOutOfRange {
        /// The index.
        index: u32,
        /// How many sequences there are.
        count: usize,
    },
    /// The microbatches leave a sequence out or name it twice.
    #[error("sequence {index} is in {times} microbatches, but must be in one")]
    NotOnce {
        /// The sequence.
        index: usize,
        /// In how many microbatches it is.
        times: usize,
    },
    /// A sequence has no prompt or no completion.
    #[error(
        "the sequence of prompt row {row} has {num_tokens} tokens and a completion from {completion_start} on; both parts need a token"
    )]
    EmptyPart {
        /// Row of the prompt.
        row: RowId,
        /// Tokens of the sequence.
        num_tokens: usize,
        /// Where its completion starts.
        completion_start: u32,
    },
    /// A token id is not in the vocabulary.
    #[error(
        "the sequence of prompt row {row} has token {token_id}, but the vocabulary ends at {vocab_size}; prepare the data with this model's tokenizer"
    )]
    UnknownToken {
        /// Row of the prompt.
        row: RowId,
        /// The token.
        token_id: u32,
        /// Size of the vocabulary.
        vocab_size: i64,
    },
    /// The parts are not those that this rank does.
    #[error("it has the parts {found:?}, but this rank does {expected:?}")]
    WrongParts {
        /// The parts' numbers.
        found: Vec<u32>,
        /// What they have to be.
        expected: Range<u32>,
    },
    /// A rank has work in a step without examples.
    #[error("it has targets, but its global batch has no examples")]
    NoExamples,
}

impl TrainError {
    /// What the failure means for the run.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Load { source, .. } | Self::Model(source) => model_kind(source),
            Self::Vocabulary { .. } | Self::Incompatible { .. } => FailureKind::Configuration,
            Self::Libtorch(source) => libtorch_kind(source),
            Self::Exchange(_) | Self::Peer { .. } => FailureKind::PeerLost,
            Self::NotFinite(_) | Self::NotFiniteWeights { .. } => FailureKind::NotFinite,
            Self::Storage { .. } | Self::Part { .. } => FailureKind::Storage,
            Self::Damaged { .. } | Self::Drift(_) | Self::Unequal { .. } => FailureKind::Corrupt,
            Self::Tensor(_)
            | Self::Shard { .. }
            | Self::NoWorld
            | Self::Shared { .. }
            | Self::OutOfTurn { .. }
            | Self::NotPending { .. } => FailureKind::Internal,
        }
    }

    /// The exit code of a program that ends because of this failure.
    pub fn exit_code(&self) -> ExitCode {
        self.kind().exit_code()
    }

    /// Wraps the operating system's answer for a path.
    pub(crate) fn storage(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Storage { action, path, source }
    }

    /// A checkpoint file that is not what it should be.
    pub(crate) fn damaged(path: &Path, problem: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_owned(), problem: problem.into() }
    }
}

/// Passes a place at which a test may want something to happen.
pub(crate) fn failpoint(name: &'static str) -> Result<(), TrainError> {
    prospect_core::failpoint::hit(name).map_err(TrainError::storage("pass", Path::new(name)))
}

fn kind_name(kind: ShardKind) -> &'static str {
    match kind {
        ShardKind::Train => "training",
        ShardKind::Eval => "evaluation",
    }
}

fn pending_text(pending: Option<Step>) -> String {
    match pending {
        Some(step) => format!("the gradient that is ready is that of step {step}"),
        None => "no gradient is ready".to_owned(),
    }
}

fn model_kind(error: &ModelError) -> FailureKind {
    match error.class() {
        ErrorClass::Configuration => FailureKind::Configuration,
        ErrorClass::Corrupt => FailureKind::Corrupt,
        ErrorClass::Storage => FailureKind::Storage,
        ErrorClass::Internal => FailureKind::Internal,
    }
}

/// What a failed group, store or operation means for the run. What breaks a connection or runs
/// out of time is a peer that is gone.
pub fn libtorch_kind(error: &LibtorchError) -> FailureKind {
    match error {
        LibtorchError::Timeout { .. }
        | LibtorchError::ConnectionLost { .. }
        | LibtorchError::Aborted { .. } => FailureKind::PeerLost,
        LibtorchError::BackendUnavailable { .. } | LibtorchError::Listen { .. } => {
            FailureKind::Configuration
        }
        LibtorchError::Torch { .. }
        | LibtorchError::InvalidArgument { .. }
        | LibtorchError::Tch(_) => FailureKind::Internal,
    }
}
