//! Checks a shard before anything is computed: a bad index or token would otherwise become a
//! panic, or on CUDA an assertion that ends the process.

use std::ops::Range;

use prospect_core::{Microbatch, Sequence, Shard};

use crate::{ShardProblem, TrainError};

/// Refuses a shard that contradicts itself, does not hold the parts `expected` or does not fit the
/// vocabulary.
pub(crate) fn check(
    shard: &Shard,
    expected: Range<u32>,
    vocab_size: i64,
) -> Result<(), TrainError> {
    check_all(shard, expected, vocab_size)
        .map_err(|problem| TrainError::Shard { step: shard.step, problem })
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

fn check_all(shard: &Shard, expected: Range<u32>, vocab_size: i64) -> Result<(), ShardProblem> {
    if !shard.parts.iter().map(|part| part.part).eq(expected.clone()) {
        let found = shard.parts.iter().map(|part| part.part).collect();
        return Err(ShardProblem::WrongParts { found, expected });
    }
    for part in &shard.parts {
        if shard.num_examples_global == 0 && !part.targets.is_empty() {
            return Err(ShardProblem::NoExamples);
        }
        check_partition(&part.target_microbatches, part.targets.len())?;
        check_partition(&part.mismatched_microbatches, part.mismatched.len())?;
        let targets = part.targets.iter().map(|target| &target.sequence);
        for sequence in targets.chain(&part.mismatched) {
            check_sequence(sequence, vocab_size)?;
        }
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
