//! What is not finite or does not fit stops a step before the weights move.

use prospect_core::{ExitCode, Label, RowId, Shard, ShardKind, Step};
use tch::Kind;

use super::support::{alone, config, shard, step, train, world};
use crate::{ShardProblem, TrainError, Trainer};

/// Puts NaN into the policy's final norm, where it reaches every log-probability.
fn poison(trainer: &mut Trainer) {
    let last = trainer.parameters.segments.last_mut().unwrap();
    let mut weight = last.slots[0].view(&last.master.values().unwrap()).unwrap();
    let _ = weight.f_fill_(f64::NAN).unwrap();
}

#[test]
fn weights_that_are_not_finite_stop_every_rank_before_anything_moves() {
    let errors = world(2, &config("smollm2", "llama2"), |rank, trainer, exchange| {
        poison(trainer);
        let before = trainer.digest().unwrap();
        let error = trainer.step(&shard(1, 32, (rank, 2)), exchange).unwrap_err();
        assert_eq!(trainer.digest().unwrap(), before);
        error
    });
    for (rank, error) in errors.iter().enumerate() {
        assert_eq!(error.exit_code(), ExitCode::NoProgress);
        let TrainError::NotFinite(report) = error else { panic!("expected NotFinite: {error}") };
        assert_eq!((report.step.0, report.rank, report.ranks.as_slice()), (1, rank, &[0, 1][..]));
        assert_eq!(report.examples.len(), 3, "this rank's pairs");
        let example = report.examples[0];
        assert!(example.policy_log_prob.is_nan() && example.reference_log_prob.is_finite());
        let text = error.to_string();
        assert!(text.contains("step 1") && text.contains(&format!("row {}", example.prompt_row)));
    }
}

#[test]
fn one_bad_reference_value_stops_all_ranks_and_names_its_row() {
    let errors = world(2, &config("smollm2", "llama2"), |rank, trainer, exchange| {
        let mut mine = shard(1, 32, (rank, 2));
        if rank == 1 {
            // The value function saturates here, so the loss itself would be finite.
            mine.parts[0].targets[2].sequence.reference_log_prob = Some(f64::NEG_INFINITY);
        }
        let before = trainer.digest().unwrap();
        let error = trainer.step(&mine, exchange).unwrap_err();
        assert_eq!(trainer.digest().unwrap(), before);
        error
    });
    for (rank, error) in errors.iter().enumerate() {
        let TrainError::NotFinite(report) = error else { panic!("expected NotFinite: {error}") };
        assert_eq!((report.ranks.as_slice(), &report.gradient), (&[1][..], &None));
        assert!(report.grad_norm.is_some_and(f64::is_nan));
        let rows: Vec<RowId> = report.examples.iter().map(|example| example.prompt_row).collect();
        assert!(report.examples.iter().all(|example| example.label == Some(Label::Desirable)));
        let expected = if rank == 1 {
            vec![shard(1, 32, (1, 2)).parts[0].targets[2].sequence.prompt_row]
        } else {
            vec![]
        };
        assert_eq!(rows, expected);
    }
}

#[test]
fn a_gradient_that_is_not_finite_is_named_on_every_rank() {
    let errors = world(2, &config("smollm2", "llama2"), |rank, trainer, exchange| {
        let mut mine = shard(1, 32, (rank, 2));
        if rank == 1 {
            // Loss and log-ratio are finite, their derivative is beyond fp32.
            mine.parts[0].targets[0].weight = 1e300;
        }
        let before = trainer.digest().unwrap();
        let error = trainer.step(&mine, exchange).unwrap_err();
        assert_eq!(trainer.digest().unwrap(), before);
        assert_eq!((trainer.done(), trainer.pending()), (Step(0), None));
        assert!(matches!(trainer.apply(Step(1)), Err(TrainError::NotPending { .. })));
        // The world is whole; the next try may succeed.
        train(trainer, exchange, 1..=1, (rank, 2)).unwrap();
        error
    });
    for (rank, error) in errors.iter().enumerate() {
        let TrainError::NotFinite(report) = error else { panic!("expected NotFinite: {error}") };
        assert_eq!((report.rank, report.ranks.len(), report.examples.len()), (rank, 0, 0));
        assert!(report.grad_norm.is_some_and(|norm| !norm.is_finite()));
        let gradient = report.gradient.as_ref().expect("the gradient is to blame");
        assert_eq!(gradient.parameter, "model.embed_tokens.weight");
        assert_eq!(gradient.num_elements, 128 * 36);
        assert!((1..=gradient.num_elements).contains(&gradient.num_not_finite));
        assert!(error.to_string().contains("the gradient of model.embed_tokens.weight has"));
    }
}

#[test]
fn a_norm_that_overflows_is_told_from_elements_that_do() {
    alone(&config("smollm2", "llama2"), |trainer, exchange| {
        let mut shard = shard(1, 32, (0, 1));
        shard.parts[0].targets.iter_mut().for_each(|target| target.weight = 1e30);
        let error = trainer.step(&shard, exchange).unwrap_err();
        let TrainError::NotFinite(report) = &error else { panic!("expected NotFinite: {error}") };
        assert_eq!((report.grad_norm, &report.gradient), (Some(f64::INFINITY), &None));
        assert!(error.to_string().contains("every element of the gradient is finite"), "{error}");
    });
}

