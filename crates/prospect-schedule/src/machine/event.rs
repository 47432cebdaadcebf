//! What happens to a run.

use prospect_core::{
    Generation, Incarnation, PartKlSums, Rank, ShardKind, Step, StepPhase, StepReport, Weights,
    WorkerId,
};
use serde::{Deserialize, Serialize};

use super::{FailureKind, ResumePoint};

/// Something that happened. Events may arrive twice or late; the machine then
/// does nothing again, and says so where it matters. A generation in an event is
/// the one that the sender believes in: what belongs to an earlier one changes
/// nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A worker asks to take part, or comes back. It is accepted unless the
    /// machine answers with a refusal.
    WorkerJoined {
        /// Its name.
        worker: WorkerId,
        /// Which process of that name.
        incarnation: Incarnation,
        /// Rank that its environment gives it.
        preferred_rank: Option<Rank>,
    },
    /// A worker's session stands. A worker that comes back says next, again, whatever may not
    /// have been heard: that it stands or is ready, all reports of steps that are not committed
    /// (sums and step reports both), files that were written and are not durable.
    SessionOpened {
        /// The worker.
        worker: WorkerId,
        /// Which process of that name.
        incarnation: Incarnation,
        /// The generation that it believes in.
        generation: Generation,
        /// Its weights, where it has done steps of this run or taken them over.
        weights: Option<Weights>,
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
    /// A worker has a model in memory.
    Loaded {
        /// The worker.
        worker: WorkerId,
        /// Digest of the model directory that it loaded.
        model_digest: String,
    },
    /// Rank 0's store listens.
    StoreReady {
        /// The worker that it belongs to.
        worker: WorkerId,
        /// The worker's generation.
        generation: Generation,
        /// Its host.
        host: String,
        /// Its port.
        port: u16,
    },
    /// A worker has left its peers and stands by, as it was told to.
    Standing {
        /// The worker.
        worker: WorkerId,
        /// The generation that it was told.
        generation: Generation,
        /// Step that its weights are the result of, 0 where it has none.
        step: Step,
    },
    /// A worker has met its peers and has the weights that the world begins with.
    Ready {
        /// The worker.
        worker: WorkerId,
        /// The worker's generation.
        generation: Generation,
        /// Step that its weights are the result of.
        step: Step,
    },
    /// One worker's sums over the mismatched pairs of a pass.
    KlReport {
        /// The worker.
        worker: WorkerId,
        /// The worker's generation.
        generation: Generation,
        /// The step.
        step: Step,
        /// Training or evaluation.
        kind: ShardKind,
        /// Number of the evaluation shard; 0 in training.
        eval_index: u32,
        /// The sums of all parts of its rank, ascending.
        parts: Vec<PartKlSums>,
    },
    /// One worker has done a pass; of a training step, the weights have not moved yet.
    StepReport {
        /// The worker.
        worker: WorkerId,
        /// The worker's generation.
        generation: Generation,
        /// What it did. The rank in it is filled in by the machine.
        report: StepReport,
    },
    /// A worker has written a checkpoint, complete and durable, beside its place.
    CheckpointWritten {
        /// The worker.
        worker: WorkerId,
        /// Step after which it was taken.
        step: Step,
        /// The staged directory, relative to the run directory.
        path: String,
        /// SHA-256 of its manifest.
        manifest_sha256: String,
    },
    /// A worker could not write a checkpoint; its weights are unharmed.
    CheckpointFailed {
        /// The worker.
        worker: WorkerId,
        /// Step after which it was to be taken.
        step: Step,
        /// Number of the order by which it was begun, as in [`Action::SendStop`](super::Action);
        /// 0 while the run goes on.
        num_retries: u32,
        /// What happened, in words.
        message: String,
    },
    /// Rank 0 has written the trained model, complete and durable, beside its place.
    FinalWritten {
        /// The worker.
        worker: WorkerId,
        /// The worker's generation.
        generation: Generation,
        /// The staged directory, relative to the run directory.
        path: String,
    },
    /// A worker cannot go on. Of the kind `PeerLost`: its collectives failed and it stands still
    /// until the world is formed again.
    Failure {
        /// The worker.
        worker: WorkerId,
        /// The worker's generation.
        generation: Generation,
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
        /// What it is doing there.
        phase: StepPhase,
        /// A number that grows with every piece of work that is done.
        progress: u64,
    },
    /// Time has passed. To be given a few times a second.
    Tick,
    /// Someone asks the run to stop with a checkpoint.
    StopRequested {
        /// Why, in words.
        reason: String,
    },
    /// The answer to `PublishCheckpoint`: it lies in its place, and that is durable.
    CheckpointPublished {
        /// Step after which it was taken.
        step: Step,
        /// Its directory, relative to the run directory.
        path: String,
        /// SHA-256 of its manifest.
        manifest_sha256: String,
    },
    /// The other answer to `PublishCheckpoint`.
    CheckpointRejected {
        /// Step after which it was taken.
        step: Step,
        /// Why, in words.
        reason: String,
    },
    /// The answer to `PublishFinal`: it lies in its place, and that is durable.
    FinalPublished {
        /// Its directory, relative to the run directory.
        path: String,
    },
    /// The other answer to `PublishFinal`.
    FinalRejected {
        /// Why, in words.
        reason: String,
    },
    /// The answer to `FindRestorePoint`.
    RestorePoint {
        /// The newest intact checkpoint of a step on record, if there is any.
        point: Option<ResumePoint>,
    },
}
