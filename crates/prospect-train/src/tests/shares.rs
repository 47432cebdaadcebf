//! Sharded modes: what each rank holds and keeps, and what becomes of it when a rank is lost.

use std::path::Path;

use prospect_core::{Mode, Rank, Restore, Step};
use prospect_libtorch::storage_bytes;
use tch::Tensor;

use super::sharded::{SHARDED, lopsided, mode_config};
use super::support::{
    ThreadExchange, device, group, ranks, shard, total, train, with_store, world,
};
use crate::trainer::Pending;
use crate::{FailureKind, TrainError, Trainer};

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
                let mut trainer = Trainer::new(&config, device()).unwrap();
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
