//! The state of a run as the status service tells it.

mod convert;
mod phase;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use prospect_core::{Generation, Phase, Rank, RunId, Step, StepMetrics, WorkerId, WorkerState};

/// A run at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct RunStatus {
    /// Name of the run.
    pub run_id: RunId,
    /// What is being done.
    pub phase: Phase,
    /// Why, in words for a person.
    pub reason: String,
    /// Last step that was committed.
    pub step: Step,
    /// Steps in all.
    pub total_steps: u64,
    /// Epochs completed.
    pub epoch: f64,
    /// Generation of the world.
    pub generation: Generation,
    /// Ranks in the world.
    pub world_size: u32,
    /// Expected time until the last step is done.
    pub eta: Option<Duration>,
    /// When the coordinator started.
    pub start_time: SystemTime,
    /// Step of the newest durable checkpoint.
    pub checkpoint_step: Option<Step>,
    /// Metrics of the last committed step.
    pub metrics: Option<MetricPoint>,
    /// Metrics of the last evaluation.
    pub eval_metrics: Option<MetricPoint>,
    /// The workers, in the order of their ranks.
    pub workers: Vec<WorkerStatus>,
    /// Run directory.
    pub run_dir: String,
    /// How often the run had to go back to a checkpoint, plus one.
    pub attempt: u64,
    /// Generations that ended by the loss of a worker since the coordinator started.
    pub num_losses: u64,
    /// Checkpoints in a row that could not be written.
    pub num_failed_checkpoints: u32,
    /// Share of the time since training began that went into steps that count.
    pub effective_time_ratio: Option<f64>,
}

/// One worker at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerStatus {
    /// Its name.
    pub worker: WorkerId,
    /// Its rank, once it has one.
    pub rank: Option<Rank>,
    /// Its state.
    pub state: WorkerState,
    /// Its device in words.
    pub device: String,
    /// Its host.
    pub host: String,
    /// Step that it is working on.
    pub step: Step,
    /// Time since its last sign of life.
    pub heartbeat_age: Duration,
    /// Highest memory use so far.
    pub peak_memory_bytes: u64,
    /// What it is doing, in words.
    pub activity: String,
    /// Its computing time in the last steps, as a multiple of the median of all workers.
    pub slowdown: Option<f64>,
    /// Whether it holds the others up.
    pub is_straggler: bool,
}

/// Metrics of one step by key.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MetricPoint {
    /// The step.
    pub step: Step,
    /// Value by key, for instance `rewards/margins`.
    pub values: BTreeMap<String, f64>,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Number of its line in the journal, from 1; lines that are no events are left out.
    pub sequence: u64,
    /// When.
    pub time: SystemTime,
    /// What, as one word, for instance `checkpoint_saved`.
    pub kind: String,
    /// What, in words for a person.
    pub message: String,
    /// Step that it belongs to, 0 for none.
    pub step: Step,
}

impl MetricPoint {
    /// The metrics of a step; `prefix` is put in front of every key.
    pub fn new(metrics: &StepMetrics, prefix: &str) -> Self {
        Self { step: metrics.step, values: metrics.values(prefix).into_iter().collect() }
    }
}
