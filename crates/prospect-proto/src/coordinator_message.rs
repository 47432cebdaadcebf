//! What the coordinator says in a session.

use prospect_core::{Generation, Rank, ReferencePoint, Restore, Shard, ShardKind, Step};

use crate::error::{require, require_finite};
use crate::failure_kind::parse_failure_kind;
use crate::report::require_step;
use crate::shard::parse_kind;
use crate::v1::session_response::Message;
use crate::{FailureKind, MessageError, v1};

/// A message with the generation that it belongs to.
#[derive(Clone, Debug, PartialEq)]
pub struct ToWorker {
    /// The generation.
    pub generation: Generation,
    /// What is said.
    pub message: CoordinatorMessage,
}

/// One thing that the coordinator says to a worker.
#[derive(Clone, Debug, PartialEq)]
pub enum CoordinatorMessage {
    /// The worker's place in the world.
    Assignment {
        /// Its rank.
        rank: Rank,
        /// Number of ranks.
        world_size: u32,
        /// Where its weights come from.
        restore: Restore,
    },
    /// Where the peers meet.
    Rendezvous {
        /// Host of rank 0's store.
        host: String,
        /// Its port.
        port: u16,
        /// Prefix of this generation's keys.
        prefix: String,
    },
    /// Work of one rank for one step.
    Shard(Box<Shard>),
    /// The reference point of a step.
    ReferencePoint {
        /// Step that it belongs to.
        step: Step,
        /// Training or evaluation.
        kind: ShardKind,
        /// Number of the evaluation shard; 0 in training.
        eval_index: u32,
        /// The point.
        point: ReferencePoint,
    },
    /// The step is on record: move the weights by it.
    Commit {
        /// The step.
        step: Step,
    },
    /// Give up the collectives, keep the weights and stand by for the generation that the
    /// message carries. A gradient whose step is committed is applied, another one dropped.
    Regroup {
        /// Last step that is committed.
        committed: Step,
        /// Why.
        reason: String,
    },
    /// A checkpoint is in its place.
    CheckpointDurable {
        /// Its step.
        step: Step,
    },
    /// Save the trained model.
    Finish {
        /// Directory for it, relative to the run directory.
        path: String,
    },
    /// Save a checkpoint after the last step that was sent, then leave.
    Stop {
        /// Why.
        reason: String,
        /// How often that checkpoint was ordered again after it had failed.
        num_retries: u32,
    },
    /// The run has ended for this worker.
    Abort {
        /// Why.
        reason: String,
        /// Kind of failure.
        kind: FailureKind,
    },
    /// Everything is done; close the session.
    Close,
}

impl From<ToWorker> for v1::SessionResponse {
    fn from(to: ToWorker) -> Self {
        Self { generation: to.generation.0, message: Some(to.message.into()) }
    }
}

impl TryFrom<v1::SessionResponse> for ToWorker {
    type Error = MessageError;

    fn try_from(response: v1::SessionResponse) -> Result<Self, MessageError> {
        let message = response.message.ok_or_else(|| MessageError::missing("message"))?;
        Ok(Self { generation: Generation(response.generation), message: message.try_into()? })
    }
}

impl From<CoordinatorMessage> for Message {
    fn from(message: CoordinatorMessage) -> Self {
        match message {
            CoordinatorMessage::Assignment { rank, world_size, restore } => {
                let restore = Some(restore.into());
                Self::Assignment(v1::Assignment { rank: rank.0, world_size, restore })
            }
            CoordinatorMessage::Rendezvous { host, port, prefix } => {
                Self::Rendezvous(v1::Rendezvous { host, port: port.into(), prefix })
            }
            CoordinatorMessage::Shard(shard) => Self::Shard((*shard).into()),
            CoordinatorMessage::ReferencePoint { step, kind, eval_index, point } => {
                Self::ReferencePoint(v1::ReferencePoint {
                    step: step.0,
                    kind: v1::ShardKind::from(kind).into(),
                    z0: point.z0,
                    raw: point.raw,
                    standard_error: point.standard_error,
                    num_pairs: point.num_pairs,
                    eval_index,
                })
            }
            CoordinatorMessage::Commit { step } => Self::Commit(v1::Commit { step: step.0 }),
            CoordinatorMessage::Regroup { committed, reason } => {
                Self::Regroup(v1::Regroup { committed_step: committed.0, reason })
            }
            CoordinatorMessage::CheckpointDurable { step } => {
                Self::CheckpointDurable(v1::CheckpointDurable { step: step.0 })
            }
            CoordinatorMessage::Finish { path } => Self::Finish(v1::Finish { path }),
            CoordinatorMessage::Stop { reason, num_retries } => {
                Self::Stop(v1::Stop { reason, num_retries })
            }
            CoordinatorMessage::Abort { reason, kind } => {
                Self::Abort(v1::Abort { reason, kind: v1::FailureKind::from(kind).into() })
            }
            CoordinatorMessage::Close => Self::Close(v1::Close {}),
        }
    }
}

