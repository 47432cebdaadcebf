//! Peers come and go between steps and within them; what is trained does not change by a bit.

use std::path::Path;

use prospect_core::{PartSums, Rank, Restore, RunConfig, Step, StepPhase, StepReport};
use tch::{Device, Tensor};

use super::canonical::canonical_config;
use super::support::{
    ThreadExchange, alone, canonical_shard, config, group, ranks, shard, step, total, train,
    with_store, world,
};
use crate::{FailureKind, ReferencePointExchange as _, TrainError, Trainer};

const NOWHERE: &str = "";

fn enter(trainer: &mut Trainer, place: (u16, &str, (usize, usize)), restore: &Restore) -> Step {
    let (port, prefix, rank) = place;
    trainer.enter(group(port, prefix, rank), restore, Path::new(NOWHERE)).unwrap()
}

/// Tries a step in which the last of three ranks gives up its group after the reference point,
/// while the others are on their way to the all-reduce or in it.
fn lose_last(
    trainer: &mut Trainer,
    shard: &prospect_core::Shard,
    exchange: &mut ThreadExchange,
    rank: usize,
) {
    let before = (trainer.digest().unwrap(), trainer.done());
    if rank == 2 {
        let handle = trainer.abort_handle().unwrap();
        exchange.then = Some(Box::new(move || handle.abort().unwrap()));
    }
    let error = trainer.step(shard, exchange).unwrap_err();
    assert_eq!(error.kind(), FailureKind::PeerLost, "{error}");
    assert_eq!((trainer.digest().unwrap(), trainer.done()), before);
    assert_eq!(trainer.pending(), None);
    trainer.leave();
    assert!(trainer.abort_handle().is_none());
}

/// Per step the sums of all parts.
fn sums(runs: &[Vec<StepReport>]) -> Vec<Vec<PartSums>> {
    (0..runs[0].len())
        .map(|idx| runs.iter().flat_map(|reports| reports[idx].parts.clone()).collect())
        .collect()
}

#[test]
fn survivors_go_on_in_a_smaller_world_with_the_same_bits() {
    const NUM_PARTS: usize = 8;
    let config = canonical_config(NUM_PARTS);
    let run = |trainer: &mut Trainer, exchange: &mut ThreadExchange, steps, place| {
        let reports = std::ops::RangeInclusive::<u64>::map(steps, |number| {
            step(trainer, &canonical_shard(number, NUM_PARTS, place), exchange).unwrap()
        });
        reports.collect::<Vec<_>>()
    };
    let expected = alone(&config, |trainer, exchange| {
        let reports = run(trainer, exchange, 1..=4, (0, 1));
        (sums(&[reports]).split_off(2), trainer.digest().unwrap())
    });
    let smaller = std::sync::Mutex::new(ThreadExchange::world(2));
    let found = with_store(|port| {
        ranks(3, |rank, exchange| {
            let mut trainer = Trainer::new(&config, Device::Cpu).unwrap();
            enter(&mut trainer, (port, "1", (rank, 3)), &Restore::Initial);
            run(&mut trainer, exchange, 1..=2, (rank, 3));
            let third = canonical_shard(3, NUM_PARTS, (rank, 3));
            lose_last(&mut trainer, &third, exchange, rank);
            if rank == 2 {
                return None;
            }
            // Ranks may change their order.
            let place = (1 - rank, 2);
            let mut exchange = {
                let mut exchanges = smaller.lock().unwrap();
                let idx = exchanges.len() - 1;
                // The exchange's own rank is of no importance: it only counts.
                exchanges.remove(idx)
            };
            let done = enter(&mut trainer, (port, "2", place), &Restore::Kept);
            assert_eq!(done, Step(2));
            let reports = run(&mut trainer, &mut exchange, 3..=4, place);
            trainer.close().unwrap();
            Some((place.0, reports, trainer.digest().unwrap()))
        })
    });
    let mut found: Vec<_> = found.into_iter().flatten().collect();
    found.sort_by_key(|(rank, ..)| *rank);
    assert!(found.iter().all(|(.., digest)| *digest == expected.1));
    let reports: Vec<_> = found.into_iter().map(|(_, reports, _)| reports).collect();
    assert_eq!(sums(&reports), expected.0);
}

#[test]
fn a_replacement_takes_the_weights_from_a_survivor() {
    check_replacement(&config("smollm2", "llama2"));
    let mut config = config("llama2", "smollm2");
    config.model.dtype = prospect_core::Dtype::Bfloat16;
    check_replacement(&config);
}

