//! Checkpoints that several ranks write: they go on bit for bit in a world of the same size, and with
//! the same curve in any other and in any mode.

use std::fs;
use std::path::Path;

use prospect_core::{Dtype, Mode, Restore, RunConfig, Step, StepReport};
use tch::Device;

use super::checkpoints::{MANIFEST, MODEL, saved};
use super::sharded::{SHARDED, mode_config};
use super::support::{
    ThreadExchange, alone, group, loss, ranks, shard, step, train, with_store, world,
};
use crate::{TrainError, Trainer};

const NAME: &str = "step-000003";
const ALL: [Mode; 3] = [Mode::Replicated, Mode::ShardedOptimizer, Mode::FullySharded];

/// Losses of the steps 4 to 6, and the digest after them.
type End = (Vec<f64>, String);

fn go_on(
    (rank, world_size): (usize, usize),
    trainer: &mut Trainer,
    exchange: &mut ThreadExchange,
) -> (Vec<StepReport>, String) {
    let reports = train(trainer, exchange, 4..=6, (rank, world_size)).unwrap();
    (reports, trainer.digest().unwrap())
}

fn end(ranks: Vec<(Vec<StepReport>, String)>) -> End {
    let of_step = |idx: usize| ranks.iter().map(|(reports, _)| &reports[idx]).collect::<Vec<_>>();
    assert!(ranks.iter().all(|(_, digest)| *digest == ranks[0].1));
    ((0..3).map(|idx| loss(&of_step(idx))).collect(), ranks[0].1.clone())
}

/// Trains 3 steps, saves in `run_dir`, and trains 3 more.
fn save(world_size: usize, config: &RunConfig, run_dir: &Path) -> End {
    end(world(world_size, config, |rank, trainer, exchange| {
        train(trainer, exchange, 1..=3, (rank, world_size)).unwrap();
        if rank == 0 || trainer.is_sharded() {
            // Only rank 0's name counts.
            let name = if rank == 0 { NAME } else { "elsewhere" };
            let snapshot = trainer.snapshot(&run_dir.join(name)).unwrap();
            assert_eq!((snapshot.step(), snapshot.is_leader()), (Step(3), rank == 0));
            let ended = std::thread::scope(|scope| {
                let writing = scope.spawn(|| snapshot.write());
                let ended = go_on((rank, world_size), trainer, exchange);
                let written = writing.join().unwrap().unwrap();
                assert_eq!(written.is_some(), rank == 0);
                ended
            });
            return ended;
        }
        go_on((rank, world_size), trainer, exchange)
    }))
}

/// Trains the same 3 steps more from the checkpoint.
fn resume(world_size: usize, config: &RunConfig, run_dir: &Path) -> End {
    let restore = Restore::Checkpoint { path: NAME.to_owned() };
    end(with_store(|port| {
        ranks(world_size, |rank, exchange| {
            let mut trainer = Trainer::new(config, Device::Cpu).unwrap();
            let group = group(port, "t", (rank, world_size));
            assert_eq!(trainer.enter(group, &restore, run_dir).unwrap(), Step(3));
            go_on((rank, world_size), &mut trainer, exchange)
        })
    }))
}

/// A checkpoint of `world_size` ranks in one mode goes on in all modes.
fn check_moves(config: &RunConfig, world_size: usize, tolerance: f64) {
    let dir = tempfile::tempdir().unwrap();
    let whole = save(world_size, config, dir.path());
    assert_eq!(resume(world_size, config, dir.path()), whole, "the same world, bit for bit");
    for (mode, world_size) in ALL.into_iter().zip([2, 3, 1]).chain([(config.train.mode, 1)]) {
        let mut config = config.clone();
        config.train.mode = mode;
        let (found, _) = resume(world_size, &config, dir.path());
        for (found, expected) in found.iter().zip(&whole.0) {
            let difference = (found - expected).abs();
            assert!(difference <= tolerance * expected.abs(), "{mode:?} at {world_size}");
        }
    }
}

#[test]
fn a_checkpoint_of_sharded_optimizers_goes_on_anywhere() {
    check_moves(&mode_config(Mode::ShardedOptimizer, "smollm2"), 4, 1e-5);
}

