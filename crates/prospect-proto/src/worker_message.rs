//! What a worker says in a session.

use prospect_core::{
    Generation, Incarnation, PartKlSums, ShardKind, Step, StepPhase, StepReport, Weights, WorkerId,
};

use crate::error::require;
use crate::failure_kind::parse_failure_kind;
use crate::report::{part_list, require_step};
use crate::shard::parse_kind;
use crate::step_phase::parse_step_phase;
use crate::v1::session_request::Message;
use crate::{FailureKind, MessageError, v1};

/// A message with its sender.
#[derive(Clone, Debug, PartialEq)]
pub struct FromWorker {
    /// The sender.
    pub worker: WorkerId,
    /// Which process of that name.
    pub incarnation: Incarnation,
    /// The generation that the sender believes in.
    pub generation: Generation,
    /// What it says.
    pub message: WorkerMessage,
}

/// One thing that a worker says.
#[derive(Clone, Debug, PartialEq)]
pub enum WorkerMessage {
    /// First message of a session.
    Hello {
        /// What it has in memory, where it has done steps of the run.
        weights: Option<Weights>,
    },
    /// Sign of life.
    Heartbeat {
        /// Step being worked on, 0 before the first.
        step: Step,
        /// What is being done there.
        phase: StepPhase,
        /// Grows with every piece of work that is done.
        progress: u64,
    },
    /// The model is in memory.
    Loaded {
        /// Digest of the model directory that was loaded.
        model_digest: String,
        /// Parameters of the policy.
        num_parameters: u64,
        /// Dense peak rate of the device, where it is known.
        peak_flops_per_second: Option<f64>,
    },
    /// Rank 0's store listens.
    StoreReady {
        /// Host of the store.
        host: String,
        /// Port of the store.
        port: u16,
    },
    /// It has left its peers and stands by.
    Standing {
        /// Step that its weights are the result of.
        step: Step,
    },
    /// It has met its peers and has the weights that the world begins with.
    Ready {
        /// Step that the weights are the result of.
        step: Step,
    },
    /// A rank's part of the KL estimate.
    KlReport {
        /// Step that the sums belong to.
        step: Step,
        /// Training or evaluation.
        kind: ShardKind,
        /// Number of the evaluation shard; 0 in training.
        eval_index: u32,
        /// The sums of the rank's parts, ascending; they may be infinite or no numbers.
        parts: Vec<PartKlSums>,
    },
    /// A step is done. The rank is the receiver's to fill in.
    StepReport(StepReport),
    /// A checkpoint lies complete and durable beside its place.
    CheckpointWritten {
        /// Step after which it was taken.
        step: Step,
        /// The directory that was written, relative to the run directory.
        path: String,
        /// SHA-256 of its manifest.
        manifest_sha256: String,
    },
    /// A checkpoint could not be written.
    CheckpointFailed {
        /// Step after which it was to be taken.
        step: Step,
        /// Number of the order by which it was begun, as in [`Stop`](crate::CoordinatorMessage::Stop);
        /// 0 while the run goes on.
        num_retries: u32,
        /// What happened.
        message: String,
    },
    /// The trained model lies complete and durable beside its place.
    FinalWritten {
        /// The directory that was written, relative to the run directory.
        path: String,
    },
    /// The worker cannot go on.
    Failure {
        /// Step at which it happened, 0 before the first.
        step: Step,
        /// What happened.
        message: String,
        /// Kind of failure.
        kind: FailureKind,
    },
    /// The worker goes away in good order.
    Leave {
        /// Why.
        reason: String,
    },
}

impl From<FromWorker> for v1::SessionRequest {
    fn from(from: FromWorker) -> Self {
        Self {
            worker_id: from.worker.0,
            incarnation: from.incarnation.0,
            generation: from.generation.0,
            message: Some(from.message.into()),
        }
    }
}

impl TryFrom<v1::SessionRequest> for FromWorker {
    type Error = MessageError;

    fn try_from(request: v1::SessionRequest) -> Result<Self, MessageError> {
        require(!request.worker_id.is_empty(), "worker_id", || "it is empty".to_owned())?;
        let message = request.message.ok_or_else(|| MessageError::missing("message"))?;
        Ok(Self {
            worker: WorkerId(request.worker_id),
            incarnation: Incarnation(request.incarnation),
            generation: Generation(request.generation),
            message: message.try_into()?,
        })
    }
}

