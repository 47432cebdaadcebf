//! Sums gradients over ranks while the backward pass is still under way: a segment's reduction
//! starts as soon as its gradient is final. Every rank starts them in the same order, from the
//! end of the chain to its beginning, whether it had sequences or not.

use prospect_libtorch::{ProcessGroup, Work};

use crate::TrainError;
use crate::parameters::Parameters;

/// Reductions that were started.
pub(crate) struct Reduction<'a> {
    group: &'a ProcessGroup,
    works: Vec<Work>,
    /// Segments whose reduction has not started: this many from the beginning of the chain.
    num_pending: usize,
}

impl<'a> Reduction<'a> {
    /// Nothing started yet.
    pub(crate) fn new(group: &'a ProcessGroup, parameters: &Parameters) -> Self {
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
    pub(crate) fn finish(mut self, parameters: &Parameters) -> Result<(), TrainError> {
        self.start_from(0, parameters)?;
        for work in self.works {
            work.wait()?;
        }
        Ok(())
    }
}
