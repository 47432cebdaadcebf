//! Log-probabilities of completions under a model, outside of a training step.

use prospect_core::Sequence;
use prospect_model::CausalLm;

use crate::TrainError;
use crate::chain::{Chain, score_batch};
use crate::progress::Progress;
use crate::readback::Readback;
use crate::shard::check_sequence;

/// Sum of the completion's log-probabilities for each sequence, in nats, without gradient.
/// Neighbours are packed together up to `microbatch_tokens` tokens; a longer sequence is computed
/// alone.
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
    let chain = Chain::whole(model, &progress);
    let budget = microbatch_tokens as usize;
    let mut log_probs = Readback::default();
    let mut batch: Vec<&Sequence> = Vec::new();
    let mut num_tokens = 0;
    for sequence in sequences {
        if !batch.is_empty() && num_tokens + sequence.num_tokens() > budget {
            log_probs.push(score_batch(&chain, &batch)?)?;
            batch.clear();
            num_tokens = 0;
        }
        batch.push(sequence);
        num_tokens += sequence.num_tokens();
    }
    if !batch.is_empty() {
        log_probs.push(score_batch(&chain, &batch)?)?;
    }
    log_probs.read()
}
