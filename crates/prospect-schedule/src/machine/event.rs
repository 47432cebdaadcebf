//! What happens to a run.

use prospect_core::{Incarnation, KlSums, Rank, ShardKind, Step, StepReport, WorkerId};
use serde::{Deserialize, Serialize};

use super::FailureKind;

/// Something that happened. Events may arrive twice or late; the machine then
/// does nothing again, and says so where it matters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A worker asks to take part. It is accepted unless the machine answers
    /// with a refusal.
    WorkerJoined {
        /// Its name.
        worker: WorkerId,
        /// Which process of that name.
        incarnation: Incarnation,
        /// Rank that its environment gives it.
        preferred_rank: Option<Rank>,
    },
    /// A worker's session stands.
    SessionOpened {
        /// The worker.
        worker: WorkerId,
        /// Which process of that name.
        incarnation: Incarnation,
    },
    /// A worker's session has ended.
    SessionClosed {
        /// The worker.
        worker: WorkerId,
        /// Which process of that name.
        incarnation: Incarnation,
        /// How it ended, in words.
        cause: String,
    },
    /// Rank 0's store listens.
    StoreReady {
        /// The worker that it belongs to.
        worker: WorkerId,
        /// Its host.
        host: String,
        /// Its port.
        port: u16,
    },
    /// A worker has loaded the model and found its peers.
    Ready {
        /// The worker.
        worker: WorkerId,
        /// Digest of the model directory that it loaded.
        model_digest: String,
        /// Step of the checkpoint that it loaded, 0 for none.
        resumed_step: Step,
    },
    /// One rank's sums over the mismatched pairs of a pass.
    KlReport {
        /// The rank.
        rank: Rank,
        /// The step.
        step: Step,
        /// Training or evaluation.
        kind: ShardKind,
        /// Number of the evaluation shard; 0 in training.
        eval_index: u32,
        /// The sums.
        sums: KlSums,
    },
    /// One rank has done a pass.
    StepReport(StepReport),
    /// Rank 0 has written a checkpoint that is complete and durable.
    CheckpointSaved {
        /// Step after which it was taken.
        step: Step,
        /// Its directory, relative to the run directory.
        path: String,
        /// SHA-256 of its manifest.
        manifest_sha256: String,
    },
    /// Rank 0 has written the trained model, complete and durable.
    FinalSaved {
        /// Its directory, relative to the run directory.
        path: String,
    },
    /// A worker cannot go on.
    Failure {
        /// The worker.
        worker: WorkerId,
        /// Step at which it happened, 0 before the first.
        step: Step,
        /// What happened, in words.
        message: String,
        /// Kind of failure.
        kind: FailureKind,
    },
    /// A worker wants to go away in good order, or does so after a stop.
    Leave {
        /// The worker.
        worker: WorkerId,
        /// Why, in words.
        reason: String,
    },
    /// A sign of life.
    Heartbeat {
        /// The worker.
        worker: WorkerId,
        /// Step that it is working on.
        step: Step,
    },
    /// Time has passed. To be given a few times a second.
    Tick,
    /// Someone asks the run to stop with a checkpoint.
    StopRequested {
        /// Why, in words.
        reason: String,
    },
}
