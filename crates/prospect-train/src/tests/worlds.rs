//! The same mathematics at every world size.

use prospect_core::{ObjectiveName, PartKlSums, ReferencePoint, ShardPart, StepReport};

use super::support::{BATCH, alone, config, examples, loss, shard, step, total, train, world};
use crate::{ExchangeError, ReferencePointExchange};

const STEPS: u64 = 20;

/// Per step: loss, gradient norm and the reference point that every rank got.
fn curve(world_size: usize) -> Vec<(f64, f64, ReferencePoint)> {
    let runs = world(world_size, &config("smollm2", "llama2"), |rank, trainer, exchange| {
        let reports = train(trainer, exchange, 1..=STEPS, (rank, world_size)).unwrap();
        (reports, exchange.points.clone(), trainer.digest().unwrap())
    });
    (0..STEPS as usize)
        .map(|step| {
            let reports: Vec<&StepReport> =
                runs.iter().map(|(reports, ..)| &reports[step]).collect();
            for (reports, points, digest) in &runs {
                assert_eq!(points[step], runs[0].1[step], "all ranks get one reference point");
                assert_eq!(reports[step].grad_norm, runs[0].0[step].grad_norm);
                assert_eq!(*digest, runs[0].2, "all ranks hold the same weights");
            }
            (loss(&reports), reports[0].grad_norm, runs[0].1[step])
        })
        .collect()
}

#[test]
fn one_two_and_four_ranks_give_one_curve() {
    let expected = curve(1);
    let losses: Vec<f64> = expected.iter().map(|(loss, ..)| *loss).collect();
    assert!(losses.iter().any(|loss| (loss - losses[0]).abs() > 1e-3), "the weights move");
    for world_size in [2, 4] {
        for (step, (found, expected)) in curve(world_size).iter().zip(&expected).enumerate() {
            let close = |a: f64, b: f64| (a - b).abs() <= 1e-5 * b.abs().max(1e-3);
            assert!(close(found.0, expected.0), "step {step}: loss {} and {}", found.0, expected.0);
            assert!((found.1 - expected.1).abs() <= 1e-3 * expected.1, "step {step}: norm");
            assert!((found.2.raw - expected.2.raw).abs() <= 1e-4 * expected.2.raw.abs().max(1.0));
        }
    }
}

#[test]
fn a_rank_without_sequences_takes_part() {
    // Rank 1 of 2 has nothing; its gradients are zeros and its weights move like the other's.
    let digests = world(2, &config("llama2", "smollm2"), |rank, trainer, exchange| {
        let mut mine = shard(1, 32, (0, 1));
        if rank == 1 {
            mine.parts = vec![ShardPart { part: 1, ..ShardPart::default() }];
        }
        let report = step(trainer, &mine, exchange).unwrap();
        assert_eq!(total([&report]).num_examples() as usize, if rank == 1 { 0 } else { BATCH });
        trainer.digest().unwrap()
    });
    let single = alone(&config("llama2", "smollm2"), |trainer, exchange| {
        step(trainer, &shard(1, 32, (0, 1)), exchange).unwrap();
        trainer.digest().unwrap()
    });
    assert_eq!(digests, [single.clone(), single]);
}

#[test]
fn the_phases_make_up_the_step() {
    alone(&config("smollm2", "llama2"), |trainer, exchange| {
        for report in train(trainer, exchange, 1..=2, (0, 1)).unwrap() {
            let seconds = report.phase_seconds;
            let parts = [
                seconds.scoring,
                seconds.reference_point,
                seconds.forward_backward,
                seconds.all_reduce,
                seconds.commit,
                seconds.optimizer,
            ];
            assert!(parts.iter().all(|&part| part >= 0.0) && seconds.total > 0.0);
            assert!((parts.iter().sum::<f64>() - seconds.total).abs() < 1e-9);
        }
    });
}

#[test]
fn an_objective_without_pairs_asks_for_no_reference_point() {
    struct Nobody;
    impl ReferencePointExchange for Nobody {
        fn submit(&mut self, _: Vec<PartKlSums>) -> Result<(), ExchangeError> {
            Err(ExchangeError::Closed { reason: "nobody is there".into() })
        }
        fn wait(&mut self) -> Result<ReferencePoint, ExchangeError> {
            Err(ExchangeError::Closed { reason: "nobody is there".into() })
        }
    }
    let mut config = config("smollm2", "llama2");
    let mut without = shard(1, 32, (0, 1));
    without.num_pairs_global = 0;
    without.parts[0].mismatched.clear();
    without.parts[0].mismatched_microbatches.clear();
    alone(&config, |trainer, _| {
        let error = trainer.step(&without, &mut Nobody).unwrap_err();
        assert_eq!(error.kind(), crate::FailureKind::PeerLost, "kto asks: {error}");
    });
    config.objective.name = ObjectiveName::ApoZeroUnpaired;
    alone(&config, |trainer, _| {
        let report = trainer.step(&without, &mut Nobody).unwrap();
        assert_eq!(total([&report]).num_mismatched_tokens, 0);
        assert_eq!(report.reference_values.len(), BATCH);
    });
}

#[test]
fn sums_count_what_the_shard_holds() {
    let (targets, mismatched) = examples(1);
    alone(&config("smollm2", "llama2"), |trainer, exchange| {
        let sums = total([&trainer.step(&shard(1, 32, (0, 1)), exchange).unwrap()]);
        let desirable = targets.iter().filter(|target| target.label.is_desirable()).count() as u64;
        assert_eq!((sums.num_desirable, sums.num_examples()), (desirable, BATCH as u64));
        let tokens: usize = targets.iter().map(|target| target.sequence.num_tokens()).sum();
        let others: usize = mismatched.iter().map(|sequence| sequence.num_tokens()).sum();
        assert_eq!((sums.num_tokens, sums.num_mismatched_tokens), (tokens as u64, others as u64));
        assert!(sums.log_prob_desirable < 0.0 && sums.log_prob_undesirable < 0.0);
        assert!(sums.flops > 0.0 && sums.saturation > 0.0);
    });
}
