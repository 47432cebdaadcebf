//! Shards of a step for all ranks, as a function of the step alone.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use prospect_core::{Microbatch, Shard, ShardKind, Step, TrainConfig, learning_rate};
use prospect_schedule::{EpochOrder, PlanOptions, RowIndex as _, StepPlan, plan_eval, plan_step};

use super::Rows;

/// What plans depend on besides the step.
#[derive(Clone, Debug)]
pub(crate) struct PlannerOptions {
    /// Order, pairs and budgets.
    pub(crate) plan: PlanOptions,
    /// The learning rate's course.
    pub(crate) train: TrainConfig,
    /// Ranks in the world.
    pub(crate) world_size: u32,
    /// Steps of the whole run.
    pub(crate) total_steps: u64,
}

/// Makes shards out of rows.
#[derive(Debug)]
pub(crate) struct Planner {
    options: PlannerOptions,
    train: Rows,
    eval: Option<Rows>,
    /// Order of the epoch that was planned last.
    order: Mutex<Option<Arc<EpochOrder>>>,
    /// Plans of the evaluation, which are the same every time.
    evaluation: OnceLock<Vec<StepPlan>>,
}

/// The shards of a step, by rank.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PlannedStep {
    /// One a rank.
    pub(crate) shards: Vec<Shard>,
    /// Rows of the batch for which no mismatched completion was found.
    pub(crate) num_unpaired: u32,
}

impl Planner {
    pub(crate) fn new(options: PlannerOptions, train: Rows, eval: Option<Rows>) -> Self {
        let (order, evaluation) = (Mutex::new(None), OnceLock::new());
        Self { options, train, eval, order, evaluation }
    }

    /// Steps of the whole run.
    pub(crate) fn total_steps(&self) -> u64 {
        self.options.total_steps
    }

    /// Steps of one epoch.
    pub(crate) fn steps_per_epoch(&self) -> u64 {
        self.train.num_rows().div_ceil(u64::from(self.options.plan.global_batch_size.max(1)))
    }

    /// Epochs completed when `step` is done.
    pub(crate) fn epochs_done(&self, step: Step) -> f64 {
        step.0 as f64 / self.steps_per_epoch().max(1) as f64
    }

    /// Learning rate of a step.
    pub(crate) fn learning_rate(&self, step: Step) -> f64 {
        learning_rate(&self.options.train, step, self.options.total_steps)
    }

    /// Global batches of an evaluation, 0 without evaluation data.
    pub(crate) fn num_eval_shards(&self) -> u32 {
        self.evaluation().len() as u32
    }

    /// Shards of a training step, without reference values.
    pub(crate) fn train_step(&self, step: Step) -> PlannedStep {
        let order = self.order_of(step);
        let PlannerOptions { plan: options, world_size, .. } = &self.options;
        let plan = plan_step(&order, &self.train, options, step, *world_size);
        let template = Shard {
            step,
            kind: ShardKind::Train,
            epoch: self.epochs_done(step),
            learning_rate: self.learning_rate(step),
            ..Shard::default()
        };
        planned(&self.train, &plan, &template)
    }

    /// Shards of one global batch of the evaluation after `step`, without
    /// reference values. `None` when there is no such batch.
    pub(crate) fn eval_batch(&self, step: Step, eval_index: u32) -> Option<PlannedStep> {
        let rows = self.eval.as_ref()?;
        let plan = self.evaluation().get(eval_index as usize)?;
        let template = Shard {
            step,
            kind: ShardKind::Eval,
            eval_index,
            epoch: self.epochs_done(step),
            ..Shard::default()
        };
        Some(planned(rows, plan, &template))
    }

    fn evaluation(&self) -> &[StepPlan] {
        self.evaluation.get_or_init(|| {
            let PlannerOptions { plan, world_size, .. } = &self.options;
            self.eval.as_ref().map(|rows| plan_eval(rows, plan, *world_size)).unwrap_or_default()
        })
    }

    fn order_of(&self, step: Step) -> Arc<EpochOrder> {
        let epoch = EpochOrder::epoch_of(step, self.steps_per_epoch());
        let mut place = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        match place.as_ref().filter(|order| order.epoch() == epoch) {
            Some(order) => Arc::clone(order),
            None => {
                let order = Arc::new(EpochOrder::new(&self.train, &self.options.plan, epoch));
                Arc::clone(place.insert(order))
            }
        }
    }
}

/// Fills every rank's part of a plan with tokens.
fn planned(rows: &Rows, plan: &StepPlan, template: &Shard) -> PlannedStep {
    let shards = plan
        .ranks
        .iter()
        .map(|rank| {
            let mismatched = rank.mismatched.iter().filter_map(|&slot| {
                let partner = plan.partners[slot as usize]?;
                Some(rows.sequence(plan.rows[slot as usize], partner))
            });
            Shard {
                num_examples_global: plan.rows.len() as u32,
                num_pairs_global: plan.partners.iter().flatten().count() as u32,
                targets: rank.slots.iter().map(|&s| rows.target(plan.rows[s as usize])).collect(),
                mismatched: mismatched.collect(),
                target_microbatches: non_empty(&rank.target_microbatches),
                mismatched_microbatches: non_empty(&rank.mismatched_microbatches),
                ..template.clone()
            }
        })
        .collect();
    PlannedStep { shards, num_unpaired: plan.unpaired_count }
}

fn non_empty(microbatches: &[Microbatch]) -> Vec<Microbatch> {
    microbatches.iter().filter(|microbatch| !microbatch.is_empty()).cloned().collect()
}
