//! Which checkpoints were ordered, which are moved to their place, which are durable.

use std::collections::{BTreeMap, BTreeSet};

use prospect_core::{Step, WorkerId};

/// The checkpoints of a run.
#[derive(Clone, Debug, Default)]
pub(super) struct Checkpoints {
    /// Who is to write them.
    orders: BTreeMap<Step, WorkerId>,
    publishing: BTreeSet<Step>,
    durable: BTreeSet<Step>,
    failed: BTreeSet<Step>,
    /// Step that is saved whether or not its turn has come.
    out_of_turn: Option<Step>,
    /// How many failed since the last one that became durable.
    pub(super) num_failed: u32,
}

impl Checkpoints {
    /// Begins with the checkpoint that the run goes on from, step 0 for none.
    pub(super) fn new(resumed: Step) -> Self {
        let durable = (resumed > Step(0)).then_some(resumed).into_iter().collect();
        Self { durable, ..Self::default() }
    }

    /// Notes that a worker is to save a checkpoint after the step, unless there is one.
    pub(super) fn order(&mut self, step: Step, worker: WorkerId) {
        if step > Step(0) && !self.is_durable(step) && !self.is_publishing(step) {
            self.failed.remove(&step);
            self.orders.insert(step, worker);
        }
    }

    /// Notes that this step is to be saved whether or not its turn has come.
    pub(super) fn save_out_of_turn(&mut self, step: Step) {
        self.out_of_turn = Some(step);
    }

    pub(super) fn is_out_of_turn(&self, step: Step) -> bool {
        self.out_of_turn == Some(step)
    }

    /// Whether the checkpoint of the step could not be had.
    pub(super) fn has_failed(&self, step: Step) -> bool {
        self.failed.contains(&step)
    }

    pub(super) fn is_durable(&self, step: Step) -> bool {
        self.durable.contains(&step)
    }

    pub(super) fn is_publishing(&self, step: Step) -> bool {
        self.publishing.contains(&step)
    }

    pub(super) fn is_any_publishing(&self) -> bool {
        !self.publishing.is_empty()
    }

    /// Whether an ordered checkpoint is not yet durable.
    pub(super) fn any_pending(&self) -> bool {
        !self.orders.is_empty() || self.is_any_publishing()
    }

    /// Whether a worker has a checkpoint to write.
    pub(super) fn is_writing(&self, worker: &WorkerId) -> bool {
        self.orders.values().any(|writer| writer == worker)
    }

    /// Whether this worker is to write the checkpoint of the step.
    pub(super) fn is_ordered_from(&self, step: Step, worker: &WorkerId) -> bool {
        self.orders.get(&step) == Some(worker)
    }

    /// Step of the newest durable checkpoint, 0 for none.
    pub(super) fn newest(&self) -> Step {
        self.durable.last().copied().unwrap_or(Step(0))
    }

    /// Whether one that was written is of use: not the same as, nor older than one that is there.
    pub(super) fn is_wanted(&self, step: Step) -> bool {
        step > self.newest() && !self.is_publishing(step)
    }

    /// It is written and being moved to its place.
    pub(super) fn publish(&mut self, step: Step) {
        self.orders.remove(&step);
        self.publishing.insert(step);
    }

    /// It lies in its place. Whether that was being waited for.
    pub(super) fn published(&mut self, step: Step) -> bool {
        let was_publishing = self.publishing.remove(&step);
        if was_publishing {
            self.durable.insert(step);
            self.num_failed = 0;
            // Older ones are of no use any more.
            self.orders = self.orders.split_off(&step.next());
        }
        was_publishing
    }

    /// It could not be moved to its place. Whether that was being waited for.
    pub(super) fn rejected(&mut self, step: Step) -> bool {
        self.publishing.remove(&step)
    }

    /// It could not be had. Whether that was not known.
    pub(super) fn fail(&mut self, step: Step) -> bool {
        self.orders.remove(&step);
        let is_news = self.failed.insert(step);
        self.num_failed += u32::from(is_news);
        is_news
    }

    /// A worker is gone, and what it was to write with it.
    pub(super) fn drop_orders_of(&mut self, worker: &WorkerId) {
        self.orders.retain(|_, writer| writer != worker);
    }

    /// Nobody is waited for any more.
    pub(super) fn drop_orders(&mut self) {
        self.orders.clear();
        self.out_of_turn = None;
    }

    /// The oldest one that was not written, and who is to write it.
    pub(super) fn first_order(&self) -> Option<(Step, WorkerId)> {
        self.orders.first_key_value().map(|(step, worker)| (*step, worker.clone()))
    }

    /// Only what was taken up to this step is left.
    pub(super) fn go_back(&mut self, step: Step) {
        self.orders.clear();
        self.durable.split_off(&step.next());
        if step > Step(0) {
            self.durable.insert(step);
        }
    }
}
