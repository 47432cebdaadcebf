//! A run for tests.

use std::time::{Duration, SystemTime};

use prospect_core::{Generation, Phase, RunId, Step, WorkerId, WorkerState};
use prospect_proto::{MetricPoint, RunStatus, WorkerStatus};

/// A run at a step, without workers.
pub fn status(phase: Phase, step: u64) -> RunStatus {
    let values = [("loss", 0.5), ("rewards/margins", 0.25), ("tokens_per_second", 12_345.0)];
    RunStatus {
        run_id: RunId("first".into()),
        phase,
        reason: "all workers are ready".into(),
        step: Step(step),
        total_steps: 40,
        epoch: 0.5,
        generation: Generation(1),
        world_size: 2,
        eta: Some(Duration::from_secs(65)),
        start_time: SystemTime::UNIX_EPOCH,
        checkpoint_step: None,
        metrics: Some(MetricPoint {
            step: Step(step),
            values: values.map(|(key, value)| (key.to_owned(), value)).into(),
        }),
        eval_metrics: None,
        workers: Vec::new(),
        run_dir: "runs/first".into(),
        attempt: 1,
        num_losses: 0,
        num_failed_checkpoints: 0,
        effective_time_ratio: Some(0.934),
    }
}

/// The same with two of them.
pub fn with_workers(mut status: RunStatus) -> RunStatus {
    status.workers = [("worker-0", WorkerState::Ready), ("worker-1", WorkerState::Joined)]
        .map(|(name, state)| WorkerStatus {
            worker: WorkerId(name.into()),
            rank: None,
            state,
            device: "cpu".into(),
            host: "127.0.0.1".into(),
            step: Step(3),
            heartbeat_age: Duration::from_millis(250),
            peak_memory_bytes: 0,
            activity: "all-reduce".into(),
            slowdown: Some(1.04),
            is_straggler: false,
        })
        .into();
    status
}
