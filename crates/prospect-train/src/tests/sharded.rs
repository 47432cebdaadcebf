//! Sharded modes: the curve of a world in which every rank holds everything, and its evaluations and
//! refusals.

use prospect_core::{
    Dtype, Microbatch, Mode, ObjectiveName, Recompute, RunConfig, Shard, ShardKind, ShardPart,
    Step, StepReport,
};

use super::support::{config, loss, sequences, shard, step, total, train, world};
use crate::TrainError;

pub(super) const SHARDED: [Mode; 2] = [Mode::ShardedOptimizer, Mode::FullySharded];

const STEPS: u64 = 6;

/// Loss, gradient norm and reference point of a step.
type Point = (f64, f64, f64);

pub(super) fn mode_config(mode: Mode, policy: &str) -> RunConfig {
    let mut config = config(policy, "llama2");
    config.train.mode = mode;
    config
}

/// Curve of a world that trains on these shards. All ranks agree in everything but their sums.
fn curve(
    world_size: usize,
    config: &RunConfig,
    make: impl Fn(u64, (usize, usize)) -> Shard + Sync,
) -> Vec<Point> {
    let runs = world(world_size, config, |rank, trainer, exchange| {
        let reports: Vec<StepReport> = (1..=STEPS)
            .map(|number| step(trainer, &make(number, (rank, world_size)), exchange).unwrap())
            .collect();
        let digest = trainer.digest().unwrap();
        trainer.close().unwrap();
        (reports, exchange.points.clone(), digest)
    });
    (0..STEPS as usize)
        .map(|step| {
            let reports: Vec<&StepReport> =
                runs.iter().map(|(reports, ..)| &reports[step]).collect();
            for (reports, points, digest) in &runs {
                assert_eq!((points[step], digest), (runs[0].1[step], &runs[0].2));
                assert_eq!(reports[step].grad_norm, runs[0].0[step].grad_norm);
            }
            (loss(&reports), reports[0].grad_norm, runs[0].1[step].raw)
        })
        .collect()
}

/// Ranks have different numbers of microbatches: budgets differ, and the last has no sequences every
/// other step.
pub(super) fn uneven(step: u64, (rank, world_size): (usize, usize)) -> Shard {
    let has_nothing = |rank: usize| step.is_multiple_of(2) && rank + 1 == world_size && rank > 0;
    if has_nothing(rank) {
        let part = ShardPart { part: rank as u32, ..ShardPart::default() };
        return Shard { parts: vec![part], ..shard(step, 32, (0, 1)) };
    }
    let mut mine = shard(step, if rank == 0 { 14 } else { 64 }, (rank, world_size));
    if rank == 0 && has_nothing(world_size - 1) {
        // The first rank does the work of the last.
        let other = shard(step, 14, (world_size - 1, world_size)).parts.remove(0);
        let part = &mut mine.parts[0];
        let shift = |microbatch: Microbatch, by: usize| -> Microbatch {
            microbatch.into_iter().map(|index| index + by as u32).collect()
        };
        let by = part.targets.len();
        part.target_microbatches
            .extend(other.target_microbatches.into_iter().map(|microbatch| shift(microbatch, by)));
        let by = part.mismatched.len();
        let extra = other.mismatched_microbatches.into_iter();
        part.mismatched_microbatches.extend(extra.map(|microbatch| shift(microbatch, by)));
        part.targets.extend(other.targets);
        part.mismatched.extend(other.mismatched);
    }
    mine
}

/// The first rank has all sequences.
pub(super) fn lopsided(step: u64, (rank, _): (usize, usize)) -> Shard {
    let whole = shard(step, 32, (0, 1));
    if rank == 0 {
        return whole;
    }
    Shard { parts: vec![ShardPart { part: rank as u32, ..ShardPart::default() }], ..whole }
}

#[track_caller]
fn assert_same_curve(what: &str, found: &[Point], expected: &[Point]) {
    assert_eq!(found.len(), expected.len());
    for (step, (found, expected)) in found.iter().zip(expected).enumerate() {
        let close = |a: f64, b: f64, tolerance: f64| (a - b).abs() <= tolerance * b.abs().max(1e-3);
        assert!(close(found.0, expected.0, 1e-5), "{what}, step {step}: {found:?}, {expected:?}");
        assert!(close(found.1, expected.1, 1e-3), "{what}, step {step}: {found:?}, {expected:?}");
        assert!((found.2 - expected.2).abs() <= 1e-4 * expected.2.abs().max(1.0), "{what}: {step}");
    }
}

