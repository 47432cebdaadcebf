//! The chain of a model as passes walk it, segment by segment. Where ranks share the weights, a visit
//! is a collective: every rank walks the same number of passes in the same order, some of them with
//! nothing to do.

mod score;
mod train;

pub(crate) use self::score::{Scores, score_passes};
pub(crate) use self::train::{ForwardPass, walk_backward_idly, walk_forward_idly};

use prospect_libtorch::ProcessGroup;
use prospect_model::CausalLm;

use crate::TrainError;
use crate::parameters::Weights;
use crate::progress::Progress;

/// A model whose segments are there while they are visited.
pub(crate) struct Chain<'a> {
    pub(crate) model: &'a CausalLm,
    pub(crate) progress: &'a Progress,
    /// Weights that may have to be gathered, and those who have them.
    gathered: Option<(&'a Weights, Option<&'a ProcessGroup>)>,
}

// === impl Chain ===

impl<'a> Chain<'a> {
    /// A model that is in memory as a whole.
    pub(crate) fn whole(model: &'a CausalLm, progress: &'a Progress) -> Self {
        Self { model, progress, gathered: None }
    }

    /// A model whose parameters are views into `weights`, which a group's ranks gather.
    pub(crate) fn gathered(
        model: &'a CausalLm,
        progress: &'a Progress,
        weights: &'a Weights,
        group: Option<&'a ProcessGroup>,
    ) -> Self {
        Self { model, progress, gathered: Some((weights, group)) }
    }

    /// Runs `work` on a segment, whose weights are there meanwhile. `next` is the segment that is
    /// visited after it in this pass. The first and the last segment stay until
    /// [`end_pass`](Self::end_pass).
    pub(crate) fn visit<T>(
        &self,
        segment: usize,
        next: Option<usize>,
        work: impl FnOnce(&CausalLm) -> Result<T, TrainError>,
    ) -> Result<T, TrainError> {
        if let Some((weights, group)) = self.gathered {
            weights.bring(segment, next, group.ok_or(TrainError::NoWorld)?)?;
        }
        let done = work(self.model)?;
        if let Some((weights, _)) = self.gathered {
            weights.leave(segment)?;
        }
        self.progress.tick();
        Ok(done)
    }

    /// Says that this pass visits nothing more.
    pub(crate) fn end_pass(&self) -> Result<(), TrainError> {
        self.gathered.map_or(Ok(()), |(weights, _)| weights.end_pass())
    }

    /// Takes part in passes without gradient that only other ranks need, until `num_passes` have been
    /// done since they were counted from 0.
    pub(crate) fn idle_until(&self, num_passes: usize) -> Result<(), TrainError> {
        while self.gathered.is_some_and(|(weights, _)| weights.num_passes() < num_passes) {
            walk_forward_idly(self)?;
            self.end_pass()?;
        }
        Ok(())
    }
}
