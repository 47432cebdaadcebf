//! One step of training, exact at every world size: objective, block-wise forward and backward
//! passes over packed sequences, gradient reduction, optimizer and checkpoints. What a step holds
//! comes in as a shard; the reference point comes through [`ReferencePointExchange`]. This crate
//! knows no sockets, no runtime and no clock but the one that measures phases.

mod batch;
mod chain;
mod checkpoint;
mod error;
mod examples;
mod exchange;
mod flops;
mod head;
mod objective;
mod optimizer;
mod parameters;
mod reduction;
mod reference;
mod scoring;
mod shard;
mod step;
mod storage;
mod trainer;

#[cfg(test)]
mod tests;

/// The libtorch seam, for those who make the process group of a [`Trainer`].
pub use prospect_libtorch as libtorch;
/// Models, for those who score or generate without training.
pub use prospect_model as model;

pub use batch::PackedBatch;
pub use checkpoint::CheckpointManifestDigest;
pub use error::{NotFinite, NotFiniteExample, ShardProblem, TrainError, libtorch_kind};
pub use exchange::{ExchangeError, ReferencePointExchange};
pub use objective::{ApoZeroUnpaired, ExampleLogProbs, Kto, Objective, Term, objective};
pub use prospect_core::FailureKind;
pub use scoring::score;
pub use trainer::Trainer;
