use prospect_core::{RowId, Target};

use super::*;

/// A sequence of prompt number `prompt` with so many tokens of prompt and completion.
fn sequence(prompt: u32, num_prompt: usize, num_completion: usize) -> Sequence {
    Sequence {
        prompt_row: RowId(0),
        completion_row: RowId(0),
        token_ids: [vec![prompt; num_prompt], vec![99; num_completion]].concat(),
        completion_start: num_prompt as u32,
        reference_log_prob: None,
    }
}

/// Places by pass, of sequences that are given by prompt, tokens of the prompt and of the completion.
fn check(sequences: &[(u32, usize, usize)], budget: usize, expected: &[&[usize]]) {
    let sequences: Vec<Sequence> =
        sequences.iter().map(|&(prompt, before, after)| sequence(prompt, before, after)).collect();
    let sequences: Vec<&Sequence> = sequences.iter().collect();
    let passes = pack(&sequences, 0..sequences.len(), budget);
    assert!(passes.iter().all(|pass| pass.prompts == Prompts::Shared));
    let found: Vec<&[usize]> = passes.iter().map(|pass| pass.indices.as_slice()).collect();
    assert_eq!(found, expected, "budget {budget}");
}

#[test]
fn sequences_with_one_prompt_come_together() {
    let mixed = [(1, 4, 2), (2, 5, 5), (1, 4, 3), (3, 2, 2), (1, 4, 1)];
    // With a prompt counted once, the first prompt's sequences are 10 tokens like the second's.
    check(&mixed, 24, &[&[0, 2, 4, 1, 3]]);
    check(&mixed, 20, &[&[0, 2, 4, 1], &[3]]);
    check(&mixed, 10, &[&[0, 2, 4], &[1], &[3]]);
}

#[test]
fn too_many_for_a_pass_are_cut_and_compute_the_prompt_again() {
    check(&[(1, 4, 2), (1, 4, 2), (1, 4, 2), (1, 4, 2)], 8, &[&[0, 1], &[2, 3]]);
    check(&[(1, 4, 2), (1, 4, 2), (1, 4, 2)], 7, &[&[0], &[1], &[2]]);
}

#[test]
fn a_sequence_above_the_budget_is_alone() {
    check(&[(1, 4, 9), (2, 1, 1), (1, 4, 1)], 5, &[&[0], &[2], &[1]]);
    check(&[(1, 4, 9)], 1, &[&[0]]);
    check(&[], 5, &[]);
}

#[test]
fn a_long_prompt_is_not_copied_for_too_many_completions() {
    // A pass of 20 tokens may hold 80 keys, which are seven times the prompt and a completion.
    check(&[(1, 10, 1); 9], 20, &[&[0, 1, 2, 3, 4, 5, 6], &[7, 8]]);
    check(&[(1, 10, 1); 3], 12, &[&[0, 1], &[2]]);
}

#[test]
fn a_prompt_that_only_begins_alike_is_another() {
    let sequences = [sequence(1, 4, 2), sequence(1, 3, 3), sequence(1, 4, 5)];
    let sequences: Vec<&Sequence> = sequences.iter().collect();
    assert_eq!(first_with_prompt(&sequences), [0, 1, 0]);
}

#[test]
fn only_the_named_ones_are_packed() {
    let sequences = [sequence(1, 2, 2), sequence(1, 2, 3), sequence(1, 2, 4)];
    let sequences: Vec<&Sequence> = sequences.iter().collect();
    let passes = pack(&sequences, [2, 1], 20);
    assert_eq!(passes.len(), 1);
    assert_eq!(passes[0].indices, [2, 1]);
}

#[test]
fn a_pass_may_compute_what_the_largest_microbatch_holds() {
    let target =
        |after| Target { sequence: sequence(1, 2, after), label: true.into(), weight: 1.0 };
    let part = ShardPart {
        part: 0,
        targets: vec![target(3), target(4), target(5)],
        mismatched: vec![sequence(1, 2, 12)],
        target_microbatches: vec![vec![2], vec![0, 1]],
        mismatched_microbatches: vec![vec![0]],
    };
    assert_eq!(budget(&part), 14);
    assert_eq!(budget(&ShardPart { mismatched_microbatches: vec![], ..part }), 11);
    assert_eq!(budget(&ShardPart::default()), 0);
}
