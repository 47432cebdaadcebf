//! How many passes a step has, where every rank takes part in every pass: as many as the rank with
//! the most of them.

use prospect_core::{Mode, Shard, ShardKind};
use tch::{Device, Kind, Tensor};

use crate::chain::{Chain, walk_backward_idly, walk_forward_idly};
use crate::parameters::Parameters;
use crate::passes::{mismatched, reference_passes, sequences};
use crate::reduction::Summation;
use crate::sharing::{budget, pack};
use crate::{TrainError, Trainer};

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
}

impl Trainer {
    /// Works out with the other ranks how many passes this shard's step has, if they share weights.
    pub(crate) fn align(&mut self, shard: &Shard) -> Result<(), TrainError> {
        if self.parameters.mode != Mode::FullySharded {
            return Ok(());
        }
        self.forget_passes()?;
        let Passes { reference, scoring, training } =
            Passes::of(shard, self.checks_drift(shard.kind));
        let group = self.world()?;
        let mine = [reference, scoring, training].map(|count| count as i64);
        let mine = Tensor::f_from_slice(&mine)?.f_to_device(self.device)?;
        let size = [group.world_size() as i64, 3];
        let mut all = Tensor::f_zeros(size, (Kind::Int64, self.device))?;
        group.all_gather(&mut all, &mine)?.wait()?;
        let most = all.f_amax([0_i64], false)?.f_to_device(Device::Cpu)?;
        let most = Vec::<i64>::try_from(&most)?;
        // What a failed collective left behind is not to be believed.
        group.check_health()?;
        let [reference, scoring, training] = [most[0], most[1], most[2]].map(|n| n as usize);
        self.passes = Passes { reference, scoring, training };
        Ok(())
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