#[test]
fn an_evaluation_that_is_not_finite_is_no_result() {
    alone(&config("smollm2", "llama2"), |trainer, exchange| {
        poison(trainer);
        let shard = Shard { step: Step(0), kind: ShardKind::Eval, ..shard(1, 32, (0, 1)) };
        let error = trainer.evaluate(&shard, exchange).unwrap_err();
        assert!(matches!(error, TrainError::NotFinite(_)), "{error}");
    });
}

/// Changes a good shard and returns what is said against it.
fn check(change: impl Fn(&mut Shard) + Sync) -> ShardProblem {
    let mut bad = shard(1, 32, (0, 1));
    change(&mut bad);
    match alone(&config("smollm2", "llama2"), |trainer, exchange| trainer.step(&bad, exchange)) {
        Err(TrainError::Shard { problem, .. }) => problem,
        other => panic!("expected the shard to be refused, got {other:?}"),
    }
}

#[test]
fn shards_that_cannot_be_computed_are_refused() {
    let row = RowId(100);
    assert_eq!(
        check(|shard| shard.parts[0].targets[0].sequence.token_ids[0] = 128),
        ShardProblem::UnknownToken { row, token_id: 128, vocab_size: 128 },
    );
    let num_tokens = shard(1, 32, (0, 1)).parts[0].mismatched[0].num_tokens();
    assert_eq!(
        check(|shard| shard.parts[0].mismatched[0].completion_start = num_tokens as u32),
        ShardProblem::EmptyPart { row, num_tokens, completion_start: num_tokens as u32 },
    );
    assert_eq!(
        check(|shard| shard.parts[0].target_microbatches[0].push(6)),
        ShardProblem::IndexOutOfRange { index: 6, count: 6 },
    );
    assert_eq!(
        check(|shard| shard.parts[0].mismatched_microbatches[0].push(5)),
        ShardProblem::NotOnce { index: 5, times: 2 },
    );
    assert_eq!(
        check(|shard| shard.parts[0].target_microbatches.clear()),
        ShardProblem::NotOnce { index: 0, times: 0 },
    );
    assert_eq!(check(|shard| shard.num_examples_global = 0), ShardProblem::NoExamples);
    assert_eq!(
        check(|shard| shard.parts[0].part = 3),
        ShardProblem::WrongParts { found: vec![3], expected: 0..1 },
    );
}

#[test]
fn a_model_that_is_not_there_is_named() {
    let mut config = config("smollm2", "llama2");
    config.reference.path = Some("/nowhere/reference".into());
    let error = Trainer::new(&config, tch::Device::Cpu).err().unwrap();
    let text = error.to_string();
    assert!(text.contains("reference") && text.contains("/nowhere/reference"), "{text}");
    assert_eq!(error.exit_code(), ExitCode::Usage);
}

#[test]
fn gradients_are_clipped_to_the_global_norm_and_reported_before_it() {
    let mut config = config("smollm2", "llama2");
    let norms = |config: &prospect_core::RunConfig| {
        alone(config, |trainer, exchange| {
            let report = trainer.step(&shard(1, 32, (0, 1)), exchange).unwrap();
            let left = crate::optimizer::gradient_square(&trainer.parameters).unwrap();
            (report.grad_norm, left.f_double_value(&[]).unwrap().sqrt())
        })
    };
    config.train.max_grad_norm = 0.0;
    let (reported, left) = norms(&config);
    assert_eq!(reported, left);
    config.train.max_grad_norm = reported / 2.0;
    let (again, clipped) = norms(&config);
    assert_eq!(again, reported);
    assert!((clipped - reported / 2.0).abs() < 1e-4 * reported, "{clipped} of {reported}");
}

#[test]
fn decay_shrinks_matrices_and_spares_norms_and_biases() {
    let mut config = config("qwen2", "llama2");
    config.train.weight_decay = 0.5;
    let mut shard = shard(1, 32, (0, 1));
    shard.learning_rate = 0.1;
    shard.parts[0].targets.iter_mut().for_each(|target| target.weight = 0.0);
    alone(&config, |trainer, exchange| {
        let copies = |trainer: &Trainer| -> Vec<(String, bool, f64)> {
            (0..trainer.policy().num_segments())
                .flat_map(|segment| trainer.policy().segment_parameters(segment))
                .map(|parameter| {
                    let sum = parameter.tensor.f_detach().unwrap().f_abs().unwrap();
                    let sum = sum.f_sum(Kind::Double).unwrap().f_double_value(&[]).unwrap();
                    (parameter.name, parameter.decay, sum)
                })
                .collect()
        };
        let before = copies(trainer);
        let report = step(trainer, &shard, exchange).unwrap();
        assert_eq!(report.grad_norm, 0.0);
        for ((name, decay, before), (_, _, after)) in before.into_iter().zip(copies(trainer)) {
            let expected = if decay { 0.95 * before } else { before };
            assert!((after - expected).abs() <= 1e-6 * before, "{name}: {before} became {after}");
        }
    });
}
