//! What a worker says in a session.

use prospect_core::{Generation, Incarnation, KlSums, ShardKind, Step, StepReport, WorkerId};

use crate::error::require;
use crate::failure_kind::parse_failure_kind;
use crate::report::require_step;
use crate::shard::parse_kind;
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
    Hello,
    /// Sign of life.
    Heartbeat {
        /// Step being worked on, 0 before the first.
        step: Step,
    },
    /// Rank 0's store listens.
    StoreReady {
        /// Host of the store.
        host: String,
        /// Port of the store.
        port: u16,
    },
    /// Model loaded, process group formed.
    Ready {
        /// Digest of the model directory that was loaded.
        model_digest: String,
        /// Step of the checkpoint that was loaded, 0 for none.
        resumed_step: Step,
        /// Parameters of the policy.
        num_parameters: u64,
        /// Dense peak rate of the device, where it is known.
        peak_flops_per_second: Option<f64>,
    },
    /// A rank's part of the KL estimate.
    KlReport {
        /// Step that the sums belong to.
        step: Step,
        /// Training or evaluation.
        kind: ShardKind,
        /// Number of the evaluation shard; 0 in training.
        eval_index: u32,
        /// The sums, which may be infinite or no numbers.
        sums: KlSums,
    },
    /// A step is done. The rank is the receiver's to fill in.
    StepReport(StepReport),
    /// A checkpoint is complete and durable.
    CheckpointSaved {
        /// Step after which it was taken.
        step: Step,
        /// Its directory, relative to the run directory.
        path: String,
        /// SHA-256 of its manifest.
        manifest_sha256: String,
    },
    /// The trained model is complete and durable.
    FinalSaved {
        /// Its directory, relative to the run directory.
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
            WorkerMessage::Hello => Self::Hello(v1::Hello {}),
            WorkerMessage::Heartbeat { step } => Self::Heartbeat(v1::Heartbeat { step: step.0 }),
            WorkerMessage::StoreReady { host, port } => {
                Self::StoreReady(v1::StoreReady { host, port: port.into() })
            }
            WorkerMessage::Ready {
                model_digest,
                resumed_step,
                num_parameters,
                peak_flops_per_second,
            } => Self::Ready(v1::Ready {
                model_digest,
                resumed_step: resumed_step.0,
                num_parameters,
                peak_flops_per_second,
            }),
            WorkerMessage::KlReport { step, kind, eval_index, sums } => {
                Self::KlReport(v1::KlReport {
                    step: step.0,
                    kind: v1::ShardKind::from(kind).into(),
                    sum: sums.sum,
                    sum_of_squares: sums.sum_of_squares,
                    count: sums.count,
                    eval_index,
                })
            }
            WorkerMessage::StepReport(report) => Self::StepReport(report.into()),
            WorkerMessage::CheckpointSaved { step, path, manifest_sha256 } => {
                Self::CheckpointSaved(v1::CheckpointSaved { step: step.0, path, manifest_sha256 })
            }
            WorkerMessage::FinalSaved { path } => Self::FinalSaved(v1::FinalSaved { path }),
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
            Message::Hello(v1::Hello {}) => Self::Hello,
            Message::Heartbeat(heartbeat) => Self::Heartbeat { step: Step(heartbeat.step) },
            Message::StoreReady(store) => store_ready(store).map_err(in_field("store_ready"))?,
            Message::Ready(ready) => Self::Ready {
                model_digest: ready.model_digest,
                resumed_step: Step(ready.resumed_step),
                num_parameters: ready.num_parameters,
                peak_flops_per_second: ready.peak_flops_per_second,
            },
            Message::KlReport(report) => kl_report(&report).map_err(in_field("kl_report"))?,
            Message::StepReport(report) => {
                Self::StepReport(report.try_into().map_err(in_field("step_report"))?)
            }
            Message::CheckpointSaved(saved) => {
                require(saved.step > 0, "checkpoint_saved.step", || "it is 0".to_owned())?;
                let v1::CheckpointSaved { step, path, manifest_sha256 } = saved;
                Self::CheckpointSaved { step: Step(step), path, manifest_sha256 }
            }
            Message::FinalSaved(saved) => Self::FinalSaved { path: saved.path },
            Message::Failure(failure) => Self::Failure {
                kind: parse_failure_kind(failure.kind, "failure.kind")?,
                step: Step(failure.step),
                message: failure.message,
            },
            Message::Leave(leave) => Self::Leave { reason: leave.reason },
        })
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

fn kl_report(report: &v1::KlReport) -> Result<WorkerMessage, MessageError> {
    let kind = parse_kind(report.kind, "kind")?;
    require_step(report.step, kind)?;
    Ok(WorkerMessage::KlReport {
        step: Step(report.step),
        kind,
        eval_index: report.eval_index,
        sums: report.into(),
    })
}
