//! How many passes a step has, where every rank takes part in every pass: as many as the rank with
//! the most of them.

use prospect_core::{Mode, Shard, ShardKind, Step};
use prospect_libtorch::upload;
use tch::{Kind, Tensor};

use crate::chain::{Chain, walk_backward_idly, walk_forward_idly};
use crate::parameters::Parameters;
use crate::passes::{mismatched, reference_passes, sequences};
use crate::readback::fetch;
use crate::reduction::{Summation, parts_here};
use crate::sharing::{budget, pack};
use crate::{ReferencePointExchange, TrainError, Trainer, shard as checks};

/// Passes of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Passes {
    /// Of the reference.
    pub(crate) reference: usize,
    /// Of the policy, without gradient.
    pub(crate) scoring: usize,
    /// Of the policy, forward and backward.
    pub(crate) training: usize,
}

// === impl Passes ===

impl Passes {
    /// Those that this shard asks for.
    fn of(shard: &Shard, checks_drift: bool) -> Self {
        let mut passes = Self::default();
        for part in &shard.parts {
            let all = sequences(part);
            passes.reference += reference_passes(part, &all, checks_drift).0.len();
            let scored = match shard.kind {
                ShardKind::Train => mismatched(part),
                ShardKind::Eval => all,
            };
            passes.scoring += pack(&scored, 0..scored.len(), budget(part)).len();
            if shard.kind == ShardKind::Train {
                passes.training +=
                    part.target_microbatches.iter().filter(|m| !m.is_empty()).count();
            }
        }
        passes
    }

    /// Of the reference, without gradient, and of training.
    pub(crate) fn counts(self) -> [usize; 3] {
        [self.reference, self.scoring, self.training]
    }

    /// The inverse of [`counts`](Self::counts).
    pub(crate) fn from_counts([reference, scoring, training]: [usize; 3]) -> Self {
        Self { reference, scoring, training }
    }
}

impl Trainer {
    /// Works out with the other ranks how many passes this shard's step has, if they share weights
    /// and have not done so at the end of the step before.
    pub(crate) fn align(&mut self, shard: &Shard) -> Result<(), TrainError> {
        if self.parameters.mode != Mode::FullySharded {
            return Ok(());
        }
        self.forget_passes()?;
        if shard.kind == ShardKind::Train
            && let Some((step, passes)) = self.next_passes.take()
            && step == shard.step
        {
            self.passes = passes;
            return Ok(());
        }
        let mine = Passes::of(shard, self.checks_drift(shard.kind));
        let mine = upload(&mine.counts().map(|count| count as i64), self.device)?;
        let group = self.world()?;
        let size = [group.world_size() as i64, 3];
        let mut all = Tensor::f_zeros(size, (Kind::Int64, self.device))?;
        group.all_gather(&mut all, &mine)?.wait()?;
        let most = Vec::<i64>::try_from(&fetch(&all.f_amax([0_i64], false)?)?)?;
        // What a failed collective left behind is not to be believed.
        group.check_health()?;
        self.passes = Passes::from_counts([most[0], most[1], most[2]].map(|n| n as usize));
        Ok(())
    }

    /// Passes of this rank's shard of the step after this one, if that has to be agreed on and the
    /// shard is here. One that will be refused tells nothing.
    pub(crate) fn passes_after(
        &self,
        step: Step,
        exchange: &mut dyn ReferencePointExchange,
    ) -> Result<Option<Passes>, TrainError> {
        if self.parameters.mode != Mode::FullySharded {
            return Ok(None);
        }
        let parts = parts_here(&self.config.train, self.world()?);
        let vocab_size = self.policy.config().vocab_size;
        let next = exchange.shard_after(step).filter(|next| {
            let is_next = (next.kind, next.step) == (ShardKind::Train, step.next());
            is_next && checks::check(next, parts, vocab_size).is_ok()
        });
        // Policy and reference differ from the first update on.
        Ok(next.map(|next| Passes::of(&next, false)))
    }

    /// Takes part in the first forward pass over targets, where only other ranks have one.
    pub(crate) fn idle_forward(&self) -> Result<(), TrainError> {
        if self.passes.training > 0 { walk_forward_idly(&self.policy_chain()) } else { Ok(()) }
    }

    /// Takes part in the training passes that only other ranks have; of the first one the forward
    /// pass may be done.
    pub(crate) fn idle_training(
        &self,
        summation: &mut Summation<'_>,
        mut is_forward_done: bool,
    ) -> Result<(), TrainError> {
        let parameters: &Parameters = &self.parameters;
        let chain: Chain<'_> = self.policy_chain();
        while parameters.weights.num_passes() < self.passes.scoring + self.passes.training {
            let Some(reduction) = summation.overlap(false, parameters) else { return Ok(()) };
            if !std::mem::take(&mut is_forward_done) {
                walk_forward_idly(&chain)?;
            }
            walk_backward_idly(&chain, parameters, reduction)?;
        }
        Ok(())
    }
}
