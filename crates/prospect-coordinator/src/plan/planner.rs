//! Shards of a step as a function of the step and the number of parts alone.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use prospect_core::{
    Microbatch, Rank, RowId, Sequence, Shard, ShardKind, ShardPart, Step, TrainConfig,
    learning_rate, parts_of_rank,
};
use prospect_schedule::{EpochOrder, PlanOptions, RowIndex as _, StepPlan, plan_eval, plan_step};
use sha2::{Digest as _, Sha256};

use super::Rows;
use crate::hex::hex;
use crate::records::{Domain, SequenceRows};

/// What plans depend on besides the step and the world.
#[derive(Clone, Debug)]
pub(crate) struct PlannerOptions {
    /// Order, pairs and budgets.
    pub(crate) plan: PlanOptions,
    /// The learning rate's course, and into how many parts a batch is cut.
    pub(crate) train: TrainConfig,
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
    /// Plans of the evaluation for the number of parts that was asked for last.
    evaluation: Mutex<Option<(u32, Arc<Vec<StepPlan>>)>>,
    /// Global batches of an evaluation.
    num_eval_shards: OnceLock<u32>,
}

/// A pass cut into the parts of a world.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PlannedStep {
    /// Ranks that share the parts.
    pub(crate) world_size: u32,
    /// What all shards have in common.
    pub(crate) common: Shard,
    /// The parts, by number.
    pub(crate) parts: Vec<ShardPart>,
    /// What the pass is made of.
    pub(crate) batch: Batch,
    /// Rows of the batch for which no mismatched completion was found.
    pub(crate) num_unpaired: u32,
}

/// What a pass is made of, the same in every world.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Batch {
    /// Rows of the global batch, in order.
    pub(crate) rows: Vec<RowId>,
    /// SHA-256 over a line for every row: the row and the row of its mismatched completion,
    /// `-` for none.
    pub(crate) pairs_sha256: String,
}

impl Planner {
    pub(crate) fn new(options: PlannerOptions, train: Rows, eval: Option<Rows>) -> Self {
        Self {
            options,
            train,
            eval,
            order: Mutex::new(None),
            evaluation: Mutex::new(None),
            num_eval_shards: OnceLock::new(),
        }
    }

    /// Packs so many tokens together from here on.
    pub(crate) fn set_microbatch_tokens(&mut self, tokens: u32) {
        self.options.plan.microbatch_tokens = tokens;
        self.evaluation = Mutex::new(None);
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
        *self.num_eval_shards.get_or_init(|| self.evaluation(1).len() as u32)
    }

    /// A training step, without reference values.
    pub(crate) fn train_step(&self, step: Step, world_size: u32) -> PlannedStep {
        let plan = self.plan(step, self.options.train.num_parts(world_size));
        let common = Shard {
            step,
            kind: ShardKind::Train,
            epoch: self.epochs_done(step),
            learning_rate: self.learning_rate(step),
            ..Shard::default()
        };
        planned(&self.train, &plan, common, world_size)
    }

    /// What a training step is made of.
    pub(crate) fn batch(&self, step: Step) -> Batch {
        Batch::new(&self.plan(step, 1))
    }

    /// One global batch of the evaluation after `step`, without reference values. `None` when
    /// there is no such batch.
    pub(crate) fn eval_batch(
        &self,
        step: Step,
        eval_index: u32,
        world_size: u32,
    ) -> Option<PlannedStep> {
        let rows = self.eval.as_ref()?;
        let evaluation = self.evaluation(self.options.train.num_parts(world_size));
        let plan = evaluation.get(eval_index as usize)?;
        let common = Shard {
            step,
            kind: ShardKind::Eval,
            eval_index,
            epoch: self.epochs_done(step),
            ..Shard::default()
        };
        Some(planned(rows, plan, common, world_size))
    }

    /// Shows every sequence that the run's passes ask the reference for, some more than once,
    /// until there is no more or `visit` has seen enough.
    pub(crate) fn visit_sequences(
        &self,
        mut visit: impl FnMut(SequenceRows) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let mut visit_plan = |domain, plan: &StepPlan| {
            plan.rows.iter().zip(&plan.partners).try_for_each(|(&row, &partner)| {
                let sequence = |completion| SequenceRows { domain, prompt: row, completion };
                visit(sequence(row))?;
                partner.map_or(ControlFlow::Continue(()), |partner| visit(sequence(partner)))
            })
        };
        self.evaluation(1).iter().try_for_each(|plan| visit_plan(Domain::Eval, plan))?;
        (1..=self.options.total_steps)
            .try_for_each(|step| visit_plan(Domain::Train, &self.plan(Step(step), 1)))
    }

