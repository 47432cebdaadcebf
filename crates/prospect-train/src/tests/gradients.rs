//! A step's loss and gradients against plain autograd through all logits.

use prospect_core::{Label, ObjectiveName, Recompute, RunConfig, Sequence, Shard, ShardKind, Step};
use prospect_model::{CausalLm, ComputeType, LoadOptions};
use tch::{Device, Kind, Tensor};

use super::support::{
    BATCH, alone, assert_close, config, device, gradients, sequences, shard, step, total, values,
};
use crate::{Trainer, score};

fn load(config: &RunConfig, reference: bool) -> CausalLm {
    let path = match &config.reference.path {
        Some(path) if reference => path,
        _ => &config.model.path,
    };
    let options = LoadOptions { device: Device::Cpu, compute: ComputeType::Float32 };
    CausalLm::load(path, &options).unwrap()
}

/// Log-probability of a completion, with its graph, one sequence at a time.
fn log_prob(model: &CausalLm, sequence: &Sequence) -> Tensor {
    let ids: Vec<i64> = sequence.token_ids.iter().map(|&id| i64::from(id)).collect();
    let token_ids = Tensor::f_from_slice(&ids).unwrap();
    let layout = model.layout(&[ids.len()]).unwrap();
    let logits = model.forward_logits(&token_ids, &layout).unwrap();
    let start = i64::from(sequence.completion_start);
    let count = ids.len() as i64 - start;
    let logits = logits.f_narrow(0, start - 1, count).unwrap();
    let targets = token_ids.f_narrow(0, start, count).unwrap().f_unsqueeze(1).unwrap();
    let chosen =
        logits.f_log_softmax(1, Kind::Float).unwrap().f_gather(1, &targets, false).unwrap();
    chosen.f_sum(Kind::Float).unwrap()
}

/// Mean loss of the step as TRL writes it, backward by autograd. Returns the loss, the reference
/// point and the gradients by name.
fn autograd(config: &RunConfig, shard: &Shard) -> (f64, f64, Vec<(String, Tensor)>) {
    let (mut policy, reference) = (load(config, false), load(config, true));
    let value = |model: &CausalLm, sequence: &Sequence| values(&log_prob(model, sequence))[0];
    let z0 = match config.objective.name {
        ObjectiveName::Kto => {
            let pairs = &shard.parts[0].mismatched;
            let ratios = pairs.iter().map(|s| value(&policy, s) - value(&reference, s));
            (ratios.sum::<f64>() / pairs.len() as f64).max(0.0)
        }
        ObjectiveName::ApoZeroUnpaired => 0.0,
    };
    let mut leaves = Vec::new();
    for segment in 0..policy.num_segments() {
        let mut own = Vec::new();
        for parameter in policy.segment_parameters(segment) {
            let leaf = parameter.tensor.f_detach().unwrap().f_set_requires_grad(true).unwrap();
            own.push(leaf.shallow_clone());
            leaves.push((parameter.name, leaf));
        }
        policy.replace_parameters(segment, own).unwrap();
    }
    let mut total = Tensor::f_zeros([], (Kind::Float, Device::Cpu)).unwrap();
    for target in &shard.parts[0].targets {
        let sign = if target.label == Label::Desirable { 1.0 } else { -1.0 };
        let ratio = log_prob(&policy, &target.sequence)
            .f_sub_scalar(value(&reference, &target.sequence))
            .unwrap();
        let argument =
            ratio.f_sub_scalar(z0).unwrap().f_mul_scalar(sign * config.objective.beta).unwrap();
        let term = argument.f_sigmoid().unwrap().f_neg().unwrap().f_add_scalar(1.0).unwrap();
        let term = term.f_mul_scalar(target.weight / BATCH as f64).unwrap();
        total = total.f_add(&term).unwrap();
    }
    total.f_backward().unwrap();
    let gradients = leaves
        .into_iter()
        .map(|(name, leaf)| {
            let gradient = leaf.f_grad().unwrap();
            let gradient = if gradient.defined() { gradient } else { leaf.f_zeros_like().unwrap() };
            (name, gradient)
        })
        .collect();
    (values(&total)[0], z0, gradients)
}

/// Compares one step with autograd: loss, reference point, every gradient and their norm.
fn check(mut config: RunConfig, budget: usize) -> f64 {
    config.train.max_grad_norm = 0.0;
    let shard = shard(1, budget, (0, 1));
    let (loss, z0, expected) = autograd(&config, &shard);
    let (report, point, found) = alone(&config, |trainer, exchange| {
        let report = trainer.step(&shard, exchange).unwrap();
        (report, exchange.points.first().copied(), gradients(trainer))
    });
    let found_loss = total([&report]).loss / BATCH as f64;
    assert!((found_loss - loss).abs() < 1e-5 * loss, "loss {found_loss} is not {loss}");
    if let Some(point) = point {
        assert!((point.z0 - z0).abs() <= 1e-5 * z0.max(1.0), "{} is not {z0}", point.z0);
    }
    let mut squares = 0.0;
    for ((name, found), (expected_name, expected)) in found.iter().zip(&expected) {
        assert_eq!(name, expected_name);
        assert_close(name, found, expected, 1e-5);
        squares += values(expected).iter().map(|x| x * x).sum::<f64>();
    }
    assert_eq!(found.len(), expected.len());
    assert!((report.grad_norm - squares.sqrt()).abs() < 1e-5 * squares.sqrt());
    z0
}

#[test]
fn kto_equals_autograd_with_tied_and_untied_heads() {
    let tied = check(config("smollm2", "llama2"), 32);
    let untied = check(config("llama2", "smollm2"), 32);
    assert!(tied.max(untied) > 0.0, "one of the two must have a reference point above 0");
    check(config("qwen3", "llama2"), 1000);
}