impl From<WorkerMessage> for Message {
    fn from(message: WorkerMessage) -> Self {
        match message {
            WorkerMessage::Hello { weights } => {
                Self::Hello(v1::Hello { weights: weights.map(Into::into) })
            }
            WorkerMessage::Heartbeat { step, phase, progress } => {
                let phase = v1::StepPhase::from(phase).into();
                Self::Heartbeat(v1::Heartbeat { step: step.0, phase, progress })
            }
            WorkerMessage::Loaded { model_digest, num_parameters, peak_flops_per_second } => {
                Self::Loaded(v1::Loaded { model_digest, num_parameters, peak_flops_per_second })
            }
            WorkerMessage::StoreReady { host, port } => {
                Self::StoreReady(v1::StoreReady { host, port: port.into() })
            }
            WorkerMessage::Standing { step } => Self::Standing(v1::Standing { step: step.0 }),
            WorkerMessage::Ready { step } => Self::Ready(v1::Ready { step: step.0 }),
            WorkerMessage::KlReport { step, kind, eval_index, parts } => {
                Self::KlReport(v1::KlReport {
                    step: step.0,
                    kind: v1::ShardKind::from(kind).into(),
                    eval_index,
                    parts: parts.into_iter().map(Into::into).collect(),
                })
            }
            WorkerMessage::StepReport(report) => Self::StepReport(report.into()),
            WorkerMessage::CheckpointWritten { step, path, manifest_sha256 } => {
                let step = step.0;
                Self::CheckpointWritten(v1::CheckpointWritten { step, path, manifest_sha256 })
            }
            WorkerMessage::CheckpointFailed { step, num_retries, message } => {
                let step = step.0;
                Self::CheckpointFailed(v1::CheckpointFailed { step, message, num_retries })
            }
            WorkerMessage::FinalWritten { path } => Self::FinalWritten(v1::FinalWritten { path }),
            WorkerMessage::Failure { step, message, kind } => Self::Failure(v1::Failure {
                step: step.0,
                message,
                kind: v1::FailureKind::from(kind).into(),
            }),
            WorkerMessage::Leave { reason } => Self::Leave(v1::Leave { reason }),
        }
    }
}

impl TryFrom<Message> for WorkerMessage {
    type Error = MessageError;

    fn try_from(message: Message) -> Result<Self, MessageError> {
        Ok(match message {
            Message::Hello(hello) => Self::Hello { weights: hello.weights.map(Into::into) },
            Message::Heartbeat(heartbeat) => Self::Heartbeat {
                step: Step(heartbeat.step),
                phase: parse_step_phase(heartbeat.phase, "heartbeat.phase")?,
                progress: heartbeat.progress,
            },
            Message::Loaded(loaded) => Self::Loaded {
                model_digest: loaded.model_digest,
                num_parameters: loaded.num_parameters,
                peak_flops_per_second: loaded.peak_flops_per_second,
            },
            Message::StoreReady(store) => store_ready(store).map_err(in_field("store_ready"))?,
            Message::Standing(standing) => Self::Standing { step: Step(standing.step) },
            Message::Ready(ready) => Self::Ready { step: Step(ready.step) },
            Message::KlReport(report) => kl_report(report).map_err(in_field("kl_report"))?,
            Message::StepReport(report) => {
                Self::StepReport(report.try_into().map_err(in_field("step_report"))?)
            }
            Message::CheckpointWritten(written) => {
                let v1::CheckpointWritten { step, path, manifest_sha256 } = written;
                require(step > 0, "checkpoint_written.step", || "it is 0".to_owned())?;
                Self::CheckpointWritten { step: Step(step), path, manifest_sha256 }
            }
            Message::CheckpointFailed(failed) => {
                require(failed.step > 0, "checkpoint_failed.step", || "it is 0".to_owned())?;
                let v1::CheckpointFailed { step, message, num_retries } = failed;
                Self::CheckpointFailed { step: Step(step), num_retries, message }
            }
            Message::FinalWritten(written) => Self::FinalWritten { path: written.path },
            Message::Failure(failure) => Self::Failure {
                kind: parse_failure_kind(failure.kind, "failure.kind")?,
                step: Step(failure.step),
                message: failure.message,
            },
            Message::Leave(leave) => Self::Leave { reason: leave.reason },
        })
    }
}

impl From<Weights> for v1::Weights {
    fn from(weights: Weights) -> Self {
        let pending_step = weights.pending.unwrap_or_default().0;
        Self { step: weights.done.0, pending_step }
    }
}

impl From<v1::Weights> for Weights {
    fn from(weights: v1::Weights) -> Self {
        let pending = Some(Step(weights.pending_step)).filter(|step| step.0 > 0);
        Self { done: Step(weights.step), pending }
    }
}

fn in_field(outer: &'static str) -> impl Fn(MessageError) -> MessageError {
    move |error| error.within(outer)
}

fn store_ready(store: v1::StoreReady) -> Result<WorkerMessage, MessageError> {
    require(!store.host.is_empty(), "host", || "it is empty".to_owned())?;
    let port = u16::try_from(store.port).ok().filter(|&port| port > 0);
    let port =
        port.ok_or_else(|| MessageError::new("port", format!("{} is not 1 to 65535", store.port)))?;
    Ok(WorkerMessage::StoreReady { host: store.host, port })
}

fn kl_report(report: v1::KlReport) -> Result<WorkerMessage, MessageError> {
    let kind = parse_kind(report.kind, "kind")?;
    require_step(report.step, kind)?;
    Ok(WorkerMessage::KlReport {
        step: Step(report.step),
        kind,
        eval_index: report.eval_index,
        parts: part_list(report.parts, |sums: &PartKlSums| sums.part)?,
    })
}