/// The last of three ranks dies in step 3; one that has the model as it was loaded comes for it.
fn check_replacement(config: &RunConfig) {
    let expected = world(3, config, |rank, trainer, exchange| {
        let reports = train(trainer, exchange, 1..=4, (rank, 3)).unwrap();
        (total(&reports[2..]), reports[3].grad_norm, trainer.digest().unwrap())
    });
    let found = with_store(|port| {
        ranks(3, |rank, exchange| {
            let mut trainer = Trainer::new(config, Device::Cpu).unwrap();
            enter(&mut trainer, (port, "1", (rank, 3)), &Restore::Initial);
            train(&mut trainer, exchange, 1..=2, (rank, 3)).unwrap();
            lose_last(&mut trainer, &shard(3, 32, (rank, 3)), exchange, rank);
            if rank == 2 {
                trainer = Trainer::new(config, Device::Cpu).unwrap();
            }
            let restore = Restore::Peer { rank: Rank(1) };
            assert_eq!(enter(&mut trainer, (port, "2", (rank, 3)), &restore), Step(2));
            let reports = train(&mut trainer, exchange, 3..=4, (rank, 3)).unwrap();
            (total(&reports), reports[1].grad_norm, trainer.digest().unwrap())
        })
    });
    assert_eq!(found, expected);
}

#[test]
fn a_pending_gradient_outlives_its_world() {
    let expected = world(2, &config("smollm2", "llama2"), |rank, trainer, exchange| {
        train(trainer, exchange, 1..=3, (rank, 2)).unwrap();
        trainer.digest().unwrap()
    });
    let found = with_store(|port| {
        ranks(2, |rank, exchange| {
            let mut trainer = Trainer::new(&config("smollm2", "llama2"), Device::Cpu).unwrap();
            enter(&mut trainer, (port, "1", (rank, 2)), &Restore::Initial);
            train(&mut trainer, exchange, 1..=1, (rank, 2)).unwrap();
            trainer.step(&shard(2, 32, (rank, 2)), exchange).unwrap();
            assert_eq!(trainer.progress().phase(), StepPhase::Commit);
            if rank == 0 {
                trainer.apply(Step(2)).unwrap();
            }
            trainer.leave();
            if rank == 1 {
                // The commit comes late.
                assert_eq!((trainer.done(), trainer.pending()), (Step(1), Some(Step(2))));
                assert!(matches!(trainer.apply(Step(3)), Err(TrainError::NotPending { .. })));
                trainer.apply(Step(2)).unwrap();
            }
            enter(&mut trainer, (port, "2", (rank, 2)), &Restore::Kept);
            train(&mut trainer, exchange, 3..=3, (rank, 2)).unwrap();
            trainer.digest().unwrap()
        })
    });
    assert_eq!(found, expected);
}

#[test]
fn a_root_that_is_lost_while_it_sends_takes_no_weights_with_it() {
    let config = config("smollm2", "llama2");
    with_store(|port| {
        ranks(3, |rank, exchange| {
            let mut trainer = Trainer::new(&config, Device::Cpu).unwrap();
            enter(&mut trainer, (port, "1", (rank, 3)), &Restore::Initial);
            train(&mut trainer, exchange, 1..=1, (rank, 3)).unwrap();
            let digest = trainer.digest().unwrap();
            if rank == 2 {
                trainer = Trainer::new(&config, Device::Cpu).unwrap();
            }
            let group = group(port, "2", (rank, 3));
            if rank == 0 {
                // It sends what it holds, then one buffer, which is damaged on the way, then nothing.
                let mut marks = Tensor::f_from_slice(&trainer.marks().unwrap()).unwrap();
                group.broadcast(&mut marks, 0).unwrap().wait().unwrap();
                let master = trainer.parameters.segments[0].master.values().unwrap();
                let mut damaged = master.f_zeros_like().unwrap();
                let _ = damaged.f_fill_(f64::NAN).unwrap();
                group.broadcast(&mut damaged, 0).unwrap().wait().unwrap();
                group.abort().unwrap();
                return;
            }
            let restore = Restore::Peer { rank: Rank(0) };
            let error = trainer.enter(group, &restore, Path::new(NOWHERE)).unwrap_err();
            assert_eq!(error.kind(), FailureKind::PeerLost, "{error}");
            trainer.leave();
            assert_eq!(trainer.done(), Step(if rank == 1 { 1 } else { 0 }));
            assert_eq!(trainer.digest().unwrap() == digest, rank == 1);
            // The other survivor has them still.
            let restore = Restore::Peer { rank: Rank(0) };
            assert_eq!(enter(&mut trainer, (port, "3", (rank - 1, 2)), &restore), Step(1));
            assert_eq!(trainer.digest().unwrap(), digest);
        });
    });
}