    /// The tokens of a sequence; `None` where there are no such rows.
    pub(crate) fn sequence(&self, sequence: SequenceRows) -> Option<Sequence> {
        let SequenceRows { domain, prompt, completion } = sequence;
        let rows = self.rows(domain)?;
        let is_there = |row: RowId| row.0 < rows.num_rows();
        (is_there(prompt) && is_there(completion)).then(|| rows.sequence(prompt, completion))
    }

    /// Hash of the prompt's tokens; 0 where there is no such row.
    pub(crate) fn prompt_hash(&self, SequenceRows { domain, prompt, .. }: SequenceRows) -> u64 {
        let rows = self.rows(domain).filter(|rows| prompt.0 < rows.num_rows());
        rows.map_or(0, |rows| rows.prompt_hash(prompt))
    }

    fn rows(&self, domain: Domain) -> Option<&Rows> {
        match domain {
            Domain::Train => Some(&self.train),
            Domain::Eval => self.eval.as_ref(),
        }
    }

    fn plan(&self, step: Step, num_parts: u32) -> StepPlan {
        let order = self.order_of(step);
        plan_step(&order, &self.train, &self.options.plan, step, num_parts)
    }

    fn evaluation(&self, num_parts: u32) -> Arc<Vec<StepPlan>> {
        let mut place = self.evaluation.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, plans)) = place.as_ref().filter(|(parts, _)| *parts == num_parts) {
            return Arc::clone(plans);
        }
        let plan = |rows| plan_eval(rows, &self.options.plan, num_parts);
        let plans = Arc::new(self.eval.as_ref().map(|rows| plan(rows)).unwrap_or_default());
        *place = Some((num_parts, Arc::clone(&plans)));
        plans
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

impl PlannedStep {
    /// The shards, by rank.
    pub(crate) fn into_shards(self) -> Vec<Shard> {
        let Self { world_size, common, parts, .. } = self;
        let num_parts = parts.len() as u32;
        let mut parts = parts.into_iter();
        (0..world_size)
            .map(|rank| Shard {
                parts: parts
                    .by_ref()
                    .take(parts_of_rank(Rank(rank), world_size, num_parts).len())
                    .collect(),
                ..common.clone()
            })
            .collect()
    }
}

impl Batch {
    fn new(plan: &StepPlan) -> Self {
        let mut pairs = Sha256::new();
        for (row, partner) in plan.rows.iter().zip(&plan.partners) {
            let partner = partner.map_or_else(|| "-".to_owned(), |partner| partner.to_string());
            pairs.update(format!("{row} {partner}\n"));
        }
        Self { rows: plan.rows.clone(), pairs_sha256: hex(&pairs.finalize()) }
    }
}

/// Fills every part of a plan with tokens.
fn planned(rows: &Rows, plan: &StepPlan, common: Shard, world_size: u32) -> PlannedStep {
    let parts = (0..).zip(&plan.parts).map(|(part, planned)| {
        let mismatched = planned.mismatched.iter().filter_map(|&slot| {
            let partner = plan.partners[slot as usize]?;
            Some(rows.sequence(plan.rows[slot as usize], partner))
        });
        ShardPart {
            part,
            targets: planned.slots.iter().map(|&s| rows.target(plan.rows[s as usize])).collect(),
            mismatched: mismatched.collect(),
            target_microbatches: non_empty(&planned.target_microbatches),
            mismatched_microbatches: non_empty(&planned.mismatched_microbatches),
        }
    });
    PlannedStep {
        world_size,
        parts: parts.collect(),
        common: Shard {
            num_examples_global: plan.rows.len() as u32,
            num_pairs_global: plan.partners.iter().flatten().count() as u32,
            ..common
        },
        batch: Batch::new(plan),
        num_unpaired: plan.unpaired_count,
    }
}

fn non_empty(microbatches: &[Microbatch]) -> Vec<Microbatch> {
    microbatches.iter().filter(|microbatch| !microbatch.is_empty()).cloned().collect()
}