#[test]
fn a_checkpoint_of_full_shards_goes_on_anywhere() {
    check_moves(&mode_config(Mode::FullySharded, "qwen2"), 2, 1e-5);
}

#[test]
fn a_checkpoint_of_one_file_goes_on_in_shards() {
    check_moves(&mode_config(Mode::Replicated, "smollm2"), 2, 1e-5);
}

#[test]
fn master_weights_move_with_the_moments() {
    let mut config = mode_config(Mode::FullySharded, "smollm2");
    config.model.dtype = Dtype::Bfloat16;
    check_moves(&config, 3, 0.02);
}

#[test]
fn optimizers_in_main_memory_are_saved_and_restored() {
    let dir = tempfile::tempdir().unwrap();
    for mode in ALL {
        let mut config = mode_config(mode, "smollm2");
        config.train.offload_optimizer = true;
        let whole = save(2, &config, dir.path());
        assert_eq!(resume(2, &config, dir.path()), whole, "{mode:?}");
    }
}

#[test]
fn fp32_weights_of_bf16_runs_move_into_and_out_of_main_memory() {
    let dir = tempfile::tempdir().unwrap();
    for mode in ALL {
        let mut here = mode_config(mode, "smollm2");
        here.model.dtype = Dtype::Bfloat16;
        let mut there = here.clone();
        there.train.offload_optimizer = true;
        let whole = save(2, &here, dir.path());
        assert_eq!(resume(2, &there, dir.path()), whole, "{mode:?}");
        assert_eq!(save(2, &there, dir.path()), whole, "{mode:?}");
        assert_eq!(resume(2, &here, dir.path()), whole, "{mode:?}");
    }
}

#[test]
fn the_files_of_a_world_hold_what_one_file_holds() {
    let dir = tempfile::tempdir().unwrap();
    let [alone_dir, sharded_dir] = ["alone", "sharded"].map(|name| dir.path().join(name));
    let digest = saved(&mode_config(Mode::Replicated, "smollm2"), 0, &alone_dir);
    let config = mode_config(Mode::FullySharded, "smollm2");
    world(3, &config, |_, trainer, _| {
        trainer.snapshot(&sharded_dir).unwrap().write().unwrap();
        assert_eq!(trainer.digest().unwrap(), digest);
    });
    assert_eq!(
        fs::read(alone_dir.join(MODEL)).unwrap(),
        fs::read(sharded_dir.join(MODEL)).unwrap()
    );
    let mut names: Vec<String> = fs::read_dir(&sharded_dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    let files = [0, 1, 2].map(|rank| format!("optimizer-0000{rank}-of-00003.safetensors"));
    assert_eq!(names, [MANIFEST, "model", &files[0], &files[1], &files[2], "state.json"]);
    let manifest = fs::read_to_string(sharded_dir.join(MANIFEST)).unwrap();
    assert!(files.iter().all(|name| manifest.contains(name)) && !manifest.contains(".part"));
}

#[test]
fn the_trained_model_is_gathered_and_written_once() {
    let dir = tempfile::tempdir().unwrap();
    for mode in ALL {
        world(2, &mode_config(mode, "smollm2"), |rank, trainer, exchange| {
            step(trainer, &shard(1, 32, (rank, 2)), exchange).unwrap();
            if rank == 0 || trainer.is_sharded() {
                trainer.save_final(&dir.path().join(format!("{mode:?}-{rank}"))).unwrap();
            }
            // The world goes on.
            step(trainer, &shard(2, 32, (rank, 2)), exchange).unwrap();
        });
    }
    let weights = |mode: Mode| {
        let dir = dir.path().join(format!("{mode:?}-0"));
        fs::read(dir.join("model.safetensors")).unwrap()
    };
    assert_eq!(weights(Mode::ShardedOptimizer).len(), weights(Mode::Replicated).len());
    assert_eq!(weights(Mode::FullySharded), weights(Mode::ShardedOptimizer));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3, "rank 0 writes");
}

