//! Prompts that are computed once: the same numbers, fewer tokens.

use prospect_core::{Dtype, Sequence, Shard, ShardKind, Step, StepSums};
use prospect_model::{CausalLm, ComputeType, LoadOptions};
use tch::{Device, Tensor};

use super::support::{BATCH, alone, config, fixture, sequences, shard, step, total};
use crate::batch::PackedBatch;
use crate::drift::BFLOAT16_BOUND;
use crate::score;
use crate::sharing::{Prompts, first_with_prompt};

fn load(name: &str, (compute, device): (ComputeType, Device)) -> CausalLm {
    prospect_libtorch::set_threads(1);
    CausalLm::load(&fixture(name), &LoadOptions { device, compute }).unwrap()
}

const FP32: (ComputeType, Device) = (ComputeType::Float32, Device::Cpu);

/// Prompts of 5, 1 and 9 tokens with completions of 1 to 7 tokens, none next to its like.
fn completions() -> Vec<Sequence> {
    let template = shard(1, 32, (0, 1)).parts.remove(0).mismatched.remove(0);
    let prompts: [Vec<u32>; 3] = [vec![3, 1, 4, 1, 5], vec![3], vec![9, 2, 6, 5, 3, 5, 8, 9, 7]];
    (0..12_u32)
        .map(|idx| {
            let prompt = &prompts[idx as usize % 3];
            let completion: Vec<u32> = (0..1 + (5 * idx) % 7).map(|at| 7 + 3 * idx + at).collect();
            Sequence {
                token_ids: [prompt.as_slice(), &completion].concat(),
                completion_start: prompt.len() as u32,
                ..template.clone()
            }
        })
        .collect()
}

/// Scores of completions that share prompts against those of each alone, for several budgets.
fn check_scores(name: &str, place: (ComputeType, Device), per_token: f64) {
    let (model, sequences) = (load(name, place), completions());
    let alone = score(&model, &sequences, 1).unwrap();
    for budget in [12, 30, 4096] {
        let shared = score(&model, &sequences, budget).unwrap();
        for ((found, expected), sequence) in shared.iter().zip(&alone).zip(&sequences) {
            let bound = per_token * sequence.num_completion_tokens() as f64;
            let difference = (found - expected).abs();
            assert!(difference <= bound, "{name}, {budget}: {found} is not {expected}");
        }
    }
}

#[test]
fn scores_with_shared_prompts_equal_those_of_each_sequence_alone() {
    let cuda = prospect_libtorch::ensure_cuda_loaded().then_some(Device::Cuda(0));
    for device in [Device::Cpu].into_iter().chain(cuda) {
        for name in ["llama2", "llama3", "smollm2", "mistral", "qwen2", "qwen3"] {
            check_scores(name, (ComputeType::Float32, device), 1e-5);
        }
        check_scores("smollm2", (ComputeType::Bfloat16, device), BFLOAT16_BOUND);
    }
}

fn numbers(tensor: &Tensor) -> Vec<i64> {
    Vec::try_from(tensor).unwrap()
}

#[test]
fn a_shared_prompt_is_in_the_pass_once() {
    let model = load("smollm2", FP32);
    let template = completions().remove(0);
    let sequence = |token_ids: &[u32], completion_start| Sequence {
        token_ids: token_ids.to_vec(),
        completion_start,
        ..template.clone()
    };
    let list = [
        sequence(&[10, 11, 12, 20, 21], 3),
        sequence(&[10, 11, 30, 31], 2),
        sequence(&[10, 11, 12, 40], 3),
        sequence(&[10, 11, 12, 50, 51, 52], 3),
    ];
    let list: Vec<&Sequence> = list.iter().collect();
    let batch = PackedBatch::without_gradient(&model, &list, Prompts::Shared).unwrap();
    assert_eq!(numbers(&batch.token_ids_t), [10, 11, 12, 20, 10, 11, 30, 50, 51]);
    assert_eq!(numbers(&batch.targets_n), [20, 21, 30, 31, 40, 50, 51, 52]);
    // The state at the end of the first prompt predicts three first tokens.
    assert_eq!(numbers(&batch.positions_n), [2, 3, 5, 6, 2, 2, 7, 8]);
    assert_eq!(batch.num_shared_tokens, 6);
    // The completion of one token computes nothing.
    assert_eq!(batch.layout.queries.lengths(), [4, 3, 2]);
    let keys = batch.layout.keys.unwrap();
    assert_eq!(keys.offsets.lengths(), [4, 3, 5]);
    assert_eq!(numbers(&keys.places_u), [0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 7, 8]);

    let whole = PackedBatch::new(&model, &list).unwrap();
    assert_eq!(whole.num_shared_tokens, 0);
    assert!(whole.layout.keys.is_none());
    assert_eq!(whole.token_ids_t.size(), [4 + 3 + 3 + 5]);
}

/// Prompt tokens of those sequences whose prompt an earlier one has.
fn repeated(sequences: &[&Sequence]) -> u64 {
    let places = first_with_prompt(sequences).into_iter().enumerate();
    let again = places.filter(|(idx, first)| idx != first);
    again.map(|(idx, _)| u64::from(sequences[idx].completion_start)).sum()
}