#[test]
fn kto_equals_autograd_with_work_computed_again() {
    for recompute in [Recompute::Blocks, Recompute::Selective] {
        let mut config = config("qwen2", "llama2");
        config.train.recompute = recompute;
        check(config, 24);
    }
}

#[test]
fn apo_equals_autograd() {
    let mut config = config("smollm2", "llama2");
    config.objective.name = ObjectiveName::ApoZeroUnpaired;
    check(config, 32);
}

#[test]
fn recomputation_changes_no_bit() {
    let run = |recompute| {
        let mut config = config("smollm2", "llama2");
        config.train.recompute = recompute;
        alone(&config, |trainer, exchange| {
            let report = step(trainer, &shard(1, 32, (0, 1)), exchange).unwrap();
            let loss = total([&report]).loss;
            (loss.to_bits(), report.grad_norm.to_bits(), trainer.digest().unwrap())
        })
    };
    let saved = run(Recompute::None);
    assert_eq!(saved, run(Recompute::Blocks));
    assert_eq!(saved, run(Recompute::Selective));
}

#[test]
fn packing_changes_roundings_only() {
    let run = |budget| {
        let mut config = config("smollm2", "llama2");
        config.train.max_grad_norm = 0.0;
        alone(&config, |trainer, exchange| {
            let report = trainer.step(&shard(1, budget, (0, 1)), exchange).unwrap();
            (total([&report]), gradients(trainer))
        })
    };
    let (sums, expected) = run(1);
    for budget in [20, 40, 1000] {
        let (other, found) = run(budget);
        assert!((other.loss - sums.loss).abs() < 1e-5 * sums.loss);
        assert_eq!((other.num_tokens, other.num_correct), (sums.num_tokens, sums.num_correct));
        assert_eq!(other.flops, sums.flops);
        for ((name, found), (_, expected)) in found.iter().zip(&expected) {
            assert_close(name, found, expected, 1e-5);
        }
    }
}

#[test]
fn scores_equal_all_logits_whatever_is_packed_together() {
    let config = config("smollm2", "llama2");
    let model = load(&config, false);
    let sequences = shard(3, 1, (0, 1)).parts.remove(0).mismatched;
    for budget in [1, 30, 4096] {
        let found = score(&model, &sequences, budget).unwrap();
        for (found, sequence) in found.iter().zip(&sequences) {
            let expected = values(&log_prob(&model, sequence))[0];
            assert!((found - expected).abs() < 1e-5 * expected.abs(), "{found} is not {expected}");
        }
    }
}

#[test]
fn the_reference_is_loaded_only_for_an_unknown_value() {
    let config = config("smollm2", "llama2");
    let mut known = shard(1, 32, (0, 1));
    for sequence in sequences(&mut known) {
        sequence.reference_log_prob = Some(-5.0);
    }
    alone(&config, |trainer, exchange| {
        step(trainer, &known, exchange).unwrap();
        assert!(!trainer.reference.is_loaded());
        let mut one_unknown = known.clone();
        one_unknown.step = Step(2);
        one_unknown.parts[0].mismatched[3].reference_log_prob = None;
        let report = trainer.step(&one_unknown, exchange).unwrap();
        assert!(trainer.reference.is_loaded());
        assert_eq!(report.reference_values.len(), 1);
    });
}

#[test]
fn without_an_exchange_to_wait_in_the_reference_is_loaded_at_once() {
    let mut config = config("smollm2", "llama2");
    config.objective.name = ObjectiveName::ApoZeroUnpaired;
    alone(&config, |trainer, _| assert!(trainer.reference.is_loaded()));
}

#[test]
fn of_a_reference_whose_values_are_known_nothing_is_read() {
    let mut config = config("smollm2", "llama2");
    config.reference.path = Some("/nowhere/reference".into());
    for name in [ObjectiveName::Kto, ObjectiveName::ApoZeroUnpaired] {
        config.objective.name = name;
        let mut trainer = Trainer::with_known_reference(&config, device()).unwrap();
        assert!(!trainer.reference.is_loaded());
        // A value that is missing after all is looked for, and not found.
        let error = trainer.reference.ensure_loaded().unwrap_err();
        assert!(error.to_string().contains("/nowhere/reference"), "{error}");
    }
}

#[test]
fn known_reference_values_are_used_and_only_unknown_ones_reported() {
    let config = config("smollm2", "llama2");
    let fresh = Shard { step: Step(0), kind: ShardKind::Eval, ..shard(1, 32, (0, 1)) };
    alone(&config, |trainer, exchange| {
        let first = trainer.evaluate(&fresh, exchange).unwrap();
        assert_eq!(first.reference_values.len(), 2 * BATCH);
        let mut known = fresh.clone();
        for sequence in sequences(&mut known) {
            let value = first.reference_values.iter().find(|value| {
                (value.prompt_row, value.completion_row)
                    == (sequence.prompt_row, sequence.completion_row)
            });
            sequence.reference_log_prob = Some(value.unwrap().log_prob);
        }
        let second = trainer.evaluate(&known, exchange).unwrap();
        assert_eq!(second.reference_values, []);
        assert_eq!(total([&second]).loss, total([&first]).loss);
        assert!(total([&second]).flops < total([&first]).flops);
        // A value that is known is believed.
        known.parts[0].targets[1].sequence.reference_log_prob = Some(-1.0);
        let third = trainer.evaluate(&known, exchange).unwrap();
        assert_ne!(total([&third]).loss, total([&first]).loss);
    });
}