impl TryFrom<Message> for CoordinatorMessage {
    type Error = MessageError;

    fn try_from(message: Message) -> Result<Self, MessageError> {
        let within = |outer: &'static str| move |error: MessageError| error.within(outer);
        Ok(match message {
            Message::Assignment(place) => assignment(place).map_err(within("assignment"))?,
            Message::Rendezvous(place) => rendezvous(place).map_err(within("rendezvous"))?,
            Message::Shard(shard) => {
                Self::Shard(Box::new(shard.try_into().map_err(within("shard"))?))
            }
            Message::ReferencePoint(point) => {
                reference_point(&point).map_err(within("reference_point"))?
            }
            Message::Commit(commit) => {
                require(commit.step > 0, "commit.step", || "it is 0".to_owned())?;
                Self::Commit { step: Step(commit.step) }
            }
            Message::Regroup(regroup) => {
                Self::Regroup { committed: Step(regroup.committed_step), reason: regroup.reason }
            }
            Message::CheckpointDurable(durable) => {
                Self::CheckpointDurable { step: Step(durable.step) }
            }
            Message::Finish(finish) => Self::Finish { path: finish.path },
            Message::Stop(stop) => {
                Self::Stop { reason: stop.reason, num_retries: stop.num_retries }
            }
            Message::Abort(abort) => Self::Abort {
                kind: parse_failure_kind(abort.kind, "abort.kind")?,
                reason: abort.reason,
            },
            Message::Close(v1::Close {}) => Self::Close,
        })
    }
}

fn assignment(place: v1::Assignment) -> Result<CoordinatorMessage, MessageError> {
    let v1::Assignment { rank, world_size, restore } = place;
    require(rank < world_size, "rank", || format!("{rank} is not in a world of {world_size}"))?;
    Ok(CoordinatorMessage::Assignment {
        rank: Rank(rank),
        world_size,
        restore: parse_restore(restore, world_size)?,
    })
}

fn parse_restore(
    restore: Option<v1::assignment::Restore>,
    world_size: u32,
) -> Result<Restore, MessageError> {
    use v1::assignment::Restore as Wire;
    Ok(match restore.ok_or_else(|| MessageError::missing("restore"))? {
        Wire::Initial(v1::RestoreInitial {}) => Restore::Initial,
        Wire::Checkpoint(path) => {
            require(!path.is_empty(), "checkpoint", || "it is empty".to_owned())?;
            Restore::Checkpoint { path }
        }
        Wire::Peer(rank) => {
            require(rank < world_size, "peer", || {
                format!("{rank} is not in a world of {world_size}")
            })?;
            Restore::Peer { rank: Rank(rank) }
        }
        Wire::Kept(v1::RestoreKept {}) => Restore::Kept,
    })
}

impl From<Restore> for v1::assignment::Restore {
    fn from(restore: Restore) -> Self {
        match restore {
            Restore::Initial => Self::Initial(v1::RestoreInitial {}),
            Restore::Checkpoint { path } => Self::Checkpoint(path),
            Restore::Peer { rank } => Self::Peer(rank.0),
            Restore::Kept => Self::Kept(v1::RestoreKept {}),
        }
    }
}

fn rendezvous(place: v1::Rendezvous) -> Result<CoordinatorMessage, MessageError> {
    let v1::Rendezvous { host, port, prefix } = place;
    require(!host.is_empty(), "host", || "it is empty".to_owned())?;
    let number = u16::try_from(port).ok().filter(|&number| number > 0);
    let port =
        number.ok_or_else(|| MessageError::new("port", format!("{port} is not 1 to 65535")))?;
    Ok(CoordinatorMessage::Rendezvous { host, port, prefix })
}

fn reference_point(point: &v1::ReferencePoint) -> Result<CoordinatorMessage, MessageError> {
    let kind = parse_kind(point.kind, "kind")?;
    require_step(point.step, kind)?;
    require_finite(point.z0, "z0")?;
    require(point.z0 >= 0.0, "z0", || format!("{} is below 0", point.z0))?;
    require_finite(point.raw, "raw")?;
    require_finite(point.standard_error, "standard_error")?;
    Ok(CoordinatorMessage::ReferencePoint {
        step: Step(point.step),
        kind,
        eval_index: point.eval_index,
        point: ReferencePoint {
            z0: point.z0,
            raw: point.raw,
            standard_error: point.standard_error,
            num_pairs: point.num_pairs,
        },
    })
}
