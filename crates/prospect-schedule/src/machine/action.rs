//! What the coordinator's shell is to do.

use std::fmt;

use prospect_core::{
    Incarnation, PhaseSeconds, Rank, ReferencePoint, ReferenceValue, ShardKind, Step, StepSums,
    WorkerId,
};

use super::{FailureKind, Phase, RefusalKind};

/// One thing to do. "All" are the workers whose sessions stand.
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
    /// Tell a worker its place.
    Assign {
        /// The worker.
        worker: WorkerId,
        /// Its rank.
        rank: Rank,
        /// Number of ranks.
        world_size: u32,
        /// Checkpoint to load, relative to the run directory.
        resume_path: Option<String>,
    },
    /// Tell all where they meet.
    AnnounceStore {
        /// Host of rank 0's store.
        host: String,
        /// Its port.
        port: u16,
        /// Prefix of this generation's keys.
        prefix: String,
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
    },
    /// Send the reference point of a pass to all.
    SendReferencePoint {
        /// The step.
        step: Step,
        /// Training or evaluation.
        kind: ShardKind,
        /// Number of the evaluation shard; 0 in training.
        eval_index: u32,
        /// The point.
        point: ReferencePoint,
    },
    /// Put a step on record: all ranks have done it. Once for each step, in order.
    CommitStep(Commit),
    /// Put an evaluation on record: all ranks have done all its shards.
    CommitEval(Commit),
    /// Put a checkpoint on record. Its step is committed.
    CheckpointDurable {
        /// Step after which it was taken.
        step: Step,
        /// Its directory, relative to the run directory.
        path: String,
        /// SHA-256 of its manifest.
        manifest_sha256: String,
    },
    /// Tell all to save the trained model.
    SendFinish {
        /// Directory for it, relative to the run directory.
        path: String,
    },
    /// Tell all to save a checkpoint after the last step that they were sent, and to leave.
    SendStop {
        /// Why.
        reason: String,
    },
    /// Tell all that the run has ended for them.
    SendAbort {
        /// Why, and what to do.
        reason: String,
        /// Kind of failure.
        kind: FailureKind,
    },
    /// Tell all that everything is done.
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

/// What all ranks together did in a step or an evaluation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Commit {
    /// The step; of an evaluation, the step after which it was done.
    pub step: Step,
    /// Sums over all ranks, added in the order of ranks (and of shards).
    pub sums: StepSums,
    /// Norm of the global gradient before clipping; 0 in evaluation.
    pub grad_norm: f64,
    /// Reference point of the step. Of an evaluation: over the pairs of all its
    /// shards together, for the record; each shard was measured against its own.
    pub point: ReferencePoint,
    /// Seconds in each phase, of the slowest rank in that phase (added over shards).
    pub phase_seconds: PhaseSeconds,
    /// Highest memory use of any rank.
    pub peak_memory_bytes: u64,
    /// Reference values that were computed, to be kept with this step; in
    /// evaluation their rows are those of the evaluation data.
    pub reference_values: Vec<ReferenceValue>,
}

/// One line for logs and tests.
impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RefuseJoin { worker, kind, reason, .. } => {
                write!(f, "refuse join of {worker}{kind}: {reason}")
            }
            Self::RefuseSession { worker, kind, reason, .. } => {
                write!(f, "refuse session of {worker}{kind}: {reason}")
            }
            Self::Assign { worker, rank, world_size, resume_path } => {
                write!(f, "assign {worker} rank {rank} of {world_size}")?;
                resume_path.iter().try_for_each(|path| write!(f, ", resume from {path}"))
            }
            Self::AnnounceStore { host, port, prefix } => {
                write!(f, "announce store {host}:{port} prefix {prefix}")
            }
            Self::SendShard { step, kind, eval_index, checkpoint_after } => {
                write!(f, "send shard {}", pass(*step, *kind, *eval_index))?;
                if *checkpoint_after { write!(f, ", checkpoint after") } else { Ok(()) }
            }
            Self::SendReferencePoint { step, kind, eval_index, point } => {
                let pass = pass(*step, *kind, *eval_index);
                write!(f, "send reference point {pass}: {point}", point = PointText(point))
            }
            Self::CommitStep(commit) => write!(f, "commit step {commit}"),
            Self::CommitEval(commit) => write!(f, "commit evaluation after step {commit}"),
            Self::CheckpointDurable { step, path, .. } => {
                write!(f, "checkpoint of step {step} is durable at {path}")
            }
            Self::SendFinish { path } => write!(f, "send finish: save {path}"),
            Self::SendStop { reason } => write!(f, "send stop: {reason}"),
            Self::SendAbort { reason, kind } => write!(f, "send abort ({kind}): {reason}"),
            Self::SendClose => write!(f, "send close"),
            Self::PhaseChanged { phase, reason } => write!(f, "phase {phase}: {reason}"),
            Self::Event { kind, message, .. } => write!(f, "event {kind}: {message}"),
        }
    }
}

impl fmt::Display for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { step, sums, grad_norm, point, reference_values, .. } = self;
        let examples = sums.num_examples();
        write!(f, "{step}: loss sum {} over {examples}, grad norm {grad_norm}, ", sums.loss)?;
        write!(f, "{}, {} reference values", PointText(point), reference_values.len())
    }
}

struct PointText<'a>(&'a ReferencePoint);

impl fmt::Display for PointText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ReferencePoint { z0, raw, num_pairs, .. } = self.0;
        write!(f, "z0 {z0} (raw {raw}, {num_pairs} pairs)")
    }
}

/// A pass in words, for instance "of step 4" or "2 of the evaluation after step 4".
pub(super) fn pass(step: Step, kind: ShardKind, eval_index: u32) -> String {
    match kind {
        ShardKind::Train => format!("of step {step}"),
        ShardKind::Eval => format!("{eval_index} of the evaluation after step {step}"),
    }
}
