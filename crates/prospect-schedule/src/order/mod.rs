//! The order of the rows in one epoch, cut into global batches. Every row
//! occurs once.

mod stratified;
#[cfg(test)]
mod tests;

use std::ops::Range;

use prospect_core::{Order, RowId, Step};

use crate::partners::Witnesses;
use crate::rng::{PlanRng, Purpose};
use crate::{PlanOptions, RowIndex};

/// The rows of one epoch in order. Costs one pass over the index (none for
/// sequential order), and 8 bytes a row; plans of single steps then cost no
/// more than their batch.
#[derive(Clone, Debug)]
pub struct EpochOrder {
    epoch: u64,
    num_rows: u64,
    batch_size: u64,
    /// Absent where the order is that of the files.
    rows: Option<Vec<RowId>>,
    /// Rows among which every row finds a partner if it has one anywhere.
    witnesses: Witnesses,
}

impl EpochOrder {
    /// Draws the order of `epoch`, from 0. A global batch size of 0 counts as 1.
    pub fn new(index: &dyn RowIndex, options: &PlanOptions, epoch: u64) -> Self {
        let num_rows = index.num_rows();
        let batch_size = u64::from(options.global_batch_size.max(1));
        let rows = match options.order {
            Order::Sequential => None,
            Order::Shuffled => {
                let mut rows: Vec<RowId> = (0..num_rows).map(RowId).collect();
                PlanRng::new(options.seed, epoch, Purpose::Rows).shuffle(&mut rows);
                Some(rows)
            }
            Order::Stratified => Some(stratified::rows(index, options.seed, epoch, batch_size)),
        };
        let mut order = Self { epoch, num_rows, batch_size, rows, witnesses: Witnesses::default() };
        if options.needs_pairs {
            let positions = 0..num_rows;
            order.witnesses = Witnesses::of(index, positions.map(|position| order.row(position)));
        }
        order
    }

    /// The epoch, from 0.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Global batches in an epoch; the last may be smaller than the others.
    pub fn steps_per_epoch(&self) -> u64 {
        self.num_rows.div_ceil(self.batch_size)
    }

    /// Epochs completed when `step` is done, counted in steps as transformers does.
    pub fn epochs_done(&self, step: Step) -> f64 {
        step.0 as f64 / self.steps_per_epoch().max(1) as f64
    }

    /// The epoch of `step`, from 0, in a run with so many steps an epoch.
    pub fn epoch_of(step: Step, steps_per_epoch: u64) -> u64 {
        step.0.saturating_sub(1) / steps_per_epoch.max(1)
    }

    /// The row at a position; positions beyond the end start again from the front.
    pub(crate) fn row(&self, position: u64) -> RowId {
        let position = position % self.num_rows;
        match &self.rows {
            Some(rows) => rows[position as usize],
            None => RowId(position),
        }
    }

    /// Positions of the global batch of `step`.
    pub(crate) fn batch(&self, step: Step) -> Range<u64> {
        let steps_per_epoch = self.steps_per_epoch();
        let batch_idx = step.0.saturating_sub(1) % steps_per_epoch.max(1);
        let start = batch_idx * self.batch_size;
        start..(start + self.batch_size).min(self.num_rows)
    }

    pub(crate) fn num_rows(&self) -> u64 {
        self.num_rows
    }

    pub(crate) fn batch_size(&self) -> u64 {
        self.batch_size
    }

    pub(crate) fn witnesses(&self) -> &Witnesses {
        &self.witnesses
    }
}
