//! Floating-point operations that the mathematics of a step needs: two per weight and token in a
//! forward pass, and the causal half of attention. A backward pass costs twice its forward pass.
//! Work that an implementation does over again is not counted.

use prospect_core::Sequence;
use prospect_model::CausalLm;

/// What a pass costs, per kind of work.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PassCost {
    /// Weights of all blocks.
    block_weights: f64,
    /// Weights of the head, which only completion tokens meet.
    head_weights: f64,
    /// Width of all heads of all layers together.
    attention_width: f64,
}

impl PassCost {
    pub(crate) fn new(model: &CausalLm) -> Self {
        let config = model.config();
        let block_weights = (1..=config.num_layers)
            .flat_map(|segment| model.segment_parameters(segment))
            .map(|parameter| parameter.tensor.numel() as f64)
            .sum();
        Self {
            block_weights,
            head_weights: (config.vocab_size * config.hidden_size) as f64,
            attention_width: (config.num_heads * config.head_dim) as f64 * config.num_layers as f64,
        }
    }

    /// A pass without gradient.
    pub(crate) fn scored(&self, sequence: &Sequence) -> f64 {
        // The last token is predicted and never an input.
        let num_inputs = (sequence.num_tokens() - 1) as f64;
        let num_predicted = sequence.num_completion_tokens() as f64;
        2.0 * (self.block_weights * num_inputs
            + self.head_weights * num_predicted
            + self.attention_width * num_inputs * num_inputs)
    }

    /// What a pass without gradient adds for a sequence behind a prompt that it shares.
    pub(crate) fn scored_behind_prompt(&self, sequence: &Sequence) -> f64 {
        let num_shared = f64::from(sequence.completion_start);
        self.scored(sequence)
            - 2.0
                * (self.block_weights * num_shared + self.attention_width * num_shared * num_shared)
    }

    /// Forward and backward.
    pub(crate) fn trained(&self, sequence: &Sequence) -> f64 {
        3.0 * self.scored(sequence)
    }
}
