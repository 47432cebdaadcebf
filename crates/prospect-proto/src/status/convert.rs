//! Status types to and from the wire.

use prospect_core::{Generation, Rank, RunId, Step, WorkerId};

use super::phase::{parse_phase, parse_worker_state};
use super::{Event, MetricPoint, RunStatus, WorkerStatus};
use crate::shard::list;
use crate::time::{duration, parse_duration, parse_timestamp, timestamp};
use crate::{MessageError, v1};

impl From<RunStatus> for v1::RunStatus {
    fn from(status: RunStatus) -> Self {
        Self {
            run_id: status.run_id.0,
            phase: v1::Phase::from(status.phase).into(),
            reason: status.reason,
            step: status.step.0,
            total_steps: status.total_steps,
            epoch: status.epoch,
            generation: status.generation.0,
            world_size: status.world_size,
            eta: status.eta.map(duration),
            start_time: Some(timestamp(status.start_time)),
            checkpoint_step: status.checkpoint_step.unwrap_or_default().0,
            metrics: status.metrics.map(Into::into),
            eval_metrics: status.eval_metrics.map(Into::into),
            workers: status.workers.into_iter().map(Into::into).collect(),
            run_dir: status.run_dir,
            attempt: status.attempt,
            num_losses: status.num_losses,
            num_failed_checkpoints: status.num_failed_checkpoints,
            effective_time_ratio: status.effective_time_ratio,
        }
    }
}

impl TryFrom<v1::RunStatus> for RunStatus {
    type Error = MessageError;

    fn try_from(status: v1::RunStatus) -> Result<Self, MessageError> {
        Ok(Self {
            run_id: RunId(status.run_id),
            phase: parse_phase(status.phase)?,
            reason: status.reason,
            step: Step(status.step),
            total_steps: status.total_steps,
            epoch: status.epoch,
            generation: Generation(status.generation),
            world_size: status.world_size,
            eta: status.eta.map(|eta| parse_duration(eta, "eta")).transpose()?,
            start_time: parse_timestamp(status.start_time, "start_time")?,
            checkpoint_step: Some(Step(status.checkpoint_step)).filter(|step| step.0 > 0),
            metrics: status.metrics.map(Into::into),
            eval_metrics: status.eval_metrics.map(Into::into),
            workers: list(status.workers, "workers")?,
            run_dir: status.run_dir,
            attempt: status.attempt,
            num_losses: status.num_losses,
            num_failed_checkpoints: status.num_failed_checkpoints,
            effective_time_ratio: status.effective_time_ratio,
        })
    }
}

impl From<WorkerStatus> for v1::Worker {
    fn from(worker: WorkerStatus) -> Self {
        Self {
            worker_id: worker.worker.0,
            rank: worker.rank.map(|rank| rank.0),
            state: v1::WorkerState::from(worker.state).into(),
            device: worker.device,
            host: worker.host,
            step: worker.step.0,
            heartbeat_age: Some(duration(worker.heartbeat_age)),
            peak_memory_bytes: worker.peak_memory_bytes,
            activity: worker.activity,
            slowdown: worker.slowdown,
            is_straggler: worker.is_straggler,
        }
    }
}

impl TryFrom<v1::Worker> for WorkerStatus {
    type Error = MessageError;

    fn try_from(worker: v1::Worker) -> Result<Self, MessageError> {
        let age = worker.heartbeat_age.unwrap_or_default();
        Ok(Self {
            worker: WorkerId(worker.worker_id),
            rank: worker.rank.map(Rank),
            state: parse_worker_state(worker.state)?,
            device: worker.device,
            host: worker.host,
            step: Step(worker.step),
            heartbeat_age: parse_duration(age, "heartbeat_age")?,
            peak_memory_bytes: worker.peak_memory_bytes,
            activity: worker.activity,
            slowdown: worker.slowdown,
            is_straggler: worker.is_straggler,
        })
    }
}

impl From<MetricPoint> for v1::MetricPoint {
    fn from(point: MetricPoint) -> Self {
        Self { step: point.step.0, values: point.values.into_iter().collect() }
    }
}

impl From<v1::MetricPoint> for MetricPoint {
    fn from(point: v1::MetricPoint) -> Self {
        Self { step: Step(point.step), values: point.values.into_iter().collect() }
    }
}

impl From<Event> for v1::Event {
    fn from(event: Event) -> Self {
        Self {
            sequence: event.sequence,
            time: Some(timestamp(event.time)),
            kind: event.kind,
            message: event.message,
            step: event.step.0,
        }
    }
}

impl TryFrom<v1::Event> for Event {
    type Error = MessageError;

    fn try_from(event: v1::Event) -> Result<Self, MessageError> {
        Ok(Self {
            sequence: event.sequence,
            time: parse_timestamp(event.time, "time")?,
            kind: event.kind,
            message: event.message,
            step: Step(event.step),
        })
    }
}
