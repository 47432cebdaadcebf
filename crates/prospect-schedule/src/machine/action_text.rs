//! Actions as lines for logs and tests.

use std::fmt;

use prospect_core::{ReferencePoint, Restore, ShardKind, Step, WorkerId};

use super::{Action, Commit};

/// One line.
impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RefuseJoin { worker, kind, reason, .. } => {
                write!(f, "refuse join of {worker}{kind}: {reason}")
            }
            Self::RefuseSession { worker, kind, reason, .. } => {
                write!(f, "refuse session of {worker}{kind}: {reason}")
            }
            Self::Regroup { generation, committed, reason, to } => {
                write!(f, "regroup{}: generation {generation} after step {committed}", To(to))?;
                write!(f, ": {reason}")
            }
            Self::BeginGeneration { generation, world_size, committed, restore, members } => {
                write!(
                    f,
                    "begin generation {generation} of {world_size} after step {committed}, "
                )?;
                write!(f, "weights {}:", RestoreText(restore))?;
                members.iter().try_for_each(|(worker, incarnation, rank)| {
                    write!(f, " {rank}={worker}/{incarnation}")
                })
            }
            Self::Assign { worker, rank, world_size, restore } => {
                let restore = RestoreText(restore);
                write!(f, "assign {worker} rank {rank} of {world_size}, weights {restore}")
            }
            Self::AnnounceStore { host, port, prefix, to } => {
                write!(f, "announce store{} {host}:{port} prefix {prefix}", To(to))
            }
            Self::GenerationFormed { generation } => write!(f, "generation {generation} formed"),
            Self::SendShard { step, kind, eval_index, checkpoint_after, to } => {
                write!(f, "send shard{} {}", To(to), pass(*step, *kind, *eval_index))?;
                if *checkpoint_after { write!(f, ", checkpoint after") } else { Ok(()) }
            }
            Self::SendReferencePoint { step, kind, eval_index, point, to } => {
                let pass = pass(*step, *kind, *eval_index);
                write!(f, "send reference point{} {pass}: {}", To(to), PointText(point))
            }
            Self::CommitStep(commit) => write!(f, "commit step {commit}"),
            Self::SendCommit { step, to } => write!(f, "send commit{} of step {step}", To(to)),
            Self::CommitEval(commit) => write!(f, "commit evaluation after step {commit}"),
            Self::FindRestorePoint => write!(f, "find restore point"),
            Self::RollBack { step, attempt } => {
                write!(f, "roll back to step {step} for attempt {attempt}")
            }
            Self::PublishCheckpoint { step, path, .. } => {
                write!(f, "publish checkpoint of step {step} from {path}")
            }
            Self::PublishFinal { path } => write!(f, "publish trained model from {path}"),
            Self::CheckpointDurable { step, path, .. } => {
                write!(f, "checkpoint of step {step} is durable at {path}")
            }
            Self::SendFinish { path, to } => write!(f, "send finish{}: save {path}", To(to)),
            Self::SendStop { reason, num_retries, to } => {
                let again = if *num_retries > 0 { ", save again" } else { "" };
                write!(f, "send stop{}{again}: {reason}", To(to))
            }
            Self::SendAbort { reason, kind } => write!(f, "send abort ({kind}): {reason}"),
            Self::DismissWorker { worker, incarnation, reason, kind } => {
                write!(f, "dismiss {worker}/{incarnation}")?;
                kind.iter().try_for_each(|kind| write!(f, " ({kind})"))?;
                write!(f, ": {reason}")
            }
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

struct To<'a>(&'a Option<WorkerId>);

impl fmt::Display for To<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|worker| write!(f, " to {worker}"))
    }
}

struct PointText<'a>(&'a ReferencePoint);

impl fmt::Display for PointText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ReferencePoint { z0, raw, num_pairs, .. } = self.0;
        write!(f, "z0 {z0} (raw {raw}, {num_pairs} pairs)")
    }
}

pub(super) struct RestoreText<'a>(pub(super) &'a Restore);

impl fmt::Display for RestoreText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Restore::Initial => write!(f, "of the model"),
            Restore::Checkpoint { path } => write!(f, "from {path}"),
            Restore::Peer { rank } => write!(f, "from rank {rank}"),
            Restore::Kept => write!(f, "kept"),
        }
    }
}

/// A pass in words, for instance "of step 4" or "2 of the evaluation after step 4".
pub(super) fn pass(step: Step, kind: ShardKind, eval_index: u32) -> String {
    match kind {
        ShardKind::Train => format!("of step {step}"),
        ShardKind::Eval => format!("{eval_index} of the evaluation after step {step}"),
    }
}
