//! What the machine knows before the first event.

use std::time::Duration;

use prospect_core::{Generation, Step};

/// The run, as far as the machine must know it.
#[derive(Clone, Debug, PartialEq)]
pub struct MachineOptions {
    /// Workers that make up the world; at least 1.
    pub world_size: u32,
    /// Optimizer steps of the whole run, those before a resume included.
    pub total_steps: u64,
    /// Shards that are sent ahead of the last commit; 0 counts as 1.
    pub lookahead_steps: u32,
    /// Save a checkpoint after every so many steps; 0 for never.
    pub checkpoint_every: u64,
    /// Evaluate after every so many steps, besides after the last; 0 or absent
    /// for the last only.
    pub eval_every: Option<u64>,
    /// Global batches of one evaluation; 0 without evaluation data.
    pub num_eval_shards: u32,
    /// Checkpoint that the run goes on from; absent for a fresh start.
    pub resume: Option<ResumePoint>,
    /// Digest of the model directory that every worker must have.
    pub model_digest: String,
    /// Directory for the trained model, relative to the run directory.
    pub final_path: String,
    /// Incarnation of the world.
    pub generation: Generation,
    /// How long the world may take to join and load.
    pub join_timeout: Duration,
    /// Silence after which a worker counts as lost.
    pub heartbeat_timeout: Duration,
    /// How long the machine waits for what should follow at once: for the worker
    /// that is gone to show, when another one reports the loss of a peer, and for
    /// the workers to leave, when all is done.
    pub grace: Duration,
}

/// A durable checkpoint to go on from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResumePoint {
    /// Step after which it was taken; the run goes on with the next.
    pub step: Step,
    /// Its directory, relative to the run directory.
    pub path: String,
    /// Whether the evaluation after that step is on record already.
    pub evaluated: bool,
}

impl Default for MachineOptions {
    fn default() -> Self {
        Self {
            world_size: 1,
            total_steps: 0,
            lookahead_steps: 2,
            checkpoint_every: 0,
            eval_every: None,
            num_eval_shards: 0,
            resume: None,
            model_digest: String::new(),
            final_path: "final".into(),
            generation: Generation(1),
            join_timeout: Duration::from_secs(600),
            heartbeat_timeout: Duration::from_secs(5),
            grace: Duration::from_secs(2),
        }
    }
}

impl MachineOptions {
    /// Step that the run goes on from, 0 for a fresh start.
    pub fn first_committed(&self) -> Step {
        self.resume.as_ref().map_or(Step(0), |resume| resume.step)
    }

    /// Whether a checkpoint is taken after the step.
    pub fn checkpoint_after(&self, step: Step) -> bool {
        self.checkpoint_every > 0 && step.0 > 0 && step.0.is_multiple_of(self.checkpoint_every)
    }

    /// Whether an evaluation is done after the step.
    pub fn evaluate_after(&self, step: Step) -> bool {
        let every = self.eval_every.unwrap_or(0);
        let due = step.0 == self.total_steps || (every > 0 && step.0.is_multiple_of(every));
        self.num_eval_shards > 0 && step.0 > 0 && due
    }
}
