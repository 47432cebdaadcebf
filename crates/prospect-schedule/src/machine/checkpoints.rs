//! Which checkpoints were ordered, which are durable.

use std::collections::{BTreeMap, BTreeSet};

use prospect_core::Step;

/// The checkpoints of a run.
#[derive(Clone, Debug, Default)]
pub(super) struct Checkpoints {
    ordered: BTreeSet<Step>,
    saved: BTreeMap<Step, Saved>,
    durable: BTreeSet<Step>,
}

/// What rank 0 said about a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Saved {
    pub(super) path: String,
    pub(super) manifest_sha256: String,
}

impl Checkpoints {
    /// Begins with the checkpoint that the run goes on from, step 0 for none.
    pub(super) fn new(resumed: Step) -> Self {
        let durable = (resumed > Step(0)).then_some(resumed).into_iter().collect();
        Self { durable, ..Self::default() }
    }

    /// Notes that a checkpoint is to be saved after the step, unless there is one.
    pub(super) fn order(&mut self, step: Step) {
        if !self.is_durable(step) {
            self.ordered.insert(step);
        }
    }

    pub(super) fn is_ordered(&self, step: Step) -> bool {
        self.ordered.contains(&step)
    }

    pub(super) fn is_durable(&self, step: Step) -> bool {
        self.durable.contains(&step)
    }

    /// Whether an ordered checkpoint is not yet durable.
    pub(super) fn any_pending(&self) -> bool {
        !self.ordered.is_empty()
    }

    /// Step of the newest durable checkpoint, 0 for none.
    pub(super) fn newest(&self) -> Step {
        self.durable.last().copied().unwrap_or(Step(0))
    }

    /// Notes what rank 0 wrote. It goes on record once its step is committed.
    pub(super) fn save(&mut self, step: Step, saved: Saved) {
        self.saved.entry(step).or_insert(saved);
    }

    /// Moves what was written up to the committed step on record, in order.
    pub(super) fn settle(&mut self, committed: Step) -> Vec<(Step, Saved)> {
        let later = self.saved.split_off(&committed.next());
        let settled = std::mem::replace(&mut self.saved, later);
        for step in settled.keys() {
            self.ordered.remove(step);
            self.durable.insert(*step);
        }
        settled.into_iter().collect()
    }
}
