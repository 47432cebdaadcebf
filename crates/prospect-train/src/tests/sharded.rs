//! Sharded modes: the curve of a world in which every rank holds everything, with less memory.

use std::path::Path;

use prospect_core::{
    Dtype, Microbatch, Mode, ObjectiveName, Rank, Recompute, Restore, RunConfig, Shard, ShardKind,
    ShardPart, Step, StepReport,
};
use prospect_libtorch::storage_bytes;
use tch::{Device, Tensor};

use super::support::{
    ThreadExchange, config, group, loss, ranks, sequences, shard, step, total, train, with_store,
    world,
};
use crate::trainer::Pending;
use crate::{FailureKind, TrainError, Trainer};

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
fn lopsided(step: u64, (rank, _): (usize, usize)) -> Shard {
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
fn weights_that_never_came_are_noticed_before_they_are_moved() {
    world(2, &mode_config(Mode::ShardedOptimizer, "smollm2"), |rank, trainer, exchange| {
        trainer.step(&lopsided(1, (rank, 2)), exchange).unwrap();
        let mine = trainer.pending;
        if rank == 0 {
            // It is lost before it gives its weights to the other.
            return trainer.leave();
        }
        trainer.apply(Step(1)).unwrap();
        // As a step without sequences of this rank leaves it.
        trainer.pending = mine.map(|pending| Pending { step: Step(2), ..pending });
        let error = trainer.apply(Step(2)).unwrap_err();
        assert_eq!(error.kind(), FailureKind::PeerLost, "{error}");
        assert_eq!(trainer.done(), Step(1));
        trainer.leave();
    });
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

/// Bytes of everything that a trainer's policy and reference hold.
fn resident_bytes(trainer: &Trainer) -> u64 {
    let mut tensors: Vec<&Tensor> = Vec::new();
    for segment in &trainer.parameters.segments {
        tensors.extend(segment.master.buffers());
        tensors.extend([&segment.gradient, &segment.exp_avg, &segment.exp_avg_sq]);
    }
    let policy = (trainer.policy(), &trainer.parameters.weights);
    let reference = trainer.reference.loaded();
    let reference = (&reference.model, trainer.reference.weights().unwrap());
    let mut storages = std::collections::BTreeMap::new();
    let mut add = |tensor: &Tensor| {
        let bytes = storage_bytes(tensor).unwrap();
        if bytes > 0 {
            // A shard in a larger buffer begins elsewhere, but then both are counted: too much.
            storages.insert(tensor.data_ptr() as usize, bytes);
        }
    };
    tensors.into_iter().for_each(&mut add);
    for (model, weights) in [policy, reference] {
        for idx in 0..model.num_segments() {
            add(&weights.segment(idx).own);
            add(&weights.segment(idx).whole);
            for parameter in model.segment_parameters(idx) {
                assert_eq!(storage_bytes(&parameter.tensor).unwrap(), 0, "{}", parameter.name);
            }
        }
    }
    storages.into_values().sum()
}

#[test]
fn no_rank_holds_all_weights_between_passes() {
    const WORLD: usize = 4;
    let found =
        world(WORLD, &mode_config(Mode::FullySharded, "smollm2"), |rank, trainer, exchange| {
            train(trainer, exchange, 1..=2, (rank, WORLD)).unwrap();
            let total: i64 = trainer.parameters.segments.iter().map(|segment| segment.len()).sum();
            let owned: i64 =
                trainer.parameters.segments.iter().map(|s| s.own().end - s.own().start).sum();
            (resident_bytes(trainer), total, owned)
        });
    let (total, num_segments) = (found[0].1, 4);
    assert_eq!(found.iter().map(|(.., owned)| owned).sum::<i64>(), total);
    for (bytes, ..) in &found {
        // Weight, gradient, two moments and a weight of the reference, in fp32.
        let most = 5 * 4 * (total / WORLD as i64 + 64 * num_segments);
        assert!(*bytes <= most as u64, "{bytes} of {most}");
    }
}

#[test]
fn a_segment_comes_before_its_visit_and_goes_after_it() {
    let places = world(2, &mode_config(Mode::FullySharded, "smollm2"), |_, trainer, _| {
        let (chain, weights) = (trainer.policy_chain(), &trainer.parameters.weights);
        let here = || -> Vec<usize> {
            (0..trainer.parameters.segments.len())
                .filter(|&idx| storage_bytes(&weights.segment(idx).whole).unwrap() > 0)
                .collect()
        };
        let last = trainer.parameters.segments.len() - 1;
        let mut seen = vec![here()];
        for segment in 0..=last {
            let next = (segment < last).then_some(segment + 1);
            seen.push(chain.visit(segment, next, |_| Ok(here())).unwrap());
        }
        chain.end_pass().unwrap();
        seen.push(here());
        assert_eq!(weights.num_passes(), 1);
        seen
    });
    // Two blocks between the two ends, which stay.
    let expected: [&[usize]; 6] = [&[], &[0, 1], &[0, 1, 2], &[0, 2, 3], &[0, 3], &[]];
    assert!(places.iter().all(|seen| *seen == expected), "{places:?}");
}

#[test]
fn a_share_is_kept_only_where_it_belongs() {
    for mode in SHARDED {
        let config = mode_config(mode, "smollm2");
        with_store(|port| {
            ranks(2, |rank, exchange: &mut ThreadExchange| {
                let nowhere = Path::new("");
                let mut trainer = Trainer::new(&config, Device::Cpu).unwrap();
                let enter = |trainer: &mut Trainer, prefix: &str, place, restore: &Restore| {
                    trainer.enter(group(port, prefix, place), restore, nowhere)
                };
                let error = enter(&mut trainer, "1", (rank, 2), &Restore::Kept).unwrap_err();
                assert!(error.to_string().ends_with("it holds none; resume from a checkpoint"));
                enter(&mut trainer, "2", (rank, 2), &Restore::Initial).unwrap();
                let start = trainer.digest().unwrap();
                let first = train(&mut trainer, exchange, 1..=2, (rank, 2)).unwrap();
                trainer.step(&shard(3, 32, (rank, 2)), exchange).unwrap();
                trainer.leave();
                // The commit comes when there is no world.
                trainer.apply(Step(3)).unwrap();
                assert!(matches!(trainer.digest(), Err(TrainError::NoWorld)));
                assert_eq!(enter(&mut trainer, "3", (rank, 2), &Restore::Kept).unwrap(), Step(3));
                let kept = train(&mut trainer, exchange, 4..=4, (rank, 2)).unwrap();
                let digest = trainer.digest().unwrap();

                for (prefix, place, restore) in [
                    ("4", (1 - rank, 2), Restore::Kept),
                    ("5", (rank, 2), Restore::Peer { rank: Rank(0) }),
                ] {
                    let error = enter(&mut trainer, prefix, place, &restore).unwrap_err();
                    assert!(matches!(error, TrainError::Shared { .. }), "{mode:?}: {error}");
                    assert_eq!(error.kind(), FailureKind::Internal);
                }
                // From the start again, first as the other rank.
                enter(&mut trainer, "6", (1 - rank, 2), &Restore::Initial).unwrap();
                assert_eq!((trainer.digest().unwrap(), trainer.done()), (start, Step(0)));
                enter(&mut trainer, "7", (rank, 2), &Restore::Initial).unwrap();
                let again = train(&mut trainer, exchange, 1..=4, (rank, 2)).unwrap();
                assert_eq!(trainer.digest().unwrap(), digest);
                assert_eq!(total(&again[..2]), total(&first));
                assert_eq!(total(&again[3..]), total(&kept));
                trainer.close().unwrap();
            });
        });
    }
}

#[test]
fn a_lost_peer_leaves_no_rank_waiting() {
    for mode in SHARDED {
        world(2, &mode_config(mode, "smollm2"), |rank, trainer, exchange| {
            train(trainer, exchange, 1..=1, (rank, 2)).unwrap();
            if rank == 1 {
                let handle = trainer.abort_handle().unwrap();
                exchange.then = Some(Box::new(move || handle.abort().unwrap()));
            }
            let error = trainer.step(&shard(2, 32, (rank, 2)), exchange).unwrap_err();
            assert_eq!(error.kind(), FailureKind::PeerLost, "{mode:?}: {error}");
            trainer.leave();
            assert_eq!((trainer.done(), trainer.pending()), (Step(1), None));
        });
    }
}