/// Tokens that a step or an evaluation of this shard should share: with the reference's passes over
/// all sequences, the policy's over mismatched pairs, and in an evaluation over all.
fn expected(shard: &Shard) -> u64 {
    let part = &shard.parts[0];
    let all: Vec<&Sequence> =
        part.targets.iter().map(|target| &target.sequence).chain(&part.mismatched).collect();
    let policy = if shard.kind == ShardKind::Eval { &all } else { &all[part.targets.len()..] };
    repeated(&all) + repeated(policy)
}

#[test]
fn a_step_shares_the_prompts_of_targets_and_mismatched_pairs() {
    let mut second = shard(2, 1000, (0, 1));
    // Two of the pairs of the second step have one prompt.
    let donor = second.parts[0].mismatched[0].clone();
    second.parts[0].mismatched[3] = Sequence { completion_row: donor.prompt_row, ..donor };
    alone(&config("smollm2", "llama2"), |trainer, exchange| {
        let sums = total([&step(trainer, &shard(1, 1000, (0, 1)), exchange).unwrap()]);
        let expected_first = expected(&shard(1, 1000, (0, 1)));
        assert_eq!(sums.num_shared_tokens, expected_first);
        assert!(expected_first >= 2 * BATCH as u64, "every pair has its target's prompt");
        let sums = total([&step(trainer, &second, exchange).unwrap()]);
        assert_eq!(sums.num_shared_tokens, expected(&second));
    });
}

#[test]
fn the_step_that_is_checked_for_drift_packs_the_reference_like_the_policy() {
    alone(&config("smollm2", "smollm2"), |trainer, exchange| {
        for number in [1, 2] {
            let shard = shard(number, 1000, (0, 1));
            let sums = total([&step(trainer, &shard, exchange).unwrap()]);
            let pairs: Vec<&Sequence> = shard.parts[0].mismatched.iter().collect();
            let apart = 2 * repeated(&pairs);
            assert_eq!(sums.num_shared_tokens, if number == 1 { apart } else { expected(&shard) });
        }
    });
}

/// What an evaluation gives, all sequences together or (with `budget` 1) hardly any.
fn evaluate(dtype: Dtype, budget: usize) -> (StepSums, Vec<f64>) {
    let mut config = config("smollm2", "llama2");
    config.model.dtype = dtype;
    let fresh = Shard { step: Step(0), kind: ShardKind::Eval, ..shard(1, budget, (0, 1)) };
    alone(&config, |trainer, exchange| {
        let report = trainer.evaluate(&fresh, exchange).unwrap();
        let mut values = report.reference_values.clone();
        values.sort_by_key(|value| (value.prompt_row, value.completion_row));
        let sums = total([&report]);
        if budget == 1000 {
            assert_eq!(sums.num_shared_tokens, expected(&fresh));
        }
        (sums, values.into_iter().map(|value| value.log_prob).collect())
    })
}

#[test]
fn an_evaluation_shares_prompts_under_both_models_and_changes_roundings_only() {
    let ((together, shared), (apart, single)) =
        (evaluate(Dtype::Float32, 1000), evaluate(Dtype::Float32, 1));
    assert!(together.num_shared_tokens > apart.num_shared_tokens);
    assert_eq!((together.flops, together.num_tokens), (apart.flops, apart.num_tokens));
    assert!((together.loss - apart.loss).abs() < 1e-5 * apart.loss);
    assert_eq!(shared.len(), 2 * BATCH);
    for (shared, single) in shared.iter().zip(&single) {
        assert!((shared - single).abs() < 1e-5 * single.abs(), "{shared} is not {single}");
    }
    let (rounded, _) = evaluate(Dtype::Bfloat16, 1000);
    assert!((rounded.loss - together.loss).abs() < 0.1);
}

#[test]
fn what_is_known_is_not_computed_to_share_its_prompt() {
    alone(&config("smollm2", "llama2"), |trainer, exchange| {
        let mut known = shard(1, 1000, (0, 1));
        let everything = total([&trainer.step(&known, exchange).unwrap()]);
        let num_targets = known.parts[0].targets.len();
        for sequence in sequences(&mut known).take(num_targets) {
            sequence.reference_log_prob = Some(-5.0);
        }
        let report = trainer.step(&known, exchange).unwrap();
        assert_eq!(report.reference_values.len(), BATCH);
        let pairs: Vec<&Sequence> = known.parts[0].mismatched.iter().collect();
        let sums = total([&report]);
        assert_eq!(sums.num_shared_tokens, 2 * repeated(&pairs));
        assert!(sums.flops < everything.flops);
    });
}

#[test]
fn flops_count_a_prompt_once() {
    let sums = |config| {
        alone(&config, |trainer, exchange| {
            total([&trainer.step(&shard(1, 1000, (0, 1)), exchange).unwrap()])
        })
    };
    let shared = sums(config("smollm2", "llama2")).flops;
    let part = shard(1, 1000, (0, 1)).parts.remove(0);
    let costs = ["smollm2", "llama2"]
        .map(|name| prospect_shape::PassCost::new(load(name, FP32).config()));
    let [policy, reference] = &costs;
    let targets = part.targets.iter().map(|target| &target.sequence);
    let trained: f64 = targets.map(|s| policy.trained(s) + reference.scored(s)).sum();
    let pairs = &part.mismatched;
    let scored: f64 =
        pairs.iter().map(|s| policy.scored(s) + reference.scored_behind_prompt(s)).sum();
    let all: Vec<&Sequence> = pairs.iter().collect();
    assert_eq!(repeated(&all), 0, "the pairs' prompts are all different");
    assert_eq!(shared, trained + scored);
}
