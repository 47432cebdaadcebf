//! Sums gradients over ranks. The fast way is an all-reduce of each segment that starts while the
//! backward pass is still under way, as soon as the segment's gradient is final. The canonical way
//! is in `canonical`. Every rank starts its collectives in the same order, from the end of the
//! chain to its beginning, whether it had sequences or not.

use prospect_core::{TrainConfig, parts_of_rank};
use prospect_libtorch::{ProcessGroup, Work};

use crate::TrainError;
use crate::canonical::Canonical;
use crate::parameters::Parameters;
use crate::progress::Progress;

/// How the gradients of a step become those of the global batch.
pub(crate) enum Summation<'a> {
    /// All-reduce of the sum over this rank's sequences.
    Fast(Reduction<'a>),
    /// Fixed tree over parts.
    Canonical(Canonical<'a>),
}

/// Reductions that were started.
pub(crate) struct Reduction<'a> {
    group: &'a ProcessGroup,
    works: Vec<Work>,
    /// Segments whose reduction has not started: this many from the beginning of the chain.
    num_pending: usize,
}

// === impl Summation ===

impl<'a> Summation<'a> {
    /// Nothing started yet.
    pub(crate) fn new(
        config: &TrainConfig,
        group: &'a ProcessGroup,
        parameters: &Parameters,
    ) -> Self {
        match config.reduction {
            prospect_core::Reduction::Fast => Self::Fast(Reduction::new(group, parameters)),
            prospect_core::Reduction::Canonical => {
                Self::Canonical(Canonical::new(group, config.reduction_parts))
            }
        }
    }

    /// What the backward pass of a part's last microbatch may start.
    pub(crate) fn overlap(&mut self) -> Option<&mut Reduction<'a>> {
        match self {
            Self::Fast(reduction) => Some(reduction),
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

impl<'a> Reduction<'a> {
    /// Nothing started yet.
    fn new(group: &'a ProcessGroup, parameters: &Parameters) -> Self {
        Self { group, works: Vec::new(), num_pending: parameters.segments.len() }
    }

    /// Starts the reductions of this segment and all behind it, whose gradients are final.
    pub(crate) fn start_from(
        &mut self,
        segment: usize,
        parameters: &Parameters,
    ) -> Result<(), TrainError> {
        while self.num_pending > segment {
            self.num_pending -= 1;
            let mut gradient = parameters.segments[self.num_pending].gradient.shallow_clone();
            self.works.push(self.group.all_reduce_sum(&mut gradient)?);
        }
        Ok(())
    }

    /// Starts what is left and waits for everything.
    fn finish(mut self, parameters: &Parameters, progress: &Progress) -> Result<(), TrainError> {
        self.start_from(0, parameters)?;
        for work in self.works {
            work.wait()?;
            progress.tick();
        }
        Ok(())
    }
}