/// A mode at 1, 2 and 4 ranks gives the curve of one rank that holds everything.
fn check_curves(mode: Mode, recompute: Recompute) {
    let mut config = mode_config(mode, "smollm2");
    config.train.recompute = recompute;
    let expected = alone_curve(&config);
    assert!(expected.iter().any(|point| (point.0 - expected[0].0).abs() > 1e-3), "weights move");
    for world_size in [1, 2, 4] {
        let what = format!("{world_size} ranks");
        assert_same_curve(&what, &curve(world_size, &config, uneven), &expected);
    }
}

fn alone_curve(config: &RunConfig) -> Vec<Point> {
    let mut config = config.clone();
    (config.train.mode, config.train.offload_optimizer) = (Mode::Replicated, false);
    curve(1, &config, |step, place| shard(step, 32, place))
}

#[test]
fn a_sharded_optimizer_gives_the_replicated_curve() {
    check_curves(Mode::ShardedOptimizer, Recompute::None);
    check_curves(Mode::ShardedOptimizer, Recompute::Blocks);
}

#[test]
fn full_sharding_gives_the_replicated_curve() {
    check_curves(Mode::FullySharded, Recompute::None);
}

#[test]
fn full_sharding_with_blocks_computed_again_gives_the_same_curve() {
    check_curves(Mode::FullySharded, Recompute::Blocks);
}

#[test]
fn full_sharding_with_cheap_work_computed_again_gives_the_same_curve() {
    check_curves(Mode::FullySharded, Recompute::Selective);
}

#[test]
fn ranks_that_never_have_sequences_keep_up() {
    let expected = alone_curve(&config("smollm2", "llama2"));
    for mode in SHARDED {
        let found = curve(3, &mode_config(mode, "smollm2"), lopsided);
        assert_same_curve(&format!("{mode:?}"), &found, &expected);
    }
}

#[test]
fn three_ranks_with_biases_and_an_untied_head_give_the_same_curve() {
    for policy in ["qwen2", "qwen3"] {
        let expected = alone_curve(&config(policy, "llama2"));
        for mode in SHARDED {
            let found = curve(3, &mode_config(mode, policy), uneven);
            assert_same_curve(&format!("{policy}, {mode:?}"), &found, &expected);
        }
    }
}

#[test]
fn an_optimizer_in_main_memory_gives_the_same_curve() {
    let expected = alone_curve(&config("smollm2", "llama2"));
    for mode in [Mode::Replicated, Mode::ShardedOptimizer, Mode::FullySharded] {
        let mut config = mode_config(mode, "smollm2");
        config.train.offload_optimizer = true;
        let found = curve(2, &config, |step, place| shard(step, 32, place));
        assert_same_curve(&format!("{mode:?}"), &found, &expected);
    }
}

#[test]
fn an_optimizer_in_main_memory_makes_the_same_bits() {
    let digests = |config: &RunConfig| {
        world(2, config, |rank, trainer, exchange| {
            // So that each segment is several pieces.
            trainer.parameters.piece_len = 192;
            train(trainer, exchange, 1..=3, (rank, 2)).unwrap();
            trainer.digest().unwrap()
        })
    };
    for mode in [Mode::Replicated, Mode::ShardedOptimizer, Mode::FullySharded] {
        for dtype in [Dtype::Float32, Dtype::Bfloat16] {
            let mut config = mode_config(mode, "smollm2");
            config.model.dtype = dtype;
            let expected = digests(&config);
            config.train.offload_optimizer = true;
            assert_eq!(digests(&config), expected, "{mode:?}, {dtype:?}");
        }
    }
}

#[test]
fn bf16_shards_follow_bf16() {
    let mut config = config("smollm2", "llama2");
    config.model.dtype = Dtype::Bfloat16;
    let expected = alone_curve(&config);
    for mode in SHARDED {
        config.train.mode = mode;
        for (found, expected) in curve(2, &config, uneven).iter().zip(&expected) {
            assert!((found.0 - expected.0).abs() < 0.02, "{mode:?}: {found:?} and {expected:?}");
        }
    }
}

