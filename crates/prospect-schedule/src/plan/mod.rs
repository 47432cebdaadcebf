//! The plan of one step: which rows, which mismatched pairs, which part
//! computes what. Content depends on (seed, data, step) alone; the number of
//! parts and the microbatch budget only decide what is computed together.

#[cfg(test)]
mod laws;
#[cfg(test)]
mod tests;

use prospect_core::{Microbatch, Order, RowId, Step};

use crate::assign::{Item, assign};
use crate::partners::partners;
use crate::{EpochOrder, RowIndex};

/// What plans depend on besides the data, the step and the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlanOptions {
    /// Seed of order and pairs.
    pub seed: u64,
    /// How rows are ordered into global batches.
    pub order: Order,
    /// Rows per step, over all parts.
    pub global_batch_size: u32,
    /// Most tokens that are computed together. A longer sequence stands alone.
    pub microbatch_tokens: u32,
    /// Tokens kept of a sequence.
    pub max_length: u32,
    /// Whether the objective needs mismatched pairs.
    pub needs_pairs: bool,
}

/// One step of the whole world.
#[derive(Clone, Debug, PartialEq)]
pub struct StepPlan {
    /// The step, from 1; 0 in evaluation.
    pub step: Step,
    /// Its epoch, from 0.
    pub epoch: u64,
    /// Epochs completed when the step is done.
    pub epochs_done: f64,
    /// The global batch; a slot is an index into it.
    pub rows: Vec<RowId>,
    /// Row whose completion follows the slot's prompt in the mismatched pair;
    /// absent where no row of the data fits, or no pairs are needed.
    pub partners: Vec<Option<RowId>>,
    /// Pairs that took a later rotation than the first, within the batch.
    pub next_rotation_count: u32,
    /// Pairs whose completion is of a row outside the batch.
    pub outside_count: u32,
    /// Slots without a pair although pairs are needed.
    pub unpaired_count: u32,
    /// The parts that the batch is cut into, in order.
    pub parts: Vec<PartPlan>,
}

/// One part of a global batch, which one rank does in a fixed order. All lists are
/// empty where there are more parts than rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartPlan {
    /// Slots of its target sequences, ascending.
    pub slots: Vec<u32>,
    /// Positions in `slots` that are computed together, longest sequences first.
    pub target_microbatches: Vec<Microbatch>,
    /// Slots of its mismatched sequences, ascending: those of `slots` with a partner.
    pub mismatched: Vec<u32>,
    /// Positions in `mismatched` that are computed together, longest sequences first.
    pub mismatched_microbatches: Vec<Microbatch>,
}

/// Plans a training step, cut into `num_parts` parts; 0 counts as 1.
///
/// Costs O(B log B + P) for a batch of B rows and P parts (see
/// [`EpochOrder::new`] for what an epoch costs), O(B²) at worst where nearly all
/// prompts of the batch are equal.
///
/// # Panics
/// If `order` is not the order of the step's epoch.
pub fn plan_step(
    order: &EpochOrder,
    index: &dyn RowIndex,
    options: &PlanOptions,
    step: Step,
    num_parts: u32,
) -> StepPlan {
    let epoch = EpochOrder::epoch_of(step, order.steps_per_epoch());
    assert_eq!(order.epoch(), epoch, "step {step} is planned with the order of another epoch");

    let batch = order.batch(step);
    let rows: Vec<RowId> = batch.clone().map(|position| order.row(position)).collect();
    let partners = if options.needs_pairs {
        partners(order, index, &rows, batch.start)
    } else {
        crate::partners::Partners { rows: vec![None; rows.len()], ..Default::default() }
    };
    let items: Vec<Item> = rows
        .iter()
        .zip(&partners.rows)
        .map(|(&row, partner)| Item {
            target: sequence_len(index, options, row, row),
            mismatched: partner.map(|other| sequence_len(index, options, row, other)),
        })
        .collect();
    StepPlan {
        step,
        epoch,
        epochs_done: order.epochs_done(step),
        rows,
        partners: partners.rows,
        next_rotation_count: partners.num_rotated,
        outside_count: partners.num_outside,
        unpaired_count: partners.num_unpaired,
        parts: assign(&items, num_parts.max(1), options.microbatch_tokens),
    }
}

/// Plans an evaluation: all rows once in the order of the files, in batches of
/// `global_batch_size`, with the same pairs every time.
pub fn plan_eval(index: &dyn RowIndex, options: &PlanOptions, num_parts: u32) -> Vec<StepPlan> {
    let options = PlanOptions { order: Order::Sequential, ..*options };
    let order = EpochOrder::new(index, &options, 0);
    (1..=order.steps_per_epoch())
        .map(|batch| {
            let plan = plan_step(&order, index, &options, Step(batch), num_parts);
            StepPlan { step: Step(0), epochs_done: 0.0, ..plan }
        })
        .collect()
}

/// Tokens of a prompt with a completion after the cut to the maximal length.
fn sequence_len(
    index: &dyn RowIndex,
    options: &PlanOptions,
    prompt: RowId,
    completion: RowId,
) -> u32 {
    let whole = index.prompt_len(prompt).saturating_add(index.completion_len(completion));
    whole.min(options.max_length)
}
