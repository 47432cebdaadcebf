//! What the machine knows before the first event.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use prospect_core::{Generation, Incarnation, Rank, Step, WorkerId};
use serde::{Deserialize, Serialize};

/// The run, as far as the machine must know it.
#[derive(Clone, Debug, PartialEq)]
pub struct MachineOptions {
    /// Workers that the run aims at; at least 1.
    pub target: u32,
    /// Fewest workers with which it goes on; at least 1.
    pub min_workers: u32,
    /// Most workers that it takes; at least the target.
    pub max_workers: u32,
    /// Parts of a global batch; as many as ranks where absent.
    pub fixed_parts: Option<u32>,
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
    /// Whether each rank holds a part of the weights or of the optimizer's state that no other
    /// rank has: then every world begins with the initial weights or with a checkpoint.
    pub sharded: bool,
    /// Newest intact checkpoint of a step on record, if there is any.
    pub resume: Option<ResumePoint>,
    /// Last step on record. Where it lies beyond the checkpoint and no worker has its weights,
    /// the run is rolled back.
    pub committed: Step,
    /// Last step whose evaluation is on record, 0 for none.
    pub evaluated: Step,
    /// The world that was training when the last coordinator ended, where it may still do so.
    pub adopt: Option<Adopt>,
    /// Processes that another one of their name has followed: they cannot come back.
    pub banished: BTreeMap<WorkerId, BTreeSet<Incarnation>>,
    /// The last process of each name that had a place. It may come back until another one of its
    /// name comes.
    pub last_processes: BTreeMap<WorkerId, Incarnation>,
    /// Generation of the first world: the adopted one, or one more than the last on record.
    pub generation: Generation,
    /// Number of the attempt, from 1; it grows when the run is rolled back.
    pub attempt: u64,
    /// First generation of the attempt. Weights from before it count for nothing.
    pub attempt_generation: Generation,
    /// Digest of the model directory that every worker must have.
    pub model_digest: String,
    /// Directory for the trained model, relative to the run directory.
    pub final_path: String,
    /// How long the world may take to gather and form.
    pub join_timeout: Duration,
    /// Silence after which a worker counts as lost.
    pub heartbeat_timeout: Duration,
    /// How long a worker may work on a step without any progress.
    pub step_timeout: Duration,
    /// How long the world waits for one more worker before it forms with fewer than it aims at.
    pub replacement_wait: Duration,
    /// How long the workers of an adopted world may take to come back.
    pub adopt_wait: Duration,
    /// How often the world may be broken up without a step in between; at least 1.
    pub max_failures_without_progress: u32,
    /// Checkpoints in a row that may fail before the run does; without it none ends it.
    pub checkpoint_fail_after: Option<u32>,
    /// How long the machine waits for a worker that is gone to show, when another one reports
    /// the loss of a peer.
    pub grace: Duration,
}

/// A durable checkpoint to go on from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResumePoint {
    /// Step after which it was taken; the run goes on with the next.
    pub step: Step,
    /// Its directory, relative to the run directory.
    pub path: String,
    /// Whether the evaluation after that step is on record already.
    pub evaluated: bool,
}

/// A formed generation that a coordinator which starts again finds on record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adopt {
    /// The generation.
    pub generation: Generation,
    /// Last step on record.
    pub committed: Step,
    /// Its workers, by rank.
    pub members: Vec<(WorkerId, Incarnation, Rank)>,
}

impl Default for MachineOptions {
    fn default() -> Self {
        Self {
            target: 1,
            min_workers: 1,
            max_workers: 1,
            fixed_parts: None,
            total_steps: 0,
            lookahead_steps: 2,
            checkpoint_every: 0,
            eval_every: None,
            num_eval_shards: 0,
            sharded: false,
            resume: None,
            committed: Step(0),
            evaluated: Step(0),
            adopt: None,
            banished: BTreeMap::new(),
            last_processes: BTreeMap::new(),
            generation: Generation(1),
            attempt: 1,
            attempt_generation: Generation(0),
            model_digest: String::new(),
            final_path: "final".into(),
            join_timeout: Duration::from_secs(600),
            heartbeat_timeout: Duration::from_secs(5),
            step_timeout: Duration::from_secs(300),
            replacement_wait: Duration::from_secs(30),
            adopt_wait: Duration::from_secs(10),
            max_failures_without_progress: 3,
            checkpoint_fail_after: None,
            grace: Duration::from_secs(2),
        }
    }
}

impl MachineOptions {
    /// Step that the run goes on from, 0 for a fresh start.
    pub fn first_committed(&self) -> Step {
        let resumed = self.resume.as_ref().map_or(Step(0), |resume| resume.step);
        let adopted = self.adopt.as_ref().map_or(Step(0), |adopt| adopt.committed);
        self.committed.max(resumed).max(adopted)
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

    /// Parts of a global batch in a world of this size.
    pub fn num_parts(&self, world_size: u32) -> u32 {
        self.fixed_parts.unwrap_or(world_size).max(world_size)
    }

    /// The same with counts that make sense: none of them 0, at most the target as the fewest,
    /// at least the target as the most.
    pub(super) fn in_order(mut self) -> Self {
        self.target = self.target.max(1);
        self.min_workers = self.min_workers.clamp(1, self.target);
        self.max_workers = self.max_workers.max(self.target);
        self.max_failures_without_progress = self.max_failures_without_progress.max(1);
        self
    }
}