#[test]
fn every_rank_sees_that_one_of_many_files_is_damaged_or_gone() {
    let dir = tempfile::tempdir().unwrap();
    let config = mode_config(Mode::FullySharded, "smollm2");
    save(3, &config, dir.path());
    let restore = Restore::Checkpoint { path: NAME.to_owned() };
    let refusals = || {
        with_store(|port| {
            ranks(2, |rank, _| {
                let mut trainer = Trainer::new(&config, Device::Cpu).unwrap();
                trainer.enter(group(port, "t", (rank, 2)), &restore, dir.path()).unwrap_err()
            })
        })
    };
    let path = dir.path().join(NAME).join("optimizer-00001-of-00003.safetensors");
    let intact = fs::read(&path).unwrap();
    let mut damaged = intact.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    fs::write(&path, &damaged).unwrap();
    let is_blamed = |error: &TrainError| match error {
        TrainError::Damaged { path: found, .. } => *found == path,
        TrainError::Peer { .. } => false,
        other => panic!("{other}"),
    };
    assert_eq!(refusals().iter().filter(|error| is_blamed(error)).count(), 1, "one looks at it");
    fs::remove_file(&path).unwrap();
    assert!(refusals().iter().any(is_blamed));
    fs::write(&path, &intact).unwrap();
    resume(2, &config, dir.path());
}

/// What rank 0 says where rank 1 cannot write its part, after which training goes on.
fn check_failing_part(mode: Mode, spoil: impl Fn(&mut Trainer) + Sync) -> String {
    let dir = tempfile::tempdir().unwrap();
    let errors = world(2, &mode_config(mode, "smollm2"), |rank, trainer, exchange| {
        train(trainer, exchange, 1..=1, (rank, 2)).unwrap();
        if rank == 1 {
            spoil(trainer);
        }
        let error = trainer.snapshot(&dir.path().join(NAME)).unwrap().write().unwrap_err();
        if rank == 0 {
            assert!(matches!(error, TrainError::Part { rank: 1, .. }), "{error}");
        }
        error.to_string()
    });
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left");
    errors.into_iter().next().unwrap()
}

#[test]
fn a_part_that_is_not_finite_costs_the_checkpoint_and_rank_0_says_why() {
    for mode in SHARDED {
        let said = check_failing_part(mode, |trainer| {
            let _ = trainer.parameters.segments[1].exp_avg.f_fill_(f64::NAN).unwrap();
        });
        assert!(said.contains("rank 1") && said.contains("not finite after step 1"), "{said}");
    }
}

#[test]
fn a_rank_that_writes_nothing_costs_the_checkpoint_only() {
    let dir = tempfile::tempdir().unwrap();
    for mode in SHARDED {
        let mut config = mode_config(mode, "smollm2");
        config.coordinator.collective_timeout_seconds = 0.5;
        world(2, &config, |rank, trainer, exchange| {
            let snapshot = trainer.snapshot(&dir.path().join(NAME)).unwrap();
            if rank == 0 {
                let error = snapshot.write().unwrap_err();
                let said = error.to_string();
                assert!(matches!(error, TrainError::Part { rank: 1, .. }), "{said}");
                assert!(said.contains("nothing was written for 0.5 s"), "{said}");
            } else {
                drop(snapshot);
            }
            step(trainer, &shard(1, 32, (rank, 2)), exchange).unwrap();
        });
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left");
}

#[test]
fn a_directory_that_cannot_be_made_costs_the_checkpoint_of_all_ranks() {
    let dir = tempfile::tempdir().unwrap();
    for mode in SHARDED {
        world(2, &mode_config(mode, "smollm2"), |rank, trainer, exchange| {
            let path = dir.path().join("missing").join(NAME);
            let error = trainer.snapshot(&path).unwrap().write().unwrap_err();
            assert!(matches!(error, TrainError::Storage { .. }), "{error}");
            step(trainer, &shard(1, 32, (rank, 2)), exchange).unwrap();
        });
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_rank_alone_saves_in_every_mode() {
    let dir = tempfile::tempdir().unwrap();
    for mode in ALL {
        let config = mode_config(mode, "smollm2");
        let whole = save(1, &config, dir.path());
        assert_eq!(resume(1, &config, dir.path()), whole, "{mode:?}");
        assert!(alone(&config, |trainer, _| trainer.any(true).unwrap()));
        assert!(!alone(&config, |trainer, _| trainer.any(false).unwrap()));
    }
}
