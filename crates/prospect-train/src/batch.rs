//! Sequences of a microbatch laid end to end, and which of their hidden states the head needs.
//!
//! The hidden state at a position predicts the next token. So a sequence's last token is never
//! an input, and its completion `c..n` is predicted by the states at `c-1..n-1`.
//!
//! Shape suffixes: t tokens of the pass, n completion tokens, s sequences.

use prospect_core::Sequence;
use prospect_model::{CausalLm, Layout};
use tch::kind::Element;
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
    /// i64 `[S]`: completion tokens of each sequence, in order; their sum is N.
    pub(crate) num_completion_tokens_s: Tensor,
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
        let mut num_completion_tokens = Vec::with_capacity(sequences.len());
        for sequence in sequences {
            let (ids, start) = (&sequence.token_ids, sequence.completion_start as usize);
            assert!((1..ids.len()).contains(&start), "sequences have a prompt and a completion");
            let offset = token_ids.len();
            lengths.push(ids.len() - 1);
            token_ids.extend(ids[..ids.len() - 1].iter().map(|&id| i64::from(id)));
            positions.extend((start..ids.len()).map(|token_idx| (offset + token_idx - 1) as i64));
            targets.extend(ids[start..].iter().map(|&id| i64::from(id)));
            num_completion_tokens.push((ids.len() - start) as i64);
        }
        Ok(Self {
            token_ids_t: upload(&token_ids, model.device())?,
            layout: model.layout(&lengths)?,
            positions_n: upload(&positions, model.device())?,
            targets_n: upload(&targets, model.device())?,
            num_completion_tokens_s: upload(&num_completion_tokens, model.device())?,
        })
    }

    /// Sums the log-probabilities `[N]` of the completion tokens per sequence: f64 `[S]`, each in
    /// the order of its tokens. Nothing is read from the device.
    pub(crate) fn sum_per_sequence(&self, log_probs_n: &Tensor) -> Result<Tensor, TrainError> {
        let (lengths_s, none) = (Some(&self.num_completion_tokens_s), None);
        let values_n = log_probs_n.f_to_kind(Kind::Double)?;
        // The checks that are left out would read the lengths.
        Ok(Tensor::f_segment_reduce(&values_n, "sum", lengths_s, none, none, 0, true, 0.0)?)
    }

    /// One f32 per completion token, `[N]`, from one number per sequence, `[S]`.
    pub(crate) fn spread(&self, per_sequence_s: &Tensor) -> Result<Tensor, TrainError> {
        let repeats_s = &self.num_completion_tokens_s;
        let num_tokens = self.targets_n.size1()?;
        let values_s = per_sequence_s.f_to_kind(Kind::Float)?;
        Ok(values_s.f_repeat_interleave_self_tensor(repeats_s, 0, num_tokens)?)
    }
}

/// Numbers of the host on a device.
pub(crate) fn upload<T: Element>(values: &[T], device: Device) -> Result<Tensor, TrainError> {
    Ok(Tensor::f_from_slice(values)?.f_to_device(device)?)
}
