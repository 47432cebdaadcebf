//! How sequences lie end to end in one pass, without padding.

use tch::Tensor;

use crate::error::{ModelError, TorchContext};
use crate::model::CausalLm;
use crate::rotary::RotaryTables;

/// Packed sequences: T tokens in all, positions starting anew with every sequence.
#[derive(Debug)]
pub struct Layout {
    /// i32 `[n + 1]` on the model's device: where each sequence begins, then T.
    pub cu_seqlens: Tensor,
    /// The same numbers on the host.
    pub cu_seqlens_host: Vec<i64>,
    /// Tokens of the longest sequence.
    pub max_seqlen: i64,
    /// Cosines and sines per token.
    pub rotary: RotaryTables,
}

impl Layout {
    /// Number of tokens, T.
    pub fn num_tokens(&self) -> usize {
        self.cu_seqlens_host.last().map_or(0, |total| *total as usize)
    }

    /// Number of sequences.
    pub fn num_sequences(&self) -> usize {
        self.cu_seqlens_host.len() - 1
    }
}

impl CausalLm {
    /// The layout of sequences with these lengths, in tokens.
    ///
    /// # Errors
    /// No sequence, an empty one, or one that is longer than the model's positions.
    pub fn layout(&self, lengths: &[usize]) -> Result<Layout, ModelError> {
        if lengths.is_empty() {
            return Err(ModelError::argument("lengths", "empty", "a pass needs a sequence"));
        }
        let max_positions = self.config().max_positions;
        let mut ends = vec![0];
        let mut positions = Vec::with_capacity(lengths.iter().sum());
        for (sequence_idx, &length) in lengths.iter().enumerate() {
            if length == 0 {
                let argument = format!("length of sequence {sequence_idx}");
                return Err(ModelError::argument(argument, 0, "a sequence needs a token"));
            }
            if length > max_positions {
                return Err(ModelError::SequenceTooLong { sequence_idx, length, max_positions });
            }
            positions.extend(0..length as i64);
            ends.push(positions.len() as i64);
        }
        let ends_i32 = ends.iter().map(|&end| i32::try_from(end)).collect::<Result<Vec<i32>, _>>();
        let Ok(ends_i32) = ends_i32 else {
            let expected = "a pass holds fewer than 2^31 tokens; use smaller microbatches";
            return Err(ModelError::argument("number of tokens", positions.len(), expected));
        };
        let cu_seqlens = Tensor::f_from_slice(&ends_i32)
            .and_then(|tensor| tensor.f_to(self.device()))
            .action("place the lengths")?;
        Ok(Layout {
            cu_seqlens,
            cu_seqlens_host: ends,
            max_seqlen: lengths.iter().copied().max().unwrap_or(0) as i64,
            rotary: self.rotary(&positions)?,
        })
    }

    /// Cosines and sines for tokens at these positions of their sequences, for passes that lay
    /// out their attention themselves.
    ///
    /// # Errors
    /// libtorch's.
    pub fn rotary(&self, positions: &[i64]) -> Result<RotaryTables, ModelError> {
        Tensor::f_from_slice(positions)
            .and_then(|positions| positions.f_to(self.device()))
            .and_then(|positions| RotaryTables::new(self.frequencies(), &positions, self.kind()))
            .action("compute the rotary tables")
    }
}
