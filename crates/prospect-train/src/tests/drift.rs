//! Before the first update of a policy that is its own reference every log-ratio is 0.

use std::fs;
use std::path::Path;

use prospect_core::{Dtype, Mode, Recompute, RunConfig, Shard, ShardKind, Step};
use tch::{Kind, Tensor};

use super::support::{alone, config, sequences, shard, step, total};
use crate::drift::{BFLOAT16_BOUND, FLOAT32_BOUND};
use crate::{Drift, FailureKind, TrainError};

/// A policy that is its own reference.
fn same(dtype: Dtype) -> RunConfig {
    let mut config = config("smollm2", "smollm2");
    config.model.dtype = dtype;
    config
}

/// The first step gives log-ratios of exactly 0, with this packing.
fn check(config: &RunConfig, budget: usize) {
    alone(config, |trainer, exchange| {
        let sums = total([&step(trainer, &shard(1, budget, (0, 1)), exchange).unwrap()]);
        assert_eq!((sums.reward_desirable, sums.reward_undesirable), (0.0, 0.0));
        assert_eq!((exchange.points[0].raw, exchange.points[0].standard_error), (0.0, 0.0));
        // The second step's are not 0, and nobody minds.
        let sums = total([&step(trainer, &shard(2, budget, (0, 1)), exchange).unwrap()]);
        assert!(sums.reward_desirable != 0.0 && sums.reward_undesirable != 0.0);
    });
}

#[test]
fn the_first_log_ratios_are_0_in_fp32_and_with_the_same_packing_in_bf16() {
    for dtype in [Dtype::Float32, Dtype::Bfloat16] {
        for budget in [1, 32, 1000] {
            check(&same(dtype), budget);
        }
    }
    let mut config = same(Dtype::Float32);
    config.train.recompute = Recompute::Blocks;
    config.reference.path = None;
    check(&config, 32);
}

/// Every weight lies in the middle between two bf16 numbers.
#[test]
fn the_first_log_ratios_are_0_where_bf16_rounds_each_weight_at_a_tie() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = same(Dtype::Bfloat16);
    for entry in fs::read_dir(&config.model.path).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    let file = dir.path().join("model.safetensors");
    let tie = |tensor: &Tensor| {
        let upper = tensor.f_to_kind(Kind::BFloat16).unwrap().f_to_kind(Kind::Float).unwrap();
        let bits = upper.f_view_dtype(Kind::Int).unwrap().f_add_scalar(0x8000).unwrap();
        bits.f_view_dtype(Kind::Float).unwrap()
    };
    let tensors = Tensor::read_safetensors(&file).unwrap();
    let tensors: Vec<_> =
        tensors.iter().map(|(name, tensor)| (name.as_str(), tie(tensor))).collect();
    Tensor::write_safetensors(&tensors, &file).unwrap();
    config.model.path = dir.path().to_owned();
    for (mode, reference) in [(Mode::Replicated, None), (Mode::FullySharded, Some(dir.path()))] {
        config.train.mode = mode;
        config.reference.path = reference.map(Path::to_owned);
        check(&config, 32);
    }
}

/// Computes reference values one sequence at a time and uses them in a step that packs all
/// sequences together, each moved by this share of what is allowed.
fn check_other_packing(dtype: Dtype, bound: f64, share: f64) -> Result<(), TrainError> {
    let packed = |step, kind, budget| Shard { step: Step(step), kind, ..shard(1, budget, (0, 1)) };
    alone(&same(dtype), |trainer, exchange| {
        let values = trainer.evaluate(&packed(0, ShardKind::Eval, 1), exchange).unwrap();
        let mut known = packed(1, ShardKind::Train, 1000);
        for sequence in sequences(&mut known) {
            let rows = (sequence.prompt_row, sequence.completion_row);
            let mut values = values.reference_values.iter();
            let value = values.find(|value| (value.prompt_row, value.completion_row) == rows);
            let shift = share * bound * sequence.num_completion_tokens() as f64;
            sequence.reference_log_prob = Some(value.unwrap().log_prob + shift);
        }
        trainer.step(&known, exchange).map(drop)
    })
}

#[test]
fn values_of_another_packing_may_differ_within_the_bound() {
    for (dtype, bound) in [(Dtype::Float32, FLOAT32_BOUND), (Dtype::Bfloat16, BFLOAT16_BOUND)] {
        for share in [0.0, 0.75, -0.75] {
            check_other_packing(dtype, bound, share).unwrap();
        }
        let error = check_other_packing(dtype, bound, 1.25).unwrap_err();
        assert!(matches!(error, TrainError::Drift(_)), "{error}");
    }
}

/// How a step is refused in which something was put wrong.
fn drift(
    dtype: Dtype,
    harm: impl Fn(&mut crate::Trainer, &mut Shard) + Sync,
) -> (Drift, TrainError) {
    alone(&same(dtype), |trainer, exchange| {
        let mut shard = shard(1, 32, (0, 1));
        harm(trainer, &mut shard);
        let before = trainer.digest().unwrap();
        let error = trainer.step(&shard, exchange).unwrap_err();
        assert_eq!(trainer.digest().unwrap(), before);
        assert_eq!((trainer.done(), trainer.pending()), (Step(0), None));
        assert_eq!(error.kind(), FailureKind::Corrupt);
        let TrainError::Drift(drift) = &error else { panic!("expected Drift: {error}") };
        (**drift, error)
    })
}

#[test]
fn a_weight_that_differs_by_one_bit_is_found_in_fp32() {
    let (drift, error) = drift(Dtype::Float32, |trainer, _| {
        let last = trainer.parameters.segments.last_mut().unwrap();
        let mut weight = last.slots[0].view(&last.master.values().unwrap()).unwrap();
        let bits = weight.f_view_dtype(Kind::Int).unwrap().f_add_scalar(1).unwrap();
        weight.f_copy_(&bits.f_view_dtype(Kind::Float).unwrap()).unwrap();
    });
    assert_eq!((drift.step, drift.bound), (Step(1), 0.0));
    assert_ne!(drift.policy_log_prob, drift.reference_log_prob);
    let text = error.to_string();
    let row = format!("prompt row {} with completion row", drift.prompt_row);
    let log_prob = drift.policy_log_prob.to_string();
    assert!(text.contains(&row) && text.contains(&log_prob), "{text}");
}

#[test]
fn a_reference_value_of_another_model_is_found_in_fp32_and_bf16() {
    for (dtype, bound) in [(Dtype::Float32, FLOAT32_BOUND), (Dtype::Bfloat16, BFLOAT16_BOUND)] {
        let place = |shard: &Shard| shard.parts[0].targets[4].sequence.clone();
        let expected = place(&shard(1, 32, (0, 1)));
        let (drift, _) = drift(dtype, |_, shard| {
            let sequence = &mut shard.parts[0].targets[4].sequence;
            sequence.reference_log_prob = Some(-1.0);
        });
        assert_eq!(drift.prompt_row, expected.prompt_row);
        assert_eq!(drift.completion_row, expected.completion_row);
        assert_eq!(drift.reference_log_prob, -1.0);
        assert_eq!(drift.bound, bound * expected.num_completion_tokens() as f64);
    }
}
