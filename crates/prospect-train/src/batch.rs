//! Sequences of a microbatch laid end to end, and which of their hidden states the head needs.
//!
//! The hidden state at a position predicts the next token. So a sequence's last token is never
//! an input, and its completion `c..n` is predicted by the states at `c-1..n-1`. The first of these
//! belongs to the prompt: where sequences share one, it predicts the first token of each.
//!
//! Shape suffixes: t tokens of the pass, n completion tokens, s sequences.

use std::ops::Range;

use prospect_core::Sequence;
use prospect_libtorch::upload;
use prospect_model::{CausalLm, Layout, Span};
use tch::{Kind, Tensor};

use crate::TrainError;
use crate::sharing::{Prompts, first_with_prompt};

/// Packed sequences on the model's device.
pub struct PackedBatch {
    /// i64 `[T]`: all tokens but each sequence's last, a shared prompt's once.
    pub(crate) token_ids_t: Tensor,
    pub(crate) layout: Layout,
    /// i64 `[N]`: positions in `[T]` whose hidden states predict completion tokens.
    pub(crate) positions_n: Tensor,
    /// i64 `[N]`: the completion tokens.
    pub(crate) targets_n: Tensor,
    /// i64 `[S]`: completion tokens of each sequence, in order; their sum is N.
    pub(crate) num_completion_tokens_s: Tensor,
    /// Prompt tokens that are not among the T, since an earlier sequence has the same prompt.
    pub(crate) num_shared_tokens: u64,
}

impl PackedBatch {
    /// Packs sequences that have a prompt and a completion, each whole.
    ///
    /// # Errors
    /// No sequences, or one that is longer than the model allows.
    ///
    /// # Panics
    /// If a sequence lacks one of them.
    pub fn new(model: &CausalLm, sequences: &[&Sequence]) -> Result<Self, TrainError> {
        Self::without_gradient(model, sequences, Prompts::Apart)
    }

    /// The same for a pass that may share prompts, which has no gradient.
    pub(crate) fn without_gradient(
        model: &CausalLm,
        sequences: &[&Sequence],
        prompts: Prompts,
    ) -> Result<Self, TrainError> {
        let first = match prompts {
            Prompts::Apart => (0..sequences.len()).collect(),
            Prompts::Shared => first_with_prompt(sequences),
        };
        let mut token_ids: Vec<i64> = Vec::new();
        let mut positions: Vec<i64> = Vec::new();
        let mut targets: Vec<i64> = Vec::new();
        let mut num_completion_tokens = Vec::with_capacity(sequences.len());
        let mut spans = Vec::with_capacity(sequences.len());
        let mut num_shared_tokens = 0;
        // Where in the pass each sequence's prompt is.
        let mut prompt_places: Vec<Range<usize>> = Vec::with_capacity(sequences.len());
        for (idx, sequence) in sequences.iter().enumerate() {
            let (ids, start) = (&sequence.token_ids, sequence.completion_start as usize);
            assert!((1..ids.len()).contains(&start), "sequences have a prompt and a completion");
            let begin = token_ids.len();
            let (prefix, own) = match first[idx] {
                first if first < idx => (prompt_places[first].clone(), start..ids.len() - 1),
                _ => (begin..begin, 0..ids.len() - 1),
            };
            let prompt = if prefix.is_empty() { begin..begin + start } else { prefix.clone() };
            let completion = begin + start - own.start;
            positions.push(prompt.end as i64 - 1);
            positions.extend((completion..begin + own.len()).map(|place| place as i64));
            targets.extend(ids[start..].iter().map(|&id| i64::from(id)));
            num_completion_tokens.push((ids.len() - start) as i64);
            num_shared_tokens += prefix.len() as u64;
            // A completion of one token is predicted by its prompt alone.
            if !own.is_empty() {
                spans.push(Span { prefix, length: own.len() });
            }
            token_ids.extend(ids[own].iter().map(|&id| i64::from(id)));
            prompt_places.push(prompt);
        }
        let device = model.device();
        Ok(Self {
            token_ids_t: upload(&token_ids, device)?,
            layout: model.layout_of(&spans)?,
            positions_n: upload(&positions, device)?,
            targets_n: upload(&targets, device)?,
            num_completion_tokens_s: upload(&num_completion_tokens, device)?,
            num_shared_tokens,
        })
    }

    /// Sums the log-probabilities `[N]` of the completion tokens per sequence: f64 `[S]`, on a
    /// CPU in the order of their tokens. Nothing is read from the device.
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
