//! The protocol between coordinator, workers and readers of the status:
//! generated messages and services, the domain types that they become, and the
//! one table from refusals to gRPC codes. No decisions are made here.

mod coordinator_message;
mod error;
mod failure_kind;
mod refusal;
mod report;
mod shard;
mod status;
mod step_phase;
#[cfg(test)]
mod tests;
mod time;
mod worker_message;

pub use coordinator_message::{CoordinatorMessage, ToWorker};
pub use error::MessageError;
pub use prospect_core::{
    FailureKind, Phase, RefusalKind, Restore, StepPhase, Weights, WorkerState,
};
pub use refusal::Refusal;
pub use status::{Event, MetricPoint, RunStatus, WorkerStatus};
pub use worker_message::{FromWorker, WorkerMessage};

/// Generated messages, clients and servers of package `prospect.v1`.
#[allow(missing_docs, clippy::all, clippy::pedantic, clippy::unwrap_used)]
pub mod v1 {
    tonic::include_proto!("prospect.v1");
}

/// The compiled protocol, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/prospect_descriptor.bin"));

/// Largest message that either side accepts, in bytes. Shards carry tokens, so
/// tonic's default of 4 MiB is too small.
pub const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// Largest message that the status service accepts, in bytes: its requests hold
/// a few numbers.
pub const MAX_STATUS_REQUEST_BYTES: usize = 256 << 10;
