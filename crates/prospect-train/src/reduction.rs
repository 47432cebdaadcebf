//! Sums gradients over ranks. The fast way is an all-reduce of each segment that starts while the
//! backward pass is still under way, as soon as the segment's gradient is final; where ranks share the
//! optimizer's state it is a reduce-scatter, and where they share the gradients too, one for each
//! pass. The canonical way is in `canonical`. Every rank starts its collectives in the same order, from the end of the
//! chain to its beginning, whether it had sequences or not.

use std::collections::VecDeque;

use prospect_core::{Mode, TrainConfig, parts_of_rank};
use prospect_libtorch::{ProcessGroup, Work};
use tch::Tensor;

use crate::TrainError;
use crate::canonical::Canonical;
use crate::clock::{Clock, Phase};
use crate::parameters::Parameters;
use crate::progress::Progress;

/// How the gradients of a step become those of the global batch.
pub(crate) enum Summation<'a> {
    /// All-reduce or reduce-scatter of the sum over this rank's sequences.
    Fast(Reduction<'a>),
    /// Fixed tree over parts.
    Canonical(Canonical<'a>),
}

/// Reductions of one pass after another that were started: where gradients are sharded of every
/// pass, elsewhere of the last.
pub(crate) struct Reduction<'a> {
    group: &'a ProcessGroup,
    /// Tells waits apart from the backward pass that they interrupt.
    clock: &'a Clock,
    works: VecDeque<InFlight>,
    /// Segments whose reduction has not started: this many from the beginning of the chain.
    num_pending: usize,
}

/// A reduction on its way.
struct InFlight {
    work: Work,
    /// A segment whose shard of the gradient takes this rank's shard of the tensor, f32
    /// `[padded_len]`.
    then_add: Option<(usize, Tensor)>,
}

/// Most gradients of single passes that are on their way while a block's next one is computed.
const MAX_PRODUCTS: usize = 1;

// === impl Summation ===

impl<'a> Summation<'a> {
    /// Nothing started yet. The clock measures the step.
    pub(crate) fn new(
        config: &TrainConfig,
        group: &'a ProcessGroup,
        clock: &'a Clock,
        parameters: &Parameters,
    ) -> Self {
        match config.reduction {
            prospect_core::Reduction::Fast => {
                let num_pending = parameters.segments.len();
                Self::Fast(Reduction { group, clock, works: VecDeque::new(), num_pending })
            }
            prospect_core::Reduction::Canonical => {
                Self::Canonical(Canonical::new(group, config.reduction_parts))
            }
        }
    }

    /// What the backward pass of a part's microbatch may start.
    pub(crate) fn overlap(
        &mut self,
        is_last: bool,
        parameters: &Parameters,
    ) -> Option<&mut Reduction<'a>> {
        match self {
            Self::Fast(reduction) => {
                let is_each = parameters.mode == Mode::FullySharded;
                if is_each {
                    reduction.num_pending = parameters.segments.len();
                }
                (is_each || is_last).then_some(reduction)
            }
            Self::Canonical(_) => None,
        }
    }

    /// Takes note that the gradients hold the sum over one part, and that the next begins.
    pub(crate) fn end_part(
        &mut self,
        part: u32,
        parameters: &mut Parameters,
    ) -> Result<(), TrainError> {
        match self {
            // A rank has one part.
            Self::Fast(_) => Ok(()),
            Self::Canonical(canonical) => canonical.end_part(part, parameters),
        }
    }

    /// Waits until the gradients are those of the global batch.
    pub(crate) fn finish(
        self,
        parameters: &mut Parameters,
        progress: &Progress,
    ) -> Result<(), TrainError> {
        match self {
            Self::Fast(reduction) => reduction.finish(parameters, progress),
            Self::Canonical(canonical) => canonical.finish(parameters, progress),
        }
    }
}

/// Numbers of the parts that a rank of `group` does.
pub(crate) fn parts_here(config: &TrainConfig, group: &ProcessGroup) -> std::ops::Range<u32> {
    // Ranks and world sizes are C integers.
    let (rank, world_size) = (prospect_core::Rank(group.rank() as u32), group.world_size() as u32);
    parts_of_rank(rank, world_size, config.num_parts(world_size))
}

// === impl Reduction ===

impl Reduction<'_> {
    /// Starts the reductions of this segment and all behind it, whose gradients are final.
    pub(crate) fn start_from(
        &mut self,
        segment: usize,
        parameters: &Parameters,
    ) -> Result<(), TrainError> {
        while self.num_pending > segment {
            self.num_pending -= 1;
            if parameters.mode == Mode::FullySharded && self.works.len() == MAX_PRODUCTS {
                // This is waited for while the pass goes on.
                self.clock.lap(Phase::ForwardBackward)?;
                self.end_first(parameters)?;
                self.clock.lap(Phase::AllReduce)?;
            }
            let mut gradient = match parameters.mode {
                Mode::FullySharded => parameters.take_product(self.num_pending)?,
                _ => parameters.segments[self.num_pending].gradient.shallow_clone(),
            };
            let work = match parameters.mode {
                Mode::Replicated => self.group.all_reduce_sum(&mut gradient)?,
                _ => self.group.reduce_scatter_sum_in_place(&mut gradient)?,
            };
            let then_add =
                (parameters.mode == Mode::FullySharded).then_some((self.num_pending, gradient));
            self.works.push_back(InFlight { work, then_add });
        }
        Ok(())
    }

    /// Starts what is left and waits for everything.
    fn finish(mut self, parameters: &Parameters, progress: &Progress) -> Result<(), TrainError> {
        if parameters.mode != Mode::FullySharded {
            self.start_from(0, parameters)?;
        }
        while self.end_first(parameters)? {
            progress.tick();
        }
        Ok(())
    }

    /// Waits for the reduction that was started first; false where there is none.
    fn end_first(&mut self, parameters: &Parameters) -> Result<bool, TrainError> {
        let Some(InFlight { work, then_add }) = self.works.pop_front() else { return Ok(false) };
        work.wait()?;
        if let Some((idx, whole)) = then_add {
            let _no_grad = tch::no_grad_guard();
            let segment = &parameters.segments[idx];
            let _ = segment.gradient.shallow_clone().f_add_(&segment.shard_of(&whole)?)?;
        }
        Ok(true)
    }
}
