//! Checks a shard before anything is computed: a bad index or token would otherwise become a
//! panic, or on CUDA an assertion that ends the process.

use prospect_core::{Microbatch, Sequence, Shard};

use crate::{ShardProblem, TrainError};

/// Refuses a shard that contradicts itself or does not fit the vocabulary.
pub(crate) fn check(shard: &Shard, vocab_size: i64) -> Result<(), TrainError> {
    check_all(shard, vocab_size).map_err(|problem| TrainError::Shard { step: shard.step, problem })
}

/// Refuses a sequence that no pass can compute.
pub(crate) fn check_sequence(sequence: &Sequence, vocab_size: i64) -> Result<(), ShardProblem> {
    let (row, start) = (sequence.prompt_row, sequence.completion_start);
    if start == 0 || start as usize >= sequence.token_ids.len() {
        let num_tokens = sequence.token_ids.len();
        return Err(ShardProblem::EmptyPart { row, num_tokens, completion_start: start });
    }
    match sequence.token_ids.iter().find(|&&id| i64::from(id) >= vocab_size) {
        Some(&token_id) => Err(ShardProblem::UnknownToken { row, token_id, vocab_size }),
        None => Ok(()),
    }
}

fn check_all(shard: &Shard, vocab_size: i64) -> Result<(), ShardProblem> {
    if shard.num_examples_global == 0 && !shard.targets.is_empty() {
        return Err(ShardProblem::NoExamples);
    }
    check_partition(&shard.target_microbatches, shard.targets.len())?;
    check_partition(&shard.mismatched_microbatches, shard.mismatched.len())?;
    let targets = shard.targets.iter().map(|target| &target.sequence);
    for sequence in targets.chain(&shard.mismatched) {
        check_sequence(sequence, vocab_size)?;
    }
    Ok(())
}

/// Every sequence is in exactly one microbatch.
fn check_partition(microbatches: &[Microbatch], count: usize) -> Result<(), ShardProblem> {
    let mut times = vec![0; count];
    for &index in microbatches.iter().flatten() {
        match times.get_mut(index as usize) {
            Some(times) => *times += 1,
            None => return Err(ShardProblem::IndexOutOfRange { index, count }),
        }
    }
    match times.iter().position(|&times| times != 1) {
        Some(index) => Err(ShardProblem::NotOnce { index, times: times[index] }),
        None => Ok(()),
    }
}
