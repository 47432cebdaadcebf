//! The chain of a model as passes walk it, segment by segment.

mod score;
mod train;

pub(crate) use self::score::{score_passes, sums};
pub(crate) use self::train::ForwardPass;

use prospect_model::CausalLm;

use crate::TrainError;
use crate::progress::Progress;

/// A model whose segments are there while they are visited.
pub(crate) struct Chain<'a> {
    pub(crate) model: &'a CausalLm,
    pub(crate) progress: &'a Progress,
}

// === impl Chain ===

impl<'a> Chain<'a> {
    /// A model that is in memory as a whole.
    pub(crate) fn whole(model: &'a CausalLm, progress: &'a Progress) -> Self {
        Self { model, progress }
    }

    /// Runs `work` on a segment, whose weights are there meanwhile. `next` is the segment that is
    /// visited after it in this pass.
    pub(crate) fn visit<T>(
        &self,
        _segment: usize,
        _next: Option<usize>,
        work: impl FnOnce(&CausalLm) -> Result<T, TrainError>,
    ) -> Result<T, TrainError> {
        let done = work(self.model);
        self.progress.tick();
        done
    }
}
