//! What the ranks of a step tell each other when its gradient is there: the norm is made of it, and
//! what they would otherwise ask each other one by one. It is one small collective, read with
//! everything else that the step gives.

use prospect_core::Mode;
use prospect_libtorch::{ProcessGroup, upload};
use tch::{Kind, Tensor};

use crate::TrainError;
use crate::align::Passes;

/// What one rank tells.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Word {
    /// Its shard orders a checkpoint after the step.
    pub(crate) saves: bool,
    /// Passes of its shard of the next step, if that is here and they have to be agreed on.
    pub(crate) next: Option<Passes>,
}

/// What follows from the words of all ranks: the same on each of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Agreement {
    /// L2 norm of the global gradient; not finite if any element is not.
    pub(crate) grad_norm: f64,
    /// A rank's shard orders a checkpoint.
    pub(crate) saves: bool,
    /// Passes of the next step, if all ranks know theirs.
    pub(crate) next: Option<Passes>,
}

/// Numbers in a word: the sum of squares, whether it saves, and three counts.
const NUM_NUMBERS: usize = 5;

/// In place of a count that is not known.
const UNKNOWN: f64 = -1.0;

// === impl Word ===

impl Word {
    /// Tells the others, where they hold what this rank does not, together with the sum of squares of
    /// this rank's gradient, an f64 scalar. Returns the words of all ranks, f64 `[ranks · 5]`, on the
    /// device, from which nothing is read.
    pub(crate) fn tell(
        self,
        square: &Tensor,
        mode: Mode,
        group: &ProcessGroup,
    ) -> Result<Tensor, TrainError> {
        let counts = self.next.map_or([UNKNOWN; 3], |passes| passes.counts().map(|n| n as f64));
        let [reference, scoring, training] = counts;
        let rest = [f64::from(u8::from(self.saves)), reference, scoring, training];
        let mine = Tensor::f_cat(&[square.f_view([1])?, upload(&rest, square.device())?], 0)?;
        if mode == Mode::Replicated {
            return Ok(mine);
        }
        let size = (group.world_size() * NUM_NUMBERS) as i64;
        let mut all = Tensor::f_zeros([size], (Kind::Double, mine.device()))?;
        group.all_gather(&mut all, &mine)?.wait()?;
        Ok(all)
    }
}

// === impl Agreement ===

impl Agreement {
    /// Out of the words as they were read. Squares are added in the order of the ranks, so that all
    /// get the same bits.
    pub(crate) fn of(words: &[f64]) -> Self {
        let words = || words.chunks_exact(NUM_NUMBERS);
        let most = |idx: usize| words().map(|word| word[idx]).fold(0.0, f64::max) as usize;
        let all_know = words().all(|word| word[2] != UNKNOWN);
        Self {
            grad_norm: words().map(|word| word[0]).sum::<f64>().sqrt(),
            saves: words().any(|word| word[1] > 0.0),
            next: all_know.then(|| Passes::from_counts([most(2), most(3), most(4)])),
        }
    }
}

#[cfg(test)]
mod tests;
