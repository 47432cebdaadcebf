//! Floating-point operations that the mathematics of a step needs: two per weight and token in a
//! forward pass, and the causal half of attention. A backward pass costs twice its forward pass.
//! Work that an implementation does over again is not counted.

use prospect_core::Sequence;

use crate::config::ModelConfig;
use crate::spec;

/// What a pass costs, per kind of work.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PassCost {
    /// Weights of all blocks.
    block_weights: f64,
    /// Weights of the head, which only completion tokens meet.
    head_weights: f64,
    /// Width of all heads of all layers together.
    attention_width: f64,
}

impl PassCost {
    /// The cost of passes through a model of this shape.
    pub fn new(config: &ModelConfig) -> Self {
        let segments = spec::segments(config);
        let blocks = segments[1..=config.num_layers].iter().flatten();
        Self {
            block_weights: blocks.map(|parameter| parameter.numel() as f64).sum(),
            head_weights: (config.vocab_size * config.hidden_size) as f64,
            attention_width: (config.num_heads * config.head_dim) as f64 * config.num_layers as f64,
        }
    }

    /// A pass without gradient.
    pub fn scored(&self, sequence: &Sequence) -> f64 {
        // The last token is predicted and never an input.
        let num_inputs = (sequence.num_tokens() - 1) as f64;
        let num_predicted = sequence.num_completion_tokens() as f64;
        self.forward(num_inputs, num_predicted, num_inputs * num_inputs)
    }

    /// What a pass without gradient adds for a sequence behind a prompt that it shares.
    pub fn scored_behind_prompt(&self, sequence: &Sequence) -> f64 {
        let num_shared = f64::from(sequence.completion_start);
        self.scored(sequence) - self.blocks_forward(num_shared, num_shared * num_shared)
    }

    /// Forward and backward.
    pub fn trained(&self, sequence: &Sequence) -> f64 {
        3.0 * self.scored(sequence)
    }

    /// A forward pass over inputs of which some predict a completion token; `squares` is the sum
    /// of the squares of the sequences' lengths.
    pub fn forward(&self, num_inputs: f64, num_predicted: f64, squares: f64) -> f64 {
        2.0 * (self.block_weights * num_inputs
            + self.head_weights * num_predicted
            + self.attention_width * squares)
    }

    /// The blocks' part of [`forward`](Self::forward).
    pub fn blocks_forward(&self, num_inputs: f64, squares: f64) -> f64 {
        self.forward(num_inputs, 0.0, squares)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::smollm2_135m;

    #[test]
    fn a_pass_costs_two_operations_a_weight_and_half_of_the_attention() {
        let config = smollm2_135m();
        let cost = PassCost::new(&config);
        // 30 blocks of q and o (576 x 576), k and v (192 x 576), three of 1536 x 576, two norms.
        let weights = 30 * (2 * 576 * 576 + 2 * 192 * 576 + 3 * 1536 * 576 + 2 * 576);
        let sequence = Sequence { token_ids: vec![0; 101], completion_start: 61, ..sequence() };
        let attention = 2.0 * 576.0 * 30.0 * 100.0 * 100.0;
        let head = 2.0 * (49152 * 576 * 40) as f64;
        let expected = 2.0 * f64::from(weights) * 100.0 + head + attention;
        assert_eq!(cost.scored(&sequence), expected);
        assert_eq!(cost.trained(&sequence), 3.0 * expected);
        assert_eq!(cost.blocks_forward(100.0, 1e4), expected - head);
        let shared = cost.blocks_forward(61.0, 3721.0);
        assert_eq!(cost.scored_behind_prompt(&sequence), expected - shared);
    }

    fn sequence() -> Sequence {
        Sequence {
            prompt_row: prospect_core::RowId(0),
            completion_row: prospect_core::RowId(0),
            token_ids: Vec::new(),
            completion_start: 0,
            reference_log_prob: None,
        }
    }
}
