//! Sequences of a microbatch laid end to end, and which of their hidden states the head needs.
//!
//! The hidden state at a position predicts the next token. So a sequence's last token is never
//! an input, and its completion `c..n` is predicted by the states at `c-1..n-1`.
//!
//! Shape suffixes: t tokens of the pass, n completion tokens.

use prospect_core::Sequence;
use prospect_model::{CausalLm, Layout};
use tch::{Device, Kind, Tensor};

use crate::TrainError;

/// Packed sequences on the model's device.
pub struct PackedBatch {
    /// i64 `[T]`: all tokens but each sequence's last.
    pub(crate) token_ids_t: Tensor,
    pub(crate) layout: Layout,
    /// i64 `[N]`: positions in `[T]` whose hidden states predict completion tokens.
    pub(crate) positions_n: Tensor,
    /// i64 `[N]`: the completion tokens.
    pub(crate) targets_n: Tensor,
    /// Completion tokens of each sequence, in order; their sum is N.
    pub(crate) num_completion_tokens: Vec<usize>,
}

impl PackedBatch {
    /// Packs sequences that have a prompt and a completion.
    ///
    /// # Errors
    /// No sequences, or one that is longer than the model allows.
    ///
    /// # Panics
    /// If a sequence lacks one of them.
    pub fn new(model: &CausalLm, sequences: &[&Sequence]) -> Result<Self, TrainError> {
        let mut token_ids: Vec<i64> = Vec::new();
        let mut positions: Vec<i64> = Vec::new();
        let mut targets: Vec<i64> = Vec::new();
        let mut lengths = Vec::with_capacity(sequences.len());
        for sequence in sequences {
            let (ids, start) = (&sequence.token_ids, sequence.completion_start as usize);
            assert!((1..ids.len()).contains(&start), "sequences have a prompt and a completion");
            let offset = token_ids.len();
            lengths.push(ids.len() - 1);
            token_ids.extend(ids[..ids.len() - 1].iter().map(|&id| i64::from(id)));
            positions.extend((start..ids.len()).map(|token_idx| (offset + token_idx - 1) as i64));
            targets.extend(ids[start..].iter().map(|&id| i64::from(id)));
        }
        Ok(Self {
            token_ids_t: indices(&token_ids, model.device())?,
            layout: model.layout(&lengths)?,
            positions_n: indices(&positions, model.device())?,
            targets_n: indices(&targets, model.device())?,
            num_completion_tokens: sequences.iter().map(|s| s.num_completion_tokens()).collect(),
        })
    }

    /// Sums the log-probabilities `[N]` of the completion tokens per sequence, in f64.
    pub(crate) fn sum_per_sequence(&self, log_probs_n: &Tensor) -> Result<Vec<f64>, TrainError> {
        let values =
            Vec::<f64>::try_from(&log_probs_n.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double)?)?;
        let mut rest = values.as_slice();
        let mut sums = Vec::with_capacity(self.num_completion_tokens.len());
        for &count in &self.num_completion_tokens {
            let (own, others) = rest.split_at(count);
            sums.push(own.iter().sum());
            rest = others;
        }
        Ok(sums)
    }

    /// One f32 per completion token, `[N]`, from one number per sequence.
    pub(crate) fn spread(&self, per_sequence: &[f64]) -> Result<Tensor, TrainError> {
        let values: Vec<f32> = per_sequence
            .iter()
            .zip(&self.num_completion_tokens)
            .flat_map(|(&value, &count)| std::iter::repeat_n(value as f32, count))
            .collect();
        Ok(Tensor::f_from_slice(&values)?.f_to_device(self.targets_n.device())?)
    }
}

fn indices(values: &[i64], device: Device) -> Result<Tensor, TrainError> {
    Ok(Tensor::f_from_slice(values)?.f_to_device(device)?)
}