#[test]
fn ranks_that_differ_are_refused_and_a_peer_mends_it() {
    let digests = with_store(|port| {
        ranks(2, |rank, exchange| {
            let mut trainer = Trainer::new(&config("smollm2", "llama2"), Device::Cpu).unwrap();
            enter(&mut trainer, (port, "1", (rank, 2)), &Restore::Initial);
            trainer.step(&shard(1, 32, (rank, 2)), exchange).unwrap();
            if rank == 0 {
                trainer.apply(Step(1)).unwrap();
            }
            let group = |prefix| group(port, prefix, (rank, 2));
            let kept = trainer.enter(group("2"), &Restore::Kept, Path::new(NOWHERE));
            match kept {
                Err(TrainError::Unequal { rank: 1, steps: [Step(1), Step(0)] }) => {}
                other => panic!("expected the ranks to be refused, got {other:?}"),
            }
            assert_eq!(trainer.done(), Step(if rank == 0 { 1 } else { 0 }));
            let restore = Restore::Peer { rank: Rank(0) };
            let done = trainer.enter(group("3"), &restore, Path::new(NOWHERE)).unwrap();
            assert_eq!((done, trainer.pending()), (Step(1), None));
            // One bit in one moment is enough.
            if rank == 1 {
                let _ = trainer.parameters.segments[1].exp_avg.f_add_scalar_(1e-3).unwrap();
            }
            let error = trainer.enter(group("4"), &Restore::Kept, Path::new(NOWHERE)).unwrap_err();
            assert!(error.to_string().contains("with other bits"), "{error}");
            assert_eq!(error.kind(), FailureKind::Corrupt);
            trainer.enter(group("5"), &restore, Path::new(NOWHERE)).unwrap();
            trainer.digest().unwrap()
        })
    });
    assert_eq!(digests[0], digests[1]);
}

#[test]
fn the_start_can_be_gone_back_to() {
    for dtype in [prospect_core::Dtype::Float32, prospect_core::Dtype::Bfloat16] {
        let mut config = config("llama2", "smollm2");
        config.model.dtype = dtype;
        with_store(|port| {
            ranks(1, |_, exchange| {
                let mut trainer = Trainer::new(&config, Device::Cpu).unwrap();
                let start = trainer.digest().unwrap();
                enter(&mut trainer, (port, "1", (0, 1)), &Restore::Initial);
                let first = train(&mut trainer, exchange, 1..=2, (0, 1)).unwrap();
                let digest = trainer.digest().unwrap();
                assert_ne!(digest, start);
                assert_eq!(enter(&mut trainer, (port, "2", (0, 1)), &Restore::Initial), Step(0));
                assert_eq!(trainer.digest().unwrap(), start);
                let again = train(&mut trainer, exchange, 1..=2, (0, 1)).unwrap();
                assert_eq!(trainer.digest().unwrap(), digest);
                assert_eq!(total(&first), total(&again));
            });
        });
    }
}

#[test]
fn a_trainer_in_no_world_or_out_of_turn_says_so() {
    let config = config("smollm2", "llama2");
    let mut trainer = Trainer::new(&config, Device::Cpu).unwrap();
    let mut exchange = ThreadExchange::world(1).remove(0);
    let error = trainer.step(&shard(1, 32, (0, 1)), &mut exchange).unwrap_err();
    assert!(matches!(error, TrainError::NoWorld), "{error}");
    trainer.leave();
    trainer.close().unwrap();
    alone(&config, |trainer, exchange| {
        for (number, kind) in [(2, "training"), (1, "evaluation")] {
            let shard = shard(number, 32, (0, 1));
            let error = match kind {
                "training" => trainer.step(&shard, exchange),
                _ => {
                    let kind = prospect_core::ShardKind::Eval;
                    trainer.evaluate(&prospect_core::Shard { kind, ..shard }, exchange)
                }
            };
            let expected = format!(
                "the {kind} shard of step {number} cannot be computed with the weights of step 0"
            );
            assert_eq!(error.unwrap_err().to_string(), expected);
        }
        exchange.submit(Vec::new()).unwrap();
    });
}

#[test]
fn progress_tells_step_and_phase_and_grows() {
    alone(&config("smollm2", "llama2"), |trainer, exchange| {
        let progress = trainer.progress();
        assert_eq!((progress.step(), progress.phase()), (Step(0), StepPhase::Idle));
        let watched = trainer.progress();
        let (seen, here) = std::sync::mpsc::channel();
        exchange.then =
            Some(Box::new(move || seen.send((watched.phase(), watched.count())).unwrap()));
        trainer.step(&shard(1, 32, (0, 1)), exchange).unwrap();
        let (phase, count) = here.recv().unwrap();
        assert_eq!(phase, StepPhase::ReferencePoint);
        assert!(count > 0 && progress.count() > count);
        assert_eq!((progress.step(), progress.phase()), (Step(1), StepPhase::Commit));
        trainer.apply(Step(1)).unwrap();
        assert_eq!(progress.phase(), StepPhase::Idle);
    });
}
