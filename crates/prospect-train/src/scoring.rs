//! Log-probabilities of completions under a model, outside of a training step.

use prospect_core::Sequence;
use prospect_model::CausalLm;

use crate::TrainError;
use crate::chain::{Chain, score_passes};
use crate::progress::Progress;
use crate::readback::Readback;
use crate::shard::check_sequence;
use crate::sharing::pack;

/// Sum of the completion's log-probabilities for each sequence, in nats, without gradient. Up to
/// `microbatch_tokens` tokens are computed together, each prompt once for all sequences of a pass
/// that have it; a longer sequence is computed alone.
///
/// # Errors
/// A sequence without prompt or completion or with a token outside of the vocabulary; what the
/// model fails with.
pub fn score(
    model: &CausalLm,
    sequences: &[Sequence],
    microbatch_tokens: u32,
) -> Result<Vec<f64>, TrainError> {
    for sequence in sequences {
        check_sequence(sequence, model.config().vocab_size)
            .map_err(|problem| TrainError::Shard { step: Default::default(), problem })?;
    }
    let progress = Progress::default();
    let sequences: Vec<&Sequence> = sequences.iter().collect();
    let passes = pack(&sequences, 0..sequences.len(), microbatch_tokens as usize);
    let (chain, mut readback) = (Chain::whole(model, &progress), Readback::default());
    let scores = score_passes(&chain, &sequences, &passes, &mut readback)?;
    Ok(scores.in_order(sequences.len(), &readback.read()?))
}