#[test]
fn an_objective_without_pairs_is_trained_by_shards() {
    let without = |number, place| {
        let mut mine = uneven(number, place);
        mine.num_pairs_global = 0;
        mine.parts[0].mismatched.clear();
        mine.parts[0].mismatched_microbatches.clear();
        mine
    };
    let losses = |mode, world_size: usize| -> Vec<f64> {
        let mut config = mode_config(mode, "smollm2");
        config.objective.name = ObjectiveName::ApoZeroUnpaired;
        let runs = world(world_size, &config, |rank, trainer, exchange| {
            let steps = 1..=STEPS;
            let reports = steps.map(|number| {
                step(trainer, &without(number, (rank, world_size)), exchange).unwrap()
            });
            reports.collect::<Vec<_>>()
        });
        let step = |idx| runs.iter().map(|reports: &Vec<StepReport>| &reports[idx]).collect();
        (0..STEPS as usize)
            .map(|idx| loss(&Vec::from_iter::<Vec<&StepReport>>(step(idx))))
            .collect()
    };
    let expected = losses(Mode::Replicated, 1);
    for mode in SHARDED {
        for (found, expected) in losses(mode, 2).iter().zip(&expected) {
            assert!((found - expected).abs() <= 1e-5 * expected.abs(), "{mode:?}");
        }
    }
}

#[test]
fn evaluations_are_those_of_one_rank() {
    // Some reference values are known, and not to all ranks alike.
    let eval = |number, place: (usize, usize)| {
        let mut eval = Shard { kind: ShardKind::Eval, ..uneven(number, place) };
        if place.0 == 1 {
            sequences(&mut eval).for_each(|sequence| sequence.reference_log_prob = Some(-20.0));
        }
        eval
    };
    let sums = |mode, world_size: usize| {
        let reports =
            world(world_size, &mode_config(mode, "smollm2"), |rank, trainer, exchange| {
                let place = (rank, world_size);
                step(trainer, &uneven(1, place), exchange).unwrap();
                let before = trainer.digest().unwrap();
                trainer.step(&uneven(2, place), exchange).unwrap();
                let report = trainer.evaluate(&Shard { step: Step(1), ..eval(2, place) }, exchange);
                assert_eq!((trainer.digest().unwrap(), trainer.pending()), (before, Some(Step(2))));
                trainer.apply(Step(2)).unwrap();
                report.unwrap()
            });
        let sums = total(&reports);
        (sums.loss, sums.num_correct, sums.num_tokens, sums.num_mismatched_tokens)
    };
    let expected = sums(Mode::Replicated, 4);
    for mode in SHARDED {
        let found = sums(mode, 4);
        assert!((found.0 - expected.0).abs() <= 1e-5 * expected.0.abs(), "{mode:?}");
        assert_eq!((found.1, found.2, found.3), (expected.1, expected.2, expected.3));
    }
}

#[test]
fn a_gradient_that_is_not_finite_stops_every_rank_and_is_named() {
    for mode in SHARDED {
        let reports = world(2, &mode_config(mode, "smollm2"), |rank, trainer, exchange| {
            let mut bad = shard(1, 32, (rank, 2));
            if rank == 1 {
                // Loss and log-ratio are finite, their derivative is beyond fp32.
                bad.parts[0].targets[0].weight = 1e300;
            }
            let before = trainer.digest().unwrap();
            let error = trainer.step(&bad, exchange).unwrap_err();
            assert_eq!((trainer.digest().unwrap(), trainer.pending()), (before, None));
            // The world is whole.
            train(trainer, exchange, 1..=1, (rank, 2)).unwrap();
            let TrainError::NotFinite(report) = error else { panic!("{mode:?}: {error}") };
            report.gradient.expect("the gradient is to blame")
        });
        assert_eq!(reports[0], reports[1]);
        assert_eq!(reports[0].parameter, "model.embed_tokens.weight");
        assert_eq!(reports[0].num_elements, 128 * 36);
    }
}

#[test]
fn a_reference_point_that_is_not_finite_stops_every_rank() {
    for mode in SHARDED {
        world(3, &mode_config(mode, "smollm2"), |rank, trainer, exchange| {
            // In step 2 the last rank has no sequences.
            let place = (rank, 3);
            step(trainer, &uneven(1, place), exchange).unwrap();
            let mut bad = uneven(2, place);
            if rank == 0 {
                bad.parts[0].mismatched[0].reference_log_prob = Some(f64::NAN);
            }
            let error = trainer.step(&bad, exchange).unwrap_err();
            assert!(matches!(&error, TrainError::NotFinite(_)), "{mode:?}: {error}");
            step(trainer, &uneven(2, place), exchange).unwrap();
            assert_eq!(trainer.done(), Step(2));
        });
    }
}
