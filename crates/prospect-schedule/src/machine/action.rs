//! What the coordinator's shell is to do.

use prospect_core::{
    Generation, Incarnation, Rank, ReferencePoint, Restore, ShardKind, Step, WorkerId,
};

use super::{Commit, FailureKind, Phase, RefusalKind};

/// One thing to do. "All" are the workers whose sessions stand; where `to` names a worker, only
/// that one is told, because it has come back and may have missed it.
///
/// Actions are carried out in order. The generation on the envelope of a message is the one of
/// the last `Regroup` or `BeginGeneration` that was carried out before it.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Answer a join with a refusal.
    RefuseJoin {
        /// The worker that asked.
        worker: WorkerId,
        /// Which process of that name.
        incarnation: Incarnation,
        /// Whether it may try again.
        kind: RefusalKind,
        /// Why, and what to do.
        reason: String,
    },
    /// End a session that must not stand.
    RefuseSession {
        /// The worker that opened it.
        worker: WorkerId,
        /// Which process of that name.
        incarnation: Incarnation,
        /// Whether it may try again.
        kind: RefusalKind,
        /// Why, and what to do.
        reason: String,
    },
    /// Put on record, durably, that a new generation begins to gather (unless `to` names a
    /// worker: then it is on record); then tell all to leave their peers, keep their weights and
    /// say where they stand.
    Regroup {
        /// The new generation.
        generation: Generation,
        /// Last step that is committed.
        committed: Step,
        /// Why, in words.
        reason: String,
        /// The worker that is told, all where absent.
        to: Option<WorkerId>,
    },
    /// Put on record, durably, who makes up the generation and where its weights come from.
    BeginGeneration {
        /// The generation.
        generation: Generation,
        /// Number of ranks.
        world_size: u32,
        /// Last step that is committed.
        committed: Step,
        /// Where its weights come from.
        restore: Restore,
        /// Its workers, by rank.
        members: Vec<(WorkerId, Incarnation, Rank)>,
    },
    /// Tell a worker its place. One that is told the same again says again what it said to it.
    Assign {
        /// The worker.
        worker: WorkerId,
        /// Its rank.
        rank: Rank,
        /// Number of ranks.
        world_size: u32,
        /// Where its weights come from.
        restore: Restore,
    },
    /// Tell the workers of the world where they meet.
    AnnounceStore {
        /// Host of rank 0's store.
        host: String,
        /// Its port.
        port: u16,
        /// Prefix of this generation's keys.
        prefix: String,
        /// The worker that is told, all where absent.
        to: Option<WorkerId>,
    },
    /// Put on record that all ranks of the generation are ready.
    GenerationFormed {
        /// The generation.
        generation: Generation,
    },
    /// Plan a pass and send every rank its shard.
    SendShard {
        /// The step; of an evaluation, the step after which it is done.
        step: Step,
        /// Training or evaluation.
        kind: ShardKind,
        /// Number of the evaluation shard; 0 in training.
        eval_index: u32,
        /// Whether a checkpoint is to be saved after the step.
        checkpoint_after: bool,
        /// The worker whose shard is sent again, all where absent.
        to: Option<WorkerId>,
    },
    /// Send the reference point of a pass.
    SendReferencePoint {
        /// The step.
        step: Step,
        /// Training or evaluation.
        kind: ShardKind,
        /// Number of the evaluation shard; 0 in training.
        eval_index: u32,
        /// The point.
        point: ReferencePoint,
        /// The worker that is told, all where absent.
        to: Option<WorkerId>,
    },
    /// Put a step on record: all ranks have done it. Once for each step of an attempt, in order,
    /// and before any `SendCommit` of it.
    CommitStep(Commit),
    /// Tell the workers of the world that the step counts.
    SendCommit {
        /// The step.
        step: Step,
        /// The worker that is told, all where absent.
        to: Option<WorkerId>,
    },
    /// Put an evaluation on record: all ranks have done all its shards.
    CommitEval(Commit),
    /// Look for the newest intact checkpoint of a step on record; answer with `RestorePoint`.
    FindRestorePoint,
    /// Cut the records to the step and put the new attempt on record, durably.
    RollBack {
        /// Last step that stays.
        step: Step,
        /// Number of the attempt that begins.
        attempt: u64,
    },
    /// Verify a staged checkpoint and move it to its place; answer with `CheckpointPublished` or
    /// `CheckpointRejected`.
    PublishCheckpoint {
        /// Step after which it was taken.
        step: Step,
        /// The staged directory, relative to the run directory.
        path: String,
        /// SHA-256 of its manifest.
        manifest_sha256: String,
    },
    /// Verify the staged trained model and move it to its place; answer with `FinalPublished` or
    /// `FinalRejected`.
    PublishFinal {
        /// The staged directory, relative to the run directory.
        path: String,
    },
    /// Put a checkpoint on record, durably, and tell all. Its step is committed.
    CheckpointDurable {
        /// Step after which it was taken.
        step: Step,
        /// Its directory, relative to the run directory.
        path: String,
        /// SHA-256 of its manifest.
        manifest_sha256: String,
    },
    /// Tell the workers of the world to save the trained model. One that has written it in this
    /// generation says so again: what it wrote must stay until it is in its place.
    SendFinish {
        /// Directory for it, relative to the run directory.
        path: String,
        /// The worker that is told, all where absent.
        to: Option<WorkerId>,
    },
    /// Tell the workers of the world to save a checkpoint after the last step that they were
    /// sent, and to leave; others just leave.
    SendStop {
        /// Why.
        reason: String,
        /// How often the checkpoint was ordered again after it had failed.
        num_retries: u32,
        /// The worker that is told, all where absent.
        to: Option<WorkerId>,
    },
    /// Tell all that the run has ended for them.
    SendAbort {
        /// Why, and what to do.
        reason: String,
        /// Kind of failure.
        kind: FailureKind,
    },
    /// Tell one worker that the run has ended for it, and end its session.
    DismissWorker {
        /// The worker.
        worker: WorkerId,
        /// Which process of that name.
        incarnation: Incarnation,
        /// Why.
        reason: String,
        /// Kind of failure that it is told of; absent where it goes in good order.
        kind: Option<FailureKind>,
    },
    /// Tell all that everything is done: they leave and close their sessions. Their time for
    /// that is the shell's to give.
    SendClose,
    /// Show the new phase.
    PhaseChanged {
        /// The phase.
        phase: Phase,
        /// Why.
        reason: String,
    },
    /// Add to the list of what happened.
    Event {
        /// One lower-case word.
        kind: &'static str,
        /// Step that it belongs to, 0 for none.
        step: Step,
        /// What happened, in words.
        message: String,
    },
}
