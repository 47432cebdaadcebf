//! How many passes a step has, where every rank takes part in every pass: as many as the rank with
//! the most of them.

use prospect_core::{Microbatch, Mode, Shard, ShardKind};
use tch::{Device, Kind, Tensor};

use crate::chain::{Chain, walk_backward_idly, walk_forward_idly};
use crate::parameters::Parameters;
use crate::passes::{mismatched, policy_passes, reference_passes, sequences};
use crate::reduction::Summation;
use crate::{TrainError, Trainer};

/// Passes of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Passes {
    /// Of the reference.
    pub(crate) reference: usize,
    /// Of the policy, without gradient.
    pub(crate) scored: usize,
    /// Of the policy, with gradient.
    pub(crate) trained: usize,
}

// === impl Passes ===

impl Passes {
    /// Those that this shard asks for.
    fn of(shard: &Shard, checks_drift: bool) -> Self {
        let mut passes = Self::default();
        for part in &shard.parts {
            let all = sequences(part);
            passes.reference += reference_passes(part, &all, checks_drift).0.len();
            match shard.kind {
                ShardKind::Train => {
                    passes.scored += policy_passes(part, &mismatched(part)).len();
                    passes.trained += num_filled(&part.target_microbatches);
                }
                ShardKind::Eval => passes.scored += policy_passes(part, &all).len(),
            }
        }
        passes
    }
}

impl Trainer {
    /// Works out with the other ranks how many passes this shard's step has, if they share weights.
    pub(crate) fn align(&mut self, shard: &Shard) -> Result<(), TrainError> {
        self.forget_passes()?;
        if self.parameters.mode != Mode::FullySharded {
            return Ok(());
        }
        let Passes { reference, scored, trained } = Passes::of(shard, self.checks_drift(shard));
        let group = self.world()?;
        let mine = [reference, scored, trained].map(|count| count as i64);
        let mine = Tensor::f_from_slice(&mine)?.f_to_device(self.device)?;
        let size = [group.world_size() as i64, 3];
        let mut all = Tensor::f_zeros(size, (Kind::Int64, self.device))?;
        group.all_gather(&mut all, &mine)?.wait()?;
        let most = all.f_amax([0_i64], false)?.f_to_device(Device::Cpu)?;
        let most = Vec::<i64>::try_from(&most)?;
        // What a failed collective left behind is not to be believed.
        group.check_health()?;
        let [reference, scored, trained] = [most[0], most[1], most[2]].map(|n| n as usize);
        self.passes = Passes { reference, scored, trained };
        Ok(())
    }

    /// Takes part in the first forward pass over targets, where only other ranks have one.
    pub(crate) fn idle_forward(&self) -> Result<(), TrainError> {
        if self.passes.trained > 0 { walk_forward_idly(&self.policy_chain()) } else { Ok(()) }
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
        while parameters.weights.num_passes() < self.passes.scored + self.passes.trained {
            let Some(reduction) = summation.overlap(false, parameters) else { return Ok(()) };
            if !std::mem::take(&mut is_forward_done) {
                walk_forward_idly(&chain)?;
            }
            walk_backward_idly(&chain, parameters, reduction)?;
        }
        Ok(())
    }
}

fn num_filled(microbatches: &[Microbatch]) -> usize {
    microbatches.iter().filter(|microbatch| !microbatch.is_empty()).count()
}
