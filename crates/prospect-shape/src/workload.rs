//! What the sequences of a step come to.

use prospect_core::{ObjectiveName, RunConfig};
use serde::Serialize;

use crate::setup::Setup;

/// Lengths of the rows, in tokens.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Lengths {
    /// Tokens of a prompt, on average.
    pub mean_prompt: f64,
    /// Tokens of a completion, on average.
    pub mean_completion: f64,
    /// Square of a sequence's length, on average.
    pub mean_square: f64,
    /// The longest sequence.
    pub longest: u32,
}

/// What one step of a run asks for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Workload {
    /// Rows in a global batch.
    pub global_batch_size: u32,
    /// Their lengths. Mismatched pairs are taken to be as long as the rows are.
    pub lengths: Lengths,
    /// Whether mismatched pairs are scored.
    pub pairs: bool,
}

// === impl Lengths ===

impl Lengths {
    /// Of rows given by the tokens of prompt and completion. None without rows.
    pub fn of(rows: impl Iterator<Item = (u32, u32)>) -> Option<Self> {
        let (mut num_rows, mut prompts, mut completions, mut squares) = (0.0, 0.0, 0.0, 0.0);
        let mut longest = 0;
        for (prompt, completion) in rows {
            let length = prompt + completion;
            num_rows += 1.0;
            prompts += f64::from(prompt);
            completions += f64::from(completion);
            squares += f64::from(length) * f64::from(length);
            longest = longest.max(length);
        }
        (longest > 0).then(|| Self {
            mean_prompt: prompts / num_rows,
            mean_completion: completions / num_rows,
            mean_square: squares / num_rows,
            longest,
        })
    }

    /// Rows that are all alike.
    pub fn uniform(prompt: u32, completion: u32) -> Self {
        let length = prompt + completion;
        Self {
            mean_prompt: f64::from(prompt),
            mean_completion: f64::from(completion),
            mean_square: f64::from(length) * f64::from(length),
            longest: length,
        }
    }

    /// Tokens of a sequence, on average.
    pub fn mean(&self) -> f64 {
        self.mean_prompt + self.mean_completion
    }

    /// Share of a sequence's tokens that belong to the completion.
    pub fn completion_share(&self) -> f64 {
        self.mean_completion / self.mean()
    }
}

// === impl Workload ===

impl Workload {
    /// Of a run whose rows are this long.
    pub fn of_run(config: &RunConfig, lengths: Lengths) -> Self {
        let global_batch_size = config.train.global_batch_size;
        Self { global_batch_size, lengths, pairs: config.objective.name == ObjectiveName::Kto }
    }

    /// Tokens of the rows of a step, which are what a run learns from.
    pub fn tokens(&self) -> f64 {
        f64::from(self.global_batch_size) * self.lengths.mean()
    }

    /// Most tokens of rows that a pass can have: those of one part of a global batch, which with the
    /// fast reduction is all that a worker does of it.
    pub fn most_tokens_of_pass(&self, setup: &Setup) -> u32 {
        let num_parts = setup.num_parts.unwrap_or(setup.world_size);
        let rows = self.global_batch_size.div_ceil(num_parts.max(1));
        rows.saturating_mul(self.lengths.longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::DeviceKind;
    use crate::testing::setup;

    #[test]
    fn a_pass_holds_rows_of_one_part() {
        let lengths = Lengths::uniform(6, 4);
        let workload = Workload { global_batch_size: 33, lengths, pairs: true };
        let most = |world_size, num_parts| {
            let setup = Setup { world_size, num_parts, ..setup(DeviceKind::Cpu) };
            workload.most_tokens_of_pass(&setup)
        };
        assert_eq!([most(1, None), most(4, None)], [330, 90]);
        assert_eq!([most(1, Some(8)), most(4, Some(8))], [50, 50]);
    }

    #[test]
    fn lengths_are_averages() {
        let lengths = Lengths::of([(2, 4), (6, 4)].into_iter()).unwrap();
        assert_eq!((lengths.mean_prompt, lengths.mean_completion), (4.0, 4.0));
        assert_eq!((lengths.mean_square, lengths.longest), (68.0, 10));
        assert_eq!(lengths.completion_share(), 0.5);
        assert_eq!(Lengths::of(std::iter::empty()), None);
        assert_eq!(Lengths::of([(3, 5)].into_iter()), Some(Lengths::uniform(3, 5)));
    }
}
