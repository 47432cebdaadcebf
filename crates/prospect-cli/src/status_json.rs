//! A run as one JSON object, for programs. Keys are only ever added.

use prospect_proto::{MetricPoint, RunStatus, WorkerStatus};
use serde_json::{Value, json};

/// One line with the run as it stands.
pub fn line(status: &RunStatus) -> String {
    let values = |point: &Option<MetricPoint>| {
        point.as_ref().map(|point| json!(point.values)).unwrap_or_else(|| json!({}))
    };
    let object = json!({
        "run_id": status.run_id,
        "phase": status.phase.name(),
        "reason": status.reason,
        "step": status.step,
        "total_steps": status.total_steps,
        "epoch": status.epoch,
        "generation": status.generation,
        "world_size": status.world_size,
        "attempt": status.attempt,
        "num_losses": status.num_losses,
        "num_failed_checkpoints": status.num_failed_checkpoints,
        "effective_time_ratio": status.effective_time_ratio,
        "eta_seconds": status.eta.map(|eta| eta.as_secs_f64()),
        "checkpoint_step": status.checkpoint_step,
        "run_dir": status.run_dir,
        "metrics": values(&status.metrics),
        "eval_metrics": values(&status.eval_metrics),
        "workers": status.workers.iter().map(worker).collect::<Vec<_>>(),
    });
    format!("{object}\n")
}

fn worker(worker: &WorkerStatus) -> Value {
    json!({
        "worker_id": worker.worker,
        "rank": worker.rank,
        "state": worker.state.name(),
        "device": worker.device,
        "host": worker.host,
        "step": worker.step,
        "activity": worker.activity,
        "slowdown": worker.slowdown,
        "is_straggler": worker.is_straggler,
        "heartbeat_age_seconds": worker.heartbeat_age.as_secs_f64(),
        "peak_memory_bytes": worker.peak_memory_bytes,
    })
}

#[cfg(test)]
mod tests;
