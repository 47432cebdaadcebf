//! One step of training, exact at every world size: objective, block-wise forward and backward
//! passes over packed sequences, gradient reduction, optimizer and checkpoints. What a step holds
//! comes in as a shard; the reference point comes through [`ReferencePointExchange`]. This crate
//! knows no sockets, no runtime and no clock but the one that measures phases.

mod agreement;
mod align;
mod batch;
mod canonical;
mod chain;
mod checkpoint;
mod clock;
mod drift;
mod error;
mod evaluate;
mod examples;
mod exchange;
mod head;
mod not_finite;
mod objective;
mod optimizer;
mod parameters;
mod passes;
mod progress;
mod readback;
mod reduction;
mod reference;
mod scoring;
mod shard;
mod sharing;
mod step;
mod storage;
mod trainer;
mod tree;
mod world;

#[cfg(test)]
mod tests;

/// The libtorch seam, for those who make the process group of a [`Trainer`].
pub use prospect_libtorch as libtorch;
/// Models, for those who score or generate without training.
pub use prospect_model as model;

pub use batch::PackedBatch;
pub use checkpoint::{CheckpointManifestDigest, Snapshot};
pub use drift::Drift;
pub use error::{ShardProblem, TrainError, libtorch_kind};
pub use exchange::{ExchangeError, ReferencePointExchange};
pub use not_finite::{NotFinite, NotFiniteExample, NotFiniteGradient};
pub use objective::{
    ApoZeroUnpaired, BatchLogProbs, ExampleLogProbs, Kto, Objective, Term, objective,
};
pub use progress::Progress;
pub use prospect_core::FailureKind;
pub use scoring::score;
pub use trainer::Trainer;
